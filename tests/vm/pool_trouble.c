/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_trouble.c: what becomes of a pool when its drives fail, stall, go, or reach for memory that
 * is not theirs: each is an errno with a message, within a bound, and the other member goes on.
 *
 * Seen to fail: bad_sectors where statuses were success; stalled where commands ended with their
 * abort; stray without verification, and where the fatal status was not looked at; asked_for where
 * the kernel's request was not heard; pulled where only ones are taken for nobody.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "nvme/controller_internal.h"
#include "pool.h"

enum { CHAINS = 8, PATTERN = 0x5a };

#define BOUND (45 * SECOND) /* of all the warden's steps, and of a second try */

static void make(struct rig *r, const char *const drives[2], uint32_t fence_errors)
{
    pool_make(r, drives, 2);
    r->fence_errors = fence_errors;
    rig_open(r, "nvme", NULL);
}

/** Of one member are whole: */
static uint32_t whole_on(struct rig *r, uint32_t member)
{
    return rig_load(r, pool_chain_on(r, member, CHAINS), CHAIN, INTO);
}

/** Bad sectors: slots over them fail, no others, and the drive is not given up for them. */
static void bad_sectors(void)
{
    static const char *const drives[] = {DRIVE(FAULTY), DRIVE(PLAIN)};
    uint32_t good = 0, whole = 0, one_bad = 0;
    struct tutti_member_state state;
    struct rig r;

    make(&r, drives, 0);
    good = pool_fill(&r, CHAINS);
    CHECK(good < CHAINS * CHAIN, "no bad sector was written");
    pool_said(&r, -EIO, "write fault", FAULTY);
    for (uint32_t c = 0; c < 2 * CHAINS; c += 2) {
        uint32_t came_back = rig_load(&r, c, CHAIN, INTO);

        whole += came_back == CHAIN;
        one_bad += came_back == CHAIN - 1;
        good -= came_back;
    }
    CHECK(one_bad == 1 && good == 1 && whole >= CHAINS / 2, "%u lack one, %u whole", one_bad,
          whole);
    pool_said(&r, -EIO, "unrecovered read error", FAULTY);
    CHECK(tutti_serve_member_state(r.serve, 1, &state) == 0 && state.io_errors == 0);
    CHECK(tutti_serve_member_state(r.serve, 0, &state) == 0 && state.io_errors > 0);
    CHECK(tutti_serve_fenced(r.serve) == 0, "given up for two bad sectors");
    pool_remove(&r);
}

/** Every second slot of all chains on a member: each layer of each is a command of its own. */
static struct tutti_retrieve *begin_many(struct rig *r, uint32_t member, uint32_t into,
                                         uint32_t *count)
{
    struct tutti_transfer all[RIG_BLOCKS], items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};
    struct tutti_match match;

    *count = 0;
    for (uint32_t c = 0; c < 2 * CHAINS; c += 2) {
        CHECK(rig_find(r, c, CHAIN, INTO, &match, items) == CHAIN); /* and it stays pinned */
        for (uint32_t i = 0; i < CHAIN; i += 2)
            if (pool_member_of(r, items[i].slot) == member) {
                all[*count] = items[i];
                all[*count].block = into + *count;
                ++*count;
            }
    }
    CHECK(tutti_retrieve_begin(r->serve, 0, all, *count, false, 1, &retrieve, &err) == 0, "%s",
          err.message);
    return retrieve;
}

static void fill_blocks(struct rig *r, uint32_t first, uint32_t count, int byte)
{
    for (uint32_t i = 0; i < RIG_LAYERS * RIG_PARTS; i++)
        memset(rig_object(r, i / RIG_PARTS, i % RIG_PARTS, first), byte, count * RIG_OBJECT);
}

static bool blocks_are(const struct rig *r, uint32_t first, uint32_t count, int byte)
{
    for (uint32_t i = 0; i < RIG_LAYERS * RIG_PARTS; i++) {
        const uint8_t *o = rig_object(r, i / RIG_PARTS, i % RIG_PARTS, first);

        if (*o != byte || memcmp(o, o + 1, count * RIG_OBJECT - 1) != 0)
            return false;
    }
    return true;
}

/**
 * A member answers later than its time-out: blocks are free only when its queue was deleted, and
 * what is put into them then stays, though the drive completes what it had (cases.md 9).
 */
