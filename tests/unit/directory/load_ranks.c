/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a crash the ranks hold different slots: what one of them lacks, or has
 * in another generation, is gone, and all behind it; the rest is hit. Recency
 * after a start is the order of generations, and generations go on above them.
 * (cases.md row 11.)
 *
 * Seen to fail with the last rank not compared, and with generations not
 * compared between ranks.
 */
#include "scans.h"

#include <errno.h>

#define RANKS 3u

static struct scans s;
static struct model m;

static struct tutti_directory *empty(uint32_t ranks)
{
    struct tutti_directory_options o = options_of(4, 10, 1, ranks);
    struct tutti_directory *d;
    uint64_t seed = 1;
    uint32_t n;

    memset(&s, 0, sizeof(s));
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    model_tree(&m, d, &seed);
    for (n = 0; n < NODES; n++) /* chains of ten */
        m.node[n] = (struct node){.parent = n % 10 ? n - 1 : NONE, .depth = n % 10};
    for (n = 0; n < ranks; n++)
        s.entries[n] = s.entry[n];
    return d;
}

static void add(uint32_t rank, uint32_t number, uint64_t generation)
{
    s.entry[rank][s.counts[rank]++] =
        entry_of(&m, number, number, UINT64_C(1) << TUTTI_EPOCH_SHIFT | generation);
}

static uint32_t hit_of(struct tutti_directory *d, uint32_t chain)
{
    struct chain_of *c = chain_new(0, 10);
    uint32_t path[NODES];
    uint32_t blocks;

    model_chain(&m, chain * 10 + 9, c, path);
    blocks = hit(d, c, 10);
    free(c);
    return blocks;
}

static void what_all_hold(void **state)
{
    struct tutti_directory *d = empty(RANKS);
    uint32_t n;
    uint32_t r;

    (void)state;
    for (r = 0; r < RANKS; r++)
        for (n = 0; n < 30; n++)
            if (n != 4 || r != 2)                    /* the last rank lacks slot 4 */
                add(r, n, 100 + n + (n == 17 && r)); /* slot 17 is another time's on rank 0 */
    assert_int_equal(tutti_directory_load(d, s.entries, s.counts, NULL), 0);
    assert_int_equal(hit_of(d, 0), 4);
    assert_int_equal(hit_of(d, 1), 7);
    assert_int_equal(hit_of(d, 2), 10);
    assert_int_equal(stats_of(d).visible, 21);
    assert_int_equal(stats_of(d).free, 19);
    audit(d);
    tutti_directory_free(d);
}

static void recency_and_epochs(void **state)
{
    struct tutti_directory *d = empty(1);
    struct chain_of *c = chain_new(500, 20);
    uint32_t n;

    (void)state;
    for (n = 0; n < 40; n++) /* chain 1 is the oldest, then 2, 3, 0 */
        add(0, n, 1000 * ((n / 10 + 3) % 4 + 1) + n);
    assert_int_equal(tutti_directory_load(d, s.entries, s.counts, NULL), 0);
    assert_int_equal(tutti_directory_load(d, s.entries, s.counts, NULL), -EINVAL); /* once */
    assert_int_equal(reserve(d, c, 0, 1, false), -EINVAL); /* no generations yet */
    assert_int_equal(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), -EINVAL);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, false, NULL, NULL), 0);
    assert_int_equal(tutti_directory_begin_epoch(d, TUTTI_EPOCH_MAX + 1, false, NULL, NULL),
                     -EINVAL);
    assert_int_equal(put_blocks(d, c, 0, 15, false), 15);
    assert_int_equal(hit_of(d, 1), 0);
    assert_in_range(hit_of(d, 2), 0, 5);
    assert_int_equal(hit_of(d, 3), 10);
    assert_int_equal(hit_of(d, 0), 10);
    assert_int_equal(tutti_generation_epoch(c->out[0].generation), 2);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_all_hold),
                                       cmocka_unit_test(recency_and_epochs)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
