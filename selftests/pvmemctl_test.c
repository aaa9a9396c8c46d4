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
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "oracle.h"
#include "util.h"

#define DEVICE		"/dev/pvmemctl0"
#define DEBUGFS		"/sys/kernel/debug/pvmemctl"
#define TRACEFS		"/sys/kernel/tracing"
#define HUGE		(2UL << 20)
#define PATTERN		0x5a

static size_t page_size;

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

/* How the host backs memory */
enum backing {
	ANON,			/* private and anonymous */
	MEMFD,			/* shared memory */
	SHARED_FILE,
	PRIVATE_FILE,
	HUGETLB,		/* shared */
	PRIVATE_HUGETLB,
	NR_BACKINGS,		/* nobody says */
};

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
	struct memctl_vmm_range *table;	/* a page elsewhere, for VECTOR */
	uint64_t table_addr;
	unsigned int minor;		/* of the host's protocol 1.x */
	uint64_t works;			/* what QUERY says of the memory; 1.0: all */
	size_t granule;			/* what the host can divide it into, bytes */
	enum backing backing;
	size_t pages;			/* in units of the host's page size */
	struct oracle_answer before;
	struct oracle_answer after;
};

#define BIT(code)	(1ULL << (code))

static bool look(FIXTURE_DATA(memory) *self, struct oracle_answer *answer)
{
	return oracle_state(self->oracle, self->addr, self->length, answer);
}

static bool is_hugetlb(FIXTURE_DATA(memory) *self)
{
	return self->granule > page_size;
}

static bool is_shared(FIXTURE_DATA(memory) *self)
{
	return self->backing == MEMFD || self->backing == SHARED_FILE ||
	       self->backing == HUGETLB;
}

/* The function that gives such memory back to the host, and leaves zeroes */
static uint64_t release_function(FIXTURE_DATA(memory) *self)
{
	return is_shared(self) ? MEMCTL_REMOVE : MEMCTL_DONTNEED;
}

/* Does it?  With pages of hugetlb that is for the operator to say. */
static bool may_release(FIXTURE_DATA(memory) *self)
{
	return self->minor ? self->works & BIT(release_function(self)) : !is_hugetlb(self);
}

static enum backing backing_of(const struct oracle_answer *answer)
{
	bool shared = oracle_text(answer, "prot")[3] == 's';

	if (oracle_number(answer, "hugetlb"))
		return shared ? HUGETLB : PRIVATE_HUGETLB;
	if (!strcmp(oracle_text(answer, "backing"), "file"))
		return shared ? SHARED_FILE : PRIVATE_FILE;
	if (!strcmp(oracle_text(answer, "backing"), "memfd"))
		return shared ? MEMFD : PRIVATE_FILE;
	return shared ? MEMFD : ANON;
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

	self->table = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->table);
	ASSERT_EQ(0, mlock(self->table, page_size));
	self->table_addr = physical(self->table);

	/* Where the kernel is locked down these fail, as the one test there expects */
	self->granule = page_size;
	self->works = ~0ULL;
	self->backing = NR_BACKINGS;
	if (!raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf))
		self->minor = self->buf.ret.arg1;
	if (self->minor) {
		ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, self->addr, 0, self->length,
				      &self->buf));
		ASSERT_EQ(0, self->buf.ret.ret_errno);
		self->works = self->buf.ret.ret_value;
		self->granule = self->buf.ret.arg1;
	}

	self->oracle = oracle_open();
	if (self->oracle >= 0) {
		ASSERT_TRUE(oracle_ask(self->oracle, "host\n", &self->host));
		ASSERT_TRUE(look(self, &self->before)) TH_LOG("oracle: %s", self->before.line);
		self->pages = oracle_number(&self->before, "pages");
		self->backing = backing_of(&self->before);
		self->granule = oracle_number(&self->before, "page_size");
		ASSERT_EQ(self->pages, oracle_number(&self->before, "resident"));
	}
	if (self->length < self->granule)
		SKIP(return, "no memory as large as the host's pages of %zu bytes",
		     self->granule);
}

/* The memory goes to others, so nothing must stay set */
FIXTURE_TEARDOWN(memory)
{
	static const uint64_t undo[] = {
		MEMCTL_MPROTECT_RW, MEMCTL_MUNLOCK, MEMCTL_SET_VMA_ANON_NAME,
		MEMCTL_DODUMP, MEMCTL_HUGEPAGE,
	};
	int i;

	for (i = 0; i < (self->minor ? 5 : 3); i++)
		raw_call(self->fd, undo[i], self->addr, self->length, 0, &self->buf);
	if (self->oracle >= 0)
		close(self->oracle);
	munmap(self->area, 2 * HUGE);
	munmap(self->table, page_size);
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

#define EXPECT_CONTENTS(value)	EXPECT_TRUE(all_bytes(self->mem, self->length, value))

/* A failure before must not look like a test that was left out */
#define SKIP_REST(...) do {			\
	if (_metadata->exit_code == KSFT_FAIL)	\
		return;				\
	SKIP(return, __VA_ARGS__);		\
} while (0)

#define NEED_ORACLE() do {						\
	if (self->oracle < 0)						\
		SKIP_REST("the effect: no port " ORACLE_PORT);		\
} while (0)

#define NEED_1_1() do {						\
	if (!self->minor)					\
		SKIP(return, "the host speaks protocol 1.0");	\
} while (0)

/* Functions -------------------------------------------------------------- */

/* What becomes of memory, as the oracle has to see it */
enum outcome {
	/* Not tried, the answer has the function's code: */
	NOTSUP = 1,		/* EOPNOTSUPP, it would have no effect */
	/* The system call failed, and so nothing changed: */
	INVAL,			/* EINVAL */
	ACCES,			/* EACCES */
	BADF,			/* EBADF */
	/* Done: */
	NOTHING,		/* nothing changed */
	GONE,			/* not mapped, not the mapping's own; reads as zero */
	CLEARED,		/* reads as zero; hugetlb where it may: GONE */
	UNMAPPED,		/* not mapped; the file still has it */
	LAZY,			/* the host may take it when it likes */
	OUT,			/* in swap, contents stay; 1.1 without swap: NOTSUP */
	WRITTEN,		/* in its file, as far as that could be written; stays */
	BACKED,			/* all of it is mapped */
	COLD,			/* first to go; no more to see than that it stays */
	NO_DUMP, DUMP,		/* in core dumps of the VMM, or not */
	NAMED,
	LOCKED, UNLOCKED,
	MERGE, NO_MERGE,	/* by KSM, if it runs */
	HUGE_ON, HUGE_OFF, /* as the kernel's for transparent huge pages decides */
	PROT_0, PROT_R, PROT_W, PROT_RW, /* lifted again at once */

	/* Of hugetlb: EPERM without hugetlb-release=on, with it */
	RELEASE = 0x100,
	GONE_R = RELEASE | GONE,
	UNMAPPED_R = RELEASE | UNMAPPED,
	NOTSUP_R = RELEASE | NOTSUP,
	INVAL_R = RELEASE | INVAL,
	ACCES_R = RELEASE | ACCES,
};

/*
 * What each function does, by how the host backs the memory.  Where a host of
 * protocol 1.0 differs it has a line of its own; to codes from 32 on it answers
 * EOPNOTSUPP.  Whatever the operator does not allow answers EPERM.
 */
