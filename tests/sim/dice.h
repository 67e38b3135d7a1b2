/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dice.h: the one stream of random numbers of a run; its seed is the run's.
 *
 * Never two draws in one expression or initialiser: compilers order them as they like, and a seed
 * would be another run in another build.
 */
#ifndef TUTTI_TESTS_SIM_DICE_H
#define TUTTI_TESTS_SIM_DICE_H

#include <stdbool.h>
#include <stdint.h>

extern uint64_t dice_state;

static inline uint64_t dice_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/** The next number (splitmix64). */
static inline uint64_t dice_draw(void)
{
    return dice_mix(dice_state += UINT64_C(0x9e3779b97f4a7c15));
}

/** One of 0 .. @limit - 1. */
static inline uint32_t dice_below(uint32_t limit)
{
    return (uint32_t)((dice_draw() >> 32) * limit >> 32);
}

/** One of @from .. @to. */
static inline uint32_t dice_between(uint32_t from, uint32_t to)
{
    return from + dice_below(to - from + 1);
}

/** True @count times in 10,000. */
static inline bool dice_chance(uint32_t count)
{
    return count != 0 && dice_below(10000) < count;
}

#endif
