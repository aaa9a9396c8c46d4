// SPDX-License-Identifier: GPL-2.0-only
/*
 * Free memory: reported to the host through page_reporting, when that is asked for,
 * and known to read as zero from then on.
 *
 * The mark.  A free block that the host has zeroed is PageHostZeroed(), on its first
 * page and while it is in the buddy allocator, under zone->lock.  From there to whoever
 * allocates it, on a per-CPU list maybe, the mark is HOST_ZERO_TAKEN in page->private,
 * which the allocator has to itself that long, and sets to 0 before it hands a page out.
 *
 * A block that is split gives the mark to all its parts.  Blocks that are merged have
 * it only if all parts had.  A page that is freed has none, whatever is in its
 * private field, so what was ever written to is cleared; nor has a guard page, or what
 * compaction or a contiguous allocation took away.
 */

#define pr_fmt(fmt) "pvmemctl: zero: " fmt

#include <linux/cleanup.h>
#include <linux/host_zero.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/page_reporting.h>
#include <linux/scatterlist.h>
#include <linux/sysfs.h>

#include "zero.h"
#include "../../page_reporting.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pvmemctl."

DEFINE_STATIC_KEY_FALSE(host_zero_free_key);
DEFINE_STATIC_KEY_FALSE(host_zero_report_key);

/*
 * Entries of one batch at most: one request to the host.  A zone is not looked at when
 * a batch is more than it can spare, so in a small guest it is a share of all memory.
 */
#define ZERO_REPORT_BATCH	64
#define ZERO_REPORT_SHARE	16
#define ZERO_REPORT_DELAY_MS	100

/* Protects the registration; innermost but for what page_reporting has */
static DEFINE_MUTEX(zero_report_lock);
static bool zero_report_registered;
static unsigned int zero_order_before;	/* page_reporting_order, which is for all */

static bool zero_report_wanted;
module_param_named(zero_report, zero_report_wanted, bool, 0444);

static unsigned int zero_report_order = PAGE_REPORTING_ORDER_UNSPECIFIED;
module_param_named(zero_report_order, zero_report_order, uint, 0444);

static unsigned int zero_report_delay_ms = ZERO_REPORT_DELAY_MS;
module_param_named(zero_report_delay_ms, zero_report_delay_ms, uint, 0444);

/* What the host is asked for: there is one worker */
static struct {
	struct memctl_vmm_range range[ZERO_REPORT_BATCH];
	bool zeroed[ZERO_REPORT_BATCH];
} zero_report_batch;

/* These pages are off the free lists, and nobody's but ours until they are put back */
static int zero_report(struct page_reporting_dev_info *prdev, struct scatterlist *sgl,
		       unsigned int nents)
{
	struct scatterlist *sg;
	unsigned int i;
	int ret;

	if (WARN_ON_ONCE(nents > ZERO_REPORT_BATCH))
		return -EINVAL;
	for_each_sg(sgl, sg, nents, i) {
		zero_report_batch.range[i].addr = page_to_phys(sg_page(sg));
		zero_report_batch.range[i].length = sg->length;
	}
	ret = zero_ranges(ZERO_FREE, zero_report_batch.range, nents, zero_report_batch.zeroed);
	for_each_sg(sgl, sg, nents, i)
		if (zero_report_batch.zeroed[i])
			set_page_private(sg_page(sg), HOST_ZERO_TAKEN);
	return ret;
}

static unsigned int zero_report_capacity(unsigned int order)
{
	const unsigned int shift = order <= MAX_PAGE_ORDER ? order : pageblock_order;

	return clamp((totalram_pages() / ZERO_REPORT_SHARE) >> shift, 1, ZERO_REPORT_BATCH);
}

static struct page_reporting_dev_info zero_prdev = {
	.report = zero_report,
};

/* There is a host, or none any more; or somebody changed his mind */
void zero_free_start(void)
{
	const bool wanted = READ_ONCE(zero_report_wanted) && zero_function();
	unsigned int order;
	int ret;

	guard(mutex)(&zero_report_lock);
	if (wanted == zero_report_registered)
		return;
	if (!wanted) {
		static_branch_disable(&host_zero_report_key);
		page_reporting_unregister(&zero_prdev);
		page_reporting_order = zero_order_before;
		zero_report_registered = false;
		return;
	}
	/* The words that tell whether the host did anything cannot be written there */
	if (zero_is_checked() && debug_pagealloc_enabled()) {
		pr_info("free pages are not mapped, so the host cannot be checked: they are not reported\n");
		return;
	}
	/* Before there is a mark */
	static_branch_enable(&host_zero_free_key);
	order = READ_ONCE(zero_report_order);
	zero_prdev.order = order;
	zero_prdev.capacity = zero_report_capacity(order);
	zero_prdev.delay_ms = READ_ONCE(zero_report_delay_ms);
	zero_order_before = page_reporting_order;
	if (order <= MAX_PAGE_ORDER)
		page_reporting_order = order;
	ret = page_reporting_register(&zero_prdev);
	if (ret) {
		page_reporting_order = zero_order_before;
		pr_warn("free pages are not reported: %s\n", ret == -EBUSY ?
			"another driver does that, a balloon maybe" : "that failed");
		return;
	}
	zero_report_registered = true;
	static_branch_enable(&host_zero_report_key);
}

