/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pacing.c: which stores go when, and which never.
 *
 * Responsible for the queue of stores: its two bounds (age, memory), its order, and how much of it
 * is let out. Must not know what is stored. Where a member loses by mixing, stores go while no load
 * is out on it, little enough at a time that a load that comes waits a millisecond at most; one
 * that is half its age bound old may go beside loads, from an allowance of 5% of the member. Where
 * mixing costs nothing they just go. The most valuable goes first, and the least valuable is
 * dropped first.
 */
#include "internal.h"

#include <math.h>

#define SLICE 1e6 /* ns of writes that are out at once */
#define SHARE 0.05
#define ALLOWANCE 1e9 /* ns over which it is saved up */

_Static_assert(TUTTI_SCHED_STORES <= UINT16_MAX && TUTTI_SCHED_REQUESTS <= UINT16_MAX, "heaps");

static struct heap store_heap(struct tutti_scheduler *s, uint32_t member)
{
    return (struct heap){&s->store_count[member], s->store_heap[member], s->store_place,
                         s->store_order};
}

static struct heap worth_heap(struct tutti_scheduler *s)
{
    return (struct heap){&s->worth_count, s->worth_heap, s->worth_place, s->store_worth};
}

void sched_stores_init(struct tutti_scheduler *s)
{
    for (uint32_t i = 0; i < TUTTI_SCHED_STORES; i++)
        s->store[i].next = i + 1 < TUTTI_SCHED_STORES ? i + 1 : NONE;
    for (uint32_t m = 0; m < TUTTI_SCHED_MEMBERS; m++) {
        s->member[m].oldest = s->member[m].newest = NONE;
        s->member[m].allowed_at = s->now;
    }
}

/** Out of the queue; what becomes of it is the caller's. */
static void unqueue(struct tutti_scheduler *s, uint32_t i)
{
    struct tutti_sched_store *store = &s->store[i];
    struct tutti_sched_member *m = &s->member[store->member];
    struct heap order = store_heap(s, store->member), worth = worth_heap(s);

    heap_remove(&order, i);
    heap_remove(&worth, i);
    *(store->prev == NONE ? &m->oldest : &s->store[store->prev].next) = store->next;
    *(store->next == NONE ? &m->newest : &s->store[store->next].prev) = store->prev;
    s->store_bytes -= store->bytes;
}

static void give_back(struct tutti_scheduler *s, uint32_t i)
{
    s->store[i].state = STORE_FREE;
    s->store[i].next = s->free_store;
    s->free_store = i;
}

static void drop(struct tutti_scheduler *s, uint32_t i)
{
    unqueue(s, i);
    s->store[i].state = STORE_DROPPED;
    s->dropping[s->droppings++] = i;
}

/** Room for a newcomer, at the cost of what is worth less. */
static bool make_room(struct tutti_scheduler *s, uint64_t bytes, double worth)
{
    while (s->free_store == NONE ||
           (s->config.store_memory > 0 && s->store_bytes + bytes > s->config.store_memory)) {
        if (s->worth_count == 0 || s->store_worth[s->worth_heap[0]] >= worth)
            return false;
        drop(s, s->worth_heap[0]);
        s->counters.dropped_memory++;
        if (s->free_store == NONE)
            return false; /* free only when the drop is told */
    }
    return true;
}

uint32_t tutti_scheduler_store(struct tutti_scheduler *s, uint64_t now, uint32_t member,
                               uint64_t bytes, double value, uint32_t parent)
{
    struct tutti_sched_store *store;
    double worth = bytes > 0 && value > 0 ? value / (double)bytes : 0;
    struct heap order, all;
    uint32_t i;

    advance(s, now);
    s->counters.stores++;
    if (parent < TUTTI_SCHED_STORES && s->store[parent].state == STORE_WAITS &&
        worth > s->store_worth[parent] * (1 - 1e-9))
        worth = s->store_worth[parent] * (1 - 1e-9);
    if (!rule(s, TUTTI_RULE_VALUE))
        worth = -(double)++s->serial;
    if (member >= s->config.members || bytes == 0 || !make_room(s, bytes, worth)) {
        s->counters.refused++;
        return NONE;
    }
    i = s->free_store;
    store = &s->store[i];
    s->free_store = store->next;
    *store = (struct tutti_sched_store){
        .state = STORE_WAITS, .member = (uint8_t)member, .bytes = bytes, .since = s->now};
    store->next = NONE;
    store->prev = s->member[member].newest;
    *(store->prev == NONE ? &s->member[member].oldest : &s->store[store->prev].next) = i;
    s->member[member].newest = i;
    s->store_worth[i] = worth;
    s->store_order[i] = -worth;
    order = store_heap(s, member);
    all = worth_heap(s);
    heap_insert(&order, i);
    heap_insert(&all, i);
    s->store_bytes += bytes;
    return i;
}

