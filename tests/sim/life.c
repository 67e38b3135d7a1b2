/* SPDX-License-Identifier: Apache-2.0 */
/*
 * life.c: the lives of a server: started from what the disks hold, ended in
 * good order, by a kill or by a power cut, and started again.
 *
 * A dead process's memory is given back by the product's own closing calls, on
 * disks that nothing of it reaches any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dice.h"
#include "machine.h"
#include "world.h"

enum { KV_BYTES = 1 << 20, MOST_STAGING = 4 };

enum ending { ENDING_CLEAN, ENDING_KILL, ENDING_POWER };

static uint8_t *kv_memory[MOST_RANKS];
static uint32_t shape_number;

/* Memory of I/O: as a device gives it, but used again and never as it was. */

static int memory_alloc(size_t bytes, void **memory, bool *huge, struct tutti_error *err)
{
    (void)err;
    *huge = false;
    must(posix_memalign(memory, 4096, bytes) == 0);
    return 0;
}

static void memory_free(void *memory, size_t bytes)
{
    (void)bytes;
    free(memory);
}

static bool direct;

static bool memory_direct(uint64_t address, size_t bytes)
{
    (void)address;
    (void)bytes;
    return direct;
}

static void memory_copy_in(uint64_t kv, const void *staging, size_t bytes)
{
    for (uint32_t i = 0; i < world.ranks; i++)
        model_memory_read_into(i, (const void *)(uintptr_t)kv, bytes);
    memcpy((void *)(uintptr_t)kv, staging, bytes);
    machine_preempt();
}

static void memory_copy_out(void *staging, uint64_t kv, size_t bytes)
{
    memcpy(staging, (const void *)(uintptr_t)kv, bytes);
    machine_preempt();
}

static const struct tutti_device memory_device = {
    .name = "simulated",
    .alloc = memory_alloc,
    .free = memory_free,
    .direct = memory_direct,
    .copy_in = memory_copy_in,
    .copy_out = memory_copy_out,
};

/** What tutti_serve_open() leaves to the engine's defaults is drawn here. */
int __real_tutti_engine_open(const struct tutti_engine_options *options,
                             struct tutti_engine **engine, struct tutti_error *err);
int __wrap_tutti_engine_open(const struct tutti_engine_options *options,
                             struct tutti_engine **engine, struct tutti_error *err);

int __wrap_tutti_engine_open(const struct tutti_engine_options *options,
                             struct tutti_engine **engine, struct tutti_error *err)
{
    static const uint32_t command_bytes[] = {4096, 8192, 65536};
    static const uint32_t queue_bytes[] = {4096, 32768, 1 << 20};
    struct tutti_member member[MOST_MEMBERS];
    struct tutti_engine_options o = *options;

    memcpy(member, o.member, o.members * sizeof(member[0]));
    for (uint32_t m = 0; m < o.members; m++)
        member[m].direct = true;
    o.member = member;
    o.command_bytes = command_bytes[dice_below(3)];
    o.queue_bytes = queue_bytes[dice_below(3)];
    return __real_tutti_engine_open(&o, engine, err);
}

/* Start. */

static void lay_planes(struct rank *r)
{
    const struct tutti_geometry *g = &world.shape->geometry[world.geometry];
    uint32_t planes = g->layers * g->parts;
    uint64_t stride = g->object_bytes;
    bool between = dice_chance(3000); /* all planes of a block side by side */

    if (dice_chance(3000))
        stride += 64;
    else if (dice_chance(5000))
        stride =
            (stride + world.shape->alignment - 1) / world.shape->alignment * world.shape->alignment;
    if (!kv_memory[r->number])
        must(posix_memalign((void **)&kv_memory[r->number], 4096, KV_BYTES) == 0);
    r->kv = kv_memory[r->number] + (dice_chance(2000) ? 64 : 0);
    r->kv_bytes = (size_t)(planes * stride * BLOCKS);
    must(r->kv_bytes + 4096 <= KV_BYTES);
    memset(kv_memory[r->number], 0x5a, r->kv_bytes + 4096);
    for (uint32_t i = 0; i < planes; i++)
        r->plane[i] = (struct tutti_kv_plane){.base = (uint64_t)(uintptr_t)r->kv +
                                                      i * stride * (between ? 1 : BLOCKS),
                                              .block_stride = between ? stride * planes : stride};
    memset(r->block, 0, sizeof(r->block));
}

