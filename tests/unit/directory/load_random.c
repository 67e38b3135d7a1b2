/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load() against its definition, by search: what all ranks hold alike, each key
 * once, and whose ancestors are there. The scans range from what a clean
 * shutdown leaves to what a fuzzer would: unsorted, double, out of range,
 * cycles, extents in two lives, shapes and identities mixed.
 *
 *     directory_load_random [first seed [seeds]]
 *
 * Seen to fail with, one at a time: the last rank not compared; parents not
 * compared; the smaller generation of two kept; a walk that meets itself taken
 * for a first block; the incarnation ignored; the mark ABSENT of a double slot
 * left out, so that it becomes somebody's parent.
 */
#include "scans.h"

static uint64_t first_seed = 1;
static uint32_t seeds = 4000;
static uint64_t seed_now;

/* What the definition says of each slot. */
struct truth {
    enum slot_state state[MOST_SLOTS];
    uint32_t parent[MOST_SLOTS];
    const struct tutti_scan_entry *entry[MOST_SLOTS];
};

static bool counts(const struct tutti_directory *d, const struct tutti_scan_entry *e)
{
    return e->slot / d->stride < d->extents && e->generation != 0 &&
           e->generation >> TUTTI_EPOCH_SHIFT < TUTTI_EPOCH_MAX;
}

static bool our_shape(const struct tutti_directory *d, const struct tutti_scan_entry *e)
{
    return e->geometry == d->geometry_digest && e->group == d->options.geometry.group;
}

/* Latest incarnation of an extent, and whether a record of our shape is of it. */
static bool extent_life(const struct tutti_directory *d, const struct scans *s, uint32_t extent,
                        uint32_t *incarnation, bool *is_ours)
{
    bool any = false;
    uint32_t pass;
    uint32_t r;
    size_t i;

    *incarnation = 0;
    *is_ours = false;
    for (pass = 0; pass < 2; pass++)
        for (r = 0; r < d->options.ranks; r++)
            for (i = 0; i < s->counts[r]; i++) {
                const struct tutti_scan_entry *e = &s->entry[r][i];

                if (!counts(d, e) || e->slot / d->stride != extent)
                    continue;
                any = true;
                if (pass == 0 && e->incarnation > *incarnation)
                    *incarnation = e->incarnation;
                if (pass == 1 && e->incarnation == *incarnation && our_shape(d, e))
                    *is_ours = true;
            }
    return any;
}

/* The record of rank 0 in a slot, if all other ranks have it too. */
static const struct tutti_scan_entry *agreed(const struct tutti_directory *d, const struct scans *s,
                                             uint32_t number, uint32_t incarnation)
{
    const struct tutti_scan_entry *best = NULL;
    uint32_t r;
    size_t i;

    for (r = 0; r < d->options.ranks; r++) {
        bool has = false;

        for (i = 0; i < s->counts[r]; i++) {
            const struct tutti_scan_entry *e = &s->entry[r][i];

            if (!counts(d, e) || e->slot != number || e->incarnation != incarnation ||
                !our_shape(d, e) || (e->key.word[0] == 0 && e->key.word[1] == 0))
                continue;
            if (r == 0 && (!best || e->generation > best->generation))
                best = e;
            has |= best && e->generation == best->generation &&
                   tutti_key_equal(e->key, best->key) && tutti_key_equal(e->parent, best->parent) &&
                   memcmp(e->identity, best->identity, sizeof(e->identity)) == 0;
        }
        if (!has)
            return NULL;
    }
    return best;
}

static void define(const struct tutti_directory *d, const struct scans *s, struct truth *t)
{
    bool changed = true;
    uint32_t n;
    uint32_t o;

    for (n = 0; n < d->slots; n++) {
        uint32_t incarnation;
        bool is_ours;
        bool any = extent_life(d, s, n / d->per_extent, &incarnation, &is_ours);

        t->state[n] = any && !is_ours ? SLOT_CARVED : SLOT_FREE;
        t->parent[n] = NONE;
        t->entry[n] = is_ours ? agreed(d, s, slot_number(d, n), incarnation) : NULL;
        if (t->entry[n] && memcmp(t->entry[n]->identity, d->options.identity, 16) != 0) {
            t->state[n] = SLOT_FOREIGN;
            t->entry[n] = NULL;
        }
    }
    for (n = 0; n < d->slots; n++) /* a key once: the larger generation, the lower slot */
        for (o = 0; o < d->slots; o++)
            if (o != n && t->entry[n] && t->entry[o] &&
                tutti_key_equal(t->entry[n]->key, t->entry[o]->key)) {
                bool other = t->entry[o]->generation > t->entry[n]->generation ||
                             (t->entry[o]->generation == t->entry[n]->generation && o < n);

                t->entry[other ? n : o] = NULL;
            }
    while (changed) { /* from first blocks downwards */
        changed = false;
        for (n = 0; n < d->slots; n++) {
            struct tutti_key parent;

            if (!t->entry[n] || t->state[n] == SLOT_VISIBLE)
                continue;
            parent = t->entry[n]->parent;
            for (o = 0; o < d->slots; o++)
                if (t->state[o] == SLOT_VISIBLE && tutti_key_equal(t->entry[o]->key, parent))
                    t->parent[n] = o;
            if (t->parent[n] == NONE && (parent.word[0] != 0 || parent.word[1] != 0))
                continue;
            t->state[n] = SLOT_VISIBLE;
            changed = true;
        }
    }
}

static void one(uint64_t number)
{
    static struct model m;
    static struct scans s;
    static struct truth t;
    uint64_t seed = number;
    uint32_t per_extent = 1 + below(&seed, 16);
    struct tutti_directory_options o = options_of(1 + below(&seed, MOST_SLOTS / 16), per_extent,
                                                  1 + below(&seed, 3), 1 + below(&seed, 4));
    struct tutti_directory *d;
    uint32_t n;

    o.placement.records_per_extent += below(&seed, 3);
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    model_tree(&m, d, &seed);
    scans_draw(&s, &m, &seed, below(&seed, 3) ? below(&seed, 40) : 0);
    assert_int_equal(tutti_directory_load(d, s.entries, s.counts, NULL), 0);
    audit(d);
    define(d, &s, &t);
    for (n = 0; n < d->slots; n++) {
        assert_int_equal(d->slot[n].state, t.state[n]);
        if (t.state[n] != SLOT_VISIBLE)
            continue;
        assert_int_equal(d->slot[n].generation, t.entry[n]->generation);
        assert_int_equal(d->slot[n].parent, t.parent[n]);
        assert_true(tutti_key_equal(d->slot[n].key, t.entry[n]->key));
    }
    tutti_directory_free(d);
}

static void random_scans(void **state)
{
    (void)state;
    for (seed_now = first_seed; seed_now < first_seed + seeds; seed_now++)
        one(seed_now);
}

static int tell_seed(void **state)
{
    (void)state;
    print_message("last seed %llu\n", (unsigned long long)seed_now);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(random_scans, tell_seed)};

    if (getenv("TUTTI_TORTURE"))
        seeds = 300000;
    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        seeds = (uint32_t)strtoul(argv[2], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
