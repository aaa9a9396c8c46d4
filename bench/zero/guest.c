// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side of "scripts/bench zero": allocates, touches and frees memory as it
 * is told, by lines on a virtio-serial port: guest PORT CPUS.  All answers begin with
 * "ok"; times are nanoseconds.
 *
 *   fault KIND COUNT BYTES	map COUNT pages of KIND, touch BYTES of each (1: the first
 *				byte, 0: all), unmap: "ok TIME"
 *   fresh KIND COUNT BYTES	the same, but keep them: so the next get others
 *   hold KIND COUNT		map and fill, and keep: "ok"
 *   check			read what is kept: "ok"
 *   drop			unmap what is kept: "ok TIME"
 *   churn KIND COUNT ROUNDS	map, fill, unmap, again and again: "ok TIME"
 *   verified			how much was read back so far, and how many words of
 *				8 bytes were wrong: "ok BYTES WORDS"
 *   write VALUE PATH		"ok" or an errno: "ok 1 ERRNO"
 *   read PATH			the number in a file, -1 for none: "ok NUMBER"
 *   mark			for the plugin that counts instructions: "ok"
 *
 * KIND is huge or giga, of the pools; thp or small, anonymous memory.
 *
 * What is written is added to what is there: if that was not zero it shows when it is
 * read back, which is done outside of all times and marks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2UL << 20)
#define GIGA (1UL << 30)
#define PAGE 4096UL

/* Where nobody else maps anything; aligned for huge pages */
#define ARENA 0x100000000000UL
#define ARENA_SLOT (2 * GIGA)
#define MOST_AREAS 16

struct area {
	char *at;
	size_t length;
	size_t page;		/* each was touched like the others */
	int all;		/* or the first byte only */
};

static struct area kept[MOST_AREAS];
static unsigned int nr_kept;
static unsigned long verified, wrong;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

/* A no-operation that nobody else has, and the plugin knows */
static inline void mark(void)
{
	asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00\n\t.long 0x4d565042" : : : "memory");
}

static size_t size_of(const char *kind)
{
	return !strcmp(kind, "giga") ? GIGA : !strcmp(kind, "small") ? PAGE : HUGE;
}

