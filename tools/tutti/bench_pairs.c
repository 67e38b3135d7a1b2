/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_pairs.c: a prompt is stored and retrieved by both arms, pair by pair.
 *
 * Each pair has a pool and a file of its own, both never written before; the
 * arm that goes first alternates, so that neither profits from a disk that
 * rested. Content is made before and compared after what is timed. Must not
 * know how the arms work.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench.h"

#define REST_NS UINT64_C(1500000000)

/** One direction of all pairs. */
struct series {
    double seconds[MOST_PAIRS];
    double raw_seconds[MOST_PAIRS];
    double ratio[MOST_PAIRS];
    double speed[MOST_PAIRS];
    double raw_speed[MOST_PAIRS];
    double cpu[MOST_PAIRS]; /* seconds per GiB */
    double raw_cpu[MOST_PAIRS];
    double first_ms[MOST_PAIRS];
    double raw_first_ms[MOST_PAIRS];
};

struct pairs {
    struct bench *bench;
    struct series store;
    struct series retrieve;
    uint64_t raw_wrong;
};

static void note(const struct bench *b, struct series *s, uint32_t pair, const struct measure *ours,
                 const struct measure *raw)
{
    double gib = (double)b->kv.bytes / GIB;

    s->seconds[pair] = ours->seconds;
    s->raw_seconds[pair] = raw->seconds;
    s->ratio[pair] = raw->seconds / ours->seconds;
    s->speed[pair] = gb_s(b->kv.bytes, ours->seconds);
    s->raw_speed[pair] = gb_s(b->kv.bytes, raw->seconds);
    s->cpu[pair] = ours->cpu / gib;
    s->raw_cpu[pair] = raw->cpu / gib;
    s->first_ms[pair] = ours->first_layer * 1e3;
    s->raw_first_ms[pair] = raw->first_layer * 1e3;
}

/** Memory block of each block of the chain; @shift moves them all. */
static void place_blocks(struct bench *b, uint32_t shift)
{
    for (uint32_t i = 0; i < b->blocks; i++)
        b->block[i] = (i + shift) % b->blocks;
}

/**
 * Equal rest before whatever is timed. Many disks (cloud disks above all) are limited by a bucket
 * of bytes that fills again while they rest: without this the arm that waited longer wins.
 */
static void rest(struct bench *b)
{
    uint64_t now = tutti_clock_now(), until = b->busy_until + REST_NS;

    if (now < until)
        nanosleep(&(struct timespec){.tv_sec = (time_t)((until - now) / 1000000000),
                                     .tv_nsec = (long)((until - now) % 1000000000)},
                  NULL);
}

/** Wait until what was written is on the disk: no arm works beside the other's writes. */
static int settle(struct bench *b, struct ours *ours, struct peer *peer)
{
    int rc;

    if (fdatasync(peer->fd) < 0)
        return tutti_error_set(&b->err, -errno, "%s: %s", peer->path, strerror(errno));
    rc = tutti_pool_flush(ours->pool, &b->err);
    b->busy_until = tutti_clock_now();
    return rc;
}

static int store_pair(struct pairs *p, struct ours *ours, struct peer *peer, const uint8_t *chain,
                      uint32_t pair)
{
    struct bench *b = p->bench;
    struct measure mine = {0}, raw = {0};
    int rc;

    for (uint32_t turn = 0; turn < 2; turn++) {
        rest(b);
        if ((turn + pair) % 2) {
            rc = peer_run(b, peer, true, &raw);
        } else {
            rc = ours_store(b, ours, chain, 0, b->blocks, false, &mine);
            if (rc >= 0 && rc != (int)b->blocks)
                rc = tutti_error_set(&b->err, -ENOSPC, "%d of %u blocks found a place", rc,
                                     b->blocks);
        }
        if (rc >= 0)
            rc = settle(b, ours, peer);
        if (rc < 0)
            return rc;
    }
    note(b, &p->store, pair, &mine, &raw);
    return 0;
}

static int retrieve_pair(struct pairs *p, struct ours *ours, struct peer *peer,
                         const uint8_t *chain, uint32_t pair)
{
    struct bench *b = p->bench;
    struct measure mine = {0}, raw = {0};
    uint32_t shift = 1 + pair % b->blocks; /* other memory blocks than they were stored from */
    int rc;

    for (uint32_t turn = 0; turn < 2; turn++) {
        kv_poison(&b->kv);
        rest(b);
        if ((turn + pair) % 2) {
            place_blocks(b, 0);
            rc = peer_run(b, peer, false, &raw);
            b->busy_until = tutti_clock_now();
            if (rc == 0)
                p->raw_wrong += kv_wrong(&b->kv, pair, 0, b->blocks, b->block);
        } else {
            place_blocks(b, shift);
            rc = ours_retrieve(b, ours, chain, b->blocks, &mine);
            b->busy_until = tutti_clock_now();
            if (rc == 0)
                b->wrong_bytes += kv_wrong(&b->kv, pair, 0, b->blocks, b->block);
        }
        if (rc < 0)
            return rc;
    }
    note(b, &p->retrieve, pair, &mine, &raw);
    return 0;
}

/** Slots that a fresh pool gives to a prompt: the peer's places. */
static void fresh_slots(struct bench *b)
{
    for (uint32_t i = 0; i < b->blocks; i++)
        b->item[i].slot = i / b->placement.slots_per_extent * b->placement.records_per_extent +
                          i % b->placement.slots_per_extent;
}

