// SPDX-License-Identifier: GPL-2.0-only
/*
 * Another driver that reports free memory, to a host that leaves something there.  For
 * tests, by a file in debugfs:
 *
 *   foreign_report   write 1: register it, and fill with a pattern whatever it is given;
 *		      write 0: unregister it; read: bytes so far
 */

#define pr_fmt(fmt) "pvmemctl zero test: " fmt

#include <linux/debugfs.h>
#include <linux/kasan.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/page_reporting.h>
#include <linux/scatterlist.h>

#define TEST_DELAY_MS	20

static DEFINE_MUTEX(test_lock);		/* registered or not */
static bool test_registered;
static u64 test_bytes;

static int test_report(struct page_reporting_dev_info *prdev, struct scatterlist *sgl,
		       unsigned int nents)
{
	struct scatterlist *sg;
	unsigned int i;

	/* To KASAN they are free */
	kasan_disable_current();
	for_each_sg(sgl, sg, nents, i) {
		memset(page_address(sg_page(sg)), 0xaa, sg->length);
		WRITE_ONCE(test_bytes, test_bytes + sg->length);
	}
	kasan_enable_current();
	return 0;
}

static struct page_reporting_dev_info test_prdev = {
	.report = test_report,
	.delay_ms = TEST_DELAY_MS,
};

static int test_foreign_set(void *data, u64 val)
{
	int ret = 0;

	guard(mutex)(&test_lock);
	if (val && !test_registered)
		ret = page_reporting_register(&test_prdev);
	else if (!val && test_registered)
		page_reporting_unregister(&test_prdev);
	if (!ret)
		test_registered = val;
	return ret;
}

static int test_foreign_get(void *data, u64 *val)
{
	*val = READ_ONCE(test_bytes);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(test_foreign_fops, test_foreign_get, test_foreign_set, "%llu\n");

static struct dentry *test_dir;

static int __init zero_test_init(void)
{
	test_dir = debugfs_create_dir("pvmemctl_zero_test", NULL);
	debugfs_create_file_unsafe("foreign_report", 0600, test_dir, NULL, &test_foreign_fops);
	return 0;
}
module_init(zero_test_init);

static void __exit zero_test_exit(void)
{
	debugfs_remove_recursive(test_dir);
	test_foreign_set(NULL, 0);
}
module_exit(zero_test_exit);

MODULE_DESCRIPTION("Reports of free memory by another driver");
MODULE_LICENSE("GPL");
