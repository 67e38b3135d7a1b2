/* SPDX-License-Identifier: Apache-2.0 */
/*
 * warp.h: what the lanes of a warp do together, by name.
 *
 * For kernels only, which are compiled by nvcc or for host lanes
 * (TUTTI_LANES). All lanes named in @mask call the same primitive with the same
 * mask. Only warp_sync() orders memory: a vote or a shuffle hands over a value
 * and nothing else.
 */
#ifndef TUTTI_DEVICE_WARP_H
#define TUTTI_DEVICE_WARP_H

#include "base/shared.h"

#define WARP_LANES 32u
#define WARP_ALL 0xffffffffu

#if defined(__CUDACC__)

#define TUTTI_KERNEL static __device__
#define TUTTI_TABLE static __device__ const

/** A warp is a block (device/launch.h). */
TUTTI_KERNEL inline uint32_t warp_lane(void)
{
    return threadIdx.x;
}

TUTTI_KERNEL inline uint32_t warp_number(void)
{
    return blockIdx.x;
}

TUTTI_KERNEL inline void warp_sync(uint32_t mask)
{
    __syncwarp(mask);
}

TUTTI_KERNEL inline uint32_t warp_ballot(uint32_t mask, int yes)
{
    return __ballot_sync(mask, yes);
}

TUTTI_KERNEL inline uint64_t warp_shuffle64(uint32_t mask, uint64_t value, uint32_t from)
{
    return __shfl_sync(mask, (unsigned long long)value, (int)from);
}

TUTTI_KERNEL inline uint64_t warp_clock(void)
{
    uint64_t now;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
    return now;
}

TUTTI_KERNEL inline void warp_pause(void)
{
    __nanosleep(200);
}

TUTTI_KERNEL inline uint32_t warp_count(uint32_t mask)
{
    return (uint32_t)__popc(mask);
}

TUTTI_KERNEL inline uint32_t warp_first(uint32_t mask)
{
    return (uint32_t)__ffs((int)mask) - 1;
}

TUTTI_KERNEL inline uint64_t warp_high64(uint64_t a, uint64_t b)
{
    return __umul64hi(a, b);
}

#else

#define TUTTI_KERNEL static __attribute__((unused))
#define TUTTI_TABLE static const

/** Lanes of a mask. */
static inline uint32_t warp_count(uint32_t mask)
{
    return (uint32_t)__builtin_popcount(mask);
}

/** Lowest lane of a mask that is not empty. */
static inline uint32_t warp_first(uint32_t mask)
{
    return (uint32_t)__builtin_ctz(mask);
}

/** Upper half of a product. */
static inline uint64_t warp_high64(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b >> 64);
}

#endif

TUTTI_KERNEL inline uint32_t warp_shuffle(uint32_t mask, uint32_t value, uint32_t from)
{
    return (uint32_t)warp_shuffle64(mask, value, from);
}

#endif
