/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The oracle: somebody outside of the VM, behind a virtio-serial port, who says
 * what the host's kernel holds for a guest-physical range.  One request a line,
 * one answer a line:
 *
 *   state ADDR LENGTH  ->  ok pages=512 resident=512 ... prot=rw-p name=-
 *   host               ->  ok page_size=4096 swap_kib=0 ksm=0 ...
 *   anything wrong     ->  error TEXT
 */
#ifndef SELFTESTS_PVMEMCTL_ORACLE_H
#define SELFTESTS_PVMEMCTL_ORACLE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ORACLE_PORT		"org.pvmemctl.oracle"
#define ORACLE_TIMEOUT_MS	60000

struct oracle_answer {
	char line[1024];
};

/* A file descriptor, or -1 where there is no such port */
static inline int oracle_open(void)
{
	const char *ports = "/sys/class/virtio-ports";
	char path[320], name[64];
	struct dirent *entry;
	int fd = -1;
	FILE *file;
	DIR *dir;

	dir = opendir(ports);
	if (!dir)
		return -1;
	while (fd < 0 && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s/name", ports, entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strcmp(name, ORACLE_PORT "\n")) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		fclose(file);
	}
	closedir(dir);
	return fd;
}

/* True when the oracle answered "ok"; answer->line is what it said in any case */
static inline bool oracle_ask(int fd, const char *request, struct oracle_answer *answer)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };
	size_t have = 0;
	ssize_t got;

	snprintf(answer->line, sizeof(answer->line), "error no answer within %d s",
		 ORACLE_TIMEOUT_MS / 1000);
	if (poll(&poll_fd, 1, ORACLE_TIMEOUT_MS) != 1 ||
	    write(fd, request, strlen(request)) != (ssize_t)strlen(request))
		return false;

	poll_fd.events = POLLIN;
	while (have < sizeof(answer->line) - 1) {
		if (poll(&poll_fd, 1, ORACLE_TIMEOUT_MS) != 1)
			return false;
		got = read(fd, answer->line + have, sizeof(answer->line) - 1 - have);
		if (got <= 0)
			return false;
		have += got;
		answer->line[have] = '\0';
		if (answer->line[have - 1] == '\n') {
			answer->line[have - 1] = '\0';
			return !strncmp(answer->line, "ok", 2);
		}
	}
	return false;
}

static inline bool oracle_state(int fd, uint64_t addr, uint64_t length,
				struct oracle_answer *answer)
{
	char request[64];

	snprintf(request, sizeof(request), "state 0x%llx 0x%llx\n",
		 (unsigned long long)addr, (unsigned long long)length);
	return oracle_ask(fd, request, answer);
}

/* The value of KEY=VALUE in an answer, "" where there is none */
static inline const char *oracle_text(const struct oracle_answer *answer, const char *key)
{
	static char value[64];
	size_t len = strlen(key);
	const char *p = answer->line;

	value[0] = '\0';
	while ((p = strchr(p, ' '))) {
		p++;
		if (!strncmp(p, key, len) && p[len] == '=') {
			snprintf(value, sizeof(value), "%.*s", (int)strcspn(p + len + 1, " "),
				 p + len + 1);
			break;
		}
	}
	return value;
}

static inline long oracle_number(const struct oracle_answer *answer, const char *key)
{
	const char *text = oracle_text(answer, key);

	return *text ? strtol(text, NULL, 10) : -2;
}

#endif /* SELFTESTS_PVMEMCTL_ORACLE_H */
