/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.c: see lanes.h.
 *
 * One loop picks a lane that can go on and switches to it; a lane comes back at
 * whatever it does by name. Buffers of stores: a lane's, then its warp's, then
 * memory; a lane sees its own, then its warp's, then memory.
 */
#include "lanes/lanes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "lanes/fiber.h"
#include "lanes/side.h"

#define ANY_ORDER 512u

enum doing { GOES, SYNCS, VOTES, SHUFFLES, ENDED };

static const char *const doing_name[] = {"runs", "warp_sync()", "warp_ballot()", "warp_shuffle64()",
                                         "has ended"};

struct store {
    void *at;
    uint64_t value;
    uint32_t bytes;
};

struct buffer {
    struct store *store;
    uint32_t count;
    uint32_t room;
};

struct lane {
    struct fiber fiber;
    struct buffer buffer;
    enum doing doing;
    uint32_t mask;
    uint64_t value;
    uint32_t from;
    uint64_t answer;
};

struct warp {
    struct lane lane[LANES];
    struct buffer buffer;
};

struct machine {
    uint32_t warps;
    struct lanes_options options;
    void (*kernel)(const uint64_t *word);
    const uint64_t *word;
    struct warp *warp;
    struct fiber outside;
    uint32_t now_warp;
    uint32_t now_lane;
    uint64_t random;
    uint32_t *ready; /* warp x LANES + lane, in no order */
    uint32_t ready_count;
    uint32_t left; /* lanes that have not ended */
    struct lanes_counters counters;
    struct tutti_error error;
    int fault;
};

static _Thread_local struct machine *machine;

static uint64_t draw(struct machine *m)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random;
}

static struct warp *warp_now(void)
{
    return &machine->warp[machine->now_warp];
}

static struct lane *lane_now(void)
{
    return &warp_now()->lane[machine->now_lane];
}

/** Back to the loop; returns when this lane is picked again. */
static void step_aside(void)
{
    struct lane *l = lane_now();

    fiber_switch(&l->fiber, &machine->outside);
}

/** The first thing that was wrong ends the run: this lane is never picked again. */
#define FAULT(...)                                                                                 \
    do {                                                                                           \
        if (!machine->fault)                                                                       \
            machine->fault = tutti_error_set(&machine->error, -EPROTO, __VA_ARGS__);               \
        step_aside();                                                                              \
    } while (0)

/* Buffers. */

/** Enough from the start on: an engine's test counts what is allocated later. */
static bool room(struct buffer *b)
{
    b->room = 4096;
    b->store = malloc(b->room * sizeof(*b->store));
    return b->store;
}

static void put(struct buffer *b, struct store s)
{
    if (b->count == b->room) {
        b->room *= 2;
        b->store = realloc(b->store, b->room * sizeof(s));
        if (!b->store)
            abort();
    }
    b->store[b->count++] = s;
}

static void to_memory(const struct store *s)
{
    if (s->bytes == 8)
        __atomic_store_n((uint64_t *)s->at, s->value, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)s->at, (uint32_t)s->value, __ATOMIC_RELEASE);
}

/** Nothing orders the stores of one buffer but that two to one word stay in turn. */
static uint32_t any_of(const struct buffer *b)
{
    uint32_t chosen = (uint32_t)(draw(machine) >> 16) % b->count;

    for (uint32_t i = 0; i < chosen; i++)
        if (b->store[i].at == b->store[chosen].at)
            return i;
    return chosen;
}

/** To memory, in an order of the seed's, while the others look; many go as they came. */
static void publish(struct buffer *b)
{
    const struct lanes_options *o = &machine->options;

    while (b->count > 0 && b->count <= ANY_ORDER) {
        uint32_t i = any_of(b);

        to_memory(&b->store[i]);
        b->count--;
        memmove(&b->store[i], &b->store[i + 1], (b->count - i) * sizeof(*b->store));
        if (o->world && draw(machine) % 4 == 0)
            o->world(o->self);
    }
    for (uint32_t i = 0; i < b->count; i++)
        to_memory(&b->store[i]);
    b->count = 0;
}

static void hand_to_warp(struct warp *w, struct buffer *b)
{
    for (uint32_t i = 0; i < b->count; i++)
        put(&w->buffer, b->store[i]);
    b->count = 0;
}

/** Newest first. Return: the store of that word, or NULL. */
static const struct store *find(const struct buffer *b, const void *at, uint32_t bytes)
{
    for (uint32_t i = b->count; i-- > 0;) {
        const struct store *s = &b->store[i];

        if (s->at == at && s->bytes == bytes)
            return s;
        if ((const char *)s->at < (const char *)at + bytes &&
            (const char *)at < (const char *)s->at + s->bytes)
            FAULT("warp %u, lane %u: a word is written and read in different sizes",
                  machine->now_warp, machine->now_lane);
    }
    return NULL;
}

/* Named accesses. */

