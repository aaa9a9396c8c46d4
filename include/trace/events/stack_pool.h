/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM stack_pool

#if !defined(_TRACE_STACK_POOL_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_STACK_POOL_H

#include <linux/tracepoint.h>

/* A chunk of stacks was made, or could not be made (err) */
TRACE_EVENT(stack_pool_grow,

	TP_PROTO(int nid, unsigned long pfn, unsigned int stacks, int err),

	TP_ARGS(nid, pfn, stacks, err),

	TP_STRUCT__entry(
		__field(int, nid)
		__field(unsigned long, pfn)
		__field(unsigned int, stacks)
		__field(int, err)
	),

	TP_fast_assign(
		__entry->nid	= nid;
		__entry->pfn	= pfn;
		__entry->stacks	= stacks;
		__entry->err	= err;
	),

	TP_printk("nid=%d pfn=0x%lx stacks=%u err=%d",
		  __entry->nid, __entry->pfn, __entry->stacks, __entry->err)
);

/* The idle stacks of a chunk were given up while others of it, live, are in use */
TRACE_EVENT(stack_pool_shrink,

	TP_PROTO(int nid, unsigned long pfn, unsigned int idle, unsigned int live),

	TP_ARGS(nid, pfn, idle, live),

	TP_STRUCT__entry(
		__field(int, nid)
		__field(unsigned long, pfn)
		__field(unsigned int, idle)
		__field(unsigned int, live)
	),

	TP_fast_assign(
		__entry->nid	= nid;
		__entry->pfn	= pfn;
		__entry->idle	= idle;
		__entry->live	= live;
	),

	TP_printk("nid=%d pfn=0x%lx idle=%u live=%u",
		  __entry->nid, __entry->pfn, __entry->idle, __entry->live)
);

/* Written pages of idle stacks went to the host in ranges; refused pages are cleared here */
TRACE_EVENT(stack_pool_release,

	TP_PROTO(unsigned int stacks, unsigned int pages, unsigned int ranges,
		 unsigned int refused, long err),

	TP_ARGS(stacks, pages, ranges, refused, err),

	TP_STRUCT__entry(
		__field(unsigned int, stacks)
		__field(unsigned int, pages)
		__field(unsigned int, ranges)
		__field(unsigned int, refused)
		__field(long, err)
	),

	TP_fast_assign(
		__entry->stacks	= stacks;
		__entry->pages	= pages;
		__entry->ranges	= ranges;
		__entry->refused = refused;
		__entry->err	= err;
	),

	TP_printk("stacks=%u pages=%u ranges=%u refused=%u err=%ld",
		  __entry->stacks, __entry->pages, __entry->ranges,
		  __entry->refused, __entry->err)
);

#endif /* _TRACE_STACK_POOL_H */

#include <trace/define_trace.h>
