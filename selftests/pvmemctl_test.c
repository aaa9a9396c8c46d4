// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of /dev/pvmemctl<N>: each function, with its effect on the host as the
 * oracle sees it (oracle.h), and every mistake a caller can make.
 *
 * What the tests do to their own memory is undone or harmless.  They need root.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/pvmemctl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "oracle.h"

#define DEVICE		"/dev/pvmemctl0"
#define DEBUGFS		"/sys/kernel/debug/pvmemctl"
#define TRACEFS		"/sys/kernel/tracing"
#define HUGE		(2UL << 20)
#define PATTERN		0x5a

static size_t page_size;

static int raw_call(int fd, uint64_t func, uint64_t addr, uint64_t length, uint64_t arg,
		    struct memctl_buf *buf)
{
	buf->call = (struct memctl_vmm_call) {
		.func_code = func, .addr = addr, .length = length, .arg = arg,
	};
	return ioctl(fd, MEMCTL_IOCTL, buf) ? errno : 0;
}

/* Guest-physical address of a page that is present, or 0 */
static uint64_t physical(const void *addr)
{
	uint64_t entry = 0;
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)addr / page_size * 8) != sizeof(entry))
		entry = 0;
	close(fd);
	if (!(entry >> 63))
		return 0;
	return (entry & ((1ULL << 55) - 1)) * page_size;
}

/* The first line of a file, without its end; "" if there is none */
static const char *file_text(const char *path)
{
	static char text[512];
	FILE *file = fopen(path, "r");

	text[0] = '\0';
	if (file) {
		if (fgets(text, sizeof(text), file))
			text[strcspn(text, "\n")] = '\0';
		fclose(file);
	}
	return text;
}

static bool file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

static bool all_bytes(const unsigned char *mem, size_t length, unsigned char value)
{
	while (length--)
		if (*mem++ != value)
			return false;
	return true;
}

/* The device and, where there is one, the oracle */
FIXTURE(device) {
	int fd;
	int oracle;
	struct oracle_answer host;
	struct memctl_buf buf;
};

FIXTURE_SETUP(device)
{
	page_size = sysconf(_SC_PAGESIZE);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (self->fd < 0 && (errno == ENOENT || errno == EPERM || errno == EACCES))
		SKIP(return, DEVICE ": %s", strerror(errno));
	ASSERT_LE(0, self->fd);
	self->oracle = oracle_open();
	if (self->oracle >= 0)
		ASSERT_TRUE(oracle_ask(self->oracle, "host\n", &self->host));
}

FIXTURE_TEARDOWN(device)
{
	if (self->oracle >= 0)
		close(self->oracle);
	close(self->fd);
}

/*
 * The same with memory: contiguous in guest-physical space, all of it backed by
 * the host, and locked so that the guest's kernel leaves it where it is.
 */
FIXTURE(memory) {
	int fd;
	int oracle;
	struct oracle_answer host;
	struct memctl_buf buf;
	void *area;
	unsigned char *mem;
	uint64_t addr;
	size_t length;
	size_t pages;		/* in units of the host's page size */
	bool shared;		/* the host's mapping is, ... */
	bool hugetlb;		/* ... or of pages that it cannot divide */
	struct oracle_answer before;
	struct oracle_answer after;
};

static bool look(FIXTURE_DATA(memory) *self, struct oracle_answer *answer)
{
	return oracle_state(self->oracle, self->addr, self->length, answer);
}

FIXTURE_SETUP(memory)
{
	page_size = sysconf(_SC_PAGESIZE);
	self->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (self->fd < 0 && (errno == ENOENT || errno == EPERM || errno == EACCES))
		SKIP(return, DEVICE ": %s", strerror(errno));
	ASSERT_LE(0, self->fd);

	self->area = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->area);
	self->mem = (void *)(((uintptr_t)self->area + HUGE - 1) & ~(HUGE - 1));
	madvise(self->mem, HUGE, MADV_HUGEPAGE);
	memset(self->mem, PATTERN, HUGE);
	ASSERT_EQ(0, mlock(self->mem, HUGE));
	self->addr = physical(self->mem);
	ASSERT_NE(0, self->addr);
	/* A huge page where possible, or what happens to lie together */
	for (self->length = page_size; self->length < HUGE; self->length += page_size)
		if (physical(self->mem + self->length) != self->addr + self->length)
			break;

	self->oracle = oracle_open();
	if (self->oracle >= 0) {
		ASSERT_TRUE(oracle_ask(self->oracle, "host\n", &self->host));
		ASSERT_TRUE(look(self, &self->before)) TH_LOG("oracle: %s", self->before.line);
		self->pages = oracle_number(&self->before, "pages");
		self->shared = oracle_text(&self->before, "prot")[3] == 's';
		self->hugetlb = oracle_number(&self->before, "hugetlb") > 0;
		ASSERT_EQ(self->pages, oracle_number(&self->before, "resident"));
	}
}

