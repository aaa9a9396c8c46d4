// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of page zeroing by the host: what it holds, as the oracle sees it (oracle.h),
 * and that no byte is wrong.
 *
 * They change the pool of huge pages, and put it back.  Boot with
 * pvmemctl.zero_verify=1 to have the kernel look, too, at everything that it takes
 * for zero.  They need root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "oracle.h"
#include "util.h"

#define ZERO		"/sys/kernel/mm/pvmemctl/zero/"
#define POOL		"/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define GIGANTIC	"/sys/kernel/mm/hugepages/hugepages-1048576kB/"
#define FOLIOS		"/sys/kernel/mm/transparent_hugepage/hugepages-%lukB/"
#define VM		"/proc/sys/vm/"
#define PAGE		4096UL
#define HUGE		(2UL << 20)
#define NR		16UL		/* huge pages of a test */
#define PATIENCE	60		/* seconds, on a machine that does other things too */
#define LONG		180

#ifndef MADV_HWPOISON
#define MADV_HWPOISON	100
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

/* Of linux/kernel-page-flags.h */
#define KPF_BUDDY	10
#define KPF_HWPOISON	19

static long number_of(const char *dir, const char *name)
{
	const char *text;
	char path[256];

	snprintf(path, sizeof(path), "%s%s", dir, name);
	text = file_text(path);
	return *text ? atol(text) : -1;
}

static bool set(const char *dir, const char *name, long value)
{
	char path[256], text[32];

	snprintf(path, sizeof(path), "%s%s", dir, name);
	snprintf(text, sizeof(text), "%ld", value);
	return file_write(path, text);
}

/* Bytes of an order that were not cleared, as hugetlb_skipped says */
static long skipped(const char *name, int wanted)
{
	char path[256];
	long bytes, found = 0;
	FILE *file;
	int order;

	snprintf(path, sizeof(path), ZERO "%s", name);
	file = fopen(path, "r");
	if (!file)
		return -1;
	while (fscanf(file, "%d %ld", &order, &bytes) == 2)
		if (order == wanted)
			found = bytes;
	fclose(file);
	return found;
}

static bool is_on(void)
{
	const char *text = file_text(ZERO "state");
	const bool on = text[0] == 'o' && text[1] == 'n';

	if (!on)
		printf("# page zeroing is %s\n", *text ? text : "not in this kernel");
	return on;
}

static bool is_zero(const void *at, size_t length)
{
	const uint64_t *word = at;

	for (size_t i = 0; i < length / sizeof(*word); i++)
		if (word[i])
			return false;
	return true;
}

static void fill(void *at, size_t length, uint64_t seed)
{
	uint64_t *word = at;

	for (size_t i = 0; i < length / sizeof(*word); i++)
		word[i] = seed + i * 2 + 1;
}

static bool holds(const void *at, size_t length, uint64_t seed)
{
	const uint64_t *word = at;

	for (size_t i = 0; i < length / sizeof(*word); i++)
		if (word[i] != seed + i * 2 + 1)
			return false;
	return true;
}

static char *map(size_t length, int flags, int fd)
{
	char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* Memory of huge pages, if there is any, or of small ones */
static char *map_anon(size_t length, bool huge)
{
	char *at = map(length + HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1), *aligned;

	if (!at)
		return NULL;
	aligned = (char *)(((uintptr_t)at + HUGE - 1) & ~(HUGE - 1));
	if (aligned > at)
		munmap(at, aligned - at);
	munmap(aligned + length, at + HUGE - aligned);
	madvise(aligned, length, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return aligned;
}

static char *map_huge(size_t nr)
{
	return map(nr * HUGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
}

static void pause_ms(long ms)
{
	const struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

/* Bytes that the host holds there, as an oracle says that is there */
static long held_at(struct __test_metadata *_metadata, int oracle, struct oracle_answer *host,
		    uint64_t gpa, size_t length)
{
	ASSERT_TRUE(oracle_state(oracle, gpa, length, host)) {
		TH_LOG("oracle: %s", host->line);
	}
	ASSERT_LE(0, oracle_number(host, "resident"));
	ASSERT_LE(0, oracle_number(host, "hugetlb"));
	return oracle_number(host, "resident") * PAGE;
}

FIXTURE(hugetlb) {
	int oracle;
	struct oracle_answer host;
	long nr, overcommit, delay;
	uint64_t gpa[NR];
};

FIXTURE_SETUP(hugetlb)
{
	if (!is_on())
		SKIP(return, "there is nothing to test");
	self->oracle = oracle_open();
	self->nr = number_of(POOL, "nr_hugepages");
	self->overcommit = number_of(POOL, "nr_overcommit_hugepages");
	self->delay = number_of(ZERO, "hugetlb_delay_ms");
	ASSERT_LE(0, self->nr);
	ASSERT_LE(0, self->delay);
	ASSERT_TRUE(set(ZERO, "hugetlb_delay_ms", 0));
	ASSERT_TRUE(set(POOL, "nr_hugepages", NR));
	if (number_of(POOL, "nr_hugepages") != NR)
		SKIP(return, "no memory for %lu huge pages", NR);
}

FIXTURE_TEARDOWN(hugetlb)
{
	set(ZERO, "hugetlb_delay_ms", self->delay);
	set(POOL, "nr_overcommit_hugepages", self->overcommit);
	set(POOL, "nr_hugepages", self->nr);
	if (self->oracle >= 0)
		close(self->oracle);
}

/* Map the pool, write to all of it, note where it is */
static char *dirty(struct __test_metadata *_metadata, FIXTURE_DATA(hugetlb) *self)
{
	char *at = map_huge(NR);

	ASSERT_NE(NULL, at);
	fill(at, NR * HUGE, 77);
	for (size_t i = 0; i < NR; i++) {
		self->gpa[i] = physical(at + i * HUGE);
		ASSERT_NE(0, self->gpa[i]);
	}
	return at;
}

/* Bytes that the host holds of what dirty() noted; -1: nobody to ask */
static long resident(struct __test_metadata *_metadata, FIXTURE_DATA(hugetlb) *self)
{
	long held = 0;

	if (self->oracle < 0)
		return -1;
	for (size_t i = 0; i < NR; i++)
		held += held_at(_metadata, self->oracle, &self->host, self->gpa[i], HUGE);
	return held;
}

/* Until a figure is that large, which is soon */
static bool reaches(const char *name, long value)
{
	for (int i = 0; i < PATIENCE * 10; i++) {
		if (number_of(ZERO, name) >= value)
			return true;
		pause_ms(100);
	}
	return false;
}

/* Until so many bytes more were released */
static bool released(long before, long bytes)
{
	return reaches("hugetlb_released", before + bytes);
}

/* Free all of the pool: true when it is released */
static bool given_back(char *at)
{
	const long before = number_of(ZERO, "hugetlb_released");

	munmap(at, NR * HUGE);
	return released(before, NR * HUGE);
}

/* What is freed to the pool the host holds no longer, and the next fault clears nothing */
TEST_F(hugetlb, free_pages_are_released)
{
	long not_cleared, held;
	char *at = dirty(_metadata, self);

	held = resident(_metadata, self);
	if (held >= 0) {
		EXPECT_LE(NR * HUGE, held);
	} else {
		printf("# no oracle: what the host holds is not looked at\n");
	}
	ASSERT_TRUE(given_back(at));

	held = resident(_metadata, self);
	if (held >= 0 && oracle_number(&self->host, "hugetlb")) {
		printf("# the host's own huge pages stay where they are\n");
	} else if (held >= 0) {
		EXPECT_GE(NR * HUGE / 100, held);
	}

	not_cleared = skipped("hugetlb_skipped", 9);
	at = map_huge(NR);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, NR * HUGE));
	EXPECT_EQ(not_cleared + NR * HUGE, skipped("hugetlb_skipped", 9));
	munmap(at, NR * HUGE);
}

/* Freed and wanted again before anybody was asked: cleared as ever */
TEST_F(hugetlb, what_was_not_released_is_cleared)
{
	long before = number_of(ZERO, "hugetlb_released"), not_cleared;
	char *at;

	ASSERT_TRUE(released(0, 1));
	at = dirty(_metadata, self);
	ASSERT_TRUE(set(ZERO, "hugetlb_delay_ms", 60000));
	/* A batch that was under way */
	pause_ms(1000);
	before = number_of(ZERO, "hugetlb_released");
	munmap(at, NR * HUGE);
	not_cleared = skipped("hugetlb_skipped", 9);
	at = map_huge(NR);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, NR * HUGE));
	EXPECT_EQ(not_cleared, skipped("hugetlb_skipped", 9));
	EXPECT_EQ(before, number_of(ZERO, "hugetlb_released"));
	munmap(at, NR * HUGE);
}

