/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_arm.c: the two arms of "tutti bench".
 *
 * Ours is an engine author's whole use of the library: find a place, store
 * layer by layer, find, pin, retrieve layer by layer. The peer is a raw pass
 * over the same bytes of a second file. Both files are preallocated alike and
 * were never written before. Must not know what is compared or printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench.h"
#include "tutti/device.h"
#include "tutti/pool.h"

/** A point in time, of the clock and of all threads' CPU time. */
struct stopwatch {
    uint64_t ns;
    double cpu;
};

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct stopwatch start(void)
{
    double cpu = cpu_seconds();

    return (struct stopwatch){tutti_clock_now(), cpu};
}

static void stop(struct stopwatch began, struct measure *m)
{
    m->seconds = (double)(tutti_clock_now() - began.ns) / 1e9;
    m->cpu = cpu_seconds() - began.cpu;
}

static void random_bytes(uint8_t *to, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        to[i] = (uint8_t)(seed >> 24);
    }
}

uint8_t *make_chain(uint64_t seed, uint32_t count)
{
    uint8_t *chain = malloc((size_t)count * HASH_BYTES);

    if (chain)
        random_bytes(chain, (size_t)count * HASH_BYTES, seed * UINT64_C(0x9e3779b97f4a7c15) + 1);
    return chain;
}

static int open_directory(struct bench *b, struct ours *ours)
{
    struct tutti_directory_options o = {.geometry = b->geometry, .ranks = 1};
    const struct tutti_scan_entry *none = NULL;
    size_t count = 0;
    int rc;

    random_bytes(o.identity, sizeof(o.identity), 42);
    tutti_pool_placement(ours->pool, 0, &o.placement);
    memcpy(o.secret, tutti_pool_secret(ours->pool), sizeof(o.secret));
    rc = tutti_pool_begin_epoch(ours->pool, 1, 0, o.identity, &b->err);
    if (rc == 0)
        rc = tutti_directory_new(&o, &ours->directory, &b->err);
    if (rc == 0)
        rc = tutti_directory_load(ours->directory, &none, &count, &b->err);
    if (rc == 0)
        rc = tutti_directory_begin_epoch(ours->directory, 1, false, NULL, &b->err);
    return rc;
}

static int open_serve(struct bench *b, struct ours *ours)
{
    struct tutti_serve_options o = {.pool = ours->pool, .engine = b->options->engine};
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)b->kv.memory, b->kv.memory_bytes};
    int rc = tutti_serve_open(&o, &ours->serve, &b->err);

    if (rc < 0)
        return rc;
    snprintf(b->reason, sizeof(b->reason), "%s", b->err.message);
    rc = tutti_serve_register(ours->serve, 0, b->kv.planes, b->blocks, &region, 1, &b->err);
    if (rc < 0)
        return rc;
    b->direct = rc == 1 && b->member_direct;
    if (rc == 0)
        snprintf(b->reason, sizeof(b->reason), "%s", b->err.message);
    b->engine = strstr(tutti_serve_engine(ours->serve), "uring") ? "uring" : "threads";
    return 0;
}

int ours_open(struct bench *b, struct ours *ours)
{
    struct tutti_pool_options o = {
        .home = ours->home,
        .ranks = 1,
        .bytes = b->file_bytes + FILE_SYSTEM_SHARE,
        .extent_bytes = b->extent_bytes,
        .alignment = b->options->alignment,
        .geometry = &b->geometry,
        .groups = 1,
    };
    struct tutti_pool_info info;
    int rc;

    memset(ours, 0, sizeof(*ours));
    snprintf(ours->home, sizeof(ours->home), "%s/pool", b->scratch);
    rc = tutti_pool_format(&o, &b->err);
    if (rc == 0)
        rc = tutti_pool_open(&o, &ours->pool, &b->err);
    if (rc == 0) {
        tutti_pool_info(ours->pool, &info);
        b->member_direct = info.direct;
        rc = tutti_pool_placement(ours->pool, 0, &b->placement);
    }
    if (rc == 0)
        rc = open_directory(b, ours);
    if (rc == 0)
        rc = open_serve(b, ours);
    return rc;
}

