/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scheduler.c: the scheduler's half: requests come, hit, compute, are stored,
 * aborted and ended; reports are read in any order, late, twice, or never.
 *
 * The only caller of the directory, whose rules it keeps: what was dropped is
 * taken for erasure before anything of a later step, pins are held until every
 * rank's load has ended, and so are the load's blocks.
 */
#include <errno.h>
#include <string.h>

#include "dice.h"
#include "machine.h"
#include "world.h"

static void send_all(struct message *m)
{
    for (uint32_t i = 0; i < world.ranks; i++)
        rank_send(&world.rank[i], m);
}

static uint32_t all_ranks(void)
{
    return (1u << world.ranks) - 1;
}

/* Blocks of the engine's. */

static uint32_t blocks_free(void)
{
    uint32_t count = 0;

    for (uint32_t b = 0; b < BLOCKS; b++)
        count += !world.block_used[b];
    return count;
}

static uint32_t block_take(void)
{
    uint32_t b = dice_below(BLOCKS);

    while (world.block_used[b])
        b = (b + 1) % BLOCKS;
    world.block_used[b] = true;
    return b;
}

static void request_end(struct request *q)
{
    if (q->load) {
        q->load->request = NULL;
        /* Its blocks are free when the load has ended everywhere. */
        for (uint32_t i = 0; i < q->load->count; i++)
            q->table[q->load->first + i] = NO_BLOCK;
    }
    for (uint32_t i = 0; i < q->count; i++)
        if (q->table[i] != NO_BLOCK)
            world.block_used[q->table[i]] = false;
    q->used = false;
}

static struct request *any_request(bool used)
{
    uint32_t from = dice_below(REQUESTS);

    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct request *q = &world.request[(from + i) % REQUESTS];

        if (q->used == used)
            return q;
    }
    return NULL;
}

/* Stores. */

static bool slot_fenced(uint32_t slot)
{
    return members_fenced() >> tutti_record_place(&world.placement, slot).member & 1;
}

/** Blocks [first, count) of a request, as far as they are there, find places and are sent. */
static void store(struct request *q, uint32_t first, bool grows)
{
    uint8_t hashes[LENGTH * TUTTI_ENGINE_HASH_BYTES];
    struct store *s = world_memory(sizeof(*s));
    struct message *m;
    int given;

    if (world.disabled || first >= q->count)
        return;
    for (uint32_t i = first; i < q->count; i++)
        if (q->table[i] == NO_BLOCK)
            return;
    model_hashes(q->chain, q->count, hashes);
    given = tutti_directory_reserve(world.directory, hashes, TUTTI_ENGINE_HASH_BYTES, first,
                                    q->count - first, grows, s->item, s->origin, s->index);
    trace("reserve (chain, first, count, given)", q->chain, first, q->count,
          (uint64_t)(int64_t)given);
    must(given >= 0 || given == -ENOENT);
    if (given <= 0)
        return;
    s->chain = q->chain;
    s->count = (uint32_t)given;
    s->version = world.version;
    s->waiting = all_ranks();
    s->layers_ready = dice_chance(5000) ? UINT32_MAX : dice_below(MOST_LAYERS);
    for (uint32_t i = 0; i < s->count; i++) {
        must(s->index[i] >= first && s->index[i] < q->count);
        must(!slot_fenced(s->item[i].slot));
        s->item[i].block = (uint32_t)q->table[s->index[i]];
        model_give(&s->item[i], model_node(q->chain, s->index[i]), world.version);
    }
    world.stores++;
    m = rank_message(MESSAGE_STORE);
    m->store = s;
    send_all(m);
    if (dice_chance(300)) {
        m = rank_message(MESSAGE_ABANDON);
        m->store = s;
        send_all(m);
    }
}

/** Positions [first, count) of a request are computed, into blocks that it has or gets. */
static void compute(struct request *q, uint32_t first, const bool *which)
{
    struct message *m = rank_message(MESSAGE_COMPUTE);

    for (uint32_t i = first; i < q->count; i++) {
        if (which && !which[i])
            continue;
        if (q->table[i] == NO_BLOCK)
            q->table[i] = (int32_t)block_take();
        m->block[m->count] = (uint32_t)q->table[i];
        m->node[m->count++] = model_node(q->chain, i);
    }
    world.computed += m->count;
    if (m->count > 0)
        send_all(m);
}

/* Loads. */

