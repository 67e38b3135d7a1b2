/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c: the life of one retrieve, store or erase.
 *
 * Knows the ring and the order of steps; knows nothing of disks, checksums or
 * memory. The one idea: the caller's work per step is one IOCB, so nothing
 * here that happens per layer looks at the lists again.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomics.h"
#include "base/clock.h"

static struct session **list_of(struct session *s)
{
    switch (s->kind) {
    case SESSION_RETRIEVE:
        return &s->serve->retrieves;
    case SESSION_STORE:
        return &s->serve->stores;
    default:
        return &s->serve->erases;
    }
}

static uint32_t steps_of(enum session_kind kind, uint32_t layers)
{
    return kind == SESSION_RETRIEVE ? layers + 1 : kind == SESSION_STORE ? layers + 2 : 1;
}

/** The layer (or pseudo layer) that a step is about. */
static uint16_t layer_of(const struct session *s, uint32_t step)
{
    if (s->kind == SESSION_RETRIEVE)
        return (uint16_t)(step == 0 ? TUTTI_LAYER_RECORDS : step - 1);
    if (step == 0)
        return TUTTI_LAYER_EMPTY;
    return (uint16_t)(step == s->steps - 1 ? TUTTI_LAYER_RECORDS : step - 1);
}

/** Of a load: two reads into one block would leave either's bytes, or both. */
static int check_distinct(struct group *g, const struct tutti_transfer *items, uint32_t count,
                          struct tutti_error *err)
{
    uint32_t twice = count;

    for (uint32_t i = 0; i < count && twice == count; i++) {
        uint16_t *readers = &g->readers[items[i].block];

        if (*readers & SEEN)
            twice = i;
        *readers |= SEEN;
    }
    for (uint32_t i = 0; i < count && i <= twice; i++)
        g->readers[items[i].block] &= (uint16_t)~SEEN;
    return twice == count ? 0
                          : tutti_error_set(err, -EINVAL,
                                            "transfer %u names block %u, which one before it names "
                                            "too: a load fills each block once",
                                            twice, items[twice].block);
}

static int check_items(const struct group *g, const struct tutti_transfer *items, uint32_t count,
                       bool blocks, struct tutti_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!tutti_slot_valid(&g->placement, items[i].slot))
            return tutti_error_set(err, -EINVAL, "transfer %u names slot %u, which the pool lacks",
                                   i, items[i].slot);
        if (blocks && items[i].block >= g->blocks)
            return tutti_error_set(err, -EINVAL,
                                   "transfer %u names block %u; %u blocks are registered", i,
                                   items[i].block, g->blocks);
    }
    return 0;
}

/** Generations that do not count: of epochs that a reset ended, or not durable here. */
static void refuse_void(struct session *s)
{
    struct tutti_pool_info info;

    if (s->kind == SESSION_ERASE)
        return;
    tutti_pool_info(s->serve->pool, &info);
    for (uint32_t i = 0; i < s->map.count; i++)
        if (!tutti_generation_counts(&info.superblock, s->map.items[i].generation))
            s->map.status[i] = ESTALE;
}

/** A bit for each member that holds one of its slots. */
static uint32_t members_of(const struct session *s)
{
    uint32_t members = 0;

    for (uint32_t i = 0; i < s->map.count; i++)
        members |= UINT32_C(1) << tutti_record_place(s->map.placement, s->map.items[i].slot).member;
    return members;
}

static void count_readers(struct session *s, int by)
{
    if (s->kind != SESSION_STORE)
        return;
    for (uint32_t i = 0; i < s->map.count; i++) {
        uint16_t *readers = &s->group->readers[s->map.items[i].block];

        *readers = (uint16_t)(*readers + by);
    }
}

void session_fill_stencil(const struct tutti_serve *serve, const struct group *group,
                          struct tutti_record *r)
{
    struct tutti_pool_info info;

    tutti_pool_info(serve->pool, &info);
    r->magic = TUTTI_RECORD_MAGIC;
    r->version = TUTTI_FORMAT_VERSION;
    memcpy(r->pool, info.superblock.pool, sizeof(r->pool));
    r->rank = info.superblock.rank;
    r->geometry = tutti_geometry_digest(&group->geometry);
    memcpy(r->identity, info.superblock.identity, sizeof(r->identity));
    r->group = group->geometry.group;
    r->layers = group->geometry.layers;
}

static void session_free(struct session *s)
{
    streams_forget(s);
    free((void *)(uintptr_t)s->map.items);
    free((void *)(uintptr_t)s->map.origins);
    free(s->map.records);
    free(s->map.status);
    free(s->step);
    free(s);
}

