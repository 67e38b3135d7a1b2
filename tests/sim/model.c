/* SPDX-License-Identifier: Apache-2.0 */
/* model.c: see model.h. */
#include "model.h"

#include <string.h>

#include "dice.h"
#include "engine/member.h"
#include "machine.h"
#include "serve/internal.h"
#include "world.h"

enum { MEMBERS_IN_ALL = MOST_RANKS * MOST_MEMBERS, MOST_DEPTH = 64 };

uint32_t model_node(uint32_t chain, uint32_t depth)
{
    return (depth < LENGTH / 2 ? chain & ~1u : chain) * LENGTH + depth;
}

void model_hashes(uint32_t chain, uint32_t count, uint8_t *hashes)
{
    memset(hashes, 0, (size_t)count * TUTTI_ENGINE_HASH_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t node = model_node(chain, i) + 1;

        memcpy(hashes + (size_t)i * TUTTI_ENGINE_HASH_BYTES, &node, sizeof(node));
    }
}

/* Bytes. */

static uint64_t *object(const struct rank *r, uint32_t block, uint32_t layer, uint32_t part)
{
    const struct tutti_geometry *g = &world.shape->geometry[world.geometry];

    return (uint64_t *)(uintptr_t)tutti_kv_address(r->plane, g->parts, layer, part, block);
}

static uint64_t start_of(const struct rank *r, uint32_t node, uint64_t version, uint32_t layer,
                         uint32_t part)
{
    return dice_mix(version ^ (uint64_t)node << 40 ^ (uint64_t)r->number << 32 ^
                    (uint64_t)layer << 16 ^ part);
}

void model_fill(struct rank *r, uint32_t block, uint32_t node, uint64_t version)
{
    const struct tutti_geometry *g = &world.shape->geometry[world.geometry];

    for (uint32_t layer = 0; layer < g->layers; layer++)
        for (uint32_t part = 0; part < g->parts; part++) {
            uint64_t word = start_of(r, node, version, layer, part);
            uint64_t *at = object(r, block, layer, part);

            for (uint64_t i = 0; i < g->object_bytes / 8; i++)
                at[i] = word += UINT64_C(0x9e3779b97f4a7c15);
        }
    r->block[block] = (struct block){BLOCK_HOLDS, node, version};
}

void model_check_layer(const struct rank *r, uint32_t block, uint32_t layer, uint32_t node,
                       uint64_t version, const char *when)
{
    const struct tutti_geometry *g = &world.shape->geometry[world.geometry];

    for (uint32_t part = 0; part < g->parts; part++) {
        uint64_t word = start_of(r, node, version, layer, part);
        const uint64_t *at = object(r, block, layer, part);

        for (uint64_t i = 0; i < g->object_bytes / 8; i++)
            if (at[i] != (word += UINT64_C(0x9e3779b97f4a7c15)))
                sim_fail("%s: WRONG BYTES: rank %u, block %u, layer %u, part %u, word %llu; node "
                         "%u was to be there",
                         when, r->number, block, layer, part, (unsigned long long)i, node);
    }
}

void model_check_block(const struct rank *r, uint32_t block, const char *when)
{
    const struct block *b = &r->block[block];

    if (b->state != BLOCK_HOLDS)
        return;
    for (uint32_t layer = 0; layer < world.shape->geometry[world.geometry].layers; layer++)
        model_check_layer(r, block, layer, b->node, b->version, when);
}

void model_check_memory(const struct rank *r)
{
    for (uint32_t b = 0; b < BLOCKS; b++)
        model_check_block(r, b, "KV memory that nobody may touch");
}

/** The block that a byte of KV memory belongs to, or -1. */
static int64_t block_of(const struct rank *r, const uint8_t *memory)
{
    const struct tutti_geometry *g = &world.shape->geometry[world.geometry];

    for (uint32_t i = 0; i < g->layers * g->parts; i++) {
        uint64_t into = (uint64_t)(uintptr_t)memory - r->plane[i].base;

        if ((uint64_t)(uintptr_t)memory >= r->plane[i].base &&
            into / r->plane[i].block_stride < BLOCKS)
            return (int64_t)(into / r->plane[i].block_stride);
    }
    return -1;
}

void model_memory_read_into(uint32_t rank, const void *memory, size_t bytes)
{
    const struct rank *r = &world.rank[rank];
    const uint8_t *at = memory;

    if (at + bytes <= r->kv || at >= r->kv + r->kv_bytes)
        return;
    for (const uint8_t *end = at + bytes; at < end; at += DISK_SECTOR) {
        int64_t block = block_of(r, at);

        if (block < 0 || r->block[block].state != BLOCK_LOADING)
            sim_fail("rank %u: a read lands in block %lld, which is not being loaded", rank,
                     (long long)block);
    }
}

void model_check_not_read(const struct rank *r, uint32_t block)
{
    for (uint32_t m = 0; m < world.shape->members; m++)
        for (uint32_t i = 0; i < r->disk[m].pending_count; i++) {
            const struct disk_command *p = &r->disk[m].pending[i];

            for (uint32_t k = 0; k < p->command->segments; k++)
                if (block_of(r, p->command->iov[k].iov_base) == (int64_t)block)
                    sim_fail("rank %u: block %u is overwritten under a command", r->number, block);
        }
}

/* What was given out. */

struct given *model_give(const struct tutti_transfer *t, uint32_t node, uint64_t version)
{
    struct given *g = world_memory(sizeof(*g));

