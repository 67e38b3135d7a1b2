/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rank.c: one rank's worker, a fiber: carries out what the scheduler sends, in
 * order, at its own speed, and tells what became of it.
 *
 * It keeps the calling rules of tutti/serve.h as the connector does: an epoch
 * is durable before the first store and before an erasure, blocks are fenced
 * before they are overwritten, and after a fence that found no end nothing is
 * stored until all stores have ended.
 */
#include <errno.h>
#include <string.h>

#include "dice.h"
#include "machine.h"
#include "serve/internal.h"
#include "world.h"

#define FENCE_NS (20 * MS)
#define LOAD_NS (200 * MS)
#define SLACK_NS (1 * MS) /* what a bounded call may take beyond its bound */

struct message *rank_message(enum message_kind kind)
{
    struct message *m = world_memory(sizeof(*m));

    m->kind = kind;
    m->epoch = world.epoch;
    m->oldest = world.oldest;
    m->identity = world.identity;
    m->version = world.version;
    return m;
}

void rank_send(struct rank *r, struct message *message)
{
    struct message *m = world_memory(sizeof(*m));

    *m = *message;
    m->next = NULL;
    *r->last = m;
    r->last = &m->next;
    r->queued++;
}

struct report *rank_report(const struct rank *r)
{
    struct report *report = world_memory(sizeof(*report));
    struct report **at = &world.reports;

    report->rank = r->number;
    report->fenced = tutti_serve_fenced(r->serve);
    while (*at)
        at = &(*at)->next;
    *at = report;
    return report;
}

static void check_bound(const struct rank *r, const char *call, uint64_t began, uint64_t bound)
{
    if (machine_now() - began > bound + SLACK_NS)
        sim_fail("rank %u: %s took %llu ns of %llu", r->number, call,
                 (unsigned long long)(machine_now() - began), (unsigned long long)bound);
}

static bool make_durable(struct rank *r, const struct message *m)
{
    uint8_t identity[TUTTI_IDENTITY_BYTES] = {1};
    int rc;

    if (r->epoch >= m->epoch)
        return true;
    memcpy(identity + 4, &m->identity, sizeof(m->identity));
    rc = tutti_pool_begin_epoch(r->pool, m->epoch, m->oldest, identity, NULL);
    trace("epoch (rank, epoch, oldest, result)", r->number, m->epoch, m->oldest,
          (uint64_t)(int64_t)rc);
    if (rc < 0)
        return false;
    r->epoch = m->epoch;
    r->oldest = m->oldest ? m->oldest : r->oldest;
    r->durable_epoch = r->epoch;
    r->durable_oldest = r->oldest;
    return true;
}

/* Stores. */

static void tell_store(const struct rank *r, struct store *s, const uint8_t *position)
{
    struct report *report = rank_report(r);

    report->store = s;
    for (uint32_t i = 0; i < s->count; i++)
        report->position[i] = position ? position[i] : ECANCELED;
}

static void begin_store(struct rank *r, const struct message *m)
{
    struct store *s = m->store;
    struct storing *storing = &r->storing[r->storings];
    uint32_t layers = world.shape->geometry[world.geometry].layers;
    struct tutti_error err = {0};
    uint32_t ready = s->layers_ready < layers ? s->layers_ready : layers;

    if (r->storings == SESSIONS || r->stuck || !make_durable(r, m)) {
        tell_store(r, s, NULL);
        return;
    }
    for (uint32_t i = 0; i < s->count; i++)
        model_check_block(r, s->item[i].block, "a block that is about to be stored");
    if (tutti_store_begin(r->serve, 0, s->item, s->origin, s->count, ready, s->chain,
                          &storing->session, &err) < 0)
        sim_fail("a store: %s", err.message);
    storing->store = s;
    storing->ready = ready;
    r->storings++;
}

static void poll_stores(struct rank *r)
{
    uint32_t layers = world.shape->geometry[world.geometry].layers;
    struct tutti_result result;

    for (uint32_t i = 0; i < r->storings;) {
        struct storing *s = &r->storing[i];

        if (s->ready < layers)
            must(tutti_store_ready(s->session, ++s->ready) == 0);
        if (!tutti_store_poll(s->session)) {
            i++;
            continue;
        }
        tutti_store_result(s->session, &result);
        trace("stored (rank, slot, count, good)", r->number, s->store->item[0].slot, result.count,
              result.good);
        world.stored += result.good;
        tell_store(r, s->store, result.position);
        must(tutti_store_end(s->session) == 0);
        r->storing[i] = r->storing[--r->storings];
    }
    r->stuck = r->stuck && r->storings > 0;
}

static void abandon(const struct rank *r, const struct store *store)
{
    for (uint32_t i = 0; i < r->storings; i++)
        if (r->storing[i].store == store)
            tutti_store_cancel(r->storing[i].session);
}

