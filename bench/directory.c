/* SPDX-License-Identifier: Apache-2.0 */
/*
 * directory.c (bench): what the directory costs, as JSON on standard output.
 *
 *     directory [SLOTS]     default 10000000 for memory, load and the chains;
 *                           at least 1000000
 *
 * - "chains": a prompt of 1M tokens in blocks of 64 and of 16, hashes given:
 *   insert (reserve, then a report for each slot), then find + pin + list; in a
 *   pool with room and in one that is full, where each insert evicts as much.
 *   Median of several chains, each touched for the first time.
 * - "memory": bytes a slot on SLOTS slots, all filled through load(), and what
 *   load() takes.
 * - "ageing": ten turnovers of a pool with conversations over Zipf-shared
 *   prefixes; how long runs are, and how many pieces a read of a prefix makes,
 *   before and after. Not timed: a simulation with a fixed seed.
 *
 * Bars (issue 5, one core): find + pin + list 0.5 / 1.5 ms, insert 5 / 15 ms,
 * 160 bytes a slot.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tutti/directory.h"

#define HASH_BYTES 32u
#define REPEATS 9u
#define TOKENS 1000000u

static uint64_t seed = 42;

static uint64_t draw(void)
{
    uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void *need(size_t count, size_t size)
{
    void *memory = calloc(count, size);

    if (!memory) {
        fprintf(stderr, "out of memory: %zu x %zu bytes\n", count, size);
        exit(1);
    }
    return memory;
}

static void must(int rc, const char *what, const struct tutti_error *err)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %d %s\n", what, rc, err ? err->message : "");
        exit(1);
    }
}

/* Slots as of an 8B model: 128 KiB a layer in blocks of 32 tokens, 1,000 an extent. */
static struct tutti_directory *make(uint32_t slots, uint32_t members)
{
    struct tutti_directory_options o = {.ranks = 1};
    struct tutti_directory *d;
    struct tutti_error err;

    o.geometry = (struct tutti_geometry){
        .layers = 32, .parts = 2, .object_bytes = 65536, .block_tokens = 32, .layout_tag = 1};
    o.placement = (struct tutti_placement){.object_bytes = 65536,
                                           .object_stride = 65536,
                                           .record_stride = 512,
                                           .alignment = 512,
                                           .records_per_extent = 1000,
                                           .slots_per_extent = 1000,
                                           .extents = (slots + 999) / 1000,
                                           .members = members,
                                           .layers = 32,
                                           .parts = 2};
    must(tutti_directory_new(&o, &d, &err), "new", &err);
    return d;
}

struct arrays {
    uint8_t *hash;
    struct tutti_transfer *out;
    struct tutti_origin *origin;
    uint32_t *index;
};

static struct arrays arrays_of(uint32_t blocks)
{
    return (struct arrays){need(blocks, HASH_BYTES), need(blocks, sizeof(struct tutti_transfer)),
                           need(blocks, sizeof(struct tutti_origin)),
                           need(blocks, sizeof(uint32_t))};
}

static void arrays_free(struct arrays *a)
{
    free(a->hash);
    free(a->out);
    free(a->origin);
    free(a->index);
}

static void fill(uint8_t *hash, size_t bytes)
{
    size_t i;

    for (i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word = draw();

        memcpy(hash + i, &word, 8);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), by_value);
    return values[count / 2];
}

static double since(uint64_t start)
{
    return (double)(tutti_clock_now() - start) / 1e6;
}

static uint32_t insert(struct tutti_directory *d, struct arrays *a, uint32_t count)
{
    int given = tutti_directory_reserve(d, a->hash, HASH_BYTES, 0, count, false, a->out, a->origin,
                                        a->index);
    int i;

    must(given, "reserve", NULL);
    for (i = 0; i < given; i++)
        must(tutti_directory_report(d, 0, a->out[i].slot, a->out[i].generation, true), "report",
             NULL);
    return (uint32_t)given;
}

