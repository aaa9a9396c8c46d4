// SPDX-License-Identifier: GPL-2.0-only
/*
 * pvmemctl - ask the host to change how it backs memory of this guest
 *
 * See pvmemctl(8).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/pvmemctl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>

/* Exit status: the host did it, it did not, it was not asked */
enum { DONE = 0, REFUSED = 1, NOT_ASKED = 2 };

static const char * const functions[] = {
	[MEMCTL_INFO]			= "info",
	[MEMCTL_DONTNEED]		= "dontneed",
	[MEMCTL_REMOVE]			= "remove",
	[MEMCTL_FREE]			= "free",
	[MEMCTL_PAGEOUT]		= "pageout",
	[MEMCTL_DONTDUMP]		= "dontdump",
	[MEMCTL_SET_VMA_ANON_NAME]	= "set-vma-anon-name",
	[MEMCTL_MLOCK]			= "mlock",
	[MEMCTL_MUNLOCK]		= "munlock",
	[MEMCTL_MPROTECT_NONE]		= "mprotect-none",
	[MEMCTL_MPROTECT_R]		= "mprotect-r",
	[MEMCTL_MPROTECT_W]		= "mprotect-w",
	[MEMCTL_MPROTECT_RW]		= "mprotect-rw",
	[MEMCTL_MERGEABLE]		= "mergeable",
	[MEMCTL_UNMERGEABLE]		= "unmergeable",
	[MEMCTL_QUERY]			= "query",
	[MEMCTL_ZERO]			= "zero",
	[MEMCTL_POPULATE]		= "populate",
	[MEMCTL_HUGEPAGE]		= "hugepage",
	[MEMCTL_NOHUGEPAGE]		= "nohugepage",
	[MEMCTL_DODUMP]			= "dodump",
	[MEMCTL_COLD]			= "cold",
};

#define NR_FUNCTIONS (sizeof(functions) / sizeof(functions[0]))

static int usage(FILE *to)
{
	unsigned int i, n = 0;

	fputs("Usage: pvmemctl [-d DEVICE] FUNCTION ADDRESS LENGTH [ARGUMENT]\n"
	      "       pvmemctl [-d DEVICE] query [ADDRESS LENGTH]\n"
	      "       pvmemctl [-d DEVICE] info\n"
	      "\n"
	      "Ask the host to change how it backs guest-physical memory.  ADDRESS and\n"
	      "LENGTH are bytes, decimal or 0x hexadecimal; a suffix K, M or G multiplies.\n"
	      "\n"
	      "A wrong address destroys memory of somebody else: see pvmemctl(8).\n"
	      "\n"
	      "  -d DEVICE   (default: /dev/pvmemctl0)\n"
	      "  -h          this text\n"
	      "\n"
	      "FUNCTION is one of", to);
	for (i = 0; i < NR_FUNCTIONS; i++)
		if (functions[i])
			fprintf(to, "%s %s", n++ % 6 ? "" : "\n ", functions[i]);
	fputs("\n", to);
	return to == stdout ? DONE : NOT_ASKED;
}

static bool parse_bytes(const char *text, __u64 *bytes)
{
	const char *units = "KMG", *unit;
	char *end;

	errno = 0;
	*bytes = strtoull(text, &end, 0);
	if (errno || end == text || *text == '-')
		return false;
	if (!*end)
		return true;
	unit = strchr(units, *end);
	if (!unit || end[1])
		return false;
	for (; unit >= units; unit--) {
		if (*bytes >> 54)
			return false;
		*bytes <<= 10;
	}
	return true;
}

static int explain(const struct memctl_vmm_ret *ret)
{
	if (!ret->ret_errno && !ret->ret_code)
		return DONE;
	fprintf(stderr, "pvmemctl: the host refused: %s (errno %u, code %u)\n",
		strerror(ret->ret_errno), ret->ret_errno, ret->ret_code);
	return REFUSED;
}

static void print_info(const struct memctl_vmm_ret *ret)
{
	printf("protocol %llu.%llu, host pages of %llu bytes\n",
	       (unsigned long long)ret->arg0, (unsigned long long)ret->arg1,
	       (unsigned long long)ret->ret_value);
}

static void print_query(const struct memctl_vmm_ret *ret)
{
	unsigned int i;

	printf("largest backing page of %llu bytes, up to %llu ranges a call; allowed:",
	       (unsigned long long)ret->arg1, (unsigned long long)ret->arg0);
	for (i = 0; i < NR_FUNCTIONS; i++)
		if (functions[i] && ret->ret_value >> i & 1)
			printf(" %s", functions[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	const char *device = "/dev/pvmemctl0";
	struct memctl_buf buf = { 0 };
	unsigned int func;
	__u64 *length;
	int option, fd, status;

	while ((option = getopt(argc, argv, "+d:h")) != -1) {
		switch (option) {
		case 'd':
			device = optarg;
			break;
		case 'h':
			return usage(stdout);
		default:
			return usage(stderr);
		}
	}
	argc -= optind;
	argv += optind;
	if (!argc)
		return usage(stderr);

	for (func = 0; func < NR_FUNCTIONS; func++)
		if (functions[func] && !strcasecmp(argv[0], functions[func]))
			break;
	if (func == NR_FUNCTIONS) {
		fprintf(stderr, "pvmemctl: there is no function '%s', see pvmemctl -h\n", argv[0]);
		return NOT_ASKED;
	}
	switch (func) {
	case MEMCTL_INFO:
		if (argc != 1)
			return usage(stderr);
		break;
	case MEMCTL_QUERY:
		if (argc != 1 && argc != 3)
			return usage(stderr);
		break;
	default:
		if (argc < 3 || argc > 4)
			return usage(stderr);
	}

	buf.call.func_code = func;
	length = func == MEMCTL_QUERY ? &buf.call.arg : &buf.call.length;
	if (argc > 1 &&
	    (!parse_bytes(argv[1], &buf.call.addr) || !parse_bytes(argv[2], length) ||
	     (argc == 4 && !parse_bytes(argv[3], &buf.call.arg)))) {
		fputs("pvmemctl: ADDRESS, LENGTH and ARGUMENT are numbers, see pvmemctl -h\n",
		      stderr);
		return NOT_ASKED;
	}

	fd = open(device, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "pvmemctl: %s: %s\n", device, strerror(errno));
		return NOT_ASKED;
	}
	if (ioctl(fd, MEMCTL_IOCTL, &buf)) {
		fprintf(stderr, "pvmemctl: the host was not asked: %s\n", strerror(errno));
		return NOT_ASKED;
	}
	status = explain(&buf.ret);
	if (func == MEMCTL_INFO && status == DONE)
		print_info(&buf.ret);
	if (func == MEMCTL_QUERY && status == DONE)
		print_query(&buf.ret);
	return status;
}