FIXTURE_TEARDOWN(memory)
{
	if (self->oracle >= 0)
		close(self->oracle);
	munmap(self->area, 2 * HUGE);
	close(self->fd);
}

/* Ask, look, and make sure that the memory under test was the same all along */
static void call_and_look(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			  uint64_t func, uint64_t arg)
{
	if (self->oracle >= 0)
		ASSERT_TRUE(look(self, &self->before)) TH_LOG("oracle: %s", self->before.line);
	ASSERT_EQ(0, raw_call(self->fd, func, self->addr, self->length, arg, &self->buf));
	if (self->oracle >= 0)
		ASSERT_TRUE(look(self, &self->after)) TH_LOG("oracle: %s", self->after.line);
	ASSERT_EQ(self->addr, physical(self->mem));
}

/* One line for a human: what was asked, answered, and seen from outside */
static void show(FIXTURE_DATA(memory) *self, const char *func, const char *key)
{
	const struct memctl_vmm_ret *ret = &self->buf.ret;
	char answer[64] = "done";
	char seen[96] = "no oracle";
	char before[32];

	if (ret->ret_errno || ret->ret_code)
		snprintf(answer, sizeof(answer), "%s (code %u)", strerror(ret->ret_errno),
			 ret->ret_code);
	if (self->oracle >= 0) {
		snprintf(before, sizeof(before), "%s", oracle_text(&self->before, key));
		snprintf(seen, sizeof(seen), "%s %s -> %s", key, before,
			 oracle_text(&self->after, key));
	}
	printf("# %-17s 0x%09llx+%zuK  answer: %-28s host: %s\n", func,
	       (unsigned long long)self->addr, self->length >> 10, answer, seen);
	fflush(stdout);
}

#define EXPECT_ANSWER(err, code) do {				\
	EXPECT_EQ(err, self->buf.ret.ret_errno);		\
	EXPECT_EQ(code, self->buf.ret.ret_code);		\
	EXPECT_EQ(0, self->buf.ret.arg0);			\
} while (0)

#define EXPECT_SEEN(value, key) \
	EXPECT_EQ(value, oracle_number(&self->after, key)) TH_LOG("oracle: %s", self->after.line)

#define NEED_ORACLE() do {						\
	if (self->oracle < 0)						\
		SKIP(return, "the effect: no port " ORACLE_PORT);	\
} while (0)

#define NEED_POLICY(func) do {						\
	if (self->buf.ret.ret_errno == EPERM) {				\
		EXPECT_ANSWER(EPERM, func);				\
		SKIP(return, "the effect: not allowed by the host");	\
	}								\
} while (0)

/* Functions -------------------------------------------------------------- */

TEST_F(device, info)
{
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(0, self->buf.ret.ret_errno);
	EXPECT_EQ(0, self->buf.ret.ret_code);
	EXPECT_EQ(1, self->buf.ret.arg0);
	printf("# INFO              protocol %llu.%llu, host pages of %llu bytes\n",
	       self->buf.ret.arg0, self->buf.ret.arg1, self->buf.ret.ret_value);
	fflush(stdout);
	if (self->oracle < 0)
		SKIP(return, "the host's page size: no port " ORACLE_PORT);
	EXPECT_EQ(oracle_number(&self->host, "page_size"), self->buf.ret.ret_value);
}

TEST_F(memory, dontneed)
{
	call_and_look(_metadata, self, MEMCTL_DONTNEED, 0);
	show(self, "DONTNEED", "resident");
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	EXPECT_SEEN(0, "mapped");
	/* A shared mapping loses its page tables, and its file keeps the pages */
	EXPECT_SEEN(self->shared ? self->pages : 0, "resident");
	EXPECT_TRUE(all_bytes(self->mem, self->length, self->shared ? PATTERN : 0));
	memset(self->mem, PATTERN, self->length);
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages, "resident");
}

