// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool of kernel stacks whose unused pages the host does not back.
 *
 * A stack is mapped once, with clean entries in the page table, of pages that the
 * host has zeroed.  It stays mapped while one thread after the other uses it.  The
 * MMU marks the entry of each page that is written to.  So whoever uses the stack
 * next has to clear the pages that are marked, one as a rule; the others are zero,
 * and nobody has touched them: the host has nothing there.
 *
 * All rests on one invariant: a page with a clean entry is zero.  Before an entry is
 * made clean its stack is idle and off all lists; the TLBs are flushed after that,
 * for what they know of a dirty entry would keep a later write from marking it; and
 * only then the page is zeroed, by the host or by us.
 *
 * The memory comes in chunks of 2 MiB.  The top pages of all stacks in a chunk lie
 * together, and so do all others.  The host is asked not to back a chunk by a huge
 * page.  When few stacks of a chunk are in use, it is shattered: the pages of the idle
 * ones go back to the page allocator, and the others follow when they become idle.
 *
 * Nobody but the pool's work and its shrinker talks to the host, except that a thread
 * that wants a stack where there is none makes a chunk for all.
 */

#define pr_fmt(fmt) "stack pool: " fmt

#include <linux/cleanup.h>
#include <linux/cpuset.h>
#include <linux/kasan.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/syscore_ops.h>
#include <linux/vmalloc.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include <asm/tlbflush.h>
#include <kunit/visibility.h>

#include "../../internal.h"
#include "stack.h"

#define CREATE_TRACE_POINTS
#include <trace/events/stack_pool.h>

/* Ranges for the host in one go, and how many the written pages of a stack can make */
#define STACK_RANGES		MEMCTL_VECTOR_MAX
#define STACK_PIECES		(DIV_ROUND_UP(STACK_PAGES - 1, 2) + 1)
#define STACK_BATCH		(STACK_RANGES / STACK_PIECES)

/* How long deep stacks are gathered, and how long the pool is to be quiet to shrink */
#define STACK_GATHER		(HZ / 10)
#define STACK_QUIET		(HZ / 2)

/* After so many refused ranges of a batch the host is not asked for the others */
#define STACK_REFUSALS		8

/* So many times more idle stacks than there may be are given up at once */
#define STACK_PLENTY		4

/* After there was no memory, or too little */
#define STACK_HOLD_OFF		HZ

DEFINE_STATIC_KEY_FALSE(stack_pool_key);

/* Stacks may be handed out; else all of them are given up as they become idle */
bool stack_pool_active __read_mostly;

static struct stack_pool *stack_pools[MAX_NUMNODES];
static struct workqueue_struct *stack_pool_wq;

/* Only stack_pool_tidy() uses it */
static struct memctl_vmm_range stack_pool_ranges[STACK_RANGES];

static void stack_pool_grow_work(struct work_struct *work);
static void stack_pool_tidy_work(struct work_struct *work);

static DECLARE_WORK(stack_pool_grower, stack_pool_grow_work);
static DECLARE_DELAYED_WORK(stack_pool_tidier, stack_pool_tidy_work);

struct stack_pool *stack_pool_of(int nid)
{
	return stack_pools[nid];
}

/* Stacks that should be idle, so that a burst of threads finds some */
static unsigned int stack_pool_low(const struct stack_pool *pool)
{
	return STACKS_PER_CHUNK / 2 + pool->nr_live / 16;
}

/* ... and that may be idle for longer */
static unsigned int stack_pool_high(const struct stack_pool *pool)
{
	return READ_ONCE(stack_pool_active) ? stack_pool_low(pool) + STACKS_PER_CHUNK : 0;
}

/* Stacks that can be handed out; without the lock about so many */
unsigned int stack_pool_ready(const struct stack_pool *pool)
{
	unsigned int state, ready = 0;

	for (state = 0; state < STACK_NR_IDLE; state++)
		ready += READ_ONCE(pool->nr_idle[state]);
	return ready;
}