static const struct effect {
	const char *name;
	uint64_t func;
	unsigned int minor;
	const char *key;	/* what to show of the oracle's answer */
	unsigned short on[NR_BACKINGS];
} effects[] = {
	/*	  anon        memfd       file        private file  hugetlb     private hugetlb */
	{ "DONTNEED", MEMCTL_DONTNEED, 1, "resident",
		{ GONE,       NOTSUP,     NOTSUP,     GONE,         NOTSUP_R,   GONE_R } },
	{ "DONTNEED", MEMCTL_DONTNEED, 0, "resident",
		{ GONE,       UNMAPPED,   UNMAPPED,   GONE,         UNMAPPED_R, GONE_R } },
	{ "REMOVE", MEMCTL_REMOVE, 1, "resident",
		{ NOTSUP,     GONE,       GONE,       NOTSUP,       GONE_R,     NOTSUP_R } },
	{ "REMOVE", MEMCTL_REMOVE, 0, "resident",
		{ INVAL,      GONE,       GONE,       ACCES,        GONE_R,     ACCES_R } },
	{ "FREE", MEMCTL_FREE, 1, "lazyfree",
		{ LAZY,       NOTSUP,     NOTSUP,     NOTSUP,       NOTSUP_R,   NOTSUP_R } },
	{ "FREE", MEMCTL_FREE, 0, "lazyfree",
		{ LAZY,       INVAL,      INVAL,      INVAL,        INVAL_R,    INVAL_R } },
	{ "PAGEOUT", MEMCTL_PAGEOUT, 1, "resident",
		{ OUT,        OUT,        WRITTEN,    WRITTEN,      NOTSUP_R,   NOTSUP_R } },
	{ "PAGEOUT", MEMCTL_PAGEOUT, 0, "resident",
		{ OUT,        OUT,        WRITTEN,    WRITTEN,      INVAL_R,    INVAL_R } },
	{ "DONTDUMP", MEMCTL_DONTDUMP, 0, "dontdump",
		{ NO_DUMP,    NO_DUMP,    NO_DUMP,    NO_DUMP,      NO_DUMP,    NO_DUMP } },
	{ "SET_VMA_ANON_NAME", MEMCTL_SET_VMA_ANON_NAME, 1, "name",
		{ NAMED,      NOTSUP,     NOTSUP,     NOTSUP,       NOTSUP,     NOTSUP } },
	{ "SET_VMA_ANON_NAME", MEMCTL_SET_VMA_ANON_NAME, 0, "name",
		{ NAMED,      BADF,       BADF,       BADF,         BADF,       BADF } },
	{ "MLOCK", MEMCTL_MLOCK, 1, "locked",
		{ LOCKED,     LOCKED,     LOCKED,     LOCKED,       NOTSUP,     NOTSUP } },
	{ "MLOCK", MEMCTL_MLOCK, 0, "locked",
		{ LOCKED,     LOCKED,     LOCKED,     LOCKED,       NOTHING,    NOTHING } },
	{ "MUNLOCK", MEMCTL_MUNLOCK, 1, "locked",
		{ UNLOCKED,   UNLOCKED,   UNLOCKED,   UNLOCKED,     NOTSUP,     NOTSUP } },
	{ "MUNLOCK", MEMCTL_MUNLOCK, 0, "locked",
		{ UNLOCKED,   UNLOCKED,   UNLOCKED,   UNLOCKED,     NOTHING,    NOTHING } },
	{ "MPROTECT_NONE", MEMCTL_MPROTECT_NONE, 0, "prot",
		{ PROT_0,     PROT_0,     PROT_0,     PROT_0,       PROT_0,     PROT_0 } },
	{ "MPROTECT_R", MEMCTL_MPROTECT_R, 0, "prot",
		{ PROT_R,     PROT_R,     PROT_R,     PROT_R,       PROT_R,     PROT_R } },
	{ "MPROTECT_W", MEMCTL_MPROTECT_W, 1, "prot",
		{ PROT_RW,    PROT_RW,    PROT_RW,    PROT_RW,      PROT_RW,    PROT_RW } },
	{ "MPROTECT_W", MEMCTL_MPROTECT_W, 0, "prot",
		{ PROT_W,     PROT_W,     PROT_W,     PROT_W,       PROT_W,     PROT_W } },
	{ "MPROTECT_RW", MEMCTL_MPROTECT_RW, 0, "prot",
		{ PROT_RW,    PROT_RW,    PROT_RW,    PROT_RW,      PROT_RW,    PROT_RW } },
	{ "MERGEABLE", MEMCTL_MERGEABLE, 1, "mergeable",
		{ MERGE,      NOTSUP,     NOTSUP,     MERGE,        NOTSUP,     NOTSUP } },
	{ "MERGEABLE", MEMCTL_MERGEABLE, 0, "mergeable",
		{ MERGE,      NOTHING,    NOTHING,    MERGE,        NOTHING,    NOTHING } },
	{ "UNMERGEABLE", MEMCTL_UNMERGEABLE, 1, "mergeable",
		{ NO_MERGE,   NOTSUP,     NOTSUP,     NO_MERGE,     NOTSUP,     NOTSUP } },
	{ "UNMERGEABLE", MEMCTL_UNMERGEABLE, 0, "mergeable",
		{ NO_MERGE,   NOTHING,    NOTHING,    NO_MERGE,     NOTHING,    NOTHING } },
	{ "ZERO", MEMCTL_ZERO, 1, "resident",
		{ GONE,       GONE,       GONE,       CLEARED,      CLEARED,    CLEARED } },
	{ "POPULATE", MEMCTL_POPULATE, 1, "mapped",
		{ BACKED,     BACKED,     BACKED,     BACKED,       BACKED,     BACKED } },
	{ "HUGEPAGE", MEMCTL_HUGEPAGE, 1, "hugeadv",
		{ HUGE_ON,    HUGE_ON,    NOTSUP,     NOTSUP,       NOTSUP,     NOTSUP } },
	{ "NOHUGEPAGE", MEMCTL_NOHUGEPAGE, 1, "nohuge",
		{ HUGE_OFF,   HUGE_OFF,   NOTSUP,     NOTSUP,       NOTSUP,     NOTSUP } },
	{ "DODUMP", MEMCTL_DODUMP, 1, "dontdump",
		{ DUMP,       DUMP,       DUMP,       DUMP,         DUMP,       DUMP } },
	{ "COLD", MEMCTL_COLD, 1, "resident",
		{ COLD,       COLD,       COLD,       COLD,         NOTSUP,     NOTSUP } },
};

/* The line for a host of that protocol */
static const struct effect *effect_of(uint64_t func, unsigned int minor)
{
	const struct effect *found = NULL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(effects); i++)
		if (effects[i].func == func && (!found || effects[i].minor == minor))
			found = &effects[i];
	return found;
}

/* The function with a range that comes after that one; the first after INFO */
static uint64_t next_function(uint64_t func)
{
	do
		func++;
	while (func < MEMCTL_VECTOR && !effect_of(func, 1));
	return func;
}

static bool host_has_swap(FIXTURE_DATA(memory) *self)
{
	return oracle_number(&self->host, "swap_kib") >= (long)(self->length >> 10);
}

/* The errno that the host has to answer; not every host can do all */
static int errno_of(FIXTURE_DATA(memory) *self, enum outcome outcome)
{
	static const int errnos[] = {
		[NOTSUP] = EOPNOTSUPP, [INVAL] = EINVAL, [ACCES] = EACCES, [BADF] = EBADF,
	};

	if (outcome == OUT && self->minor && !host_has_swap(self))
		outcome = NOTSUP;
	/* A kernel without CONFIG_ANON_VMA_NAME, or without CONFIG_KSM */
	if (((outcome == NAMED || outcome == BADF) &&
	     !oracle_number(&self->host, "anon_name")) ||
	    ((outcome == MERGE || outcome == NO_MERGE) &&
	     oracle_number(&self->host, "ksm") < 0))
		outcome = self->minor ? NOTSUP : INVAL;
	return outcome < ARRAY_SIZE(errnos) ? errnos[outcome] : 0;
}

/* Nobody touches the memory until its protection is lifted again */
static void expect_protection(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			      enum outcome outcome)
{
	if (outcome != PROT_W)
		EXPECT_SEEN(outcome == PROT_0 ? 0 : self->pages, "readable");
	EXPECT_SEEN(outcome == PROT_W || outcome == PROT_RW ? self->pages : 0, "writable");
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_RW, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_CONTENTS(PATTERN);
	memset(self->mem, ~PATTERN, self->length);
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages, "readable");
	EXPECT_SEEN(self->pages, "writable");
}