    must(t->slot < MOST_SLOTS);
    *g = (struct given){.older = world.given[t->slot],
                        .generation = t->generation,
                        .node = node,
                        .version = version};
    world.given[t->slot] = g;
    return g;
}

struct given *model_given(uint32_t slot, uint64_t generation)
{
    must(slot < MOST_SLOTS);
    for (struct given *g = world.given[slot]; g; g = g->older)
        if (g->generation == generation)
            return g;
    return NULL;
}

/* The directory. */

void model_audit(void)
{
    struct tutti_directory_stats s;
    struct tutti_error err = {0};

    if (tutti_directory_audit(world.directory, &err) < 0)
        sim_fail("audit: %s", err.message);
    tutti_directory_stats(world.directory, &s);
    must(s.slots == world.slots);
    must(s.free + s.writing + s.visible + s.foreign + s.leaving == s.slots);
    must(s.pinned == world.pins);
}

/** A slot that was found holds what its key says, and every rank said that it wrote it. */
static void check_found(uint32_t chain, uint32_t depth, const struct tutti_transfer *t)
{
    uint32_t node = model_node(chain, depth);
    const struct given *g = model_given(t->slot, t->generation);

    if (!g)
        sim_fail("chain %u, block %u: found in slot %u, generation %llx, which nobody was given",
                 chain, depth, t->slot, (unsigned long long)t->generation);
    if (g->node != node)
        sim_fail("chain %u, block %u: found in slot %u, which was given to node %u, not %u", chain,
                 depth, t->slot, g->node, node);
    if (g->version != world.version)
        sim_fail("chain %u, block %u: found in slot %u, written before a reset", chain, depth,
                 t->slot);
    if (g->acked != (1u << world.ranks) - 1 || g->refused)
        sim_fail("chain %u, block %u: found in slot %u before every rank had written it (%x)",
                 chain, depth, t->slot, g->acked);
    if (members_fenced() >> tutti_record_place(&world.placement, t->slot).member & 1)
        sim_fail("chain %u, block %u: found in slot %u, whose member is fenced", chain, depth,
                 t->slot);
    if (g->dropped)
        sim_fail("chain %u, block %u: found in slot %u, which was dropped", chain, depth, t->slot);
}

uint32_t model_check_chain(uint32_t chain, struct tutti_transfer *items)
{
    uint8_t hashes[LENGTH * TUTTI_ENGINE_HASH_BYTES];
    struct tutti_match whole, part;

    model_hashes(chain, LENGTH, hashes);
    must(tutti_directory_find(world.directory, hashes, TUTTI_ENGINE_HASH_BYTES, LENGTH, &whole) ==
         0);
    for (uint32_t count = 0; count <= LENGTH; count++) {
        must(tutti_directory_find(world.directory, hashes, TUTTI_ENGINE_HASH_BYTES, count, &part) ==
             0);
        if (part.blocks != (count < whole.blocks ? count : whole.blocks))
            sim_fail("chain %u: %u of %u blocks are found, and %u of %u", chain, part.blocks, count,
                     whole.blocks, LENGTH);
    }
    if (whole.blocks == 0)
        return 0;
    must(tutti_directory_pin(world.directory, &whole, 0, items) == 0);
    must(tutti_directory_unpin(world.directory, whole.slot, whole.generation) == 0);
    for (uint32_t i = 0; i < whole.blocks; i++)
        check_found(chain, i, &items[i]);
    return whole.blocks;
}

/* Idleness. */

static void check_member(const struct member *m)
{
    uint32_t free_ios = 0;

    must(m->active == 0 && m->in_flight == 0);
    for (uint32_t u = 0; u < m->staging.units; u++)
        must(m->staging.taken[u] == 0);
    for (const struct io *io = m->ios; io; io = io->next)
        free_ios++;
    must(free_ios == MEMBER_COMMANDS);
}

/** No session, and every IOCB is back in the ring. */
static void check_serve(struct tutti_serve *serve)
{
    uint32_t index[MOST_DEPTH];
    uint32_t depth, consumers;

    tutti_serve_progress(serve);
    must(!serve->retrieves && !serve->stores && !serve->erases);
    tutti_ring_shape(serve->ring, &depth, &consumers);
    must(depth <= MOST_DEPTH);
    for (uint32_t i = 0; i < depth; i++)
        must(tutti_ring_get(serve->ring, &index[i]));
    for (uint32_t i = 0; i < depth; i++)
        must(tutti_ring_put(serve->ring, index[i]) == 0);
}

void model_check_idle(void)
{
    void *member[MEMBERS_IN_ALL];
    uint32_t members = machine_engine_threads(member, MEMBERS_IN_ALL);

    must(world.pins == 0);
    for (uint32_t i = 0; i < members; i++)
        check_member(member[i]);
    for (uint32_t i = 0; i < world.ranks; i++) {
        struct rank *r = &world.rank[i];
        uint32_t all[BLOCKS];

        for (uint32_t b = 0; b < BLOCKS; b++) {
            must(r->block[b].state != BLOCK_LOADING);
            all[b] = b;
        }
        must(tutti_serve_fence(r->serve, all, BLOCKS, 0) == 0);
        check_serve(r->serve);
        model_check_memory(r);
        for (uint32_t m = 0; m < world.shape->members; m++)
            must(r->disk[m].pending_count == 0);
    }
}
