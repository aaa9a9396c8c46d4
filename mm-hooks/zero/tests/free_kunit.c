// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the mark that a free block reads as zero: blocks that the page
 * allocator merges.
 */

#include <kunit/test.h>

#include <linux/gfp.h>
#include <linux/host_zero.h>
#include <linux/mm.h>
#include <linux/mmzone.h>

#include "../../../internal.h"

/* Not kept for a CPU when it is freed, nor ever a whole pageblock */
#define ORDER		(PAGE_ALLOC_COSTLY_ORDER + 1)

/* Between being freed and isolated a block may be anybody's */
#define ATTEMPTS	1000

/* False where somebody had the block in between, or has it now */
static bool free_and_isolate(struct page *page)
{
	struct zone *zone = page_zone(page);

	__free_pages(page, ORDER);
	guard(spinlock_irqsave)(&zone->lock);
	return PageBuddy(page) && buddy_order(page) == ORDER && __isolate_free_page(page, ORDER);
}

static void put_back(struct page *page)
{
	guard(spinlock_irqsave)(&page_zone(page)->lock);
	__putback_isolated_page(page, ORDER, get_pageblock_migratetype(page));
}

/*
 * Two buddies, as page_reporting has them while it talks to the host; and @above, whom
 * they would merge with next.
 */
static struct page *isolated_pair(struct page **above)
{
	struct page *first, *second;
	bool has_first, has_second;
	unsigned int i;

	for (i = 0; i < ATTEMPTS; i++) {
		first = alloc_pages(GFP_KERNEL | __GFP_ZERO, ORDER + 2);
		if (!first)
			return NULL;
		second = first + (1 << ORDER);
		*above = first + (2 << ORDER);
		set_page_refcounted(second);
		set_page_refcounted(*above);

		has_first = free_and_isolate(first);
		has_second = free_and_isolate(second);
		if (has_first && has_second)
			return first;
		if (has_first)
			put_back(first);
		if (has_second)
			put_back(second);
		__free_pages(*above, ORDER + 1);
	}
	return NULL;
}

static const struct zeroed {
	bool first, second;
} zeroed_cases[] = { { false, false }, { false, true }, { true, false }, { true, true } };

static void describe(const struct zeroed *zeroed, char *text)
{
	snprintf(text, KUNIT_PARAM_DESC_SIZE, "%d and %d", zeroed->first, zeroed->second);
}

KUNIT_ARRAY_PARAM(zeroed, zeroed_cases, describe);

/* All of a block is zero if all that it was merged of is; whoever is put back first */
static void test_merge(struct kunit *test)
{
	const struct zeroed *zeroed = test->param_value;
	bool is_merged, is_marked;
	struct page *pair, *above;

	pair = isolated_pair(&above);
	if (!pair)
		kunit_skip(test, "no pair of free blocks");
	set_page_private(pair, zeroed->first ? HOST_ZERO_TAKEN : 0);
	set_page_private(pair + (1 << ORDER), zeroed->second ? HOST_ZERO_TAKEN : 0);

	scoped_guard(spinlock_irqsave, &page_zone(pair)->lock) {
		const int mt = get_pageblock_migratetype(pair);

		__putback_isolated_page(pair + (1 << ORDER), ORDER, mt);
		__putback_isolated_page(pair, ORDER, mt);
		is_merged = PageBuddy(pair) && buddy_order(pair) == ORDER + 1;
		is_marked = PageHostZeroed(pair);
		/* Nobody else is to believe it */
		__ClearPageHostZeroed(pair);
	}
	__free_pages(above, ORDER + 1);
	KUNIT_EXPECT_TRUE(test, is_merged);
	KUNIT_EXPECT_EQ(test, zeroed->first && zeroed->second, is_marked);
}

static bool key_was_on;

static int free_suite_init(struct kunit_suite *suite)
{
	key_was_on = static_key_enabled(&host_zero_free_key);
	if (!key_was_on)
		static_branch_enable(&host_zero_free_key);
	return 0;
}

/* No block is marked because of these tests */
static void free_suite_exit(struct kunit_suite *suite)
{
	if (!key_was_on)
		static_branch_disable(&host_zero_free_key);
}

static struct kunit_case free_cases[] = {
	KUNIT_CASE_PARAM(test_merge, zeroed_gen_params),
	{ }
};

static struct kunit_suite free_suite = {
	.name = "pvmemctl_zero_free",
	.suite_init = free_suite_init,
	.suite_exit = free_suite_exit,
	.test_cases = free_cases,
};

kunit_test_suite(free_suite);