static void expect_gone(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	EXPECT_SEEN(0, "mapped");
	EXPECT_SEEN(0, "swapped");
	EXPECT_SEEN(0, "anon");
	/* The file of a private mapping may have been read for it, and stays */
	if (self->backing != PRIVATE_FILE)
		EXPECT_SEEN(0, "resident");
	/* Of a private file that it has no more than zeroes is up to who set it up */
	EXPECT_CONTENTS(0);
	memset(self->mem, PATTERN, self->length);
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages, "resident");
}

static void expect_lazy(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	if (oracle_number(&self->after, "lazyfree") < 0)
		SKIP_REST("the effect: the oracle cannot read /proc/kpageflags");
	EXPECT_EQ(0, oracle_number(&self->before, "lazyfree"));
	/* What the host took back in between is free even more so */
	EXPECT_EQ(oracle_number(&self->after, "resident"),
		  oracle_number(&self->after, "lazyfree"));
	/* A write takes the page back */
	memset(self->mem, PATTERN, self->length);
	EXPECT_CONTENTS(PATTERN);
	/*
	 * The host only notices when it next reclaims, and refuses to page the
	 * memory out until then.  Leave none of it to other tests.
	 */
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_DONTNEED, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
}

static void expect_out(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	if (!host_has_swap(self))
		SKIP_REST("the effect: the host has no swap");
	EXPECT_SEEN(0, "mapped");
	if (!is_shared(self))
		EXPECT_SEEN(self->pages, "swapped");
	EXPECT_CONTENTS(PATTERN);
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(self->pages, "resident");
}

static void expect_named(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	char name[64];

	/* "pvmemctl-79" or "pvmemcontrol-79", depending on who made the device */
	snprintf(name, sizeof(name), "%s", oracle_text(&self->after, "name"));
	EXPECT_EQ(0, strncmp(name, "pvmem", 5));
	ASSERT_NE(NULL, strrchr(name, '-'));
	EXPECT_STREQ("-79", strrchr(name, '-'));
	call_and_look(_metadata, self, MEMCTL_SET_VMA_ANON_NAME, 0);
	EXPECT_ANSWER(0, 0);
	EXPECT_STREQ("-", oracle_text(&self->after, "name"));
}

static void expect_outcome(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			   enum outcome outcome)
{
	switch (outcome) {
	case GONE:
		expect_gone(_metadata, self);
		return;
	case CLEARED:
		if (is_hugetlb(self) && may_release(self)) {
			expect_gone(_metadata, self);
			return;
		}
		EXPECT_SEEN(self->pages, "resident");
		if (!is_shared(self))
			EXPECT_SEEN(self->pages, "anon");
		EXPECT_CONTENTS(0);
		return;
	case LAZY:
		expect_lazy(_metadata, self);
		return;
	case OUT:
		expect_out(_metadata, self);
		return;
	case NAMED:
		expect_named(_metadata, self);
		break;
	case PROT_0 ... PROT_RW:
		expect_protection(_metadata, self, outcome);
		return;
	case UNMAPPED:
		EXPECT_SEEN(0, "mapped");
		EXPECT_SEEN(self->pages, "resident");
		break;
	case BACKED:
		EXPECT_SEEN(self->pages, "mapped");
		EXPECT_SEEN(self->pages, "resident");
		break;
	case NO_DUMP:
		EXPECT_EQ(0, oracle_number(&self->before, "dontdump"));
		EXPECT_SEEN(self->pages, "dontdump");
		break;
	case DUMP:
		EXPECT_SEEN(0, "dontdump");
		break;
	case LOCKED:
		EXPECT_EQ(0, oracle_number(&self->before, "locked"));
		EXPECT_SEEN(self->pages, "locked");
		break;
	case UNLOCKED:
		EXPECT_SEEN(0, "locked");
		break;
	case MERGE:
		EXPECT_EQ(0, oracle_number(&self->before, "mergeable"));
		EXPECT_SEEN(self->pages, "mergeable");
		break;
	case NO_MERGE:
		EXPECT_SEEN(0, "mergeable");
		break;
	case HUGE_ON:
		EXPECT_SEEN(self->pages, "hugeadv");
		EXPECT_SEEN(0, "nohuge");
		break;
	case HUGE_OFF:
		EXPECT_SEEN(0, "hugeadv");
		EXPECT_SEEN(self->pages, "nohuge");
		break;
	case WRITTEN:
		break;
	default:
		/* Refused, or done without an effect to be seen */
		EXPECT_SEEN(oracle_number(&self->before, "mapped"), "mapped");
		EXPECT_SEEN(oracle_number(&self->before, "resident"), "resident");
		EXPECT_SEEN(oracle_number(&self->before, "locked"), "locked");
		EXPECT_SEEN(oracle_number(&self->before, "mergeable"), "mergeable");
		EXPECT_STREQ("-", oracle_text(&self->after, "name"));
		break;
	}
	EXPECT_CONTENTS(PATTERN);
}

/* Call a function and compare with its line in the table; the memory has PATTERN */
static void try_function(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			 uint64_t func, uint64_t arg)
{
	const struct effect *effect = effect_of(func, self->minor);
	enum outcome outcome;
	int err;

	call_and_look(_metadata, self, func, arg);
	show(self, effect->name, effect->key);
	err = self->buf.ret.ret_errno;
	if (effect->minor > self->minor) {
		EXPECT_ANSWER(EOPNOTSUPP, func);
		EXPECT_CONTENTS(PATTERN);
		return;
	}
	if (self->minor) {
		/* QUERY has promised it */
		EXPECT_EQ(!!(self->works & BIT(func)), !err);
		if (err)
			EXPECT_TRUE(err == EPERM || err == EOPNOTSUPP);
	}
	NEED_ORACLE();

	outcome = effect->on[self->backing] & ~RELEASE;
	if (effect->on[self->backing] & RELEASE && !may_release(self) &&
	    (self->minor || err == EPERM)) {
		EXPECT_ANSWER(EPERM, func);
		EXPECT_CONTENTS(PATTERN);
		return;
	}
	if (err == EPERM) {
		EXPECT_ANSWER(EPERM, func);
		EXPECT_CONTENTS(PATTERN);
		SKIP_REST("the effect: not allowed by the host");
	}
	EXPECT_ANSWER(errno_of(self, outcome), err == EOPNOTSUPP ? func : 0);
	if (err)
		outcome = NOTSUP;
	expect_outcome(_metadata, self, outcome);
	if (err && func == MEMCTL_SET_VMA_ANON_NAME && self->backing == ANON)
		SKIP_REST("the effect: the host's kernel has no CONFIG_ANON_VMA_NAME");
	if (err == EOPNOTSUPP && func == MEMCTL_PAGEOUT && !is_hugetlb(self))
		SKIP_REST("the effect: the host has no swap");
}

/* Was it done, and can its effect be looked at further? */
static bool is_done(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	return self->oracle >= 0 && !self->buf.ret.ret_errno &&
	       _metadata->exit_code == KSFT_PASS;
}

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
		SKIP_REST("the host's page size: no port " ORACLE_PORT);
	EXPECT_EQ(oracle_number(&self->host, "page_size"), self->buf.ret.ret_value);
}

TEST_F(memory, dontneed)
{
	try_function(_metadata, self, MEMCTL_DONTNEED, 0);
}

TEST_F(memory, remove)
{
	try_function(_metadata, self, MEMCTL_REMOVE, 0);
}

TEST_F(memory, free)
{
	try_function(_metadata, self, MEMCTL_FREE, 0);
}

TEST_F(memory, pageout)
{
	try_function(_metadata, self, MEMCTL_PAGEOUT, 0);
}

TEST_F(memory, dontdump)
{
	try_function(_metadata, self, MEMCTL_DONTDUMP, 0);
}

TEST_F(memory, set_vma_anon_name)
{
	try_function(_metadata, self, MEMCTL_SET_VMA_ANON_NAME, 79);
}

