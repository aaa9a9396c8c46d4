// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the pool of kernel stacks: what thousands of threads cost the host, as the
 * oracle sees it (oracle.h), and that no thread sees what another one left.
 *
 * They need root, a device that can zero, and the module stack_pool_test
 * (CONFIG_PVMEMCTL_STACK_TEST).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest_harness.h"
#include "oracle.h"
#include "util.h"

#define FIGURES		"/sys/kernel/mm/pvmemctl/stack/"
#define CHUNKS		"/sys/kernel/debug/stack_pool/chunks"
#define DRIVE		"/sys/kernel/debug/stack_pool_test/"
#define TRACING		"/sys/kernel/tracing/"

#define DEEP		"12800"	/* bytes: all but the last page */
#define PATIENCE	30	/* seconds for what has to happen some time */

static long figure(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), FIGURES "%s", name);
	return atol(file_text(path));
}

static bool set_figure(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), FIGURES "%s", name);
	return file_write(path, value);
}

/* Of one stack: 4, and twice as many with KASAN, whose frames are larger too */
static long stack_pages(void)
{
	const char *word = file_text(FIGURES "depth");
	long words = 1;

	/* From none to all */
	while ((word = strchr(word, ' ')))
		words += !!*word++;
	return words - 1;
}

/* What a file of lines "NAME VALUE" says, or -1 */
static long stat_value(const char *path, const char *name)
{
	long value, found = -1;
	char key[64];
	FILE *file = fopen(path, "r");

	while (file && found < 0 && fscanf(file, "%63s %ld%*[^\n]", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	if (file)
		fclose(file);
	return found;
}

/* Does that node have the memory at that address, by what the kernel says elsewhere? */
static bool node_has(int node, uint64_t addr)
{
	const char *size = file_text("/sys/devices/system/memory/block_size_bytes");
	char path[128];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/memory%llu", node,
		 (unsigned long long)addr / strtoull(size, NULL, 16));
	return !access(path, F_OK);
}

enum { INTACT, ALL, MAPPED, NODE };

/*
 * How many pages of chunks the host holds, or -1; of which address the last chunk is.
 * Most pages of a chunk that is shattered are not the pool's. MAPPED are also those
 * that were only read, NODE + N are those on that node.
 */
static long host_pages(int oracle, int which, uint64_t *last)
{
	struct oracle_answer answer;
	unsigned long long addr, size;
	int node, live, shattered;
	long pages = 0;
	char line[256];
	FILE *file;

	file = fopen(CHUNKS, "r");
	if (!file)
		return -1;
	while (pages >= 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "0x%llx 0x%llx %d %d %d", &addr, &size, &node, &live,
			   &shattered) != 5)
			continue;
		if (which == INTACT && shattered)
			continue;
		if (which >= NODE && !node_has(which - NODE, addr))
			continue;
		if (last)
			*last = addr;
		if (!oracle_state(oracle, addr, size, &answer))
			pages = -1;
		else
			pages += oracle_number(&answer, which == MAPPED ? "mapped" : "resident");
	}
	fclose(file);
	return pages;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Wait for a condition; false if it does not come */
#define WAIT_UNTIL(condition) ({				\
	const double end_ = now() + PATIENCE;			\
	bool ok_;						\
								\
	while (!(ok_ = (condition)) && now() < end_)		\
		usleep(20000);					\
	ok_;							\
})

/* Threads ----------------------------------------------------------------- */

/* Nobody waits until the last three are followed */
enum { GO_IDLE, GO_DEEP, GO_LOOK, GO_HOLD, GO_THIN, GO_EXIT };

/* Of so many threads one stays at GO_THIN */
#define THIN		40

struct crew {
	unsigned int nr;
	pthread_t *thread;
	pthread_mutex_t lock;
	pthread_cond_t turn;
	int order;		/* GO_*: under the lock, as all below */
	unsigned int done;	/* threads that have followed it */
	unsigned int failed;	/* ... or could not */
	long left;		/* words of others that they saw */
};

static bool go_deep(void)
{
	return file_write(DRIVE "deep", DEEP);
}

/* Stay there until a signal comes; false if a frame has changed meanwhile */
static bool go_hold(void)
{
	return file_write(DRIVE "hold", DEEP);
}

/* Words of the pattern that are on this thread's stack; -1 if it cannot tell */
static long look(void)
{
	char text[32] = "";
	int fd = open(DRIVE "left", O_RDONLY);

	if (fd < 0)
		return -1;
	if (read(fd, text, sizeof(text) - 1) <= 0)
		strcpy(text, "-1");
	close(fd);
	return atol(text);
}

