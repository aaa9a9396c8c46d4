/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's files about this process, read.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/prctl.h>

#include "kernel_view.h"

unsigned char pattern(int region)
{
    return 'A' + region;
}

/* Reads up to 64 MiB: without sanitizers */
__attribute__((no_sanitize("address", "thread", "undefined")))
bool pages_hold(int region, unsigned first, unsigned nr, unsigned char want)
{
    const uint64_t *p = (const uint64_t *)host(region, first);
    const uint64_t *end = (const uint64_t *)host(region, first + nr);
    const uint64_t wanted = UINT64_C(0x0101010101010101) * want;

    for (; p < end; p++) {
        if (*p != wanted) {
            return false;
        }
    }
    return true;
}

uint64_t bytes_mapped(int region, uint64_t offset, uint64_t length)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t at = ((uintptr_t)host(region, 0) + offset) / page_size * 8;
    uint64_t left = length / page_size, mapped = 0;
    uint64_t entries[512];

    assert_true(fd >= 0);
    while (left) {
        uint64_t nr = left < ARRAY_SIZE(entries) ? left : ARRAY_SIZE(entries);

        assert_int_equal(pread(fd, entries, nr * 8, at), nr * 8);
        for (unsigned i = 0; i < nr; i++) {
            /* Bit 63 present, 62 swapped */
            mapped += entries[i] >> 62 ? page_size : 0;
        }
        at += nr * 8;
        left -= nr;
    }
    close(fd);
    return mapped;
}

unsigned pages_mapped(int region, unsigned first, unsigned nr)
{
    uint64_t granule = fake.regions[region].granule;

    return bytes_mapped(region, first * granule, nr * granule) / granule;
}

unsigned pages_resident(int region, unsigned first, unsigned nr)
{
    unsigned char vec[REGION_PAGES * 512];
    uint64_t granule = fake.regions[region].granule;
    unsigned resident = 0;

    assert_int_equal(mincore(host(region, first), nr * granule, vec), 0);
    for (unsigned i = 0; i < nr * granule / page_size; i++) {
        resident += vec[i] & 1;
    }
    return resident / (granule / page_size);
}

unsigned file_pages(int region)
{
    struct stat st;

    assert_int_equal(fstat(fake.regions[region].fd, &st), 0);
    return st.st_blocks * 512 / fake.regions[region].granule;
}

unsigned pages_held(int region, unsigned first, unsigned nr)
{
    const Region *r = &fake.regions[region];
    off_t at = first * r->granule, end = (first + nr) * r->granule;
    unsigned held = 0;

    if (!(r->flags & PVMEMCTL_RAM_SHARED)) {
        return pages_mapped(region, first, nr);
    }
    /* hugetlbfs tells how many pages it has, but not where its holes are */
    if (r->granule > page_size) {
        return file_pages(region) - pages_mapped(region, 0, first) -
               pages_mapped(region, first + nr, REGION_PAGES - first - nr);
    }
    for (; at < end; at += r->granule) {
        held += lseek(r->fd, at, SEEK_DATA) == at;
    }
    return held;
}

static bool mapping_starts(const char *line, uintptr_t *start, uintptr_t *end)
{
    return sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", start, end) == 2;
}

#define CLEAN "Private_Clean:"
#define SWAPPED "Swap:"
#define REFERENCED "Referenced:"

/* The file as it was last read */
static char *text;
static size_t text_size;

static void read_smaps(void)
{
    int fd = open("/proc/self/smaps", O_RDONLY);
    size_t nr = 0;
    ssize_t n;

    assert_true(fd >= 0);
    do {
        if (text_size - nr < 65536) {
            text_size = text_size * 2 + 131072;
            text = realloc(text, text_size);
        }
        n = read(fd, text + nr, text_size - nr - 1);
        assert_true(n >= 0);
        nr += n;
    } while (n);
    text[nr] = '\0';
    close(fd);
}

/* Copies the line at @p; returns where the next one is, NULL at the end */
static const char *next_line(const char *p, char *line, size_t size)
{
    size_t length = strcspn(p, "\n");

    if (!*p) {
        return NULL;
    }
    snprintf(line, size, "%.*s", (int)length, p);
    return p + length + !!p[length];
}

static const char *find_line(int region, unsigned page, const char *key)
{
    static char line[512];
    uintptr_t want = (uintptr_t)host(region, page), start, end;
    const char *p = text;
    bool inside = false, found = false;

    while (!found && (p = next_line(p, line, sizeof(line)))) {
        if (mapping_starts(line, &start, &end)) {
            inside = want >= start && want < end;
            found = inside && !*key;
        } else {
            found = inside && !strncmp(line, key, strlen(key));
        }
    }
    assert_true(found);
    return line;
}

/* Pages that a line in kilobytes counts, of a region's first mapping */
static unsigned count(int region, const char *key)
{
    const char *line = find_line(region, 0, key);

    return strtoul(strchr(line, ':') + 1, NULL, 10) * 1024 / page_size;
}

unsigned clean_pages(int region)
{
    read_smaps();
    return count(region, CLEAN);
}

unsigned swapped_pages(int region)
{
    read_smaps();
    return count(region, SWAPPED);
}

unsigned referenced_pages(int region)
{
    read_smaps();
    return count(region, REFERENCED);
}

const char *smaps(int region, unsigned page, const char *key)
{
    read_smaps();
    return find_line(region, page, key);
}

