/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the pool of kernel stacks: chunks and stacks (pool.c), what the host
 * is asked (host.c), what users see (sysfs.c).
 */
#ifndef _MM_PVMEMCTL_STACK_H
#define _MM_PVMEMCTL_STACK_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pgtable.h>
#include <linux/pvmemctl.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/stack_pool.h>
#include <linux/thread_info.h>
#include <linux/vmalloc.h>

#define STACK_PAGES		(THREAD_SIZE / PAGE_SIZE)

/* A host that can back 2 MiB at once does so by what is aligned to that */
#define STACK_CHUNK_ORDER	PMD_ORDER
#define STACK_CHUNK_SIZE	(PAGE_SIZE << STACK_CHUNK_ORDER)
#define STACKS_PER_CHUNK	(STACK_CHUNK_SIZE / THREAD_SIZE)

/* Idle stacks come first, those before others that are to be used first */
enum stack_state {
	STACK_WARM,		/* idle, with the top page written to */
	STACK_CLEAN,		/* ... with no page written to */
	STACK_DEEP,		/* ... with more pages written to */
	STACK_NR_IDLE,
	STACK_LIVE = STACK_NR_IDLE, /* handed out, or in the hands of the pool's work */
	STACK_GONE,		/* dismantled, or about to be */
};

/**
 * struct pooled_stack - a stack, mapped for as long as it is in the pool
 * @area: where it is mapped; its @pages are those of this struct
 * @ptep: entry of its lowest page in the page table; the others follow.  A page
 *	  with a clean entry is zero.
 * @chunk: where its pages are from
 * @rcu: for stack_pool_put_rcu(); no stack is written to for that
 * @list: on one of the lists of the pool
 * @state: changed under the pool's lock
 * @end_set: STACK_END_MAGIC was written for whoever has it; theirs alone
 * @pages: from the lowest address on
 */
struct pooled_stack {
	struct vm_struct *area;
	pte_t *ptep;
	struct stack_chunk *chunk;
	struct rcu_head rcu;
	struct list_head list;
	enum stack_state state;
	bool end_set;
	struct page *pages[STACK_PAGES];
};

/**
 * struct stack_chunk - memory of STACKS_PER_CHUNK stacks
 * @list: on stack_pool.chunks
 * @pool: whose it is
 * @pfn: first page; the top pages of all stacks come first, then the others, stack
 *	 by stack
 * @refs: stacks not yet dismantled, and who else looks at the chunk
 * @live: stacks in state STACK_LIVE
 * @shattered: some of its stacks are gone, the others will not be used again
 * @stacks: what it is made up to
 *
 * Counts and @shattered change under the pool's lock.
 */
struct stack_chunk {
	struct list_head list;
	struct stack_pool *pool;
	unsigned long pfn;
	unsigned int refs;
	unsigned int live;
	bool shattered;
	struct pooled_stack stacks[STACKS_PER_CHUNK];
};

/* What has happened so far.  One page for each stack that was used counts in depth[1] */
struct stack_stats {
	unsigned long taken;		/* stacks handed out */
	unsigned long fallbacks;	/* ... that were not there to be handed out */
	unsigned long grown;		/* chunks made */
	unsigned long not_grown;	/* chunks that could not be made */
	unsigned long shattered;	/* chunks */
	unsigned long depth[STACK_PAGES + 1];	/* stacks, by pages written at return */
	unsigned long released;		/* pages the host took back */
	unsigned long refused;		/* pages it did not, cleared by the guest */
};

/**
 * struct stack_pool - the stacks of one node
 * @lock: protects all below but @grow_lock.  Innermost, taken in softirq context;
 *	  nothing but lists and counters is touched under it.
 * @nid: the node
 * @idle: idle stacks by state, first those used last
 * @dead: idle stacks of shattered chunks, to be dismantled
 * @chunks: all chunks
 * @nr_idle: stacks on each list of @idle
 * @nr_live: stacks in state STACK_LIVE
 * @nr_stacks: all stacks that are not dismantled
 * @nr_chunks: on @chunks
 * @last_take: jiffies when a stack was last taken
 * @hold_off: jiffies before which no chunk is to be made
 * @stats: what has happened
 * @grow_lock: one chunk at a time is made; held while memory is allocated for it, so
 *	       never taken in reclaim
 */
struct stack_pool {
	spinlock_t lock;		/* innermost, see above */
	int nid;
	struct list_head idle[STACK_NR_IDLE];
	struct list_head dead;
	struct list_head chunks;
	unsigned int nr_idle[STACK_NR_IDLE];
	unsigned int nr_live;
	unsigned int nr_stacks;
	unsigned int nr_chunks;
	unsigned long last_take;
	unsigned long hold_off;
	struct stack_stats stats;
	struct mutex grow_lock;		/* see above */
};

/* pool.c */
extern bool stack_pool_active;

struct stack_pool *stack_pool_of(int nid);
unsigned int stack_pool_ready(const struct stack_pool *pool);
int stack_pool_init(void);
void stack_pool_start(void);
void stack_pool_stop(void);
void stack_pool_each_chunk(void (*fn)(struct stack_chunk *chunk, void *data), void *data);

#if IS_ENABLED(CONFIG_KUNIT)
struct stack_pool *stack_pool_new(int nid);
int stack_pool_grow(struct stack_pool *pool);
struct pooled_stack *stack_pool_take(struct stack_pool *pool);
unsigned int stack_pool_bury(struct stack_pool *pool);
unsigned int stack_pool_shatter(struct stack_pool *pool, unsigned int keep);
void stack_pool_tidy(struct stack_pool *pool);
#endif

/* host.c */
int stack_host_zero(const struct memctl_vmm_range *ranges, unsigned int nr,
		    unsigned int *done);
void stack_host_small(const struct stack_chunk *chunk);
void stack_host_default(const struct stack_chunk *chunk);
int stack_host_enable(bool enable);
bool stack_host_enabled(void);
unsigned long stack_host_calls(void);
unsigned long stack_host_not_small(void);

/* sysfs.c */
void stack_sysfs_init(void);

#endif /* _MM_PVMEMCTL_STACK_H */
