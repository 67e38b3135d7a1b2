/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serving.c: the public interface, driven by a list of steps, against a model.
 *
 * Directory, pool and serve over two members in memory; the engine's turns, the
 * order in which commands end, and faults are steps of the input too (pump.h).
 * Stores, retrieves, fences, cancels, evictions, drops, resets, reopenings in the
 * middle of everything; bits flipped, slots exchanged, old slots put back.
 *
 * Claimed: every byte that is served is the one that was stored, of this life;
 * blocks that nobody asked to be loaded keep their bytes; nothing waits for ever;
 * where nothing was spoiled nothing fails, and a restart finds all that was
 * visible; at the end no pin, no write, no staging and no command is out, and
 * free and used slots are all slots.
 *
 * Seen to fail, from what was learned in minutes: without the layers' sums after 1.5 s (127
 * executions); with neither comparison of generation and key after 4 s (459; one of
 * the two is enough, and was not missed in 60 s); with a fence that does not wait,
 * within 1 s (37).
 */
#include <errno.h>

#include "input.h"
#include "memory.h"
#include "pump.h"
#include "world.h"

enum { ACTS = 6, MOST_STEPS = 64, MOST_OPENINGS = 2, LONG = 1000000000 };

enum kind { NOTHING, LOAD, STORE };

/** A session, and what it is to do. */
struct act {
    enum kind kind;
    struct tutti_retrieve *retrieve;
    struct tutti_store *store;
    uint32_t chain;
    uint32_t count;
    uint32_t layer; /* a load in step: the next one; a store: how many are ready */
    bool in_step;
    bool stopped; /* cancelled or fenced */
    uint64_t life;
    struct tutti_match match;
    struct tutti_transfer item[WORLD_LENGTH];
    uint32_t index[WORLD_LENGTH]; /* place in the chain */
};

static const char *const rules[] = {
    NULL,
    "read:flip:every=5:seed=2",
    "write:lost:every=4",
    "write:torn:every=3:seed=3;read:short:every=4",
    "read:stale:every=3",
    "write:misdirected:every=5:by=1024;read:misdirected:every=7:by=512",
    "any:eio:every=6;write:flip:every=5:seed=9",
    "write:short:every=2;read:torn:every=9:seed=5",
};

static struct world world;
static struct act act[ACTS];
static bool taken[WORLD_BLOCKS];
static uint64_t canary[WORLD_BLOCKS];  /* what a block that is not taken holds */
static bool clean;                     /* nothing was spoiled so far */
static struct tutti_transfer old_item; /* of some time ago */
static uint8_t old_slot[WORLD_LAYERS * WORLD_PARTS + 1][1024];
static uint32_t old_number;
static bool old_kept;
static uint32_t openings; /* again; they cost more than all else */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    pump_open();
    return world_make();
}

/* Blocks of KV memory. */

static void give_back(uint32_t block)
{
    taken[block] = false;
    canary[block] += UINT64_C(1) << 56;
    world_fill(block, canary[block]);
}

static bool take_block(uint32_t *block)
{
    for (uint32_t b = 0; b < WORLD_BLOCKS; b++)
        if (!taken[b]) {
            taken[b] = true;
            *block = b;
            return true;
        }
    return false;
}

UNTRACED static void check_canaries(void)
{
    for (uint32_t b = 0; b < WORLD_BLOCKS; b++)
        for (uint32_t l = 0; l < WORLD_LAYERS && !taken[b]; l++)
            CLAIM(world_holds(b, l, canary[b]), "block %u is nobody's and was written", b);
}

/* Sessions. */

static struct act *free_act(void)
{
    for (uint32_t i = 0; i < ACTS; i++)
        if (act[i].kind == NOTHING)
            return &act[i];
    return NULL;
}

