/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The two programs of "scripts/bench call": guest.c asks the device, native.c makes
 * the bare system calls.  loop.c, which both share, does what the script tells it:
 * so both do the same to memory of the same shape.
 */
#ifndef BENCH_CALL_LOOP_H
#define BENCH_CALL_LOOP_H

#include <linux/pvmemctl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define PAGE 4096UL
#define MAX_CPUS 8
/* The buffer of a CPU, and its table for VECTOR */
#define SLOT (2 * PAGE)

struct answer {
	int err;	/* errno, 0 if all is done */
	uint64_t value;	/* the device's ret_value */
};

/* The memory that is played with */
extern unsigned char *area;
extern size_t area_length;

/* Provided by guest.c and native.c; @offset is in the area, bytes */
struct answer call_one(unsigned int cpu, unsigned int code, uint64_t offset,
		       uint64_t length);
struct answer call_vector(unsigned int cpu, unsigned int code,
			  const struct memctl_vmm_range *ranges, unsigned int nr);
/* Commands of its own; writes the answer to @out.  0: no such command. */
int call_other(const char *line, FILE *out);

/* Read commands until there are no more */
int serve(FILE *in, FILE *out);
void pin(unsigned int cpu);
uint64_t now(void);
void fail(const char *what);

#endif