int session_new(struct tutti_serve *serve, uint32_t group, enum session_kind kind, size_t size,
                const struct tutti_transfer *items, const struct tutti_origin *origins,
                uint32_t count, struct session **session, struct tutti_error *err)
{
    struct group *g = group < TUTTI_MAX_GROUPS ? &serve->group[group] : NULL;
    struct session *s, **tail;
    struct tutti_transfer *item_copy;
    struct tutti_origin *origin_copy = NULL;
    void *records = NULL;
    int rc;

    if (!g || !g->registered)
        return tutti_error_set(err, -EINVAL, "group %u has no KV memory registered", group);
    if (count == 0)
        return tutti_error_set(err, -EINVAL, "a transfer of no blocks");
    rc = check_items(g, items, count, kind != SESSION_ERASE, err);
    if (rc == 0 && kind == SESSION_RETRIEVE)
        rc = check_distinct(g, items, count, err);
    if (rc < 0)
        return rc;
    if (kind != SESSION_RETRIEVE && serve->scrub)
        scrub_disturb(serve->scrub, g, items, count);

    s = calloc(1, size);
    if (!s)
        return tutti_error_set(err, -ENOMEM, "no memory for a session");
    s->serve = serve;
    s->on.mark = NO_MARK;
    item_copy = malloc(count * sizeof(*items));
    if (origins)
        origin_copy = malloc(count * sizeof(*origins));
    s->map.items = item_copy;
    s->map.origins = origin_copy;
    s->map.status = calloc(1, count);
    s->steps = steps_of(kind, g->geometry.layers);
    s->step = calloc(s->steps, sizeof(*s->step));
    if (posix_memalign(&records, 4096, (size_t)count * g->placement.record_stride) == 0)
        s->map.records = records;
    if (!item_copy || (origins && !origin_copy) || !s->map.status || !s->step || !records) {
        session_free(s);
        return tutti_error_set(err, -ENOMEM, "no memory for a transfer of %u blocks", count);
    }
    memcpy(item_copy, items, count * sizeof(*items));
    if (origins)
        memcpy(origin_copy, origins, count * sizeof(*origins));
    s->group = g;
    s->kind = kind;
    rc = streams_mark(s, err);
    if (rc < 0) {
        session_free(s);
        return rc;
    }
    s->map.count = count;
    s->map.verify = serve->verify;
    s->map.placement = &g->placement;
    s->map.planes = g->planes;
    s->granted = kind != SESSION_STORE;
    s->map.stencil = &s->stencil;
    session_fill_stencil(serve, g, &s->stencil);
    s->members = members_of(s);
    refuse_void(s);
    s->began = tutti_clock_now();
    count_readers(s, 1);
    for (tail = list_of(s); *tail; tail = &(*tail)->next)
        ;
    *tail = s;
    *session = s;
    return 0;
}

/**
 * Whether an erasure that may be of one of its slots has not ended: those that have are freed where
 * their end is seen. Not on a fenced member: no
 * record is written there, and what is out may never end.
 */
static bool erasure_pending(const struct session *s)
{
    uint32_t members = s->members & ~tutti_serve_fenced(s->serve);

    for (const struct session *e = s->serve->erases; e; e = e->next)
        if ((e->members & members) != 0)
            return true;
    return false;
}

/** How many steps may be issued by now; the rules that order steps live here. */
static uint32_t allowed_steps(const struct session *s)
{
    uint32_t allowed = s->allowed;

    if (s->cancelled || !s->granted)
        return s->issued;
    /* A record is written when everything before it has ended: the slot's data,
     * its old record's erasure, and any erasure of the slot ordered before this store. */
    if (s->kind == SESSION_STORE && allowed == s->steps && s->issued < s->steps &&
        (s->collected < s->steps - 1 || erasure_pending(s)))
        allowed = s->steps - 1;
    return allowed;
}

/** All that the caller does to have a layer moved; counted by a test, hence a function of its own.
 */
__attribute__((noinline)) static int issue_step(struct session *s, uint32_t step)
{
    struct tutti_ring *ring = s->serve->ring;
    uint32_t index;
    struct tutti_iocb *iocb = tutti_ring_get(ring, &index);
    int rc;

    if (!iocb)
        return -EAGAIN;
    iocb->map = &s->map;
    iocb->first = 0;
    iocb->count = s->map.count;
    iocb->layer = layer_of(s, step);
    iocb->direction = s->kind == SESSION_RETRIEVE ? TUTTI_READ : TUTTI_WRITE;
    iocb->class_ = s->kind != SESSION_RETRIEVE ? TUTTI_CLASS_STORE
                   : s->in_step                ? TUTTI_CLASS_LOAD_NOW
                                               : TUTTI_CLASS_LOAD_AHEAD;
    iocb->tag = s->tag;
    if (s->serve->words)
        streams_name(s, index, iocb);
    rc = tutti_ring_issue(ring, index);
    if (rc < 0) { /* GCOVR_EXCL_BR: session_new() keeps every field within the ring's limits */
        tutti_ring_put(ring, index);
        return rc;
    }
    s->step[step].iocb = index;
    return 0;
}

