/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel stacks whose unused pages cost a host nothing: what the code that
 * makes, checks and scans stacks asks of the pool that has them.
 * Documentation/mm/kernel_stack_pool.rst has the model.
 */
#ifndef _LINUX_STACK_POOL_H
#define _LINUX_STACK_POOL_H

#include <linux/jump_label.h>
#include <linux/types.h>

struct task_struct;
struct vm_struct;

#ifdef CONFIG_PVMEMCTL_STACK

/* Off until the pool has its first stack, then on for good: some stay in use */
DECLARE_STATIC_KEY_FALSE(stack_pool_key);

struct vm_struct *__stack_pool_get(int node);
bool __stack_pool_put(struct vm_struct *area);
bool __stack_pool_put_rcu(struct vm_struct *area);
bool __stack_pool_clear(struct vm_struct *area);
bool __stack_pool_may_cache(struct vm_struct *area, int node);
bool __stack_pool_end_unused(struct task_struct *task);
void *__stack_pool_used(const struct task_struct *task, void *stack);

/**
 * stack_pool_get - a stack from the pool
 * @node: node that its pages are wanted on, or NUMA_NO_NODE for the caller's policy
 *
 * Its contents are undefined until stack_pool_clear().
 *
 * Context: Process context, may sleep.
 * Return: the area of the stack, or NULL: take one from elsewhere.
 */
static inline struct vm_struct *stack_pool_get(int node)
{
	return static_branch_unlikely(&stack_pool_key) ? __stack_pool_get(node) : NULL;
}

/**
 * stack_pool_put - a stack is not used any more
 * @area: of any stack
 *
 * Context: Any but NMI and hard interrupt.
 * Return: false if the stack is not the pool's, and still the caller's.
 */
static inline bool stack_pool_put(struct vm_struct *area)
{
	return static_branch_unlikely(&stack_pool_key) && __stack_pool_put(area);
}

/**
 * stack_pool_put_rcu - stack_pool_put() after a grace period
 * @area: of any stack
 *
 * Takes no lock, and does not touch the stack.
 *
 * Context: Any but NMI; preemption may be off.
 * Return: false if the stack is not the pool's, and still the caller's.
 */
static inline bool stack_pool_put_rcu(struct vm_struct *area)
{
	return static_branch_unlikely(&stack_pool_key) && __stack_pool_put_rcu(area);
}

/**
 * stack_pool_clear - make a stack all zero
 * @area: of any stack that nobody runs on
 *
 * Context: Process context.
 * Return: false if the stack is not the pool's, and as it was.
 */
static inline bool stack_pool_clear(struct vm_struct *area)
{
	return static_branch_unlikely(&stack_pool_key) && __stack_pool_clear(area);
}

/**
 * stack_pool_may_cache - may a free stack stay with this CPU?
 * @area: of any stack that nobody runs on
 * @node: of this CPU
 *
 * Context: Any but NMI; preemption may be off.
 * Return: false for one that holds more memory of the host than it needs, or that the
 *	   pool has a better one for.
 */
static inline bool stack_pool_may_cache(struct vm_struct *area, int node)
{
	return !static_branch_unlikely(&stack_pool_key) || __stack_pool_may_cache(area, node);
}

/**
 * stack_pool_end_unused - is it certain that nobody wrote to the end of a stack?
 * @task: current, or a task that is not running
 *
 * Context: Any.
 * Return: true if so, false if STACK_END_MAGIC there has to tell.
 */
static inline bool stack_pool_end_unused(struct task_struct *task)
{
	return static_branch_unlikely(&stack_pool_key) && __stack_pool_end_unused(task);
}

/**
 * stack_pool_used - where a task's stack may have been written to
 * @task: with a reference to its stack
 * @stack: its lowest address
 *
 * For those who read whole stacks: what is below is zero, and would be backed by
 * the host in vain.
 *
 * Context: Any.
 * Return: the lowest page that may have been written to, or @stack if that is not known.
 */
static inline void *stack_pool_used(const struct task_struct *task, void *stack)
{
	if (static_branch_unlikely(&stack_pool_key))
		return __stack_pool_used(task, stack);
	return stack;
}

#else /* CONFIG_PVMEMCTL_STACK */

static inline struct vm_struct *stack_pool_get(int node)
{
	return NULL;
}

static inline bool stack_pool_put(struct vm_struct *area)
{
	return false;
}

static inline bool stack_pool_put_rcu(struct vm_struct *area)
{
	return false;
}

static inline bool stack_pool_clear(struct vm_struct *area)
{
	return false;
}

static inline bool stack_pool_may_cache(struct vm_struct *area, int node)
{
	return true;
}

static inline bool stack_pool_end_unused(struct task_struct *task)
{
	return false;
}

static inline void *stack_pool_used(const struct task_struct *task, void *stack)
{
	return stack;
}

#endif /* CONFIG_PVMEMCTL_STACK */

#endif /* _LINUX_STACK_POOL_H */
