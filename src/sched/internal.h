/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h: what the files of the scheduler share.
 *
 * decide.c answers requests, loads.c orders loads, pacing.c lets stores go; each uses the models
 * and these few helpers, and none of them the others' fields.
 */
#ifndef TUTTI_SCHED_INTERNAL_H
#define TUTTI_SCHED_INTERNAL_H

#include "sched/heap.h"
#include "tutti/scheduler.h"

#define NONE TUTTI_SCHED_NONE

enum { STORE_FREE, STORE_WAITS, STORE_OUT, STORE_DROPPED };

static inline bool rule(const struct tutti_scheduler *s, enum tutti_rule rule)
{
    return (s->config.rules & (uint32_t)rule) != 0;
}

/** Time does not go back: a late event counts as of now. */
static inline void advance(struct tutti_scheduler *s, uint64_t now)
{
    if (now > s->now)
        s->now = now;
}

static inline struct heap load_heap(struct tutti_scheduler *s, uint32_t member)
{
    return (struct heap){&s->load_count[member], s->load_heap[member], s->load_place[member],
                         s->load_key};
}

/** Bytes per ns that a member reads or writes, as decisions take it. */
double sched_rate(struct tutti_scheduler *s, uint32_t member, enum tutti_way way);

/** Bytes of loads that are out on a member. */
static inline uint64_t sched_out(const struct tutti_sched_member *m)
{
    return m->issued > m->done ? m->issued - m->done : 0;
}

uint32_t sched_size_class(uint64_t bytes);

/* loads.c */
void sched_load_end(struct tutti_scheduler *s, uint32_t request);
void sched_plan_loads(struct tutti_scheduler *s, struct tutti_sched_plan_out *plan);

/* decide.c */
void sched_release_hold(struct tutti_scheduler *s, struct tutti_sched_request *r);

/* pacing.c */
void sched_stores_init(struct tutti_scheduler *s);
void sched_plan_stores(struct tutti_scheduler *s, struct tutti_sched_plan_out *plan);

/** The earlier of two times, where 0 is never. */
static inline uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

#endif
