/* SPDX-License-Identifier: Apache-2.0 */
/*
 * futex.h: waiting, with a bound, until a word is as wanted.
 *
 * Knows no ring. Whoever changes the word does so, passes a full fence, and wakes all if somebody
 * is counted: Dekker's pattern, docs/memory-model.md, section 2.
 */
#ifndef TUTTI_RING_FUTEX_H
#define TUTTI_RING_FUTEX_H

#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/clock.h"

static inline void futex_wake_all(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/**
 * Wait until @wanted says yes to the word. @waiters: how many wait, or are about to.
 *
 * Return: whether it did; acquire, of what its writer released.
 */
static inline bool futex_wait_for(uint32_t *word, bool (*wanted)(uint32_t), uint32_t *waiters,
                                  uint64_t timeout_ns)
{
    uint64_t now = tutti_clock_now();
    uint64_t deadline = tutti_clock_after(now, timeout_ns);
    bool is;

    tutti_add_relaxed(waiters, 1);
    /* We count ourselves before we look at the word, they change it before they look at the count.
     */
    tutti_fence_full();
    for (;;) {
        uint32_t value = tutti_load_acquire(word); /* pairs with whoever changes it */
        uint64_t left = deadline > now ? deadline - now : 0;
        struct timespec t = {.tv_sec = (time_t)(left / 1000000000),
                             .tv_nsec = (long)(left % 1000000000)};

        is = wanted(value);
        if (is || left == 0)
            break;
        if (t.tv_sec > 1000000)
            t.tv_sec = 1000000;
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &t, NULL, 0);
        now = tutti_clock_now();
    }
    /* Relaxed: a count that is too high for a moment costs one futex call. */
    tutti_add_relaxed(waiters, UINT32_MAX);
    return is;
}

#endif
