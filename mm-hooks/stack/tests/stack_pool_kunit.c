// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the pool of kernel stacks: a pool of the test's own, real memory and page
 * tables, and a faked host.
 *
 * struct fake is a host that zeroes memory, or refuses to: after so many ranges, or
 * some pages only.
 */

#include <kunit/static_stub.h>
#include <kunit/test.h>

#include <linux/highmem.h>
#include <linux/kasan.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>

#include "../stack.h"

#define TOP	(STACK_PAGES - 1)

struct fake {
	unsigned int obey;	/* ranges to zero before it is busy; UINT_MAX: all */
	unsigned long nth;	/* refuses every page whose number this divides; 0: none */
	unsigned int ranges;	/* asked to zero, in all */
	unsigned int most;	/* ... by one call */
	unsigned long pages;	/* ... and their pages */
	unsigned int small;	/* chunks that are to have small pages now */
	void (*hook)(struct kunit *test);	/* before it zeroes */
};

struct context {
	struct fake fake;
	struct stack_pool *pool;
	bool active;		/* what stack_pool_active was */
};

static int fake_zero(const struct memctl_vmm_range *ranges, unsigned int nr,
		     unsigned int *done)
{
	struct kunit *test = kunit_get_current_test();
	struct context *context = test->priv;
	struct fake *fake = &context->fake;
	unsigned int i;
	u64 at;

	if (fake->hook)
		fake->hook(test);
	fake->most = max(fake->most, nr);
	for (i = 0; i < nr; i++) {
		fake->ranges++;
		fake->pages += ranges[i].length / PAGE_SIZE;
		if (!fake->obey) {
			*done = i;
			return -EBUSY;
		}
		if (fake->nth && PHYS_PFN(ranges[i].addr) % fake->nth == 0) {
			*done = i;
			return -EPERM;
		}
		if (fake->obey != UINT_MAX)
			fake->obey--;
		for (at = 0; at < ranges[i].length; at += PAGE_SIZE)
			clear_highpage(pfn_to_page(PHYS_PFN(ranges[i].addr + at)));
	}
	*done = nr;
	return 0;
}

static void fake_small(const struct stack_chunk *chunk)
{
	struct context *context = kunit_get_current_test()->priv;

	context->fake.small++;
}

static void fake_default(const struct stack_chunk *chunk)
{
	struct context *context = kunit_get_current_test()->priv;

	context->fake.small--;
}

static int stack_test_init(struct kunit *test)
{
	struct context *context = kunit_kzalloc(test, sizeof(*context), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, context);
	test->priv = context;
	context->fake.obey = UINT_MAX;
	if (stack_host_enabled())
		kunit_skip(test, "the pool is in use: boot with pvmemctl.stack=off");
	context->pool = stack_pool_new(first_memory_node);
	KUNIT_ASSERT_NOT_NULL(test, context->pool);
	context->active = stack_pool_active;
	stack_pool_active = true;
	kunit_activate_static_stub(test, stack_host_zero, fake_zero);
	kunit_activate_static_stub(test, stack_host_small, fake_small);
	kunit_activate_static_stub(test, stack_host_default, fake_default);
	return 0;
}

static void give_up(struct kunit *test)
{
	struct context *context = test->priv;

	context->fake.hook = NULL;
	while (stack_pool_shatter(context->pool, 0))
		;
	stack_pool_bury(context->pool);
}

static void stack_test_exit(struct kunit *test)
{
	struct context *context = test->priv;

	if (!context || !context->pool)
		return;
	give_up(test);
	stack_pool_active = context->active;
	/* Every test gives back what it took, and then nothing is left */
	KUNIT_EXPECT_TRUE(test, list_empty(&context->pool->chunks));
	KUNIT_EXPECT_EQ(test, 0, context->pool->nr_live);
	KUNIT_EXPECT_EQ(test, 0, stack_pool_ready(context->pool));
	KUNIT_EXPECT_EQ(test, 0, context->pool->nr_stacks);
	KUNIT_EXPECT_EQ(test, 0, context->pool->nr_chunks);
	KUNIT_EXPECT_EQ(test, 0, context->fake.small);
	if (list_empty(&context->pool->chunks))
		kfree(context->pool);
}

static struct stack_pool *grown(struct kunit *test)
{
	struct context *context = test->priv;

