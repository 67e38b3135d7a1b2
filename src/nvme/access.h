/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.h: every access to memory that a drive reads or writes, by name.
 *
 * Queues, lists and doorbells are shared with a device that no language knows
 * of, so each load and store is named and whole, and what is ordered is said by
 * where it stands. On a CPU they are what the compiler has; a GPU,
 * and lanes that play one, have their own.
 *
 *     entries, then fence_before_doorbell(), then the doorbell:  the drive that
 *         reads the doorbell's new value fetches the entries as written
 *     load_phase() of a completion's second word, then its first word and the
 *         data: the drive writes them before it, and PCIe keeps that order
 */
#ifndef TUTTI_NVME_ACCESS_H
#define TUTTI_NVME_ACCESS_H

#include <stdint.h>

#include "base/shared.h"

TUTTI_INLINE void nvme_store64(uint64_t *at, uint64_t value)
{
    tutti_word64_store(at, value);
}

TUTTI_INLINE uint64_t nvme_load64(const uint64_t *at)
{
    return tutti_word64_load(at);
}

/** Stores to memory before it are seen by a device that sees a later store to its registers. */
TUTTI_INLINE void nvme_fence_before_doorbell(void)
{
    tutti_fence_system();
}

/** The word of a completion that holds its phase: what the device wrote before it is seen after. */
TUTTI_INLINE uint64_t nvme_load_phase(const uint64_t *at)
{
    uint64_t value = tutti_word64_acquire(at);

#if defined(__aarch64__) && !defined(__CUDA_ARCH__)
    __asm__ volatile("dmb oshld" ::: "memory");
#endif
    return value;
}

/* Registers: 32 or 64 bits, one access each, in program order among themselves. */

TUTTI_INLINE void nvme_write32(void *bar, uint32_t offset, uint32_t value)
{
    tutti_register32_store((uint32_t *)(void *)((char *)bar + offset), value);
}

TUTTI_INLINE uint32_t nvme_read32(const void *bar, uint32_t offset)
{
    return tutti_register32_load((const uint32_t *)(const void *)((const char *)bar + offset));
}

TUTTI_INLINE uint64_t nvme_read64(const void *bar, uint32_t offset)
{
    /* Two reads: not every bridge passes one of 64 bits (PCIe 3.1.1). CAP does not change. */
    return nvme_read32(bar, offset) | (uint64_t)nvme_read32(bar, offset + 4) << 32;
}

TUTTI_INLINE void nvme_write64(void *bar, uint32_t offset, uint64_t value)
{
    nvme_write32(bar, offset, (uint32_t)value);
    nvme_write32(bar, offset + 4, (uint32_t)(value >> 32));
}

#endif
