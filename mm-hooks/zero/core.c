// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page zeroing by the host, through pvmemctl: can it, and did it?
 *
 * Memory that the host has released reads as zero when it is touched again.  To
 * clear it here as well is work for nothing.  Who has such memory asks through
 * zero_ranges() and is told, range by range, what will read as zero; where it
 * matters he asks zero_skip(), which can look whether that is so.
 *
 * That the host zeroes is never taken for granted.  One of protocol 1.1 says that
 * it can.  With pvmemctl.zero=probe nothing is believed: a page is tried before
 * anything else is, and each range carries a word that must be gone afterwards.
 * That is also the only way to use a host of 1.0, of which nobody can tell what
 * backs the guest's memory.  A host that said it had zeroed and had not is asked no
 * more.
 *
 * Documentation/mm/page_zeroing.rst has the whole story.
 */

#define pr_fmt(fmt) "pvmemctl: zero: " fmt

#include <linux/cc_platform.h>
#include <linux/cleanup.h>
#include <linux/highmem.h>
#include <linux/host_zero.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kasan.h>
#include <linux/log2.h>
#include <linux/moduleparam.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include <kunit/static_stub.h>

#include "zero.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pvmemctl_zero.h>

/* With the core of the driver, whatever this file is called */
#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pvmemctl."

VISIBLE_IF_KUNIT enum pvmemctl_mode zero_mode = PVMEMCTL_MODE_ON;

DEFINE_PER_CPU(struct zero_stats, zero_stats[ZERO_NR_MECH]);

/*
 * Protects what is known of the host as writer.  The fast paths only read zero_func
 * and zero_check, which say no more than "try".  Taken in any context but NMI.
 */
static DEFINE_SPINLOCK(zero_lock);
static u64 zero_func;		/* how the host zeroes; 0, which is INFO: not at all */
static bool zero_check;		/* look at each range whether it did */
static const char *zero_why = "no host yet";

/* Look at everything that is taken for zero: for tests, since it costs what it saves */
static DEFINE_STATIC_KEY_FALSE(zero_verify_key);

/* The host ------------------------------------------------------------------ */

/* Not in those themselves, which may be called with raw locks held */
VISIBLE_IF_KUNIT long zero_call(u64 func_code, struct memctl_buf *buf)
{
	KUNIT_STATIC_STUB_REDIRECT(zero_call, func_code, buf);
	return memctl_vmm_call(func_code, 0, 0, 0, buf);
}

VISIBLE_IF_KUNIT long zero_call_vec(u64 func_code, const struct memctl_vmm_range *ranges,
				    unsigned int nr, unsigned int *done)
{
	KUNIT_STATIC_STUB_REDIRECT(zero_call_vec, func_code, ranges, nr, done);
	return memctl_vmm_call_vec(func_code, ranges, nr, done);
}

/* What excludes it, one by one so that tests can have each */
VISIBLE_IF_KUNIT bool zero_cc_has(enum cc_attr attr)
{
	KUNIT_STATIC_STUB_REDIRECT(zero_cc_has, attr);
	return cc_platform_has(attr);
}

VISIBLE_IF_KUNIT bool zero_inits_on_free(void)
{
	KUNIT_STATIC_STUB_REDIRECT(zero_inits_on_free);
	return want_init_on_free();
}

VISIBLE_IF_KUNIT bool zero_poisons(void)
{
	KUNIT_STATIC_STUB_REDIRECT(zero_poisons);
	return page_poisoning_enabled();
}

VISIBLE_IF_KUNIT bool zero_has_tags(void)
{
	KUNIT_STATIC_STUB_REDIRECT(zero_has_tags);
	return kasan_hw_tags_enabled();
}

