/* SPDX-License-Identifier: GPL-2.0-only */
/* What several of the test programs need */
#ifndef SELFTESTS_PVMEMCTL_UTIL_H
#define SELFTESTS_PVMEMCTL_UTIL_H

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pvmemctl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static inline int raw_call(int fd, uint64_t func, uint64_t addr, uint64_t length, uint64_t arg,
			   struct memctl_buf *buf)
{
	buf->call = (struct memctl_vmm_call) {
		.func_code = func, .addr = addr, .length = length, .arg = arg,
	};
	return ioctl(fd, MEMCTL_IOCTL, buf) ? errno : 0;
}

/* Guest-physical address of a page that is present, or 0 */
static inline uint64_t physical(const void *addr)
{
	const size_t page_size = sysconf(_SC_PAGESIZE);
	uint64_t entry = 0;
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)addr / page_size * 8) != sizeof(entry))
		entry = 0;
	close(fd);
	if (!(entry >> 63))
		return 0;
	return (entry & ((1ULL << 55) - 1)) * page_size;
}

/* The first line of a file, without its end; "" if there is none */
static inline const char *file_text(const char *path)
{
	static char text[512];
	FILE *file = fopen(path, "r");

	text[0] = '\0';
	if (file) {
		if (fgets(text, sizeof(text), file))
			text[strcspn(text, "\n")] = '\0';
		fclose(file);
	}
	return text;
}

static inline bool file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

/* Is the device with the address NAME on the PCI bus to have its driver? */
static inline bool set_bound(const char *name, bool bound)
{
	return file_write(bound ? "/sys/bus/pci/drivers/pvmemctl_pci/bind" :
				  "/sys/bus/pci/drivers/pvmemctl_pci/unbind", name);
}

/*
 * Take the connections away behind the driver's back, as the restore of a snapshot
 * does.  False where the device's registers are out of reach; else the device has said
 * @answer, which is MEMCTL_ANSWER_ERROR when it has done so.
 */
static inline bool disconnect(uint32_t *answer)
{
	const char *pci = "/sys/class/misc/pvmemctl0/device";
	const size_t page_size = sysconf(_SC_PAGESIZE);
	volatile uint32_t *command;
	char path[128];
	uint64_t bar;
	char *map;
	int fd;

	snprintf(path, sizeof(path), "%s/resource", pci);
	bar = strtoull(file_text(path), NULL, 16);
	snprintf(path, sizeof(path), "%s/resource0", pci);
	fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		return false;
	map = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return false;
	command = (void *)(map + (bar & (page_size - 1)) + MEMCTL_REG_COMMAND);
	*command = htole32(MEMCTL_CMD_DISCONNECT);
	*answer = le32toh(*command);
	munmap(map, page_size);
	return true;
}

#endif /* SELFTESTS_PVMEMCTL_UTIL_H */