/* The pages that come to the pool are released before anybody had them */
TEST_F(hugetlb, new_pages_are_released)
{
	long before;
	char *at;

	/* Put something into the memory they are made of */
	ASSERT_TRUE(set(POOL, "nr_hugepages", 0));
	at = map(4 * NR * HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	ASSERT_NE(NULL, at);
	fill(at, 4 * NR * HUGE, 5);
	munmap(at, 4 * NR * HUGE);

	before = number_of(ZERO, "hugetlb_released");
	ASSERT_TRUE(set(POOL, "nr_hugepages", NR));
	ASSERT_TRUE(released(before, NR * HUGE));
	before = skipped("hugetlb_skipped", 9);
	at = map_huge(NR);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, NR * HUGE));
	EXPECT_EQ(before + NR * HUGE, skipped("hugetlb_skipped", 9));
	munmap(at, NR * HUGE);
}

/* fallocate clears as a fault does; a hole punched is freed */
TEST_F(hugetlb, fallocate)
{
	long before, not_cleared;
	char *at = dirty(_metadata, self);
	int fd;

	ASSERT_TRUE(given_back(at));

	fd = memfd_create("zero", MFD_HUGETLB);
	ASSERT_LE(0, fd);
	not_cleared = skipped("hugetlb_skipped", 9);
	ASSERT_EQ(0, fallocate(fd, 0, 0, NR * HUGE));
	EXPECT_EQ(not_cleared + NR * HUGE, skipped("hugetlb_skipped", 9));
	at = map(NR * HUGE, MAP_SHARED, fd);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, NR * HUGE));
	fill(at, NR * HUGE, 6);

	before = number_of(ZERO, "hugetlb_released");
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, NR / 2 * HUGE));
	ASSERT_TRUE(released(before, NR / 2 * HUGE));
	EXPECT_TRUE(is_zero(at, NR / 2 * HUGE));
	EXPECT_TRUE(holds(at + NR / 2 * HUGE, HUGE, 6 + NR / 2 * HUGE / 8 * 2));
	munmap(at, NR * HUGE);
	close(fd);
}

/* A copy on write overwrites its page, and says nothing of zeros to the next owner */
TEST_F_TIMEOUT(hugetlb, private_copy, LONG)
{
	long before;
	char *at, *copy;
	int fd = memfd_create("zero", MFD_HUGETLB);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, NR / 2 * HUGE));
	ASSERT_TRUE(released(0, 1));
	for (int round = 0; round < 3; round++) {
		at = map(NR / 2 * HUGE, MAP_SHARED, fd);
		copy = map(NR / 2 * HUGE, MAP_PRIVATE, fd);
		ASSERT_NE(NULL, at);
		ASSERT_NE(NULL, copy);
		fill(at, NR / 2 * HUGE, round);
		copy[0] = 9;	/* not in the pattern */
		for (size_t i = 1; i < NR / 2; i++)
			((volatile char *)copy)[i * HUGE] = copy[i * HUGE];
		EXPECT_TRUE(holds(copy + HUGE, HUGE, round + HUGE / 8 * 2));
		EXPECT_TRUE(holds(at, NR / 2 * HUGE, round));
		before = number_of(ZERO, "hugetlb_released");
		munmap(copy, NR / 2 * HUGE);
		ASSERT_TRUE(released(before, NR / 2 * HUGE));
		munmap(at, NR / 2 * HUGE);
	}
	close(fd);
	pause_ms(100);
	at = map_huge(NR);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, NR * HUGE));
	munmap(at, NR * HUGE);
}

/* What userfaultfd copies in is there, and is zero no longer when the page is free */
TEST_F_TIMEOUT(hugetlb, userfaultfd_copy, LONG)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy copy = { .len = HUGE };
	char *at, *from;
	long before;
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		SKIP(return, "userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	from = map_anon(HUGE, false);
	ASSERT_NE(NULL, from);
	ASSERT_TRUE(released(0, 1));
	for (int round = 1; round <= 3; round++) {
		at = map_huge(NR);
		ASSERT_NE(NULL, at);
		reg.range.start = (uintptr_t)at;
		reg.range.len = NR / 2 * HUGE;
		ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
		for (size_t i = 0; i < NR / 2; i++) {
			fill(from, HUGE, round + i);
			copy.dst = (uintptr_t)at + i * HUGE;
			copy.src = (uintptr_t)from;
			ASSERT_EQ(0, ioctl(fd, UFFDIO_COPY, &copy));
			EXPECT_TRUE(holds(at + i * HUGE, HUGE, round + i));
		}
		/* The others by faults, from the same pool */
		EXPECT_TRUE(is_zero(at + NR / 2 * HUGE, NR / 2 * HUGE));
		before = number_of(ZERO, "hugetlb_released");
		munmap(at, NR * HUGE);
		/* Some at once, some after the host had them */
		if (round % 2)
			ASSERT_TRUE(released(before, NR * HUGE));
	}
	close(fd);
	at = map_huge(NR);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, NR * HUGE));
	munmap(at, NR * HUGE);
	munmap(from, HUGE);
}

