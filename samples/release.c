// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fill memory, wait, and give it back to the host without freeing it: the program
 * still owns it, reads zeroes from it, and may write to it again at any time.
 *
 *   release [MIB [SECONDS]]
 *
 * A call takes guest-physical addresses, which a program does not control: the
 * kernel may move a page between the look at /proc/self/pagemap and the call, and
 * the host would discard a page that by then is somebody else's.  Here the memory
 * is locked and nothing else runs that would make the kernel move it.  Do not do
 * this in production.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/pvmemctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "release: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void release(int fd, __u64 addr, __u64 length)
{
	struct memctl_buf buf = {
		.call = { .func_code = MEMCTL_DONTNEED, .addr = addr, .length = length },
	};

	if (ioctl(fd, MEMCTL_IOCTL, &buf))
		fail("cannot ask the host");
	if (buf.ret.ret_errno || buf.ret.ret_code) {
		errno = buf.ret.ret_errno;
		fail("the host refused");
	}
}

int main(int argc, char **argv)
{
	size_t length = (argc > 1 ? strtoul(argv[1], NULL, 0) : 512) << 20;
	unsigned int seconds = argc > 2 ? strtoul(argv[2], NULL, 0) : 3;
	size_t page = sysconf(_SC_PAGESIZE), pages = length / page, i, ranges = 0;
	__u64 *map, start = 0, end = 0;
	unsigned char *mem;
	int fd, pagemap;

	fd = open("/dev/pvmemctl0", O_RDWR);
	if (fd < 0)
		fail("/dev/pvmemctl0");
	mem = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map = malloc(pages * sizeof(*map));
	if (!length || mem == MAP_FAILED || !map)
		fail("no memory");
	madvise(mem, length, MADV_HUGEPAGE);
	memset(mem, 0xa5, length);
	if (mlock(mem, length))
		fail("mlock");
	printf("filled %zu MiB\n", length >> 20);
	fflush(stdout);
	sleep(seconds);

	pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (pagemap < 0 || pread(pagemap, map, pages * 8, (unsigned long)mem / page * 8) !=
			   (ssize_t)(pages * 8))
		fail("/proc/self/pagemap");
	for (i = 0; i < pages; i++) {
		__u64 addr = (map[i] & ((1ULL << 55) - 1)) * page;

		if (addr != end) {
			if (end)
				release(fd, start, end - start);
			start = addr;
			ranges++;
		}
		end = addr + page;
	}
	release(fd, start, end - start);
	printf("released it in %zu ranges\n", ranges);
	fflush(stdout);
	sleep(seconds);

	for (i = 0; i < length; i += page)
		if (mem[i])
			break;
	printf("%s\n", i < length ? "it does not read as zero" : "it reads as zero");
	return i < length;
}