static void set_faults(struct disk *d)
{
    struct disk_faults *f = &d->faults;
    bool lies = world.profile == PROFILE_LIES;

    memset(f, 0, sizeof(*f));
    d->pool_error = 0;
    d->latency = dice_between(5, 200) * US;
    f->late = dice_below(300);
    if (world.profile == PROFILE_CLEAN)
        return;
    d->pool_error = dice_chance(3000) ? 1000 : 0;
    f->error = dice_below(200);
    f->short_ = dice_below(200);
    f->stuck = world.stuck_allowed ? 50 : 0;
    if (!lies)
        return;
    if (world.chains == 1 && dice_chance(7000))
        return; /* it only forgets now and then: see spoil_disk() */
    f->lost = dice_below(300);
    f->torn = dice_below(300);
    f->stale = dice_below(300);
    f->flip = dice_below(200);
    f->misdirected = dice_below(200);
}

static void open_rank(struct rank *r)
{
    struct tutti_pool_options o = pools_options(shape_number, r->number, world.geometry);
    struct tutti_serve_options serve = {
        .device = &memory_device,
        .engine = "threads",
    };
    struct tutti_error err = {0};
    struct tutti_kv_region region;
    struct tutti_pool_info info;

    serve.staging_bytes = (size_t)dice_between(1, MOST_STAGING) << 16;
    serve.ring_depth = 2u << dice_below(6);
    serve.look_ahead = dice_between(1, 4);
    serve.fence_errors = dice_chance(5000) ? dice_between(1, 4) : 0;
    r->late = dice_chance(2000);
    serve.late_ns = r->late ? 50 * MS : 0;
    r->bound = serve.fence_errors;
    for (uint32_t m = 0; m < world.shape->members; m++) {
        struct disk *d = &r->disk[m];

        d->ghost = false;
        d->stuck = 0;
        d->lose = d->sick = 0;
        d->failed = d->behind = d->errors = 0;
        memset(&d->faults, 0, sizeof(d->faults));
        d->pool_error = 0;
    }
    if (tutti_pool_open(&o, &r->pool, &err) < 0)
        sim_fail("rank %u: %s", r->number, err.message);
    tutti_pool_info(r->pool, &info);
    if (info.superblock.epoch < r->durable_epoch ||
        info.superblock.oldest_epoch < r->durable_oldest)
        sim_fail("rank %u: epoch %llu, oldest %llu are forgotten: %llu, %llu were durable",
                 r->number, (unsigned long long)info.superblock.epoch,
                 (unsigned long long)info.superblock.oldest_epoch,
                 (unsigned long long)r->durable_epoch, (unsigned long long)r->durable_oldest);
    r->epoch = info.superblock.epoch;
    r->oldest = info.superblock.oldest_epoch;
    direct = !dice_chance(2500);
    lay_planes(r);
    serve.pool = r->pool;
    if (tutti_serve_open(&serve, &r->serve, &err) < 0)
        sim_fail("rank %u: %s", r->number, err.message);
    region = (struct tutti_kv_region){(uint64_t)(uintptr_t)r->kv, r->kv_bytes};
    if (tutti_serve_register(r->serve, 0, r->plane, BLOCKS, &region, 1, &err) < 0)
        sim_fail("rank %u: %s", r->number, err.message);
    for (uint32_t m = 0; m < world.shape->members; m++)
        set_faults(&r->disk[m]);
    r->first = NULL;
    r->last = &r->first;
    r->queued = 0;
    r->loadings = r->storings = 0;
    r->scrub = NULL;
    r->watched = r->ever_fenced = tutti_serve_fenced(r->serve);
    r->stuck = false;
    r->closed = false;
    r->poll_at = 0;
    r->lag = dice_chance(5000) ? 0 : dice_between(1, 1000) * US;
    r->worker = machine_start(rank_work, r);
}