static void *crew_member(void *data)
{
	struct crew *crew = data;
	int followed = GO_IDLE;
	unsigned int number;
	long left = 0;
	bool ok = true;

	pthread_mutex_lock(&crew->lock);
	number = crew->done;
	for (;;) {
		crew->done++;
		crew->failed += !ok || left < 0;
		crew->left += left > 0 ? left : 0;
		pthread_cond_broadcast(&crew->turn);
		while (crew->order == followed)
			pthread_cond_wait(&crew->turn, &crew->lock);
		followed = crew->order;
		if (followed == GO_EXIT || (followed == GO_THIN && number % THIN))
			break;
		pthread_mutex_unlock(&crew->lock);
		ok = followed == GO_DEEP ? go_deep() : followed == GO_HOLD ? go_hold() : true;
		left = followed == GO_LOOK ? look() : 0;
		pthread_mutex_lock(&crew->lock);
	}
	pthread_mutex_unlock(&crew->lock);
	return NULL;
}

static void *nobody(void *data)
{
	return NULL;
}

/* So many stacks are idle; a pool that could not grow tries again when one is wanted */
static bool stacks_ready(unsigned int nr)
{
	pthread_t thread;
	bool ready;

	return WAIT_UNTIL(({
		ready = figure("idle") >= nr;
		if (!ready && !pthread_create(&thread, NULL, nobody, NULL))
			pthread_join(thread, NULL);
		ready;
	}));
}

/*
 * So many threads have started, and wait. In groups for which there are stacks: the
 * pool's work, too, waits until the host lends it a CPU, and a burst of threads would
 * not wait for it. A node that has no 2 MiB for more of them tries again in a second.
 */
static bool crew_start(struct crew *crew, unsigned int nr)
{
	const unsigned int group = 20;
	long fallbacks = figure("fallbacks");
	pthread_attr_t attr;

	memset(crew, 0, sizeof(*crew));
	pthread_mutex_init(&crew->lock, NULL);
	pthread_cond_init(&crew->turn, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16 * 1024);
	crew->thread = calloc(nr, sizeof(*crew->thread));
	for (; crew->nr < nr; crew->nr++) {
		if (crew->nr % group == 0) {
			if (figure("fallbacks") > fallbacks)
				sleep(1);
			if (!stacks_ready(group))
				return false;
			fallbacks = figure("fallbacks");
		}
		if (pthread_create(&crew->thread[crew->nr], &attr, crew_member, crew))
			return false;
	}
	pthread_mutex_lock(&crew->lock);
	while (crew->done < crew->nr)
		pthread_cond_wait(&crew->turn, &crew->lock);
	pthread_mutex_unlock(&crew->lock);
	return true;
}

/* All threads have done what they are told; true if all could */
static bool crew_order(struct crew *crew, int order)
{
	bool ok;

	pthread_mutex_lock(&crew->lock);
	crew->done = 0;
	crew->failed = 0;
	crew->order = order;
	pthread_cond_broadcast(&crew->turn);
	while (order < GO_HOLD && crew->done < crew->nr)
		pthread_cond_wait(&crew->turn, &crew->lock);
	ok = !crew->failed;
	pthread_mutex_unlock(&crew->lock);
	return ok;
}

/* Those at GO_HOLD go on; true if all do, and their frames are as they were */
static bool crew_wake(struct crew *crew)
{
	unsigned int i;
	bool all, ok;

	all = WAIT_UNTIL(({
		for (i = 0; i < crew->nr; i++)
			pthread_kill(crew->thread[i], SIGUSR1);
		pthread_mutex_lock(&crew->lock);
		all = crew->done == crew->nr;
		ok = !crew->failed;
		pthread_mutex_unlock(&crew->lock);
		all;
	}));
	return all && ok;
}

static void crew_end(struct crew *crew)
{
	unsigned int i;

	if (crew->order == GO_HOLD)
		crew_wake(crew);
	crew_order(crew, GO_EXIT);
	for (i = 0; i < crew->nr; i++)
		pthread_join(crew->thread[i], NULL);
	free(crew->thread);
	crew->nr = 0;
}

/* Tests --------------------------------------------------------------------- */

FIXTURE(stack) {
	unsigned int many;	/* threads; fewer where they are slow */
	int oracle;
	struct crew crew;
	long taken;
	long fallbacks;
};