	mutex_lock(&context->pool->grow_lock);
	KUNIT_ASSERT_EQ(test, 0, stack_pool_grow(context->pool));
	mutex_unlock(&context->pool->grow_lock);
	return context->pool;
}

static struct pooled_stack *taken(struct kunit *test, struct stack_pool *pool)
{
	struct pooled_stack *stack = stack_pool_take(pool);

	KUNIT_ASSERT_NOT_NULL(test, stack);
	kasan_unpoison_range(stack->area->addr, THREAD_SIZE);
	return stack;
}

static void put(struct pooled_stack *stack)
{
	__stack_pool_put(stack->area);
}

/* The page as whoever runs on the stack has it; the tests look at idle ones, too */
static unsigned long *page_of(struct pooled_stack *stack, unsigned int page)
{
	void *addr = stack->area->addr + page * PAGE_SIZE;

	kasan_unpoison_range(addr, PAGE_SIZE);
	return addr;
}

static void use(struct pooled_stack *stack, unsigned int page)
{
	memset(page_of(stack, page), 0x5a, PAGE_SIZE);
}

static bool is_dirty(struct pooled_stack *stack, unsigned int page)
{
	return pte_dirty(ptep_get(stack->ptep + page));
}

static bool is_zero(struct pooled_stack *stack, unsigned int page)
{
	return !memchr_inv(page_of(stack, page), 0, PAGE_SIZE);
}

static void stack_test_chunk(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct stack_chunk *chunk = list_first_entry(&pool->chunks, struct stack_chunk, list);
	unsigned int i, page;

	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK, pool->nr_idle[STACK_CLEAN]);
	KUNIT_EXPECT_EQ(test, 0, pool->nr_idle[STACK_WARM]);
	KUNIT_EXPECT_EQ(test, 1, context->fake.ranges);
	KUNIT_EXPECT_EQ(test, STACK_CHUNK_SIZE / PAGE_SIZE, context->fake.pages);
	KUNIT_EXPECT_EQ(test, 1, context->fake.small);
	for (i = 0; i < STACKS_PER_CHUNK; i++) {
		struct pooled_stack *stack = &chunk->stacks[i];

		KUNIT_ASSERT_TRUE(test, IS_ALIGNED((unsigned long)stack->area->addr,
						   THREAD_ALIGN));
		KUNIT_ASSERT_EQ(test, STACK_PAGES, stack->area->nr_pages);
		KUNIT_ASSERT_PTR_EQ(test, stack->area, find_vm_area(stack->area->addr));
		for (page = 0; page < STACK_PAGES; page++) {
			KUNIT_ASSERT_FALSE(test, is_dirty(stack, page));
			KUNIT_ASSERT_TRUE(test, is_zero(stack, page));
			/* To read does not make it dirty */
			KUNIT_ASSERT_FALSE(test, is_dirty(stack, page));
			KUNIT_ASSERT_PTR_EQ(test, stack->pages[page],
					    vmalloc_to_page(page_of(stack, page)));
		}
		/* A guard page on both sides */
		KUNIT_ASSERT_NULL(test, vmalloc_to_page(stack->area->addr + THREAD_SIZE));
	}
}

static void stack_test_not_grown(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = context->pool;

	context->fake.obey = 0;
	mutex_lock(&pool->grow_lock);
	KUNIT_EXPECT_EQ(test, -EBUSY, stack_pool_grow(pool));
	KUNIT_EXPECT_EQ(test, 1, pool->stats.not_grown);
	KUNIT_EXPECT_EQ(test, 0, context->fake.small);
	/* Not again at once */
	context->fake.obey = UINT_MAX;
	KUNIT_EXPECT_EQ(test, -EAGAIN, stack_pool_grow(pool));
	KUNIT_EXPECT_EQ(test, 1, context->fake.ranges);
	pool->hold_off = jiffies;
	KUNIT_EXPECT_EQ(test, 0, stack_pool_grow(pool));
	mutex_unlock(&pool->grow_lock);
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK, pool->nr_idle[STACK_CLEAN]);
}

