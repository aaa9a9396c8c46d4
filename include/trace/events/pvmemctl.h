/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pvmemctl

#if !defined(_TRACE_PVMEMCTL_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PVMEMCTL_H

#include <linux/pvmemctl.h>
#include <linux/tracepoint.h>

#define PVMEMCTL_TRACE_NAME(code, name)		{ code, name },

/*
 * One doorbell.  err is 0 or the errno for "the host could not be asked";
 * host_errno and host_code are the host's answer and only mean something where
 * err is 0.
 */
TRACE_EVENT(pvmemctl_call,

	TP_PROTO(const struct memctl_vmm_call *call, int err,
		 const struct memctl_vmm_ret *ret, u64 ns),

	TP_ARGS(call, err, ret, ns),

	TP_STRUCT__entry(
		__field(u64, func)
		__field(u64, addr)
		__field(u64, length)
		__field(u64, arg)
		__field(int, err)
		__field(u32, host_errno)
		__field(u32, host_code)
		__field(u64, ns)
	),

	TP_fast_assign(
		__entry->func		= call->func_code;
		__entry->addr		= call->addr;
		__entry->length		= call->length;
		__entry->arg		= call->arg;
		__entry->err		= err;
		__entry->host_errno	= err ? 0 : ret->ret_errno;
		__entry->host_code	= err ? 0 : ret->ret_code;
		__entry->ns		= ns;
	),

	TP_printk("func=%s addr=0x%llx length=0x%llx arg=0x%llx err=%d errno=%u code=%u ns=%llu",
		  __print_symbolic(__entry->func,
				   PVMEMCTL_FUNCTIONS(PVMEMCTL_TRACE_NAME)
				   { ~0UL, "?" }),
		  __entry->addr, __entry->length, __entry->arg, __entry->err,
		  __entry->host_errno, __entry->host_code, __entry->ns)
);

#endif /* _TRACE_PVMEMCTL_H */

#include <trace/define_trace.h>