FIXTURE_SETUP(stack)
{
	if (access(FIGURES "active", R_OK))
		SKIP(return, "no pool of kernel stacks");
	if (access(DRIVE "deep", W_OK))
		SKIP(return, "no module stack_pool_test, or no debugfs");
	set_figure("enabled", "1");
	if (!figure("active"))
		SKIP(return, "this host does not serve the pool of kernel stacks");
	self->oracle = oracle_open();
	/* The first chunk is being made */
	ASSERT_TRUE(WAIT_UNTIL(figure("idle") || figure("fallbacks")));
	self->many = stack_pages() == 4 ? 2000 : 500;
	self->taken = figure("taken");
	self->fallbacks = figure("fallbacks");
}

FIXTURE_TEARDOWN(stack)
{
	if (self->crew.nr)
		crew_end(&self->crew);
	if (self->oracle >= 0)
		close(self->oracle);
}

/* So many stacks may be from elsewhere: fallbacks since the test began, two of each CPU */
static long elsewhere(const FIXTURE_DATA(stack) *self)
{
	return figure("fallbacks") - self->fallbacks + 2 * sysconf(_SC_NPROCESSORS_CONF);
}

TEST_F_TIMEOUT(stack, idle_threads, 300)
{
	long pages, taken, others;

	ASSERT_TRUE(crew_start(&self->crew, self->many));
	taken = figure("taken") - self->taken;
	others = elsewhere(self);
	EXPECT_LE(self->many * 95 / 100, taken);
	EXPECT_GE(self->many / 20, figure("fallbacks") - self->fallbacks);
	if (self->oracle < 0)
		SKIP(return, "no oracle says what the host holds");
	pages = host_pages(self->oracle, INTACT, NULL);
	TH_LOG("%ld pages of the host for %ld stacks", pages, figure("stacks"));
	/* One page each, but for stacks from elsewhere */
	EXPECT_LE(self->many - others, host_pages(self->oracle, ALL, NULL));
	/* ... and some of threads that were there before, or are idle */
	EXPECT_GT(self->many * (stack_pages() == 4 ? 1.125 : 2.125) + 128, pages);
}

TEST_F_TIMEOUT(stack, deep_threads_give_back, 300)
{
	long idle, deep;

	if (self->oracle < 0)
		SKIP(return, "no oracle says what the host holds");
	ASSERT_TRUE(crew_start(&self->crew, self->many / 2));
	idle = host_pages(self->oracle, ALL, NULL);
	ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
	deep = host_pages(self->oracle, ALL, NULL);
	/* Three or all four pages of each */
	EXPECT_LT(self->many / 2 * 3, deep);
	crew_end(&self->crew);
	EXPECT_TRUE(WAIT_UNTIL(host_pages(self->oracle, ALL, NULL) <= idle * 1.1)) {
		TH_LOG("idle %ld, deep %ld, afterwards %ld", idle, deep,
		       host_pages(self->oracle, ALL, NULL));
	}
	EXPECT_LT(self->many / 2, figure("released"));
}

/* A stack that was used is as if it was new, whoever cleared it: the host or the guest */
TEST_F_TIMEOUT(stack, nothing_left, 300)
{
	unsigned int round;

	for (round = 0; round < 4; round++) {
		ASSERT_TRUE(crew_start(&self->crew, 500));
		ASSERT_TRUE(crew_order(&self->crew, GO_LOOK));
		EXPECT_EQ(0, self->crew.left);
		ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
		/* The test can fail */
		ASSERT_TRUE(crew_order(&self->crew, GO_LOOK));
		EXPECT_LT(500, self->crew.left);
		crew_end(&self->crew);
		/* With a bit of time for the pool, and without */
		if (round & 1)
			usleep(300000);
	}
}

static atomic_bool storm_over;

static void *shrink_storm(void *data)
{
	/* Without a line in the log each time */
	file_write("/proc/sys/vm/drop_caches", "4");
	while (!storm_over) {
		file_write("/proc/sys/vm/drop_caches", "2");
		usleep(20000);
	}
	return NULL;
}

static void *switch_storm(void *data)
{
	while (!storm_over) {
		set_figure("enabled", "0");
		usleep(3000);
		set_figure("enabled", "1");
		usleep(30000);
	}
	return NULL;
}

static void *churn_member(void *data)
{
	long *left = data;

	*left = look();
	if (!go_deep())
		*left = -1;
	return NULL;
}

