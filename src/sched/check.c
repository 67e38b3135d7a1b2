/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c: what must hold of a scheduler, looked at from outside its rules.
 *
 * Responsible for finding a broken state in tests and debug builds. Must not change anything.
 */
#include "internal.h"

static const char *check_loads(const struct tutti_scheduler *s)
{
    uint32_t queued = 0, out = 0, held = 0, listed = 0, free_ones = 0;

    for (uint32_t i = 0; i < TUTTI_SCHED_REQUESTS; i++) {
        const struct tutti_sched_request *r = &s->request[i];

        queued += r->known && r->load == TUTTI_LOAD_QUEUED;
        out += r->known && r->load >= TUTTI_LOAD_OUT;
        held += r->known && r->held_since != 0;
        free_ones += !r->known;
        if (r->known && r->held_since != 0 && r->held_last - r->held_since > s->config.max_hold_ns)
            return "a request is held for longer than the bound";
        if (r->known && r->load >= TUTTI_LOAD_OUT && s->out[r->out_at] != i)
            return "a load that is out is not where it says";
    }
    for (uint32_t i = s->first_queued; i != NONE && listed <= TUTTI_SCHED_REQUESTS; listed++)
        i = s->request[i].next;
    for (uint32_t i = s->free_request; i != NONE && free_ones > 0; free_ones--)
        i = s->request[i].next;
    if (free_ones != 0)
        return "free handles are lost";
    if (listed != queued || out != s->outs)
        return "loads are lost";
    return held != s->held || held > s->config.max_held ? "more are held than allowed" : NULL;
}

static const char *check_heaps(const struct tutti_scheduler *s)
{
    for (uint32_t m = 0; m < s->config.members; m++) {
        if (s->member[m].queued_loads != s->load_count[m])
            return "a member's queue has another length";
        if (s->member[m].done > s->member[m].issued)
            return "more has arrived than was let out";
        for (uint32_t k = 0; k < s->load_count[m]; k++) {
            uint32_t i = s->load_heap[m][k];

            if (s->load_place[m][i] != k || s->request[i].load != TUTTI_LOAD_QUEUED)
                return "a load lies elsewhere than it says";
            if (k > 0 && s->load_key[i] < s->load_key[s->load_heap[m][(k - 1) / 2]])
                return "loads are out of order";
        }
        for (uint32_t k = 1; k < s->store_count[m]; k++)
            if (s->store_order[s->store_heap[m][k]] < s->store_order[s->store_heap[m][(k - 1) / 2]])
                return "stores are out of order";
    }
    return NULL;
}

static const char *check_counters(const struct tutti_scheduler *s)
{
    const struct tutti_sched_counters *c = &s->counters;
    uint64_t why = 0, out = 0, loads = 0;

    for (uint32_t i = 0; i < TUTTI_WHYS; i++)
        why += c->why[i];
    for (uint32_t i = 0; i < TUTTI_SCHED_REQUESTS; i++)
        loads += s->request[i].known && s->request[i].load != TUTTI_LOAD_NONE;
    for (uint32_t i = 0; i < TUTTI_SCHED_STORES; i++)
        out += s->store[i].state == STORE_OUT;
    if (why != c->asked)
        return "answers do not add up to what was asked";
    if (c->loads != c->loaded + c->failed + c->abandoned + c->cancelled + loads)
        return "loads do not add up";
    if (c->stores != c->refused + c->dropped_age + c->dropped_memory + c->taken_back + c->written +
                         s->worth_count + out)
        return "stores do not add up";
    return s->config.store_memory > 0 && s->store_bytes > s->config.store_memory
               ? "stores hold more memory than allowed"
               : NULL;
}

const char *tutti_scheduler_check(const struct tutti_scheduler *s)
{
    const char *what = check_loads(s);

    what = what ? what : check_heaps(s);
    return what ? what : check_counters(s);
}