TEST_F(memory, mlock)
{
	try_function(_metadata, self, MEMCTL_MLOCK, 0);
	if (!is_done(_metadata, self) || is_hugetlb(self))
		return;
	/* What is locked cannot be discarded */
	call_and_look(_metadata, self, release_function(self), 0);
	EXPECT_ANSWER(EINVAL, 0);
	EXPECT_EQ(0, self->buf.ret.ret_value);
	EXPECT_SEEN(self->pages, "resident");
	EXPECT_CONTENTS(PATTERN);
	/* ... but cleared */
	call_and_look(_metadata, self, MEMCTL_ZERO, 0);
	if (self->minor) {
		EXPECT_ANSWER(0, 0);
		EXPECT_SEEN(self->pages, "resident");
		EXPECT_SEEN(self->pages, "locked");
		EXPECT_CONTENTS(0);
	}
	call_and_look(_metadata, self, MEMCTL_MUNLOCK, 0);
	EXPECT_ANSWER(0, 0);
	EXPECT_SEEN(0, "locked");
}

TEST_F(memory, munlock)
{
	/* Without MLOCK before it there is something to see only where that is allowed */
	raw_call(self->fd, MEMCTL_MLOCK, self->addr, self->length, 0, &self->buf);
	try_function(_metadata, self, MEMCTL_MUNLOCK, 0);
}

TEST_F(memory, mprotect_none)
{
	try_function(_metadata, self, MEMCTL_MPROTECT_NONE, 0);
}

TEST_F(memory, mprotect_r)
{
	try_function(_metadata, self, MEMCTL_MPROTECT_R, 0);
}

TEST_F(memory, mprotect_w)
{
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_R, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	try_function(_metadata, self, MEMCTL_MPROTECT_W, 0);
}

TEST_F(memory, mprotect_rw)
{
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_R, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	try_function(_metadata, self, MEMCTL_MPROTECT_RW, 0);
}

TEST_F(memory, mergeable)
{
	int second;

	/* A VMM may have made all memory mergeable */
	raw_call(self->fd, MEMCTL_UNMERGEABLE, self->addr, self->length, 0, &self->buf);
	try_function(_metadata, self, MEMCTL_MERGEABLE, 0);
	if (!is_done(_metadata, self) || is_shared(self) || is_hugetlb(self))
		return;
	if (oracle_number(&self->host, "ksm") != 1 || oracle_number(&self->after, "ksm") < 0)
		SKIP_REST("pages merged: KSM does not run on the host");
	for (second = 0; second < 60 && oracle_number(&self->after, "ksm") <= 0; second++) {
		sleep(1);
		ASSERT_TRUE(look(self, &self->after));
	}
	EXPECT_LT(0, oracle_number(&self->after, "ksm"));
	show(self, "MERGEABLE", "ksm");
	call_and_look(_metadata, self, MEMCTL_UNMERGEABLE, 0);
	show(self, "UNMERGEABLE", "ksm");
	EXPECT_SEEN(0, "ksm");
	EXPECT_CONTENTS(PATTERN);
}

TEST_F(memory, unmergeable)
{
	raw_call(self->fd, MEMCTL_MERGEABLE, self->addr, self->length, 0, &self->buf);
	try_function(_metadata, self, MEMCTL_UNMERGEABLE, 0);
}

TEST_F(memory, zero)
{
	try_function(_metadata, self, MEMCTL_ZERO, 0);
	if (!is_done(_metadata, self))
		return;
	/* Of zeroes that the host has not, and of others again */
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_CONTENTS(0);
	memset(self->mem, PATTERN, self->length);
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, self->length, 0, &self->buf));
	EXPECT_CONTENTS(0);
}

TEST_F(memory, populate)
{
	try_function(_metadata, self, MEMCTL_POPULATE, 0);
	if (!is_done(_metadata, self))
		return;
	/* What is there was not changed; what is not comes back, all of it */
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	call_and_look(_metadata, self, MEMCTL_POPULATE, 0);
	show(self, "POPULATE", "mapped");
	EXPECT_ANSWER(0, 0);
	EXPECT_SEEN(self->pages, "mapped");
	EXPECT_SEEN(self->pages, "resident");
	EXPECT_SEEN(0, "zero");
	EXPECT_CONTENTS(0);
}

TEST_F(memory, hugepage)
{
	raw_call(self->fd, MEMCTL_NOHUGEPAGE, self->addr, self->length, 0, &self->buf);
	try_function(_metadata, self, MEMCTL_HUGEPAGE, 0);
}

TEST_F(memory, nohugepage)
{
	try_function(_metadata, self, MEMCTL_NOHUGEPAGE, 0);
	if (!is_done(_metadata, self))
		return;
	/* One byte costs one page now */
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	self->mem[self->length / 2] = PATTERN;
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(1, "resident");
}

TEST_F(memory, dodump)
{
	raw_call(self->fd, MEMCTL_DONTDUMP, self->addr, self->length, 0, &self->buf);
	EXPECT_ANSWER(0, 0);
	try_function(_metadata, self, MEMCTL_DODUMP, 0);
}

TEST_F(memory, cold)
{
	try_function(_metadata, self, MEMCTL_COLD, 0);
}

/* What QUERY says is what the calls answer */
TEST_F(memory, query)
{
	uint64_t func;

	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, self->addr, 0, self->length, &self->buf));
	if (!self->minor) {
		EXPECT_ANSWER(EOPNOTSUPP, MEMCTL_QUERY);
		return;
	}
	EXPECT_EQ(0, self->buf.ret.ret_errno);
	EXPECT_EQ(0, self->buf.ret.ret_code);
	EXPECT_EQ(MEMCTL_VECTOR_MAX, self->buf.ret.arg0);
	printf("# QUERY             functions 0x%llx, tables of %llu, pages of %llu bytes\n",
	       self->buf.ret.ret_value, self->buf.ret.arg0, self->buf.ret.arg1);
	fflush(stdout);
	EXPECT_TRUE(self->works & BIT(MEMCTL_INFO));
	EXPECT_TRUE(self->works & BIT(MEMCTL_QUERY));
	EXPECT_TRUE(self->works & BIT(MEMCTL_VECTOR));
	EXPECT_EQ(0, self->works & ~(2 * BIT(MEMCTL_UNMERGEABLE) - 1) &
		     ~(2 * BIT(MEMCTL_VECTOR) - BIT(MEMCTL_QUERY)));

	for (func = MEMCTL_DONTNEED; func < MEMCTL_VECTOR; func = next_function(func)) {
		ASSERT_EQ(0, raw_call(self->fd, func, self->addr, self->length, 0, &self->buf));
		EXPECT_EQ(!!(self->works & BIT(func)), !self->buf.ret.ret_errno) {
			TH_LOG("function %llu answers %s", (unsigned long long)func,
			       strerror(self->buf.ret.ret_errno));
		}
		if (!self->buf.ret.ret_errno)
			continue;
		/* Never EINVAL: that is for ranges */
		EXPECT_EQ(func, self->buf.ret.ret_code);
		EXPECT_TRUE(self->buf.ret.ret_errno == EPERM ||
			    self->buf.ret.ret_errno == EOPNOTSUPP);
	}
	NEED_ORACLE();
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, self->addr, 0, self->length, &self->buf));
	EXPECT_EQ(oracle_number(&self->before, "page_size"), self->buf.ret.arg1);
}