static void stalled(void)
{
    static const char *const drives[] = {DRIVE(SLOW), DRIVE(PLAIN)};
    struct tutti_retrieve *retrieve, *second;
    struct tutti_result result, other;
    struct nvme_steps steps;
    uint32_t count;
    double seconds;
    struct rig r;

    make(&r, drives, 4);
    CHECK(pool_fill(&r, CHAINS) == CHAINS * CHAIN);
    retrieve = begin_many(&r, 0, INTO, &count);
    second = begin_many(&r, 0, INTO + count, &count);
    CHECK(INTO + 2 * count <= RIG_BLOCKS);
    CHECK(rig_load(&r, pool_chain_on(&r, 1, CHAINS), CHAIN, 40) == CHAIN, "the other waits too");
    CHECK(tutti_retrieve_poll(retrieve) == 0, "it is not slow");
    seconds = pool_end(retrieve, &result, BOUND) + pool_end(second, &other, BOUND);
    nvme_drive_steps(pool_drive(&r, 0), &steps);
    fill_blocks(&r, INTO, 2 * count, PATTERN); /* free, as the API says */
    CHECK(seconds > 5 && other.status < 0 && other.good < count, "%u and %u of %u good in %.1f s",
          result.good, other.good, count, seconds);
    CHECK(steps.aborts > 0 && steps.deletions + steps.resets > 0, "free, and the queue lives");
    pool_said(&r, 0, SLOW, "");
    CHECK(tutti_serve_fenced(r.serve) == 1);
    CHECK(rig_load(&r, pool_chain_on(&r, 1, CHAINS), CHAIN, 40) == CHAIN);
    CHECK(tutti_retrieve_end(retrieve) == 0 && tutti_retrieve_end(second) == 0);
    usleep(3 * 1000 * 1000); /* until what the drive had is done in any case */
    CHECK(blocks_are(&r, INTO, 2 * count, PATTERN), "a late completion wrote to free memory");
    rig_close(&r);
    CHECK(blocks_are(&r, INTO, 2 * count, PATTERN), "a late completion wrote to free memory");
    rig_remove(&r);
}

/** The kernel is asked for a member: it is given back, its slots are errors, the other serves. */
static void asked_for(void)
{
    static const char *const drives[] = {DRIVE(PULLED), DRIVE(PLAIN)};
    uint64_t began;
    char path[96];
    struct rig r;
    pid_t child;
    int status;

    make(&r, drives, 0);
    CHECK(pool_fill(&r, CHAINS) == CHAINS * CHAIN);
    child = fork();
    if (child == 0) {
        pci_path(path, PULLED, "driver/unbind");
        put(path, PULLED);
        _exit(0);
    }
    began = tutti_clock_now();
    while (whole_on(&r, 0) == CHAIN)
        CHECK(tutti_clock_now() - began < PATIENCE, "it is not given back");
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    pool_said(&r, -ENODEV, PULLED, "read");
    CHECK(whole_on(&r, 1) == CHAIN);
    CHECK(rig_load(&r, pool_chain_on(&r, 0, CHAINS), CHAIN, INTO) == 0);
    pool_remove(&r);
    pci_bind(PULLED, "vfio-pci");
}

/** A member's slot loses power under reads: the same, within a bound. */
static void pulled(void)
{
    static const char *const drives[] = {DRIVE(LOST), DRIVE(PLAIN)};
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct nvme_steps steps;
    uint64_t began;
    uint32_t count;
    struct rig r;

    make(&r, drives, 0);
    CHECK(pool_fill(&r, CHAINS) == CHAINS * CHAIN);
    pci_empty_slot(PORT_OF_LOST, false);
    retrieve = begin_many(&r, 0, INTO, &count);
    pool_end(retrieve, &result, BOUND);
    CHECK(result.status < 0 && result.good == 0, "%d, %u good", result.status, result.good);
    CHECK(tutti_retrieve_end(retrieve) == 0);
    pool_said(&r, -ENODEV, LOST, "read");
    nvme_drive_steps(pool_drive(&r, 0), &steps);
    CHECK(steps.dead == -ENODEV && strstr(steps.said.message, "removed"), "%s", steps.said.message);
    CHECK(whole_on(&r, 1) == CHAIN);
    began = tutti_clock_now();
    rig_close(&r);
    CHECK(tutti_clock_now() - began < PATIENCE, "its end was waited for");
    rig_remove(&r);
}

/** Take a stretch away from a drive, or give it back. Its address. */
static void take_away(struct nvme_drive *d, uint64_t address, uint64_t bytes)
{
    CHECK(d->port.unmap(d->port.self, address, bytes) == 0, "%s", d->port.said->message);
}