void tutti_scheduler_stored(struct tutti_scheduler *s, uint64_t now, uint32_t i)
{
    advance(s, now);
    if (i >= TUTTI_SCHED_STORES || s->store[i].state != STORE_OUT)
        return;
    s->member[s->store[i].member].store_out -= s->store[i].bytes;
    s->counters.written++;
    give_back(s, i);
}

bool tutti_scheduler_take_back(struct tutti_scheduler *s, uint64_t now, uint32_t i)
{
    advance(s, now);
    if (i >= TUTTI_SCHED_STORES || s->store[i].state != STORE_WAITS)
        return false;
    unqueue(s, i);
    give_back(s, i);
    s->counters.taken_back++;
    return true;
}

static void release(struct tutti_scheduler *s, uint32_t i, struct tutti_sched_plan_out *plan)
{
    unqueue(s, i);
    s->store[i].state = STORE_OUT;
    s->member[s->store[i].member].store_out += s->store[i].bytes;
    plan->store[plan->stores++] = i;
}

static bool is_urgent(const struct tutti_scheduler *s, const struct tutti_sched_member *m)
{
    return m->oldest != NONE &&
           s->now >= s->store[m->oldest].since + s->config.store_max_age_ns / 2;
}

static void save_allowance(struct tutti_scheduler *s, struct tutti_sched_member *m, double rate)
{
    m->allowance = fmin(m->allowance + SHARE * rate * (double)(s->now - m->allowed_at),
                        SHARE * rate * ALLOWANCE);
    m->allowed_at = s->now;
}

static void plan_member(struct tutti_scheduler *s, uint32_t member,
                        struct tutti_sched_plan_out *plan)
{
    struct tutti_sched_member *m = &s->member[member];
    double rate = sched_rate(s, member, TUTTI_WAY_WRITE);
    bool beside = !rule(s, TUTTI_RULE_GAPS) || tutti_member_model_mixes(&m->model, s->now);

    save_allowance(s, m, rate);
    while (m->oldest != NONE && plan->stores < TUTTI_SCHED_PLAN) {
        uint32_t next = is_urgent(s, m) ? m->oldest : s->store_heap[member][0];
        double bytes = (double)s->store[next].bytes;

        if (m->store_out > 0 && (double)m->store_out + bytes > rate * SLICE * (beside ? 4 : 1))
            break;
        if (!beside && sched_out(m) > 0) {
            /* One that is larger than what can be saved up goes when that is full. */
            if (!is_urgent(s, m) || m->allowance < fmin(bytes, SHARE * rate * ALLOWANCE * 0.99))
                break;
            m->allowance -= bytes;
            s->counters.urgent++;
        }
        release(s, next, plan);
    }
    if (m->oldest != NONE)
        plan->wake_at = earlier(plan->wake_at, s->now + (uint64_t)SLICE);
}

void sched_plan_stores(struct tutti_scheduler *s, struct tutti_sched_plan_out *plan)
{
    for (uint32_t i = 0; i < s->config.members; i++) {
        struct tutti_sched_member *m = &s->member[i];

        while (m->oldest != NONE &&
               s->now >= s->store[m->oldest].since + s->config.store_max_age_ns) {
            drop(s, m->oldest);
            s->counters.dropped_age++;
        }
        plan_member(s, i, plan);
    }
    while (s->droppings > 0 && plan->drops < TUTTI_SCHED_PLAN) {
        plan->drop[plan->drops++] = s->dropping[--s->droppings];
        give_back(s, plan->drop[plan->drops - 1]);
    }
}
