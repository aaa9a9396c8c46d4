// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side of the tests in host-ref/tests/vm: does what a test outside of
 * the VM says, by lines on a virtio-serial port.  A line is a number and a request,
 * its answer the same number and "ok" or "error".  See run() for what there is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kexec.h>
#include <linux/pvmemctl.h>
#include <linux/reboot.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEVICE		"/dev/pvmemctl0"
#define PORT		"/dev/virtio-ports/org.pvmemctl.agent"
#define PAGE		4096ul
#define HUGE		(2ul << 20)
#define MAX_AREAS	64
#define MAX_THREADS	16

struct area {
	char *at;
	size_t length;
	uint64_t *gpas;			/* of each page */
	unsigned long dirty;		/* pages that had something in them when they came */
};

static struct area areas[MAX_AREAS];
static unsigned int nr_areas;
static FILE *port;
static unsigned long serial;		/* of the request */

static void answer(const char *format, ...)
{
	va_list args;

	fprintf(port, "%lu ", serial);
	va_start(args, format);
	vfprintf(port, format, args);
	va_end(args);
	fputc('\n', port);
	fflush(port);
}

/* Memory ---------------------------------------------------------------------- */

static uint64_t gpa_of(const void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)at / PAGE * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void find_gpas(struct area *area)
{
	for (size_t i = 0; i < area->length / PAGE; i++)
		area->gpas[i] = gpa_of(area->at + i * PAGE);
}

static bool page_is(const char *at, uint64_t value)
{
	for (size_t i = 0; i < PAGE; i += sizeof(value))
		if (*(volatile uint64_t *)(at + i) != value)
			return false;
	return true;
}

/* Locked, so that it stays where it is */
static struct area *new_area(size_t length, int flags)
{
	struct area *area = &areas[nr_areas];

	if (nr_areas == MAX_AREAS)
		return NULL;
	area->at = mmap(NULL, length, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | flags, -1, 0);
	if (area->at == MAP_FAILED)
		return NULL;
	if (mlock(area->at, length))
		return NULL;
	area->dirty = 0;
	for (size_t i = 0; i < length; i += PAGE)
		area->dirty += !page_is(area->at + i, 0);
	memset(area->at, 1, length);
	area->length = length;
	area->gpas = calloc(length / PAGE, sizeof(*area->gpas));
	find_gpas(area);
	nr_areas++;
	return area;
}

/* alloc BYTES [huge]: "ok ID DIRTY GPA:LENGTH ..." */
static void do_alloc(char **words)
{
	bool huge = words[2] && !strcmp(words[2], "huge");
	struct area *area = new_area(strtoull(words[1], NULL, 0), huge ? MAP_HUGETLB : 0);
	uint64_t start, length;

	if (!area) {
		answer("error no memory: %s", strerror(errno));
		return;
	}
	fprintf(port, "%lu ok %td %lu", serial, area - areas, area->dirty);
	for (size_t i = 0; i < area->length / PAGE; i += length / PAGE) {
		start = area->gpas[i];
		for (length = PAGE; i + length / PAGE < area->length / PAGE &&
				    area->gpas[i + length / PAGE] == start + length;)
			length += PAGE;
		fprintf(port, " 0x%" PRIx64 ":0x%" PRIx64, start, length);
	}
	fputc('\n', port);
	fflush(port);
}

/* free ID */
static void do_free(struct area *area)
{
	munmap(area->at, area->length);
	area->length = 0;
	answer("ok");
}

/* No page equals another, or the same page of another time */
static uint64_t pattern(uint64_t seed, size_t page)
{
	return (seed << 32) + page * 2 + 1;
}

static void fill_page(char *at, uint64_t value)
{
	for (size_t i = 0; i < PAGE; i += sizeof(value))
		*(volatile uint64_t *)(at + i) = value;
}

static struct area *find_area(const char *word)
{
	unsigned int i = word ? strtoul(word, NULL, 0) : MAX_AREAS;

	return i < nr_areas ? &areas[i] : NULL;
}

/* fill ID SEED */
static void do_fill(struct area *area, char **words)
{
	for (size_t i = 0; i < area->length / PAGE; i++)
		fill_page(area->at + i * PAGE, pattern(strtoull(words[2], NULL, 0), i));
	answer("ok");
}

