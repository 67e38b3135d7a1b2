/* SPDX-License-Identifier: Apache-2.0 */
/* timing.c: see timing.h. */
#include "nvme/soft/timing.h"

#define NS 64u /* so fine that rounding is no matter over millions of commands */
#define SECOND_NS 1000000000u

/** 64ths of a nanosecond that @count of something take at a rate; 0: no time. */
static uint64_t time_of(uint64_t count, uint64_t per_s)
{
    return per_s ? (uint64_t)((double)count * SECOND_NS * NS / (double)per_s + 0.5) : 0;
}

/** For how long a command holds the medium. */
static uint64_t hold(const struct soft_timing *t, uint32_t direction, uint64_t bytes)
{
    uint64_t by_bytes = time_of(bytes, t->bytes_per_s[direction]);
    uint64_t by_rate = time_of(1, t->commands_per_s[direction]);

    return by_bytes > by_rate ? by_bytes : by_rate;
}

uint64_t soft_timing_end(const struct soft_timing *t, struct soft_medium *m, uint64_t now,
                         uint32_t direction, uint64_t bytes)
{
    bool writes = direction == SOFT_WRITES, busy = m->until > now * NS;
    uint64_t begin = busy ? m->until : now * NS;

    if (busy && m->wrote != writes)
        begin += t->turn_ns * NS;
    m->wrote = writes;
    m->until = begin + hold(t, direction, bytes);
    return (m->until + NS - 1) / NS + t->latency_ns[direction];
}

double soft_timing_limit(const struct soft_timing *t, uint32_t direction, uint64_t bytes)
{
    return (double)bytes * SECOND_NS * NS / (double)hold(t, direction, bytes);
}

uint64_t soft_costs_of(const struct soft_costs *c, const struct soft_work *w)
{
    return c->doorbell * w->doorbells + c->entry * w->entries + c->poll * w->polls +
           c->completion * w->completions + c->checksum_kib * w->checksum_bytes / 1024;
}