static void begin_store(struct input *in)
{
    uint64_t how = take(in, 1);
    uint32_t first = (uint32_t)(how >> 2 & 7), count = 1 + (uint32_t)(how >> 5);
    uint8_t hashes[WORLD_LENGTH * WORLD_HASH];
    struct tutti_origin origin[WORLD_LENGTH];
    struct tutti_error err = {0};
    struct act *a = free_act();
    uint32_t used = 0;
    int given;

    if (!a)
        return;
    if (first + count > WORLD_LENGTH)
        count = WORLD_LENGTH - first;
    memset(a, 0, sizeof(*a));
    a->chain = (uint32_t)how % WORLD_CHAINS;
    world_hashes(a->chain, hashes);
    given = tutti_directory_reserve(world.directory, hashes, WORLD_HASH, first, count,
                                    take(in, 1) & 1, a->item, origin, a->index);
    CLAIM(given >= 0 || (given == -ENOENT && first > 0), "reserve: %d", given);
    while (given > 0 && used < (uint32_t)given && take_block(&a->item[used].block)) {
        world_fill(a->item[used].block, world_content(world.life, a->chain, a->index[used]));
        used++;
    }
    for (int i = (int)used; i < given; i++)
        CLAIM(tutti_directory_report(world.directory, 0, a->item[i].slot, a->item[i].generation,
                                     false) == 0,
              "report");
    if (used == 0)
        return;
    a->count = used;
    a->life = world.life;
    a->layer = take_below(in, WORLD_LAYERS + 1);
    CLAIM(tutti_store_begin(world.serve, 0, a->item, origin, used, a->layer, 1, &a->store, &err) ==
              0,
          "%s", err.message);
    a->kind = STORE;
    old_item = a->item[0];
}

static void begin_load(struct input *in)
{
    uint64_t how = take(in, 1);
    uint8_t hashes[WORLD_LENGTH * WORLD_HASH];
    struct tutti_error err = {0};
    struct act *a = free_act();
    uint32_t first, listed;

    if (!a)
        return;
    memset(a, 0, sizeof(*a));
    a->chain = (uint32_t)how % WORLD_CHAINS;
    world_hashes(a->chain, hashes);
    CLAIM(tutti_directory_find(world.directory, hashes, WORLD_HASH, 1 + (how >> 2 & 7),
                               &a->match) == 0,
          "find");
    if (a->match.blocks == 0)
        return;
    first = (uint32_t)(how >> 5) % a->match.blocks;
    CLAIM(tutti_directory_pin(world.directory, &a->match, first, a->item) == 0, "pin");
    listed = a->match.blocks - first;
    while (a->count < listed && take_block(&a->item[a->count].block)) {
        a->index[a->count] = first + a->count;
        a->count++;
    }
    if (a->count == 0) {
        CLAIM(tutti_directory_unpin(world.directory, a->match.slot, a->match.generation) == 0,
              "unpin");
        return;
    }
    a->life = world.life;
    a->in_step = take(in, 1) & 1;
    CLAIM(tutti_retrieve_begin(world.serve, 0, a->item, a->count, a->in_step, 1, &a->retrieve,
                               &err) == 0,
          "%s", err.message);
    a->kind = LOAD;
}

static void end_store(struct act *a)
{
    struct tutti_result result;

    tutti_store_result(a->store, &result);
    for (uint32_t i = 0; i < a->count; i++) {
        CLAIM(result.position[i] == 0 || !clean || a->stopped || a->life != world.life,
              "a store fails with %d", result.position[i]);
        CLAIM(tutti_directory_report(world.directory, 0, a->item[i].slot, a->item[i].generation,
                                     result.position[i] == 0) == 0,
              "report");
        give_back(a->item[i].block);
    }
    CLAIM(tutti_store_end(a->store) == 0, "end");
    a->kind = NOTHING;
}

static void check_served(const struct act *a, uint32_t i, uint32_t layer)
{
    CLAIM(world_holds(a->item[i].block, layer, world_content(a->life, a->chain, a->index[i])),
          "chain %u block %u slot %u generation %llx layer %u: another byte was served", a->chain,
          a->index[i], a->item[i].slot, (unsigned long long)a->item[i].generation, layer);
}