TEST_F(memory, remove)
{
	call_and_look(_metadata, self, MEMCTL_REMOVE, 0);
	show(self, "REMOVE", "resident");
	NEED_ORACLE();
	if (!self->shared) {
		EXPECT_ANSWER(EINVAL, 0);
		EXPECT_SEEN(self->pages, "resident");
		EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
		return;
	}
	EXPECT_ANSWER(0, 0);
	EXPECT_SEEN(0, "resident");
	EXPECT_TRUE(all_bytes(self->mem, self->length, 0));
}

TEST_F(memory, free)
{
	call_and_look(_metadata, self, MEMCTL_FREE, 0);
	show(self, "FREE", "lazyfree");
	NEED_ORACLE();
	if (self->shared) {
		EXPECT_ANSWER(EINVAL, 0);
		EXPECT_SEEN(self->pages, "resident");
		EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
		return;
	}
	EXPECT_ANSWER(0, 0);
	if (oracle_number(&self->after, "lazyfree") < 0)
		SKIP(return, "the effect: the oracle cannot read /proc/kpageflags");
	EXPECT_EQ(0, oracle_number(&self->before, "lazyfree"));
	/* What the host took back in between is free even more so */
	EXPECT_EQ(oracle_number(&self->after, "resident"),
		  oracle_number(&self->after, "lazyfree"));
	/* A write takes the page back */
	memset(self->mem, PATTERN, self->length);
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
	/*
	 * The host only notices when it next reclaims, and refuses to page the
	 * memory out until then.  Leave none of it to other tests.
	 */
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_DONTNEED, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
}

TEST_F(memory, pageout)
{
	call_and_look(_metadata, self, MEMCTL_PAGEOUT, 0);
	show(self, "PAGEOUT", "resident");
	if (self->hugetlb) {
		EXPECT_ANSWER(EINVAL, 0);
		EXPECT_SEEN(self->pages, "resident");
		return;
	}
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	if (oracle_number(&self->host, "swap_kib") < (long)(self->length >> 10))
		SKIP(return, "the effect: the host has no swap");
	EXPECT_SEEN(0, "mapped");
	if (!self->shared)
		EXPECT_SEEN(self->pages, "swapped");
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages, "resident");
}

TEST_F(memory, dontdump)
{
	call_and_look(_metadata, self, MEMCTL_DONTDUMP, 0);
	show(self, "DONTDUMP", "dontdump");
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	EXPECT_EQ(0, oracle_number(&self->before, "dontdump"));
	EXPECT_SEEN(self->pages, "dontdump");
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
}

TEST_F(memory, set_vma_anon_name)
{
	char name[64];

	call_and_look(_metadata, self, MEMCTL_SET_VMA_ANON_NAME, 79);
	show(self, "SET_VMA_ANON_NAME", "name");
	NEED_ORACLE();
	if (!oracle_number(&self->host, "anon_name")) {
		EXPECT_ANSWER(EINVAL, 0);
		SKIP(return, "the effect: the host's kernel has no CONFIG_ANON_VMA_NAME");
	}
	if (self->shared) {
		EXPECT_ANSWER(EBADF, 0);
		return;
	}
	EXPECT_ANSWER(0, 0);
	/* "pvmemctl-79" or "pvmemcontrol-79", depending on who made the device */
	snprintf(name, sizeof(name), "%s", oracle_text(&self->after, "name"));
	EXPECT_EQ(0, strncmp(name, "pvmem", 5));
	EXPECT_STREQ("-79", strrchr(name, '-'));
	call_and_look(_metadata, self, MEMCTL_SET_VMA_ANON_NAME, 0);
	EXPECT_ANSWER(0, 0);
	EXPECT_STREQ("-", oracle_text(&self->after, "name"));
}

TEST_F(memory, mlock)
{
	call_and_look(_metadata, self, MEMCTL_MLOCK, 0);
	show(self, "MLOCK", "locked");
	NEED_POLICY(MEMCTL_MLOCK);
	EXPECT_ANSWER(0, 0);
	if (self->hugetlb) {
		/* Success without effect, as a 1.0 host has it */
		EXPECT_SEEN(0, "locked");
		return;
	}
	if (self->oracle >= 0) {
		EXPECT_EQ(0, oracle_number(&self->before, "locked"));
		EXPECT_SEEN(self->pages, "locked");
	}
	/* What is locked cannot be discarded */
	call_and_look(_metadata, self, MEMCTL_DONTNEED, 0);
	EXPECT_ANSWER(EINVAL, 0);
	call_and_look(_metadata, self, MEMCTL_MUNLOCK, 0);
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	EXPECT_SEEN(0, "locked");
}