/* Threads come and go, in any order, some deep, for a while; nobody sees old contents */
static void churn(struct __test_metadata *_metadata, unsigned int rounds)
{
	enum { NR = 64 };
	pthread_t thread[NR];
	long left[NR];
	unsigned int i, round;

	for (round = 0; round < rounds; round++) {
		for (i = 0; i < NR; i++)
			ASSERT_EQ(0, pthread_create(&thread[i], NULL, churn_member, &left[i]));
		for (i = 0; i < NR; i++) {
			pthread_join(thread[i * 37 % NR], NULL);
			ASSERT_EQ(0, left[i * 37 % NR]);
		}
	}
}

#define CPU_ONLINE	"/sys/devices/system/cpu/cpu1/online"

static void *hotplug_storm(void *data)
{
	unsigned int *times = data;
	bool went;

	while (!storm_over) {
		went = file_write(CPU_ONLINE, "0");
		usleep(50000);
		*times += file_write(CPU_ONLINE, "1") && went;
		usleep(50000);
	}
	return NULL;
}

/* ... while a CPU, which keeps stacks for itself, comes and goes */
TEST_F_TIMEOUT(stack, cpu_hotplug, 300)
{
	unsigned int times = 0;
	pthread_t storm;

	if (access(CPU_ONLINE, W_OK))
		SKIP(return, "no CPU that can go offline");
	storm_over = false;
	ASSERT_EQ(0, pthread_create(&storm, NULL, hotplug_storm, &times));
	churn(_metadata, self->many / 50);
	storm_over = true;
	pthread_join(storm, NULL);
	EXPECT_LT(0, times);
	EXPECT_STREQ("1", file_text(CPU_ONLINE));
}

/* ... while the shrinker takes all that is idle */
TEST_F_TIMEOUT(stack, shrinker, 300)
{
	pthread_t storm;
	long shattered = figure("shattered");

	/* Beside many that stay, unless they are slow */
	if (stack_pages() == 4)
		ASSERT_TRUE(crew_start(&self->crew, 4000));
	storm_over = false;
	ASSERT_EQ(0, pthread_create(&storm, NULL, shrink_storm, NULL));
	churn(_metadata, self->many / 50);
	storm_over = true;
	pthread_join(storm, NULL);
	EXPECT_LT(shattered, figure("shattered"));
}

/* ... while the pool is switched off and on */
TEST_F_TIMEOUT(stack, switched, 300)
{
	pthread_t storm;

	storm_over = false;
	ASSERT_EQ(0, pthread_create(&storm, NULL, switch_storm, NULL));
	churn(_metadata, self->many / 50);
	storm_over = true;
	pthread_join(storm, NULL);
}

static void wake_up(int signal)
{
}

/* How many threads of this process sleep on frames of the module */
static unsigned int held(void)
{
	char path[300], line[256];
	struct dirent *entry;
	unsigned int nr = 0;
	DIR *dir;
	FILE *file;

	dir = opendir("/proc/self/task");
	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/self/task/%s/stack", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		while (fgets(line, sizeof(line), file)) {
			if (strstr(line, "test_recurse")) {
				nr++;
				break;
			}
		}
		fclose(file);
	}
	closedir(dir);
	return nr;
}

/* What a task has on its stack stays, whatever becomes of the stacks beside it */
TEST_F_TIMEOUT(stack, held, 300)
{
	enum { NR = 200 };
	uint32_t disconnected;
	long shattered;

	if (access("/proc/self/stack", R_OK))
		SKIP(return, "no /proc/PID/stack");
	signal(SIGUSR1, wake_up);
	ASSERT_TRUE(crew_start(&self->crew, NR));
	EXPECT_GE(NR / 2, elsewhere(self));
	crew_order(&self->crew, GO_HOLD);
	ASSERT_TRUE(WAIT_UNTIL(held() == NR));

	/* Others of the same chunks end, and are given back */
	churn(_metadata, 4);
	EXPECT_TRUE(WAIT_UNTIL(!figure("deep")));
	shattered = figure("shattered");
	EXPECT_TRUE(file_write("/proc/sys/vm/drop_caches", "2"));
	EXPECT_LT(shattered, figure("shattered"));
	churn(_metadata, 4);
	EXPECT_TRUE(set_figure("enabled", "0"));
	EXPECT_TRUE(WAIT_UNTIL(!figure("idle")));
	EXPECT_TRUE(set_figure("enabled", "1"));
	if (disconnect(&disconnected))
		EXPECT_EQ(MEMCTL_ANSWER_ERROR, disconnected);
	churn(_metadata, 4);

	EXPECT_EQ(NR, held());
	if (self->oracle >= 0)
		EXPECT_LE((NR - elsewhere(self)) * 3, host_pages(self->oracle, ALL, NULL));
	EXPECT_TRUE(crew_wake(&self->crew));
}

