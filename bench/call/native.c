// SPDX-License-Identifier: GPL-2.0-only
/*
 * The bare system calls, on memory of the shape that guest memory has in QEMU, in a
 * process with as many threads:  native anon|memfd MIB THREADS.  Commands come from
 * standard input: see loop.c.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "loop.h"

unsigned char *area;
size_t area_length;

static int self;
static int shared;

/* The advice that a function is, -1 if it is none */
static int advice(unsigned int code)
{
	switch (code) {
	case MEMCTL_DONTNEED:
		return MADV_DONTNEED;
	case MEMCTL_ZERO:
		return shared ? MADV_REMOVE : MADV_DONTNEED;
	case MEMCTL_REMOVE:
		return MADV_REMOVE;
	case MEMCTL_FREE:
		return MADV_FREE;
	case MEMCTL_PAGEOUT:
		return MADV_PAGEOUT;
	case MEMCTL_COLD:
		return MADV_COLD;
	case MEMCTL_POPULATE:
		return MADV_POPULATE_WRITE;
	case MEMCTL_DONTDUMP:
		return MADV_DONTDUMP;
	case MEMCTL_DODUMP:
		return MADV_DODUMP;
	case MEMCTL_MERGEABLE:
		return MADV_MERGEABLE;
	case MEMCTL_UNMERGEABLE:
		return MADV_UNMERGEABLE;
	case MEMCTL_HUGEPAGE:
		return MADV_HUGEPAGE;
	case MEMCTL_NOHUGEPAGE:
		return MADV_NOHUGEPAGE;
	default:
		return -1;
	}
}

static int system_call(unsigned int code, void *addr, uint64_t length)
{
	switch (code) {
	case MEMCTL_INFO:
	case MEMCTL_QUERY:
		return 0;
	case MEMCTL_MLOCK:
		return mlock2(addr, length, 0);
	case MEMCTL_MUNLOCK:
		return munlock(addr, length);
	case MEMCTL_MPROTECT_NONE:
		return mprotect(addr, length, PROT_NONE);
	case MEMCTL_MPROTECT_R:
		return mprotect(addr, length, PROT_READ);
	case MEMCTL_MPROTECT_W:		/* as the device does it */
	case MEMCTL_MPROTECT_RW:
		return mprotect(addr, length, PROT_READ | PROT_WRITE);
	default:
		return madvise(addr, length, advice(code));
	}
}

struct answer call_one(unsigned int cpu, unsigned int code, uint64_t offset, uint64_t length)
{
	(void)cpu;
	return (struct answer){
		.err = system_call(code, area + offset, length) ? errno : 0,
	};
}

struct answer call_vector(unsigned int cpu, unsigned int code,
			  const struct memctl_vmm_range *ranges, unsigned int nr)
{
	struct { void *base; size_t length; } iov[MEMCTL_VECTOR_MAX];
	size_t sum = 0;
	unsigned int i;
	long done;

	(void)cpu;
	for (i = 0; i < nr; i++) {
		iov[i].base = area + ranges[i].addr;
		iov[i].length = ranges[i].length;
		sum += ranges[i].length;
	}
	done = syscall(SYS_process_madvise, self, iov, (unsigned long)nr, advice(code), 0);
	return (struct answer){
		.err = done < 0 ? errno : (size_t)done < sum ? EAGAIN : 0,
	};
}

int call_other(const char *line, FILE *out)
{
	(void)line;
	(void)out;
	return 0;
}

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int fd = -1, i;

	if (argc != 4) {
		fprintf(stderr, "usage: native anon|memfd MIB THREADS\n");
		return 2;
	}
	shared = !strcmp(argv[1], "memfd");
	area_length = strtoul(argv[2], NULL, 0) << 20;
	self = syscall(SYS_pidfd_open, getpid(), 0);
	if (shared) {
		fd = memfd_create("native", 0);
		if (fd < 0 || ftruncate(fd, area_length))
			fail("memfd");
	}
	area = mmap(NULL, area_length + (2UL << 20), PROT_READ | PROT_WRITE,
		    shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
	if (area == MAP_FAILED)
		fail("mmap");
	if (!shared)
		area = (void *)(((uintptr_t)area + (2UL << 20) - 1) & ~((2UL << 20) - 1));
	/* As QEMU does */
	madvise(area, area_length, MADV_MERGEABLE);
	madvise(area, area_length, MADV_HUGEPAGE);
	for (i = 1; i < atoi(argv[3]); i++)
		if (pthread_create(&thread, NULL, idle, NULL))
			fail("pthread_create");
	printf("ready\n");
	fflush(stdout);
	return serve(stdin, stdout);
}
