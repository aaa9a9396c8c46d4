/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pvmemctl_zero

#if !defined(_TRACE_PVMEMCTL_ZERO_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PVMEMCTL_ZERO_H

#include <linux/tracepoint.h>

/* As in enum zero_mech */
#define PVMEMCTL_ZERO_MECH			\
	{ 0, "hugetlb" },			\
	{ 1, "free" },				\
	{ 2, "call" }

/* The host was asked to zero nr ranges; tried: how far that went; err: why no further */
TRACE_EVENT(pvmemctl_zero_release,

	TP_PROTO(unsigned int mech, unsigned int nr, unsigned int tried, int err),

	TP_ARGS(mech, nr, tried, err),

	TP_STRUCT__entry(
		__field(unsigned int, mech)
		__field(unsigned int, nr)
		__field(unsigned int, tried)
		__field(int, err)
	),

	TP_fast_assign(
		__entry->mech	= mech;
		__entry->nr	= nr;
		__entry->tried	= tried;
		__entry->err	= err;
	),

	TP_printk("mech=%s nr=%u tried=%u err=%d",
		  __print_symbolic(__entry->mech, PVMEMCTL_ZERO_MECH),
		  __entry->nr, __entry->tried, __entry->err)
);

/* Memory was not cleared, because it reads as zero */
TRACE_EVENT(pvmemctl_zero_skip,

	TP_PROTO(unsigned int mech, unsigned long pfn, unsigned int order),

	TP_ARGS(mech, pfn, order),

	TP_STRUCT__entry(
		__field(unsigned int, mech)
		__field(unsigned long, pfn)
		__field(unsigned int, order)
	),

	TP_fast_assign(
		__entry->mech	= mech;
		__entry->pfn	= pfn;
		__entry->order	= order;
	),

	TP_printk("mech=%s pfn=0x%lx order=%u",
		  __print_symbolic(__entry->mech, PVMEMCTL_ZERO_MECH),
		  __entry->pfn, __entry->order)
);

#endif /* _TRACE_PVMEMCTL_ZERO_H */

#include <trace/define_trace.h>