/* Too many idle stacks, or too many of them hold a page of the host */
static bool stack_pool_is_untidy(const struct stack_pool *pool)
{
	return stack_pool_ready(pool) > stack_pool_high(pool) ||
	       READ_ONCE(pool->nr_idle[STACK_WARM]) > stack_pool_low(pool);
}

/* What idle stacks hold can be had back, and should count as available */
static void stack_pool_account(const struct stack_pool *pool, int stacks)
{
	mod_node_page_state(NODE_DATA(pool->nid), NR_KERNEL_MISC_RECLAIMABLE,
			    stacks * (long)STACK_PAGES);
}

/* NULL for stacks that are not from here: vmalloc() allocates their pages */
static struct pooled_stack *pooled_stack(const struct vm_struct *area)
{
	if (!area || !(area->flags & VM_MAP))
		return NULL;
	return container_of(area->pages, struct pooled_stack, pages[0]);
}

static bool stack_page_dirty(const struct pooled_stack *stack, unsigned int i)
{
	return pte_dirty(ptep_get(stack->ptep + i));
}

static unsigned int stack_pages_dirty(const struct pooled_stack *stack)
{
	unsigned int i, dirty = 0;

	for (i = 0; i < STACK_PAGES; i++)
		dirty += stack_page_dirty(stack, i);
	return dirty;
}

/* The lowest page that is written to, or else the top one */
static unsigned int stack_lowest_page(const struct pooled_stack *stack)
{
	unsigned int i = 0;

	while (i < STACK_PAGES - 1 && !stack_page_dirty(stack, i))
		i++;
	return i;
}

/* Is there more to clear than the page that every thread uses? */
static bool stack_is_deep(const struct pooled_stack *stack)
{
	return stack_lowest_page(stack) < STACK_PAGES - 1;
}

/* Chunks -------------------------------------------------------------------- */

static unsigned long stack_page_pfn(const struct stack_chunk *chunk, unsigned int stack,
				    unsigned int page)
{
	if (page == STACK_PAGES - 1)
		return chunk->pfn + stack;
	return chunk->pfn + STACKS_PER_CHUNK + stack * (STACK_PAGES - 1) + page;
}

static int stack_map(struct stack_chunk *chunk, unsigned int index)
{
	/* Never dirty, also not for a moment: a TLB might remember */
	const pgprot_t clean = pte_pgprot(pte_mkclean(pfn_pte(0, PAGE_KERNEL)));
	struct pooled_stack *stack = &chunk->stacks[index];
	const int nid = chunk->pool->nid;
	struct vm_struct *area;
	unsigned long addr;
	unsigned int i;

	for (i = 0; i < STACK_PAGES; i++)
		stack->pages[i] = pfn_to_page(stack_page_pfn(chunk, index, i));

	/* With a guard page, as vmalloc() does it */
	area = __get_vm_area_node(THREAD_SIZE, THREAD_ALIGN, PAGE_SHIFT, VM_MAP,
				  VMALLOC_START, VMALLOC_END, nid, GFP_KERNEL,
				  __builtin_return_address(0));
	if (!area)
		return -ENOMEM;
	addr = (unsigned long)area->addr;
	if (vmap_pages_range(addr, addr + THREAD_SIZE, clean, stack->pages, PAGE_SHIFT)) {
		vunmap(area->addr);
		return -ENOMEM;
	}

	area->pages = stack->pages;
	area->nr_pages = STACK_PAGES;
	stack->area = area;
	stack->chunk = chunk;
	/* One table has them all: THREAD_ALIGN.  It stays while they are mapped. */
	stack->ptep = virt_to_kpte(addr);
	/* Idle stacks stay mapped; who uses one is to be found as if they did not */
	kasan_poison_vmalloc(area->addr, THREAD_SIZE);
	return 0;
}

/* The pages of a chunk are with the page allocator when its last reference goes */
static void stack_chunk_put(struct stack_chunk *chunk)
{
	struct stack_pool *pool = chunk->pool;

	scoped_guard(spinlock_irqsave, &pool->lock) {
		if (--chunk->refs)
			return;
		list_del(&chunk->list);
		pool->nr_chunks--;
	}
	kvfree(chunk);
}