static volatile bool stop;
static unsigned long rounds, wrong;

/* All of its part of the pool, again and again; half of the time not right away */
static void *churn(void *arg)
{
	const size_t nr = (size_t)arg;

	for (unsigned long round = 0; !stop; round++) {
		char *at = map_huge(nr);

		if (!at) {
			__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
			break;
		}
		for (size_t i = 0; i < nr; i++) {
			if (!is_zero(at + i * HUGE, HUGE))
				__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
			fill(at + i * HUGE, HUGE, round);
		}
		munmap(at, nr * HUGE);
		if (round % 2)
			usleep(round % 7 * 300);
		__atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/*
 * Everything is reserved, so each fault needs a page that may be at the host's just
 * then.  None may fail: that would be a SIGBUS, and the end of the test.
 */
TEST_F_TIMEOUT(hugetlb, reservations_hold, LONG)
{
	pthread_t threads[2];

	stop = false;
	rounds = 0;
	wrong = 0;
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, churn, (void *)(NR / 2)));
	sleep(10);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("# %lu rounds\n", rounds);
	EXPECT_LT(2, rounds);
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(NR, number_of(POOL, "nr_hugepages"));
	EXPECT_EQ(NR, number_of(POOL, "free_hugepages"));
	EXPECT_EQ(0, number_of(POOL, "resv_hugepages"));
}

/* The pool grows and shrinks while the host is asked, and its numbers stay right */
TEST_F_TIMEOUT(hugetlb, resize, LONG)
{
	pthread_t thread;

	stop = false;
	rounds = 0;
	wrong = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, churn, (void *)2UL));
	for (int i = 0; i < 40; i++) {
		ASSERT_TRUE(set(POOL, "nr_hugepages", i % 2 ? NR : 2));
		usleep(i * 1000);
	}
	stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, wrong);
	ASSERT_TRUE(set(POOL, "nr_hugepages", NR));
	EXPECT_EQ(NR, number_of(POOL, "nr_hugepages"));
	EXPECT_EQ(NR, number_of(POOL, "free_hugepages"));
	EXPECT_EQ(0, number_of(POOL, "surplus_hugepages"));
	ASSERT_TRUE(set(POOL, "nr_hugepages", 0));
	EXPECT_EQ(0, number_of(POOL, "nr_hugepages"));
}

/* Pages beyond the pool leave it when they are freed, released or not */
TEST_F(hugetlb, surplus)
{
	char *at;

	ASSERT_TRUE(set(POOL, "nr_hugepages", 2));
	ASSERT_TRUE(set(POOL, "nr_overcommit_hugepages", NR));
	for (int i = 0; i < 20; i++) {
		at = map_huge(NR / 2);
		ASSERT_NE(NULL, at);
		/* Reserved, and in the pool, but some never used */
		for (size_t page = 0; page < (size_t)i % (NR / 2); page++) {
			EXPECT_TRUE(is_zero(at + page * HUGE, HUGE));
			fill(at + page * HUGE, HUGE, i);
		}
		usleep(i * 500);
		munmap(at, NR / 2 * HUGE);
		EXPECT_EQ(0, number_of(POOL, "surplus_hugepages"));
		EXPECT_EQ(2, number_of(POOL, "nr_hugepages"));
		EXPECT_EQ(2, number_of(POOL, "free_hugepages"));
		EXPECT_EQ(0, number_of(POOL, "resv_hugepages"));
	}
}

/* ... also when they are more than the host is asked for at once, and it is busy */
TEST_F_TIMEOUT(hugetlb, much_surplus, LONG)
{
	const size_t pages = 160;
	char *at, *other;

	ASSERT_TRUE(set(POOL, "nr_hugepages", 0));
	ASSERT_TRUE(set(POOL, "nr_overcommit_hugepages", pages));
	for (int i = 0; i < 30; i++) {
		/* Reserved, and in the pool, and then free memory for anybody else */
		at = map_huge(pages);
		ASSERT_NE(NULL, at);
		usleep(i % 15 * 60);
		munmap(at, pages * HUGE);
		EXPECT_EQ(0, number_of(POOL, "surplus_hugepages"));
		EXPECT_EQ(0, number_of(POOL, "nr_hugepages"));
		other = map_anon(pages * HUGE, true);
		ASSERT_NE(NULL, other);
		for (size_t page = 0; page < pages; page++)
			other[page * HUGE] = 1;
		for (size_t page = 0; page < pages; page++)
			EXPECT_EQ(1, other[page * HUGE]);
		munmap(other, pages * HUGE);
	}
}

/* A free page of the pool is taken out of use, while the pool is being released */
TEST_F(hugetlb, soft_offline)
{
	char path[] = "/sys/devices/system/memory/soft_offline_page", text[32];
	char *at;
	int fd;

	fd = open(path, O_WRONLY);
	if (fd < 0)
		SKIP(return, "%s: %s", path, strerror(errno));
	at = dirty(_metadata, self);
	munmap(at, NR * HUGE);
	for (int i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), "0x%llx", (unsigned long long)self->gpa[i]);
		EXPECT_EQ(strlen(text), write(fd, text, strlen(text)));
		pause_ms(i * 300);
	}
	close(fd);
	EXPECT_EQ(NR - 2, number_of(POOL, "nr_hugepages"));
	at = map_huge(NR - 2);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, (NR - 2) * HUGE));
	for (size_t i = 0; i < NR - 2; i++) {
		EXPECT_NE(self->gpa[0], physical(at + i * HUGE));
		EXPECT_NE(self->gpa[1], physical(at + i * HUGE));
	}
	munmap(at, (NR - 2) * HUGE);
}

