/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * pvmemctl: a guest tells its host how to back the guest's memory.
 *
 * This header is the whole ABI: what user space hands to /dev/pvmemctl<N>, and
 * what travels between a guest and its host.  A VMM includes it unchanged.
 * Documentation/virt/pvmemctl.rst explains both.
 */
#ifndef _UAPI_LINUX_PVMEMCTL_H
#define _UAPI_LINUX_PVMEMCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct memctl_vmm_call - what a caller asks of the host
 * @func_code: one of the MEMCTL_* function codes
 * @addr: guest-physical address of the first byte, aligned to the host's page
 * @length: number of bytes, a multiple of the host's page size
 * @arg: depends on @func_code; zero where no meaning is given
 */
struct memctl_vmm_call {
	__u64 func_code;
	__u64 addr;
	__u64 length;
	__u64 arg;
};

/**
 * struct memctl_vmm_ret - what the host answered
 * @ret_errno: 0, or the Linux errno (asm-generic numbers) of what failed
 * @ret_code: 0, or the function code where the host refused before it tried
 * @ret_value: depends on the function code; zero where no meaning is given
 * @arg0: likewise
 * @arg1: likewise
 *
 * The host did what it was asked when both @ret_errno and @ret_code are zero.
 */
struct memctl_vmm_ret {
	__u32 ret_errno;
	__u32 ret_code;
	__u64 ret_value;
	__u64 arg0;
	__u64 arg1;
};

/**
 * struct memctl_buf - a request, overlaid by its answer
 * @call: the request
 * @ret: the answer
 *
 * Native-endian for MEMCTL_IOCTL, little-endian between guest and host.
 */
struct memctl_buf {
	union {
		struct memctl_vmm_call call;
		struct memctl_vmm_ret ret;
	};
};

/*
 * Ask the host.  Needs CAP_SYS_ADMIN at open.  Returns 0 when the host answered:
 * look at ret.ret_errno and ret.ret_code to see what.  Otherwise errno is
 *
 *   EFAULT   the buffer cannot be read or written
 *   EINVAL   unknown function code; empty, misaligned or wrapping range; table of
 *            MEMCTL_VECTOR not in RAM, or for a function that it is not for: locks
 *            and protections too need a call for each range here
 *   EINTR    a fatal signal ended a request that takes several steps
 *   EIO      the device does not answer, or answers nonsense
 *   ENODEV   the device is gone
 *   ENOTTY   unknown ioctl
 *   EPERM    the kernel is locked down, or raw calls are switched off
 */
#define MEMCTL_IOCTL_TYPE	0xDA
#define MEMCTL_IOCTL		_IOWR(MEMCTL_IOCTL_TYPE, 0x00, struct memctl_buf)

/*
 * Function codes.  What each does is what the named system call does to the
 * host's mapping of the range.
 */
/* Host page size in ret_value, protocol major in arg0, minor in arg1; no range */
#define MEMCTL_INFO			0
#define MEMCTL_DONTNEED			1	/* madvise MADV_DONTNEED */
#define MEMCTL_REMOVE			2	/* madvise MADV_REMOVE */
#define MEMCTL_FREE			3	/* madvise MADV_FREE */
#define MEMCTL_PAGEOUT			4	/* madvise MADV_PAGEOUT */
#define MEMCTL_DONTDUMP			5	/* madvise MADV_DONTDUMP */
/* prctl PR_SET_VMA_ANON_NAME: a name made of arg; arg 0 takes the name away */
#define MEMCTL_SET_VMA_ANON_NAME	6
#define MEMCTL_MLOCK			7	/* mlock2, no flags */
#define MEMCTL_MUNLOCK			8	/* munlock */
#define MEMCTL_MPROTECT_NONE		9	/* mprotect PROT_NONE */
#define MEMCTL_MPROTECT_R		10	/* mprotect PROT_READ */
#define MEMCTL_MPROTECT_W		11	/* mprotect PROT_WRITE */
#define MEMCTL_MPROTECT_RW		12	/* mprotect PROT_READ|PROT_WRITE */
#define MEMCTL_MERGEABLE		13	/* madvise MADV_MERGEABLE */
#define MEMCTL_UNMERGEABLE		14	/* madvise MADV_UNMERGEABLE */

/*
 * Since protocol 1.1.  A host of 1.0 answers EOPNOTSUPP to all of these.
 */
/*
 * What the host can do for the range of arg bytes at addr, 0 bytes: all RAM; sent
 * with a length of all ones.  In ret_value bit N is set where function code N works
 * on all of the range, arg0 has the entries that VECTOR takes at most, arg1 the
 * largest backing page in the range, bytes
 */
#define MEMCTL_QUERY			32
/* The range reads as zero afterwards, and is released where the host can */
#define MEMCTL_ZERO			33
#define MEMCTL_POPULATE			34	/* madvise MADV_POPULATE_WRITE */
#define MEMCTL_HUGEPAGE			35	/* madvise MADV_HUGEPAGE */
#define MEMCTL_NOHUGEPAGE		36	/* madvise MADV_NOHUGEPAGE */
#define MEMCTL_DODUMP			37	/* madvise MADV_DODUMP */
#define MEMCTL_COLD			38	/* madvise MADV_COLD */
/*
 * Apply function arg to each of length ranges in the table of struct
 * memctl_vmm_range at addr, in order, until one fails.  Any function but INFO,
 * QUERY, VECTOR and SET_VMA_ANON_NAME.  ret_value has the number of ranges done;
 * arg1 how many bytes of the next one, where that was begun
 */
#define MEMCTL_VECTOR			39

/* The most entries that any host takes in the table of a VECTOR call */
#define MEMCTL_VECTOR_MAX		256

/**
 * struct memctl_vmm_range - an entry of a table for MEMCTL_VECTOR
 * @addr: guest-physical address of the first byte, aligned to the host's page
 * @length: number of bytes, a multiple of the host's page size
 *
 * Little-endian between guest and host.  A table is aligned to 16 bytes.
 */
struct memctl_vmm_range {
	__u64 addr;
	__u64 length;
};

/*
 * The device, for its drivers and for VMMs.  BAR 0 is 32-bit memory:
 *
 *   offset  width     write                         read
 *   0x0     8 or 4+4  payload of the next command   payload of the last answer
 *   0x8     4         command, or a connection      answer to the last command
 *
 * All registers are little-endian.
 */
#define MEMCTL_PCI_VENDOR_ID		0x1ae0
#define MEMCTL_PCI_DEVICE_ID		0x0087
#define MEMCTL_PCI_SUBSYSTEM_ID		0x011f
#define MEMCTL_BAR_SIZE			16
#define MEMCTL_REG_PAYLOAD		0x0
#define MEMCTL_REG_COMMAND		0x8

/* Commands, and what the device answers to them */
#define MEMCTL_CMD_RESET		0x060FE6D2
#define MEMCTL_CMD_REGISTER		0x0E359539
#define MEMCTL_CMD_READY		0x0CA8D227
#define MEMCTL_CMD_DISCONNECT		0x030F5DA0
#define MEMCTL_ANSWER_ACK		0x03CF5196
#define MEMCTL_ANSWER_ERROR		0x01FBA249

/* Connection numbers have this bit set, commands do not */
#define MEMCTL_CONNECTION_BASE		0x80000000u

/* The protocol that this header describes */
#define MEMCTL_PROTOCOL_MAJOR		1
#define MEMCTL_PROTOCOL_MINOR		1

#endif /* _UAPI_LINUX_PVMEMCTL_H */
