// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/mm/pvmemctl/stack: the pool of kernel stacks in figures, and its switch.
 * Documentation/ABI/testing/sysfs-kernel-mm-pvmemctl-stack says what they mean.
 */

#define pr_fmt(fmt) "stack pool: " fmt

#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/kobject.h>
#include <linux/kstrtox.h>
#include <linux/nodemask.h>
#include <linux/pfn.h>
#include <linux/pvmemctl.h>
#include <linux/seq_file.h>
#include <linux/sysfs.h>

#include "stack.h"

struct stack_figures {
	unsigned long stacks;
	unsigned long idle;
	unsigned long deep;
	unsigned long chunks;
	unsigned long pages;
	struct stack_stats stats;
};

/* All nodes in one; the counters of struct stack_stats are an array of longs */
static void stack_figures_get(struct stack_figures *sum)
{
	unsigned long *to = (unsigned long *)&sum->stats;
	int nid;

	static_assert(sizeof(struct stack_stats) % sizeof(long) == 0);
	memset(sum, 0, sizeof(*sum));
	for_each_node(nid) {
		struct stack_pool *pool = stack_pool_of(nid);
		const unsigned long *from;
		unsigned int i;

		if (!pool)
			continue;
		from = (const unsigned long *)&pool->stats;
		guard(spinlock_irqsave)(&pool->lock);
		for (i = 0; i < sizeof(struct stack_stats) / sizeof(long); i++)
			to[i] += from[i];
		sum->stacks += pool->nr_live;
		sum->idle += stack_pool_ready(pool);
		sum->deep += pool->nr_idle[STACK_DEEP];
		sum->chunks += pool->nr_chunks;
		sum->pages += pool->nr_stacks * STACK_PAGES;
	}
}

#define STACK_FIGURE(name, value)						\
static ssize_t name##_show(struct kobject *kobj, struct kobj_attribute *attr,	\
			   char *buf)						\
{										\
	struct stack_figures sum;						\
										\
	stack_figures_get(&sum);						\
	return sysfs_emit(buf, "%lu\n", value);				\
}										\
static struct kobj_attribute name##_attr = __ATTR_RO(name)

STACK_FIGURE(stacks, sum.stacks);
STACK_FIGURE(idle, sum.idle);
STACK_FIGURE(deep, sum.deep);
STACK_FIGURE(chunks, sum.chunks);
STACK_FIGURE(pages, sum.pages);
STACK_FIGURE(taken, sum.stats.taken);
STACK_FIGURE(fallbacks, sum.stats.fallbacks);
STACK_FIGURE(grown, sum.stats.grown);
STACK_FIGURE(not_grown, sum.stats.not_grown);
STACK_FIGURE(shattered, sum.stats.shattered);
STACK_FIGURE(released, sum.stats.released);
STACK_FIGURE(refused, sum.stats.refused);
STACK_FIGURE(calls, stack_host_calls());
STACK_FIGURE(not_small, stack_host_not_small());

static ssize_t depth_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct stack_figures sum;
	unsigned int i;
	ssize_t len = 0;

	stack_figures_get(&sum);
	for (i = 0; i <= STACK_PAGES; i++)
		len += sysfs_emit_at(buf, len, "%lu%c", sum.stats.depth[i],
				     i < STACK_PAGES ? ' ' : '\n');
	return len;
}

static struct kobj_attribute depth_attr = __ATTR_RO(depth);

static ssize_t enabled_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", stack_host_enabled());
}

static ssize_t enabled_store(struct kobject *kobj, struct kobj_attribute *attr,
			     const char *buf, size_t count)
{
	bool enable;
	int err;

	err = kstrtobool(buf, &enable);
	if (!err)
		err = stack_host_enable(enable);
	return err ?: count;
}

static struct kobj_attribute enabled_attr = __ATTR_RW(enabled);

static ssize_t active_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(stack_pool_active));
}

static struct kobj_attribute active_attr = __ATTR_RO(active);

static struct attribute *stack_attrs[] = {
	&enabled_attr.attr, &active_attr.attr, &stacks_attr.attr, &idle_attr.attr,
	&deep_attr.attr, &chunks_attr.attr, &pages_attr.attr, &taken_attr.attr,
	&fallbacks_attr.attr, &grown_attr.attr, &not_grown_attr.attr,
	&shattered_attr.attr, &released_attr.attr, &refused_attr.attr,
	&not_small_attr.attr, &calls_attr.attr, &depth_attr.attr, NULL
};

static const struct attribute_group stack_group = {
	.name = "stack",
	.attrs = stack_attrs,
};

/* Where the chunks are, for those who want to know what the host holds of them */
static void stack_chunk_show(struct stack_chunk *chunk, void *data)
{
	struct seq_file *m = data;

	seq_printf(m, "0x%llx 0x%lx %d %u %d\n", (u64)PFN_PHYS(chunk->pfn), STACK_CHUNK_SIZE,
		   chunk->pool->nid, READ_ONCE(chunk->live), READ_ONCE(chunk->shattered));
}

static int stack_chunks_show(struct seq_file *m, void *unused)
{
	seq_puts(m, "# address length node live shattered\n");
	stack_pool_each_chunk(stack_chunk_show, m);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stack_chunks);

/**
 * stack_sysfs_init - show the pool to users
 *
 * Context: Process context, may sleep.
 */
void __init stack_sysfs_init(void)
{
	if (!pvmemctl_kobj || sysfs_create_group(pvmemctl_kobj, &stack_group))
		pr_warn("no memory for /sys/kernel/mm/pvmemctl/stack\n");
	debugfs_create_file("chunks", 0400, debugfs_create_dir("stack_pool", NULL), NULL,
			    &stack_chunks_fops);
}
