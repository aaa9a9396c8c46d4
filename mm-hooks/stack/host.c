// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the pool of kernel stacks asks the host for, and when there is a host to ask.
 */

#define pr_fmt(fmt) "stack pool: " fmt

#include <linux/atomic.h>
#include <linux/cleanup.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pfn.h>
#include <linux/pvmemctl.h>
#include <linux/workqueue.h>

#include <kunit/static_stub.h>

#include "stack.h"

/* The core's prefix */
#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pvmemctl."

static enum pvmemctl_mode stack_mode = PVMEMCTL_MODE_ON;
module_param_cb(stack, &pvmemctl_mode_ops, &stack_mode, 0444);

/* Protects all below: what is known of the host, and what the user wants */
static DEFINE_MUTEX(stack_host_lock);
static bool stack_host_wanted;
static bool stack_host_there;

/* What zeroes; read without the lock, by who has been told to start after it was set */
static u64 stack_host_zeroes = MEMCTL_ZERO;

static atomic_long_t stack_host_nr_calls = ATOMIC_LONG_INIT(0);
static atomic_long_t stack_host_nr_not_small = ATOMIC_LONG_INIT(0);

/* Changes that are not yet acted upon, one bit for each enum pvmemctl_event */
static unsigned long stack_host_events;

/**
 * stack_host_zero - have memory zeroed, and released
 * @ranges: in bytes; nobody else uses that memory
 * @nr: how many
 * @done: how many of them the host has confirmed, in order
 *
 * Of a host of 1.0 nothing is taken for granted: all of it is looked at.
 *
 * Context: Process context, may sleep.  Not with a spinlock held.
 * Return: 0 if all are done, else a negative errno.
 */
int stack_host_zero(const struct memctl_vmm_range *ranges, unsigned int nr,
		    unsigned int *done)
{
	const u64 func_code = READ_ONCE(stack_host_zeroes);
	unsigned int i;
	int err;

	KUNIT_STATIC_STUB_REDIRECT(stack_host_zero, ranges, nr, done);

	*done = 0;
	if (!nr)
		return 0;
	atomic_long_inc(&stack_host_nr_calls);
	err = memctl_vmm_call_vec(func_code, ranges, nr, done);
	/* A private mapping of a file has the file's contents again, of each page others */
	for (i = 0; func_code == MEMCTL_DONTNEED && i < *done; i++) {
		if (memchr_inv(phys_to_virt(ranges[i].addr), 0, ranges[i].length)) {
			*done = i;
			return -EIO;
		}
	}
	return err;
}

static int stack_host_chunk(const struct stack_chunk *chunk, u64 func_code)
{
	struct memctl_buf buf;

	atomic_long_inc(&stack_host_nr_calls);
	return memctl_vmm_call(func_code, PFN_PHYS(chunk->pfn), STACK_CHUNK_SIZE, 0, &buf) ?:
	       memctl_ret_errno(&buf);
}

/**
 * stack_host_small - ask that a chunk is not backed by huge pages
 * @chunk: the chunk
 *
 * Where the host refuses, the first write to a chunk may back all of it.
 *
 * Context: Process context, may sleep.
 */
void stack_host_small(const struct stack_chunk *chunk)
{
	KUNIT_STATIC_STUB_REDIRECT(stack_host_small, chunk);

	if (stack_host_chunk(chunk, MEMCTL_NOHUGEPAGE))
		atomic_long_inc(&stack_host_nr_not_small);
}

/**
 * stack_host_default - a chunk is like other memory again
 * @chunk: the chunk
 *
 * Context: Process context, may sleep; also in reclaim.
 */
void stack_host_default(const struct stack_chunk *chunk)
{
	KUNIT_STATIC_STUB_REDIRECT(stack_host_default, chunk);

	/* What cannot be undone does no harm but to speed */
	stack_host_chunk(chunk, MEMCTL_HUGEPAGE);
}

/* How often the host was asked */
unsigned long stack_host_calls(void)
{
	return atomic_long_read(&stack_host_nr_calls);
}

/* How often it did not promise small pages */
unsigned long stack_host_not_small(void)
{
	return atomic_long_read(&stack_host_nr_not_small);
}

/* Is there a host that zeroes, page by page, and how? */
static bool stack_host_query(void)
{
	struct memctl_buf buf;

	if (memctl_vmm_call(MEMCTL_QUERY, 0, 0, 0, &buf))
		return false;
	WRITE_ONCE(stack_host_zeroes, MEMCTL_ZERO);
	if (!memctl_ret_errno(&buf))
		return buf.ret.ret_value & BIT_ULL(MEMCTL_ZERO) && buf.ret.arg1 <= PAGE_SIZE &&
		       (stack_mode != PVMEMCTL_MODE_PROBE || !memctl_probe_zero(MEMCTL_ZERO, 0));

	/* Version 1.0.  DONTNEED zeroes some memory, and is no success on other. */
	if (stack_mode != PVMEMCTL_MODE_PROBE || memctl_probe_zero(MEMCTL_DONTNEED, 0))
		return false;
	WRITE_ONCE(stack_host_zeroes, MEMCTL_DONTNEED);
	return true;
}

static void stack_host_each_small(struct stack_chunk *chunk, void *data)
{
	if (READ_ONCE(chunk->shattered))
		return;
	stack_host_small(chunk);
	/* Was it shattered meanwhile?  Then it had been like other memory already. */
	if (READ_ONCE(chunk->shattered))
		stack_host_default(chunk);
}

static void stack_host_update(void)
{
	lockdep_assert_held(&stack_host_lock);
	if (stack_host_there && stack_host_wanted)
		stack_pool_start();
	else if (READ_ONCE(stack_pool_active))
		stack_pool_stop();
}

static void stack_host_work(struct work_struct *work)
{
	unsigned long events;

	guard(mutex)(&stack_host_lock);
	events = xchg(&stack_host_events, 0);
	/* Whatever came last: this asks for what is true now */
	stack_host_there = stack_host_query();
	if (stack_host_there && events & (BIT(PVMEMCTL_RESET) | BIT(PVMEMCTL_RESUMED)))
		stack_pool_each_chunk(stack_host_each_small, NULL);
	stack_host_update();
}

static DECLARE_WORK(stack_host_worker, stack_host_work);

/* With locks of the provider held: so the rest is done elsewhere */
static int stack_host_event(struct notifier_block *nb, unsigned long event, void *data)
{
	set_bit(event, &stack_host_events);
	queue_work(system_freezable_wq, &stack_host_worker);
	return NOTIFY_OK;
}

static struct notifier_block stack_host_nb = {
	.notifier_call = stack_host_event,
};

/**
 * stack_host_enable - use the pool, or stop using it
 * @enable: which
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EPERM with pvmemctl.stack=off.
 */
int stack_host_enable(bool enable)
{
	guard(mutex)(&stack_host_lock);
	if (stack_mode == PVMEMCTL_MODE_OFF && enable)
		return -EPERM;
	stack_host_wanted = enable;
	stack_host_update();
	return 0;
}

/* Is the pool to be used, if there is a host for it? */
bool stack_host_enabled(void)
{
	return READ_ONCE(stack_host_wanted);
}

static int __init stack_host_init(void)
{
	if (stack_pool_init()) {
		pr_warn("no memory; kernel stacks stay as they are\n");
		return -ENOMEM;
	}
	stack_sysfs_init();
	if (stack_mode == PVMEMCTL_MODE_OFF)
		return 0;
	stack_host_wanted = true;
	return pvmemctl_register_notifier(&stack_host_nb);
}
late_initcall(stack_host_init);