/* What is migrated comes to a page that was zero, and is zero no longer */
TEST_F(hugetlb, migrated)
{
	char *at = dirty(_metadata, self);
	uint64_t old;

	ASSERT_TRUE(given_back(at));
	at = map_huge(2);
	ASSERT_NE(NULL, at);
	fill(at, 2 * HUGE, 9);
	old = physical(at);
	if (madvise(at, HUGE, MADV_SOFT_OFFLINE))
		SKIP(munmap(at, 2 * HUGE); return, "no page can be taken offline: %s",
		     strerror(errno));
	EXPECT_NE(old, physical(at));
	EXPECT_TRUE(holds(at, 2 * HUGE, 9));

	/* Nobody is asked now */
	ASSERT_TRUE(set(ZERO, "hugetlb_delay_ms", 60000));
	pause_ms(1000);
	munmap(at, 2 * HUGE);
	at = map_huge(NR - 1);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, (NR - 1) * HUGE));
	munmap(at, (NR - 1) * HUGE);
}

/* The pool's page structures are made fewer, and more when a page leaves it */
TEST_F(hugetlb, vmemmap_optimized)
{
	const long was = number_of(VM, "hugetlb_optimize_vmemmap");
	long before, not_cleared;
	char *at;

	if (was < 0)
		SKIP(return, "no CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP");
	for (int on = 1; on >= 0; on--) {
		ASSERT_TRUE(set(POOL, "nr_hugepages", 0));
		ASSERT_TRUE(set(VM, "hugetlb_optimize_vmemmap", on));
		before = number_of(ZERO, "hugetlb_released");
		ASSERT_TRUE(set(POOL, "nr_hugepages", NR));
		/* Those of before are what they are, whatever is on */
		ASSERT_TRUE(set(VM, "hugetlb_optimize_vmemmap", !on));
		ASSERT_TRUE(released(before, NR * HUGE));
		for (int round = 0; round < 2; round++) {
			not_cleared = skipped("hugetlb_skipped", 9);
			at = map_huge(NR);
			ASSERT_NE(NULL, at);
			EXPECT_TRUE(is_zero(at, NR * HUGE));
			EXPECT_EQ(not_cleared + NR * HUGE, skipped("hugetlb_skipped", 9));
			fill(at, NR * HUGE, round);
			ASSERT_TRUE(given_back(at));
		}
	}
	EXPECT_TRUE(set(POOL, "nr_hugepages", 0));
	EXPECT_EQ(0, number_of(POOL, "nr_hugepages"));
	set(VM, "hugetlb_optimize_vmemmap", was);
}

/* In a group all is charged that is used, whoever zeroed it, and uncharged when it is free */
TEST_F(hugetlb, cgroup)
{
	static const char group[] = "/tmp/zero_cgroup/zero/";
	const long most = NR / 2;
	long before;
	int status;
	pid_t pid;
	char *at;

	mkdir("/tmp/zero_cgroup", 0700);
	if (mount("none", "/tmp/zero_cgroup", "cgroup2", 0, NULL))
		SKIP(return, "no cgroup2");
	file_write("/tmp/zero_cgroup/cgroup.subtree_control", "+hugetlb");
	mkdir(group, 0700);
	if (!set(group, "hugetlb.2MB.max", most * HUGE))
		SKIP(rmdir(group); umount("/tmp/zero_cgroup"); return, "no hugetlb controller");

	for (int round = 0; round < 2; round++) {
		before = number_of(ZERO, "hugetlb_released");
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			at = map_huge(NR);
			if (!at || !set(group, "cgroup.procs", getpid()))
				_exit(1);
			for (long i = 0; i < most; i++)
				if (!is_zero(at + i * HUGE, HUGE))
					_exit(2);
			fill(at, most * HUGE, round);
			if (number_of(group, "hugetlb.2MB.current") != most * (long)HUGE)
				_exit(3);
			/* One too many */
			signal(SIGBUS, SIG_DFL);
			at[most * HUGE] = 1;
			_exit(4);
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) {
			TH_LOG("the child's status: %x", status);
		}
		ASSERT_TRUE(released(before, most * HUGE));
		EXPECT_EQ(0, number_of(group, "hugetlb.2MB.current"));
	}
	/* The child may still be on its way out */
	for (int i = 0; i < PATIENCE && rmdir(group); i++)
		pause_ms(1000);
	EXPECT_NE(0, access(group, F_OK));
	umount("/tmp/zero_cgroup");
}

/* What the kernel says of a page: its KPF_... */
static bool has_flag(uint64_t gpa, int flag)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags = 0;

	if (pread(fd, &flags, sizeof(flags), gpa / PAGE * sizeof(flags)) != sizeof(flags))
		flags = 0;
	close(fd);
	return flags >> flag & 1;
}

/* That memory fails */
static bool fail(uint64_t gpa)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)gpa);
	return file_write("/sys/devices/system/memory/hard_offline_page", text);
}

/* The pool has one page less, which is the one that failed */
static void is_without(struct __test_metadata *_metadata, uint64_t gpa)
{
	char *at;

	EXPECT_TRUE(has_flag(gpa, KPF_HWPOISON));
	EXPECT_EQ(NR - 1, number_of(POOL, "nr_hugepages"));
	EXPECT_EQ(NR - 1, number_of(POOL, "free_hugepages"));
	EXPECT_EQ(NULL, map_huge(NR));
	at = map_huge(NR - 1);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, (NR - 1) * HUGE));
	for (size_t i = 0; i < NR - 1; i++)
		EXPECT_NE(gpa & ~(HUGE - 1), physical(at + i * HUGE));
	munmap(at, (NR - 1) * HUGE);
}

/* Memory that fails while it is used does not come back from the pool */
TEST_F(hugetlb, memory_failure)
{
	char *at = dirty(_metadata, self);
	uint64_t *gpa = (uint64_t *)map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
	int status;
	pid_t pid;

	ASSERT_NE(NULL, gpa);

	munmap(at, NR * HUGE);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		at = map_huge(1);
		at[0] = 1;
		*gpa = physical(at);
		if (madvise(at, HUGE, MADV_HWPOISON))
			_exit(errno == EINVAL || errno == EPERM ? 77 : 1);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP(return, "memory failures cannot be injected");
	EXPECT_TRUE(WIFEXITED(status) ? !WEXITSTATUS(status) : WTERMSIG(status) == SIGBUS);
	pause_ms(300);
	is_without(_metadata, *gpa);
	munmap(gpa, PAGE);
}

/* ... nor does a free page of it that the host had zeroed */
TEST_F(hugetlb, memory_failure_of_free_page)
{
	uint64_t gpa;

	ASSERT_TRUE(given_back(dirty(_metadata, self)));
	gpa = self->gpa[NR / 2] + 7 * PAGE;
	if (!fail(gpa))
		SKIP(return, "memory failures cannot be injected: %s", strerror(errno));
	is_without(_metadata, gpa);
}

