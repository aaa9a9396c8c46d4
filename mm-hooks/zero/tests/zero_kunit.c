// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of page zeroing, against a host that is made up.
 *
 * struct fake is what stands behind memctl_vmm_call() and memctl_vmm_call_vec().  It
 * zeroes memory as the specification says that a host does, and can be told to refuse
 * or to lie.  What pages hold is looked at here, whatever the code under test says.
 */

#include <kunit/static_stub.h>
#include <kunit/test.h>

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "../zero.h"

#define NR	8			/* ranges of a test, a page each */

/* What excludes page zeroing in the guest */
enum fake_exclusion {
	BY_NOTHING, BY_MEM_ENCRYPT, BY_GUEST_MEM_ENCRYPT, BY_INIT_ON_FREE, BY_PAGE_POISON,
	BY_HW_TAGS,
};

struct fake {
	unsigned int minor;		/* protocol 1.minor */
	u64 zeroing;			/* bit mask of functions that zero memory */
	u64 refused;			/* bit mask of functions that answer EINVAL */
	u64 unlisted;			/* likewise, that QUERY does not know */
	bool refuses_odd;		/* pages, by their place in the test's area */
	unsigned int acts;		/* from so many ranges on it only says so; 0: never */
	long gone_after;		/* so many ranges, if not 0, -ENODEV */
	unsigned int excess;		/* ranges that it claims to have done beside */
	bool lazy;			/* says 0 and does nothing */
	bool file;			/* something comes back, in the middle of a range */
	enum fake_exclusion exclusion;

	/* What it saw */
	unsigned int ranges;
	unsigned int calls;
	u64 func;			/* the last one */

	struct page *area;
};

static u64 area_addr(const struct fake *fake, unsigned int i)
{
	return page_to_phys(fake->area) + i * PAGE_SIZE;
}

static u32 fake_range(struct fake *fake, u64 func, u64 addr, u64 length)
{
	const u64 index = (addr - area_addr(fake, 0)) / PAGE_SIZE;

	fake->ranges++;
	fake->func = func;
	if (func == MEMCTL_ZERO && !fake->minor)
		return EOPNOTSUPP;
	if (fake->refused & BIT_ULL(func))
		return EINVAL;
	if (fake->refuses_odd && index < NR && index & 1)
		return EPERM;
	if (fake->zeroing & BIT_ULL(func) && !(fake->acts && fake->ranges > fake->acts))
		memset(phys_to_virt(addr), 0, length);
	if (fake->file)
		memset(phys_to_virt(addr + length / 2), 1, 1);
	return 0;
}

static long fake_call(u64 func, struct memctl_buf *buf)
{
	struct fake *fake = kunit_get_current_test()->priv;

	*buf = (struct memctl_buf) { };
	fake->calls++;
	switch (func) {
	case MEMCTL_INFO:
		buf->ret = (struct memctl_vmm_ret) {
			.ret_value = PAGE_SIZE, .arg0 = 1, .arg1 = fake->minor,
		};
		break;
	case MEMCTL_QUERY:
		if (!fake->minor)
			buf->ret = (struct memctl_vmm_ret) { EOPNOTSUPP, func };
		else
			buf->ret.ret_value = ~fake->unlisted;
		break;
	}
	return 0;
}

/* What memctl_probe_zero() finds out */
static int fake_probe(u64 func, unsigned int order)
{
	struct fake *fake = kunit_get_current_test()->priv;
	struct page *page = alloc_pages(GFP_KERNEL, order);
	void *at;
	u32 err;
	int ret;

	if (!page)
		return -ENOMEM;
	at = page_address(page);
	memset(at, 0xa5, PAGE_SIZE << order);
	fake->calls++;
	err = fake_range(fake, func, page_to_phys(page), PAGE_SIZE << order);
	ret = err ? -(int)err : memchr_inv(at, 0, PAGE_SIZE << order) ? -EBADE : 0;
	__free_pages(page, order);
	return ret;
}

static long fake_call_vec(u64 func, const struct memctl_vmm_range *ranges, unsigned int nr,
			  unsigned int *done)
{
	struct fake *fake = kunit_get_current_test()->priv;
	u32 err;

	fake->calls++;
	*done = 0;
	if (fake->lazy)
		return 0;
	for (; *done < nr; ++*done) {
		if (fake->gone_after && fake->ranges >= fake->gone_after)
			return -ENODEV;
		err = fake_range(fake, func, ranges[*done].addr, ranges[*done].length);
		if (err)
			return -(long)err;
	}
	*done += fake->excess;
	return 0;
}

