/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's side of pvmemctl: ask the host to change how it backs the
 * guest's memory.  Documentation/virt/pvmemctl.rst has the whole story.
 */
#ifndef _LINUX_PVMEMCTL_H
#define _LINUX_PVMEMCTL_H

#include <linux/err.h>
#include <linux/notifier.h>
#include <linux/types.h>

#include <uapi/linux/pvmemctl.h>

struct kernel_param_ops;
struct kobject;

/* Every function code, with the name that tracing and debugfs show */
#define PVMEMCTL_FUNCTIONS(F)				\
	F(MEMCTL_INFO,			"INFO")		\
	F(MEMCTL_DONTNEED,		"DONTNEED")	\
	F(MEMCTL_REMOVE,		"REMOVE")	\
	F(MEMCTL_FREE,			"FREE")		\
	F(MEMCTL_PAGEOUT,		"PAGEOUT")	\
	F(MEMCTL_DONTDUMP,		"DONTDUMP")	\
	F(MEMCTL_SET_VMA_ANON_NAME,	"SET_VMA_ANON_NAME") \
	F(MEMCTL_MLOCK,			"MLOCK")	\
	F(MEMCTL_MUNLOCK,		"MUNLOCK")	\
	F(MEMCTL_MPROTECT_NONE,		"MPROTECT_NONE") \
	F(MEMCTL_MPROTECT_R,		"MPROTECT_R")	\
	F(MEMCTL_MPROTECT_W,		"MPROTECT_W")	\
	F(MEMCTL_MPROTECT_RW,		"MPROTECT_RW")	\
	F(MEMCTL_MERGEABLE,		"MERGEABLE")	\
	F(MEMCTL_UNMERGEABLE,		"UNMERGEABLE")	\
	F(MEMCTL_QUERY,			"QUERY")	\
	F(MEMCTL_ZERO,			"ZERO")		\
	F(MEMCTL_POPULATE,		"POPULATE")	\
	F(MEMCTL_HUGEPAGE,		"HUGEPAGE")	\
	F(MEMCTL_NOHUGEPAGE,		"NOHUGEPAGE")	\
	F(MEMCTL_DODUMP,		"DODUMP")	\
	F(MEMCTL_COLD,			"COLD")		\
	F(MEMCTL_VECTOR,		"VECTOR")

/**
 * enum pvmemctl_event - what a consumer has to know about the provider
 * @PVMEMCTL_ADDED: calls work from now on
 * @PVMEMCTL_LOST: calls fail with -ENODEV from now on
 * @PVMEMCTL_RESET: the device was reconnected; the host may have dropped every
 *		    attribute (protection, lock, name, ...) that was set before
 * @PVMEMCTL_RESUMED: likewise, after the guest was suspended or hibernated
 */
enum pvmemctl_event {
	PVMEMCTL_ADDED,
	PVMEMCTL_LOST,
	PVMEMCTL_RESET,
	PVMEMCTL_RESUMED,
};

/**
 * enum pvmemctl_mode - may a consumer have the host release memory, to be zero after?
 * @PVMEMCTL_MODE_OFF: no
 * @PVMEMCTL_MODE_ON: if the host says that it zeroes
 * @PVMEMCTL_MODE_PROBE: if it was seen to do so
 */
enum pvmemctl_mode {
	PVMEMCTL_MODE_OFF,
	PVMEMCTL_MODE_ON,
	PVMEMCTL_MODE_PROBE,
};

#if IS_ENABLED(CONFIG_PVMEMCTL_CORE)

/* For the boot parameter of a consumer, an enum pvmemctl_mode */
extern const struct kernel_param_ops pvmemctl_mode_ops;

/* /sys/kernel/mm/pvmemctl, where consumers have a folder each; NULL without sysfs */
extern struct kobject *pvmemctl_kobj;

long memctl_vmm_call(__u64 func_code, __u64 addr, __u64 length, __u64 arg,
		     struct memctl_buf *buf);
long memctl_vmm_call_vec(__u64 func_code, const struct memctl_vmm_range *ranges,
			 unsigned int nr, unsigned int *done);
int memctl_probe_zero(__u64 func_code, unsigned int order);
int pvmemctl_register_notifier(struct notifier_block *nb);
void pvmemctl_unregister_notifier(struct notifier_block *nb);

#else

static inline long memctl_vmm_call(__u64 func_code, __u64 addr, __u64 length,
				   __u64 arg, struct memctl_buf *buf)
{
	return -ENODEV;
}

static inline long memctl_vmm_call_vec(__u64 func_code,
				       const struct memctl_vmm_range *ranges,
				       unsigned int nr, unsigned int *done)
{
	*done = 0;
	return -ENODEV;
}

static inline int pvmemctl_register_notifier(struct notifier_block *nb)
{
	return 0;
}

static inline void pvmemctl_unregister_notifier(struct notifier_block *nb) { }

#endif

/**
 * memctl_ret_errno - did the host do what it was asked?
 * @buf: the answer of a memctl_vmm_call() that returned 0
 *
 * Context: Any.
 * Return: 0 on success, else a negative errno; -EIO for an answer that makes no
 *	   sense.  Never positive, whatever the host wrote.
 */
static inline int memctl_ret_errno(const struct memctl_buf *buf)
{
	if (buf->ret.ret_errno > 0 && buf->ret.ret_errno <= MAX_ERRNO)
		return -(int)buf->ret.ret_errno;
	return buf->ret.ret_errno || buf->ret.ret_code ? -EIO : 0;
}

/**
 * memctl_is_refusal - is an error about this range only?
 * @err: negative errno of a call
 *
 * Context: Any.
 * Return: true if another range may do better, false if it makes no sense to go on now.
 */
static inline bool memctl_is_refusal(long err)
{
	switch (err) {
	case -ENODEV:		/* there is nobody */
	case -EIO:		/* he makes no sense */
	case -EBUSY:		/* not now */
	case -EINTR:
		return false;
	default:
		return true;
	}
}

#endif /* _LINUX_PVMEMCTL_H */
