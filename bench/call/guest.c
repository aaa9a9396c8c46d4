// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side: a driver in user space, so that it is the device that is
 * measured; and the kernel's driver, for the instructions that a call costs there.
 * Commands come by a virtio-serial port: guest PORT CPUS.  See loop.c; and
 *
 *   attach
 *	take the device from its driver, and connect a buffer for each CPU
 *   insns HOW CODE ENTRIES COUNT
 *	COUNT times CODE on a page, or on ENTRIES pages by VECTOR, HOW: "ioctl" by the
 *	kernel's driver, "raw" by the attached device, "none" by nobody, which is what
 *	the loop costs; between two marks for the plugin
 *
 * The area is one huge page, which the kernel does not move: /proc/self/pagemap
 * stays right.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "loop.h"

#ifndef MAP_HUGE_1GB
#define MAP_HUGE_1GB (30 << 26)
#endif

unsigned char *area;
size_t area_length = 1UL << 30;

static uint64_t area_phys;
static unsigned int cpus;

/* Of each CPU: a buffer, and in the next page a table */
static unsigned char *slots;
static uint64_t slots_phys[2 * MAX_CPUS];
static uint32_t connections[MAX_CPUS];

static volatile unsigned char *bar;

static uint64_t physical(void *addr)
{
	uint64_t entry;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)addr / PAGE * 8) != 8 || !(entry >> 63))
		fail("/proc/self/pagemap");
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * PAGE + (uintptr_t)addr % PAGE;
}

static struct memctl_buf *buffer_of(unsigned int cpu)
{
	return (void *)(slots + cpu * SLOT);
}

static struct memctl_vmm_range *table_of(unsigned int cpu)
{
	return (void *)(slots + cpu * SLOT + PAGE);
}

static uint64_t table_phys(unsigned int cpu)
{
	return slots_phys[2 * cpu + 1];
}

/* All is x86: stores are in order, and a device's register is written behind them */
static void write_command(uint32_t value)
{
	*(volatile uint32_t *)(bar + MEMCTL_REG_COMMAND) = value;
}

static struct answer answer_of(const struct memctl_buf *buf, uint64_t sent_length)
{
	struct answer a = { .value = buf->ret.ret_value };

	if (buf->ret.arg0 == sent_length)
		a.err = EIO;
	else if (buf->ret.ret_errno)
		a.err = buf->ret.ret_errno;
	return a;
}

static struct answer ring(unsigned int cpu, unsigned int code, uint64_t addr, uint64_t length,
			  uint64_t arg)
{
	volatile struct memctl_buf *buf = buffer_of(cpu);

	buf->call.func_code = code;
	buf->call.addr = addr;
	buf->call.length = length;
	buf->call.arg = arg;
	__sync_synchronize();
	write_command(connections[cpu]);
	__sync_synchronize();
	return answer_of((struct memctl_buf *)buf, length);
}

struct answer call_one(unsigned int cpu, unsigned int code, uint64_t offset, uint64_t length)
{
	if (code == MEMCTL_INFO || code == MEMCTL_QUERY)
		return ring(cpu, code, 0, ~0ULL, 0);
	return ring(cpu, code, area_phys + offset, length, 0);
}

static void fill_table(unsigned int cpu, const struct memctl_vmm_range *ranges, unsigned int nr)
{
	struct memctl_vmm_range *table = table_of(cpu);
	unsigned int i;

	for (i = 0; i < nr; i++) {
		table[i].addr = area_phys + ranges[i].addr;
		table[i].length = ranges[i].length;
	}
}

struct answer call_vector(unsigned int cpu, unsigned int code,
			  const struct memctl_vmm_range *ranges, unsigned int nr)
{
	fill_table(cpu, ranges, nr);
	return ring(cpu, MEMCTL_VECTOR, table_phys(cpu), nr, code);
}

/* The device */

static int read_hex(const char *dir, const char *name, unsigned long *value)
{
	char path[512], text[64] = "";
	int fd, n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	*value = strtoul(text, NULL, 16);
	return n > 0 ? 0 : -1;
}

static void write_text(const char *dir, const char *name, const char *text)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(path);
	close(fd);
}

/* Its directory in sysfs; returns its address on the bus */
static const char *find_device(char *dir, size_t size)
{
	static const char all[] = "/sys/bus/pci/devices";
	unsigned long vendor, device;
	struct dirent *entry;
	DIR *d = opendir(all);

	while (d && (entry = readdir(d))) {
		snprintf(dir, size, "%s/%s", all, entry->d_name);
		if (!read_hex(dir, "vendor", &vendor) && !read_hex(dir, "device", &device) &&
		    vendor == MEMCTL_PCI_VENDOR_ID && device == MEMCTL_PCI_DEVICE_ID)
			return strdup(entry->d_name);
	}
	return NULL;
}

