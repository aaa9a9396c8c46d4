// SPDX-License-Identifier: GPL-2.0-only
/*
 * Free pages of the hugetlb pool belong to nobody, and the host backs them all the
 * same; and each is cleared when somebody takes it.  Have them released instead.
 *
 * A worker looks at the free lists a little after something was put there.  A page
 * that the host is asked for stays on its free list and is counted there, so that
 * no reservation fails because of it.  It is marked HPG_releasing: who needs just that
 * page, or finds no other, waits until the host has answered.  Nobody else does, and
 * nobody asks the host with hugetlb_lock held.
 *
 * New pages are put at the head of a free list and taken from there.  What the host
 * has answered for goes to the tail.  So the worker finds what is left to do at the
 * head, and a page that is freed and wanted again at once is not released between.
 */

#include <linux/cleanup.h>
#include <linux/host_zero.h>
#include <linux/hugetlb.h>
#include <linux/jiffies.h>
#include <linux/mutex.h>
#include <linux/page-isolation.h>
#include <linux/sysfs.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "zero.h"

DEFINE_STATIC_KEY_FALSE(host_zero_hugetlb_key);

static bool zero_hugetlb_on = true;
static unsigned int zero_hugetlb_delay_ms = 100;

/* How long to wait when the host has no time, or there is none for a while */
#define ZERO_HUGETLB_RETRY	(10 * HZ)

/* What the host is asked for: only the worker touches it */
static struct {
	struct memctl_vmm_range range[ZERO_BATCH];
	struct folio *folio[ZERO_BATCH];
	bool zeroed[ZERO_BATCH];
} zero_batch;

/* Both change under hugetlb_lock */
static unsigned int zero_busy;		/* pages that are HPG_releasing */
static unsigned long zero_generation;	/* batches done */
static DECLARE_WAIT_QUEUE_HEAD(zero_wait);

static void zero_hugetlb_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(zero_work, zero_hugetlb_work);

/* Not earlier: pages come in numbers, and many are wanted again at once */
void __host_zero_hugetlb_enqueued(void)
{
	if (READ_ONCE(zero_hugetlb_on) && zero_function())
		queue_delayed_work(system_dfl_wq, &zero_work,
				   msecs_to_jiffies(READ_ONCE(zero_hugetlb_delay_ms)));
}

bool __host_zero_hugetlb_skip(struct folio *folio)
{
	return zero_skip(ZERO_HUGETLB, &folio->page, folio_order(folio));
}

/**
 * host_zero_hugetlb_wait - wait until the host is done with what it is at
 *
 * Drops hugetlb_lock meanwhile, if it is at anything.  It may be at something else
 * afterwards.
 *
 * Context: Process context, with hugetlb_lock held and interrupts off.
 * Return: true if the lock was dropped.
 */
bool host_zero_hugetlb_wait(void)
	__must_hold(&hugetlb_lock)
{
	const unsigned long generation = zero_generation;

	lockdep_assert_held(&hugetlb_lock);
	if (!zero_busy)
		return false;
	spin_unlock_irq(&hugetlb_lock);
	/* The worker waits for nothing but the host */
	wait_event(zero_wait, READ_ONCE(zero_generation) != generation);
	spin_lock_irq(&hugetlb_lock);
	return true;
}

/* Choose what to ask for next, all of one size */
static unsigned int zero_hugetlb_collect(struct hstate *h)
{
	unsigned int n = 0, max = ZERO_BATCH;
	struct folio *folio, *next;
	int nid;

	lockdep_assert_held(&hugetlb_lock);
	max = clamp(ZERO_BATCH_BYTES / huge_page_size(h), 1, ZERO_BATCH);
	for_each_node_state(nid, N_MEMORY) {
		struct list_head *list = &h->hugepage_freelists[nid];

		list_for_each_entry_safe(folio, next, list, lru) {
			if (n == max)
				return n;
			/* From here on the host has been asked already */
			if (folio_test_hugetlb_zeroed(folio) || folio_test_hugetlb_kept(folio))
				break;
			/* These nobody will have */
			if (folio_test_hwpoison(folio) || is_migrate_isolate_page(&folio->page)) {
				folio_set_hugetlb_kept(folio);
				list_move_tail(&folio->lru, list);
				continue;
			}
			folio_set_hugetlb_releasing(folio);
			zero_batch.folio[n] = folio;
			zero_batch.range[n].addr = PFN_PHYS(folio_pfn(folio));
			zero_batch.range[n].length = huge_page_size(h);
			n++;
		}
	}
	return n;
}