TEST_F(memory, munlock)
{
	/* Without MLOCK before it there is something to see only where that is allowed */
	raw_call(self->fd, MEMCTL_MLOCK, self->addr, self->length, 0, &self->buf);
	call_and_look(_metadata, self, MEMCTL_MUNLOCK, 0);
	show(self, "MUNLOCK", "locked");
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	EXPECT_SEEN(0, "locked");
}

/* Nobody touches the memory until the protection is lifted again */
static void protect(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
		    const char *name, uint64_t func, bool readable, bool writable)
{
	call_and_look(_metadata, self, func, 0);
	show(self, name, "prot");
	EXPECT_ANSWER(0, 0);
	if (self->oracle >= 0) {
		EXPECT_SEEN(readable ? self->pages : 0, "readable");
		EXPECT_SEEN(writable ? self->pages : 0, "writable");
	}
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_RW, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
	memset(self->mem, ~PATTERN, self->length);
	if (self->oracle < 0)
		SKIP(return, "the effect: no port " ORACLE_PORT);
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages, "readable");
	EXPECT_SEEN(self->pages, "writable");
}

TEST_F(memory, mprotect_none)
{
	protect(_metadata, self, "MPROTECT_NONE", MEMCTL_MPROTECT_NONE, false, false);
}

TEST_F(memory, mprotect_r)
{
	protect(_metadata, self, "MPROTECT_R", MEMCTL_MPROTECT_R, true, false);
}

TEST_F(memory, mprotect_w)
{
	protect(_metadata, self, "MPROTECT_W", MEMCTL_MPROTECT_W, false, true);
}

TEST_F(memory, mprotect_rw)
{
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_R, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	protect(_metadata, self, "MPROTECT_RW", MEMCTL_MPROTECT_RW, true, true);
}

TEST_F(memory, mergeable)
{
	int second;

	/* A VMM may have made all memory mergeable */
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_UNMERGEABLE, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	call_and_look(_metadata, self, MEMCTL_MERGEABLE, 0);
	show(self, "MERGEABLE", "mergeable");
	NEED_POLICY(MEMCTL_MERGEABLE);
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	if (self->shared) {
		/* Success without effect, as a 1.0 host has it */
		EXPECT_SEEN(0, "mergeable");
		return;
	}
	EXPECT_EQ(0, oracle_number(&self->before, "mergeable"));
	EXPECT_SEEN(self->pages, "mergeable");
	if (oracle_number(&self->host, "ksm") != 1 || oracle_number(&self->after, "ksm") < 0)
		SKIP(return, "pages merged: KSM does not run on the host");
	for (second = 0; second < 60 && oracle_number(&self->after, "ksm") <= 0; second++) {
		sleep(1);
		ASSERT_TRUE(look(self, &self->after));
	}
	EXPECT_LT(0, oracle_number(&self->after, "ksm"));
	show(self, "MERGEABLE", "ksm");
	call_and_look(_metadata, self, MEMCTL_UNMERGEABLE, 0);
	show(self, "UNMERGEABLE", "ksm");
	EXPECT_SEEN(0, "ksm");
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
}

TEST_F(memory, unmergeable)
{
	raw_call(self->fd, MEMCTL_MERGEABLE, self->addr, self->length, 0, &self->buf);
	call_and_look(_metadata, self, MEMCTL_UNMERGEABLE, 0);
	show(self, "UNMERGEABLE", "mergeable");
	EXPECT_ANSWER(0, 0);
	NEED_ORACLE();
	EXPECT_SEEN(0, "mergeable");
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
}

/* From every CPU: each has a connection and a buffer of its own */
TEST_F(memory, every_cpu)
{
	cpu_set_t all, one;
	int cpu, seen = 0;

	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
		memset(self->mem, PATTERN, self->length);
		call_and_look(_metadata, self, MEMCTL_DONTNEED, 0);
		EXPECT_ANSWER(0, 0);
		if (self->oracle >= 0)
			EXPECT_SEEN(0, "mapped");
		seen++;
	}
	EXPECT_EQ(CPU_COUNT(&all), seen);
}

