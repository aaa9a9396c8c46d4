// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side of "scripts/bench zero": allocates, touches and frees memory as it
 * is told, by lines on a virtio-serial port: guest PORT CPUS.  All answers begin with
 * "ok"; times are nanoseconds.
 *
 *   fault KIND COUNT BYTES	map COUNT pages of KIND, touch BYTES of each (1: the first
 *				byte, 0: all), unmap: "ok TIME"
 *   hold KIND COUNT		map and fill, and keep: "ok"
 *   drop			unmap what is kept: "ok TIME"
 *   churn KIND COUNT ROUNDS	map, fill, unmap, again and again: "ok TIME"
 *   write VALUE PATH		"ok" or an errno: "ok 1 ERRNO"
 *   read PATH			the number in a file, -1 for none: "ok NUMBER"
 *   skipped PATH ORDER		bytes in the line of that order: "ok NUMBER"
 *   mark			for the plugin that counts instructions: "ok"
 *
 * KIND is huge or giga, of the pools; thp or small, anonymous memory.
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

static char *kept;
static size_t kept_length;

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

static char *map(const char *kind, size_t length)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *at, *aligned;

	if (!strcmp(kind, "huge"))
		flags |= MAP_HUGETLB;
	if (!strcmp(kind, "giga"))
		flags |= MAP_HUGETLB | 30 << 26;
	if (flags & MAP_HUGETLB) {
		at = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
		return at == MAP_FAILED ? NULL : at;
	}
	at = mmap(NULL, length + HUGE, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	aligned = (char *)(((uintptr_t)at + HUGE - 1) & ~(HUGE - 1));
	if (aligned > at)
		munmap(at, aligned - at);
	if (at + HUGE > aligned)
		munmap(aligned + length, at + HUGE - aligned);
	madvise(aligned, length, strcmp(kind, "thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	return aligned;
}

static void fill(char *at, size_t length)
{
	for (size_t i = 0; i < length; i += sizeof(uint64_t))
		*(volatile uint64_t *)(at + i) = i + 1;
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

static long skipped(const char *path, int wanted)
{
	FILE *file = fopen(path, "r");
	long bytes, found = 0;
	int order;

	if (!file)
		return 0;
	while (fscanf(file, "%d %ld", &order, &bytes) == 2)
		if (order == wanted)
			found = bytes;
	fclose(file);
	return found;
}

static void run(char *line, FILE *out)
{
	char kind[16] = "", path[256] = "", value[64] = "";
	unsigned long count, bytes, size;
	uint64_t start;
	char *at;

	if (sscanf(line, "fault %15s %lu %lu", kind, &count, &bytes) == 3) {
		size = size_of(kind);
		at = map(kind, count * size);
		if (!at) {
			fprintf(out, "error no memory\n");
			return;
		}
		mark();
		start = now();
		for (unsigned long i = 0; i < count; i++) {
			if (bytes)
				*(volatile char *)(at + i * size) = 1;
			else
				fill(at + i * size, size);
		}
		start = now() - start;
		mark();
		munmap(at, count * size);
		fprintf(out, "ok %lu\n", start);
	} else if (sscanf(line, "hold %15s %lu", kind, &count) == 2) {
		kept_length = count * size_of(kind);
		kept = map(kind, kept_length);
		if (!kept) {
			fprintf(out, "error no memory\n");
			return;
		}
		fill(kept, kept_length);
		fprintf(out, "ok 0\n");
	} else if (!strncmp(line, "drop", 4)) {
		mark();
		start = now();
		munmap(kept, kept_length);
		fprintf(out, "ok %lu\n", now() - start);
	} else if (sscanf(line, "churn %15s %lu %lu", kind, &count, &bytes) == 3) {
		size = count * size_of(kind);
		mark();
		start = now();
		while (bytes--) {
			at = map(kind, size);
			if (!at) {
				fprintf(out, "error no memory\n");
				return;
			}
			fill(at, size);
			munmap(at, size);
		}
		start = now() - start;
		mark();
		fprintf(out, "ok %lu\n", start);
	} else if (sscanf(line, "write %63s %255s", value, path) == 2) {
		int fd = open(path, O_WRONLY);
		int err = fd < 0 || write(fd, value, strlen(value)) < 0 ? errno : 0;

		if (fd >= 0)
			close(fd);
		fprintf(out, "ok %d %d\n", !!err, err);
	} else if (sscanf(line, "read %255s", path) == 1) {
		fprintf(out, "ok %ld\n", number_in(path));
	} else if (sscanf(line, "skipped %255s %lu", path, &count) == 2) {
		fprintf(out, "ok %ld\n", skipped(path, count));
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