/* Off all lists and marked as gone; nobody is left who knows of it */
static void stack_dismantle(struct pooled_stack *stack)
{
	unsigned int i;

	vunmap(stack->area->addr);
	for (i = 0; i < STACK_PAGES; i++)
		__free_page(stack->pages[i]);
	stack_chunk_put(stack->chunk);
}

static int stack_pool_make_chunk(struct stack_pool *pool)
{
	struct memctl_vmm_range range;
	struct stack_chunk *chunk;
	unsigned int i, done;
	struct page *page;
	int err = -ENOMEM;

	lockdep_assert_held(&pool->grow_lock);
	chunk = kvzalloc_node(sizeof(*chunk), GFP_KERNEL, pool->nid);
	if (!chunk)
		return -ENOMEM;
	/* One attempt: there are other stacks */
	page = alloc_pages_node(pool->nid, GFP_KERNEL | __GFP_THISNODE | __GFP_NORETRY |
				__GFP_NOWARN, STACK_CHUNK_ORDER);
	if (!page)
		goto err_free;
	split_page(page, STACK_CHUNK_ORDER);
	chunk->pool = pool;
	chunk->pfn = page_to_pfn(page);

	stack_host_small(chunk);
	range.addr = PFN_PHYS(chunk->pfn);
	range.length = STACK_CHUNK_SIZE;
	err = stack_host_zero(&range, 1, &done);
	if (err)
		goto err_default;
	for (i = 0; i < STACKS_PER_CHUNK; i++) {
		err = stack_map(chunk, i);
		if (err)
			goto err_unmap;
		chunk->stacks[i].state = STACK_CLEAN;
	}

	chunk->refs = STACKS_PER_CHUNK;
	scoped_guard(spinlock_irqsave, &pool->lock) {
		list_add_tail(&chunk->list, &pool->chunks);
		for (i = 0; i < STACKS_PER_CHUNK; i++)
			list_add_tail(&chunk->stacks[i].list, &pool->idle[STACK_CLEAN]);
		pool->nr_idle[STACK_CLEAN] += STACKS_PER_CHUNK;
		pool->nr_stacks += STACKS_PER_CHUNK;
		pool->nr_chunks++;
		pool->stats.grown++;
	}
	stack_pool_account(pool, STACKS_PER_CHUNK);
	trace_stack_pool_grow(pool->nid, chunk->pfn, STACKS_PER_CHUNK, 0);
	return 0;

err_unmap:
	while (i--)
		vunmap(chunk->stacks[i].area->addr);
err_default:
	stack_host_default(chunk);
	for (i = 0; i < 1 << STACK_CHUNK_ORDER; i++)
		__free_page(pfn_to_page(chunk->pfn + i));
err_free:
	kvfree(chunk);
	return err;
}

VISIBLE_IF_KUNIT int stack_pool_grow(struct stack_pool *pool)
{
	int err;

	if (!READ_ONCE(stack_pool_active) || time_before(jiffies, READ_ONCE(pool->hold_off)))
		return -EAGAIN;
	err = stack_pool_make_chunk(pool);
	if (err) {
		trace_stack_pool_grow(pool->nid, 0, 0, err);
		guard(spinlock_irqsave)(&pool->lock);
		pool->stats.not_grown++;
		/* A thread that is killed says nothing of the next attempt */
		if (err != -EINTR)
			pool->hold_off = jiffies + STACK_HOLD_OFF;
	} else if (!READ_ONCE(stack_pool_active)) {
		/* What stack_pool_stop() came too early for */
		queue_delayed_work(stack_pool_wq, &stack_pool_tidier, 0);
	}
	return err;
}

static void stack_pool_grow_work(struct work_struct *work)
{
	int nid;

	for_each_node_state(nid, N_MEMORY) {
		struct stack_pool *pool = stack_pools[nid];

		if (!pool)
			continue;
		guard(mutex)(&pool->grow_lock);
		/* Hold off ends this, or enough of them */
		while (stack_pool_ready(pool) < stack_pool_low(pool))
			if (stack_pool_grow(pool))
				break;
	}
}