static bool is_excluded_by(enum fake_exclusion what)
{
	struct fake *fake = kunit_get_current_test()->priv;

	return fake->exclusion == what;
}

static bool fake_cc_has(enum cc_attr attr)
{
	return (attr == CC_ATTR_MEM_ENCRYPT && is_excluded_by(BY_MEM_ENCRYPT)) ||
	       (attr == CC_ATTR_GUEST_MEM_ENCRYPT && is_excluded_by(BY_GUEST_MEM_ENCRYPT));
}

static bool fake_inits_on_free(void)
{
	return is_excluded_by(BY_INIT_ON_FREE);
}

static bool fake_poisons(void)
{
	return is_excluded_by(BY_PAGE_POISON);
}

static bool fake_has_tags(void)
{
	return is_excluded_by(BY_HW_TAGS);
}

/* pvmemctl.zero= */
static int set_mode(const char *mode)
{
	const struct kernel_param param = { .arg = &zero_mode };

	return pvmemctl_mode_ops.set(mode, &param);
}

/* A host comes, and pvmemctl.zero= is @mode */
static struct fake *arrive(struct kunit *test, const char *mode)
{
	KUNIT_ASSERT_EQ(test, 0, set_mode(mode));
	zero_notify(NULL, PVMEMCTL_ADDED, NULL);
	return test->priv;
}

/* Have the area's pages zeroed; bit i of the result: page i was said to be */
static unsigned long ask(struct kunit *test, int expected)
{
	struct fake *fake = test->priv;
	struct memctl_vmm_range ranges[NR];
	unsigned long said = 0;
	bool zeroed[NR];
	int i;

	memset(page_address(fake->area), 0x5a, NR * PAGE_SIZE);
	memset(zeroed, true, sizeof(zeroed));	/* must not be left as they are */
	for (i = 0; i < NR; i++) {
		ranges[i].addr = area_addr(fake, i);
		ranges[i].length = PAGE_SIZE;
	}
	KUNIT_EXPECT_EQ(test, expected, zero_ranges(0, ranges, NR, zeroed));
	for (i = 0; i < NR; i++)
		said |= (unsigned long)zeroed[i] << i;
	/* Whatever else: what is said to be zero is */
	for (i = 0; i < NR; i++)
		if (zeroed[i])
			KUNIT_EXPECT_NULL(test, memchr_inv(page_address(fake->area + i), 0,
							   PAGE_SIZE));
	return said;
}

#define ALL	GENMASK(NR - 1, 0)

static void test_1_1(struct kunit *test)
{
	struct fake *fake = arrive(test, "on");

	KUNIT_EXPECT_EQ(test, MEMCTL_ZERO, zero_function());
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
	KUNIT_EXPECT_EQ(test, MEMCTL_ZERO, fake->func);
	/* One call for all */
	fake->calls = 0;
	ask(test, 0);
	KUNIT_EXPECT_EQ(test, 1, fake->calls);
}

static void test_off(struct kunit *test)
{
	struct fake *fake = arrive(test, "off");

	KUNIT_EXPECT_EQ(test, 0, zero_function());
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
	KUNIT_EXPECT_EQ(test, 0, fake->ranges);
}

static void test_mode(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, -EINVAL, set_mode(""));
	KUNIT_EXPECT_EQ(test, -EINVAL, set_mode("yes"));
	KUNIT_EXPECT_EQ(test, 0, set_mode("probe\n"));
	KUNIT_EXPECT_EQ(test, PVMEMCTL_MODE_PROBE, zero_mode);
}

/* Its policy leaves ZERO out, or some memory cannot be zeroed */
static void test_unlisted(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->unlisted = BIT_ULL(MEMCTL_ZERO);
	arrive(test, "on");
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
}

static void test_1_0_is_not_believed(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	arrive(test, "on");
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
	KUNIT_EXPECT_EQ(test, 0, fake->ranges);
}

static void test_1_0_private(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	fake->refused = BIT_ULL(MEMCTL_REMOVE);
	arrive(test, "probe");
	KUNIT_EXPECT_EQ(test, MEMCTL_DONTNEED, zero_function());
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
}

/* There DONTNEED answers success and leaves everything as it is */
static void test_1_0_shared(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	fake->zeroing = BIT_ULL(MEMCTL_REMOVE);
	arrive(test, "probe");
	KUNIT_EXPECT_EQ(test, MEMCTL_REMOVE, zero_function());
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
}

