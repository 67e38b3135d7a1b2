/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory as the CUDA driver's stand-in sees it.
 *
 * The one idea: device memory is a file in memory, mapped twice. The addresses that
 * are given out are those of a mapping that nobody may touch, so a host that takes a
 * device pointer for its own dies of it; the double uses the other one.
 */
#include "double.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST 4096
#define GRAIN ((size_t)512)

struct range {
    uint64_t base;
    size_t bytes;
    unsigned flags;
    bool owned; /* host memory that we allocated */
};

static struct {
    struct range range[MOST];
    unsigned count;
} device, host, adopted;

static char *shown, *hidden;
static size_t total, used;

static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

void memory_open(void)
{
    const char *told = getenv("STANDIN_MEMORY");
    int fd = memfd_create("device memory of a test double", MFD_CLOEXEC);

    total = told ? strtoull(told, NULL, 0) : (size_t)256 << 20;
    if (fd < 0 || ftruncate(fd, (off_t)total) < 0)
        abort();
    hidden = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    shown = mmap(NULL, total, kept(RULE_host_faults) ? PROT_NONE : PROT_READ | PROT_WRITE,
                 MAP_SHARED, fd, 0);
    if (hidden == MAP_FAILED || shown == MAP_FAILED)
        abort();
    close(fd);
}

static struct range *find(struct range *range, unsigned count, uint64_t address, size_t bytes)
{
    for (unsigned i = 0; i < count; i++)
        if (address >= range[i].base && bytes <= range[i].bytes &&
            address - range[i].base <= range[i].bytes - bytes)
            return &range[i];
    return NULL;
}

enum place place_of(uint64_t address, size_t bytes, void **reach)
{
    if (find(device.range, device.count, address, bytes)) {
        *reach = hidden + (address - (uint64_t)(uintptr_t)shown);
        return ON_DEVICE;
    }
    *reach = (void *)(uintptr_t)address;
    if (find(adopted.range, adopted.count, address, bytes))
        return ON_DEVICE;
    return find(host.range, host.count, address, bytes) ? PINNED : NOWHERE;
}

void *standin_view(cu_pointer pointer, size_t bytes)
{
    void *reach;
    enum place place;

    pthread_mutex_lock(&standin_lock);
    place = place_of(pointer, bytes, &reach);
    pthread_mutex_unlock(&standin_lock);
    return place == NOWHERE ? NULL : reach;
}

void standin_adopt(void *memory, size_t bytes)
{
    pthread_mutex_lock(&standin_lock);
    if (adopted.count < MOST)
        adopted.range[adopted.count++] =
            (struct range){.base = (uint64_t)(uintptr_t)memory, .bytes = bytes};
    pthread_mutex_unlock(&standin_lock);
}

size_t standin_free_bytes(void)
{
    size_t bytes;

    pthread_mutex_lock(&standin_lock);
    bytes = total - used;
    pthread_mutex_unlock(&standin_lock);
    return bytes;
}

/** The lowest place that touches no allocation; SIZE_MAX for none. */
static size_t lowest_gap(size_t bytes)
{
    size_t at = 0;

    for (unsigned i = 0; i < device.count; i++) {
        size_t from = (size_t)(device.range[i].base - (uint64_t)(uintptr_t)shown);

        if (from < at + bytes && at < from + device.range[i].bytes) {
            at = (from + device.range[i].bytes + GRAIN - 1) / GRAIN * GRAIN;
            i = UINT32_MAX; /* from the first again */
        }
    }
    return at <= total && bytes <= total - at ? at : SIZE_MAX;
}

cu_result cuMemAlloc_v2(cu_pointer *pointer, size_t bytes)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);
    size_t at;

    if (rc)
        return call_end(rc);
    if (bytes == 0)
        return call_end(CU_INVALID_VALUE);
    at = device.count < MOST ? lowest_gap(bytes) : SIZE_MAX;
    if (at == SIZE_MAX && !kept(RULE_out_of_memory))
        at = 0; /* two allocations of one memory */
    if (at == SIZE_MAX)
        return call_end(CU_OUT_OF_MEMORY);
    *pointer = (uint64_t)(uintptr_t)shown + at;
    device.range[device.count++] = (struct range){.base = *pointer, .bytes = bytes};
    used += bytes;
    return call_end(CU_OK);
}

