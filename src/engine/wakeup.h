/* SPDX-License-Identifier: Apache-2.0 */
/* wakeup.h: how a backend without a kernel's ring sleeps on the eventfd that new work rings. */
#ifndef TUTTI_ENGINE_WAKEUP_H
#define TUTTI_ENGINE_WAKEUP_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "base/atomics.h"
#include "engine/backend.h"

/** Until the wake-up, at most @ns (UINT64_MAX: no bound). Return: whether it came. */
static inline bool wakeup_sleep(struct backend *b, int wakeup, uint64_t ns)
{
    struct timespec bound = {.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
    struct pollfd p = {.fd = wakeup, .events = POLLIN};
    uint64_t count;
    ssize_t rc;

    tutti_store_relaxed(&b->system_calls, b->system_calls + 1); /* a number; one writer */
    if (ppoll(&p, 1, ns == UINT64_MAX ? NULL : &bound, NULL) <= 0)
        return false;
    rc = read(wakeup, &count, sizeof(count)); /* readable, and we are its one reader */
    (void)rc;
    return true;
}

#endif
