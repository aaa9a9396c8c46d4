/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MM_PVMEMCTL_ZERO_H
#define _MM_PVMEMCTL_ZERO_H

#include <linux/atomic.h>
#include <linux/cc_platform.h>
#include <linux/kobject.h>
#include <linux/percpu.h>
#include <linux/pvmemctl.h>
#include <linux/sizes.h>

#include <kunit/visibility.h>

/**
 * enum zero_mech - who asked the host, or has pages known to be zero
 * @ZERO_HUGETLB: free pages of the hugetlb pool
 * @ZERO_FREE: free memory that was reported
 * @ZERO_CALL: who would have to clear it now
 * @ZERO_NR_MECH: how many there are
 */
enum zero_mech {
	ZERO_HUGETLB,
	ZERO_FREE,
	ZERO_CALL,
	ZERO_NR_MECH,
};

/* Up to the order of 1 GiB, and whatever is larger */
#define ZERO_NR_ORDERS		(30 - PAGE_SHIFT + 1)

/* Bytes that one batch carries, so that nobody waits for long; one page may be more */
#define ZERO_BATCH_BYTES	SZ_128M

/* How many ranges a batch has at most */
#define ZERO_BATCH		64

/**
 * struct zero_stats - what became of memory, on one CPU
 * @skipped: bytes that were not cleared, by order
 * @released: bytes that the host zeroed
 * @refused: ranges that the host would not zero
 * @lies: ranges that the host said it had zeroed, and had not
 * @fallbacks: pages cleared here because the host was of no use
 */
struct zero_stats {
	u64 skipped[ZERO_NR_ORDERS];
	u64 released;
	u64 refused;
	u64 lies;
	u64 fallbacks;
};

DECLARE_PER_CPU(struct zero_stats, zero_stats[ZERO_NR_MECH]);

#define zero_count(mech, field, n)	this_cpu_add(zero_stats[mech].field, n)

extern struct kobject *zero_kobj;

/* What the host may be asked now; 0: nothing */
u64 zero_function(void);
bool zero_is_checked(void);

int zero_ranges(enum zero_mech mech, const struct memctl_vmm_range *ranges,
		unsigned int nr, bool *zeroed);
bool zero_skip(enum zero_mech mech, struct page *page, unsigned int order);

#ifdef CONFIG_HUGETLB_PAGE
void zero_hugetlb_start(void);
void zero_hugetlb_init(void);
#else
static inline void zero_hugetlb_start(void) { }
static inline void zero_hugetlb_init(void) { }
#endif

#ifdef CONFIG_PAGE_REPORTING
void zero_free_start(void);
void zero_free_init(void);
#else
static inline void zero_free_start(void) { }
static inline void zero_free_init(void) { }
#endif

void zero_call_start(void);
void zero_call_init(void);

#if IS_ENABLED(CONFIG_KUNIT)
extern enum pvmemctl_mode zero_mode;

long zero_call(u64 func_code, struct memctl_buf *buf);
long zero_call_vec(u64 func_code, const struct memctl_vmm_range *ranges,
		   unsigned int nr, unsigned int *done);
bool zero_cc_has(enum cc_attr attr);
bool zero_inits_on_free(void);
bool zero_poisons(void);
bool zero_has_tags(void);
int zero_notify(struct notifier_block *nb, unsigned long event, void *data);
#endif

#endif /* _MM_PVMEMCTL_ZERO_H */