/** What moved through staging, whatever registration promised. */
static void note_mode(struct bench *b, const struct ours *ours)
{
    struct tutti_engine_counters counters;

    tutti_serve_counters(ours->serve, &counters);
    if (counters.staged_bytes < counters.written_bytes / 2) /* records may be */
        return;
    if (b->direct)
        snprintf(b->reason, sizeof(b->reason),
                 "objects of %llu bytes are no multiple of the pool's alignment, %u",
                 (unsigned long long)b->geometry.object_bytes, b->placement.alignment);
    b->direct = false;
}

void ours_close(struct ours *ours)
{
    tutti_serve_close(ours->serve);
    tutti_directory_free(ours->directory);
    tutti_pool_close(ours->pool);
    if (ours->home[0])
        remove_tree(ours->home);
    memset(ours, 0, sizeof(*ours));
}

/** The layers, one after the other, as a forward pass completes them. */
static int store_layers(struct bench *b, struct ours *ours, uint32_t count)
{
    struct tutti_store *store;
    struct tutti_result result;
    int rc = tutti_store_begin(ours->serve, 0, b->item, b->origin, count, 0, 0, &store, &b->err);

    if (rc < 0)
        return rc;
    for (uint32_t l = 1; l <= b->geometry.layers; l++)
        tutti_store_ready(store, l);
    rc = tutti_store_wait(store, WAIT_NS);
    if (rc < 0)
        return tutti_error_set(&b->err, rc, "a store did not end within 120 s");
    tutti_store_result(store, &result);
    for (uint32_t i = 0; i < count; i++)
        tutti_directory_report(ours->directory, 0, b->item[i].slot, b->item[i].generation,
                               result.position[i] == 0);
    b->failed_blocks += count - result.good;
    note_mode(b, ours);
    rc = result.status;
    tutti_store_end(store);
    return rc < 0 ? tutti_error_set(&b->err, rc, "a store failed: %s", strerror(-rc)) : 0;
}

int ours_store(struct bench *b, struct ours *ours, const uint8_t *chain, uint32_t first,
               uint32_t count, bool grows, struct measure *m)
{
    struct stopwatch began = start();
    int given = tutti_directory_reserve(ours->directory, chain, HASH_BYTES, first, count, grows,
                                        b->item, b->origin, b->index);
    int rc;

    if (given < 0)
        return tutti_error_set(&b->err, given, "no place in the pool: %s", strerror(-given));
    for (int i = 0; i < given; i++)
        b->item[i].block = b->block[b->index[i]];
    rc = given ? store_layers(b, ours, (uint32_t)given) : 0;
    stop(began, m);
    m->first_layer = 0;
    return rc < 0 ? rc : given;
}

static int retrieve_layers(struct bench *b, struct ours *ours, uint32_t count, uint64_t began,
                           struct measure *m)
{
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    int rc = tutti_retrieve_begin(ours->serve, 0, b->item, count, true, 0, &retrieve, &b->err);

    if (rc < 0)
        return rc;
    for (uint32_t l = 0; l < b->geometry.layers; l++) {
        rc = tutti_retrieve_layer(retrieve, l, WAIT_NS);
        if (rc == -ETIMEDOUT)
            return tutti_error_set(&b->err, rc, "layer %u did not come within 120 s", l);
        if (l == 0)
            m->first_layer = (double)(tutti_clock_now() - began) / 1e9;
    }
    rc = tutti_retrieve_wait(retrieve, WAIT_NS);
    if (rc < 0)
        return tutti_error_set(&b->err, rc, "a retrieve did not end within 120 s");
    tutti_retrieve_result(retrieve, &result);
    b->failed_blocks += count - result.good;
    tutti_retrieve_end(retrieve);
    return 0;
}

int ours_retrieve(struct bench *b, struct ours *ours, const uint8_t *chain, uint32_t count,
                  struct measure *m)
{
    struct stopwatch began = start();
    struct tutti_match match;
    int rc;