static void load(struct request *q, const struct tutti_match *match, uint32_t first)
{
    struct load *l = world_memory(sizeof(*l));
    struct message *m = rank_message(MESSAGE_LOAD);

    l->request = q;
    l->chain = q->chain;
    l->first = first;
    l->count = match->blocks - first;
    l->version = world.version;
    l->in_step = dice_chance(4000);
    l->waiting = all_ranks();
    l->match = *match;
    if (l->count > 0) {
        must(tutti_directory_pin(world.directory, match, first, l->item) == 0);
        world.pins++;
        world.loads++;
        for (uint32_t i = 0; i < l->count; i++) {
            q->table[first + i] = (int32_t)block_take();
            l->item[i].block = (uint32_t)q->table[first + i];
        }
        trace("load (chain, first, count, in step)", q->chain, first, l->count, l->in_step);
        q->load = l;
        m->load = l;
        send_all(m);
    }
}

void scheduler_request(void)
{
    struct request *q = any_request(false);
    uint8_t hashes[LENGTH * TUTTI_ENGINE_HASH_BYTES];
    struct tutti_match match = {0};
    uint32_t count = dice_between(1, LENGTH);
    uint32_t first = 0;

    if (!q || blocks_free() < count)
        return;
    memset(q, 0, sizeof(*q));
    *q = (struct request){
        .used = true, .chain = dice_below(dice_between(1, world.chains)), .count = count};
    for (uint32_t i = 0; i < LENGTH; i++)
        q->table[i] = NO_BLOCK;
    model_hashes(q->chain, count, hashes);
    if (!world.disabled && !dice_chance(1000))
        must(tutti_directory_find(world.directory, hashes, TUTTI_ENGINE_HASH_BYTES, count,
                                  &match) == 0);
    if (match.blocks > 0 && dice_chance(1000))
        first = dice_below(match.blocks + 1);
    if (match.blocks > first)
        load(q, &match, first);
    compute(q, match.blocks, NULL);
    if (!dice_chance(1000))
        store(q, match.blocks, false);
}

void scheduler_grow(void)
{
    struct request *q = any_request(true);

    if (!q || q->count == LENGTH || blocks_free() == 0)
        return;
    q->count++;
    compute(q, q->count - 1, NULL);
    store(q, q->count - 1, true);
}

void scheduler_abort(void)
{
    struct request *q = any_request(true);
    struct message *m = rank_message(MESSAGE_CANCEL);

    if (!q)
        return;
    if (q->load) {
        q->load->cancelled = true;
        m->load = q->load;
        send_all(m);
    }
    request_end(q);
}

void scheduler_finish(void)
{
    struct request *q = any_request(true);

    if (q && !q->load)
        request_end(q);
}

/** A lookup of long ago is remembered: pinned if it still holds, refused if not. */
void scheduler_old_pin(void)
{
    struct tutti_match old = world.old_match;
    struct tutti_transfer item[LENGTH];
    uint8_t hashes[LENGTH * TUTTI_ENGINE_HASH_BYTES];
    uint32_t chain = dice_below(CHAINS);

    if (old.blocks > 0) {
        int rc = tutti_directory_pin(world.directory, &old, 0, item);

        must(rc == 0 || rc == -ESTALE);
        for (uint32_t i = 0; i < old.blocks && rc == 0; i++) {
            const struct given *g = model_given(item[i].slot, item[i].generation);

            must(g && g->acked == all_ranks() && !g->dropped && g->version == world.version);
        }
        if (rc == 0)
            must(tutti_directory_unpin(world.directory, old.slot, old.generation) == 0);
        must(tutti_directory_unpin(world.directory, old.slot, old.generation + 1) == -EINVAL);
    }
    model_hashes(chain, LENGTH, hashes);
    must(tutti_directory_find(world.directory, hashes, TUTTI_ENGINE_HASH_BYTES, LENGTH,
                              &world.old_match) == 0);
}

/* The pool as a whole. */

void scheduler_erase(void)
{
    struct message *m = rank_message(MESSAGE_ERASE);

    m->item = world_memory(MOST_SLOTS * sizeof(*m->item));
    m->count = (uint32_t)tutti_directory_take_erased(world.directory, m->item, MOST_SLOTS);
    if (m->count > 0)
        send_all(m);
}

static void drop(uint32_t slot, uint64_t generation)
{
    struct given *g = model_given(slot, generation);
    int hidden = tutti_directory_drop(world.directory, slot, generation);

    must(hidden >= 0);
    if (g && hidden > 0)
        g->dropped = true;
    trace("dropped (slot, generation, hidden)", slot, generation, (uint64_t)hidden, 0);
}

void scheduler_drop(void)
{
    uint32_t slot = dice_below(world.slots < MOST_SLOTS ? world.slots : MOST_SLOTS);

    if (world.given[slot])
        drop(slot, world.given[slot]->generation);
}

