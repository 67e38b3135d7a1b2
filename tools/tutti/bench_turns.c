/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_turns.c: a conversation, beside another one.
 *
 * Each turn adds 100 tokens; the complete new blocks are stored, then the
 * whole prefix is retrieved and compared. A second conversation takes its turn
 * in between, so that neighbouring places are not free by chance. At the end
 * the prefix is retrieved pair by pair beside a raw pass over as many bytes in
 * the best places. Must not know how the directory keeps runs long.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#define TURNS 20u
#define TURN_TOKENS 100u

struct conversation {
    uint8_t *chain;
    uint64_t seed;
    uint32_t base; /* its first memory block */
    uint32_t blocks;
    uint32_t stored;
};

struct turns {
    struct bench *bench;
    struct ours ours;
    struct peer peer;
    struct conversation one, two;
    json_t *list;
    double ratio[MOST_PAIRS];
    double speed[MOST_PAIRS];
    double raw_speed[MOST_PAIRS];
    double mean_run;
    uint32_t runs;
};

static uint32_t blocks_of(const struct bench *b, uint32_t tokens)
{
    return tokens / b->geometry.block_tokens;
}

uint32_t bench_blocks(const struct bench *b)
{
    if (!b->options->turns)
        return blocks_of(b, b->options->tokens);
    return blocks_of(b, b->options->tokens + TURNS * TURN_TOKENS) +
           blocks_of(b, TURNS * TURN_TOKENS);
}

uint32_t bench_slots(const struct bench *b)
{
    /* A growing conversation holds places ahead. */
    return b->options->turns ? b->blocks + b->blocks / 4 + 64 : b->blocks;
}

static void place_blocks(struct bench *b, const struct conversation *c)
{
    for (uint32_t i = 0; i < c->blocks; i++)
        b->block[i] = c->base + i;
}

/** Runs of the transfer in b->item, and blocks in the longest. */
static uint32_t count_runs(const struct bench *b, uint32_t count, uint32_t *longest)
{
    uint32_t runs = 0, length = 0;

    *longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i && tutti_slot_follows(&b->placement, b->item[i - 1].slot, b->item[i].slot)) {
            length++;
        } else {
            runs++;
            length = 1;
        }
        *longest = length > *longest ? length : *longest;
    }
    return runs;
}

/** Store what is complete of the first @tokens. Return: blocks stored, or a negative errno. */
static int grow(struct turns *t, struct conversation *c, uint32_t tokens, struct measure *m)
{
    struct bench *b = t->bench;
    uint32_t complete = blocks_of(b, tokens);
    uint32_t first = c->stored, count = complete - first;
    int rc;

    memset(m, 0, sizeof(*m));
    if (count == 0)
        return 0;
    place_blocks(b, c);
    kv_fill(&b->kv, c->seed, first, count, b->block + first);
    rc = ours_store(b, &t->ours, c->chain, first, count, true, m);
    if (rc >= 0 && rc != (int)count)
        rc = tutti_error_set(&b->err, -ENOSPC, "%d of %u blocks found a place", rc, count);
    c->stored = complete;
    return rc;
}

static int retrieve(struct turns *t, struct conversation *c, struct measure *m)
{
    struct bench *b = t->bench;
    int rc;

    memset(m, 0, sizeof(*m));
    if (c->stored == 0)
        return 0;
    place_blocks(b, c);
    kv_poison(&b->kv);
    rc = ours_retrieve(b, &t->ours, c->chain, c->stored, m);
    if (rc == 0)
        b->wrong_bytes += kv_wrong(&b->kv, c->seed, 0, c->stored, b->block);
    return rc;
}

static uint64_t bytes_of(const struct bench *b, uint32_t blocks)
{
    return b->kv.bytes / b->blocks * blocks;
}

static void tell_turn(struct turns *t, uint32_t turn, uint32_t tokens, int stored,
                      const struct measure *store, const struct measure *load)
{
    const struct bench *b = t->bench;
    uint32_t longest, count = t->one.stored;
    double speed = count ? gb_s(bytes_of(b, count), load->seconds) : 0;

    t->runs = count_runs(b, count, &longest);
    t->mean_run = t->runs ? (double)count / t->runs : 0;
    json_array_append_new(
        t->list,
        json_pack("{s:i, s:i, s:i, s:f, s:f, s:f, s:i, s:f, s:i}", "turn", (int)turn, "tokens",
                  (int)tokens, "stored_blocks", stored, "store_ms", store->seconds * 1e3,
                  "retrieve_ms", load->seconds * 1e3, "retrieve_gb_s", speed, "runs", (int)t->runs,
                  "mean_run", t->mean_run, "longest_run", (int)longest));
    if (b->options->common.json)
        return;
    if (turn == 0)
        printf("engine %s, %s, verified\n\n"
               "turn  tokens  stored  store ms  retrieve ms    GB/s   runs  mean run  longest\n",
               b->engine, b->direct ? "direct" : "staged");
    printf("%4u %7u %7d %9.2f %12.2f %7.2f %6u %9.1f %8u\n", turn, tokens, stored,
           store->seconds * 1e3, load->seconds * 1e3, speed, t->runs, t->mean_run, longest);
    fflush(stdout);
}

