/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.c: KV memory that is the host's own.
 *
 * Responsible for memory that devices reach well; knows nothing of what goes
 * into it. The one idea: huge pages, because a megabyte of ordinary pages is
 * 256 segments a request and of huge ones is 1 (1 MiB reads here swing 0.9-2.4
 * GB/s with the former and stay at 2.6 with the latter).
 */
#include "tutti/device.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static size_t whole_pages(size_t bytes)
{
    return (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/** An aligned stretch out of a larger reservation; what sticks out is given back. */
static void *map_aligned(size_t bytes)
{
    size_t reserved = bytes + HUGE_PAGE;
    char *start = mmap(NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t before, after;

    if (start == MAP_FAILED)
        return NULL;
    before = (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    after = reserved - before - bytes;
    if (before)
        munmap(start, before);
    if (after)
        munmap(start + before + bytes, after);
    return start + before;
}

static int host_alloc(size_t bytes, void **memory, bool *huge, struct tutti_error *err)
{
    size_t rounded = whole_pages(bytes);
    void *start;

    if (bytes == 0 || rounded < bytes)
        return tutti_error_set(err, -EINVAL, "host memory: %zu bytes asked for", bytes);
    start = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
                 -1, 0);
    /* A container's limit on huge pages shows only at the first touch, as SIGBUS, unless asked. */
    *huge = start != MAP_FAILED &&
            (madvise(start, rounded, MADV_POPULATE_WRITE) == 0 || errno == EINVAL);
    if (!*huge) {
        if (start != MAP_FAILED)
            munmap(start, rounded);
        start = map_aligned(rounded);
        if (!start)
            return tutti_error_set(err, -ENOMEM,
                                   "host memory: no %zu bytes for I/O buffers; free memory or ask "
                                   "for a smaller staging area",
                                   bytes);
        *huge = madvise(start, rounded, MADV_HUGEPAGE) == 0;
    }
    memset(start, 0, rounded);
    *memory = start;
    return 0;
}

static void host_free(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, whole_pages(bytes));
}

static bool host_direct(uint64_t address, size_t bytes)
{
    return address != 0 && address + bytes >= address;
}

static void host_copy_in(uint64_t kv, const void *staging, size_t bytes)
{
    memcpy((void *)(uintptr_t)kv, staging, bytes);
}

static void host_copy_out(void *staging, uint64_t kv, size_t bytes)
{
    memcpy(staging, (const void *)(uintptr_t)kv, bytes);
}

const struct tutti_device tutti_device_host = {
    .name = "host",
    .alloc = host_alloc,
    .free = host_free,
    .direct = host_direct,
    .copy_in = host_copy_in,
    .copy_out = host_copy_out,
};