void scheduler_drop_bad(const struct rank *r, const struct tutti_transfer *bad)
{
    struct given *g =
        bad->generation ? model_given(bad->slot, bad->generation) : world.given[bad->slot];
    uint64_t generation;
    bool whole = scrub_truth(r, bad->slot, &generation) == TRUTH_WHOLE;
    int hidden = tutti_directory_drop(world.directory, bad->slot, bad->generation);

    must(hidden >= 0);
    if (hidden == 0)
        return;
    if (whole && world.profile == PROFILE_CLEAN)
        sim_fail("rank %u: slot %u, generation %llx, verifies, and a scrub drops it", r->number,
                 bad->slot, (unsigned long long)generation);
    must(g);
    g->dropped = true;
    trace("scrubbed away (slot, generation, hidden)", bad->slot, bad->generation, (uint64_t)hidden,
          0);
}

/** A scrub begins somewhere, or all are let be. */
void scheduler_scrub(void)
{
    if (dice_chance(8000))
        rank_send(&world.rank[dice_below(world.ranks)], rank_message(MESSAGE_SCRUB));
    else
        send_all(rank_message(MESSAGE_NO_SCRUB));
}

void scheduler_make_durable(void)
{
    send_all(rank_message(MESSAGE_ERASE)); /* of nothing */
}

void scheduler_begin_epoch(bool other)
{
    uint8_t identity[TUTTI_IDENTITY_BYTES] = {1};
    struct tutti_error err = {0};

    must(world.epoch + 1 < EPOCHS);
    if (other)
        world.identity = ++world.identities;
    memcpy(identity + 4, &world.identity, sizeof(world.identity));
    world.epoch++;
    world.oldest = world.epoch;
    world.stamp++;
    world.stamp_of[world.epoch] = world.stamp;
    world.version = dice_mix((uint64_t)world.identity << 32 | world.stamp) + world.geometry;
    if (tutti_directory_begin_epoch(world.directory, world.epoch, true, other ? identity : NULL,
                                    &err) < 0)
        sim_fail("a reset: %s", err.message);
    trace("reset (epoch, identity)", world.epoch, world.identity, 0, 0);
    /* What requests hold was computed before: none of it may be stored under the new epoch. */
    for (uint32_t i = 0; i < REQUESTS; i++)
        if (world.request[i].used)
            request_end(&world.request[i]);
}

void scheduler_reset(void)
{
    scheduler_begin_epoch(dice_chance(5000));
}

/** All that is visible now is safe from a power cut when every rank has flushed. */
void scheduler_flush(void)
{
    struct tutti_transfer item[LENGTH];
    struct message *m = rank_message(MESSAGE_FLUSH);

    memset(world.flush_asked, 0, sizeof(world.flush_asked));
    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        uint32_t found = model_check_chain(chain, item);

        for (uint32_t i = 0; i < found; i++)
            world.flush_asked[item[i].slot] = item[i].generation;
    }
    m->number = ++world.flush_number;
    world.flush_waiting = all_ranks();
    send_all(m);
}

void scheduler_toggle(void)
{
    struct tutti_error err = {0};
    char reason[64];

    must((world.disabled ? tutti_pool_enable(world.home, &err)
                         : tutti_pool_disable(world.home, "by the simulation", &err)) == 0);
    world.disabled = !world.disabled;
    must(tutti_pool_disabled(world.home, reason, sizeof(reason)) == (int)world.disabled);
}

/* Reports. */

static void load_over(struct load *l)
{
    struct request *q = l->request;
    bool bad[LENGTH] = {false};
    bool any = false;
    uint32_t first = LENGTH;

    must(tutti_directory_unpin(world.directory, l->match.slot, l->match.generation) == 0);
    world.pins--;
    world.loads--;
    if (!q) {
        for (uint32_t i = 0; i < l->count; i++)
            world.block_used[l->item[i].block] = false;
        return;
    }
    q->load = NULL;
    for (uint32_t i = 0; i < l->count; i++)
        if (l->bad[i]) {
            bad[l->first + i] = true;
            any = true;
            first = first < l->first + i ? first : l->first + i;
        }
    if (!any)
        return;
    compute(q, l->first, bad); /* only what failed is computed again */
    store(q, first, false);
}

