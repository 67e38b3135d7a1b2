/* SPDX-License-Identifier: Apache-2.0 */
/*
 * around.c: what a target brings along: how AddressSanitizer runs under a fuzzer (with little
 * memory between a free() and its reuse, the first bytes of an allocation filled and not its first
 * page, and short stacks of allocations, since it is entered millions of times), and the count of
 * what was parsed, said at the end.
 */
#include "input.h"

uint64_t parsed;

__attribute__((destructor)) static void say(void)
{
    fprintf(stderr, "stat::parsed: %llu\n", (unsigned long long)parsed);
}

const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "quarantine_size_mb=1:thread_local_quarantine_size_kb=64:malloc_context_size=2:"
           "max_malloc_fill_size=128";
}