/* Why this kernel must not rely on the host, or NULL */
static const char *zero_exclusion(void)
{
	/* What the host does to memory is nothing that this guest could rely on */
	if (zero_cc_has(CC_ATTR_MEM_ENCRYPT) || zero_cc_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return "memory of this guest is encrypted";
	/* Free memory is cleared already, and at once */
	if (zero_inits_on_free())
		return "init_on_free is set";
	/* Free memory must hold the poison */
	if (zero_poisons())
		return "page_poison is set";
	/* Tags are set while memory is cleared */
	if (zero_has_tags())
		return "KASAN uses hardware tags";
	return NULL;
}

/* Words that a host that did nothing would leave in place */
static void zero_plant(const struct memctl_vmm_range *range)
{
	u64 *first = phys_to_virt(range->addr);
	u64 *last = phys_to_virt(range->addr + range->length) - sizeof(*last);

	/* To KASAN the page may be free */
	kasan_disable_current();
	/* What is there already does as well, and need not be backed */
	if (!READ_ONCE(*first))
		WRITE_ONCE(*first, ~0ULL);
	if (!READ_ONCE(*last))
		WRITE_ONCE(*last, ~0ULL);
	kasan_enable_current();
}

/*
 * A private mapping of a file, of a snapshot maybe, has the file's contents again after
 * DONTNEED: only all of the range tells.  Elsewhere two words do, and to read more
 * would have the host back it.
 */
static bool zero_is_gone(const struct memctl_vmm_range *range, u64 func)
{
	u64 *first = phys_to_virt(range->addr);
	u64 *last = phys_to_virt(range->addr + range->length) - sizeof(*last);
	bool gone;

	kasan_disable_current();
	gone = !READ_ONCE(*first) && !READ_ONCE(*last);
	if (gone && func == MEMCTL_DONTNEED)
		gone = !memchr_inv(first, 0, range->length);
	kasan_enable_current();
	return gone;
}

static void zero_set(u64 func, bool check, const char *why)
{
	guard(spinlock_irqsave)(&zero_lock);
	zero_why = why;
	WRITE_ONCE(zero_check, check);
	/* Whoever sees the function sees how to treat it; pairs with zero_ranges() */
	smp_store_release(&zero_func, func);
}

/* It said that it had, and had not.  What was zeroed before was looked at */
static void zero_distrust(void)
{
	if (!zero_function())
		return;
	zero_set(0, false, "host does not do what it says");
	pr_warn("host claims to have zeroed memory and has not; pages are cleared by this kernel from now on\n");
}

/* Does what was written into a page go away?  0 if so, -EBADE for a lie */
static int zero_try(u64 func)
{
	struct memctl_buf buf;
	long ret;

	ret = zero_call(MEMCTL_INFO, &buf) ?: memctl_ret_errno(&buf);
	if (ret)
		return ret;
	/* The core has looked at it, of another device maybe */
	if (!is_power_of_2(buf.ret.ret_value) || buf.ret.ret_value > SZ_2M)
		return -EINVAL;
	return memctl_probe_zero(func, get_order(buf.ret.ret_value));
}

/* Of all its memory the host says that it can zero it */
static bool zero_is_known(void)
{
	struct memctl_buf buf;

	return !zero_call(MEMCTL_QUERY, &buf) && !memctl_ret_errno(&buf) &&
	       buf.ret.ret_value & BIT_ULL(MEMCTL_ZERO);
}

/* Whoever calls is told of the provider, one event after the other */
static void zero_learn(void)
{
	static const u64 funcs[] = { MEMCTL_ZERO, MEMCTL_DONTNEED, MEMCTL_REMOVE };
	const char *why = zero_mode == PVMEMCTL_MODE_OFF ? "pvmemctl.zero=off" : zero_exclusion();
	bool known;
	int i, ret;

	if (why) {
		zero_set(0, false, why);
		return;
	}
	known = zero_is_known();
	if (zero_mode == PVMEMCTL_MODE_ON) {
		zero_set(known ? MEMCTL_ZERO : 0, false,
			 known ? "host says that it can" :
				 "host does not say that it can; see pvmemctl.zero=probe");
		return;
	}
	for (i = known ? 0 : 1; i < ARRAY_SIZE(funcs); i++) {
		ret = zero_try(funcs[i]);
		if (!ret) {
			zero_set(funcs[i], true, "host was seen to do it");
			return;
		}
		/* One that lies is not asked for something else */
		if (ret == -EBADE && known)
			break;
	}
	zero_set(0, false, "host was not seen to do it");
	pr_info("writing to a page and asking the host to zero it leaves it as it is: not used\n");
}

/* What the host may be asked now; 0: nothing */
u64 zero_function(void)
{
	return smp_load_acquire(&zero_func); /* pairs with zero_set() */
}

/* Will each range be looked at? */
bool zero_is_checked(void)
{
	return READ_ONCE(zero_check);
}

/*
 * To look at what the host has released has taken memory of it again: small pages, or a
 * huge one for each.  It reads as zero now, so to have it released once more needs no look.
 */
static void zero_release_again(u64 func, const struct memctl_vmm_range *ranges,
			       unsigned int nr, const bool *zeroed)
{
	unsigned int i, end, done;

	for (i = 0; i < nr; i = end + 1) {
		for (end = i; end < nr && zeroed[end]; end++)
			;
		if (end > i)
			zero_call_vec(func, ranges + i, end - i, &done);
	}
}

/**
 * zero_ranges - have memory zeroed and released by the host
 * @mech: on whose behalf
 * @ranges: memory that nobody uses, mapped by this kernel
 * @nr: how many
 * @zeroed: set for each range that reads as zero now
 *
 * Context: Any but NMI.
 * Return: 0, or a negative errno when it makes no sense to go on; some ranges may
 *	   have been zeroed before that.  A range that is refused is no error.
 */
int zero_ranges(enum zero_mech mech, const struct memctl_vmm_range *ranges,
		unsigned int nr, bool *zeroed)
{
	const u64 func = zero_function();
	const bool check = zero_is_checked();
	unsigned int i, done;
	long ret = 0;

	memset(zeroed, 0, nr * sizeof(*zeroed));
	if (!func)
		return -EOPNOTSUPP;
	for (i = 0; check && i < nr; i++)
		zero_plant(&ranges[i]);

	/* Each round does a range or gives one up */
	for (i = 0; i < nr;) {
		ret = zero_call_vec(func, ranges + i, nr - i, &done);
		for (done = min(done, nr - i); done; done--, i++) {
			zeroed[i] = !check || zero_is_gone(&ranges[i], func);
			if (!zeroed[i]) {
				zero_count(mech, lies, 1);
				zero_distrust();
				return -EBADE;
			}
			zero_count(mech, released, ranges[i].length);
		}
		if (i == nr) {
			ret = 0;
			break;
		}
		if (!ret)
			ret = -EIO;
		if (!memctl_is_refusal(ret))
			break;
		zero_count(mech, refused, 1);
		i++;
		ret = 0;
	}
	/* Memory that is zeroed by call is touched next */
	if (check && mech != ZERO_CALL)
		zero_release_again(func, ranges, nr, zeroed);
	trace_pvmemctl_zero_release(mech, nr, i, ret);
	return ret;
}

/* Pages --------------------------------------------------------------------- */

static noinline bool zero_verify(enum zero_mech mech, struct page *page, unsigned int order)
{
	unsigned long i;
	void *at, *bad;

	for (i = 0; i < 1UL << order; i++) {
		at = kmap_local_page(page + i);
		bad = memchr_inv(at, 0, PAGE_SIZE);
		kunmap_local(at);
		if (bad) {
			zero_count(mech, lies, 1);
			WARN(1, "pvmemctl: zero: pfn %lx of %lx, order %u is not zero\n",
			     page_to_pfn(page) + i, page_to_pfn(page), order);
			return false;
		}
	}
	return true;
}

/**
 * zero_skip - need this not be cleared?
 * @mech: who says that it reads as zero
 * @page: first page
 * @order: number of pages, as a power of two
 *
 * Context: Any.
 * Return: true if not; that is counted.
 */
bool zero_skip(enum zero_mech mech, struct page *page, unsigned int order)
{
	if (static_branch_unlikely(&zero_verify_key) && !zero_verify(mech, page, order))
		return false;
	zero_count(mech, skipped[min(order, ZERO_NR_ORDERS - 1)], PAGE_SIZE << order);
	trace_pvmemctl_zero_skip(mech, page_to_pfn(page), order);
	return true;
}

/* Control and sight --------------------------------------------------------- */

VISIBLE_IF_KUNIT int zero_notify(struct notifier_block *nb, unsigned long event, void *data)
{
	switch (event) {
	case PVMEMCTL_ADDED:
	case PVMEMCTL_RESET:
	case PVMEMCTL_RESUMED:
		zero_learn();
		zero_hugetlb_start();
		zero_free_start();
		zero_call_start();
		break;
	case PVMEMCTL_LOST:
		zero_set(0, false, "host has left");
		zero_free_start();
		break;
	}
	return NOTIFY_OK;
}

module_param_cb(zero, &pvmemctl_mode_ops, &zero_mode, 0444);

static int zero_verify_set(const char *val, const struct kernel_param *kp)
{
	bool on;
	int ret = kstrtobool(val, &on);

	if (!ret && on)
		static_branch_enable(&zero_verify_key);
	return ret;
}

static const struct kernel_param_ops zero_verify_ops = {
	.set = zero_verify_set,
};
module_param_cb(zero_verify, &zero_verify_ops, NULL, 0);

struct kobject *zero_kobj;

static ssize_t state_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	guard(spinlock_irqsave)(&zero_lock);
	return sysfs_emit(buf, "%s: %s\n", zero_func ? "on" : "off", zero_why);
}

