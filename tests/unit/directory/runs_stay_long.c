/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs stay long as the pool ages: conversations over Zipf-shared prefixes,
 * 64 of them in turn, prompts in chunks, answers a block at a time, ten turnovers. Afterwards a
 * mean run is still worth a command of its own (bench/directory.c prints the figures).
 *
 * Seen to fail with eviction not ahead of need (spare = 0), with every hold let
 * go before anything is evicted, and with any free slot taken for a run.
 */
#include "world.h"

#define PREFIXES 200u
#define LIVE 64u

struct conversation {
    struct chain_of *chain;
    uint32_t blocks;
    uint32_t stored;
};

/* Prefix p is about 1 / (p + 1) as frequent as the first. */
static uint32_t zipf(uint64_t *seed)
{
    uint32_t p;

    do
        p = below(seed, PREFIXES);
    while (below(seed, p + 1) != 0);
    return p;
}

static void next_turn(struct conversation *c, uint64_t *seed)
{
    uint32_t more = 6 + below(seed, 60);

    if (c->blocks == 0 || below(seed, 4) == 0 || c->blocks + more > 512) {
        uint32_t p = zipf(seed);

        c->blocks = 4 + p * 37 % 120;
        chain_name(c->chain, p, 0, c->blocks);
        c->stored = 0;
        more *= 2;
    }
    chain_name(c->chain, draw(seed), c->blocks, c->blocks + more);
    c->blocks += more;
}

/* Return: false when the prefix has been evicted meanwhile. */
static bool put_next(struct tutti_directory *d, struct conversation *c, uint32_t chunk)
{
    int given = reserve(d, c->chain, c->stored, chunk, true);

    if (given < 0)
        return false;
    report_all(d, c->chain, given);
    return true;
}

static void ten_turnovers(void **state)
{
    struct tutti_directory_options o = options_of(100, 1000, 1, 1);
    struct tutti_directory *d;
    struct conversation live[LIVE] = {0};
    struct tutti_directory_stats s;
    uint64_t seed = 11;
    uint32_t i;

    (void)state;
    o.placement.object_stride = 65536; /* 8 slots of a layer are 1 MiB */
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), 0);
    assert_int_equal(d->run_slots, 8);
    for (i = 0; i < LIVE; i++)
        live[i].chain = chain_new(0, 1);
    do {
        struct conversation *c = &live[below(&seed, LIVE)];
        uint32_t chunk;

        if (c->stored >= c->blocks)
            next_turn(c, &seed);
        chunk = c->blocks - c->stored > 8 ? c->blocks - c->stored - 8 : 1;
        chunk = chunk < 32 ? chunk : 32;
        if (put_next(d, c, chunk))
            c->stored += chunk;
        else
            c->stored = 0;
        s = stats_of(d);
    } while (s.evicted < 10u * d->slots);
    audit(d);
    print_message("mean run %.1f slots\n", (double)s.visible / (double)s.runs);
    assert_true((double)s.visible / (double)s.runs >= 14);
    for (i = 0; i < LIVE; i++)
        free(live[i].chain);
    tutti_directory_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ten_turnovers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