/* Each allocation that a clone makes fails once */
TEST_F_TIMEOUT(stack, no_memory, 300)
{
	static const char * const knobs[] = { "ignore-gfp-wait", "verbose" };
	static const char * const dirs[] = { "failslab", "fail_page_alloc" };
	char path[128], text[16];
	unsigned int i, nth = 0;
	pthread_t thread;
	bool injected;
	long left;
	int fd, err;

	for (i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", dirs[i / 2], knobs[i % 2]);
		if (!file_write(path, "0"))
			SKIP(return, "no fault injection");
	}
	fd = open("/proc/thread-self/fail-nth", O_RDWR);
	ASSERT_LE(0, fd);
	/* What vmalloc() says of it, where the pool has no stack, is no complaint */
	EXPECT_TRUE(file_write("/dev/kmsg", "allocations are made to fail"));
	do {
		snprintf(text, sizeof(text), "%u", ++nth);
		ASSERT_LT(0, pwrite(fd, text, strlen(text), 0));
		err = pthread_create(&thread, NULL, churn_member, &left);
		memset(text, 0, sizeof(text));
		ASSERT_LT(0, pread(fd, text, sizeof(text) - 1, 0));
		injected = atoi(text) == 0;
		ASSERT_LT(0, pwrite(fd, "0", 1, 0));
		if (!err) {
			pthread_join(thread, NULL);
			ASSERT_EQ(0, left);
		}
	} while (injected);
	EXPECT_TRUE(file_write("/dev/kmsg", "allocations fail no more"));
	EXPECT_LT(1, nth);
	TH_LOG("%u allocations", nth - 1);
	close(fd);
	churn(_metadata, 4);
}

/* Few that remain of many keep their own memory, not that of all */
TEST_F_TIMEOUT(stack, survivors, 300)
{
	const long pages_each = stack_pages();
	long pages;

	ASSERT_TRUE(crew_start(&self->crew, self->many));
	ASSERT_TRUE(crew_order(&self->crew, GO_THIN));
	EXPECT_TRUE(WAIT_UNTIL(figure("stacks") < self->many / 2));
	EXPECT_LE(self->many / THIN, figure("stacks"));
	EXPECT_TRUE(WAIT_UNTIL((pages = figure("pages")) <
			       (figure("stacks") + 2 * 128) * pages_each)) {
		TH_LOG("%ld pages for %ld stacks", pages, figure("stacks"));
	}
}

/* With the pool off, all that is not in use goes back, and what is in use follows */
TEST_F_TIMEOUT(stack, off, 300)
{
	const long pages_each = stack_pages();

	ASSERT_TRUE(crew_start(&self->crew, 300));
	EXPECT_GE(150, elsewhere(self));
	ASSERT_TRUE(set_figure("enabled", "0"));
	EXPECT_TRUE(WAIT_UNTIL(!figure("idle")));
	EXPECT_LE(300 - elsewhere(self), figure("stacks"));
	EXPECT_TRUE(WAIT_UNTIL(figure("stacks") * pages_each == figure("pages"))) {
		TH_LOG("%ld pages for %ld stacks", figure("pages"), figure("stacks"));
	}
	crew_end(&self->crew);
	/* But those of other tasks, and two for each CPU */
	EXPECT_TRUE(WAIT_UNTIL(figure("stacks") < 300));
	ASSERT_TRUE(set_figure("enabled", "1"));
	EXPECT_TRUE(WAIT_UNTIL(figure("idle")));
}

/* Pages of the kernel that are reclaimable and not its caches': those of idle stacks */
static long reclaimable(void)
{
	/* With what CPUs have counted for themselves so far */
	file_text("/proc/sys/vm/stat_refresh");
	return stat_value("/proc/vmstat", "nr_kernel_misc_reclaimable");
}

/* Idle stacks count as reclaimable, all of them and no others */
TEST_F_TIMEOUT(stack, reclaimable, 300)
{
	const long pages_each = stack_pages();

	EXPECT_TRUE(WAIT_UNTIL(reclaimable() == figure("idle") * pages_each));
	ASSERT_TRUE(crew_start(&self->crew, self->many / 2));
	EXPECT_TRUE(WAIT_UNTIL(reclaimable() == figure("idle") * pages_each));
	EXPECT_LT(0, reclaimable());
	crew_end(&self->crew);
	EXPECT_TRUE(WAIT_UNTIL(reclaimable() == figure("idle") * pages_each)) {
		TH_LOG("%ld pages, %ld stacks are idle", reclaimable(), figure("idle"));
	}
	ASSERT_TRUE(set_figure("enabled", "0"));
	EXPECT_TRUE(WAIT_UNTIL(!figure("idle") && !reclaimable()));
	ASSERT_TRUE(set_figure("enabled", "1"));
}