/* Blocks. */

/** After this the blocks may be written, whatever a store was doing with them. */
static void fence(struct rank *r, const uint32_t *block, uint32_t count)
{
    uint64_t began = machine_now();
    uint64_t bound = r->stuck ? 0 : FENCE_NS;
    int rc = breaks("fence") ? 0 : tutti_serve_fence(r->serve, block, count, bound);

    check_bound(r, "a fence", began, bound);
    must(rc >= 0 || rc == -ETIMEDOUT);
    trace("fenced (rank, first block, count, result)", r->number, block[0], count,
          (uint64_t)(int64_t)rc);
    if (rc == -ETIMEDOUT)
        r->stuck = true;
    for (uint32_t i = 0; i < count && rc >= 0 && !r->stuck && !broken; i++)
        model_check_not_read(r, block[i]);
}

static void compute(struct rank *r, const struct message *m)
{
    fence(r, m->block, m->count);
    for (uint32_t i = 0; i < m->count; i++) {
        must(r->block[m->block[i]].state != BLOCK_LOADING);
        model_check_block(r, m->block[i], "a block before it is overwritten");
        model_fill(r, m->block[i], m->node[i], m->version);
    }
}

/* Loads. */

/** Only a member that was fenced in this life is one that is given no commands. */
static bool was_fenced(const struct rank *r, uint32_t slot)
{
    uint32_t fenced = r->ever_fenced | tutti_serve_fenced(r->serve);

    return fenced >> tutti_record_place(&r->placement, slot).member & 1;
}

/** Where nothing goes wrong, nothing is missed. */
static void check_miss(const struct rank *r, const struct load *l, uint32_t i, int error,
                       bool cancelled)
{
    const struct given *g = model_given(l->item[i].slot, l->item[i].generation);

    if (error == ENODEV) {
        must(was_fenced(r, l->item[i].slot));
        return;
    }
    if (world.profile != PROFILE_CLEAN || error == 0 || cancelled || l->version != world.version ||
        g->unsure)
        return;
    sim_fail("rank %u: chain %u, block %u: load of slot %u, generation %llx, gave %s; no disk did "
             "anything wrong",
             r->number, l->chain, l->first + i, l->item[i].slot,
             (unsigned long long)l->item[i].generation, strerror(error));
}

/** What the sums say of a result is what its positions say. */
static void check_sums(const struct tutti_result *result)
{
    uint32_t good = 0, prefix = 0;

    for (uint32_t i = 0; i < result->count; i++) {
        good += result->position[i] == 0;
        prefix += prefix == i && result->position[i] == 0;
    }
    must(result->good == good && result->verified == prefix);
    must(result->status == (prefix == result->count ? 0 : -result->position[prefix]));
}

static void end_load(struct rank *r, struct loading *loading)
{
    struct load *l = loading->load;
    struct report *report = rank_report(r);
    struct tutti_result result;

    tutti_retrieve_result(loading->session, &result);
    check_sums(&result);
    must(result.count == l->count);
    report->load = l;
    for (uint32_t i = 0; i < l->count; i++) {
        struct block *b = &r->block[l->item[i].block];

        must(b->state == BLOCK_LOADING);
        b->state = result.position[i] == 0 ? BLOCK_HOLDS : BLOCK_JUNK;
        model_check_block(r, l->item[i].block, "a block that a load says is good");
        check_miss(r, l, i, result.position[i], loading->cancelled);
        report->position[i] = result.position[i];
        world.loads_good += result.position[i] == 0;
        world.loads_bad += result.position[i] != 0;
    }
    trace("loaded (rank, slot, count, good)", r->number, l->item[0].slot, result.count,
          result.good);
    must(tutti_retrieve_end(loading->session) == 0);
}

static void cancel_load(struct loading *loading)
{
    loading->cancelled = true;
    tutti_retrieve_cancel(loading->session);
}

/** Layer by layer, as a computation asks for them; each is looked at when it is announced. */
static void load_in_step(struct rank *r, struct loading *loading)
{
    const struct load *l = loading->load;
    uint32_t layers = world.shape->geometry[world.geometry].layers;

    for (uint32_t layer = 0; layer < layers && !loading->cancelled; layer++) {
        uint64_t began = machine_now();
        uint64_t bound = dice_chance(500) ? dice_below(200) * US : LOAD_NS;
        int rc = tutti_retrieve_layer(loading->session, layer, bound);

        check_bound(r, "a layer", began, bound);
        for (uint32_t i = 0; i < l->count && rc == 0; i++)
            model_check_layer(r, l->item[i].block, layer, model_node(l->chain, l->first + i),
                              l->version, "a layer that was announced");
        if (rc == -ETIMEDOUT)
            cancel_load(loading);
        if (dice_chance(3000))
            machine_sleep(dice_below(100) * US);
        if (l->cancelled && !loading->cancelled)
            cancel_load(loading);
    }
    while (tutti_retrieve_wait(loading->session, LOAD_NS) == -ETIMEDOUT)
        cancel_load(loading); /* its blocks can't be given back while a read may land in them */
    end_load(r, loading);
}