static void end_load(struct act *a)
{
    struct tutti_result result;

    tutti_retrieve_result(a->retrieve, &result);
    for (uint32_t i = 0; i < a->count; i++) {
        CLAIM(result.position[i] == 0 || !clean || a->stopped || a->life != world.life,
              "a load fails with %d", result.position[i]);
        for (uint32_t layer = 0; layer < WORLD_LAYERS && result.position[i] == 0; layer++)
            check_served(a, i, layer);
        if (result.position[i] != 0 && result.position[i] != ECANCELED)
            tutti_directory_drop(world.directory, a->item[i].slot, a->item[i].generation);
        give_back(a->item[i].block);
    }
    CLAIM(tutti_directory_unpin(world.directory, a->match.slot, a->match.generation) == 0, "unpin");
    CLAIM(tutti_retrieve_end(a->retrieve) == 0, "end");
    a->kind = NOTHING;
}

static void end_what_ended(void)
{
    for (uint32_t i = 0; i < ACTS; i++) {
        if (act[i].kind == LOAD && tutti_retrieve_poll(act[i].retrieve))
            end_load(&act[i]);
        else if (act[i].kind == STORE && tutti_store_poll(act[i].store))
            end_store(&act[i]);
    }
}

static void go_on(struct act *a)
{
    int rc;

    if (a->kind == STORE && a->layer < WORLD_LAYERS) {
        CLAIM(tutti_store_ready(a->store, ++a->layer) == 0, "ready");
    } else if (a->kind == LOAD && a->in_step && a->layer < WORLD_LAYERS) {
        rc = tutti_retrieve_layer(a->retrieve, a->layer, LONG);
        CLAIM(rc != -ETIMEDOUT, "a layer hangs");
        for (uint32_t i = 0; i < a->count && rc == 0; i++)
            check_served(a, i, a->layer);
        a->layer++;
    }
}

static void fence(struct act *a)
{
    uint32_t block = a->item[0].block;

    if (a->kind != STORE)
        return;
    a->stopped = true; /* blocks are never shared, so one store is touched */
    CLAIM(tutti_serve_fence(world.serve, &block, 1, LONG) >= 0, "a fence hangs");
    world_fill(block, UINT64_C(0x7777777777777777));
    CLAIM(tutti_store_poll(a->store) == 1, "a fenced store goes on");
    end_store(a);
}

static void cancel(struct act *a)
{
    a->stopped = true;
    if (a->kind == LOAD)
        tutti_retrieve_cancel(a->retrieve);
    else if (a->kind == STORE)
        tutti_store_cancel(a->store);
}

static void finish_all(void)
{
    for (uint32_t i = 0; i < ACTS; i++) {
        struct act *a = &act[i];

        if (a->kind == STORE) {
            tutti_store_ready(a->store, WORLD_LAYERS);
            CLAIM(tutti_store_wait(a->store, LONG) == 0, "a store hangs");
            end_store(a);
        } else if (a->kind == LOAD) {
            CLAIM(tutti_retrieve_wait(a->retrieve, LONG) == 0, "a load hangs");
            end_load(a);
        }
    }
}

/* The pool as a whole. */

static void erase_dropped(void)
{
    struct tutti_transfer gone[WORLD_SLOTS * WORLD_EXTENTS];
    size_t count = tutti_directory_take_erased(world.directory, gone, sizeof(gone) / sizeof(*gone));
    struct tutti_error err = {0};

    CLAIM(tutti_serve_erase(world.serve, 0, gone, (uint32_t)count, &err) == 0, "%s", err.message);
}

static uint32_t prefix(uint32_t chain)
{
    uint8_t hashes[WORLD_LENGTH * WORLD_HASH];
    struct tutti_match match;

    world_hashes(chain, hashes);
    CLAIM(tutti_directory_find(world.directory, hashes, WORLD_HASH, WORLD_LENGTH, &match) == 0,
          "find");
    return match.blocks;
}

