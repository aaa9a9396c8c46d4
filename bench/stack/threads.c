// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side of "scripts/bench stack": makes threads and processes.  Commands
 * come by a virtio-serial port: threads PORT CPUS.  A line each, answered by a line
 * "ok NUMBER...":
 *
 *   threads N DEPTH	have N threads that sleep.  A new one makes some system calls
 *			before, or if DEPTH is not 0 uses that many bytes of its stack
 *   survive PERCENT	end all but so many of them, chosen at random; says how many
 *   run KIND CPUS COUNT	on each of the first CPUS, COUNT times KIND: "clone", make a
 *			thread that ends at once, and wait for it; "burst", likewise, but
 *			BURST threads sleep at the same time; "fork", fork, exec, exit,
 *			wait; "vfork", vfork, exit, wait, and a mark.  Between two marks
 *			for the plugin; says nanoseconds
 *   mix ROUNDS		threads that talk by pipes, and beside them a storm of fork and
 *			exec; says nanoseconds
 *   read FILE		all numbers in it
 *   count FILE WORD	lines with that word in it
 *   write FILE TEXT
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS	8192
#define MAX_CPUS	8
#define BURST		64
#define WARM_UP		BURST

/* Of hackbench: each sender of a group sends to each of its receivers */
#define GROUPS		4
#define MEMBERS		10
#define MESSAGES	20
#define MESSAGE		100
#define STORM		20	/* programs for each round of the mix */

#define DEEP		"/sys/kernel/debug/stack_pool_test/deep"

struct thread {
	pthread_t thread;
	unsigned int end;	/* a futex */
	int gone;
};

static struct thread threads[MAX_THREADS];
static unsigned int nr_threads, ready;
static unsigned long depth;
static pthread_attr_t small;
static const char *self;