/* A gigantic page is freed, reported, and made of free memory again by contiguous allocation */
TEST_F_TIMEOUT(hugetlb, contiguous, LONG)
{
	const long nr = number_of(GIGANTIC, "nr_hugepages"), size = HUGE * 512;
	const long report = number_of(ZERO, "report");
	long before;
	char *at;

	if (report < 0 || number_of(GIGANTIC, "free_hugepages") < 1)
		SKIP(return, "there is no gigantic page; boot with hugepagesz=1G hugepages=1");
	ASSERT_TRUE(set(ZERO, "report", 1));
	before = number_of(ZERO, "report_released");
	ASSERT_TRUE(set(GIGANTIC, "nr_hugepages", nr - 1));
	EXPECT_TRUE(reaches("report_released", before + size));
	before = number_of(ZERO, "hugetlb_released");
	/* What is being reported is nobody's to move, so not at once maybe */
	for (int i = 0; i < 100 && number_of(GIGANTIC, "nr_hugepages") < nr; i++) {
		set(GIGANTIC, "nr_hugepages", nr);
		pause_ms(100);
	}
	set(ZERO, "report", report);
	ASSERT_EQ(nr, number_of(GIGANTIC, "nr_hugepages"));
	ASSERT_TRUE(released(before, size));
	at = map(size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 30 << 26, -1);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, size));
	before = number_of(ZERO, "hugetlb_released");
	munmap(at, size);
	ASSERT_TRUE(released(before, size));
}

/* Needs a gigantic page in its pool, reserved at boot: hugepagesz=1G hugepages=1 */
TEST_F_TIMEOUT(hugetlb, gigantic, LONG)
{
	long size = HUGE * 512, before, not_cleared, held;
	char *at;

	if (number_of(GIGANTIC, "free_hugepages") < 1)
		SKIP(return, "there is no gigantic page; boot with hugepagesz=1G hugepages=1");
	not_cleared = skipped("hugetlb_skipped", 18);
	/* Reserved at boot, and released when the device came */
	at = map(size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 30 << 26, -1);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, size));
	EXPECT_EQ(not_cleared + size, skipped("hugetlb_skipped", 18));
	memset(at, 1, size);
	self->gpa[0] = physical(at);
	before = number_of(ZERO, "hugetlb_released");
	munmap(at, size);
	ASSERT_TRUE(released(before, size));
	if (self->oracle >= 0) {
		held = held_at(_metadata, self->oracle, &self->host, self->gpa[0], size);
		if (!oracle_number(&self->host, "hugetlb")) {
			EXPECT_GE(size / 100, held);
		}
	}

	/* 511 of the pages that it is made into are new to their pool */
	if (!set(GIGANTIC, "demote", 1))
		SKIP(return, "it cannot be demoted: %s", strerror(errno));
	EXPECT_EQ(0, number_of(GIGANTIC, "nr_hugepages"));
	EXPECT_EQ(NR + 512, number_of(POOL, "nr_hugepages"));
	at = map_huge(256);
	ASSERT_NE(NULL, at);
	EXPECT_TRUE(is_zero(at, 256 * HUGE));
	munmap(at, 256 * HUGE);
}

/* Free memory ------------------------------------------------------------------ */

#define SIZE	(128UL << 20)
#define LARGE	(512UL << 20)

FIXTURE(report) {
	int oracle;
	struct oracle_answer host;
	long report, order, delay, fraction;
	char folios[10][16];
};

/* What processes have of an order: "always", "never", ...; what they had goes to @was */
static bool set_folios(int order, const char *enabled, char was[16])
{
	const char *text;
	char path[128];

	snprintf(path, sizeof(path), FOLIOS "enabled", PAGE >> 10 << order);
	text = strchr(file_text(path), '[');
	if (text && was)
		snprintf(was, 16, "%.*s", (int)strcspn(text + 1, "]"), text + 1);
	return text && file_write(path, enabled);
}

FIXTURE_SETUP(report)
{
	if (!is_on())
		SKIP(return, "there is nothing to test");
	self->oracle = oracle_open();
	self->report = number_of(ZERO, "report");
	self->order = number_of(ZERO, "report_order");
	self->delay = number_of(ZERO, "report_delay_ms");
	self->fraction = number_of(VM, "percpu_pagelist_high_fraction");
	if (self->report < 0)
		SKIP(return, "this kernel has no page reporting");
	ASSERT_TRUE(set(ZERO, "report_delay_ms", 20));
	set(ZERO, "report_order", 9);
	if (!set(ZERO, "report", 1))
		SKIP(return, "free memory cannot be reported: %s", strerror(errno));
}

FIXTURE_TEARDOWN(report)
{
	for (int order = 2; order <= 9; order++)
		if (*self->folios[order])
			set_folios(order, self->folios[order], NULL);
	set(VM, "percpu_pagelist_high_fraction", self->fraction);
	set(ZERO, "report_delay_ms", self->delay);
	if (self->order >= 0)
		set(ZERO, "report_order", self->order);
	if (!self->report)
		set(ZERO, "report", 0);
	if (self->oracle >= 0)
		close(self->oracle);
}

/* Until nothing more is reported for a while */
static void settle(void)
{
	long now, before = -1;

	for (int i = 0; i < PATIENCE; i++) {
		now = number_of(ZERO, "report_released");
		if (now == before)
			return;
		before = now;
		pause_ms(1000);
	}
}

/* What is free the host holds no longer, and a huge page made of it is not cleared */
TEST_F_TIMEOUT(report, free_memory_is_known_to_be_zero, LONG)
{
	long before = number_of(ZERO, "report_released"), not_cleared;
	uint64_t gpa[LARGE / HUGE];
	long held = 0;
	char *at;

	at = map_anon(LARGE, true);
	ASSERT_NE(NULL, at);
	fill(at, LARGE, 3);
	for (size_t i = 0; i < LARGE / HUGE; i++)
		gpa[i] = physical(at + i * HUGE);
	munmap(at, LARGE);
	settle();
	EXPECT_LE(before + (long)LARGE, number_of(ZERO, "report_released"));

	for (size_t i = 0; self->oracle >= 0 && i < LARGE / HUGE; i++)
		held += held_at(_metadata, self->oracle, &self->host, gpa[i], HUGE);
	if (self->oracle >= 0 && !oracle_number(&self->host, "hugetlb")) {
		EXPECT_GE((long)LARGE / 20, held);
	}

	not_cleared = skipped("report_skipped", 9);
	at = map_anon(LARGE / 2, true);
	ASSERT_NE(NULL, at);
	for (size_t i = 0; i < LARGE / 2; i += HUGE)
		*(volatile char *)(at + i) = 0;
	printf("# %ld of %lu MiB were not cleared\n",
	       (skipped("report_skipped", 9) - not_cleared) >> 20, LARGE / 2 >> 20);
	EXPECT_LE((long)LARGE / 2 * 95 / 100, skipped("report_skipped", 9) - not_cleared);
	EXPECT_TRUE(is_zero(at, LARGE / 2));
	munmap(at, LARGE / 2);
}

