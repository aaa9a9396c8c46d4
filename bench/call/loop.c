// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commands, a line each, answered by a line each:
 *
 *   call A B LENGTH STRIDE COUNT OFFSET TOUCH
 *	COUNT times function A, then B if that is not -1, each time on LENGTH bytes,
 *	STRIDE further.  TOUCH: the memory is written to before.
 *   vector CODE ENTRIES LENGTH COUNT OFFSET TOUCH
 *	COUNT times CODE on ENTRIES ranges of LENGTH bytes, and as much between them
 *   singles CODE ENTRIES LENGTH COUNT OFFSET TOUCH
 *	the same by a call for each range
 *   scale THREADS COUNT TOUCH
 *	each of THREADS, on a CPU of its own, COUNT times DONTNEED on a page of its own
 *
 * The answer is "ok FAILED ERRNO VALUE NS NS": how many calls failed, the last error,
 * the last value, nanoseconds in all calls of A, and of B.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "loop.h"

struct result {
	unsigned long failed;
	int err;
	uint64_t value;
	uint64_t ns[2];
};

void fail(const char *what)
{
	fprintf(stderr, "bench call: %s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

void pin(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

static void touch(uint64_t offset, uint64_t length)
{
	uint64_t at;

	for (at = 0; at < length; at += PAGE)
		*(volatile unsigned char *)(area + offset + at) = 1;
}

static void note(struct result *r, struct answer a)
{
	r->value = a.value;
	if (a.err) {
		r->failed++;
		r->err = a.err;
	}
}

static void run_call(struct result *r, int a, int b, uint64_t length, uint64_t stride,
		     unsigned long count, uint64_t offset, int touched)
{
	unsigned long i;
	uint64_t t0, t1, t2;

	for (i = 0; touched && i < count; i++)
		touch(offset + i * stride, length);
	for (i = 0; i < count; i++) {
		uint64_t at = offset + i * stride;

		t0 = now();
		note(r, call_one(0, a, at, length));
		t1 = now();
		r->ns[0] += t1 - t0;
		if (b < 0)
			continue;
		note(r, call_one(0, b, at, length));
		t2 = now();
		r->ns[1] += t2 - t1;
	}
}

static void run_vector(struct result *r, unsigned int code, unsigned int nr, uint64_t length,
		       unsigned long count, uint64_t offset, int touched, int singles)
{
	struct memctl_vmm_range ranges[MEMCTL_VECTOR_MAX];
	unsigned long i;
	unsigned int j;
	uint64_t start;

	for (i = 0; touched && i < count * nr; i++)
		touch(offset + i * 2 * length, length);
	for (i = 0; i < count; i++) {
		for (j = 0; j < nr; j++) {
			ranges[j].addr = offset + (i * nr + j) * 2 * length;
			ranges[j].length = length;
		}
		start = now();
		if (singles)
			for (j = 0; j < nr; j++)
				note(r, call_one(0, code, ranges[j].addr, length));
		else
			note(r, call_vector(0, code, ranges, nr));
		r->ns[0] += now() - start;
	}
}

struct worker {
	pthread_t thread;
	pthread_barrier_t *barrier;
	unsigned int cpu;
	unsigned long count;
	int touched;
	struct result result;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t offset = w->cpu * 2 * PAGE, start;
	unsigned long i;

	pin(w->cpu);
	pthread_barrier_wait(w->barrier);
	start = now();
	for (i = 0; i < w->count; i++) {
		if (w->touched)
			touch(offset, PAGE);
		note(&w->result, call_one(w->cpu, MEMCTL_DONTNEED, offset, PAGE));
	}
	w->result.ns[0] = now() - start;
	return NULL;
}

/* The nanoseconds are those of the slowest */
static void run_scale(struct result *r, unsigned int threads, unsigned long count, int touched)
{
	struct worker workers[MAX_CPUS] = { 0 };
	pthread_barrier_t barrier;
	unsigned int i;

	pthread_barrier_init(&barrier, NULL, threads);
	for (i = 0; i < threads; i++) {
		workers[i].barrier = &barrier;
		workers[i].cpu = i;
		workers[i].count = count;
		workers[i].touched = touched;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			fail("pthread_create");
	}
	for (i = 0; i < threads; i++) {
		pthread_join(workers[i].thread, NULL);
		r->failed += workers[i].result.failed;
		if (workers[i].result.err)
			r->err = workers[i].result.err;
		if (workers[i].result.ns[0] > r->ns[0])
			r->ns[0] = workers[i].result.ns[0];
	}
	pthread_barrier_destroy(&barrier);
}

static int inside(uint64_t offset, uint64_t length, uint64_t stride, uint64_t count)
{
	return count && offset + (count - 1) * stride + length <= area_length;
}

static int run(const char *line, struct result *r)
{
	unsigned long length, stride, count, offset;
	unsigned int nr;
	char name[16];
	int a, b, touched;

	if (sscanf(line, "call %d %d %lu %lu %lu %lu %d", &a, &b, &length, &stride, &count,
		   &offset, &touched) == 7 && inside(offset, length, stride, count)) {
		run_call(r, a, b, length, stride, count, offset, touched);
		return 1;
	}
	if (sscanf(line, "%15s %d %u %lu %lu %lu %d", name, &a, &nr, &length, &count, &offset,
		   &touched) == 7 && nr && nr <= MEMCTL_VECTOR_MAX &&
	    inside(offset, length, 2 * length, count * nr) &&
	    (!strcmp(name, "vector") || !strcmp(name, "singles"))) {
		run_vector(r, a, nr, length, count, offset, touched, !strcmp(name, "singles"));
		return 1;
	}
	if (sscanf(line, "scale %u %lu %d", &nr, &count, &touched) == 3 && nr && nr <= MAX_CPUS) {
		run_scale(r, nr, count, touched);
		return 1;
	}
	return 0;
}

int serve(FILE *in, FILE *out)
{
	char line[256];

	while (fgets(line, sizeof(line), in)) {
		struct result r = { 0 };

		if (run(line, &r))
			fprintf(out, "ok %lu %d %llu %llu %llu\n", r.failed, r.err,
				(unsigned long long)r.value, (unsigned long long)r.ns[0],
				(unsigned long long)r.ns[1]);
		else if (!call_other(line, out))
			fprintf(out, "error %s", line);
		fflush(out);
	}
	return 0;
}