static void fail(const char *what)
{
	fprintf(stderr, "bench stack: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void pin(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

/* An instruction that does nothing and that the plugin knows */
static void mark(void)
{
	asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00\n\t.long 0x4d565042" : : : "memory");
}

static void start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	int err = pthread_create(thread, &small, fn, arg);

	if (err) {
		errno = err;
		fail("pthread_create");
	}
}

/* Threads that sleep ---------------------------------------------------------- */

/* What a thread might have done before it came to rest */
static void some_calls(void)
{
	struct timespec moment = { .tv_nsec = 1000 };
	struct pollfd pollfd = { .events = POLLIN };
	char buf[512];
	void *area;
	int fds[2];

	fds[0] = open("/proc/self/stat", O_RDONLY);
	if (fds[0] < 0 || read(fds[0], buf, sizeof(buf)) <= 0)
		fail("/proc/self/stat");
	close(fds[0]);
	if (pipe(fds) || write(fds[1], buf, 100) != 100)
		fail("pipe");
	pollfd.fd = fds[0];
	if (poll(&pollfd, 1, 1000) != 1 || read(fds[0], buf, sizeof(buf)) != 100)
		fail("poll");
	close(fds[0]);
	close(fds[1]);
	area = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		fail("mmap");
	*(volatile char *)area = 1;
	munmap(area, 8192);
	nanosleep(&moment, NULL);
}

static void go_deep(unsigned long bytes)
{
	char text[32];
	int fd = open(DEEP, O_WRONLY);
	int len = snprintf(text, sizeof(text), "%lu", bytes);

	if (fd < 0 || write(fd, text, len) != len)
		fail(DEEP);
	close(fd);
}

static void rest(struct thread *t)
{
	__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&t->end, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &t->end, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void *idle(void *arg)
{
	if (depth)
		go_deep(depth);
	else
		some_calls();
	rest(arg);
	return NULL;
}

static void *bare_idle(void *arg)
{
	rest(arg);
	return NULL;
}

/* All of them are made before this waits for them to be at rest */
static void grow(unsigned int nr, void *(*fn)(void *))
{
	while (nr_threads < nr) {
		threads[nr_threads].end = threads[nr_threads].gone = 0;
		start(&threads[nr_threads].thread, fn, &threads[nr_threads]);
		nr_threads++;
	}
	while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < nr_threads)
		usleep(1000);
}

static void end(struct thread *t)
{
	__atomic_store_n(&t->end, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &t->end, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void join(struct thread *t)
{
	pthread_join(t->thread, NULL);
	t->gone = 1;
}

static void shrink(unsigned int nr)
{
	unsigned int i;

	for (i = nr; i < nr_threads; i++)
		if (!threads[i].gone)
			end(&threads[i]);
	for (; nr_threads > nr; nr_threads--, ready--)
		if (!threads[nr_threads - 1].gone)
			join(&threads[nr_threads - 1]);
}

/* The others end in random order; their places stay empty until a shrink() */
static unsigned int survive(unsigned int percent)
{
	unsigned int nr = nr_threads, stay = nr * percent / 100, i, j, swap;
	static unsigned int order[MAX_THREADS];

	for (i = 0; i < nr; i++)
		order[i] = i;
	for (i = 0; i < nr; i++) {
		j = i + rand() % (nr - i);
		swap = order[i];
		order[i] = order[j];
		order[j] = swap;
	}
	for (i = stay; i < nr; i++)
		end(&threads[order[i]]);
	for (i = stay; i < nr; i++)
		join(&threads[order[i]]);
	return stay;
}

/* Threads and processes that end ---------------------------------------------- */

static void *nothing(void *arg)
{
	return arg;
}

static void clones(unsigned long count)
{
	pthread_t thread;

	while (count--) {
		start(&thread, nothing, NULL);
		pthread_join(thread, NULL);
	}
}

static void bursts(unsigned long count)
{
	for (; count; count -= BURST) {
		grow(BURST, bare_idle);
		shrink(0);
	}
}

static void forks(unsigned long count)
{
	int status;
	pid_t pid;

	while (count--) {
		pid = fork();
		if (!pid) {
			execl(self, self, NULL);
			_exit(1);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			fail("fork and exec");
	}
}

/* Whoever waits cannot be in the way: always the same.  So there is a mark after each. */
static void vforks(unsigned long count)
{
	pid_t pid;

	while (count--) {
		pid = vfork();
		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			fail("vfork");
		mark();
	}
}

static const struct {
	const char *name;
	void (*fn)(unsigned long count);
} kinds[] = {
	{ "clone", clones }, { "burst", bursts }, { "fork", forks }, { "vfork", vforks }
};

/* What the processes of a run share: they begin at the same moment */
struct run {
	pthread_barrier_t begin, end;
	uint64_t ns[MAX_CPUS];
};

static void run_on(struct run *run, unsigned int cpu, void (*fn)(unsigned long),
		   unsigned long count)
{
	uint64_t before;

	pin(cpu);
	fn(WARM_UP);
	pthread_barrier_wait(&run->begin);
	before = now();
	fn(count);
	run->ns[cpu] = now() - before;
	pthread_barrier_wait(&run->end);
	_exit(0);
}

/* The nanoseconds are those of the slowest */
static uint64_t run_all(void (*fn)(unsigned long), unsigned int cpus, unsigned long count)
{
	struct run *run = mmap(NULL, sizeof(*run), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_barrierattr_t shared;
	uint64_t ns = 0;
	unsigned int i;

	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&run->begin, &shared, cpus + 1);
	pthread_barrier_init(&run->end, &shared, cpus + 1);
	for (i = 0; i < cpus; i++)
		if (!fork())
			run_on(run, i, fn, count);
	pthread_barrier_wait(&run->begin);
	mark();
	pthread_barrier_wait(&run->end);
	mark();
	for (i = 0; i < cpus; i++) {
		wait(NULL);
		if (run->ns[i] > ns)
			ns = run->ns[i];
	}
	munmap(run, sizeof(*run));
	return ns;
}

struct group {
	int fds[MEMBERS][2];
};

struct member {
	pthread_t thread;
	struct group *group;
	unsigned int number;
};

static void *sender(void *arg)
{
	static const char message[MESSAGE];
	struct member *m = arg;
	unsigned int i, to;

	for (i = 0; i < MESSAGES; i++)
		for (to = 0; to < MEMBERS; to++)
			if (write(m->group->fds[to][1], message, MESSAGE) != MESSAGE)
				fail("write");
	return NULL;
}

static void *receiver(void *arg)
{
	ssize_t left = MEMBERS * MESSAGES * MESSAGE, done;
	struct member *m = arg;
	char buf[MESSAGE];

	for (; left; left -= done) {
		done = read(m->group->fds[m->number][0], buf, MESSAGE);
		if (done <= 0)
			fail("read");
	}
	return NULL;
}

static void talk(void)
{
	static struct member members[GROUPS][2][MEMBERS];
	static struct group groups[GROUPS];
	unsigned int g, i, side;

	for (g = 0; g < GROUPS; g++)
		for (i = 0; i < MEMBERS; i++)
			if (pipe(groups[g].fds[i]))
				fail("pipe");
	for (g = 0; g < GROUPS; g++)
		for (side = 0; side < 2; side++)
			for (i = 0; i < MEMBERS; i++) {
				struct member *m = &members[g][side][i];

				m->group = &groups[g];
				m->number = i;
				start(&m->thread, side ? sender : receiver, m);
			}
	for (g = 0; g < GROUPS; g++)
		for (i = 0; i < MEMBERS; i++) {
			pthread_join(members[g][0][i].thread, NULL);
			pthread_join(members[g][1][i].thread, NULL);
			close(groups[g].fds[i][0]);
			close(groups[g].fds[i][1]);
		}
}

static uint64_t mix(unsigned long rounds)
{
	uint64_t before = now();
	pid_t storm = fork();

	if (!storm) {
		forks(rounds * STORM);
		_exit(0);
	}
	while (rounds--)
		talk();
	waitpid(storm, NULL, 0);
	return now() - before;
}

/* Files ---------------------------------------------------------------------- */

/* Words that begin with a digit; what follows in such a word is skipped */
static void numbers(const char *path, FILE *out)
{
	FILE *in = fopen(path, "r");
	char word[256], *end;

	if (!in) {
		fprintf(out, "error %s\n", strerror(errno));
		return;
	}
	fprintf(out, "ok");
	while (fscanf(in, "%255s", word) == 1)
		if (isdigit(word[0]))
			fprintf(out, " %llu", strtoull(word, &end, word[1] == 'x' ? 16 : 10));
	fprintf(out, "\n");
	fclose(in);
}

static long count_lines(const char *path, const char *word)
{
	FILE *in = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;
	long found = 0;

	if (!in)
		return -1;
	while (getline(&line, &size, in) >= 0)
		found += !!strstr(line, word);
	free(line);
	fclose(in);
	return found;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	int err = fd < 0 || (text[0] && write(fd, text, strlen(text)) < 0) ? errno : 0;

	close(fd);
	return err;
}

/* ---------------------------------------------------------------------------- */

static void run(const char *kind, unsigned int cpus, unsigned long count, FILE *out)
{
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, kind)) {
			fprintf(out, "ok %llu\n",
				(unsigned long long)run_all(kinds[i].fn, cpus, count));
			return;
		}
	fprintf(out, "error no such kind\n");
}

static void command(const char *line, FILE *out)
{
	char path[256], word[64] = "";
	unsigned long count;
	unsigned int nr;

	if (sscanf(line, "threads %u %lu", &nr, &depth) == 2 && nr <= MAX_THREADS) {
		grow(nr, idle);
		shrink(nr);
		fprintf(out, "ok %u\n", nr_threads);
	} else if (sscanf(line, "survive %u", &nr) == 1 && nr <= 100) {
		fprintf(out, "ok %u\n", survive(nr));
	} else if (sscanf(line, "run %63s %u %lu", word, &nr, &count) == 3 && nr &&
		   nr <= MAX_CPUS && count % BURST == 0) {
		run(word, nr, count, out);
	} else if (sscanf(line, "mix %lu", &count) == 1) {
		fprintf(out, "ok %llu\n", (unsigned long long)mix(count));
	} else if (sscanf(line, "read %255s", path) == 1) {
		numbers(path, out);
	} else if (sscanf(line, "count %255s %63s", path, word) == 2) {
		fprintf(out, "ok %ld\n", count_lines(path, word));
	} else if (sscanf(line, "write %255s %63s", path, word) >= 1) {
		nr = write_text(path, word);
		fprintf(out, nr ? "error %s\n" : "ok 0\n", strerror(nr));
	} else {
		fprintf(out, "error %s", line);
	}
	fflush(out);
}

int main(int argc, char **argv)
{
	FILE *in, *out;
	char line[512];
	int port;

	/* One that was forked and is to end */
	if (argc == 1)
		return 0;
	self = argv[0];
	/* A port is opened once */
	port = open(argv[1], O_RDWR);
	in = fdopen(port, "r");
	out = fdopen(dup(port), "w");
	if (!in || !out)
		fail(argv[1]);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN);
	fprintf(out, "ready\n");
	fflush(out);
	while (fgets(line, sizeof(line), in))
		command(line, out);
	return 0;
}