static void take_load(const struct report *report)
{
    struct load *l = report->load;

    for (uint32_t i = 0; i < l->count; i++) {
        int error = report->position[i];

        l->bad[i] = l->bad[i] || error != 0;
        if (error != 0 && error != ECANCELED && error != ETIMEDOUT && error != ENODEV)
            drop(l->item[i].slot, l->item[i].generation);
    }
    must(l->waiting >> report->rank & 1);
    l->waiting &= ~(1u << report->rank);
    if (l->waiting == 0)
        load_over(l);
}

static void take_store(const struct report *report)
{
    struct store *s = report->store;
    bool lost = world.profile != PROFILE_CLEAN && dice_chance(100);

    must(s->waiting >> report->rank & 1);
    s->waiting &= ~(1u << report->rank);
    if (s->waiting == 0)
        world.stores--;
    if (lost) /* on the way: never visible in this life */
        return;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct tutti_transfer *t = &s->item[i];
        struct given *g = model_given(t->slot, t->generation);
        bool ok = report->position[i] == 0 || breaks("report");

        must(tutti_directory_report(world.directory, report->rank, t->slot, t->generation, ok) ==
             0);
        if (report->position[i] == 0)
            g->acked |= 1u << report->rank;
        else
            g->refused = true;
        if (dice_chance(300))
            must(tutti_directory_report(world.directory, report->rank, t->slot, t->generation,
                                        true) == -EINVAL);
    }
}

/** What is told twice, much later, when the slot may be another's. */
static void tell_again(const struct report *report)
{
    const struct store *s = report->store;
    uint32_t i = s ? dice_below(s->count) : 0;

    if (s && world.given[s->item[i].slot]->generation != s->item[i].generation)
        must(tutti_directory_report(world.directory, report->rank, s->item[i].slot,
                                    s->item[i].generation, true) == -EINVAL);
}

/** What a rank's scrub found comes before what it stored since: as its steps' reports do. */
static struct report **first_of(struct report **chosen)
{
    struct report **at = &world.reports;

    while (at != chosen && !((*at)->bad_count && (*at)->rank == (*chosen)->rank))
        at = &(*at)->next;
    return at;
}

static void take_flush(const struct report *report)
{
    for (uint32_t slot = 0; slot < MOST_SLOTS; slot++)
        if (world.flush_asked[slot] &&
            (report->unflushed >> tutti_record_place(&world.placement, slot).member & 1))
            world.flush_asked[slot] = 0;
    world.flush_waiting &= ~(1u << report->rank);
    if (world.flush_waiting == 0)
        memcpy(world.flushed, world.flush_asked, sizeof(world.flushed));
}

void scheduler_take_report(void)
{
    uint32_t count = 0;
    struct report **at = &world.reports;
    struct report *report;

    for (report = world.reports; report; report = report->next)
        count++;
    if (count == 0)
        return;
    for (uint32_t skip = dice_chance(3000) ? dice_below(count) : 0; skip > 0; skip--)
        at = &(*at)->next;
    at = first_of(at);
    report = *at;
    *at = report->next;
    members_take(report->rank, report->fenced);
    for (uint32_t i = 0; i < report->bad_count; i++)
        scheduler_drop_bad(&world.rank[report->rank], &report->bad[i]);
    if (world.past_report && world.past_report->store)
        tell_again(world.past_report);
    if (report->load)
        take_load(report);
    else if (report->store)
        take_store(report);
    if (report->flushed == world.flush_number && report->flushed)
        take_flush(report);
    if (!world.past_report || dice_chance(1000))
        world.past_report = report;
}

void scheduler_take_all(void)
{
    while (world.reports)
        scheduler_take_report();
}

bool scheduler_idle(void)
{
    if (world.loads || world.stores || world.reports)
        return false;
    for (uint32_t i = 0; i < world.ranks; i++) {
        const struct rank *r = &world.rank[i];

        if (r->queued || rank_moves(r))
            return false;
        for (uint32_t m = 0; m < world.shape->members; m++)
            if (r->disk[m].pending_count)
                return false;
    }
    return true;
}

static bool anything_stuck(void)
{
    for (uint32_t i = 0; i < world.ranks; i++)
        for (uint32_t m = 0; m < world.shape->members; m++)
            if (world.rank[i].disk[m].stuck)
                return true;
    return false;
}

bool scheduler_quiet(void)
{
    uint64_t until = machine_now() + 60 * SECOND;

    send_all(rank_message(MESSAGE_NO_SCRUB));
    do {
        scheduler_take_all();
        scheduler_erase();
        if (anything_stuck())
            return false;
        machine_sleep(500 * US);
        if (machine_now() > until)
            sim_fail("loads and stores do not end: %u loads, %u stores", world.loads, world.stores);
    } while (!scheduler_idle());
    model_check_idle();
    return true;
}