TEST_F(memory, query_ranges)
{
	NEED_1_1();
	/* Of all RAM: what works everywhere; all of it may be alike */
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, 0, 0, 0, &self->buf));
	EXPECT_EQ(0, self->buf.ret.ret_errno);
	EXPECT_EQ(0, self->buf.ret.ret_value & ~self->works);
	EXPECT_LE(self->granule, self->buf.ret.arg1);
	/* Of any bytes */
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, self->addr + 1, 0, 1, &self->buf));
	EXPECT_EQ(0, self->buf.ret.ret_errno);
	EXPECT_EQ(self->works, self->buf.ret.ret_value);
	EXPECT_EQ(self->granule, self->buf.ret.arg1);
	/* Of none that are RAM, of some that are not, of too many */
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, 1ULL << 45, 0, page_size, &self->buf));
	EXPECT_ANSWER(EINVAL, MEMCTL_QUERY);
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, self->addr, 0, 1ULL << 45, &self->buf));
	EXPECT_ANSWER(EINVAL, MEMCTL_QUERY);
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_QUERY, self->addr, 0, ~0ULL, &self->buf));
	EXPECT_ANSWER(EINVAL, MEMCTL_QUERY);
}

/* A range that the host cannot cut out: it says what it could */
TEST_F(memory, granule)
{
	uint64_t func;

	NEED_1_1();
	if (!is_hugetlb(self))
		SKIP(return, "the host can divide this memory into pages");
	for (func = MEMCTL_DONTNEED; func < MEMCTL_VECTOR; func = next_function(func)) {
		/* What would clear need not cut */
		if (!(self->works & BIT(func)) ||
		    (func == MEMCTL_ZERO && !may_release(self)))
			continue;
		ASSERT_EQ(0, raw_call(self->fd, func, self->addr, page_size, 0, &self->buf));
		EXPECT_ANSWER(EINVAL, func);
		EXPECT_EQ(self->granule, self->buf.ret.ret_value);
		ASSERT_EQ(0, raw_call(self->fd, func, self->addr + page_size,
				      self->length - page_size, 0, &self->buf));
		EXPECT_ANSWER(EINVAL, func);
		EXPECT_EQ(self->granule, self->buf.ret.ret_value);
	}
	EXPECT_CONTENTS(PATTERN);
	if (may_release(self))
		return;
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr + page_size, page_size, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_TRUE(all_bytes(self->mem, page_size, PATTERN));
	EXPECT_TRUE(all_bytes(self->mem + page_size, page_size, 0));
	EXPECT_TRUE(all_bytes(self->mem + 2 * page_size, self->length - 2 * page_size, PATTERN));
}

/* In the middle of a range there is a page that cannot be discarded */
TEST_F(memory, stops_at_locked)
{
	size_t third = self->length / 3 & ~(page_size - 1);

	if (!third || is_hugetlb(self))
		SKIP(return, "no memory that can be divided");
	NEED_ORACLE();
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MLOCK, self->addr + third, page_size, 0,
			      &self->buf));
	if (self->buf.ret.ret_errno == EPERM)
		SKIP(return, "not allowed by the host");
	EXPECT_ANSWER(0, 0);
	call_and_look(_metadata, self, release_function(self), 0);
	EXPECT_ANSWER(EINVAL, 0);
	/* Some may be done; the host does not know how much, and claims nothing */
	EXPECT_EQ(0, self->buf.ret.ret_value);
	EXPECT_TRUE(all_bytes(self->mem + third, self->length - third, PATTERN));
	if (!self->minor)
		return;
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	EXPECT_CONTENTS(0);
}

/* Tables ----------------------------------------------------------------- */

/* The function that works on single pages: of hugetlb, none gives them back */
static uint64_t page_function(FIXTURE_DATA(memory) *self)
{
	return is_hugetlb(self) ? MEMCTL_ZERO : release_function(self);
}

static void set_entry(FIXTURE_DATA(memory) *self, size_t i, uint64_t addr, uint64_t length)
{
	self->table[i].addr = htole64(addr);
	self->table[i].length = htole64(length);
}

static int vector_call(FIXTURE_DATA(memory) *self, uint64_t func, uint64_t nr)
{
	return raw_call(self->fd, MEMCTL_VECTOR, self->table_addr, nr, func, &self->buf);
}

static unsigned long counted(const char *function);

static void scattered(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self, size_t nr)
{
	const size_t stride = self->length / page_size / nr;
	const uint64_t func = page_function(self);
	unsigned long calls;
	size_t i, wrong = 0;

	NEED_1_1();
	NEED_ORACLE();
	if (stride < 2)
		SKIP(return, "found no contiguous memory");
	if (is_hugetlb(self) && may_release(self))
		SKIP(return, "the host cannot divide its pages");

	/* Each of them once, out of order */
	for (i = 0; i < nr; i++)
		set_entry(self, i, self->addr + i * 7 % nr * stride * page_size, page_size);
	calls = counted("VECTOR");
	ASSERT_TRUE(look(self, &self->before));
	ASSERT_EQ(0, vector_call(self, func, nr));
	ASSERT_TRUE(look(self, &self->after));
	show(self, "VECTOR", "resident");
	EXPECT_ANSWER(0, 0);
	EXPECT_EQ(nr, self->buf.ret.ret_value);
	EXPECT_EQ(0, self->buf.ret.arg1);
	if (!access(DEBUGFS, F_OK))
		EXPECT_EQ(calls + 1, counted("VECTOR"));
	/* A file may be kept in larger pages, which stay until all of one goes */
	if (self->backing != SHARED_FILE)
		EXPECT_SEEN(self->pages - (is_hugetlb(self) ? 0 : nr),
			    self->backing == PRIVATE_FILE ? "anon" : "resident");
	for (i = 0; i < self->length / page_size; i++)
		wrong += !all_bytes(self->mem + i * page_size, page_size,
				    i % stride || i / stride >= nr ? PATTERN : 0);
	EXPECT_EQ(0, wrong);
}

TEST_F(memory, vector_128)
{
	scattered(_metadata, self, 128);
}

TEST_F(memory, vector_256)
{
	scattered(_metadata, self, 256);
}

/* What leaves an attribute is done range by range, and may be told to come back */
TEST_F(memory, vector_attributes)
{
	size_t stride = self->granule > page_size ? 1 : 2;
	size_t i, nr, done = 0;

	NEED_1_1();
	NEED_ORACLE();
	nr = self->length / self->granule / stride;
	if (nr > 128)
		nr = 128;
	if (!nr)
		SKIP(return, "found no contiguous memory");
	while (done < nr) {
		for (i = done; i < nr; i++)
			set_entry(self, i - done, self->addr + i * stride * self->granule,
				  self->granule);
		ASSERT_EQ(0, vector_call(self, MEMCTL_DONTDUMP, nr - done));
		if (self->buf.ret.ret_errno != EAGAIN)
			break;
		EXPECT_EQ(0, self->buf.ret.arg1);
		ASSERT_LT(0, self->buf.ret.ret_value);
		done += self->buf.ret.ret_value;
	}
	EXPECT_ANSWER(0, 0);
	EXPECT_EQ(nr - done, self->buf.ret.ret_value);
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(nr * (self->granule / page_size), "dontdump");
	EXPECT_CONTENTS(PATTERN);
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_DODUMP, self->addr, self->length, 0,
			      &self->buf));
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(0, "dontdump");
}

/* Ten ranges are fine, the next is not, those behind it are not tried */
static void stops(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
		  uint64_t func, uint64_t addr, uint64_t length, int err)
{
	size_t i, bad;

	for (bad = 0; bad <= 10; bad += 10) {
		memset(self->mem, PATTERN, self->length);
		for (i = 0; i < 20; i++)
			set_entry(self, i, self->addr + 2 * i * page_size, page_size);
		set_entry(self, bad, addr, length);
		ASSERT_EQ(0, vector_call(self, func, 20));
		EXPECT_ANSWER(err, bad ? 0 : self->buf.ret.ret_code);
		EXPECT_EQ(bad, self->buf.ret.ret_value);
		EXPECT_EQ(0, self->buf.ret.arg1);
		for (i = 0; i < 20; i++) {
			EXPECT_TRUE(all_bytes(self->mem + 2 * i * page_size, page_size,
					      i < bad ? 0 : PATTERN));
			EXPECT_TRUE(all_bytes(self->mem + (2 * i + 1) * page_size, page_size,
					      PATTERN));
		}
	}
}