/* Stacks that came back with more than their top page written to */
static long came_deep(void)
{
	const char *word = file_text(FIGURES "depth");
	unsigned int pages;
	long deep = 0;

	for (pages = 0; word; pages++, word = strchr(word + 1, ' '))
		deep += pages > 1 ? atol(word) : 0;
	return deep;
}

/* Where there are stacks, threads come and go without a word to the host */
TEST_F_TIMEOUT(stack, no_calls, 300)
{
	const long cached = 2 * sysconf(_SC_NPROCESSORS_CONF);
	long calls, taken, deep, stacks;
	enum { NR = 20, ROUNDS = 50 };
	unsigned int round;

	/* There are, and the pool has nothing to do but with what threads leave of a stack */
	ASSERT_TRUE(WAIT_UNTIL(({
		calls = figure("calls");
		deep = came_deep();
		ASSERT_TRUE(crew_start(&self->crew, NR));
		crew_end(&self->crew);
		sleep(2);
		figure("calls") - calls <= came_deep() - deep;
	})));
	calls = figure("calls");
	deep = came_deep();
	taken = figure("taken");
	stacks = figure("stacks");
	for (round = 0; round < ROUNDS; round++) {
		ASSERT_TRUE(crew_start(&self->crew, NR));
		crew_end(&self->crew);
		ASSERT_TRUE(WAIT_UNTIL(figure("stacks") <= stacks + cached));
	}
	EXPECT_LE(ROUNDS * (NR - cached), figure("taken") - taken);
	EXPECT_GE(came_deep() - deep, figure("calls") - calls);
}

/* Threads whose memory is to be of a node have their stacks there */
TEST_F_TIMEOUT(stack, numa, 300)
{
	enum { NR = 300 };
	long here, there;
	int node;

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "one node only");
	if (self->oracle < 0)
		SKIP(return, "no oracle says what the host holds");
	for (node = 0; node <= 1; node++) {
		const unsigned long mask = 1UL << node;

		here = host_pages(self->oracle, NODE + node, NULL);
		there = host_pages(self->oracle, NODE + !node, NULL);
		ASSERT_EQ(0, syscall(__NR_set_mempolicy, MPOL_BIND, &mask, 8 * sizeof(mask)));
		ASSERT_TRUE(crew_start(&self->crew, NR));
		ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
		ASSERT_EQ(0, syscall(__NR_set_mempolicy, MPOL_DEFAULT, NULL, 0));
		here = host_pages(self->oracle, NODE + node, NULL) - here;
		there = host_pages(self->oracle, NODE + !node, NULL) - there;
		TH_LOG("node %d: %ld pages there, %ld elsewhere", node, here, there);
		EXPECT_LE((NR - elsewhere(self)) * 3, here);
		EXPECT_GT(NR / 4, there);
		crew_end(&self->crew);
		EXPECT_TRUE(WAIT_UNTIL(figure("stacks") < NR && !figure("deep")));
	}
}

/* kmemleak, which reads all stacks, reads nothing of what is not used of them */
TEST_F_TIMEOUT(stack, kmemleak, 300)
{
	long before, after;

	if (self->oracle < 0)
		SKIP(return, "no oracle says what the host holds");
	if (access("/sys/kernel/debug/kmemleak", W_OK))
		SKIP(return, "no kmemleak");
	ASSERT_TRUE(crew_start(&self->crew, self->many));
	before = host_pages(self->oracle, MAPPED, NULL);
	ASSERT_TRUE(file_write("/sys/kernel/debug/kmemleak", "scan"));
	after = host_pages(self->oracle, MAPPED, NULL);
	TH_LOG("%ld pages before, %ld afterwards", before, after);
	EXPECT_GT(before + self->many / 4, after);
}

/* Chunks that were made and given up, pages that the host took and refused */
struct events {
	long grown;
	long shattered;
	long released;
	long refused;
};

static struct events counted(void)
{
	return (struct events) {
		figure("grown"), figure("shattered"), figure("released"), figure("refused")
	};
}