uint64_t lane_load(const void *at, uint32_t bytes)
{
    const struct store *s;

    step_aside();
    s = find(&lane_now()->buffer, at, bytes);
    if (!s)
        s = find(&warp_now()->buffer, at, bytes);
    if (s)
        return s->value;
    return bytes == 8 ? __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE)
                      : __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
}

void lane_store(void *at, uint32_t bytes, uint64_t value)
{
    step_aside();
    machine->counters.stores++;
    put(&lane_now()->buffer, (struct store){.at = at, .value = value, .bytes = bytes});
}

void lane_fence(void)
{
    step_aside();
    publish(&warp_now()->buffer); /* what this lane may have seen: it goes before its own */
    publish(&lane_now()->buffer);
}

void lane_release(void *at, uint32_t bytes, uint64_t value)
{
    lane_fence();
    to_memory(&(struct store){.at = at, .value = value, .bytes = bytes});
}

void lane_register_store(uint32_t *at, uint32_t value)
{
    step_aside();
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

uint32_t lane_register_load(const uint32_t *at)
{
    step_aside();
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

/* Primitives. */

uint32_t warp_lane(void)
{
    return machine->now_lane;
}

uint32_t warp_number(void)
{
    return machine->now_warp;
}

uint64_t warp_clock(void)
{
    const struct lanes_options *o = &machine->options;

    step_aside();
    return o->clock ? o->clock(o->self) : tutti_clock_now();
}

void warp_pause(void)
{
    step_aside();
}

static uint64_t answer_of(const struct warp *w, const struct lane *l)
{
    uint64_t votes = 0;

    if (l->doing == SHUFFLES)
        return w->lane[l->from].value;
    for (uint32_t i = 0; l->doing == VOTES && i < LANES; i++)
        if (l->mask >> i & 1 && w->lane[i].value)
            votes |= UINT64_C(1) << i;
    return votes;
}

static void make_ready(struct machine *m, uint32_t warp, uint32_t lane)
{
    m->warp[warp].lane[lane].doing = GOES;
    m->ready[m->ready_count++] = warp * LANES + lane;
}

/** All lanes of the mask are here: the last one opens the gate. */
static void meet(struct warp *w, const struct lane *last)
{
    uint32_t mask = last->mask;

    if (last->doing == SYNCS) {
        machine->counters.syncs++;
        for (uint32_t i = 0; i < LANES; i++)
            if (mask >> i & 1)
                hand_to_warp(w, &w->lane[i].buffer);
    } else {
        machine->counters.votes++;
    }
    for (uint32_t i = 0; i < LANES; i++)
        if (mask >> i & 1)
            w->lane[i].answer = answer_of(w, &w->lane[i]);
    for (uint32_t i = 0; i < LANES; i++)
        if (mask >> i & 1 && &w->lane[i] != last)
            make_ready(machine, machine->now_warp, i);
}

/** Whether all lanes of @l's mask wait with it; a fault where one never can. */
static bool all_here(const struct warp *w, const struct lane *l)
{
    for (uint32_t i = 0; i < LANES; i++) {
        const struct lane *other = &w->lane[i];

        if (!(l->mask >> i & 1) || other->doing == GOES)
            continue;
        if (other->doing != l->doing || other->mask != l->mask)
            FAULT("warp %u: lane %u waits in %s for lanes 0x%08x, lane %u %s%s with 0x%08x",
                  machine->now_warp, machine->now_lane, doing_name[l->doing], l->mask, i,
                  other->doing == ENDED ? "" : "waits in ", doing_name[other->doing],
                  other->doing == ENDED ? 0 : other->mask);
    }
    for (uint32_t i = 0; i < LANES; i++)
        if (l->mask >> i & 1 && w->lane[i].doing != l->doing)
            return false;
    return true;
}

static uint64_t together(enum doing doing, uint32_t mask, uint64_t value, uint32_t from)
{
    struct warp *w;
    struct lane *l;

    step_aside();
    w = warp_now();
    l = lane_now();
    l->mask = mask;
    l->value = value;
    l->from = from % LANES;
    l->doing = doing;
    if (!(mask >> machine->now_lane & 1))
        FAULT("warp %u, lane %u: %s for lanes 0x%08x, which it is not one of", machine->now_warp,
              machine->now_lane, doing_name[doing], mask);
    if (doing == SHUFFLES && !(mask >> l->from & 1))
        FAULT("warp %u, lane %u: a shuffle from lane %u, which is not in 0x%08x", machine->now_warp,
              machine->now_lane, l->from, mask);
    if (all_here(w, l)) {
        meet(w, l);
        l->doing = GOES;
    } else {
        step_aside(); /* it is in no list of those that can go on until the last one comes */
    }
    return l->answer;
}

void warp_sync(uint32_t mask)
{
    (void)together(SYNCS, mask, 0, 0);
}

uint32_t warp_ballot(uint32_t mask, int yes)
{
    return (uint32_t)together(VOTES, mask, yes != 0, 0);
}

uint64_t warp_shuffle64(uint32_t mask, uint64_t value, uint32_t from)
{
    return together(SHUFFLES, mask, value, from);
}

/* The run. */

static void begin(void)
{
    struct machine *m = machine;
    uint32_t waiting = 0;

    fiber_begun(&m->outside);
    m->kernel(m->word);
    for (uint32_t i = 0; i < LANES; i++) /* nobody may wait for a lane that is gone */
        waiting |= warp_now()->lane[i].doing != GOES && warp_now()->lane[i].doing != ENDED &&
                   warp_now()->lane[i].mask >> m->now_lane & 1;
    if (waiting)
        FAULT("warp %u: lane %u has ended, and others wait for it", m->now_warp, m->now_lane);
    hand_to_warp(warp_now(), &lane_now()->buffer);
    lane_now()->doing = ENDED;
    m->left--;
    step_aside();
    abort(); /* nobody picks it again */
}

static void run_machine(struct machine *m)
{
    while (m->left > 0 && !m->fault) {
        uint32_t at, number;
        uint64_t drawn;
        struct lane *l;

        if (m->ready_count == 0) {
            m->fault = tutti_error_set(&m->error, -EPROTO, "%u lanes wait for each other", m->left);
            return;
        }
        drawn = draw(m);
        at = (uint32_t)(drawn >> 16) % m->ready_count;
        number = m->ready[at];
        m->now_warp = number / LANES;
        m->now_lane = number % LANES;
        l = lane_now();
        if (m->options.world && drawn % 16 == 0)
            m->options.world(m->options.self);
        m->counters.switches++;
        if (m->counters.switches == m->options.most_steps)
            m->fault = tutti_error_set(&m->error, -EPROTO, "no end after %llu switches of lanes",
                                       (unsigned long long)m->counters.switches);
        fiber_switch(&m->outside, &l->fiber);
        if (l->doing != GOES) { /* it waits or has ended: @ready may have grown behind it */
            for (at = 0; m->ready[at] != number; at++)
                ;
            m->ready[at] = m->ready[--m->ready_count];
        }
    }
}

void lanes_machine_free(struct machine *m)
{
    if (!m)
        return;
    for (uint32_t w = 0; m->warp && w < m->warps; w++) {
        free(m->warp[w].buffer.store);
        for (uint32_t i = 0; i < LANES; i++) {
            fiber_free(&m->warp[w].lane[i].fiber);
            free(m->warp[w].lane[i].buffer.store);
        }
    }
    free(m->warp);
    free(m->ready);
    fiber_gone(&m->outside);
    free(m);
}

struct machine *lanes_machine_new(uint32_t warps)
{
    struct machine *m = calloc(1, sizeof(*m));
    bool whole;

    if (!m)
        return NULL;
    m->warps = warps;
    m->warp = calloc(warps, sizeof(*m->warp));
    m->ready = calloc((size_t)warps * LANES, sizeof(*m->ready));
    whole = m->warp && m->ready;
    for (uint32_t w = 0; whole && w < warps; w++) {
        whole = room(&m->warp[w].buffer);
        for (uint32_t i = 0; whole && i < LANES; i++)
            whole = fiber_new(&m->warp[w].lane[i].fiber) == 0 && room(&m->warp[w].lane[i].buffer);
    }
    if (whole)
        return m;
    lanes_machine_free(m);
    return NULL;
}

/** All lanes at the beginning of the kernel. */
static void set_up(struct machine *m)
{
    fiber_here(&m->outside);
    m->random = m->options.seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    m->fault = 0;
    m->ready_count = 0;
    m->left = m->warps * LANES;
    memset(&m->counters, 0, sizeof(m->counters));
    for (uint32_t w = 0; w < m->warps; w++) {
        m->warp[w].buffer.count = 0;
        for (uint32_t i = 0; i < LANES; i++) {
            m->warp[w].lane[i].buffer.count = 0;
            fiber_start(&m->warp[w].lane[i].fiber, begin);
            make_ready(m, w, i);
        }
    }
}

int lanes_run_on(struct machine *m, const struct lanes_options *options,
                 void (*kernel)(const uint64_t *word), const uint64_t *word,
                 struct lanes_counters *counters, struct tutti_error *err)
{
    m->options = *options;
    m->kernel = kernel;
    m->word = word;
    machine = m;
    set_up(m);
    run_machine(m);
    for (uint32_t w = 0; w < m->warps && !m->fault; w++)
        publish(&m->warp[w].buffer);
    fiber_gone(&m->outside);
    machine = NULL;
    if (m->fault && err)
        *err = m->error;
    if (counters)
        *counters = m->counters;
    return m->fault;
}

int lanes_run(const struct lanes_options *options, void (*kernel)(const uint64_t *word),
              const uint64_t *word, struct lanes_counters *counters, struct tutti_error *err)
{
    struct machine *m = lanes_machine_new(options->warps);
    int rc;

    if (!m)
        return tutti_error_set(err, -ENOMEM, "no memory for %u warps of lanes", options->warps);
    rc = lanes_run_on(m, options, kernel, word, counters, err);
    lanes_machine_free(m);
    return rc;
}
