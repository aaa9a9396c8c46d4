// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that has to be cleared now, and is so large that to ask the host may be
 * faster.  Whether it is depends on the host, on what backs the memory, and most of all
 * on what follows: who writes to all of it soon has the host clear it once more, page
 * fault by page fault.  So this is off unless an order is set, or measured:
 * pvmemctl.zero_order=auto looks from which order on the call itself is the faster one.
 */

#define pr_fmt(fmt) "pvmemctl: zero: " fmt

#include <linux/cleanup.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/host_zero.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "zero.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pvmemctl."

/* Beyond all orders */
#define ZERO_ORDER_NONE		ZERO_NR_ORDERS
#define ZERO_ORDER_AUTO		(ZERO_ORDER_NONE + 1)

/* A host that refused so often in a row is not asked until it comes again */
#define ZERO_CALL_PATIENCE	16

#define ZERO_CALL_ROUNDS	5

DEFINE_STATIC_KEY_FALSE(host_zero_call_key);
unsigned int host_zero_call_order = ZERO_ORDER_NONE;

static unsigned int zero_order = ZERO_ORDER_NONE;	/* what was asked for */
static atomic_t zero_call_refused;

/* Protects what was measured, and the measuring */
static DEFINE_MUTEX(zero_call_lock);
static struct zero_timing {
	unsigned int order;
	u64 clear_ns;
	u64 call_ns;
} zero_timings[] = { { 0 }, { 3 }, { 6 }, { 9 }, { MAX_PAGE_ORDER } };
static unsigned int zero_crossover = ZERO_ORDER_NONE;

bool __host_zero_by_call(struct page *page, unsigned int order)
{
	const struct memctl_vmm_range range = {
		.addr = page_to_phys(page), .length = PAGE_SIZE << order,
	};
	bool zeroed;
	int ret;

	if (atomic_read(&zero_call_refused) >= ZERO_CALL_PATIENCE)
		return false;
	ret = zero_ranges(ZERO_CALL, &range, 1, &zeroed);
	if (zeroed && zero_skip(ZERO_CALL, page, order)) {
		atomic_set(&zero_call_refused, 0);
		return true;
	}
	/* An error is about this moment, a refusal about this memory */
	if (!ret)
		atomic_inc(&zero_call_refused);
	zero_count(ZERO_CALL, fallbacks, 1);
	return false;
}

static int zero_compare(const void *a, const void *b)
{
	const u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* Of memory that the host backs: what does it take to clear it, and to have it zeroed? */
static int zero_measure_one(struct zero_timing *t)
{
	u64 clear[ZERO_CALL_ROUNDS], call[ZERO_CALL_ROUNDS], start;
	struct memctl_vmm_range range;
	struct page *page;
	bool zeroed = true;
	int i;

	/* Not __GFP_ZERO, which would come back here; nor may it be known to be zero */
	page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, t->order);
	if (!page)
		return -ENOMEM;
	range.addr = page_to_phys(page);
	range.length = PAGE_SIZE << t->order;
	for (i = 0; zeroed && i < ZERO_CALL_ROUNDS; i++) {
		memset(page_address(page), 1, range.length);
		start = ktime_get_ns();
		memset(page_address(page), 0, range.length);
		clear[i] = ktime_get_ns() - start;
		start = ktime_get_ns();
		zero_ranges(ZERO_CALL, &range, 1, &zeroed);
		call[i] = ktime_get_ns() - start;
	}
	__free_pages(page, t->order);
	if (!zeroed)
		return -EOPNOTSUPP;
	sort(clear, ZERO_CALL_ROUNDS, sizeof(*clear), zero_compare, NULL);
	sort(call, ZERO_CALL_ROUNDS, sizeof(*call), zero_compare, NULL);
	t->clear_ns = clear[ZERO_CALL_ROUNDS / 2];
	t->call_ns = call[ZERO_CALL_ROUNDS / 2];
	return 0;
}

/* The lowest order from which on it is always faster to ask */
static void zero_measure(void)
{
	int i;

	lockdep_assert_held(&zero_call_lock);
	zero_crossover = ZERO_ORDER_NONE;
	for (i = 0; i < ARRAY_SIZE(zero_timings); i++) {
		if (zero_measure_one(&zero_timings[i]))
			return;
		if (zero_timings[i].call_ns >= zero_timings[i].clear_ns)
			zero_crossover = ZERO_ORDER_NONE;
		else
			zero_crossover = min(zero_crossover, zero_timings[i].order);
	}
}

/* There is a host, or somebody changed his mind */
void zero_call_start(void)
{
	unsigned int order;

	guard(mutex)(&zero_call_lock);
	order = zero_order;
	atomic_set(&zero_call_refused, 0);
	if (order == ZERO_ORDER_AUTO) {
		WRITE_ONCE(host_zero_call_order, ZERO_ORDER_NONE);
		if (!zero_function())
			return;
		zero_measure();
		order = zero_crossover;
	}
	WRITE_ONCE(host_zero_call_order, order);
	if (order < ZERO_ORDER_NONE && zero_function())
		static_branch_enable(&host_zero_call_key);
	else
		static_branch_disable(&host_zero_call_key);
}

static int zero_parse_order(const char *val, unsigned int *order)
{
	int ret;

	if (sysfs_streq(val, "none")) {
		*order = ZERO_ORDER_NONE;
		return 0;
	}
	if (sysfs_streq(val, "auto")) {
		*order = ZERO_ORDER_AUTO;
		return 0;
	}
	ret = kstrtouint(val, 0, order);
	if (!ret && *order >= ZERO_ORDER_NONE)
		ret = -EINVAL;
	return ret;
}

static int zero_order_set(const char *val, const struct kernel_param *kp)
{
	return zero_parse_order(val, &zero_order);
}

static const struct kernel_param_ops zero_order_ops = {
	.set = zero_order_set,
};
module_param_cb(zero_order, &zero_order_ops, NULL, 0);

static int zero_emit_order(char *buf, unsigned int order)
{
	if (order >= ZERO_ORDER_NONE)
		return sysfs_emit(buf, "none\n");
	return sysfs_emit(buf, "%u\n", order);
}

static ssize_t order_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return zero_emit_order(buf, READ_ONCE(host_zero_call_order));
}

static ssize_t order_store(struct kobject *kobj, struct kobj_attribute *attr,
			   const char *buf, size_t count)
{
	unsigned int order;
	int ret = zero_parse_order(buf, &order);

	if (ret)
		return ret;
	scoped_guard(mutex, &zero_call_lock)
		zero_order = order;
	zero_call_start();
	return count;
}

static struct kobj_attribute zero_order_attr = __ATTR_RW(order);

/* What zero_order=auto found: the order, then what it is derived from */
static ssize_t crossover_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	int i, len;

	guard(mutex)(&zero_call_lock);
	len = zero_emit_order(buf, zero_crossover);
	for (i = 0; i < ARRAY_SIZE(zero_timings); i++)
		if (zero_timings[i].clear_ns)
			len += sysfs_emit_at(buf, len, "order %u: clear %llu ns, call %llu ns\n",
					     zero_timings[i].order, zero_timings[i].clear_ns,
					     zero_timings[i].call_ns);
	return len;
}

static struct kobj_attribute zero_crossover_attr = __ATTR_RO(crossover);

void __init zero_call_init(void)
{
	if (zero_kobj && (sysfs_create_file(zero_kobj, &zero_order_attr.attr) ||
			  sysfs_create_file(zero_kobj, &zero_crossover_attr.attr)))
		pr_warn("no memory for files of zeroing by call in sysfs\n");
}