/* A few pages; how many, or why not to go on */
static int zero_hugetlb_batch(struct hstate *h)
{
	struct folio *folio;
	unsigned int i, n;
	int ret;

	/* Who changes the size of the pool, or demotes, need not look at HPG_releasing */
	guard(mutex)(&h->resize_lock);

	scoped_guard(spinlock_irq, &hugetlb_lock) {
		n = zero_hugetlb_collect(h);
		zero_busy = n;
	}
	if (!n)
		return 0;

	ret = zero_ranges(ZERO_HUGETLB, zero_batch.range, n, zero_batch.zeroed);

	scoped_guard(spinlock_irq, &hugetlb_lock) {
		for (i = 0; i < n; i++) {
			folio = zero_batch.folio[i];
			folio_clear_hugetlb_releasing(folio);
			if (zero_batch.zeroed[i])
				folio_set_hugetlb_zeroed(folio);
			else if (!ret)
				folio_set_hugetlb_kept(folio);
			else
				continue;	/* as if nobody had asked */
			list_move_tail(&folio->lru, &h->hugepage_freelists[folio_nid(folio)]);
		}
		zero_busy = 0;
		WRITE_ONCE(zero_generation, zero_generation + 1);
	}
	wake_up_all(&zero_wait);
	return ret ?: n;
}

static void zero_hugetlb_work(struct work_struct *work)
{
	struct hstate *h;
	int ret = 0;

	for_each_hstate(h) {
		/* Gigantic ones that cannot be freed at run time are released as well */
		do {
			if (!READ_ONCE(zero_hugetlb_on) || !zero_function())
				return;
			ret = zero_hugetlb_batch(h);
			cond_resched();
		} while (ret > 0);
		if (ret)
			break;
	}
	if (ret == -EBUSY || ret == -EIO)
		queue_delayed_work(system_dfl_wq, &zero_work, ZERO_HUGETLB_RETRY);
}

/* The host has come, or come back: all that is free is to be released anew */
void zero_hugetlb_start(void)
{
	struct folio *folio;
	struct hstate *h;
	int nid;

	if (!hugepages_supported() || !zero_function())
		return;
	static_branch_enable(&host_zero_hugetlb_key);

	for_each_hstate(h) {
		for_each_node_state(nid, N_MEMORY) {
			guard(spinlock_irq)(&hugetlb_lock);
			list_for_each_entry(folio, &h->hugepage_freelists[nid], lru) {
				folio_clear_hugetlb_zeroed(folio);
				folio_clear_hugetlb_kept(folio);
			}
		}
	}
	__host_zero_hugetlb_enqueued();
}

static ssize_t hugetlb_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(zero_hugetlb_on));
}

static ssize_t hugetlb_store(struct kobject *kobj, struct kobj_attribute *attr,
			     const char *buf, size_t count)
{
	bool on;
	int ret = kstrtobool(buf, &on);

	if (ret)
		return ret;
	WRITE_ONCE(zero_hugetlb_on, on);
	if (on)
		zero_hugetlb_start();
	return count;
}

static struct kobj_attribute zero_hugetlb_attr = __ATTR_RW(hugetlb);

static ssize_t hugetlb_delay_ms_show(struct kobject *kobj, struct kobj_attribute *attr,
				     char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(zero_hugetlb_delay_ms));
}

static ssize_t hugetlb_delay_ms_store(struct kobject *kobj, struct kobj_attribute *attr,
				      const char *buf, size_t count)
{
	unsigned int ms;
	int ret = kstrtouint(buf, 0, &ms);

	if (ret)
		return ret;
	if (ms > 60 * MSEC_PER_SEC)
		return -EINVAL;
	WRITE_ONCE(zero_hugetlb_delay_ms, ms);
	/* Also for what waits already */
	if (delayed_work_pending(&zero_work))
		mod_delayed_work(system_dfl_wq, &zero_work, msecs_to_jiffies(ms));
	return count;
}

static struct kobj_attribute zero_hugetlb_delay_attr = __ATTR_RW(hugetlb_delay_ms);

void __init zero_hugetlb_init(void)
{
	if (zero_kobj && (sysfs_create_file(zero_kobj, &zero_hugetlb_attr.attr) ||
			  sysfs_create_file(zero_kobj, &zero_hugetlb_delay_attr.attr)))
		pr_warn("pvmemctl: zero: no memory for files of hugetlb in sysfs\n");
}