void page_states_then(int region, PageState states[REGION_PAGES])
{
    uintptr_t low = (uintptr_t)host(region, 0), start, end;
    uintptr_t high = (uintptr_t)host(region, REGION_PAGES);
    uint64_t granule = fake.regions[region].granule;
    unsigned first = 0, last = 0, seen = 0;
    const char *p = text;
    char line[512];

    while ((p = next_line(p, line, sizeof(line)))) {
        if (mapping_starts(line, &start, &end)) {
            const char *name = strstr(line, "[anon:pvmemctl-");

            start = start > low ? start : low;
            end = end < high ? end : high;
            first = last = 0;
            if (start < end) {
                first = (start - low) / granule;
                last = (end - low) / granule;
                seen += last - first;
            }
            for (unsigned i = first; i < last; i++) {
                states[i] = (PageState) {
                    .name = name ? strtoull(name + 15, NULL, 10) : 0,
                };
                memcpy(states[i].perms, strchr(line, ' ') + 1, 3);
            }
        } else if (!strncmp(line, "VmFlags:", 8)) {
            for (unsigned i = first; i < last; i++) {
                states[i].locked = strstr(line, " lo");
                states[i].no_dump = strstr(line, " dd");
                states[i].mergeable = strstr(line, " mg");
                states[i].huge = strstr(line, " hg");
                states[i].no_huge = strstr(line, " nh");
            }
        }
    }
    assert_int_equal(seen, REGION_PAGES);
}

void page_states(int region, PageState states[REGION_PAGES])
{
    read_smaps();
    page_states_then(region, states);
}

/* As of the last read_smaps() */
static bool is_default(int region)
{
    unsigned flags = fake.regions[region].flags;
    PageState states[REGION_PAGES];

    page_states_then(region, states);
    for (unsigned i = 0; i < REGION_PAGES; i++) {
        const PageState *s = &states[i];

        if (strcmp(s->perms, "rw-") || s->locked || s->name || s->no_huge ||
            s->no_dump != !!(flags & PVMEMCTL_RAM_NO_DUMP) ||
            s->mergeable != !!(flags & PVMEMCTL_RAM_MERGEABLE)) {
            return false;
        }
    }
    return true;
}

bool all_default(void)
{
    read_smaps();
    for (int i = 0; i < NR_REGIONS; i++) {
        if (fake.regions[i].host && !is_default(i)) {
            return false;
        }
    }
    return true;
}

bool all_untouched(void)
{
    if (!all_default()) {
        return false;
    }
    for (int i = LOW + 1; i < NR_REGIONS; i++) {
        const Region *r = &fake.regions[i];
        char whole[64];

        /* hugetlb mappings do not join again */
        if (i == BIG || !r->host || r->granule > page_size) {
            continue;
        }
        /* One mapping still, and no page of it to be freed */
        snprintf(whole, sizeof(whole), "%" PRIxPTR "-%" PRIxPTR " rw-",
                 (uintptr_t)r->host, (uintptr_t)r->host + r->size);
        if (strncmp(find_line(i, 0, ""), whole, strlen(whole)) ||
            (r->fd < 0 && count(i, CLEAN))) {
            return false;
        }
    }
    /* Contents come last: reading maps pages */
    for (int i = LOW + 1; i < NR_REGIONS; i++) {
        if (i != BIG && fake.regions[i].host &&
            (pages_mapped(i, 0, REGION_PAGES) != REGION_PAGES ||
             !pages_hold(i, 0, REGION_PAGES, pattern(i)))) {
            return false;
        }
    }
    return true;
}

static bool has_flag(const PageState *s, const char *flag)
{
    switch (*flag) {
    case 'l':
        return s->locked;
    case 'd':
        return s->no_dump;
    case 'm':
        return s->mergeable;
    case 'h':
        return s->huge;
    case 'n':
        return s->no_huge;
    }
    fail();
    return false;
}

bool only_flagged(int region, unsigned first, unsigned nr, const char *flag)
{
    PageState states[REGION_PAGES];

    page_states(region, states);
    for (unsigned i = 0; i < REGION_PAGES; i++) {
        if (has_flag(&states[i], flag) != (i >= first && i < first + nr)) {
            return false;
        }
    }
    return true;
}

bool only_protected(int region, unsigned first, unsigned nr, const char *perms)
{
    PageState states[REGION_PAGES];

    page_states(region, states);
    for (unsigned i = 0; i < REGION_PAGES; i++) {
        if (!strcmp(states[i].perms, perms) !=
            (i >= first && i < first + nr)) {
            return false;
        }
    }
    return true;
}

unsigned mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned nr = 0;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        nr += !!strchr(line, '\n');
    }
    fclose(f);
    return nr;
}

/* What does the kernel say to @advice for a page? */
static bool takes_advice(int advice)
{
    void *p = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = !syscall(SYS_madvise, p, page_size, advice);

    munmap(p, page_size);
    return ok;
}

bool has_ksm(void)
{
    return takes_advice(MADV_MERGEABLE);
}

bool has_thp(void)
{
    return takes_advice(MADV_HUGEPAGE);
}

bool has_names(void)
{
    void *p = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = !syscall(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, p,
                       page_size, "probe");

    munmap(p, page_size);
    return ok;
}

bool has_swap(void)
{
    struct sysinfo info;

    return !sysinfo(&info) && info.totalswap;
}

/* Some file systems in memory cannot punch holes */
bool is_in_memory(int region)
{
    struct statfs fs;

    return !fstatfs(fake.regions[region].fd, &fs) && fs.f_type == TMPFS_MAGIC;
}

bool can_punch(int region)
{
    const Region *r = &fake.regions[region];
    int fd = r->fd;
    off_t size = lseek(fd, 0, SEEK_END);
    bool ok;

    /* Behind the end there is nothing to lose */
    ok = !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, size,
                    r->granule);
    return ok;
}
