/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory that the host of this guest has zeroed need not be cleared again.
 * Documentation/mm/page_zeroing.rst has the whole story.
 *
 * Each of these is a branch that is patched out until a host is found that can
 * do it, and nothing at all without CONFIG_PVMEMCTL_ZERO.
 */
#ifndef _LINUX_HOST_ZERO_H
#define _LINUX_HOST_ZERO_H

#include <linux/hugetlb.h>
#include <linux/jump_label.h>
#include <linux/mm.h>

#ifdef CONFIG_HUGETLB_PAGE
#ifdef CONFIG_PVMEMCTL_ZERO

/* Once on it stays on: pages may be marked for as long as this kernel runs */
DECLARE_STATIC_KEY_FALSE(host_zero_hugetlb_key);

void __host_zero_hugetlb_enqueued(void);
bool __host_zero_hugetlb_skip(struct folio *folio);
bool host_zero_hugetlb_wait(void);

/**
 * host_zero_hugetlb_enqueued - a huge page was put on a free list of the pool
 * @folio: huge page, of unknown contents
 *
 * The host is asked to release it a little later, by a worker.
 *
 * Context: Any, with hugetlb_lock held.
 */
static inline void host_zero_hugetlb_enqueued(struct folio *folio)
{
	if (!static_branch_unlikely(&host_zero_hugetlb_key))
		return;
	folio_clear_hugetlb_zeroed(folio);
	folio_clear_hugetlb_kept(folio);
	__host_zero_hugetlb_enqueued();
}

/**
 * host_zero_hugetlb_busy - is a free huge page being released right now?
 * @folio: huge page
 *
 * If so it must stay where it is.  host_zero_hugetlb_wait() waits for that.
 *
 * Context: Any, with hugetlb_lock held.
 * Return: true if the host is at it.
 */
static inline bool host_zero_hugetlb_busy(struct folio *folio)
{
	return static_branch_unlikely(&host_zero_hugetlb_key) &&
	       folio_test_hugetlb_releasing(folio);
}

/**
 * host_zero_hugetlb_dequeued - a huge page is taken off its free list
 * @folio: huge page
 *
 * Forgets what was known of it.
 *
 * Context: Any, with hugetlb_lock held.
 * Return: true if it reads as zero until somebody writes to it.
 */
static inline bool host_zero_hugetlb_dequeued(struct folio *folio)
{
	bool zeroed;

	if (!static_branch_unlikely(&host_zero_hugetlb_key))
		return false;
	zeroed = folio_test_hugetlb_zeroed(folio);
	folio_clear_hugetlb_zeroed(folio);
	folio_clear_hugetlb_kept(folio);
	return zeroed;
}

/**
 * host_zero_hugetlb_clear - make a huge page read as zero
 * @folio: huge page, fresh from the pool
 * @addr: where user space will touch it, a hint
 * @zeroed: what its allocation said: it does already
 *
 * Context: Process context, may sleep.
 */
static inline void host_zero_hugetlb_clear(struct folio *folio, unsigned long addr,
					   bool zeroed)
{
	if (static_branch_unlikely(&host_zero_hugetlb_key) && zeroed &&
	    __host_zero_hugetlb_skip(folio))
		return;
	folio_zero_user(folio, addr);
}

#else /* !CONFIG_PVMEMCTL_ZERO */

static inline void host_zero_hugetlb_enqueued(struct folio *folio) { }

static inline bool host_zero_hugetlb_busy(struct folio *folio)
{
	return false;
}

static inline bool host_zero_hugetlb_dequeued(struct folio *folio)
{
	return false;
}

static inline bool host_zero_hugetlb_wait(void)
{
	return false;
}

static inline void host_zero_hugetlb_clear(struct folio *folio, unsigned long addr,
					   bool zeroed)
{
	folio_zero_user(folio, addr);
}

#endif /* CONFIG_PVMEMCTL_ZERO */
#endif /* CONFIG_HUGETLB_PAGE */

#ifdef CONFIG_PVMEMCTL_ZERO

DECLARE_STATIC_KEY_FALSE(host_zero_call_key);
extern unsigned int host_zero_call_order;

bool __host_zero_by_call(struct page *page, unsigned int order);

/**
 * host_zero_by_call - have the host zero what would have to be cleared
 * @page: first page, mapped by this kernel
 * @order: number of pages, as a power of two
 *
 * Context: Any.
 * Return: true if the pages read as zero now, false if they have to be cleared.
 */