/** What every rank holds, found by the product's scan, and the version of the weights. */
static void open_directory(void)
{
    struct tutti_directory_options o = {.geometry = world.shape->geometry[world.geometry],
                                        .ranks = world.ranks,
                                        .run_slots = dice_below(4)};
    struct tutti_scan_entry *entries[MOST_RANKS];
    size_t counts[MOST_RANKS];
    struct tutti_error err = {0};
    uint64_t oldest = 0;

    world.epoch = 0;
    for (uint32_t i = 0; i < world.ranks; i++) {
        struct rank *r = &world.rank[i];
        struct tutti_placement p;

        must(tutti_pool_placement(r->pool, 0, &p) == 0);
        r->placement = p;
        if (i == 0 || p.extents < o.placement.extents)
            o.placement = p;
        if (tutti_pool_scan(r->pool, 1, &entries[i], &counts[i], NULL, &err) < 0)
            sim_fail("rank %u: %s", i, err.message);
        oldest = r->oldest > oldest ? r->oldest : oldest;
        world.epoch = r->epoch > world.epoch ? r->epoch : world.epoch;
    }
    memcpy(o.secret, tutti_pool_secret(world.rank[0].pool), sizeof(o.secret));
    o.identity[0] = 1;
    memcpy(o.identity + 4, &world.identity, sizeof(world.identity));
    if (tutti_directory_new(&o, &world.directory, &err) < 0)
        sim_fail("%s", err.message);
    must(tutti_directory_load(world.directory, (const struct tutti_scan_entry *const *)entries,
                              counts, &err) == 0);
    for (uint32_t i = 0; i < world.ranks; i++)
        free(entries[i]);
    world.epoch++;
    must(world.epoch < EPOCHS);
    if (tutti_directory_begin_epoch(world.directory, world.epoch, false, NULL, &err) < 0)
        sim_fail("%s", err.message);
    world.placement = o.placement;
    world.slots = o.placement.extents * o.placement.slots_per_extent;
    world.oldest = 0;
    world.stamp = world.stamp_of[oldest];
    world.version = dice_mix((uint64_t)world.identity << 32 | world.stamp) + world.geometry;
}

/** What is found now was written by all, whoever heard of it. */
static void recover(void)
{
    struct tutti_transfer item[LENGTH];
    struct tutti_match match;
    uint8_t hashes[LENGTH * TUTTI_ENGINE_HASH_BYTES];

    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        model_hashes(chain, LENGTH, hashes);
        must(tutti_directory_find(world.directory, hashes, TUTTI_ENGINE_HASH_BYTES, LENGTH,
                                  &match) == 0);
        if (match.blocks == 0)
            continue;
        must(tutti_directory_pin(world.directory, &match, 0, item) == 0);
        must(tutti_directory_unpin(world.directory, match.slot, match.generation) == 0);
        for (uint32_t i = 0; i < match.blocks; i++) {
            struct given *g = model_given(item[i].slot, item[i].generation);

            if (g) {
                g->acked = (1u << world.ranks) - 1;
                g->refused = false;
                g->dropped = false;
                g->unsure = g->unsure || world.sure[item[i].slot] != g->generation;
            }
        }
        must(model_check_chain(chain, item) == match.blocks);
    }
}

static void start(void)
{
    for (uint32_t i = 0; i < world.ranks; i++)
        open_rank(&world.rank[i]);
    open_directory();
    memset(world.request, 0, sizeof(world.request));
    memset(world.block_used, 0, sizeof(world.block_used));
    world.reports = NULL;
    world.loads = world.stores = 0;
    world.pins = 0;
    memset(world.fenced, 0, sizeof(world.fenced));
    world.flush_waiting = 0;
    world.flush_number++;
    world.lives++;
    recover();
    model_audit();
    trace("life (epoch, identity, geometry)", world.epoch, world.identity, world.geometry, 0);
}