/* Only what was asked for: the neighbours keep their contents and their backing */
TEST_F(memory, neighbours)
{
	size_t third = self->length / 3 & ~(page_size - 1);
	struct oracle_answer middle;

	if (!third)
		SKIP(return, "found no contiguous memory");
	if (self->hugetlb)
		SKIP(return, "the host cannot divide its pages");
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_DONTNEED, self->addr + third, third, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_TRUE(all_bytes(self->mem, third, PATTERN));
	EXPECT_TRUE(all_bytes(self->mem + 2 * third, self->length - 2 * third, PATTERN));
	NEED_ORACLE();
	ASSERT_TRUE(oracle_state(self->oracle, self->addr + third, third, &middle));
	EXPECT_EQ(0, oracle_number(&middle, "mapped"));
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages - oracle_number(&middle, "pages"), "mapped");
}

/* Mistakes --------------------------------------------------------------- */

/* Refused by the driver or by the host; either way nothing may have happened */
static void refused(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
		    uint64_t func, uint64_t addr, uint64_t length)
{
	int err = raw_call(self->fd, func, addr, length, 0, &self->buf);

	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
	if (err) {
		EXPECT_EQ(EINVAL, err);
		return;
	}
	/* What the host's policy does not allow, it does not allow for any range */
	EXPECT_ANSWER(self->buf.ret.ret_errno == EPERM ? EPERM : EINVAL, func);
}

#define EXPECT_DRIVER_REFUSES(func, from, bytes) \
	EXPECT_EQ(EINVAL, raw_call(self->fd, func, from, bytes, 0, &self->buf))

TEST_F(memory, bad_ranges)
{
	uint64_t func;

	for (func = MEMCTL_DONTNEED; func <= MEMCTL_COLD; func++) {
		if (func == MEMCTL_QUERY)	/* takes no range */
			continue;
		EXPECT_DRIVER_REFUSES(func, self->addr, 0);
		EXPECT_DRIVER_REFUSES(func, self->addr + 1, page_size);
		EXPECT_DRIVER_REFUSES(func, self->addr + page_size / 2, page_size);
		EXPECT_DRIVER_REFUSES(func, self->addr, page_size - 1);
		EXPECT_DRIVER_REFUSES(func, self->addr, page_size + 512);
		EXPECT_DRIVER_REFUSES(func, -page_size, 2 * page_size);
		EXPECT_DRIVER_REFUSES(func, -page_size, page_size);
		EXPECT_DRIVER_REFUSES(func, self->addr, -page_size);
	}
	EXPECT_TRUE(all_bytes(self->mem, self->length, PATTERN));
}

#define EXPECT_TABLE_REFUSED(from, entries, func) \
	EXPECT_EQ(EINVAL, raw_call(self->fd, MEMCTL_VECTOR, from, entries, func, &self->buf))

TEST_F(memory, bad_tables)
{
	static const uint64_t funcs[] = {
		MEMCTL_INFO, MEMCTL_QUERY, MEMCTL_VECTOR, MEMCTL_SET_VMA_ANON_NAME,
		MEMCTL_MLOCK, MEMCTL_MPROTECT_NONE, MEMCTL_MPROTECT_R, MEMCTL_MPROTECT_W,
		MEMCTL_UNMERGEABLE + 1, MEMCTL_VECTOR + 1, 1ULL << 32 | MEMCTL_FREE, ~0ULL,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(funcs); i++)
		EXPECT_TABLE_REFUSED(self->addr, 1, funcs[i]);
	EXPECT_TABLE_REFUSED(self->addr, 0, MEMCTL_FREE);
	EXPECT_TABLE_REFUSED(self->addr, MEMCTL_VECTOR_MAX + 1, MEMCTL_FREE);
	EXPECT_TABLE_REFUSED(self->addr, ~0ULL, MEMCTL_FREE);
	EXPECT_TABLE_REFUSED(self->addr + 8, 1, MEMCTL_FREE);
	EXPECT_TABLE_REFUSED(1ULL << 45, 1, MEMCTL_FREE);
}

TEST_F(memory, not_ram)
{
	uint64_t func;

	for (func = MEMCTL_DONTNEED; func <= MEMCTL_UNMERGEABLE; func++) {
		refused(_metadata, self, func, 1ULL << 45, page_size);
		refused(_metadata, self, func, 1ULL << 45, 4ULL << 30);
		refused(_metadata, self, func, -2 * page_size, page_size);
		/* Starts in RAM, and goes on to beyond all RAM */
		refused(_metadata, self, func, self->addr, 1ULL << 45);
	}
}