/* Folios of orders between, where processes are to have them */
TEST_F_TIMEOUT(report, folios, LONG)
{
	long not_cleared, taken, nr;
	char stats[128], *at;

	for (int order = 2; order <= 9; order++)
		if (!set_folios(order, "never", self->folios[order]))
			SKIP(return, "there are no folios of order %d", order);
	for (int order = 2; order < 9; order += 2) {
		nr = SIZE / (PAGE << order);
		snprintf(stats, sizeof(stats), FOLIOS "stats/", PAGE >> 10 << order);
		ASSERT_TRUE(set_folios(order, "always", NULL));
		settle();
		/* Known to be zero; then much of it used and not reported */
		for (int round = 0; round < 2; round++) {
			taken = number_of(stats, "anon_fault_alloc");
			not_cleared = skipped("report_skipped", order);
			at = map_anon(SIZE, true);
			ASSERT_NE(NULL, at);
			for (size_t i = 0; i < SIZE; i += PAGE << order)
				*(volatile char *)(at + i) = 0;
			EXPECT_EQ(nr, number_of(stats, "anon_fault_alloc") - taken);
			not_cleared = skipped("report_skipped", order) - not_cleared;
			printf("# order %d: %ld of %lu MiB were not cleared\n", order,
			       not_cleared >> 20, SIZE >> 20);
			if (!round) {
				EXPECT_LE((long)SIZE * 3 / 4, not_cleared);
				ASSERT_TRUE(set(ZERO, "report_delay_ms", 60000));
			}
			EXPECT_TRUE(is_zero(at, SIZE));
			fill(at, SIZE, order);
			munmap(at, SIZE);
		}
		ASSERT_TRUE(set_folios(order, "never", NULL));
		/* A report that was asked for still takes as long as it was told to */
		ASSERT_TRUE(set(ZERO, "report_delay_ms", 20));
		ASSERT_TRUE(set(ZERO, "report", 0));
		ASSERT_TRUE(set(ZERO, "report", 1));
	}
}

/* What CPUs keep for themselves of the pages that were freed is reported like the rest */
TEST_F_TIMEOUT(report, per_cpu_lists, LONG)
{
	const size_t length = 8 * HUGE;
	long before, reported;
	cpu_set_t one;
	char *at;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	/* The list of this CPU is short now */
	ASSERT_TRUE(set(VM, "percpu_pagelist_high_fraction", 1000000));
	at = map_anon(length, false);
	ASSERT_NE(NULL, at);
	fill(at, length, 1);
	munmap(at, length);
	at = map_anon(length, true);
	ASSERT_NE(NULL, at);
	fill(at, length, 1);
	settle();
	/* What is freed now is on it when the next report begins: it may be as long as any */
	ASSERT_TRUE(set(ZERO, "report", 0));
	ASSERT_TRUE(set(VM, "percpu_pagelist_high_fraction", 8));
	munmap(at, length);
	before = number_of(ZERO, "report_released");
	ASSERT_TRUE(set(ZERO, "report", 1));
	settle();
	reported = number_of(ZERO, "report_released") - before;
	printf("# %ld of %zu MiB were reported\n", reported >> 20, length >> 20);
	EXPECT_LE((long)(length - HUGE), reported);
}

/* What is smaller than report_order stays with the host until it is wanted */
TEST_F_TIMEOUT(report, smaller_blocks, LONG)
{
	const size_t nr = LARGE / HUGE;
	uint64_t gpa[LARGE / HUGE], freed[LARGE / HUGE];
	long before, held, is_freed = 0;
	char *at;

	ASSERT_TRUE(set(ZERO, "report_order", 10));
	at = map_anon(LARGE, true);
	ASSERT_NE(NULL, at);
	fill(at, LARGE, 3);
	for (size_t i = 0; i < nr; i++)
		gpa[i] = physical(at + i * HUGE);
	settle();
	before = number_of(ZERO, "report_released");
	/* Those whose buddy is used, so that they merge with nothing */
	for (size_t i = 0; i < nr; i++) {
		for (size_t j = 0; gpa[i] & HUGE && j < nr; j++) {
			if (gpa[j] != (gpa[i] ^ HUGE))
				continue;
			ASSERT_EQ(0, madvise(at + i * HUGE, HUGE, MADV_DONTNEED));
			freed[is_freed++] = gpa[i];
		}
	}
	ASSERT_LT(0, is_freed);
	settle();
	EXPECT_GT(is_freed * (long)HUGE, number_of(ZERO, "report_released") - before);
	held = 0;
	for (long i = 0; self->oracle >= 0 && i < is_freed; i++)
		held += held_at(_metadata, self->oracle, &self->host, freed[i], HUGE);
	if (self->oracle >= 0) {
		EXPECT_EQ(is_freed * (long)HUGE, held);
	}

	ASSERT_TRUE(set(ZERO, "report", 0));
	ASSERT_TRUE(set(ZERO, "report_order", 9));
	ASSERT_TRUE(set(ZERO, "report", 1));
	ASSERT_TRUE(reaches("report_released", before + is_freed * (long)HUGE));
	settle();
	held = 0;
	for (long i = 0; self->oracle >= 0 && i < is_freed; i++)
		held += held_at(_metadata, self->oracle, &self->host, freed[i], HUGE);
	if (self->oracle >= 0 && !oracle_number(&self->host, "hugetlb")) {
		EXPECT_GE(is_freed * (long)HUGE / 20, held);
	}
	munmap(at, LARGE);
}