static uint64_t give_again(struct nvme_drive *d, void *memory, uint64_t bytes)
{
    uint64_t address;

    CHECK(d->port.map(d->port.self, memory, bytes, &address) == 0, "%s", d->port.said->message);
    return address;
}

/** KV memory is no longer the drive's: it reports success, and the checksum finds it. */
static void stray_data(struct rig *r, uint32_t chain, int log)
{
    struct nvme_drive *d = pool_drive(r, 0);
    struct nvme_window *kv = d->lane[1]->windows.window;
    struct tutti_retrieve *retrieve;
    struct tutti_result result;

    while (!(kv->memory <= (uintptr_t)r->kv && (uintptr_t)r->kv < kv->memory + kv->bytes))
        kv++;
    fill_blocks(r, INTO, CHAIN, PATTERN);
    take_away(d, kv->address, kv->bytes);
    retrieve = pool_begin(r, chain);
    pool_end(retrieve, &result, BOUND);
    CHECK(result.good == 0, "good, and nothing can have come");
    for (uint32_t i = 0; i < CHAIN; i++)
        CHECK(result.position[i] == EBADMSG, "%u", result.position[i]);
    CHECK(tutti_retrieve_end(retrieve) == 0);
    CHECK(blocks_are(r, INTO, CHAIN, PATTERN), "the drive wrote to memory that was taken away");
    CHECK(klog_says(log, "DMAR", "DMA Write", 5 * SECOND), "no fault in the kernel's log");
    kv->address = give_again(d, (void *)kv->memory, kv->bytes);
    CHECK(rig_load(r, chain, CHAIN, INTO) == CHAIN);
}

/** Lists are no longer the drive's: it says so by a status. */
static void stray_lists(struct rig *r, uint32_t chain)
{
    struct nvme_drive *d = pool_drive(r, 0);
    struct nvme_lane *lane = d->lane[1];
    uint64_t bytes = (uint64_t)lane->list_count * NVME_LIST_BYTES;

    lane->limits.sgls = 0; /* PRP lists: a run of blocks is one SGL descriptor, in the command */
    take_away(d, lane->lists_address, bytes);
    CHECK(rig_load(r, chain, CHAIN, INTO) == 0);
    pool_said(r, -EIO, PLAIN, "could not be transferred");
    lane->lists_address = give_again(d, lane->lists, bytes);
    CHECK(rig_load(r, chain, CHAIN, INTO) == CHAIN);
}

/** Its queue is no longer the drive's: a fatal status and no completion; it is brought back. */
static void stray_queue(struct rig *r, uint32_t chain)
{
    struct nvme_drive *d = pool_drive(r, 0);
    const struct pair_memory *queue = &d->controller->pair[d->lane[1]->number];
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct nvme_steps steps;

    take_away(d, queue->address, queue->bytes);
    retrieve = pool_begin(r, chain);
    pool_end(retrieve, &result, BOUND);
    for (uint32_t i = 0; i < CHAIN; i++)
        CHECK(result.position[i] || rig_wrong(r, chain, i, INTO + i) == 0);
    CHECK(tutti_retrieve_end(retrieve) == 0);
    nvme_drive_steps(d, &steps);
    CHECK(steps.resets == 1 && strstr(steps.said.message, "fatal"), "%s", steps.said.message);
    CHECK(rig_load(r, chain, CHAIN, INTO) == CHAIN, "it was not brought back");
}

/** The faces of a stray DMA, each an error; after each the engine goes on. */
static void stray(void)
{
    static const char *const drives[] = {DRIVE(PLAIN), DRIVE(LOST)};
    int log = klog_open();
    uint32_t chain;
    struct rig r;

    make(&r, drives, UINT32_MAX);
    CHECK(pool_fill(&r, CHAINS) == CHAINS * CHAIN);
    chain = pool_chain_on(&r, 0, CHAINS);
    stray_data(&r, chain, log);
    stray_lists(&r, chain);
    stray_queue(&r, chain);
    CHECK(whole_on(&r, 1) == CHAIN);
    pool_remove(&r);
}

const struct test pool_trouble_tests[] = {
    {"a pool over bad sectors", bad_sectors},
    {"a pool's member answers after its time-out", stalled},
    {"a pool's member reaches for what is not its own", stray},
    {"a pool's member is asked for, and given back", asked_for},
    {"a pool's member loses power", pulled},
    {0},
};