TEST_F(memory, vector_stops)
{
	const uint64_t func = page_function(self);

	NEED_1_1();
	NEED_ORACLE();
	if (self->length < 60 * page_size || (is_hugetlb(self) && may_release(self)))
		SKIP(return, "no memory that can be divided");
	stops(_metadata, self, func, 1ULL << 45, page_size, EINVAL);
	stops(_metadata, self, func, self->addr, 0, EINVAL);
	stops(_metadata, self, func, self->addr + 1, page_size, EINVAL);
	stops(_metadata, self, func, self->addr, page_size + 1, EINVAL);
	stops(_metadata, self, func, -page_size, 2 * page_size, EINVAL);
	stops(_metadata, self, func, self->addr, ~0ULL << 12, E2BIG);
	stops(_metadata, self, func, self->addr, (1ULL << 30) + page_size, E2BIG);
	if (is_hugetlb(self))
		return;
	/* Only the kernel finds out about this one */
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MLOCK, self->addr + 50 * page_size, page_size, 0,
			      &self->buf));
	if (self->buf.ret.ret_errno == EPERM)
		SKIP_REST("locked memory: not allowed by the host");
	stops(_metadata, self, func, self->addr + 50 * page_size, page_size, EINVAL);
}

/* The table goes with what it lists: it was read before */
TEST_F(memory, vector_table_in_range)
{
	const uint64_t func = may_release(self) ? release_function(self) : MEMCTL_ZERO;
	size_t half = self->length / 2 & ~(page_size - 1);

	NEED_1_1();
	NEED_ORACLE();
	if (!half)
		SKIP(return, "found no contiguous memory");
	munlock(self->table, page_size);
	munmap(self->table, page_size);
	self->table = (void *)(self->mem + 16);
	self->table_addr = self->addr + 16;
	set_entry(self, 0, self->addr, half);
	set_entry(self, 1, self->addr + half, self->length - half);
	if (is_hugetlb(self) && may_release(self))
		set_entry(self, 0, self->addr, self->length);
	ASSERT_EQ(0, vector_call(self, func, is_hugetlb(self) && may_release(self) ? 1 : 2));
	EXPECT_ANSWER(0, 0);
	EXPECT_CONTENTS(0);
	/* For teardown */
	self->table = mmap(NULL, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* What takes long is done in steps: the driver comes back for the rest */
TEST_F(memory, populate_in_steps)
{
	const uint64_t from = 64 << 20, bytes = 256 << 20;
	unsigned long calls;

	NEED_1_1();
	NEED_ORACLE();
	if (!oracle_state(self->oracle, from, bytes, &self->before) ||
	    strtoull(file_text("/sys/devices/system/memory/block_size_bytes"), NULL, 16) >
	    1ULL << 32)
		SKIP(return, "no such memory: %.40s", self->before.line);
	calls = counted("POPULATE");
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_POPULATE, from, bytes, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
	ASSERT_TRUE(oracle_state(self->oracle, from, bytes, &self->after));
	EXPECT_SEEN(bytes / page_size, "mapped");
	if (!access(DEBUGFS, F_OK))
		EXPECT_LE(calls + 4, counted("POPULATE"));
}

/* Code ------------------------------------------------------------------- */

/*
 * A CPU may be emulated, and what it runs be a translation that somebody made
 * before the memory changed.  Zeroes are instructions that add to a byte in memory:
 * whoever runs into them comes out behind them.
 */
#ifdef __x86_64__
#define SLID		42

/* mov $value, %edx; ret */
static void put_code(unsigned char *at, uint32_t value)
{
	at[0] = 0xba;
	memcpy(at + 1, &value, sizeof(value));
	at[5] = 0xc3;
}

/* ret: one byte, which whoever runs there meanwhile sees or does not */
#define RETURNED	0

static void put_return(unsigned char *at)
{
	at[0] = 0xc3;
}

static int run_code(const unsigned char *at)
{
	static __thread char scratch;
	int ret = RETURNED;

	/* Below the stack pointer there may be variables */
	asm volatile("sub $128, %%rsp; call *%1; add $128, %%rsp"
		     : "+d" (ret) : "r" (at), "a" (&scratch) : "memory", "cc");
	return ret;
}

/* What is called, in the last page of @size bytes that go; behind it is SLID */
static unsigned char *code_page(FIXTURE_DATA(memory) *self, size_t size)
{
	return self->mem + size - page_size;
}

static size_t prepare_code(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	size_t size = may_release(self) ? self->granule : page_size;

	EXPECT_EQ(0, mprotect(self->mem, self->length + (size == self->length ? page_size : 0),
			      PROT_READ | PROT_WRITE | PROT_EXEC));
	put_code(self->mem + size, SLID);
	return size;
}

static void change_code(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			uint64_t func)
{
	size_t size = prepare_code(_metadata, self);
	int round;

	for (round = 100; round < 110; round++) {
		put_code(code_page(self, size), round);
		EXPECT_EQ(round, run_code(code_page(self, size)));
		ASSERT_EQ(0, raw_call(self->fd, func, self->addr, size, 0, &self->buf));
		EXPECT_ANSWER(0, 0);
		/* Not a translation of what was there */
		EXPECT_EQ(SLID, run_code(code_page(self, size)));
	}
	EXPECT_TRUE(all_bytes(self->mem, size, 0));
}

TEST_F(memory, code_zero)
{
	NEED_1_1();
	change_code(_metadata, self, MEMCTL_ZERO);
}

TEST_F(memory, code_released)
{
	NEED_ORACLE();
	if (!may_release(self))
		SKIP(return, "the host does not take such memory back");
	if (self->backing == PRIVATE_FILE)
		SKIP(return, "what is in the file is not known");
	change_code(_metadata, self, release_function(self));
}

struct runner {
	const unsigned char *code;
	atomic_int last;
	atomic_uint rounds;
	atomic_bool pause, paused, stop;
};

static void *run_all_the_time(void *arg)
{
	struct runner *runner = arg;

	while (!atomic_load(&runner->stop)) {
		while (atomic_load(&runner->pause)) {
			atomic_store(&runner->paused, true);
			sched_yield();
		}
		atomic_store(&runner->paused, false);
		atomic_store(&runner->last, run_code(runner->code));
		atomic_fetch_add(&runner->rounds, 1);
	}
	return NULL;
}

/* What a run returns that began after now; -1 if none ends within ten seconds */
static int next_run(struct runner *runner)
{
	unsigned int start = atomic_load(&runner->rounds);
	int i;

	for (i = 0; i < 100000; i++) {
		if (atomic_load(&runner->rounds) - start >= 2)
			return atomic_load(&runner->last);
		usleep(100);
	}
	return -1;
}

/*
 * A program must not change code that another CPU runs without telling it, so the
 * other waits while this one writes code; but it runs when the host takes it away.
 */
TEST_F(memory, code_zero_elsewhere)
{
	struct runner runner = { .pause = true };
	pthread_t thread;
	size_t size;
	int round;

	NEED_1_1();
	size = prepare_code(_metadata, self);
	runner.code = code_page(self, size);
	ASSERT_EQ(0, pthread_create(&thread, NULL, run_all_the_time, &runner));
	for (round = 0; round < 20; round++) {
		atomic_store(&runner.pause, true);
		while (!atomic_load(&runner.paused))
			sched_yield();
		put_return(code_page(self, size));
		atomic_store(&runner.pause, false);
		while (atomic_load(&runner.paused))
			sched_yield();
		EXPECT_EQ(RETURNED, next_run(&runner));
		ASSERT_EQ(0, raw_call(self->fd, MEMCTL_ZERO, self->addr, size, 0, &self->buf));
		EXPECT_ANSWER(0, 0);
		EXPECT_EQ(SLID, next_run(&runner));
	}
	atomic_store(&runner.pause, false);
	atomic_store(&runner.stop, true);
	pthread_join(thread, NULL);
}
#endif /* __x86_64__ */

/* Protections that are hit ------------------------------------------------ */

/*
 * A device with on-guard=log lifts the protection of a page that somebody touches,
 * tells the operator, and the guest goes on.  By default the VM stops, so whoever
 * starts these says that it will not.
 */
FIXTURE(guard) {
	FIXTURE_DATA(memory) memory;
};

FIXTURE_SETUP(guard)
{
	if (!getenv("PVMEMCTL_GUARD") || strcmp(getenv("PVMEMCTL_GUARD"), "log"))
		SKIP(return, "set PVMEMCTL_GUARD=log if the device has on-guard=log");
	memory_setup(_metadata, &self->memory, NULL);
	if (_metadata->exit_code == KSFT_PASS && !self->memory.minor)
		SKIP(return, "the host speaks protocol 1.0");
}

FIXTURE_TEARDOWN(guard)
{
	memory_teardown(_metadata, &self->memory, NULL);
}

/* Of all the memory, only the page that was touched is open again */
static void expect_one_hit(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			   uint64_t func, size_t hit)
{
	size_t first = hit & ~(self->granule - 1), open = self->granule / page_size;

	if (self->oracle < 0)
		return;
	ASSERT_TRUE(look(self, &self->after));
	EXPECT_SEEN(open, "writable");
	EXPECT_SEEN(func == MEMCTL_MPROTECT_R ? self->pages : open, "readable");
	ASSERT_TRUE(oracle_state(self->oracle, self->addr + first, self->granule,
				 &self->after));
	EXPECT_SEEN(open, "writable");
}

static void protect_all(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
			uint64_t func)
{
	ASSERT_EQ(0, raw_call(self->fd, func, self->addr, self->length, 0, &self->buf));
	EXPECT_ANSWER(0, 0);
}

static void open_all(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self)
{
	protect_all(_metadata, self, MEMCTL_MPROTECT_RW);
	if (self->oracle >= 0) {
		ASSERT_TRUE(look(self, &self->after));
		EXPECT_SEEN(self->pages, "writable");
	}
}

TEST_F(guard, read)
{
	FIXTURE_DATA(memory) *m = &self->memory;
	size_t at = m->length / 2 + 123;

	protect_all(_metadata, m, MEMCTL_MPROTECT_NONE);
	EXPECT_EQ(PATTERN, *(volatile unsigned char *)(m->mem + at));
	expect_one_hit(_metadata, m, MEMCTL_MPROTECT_NONE, at);
	open_all(_metadata, m);
	EXPECT_TRUE(all_bytes(m->mem, m->length, PATTERN));
}

static void write_one(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *m,
		      uint64_t func)
{
	size_t at = m->length / 2 + 123;

	protect_all(_metadata, m, func);
	*(volatile unsigned char *)(m->mem + at) = 1;
	expect_one_hit(_metadata, m, func, at);
	EXPECT_EQ(1, m->mem[at]);
	open_all(_metadata, m);
	EXPECT_TRUE(all_bytes(m->mem, at, PATTERN));
	EXPECT_EQ(1, m->mem[at]);
	EXPECT_TRUE(all_bytes(m->mem + at + 1, m->length - at - 1, PATTERN));
}

TEST_F(guard, write)
{
	write_one(_metadata, &self->memory, MEMCTL_MPROTECT_NONE);
}

TEST_F(guard, write_read_only)
{
	write_one(_metadata, &self->memory, MEMCTL_MPROTECT_R);
}

/* Reading what may be read is no hit */
TEST_F(guard, read_read_only)
{
	FIXTURE_DATA(memory) *m = &self->memory;

	protect_all(_metadata, m, MEMCTL_MPROTECT_R);
	EXPECT_TRUE(all_bytes(m->mem, m->length, PATTERN));
	if (m->oracle >= 0) {
		ASSERT_TRUE(look(m, &m->after));
		EXPECT_EQ(m->pages, oracle_number(&m->after, "readable"));
		EXPECT_EQ(0, oracle_number(&m->after, "writable"));
	}
	open_all(_metadata, m);
}

/* A page each, all of them; more than the host keeps apart */
TEST_F(guard, every_page)
{
	FIXTURE_DATA(memory) *m = &self->memory;
	size_t at;

	protect_all(_metadata, m, MEMCTL_MPROTECT_NONE);
	for (at = 0; at < m->length; at += page_size)
		*(volatile unsigned char *)(m->mem + at) += 1;
	open_all(_metadata, m);
	for (at = 0; at < m->length; at += page_size) {
		EXPECT_EQ(PATTERN + 1, m->mem[at]);
		m->mem[at]--;
	}
	EXPECT_TRUE(all_bytes(m->mem, m->length, PATTERN));
}

/* The guest's kernel touches it on behalf of a program */
TEST_F(guard, kernel_reads)
{
	FIXTURE_DATA(memory) *m = &self->memory;
	size_t at = m->length / 2 + 16;
	unsigned char copy[64] = "";
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	protect_all(_metadata, m, MEMCTL_MPROTECT_NONE);
	EXPECT_EQ(sizeof(copy), write(fds[1], m->mem + at, sizeof(copy)));
	EXPECT_EQ(sizeof(copy), read(fds[0], copy, sizeof(copy)));
	EXPECT_TRUE(all_bytes(copy, sizeof(copy), PATTERN));
	expect_one_hit(_metadata, m, MEMCTL_MPROTECT_NONE, at);
	open_all(_metadata, m);
}

static void kernel_writes(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *m,
			  uint64_t func)
{
	size_t at = m->length / 2 + 16;
	unsigned char copy[64] = "";
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	protect_all(_metadata, m, func);
	EXPECT_EQ(sizeof(copy), write(fds[1], copy, sizeof(copy)));
	EXPECT_EQ(sizeof(copy), read(fds[0], m->mem + at, sizeof(copy)));
	expect_one_hit(_metadata, m, func, at);
	EXPECT_TRUE(all_bytes(m->mem + at, sizeof(copy), 0));
	open_all(_metadata, m);
	EXPECT_TRUE(all_bytes(m->mem, at, PATTERN));
	EXPECT_TRUE(all_bytes(m->mem + at + sizeof(copy), m->length - at - sizeof(copy), PATTERN));
}

TEST_F(guard, kernel_writes)
{
	kernel_writes(_metadata, &self->memory, MEMCTL_MPROTECT_NONE);
}

TEST_F(guard, kernel_writes_read_only)
{
	kernel_writes(_metadata, &self->memory, MEMCTL_MPROTECT_R);
}

TEST_F(guard, other_process_reads)
{
	FIXTURE_DATA(memory) *m = &self->memory;
	size_t at = m->length / 2 + 16;
	unsigned char copy[64] = "";
	struct iovec local = { copy, sizeof(copy) };
	struct iovec remote = { m->mem + at, sizeof(copy) };

	protect_all(_metadata, m, MEMCTL_MPROTECT_NONE);
	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) < 0) {
		open_all(_metadata, m);
		SKIP(return, "process_vm_readv: %s", strerror(errno));
	}
	EXPECT_TRUE(all_bytes(copy, sizeof(copy), PATTERN));
	expect_one_hit(_metadata, m, MEMCTL_MPROTECT_NONE, at);
	open_all(_metadata, m);
}