/* Hand out, take back ---------------------------------------------------------- */

static int stack_pool_policy_node(void)
{
#ifdef CONFIG_NUMA
	return mempolicy_slab_node();
#else
	return 0;
#endif
}

/* An idle stack is to be on its list no more: with the pool's lock held */
static void stack_pool_unlist(struct stack_pool *pool, struct pooled_stack *stack)
{
	pool->nr_idle[stack->state]--;
	list_del(&stack->list);
}

/* ... and to be the caller's alone */
static void stack_pool_claim(struct stack_pool *pool, struct pooled_stack *stack)
{
	stack_pool_unlist(pool, stack);
	stack->state = STACK_LIVE;
	stack->chunk->live++;
	pool->nr_live++;
}

VISIBLE_IF_KUNIT struct pooled_stack *stack_pool_take(struct stack_pool *pool)
{
	struct pooled_stack *stack = NULL;
	unsigned int state;
	bool low;

	scoped_guard(spinlock_irqsave, &pool->lock) {
		for (state = 0; state < STACK_NR_IDLE && !stack; state++)
			stack = list_first_entry_or_null(&pool->idle[state],
							 struct pooled_stack, list);
		if (stack) {
			stack_pool_claim(pool, stack);
			pool->stats.taken++;
		}
		pool->last_take = jiffies;
		low = stack_pool_ready(pool) < stack_pool_low(pool);
	}
	if (stack)
		stack_pool_account(pool, -1);
	if (low && !time_before(jiffies, READ_ONCE(pool->hold_off)))
		queue_work(stack_pool_wq, &stack_pool_grower);
	return stack;
}

struct vm_struct *__stack_pool_get(int node)
{
	struct pooled_stack *stack = NULL;
	struct stack_pool *pool;

	if (!READ_ONCE(stack_pool_active))
		return NULL;
	if (node == NUMA_NO_NODE)
		node = stack_pool_policy_node();
	pool = stack_pools[node];
	if (!pool)
		return NULL;

	if (node_isset(node, cpuset_current_mems_allowed)) {
		stack = stack_pool_take(pool);
		if (!stack && mutex_trylock(&pool->grow_lock)) {
			stack_pool_grow(pool);
			mutex_unlock(&pool->grow_lock);
			stack = stack_pool_take(pool);
		}
	}
	if (!stack) {
		guard(spinlock_irqsave)(&pool->lock);
		pool->stats.fallbacks++;
		return NULL;
	}
	return stack->area;
}

/* A stack on no list is idle from now on, as @state says: with the pool's lock held */
static void stack_pool_settle(struct stack_pool *pool, struct pooled_stack *stack,
			      enum stack_state state)
{
	struct stack_chunk *chunk = stack->chunk;

	chunk->live--;
	pool->nr_live--;
	if (chunk->shattered) {
		state = STACK_GONE;
		list_add(&stack->list, &pool->dead);
	} else {
		list_add(&stack->list, &pool->idle[state]);
		pool->nr_idle[state]++;
	}
	stack->state = state;
}

static void stack_pool_take_back(struct pooled_stack *stack)
{
	struct stack_pool *pool = stack->chunk->pool;
	unsigned int dirty = stack_pages_dirty(stack);
	const bool deep = stack_is_deep(stack);
	bool untidy;

	kasan_poison_vmalloc(stack->area->addr, THREAD_SIZE);
	scoped_guard(spinlock_irqsave, &pool->lock) {
		pool->stats.depth[dirty]++;
		stack_pool_settle(pool, stack, deep ? STACK_DEEP :
					       dirty ? STACK_WARM : STACK_CLEAN);
		untidy = deep || stack->chunk->shattered || stack_pool_is_untidy(pool);
	}
	stack_pool_account(pool, 1);
	if (untidy)
		queue_delayed_work(stack_pool_wq, &stack_pool_tidier, STACK_GATHER);
}