/* Each allocation of a chunk fails once; /sys/kernel/debug/failslab says whether it may */
static void stack_test_no_memory(struct kunit *test)
{
#ifdef CONFIG_FAULT_INJECTION
	struct context *context = test->priv;
	struct stack_pool *pool = context->pool;
	unsigned int nth = 0, left;
	int err;

	do {
		pool->hold_off = jiffies;
		mutex_lock(&pool->grow_lock);
		current->fail_nth = ++nth;
		err = stack_pool_grow(pool);
		left = current->fail_nth;
		current->fail_nth = 0;
		mutex_unlock(&pool->grow_lock);
		if (err) {
			KUNIT_ASSERT_EQ(test, -ENOMEM, err);
			KUNIT_ASSERT_TRUE(test, list_empty(&pool->chunks));
			KUNIT_ASSERT_EQ(test, 0, context->fake.small);
		} else {
			give_up(test);
		}
	} while (!left);
	KUNIT_EXPECT_EQ(test, 0, err);
	/* Each stack takes one at least */
	if (nth < STACKS_PER_CHUNK)
		kunit_skip(test, "failslab/ignore-gfp-wait does not let all of them fail");
#else
	kunit_skip(test, "no CONFIG_FAULT_INJECTION");
#endif
}

static void stack_test_reuse(struct kunit *test)
{
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack = taken(test, pool);
	unsigned int page;

	use(stack, TOP);
	put(stack);
	KUNIT_EXPECT_EQ(test, 1, pool->nr_idle[STACK_WARM]);
	KUNIT_EXPECT_EQ(test, 0, pool->nr_idle[STACK_DEEP]);
	/* The one that was used last comes first */
	KUNIT_ASSERT_PTR_EQ(test, stack, taken(test, pool));
	KUNIT_EXPECT_EQ(test, 0, pool->nr_idle[STACK_WARM]);
	KUNIT_EXPECT_TRUE(test, __stack_pool_clear(stack->area));
	for (page = 0; page < STACK_PAGES; page++) {
		KUNIT_EXPECT_TRUE(test, is_zero(stack, page));
		KUNIT_EXPECT_EQ(test, page == TOP, is_dirty(stack, page));
	}
	put(stack);
}

#ifdef CONFIG_KASAN_VMALLOC
/* What KASAN says of the first and of the last byte; 0: they may be used */
static u8 shadow_of(struct pooled_stack *stack, bool last)
{
	return *(u8 *)kasan_mem_to_shadow(stack->area->addr + (last ? THREAD_SIZE - 1 : 0));
}
#endif

/* It stays mapped, and nobody may use it */
static void stack_test_idle(struct kunit *test)
{
#ifdef CONFIG_KASAN_VMALLOC
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack = taken(test, pool);

	KUNIT_EXPECT_EQ(test, 0, shadow_of(stack, false));
	KUNIT_EXPECT_EQ(test, 0, shadow_of(stack, true));
	put(stack);
	KUNIT_EXPECT_NE(test, 0, shadow_of(stack, false));
	KUNIT_EXPECT_NE(test, 0, shadow_of(stack, true));
	/* Nor one that nobody had yet */
	stack = list_last_entry(&pool->idle[STACK_CLEAN], struct pooled_stack, list);
	KUNIT_EXPECT_NE(test, 0, shadow_of(stack, false));
	KUNIT_EXPECT_NE(test, 0, shadow_of(stack, true));
#else
	kunit_skip(test, "no CONFIG_KASAN_VMALLOC");
#endif
}

static void stack_test_deep_reuse(struct kunit *test)
{
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack[STACKS_PER_CHUNK];
	unsigned int i, page;

	for (i = 0; i < STACKS_PER_CHUNK; i++)
		stack[i] = taken(test, pool);
	use(stack[0], TOP);
	use(stack[0], 0);
	put(stack[0]);
	KUNIT_EXPECT_EQ(test, 1, pool->nr_idle[STACK_DEEP]);
	KUNIT_EXPECT_EQ(test, 1, pool->stats.depth[2]);
	/* Better than none, but not better than others */
	KUNIT_ASSERT_PTR_EQ(test, stack[0], taken(test, pool));
	KUNIT_EXPECT_NULL(test, stack_pool_take(pool));
	__stack_pool_clear(stack[0]->area);
	for (page = 0; page < STACK_PAGES; page++)
		KUNIT_EXPECT_TRUE(test, is_zero(stack[0], page));
	for (i = 0; i < STACKS_PER_CHUNK; i++)
		put(stack[i]);
}