static void reopen(bool in_the_middle)
{
    uint32_t before[WORLD_CHAINS];

    if (!in_the_middle)
        finish_all();
    erase_dropped();
    for (uint32_t c = 0; c < WORLD_CHAINS; c++)
        before[c] = prefix(c);
    world_close(&world);
    for (uint32_t i = 0; i < ACTS; i++) {
        for (uint32_t k = 0; act[i].kind != NOTHING && k < act[i].count; k++)
            give_back(act[i].item[k].block);
        act[i].kind = NOTHING;
    }
    world_open(&world);
    for (uint32_t c = 0; c < WORLD_CHAINS; c++)
        CLAIM(!clean || prefix(c) >= before[c], "chain %u had %u blocks and has %u", c, before[c],
              prefix(c));
}

static void reset(bool in_the_middle)
{
    if (!in_the_middle)
        finish_all();
    world_reset(&world);
    for (uint32_t c = 0; c < WORLD_CHAINS; c++)
        CLAIM(prefix(c) == 0, "chain %u outlives a reset", c);
}

/** Other people's transfers: of another generation, of no slot, into no block. */
static void hostile(struct input *in)
{
    struct tutti_transfer item = old_item;
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_error err = {0};
    uint64_t how = take(in, 1);
    uint32_t block;
    int rc;

    if (!take_block(&block))
        return;
    item.block = how & 1 ? WORLD_BLOCKS + (uint32_t)take_value(in) % 1000 : block;
    if (how & 2)
        item.slot = (uint32_t)take_value(in);
    if (how & 4)
        item.generation += take_value(in) + 1;
    if (how & 8)
        item.key.word[how >> 7] ^= 1 + take(in, 1);
    rc = tutti_retrieve_begin(world.serve, 0, &item, 1, false, 3, &retrieve, &err);
    CLAIM(rc == 0 || rc == -EINVAL, "%d", rc);
    CLAIM(rc < 0 || (item.block < WORLD_BLOCKS && tutti_slot_valid(&world.placement, item.slot)),
          "a transfer from nowhere or to nowhere");
    if (rc == 0) {
        CLAIM(tutti_retrieve_wait(retrieve, LONG) == 0, "hangs");
        tutti_retrieve_result(retrieve, &result);
        CLAIM(result.position[0] || !(how & 0xc) || !clean, "a transfer that nobody stored");
        CLAIM(tutti_retrieve_end(retrieve) == 0, "end");
    }
    give_back(block);
}

static void spoil(struct input *in)
{
    uint64_t how = take(in, 1);
    uint32_t slot = world_slot((uint32_t)take(in, 1));
    uint32_t other = world_slot((uint32_t)take(in, 1));
    uint32_t parts = WORLD_LAYERS * WORLD_PARTS;

    clean = false;
    if ((how & 3) == 0) /* a bit of a record, or of an object */
        world_record(&world, slot)[take(in, 1)] ^= (uint8_t)(1u << (how >> 5));
    else if ((how & 3) == 1)
        world_object(&world, slot, how >> 2 & 1, how >> 3 & 1)[take(in, 1) * 2] ^=
            (uint8_t)(1u << (how >> 5));
    else if ((how & 3) == 2) { /* a slot's bytes in another's place */
        for (uint32_t i = 0; i < parts; i++)
            memmove(world_object(&world, slot, i / 2, i % 2),
                    world_object(&world, other, i / 2, i % 2), 1024);
        if (how & 4)
            memmove(world_record(&world, slot), world_record(&world, other), 512);
    } else if (!old_kept || how & 4) { /* a slot as it is now ... */
        for (uint32_t i = 0; i < parts; i++)
            memcpy(old_slot[i], world_object(&world, slot, i / 2, i % 2), 1024);
        memcpy(old_slot[parts], world_record(&world, slot), 512);
        old_number = slot;
        old_kept = true;
    } else { /* ... and put back later, as if all writes since were lost */
        for (uint32_t i = 0; i < parts; i++)
            memcpy(world_object(&world, old_number, i / 2, i % 2), old_slot[i], 1024);
        memcpy(world_record(&world, old_number), old_slot[parts], 512);
    }
}