static void time_chains(struct tutti_directory *d, uint32_t block_tokens, const char *pool)
{
    uint32_t blocks = TOKENS / block_tokens;
    struct arrays a = arrays_of(blocks);
    uint8_t *kept = need((size_t)REPEATS * blocks, HASH_BYTES);
    double insert_ms[REPEATS];
    double lookup_ms[REPEATS];
    double find_us[REPEATS];
    uint32_t i;

    for (i = 0; i < REPEATS; i++) {
        uint64_t start;

        fill(a.hash, (size_t)blocks * HASH_BYTES);
        memcpy(kept + (size_t)i * blocks * HASH_BYTES, a.hash, (size_t)blocks * HASH_BYTES);
        start = tutti_clock_now();
        if (insert(d, &a, blocks) != blocks)
            must(-1, "insert: not every block got a place", NULL);
        insert_ms[i] = since(start);
    }
    for (i = 0; i < REPEATS; i++) {
        struct tutti_match match;
        uint64_t start = tutti_clock_now();

        must(tutti_directory_find(d, kept + (size_t)i * blocks * HASH_BYTES, HASH_BYTES, blocks,
                                  &match),
             "find", NULL);
        find_us[i] = since(start) * 1e3;
        if (match.blocks != blocks)
            must(-1, "find: not every block is there", NULL);
        must(tutti_directory_pin(d, &match, 0, a.out), "pin", NULL);
        lookup_ms[i] = since(start);
        must(tutti_directory_unpin(d, match.slot, match.generation), "unpin", NULL);
    }
    printf("    {\"pool\": \"%s\", \"tokens\": %u, \"block_tokens\": %u, \"blocks\": %u, "
           "\"find_us\": %.1f, \"find_pin_list_ms\": %.3f, \"insert_ms\": %.2f}",
           pool, TOKENS, block_tokens, blocks, median(find_us, REPEATS), median(lookup_ms, REPEATS),
           median(insert_ms, REPEATS));
    free(kept);
    arrays_free(&a);
}

/* A scan of chains of 2,000 blocks; keys and parents as a real one would have. */
static struct tutti_scan_entry *synthetic_scan(uint32_t slots)
{
    struct tutti_scan_entry *scan = need(slots, sizeof(*scan));
    struct tutti_geometry g = {
        .layers = 32, .parts = 2, .object_bytes = 65536, .block_tokens = 32, .layout_tag = 1};
    uint64_t digest = tutti_geometry_digest(&g);
    uint32_t i;

    for (i = 0; i < slots; i++) {
        scan[i].slot = i;
        scan[i].generation = UINT64_C(1) << TUTTI_EPOCH_SHIFT | (i + 1);
        scan[i].geometry = digest;
        scan[i].key.word[0] = draw();
        scan[i].key.word[1] = draw();
        if (i % 2000 != 0)
            scan[i].parent = scan[i - 1].key;
    }
    return scan;
}

static long resident_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long total = 0;
    long pages = 0;

    if (file) {
        if (fscanf(file, "%ld %ld", &total, &pages) != 2)
            pages = 0;
        fclose(file);
    }
    return pages * 4;
}

static void measure_memory(uint32_t slots)
{
    struct tutti_scan_entry *scan = synthetic_scan(slots);
    const struct tutti_scan_entry *scans[1] = {scan};
    size_t counts[1] = {slots};
    struct tutti_directory_stats s;
    struct tutti_error err;
    long before = resident_kib();
    uint64_t start = tutti_clock_now();
    struct tutti_directory *d = make(slots, 4);
    double load_s;

    must(tutti_directory_load(d, scans, counts, &err), "load", &err);
    load_s = since(start) / 1e3;
    tutti_directory_stats(d, &s);
    must(tutti_directory_begin_epoch(d, 2, false, NULL, &err), "epoch", &err);
    printf("  \"memory\": {\"slots\": %llu, \"visible\": %llu, \"bytes_per_slot\": %.1f, "
           "\"resident_bytes_per_slot\": %.1f, \"new_and_load_s\": %.2f}",
           (unsigned long long)s.slots, (unsigned long long)s.visible,
           (double)s.memory_bytes / (double)s.slots,
           (double)(resident_kib() - before) * 1024 / (double)s.slots, load_s);
    free(scan);
    printf(",\n  \"chains_full\": [\n");
    time_chains(d, 64, "full");
    printf(",\n");
    time_chains(d, 16, "full");
    printf("\n  ]");
    tutti_directory_free(d);
}

/* Ageing: system prompts shared by Zipf, a document or dialogue behind each, turns. */
#define PREFIXES 200u
#define LONGEST 512u

struct conversation {
    uint8_t hash[LONGEST * HASH_BYTES];
    uint32_t blocks;
    uint32_t stored;
};

static uint32_t zipf(const double *cumulated)
{
    double x = (double)(draw() >> 11) / 9007199254740992.0 * cumulated[PREFIXES - 1];
    uint32_t low = 0;

    while (low < PREFIXES - 1 && cumulated[low] < x)
        low++;
    return low;
}

struct pieces {
    uint64_t blocks;
    uint64_t pieces;
};

/* Reads what is there of a conversation, as a request would: in how many pieces? */
static void count_pieces(struct tutti_directory *d, struct conversation *c, struct arrays *a,
                         struct pieces *p)
{
    struct tutti_match match;
    uint32_t i;

    must(tutti_directory_find(d, c->hash, HASH_BYTES, c->blocks, &match), "find", NULL);
    if (match.blocks == 0)
        return;
    must(tutti_directory_pin(d, &match, 0, a->out), "pin", NULL);
    for (i = 0; i < match.blocks; i++)
        p->pieces += i == 0 || a->out[i].slot != a->out[i - 1].slot + 1;
    p->blocks += match.blocks;
    must(tutti_directory_unpin(d, match.slot, match.generation), "unpin", NULL);
}