static struct kobj_attribute zero_state_attr = __ATTR_RO(state);

static u64 zero_sum(enum zero_mech mech, size_t offset)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*(u64 *)((void *)&per_cpu(zero_stats[mech], cpu) + offset));
	return sum;
}

/* One counter of one mechanism */
struct zero_attr {
	struct kobj_attribute attr;
	enum zero_mech mech;
	size_t offset;
};

static ssize_t zero_count_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct zero_attr *za = container_of(attr, struct zero_attr, attr);

	return sysfs_emit(buf, "%llu\n", zero_sum(za->mech, za->offset));
}

/* Of each order that there is something of: the order, bytes */
static ssize_t zero_skipped_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct zero_attr *za = container_of(attr, struct zero_attr, attr);
	int order, len = 0;
	u64 bytes;

	for (order = 0; order < ZERO_NR_ORDERS; order++) {
		bytes = zero_sum(za->mech, offsetof(struct zero_stats, skipped[order]));
		if (bytes)
			len += sysfs_emit_at(buf, len, "%d %llu\n", order, bytes);
	}
	return len;
}

#define ZERO_ATTR(_mech, _prefix, _field) {					\
	.attr = __ATTR(_prefix##_field, 0444, zero_count_show, NULL),		\
	.mech = _mech, .offset = offsetof(struct zero_stats, _field),		\
}