static void test_1_0_neither(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	fake->zeroing = 0;
	arrive(test, "probe");
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
}

/* The page that is tried is of one memory of the host, another of another */
static void test_1_0_mixed(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	fake->refused = BIT_ULL(MEMCTL_REMOVE);
	arrive(test, "probe");
	fake->acts = fake->ranges + 3;
	KUNIT_EXPECT_EQ(test, GENMASK(2, 0), ask(test, -EBADE));
	/* And that was that */
	fake->acts = 0;
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
}

/* DONTNEED of a private mapping of a file brings the file back */
static void test_1_0_file(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	fake->refused = BIT_ULL(MEMCTL_REMOVE);
	arrive(test, "probe");
	fake->file = true;
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EBADE));
}

static void test_lie_at_once(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->zeroing = 0;
	arrive(test, "probe");
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
	/* It was asked once, and for nothing else */
	KUNIT_EXPECT_EQ(test, 1, fake->ranges);
}

static void test_lie_later(struct kunit *test)
{
	struct fake *fake = arrive(test, "probe");

	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
	fake->zeroing = 0;
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EBADE));
	fake->zeroing = ~0ULL;
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
}

/* Zeros were there before: a word that is not is put among them */
static void test_lie_about_zeros(struct kunit *test)
{
	struct fake *fake = arrive(test, "probe");
	struct memctl_vmm_range range = {
		.addr = area_addr(fake, 0), .length = NR * PAGE_SIZE,
	};
	bool zeroed;

	fake->zeroing = 0;
	memset(page_address(fake->area), 0, NR * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, -EBADE, zero_ranges(0, &range, 1, &zeroed));
	KUNIT_EXPECT_FALSE(test, zeroed);
}

static void test_refuses_half(struct kunit *test)
{
	struct fake *fake = arrive(test, "on");

	fake->refuses_odd = true;
	KUNIT_EXPECT_EQ(test, 0x55, ask(test, 0));
	/* No range twice */
	fake->ranges = 0;
	ask(test, 0);
	KUNIT_EXPECT_EQ(test, NR, fake->ranges);
}

/* A look takes memory: what was released is released again, unless it is used next */
static void test_look_is_undone(struct kunit *test)
{
	struct fake *fake = arrive(test, "probe");
	struct memctl_vmm_range range = {
		.addr = area_addr(fake, 0), .length = PAGE_SIZE,
	};
	bool zeroed;

	fake->refuses_odd = true;
	fake->ranges = 0;
	KUNIT_EXPECT_EQ(test, 0x55, ask(test, 0));
	KUNIT_EXPECT_EQ(test, NR + NR / 2, fake->ranges);
	fake->ranges = 0;
	KUNIT_EXPECT_EQ(test, 0, zero_ranges(ZERO_CALL, &range, 1, &zeroed));
	KUNIT_EXPECT_EQ(test, 1, fake->ranges);
}

static void test_refuses_all(struct kunit *test)
{
	struct fake *fake = arrive(test, "on");

	fake->refused = ~0ULL;
	fake->calls = 0;
	KUNIT_EXPECT_EQ(test, 0, ask(test, 0));
	KUNIT_EXPECT_EQ(test, NR, fake->calls);
}

static void test_goes_meanwhile(struct kunit *test)
{
	struct fake *fake = arrive(test, "on");

	fake->ranges = 0;
	fake->gone_after = 3;
	KUNIT_EXPECT_EQ(test, GENMASK(2, 0), ask(test, -ENODEV));
}

/* The core bounds what a host says; should it not, nothing is written out of bounds */
static void test_nonsense(struct kunit *test)
{
	struct fake *fake = arrive(test, "on");

	fake->excess = 1000;
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
	fake->excess = 0;
	fake->lazy = true;
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EIO));
}

static void test_excluded(struct kunit *test)
{
	struct fake *fake = test->priv;

	for (fake->exclusion = BY_MEM_ENCRYPT; fake->exclusion <= BY_HW_TAGS;
	     fake->exclusion++) {
		kunit_info(test, "exclusion %u\n", fake->exclusion);
		arrive(test, "on");
		KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
		arrive(test, "probe");
		KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
	}
	KUNIT_EXPECT_EQ(test, 0, fake->calls);
	/* And it was nothing else */
	fake->exclusion = BY_NOTHING;
	arrive(test, "on");
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
}