static void report_age(struct tutti_directory *d, const char *when, const struct pieces *p)
{
    struct tutti_directory_stats s;

    tutti_directory_stats(d, &s);
    printf("    {\"when\": \"%s\", \"visible\": %llu, \"free\": %llu, \"evicted\": %llu, \"runs\": "
           "%llu, \"mean_run\": %.1f, \"blocks_per_piece_read\": %.1f, \"refused\": %llu}",
           when, (unsigned long long)s.visible, (unsigned long long)s.free,
           (unsigned long long)s.evicted, (unsigned long long)s.runs,
           (double)s.visible / (double)s.runs, (double)p->blocks / (double)p->pieces,
           (unsigned long long)s.refused);
}

static void age(uint32_t slots, uint32_t members, const char *name)
{
    enum { LIVE = 64 }; /* conversations going on at once, stored in turn */
    struct tutti_directory *d = make(slots, members);
    struct conversation *live = need(LIVE, sizeof(*live));
    uint8_t *prefix = need((size_t)PREFIXES * 128, HASH_BYTES);
    uint32_t length[PREFIXES];
    double cumulated[PREFIXES];
    struct arrays a = arrays_of(LONGEST);
    struct pieces read = {0, 0};
    uint64_t stored = 0;
    uint64_t turnover = 0;
    uint64_t next = 1;
    uint32_t i;

    must(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), "epoch", NULL);
    fill(prefix, (size_t)PREFIXES * 128 * HASH_BYTES);
    for (i = 0; i < PREFIXES; i++) {
        length[i] = 4 + (uint32_t)(draw() % 120);
        cumulated[i] = (i ? cumulated[i - 1] : 0) + 1 / pow(i + 1, 1.1);
    }
    printf("   {\"pool\": \"%s\", \"slots\": %u, \"members\": %u, \"turnovers\": [\n", name, slots,
           members);
    while (turnover < 10) {
        struct conversation *c = &live[draw() % LIVE];
        uint32_t step;
        uint32_t given;

        if (c->blocks == 0 || c->stored >= c->blocks) {
            /* Over, or the next turn: a follow-up, or a new one behind a shared prefix. */
            uint32_t more = 6 + (uint32_t)(draw() % 60);

            if (c->blocks == 0 || draw() % 4 == 0 || c->blocks + more > LONGEST) {
                uint32_t p = zipf(cumulated);

                memcpy(c->hash, prefix + (size_t)p * 128 * HASH_BYTES,
                       (size_t)length[p] * HASH_BYTES);
                c->blocks = length[p] + more * 2;
                fill(c->hash + (size_t)length[p] * HASH_BYTES, (size_t)more * 2 * HASH_BYTES);
                c->stored = 0;
            } else {
                fill(c->hash + (size_t)c->blocks * HASH_BYTES, (size_t)more * HASH_BYTES);
                c->blocks += more;
            }
            count_pieces(d, c, &a, &read);
        }
        /* Prefill in chunks of 32 blocks, the last 8 blocks of a turn one by one. */
        step = c->blocks - c->stored > 8 ? c->blocks - c->stored - 8 : 1;
        step = step > 32 ? 32 : step;
        {
            int rc = tutti_directory_reserve(d, c->hash, HASH_BYTES, c->stored, step, true, a.out,
                                             a.origin, a.index);

            if (rc < 0) { /* its prefix went meanwhile: from the start */
                c->stored = 0;
                continue;
            }
            given = (uint32_t)rc;
        }
        for (i = 0; i < given; i++)
            must(tutti_directory_report(d, 0, a.out[i].slot, a.out[i].generation, true), "report",
                 NULL);
        c->stored += step;
        stored += given;
        if (stored / slots >= next || (next == 1 && stored * 10 >= (uint64_t)slots * 9)) {
            turnover = next++;
            report_age(d, turnover == 1 ? "filled" : "turned over", &read);
            printf(turnover < 10 ? ",\n" : "\n");
            read = (struct pieces){0, 0};
        }
    }
    printf("   ]}");
    must(tutti_directory_audit(d, NULL), "audit", NULL);
    tutti_directory_free(d);
    arrays_free(&a);
    free(prefix);
    free(live);
}

int main(int argc, char **argv)
{
    uint32_t slots = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 10000000;
    struct tutti_directory *d;

    if (slots < 1000000) {
        fprintf(stderr, "usage: directory [SLOTS], at least 1000000\n");
        return 2;
    }
    d = make(slots, 4);
    must(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), "epoch", NULL);
    printf("{\n  \"chains\": [\n");
    time_chains(d, 64, "empty");
    printf(",\n");
    time_chains(d, 16, "empty");
    printf("\n  ],\n");
    tutti_directory_free(d);
    measure_memory(slots);
    printf(",\n  \"ageing\": [\n");
    age(100000, 1, "one member");
    printf(",\n");
    age(100000, 4, "four members");
    printf("\n  ]\n}\n");
    return 0;
}
