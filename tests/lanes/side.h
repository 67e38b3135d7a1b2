/* SPDX-License-Identifier: Apache-2.0 */
/*
 * side.h: the named accesses of base/shared.h and the primitives of
 * device/kernels/warp.h as host lanes have them; see lanes.h.
 */
#ifndef TUTTI_TESTS_LANES_SIDE_H
#define TUTTI_TESTS_LANES_SIDE_H

#include <stdint.h>

uint64_t lane_load(const void *at, uint32_t bytes);
void lane_store(void *at, uint32_t bytes, uint64_t value);
void lane_release(void *at, uint32_t bytes, uint64_t value);
void lane_fence(void);
void lane_register_store(uint32_t *at, uint32_t value);
uint32_t lane_register_load(const uint32_t *at);

uint32_t warp_lane(void);
uint32_t warp_number(void);
void warp_sync(uint32_t mask);
uint32_t warp_ballot(uint32_t mask, int yes);
uint64_t warp_shuffle64(uint32_t mask, uint64_t value, uint32_t from);
uint64_t warp_clock(void);
void warp_pause(void);

static inline uint64_t tutti_word64_load(const uint64_t *at)
{
    return lane_load(at, 8);
}

static inline uint32_t tutti_word32_load(const uint32_t *at)
{
    return (uint32_t)lane_load(at, 4);
}

static inline uint64_t tutti_word64_acquire(const uint64_t *at)
{
    return lane_load(at, 8); /* a lane loads in order, here */
}

static inline uint32_t tutti_word32_acquire(const uint32_t *at)
{
    return (uint32_t)lane_load(at, 4);
}

static inline void tutti_word64_store(uint64_t *at, uint64_t value)
{
    lane_store(at, 8, value);
}

static inline void tutti_word32_store(uint32_t *at, uint32_t value)
{
    lane_store(at, 4, value);
}

static inline void tutti_word32_release(uint32_t *at, uint32_t value)
{
    lane_release(at, 4, value);
}

static inline void tutti_fence_system(void)
{
    lane_fence();
}

static inline void tutti_register32_store(uint32_t *at, uint32_t value)
{
    lane_register_store(at, value);
}

static inline uint32_t tutti_register32_load(const uint32_t *at)
{
    return lane_register_load(at);
}

#endif