static inline bool host_zero_by_call(struct page *page, unsigned int order)
{
	return static_branch_unlikely(&host_zero_call_key) &&
	       order >= READ_ONCE(host_zero_call_order) &&
	       __host_zero_by_call(page, order);
}

#else /* !CONFIG_PVMEMCTL_ZERO */

static inline bool host_zero_by_call(struct page *page, unsigned int order)
{
	return false;
}

#endif /* CONFIG_PVMEMCTL_ZERO */

#if defined(CONFIG_PVMEMCTL_ZERO) && defined(CONFIG_PAGE_REPORTING)

/*
 * Free pages that read as zero, see mm/pvmemctl/zero/free.c.  Once on it stays on.
 */
DECLARE_STATIC_KEY_FALSE(host_zero_free_key);

/* On while more of them may come */
DECLARE_STATIC_KEY_FALSE(host_zero_report_key);

bool __host_zero_skip(struct page *page, unsigned int order);
void __host_zero_restored(void);

/*
 * In page->private of the first page, on its way from the buddy allocator to whoever
 * allocates it.  No order, of which that field has one at times.
 */
#define HOST_ZERO_TAKEN		0x7a65726fUL

/**
 * host_zero_take - a block is taken off its free list
 * @page: first page
 *
 * Context: Any, with zone->lock held.
 * Return: what to set page->private to: for host_zero_is_taken().
 */
static inline unsigned long host_zero_take(struct page *page)
{
	if (!static_branch_unlikely(&host_zero_free_key) || !PageHostZeroed(page))
		return 0;
	__ClearPageHostZeroed(page);
	return HOST_ZERO_TAKEN;
}

/**
 * host_zero_is_taken - does a block on its way out of the allocator read as zero?
 * @page: first page
 *
 * Context: Any; nobody but the allocator has the page.
 * Return: true if so.
 */
static inline bool host_zero_is_taken(const struct page *page)
{
	return static_branch_unlikely(&host_zero_free_key) &&
	       page_private(page) == HOST_ZERO_TAKEN;
}

/**
 * host_zero_forget - from here on a block may hold anything
 * @page: first page
 *
 * Context: Any; nobody but the allocator has the page.
 */
static inline void host_zero_forget(struct page *page)
{
	if (static_branch_unlikely(&host_zero_free_key))
		set_page_private(page, 0);
}

/**
 * host_zero_put - a block that reads as zero is put on a free list
 * @page: first page
 *
 * Context: Any, with zone->lock held.
 */
static inline void host_zero_put(struct page *page)
{
	__SetPageHostZeroed(page);
}

/**
 * host_zero_skip - need a block that reads as zero not be cleared?
 * @page: first page
 * @order: number of pages, as a power of two
 *
 * Context: Any.
 * Return: true if not.
 */
static inline bool host_zero_skip(struct page *page, unsigned int order)
{
	return __host_zero_skip(page, order);
}

/**
 * host_zero_gfp - leave clearing to the allocator?
 *
 * Only the allocator knows which pages need not be cleared.  Who would clear pages
 * of user space himself, in an order that is good for caches, leaves it to the
 * allocator where there may be such pages.
 *
 * Return: __GFP_ZERO or nothing.
 */
static inline gfp_t host_zero_gfp(void)
{
	return static_branch_unlikely(&host_zero_report_key) ? __GFP_ZERO : 0;
}

/**
 * host_zero_restored - this kernel was restored from hibernation
 *
 * Context: Interrupts off, on the only CPU, before anything is allocated.
 */
static inline void host_zero_restored(void)
{
	if (static_branch_unlikely(&host_zero_free_key))
		__host_zero_restored();
}

#else

static inline unsigned long host_zero_take(struct page *page)
{
	return 0;
}

static inline bool host_zero_is_taken(const struct page *page)
{
	return false;
}

static inline void host_zero_forget(struct page *page) { }
static inline void host_zero_put(struct page *page) { }

static inline bool host_zero_skip(struct page *page, unsigned int order)
{
	return false;
}

static inline gfp_t host_zero_gfp(void)
{
	return 0;
}

static inline void host_zero_restored(void) { }

#endif /* CONFIG_PVMEMCTL_ZERO && CONFIG_PAGE_REPORTING */

#endif /* _LINUX_HOST_ZERO_H */
