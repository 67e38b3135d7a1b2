/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.h: words that a CPU, a kernel and a drive share, each access by name.
 *
 * The same calls on three sides: a CPU's compiler has its builtins, CUDA its
 * PTX, and host lanes (a kernel's source run on the CPU, for tests) whatever
 * header TUTTI_LANES names. Every scope is the system's: the other side is
 * never in the same warp. What pairs with what is in docs/memory-model.md.
 *
 *     load, store        whole, and no order
 *     acquire, release   what was written before the release is seen after the acquire
 *     fence_system       stores before it are seen by whoever sees a later store,
 *                        to memory or to a device's registers
 *     register_*         a device's registers: whole, never combined or repeated;
 *                        on a GPU ordered after memory by a fence alone
 */
#ifndef TUTTI_BASE_SHARED_H
#define TUTTI_BASE_SHARED_H

#include <stdint.h>

#include "tutti/geometry.h"

#if defined(TUTTI_LANES)

#include TUTTI_LANES

#else

TUTTI_INLINE uint64_t tutti_word64_load(const uint64_t *at)
{
#if defined(__CUDA_ARCH__)
    uint64_t value;

    asm volatile("ld.relaxed.sys.b64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_RELAXED);
#endif
}

TUTTI_INLINE uint32_t tutti_word32_load(const uint32_t *at)
{
#if defined(__CUDA_ARCH__)
    uint32_t value;

    asm volatile("ld.relaxed.sys.b32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_RELAXED);
#endif
}

TUTTI_INLINE void tutti_word64_store(uint64_t *at, uint64_t value)
{
#if defined(__CUDA_ARCH__)
    asm volatile("st.relaxed.sys.b64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
#else
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
#endif
}

TUTTI_INLINE void tutti_word32_store(uint32_t *at, uint32_t value)
{
#if defined(__CUDA_ARCH__)
    asm volatile("st.relaxed.sys.b32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
#else
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
#endif
}

TUTTI_INLINE uint64_t tutti_word64_acquire(const uint64_t *at)
{
#if defined(__CUDA_ARCH__)
    uint64_t value;

    asm volatile("ld.acquire.sys.b64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#endif
}

TUTTI_INLINE uint32_t tutti_word32_acquire(const uint32_t *at)
{
#if defined(__CUDA_ARCH__)
    uint32_t value;

    asm volatile("ld.acquire.sys.b32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#endif
}

TUTTI_INLINE void tutti_word32_release(uint32_t *at, uint32_t value)
{
#if defined(__CUDA_ARCH__)
    asm volatile("st.release.sys.b32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
#else
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
#endif
}

/** Also before a store to a device's registers, where the CPU's own fences do not reach. */
TUTTI_INLINE void tutti_fence_system(void)
{
#if defined(__CUDA_ARCH__)
    asm volatile("fence.sc.sys;" ::: "memory");
#elif defined(__aarch64__)
    __asm__ volatile("dmb oshst" ::: "memory");
#elif defined(__x86_64__)
    __asm__ volatile("sfence" ::: "memory"); /* what was stored may lie in a device's memory */
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

TUTTI_INLINE void tutti_register32_store(uint32_t *at, uint32_t value)
{
#if defined(__CUDA_ARCH__)
    asm volatile("st.mmio.relaxed.sys.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
#else
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
#endif
}

TUTTI_INLINE uint32_t tutti_register32_load(const uint32_t *at)
{
#if defined(__CUDA_ARCH__)
    uint32_t value;

    asm volatile("ld.mmio.relaxed.sys.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#endif
}

#endif
#endif