static void drop(uint32_t chain)
{
    uint8_t hashes[WORLD_LENGTH * WORLD_HASH];
    struct tutti_match match;

    world_hashes(chain, hashes);
    tutti_directory_find(world.directory, hashes, WORLD_HASH, WORLD_LENGTH, &match);
    if (match.blocks > 0)
        CLAIM(tutti_directory_drop(world.directory, match.slot, match.generation) > 0, "drop");
}

static void check_counts(bool over)
{
    struct tutti_directory_stats s;
    struct tutti_error err = {0};

    tutti_directory_stats(world.directory, &s);
    CLAIM(s.free + s.writing + s.visible + s.foreign + s.leaving == s.slots,
          "%llu slots, %llu free, %llu writing, %llu visible, %llu foreign, %llu leaving",
          (unsigned long long)s.slots, (unsigned long long)s.free, (unsigned long long)s.writing,
          (unsigned long long)s.visible, (unsigned long long)s.foreign,
          (unsigned long long)s.leaving);
    CLAIM(!over || (s.pinned == 0 && s.writing == 0 && s.leaving == 0),
          "%llu pinned, %llu writing, %llu leaving", (unsigned long long)s.pinned,
          (unsigned long long)s.writing, (unsigned long long)s.leaving);
    CLAIM(tutti_directory_audit(world.directory, &err) == 0, "%s", err.message);
}

static void step(struct input *in)
{
    uint64_t what = take(in, 1);
    uint32_t more = (uint32_t)(what >> 4);
    struct act *a = &act[more % ACTS];

    switch (what & 15) {
    case 0:
    case 1:
    case 2:
        begin_store(in);
        break;
    case 3:
    case 4:
    case 5:
        begin_load(in);
        break;
    case 6:
    case 7:
        go_on(a);
        break;
    case 8:
    case 9:
        pump_turn(more & 1, more >> 1);
        break;
    case 10:
        fence(a);
        break;
    case 11:
        cancel(a);
        break;
    case 12:
        pump_clock += UINT64_C(60000000);
        if (more & 1)
            check_counts(false);
        if (more & 2)
            drop(more >> 2);
        break;
    case 13:
        hostile(in);
        break;
    case 14:
        if ((more & 7) == 0)
            reset(more & 8);
        else if ((more & 7) == 1 && openings++ < MOST_OPENINGS)
            reopen(more & 8);
        else
            pump_all();
        break;
    default:
        spoil(in);
        break;
    }
    /* What a server does once a step. */
    end_what_ended();
    erase_dropped();
    tutti_serve_progress(world.serve);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint64_t how = take(&in, 1);
    uint64_t device = take(&in, 1);

    pump_begin((struct pump_ways){.order = device & 1 ? device << 32 | 1 : 0,
                                  .late = device & 2,
                                  .spoils = device & 1 && device & 4 ? (uint32_t)device >> 5 : 0,
                                  .counts = size % 4 == 0});
    world.rules = rules[how & 7];
    world.staged = how & 8;
    world.ring_depth = how & 16 ? 4 : 32;
    clean = !world.rules && !(device & 1 && device & 4 && device >> 5);
    old_kept = false;
    openings = 0;
    memset(act, 0, sizeof(act));
    memset(&old_item, 0, sizeof(old_item));
    world_begin(&world);
    for (uint32_t b = 0; b < WORLD_BLOCKS; b++) {
        canary[b] = (uint64_t)b << 48;
        give_back(b);
    }
    for (uint32_t i = 0; i < MOST_STEPS && in.left > 0; i++)
        step(&in);
    finish_all();
    for (uint32_t i = 0; i < 3; i++) { /* dropped, erased, let go */
        erase_dropped();
        tutti_serve_progress(world.serve);
        pump_all();
    }
    check_counts(true);
    check_canaries();
    world_close(&world);
    check_canaries();
    return 0;
}