TEST_F(guard, execute)
{
#ifdef __x86_64__
	FIXTURE_DATA(memory) *m = &self->memory;
	size_t at = m->length / 2;

	ASSERT_EQ(0, mprotect(m->mem, m->length, PROT_READ | PROT_WRITE | PROT_EXEC));
	put_code(m->mem + at, 7);
	protect_all(_metadata, m, MEMCTL_MPROTECT_NONE);
	EXPECT_EQ(7, run_code(m->mem + at));
	expect_one_hit(_metadata, m, MEMCTL_MPROTECT_NONE, at);
	open_all(_metadata, m);
	EXPECT_EQ(7, run_code(m->mem + at));
#else
	SKIP(return, "knows no code for this machine");
#endif
}

/* The host's pool ---------------------------------------------------------- */

/*
 * A huge page that went back to the host's pool may be given to somebody else.  Then
 * there is none when the guest wants its memory again: POPULATE is told, a touch ends
 * the VM.  Whoever runs this takes the pages when asked to, and expects that.
 */
TEST_F(memory, drained_pool)
{
	int tries;

	if (!getenv("PVMEMCTL_DRAIN"))
		SKIP(return, "ends the VM; set PVMEMCTL_DRAIN=1 where that is wanted");
	ASSERT_EQ(HUGETLB, self->backing);
	ASSERT_TRUE(may_release(self));
	call_and_look(_metadata, self, MEMCTL_REMOVE, 0);
	EXPECT_ANSWER(0, 0);
	EXPECT_SEEN(0, "resident");
	printf("# take the pages\n");
	fflush(stdout);
	for (tries = 0; tries < 60; tries++) {
		ASSERT_TRUE(oracle_ask(self->oracle, "host\n", &self->host));
		if (!oracle_number(&self->host, "hugetlb_free"))
			break;
		sleep(1);
	}
	ASSERT_EQ(0, oracle_number(&self->host, "hugetlb_free"));
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_POPULATE, self->addr, self->length, 0,
			      &self->buf));
	EXPECT_ANSWER(EFAULT, 0);
	EXPECT_EQ(0, self->buf.ret.ret_value);
	printf("# POPULATE answers %s, touches the memory now\n",
	       strerror(self->buf.ret.ret_errno));
	fflush(stdout);
	sleep(1);
	self->mem[0] = 1;
	printf("# and goes on\n");
}