/* Promises: what must be found by the next life. */

struct promise {
    uint32_t blocks[CHAINS];
};

static void promise(struct promise *p, bool flushed_only)
{
    struct tutti_transfer item[LENGTH];

    memset(world.sure, 0, sizeof(world.sure));
    members_forget(); /* what lies on fenced members is there all the same */
    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        uint32_t found = model_check_chain(chain, item);
        uint32_t i = 0;

        for (; i < found; i++) {
            if (model_given(item[i].slot, item[i].generation)->unsure)
                break;
            if (flushed_only && world.flushed[item[i].slot] != item[i].generation)
                break;
            world.sure[item[i].slot] = item[i].generation;
        }
        p->blocks[chain] = i;
    }
}

static void check_promise(const struct promise *p, enum ending ending)
{
    static const char *const names[] = {"a clean end", "a kill", "a power cut"};
    struct tutti_transfer item[LENGTH];

    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        uint32_t found = model_check_chain(chain, item);

        if (found < p->blocks[chain])
            sim_fail("chain %u: %u blocks are found after %s; %u were stored", chain, found,
                     names[ending], p->blocks[chain]);
    }
}

/* End. */

static bool rank_closed(void *argument)
{
    return ((struct rank *)argument)->closed;
}

/** The process is gone; what was its memory is given back. */
static void kill_rank(struct rank *r, bool power)
{
    if (r->closed)
        return;
    machine_kill(r->worker);
    for (uint32_t m = 0; m < world.shape->members; m++) {
        if (power)
            disk_power_fails(&r->disk[m]);
        else
            disk_process_ends(&r->disk[m]);
    }
    for (uint32_t b = 0; b < BLOCKS; b++)
        r->block[b].state = BLOCK_LOADING; /* nobody's memory any more */
    tutti_serve_close(r->serve);
    tutti_pool_close(r->pool);
    r->scrub = NULL;
    r->closed = true;
}

static bool stuck_somewhere(const struct rank *r)
{
    for (uint32_t m = 0; m < world.shape->members; m++)
        if (r->disk[m].stuck)
            return true;
    return false;
}

/** Nobody waits for a disk any longer: the process is gone, and what it was to do is not done. */
static void lose_patience(struct rank *r)
{
    for (uint32_t m = 0; m < world.shape->members; m++)
        disk_process_ends(&r->disk[m]);
    r->first = NULL;
    r->last = &r->first;
    r->queued = 0;
    rank_send(r, rank_message(MESSAGE_CLOSE));
}

/** In good order, unless a disk never answers: then somebody loses patience. */
static void close_rank(struct rank *r)
{
    uint64_t until = machine_now() + 120 * SECOND;
    bool lost = false;

    rank_send(r, rank_message(MESSAGE_CLOSE));
    while (!r->closed) {
        if (!lost && stuck_somewhere(r)) {
            machine_sleep(MS);
            lose_patience(r);
            lost = true;
        }
        if (machine_now() >= until)
            sim_fail("rank %u does not close", r->number);
        machine_wait(rank_closed, r, machine_now() + SECOND);
    }
}

static void end(enum ending ending)
{
    trace("end (how)", ending, 0, 0, 0);
    for (uint32_t i = 0; i < world.ranks; i++) {
        struct rank *r = &world.rank[i];

        if (ending == ENDING_CLEAN || (i > 0 && dice_chance(3000)))
            close_rank(r);
        else
            kill_rank(r, ending == ENDING_POWER);
    }
    for (uint32_t i = 0; i < world.ranks; i++)
        for (uint32_t m = 0; m < world.shape->members; m++) {
            world.rank[i].disk[m].gone = false;
            world.rank[i].disk[m].dies_after = 0;
            memset(world.rank[i].disk[m].bad, 0, world.rank[i].disk[m].size / DISK_SECTOR);
        }
    tutti_directory_free(world.directory);
    world.directory = NULL;
}