/* Small pages out of large blocks, written to and freed, and what they merge to */
TEST_F_TIMEOUT(report, parts_of_blocks, LONG)
{
	long not_cleared;
	bool zero = true;
	char *at;

	for (int round = 0; round < 4; round++) {
		settle();
		not_cleared = skipped("report_skipped", 0);
		at = map_anon(SIZE, false);
		ASSERT_NE(NULL, at);
		/* A page is there when it is written to; the rest of it is to be zero */
		for (size_t i = 0; i < SIZE; i += PAGE)
			*(uint64_t *)(at + i) = ~0UL;
		printf("# %ld of %lu MiB of small pages were not cleared\n",
		       (skipped("report_skipped", 0) - not_cleared) >> 20, SIZE >> 20);
		for (size_t i = 0; i < SIZE; i += PAGE)
			zero &= is_zero(at + i + 8, PAGE - 8);
		EXPECT_TRUE(zero);
		fill(at, SIZE, round);
		/* Every other one, so that blocks are mixed; then all */
		for (size_t i = 0; i < SIZE; i += 2 * PAGE)
			madvise(at + i, PAGE, MADV_DONTNEED);
		pause_ms(round * 30);
		munmap(at, SIZE);
		at = map_anon(SIZE, true);
		ASSERT_NE(NULL, at);
		EXPECT_TRUE(is_zero(at, SIZE));
		fill(at, SIZE, round);
		munmap(at, SIZE);
	}
}

/*
 * What another driver reports is its host's business: a block that this one had zeroed,
 * and that was split since, is to be cleared again.
 */
TEST_F_TIMEOUT(report, another_driver, LONG)
{
	static const char all[] = "/sys/module/page_reporting/parameters/";
	static const char test[] = "/sys/kernel/debug/pvmemctl_zero_test/";
	long before, now, order;
	char *held, *at;

	before = number_of(test, "foreign_report");
	if (before < 0)
		SKIP(return, "no CONFIG_PVMEMCTL_ZERO_TEST");
	/* Large blocks: what is left of the last one that small pages are taken from is marked */
	ASSERT_TRUE(set(ZERO, "report_order", 10));
	settle();
	ASSERT_TRUE(set(ZERO, "report", 0));
	order = number_of(all, "page_reporting_order");
	held = map_anon(SIZE, false);
	ASSERT_NE(NULL, held);
	fill(held, SIZE, 1);

	ASSERT_TRUE(set(all, "page_reporting_order", 0));
	ASSERT_TRUE(set(test, "foreign_report", 1));
	for (int i = 0; i < PATIENCE; i++) {
		now = number_of(test, "foreign_report");
		if (now && now == before)
			break;
		before = now;
		pause_ms(1000);
	}
	EXPECT_TRUE(set(test, "foreign_report", 0));
	/* Unset, which cannot be written, is the order of a huge page */
	EXPECT_TRUE(set(all, "page_reporting_order", order < 0 ? 9 : order));
	printf("# the other driver was given %ld KiB\n", now >> 10);
	EXPECT_LT(0, now);

	at = map_anon(SIZE, false);
	ASSERT_NE(NULL, at);
	for (size_t i = 0; i < SIZE; i += PAGE) {
		/* To read only would map the zero page */
		at[i] = 1;
		ASSERT_TRUE(is_zero(at + i + 8, PAGE - 8)) {
			TH_LOG("page %zu is not zero", i / PAGE);
		}
	}
	munmap(at, SIZE);
	munmap(held, SIZE);
}

static void *churn_anon(void *arg)
{
	unsigned int seed = (uintptr_t)arg;

	while (!stop) {
		bool huge = rand_r(&seed) & 1;
		size_t length = HUGE * (1 + rand_r(&seed) % 24);
		char *at = map_anon(length, huge);

		if (!at)
			continue;
		for (size_t i = 0; i < length; i += PAGE) {
			if (rand_r(&seed) % 4 == 0)
				continue;
			at[i] = 1;
			if (!is_zero(at + i + 8, PAGE - 8))
				__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
			memset(at + i, 0xaa, PAGE);
			/* A part of a huge page goes, and is wanted again */
			if (rand_r(&seed) % 512 == 0)
				madvise(at + (i & ~(HUGE - 1)), HUGE / 2, MADV_DONTNEED);
		}
		munmap(at, length);
		__atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* A page fails in a free block that reads as zero: it is gone, and the rest is still zero */
TEST_F_TIMEOUT(report, memory_failure, LONG)
{
	uint64_t gpa[SIZE / HUGE], bad = 0, found[512];
	bool failed = false, zero = true;
	long not_cleared;
	char *at;
	int fd;

	at = map_anon(SIZE, true);
	ASSERT_NE(NULL, at);
	fill(at, SIZE, 3);
	for (size_t i = 0; i < SIZE / HUGE; i++)
		gpa[i] = physical(at + i * HUGE);
	munmap(at, SIZE);
	settle();
	/* Some of it may not be free just now */
	for (size_t i = 0; i < SIZE / HUGE && !failed; i++) {
		bad = gpa[i] + 7 * PAGE;
		if (!has_flag(bad, KPF_BUDDY))
			continue;
		if (self->oracle >= 0 &&
		    held_at(_metadata, self->oracle, &self->host, gpa[i], HUGE) &&
		    !oracle_number(&self->host, "hugetlb"))
			continue;
		failed = fail(bad);
		if (!failed)
			SKIP(return, "memory failures cannot be injected: %s", strerror(errno));
	}
	ASSERT_TRUE(failed);
	EXPECT_TRUE(has_flag(bad, KPF_HWPOISON));
	EXPECT_FALSE(has_flag(bad, KPF_BUDDY));

	fd = open("/proc/self/pagemap", O_RDONLY);
	for (int huge = 0; huge < 2; huge++) {
		not_cleared = skipped("report_skipped", huge ? 9 : 0);
		at = map_anon(LARGE, huge);
		ASSERT_NE(NULL, at);
		for (size_t i = 0; i < LARGE; i += PAGE) {
			at[i] = 1;
			zero &= is_zero(at + i + 8, PAGE - 8);
		}
		EXPECT_TRUE(zero);
		EXPECT_LT(not_cleared, skipped("report_skipped", huge ? 9 : 0));
		for (size_t i = 0; i < LARGE / PAGE; i += 512) {
			ASSERT_EQ(sizeof(found), pread(fd, found, sizeof(found),
						       ((uintptr_t)at / PAGE + i) * 8));
			for (int page = 0; page < 512; page++)
				EXPECT_NE(bad / PAGE, found[page] & ((1ULL << 55) - 1));
		}
		munmap(at, LARGE);
		settle();
	}
	close(fd);
	EXPECT_TRUE(has_flag(bad, KPF_HWPOISON));
}

/* All at once: reports, compaction, contiguous allocation, the pool of huge pages */
TEST_F_TIMEOUT(report, stress, LONG)
{
	pthread_t threads[2];
	long nr = number_of(POOL, "nr_hugepages"), gigantic = number_of(GIGANTIC, "nr_hugepages");
	long before = number_of(ZERO, "report_released");
	int tried = 0, contiguous = 0;

	ASSERT_TRUE(set(ZERO, "report_delay_ms", 1));
	set(ZERO, "report_order", 4);
	stop = false;
	rounds = 0;
	wrong = 0;
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, churn_anon, (void *)(i + 1UL)));
	for (int i = 0; i < 20; i++) {
		set(VM, "compact_memory", 1);
		set(POOL, "nr_hugepages", nr + i % 5 * 8);
		pause_ms(500);
		/* Contiguous allocation; there may be no room for one, and that is fine */
		if (i % 4 == 3 && gigantic >= 0) {
			set(GIGANTIC, "nr_hugepages", gigantic + 1);
			tried++;
			contiguous += number_of(GIGANTIC, "nr_hugepages") > gigantic;
			set(GIGANTIC, "nr_hugepages", gigantic);
		}
	}
	set(POOL, "nr_hugepages", nr);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("# %lu rounds, %ld MiB reported, %d of %d gigantic pages\n", rounds,
	       (number_of(ZERO, "report_released") - before) >> 20, contiguous, tried);
	EXPECT_LT(2, rounds);
	EXPECT_LT(before, number_of(ZERO, "report_released"));
	EXPECT_EQ(0, wrong);
}