#define ZERO_ATTRS(_mech, _prefix)						\
	{ .attr = __ATTR(_prefix##skipped, 0444, zero_skipped_show, NULL), .mech = _mech }, \
	ZERO_ATTR(_mech, _prefix, released),					\
	ZERO_ATTR(_mech, _prefix, refused),					\
	ZERO_ATTR(_mech, _prefix, lies)

static struct zero_attr zero_attrs[] = {
	ZERO_ATTRS(ZERO_HUGETLB, hugetlb_),
	ZERO_ATTRS(ZERO_FREE, report_),
	ZERO_ATTRS(ZERO_CALL, call_),
	ZERO_ATTR(ZERO_CALL, call_, fallbacks),
};

static struct notifier_block zero_nb = {
	.notifier_call = zero_notify,
};

static int __init zero_init(void)
{
	int i, ret = 0;

	zero_kobj = pvmemctl_kobj ? kobject_create_and_add("zero", pvmemctl_kobj) : NULL;
	if (zero_kobj)
		ret = sysfs_create_file(zero_kobj, &zero_state_attr.attr);
	for (i = 0; zero_kobj && !ret && i < ARRAY_SIZE(zero_attrs); i++)
		ret = sysfs_create_file(zero_kobj, &zero_attrs[i].attr.attr);
	if (ret)
		pr_warn("no memory for /sys/kernel/mm/pvmemctl/zero\n");
	zero_hugetlb_init();
	zero_free_init();
	zero_call_init();

	return pvmemctl_register_notifier(&zero_nb);
}

/* After the pool of huge pages and the core of pvmemctl */
late_initcall(zero_init);