TEST_F(memory, mmio)
{
	unsigned long long bar;
	uint64_t func;

	bar = strtoull(file_text("/sys/class/misc/pvmemctl0/device/resource"), NULL, 16);
	if (!bar)
		SKIP(return, "found no MMIO range");
	bar &= ~(unsigned long long)(page_size - 1);
	for (func = MEMCTL_DONTNEED; func <= MEMCTL_UNMERGEABLE; func++)
		refused(_metadata, self, func, bar, page_size);
}

/* The end of the highest range of RAM below 4 GiB, as far as the guest knows */
static uint64_t end_of_low_ram(void)
{
	unsigned long long start, end, highest = 0;
	char line[256];
	FILE *file;

	file = fopen("/proc/iomem", "r");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%llx-%llx", &start, &end) == 2 &&
		    strstr(line, " : System RAM") && end < 1ULL << 32)
			highest = end + 1;
	fclose(file);
	return highest;
}

/* The RAM of the host may end a little later; only the oracle knows where */
TEST_F(memory, partly_ram)
{
	struct oracle_answer before, after;
	uint64_t border = end_of_low_ram();
	int i;

	NEED_ORACLE();
	if (!border)
		SKIP(return, "cannot read /proc/iomem");
	for (i = 0; i < 4096; i++, border += page_size)
		if (!oracle_state(self->oracle, border, page_size, &after))
			break;
	ASSERT_EQ(0, strncmp(after.line, "error not RAM", 13)) TH_LOG("%s", after.line);

	ASSERT_TRUE(oracle_state(self->oracle, border - page_size, page_size, &before));
	refused(_metadata, self, MEMCTL_DONTNEED, border - page_size, 2 * page_size);
	refused(_metadata, self, MEMCTL_MPROTECT_NONE, border - page_size, 2 * page_size);
	ASSERT_TRUE(oracle_state(self->oracle, border - page_size, page_size, &after));
	EXPECT_STREQ(before.line, after.line);
}

TEST_F(device, unknown_function)
{
	uint64_t func;

	for (func = MEMCTL_UNMERGEABLE + 1; func < MEMCTL_QUERY; func++)
		EXPECT_EQ(EINVAL, raw_call(self->fd, func, 0, page_size, 0, &self->buf));
	for (func = MEMCTL_VECTOR + 1; func < 70; func++)
		EXPECT_EQ(EINVAL, raw_call(self->fd, func, 0, page_size, 0, &self->buf));
	EXPECT_EQ(EINVAL, raw_call(self->fd, 1ULL << 32, 0, page_size, 0, &self->buf));
	EXPECT_EQ(EINVAL, raw_call(self->fd, ~0ULL, 0, page_size, 0, &self->buf));
}

TEST_F(device, unknown_ioctl)
{
	EXPECT_EQ(-1, ioctl(self->fd, _IOWR(MEMCTL_IOCTL_TYPE, 0x7f, struct memctl_buf),
			    &self->buf));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(self->fd, 0, &self->buf));
	EXPECT_EQ(ENOTTY, errno);
	/* The right number with a wrong size */
	EXPECT_EQ(-1, ioctl(self->fd, _IOWR(MEMCTL_IOCTL_TYPE, 0x00, uint64_t), &self->buf));
	EXPECT_EQ(ENOTTY, errno);
}

TEST_F(device, bad_pointer)
{
	struct memctl_buf *read_only;

	EXPECT_EQ(-1, ioctl(self->fd, MEMCTL_IOCTL, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->fd, MEMCTL_IOCTL, (void *)-page_size));
	EXPECT_EQ(EFAULT, errno);
	/* Zeroes: a valid INFO, whose answer has nowhere to go */
	read_only = mmap(NULL, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, read_only);
	EXPECT_EQ(-1, ioctl(self->fd, MEMCTL_IOCTL, read_only));
	EXPECT_EQ(EFAULT, errno);
	munmap(read_only, page_size);
}

TEST_F(device, needs_cap_sys_admin)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	int fd;

	/* This runs in a child of its own, so nothing has to be given back */
	ASSERT_EQ(0, syscall(SYS_capget, &header, data));
	data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &= ~CAP_TO_MASK(CAP_SYS_ADMIN);
	ASSERT_EQ(0, syscall(SYS_capset, &header, data));
	fd = open(DEVICE, O_RDWR);
	EXPECT_EQ(-1, fd);
	EXPECT_EQ(EPERM, errno);
}