/* A TLB that still knew of a dirty entry would let the last write go unnoticed */
static void stack_test_release(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack = taken(test, pool);
	unsigned int page;

	for (page = 0; page < STACK_PAGES; page++)
		use(stack, page);
	put(stack);
	context->fake.pages = 0;
	stack_pool_tidy(pool);
	KUNIT_EXPECT_EQ(test, STACK_PAGES, context->fake.pages);
	KUNIT_EXPECT_EQ(test, STACK_PAGES, pool->stats.released);
	KUNIT_EXPECT_EQ(test, 0, pool->stats.refused);
	KUNIT_EXPECT_EQ(test, 0, pool->nr_idle[STACK_DEEP]);
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK, pool->nr_idle[STACK_CLEAN]);
	for (page = 0; page < STACK_PAGES; page++) {
		KUNIT_EXPECT_FALSE(test, is_dirty(stack, page));
		*page_of(stack, page) = 1;
		KUNIT_EXPECT_TRUE(test, is_dirty(stack, page));
		*page_of(stack, page) = 0;
		KUNIT_EXPECT_TRUE(test, is_zero(stack, page));
	}
}

static void stack_test_refused(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack[6];
	unsigned int i, page;

	for (i = 0; i < ARRAY_SIZE(stack); i++) {
		stack[i] = taken(test, pool);
		use(stack[i], 1);
	}
	for (i = 0; i < ARRAY_SIZE(stack); i++)
		put(stack[i]);
	context->fake.obey = 2;
	stack_pool_tidy(pool);
	KUNIT_EXPECT_EQ(test, 2, pool->stats.released);
	KUNIT_EXPECT_EQ(test, ARRAY_SIZE(stack) - 2, pool->stats.refused);
	for (i = 0; i < ARRAY_SIZE(stack); i++) {
		for (page = 0; page < STACK_PAGES; page++) {
			KUNIT_EXPECT_FALSE(test, is_dirty(stack[i], page));
			KUNIT_EXPECT_TRUE(test, is_zero(stack[i], page));
		}
	}
	context->fake.obey = UINT_MAX;
}

/* Some of the ranges only: the others are not to suffer.  One who refuses all is not asked long */
static void stack_test_refused_some(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack[STACKS_PER_CHUNK];
	const unsigned long nths[] = { STACKS_PER_CHUNK / 4, 1 };
	unsigned int i, j, page;

	for (j = 0; j < ARRAY_SIZE(nths); j++) {
		for (i = 0; i < STACKS_PER_CHUNK; i++)
			stack[i] = taken(test, pool);
		for (i = 0; i < STACKS_PER_CHUNK; i++)
			use(stack[i], TOP);
		/* Next to each other no two, so that each is a range */
		for (i = 0; i < STACKS_PER_CHUNK; i++)
			put(stack[i * 37 % STACKS_PER_CHUNK]);
		memset(&pool->stats, 0, sizeof(pool->stats));
		context->fake.nth = nths[j];
		context->fake.ranges = 0;
		pool->last_take = jiffies - HZ;
		stack_pool_tidy(pool);
		context->fake.nth = 0;

		if (nths[j] > 1) {
			KUNIT_EXPECT_LE(test, pool->stats.refused, 4);
			KUNIT_EXPECT_GT(test, pool->stats.released, 8);
		} else {
			KUNIT_EXPECT_EQ(test, pool->stats.released, 0);
			KUNIT_EXPECT_GT(test, pool->stats.refused, 16);
			/* Two batches at most */
			KUNIT_EXPECT_LE(test, context->fake.ranges, 16);
		}
		for (i = 0; i < STACKS_PER_CHUNK; i++)
			for (page = 0; page < STACK_PAGES; page++)
				KUNIT_ASSERT_TRUE(test, is_dirty(stack[i], page) ||
						  is_zero(stack[i], page));
	}
}

/* As many pieces as there can be, in as many stacks as there are */
static void stack_test_batches(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack[STACKS_PER_CHUNK];
	unsigned long pages = 0;
	unsigned int i, page;

	for (i = 0; i < STACKS_PER_CHUNK; i++)
		stack[i] = taken(test, pool);
	for (i = 0; i < STACKS_PER_CHUNK; i++) {
		use(stack[i], TOP);
		for (page = 0; page < TOP; page += 2) {
			use(stack[i], page);
			pages++;
		}
	}
	/* Not in the order in which they lie */
	for (i = 0; i < STACKS_PER_CHUNK; i++)
		put(stack[i * 37 % STACKS_PER_CHUNK]);
	context->fake.pages = 0;
	context->fake.most = 0;
	stack_pool_tidy(pool);
	KUNIT_EXPECT_EQ(test, pages + STACKS_PER_CHUNK, context->fake.pages);
	KUNIT_EXPECT_GE(test, MEMCTL_VECTOR_MAX, context->fake.most);
	for (i = 0; i < STACKS_PER_CHUNK; i++) {
		for (page = 0; page < STACK_PAGES; page++) {
			KUNIT_ASSERT_FALSE(test, is_dirty(stack[i], page));
			KUNIT_ASSERT_TRUE(test, is_zero(stack[i], page));
		}
	}
}