    tutti_directory_find(ours->directory, chain, HASH_BYTES, count, &match);
    if (match.blocks != count)
        return tutti_error_set(&b->err, -ENOENT, "%u of %u blocks are found after they were stored",
                               match.blocks, count);
    rc = tutti_directory_pin(ours->directory, &match, 0, b->item);
    if (rc < 0)
        return tutti_error_set(&b->err, rc, "a match cannot be pinned: %s", strerror(-rc));
    for (uint32_t i = 0; i < count; i++)
        b->item[i].block = b->block[i];
    rc = retrieve_layers(b, ours, count, began.ns, m);
    stop(began, m);
    tutti_directory_unpin(ours->directory, match.slot, match.generation);
    return rc;
}

int peer_open(struct bench *b, struct peer *peer)
{
    int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (b->member_direct ? O_DIRECT : 0);
    int rc;

    memset(peer, 0, sizeof(*peer));
    snprintf(peer->path, sizeof(peer->path), "%s/raw", b->scratch);
    peer->fd = open(peer->path, flags, 0600);
    if (peer->fd < 0)
        return tutti_error_set(&b->err, -errno, "%s: %s", peer->path, strerror(errno));
    rc = posix_fallocate(peer->fd, 0, (off_t)b->file_bytes);
    if (rc)
        return tutti_error_set(&b->err, -rc, "%s: no %llu bytes: %s", peer->path,
                               (unsigned long long)b->file_bytes, strerror(rc));
    if (fsync(peer->fd) < 0)
        return tutti_error_set(&b->err, -errno, "%s: fsync: %s", peer->path, strerror(errno));
    rc = raw_open(&peer->raw, peer->fd, b->kv.memory, b->kv.memory_bytes, b->options->depth,
                  strcmp(b->engine, "uring") == 0, &b->err);
    if (rc == 0)
        snprintf(b->raw_name, sizeof(b->raw_name), "%s", raw_name(peer->raw));
    return rc;
}

void peer_close(struct peer *peer)
{
    raw_close(peer->raw);
    free(peer->piece);
    if (peer->fd >= 0)
        close(peer->fd);
    if (peer->path[0])
        unlink(peer->path);
    memset(peer, 0, sizeof(*peer));
    peer->fd = -1;
}

/** Cut a stretch into commands; none crosses a region of registered memory. */
static void add_pieces(struct peer *peer, struct raw_piece whole, uint64_t bytes)
{
    while (bytes) {
        uint64_t room = RAW_REGION - whole.memory % RAW_REGION;

        whole.bytes = bytes < COMMAND_BYTES ? (uint32_t)bytes : COMMAND_BYTES;
        if (whole.bytes > room)
            whole.bytes = (uint32_t)room;
        peer->piece[peer->pieces++] = whole;
        whole.offset += whole.bytes;
        whole.memory += whole.bytes;
        bytes -= whole.bytes;
    }
}

int peer_plan(struct bench *b, struct peer *peer, const struct tutti_transfer *item, uint32_t count)
{
    const struct tutti_placement *p = &b->placement;
    uint64_t unit = tutti_layer_stride(p);
    size_t most = (size_t)p->layers * count * (unit / COMMAND_BYTES + 2) + unit / RAW_REGION + 2;

    free(peer->piece);
    peer->pieces = 0;
    peer->piece = malloc(most * sizeof(*peer->piece));
    if (!peer->piece)
        return tutti_error_set(&b->err, -ENOMEM, "no memory for %zu commands", most);
    for (uint32_t l = 0; l < p->layers; l++) {
        uint32_t i = 0;

        while (i < count) {
            struct raw_piece whole = {
                .offset = tutti_object_place(p, item[i].slot, l, 0).offset,
                .memory = ((uint64_t)l * count + i) * unit,
                .layer = l,
            };
            uint32_t run = 1;

            while (i + run < count &&
                   tutti_slot_follows(p, item[i + run - 1].slot, item[i + run].slot))
                run++;
            add_pieces(peer, whole, run * unit);
            i += run;
        }
    }
    return 0;
}

int peer_run(struct bench *b, struct peer *peer, bool write, struct measure *m)
{
    struct stopwatch began = start();
    struct raw_time time;
    int rc = raw_run(peer->raw, write, peer->piece, peer->pieces, &time, &b->err);

    stop(began, m);
    m->first_layer = (double)time.first_layer / 1e9;
    return rc;
}