bool __stack_pool_put(struct vm_struct *area)
{
	struct pooled_stack *stack = pooled_stack(area);

	if (stack)
		stack_pool_take_back(stack);
	return stack;
}

static void stack_pool_put_grace(struct rcu_head *rcu)
{
	stack_pool_take_back(container_of(rcu, struct pooled_stack, rcu));
}

bool __stack_pool_put_rcu(struct vm_struct *area)
{
	struct pooled_stack *stack = pooled_stack(area);

	if (stack)
		call_rcu(&stack->rcu, stack_pool_put_grace);
	return stack;
}

bool __stack_pool_may_cache(struct vm_struct *area, int node)
{
	struct pooled_stack *stack = pooled_stack(area);

	if (stack)
		return !stack_is_deep(stack) && READ_ONCE(stack_pool_active) &&
		       !READ_ONCE(stack->chunk->shattered);
	return !READ_ONCE(stack_pool_active) || !stack_pools[node] ||
	       !stack_pool_ready(stack_pools[node]);
}

/* Look, and clear --------------------------------------------------------------- */

static void stack_page_verify(const struct pooled_stack *stack, unsigned int i)
{
	void *page = stack->area->addr + i * PAGE_SIZE;

	if (IS_ENABLED(CONFIG_PVMEMCTL_STACK_VERIFY) &&
	    WARN_ONCE(memchr_inv(page, 0, PAGE_SIZE),
		      "page %u of a stack was not written to and is not zero, pfn 0x%lx\n",
		      i, page_to_pfn(stack->pages[i])))
		clear_page(page);
}

bool __stack_pool_clear(struct vm_struct *area)
{
	struct pooled_stack *stack = pooled_stack(area);
	unsigned int i;

	if (!stack)
		return false;
	/* set_task_stack_end_magic() comes next, and writes to no clean page */
	stack->end_set = stack_page_dirty(stack, 0);
	/* What is written here is to be cleared the next time too: the entry stays dirty */
	for (i = 0; i < STACK_PAGES; i++) {
		if (stack_page_dirty(stack, i))
			clear_page(area->addr + i * PAGE_SIZE);
		else
			stack_page_verify(stack, i);
	}
	return true;
}

/*
 * STACK_END_MAGIC would be all that is written to the lowest page of most stacks.  So
 * it is not there while nobody wrote to that page.
 *
 * A thread comes to the lowest page by the page above, having left return addresses
 * there.  Where that page is clean and the lowest is not, a stray write was it.  Where
 * a thread is seen to be on its way down, the magic is written, and the word tells from
 * then on.
 */
bool __stack_pool_end_unused(struct task_struct *task)
{
	struct pooled_stack *stack = pooled_stack(task_stack_vm_area(task));
	unsigned long *end;

	if (!stack || READ_ONCE(stack->end_set))
		return false;
	end = end_of_stack(task);
	if (stack_page_dirty(stack, 0)) {
		if (*end || !stack_page_dirty(stack, 1))
			return false;
	} else if (!stack_is_deep(stack)) {
		return true;
	}
	/* Others only look */
	if (task == current) {
		*end = STACK_END_MAGIC;
		WRITE_ONCE(stack->end_set, true);
	}
	return true;
}

void *__stack_pool_used(const struct task_struct *task, void *stack)
{
	struct pooled_stack *pooled = pooled_stack(task_stack_vm_area(task));

	return pooled ? stack + stack_lowest_page(pooled) * PAGE_SIZE : stack;
}

/* Tidy up --------------------------------------------------------------------- */