static struct events traced(void)
{
	static const char release[] =
		": stack_pool_release: stacks=%u pages=%u ranges=%u refused=%u err=%d";
	unsigned int stacks, pages, ranges, refused, idle, live;
	struct events sum = { };
	const char *event;
	char line[512];
	int node, err;
	FILE *file;

	file = fopen(TRACING "trace", "r");
	while (file && fgets(line, sizeof(line), file)) {
		event = strstr(line, ": stack_pool_") ?: "";
		if (sscanf(event, ": stack_pool_grow: nid=%d pfn=0x%*x stacks=%u err=%d",
			   &node, &stacks, &err) == 3)
			sum.grown += stacks && !err;
		else if (sscanf(event, ": stack_pool_shrink: nid=%d pfn=0x%*x idle=%u live=%u",
				&node, &idle, &live) == 3)
			sum.shattered += idle > 0;
		else if (sscanf(event, release, &stacks, &pages, &ranges, &refused, &err) == 5) {
			sum.released += pages - refused;
			sum.refused += refused;
		}
	}
	if (file)
		fclose(file);
	return sum;
}

/* The pool is off, and nothing goes on in it any more */
static bool pool_off(void)
{
	long released;

	return set_figure("enabled", "0") && WAIT_UNTIL(({
		released = figure("released");
		usleep(300000);
		!figure("idle") && released == figure("released");
	}));
}

/* The tracepoints tell of all that the figures count */
TEST_F_TIMEOUT(stack, tracepoints, 300)
{
	struct events before, after, seen;
	FILE *file;

	if (access(TRACING "events/stack_pool/enable", W_OK))
		SKIP(return, "no tracing");
	ASSERT_TRUE(pool_off());
	before = counted();
	/* What it has is gone then */
	file = fopen(TRACING "trace", "w");
	ASSERT_NE(NULL, file);
	fclose(file);
	ASSERT_TRUE(file_write(TRACING "events/stack_pool/enable", "1"));
	ASSERT_TRUE(set_figure("enabled", "1"));
	ASSERT_TRUE(crew_start(&self->crew, 300));
	ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
	crew_end(&self->crew);
	EXPECT_TRUE(WAIT_UNTIL(figure("released") >= before.released + 300));
	ASSERT_TRUE(pool_off());
	ASSERT_TRUE(file_write(TRACING "events/stack_pool/enable", "0"));
	after = counted();
	ASSERT_TRUE(set_figure("enabled", "1"));

	seen = traced();
	EXPECT_LT(0, seen.grown);
	EXPECT_EQ(after.grown - before.grown, seen.grown);
	EXPECT_LT(0, seen.shattered);
	EXPECT_EQ(after.shattered - before.shattered, seen.shattered);
	EXPECT_EQ(after.released - before.released, seen.released);
	EXPECT_EQ(after.refused - before.refused, seen.refused);
}

/* Tasks that have ended, by what the kernel saw of their stack: up to 8 KiB, or more */
static long ended(bool deep)
{
	const char *stat = "/proc/vmstat";

	if (deep)
		return stat_value(stat, "kstack_16k") + stat_value(stat, "kstack_32k");
	return stat_value(stat, "kstack_1k") + stat_value(stat, "kstack_2k") +
	       stat_value(stat, "kstack_4k") + stat_value(stat, "kstack_8k");
}

/* How much of its stack a thread has used is still seen: CONFIG_DEBUG_STACK_USAGE */
TEST_F_TIMEOUT(stack, stack_usage, 300)
{
	enum { NR = 200 };
	long deep;

	if (stat_value("/proc/vmstat", "kstack_1k") < 0)
		SKIP(return, "the kernel does not look how much of a stack was used");
	for (deep = 0; deep <= 1; deep++) {
		const long others = ended(!deep), were = ended(deep);

		ASSERT_TRUE(crew_start(&self->crew, NR));
		if (deep)
			ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
		crew_end(&self->crew);
		EXPECT_TRUE(WAIT_UNTIL(ended(deep) >= were + NR));
		EXPECT_GT(NR / 4, ended(!deep) - others);
	}
}