TEST_F(device, node_is_private)
{
	struct stat st;

	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(0600, st.st_mode & 07777);
	EXPECT_EQ(0, st.st_uid);
}

/* Boot with lockdown=integrity to have this one tested */
TEST_F(device, lockdown)
{
	const char *state = file_text("/sys/kernel/security/lockdown");

	if (!*state || strstr(state, "[none]"))
		SKIP(return, "the kernel is not locked down");
	EXPECT_EQ(EPERM, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(EPERM, raw_call(self->fd, MEMCTL_DONTNEED, 0x100000, page_size, 0,
				  &self->buf));
}

/* Boot with pvmemctl_pci.raw_calls=n to have this one tested */
TEST_F(device, raw_calls_off)
{
	if (strcmp(file_text("/sys/module/pvmemctl_pci/parameters/raw_calls"), "N"))
		SKIP(return, "pvmemctl_pci.raw_calls is on");
	EXPECT_EQ(EPERM, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
}

TEST_F(device, two_devices)
{
	struct memctl_buf buf;
	int fd;

	fd = open("/dev/pvmemctl1", O_RDWR);
	if (fd < 0 && errno == ENOENT)
		SKIP(return, "there is no second device");
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(0, raw_call(fd, MEMCTL_INFO, 0, 0, 0, &buf));
	EXPECT_EQ(0, memcmp(&buf, &self->buf, sizeof(buf)));
	close(fd);
}

/* A 32-bit caller: the same structure, through compat_ioctl */
TEST_F(device, compat)
{
#ifdef __x86_64__
	struct memctl_buf *buf;
	long ret;

	buf = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);
	if (access("/proc/sys/abi/vsyscall32", F_OK))
		SKIP(return, "the kernel runs no 32-bit programs");
	buf->call = (struct memctl_vmm_call) { .func_code = MEMCTL_INFO };
	asm volatile("int $0x80" : "=a" (ret)
		     : "a" (54 /* ioctl */), "b" (self->fd), "c" (MEMCTL_IOCTL), "d" (buf)
		     : "memory", "r8", "r9", "r10", "r11");
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, buf->ret.ret_errno);
	EXPECT_EQ(1, buf->ret.arg0);
	munmap(buf, page_size);
#else
	SKIP(return, "knows no 32-bit calls on this machine");
#endif
}

/* Sight ------------------------------------------------------------------ */

/* The name of the device that DEVICE belongs to, as in 0000:00:02.0 */
static const char *device_name(void)
{
	static char link[PATH_MAX];
	ssize_t len;

	len = readlink("/sys/class/misc/pvmemctl0/device", link, sizeof(link) - 1);
	if (len < 0)
		return NULL;
	link[len] = '\0';
	return strrchr(link, '/') + 1;
}

/* Handshakes so far */
static unsigned long handshakes(void)
{
	unsigned long found = 0;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DEBUGFS "/%s/calls", device_name());
	if (sscanf(file_text(path), "# generation %lu,", &found) != 1)
		return 0;
	return found;
}

static unsigned long counted(const char *function)
{
	char path[PATH_MAX], line[256], name[64];
	unsigned long calls, found = 0;
	FILE *file;

	snprintf(path, sizeof(path), DEBUGFS "/%s/calls", device_name());
	file = fopen(path, "r");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %lu", name, &calls) == 2 && !strcmp(name, function))
			found = calls;
	fclose(file);
	return found;
}

TEST_F(device, counters)
{
	unsigned long before;

	if (access(DEBUGFS, F_OK))
		SKIP(return, "no debugfs");
	before = counted("INFO");
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(before + 1, counted("INFO"));
}

/*
 * Take the connections away behind the driver's back, as the restore of a snapshot
 * does: the next call makes new ones, and succeeds.
 */