static int run_pair(struct pairs *p, uint32_t pair)
{
    struct bench *b = p->bench;
    struct ours ours = {0};
    struct peer peer = {.fd = -1};
    uint8_t *chain = make_chain(pair + 1, b->blocks);
    int rc = chain ? ours_open(b, &ours)
                   : tutti_error_set(&b->err, -ENOMEM, "no memory for %u hashes", b->blocks);

    if (rc == 0)
        rc = peer_open(b, &peer);
    if (rc == 0) {
        fresh_slots(b);
        rc = peer_plan(b, &peer, b->item, b->blocks);
        b->busy_until = tutti_clock_now();
    }
    if (rc == 0) {
        place_blocks(b, 0);
        kv_fill(&b->kv, pair, 0, b->blocks, b->block);
        rc = store_pair(p, &ours, &peer, chain, pair);
    }
    if (rc == 0)
        rc = retrieve_pair(p, &ours, &peer, chain, pair);
    peer_close(&peer);
    ours_close(&ours);
    free(chain);
    return rc;
}

static json_t *series_json(const struct series *s, uint32_t pairs, bool first)
{
    json_t *object =
        json_pack("{s:f, s:f, s:f, s:o, s:o, s:f, s:f}", "ratio", median(s->ratio, pairs),
                  "ratio_min", 0.0, "ratio_max", 0.0, "gb_s", spread_json(s->speed, pairs),
                  "raw_gb_s", spread_json(s->raw_speed, pairs), "cpu_s_per_gib",
                  median(s->cpu, pairs), "raw_cpu_s_per_gib", median(s->raw_cpu, pairs));
    json_t *ratio = spread_json(s->ratio, pairs);
    json_t *list = json_array();

    json_object_set(object, "ratio_min", json_object_get(ratio, "min"));
    json_object_set(object, "ratio_max", json_object_get(ratio, "max"));
    json_decref(ratio);
    if (first) {
        json_object_set_new(object, "first_layer_ms", json_real(median(s->first_ms, pairs)));
        json_object_set_new(object, "raw_first_layer_ms",
                            json_real(median(s->raw_first_ms, pairs)));
    }
    for (uint32_t i = 0; i < pairs; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:f, s:f, s:f}", "first", i % 2 ? "raw" : "ours", "seconds",
                            s->seconds[i], "raw_seconds", s->raw_seconds[i], "ratio", s->ratio[i]));
    json_object_set_new(object, "pairs", list);
    return object;
}

static void print_pair(const struct pairs *p, uint32_t i)
{
    if (i == 0)
        printf("engine %s, %s, verified; raw pass: %s\n\n"
               "pair            store GB/s  raw GB/s   ratio    retrieve GB/s  raw GB/s   ratio\n",
               p->bench->engine, p->bench->direct ? "direct" : "staged", p->bench->raw_name);
    printf("%3u %-10s %10.2f %9.2f %7.3f %16.2f %9.2f %7.3f\n", i + 1,
           i % 2 ? "raw first" : "ours first", p->store.speed[i], p->store.raw_speed[i],
           p->store.ratio[i], p->retrieve.speed[i], p->retrieve.raw_speed[i], p->retrieve.ratio[i]);
    fflush(stdout);
}

static void print_series(const char *name, const struct series *s, uint32_t pairs)
{
    double lowest = s->ratio[0], highest = s->ratio[0];

    for (uint32_t i = 1; i < pairs; i++) {
        lowest = s->ratio[i] < lowest ? s->ratio[i] : lowest;
        highest = s->ratio[i] > highest ? s->ratio[i] : highest;
    }
    printf("%s.ratio %.3f (min %.3f, max %.3f); %.2f GB/s, raw %.2f GB/s; CPU s per GiB %.3f, "
           "raw %.3f\n",
           name, median(s->ratio, pairs), lowest, highest, median(s->speed, pairs),
           median(s->raw_speed, pairs), median(s->cpu, pairs), median(s->raw_cpu, pairs));
}

static void print_summary(const struct pairs *p, uint32_t pairs)
{
    printf("\n");
    print_series("store", &p->store, pairs);
    print_series("retrieve", &p->retrieve, pairs);
    printf("first layer after %.1f ms, raw %.1f ms\nwrong bytes %llu, failed blocks %llu\n",
           median(p->retrieve.first_ms, pairs), median(p->retrieve.raw_first_ms, pairs),
           (unsigned long long)p->bench->wrong_bytes, (unsigned long long)p->bench->failed_blocks);
}

int bench_pairs(struct bench *b, json_t *report)
{
    static struct pairs p; /* large */
    uint32_t pairs = b->options->pairs;
    int rc = 0;

    memset(&p, 0, sizeof(p));
    p.bench = b;
    progress_begin(&b->progress, "bench", false, b->options->common.progress);
    for (uint32_t i = 0; i < pairs && rc == 0; i++) {
        progress_update(&b->progress, i, pairs);
        rc = run_pair(&p, i);
        if (rc == 0 && !b->options->common.json) {
            progress_end(&b->progress);
            print_pair(&p, i);
        }
    }
    progress_end(&b->progress);
    if (rc < 0)
        return CANNOT;
    json_object_set_new(report, "bytes", json_integer((json_int_t)b->kv.bytes));
    json_object_set_new(report, "pairs", json_integer((json_int_t)pairs));
    json_object_set_new(report, "store", series_json(&p.store, pairs, false));
    json_object_set_new(report, "retrieve", series_json(&p.retrieve, pairs, true));
    json_object_set_new(report, "raw_wrong_bytes", json_integer((json_int_t)p.raw_wrong));
    if (!b->options->common.json)
        print_summary(&p, pairs);
    return b->wrong_bytes || b->failed_blocks || p.raw_wrong ? FOUND_BAD : DONE;
}