/* Make the page table's entries clean, of stacks that are off all lists */
static unsigned int stack_pool_clean(struct list_head *batch, unsigned int *pages)
{
	struct memctl_vmm_range *range = NULL;
	unsigned long start = ULONG_MAX, end = 0, addr;
	unsigned int i, nr = 0;
	struct pooled_stack *stack;

	*pages = 0;
	list_for_each_entry(stack, batch, list) {
		addr = (unsigned long)stack->area->addr;
		for (i = 0; i < STACK_PAGES; i++) {
			const phys_addr_t phys = page_to_phys(stack->pages[i]);

			if (!stack_page_dirty(stack, i))
				continue;
			set_pte(stack->ptep + i, pte_mkclean(ptep_get(stack->ptep + i)));
			start = min(start, addr + i * PAGE_SIZE);
			end = max(end, addr + (i + 1) * PAGE_SIZE);
			++*pages;
			if (range && range->addr + range->length == phys) {
				range->length += PAGE_SIZE;
				continue;
			}
			range = &stack_pool_ranges[nr++];
			range->addr = phys;
			range->length = PAGE_SIZE;
		}
	}
	if (nr)
		flush_tlb_kernel_range(start, end);
	return nr;
}

/* Not by the stack's mapping, whose entries are to stay clean */
static unsigned int stack_range_clear(const struct memctl_vmm_range *range)
{
	const unsigned int pages = range->length / PAGE_SIZE;
	unsigned int i;

	for (i = 0; i < pages; i++)
		clear_highpage(pfn_to_page(PHYS_PFN(range->addr) + i));
	return pages;
}

/* Give the host the written pages of idle stacks: all of @batch, off all lists */
static void stack_pool_release(struct stack_pool *pool, struct list_head *batch,
			       unsigned int stacks)
{
	unsigned int nr, pages, i, done, refusals = 0, refused = 0;
	struct pooled_stack *stack, *next;
	int ret, err = 0;

	nr = stack_pool_clean(batch, &pages);
	for (i = 0; i < nr; i++) {
		ret = stack_host_zero(stack_pool_ranges + i, nr - i, &done);
		i += done;
		if (i == nr)
			break;
		err = ret;
		/* One that was done in part is done again as a whole.  The others go on. */
		refused += stack_range_clear(&stack_pool_ranges[i]);
		if (!memctl_is_refusal(err) || ++refusals == STACK_REFUSALS)
			while (++i < nr)
				refused += stack_range_clear(&stack_pool_ranges[i]);
	}
	trace_stack_pool_release(stacks, pages, nr, refused, err);

	guard(spinlock_irqsave)(&pool->lock);
	pool->stats.released += pages - refused;
	pool->stats.refused += refused;
	list_for_each_entry_safe(stack, next, batch, list) {
		list_del(&stack->list);
		stack_pool_settle(pool, stack, STACK_CLEAN);
	}
}

/*
 * Release what idle stacks in @state hold, of those that have been for longest, but for
 * @keep.  Returns whether there may be more.
 */
static bool stack_pool_release_some(struct stack_pool *pool, enum stack_state state,
				    unsigned int keep)
{
	struct pooled_stack *stack;
	unsigned int stacks = 0;
	LIST_HEAD(batch);

	scoped_guard(spinlock_irqsave, &pool->lock) {
		while (stacks < STACK_BATCH && pool->nr_idle[state] > keep) {
			stack = list_last_entry(&pool->idle[state], struct pooled_stack, list);
			stack_pool_claim(pool, stack);
			list_add(&stack->list, &batch);
			stacks++;
		}
	}
	if (stacks)
		stack_pool_release(pool, &batch, stacks);
	cond_resched();
	return stacks;
}

VISIBLE_IF_KUNIT unsigned int stack_pool_bury(struct stack_pool *pool)
{
	struct pooled_stack *stack, *next;
	unsigned int stacks = 0;
	LIST_HEAD(dead);

	scoped_guard(spinlock_irqsave, &pool->lock)
		list_splice_init(&pool->dead, &dead);
	list_for_each_entry_safe(stack, next, &dead, list) {
		stack_dismantle(stack);
		stacks++;
		cond_resched();
	}
	scoped_guard(spinlock_irqsave, &pool->lock)
		pool->nr_stacks -= stacks;
	stack_pool_account(pool, -(int)stacks);
	return stacks;
}

/*
 * Give up the idle stacks of the chunk with the fewest stacks in use, unless that would
 * leave less than @keep.  Returns how many there were.
 */
