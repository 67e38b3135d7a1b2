/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sanitizers.c: how AddressSanitizer runs under a fuzzer: with little memory between a free() and
 * its reuse, and short stacks of allocations, since it is entered millions of times.
 */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "quarantine_size_mb=1:thread_local_quarantine_size_kb=64:malloc_context_size=2";
}