static int play(struct turns *t)
{
    struct bench *b = t->bench;
    struct measure store, load, other;

    for (uint32_t turn = 0; turn <= TURNS; turn++) {
        uint32_t tokens = b->options->tokens + turn * TURN_TOKENS;
        int stored = grow(t, &t->one, tokens, &store);
        int rc = stored < 0 ? stored : retrieve(t, &t->one, &load);

        if (rc < 0)
            return rc;
        progress_end(&b->progress);
        tell_turn(t, turn, tokens, stored, &store, &load);
        progress_update(&b->progress, turn, TURNS);
        rc = grow(t, &t->two, turn * TURN_TOKENS, &other);
        if (rc < 0)
            return rc;
    }
    return retrieve(t, &t->two, &other);
}

/** The whole prefix once more, beside a raw pass in the best places. */
static int compare(struct turns *t)
{
    struct bench *b = t->bench;
    uint32_t count = t->one.stored, extent = b->placement.slots_per_extent;
    struct measure mine, raw;
    int rc;

    for (uint32_t i = 0; i < count; i++)
        b->item[i].slot = i / extent * b->placement.records_per_extent + i % extent;
    rc = peer_open(b, &t->peer);
    if (rc == 0)
        rc = peer_plan(b, &t->peer, b->item, count);
    if (rc == 0)
        rc = peer_run(b, &t->peer, true, &raw);
    for (uint32_t i = 0; i < b->options->pairs && rc == 0; i++) {
        for (uint32_t turn = 0; turn < 2 && rc == 0; turn++)
            rc = (turn + i) % 2 ? peer_run(b, &t->peer, false, &raw) : retrieve(t, &t->one, &mine);
        t->speed[i] = gb_s(bytes_of(b, count), mine.seconds);
        t->raw_speed[i] = gb_s(bytes_of(b, count), raw.seconds);
        t->ratio[i] = raw.seconds / mine.seconds;
    }
    return rc;
}

static int open_turns(struct turns *t)
{
    struct bench *b = t->bench;

    t->peer.fd = -1;
    t->one.blocks = blocks_of(b, b->options->tokens + TURNS * TURN_TOKENS);
    t->two.blocks = b->blocks - t->one.blocks;
    t->one.seed = 1;
    t->two.seed = 2;
    t->two.base = t->one.blocks;
    t->one.chain = make_chain(1, t->one.blocks);
    t->two.chain = make_chain(2, t->two.blocks ? t->two.blocks : 1);
    if (!t->one.chain || !t->two.chain)
        return tutti_error_set(&b->err, -ENOMEM, "no memory for %u hashes", b->blocks);
    return ours_open(b, &t->ours);
}

static void report_turns(struct turns *t, json_t *report)
{
    const struct bench *b = t->bench;
    uint32_t pairs = b->options->pairs;

    json_object_set_new(report, "bytes", json_integer((json_int_t)bytes_of(b, t->one.stored)));
    json_object_set(report, "turns", t->list);
    json_object_set_new(report, "runs", json_integer((json_int_t)t->runs));
    json_object_set_new(report, "mean_run", json_real(t->mean_run));
    json_object_set_new(report, "retrieve",
                        json_pack("{s:f, s:o, s:o, s:o}", "ratio", median(t->ratio, pairs),
                                  "ratios", spread_json(t->ratio, pairs), "gb_s",
                                  spread_json(t->speed, pairs), "raw_gb_s",
                                  spread_json(t->raw_speed, pairs)));
    if (!b->options->common.json)
        printf("\nafter %u turns: %u runs of %.1f blocks in the mean; retrieve.ratio %.3f "
               "(%.2f GB/s, raw in the best places %.2f GB/s)\nwrong bytes %llu\n",
               TURNS, t->runs, t->mean_run, median(t->ratio, pairs), median(t->speed, pairs),
               median(t->raw_speed, pairs), (unsigned long long)b->wrong_bytes);
}

int bench_turns(struct bench *b, json_t *report)
{
    static struct turns t; /* large */
    int rc;

    memset(&t, 0, sizeof(t));
    t.bench = b;
    t.list = json_array();
    progress_begin(&b->progress, "turns", false, b->options->common.progress);
    rc = open_turns(&t);
    if (rc == 0)
        rc = play(&t);
    if (rc == 0)
        rc = compare(&t);
    progress_end(&b->progress);
    if (rc == 0)
        report_turns(&t, report);
    peer_close(&t.peer);
    ours_close(&t.ours);
    free(t.one.chain);
    free(t.two.chain);
    json_decref(t.list);
    if (rc < 0)
        return CANNOT;
    return b->wrong_bytes || b->failed_blocks ? FOUND_BAD : DONE;
}