VISIBLE_IF_KUNIT unsigned int stack_pool_shatter(struct stack_pool *pool, unsigned int keep)
{
	struct stack_chunk *chunk = NULL, *other;
	unsigned int i, idle = 0, live = 0;

	scoped_guard(spinlock_irqsave, &pool->lock) {
		list_for_each_entry(other, &pool->chunks, list)
			if (!other->shattered && (!chunk || other->live < chunk->live))
				chunk = other;
		if (!chunk)
			return 0;
		live = chunk->live;
		idle = STACKS_PER_CHUNK - live;
		if (!idle || stack_pool_ready(pool) < keep + idle)
			return 0;

		chunk->shattered = true;
		chunk->refs++;
		pool->stats.shattered++;
		for (i = 0; i < STACKS_PER_CHUNK; i++) {
			struct pooled_stack *stack = &chunk->stacks[i];

			if (stack->state == STACK_LIVE)
				continue;
			stack_pool_unlist(pool, stack);
			stack->state = STACK_GONE;
			list_add(&stack->list, &pool->dead);
		}
	}
	trace_stack_pool_shrink(pool->nid, chunk->pfn, idle, live);
	/* Whoever gets these pages next may have huge ones of the host */
	stack_host_default(chunk);
	stack_chunk_put(chunk);
	return idle;
}

VISIBLE_IF_KUNIT void stack_pool_tidy(struct stack_pool *pool)
{
	const bool active = READ_ONCE(stack_pool_active);
	const unsigned int high = stack_pool_high(pool), low = stack_pool_low(pool);
	/* Some guests never are, and must not keep what they had at their busiest for that */
	const bool quiet = !active || stack_pool_ready(pool) > STACK_PLENTY * high ||
			   time_after_eq(jiffies, READ_ONCE(pool->last_take) + STACK_QUIET);

	while (active && stack_pool_release_some(pool, STACK_DEEP, 0))
		;
	stack_pool_bury(pool);
	while (quiet && stack_pool_ready(pool) > high && stack_pool_shatter(pool, active ? low : 0))
		stack_pool_bury(pool);
	/* Also the top pages, of more idle stacks than may soon be wanted */
	while (active && quiet && stack_pool_release_some(pool, STACK_WARM, low))
		;
	/* The shrinker may have shattered chunks of what was just being released */
	stack_pool_bury(pool);

	if (!quiet && stack_pool_is_untidy(pool))
		queue_delayed_work(stack_pool_wq, &stack_pool_tidier, STACK_QUIET);
}

static void stack_pool_tidy_work(struct work_struct *work)
{
	int nid;

	for_each_node(nid)
		if (stack_pools[nid])
			stack_pool_tidy(stack_pools[nid]);
}

static unsigned long stack_pool_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct stack_pool *pool = stack_pools[sc->nid];

	return (pool ? stack_pool_ready(pool) * STACK_PAGES : 0) ?: SHRINK_EMPTY;
}

static unsigned long stack_pool_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct stack_pool *pool = stack_pools[sc->nid];
	unsigned long pages = 0;
	unsigned int stacks;

	do {
		stacks = pool ? stack_pool_shatter(pool, 0) : 0;
		pages += stacks * STACK_PAGES;
	} while (stacks && pages < sc->nr_to_scan);
	if (!pages)
		return SHRINK_STOP;

	/* Do not take it back at once */
	WRITE_ONCE(pool->hold_off, jiffies + STACK_HOLD_OFF);
	stack_pool_bury(pool);
	sc->nr_scanned = pages;
	return pages;
}

/* Begin, end -------------------------------------------------------------------- */

/**
 * stack_pool_start - hand out stacks from now on
 *
 * Context: Process context, may sleep.
 */
void stack_pool_start(void)
{
	static_branch_enable(&stack_pool_key);
	WRITE_ONCE(stack_pool_active, true);
	queue_work(stack_pool_wq, &stack_pool_grower);
}

/**
 * stack_pool_stop - hand out no more stacks, and give up those that are idle
 *
 * The others are given up as they become idle.
 *
 * Context: Process context, may sleep.
 */
