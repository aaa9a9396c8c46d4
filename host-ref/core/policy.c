/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which functions the operator lets a guest use.
 */
#include <string.h>

#include "internal.h"

#define BIT(code) PVMEMCTL_BIT(code)

/* Useless or harmless by themselves */
#define ALWAYS (BIT(MEMCTL_INFO) | BIT(MEMCTL_QUERY) | BIT(MEMCTL_VECTOR))

/*
 * Left out unless the operator asks for them: MLOCK lets a guest hold memory of
 * the host, MERGEABLE lets it watch by timing what other guests contain.
 */
#define NOT_BY_DEFAULT (BIT(MEMCTL_MLOCK) | BIT(MEMCTL_MERGEABLE))

static uint64_t all_functions(void)
{
    uint64_t all = 0;

    for (unsigned code = 0; code < 64; code++) {
        if (pvmemctl_function_name(code)) {
            all |= BIT(code);
        }
    }
    return all;
}

static bool is_word(const char *word, size_t len, const char *name)
{
    return strlen(name) == len && !memcmp(word, name, len);
}

/* 0 if there is no such word; no function list is empty */
static uint64_t parse_word(const char *word, size_t len)
{
    if (is_word(word, len, "all")) {
        return all_functions();
    }
    if (is_word(word, len, "default")) {
        return all_functions() & ~NOT_BY_DEFAULT;
    }
    for (unsigned code = 0; code < 64; code++) {
        const char *name = pvmemctl_function_name(code);

        if (name && is_word(word, len, name)) {
            return BIT(code);
        }
    }
    return 0;
}

bool pvmemctl_policy_parse(const char *list, uint64_t *allowed,
                           const char **bad)
{
    const char *word = list ? list : "default";

    *allowed = ALWAYS;
    for (;;) {
        size_t len = strcspn(word, ":");
        uint64_t codes = parse_word(word, len);

        if (!codes) {
            *bad = word;
            return false;
        }
        *allowed |= codes;
        if (!word[len]) {
            return true;
        }
        word += len + 1;
    }
}
