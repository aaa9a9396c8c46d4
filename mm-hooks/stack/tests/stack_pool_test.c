// SPDX-License-Identifier: GPL-2.0-only
/*
 * What no program can do to its kernel stack on purpose: use much of it, write to its
 * end, look for what others left there.  For tests, by files in debugfs:
 *
 *   deep   write N: use N bytes of the caller's stack, filled with a pattern; more than
 *	    it has ends the kernel
 *   hold   write N: likewise, and sleep there until a signal comes
 *   left   read: how many words of the caller's stack are of that pattern
 *   end    write X: store X in the last word of the caller's stack, and let the
 *	    scheduler see it
 */

#define pr_fmt(fmt) "stack pool test: " fmt

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

#define TEST_PATTERN	0x57acc0de57acc0deUL

/* What a frame takes, about */
#define TEST_FRAME	256

static unsigned long test_depth(void)
{
	return (unsigned long)task_stack_page(current) + THREAD_SIZE -
	       (unsigned long)__builtin_frame_address(0);
}

/* The compiler may not make a loop of this, nor leave out what nobody reads */
static noinline int test_recurse(unsigned long depth, bool hold)
{
	unsigned long frame[TEST_FRAME / sizeof(long)];
	unsigned int i;
	int ret = 0;

	for (i = 0; i < ARRAY_SIZE(frame); i++)
		WRITE_ONCE(frame[i], TEST_PATTERN);
	if (test_depth() + 2 * TEST_FRAME < depth) {
		ret = test_recurse(depth, hold);
	} else if (hold) {
		while (!signal_pending(current))
			schedule_timeout_interruptible(MAX_SCHEDULE_TIMEOUT);
	}
	/* Used after the call: the frame stays until then */
	for (i = 0; i < ARRAY_SIZE(frame); i++)
		if (READ_ONCE(frame[i]) != TEST_PATTERN)
			ret = -EIO;
	return ret;
}

static int test_deep_set(void *data, u64 depth)
{
	if (depth > 2 * THREAD_SIZE)
		return -EINVAL;
	return test_recurse(depth, data);
}
DEFINE_DEBUGFS_ATTRIBUTE(test_deep_fops, NULL, test_deep_set, "%llu\n");

static int test_left_get(void *data, u64 *val)
{
	const unsigned long *word = task_stack_page(current);
	unsigned long half = TEST_PATTERN / 3;

	/* An interrupt that found the pattern in a register would leave it on the stack */
	OPTIMIZER_HIDE_VAR(half);
	/* From below: up to where this function's own frame is */
	for (*val = 0; word < (unsigned long *)__builtin_frame_address(0); word++)
		*val += READ_ONCE_NOCHECK(*word) - half == TEST_PATTERN - TEST_PATTERN / 3;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(test_left_fops, test_left_get, NULL, "%llu\n");

static int test_end_set(void *data, u64 val)
{
	WRITE_ONCE(*end_of_stack(current), val);
	schedule_timeout_uninterruptible(1);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(test_end_fops, NULL, test_end_set, "0x%llx\n");

static struct dentry *test_dir;

static int __init stack_pool_test_init(void)
{
	test_dir = debugfs_create_dir("stack_pool_test", NULL);
	debugfs_create_file_unsafe("deep", 0200, test_dir, NULL, &test_deep_fops);
	debugfs_create_file_unsafe("hold", 0200, test_dir, test_dir, &test_deep_fops);
	debugfs_create_file_unsafe("left", 0400, test_dir, NULL, &test_left_fops);
	debugfs_create_file_unsafe("end", 0200, test_dir, NULL, &test_end_fops);
	return 0;
}
module_init(stack_pool_test_init);

static void __exit stack_pool_test_exit(void)
{
	debugfs_remove_recursive(test_dir);
}
module_exit(stack_pool_test_exit);

MODULE_DESCRIPTION("Use of kernel stacks that only a test makes");
MODULE_LICENSE("GPL");