TEST_F(device, lost_connections)
{
	const char *pci = "/sys/class/misc/pvmemctl0/device";
	unsigned long before;
	volatile uint32_t *command;
	char path[128];
	uint64_t bar;
	char *map;
	int fd;

	snprintf(path, sizeof(path), "%s/resource", pci);
	bar = strtoull(file_text(path), NULL, 16);
	snprintf(path, sizeof(path), "%s/resource0", pci);
	fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "%s: %s", path, strerror(errno));
	map = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		SKIP(return, "%s: mmap: %s", path, strerror(errno));
	command = (void *)(map + (bar & (page_size - 1)) + MEMCTL_REG_COMMAND);

	before = handshakes();
	*command = htole32(MEMCTL_CMD_DISCONNECT);
	ASSERT_EQ(htole32(MEMCTL_ANSWER_ERROR), *command);
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(0, self->buf.ret.ret_errno);
	EXPECT_EQ(1, self->buf.ret.arg0);
	EXPECT_EQ(before + 1, handshakes());
	munmap(map, page_size);
	close(fd);
}

TEST_F(memory, tracepoint)
{
	const char *enable = TRACEFS "/events/pvmemctl/pvmemctl_call/enable";
	char line[512], want[128], found[512] = "";
	FILE *file;

	if (!file_write(enable, "1"))
		SKIP(return, "no tracefs");
	file_write(TRACEFS "/trace", "\n");
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_DONTNEED, self->addr, page_size, 0, &self->buf));
	file_write(enable, "0");
	snprintf(want, sizeof(want),
		 "pvmemctl_call: func=DONTNEED addr=0x%llx length=0x%zx arg=0x0 err=0 errno=0 code=0 ns=",
		 (unsigned long long)self->addr, page_size);
	file = fopen(TRACEFS "/trace", "r");
	ASSERT_NE(NULL, file);
	while (fgets(line, sizeof(line), file))
		if (strstr(line, want))
			strcpy(found, line);
	fclose(file);
	EXPECT_STRNE("", found) TH_LOG("no line with '%s'", want);
}

/* Unplug ----------------------------------------------------------------- */

static bool set_bound(const char *name, bool bound)
{
	return file_write(bound ? "/sys/bus/pci/drivers/pvmemctl_pci/bind" :
				  "/sys/bus/pci/drivers/pvmemctl_pci/unbind", name);
}

TEST_F(memory, unbind_while_open)
{
	char name[64];
	int fd;

	ASSERT_NE(NULL, device_name());
	snprintf(name, sizeof(name), "%s", device_name());
	/* Leave something behind: the driver must lift it when it goes */
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_R, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);

	ASSERT_TRUE(set_bound(name, false));
	EXPECT_EQ(-1, access(DEVICE, F_OK));
	EXPECT_EQ(ENODEV, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(ENODEV, raw_call(self->fd, MEMCTL_DONTNEED, self->addr, self->length, 0,
				   &self->buf));
	if (self->oracle >= 0) {
		EXPECT_TRUE(look(self, &self->after));
		EXPECT_SEEN(self->pages, "writable");
	}
	ASSERT_TRUE(set_bound(name, true));

	/* The file that was open stays with the device that it knew */
	EXPECT_EQ(ENODEV, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	fd = open(DEVICE, O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, raw_call(fd, MEMCTL_DONTNEED, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	close(fd);
}

static atomic_bool hammer_stop;
static atomic_ulong hammer_calls, hammer_wrong;

/* Opens, calls and closes as fast as it can; only these results are right */
static void *hammer(void *unused)
{
	struct memctl_buf buf;
	int fd, err;

	while (!atomic_load(&hammer_stop)) {
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
		if (fd < 0) {
			if (errno != ENOENT && errno != ENODEV)
				atomic_fetch_add(&hammer_wrong, 1);
			sched_yield();
			continue;
		}
		err = raw_call(fd, MEMCTL_INFO, 0, 0, 0, &buf);
		if (err ? err != ENODEV : buf.ret.ret_errno || buf.ret.arg0 != 1)
			atomic_fetch_add(&hammer_wrong, 1);
		if (!err)
			atomic_fetch_add(&hammer_calls, 1);
		close(fd);
	}
	return NULL;
}

TEST_F(device, unbind_races_with_calls)
{
	pthread_t threads[4];
	char name[64];
	int i;

	ASSERT_NE(NULL, device_name());
	snprintf(name, sizeof(name), "%s", device_name());
	for (i = 0; i < 4; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, hammer, NULL));
	for (i = 0; i < 20; i++) {
		usleep(20000);
		EXPECT_TRUE(set_bound(name, false));
		EXPECT_TRUE(set_bound(name, true));
	}
	usleep(20000);
	atomic_store(&hammer_stop, true);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, atomic_load(&hammer_wrong));
	EXPECT_LT(0, atomic_load(&hammer_calls));
}

TEST_HARNESS_MAIN