static bool disks_lied(void)
{
    for (uint32_t i = 0; i < world.ranks; i++)
        for (uint32_t m = 0; m < world.shape->members; m++)
            if (world.rank[i].disk[m].silent)
                return true;
    return false;
}

/** Openings that must be refused, and must write nothing. */
static void refused(void)
{
    uint32_t rank = dice_below(world.ranks);
    struct rank *r = &world.rank[rank];
    struct tutti_pool_options o = pools_options(shape_number, rank, world.geometry);
    struct tutti_geometry other = *o.geometry;
    struct tutti_pool *pool = NULL;
    uint32_t logged = r->disk[0].logged;
    int expected = -EXDEV;
    bool cut = false;
    int rc;

    switch (dice_below(5)) {
    case 0:
        o.ranks++;
        break;
    case 1:
        o.ranks++;
        o.rank = world.ranks; /* another rank: its files are missing */
        expected = -ENOENT;
        break;
    case 2:
        if (o.members == 1)
            o.ranks++;
        else
            o.members--;
        break;
    case 3:
        pools_resize(shape_number, rank, -DISK_SECTOR);
        cut = true;
        expected = -EFBIG;
        break;
    default:
        other.object_bytes = world.shape->extent_bytes; /* no slot fits */
        o.geometry = &other;
        expected = -EINVAL;
        break;
    }
    rc = tutti_pool_open(&o, &pool, NULL);
    if (cut)
        pools_resize(shape_number, rank, 0);
    if (rc != expected || pool || r->disk[0].logged != logged)
        sim_fail("an opening that must be refused gave %d, not %d", rc, expected);
}

void life_begin(void)
{
    shape_number = dice_below(pools_count());
    world.shape = pools_shape(shape_number);
    world.ranks = world.shape->ranks;
    for (uint32_t i = 0; i < world.ranks; i++) {
        world.rank[i].number = i;
        pools_load(shape_number, &world.rank[i]);
    }
    world.home = pools_home(shape_number);
    start();
}

/** While nobody serves. */
static void scrub_all(void)
{
    for (uint32_t i = 0; i < world.ranks; i++) {
        struct tutti_pool_options o = pools_options(shape_number, i, world.geometry);

        scrub_offline(&world.rank[i], &o);
    }
}

static void cut_epoch(struct disk *d)
{
    d->dies_after = dice_between(1, 4);
}

void life_restart(void)
{
    enum ending ending = (enum ending)dice_below(3);
    struct promise promised;
    uint32_t before = world.geometry;
    uint32_t identity = world.identity;
    uint64_t stamp = world.stamp;

    if (ending == ENDING_CLEAN && dice_chance(7000))
        scheduler_quiet();
    if (dice_chance(1000)) /* the power goes while an epoch is being written */
        cut_epoch(&world.rank[dice_below(world.ranks)].disk[0]);
    promise(&promised, ending == ENDING_POWER);
    end(ending);
    if (dice_chance(3000))
        refused();
    if (dice_chance(500))
        world.geometry = 1 - world.geometry;
    if (dice_chance(1000))
        scrub_all();
    if (dice_chance(2000))
        world.identity = 0; /* that of the files on disk */
    start();
    memset(world.flushed, 0, sizeof(world.flushed));
    if (world.geometry == before && world.identity == identity && world.stamp == stamp &&
        !disks_lied())
        check_promise(&promised, ending);
}

void life_end(void)
{
    scheduler_quiet();
    end(ENDING_CLEAN);
    if (world.disabled)
        scheduler_toggle();
    members_end();
    for (uint32_t i = 0; i < world.ranks; i++)
        for (uint32_t m = 0; m < world.shape->members; m++)
            disk_free(&world.rank[i].disk[m]);
    disk_detach_all();
}