bool __host_zero_skip(struct page *page, unsigned int order)
{
	return zero_skip(ZERO_FREE, page, order);
}

/*
 * This kernel was restored from hibernation.  What was free then is not in the image:
 * what it holds is the boot kernel's.  Nothing was allocated since, other CPUs are off
 * and so are interrupts.
 */
void __host_zero_restored(void)
{
	struct per_cpu_pages *pcp;
	struct list_head *list;
	struct page *page;
	struct zone *zone;
	int cpu, i;

	for_each_populated_zone(zone) {
		guard(spinlock_irqsave)(&zone->lock);
		for (i = 0; i < NR_PAGE_ORDERS * MIGRATE_TYPES; i++) {
			list = &zone->free_area[i / MIGRATE_TYPES].free_list[i % MIGRATE_TYPES];
			list_for_each_entry(page, list, buddy_list) {
				__ClearPageHostZeroed(page);
				/* The host backs it again */
				__ClearPageReported(page);
			}
		}
		for_each_possible_cpu(cpu) {
			pcp = per_cpu_ptr(zone->per_cpu_pageset, cpu);
			for (i = 0; i < NR_PCP_LISTS; i++)
				list_for_each_entry(page, &pcp->lists[i], pcp_list)
					host_zero_forget(page);
		}
	}
}

static ssize_t report_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	guard(mutex)(&zero_report_lock);
	return sysfs_emit(buf, "%d\n", zero_report_registered);
}

static ssize_t report_store(struct kobject *kobj, struct kobj_attribute *attr,
			    const char *buf, size_t count)
{
	bool on;
	int ret = kstrtobool(buf, &on);

	if (ret)
		return ret;
	WRITE_ONCE(zero_report_wanted, on);
	zero_free_start();
	scoped_guard(mutex, &zero_report_lock)
		ret = on && !zero_report_registered ? -EBUSY : count;
	return ret;
}

static struct kobj_attribute zero_report_attr = __ATTR_RW(report);

static ssize_t report_order_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", (int)READ_ONCE(zero_report_order));
}

static ssize_t report_order_store(struct kobject *kobj, struct kobj_attribute *attr,
				  const char *buf, size_t count)
{
	unsigned int order;
	int ret = kstrtouint(buf, 0, &order);

	if (ret)
		return ret;
	if (order > MAX_PAGE_ORDER)
		return -EINVAL;
	WRITE_ONCE(zero_report_order, order);
	scoped_guard(mutex, &zero_report_lock)
		if (zero_report_registered)
			page_reporting_order = order;
	return count;
}

static struct kobj_attribute zero_report_order_attr = __ATTR_RW(report_order);

static ssize_t report_delay_ms_show(struct kobject *kobj, struct kobj_attribute *attr,
				    char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(zero_report_delay_ms));
}

static ssize_t report_delay_ms_store(struct kobject *kobj, struct kobj_attribute *attr,
				     const char *buf, size_t count)
{
	unsigned int ms;
	int ret = kstrtouint(buf, 0, &ms);

	if (ret)
		return ret;
	if (!ms || ms > 60 * MSEC_PER_SEC)
		return -EINVAL;
	WRITE_ONCE(zero_report_delay_ms, ms);
	WRITE_ONCE(zero_prdev.delay_ms, ms);
	return count;
}

static struct kobj_attribute zero_report_delay_attr = __ATTR_RW(report_delay_ms);

void __init zero_free_init(void)
{
	if (zero_kobj && (sysfs_create_file(zero_kobj, &zero_report_attr.attr) ||
			  sysfs_create_file(zero_kobj, &zero_report_order_attr.attr) ||
			  sysfs_create_file(zero_kobj, &zero_report_delay_attr.attr)))
		pr_warn("no memory for files of free memory in sysfs\n");
}