/* Stacks that have been idle for a while keep no page, but for some that are at hand */
static void stack_test_warm(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack[STACKS_PER_CHUNK];
	unsigned int i, warm = 0;

	for (i = 0; i < STACKS_PER_CHUNK; i++)
		stack[i] = taken(test, pool);
	for (i = 0; i < STACKS_PER_CHUNK; i++) {
		use(stack[i], TOP);
		put(stack[i]);
	}
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK, pool->nr_idle[STACK_WARM]);
	context->fake.pages = 0;
	stack_pool_tidy(pool);
	KUNIT_EXPECT_EQ(test, 0, context->fake.pages);
	/* It was quiet for long enough */
	pool->last_take = jiffies - HZ;
	stack_pool_tidy(pool);
	for (i = 0; i < STACKS_PER_CHUNK; i++) {
		warm += is_dirty(stack[i], TOP);
		/* Those used last stay */
		KUNIT_ASSERT_EQ(test, i >= STACKS_PER_CHUNK - pool->nr_idle[STACK_WARM],
				is_dirty(stack[i], TOP));
	}
	KUNIT_EXPECT_EQ(test, warm, pool->nr_idle[STACK_WARM]);
	KUNIT_EXPECT_GT(test, STACKS_PER_CHUNK, warm);
	KUNIT_EXPECT_LT(test, 0, warm);
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK - warm, context->fake.pages);
}

static void stack_test_shatter(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack[3], *deep;
	unsigned int i;
	void *addr;

	for (i = 0; i < ARRAY_SIZE(stack); i++)
		stack[i] = taken(test, pool);
	deep = taken(test, pool);
	addr = deep->area->addr;
	use(deep, 1);
	put(deep);
	KUNIT_EXPECT_EQ(test, 0, stack_pool_shatter(pool, STACKS_PER_CHUNK));
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK - ARRAY_SIZE(stack), stack_pool_shatter(pool, 0));
	KUNIT_EXPECT_EQ(test, 0, context->fake.small);
	KUNIT_EXPECT_EQ(test, 0, stack_pool_ready(pool));
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK, pool->nr_stacks);
	KUNIT_EXPECT_EQ(test, STACKS_PER_CHUNK - ARRAY_SIZE(stack), stack_pool_bury(pool));
	KUNIT_EXPECT_NULL(test, find_vm_area(addr));
	/* Those in use still work, and are not used again */
	for (i = 0; i < ARRAY_SIZE(stack); i++) {
		KUNIT_EXPECT_FALSE(test, __stack_pool_may_cache(stack[i]->area, pool->nid));
		use(stack[i], TOP);
		put(stack[i]);
	}
	KUNIT_EXPECT_NULL(test, stack_pool_take(pool));
	KUNIT_EXPECT_FALSE(test, list_empty(&pool->chunks));
	KUNIT_EXPECT_EQ(test, ARRAY_SIZE(stack), stack_pool_bury(pool));
	KUNIT_EXPECT_TRUE(test, list_empty(&pool->chunks));
}

static void shatter_now(struct kunit *test)
{
	struct context *context = test->priv;

	context->fake.hook = NULL;
	stack_pool_shatter(context->pool, 0);
}

/* The shrinker comes while stacks are with the host */
static void stack_test_shatter_released(struct kunit *test)
{
	struct context *context = test->priv;
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack = taken(test, pool);

	use(stack, 0);
	put(stack);
	context->fake.hook = shatter_now;
	stack_pool_tidy(pool);
	KUNIT_EXPECT_EQ(test, 0, stack_pool_ready(pool));
	stack_pool_bury(pool);
	KUNIT_EXPECT_TRUE(test, list_empty(&pool->chunks));
}

