/* SPDX-License-Identifier: Apache-2.0 */
/* nasty.h: random numbers that repeat from run to run, and those at which things break. */
#ifndef TESTS_UNIT_POOL_NASTY_H
#define TESTS_UNIT_POOL_NASTY_H

#include <stdint.h>

static inline uint64_t any(void)
{
    static uint64_t state = UINT64_C(88172645463325252);

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* None, all, powers of two and their neighbours, small ones, any. */
static inline uint64_t nasty(void)
{
    switch (any() % 5) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return (UINT64_C(1) << any() % 64) + any() % 3 - 1;
    case 3:
        return any() % 5000;
    default:
        return any();
    }
}

#endif
