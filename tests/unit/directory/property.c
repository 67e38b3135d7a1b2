/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random lives of small directories, compared with the model after every step.
 *
 *     directory_property [first seed [seeds [steps of each]]]
 *
 * The last line before a failure names its seed; "directory_property SEED 1" plays it
 * again. A third of the lives begin with a scan (scans.h).
 *
 * Seen to fail with, one at a time: no guard on the slot that is extended; the
 * mark of use not handed to the parent; climbing on past a parent used since;
 * a void key not replaced; the report bit of one rank ignored; show() not
 * going on below; hide() not going on below; a hidden slot freed in spite of a
 * pin; a gap left in the key table; a leaf left in the heap under a new child.
 */
#include "scans.h"

static uint64_t first_seed = 1;
static uint32_t seeds = 60;
static uint32_t steps = 400;
static uint64_t seed_now;
static struct model total;

static void step(struct model *m, uint64_t *seed)
{
    uint32_t node = below(seed, NODES);
    uint32_t slot = below(seed, m->slots);
    uint32_t what = below(seed, 100);
    uint32_t n;

    if (what < 25) {
        model_reserve(m, node, below(seed, 2) ? 0 : below(seed, 64), below(seed, 2));
    } else if (what < 60) {
        /* Reports come in bursts, in any order, now and then a no. */
        for (n = below(seed, 2 * m->slots); n > 0; n--) {
            model_report(m, slot, below(seed, m->d->options.ranks), below(seed, 40) != 0);
            slot = below(seed, 3) ? (slot + 1) % m->slots : below(seed, m->slots);
        }
    } else if (what < 75) {
        model_pin(m, node, below(seed, 64));
    } else if (what < 90) {
        for (n = 0; n < m->slots; n++)
            if (m->slot[n].pins && below(seed, 3) == 0)
                model_unpin(m, n);
        model_unpin(m, slot);
    } else if (what < 94) {
        model_drop(m, slot);
    } else if (what < 98) {
        model_take_erased(m, below(seed, m->slots));
    } else if (below(seed, 4) == 0) {
        model_epoch(m, below(seed, 2), below(seed, 4) == 0);
    }
}

static void life(uint64_t number)
{
    static struct model m;
    static struct scans s;
    uint64_t seed = number;
    uint32_t per_extent = 1 + below(&seed, 16);
    uint32_t extents = 1 + below(&seed, MOST_SLOTS / 16);
    struct tutti_directory_options o =
        options_of(extents, per_extent, 1 + below(&seed, 3), 1 + below(&seed, 3));
    struct tutti_directory *d;
    uint32_t i;
    uint32_t n;

    o.placement.records_per_extent += below(&seed, 3);
    o.run_slots = below(&seed, 5);
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    model_tree(&m, d, &seed);
    if (below(&seed, 3) == 0) {
        scans_draw(&s, &m, &seed, 0);
        assert_int_equal(tutti_directory_load(d, s.entries, s.counts, NULL), 0);
    }
    assert_int_equal(tutti_directory_begin_epoch(d, d->epoch_seen + 1, false, NULL, NULL), 0);
    if (below(&seed, 3) == 0)
        d->spare = below(&seed, d->slots / 4 + 1); /* as in a large pool */
    model_adopt(&m);
    for (i = 0; i < steps; i++) {
        step(&m, &seed);
        model_compare(&m);
        if (i % 8 == 0)
            for (n = 0; n < NODES; n++)
                model_find(&m, n);
    }
    total.evictions += m.evictions;
    total.foreign_evictions += m.foreign_evictions;
    total.hits += m.hits;
    total.cut_short += m.cut_short;
    total.replaced += m.replaced;
    total.shown_by_parent += m.shown_by_parent;
    tutti_directory_free(d);
}

static void random_lives(void **state)
{
    (void)state;
    for (seed_now = first_seed; seed_now < first_seed + seeds; seed_now++)
        life(seed_now);
    if (seeds < 20)
        return;
    /* Lives in which nothing happens would pass, too. */
    assert_true(total.evictions > seeds);
    assert_true(total.foreign_evictions > seeds / 4);
    assert_true(total.hits > 100 * seeds);
    assert_true(total.cut_short > seeds);
    assert_true(total.replaced > seeds / 4);
    assert_true(total.shown_by_parent > seeds);
}

static int tell_seed(void **state)
{
    (void)state;
    print_message("last seed %llu: %llu evictions, %llu foreign, %llu hits, %llu cut short, %llu "
                  "replaced, %llu shown by a parent\n",
                  (unsigned long long)seed_now, (unsigned long long)total.evictions,
                  (unsigned long long)total.foreign_evictions, (unsigned long long)total.hits,
                  (unsigned long long)total.cut_short, (unsigned long long)total.replaced,
                  (unsigned long long)total.shown_by_parent);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(random_lives, tell_seed)};

    if (getenv("TUTTI_TORTURE"))
        seeds = 5000;
    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        seeds = (uint32_t)strtoul(argv[2], NULL, 0);
    if (argc > 3)
        steps = (uint32_t)strtoul(argv[3], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