cu_result cuMemFree_v2(cu_pointer pointer)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    for (unsigned i = 0; rc == CU_OK && i < device.count; i++)
        if (device.range[i].base == pointer) {
            used -= device.range[i].bytes;
            device.range[i] = device.range[--device.count];
            return call_end(CU_OK);
        }
    return call_end(rc ? rc : CU_INVALID_VALUE);
}

/* Host memory. */

/** Whether the kernel has a page behind each address: what IOMEMORY walks. */
static bool all_present(const void *memory, size_t bytes)
{
    size_t size = page(), pages = (bytes + size - 1) / size;
    unsigned char *present = malloc(pages);
    bool all;

    all = present && mincore((void *)(uintptr_t)memory, pages * size, present) == 0;
    for (size_t i = 0; all && i < pages; i++)
        all = present[i] & 1;
    free(present);
    return all;
}

static cu_result add_host(void *memory, size_t bytes, unsigned flags, bool owned)
{
    uint64_t base = (uint64_t)(uintptr_t)memory;

    for (unsigned i = 0; i < host.count; i++)
        if (base < host.range[i].base + host.range[i].bytes && host.range[i].base < base + bytes)
            return CU_ALREADY_REGISTERED;
    if (host.count == MOST)
        return CU_OUT_OF_MEMORY;
    host.range[host.count++] =
        (struct range){.base = base, .bytes = bytes, .flags = flags, .owned = owned};
    standin_count.registered_bytes += bytes;
    return CU_OK;
}

static cu_result remove_host(void *memory, bool owned)
{
    for (unsigned i = 0; i < host.count; i++)
        if (host.range[i].base == (uint64_t)(uintptr_t)memory && host.range[i].owned == owned) {
            if (owned)
                munmap(memory, host.range[i].bytes);
            standin_count.registered_bytes -= host.range[i].bytes;
            host.range[i] = host.range[--host.count];
            return CU_OK;
        }
    return owned ? CU_INVALID_VALUE : CU_NOT_REGISTERED;
}

cu_result cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    if (rc == CU_OK && (!memory || bytes == 0 || (uintptr_t)memory % page() != 0))
        rc = CU_INVALID_VALUE;
    if (rc == CU_OK && (flags & CU_HOST_IOMEMORY) && kept(RULE_iomemory) &&
        !all_present(memory, bytes))
        rc = CU_INVALID_VALUE;
    return call_end(rc ? rc : add_host(memory, bytes, flags, false));
}

cu_result cuMemHostUnregister(void *memory)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    return call_end(rc ? rc : remove_host(memory, false));
}

cu_result cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);
    void *start;

    if (rc)
        return call_end(rc);
    bytes = (bytes + page() - 1) / page() * page();
    start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == 0 || start == MAP_FAILED)
        return call_end(CU_OUT_OF_MEMORY);
    *memory = start;
    return call_end(add_host(start, bytes, flags, true));
}

cu_result cuMemFreeHost(void *memory)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    return call_end(rc ? rc : remove_host(memory, true));
}

cu_result cuMemHostGetDevicePointer_v2(cu_pointer *pointer, void *memory, unsigned flags)
{
    cu_result rc = call_begin(IN_CONTEXT);
    const struct range *r = find(host.range, host.count, (uint64_t)(uintptr_t)memory, 1);

    if (rc == CU_OK && (flags != 0 || !r || !(r->flags & CU_HOST_DEVICEMAP)))
        rc = CU_INVALID_VALUE;
    *pointer = (uint64_t)(uintptr_t)memory;
    return call_end(rc);
}

cu_result cuPointerGetAttribute(void *value, int attribute, cu_pointer pointer)
{
    cu_result rc = call_begin(IN_CONTEXT);
    void *reach;
    enum place place = place_of(pointer, 1, &reach);

    if (rc == CU_OK && place == NOWHERE)
        rc = CU_INVALID_VALUE;
    if (rc)
        return call_end(rc);
    switch (attribute) {
    case CU_POINTER_MEMORY_TYPE:
        *(unsigned *)value = place == ON_DEVICE ? CU_MEMORY_DEVICE : CU_MEMORY_HOST;
        break;
    case CU_POINTER_ORDINAL:
        *(int *)value = 0;
        break;
    case CU_POINTER_CONTEXT:
        *(cu_context *)value = &standin_context;
        break;
    default:
        rc = CU_INVALID_VALUE;
    }
    return call_end(rc);
}