static void begin_load(struct rank *r, struct load *l)
{
    struct loading loading = {.load = l, .deadline = machine_now() + LOAD_NS};
    struct tutti_error err = {0};
    uint32_t block[LENGTH];

    must(r->loadings < SESSIONS);
    for (uint32_t i = 0; i < l->count; i++)
        block[i] = l->item[i].block;
    fence(r, block, l->count);
    for (uint32_t i = 0; i < l->count; i++) {
        must(r->block[block[i]].state != BLOCK_LOADING);
        model_check_block(r, block[i], "a block before it is loaded into");
        r->block[block[i]] =
            (struct block){BLOCK_LOADING, model_node(l->chain, l->first + i), l->version};
    }
    if (tutti_retrieve_begin(r->serve, 0, l->item, l->count, l->in_step, l->chain, &loading.session,
                             &err) < 0)
        sim_fail("a load: %s", err.message);
    if (l->in_step)
        load_in_step(r, &loading);
    else
        r->loading[r->loadings++] = loading;
}

static void poll_loads(struct rank *r)
{
    for (uint32_t i = 0; i < r->loadings;) {
        struct loading *l = &r->loading[i];

        if (!tutti_retrieve_poll(l->session)) {
            if (!l->cancelled && machine_now() > l->deadline)
                cancel_load(l);
            i++;
            continue;
        }
        end_load(r, l);
        r->loading[i] = r->loading[--r->loadings];
    }
}

/* The worker. */

bool rank_moves(const struct rank *r)
{
    return r->loadings > 0 || r->storings > 0 || r->serve->erases || r->scrub;
}

/** Members that were left out of it are named. */
static void tell_flush(const struct rank *r, uint32_t number)
{
    struct report *report = rank_report(r);

    report->flushed = number;
    report->unflushed = r->watched;
}

static void erase(struct rank *r, const struct message *m)
{
    struct tutti_error err = {0};

    if (make_durable(r, m) && tutti_serve_erase(r->serve, 0, m->item, m->count, &err) < 0)
        sim_fail("an erasure: %s", err.message);
}

/** As a server that is told to stop: what is under way may still be. */
static void close_all(struct rank *r)
{
    tutti_serve_close(r->serve);
    tutti_pool_close(r->pool);
    r->serve = NULL;
    r->scrub = NULL;
    r->pool = NULL;
    r->loadings = 0;
    r->storings = 0;
    r->closed = true;
}

static void carry_out(struct rank *r, const struct message *m)
{
    switch (m->kind) {
    case MESSAGE_COMPUTE:
        compute(r, m);
        break;
    case MESSAGE_LOAD:
        begin_load(r, m->load);
        break;
    case MESSAGE_CANCEL:
        for (uint32_t i = 0; i < r->loadings; i++)
            if (r->loading[i].load == m->load)
                cancel_load(&r->loading[i]);
        break;
    case MESSAGE_STORE:
        begin_store(r, m);
        break;
    case MESSAGE_ABANDON:
        abandon(r, m->store);
        break;
    case MESSAGE_ERASE:
        erase(r, m);
        break;
    case MESSAGE_FLUSH:
        if (tutti_pool_flush(r->pool, NULL) == 0)
            tell_flush(r, m->number);
        break;
    case MESSAGE_SCRUB:
        scrub_begin(r);
        break;
    case MESSAGE_NO_SCRUB:
        scrub_end(r);
        break;
    case MESSAGE_CLOSE:
        close_all(r);
        break;
    }
}

static bool has_work(void *argument)
{
    const struct rank *r = argument;

    return r->queued > 0;
}

void *rank_work(void *argument)
{
    struct rank *r = argument;

    while (!r->closed) {
        bool polls = rank_moves(r);

        if (machine_wait(has_work, r, polls ? r->poll_at : NEVER)) {
            struct message *m;

            if (r->lag)
                machine_sleep(dice_below((uint32_t)r->lag));
            m = r->first;
            r->first = m->next;
            if (!r->first)
                r->last = &r->first;
            r->queued--;
            trace("does (rank, what)", r->number, m->kind, 0, 0);
            carry_out(r, m);
        }
        if (r->closed)
            break;
        if (machine_now() >= r->poll_at || dice_chance(2000)) {
            poll_loads(r);
            poll_stores(r);
            tutti_serve_progress(r->serve);
            if (r->scrub)
                scrub_step(r);
            r->poll_at = machine_now() + dice_between(20, 500) * US;
        }
    }
    return NULL;
}