/* check ID SEED: how many pages do not hold what fill wrote, how many of them 0 */
static void do_check(struct area *area, char **words)
{
	unsigned long bad = 0, zero = 0;

	for (size_t i = 0; i < area->length / PAGE; i++) {
		if (!page_is(area->at + i * PAGE, pattern(strtoull(words[2], NULL, 0), i))) {
			bad++;
			zero += page_is(area->at + i * PAGE, 0);
		}
	}
	answer("ok %lu %lu", bad, zero);
}

static sigjmp_buf poisoned;

static void on_bus_error(int sig)
{
	(void)sig;
	siglongjmp(poisoned, 1);
}

/* write ID OFFSET VALUE, read ID OFFSET: 8 bytes; "ok killed" after a SIGBUS */
static void do_access(struct area *area, char **words)
{
	volatile uint64_t *at = (void *)(area->at + strtoull(words[2], NULL, 0));
	uint64_t value = 0;

	if (sigsetjmp(poisoned, 1)) {
		answer("ok killed");
		return;
	}
	if (words[0][0] == 'w')
		*at = strtoull(words[3], NULL, 0);
	value = *at;
	answer("ok 0x%" PRIx64, value);
}

/* file r|w PATH OFFSET ID OFFSET LENGTH: past the page cache; "ok RESULT ERRNO" */
static void do_file(char **words)
{
	bool write = words[1][0] == 'w';
	int fd = open(words[2], (write ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	struct area *area = find_area(words[4]);
	ssize_t ret;

	if (fd < 0 || !area) {
		answer("error %s", strerror(errno));
		return;
	}
	ret = write ? pwrite(fd, area->at + strtoull(words[5], NULL, 0),
			     strtoull(words[6], NULL, 0), strtoull(words[3], NULL, 0))
		    : pread(fd, area->at + strtoull(words[5], NULL, 0),
			    strtoull(words[6], NULL, 0), strtoull(words[3], NULL, 0));
	answer("ok %zd %d", ret, ret < 0 ? errno : 0);
	close(fd);
}

/* The device ------------------------------------------------------------------ */

/*
 * Without a driver: registers and buffers of our own.  What no driver lets through
 * gets to the device that way.
 */
static struct {
	volatile uint32_t *registers;	/* NULL: there is a driver */
	struct area *wire;
	uint32_t connections[MAX_THREADS + 1];
} raw;
static _Thread_local unsigned int raw_slot = MAX_THREADS;

static int open_device(void)
{
	return open(raw.registers ? "/dev/null" : DEVICE, O_RDWR | O_CLOEXEC);
}

static int raw_call(struct memctl_buf *buf)
{
	struct memctl_buf *wire = (void *)(raw.wire->at + 64 * raw_slot);
	const uint64_t length = buf->call.length;

	*wire = *buf;
	atomic_thread_fence(memory_order_seq_cst);
	raw.registers[MEMCTL_REG_COMMAND / 4] = raw.connections[raw_slot];
	atomic_thread_fence(memory_order_seq_cst);
	*buf = *(volatile struct memctl_buf *)wire;
	/* Not answered */
	if (buf->ret.arg0 == length) {
		errno = EIO;
		return -1;
	}
	return 0;
}

static bool raw_command(uint32_t command)
{
	raw.registers[MEMCTL_REG_COMMAND / 4] = command;
	return raw.registers[MEMCTL_REG_COMMAND / 4] == MEMCTL_ANSWER_ACK;
}

/* raw FILE: shake hands, by the registers in FILE */
static void do_raw(char **words)
{
	int fd = open(words[1], O_RDWR | O_SYNC | O_CLOEXEC);
	bool ok;

	raw.registers = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (raw.registers == MAP_FAILED) {
		raw.registers = NULL;
		answer("error %s", strerror(errno));
		return;
	}
	if (!raw.wire)
		raw.wire = new_area(PAGE, 0);
	ok = raw.wire && raw_command(MEMCTL_CMD_RESET);
	for (unsigned int i = 0; ok && i <= MAX_THREADS; i++) {
		raw.registers[0] = raw.wire->gpas[0] + 64 * i;
		raw.registers[1] = (raw.wire->gpas[0] + 64 * i) >> 32;
		ok = raw_command(MEMCTL_CMD_REGISTER);
		raw.connections[i] = raw.registers[0];
	}
	if (ok && raw_command(MEMCTL_CMD_READY))
		answer("ok");
	else
		answer("error no handshake");
}

/* 0 or a negative errno */
static int call(int fd, uint64_t code, uint64_t gpa, uint64_t length, uint64_t arg,
		struct memctl_vmm_ret *ret)
{
	struct memctl_buf buf = {
		.call = { .func_code = code, .addr = gpa, .length = length, .arg = arg },
	};
	int err;

	if (!raw.registers) {
		err = ioctl(fd, MEMCTL_IOCTL, &buf) ? -errno : 0;
	} else {
		if (code == MEMCTL_INFO || code == MEMCTL_QUERY)
			buf.call.length = ~0ull;
		err = raw_call(&buf) ? -errno : 0;
	}
	*ret = buf.ret;
	return err;
}

static bool done(int fd, uint64_t code, uint64_t gpa, uint64_t length)
{
	struct memctl_vmm_ret ret;

	return !call(fd, code, gpa, length, 0, &ret) && !ret.ret_errno && !ret.ret_code;
}

/* call CODE GPA LENGTH [ARG]: "ok IOCTL-ERRNO ERRNO CODE VALUE ARG0 ARG1" */
static void do_call(char **words)
{
	uint64_t values[4] = { 0 };
	struct memctl_vmm_ret ret = { 0 };
	int fd = open_device(), err = -errno;

	for (int i = 0; i < 4 && words[i + 1]; i++)
		values[i] = strtoull(words[i + 1], NULL, 0);
	if (fd >= 0)
		err = call(fd, values[0], values[1], values[2], values[3], &ret);
	close(fd);
	answer("ok %d %u %u %" PRIu64 " %" PRIu64 " %" PRIu64, -err, ret.ret_errno,
	       ret.ret_code, (uint64_t)ret.ret_value, (uint64_t)ret.arg0, (uint64_t)ret.arg1);
}

/* poke FILE OFFSET VALUE: 4 bytes to a register, behind the driver's back */
static void do_poke(char **words)
{
	int fd = open(words[1], O_RDWR | O_SYNC | O_CLOEXEC);
	char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	volatile uint32_t *reg = (void *)(at + strtoul(words[2], NULL, 0));

	close(fd);
	if (at == MAP_FAILED) {
		answer("error %s", strerror(errno));
		return;
	}
	*reg = strtoul(words[3], NULL, 0);
	munmap(at, PAGE);
	answer("ok");
}

/* Threads --------------------------------------------------------------------- */

struct worker {
	pthread_t thread;
	unsigned int cpu, seed;
	struct area *area;
	unsigned long rounds, failed, busy, bad;
	uint64_t *expected;		/* of each page */
};

static struct worker workers[MAX_THREADS];
static unsigned int nr_workers;
static atomic_bool stop;

static void pin(unsigned int cpu)
{
	cpu_set_t set;

	raw_slot = cpu;	/* a thread's own, like a CPU's */
	CPU_ZERO(&set);
	CPU_SET(cpu % sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static uint64_t draw(struct worker *w, uint64_t below)
{
	w->seed = w->seed * 1103515245 + 12345;
	return (w->seed >> 8) % below;
}

static void start_workers(unsigned int nr, size_t length, void *(*fn)(void *))
{
	atomic_store(&stop, false);
	memset(workers, 0, sizeof(workers));
	nr_workers = nr;
	for (unsigned int i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		w->cpu = i;
		w->seed = i + 1;
		w->area = new_area(length, 0);
		if (!w->area) {
			answer("error no memory");
			exit(1);
		}
		w->expected = calloc(length / PAGE, sizeof(*w->expected));
		for (size_t page = 0; page < length / PAGE; page++)
			w->expected[page] = 0x0101010101010101;
	}
	for (unsigned int i = 0; i < nr; i++)
		pthread_create(&workers[i].thread, NULL, fn, &workers[i]);
}

/*
 * Rewrite, discard, protect and unprotect pages.  What each has to hold is known, and
 * looked at now and then, and in the end.
 */
static void *load(void *arg)
{
	const uint64_t discards[] = { MEMCTL_DONTNEED, MEMCTL_ZERO };
	struct worker *w = arg;
	uint64_t generation = 1;
	int fd = open_device();

	pin(w->cpu);
	while (!atomic_load(&stop)) {
		size_t page = draw(w, w->area->length / PAGE);
		char *at = w->area->at + page * PAGE;
		uint64_t gpa = w->area->gpas[page];
		struct memctl_vmm_ret ret;

		switch (draw(w, 4)) {
		case 0:
			w->expected[page] = (generation++ << 8) + w->cpu + 1;
			fill_page(at, w->expected[page]);
			break;
		case 1:
			/* Without protocol 1.1, or while that may not be: unchanged */
			if (done(fd, discards[draw(w, 2)], gpa, PAGE))
				w->expected[page] = 0;
			else
				w->failed++;
			break;
		case 2:
			if (call(fd, MEMCTL_MPROTECT_R, gpa, PAGE, 0, &ret))
				w->failed++;
			else if (ret.ret_errno == EBUSY)
				w->busy++;
			else if (ret.ret_errno)
				w->failed++;
			w->bad += !page_is(at, w->expected[page]);
			if (!done(fd, MEMCTL_MPROTECT_RW, gpa, PAGE))
				w->bad++;
			break;
		default:
			w->bad += !page_is(at, w->expected[page]);
		}
		w->rounds++;
	}
	close(fd);
	return NULL;
}

/* load THREADS BYTES */
static void do_load(char **words)
{
	start_workers(strtoul(words[1], NULL, 0), strtoull(words[2], NULL, 0), load);
	answer("ok");
}

/* rounds: of the threads, while they run */
static void do_rounds(void)
{
	unsigned long rounds = 0;

	for (unsigned int i = 0; i < nr_workers; i++)
		rounds += *(volatile unsigned long *)&workers[i].rounds;
	answer("ok %lu", rounds);
}

/* unload: "ok ROUNDS FAILED BUSY BAD PAGES-BAD" */
static void do_unload(void)
{
	unsigned long rounds = 0, failed = 0, busy = 0, bad = 0, pages = 0;

	atomic_store(&stop, true);
	for (unsigned int i = 0; i < nr_workers; i++) {
		struct worker *w = &workers[i];

		pthread_join(w->thread, NULL);
		rounds += w->rounds;
		failed += w->failed;
		busy += w->busy;
		bad += w->bad;
		for (size_t page = 0; page < w->area->length / PAGE; page++)
			pages += !page_is(w->area->at + page * PAGE, w->expected[page]);
	}
	answer("ok %lu %lu %lu %lu %lu", rounds, failed, busy, bad, pages);
}

/*
 * Everything that can be asked, sensibly and not.  What changes contents or protects
 * is asked only of memory of one's own.
 */
static void *abuse(void *arg)
{
	static const uint64_t harmless[] = {
		MEMCTL_INFO, MEMCTL_DONTDUMP, MEMCTL_SET_VMA_ANON_NAME, MEMCTL_MUNLOCK,
		MEMCTL_MPROTECT_RW, MEMCTL_MERGEABLE, MEMCTL_UNMERGEABLE, MEMCTL_QUERY,
		MEMCTL_HUGEPAGE, MEMCTL_NOHUGEPAGE, MEMCTL_DODUMP, MEMCTL_COLD,
	};
	static const uint64_t odd[] = {
		0, 1, PAGE - 1, 0xa0000, 0xfee00000, 3ull << 30, 1ull << 40, 1ull << 63,
		~0ull, ~0ull << 12,
	};
	const uint64_t nr_harmless = sizeof(harmless) / sizeof(harmless[0]);
	const uint64_t nr_odd = sizeof(odd) / sizeof(odd[0]);
	struct worker *w = arg;
	const size_t pages = w->area->length / PAGE - 1;
	struct memctl_vmm_range *table = (void *)(w->area->at + pages * PAGE);
	struct memctl_vmm_ret ret;

	pin(w->cpu);
	while (!atomic_load(&stop)) {
		int fd = open_device();

		/* The driver is on its way in or out */
		if (fd < 0) {
			w->failed++;
			usleep(1000);
			continue;
		}
		for (int i = 0; i < 200 && !atomic_load(&stop); i++) {
			uint64_t gpa = w->area->gpas[draw(w, pages)];
			unsigned int nr = 1 + draw(w, MEMCTL_VECTOR_MAX - 1);
			bool odds = draw(w, 2);
			int err;

			switch (draw(w, 5)) {
			case 0:
				err = call(fd, draw(w, 15), gpa, PAGE, draw(w, 1000), &ret);
				break;
			case 1:
				err = call(fd, 32 + draw(w, 7), gpa, PAGE, PAGE, &ret);
				break;
			case 2:
				for (unsigned int j = 0; j < nr; j++) {
					table[j].addr = w->area->gpas[draw(w, pages)];
					table[j].length = PAGE;
					if (odds && !draw(w, 50)) {
						table[j].addr = odd[draw(w, nr_odd)];
						table[j].length = odd[draw(w, nr_odd)];
					}
				}
				err = call(fd, MEMCTL_VECTOR, w->area->gpas[pages], nr,
					   odds ? harmless[draw(w, nr_harmless)] : draw(w, 40),
					   &ret);
				break;
			case 3:
				err = call(fd, harmless[draw(w, nr_harmless)],
					   odd[draw(w, nr_odd)], odd[draw(w, nr_odd)],
					   odd[draw(w, nr_odd)], &ret);
				break;
			default:
				err = call(fd, odd[draw(w, nr_odd)] | 64, gpa, PAGE, 0, &ret);
			}
			w->rounds++;
			w->bad += !err && ret.ret_errno > 133;
			if (err == -ENODEV)
				break;
		}
		/* What protects one's table, or is left when this thread ends */
		for (size_t page = 0; page <= pages; page++)
			call(fd, MEMCTL_MPROTECT_RW, w->area->gpas[page], PAGE, 0, &ret);
		close(fd);
	}
	return NULL;
}

/* abuse THREADS */
static void do_abuse(char **words)
{
	start_workers(strtoul(words[1], NULL, 0), 64 * PAGE, abuse);
	answer("ok");
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static struct area *common;
static uint64_t run_start, run_length;	/* physical memory, all in that area */

/* On one CPU calls that take long, on the other such that do not */
static void *overlap(void *arg)
{
	struct worker *w = arg;
	struct memctl_vmm_ret ret;
	int fd = open_device();

	pin(w->cpu);
	while (!atomic_load(&stop)) {
		if (w->cpu) {
			call(fd, MEMCTL_INFO, 0, 0, 0, &ret);
		} else {
			memset(common->at, 2, common->length);
			w->failed += !done(fd, MEMCTL_DONTNEED, run_start, run_length);
		}
		w->rounds++;
	}
	close(fd);
	return NULL;
}

/* overlap ID: "ok BYTES", so many at a time */
static void do_overlap(struct area *area)
{
	size_t nr = area->length / PAGE, j;

	common = area;
	run_length = 0;
	qsort(area->gpas, nr, sizeof(*area->gpas), compare);
	for (size_t i = 0; i < nr; i = j) {
		for (j = i + 1; j < nr && area->gpas[j] == area->gpas[j - 1] + PAGE;)
			j++;
		if ((j - i) * PAGE > run_length) {
			run_start = area->gpas[i];
			run_length = (j - i) * PAGE;
		}
	}
	start_workers(2, PAGE, overlap);
	answer("ok %" PRIu64, run_length);
}

/* The system ------------------------------------------------------------------- */

/* sh COMMAND: "ok STATUS LENGTH", and so many bytes that it printed */
static void do_sh(const char *command)
{
	char *said = NULL, buf[4096];
	size_t length = 0, n;
	FILE *pipe = popen(command, "r");
	FILE *memory = open_memstream(&said, &length);
	int status;

	while (pipe && (n = fread(buf, 1, sizeof(buf), pipe)))
		fwrite(buf, 1, n, memory);
	status = pipe ? pclose(pipe) : -1;
	fclose(memory);
	fprintf(port, "%lu ok %d %zu\n", serial, status < 0 || status & 0x7f ? -1 : status >> 8, length);
	fwrite(said, 1, length, port);
	fflush(port);
	free(said);
}

/* kexec now|crash KERNEL INITRD COMMAND-LINE... */
static void do_kexec(char *words)
{
	const char *when = strtok(words, " "), *kernel = strtok(NULL, " ");
	const char *initrd = strtok(NULL, " "), *line = strtok(NULL, "");
	bool crash = !strcmp(when, "crash");
	int kernel_fd = open(kernel, O_RDONLY | O_CLOEXEC);
	int initrd_fd = open(initrd, O_RDONLY | O_CLOEXEC);

	if (syscall(SYS_kexec_file_load, kernel_fd, initrd_fd, strlen(line) + 1, line,
		    crash ? KEXEC_FILE_ON_CRASH : 0)) {
		answer("error %d %s", errno, strerror(errno));
		return;
	}
	answer("ok");
	/* The answer is on its way: the port's buffers are the old kernel's */
	if (!crash) {
		usleep(200000);
		syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			LINUX_REBOOT_CMD_KEXEC, NULL);
	}
}

/* ping: "ok BOOT", which no two kernels have in common */
static void do_ping(void)
{
	char boot[64] = "";
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");

	if (file) {
		if (fscanf(file, "%63s", boot) != 1)
			boot[0] = 0;
		fclose(file);
	}
	answer("ok %s", boot);
}

static void run(char *line)
{
	char *words[16] = { NULL }, *rest;
	struct area *area;
	int nr = 0;

	serial = strtoul(line, &line, 10);
	line += strspn(line, " ");
	rest = strchr(line, ' ');
	if (!strncmp(line, "sh ", 3)) {
		do_sh(rest + 1);
		return;
	}
	if (!strncmp(line, "kexec ", 6)) {
		do_kexec(rest + 1);
		return;
	}
	for (char *word = strtok(line, " "); word && nr < 15; word = strtok(NULL, " "))
		words[nr++] = word;
	area = find_area(words[1]);
	if (!nr)
		answer("error nothing asked");
	else if (!strcmp(words[0], "ping"))
		do_ping();
	else if (!strcmp(words[0], "alloc") && nr > 1)
		do_alloc(words);
	else if (!strcmp(words[0], "free") && area)
		do_free(area);
	else if (!strcmp(words[0], "fill") && area && nr > 2)
		do_fill(area, words);
	else if (!strcmp(words[0], "check") && area && nr > 2)
		do_check(area, words);
	else if (!strcmp(words[0], "write") && area && nr > 3)
		do_access(area, words);
	else if (!strcmp(words[0], "read") && area && nr > 2)
		do_access(area, words);
	else if (!strcmp(words[0], "file") && nr > 6)
		do_file(words);
	else if (!strcmp(words[0], "call") && nr > 1)
		do_call(words);
	else if (!strcmp(words[0], "raw") && nr > 1)
		do_raw(words);
	else if (!strcmp(words[0], "poke") && nr > 3)
		do_poke(words);
	else if (!strcmp(words[0], "load") && nr > 2)
		do_load(words);
	else if (!strcmp(words[0], "rounds"))
		do_rounds();
	else if (!strcmp(words[0], "unload"))
		do_unload();
	else if (!strcmp(words[0], "abuse") && nr > 1)
		do_abuse(words);
	else if (!strcmp(words[0], "overlap") && area)
		do_overlap(area);
	else if (!strcmp(words[0], "exit"))
		exit(0);
	else
		answer("error no such request");
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	FILE *in;
	int fd;

	signal(SIGBUS, on_bus_error);
	signal(SIGPIPE, SIG_IGN);
	fd = open(PORT, O_RDWR | O_CLOEXEC);
	in = fdopen(fd, "r");
	port = fdopen(fcntl(fd, F_DUPFD_CLOEXEC, 0), "w");
	if (fd < 0 || !in || !port) {
		perror(PORT);
		return 1;
	}
	/* Nobody outside, for a while: ends the file, and not more */
	for (;; clearerr(in)) {
		length = getline(&line, &room, in);
		if (length <= 0) {
			usleep(50000);
			continue;
		}
		line[strcspn(line, "\n")] = 0;
		run(line);
	}
}
