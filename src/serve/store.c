/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c: writing the blocks of a request away, and keeping hands off blocks
 * that are about to be overwritten.
 *
 * A store is a session: empty the old records, the layers, the new records.
 * The records go last, when all before them has ended, so that a record on
 * disk nearly always has its data (truth does not depend on it: what a record
 * sums up is compared at every load).
 */
#include "internal.h"

#include <errno.h>

#include "base/clock.h"

static void allow(struct session *s, uint32_t layers)
{
    s->allowed = layers == s->group->geometry.layers ? s->steps : layers + 1;
}

int tutti_store_begin(struct tutti_serve *serve, uint32_t group, const struct tutti_transfer *items,
                      const struct tutti_origin *origins, uint32_t count, uint32_t layers_ready,
                      uint64_t tag, struct tutti_store **store, struct tutti_error *err)
{
    struct session *s;
    int rc;

    if (group < TUTTI_MAX_GROUPS && serve->group[group].registered &&
        layers_ready > serve->group[group].geometry.layers)
        return tutti_error_set(err, -EINVAL, "%u layers are ready; the group has %u", layers_ready,
                               serve->group[group].geometry.layers);
    for (uint32_t i = 0; i < count; i++)
        if (origins[i].engine_hash_bytes > TUTTI_ENGINE_HASH_BYTES)
            return tutti_error_set(err, -EINVAL, "an engine hash of %u bytes; %u are possible",
                                   origins[i].engine_hash_bytes, TUTTI_ENGINE_HASH_BYTES);
    rc = session_new(serve, group, SESSION_STORE, sizeof(**store), items, origins, count, &s, err);
    if (rc < 0)
        return rc;
    s->tag = tag;
    *store = (struct tutti_store *)s;
    allow(s, layers_ready);
    tutti_serve_progress(serve);
    return 0;
}

int tutti_store_ready(struct tutti_store *store, uint32_t layers)
{
    struct session *s = &store->session;

    if (layers > s->group->geometry.layers)
        return -EINVAL;
    if (layers + 1 > s->allowed) {
        int rc = streams_mark(s, NULL);

        if (rc < 0) {
            session_cancel(s); /* nobody knows when its blocks are computed */
            return rc;
        }
        allow(s, layers);
    }
    tutti_serve_progress(s->serve);
    return 0;
}

int tutti_store_poll(struct tutti_store *store)
{
    tutti_serve_progress(store->session.serve);
    return store->session.ended;
}

int tutti_store_wait(struct tutti_store *store, uint64_t timeout_ns)
{
    tutti_serve_progress(store->session.serve);
    return session_wait(&store->session, timeout_ns);
}

void tutti_store_cancel(struct tutti_store *store)
{
    session_cancel(&store->session);
}

void tutti_store_result(const struct tutti_store *store, struct tutti_result *result)
{
    session_result(&store->session, result);
}

int tutti_store_end(struct tutti_store *store)
{
    return session_end(&store->session);
}

/** Whether a store may still read one of the blocks. */
static bool reads_any(const struct session *s, const uint32_t *blocks, uint32_t count)
{
    for (uint32_t i = 0; i < s->map.count; i++)
        for (uint32_t k = 0; k < count; k++)
            if (s->map.items[i].block == blocks[k])
                return true;
    return false;
}

int tutti_serve_fence(struct tutti_serve *serve, const uint32_t *blocks, uint32_t count,
                      uint64_t timeout_ns)
{
    uint64_t deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);
    bool read = false;
    int touched = 0;

    /* The common case ends here: nobody reads these blocks. */
    for (uint32_t g = 0; g < TUTTI_MAX_GROUPS; g++)
        for (uint32_t i = 0; serve->group[g].registered && i < count; i++)
            read = read ||
                   (blocks[i] < serve->group[g].blocks && serve->group[g].readers[blocks[i]] > 0);
    if (!read)
        return 0;

    for (struct session *s = serve->stores; s; s = s->next)
        if (!s->ended && reads_any(s, blocks, count)) {
            session_cancel(s);
            touched++;
        }
    for (struct session *s = serve->stores; s; s = s->next) {
        uint64_t now = tutti_clock_now();

        if (s->cancelled && session_wait(s, deadline > now ? deadline - now : 0) < 0)
            return -ETIMEDOUT;
    }
    return touched;
}