/* Is that memory for what can be moved only, so that it can be taken away? */
static bool is_movable(int block)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%d/valid_zones", block);
	return !strncmp(file_text(path), "Movable", 7);
}

/* Has the kernel itself memory there, which it cannot move?  Also if nobody can tell. */
static bool has_reserved(int block)
{
	uint64_t flags[512];
	bool found = false;
	size_t nr;
	int fd;

	nr = strtoul(file_text("/sys/devices/system/memory/block_size_bytes"), NULL, 16) / PAGE;
	fd = open("/proc/kpageflags", O_RDONLY);
	for (size_t page = block * nr; page < (block + 1) * nr && !found; page += 512) {
		found = pread(fd, flags, sizeof(flags), page * sizeof(*flags)) != sizeof(flags);
		for (int i = 0; i < 512; i++)
			found |= flags[i] >> 32 & 1; /* KPF_RESERVED */
	}
	close(fd);
	return found;
}

/* Memory leaves and comes back while it is reported; wants movablecore= */
TEST_F_TIMEOUT(report, hotplug, LONG)
{
	unsigned int offlined = 0, movable = 0;
	char state[64], *at;

	ASSERT_TRUE(set(ZERO, "report_delay_ms", 1));
	for (int block = 0; block < 64; block++) {
		if (!is_movable(block) || has_reserved(block))
			continue;
		movable++;
		snprintf(state, sizeof(state), "/sys/devices/system/memory/memory%d/state", block);
		for (int i = 0; i < 2; i++) {
			at = map_anon(SIZE, i);
			ASSERT_NE(NULL, at);
			fill(at, SIZE, block);
			munmap(at, SIZE);
			/* Nobody uses it, and some of it is off the free lists just now */
			offlined += file_write(state, "offline");
			/* Otherwise it may become any kernel memory */
			file_write(state, "online_movable");
			at = map_anon(SIZE, !i);
			ASSERT_NE(NULL, at);
			EXPECT_TRUE(is_zero(at, SIZE));
			munmap(at, SIZE);
		}
	}
	printf("# %u of %u times a block went\n", offlined, 2 * movable);
	if (!movable)
		SKIP(return, "no memory can be taken away; boot with movablecore=384M");
	EXPECT_LT(0, offlined);
}

/* Zeroing by call --------------------------------------------------------------- */

FIXTURE(call) {
	char order[512];
};

FIXTURE_SETUP(call)
{
	if (!is_on())
		SKIP(return, "there is nothing to test");
	strcpy(self->order, file_text(ZERO "order"));
	ASSERT_STRNE("", self->order);
}

static bool set_order(const char *order)
{
	return file_write(ZERO "order", order);
}

FIXTURE_TEARDOWN(call)
{
	set_order(self->order);
}

/* From an order on, and below it not */
TEST_F(call, order)
{
	long before = skipped("call_skipped", 9);
	char *at = map_anon(SIZE, true);

	ASSERT_NE(NULL, at);
	ASSERT_TRUE(set_order("10"));
	fill(at, SIZE, 1);
	munmap(at, SIZE);
	EXPECT_EQ(before, skipped("call_skipped", 9));

	ASSERT_TRUE(set_order("9"));
	for (int round = 0; round < 2; round++) {
		at = map_anon(SIZE, true);
		ASSERT_NE(NULL, at);
		EXPECT_TRUE(is_zero(at, SIZE));
		fill(at, SIZE, round);
		munmap(at, SIZE);
	}
	EXPECT_LT(before, skipped("call_skipped", 9));
	ASSERT_TRUE(set_order("none"));
	EXPECT_FALSE(set_order("31"));
	EXPECT_FALSE(set_order("-1"));
	EXPECT_FALSE(set_order("some"));
}

/* Every page that this kernel clears, in whatever context */
TEST_F(call, all_orders)
{
	long before = skipped("call_skipped", 0);
	pthread_t thread;

	ASSERT_TRUE(set_order("0"));
	stop = false;
	rounds = 0;
	wrong = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, churn_anon, (void *)7UL));
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (!pid) {
			execl("/bin/busybox", "true", NULL);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
	sleep(2);
	stop = true;
	pthread_join(thread, NULL);
	ASSERT_TRUE(set_order("none"));
	EXPECT_EQ(0, wrong);
	EXPECT_LT(before, skipped("call_skipped", 0));
}

TEST_F(call, automatic)
{
	char text[128] = "";
	FILE *file;

	ASSERT_TRUE(set_order("auto"));
	file = fopen(ZERO "crossover", "r");
	ASSERT_NE(NULL, file);
	for (int i = 0; i < 6; i++) {
		char line[128];

		if (!fgets(line, sizeof(line), file))
			break;
		printf("# %s", line);
		if (!i)
			snprintf(text, sizeof(text), "%s", line);
	}
	fclose(file);
	EXPECT_TRUE(!strcmp(text, "none\n") || (text[0] >= '0' && text[0] <= '9'));
	/* What was measured is what is done */
	text[strcspn(text, "\n")] = '\0';
	EXPECT_STREQ(text, file_text(ZERO "order"));
}

TEST_HARNESS_MAIN