static void test_comes_and_goes(struct kunit *test)
{
	struct fake *fake = arrive(test, "on");

	zero_notify(NULL, PVMEMCTL_LOST, NULL);
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
	zero_notify(NULL, PVMEMCTL_ADDED, NULL);
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));

	/* Another host, after a migration */
	fake->minor = 0;
	zero_notify(NULL, PVMEMCTL_RESET, NULL);
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
}

static void test_again_after_resume(struct kunit *test)
{
	struct fake *fake = test->priv;

	fake->minor = 0;
	fake->refused = BIT_ULL(MEMCTL_REMOVE);
	arrive(test, "probe");
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
	fake->zeroing = 0;
	zero_notify(NULL, PVMEMCTL_RESUMED, NULL);
	KUNIT_EXPECT_EQ(test, 0, ask(test, -EOPNOTSUPP));
	fake->zeroing = ~0ULL;
	zero_notify(NULL, PVMEMCTL_RESUMED, NULL);
	KUNIT_EXPECT_EQ(test, ALL, ask(test, 0));
}

static int zero_test_init(struct kunit *test)
{
	struct fake *fake = kunit_kzalloc(test, sizeof(*fake), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, fake);
	fake->minor = 1;
	fake->zeroing = BIT_ULL(MEMCTL_ZERO) | BIT_ULL(MEMCTL_DONTNEED) | BIT_ULL(MEMCTL_REMOVE);
	fake->area = alloc_pages(GFP_KERNEL, get_order(NR * PAGE_SIZE));
	KUNIT_ASSERT_NOT_NULL(test, fake->area);
	test->priv = fake;
	kunit_activate_static_stub(test, zero_call, fake_call);
	kunit_activate_static_stub(test, zero_call_vec, fake_call_vec);
	kunit_activate_static_stub(test, memctl_probe_zero, fake_probe);
	kunit_activate_static_stub(test, zero_cc_has, fake_cc_has);
	kunit_activate_static_stub(test, zero_inits_on_free, fake_inits_on_free);
	kunit_activate_static_stub(test, zero_poisons, fake_poisons);
	kunit_activate_static_stub(test, zero_has_tags, fake_has_tags);
	return 0;
}

static void zero_test_exit(struct kunit *test)
{
	struct fake *fake = test->priv;

	/* No memory may be taken for zeroed because of what a test said */
	zero_notify(NULL, PVMEMCTL_LOST, NULL);
	if (fake && fake->area)
		__free_pages(fake->area, get_order(NR * PAGE_SIZE));
}

static enum pvmemctl_mode zero_mode_before;

static int zero_suite_init(struct kunit_suite *suite)
{
	zero_mode_before = zero_mode;
	return 0;
}

/* Back to what there is, if anything */
static void zero_suite_exit(struct kunit_suite *suite)
{
	zero_mode = zero_mode_before;
	zero_notify(NULL, PVMEMCTL_ADDED, NULL);
}

static struct kunit_case zero_cases[] = {
	KUNIT_CASE(test_1_1),
	KUNIT_CASE(test_off),
	KUNIT_CASE(test_mode),
	KUNIT_CASE(test_unlisted),
	KUNIT_CASE(test_1_0_is_not_believed),
	KUNIT_CASE(test_1_0_private),
	KUNIT_CASE(test_1_0_shared),
	KUNIT_CASE(test_1_0_neither),
	KUNIT_CASE(test_1_0_mixed),
	KUNIT_CASE(test_1_0_file),
	KUNIT_CASE(test_lie_at_once),
	KUNIT_CASE(test_lie_later),
	KUNIT_CASE(test_lie_about_zeros),
	KUNIT_CASE(test_refuses_half),
	KUNIT_CASE(test_look_is_undone),
	KUNIT_CASE(test_refuses_all),
	KUNIT_CASE(test_goes_meanwhile),
	KUNIT_CASE(test_nonsense),
	KUNIT_CASE(test_excluded),
	KUNIT_CASE(test_comes_and_goes),
	KUNIT_CASE(test_again_after_resume),
	{ }
};

static struct kunit_suite zero_suite = {
	.name = "pvmemctl_zero",
	.init = zero_test_init,
	.exit = zero_test_exit,
	.suite_init = zero_suite_init,
	.suite_exit = zero_suite_exit,
	.test_cases = zero_cases,
};

kunit_test_suite(zero_suite);

MODULE_DESCRIPTION("KUnit tests of page zeroing by the host");
MODULE_LICENSE("GPL");