static void stack_test_put_rcu(struct kunit *test)
{
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack = taken(test, pool);
	unsigned int page;

	KUNIT_EXPECT_TRUE(test, __stack_pool_put_rcu(stack->area));
	rcu_barrier();
	KUNIT_EXPECT_EQ(test, 0, pool->nr_live);
	/* No page is written to for that */
	for (page = 0; page < STACK_PAGES; page++)
		KUNIT_EXPECT_FALSE(test, is_dirty(stack, page));
}

static void stack_test_end(struct kunit *test)
{
	struct stack_pool *pool = grown(test);
	struct pooled_stack *stack = taken(test, pool);
	struct task_struct *task = kunit_kzalloc(test, sizeof(*task), GFP_KERNEL);
	unsigned long *end = page_of(stack, 0);

	KUNIT_ASSERT_NOT_NULL(test, task);
	/* Without a stack, and with one of another kind */
	KUNIT_EXPECT_FALSE(test, __stack_pool_end_unused(task));
	KUNIT_EXPECT_PTR_EQ(test, (void *)end, __stack_pool_used(task, end));
	task->stack = stack->area->addr;
	task->stack_vm_area = stack->area;

	KUNIT_EXPECT_TRUE(test, __stack_pool_end_unused(task));
	use(stack, TOP);
	KUNIT_EXPECT_TRUE(test, __stack_pool_end_unused(task));
	KUNIT_EXPECT_PTR_EQ(test, (void *)page_of(stack, TOP), __stack_pool_used(task, end));
	/* Nobody can be there who was not above: a zero is found, too */
	*end = 0;
	KUNIT_EXPECT_FALSE(test, __stack_pool_end_unused(task));
	KUNIT_EXPECT_PTR_EQ(test, (void *)end, __stack_pool_used(task, end));
	/* By and by all of it is used */
	*end = 0;
	use(stack, 1);
	KUNIT_EXPECT_TRUE(test, __stack_pool_end_unused(task));
	*end = 1;
	KUNIT_EXPECT_FALSE(test, __stack_pool_end_unused(task));
	/* Where the magic has been written, a zero is as wrong as anything */
	KUNIT_EXPECT_TRUE(test, __stack_pool_clear(stack->area));
	*end = 0;
	KUNIT_EXPECT_FALSE(test, __stack_pool_end_unused(task));
	/* Whoever has the stack next begins anew */
	put(stack);
	stack_pool_tidy(pool);
	KUNIT_EXPECT_FALSE(test, is_dirty(stack, 0));
	kasan_unpoison_range(stack->area->addr, THREAD_SIZE);
	KUNIT_EXPECT_TRUE(test, __stack_pool_clear(stack->area));
	KUNIT_EXPECT_TRUE(test, __stack_pool_end_unused(task));
}

static void stack_test_foreign(struct kunit *test)
{
	void *stack = vmalloc(THREAD_SIZE);
	struct vm_struct *area;

	KUNIT_ASSERT_NOT_NULL(test, stack);
	area = find_vm_area(stack);
	KUNIT_EXPECT_FALSE(test, __stack_pool_clear(area));
	KUNIT_EXPECT_FALSE(test, __stack_pool_put(area));
	KUNIT_EXPECT_FALSE(test, __stack_pool_put_rcu(area));
	vfree(stack);
}

static struct kunit_case stack_test_cases[] = {
	KUNIT_CASE(stack_test_chunk),
	KUNIT_CASE(stack_test_not_grown),
	KUNIT_CASE_SLOW(stack_test_no_memory),
	KUNIT_CASE(stack_test_reuse),
	KUNIT_CASE(stack_test_idle),
	KUNIT_CASE(stack_test_deep_reuse),
	KUNIT_CASE(stack_test_release),
	KUNIT_CASE(stack_test_refused),
	KUNIT_CASE(stack_test_refused_some),
	KUNIT_CASE(stack_test_batches),
	KUNIT_CASE(stack_test_warm),
	KUNIT_CASE(stack_test_shatter),
	KUNIT_CASE(stack_test_shatter_released),
	KUNIT_CASE(stack_test_put_rcu),
	KUNIT_CASE(stack_test_end),
	KUNIT_CASE(stack_test_foreign),
	{}
};

static struct kunit_suite stack_test_suite = {
	.name = "stack_pool",
	.init = stack_test_init,
	.exit = stack_test_exit,
	.test_cases = stack_test_cases,
};

kunit_test_suite(stack_test_suite);