void stack_pool_stop(void)
{
	WRITE_ONCE(stack_pool_active, false);
	mod_delayed_work(stack_pool_wq, &stack_pool_tidier, 0);
}

/**
 * stack_pool_each_chunk - look at all chunks
 * @fn: called with a reference to the chunk held, and no lock
 * @data: for @fn
 *
 * Context: Process context, may sleep if @fn does.
 */
void stack_pool_each_chunk(void (*fn)(struct stack_chunk *chunk, void *data), void *data)
{
	struct stack_chunk *chunk, *done;
	struct stack_pool *pool;
	int nid;

	for_each_node(nid) {
		pool = stack_pools[nid];
		if (!pool)
			continue;
		done = NULL;
		/* One that is being made is waited for */
		guard(mutex)(&pool->grow_lock);
		for (;;) {
			scoped_guard(spinlock_irqsave, &pool->lock) {
				chunk = list_prepare_entry(done, &pool->chunks, list);
				chunk = list_next_entry(chunk, list);
				if (list_entry_is_head(chunk, &pool->chunks, list))
					chunk = NULL;
				else
					chunk->refs++;
			}
			if (done)
				stack_chunk_put(done);
			if (!chunk)
				break;
			fn(chunk, data);
			done = chunk;
		}
	}
}

#ifdef CONFIG_PM_SLEEP
/*
 * An image for hibernation is copied while the task that makes it runs: of its stack
 * the image may have a page as it was after the copy of the page table that says nobody
 * wrote to it.  No other stack is in use at that time.
 */
static void stack_pool_resume(void *data)
{
	struct pooled_stack *stack = pooled_stack(task_stack_vm_area(current));
	unsigned int i;

	if (!stack)
		return;
	for (i = 0; i < STACK_PAGES; i++)
		set_pte(stack->ptep + i, pte_mkdirty(ptep_get(stack->ptep + i)));
}

static const struct syscore_ops stack_pool_syscore_ops = {
	.resume = stack_pool_resume,
};

static struct syscore stack_pool_syscore = {
	.ops = &stack_pool_syscore_ops,
};
#endif

VISIBLE_IF_KUNIT struct stack_pool *stack_pool_new(int nid)
{
	struct stack_pool *pool = kzalloc_node(sizeof(*pool), GFP_KERNEL, nid);
	unsigned int state;

	if (!pool)
		return NULL;
	spin_lock_init(&pool->lock);
	pool->nid = nid;
	for (state = 0; state < STACK_NR_IDLE; state++)
		INIT_LIST_HEAD(&pool->idle[state]);
	INIT_LIST_HEAD(&pool->dead);
	INIT_LIST_HEAD(&pool->chunks);
	pool->hold_off = jiffies;
	mutex_init(&pool->grow_lock);
	return pool;
}

int __init stack_pool_init(void)
{
	struct shrinker *shrinker;
	int nid;

	/* Frozen: no stack may change between a page table's copy in an image and its own */
	stack_pool_wq = alloc_workqueue("stack_pool", WQ_UNBOUND | WQ_FREEZABLE, 0);
	shrinker = shrinker_alloc(SHRINKER_NUMA_AWARE, "stack-pool");
	if (!stack_pool_wq || !shrinker)
		goto err;
	for_each_node(nid) {
		stack_pools[nid] = stack_pool_new(nid);
		if (!stack_pools[nid])
			goto err;
	}

	shrinker->count_objects = stack_pool_count;
	shrinker->scan_objects = stack_pool_scan;
	shrinker->seeks = DEFAULT_SEEKS;
	shrinker_register(shrinker);
#ifdef CONFIG_PM_SLEEP
	register_syscore(&stack_pool_syscore);
#endif
	return 0;

err:
	for_each_node(nid) {
		kfree(stack_pools[nid]);
		stack_pools[nid] = NULL;
	}
	if (shrinker)
		shrinker_free(shrinker);
	if (stack_pool_wq)
		destroy_workqueue(stack_pool_wq);
	return -ENOMEM;
}