/* From every CPU: each has a connection and a buffer of its own */
TEST_F(memory, every_cpu)
{
	uint64_t func = may_release(self) ? release_function(self) : MEMCTL_MPROTECT_RW;
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
		call_and_look(_metadata, self, func, 0);
		EXPECT_ANSWER(0, 0);
		if (self->oracle >= 0 && may_release(self))
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
	if (is_hugetlb(self))
		SKIP(return, "the host cannot divide its pages");
	NEED_ORACLE();
	ASSERT_EQ(0, raw_call(self->fd, release_function(self), self->addr + third, third, 0,
			      &self->buf));
	EXPECT_ANSWER(0, 0);
	/* Looked at before: reading a file's page maps some around it */
	ASSERT_TRUE(oracle_state(self->oracle, self->addr + third, third, &middle));
	EXPECT_EQ(0, oracle_number(&middle, "mapped"));
	ASSERT_TRUE(look(self, &self->after));
	if (self->backing != SHARED_FILE)
		EXPECT_SEEN(self->pages - oracle_number(&middle, "pages"), "mapped");
	EXPECT_TRUE(all_bytes(self->mem, third, PATTERN));
	EXPECT_TRUE(all_bytes(self->mem + third, third, 0));
	EXPECT_TRUE(all_bytes(self->mem + 2 * third, self->length - 2 * third, PATTERN));
}

/* Mistakes --------------------------------------------------------------- */

/* Refused by the driver or by the host; either way nothing may have happened */
static void refused(struct __test_metadata *_metadata, FIXTURE_DATA(memory) *self,
		    uint64_t func, uint64_t addr, uint64_t length)
{
	int err = raw_call(self->fd, func, addr, length, 0, &self->buf);

	EXPECT_CONTENTS(PATTERN);
	if (err) {
		EXPECT_EQ(EINVAL, err);
		return;
	}
	EXPECT_EQ(func, self->buf.ret.ret_code);
	switch (self->buf.ret.ret_errno) {
	case EPERM:
	case EOPNOTSUPP:
		/* Not allowed, or useless, whatever the range */
	case E2BIG:
		break;
	default:
		EXPECT_EQ(EINVAL, self->buf.ret.ret_errno);
	}
}

#define EXPECT_DRIVER_REFUSES(func, from, bytes) \
	EXPECT_EQ(EINVAL, raw_call(self->fd, func, from, bytes, 0, &self->buf))

TEST_F(memory, bad_ranges)
{
	uint64_t func;

	for (func = MEMCTL_DONTNEED; func < MEMCTL_VECTOR; func = next_function(func)) {
		EXPECT_DRIVER_REFUSES(func, self->addr, 0);
		EXPECT_DRIVER_REFUSES(func, self->addr + 1, page_size);
		EXPECT_DRIVER_REFUSES(func, self->addr + page_size / 2, page_size);
		EXPECT_DRIVER_REFUSES(func, self->addr, page_size - 1);
		EXPECT_DRIVER_REFUSES(func, self->addr, page_size + 512);
		EXPECT_DRIVER_REFUSES(func, -page_size, 2 * page_size);
		EXPECT_DRIVER_REFUSES(func, -page_size, page_size);
		EXPECT_DRIVER_REFUSES(func, self->addr, -page_size);
	}
	EXPECT_CONTENTS(PATTERN);
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

	for (i = 0; i < MEMCTL_VECTOR_MAX; i++)
		set_entry(self, i, self->addr, self->length);
	for (i = 0; i < ARRAY_SIZE(funcs); i++)
		EXPECT_TABLE_REFUSED(self->table_addr, 1, funcs[i]);
	EXPECT_TABLE_REFUSED(self->table_addr, 0, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(self->table_addr, MEMCTL_VECTOR_MAX + 1, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(self->table_addr, ~0ULL, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(self->table_addr + 1, 1, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(self->table_addr + 8, 1, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(1ULL << 45, 1, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(-16ULL, 1, MEMCTL_ZERO);
	EXPECT_TABLE_REFUSED(-16ULL, 2, MEMCTL_ZERO);
	EXPECT_CONTENTS(PATTERN);
}

TEST_F(memory, not_ram)
{
	uint64_t func;

	for (func = MEMCTL_DONTNEED; func < MEMCTL_VECTOR; func = next_function(func)) {
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
	for (func = MEMCTL_DONTNEED; func < MEMCTL_VECTOR; func = next_function(func))
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

	for (func = MEMCTL_UNMERGEABLE + 1; func < 70; func++)
		if (func < MEMCTL_QUERY || func > MEMCTL_VECTOR)
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
	unsigned long before = handshakes();
	uint32_t answer;

	if (!disconnect(&answer))
		SKIP(return, "no access to the device's registers");
	ASSERT_EQ(MEMCTL_ANSWER_ERROR, answer);
	EXPECT_EQ(0, raw_call(self->fd, MEMCTL_INFO, 0, 0, 0, &self->buf));
	EXPECT_EQ(0, self->buf.ret.ret_errno);
	EXPECT_EQ(1, self->buf.ret.arg0);
	EXPECT_EQ(before + 1, handshakes());
}

TEST_F(memory, tracepoint)
{
	const char *enable = TRACEFS "/events/pvmemctl/pvmemctl_call/enable";
	char line[512], want[128], found[512] = "";
	FILE *file;

	if (!file_write(enable, "1"))
		SKIP(return, "no tracefs");
	file_write(TRACEFS "/trace", "\n");
	ASSERT_EQ(0, raw_call(self->fd, MEMCTL_MPROTECT_RW, self->addr, self->length, 0,
			      &self->buf));
	file_write(enable, "0");
	snprintf(want, sizeof(want),
		 "pvmemctl_call: func=MPROTECT_RW addr=0x%llx length=0x%zx arg=0x0 err=0 errno=0 code=0 ns=",
		 (unsigned long long)self->addr, self->length);
	file = fopen(TRACEFS "/trace", "r");
	ASSERT_NE(NULL, file);
	while (fgets(line, sizeof(line), file))
		if (strstr(line, want))
			strcpy(found, line);
	fclose(file);
	EXPECT_STRNE("", found) TH_LOG("no line with '%s'", want);
}

/* Unplug ----------------------------------------------------------------- */

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
	EXPECT_EQ(0, raw_call(fd, MEMCTL_MPROTECT_RW, self->addr, self->length, 0, &self->buf));
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