/* The device forgets the guest: what was set is set again, and zero pages stay zero */
TEST_F_TIMEOUT(stack, reset, 300)
{
	struct oracle_answer answer;
	uint32_t disconnected;
	uint64_t chunk = 0;

	if (self->oracle < 0)
		SKIP(return, "no oracle says what the host holds");
	ASSERT_TRUE(crew_start(&self->crew, 200));
	ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
	host_pages(self->oracle, INTACT, &chunk);
	ASSERT_NE(0, chunk);
	if (!disconnect(&disconnected))
		SKIP(return, "no access to the device's registers");
	ASSERT_EQ(MEMCTL_ANSWER_ERROR, disconnected);
	crew_end(&self->crew);
	churn(_metadata, 4);
	host_pages(self->oracle, INTACT, &chunk);
	ASSERT_TRUE(WAIT_UNTIL(oracle_state(self->oracle, chunk, 2UL << 20, &answer) &&
			       oracle_number(&answer, "nohuge") == 512)) {
		TH_LOG("a chunk after a reset: %s", answer.line);
	}
}

/* The driver leaves, and comes back */
TEST_F_TIMEOUT(stack, unbind, 300)
{
	char link[PATH_MAX], *name;

	ASSERT_NE(NULL, realpath("/sys/class/misc/pvmemctl0/device", link));
	name = strrchr(link, '/') + 1;
	ASSERT_TRUE(crew_start(&self->crew, 200));
	ASSERT_TRUE(crew_order(&self->crew, GO_DEEP));
	if (!set_bound(name, false))
		SKIP(return, "the driver cannot be unbound");
	EXPECT_TRUE(WAIT_UNTIL(!figure("active")));
	crew_end(&self->crew);
	churn(_metadata, 4);
	ASSERT_TRUE(set_bound(name, true));
	EXPECT_TRUE(WAIT_UNTIL(figure("active")));
	churn(_metadata, 4);
	EXPECT_TRUE(WAIT_UNTIL(figure("idle")));
}

#define GROUP		"/tmp/cgroup/stacks"

/* Bytes of kernel stacks that the control group pays for */
static long charged(void)
{
	return stat_value(GROUP "/memory.stat", "kernel_stack");
}

/* A control group with so much memory; NULL, or what there is not */
static const char *group_make(const char *memory)
{
	mkdir("/tmp/cgroup", 0700);
	if (mount("none", "/tmp/cgroup", "cgroup2", 0, NULL))
		return "no cgroup2";
	file_write("/tmp/cgroup/cgroup.subtree_control", "+memory");
	mkdir(GROUP, 0700);
	if (file_write(GROUP "/memory.max", memory))
		return NULL;
	umount("/tmp/cgroup");
	return "no memory controller";
}

/* A process of the group; 0 in itself */
static pid_t group_fork(void)
{
	pid_t pid = fork();

	if (!pid && !file_write(GROUP "/cgroup.procs", "0"))
		_exit(1);
	return pid;
}

/* A group pays for the stacks of its threads, to the byte, for as long as they are there */
TEST_F_TIMEOUT(stack, memcg_charge, 300)
{
	const char *missing = group_make("max");
	enum { NR = 200 };
	int status;
	pid_t pid;

	if (missing)
		SKIP(return, "%s", missing);
	pid = group_fork();
	if (!pid) {
		crew_start(&self->crew, NR);
		pause();
	}
	/* The process' own one was from outside */
	EXPECT_TRUE(WAIT_UNTIL(charged() == NR * stack_pages() * sysconf(_SC_PAGESIZE))) {
		TH_LOG("%ld bytes for %d threads", charged(), NR);
	}
	EXPECT_LE(NR, figure("taken") - self->taken + elsewhere(self));
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_TRUE(WAIT_UNTIL(charged() == 0));
	EXPECT_TRUE(WAIT_UNTIL(!rmdir(GROUP)));
	umount("/tmp/cgroup");
}

/* One that has no more memory gets no more threads, and pays for none later */
TEST_F_TIMEOUT(stack, memcg, 300)
{
	const char *missing = group_make("16M");
	int status;
	pid_t pid;

	if (missing)
		SKIP(return, "%s", missing);
	/* All of them, or the killed ones make room for more without end */
	ASSERT_TRUE(file_write(GROUP "/memory.oom.group", "1"));
	/* What the kernel says of that is no complaint */
	ASSERT_TRUE(file_write("/proc/sys/kernel/printk", "1"));

	pid = group_fork();
	if (!pid) {
		while ((pid = fork()) >= 0)
			if (!pid)
				pause();
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	/* A group that something was charged to for good would not go empty */
	EXPECT_TRUE(WAIT_UNTIL(charged() == 0));
	EXPECT_TRUE(WAIT_UNTIL(!rmdir(GROUP)));
	ASSERT_TRUE(file_write("/proc/sys/kernel/printk", "7"));
	umount("/tmp/cgroup");
	churn(_metadata, 4);
}

TEST_HARNESS_MAIN