/* In the slot behind what is kept */
static char *map(const char *kind, size_t length)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *at = (char *)ARENA + nr_kept * ARENA_SLOT;

	if (nr_kept == MOST_AREAS || length + PAGE > ARENA_SLOT ||
	    mmap(at, length + PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0) !=
	    at)
		return NULL;
	/* So the page tables are there, and a fault clears nothing but its huge page */
	at[length] = 1;
	if (!strcmp(kind, "thp") || !strcmp(kind, "small")) {
		madvise(at, length, strcmp(kind, "thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
		return at;
	}
	flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
	if (!strcmp(kind, "giga"))
		flags |= 30 << MAP_HUGE_SHIFT;
	if (mmap(at, length, PROT_READ | PROT_WRITE, flags, -1, 0) != at) {
		munmap(at, length + PAGE);
		return NULL;
	}
	return at;
}

static void unmap(char *at, size_t length)
{
	munmap(at, length + PAGE);
}

/* Atomic, or a page would be read before it is written: that is another page fault */
static void touch(char *at)
{
	__atomic_fetch_add(at, 1, __ATOMIC_RELAXED);
}

static void fill(char *at, size_t length)
{
	for (size_t i = 0; i < length; i += PAGE) {
		__atomic_fetch_add((uint64_t *)(at + i), i + 1, __ATOMIC_RELAXED);
		for (size_t j = i + sizeof(uint64_t); j < i + PAGE; j += sizeof(uint64_t))
			*(volatile uint64_t *)(at + j) += j + 1;
	}
}

/* Is there what was written, and else nothing? */
static void verify(const struct area *area)
{
	for (size_t page = 0; page < area->length; page += area->page) {
		const uint64_t *words = (uint64_t *)(area->at + page);

		for (size_t i = 0; i < area->page / sizeof(*words); i++)
			wrong += words[i] != (area->all ? i * sizeof(*words) + 1 : !i);
	}
	verified += area->length;
}

static void keep(const struct area *area)
{
	kept[nr_kept++] = *area;
}

static long number_in(const char *path)
{
	FILE *file = fopen(path, "r");
	long value = -1;

	if (file) {
		if (fscanf(file, "%ld", &value) != 1)
			value = -1;
		fclose(file);
	}
	return value;
}

static void run(char *line, FILE *out)
{
	char kind[16] = "", path[256] = "", value[64] = "";
	unsigned long count, bytes;
	struct area area = { 0 };
	uint64_t start;

	if (sscanf(line, "fault %15s %lu %lu", kind, &count, &bytes) == 3 ||
	    sscanf(line, "fresh %15s %lu %lu", kind, &count, &bytes) == 3) {
		area.page = size_of(kind);
		area.length = count * area.page;
		area.all = !bytes;
		area.at = map(kind, area.length);
		if (!area.at) {
			fprintf(out, "error no memory\n");
			return;
		}
		mark();
		start = now();
		for (size_t i = 0; i < area.length; i += area.page) {
			if (bytes)
				touch(area.at + i);
			else
				fill(area.at + i, area.page);
		}
		start = now() - start;
		mark();
		verify(&area);
		if (!strncmp(line, "fresh", 5))
			keep(&area);
		else
			unmap(area.at, area.length);
		fprintf(out, "ok %lu\n", start);
	} else if (sscanf(line, "hold %15s %lu", kind, &count) == 2) {
		area.length = area.page = count * size_of(kind);
		area.all = 1;
		area.at = map(kind, area.length);
		if (!area.at) {
			fprintf(out, "error no memory\n");
			return;
		}
		fill(area.at, area.length);
		keep(&area);
		fprintf(out, "ok 0\n");
	} else if (!strncmp(line, "check", 5)) {
		for (unsigned int i = 0; i < nr_kept; i++)
			verify(&kept[i]);
		fprintf(out, "ok 0\n");
	} else if (!strncmp(line, "drop", 4)) {
		mark();
		start = now();
		while (nr_kept) {
			nr_kept--;
			unmap(kept[nr_kept].at, kept[nr_kept].length);
		}
		fprintf(out, "ok %lu\n", now() - start);
	} else if (sscanf(line, "churn %15s %lu %lu", kind, &count, &bytes) == 3) {
		area.length = area.page = count * size_of(kind);
		area.all = 1;
		mark();
		start = now();
		/* One round more, to be looked at */
		for (unsigned long i = 0; i <= bytes; i++) {
			if (i == bytes) {
				start = now() - start;
				mark();
			}
			area.at = map(kind, area.length);
			if (!area.at) {
				fprintf(out, "error no memory\n");
				return;
			}
			fill(area.at, area.length);
			if (i == bytes)
				verify(&area);
			unmap(area.at, area.length);
		}
		fprintf(out, "ok %lu\n", start);
	} else if (!strncmp(line, "verified", 8)) {
		fprintf(out, "ok %lu %lu\n", verified, wrong);
	} else if (sscanf(line, "write %63s %255s", value, path) == 2) {
		int fd = open(path, O_WRONLY);
		int err = fd < 0 || write(fd, value, strlen(value)) < 0 ? errno : 0;

		if (fd >= 0)
			close(fd);
		fprintf(out, "ok %d %d\n", !!err, err);
	} else if (sscanf(line, "read %255s", path) == 1) {
		fprintf(out, "ok %ld\n", number_in(path));
	} else if (!strncmp(line, "mark", 4)) {
		mark();
		fprintf(out, "ok 0\n");
	} else {
		fprintf(out, "error no such command\n");
	}
}

int main(int argc, char **argv)
{
	FILE *in, *out;
	char line[512];
	int fd;

	fd = argc > 1 ? open(argv[1], O_RDWR) : -1;
	in = fd < 0 ? NULL : fdopen(fd, "r");
	out = fd < 0 ? NULL : fdopen(dup(fd), "w");
	if (!in || !out) {
		perror("port");
		return 1;
	}
	fprintf(out, "ready\n");
	fflush(out);
	while (fgets(line, sizeof(line), in)) {
		run(line, out);
		fflush(out);
	}
	return 0;
}
