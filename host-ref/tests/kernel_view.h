/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel and the memory itself say about guest RAM.  No test asks the
 * device whether the device worked.
 */
#ifndef KERNEL_VIEW_H
#define KERNEL_VIEW_H

#include "fake_vmm.h"

/* The pages hold the byte @want */
bool pages_hold(int region, unsigned first, unsigned nr, unsigned char want);
unsigned char pattern(int region);
/* What the file behind COPY holds */
#define FILE_PATTERN 'f'

/* No page of any region but LOW and BIG has changed since fake_setup() */
bool all_untouched(void);

/* All regions have the attributes they were made with */
bool all_default(void);

/* Of @nr pages, how many the process has mapped or in swap (pagemap) */
unsigned pages_mapped(int region, unsigned first, unsigned nr);

/* Of the bytes [offset, offset + length) of a region, those mapped (pagemap) */
uint64_t bytes_mapped(int region, uint64_t offset, uint64_t length);

/* Of @nr pages, how many are resident (mincore) */
unsigned pages_resident(int region, unsigned first, unsigned nr);

/* Pages that the file behind a region occupies, if it is shared */
unsigned file_pages(int region);

/* The host's memory behind pages: mapped, and of a file if it is shared */
unsigned pages_held(int region, unsigned first, unsigned nr);

/* Pages of a region's first mapping that are not dirty (smaps) */
unsigned clean_pages(int region);

/* Pages of a region's first mapping that are in swap, shared ones too (smaps) */
unsigned swapped_pages(int region);

/* Pages of a region's first mapping accessed since COLD (smaps) */
unsigned referenced_pages(int region);

/*
 * A line of /proc/self/smaps for the mapping that holds a page: the first for
 * key "", else the one that starts with @key.  Valid until the next call.
 */
const char *smaps(int region, unsigned page, const char *key);

/* The attributes of a page */
typedef struct PageState {
    char perms[4];              /* "rw-" */
    bool locked, no_dump, mergeable, huge, no_huge;
    uint64_t name;              /* N of pvmemctl-N, 0: none */
} PageState;

void page_states(int region, PageState states[REGION_PAGES]);
/* ... when page_states() last looked, maybe for another region */
void page_states_then(int region, PageState states[REGION_PAGES]);

/* Exactly pages [first, first + nr) have a flag of VmFlags, like "lo" */
bool only_flagged(int region, unsigned first, unsigned nr, const char *flag);

/* Exactly pages [first, first + nr) have these permissions, like "r--" */
bool only_protected(int region, unsigned first, unsigned nr, const char *perms);

/* Mappings of this process (lines of maps) */
unsigned mappings(void);

/* What this machine can do; probed on memory that is no region */
bool has_names(void);
bool has_ksm(void);
bool has_thp(void);
bool has_swap(void);
bool can_punch(int region);
/* Is the file behind it on a file system without a disk? */
bool is_in_memory(int region);

#endif