/** And all that it does when the layer is there. */
__attribute__((noinline)) static void collect_step(struct session *s)
{
    struct tutti_ring *ring = s->serve->ring;
    uint32_t index = s->step[s->collected].iocb;
    const struct tutti_completion *c = &tutti_ring_iocb(ring, index)->completion;
    uint16_t layer = layer_of(s, s->collected);

    for (uint32_t m = 0; layer < TUTTI_MAX_LAYERS && m < s->group->placement.members; m++)
        s->bytes += c->bytes[m];
    if (layer == 0)
        s->first_layer = c->ended;
    if (c->status == -ECANCELED)
        s->short_ = true;
    s->step[s->collected].status = c->status;
    if (s->serve->words)
        streams_collected(s->serve, index);
    tutti_ring_put(ring, index);
    s->collected++;
}

static void finish(struct session *s)
{
    uint32_t bad = tutti_load_relaxed(&s->on.bad); /* read after the stream's output is there */

    s->ended = true;
    s->finished = tutti_clock_now();
    for (uint32_t i = 0; bad && i < s->map.count; i++)
        if (s->map.status[i] == 0)
            s->map.status[i] = (uint8_t)bad;
    if (s->collected < s->steps || s->short_) {
        /* No engine thread holds this map any more, so its words are ours. */
        for (uint32_t i = 0; i < s->map.count; i++)
            if (s->map.status[i] == 0)
                s->map.status[i] = ECANCELED;
    }
    count_readers(s, -1);
}

void session_advance(struct session *s)
{
    if (s->ended)
        return;
    while (s->collected < s->issued && tutti_ring_done(s->serve->ring, s->step[s->collected].iocb))
        collect_step(s);
    while (s->issued < allowed_steps(s)) {
        int rc = issue_step(s, s->issued);

        if (rc == -EAGAIN)
            break;
        /* A field out of its limits: nothing more of this may run. */
        if (rc < 0) { /* GCOVR_EXCL_BR: see issue_step() */
            s->cancelled = true;
            s->short_ = true;
            break;
        }
        s->issued++;
    }
    if (s->collected == s->issued && (s->cancelled || s->collected == s->steps))
        finish(s);
}

/** A pause while the ring has no room: bounded by who holds the IOCBs, not by us. */
static void pause_briefly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static uint64_t left_until(uint64_t deadline)
{
    uint64_t now = tutti_clock_now();

    return deadline > now ? deadline - now : 0;
}

/** Bring the session forward by one completion or one issue. Return: 0 or -ETIMEDOUT. */
static int step_forward(struct session *s, uint64_t deadline)
{
    uint64_t left = left_until(deadline);

    if (s->collected < s->issued) {
        if (tutti_ring_wait(s->serve->ring, s->step[s->collected].iocb, left) == -ETIMEDOUT &&
            !tutti_ring_done(s->serve->ring, s->step[s->collected].iocb))
            return -ETIMEDOUT;
    } else if (left == 0) {
        return -ETIMEDOUT;
    } else {
        pause_briefly();
        tutti_serve_progress(s->serve);
    }
    session_advance(s);
    return 0;
}

int session_wait_step(struct session *s, uint32_t step, uint64_t timeout_ns)
{
    uint64_t deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);

    session_advance(s);
    while (!s->ended && s->collected <= step)
        if (step_forward(s, deadline) < 0)
            return -ETIMEDOUT;
    return 0;
}

int session_wait_issued(struct session *s, uint32_t step, uint64_t timeout_ns)
{
    uint64_t deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);

    session_advance(s);
    while (!s->ended && s->issued <= step)
        if (step_forward(s, deadline) < 0)
            return -ETIMEDOUT;
    return 0;
}

int session_wait(struct session *s, uint64_t timeout_ns)
{
    return session_wait_step(s, s->steps, timeout_ns);
}

void session_cancel(struct session *s)
{
    if (s->ended)
        return;
    s->cancelled = true;
    for (uint32_t step = s->collected; step < s->issued; step++)
        tutti_ring_cancel(s->serve->ring, s->step[step].iocb);
    session_advance(s);
}

void session_result(const struct session *s, struct tutti_result *result)
{
    memset(result, 0, sizeof(*result));
    result->count = s->map.count;
    result->position = s->map.status;
    result->bytes = s->bytes;
    result->began = s->began;
    result->first_layer = s->first_layer;
    result->ended = s->finished;
    result->verified = s->map.count;
    for (uint32_t i = 0; i < s->map.count; i++) {
        if (s->map.status[i] == 0) {
            result->good++;
        } else if (result->status == 0) {
            result->status = -s->map.status[i];
            result->verified = i;
        }
    }
}

int session_end(struct session *s)
{
    struct session **at;

    session_advance(s);
    if (!s->ended)
        return -EBUSY;
    for (at = list_of(s); *at != s; at = &(*at)->next)
        ;
    *at = s->next;
    session_free(s);
    return 0;
}