static void command(uint32_t value)
{
	write_command(value);
	if (*(volatile uint32_t *)(bar + MEMCTL_REG_COMMAND) != MEMCTL_ANSWER_ACK) {
		errno = EIO;
		fail("the device refused a command");
	}
}

static void attach(void)
{
	char dir[300], path[400];
	const char *address = find_device(dir, sizeof(dir));
	unsigned long start;
	unsigned int i;
	int fd;

	if (!address) {
		errno = ENODEV;
		fail("no device");
	}
	snprintf(path, sizeof(path), "%s/driver", dir);
	if (!access(path, F_OK))
		write_text(path, "unbind", address);
	write_text(dir, "enable", "1");
	if (read_hex(dir, "resource", &start))
		fail("resource");
	snprintf(path, sizeof(path), "%s/resource0", dir);
	fd = open(path, O_RDWR | O_SYNC);
	bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || bar == MAP_FAILED)
		fail(path);
	bar += start % PAGE;

	command(MEMCTL_CMD_RESET);
	for (i = 0; i < cpus; i++) {
		*(volatile uint64_t *)(bar + MEMCTL_REG_PAYLOAD) = slots_phys[2 * i];
		command(MEMCTL_CMD_REGISTER);
		connections[i] = *(volatile uint32_t *)(bar + MEMCTL_REG_PAYLOAD);
	}
	command(MEMCTL_CMD_READY);
}

/* Instructions */

/* A no-operation that nobody else has, and the plugin knows */
static inline void mark(void)
{
	asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00\n\t.long 0x4d565042" : : : "memory");
}

static struct answer ask_driver(int fd, const struct memctl_vmm_call *call)
{
	struct memctl_buf buf = { .call = *call };

	if (ioctl(fd, MEMCTL_IOCTL, &buf))
		return (struct answer){ .err = errno };
	return answer_of(&buf, call->length);
}

static int insns(const char *line, FILE *out)
{
	struct memctl_vmm_range ranges[MEMCTL_VECTOR_MAX];
	struct memctl_vmm_call call = { 0 };
	unsigned int code, nr, i;
	unsigned long count, at;
	struct answer a = { 0 };
	char how[8];
	int fd = -1;

	if (sscanf(line, "insns %7s %u %u %lu", how, &code, &nr, &count) != 4 ||
	    nr > MEMCTL_VECTOR_MAX)
		return 0;
	for (i = 0; i < nr; i++) {
		ranges[i].addr = 2 * PAGE * i;
		ranges[i].length = PAGE;
	}
	fill_table(0, ranges, nr);
	call.func_code = nr ? MEMCTL_VECTOR : code;
	call.addr = nr ? table_phys(0) : area_phys;
	call.length = nr ? nr : PAGE;
	call.arg = nr ? code : 0;
	if (!strcmp(how, "ioctl")) {
		fd = open("/dev/pvmemctl0", O_RDWR);
		if (fd < 0) {
			fprintf(out, "ok %lu %d 0 0 0\n", count, errno);
			return 1;
		}
	}
	mark();
	for (at = 0; at < count && !a.err; at++) {
		if (how[0] == 'i')
			a = ask_driver(fd, &call);
		else if (how[0] == 'r')
			a = ring(0, call.func_code, call.addr, call.length, call.arg);
		asm volatile("" : : : "memory");
	}
	mark();
	if (fd >= 0)
		close(fd);
	fprintf(out, "ok %d %d %llu 0 0\n", !!a.err, a.err, (unsigned long long)a.value);
	return 1;
}

int call_other(const char *line, FILE *out)
{
	if (!strncmp(line, "attach", 6)) {
		attach();
		fprintf(out, "ok 0 0 0 0 0\n");
		return 1;
	}
	return insns(line, out);
}

int main(int argc, char **argv)
{
	unsigned int i;
	FILE *in, *out;
	int port;

	if (argc != 3) {
		fprintf(stderr, "usage: guest PORT CPUS\n");
		return 2;
	}
	cpus = atoi(argv[2]);
	if (!cpus || cpus > MAX_CPUS)
		return 2;
	area = mmap(NULL, area_length, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_1GB, -1, 0);
	if (area == MAP_FAILED)
		fail("no huge page: give the kernel hugepagesz=1G hugepages=1");
	*(volatile unsigned char *)area = 1;
	area_phys = physical(area);
	slots = mmap(NULL, cpus * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED || mlockall(MCL_CURRENT | MCL_FUTURE))
		fail("mlock");
	memset(slots, 0, cpus * SLOT);
	for (i = 0; i < 2 * cpus; i++)
		slots_phys[i] = physical(slots + i * PAGE);
	pin(0);

	/* A port is opened once */
	port = open(argv[1], O_RDWR);
	in = fdopen(port, "r");
	out = fdopen(dup(port), "w");
	if (!in || !out)
		fail(argv[1]);
	fprintf(out, "ready\n");
	fflush(out);
	return serve(in, out);
}
