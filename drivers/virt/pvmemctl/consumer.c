// SPDX-License-Identifier: GPL-2.0-only
/*
 * What those parts of the kernel share that have the host release memory of theirs.
 */

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pvmemctl.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include <kunit/static_stub.h>

static const char * const pvmemctl_modes[] = {
	[PVMEMCTL_MODE_OFF] = "off", [PVMEMCTL_MODE_ON] = "on", [PVMEMCTL_MODE_PROBE] = "probe",
};

static int pvmemctl_mode_set(const char *val, const struct kernel_param *kp)
{
	int mode = sysfs_match_string(pvmemctl_modes, val);

	if (mode < 0)
		return mode;
	*(enum pvmemctl_mode *)kp->arg = mode;
	return 0;
}

static int pvmemctl_mode_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%s\n", pvmemctl_modes[*(enum pvmemctl_mode *)kp->arg]);
}

const struct kernel_param_ops pvmemctl_mode_ops = {
	.set = pvmemctl_mode_set,
	.get = pvmemctl_mode_get,
};

/**
 * memctl_probe_zero - does memory that was written to read as zero after a call?
 * @func_code: the call, one that may zero
 * @order: number of pages to try it on in one piece, as a power of two
 *
 * Context: Process context, may sleep.
 * Return: 0 if so, -EBADE if the host says that it did and has not, or another negative
 *	   errno.
 */
int memctl_probe_zero(__u64 func_code, unsigned int order)
{
	struct memctl_buf buf;
	struct page *page;
	void *at;
	long ret;

	KUNIT_STATIC_STUB_REDIRECT(memctl_probe_zero, func_code, order);

	page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, order);
	if (!page)
		return -ENOMEM;
	at = page_address(page);
	memset(at, 0xa5, PAGE_SIZE << order);
	ret = memctl_vmm_call(func_code, page_to_phys(page), PAGE_SIZE << order, 0, &buf) ?:
	      memctl_ret_errno(&buf);
	if (!ret && memchr_inv(at, 0, PAGE_SIZE << order))
		ret = -EBADE;
	__free_pages(page, order);
	return ret;
}
