/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c: what the ranks' scans found becomes a tree.
 *
 * Must not trust anything that it reads: entries may be unsorted, double, out
 * of range, of other extents' lives, without parents, or parents of each
 * other. Whatever they are, it ends in O(entries + slots) and what it keeps
 * passes directory_audit().
 *
 * A slot has its place in an array, so ranks are compared without sorting, and
 * a parent is nearly always the slot before. What is kept is what can be
 * walked up to a first block: each walk ends at a slot that an earlier one has
 * decided, so all of them together pass every slot once.
 */
#include "directory/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 32u

enum verdict { ABSENT, UNDECIDED, KEPT, LOST, ON_PATH };

/**
 * struct load
 * @agreed: per slot, how many ranks (from the first on) hold the same
 * @from: per slot, entry of rank 0 + 1
 * @verdict: per slot
 * @shape: per extent, what its latest records are: 0 none, 1 ours, 2 another
 */
struct load {
    const struct tutti_scan_entry *const *entries;
    const size_t *counts;
    uint8_t *agreed;
    uint32_t *from;
    uint8_t *verdict;
    uint8_t *shape;
};

static bool ours(const struct tutti_directory *d, const struct tutti_scan_entry *e)
{
    return e->geometry == d->geometry_digest && e->group == d->options.geometry.group;
}

static bool has_key(struct tutti_key key)
{
    return (key.word[0] | key.word[1]) != 0;
}

/* No later epoch could follow the last one: what claims it can't be ours. */
static bool sane(const struct tutti_directory *d, const struct tutti_scan_entry *e)
{
    return e->slot / d->stride < d->extents && e->generation != 0 &&
           tutti_generation_epoch(e->generation) < TUTTI_EPOCH_MAX;
}

/* Latest life of every extent, over all ranks, and for which shape it was carved. */
static void read_extents(struct tutti_directory *d, struct load *l)
{
    uint32_t rank;
    size_t i;

    for (rank = 0; rank < d->options.ranks; rank++) {
        for (i = 0; i < l->counts[rank]; i++) {
            const struct tutti_scan_entry *e = &l->entries[rank][i];
            uint32_t number;
            struct extent *x;

            if (!sane(d, e))
                continue;
            if (tutti_generation_epoch(e->generation) > d->epoch_seen)
                d->epoch_seen = tutti_generation_epoch(e->generation);
            if (e->generation > d->tick)
                d->tick = e->generation;
            number = e->slot / d->stride;
            x = &d->extent[number];
            if (l->shape[number] == 0 || e->incarnation > x->incarnation) {
                x->incarnation = e->incarnation;
                l->shape[number] = ours(d, e) ? 1 : 2;
            } else if (e->incarnation == x->incarnation && ours(d, e)) {
                l->shape[number] = 1;
            }
        }
    }
}

/* The slot that an entry speaks about, NONE when it doesn't count. */
static uint32_t candidate(const struct tutti_directory *d, const struct load *l,
                          const struct tutti_scan_entry *e)
{
    if (!sane(d, e) || !ours(d, e) || !has_key(e->key) || l->shape[e->slot / d->stride] != 1 ||
        e->incarnation != d->extent[e->slot / d->stride].incarnation)
        return NONE;
    return slot_index(d, e->slot);
}

static void compare_ranks(struct tutti_directory *d, struct load *l)
{
    uint32_t rank;
    size_t i;

    for (i = 0; i < l->counts[0]; i++) {
        const struct tutti_scan_entry *e = &l->entries[0][i];
        uint32_t n = candidate(d, l, e);

        if (n == NONE || (l->agreed[n] && d->slot[n].generation >= e->generation))
            continue;
        d->slot[n].key = e->key;
        d->slot[n].generation = e->generation;
        l->from[n] = (uint32_t)i + 1;
        l->agreed[n] = 1;
    }
    for (rank = 1; rank < d->options.ranks; rank++) {
        for (i = 0; i < l->counts[rank]; i++) {
            const struct tutti_scan_entry *e = &l->entries[rank][i];
            const struct tutti_scan_entry *first;
            uint32_t n = candidate(d, l, e);

            if (n == NONE || l->agreed[n] != rank || d->slot[n].generation != e->generation)
                continue;
            first = &l->entries[0][l->from[n] - 1];
            if (tutti_key_equal(first->key, e->key) && tutti_key_equal(first->parent, e->parent) &&
                memcmp(first->identity, e->identity, TUTTI_IDENTITY_BYTES) == 0)
                l->agreed[n]++;
        }
    }
}

static void forget(struct tutti_directory *d, struct load *l, uint32_t slot)
{
    directory_unkey(d, slot);
    l->verdict[slot] = ABSENT;
}

/* A key that stands twice counts for the slot that was filled last. */
static void insert_key(struct tutti_directory *d, struct load *l, uint32_t slot, uint64_t hash)
{
    uint32_t other = directory_table_find(d, d->slot[slot].key, hash);

    if (other != NONE) {
        if (d->slot[other].generation >= d->slot[slot].generation)
            return;
        forget(d, l, other);
    }
    directory_table_insert(d, slot, hash);
    d->slot[slot].flags = SLOT_KEYED;
    l->verdict[slot] = UNDECIDED;
}

/* Keys of our identity into the table; other identities keep their slot, keyless. */
static void insert_keys(struct tutti_directory *d, struct load *l)
{
    uint32_t slot[BATCH];
    uint64_t hash[BATCH];
    uint32_t filled = 0;
    uint32_t n;
    uint32_t i;

    for (n = 0; n < d->slots; n++) {
        if (l->agreed[n] == d->options.ranks) {
            const struct tutti_scan_entry *e = &l->entries[0][l->from[n] - 1];

            if (memcmp(e->identity, d->options.identity, TUTTI_IDENTITY_BYTES) != 0) {
                directory_set_state(d, n, SLOT_FOREIGN);
                d->slot[n].parent = d->slot[n].child = NONE;
                d->slot[n].next = d->slot[n].prev = NONE;
            } else {
                slot[filled] = n;
                hash[filled] = directory_table_hash(d, e->key);
                directory_table_prefetch(d, hash[filled++]);
            }
        }
        if (filled == BATCH || n + 1 == d->slots) {
            for (i = 0; i < filled; i++)
                insert_key(d, l, slot[i], hash[i]);
            filled = 0;
        }
    }
}

static void find_parents(struct tutti_directory *d, struct load *l)
{
    uint32_t n;

    for (n = 0; n < d->slots; n++) {
        struct tutti_key parent;
        struct slot *s = &d->slot[n];

        if (l->verdict[n] != UNDECIDED)
            continue;
        parent = l->entries[0][l->from[n] - 1].parent;
        s->parent = s->child = s->next = s->prev = NONE;
        if (!has_key(parent))
            continue;
        if (!slot_first(d, n) && l->verdict[n - 1] != ABSENT &&
            tutti_key_equal(d->slot[n - 1].key, parent))
            s->parent = n - 1;
        else
            s->parent = directory_table_find(d, parent, directory_table_hash(d, parent));
        if (s->parent == NONE)
            l->verdict[n] = LOST;
    }
}

/* Walks up to a first block or to something decided; then marks the way back. */
static void decide(struct tutti_directory *d, struct load *l, uint32_t slot)
{
    uint32_t back = NONE; /* the way, linked through .next */
    uint32_t n = slot;
    uint32_t depth = 0;
    enum verdict verdict = LOST; /* also for a walk that meets itself */

    while (l->verdict[n] == UNDECIDED) {
        uint32_t parent = d->slot[n].parent;

        l->verdict[n] = ON_PATH;
        d->slot[n].next = back;
        back = n;
        if (parent == NONE) {
            verdict = KEPT;
            break;
        }
        n = parent;
    }
    if (l->verdict[n] == KEPT) {
        verdict = KEPT;
        depth = d->slot[n].depth + 1;
    }
    while (back != NONE) {
        uint32_t next = d->slot[back].next;

        l->verdict[back] = (uint8_t)verdict;
        d->slot[back].depth = depth++;
        d->slot[back].next = NONE;
        back = next;
    }
}

static void build(struct tutti_directory *d, struct load *l)
{
    uint32_t n;
    uint32_t e;

    for (n = 0; n < d->slots; n++)
        if (l->verdict[n] == UNDECIDED)
            decide(d, l, n);
    for (n = 0; n < d->slots; n++) {
        struct slot *s = &d->slot[n];

        if (l->verdict[n] == KEPT) {
            s->touch = s->generation;
            if (s->parent == NONE || s->parent + 1 != n || slot_first(d, n))
                s->flags |= SLOT_HEAD;
            directory_set_state(d, n, SLOT_VISIBLE);
            directory_attach(d, n, s->parent);
        } else if (l->verdict[n] == LOST) {
            directory_unkey(d, n);
        }
        if (s->state == SLOT_FREE)
            s->parent = s->child = s->next = s->prev = NONE;
    }
    for (e = d->extents; e-- > 0;) {
        uint32_t first = e * d->per_extent;

        if (l->shape[e] != 2)
            continue;
        for (n = first; n < first + d->per_extent; n++)
            directory_set_state(d, n, SLOT_CARVED);
        d->extent[e].carved = 1;
    }
}

/* Heap and free map from the states. */
static void finish(struct tutti_directory *d)
{
    uint32_t e;
    uint32_t n;

    for (e = 0; e < d->extents; e++) {
        uint32_t first = e * d->per_extent;

        for (n = first; n < first + d->per_extent; n++) {
            if (d->slot[n].state == SLOT_FREE)
                continue;
            directory_close(d, n);
            directory_settle(d, n);
        }
        directory_measure(d, e);
    }
    for (e = d->extents; e-- > 0;) {
        /* One more life must be countable. */
        if (!d->extent[e].carved || d->extent[e].incarnation == UINT32_MAX)
            continue;
        d->extent[e].next = d->carved;
        d->carved = e;
    }
}

int tutti_directory_load(struct tutti_directory *d, const struct tutti_scan_entry *const *entries,
                         const size_t *counts, struct tutti_error *err)
{
    struct load l = {.entries = entries, .counts = counts};
    int rc = 0;

    if (d->started)
        return tutti_error_set(err, -EINVAL, "directory: loads once, before its first epoch");
    if (counts[0] >= UINT32_MAX)
        return tutti_error_set(err, -EINVAL, "directory: a scan of %zu entries is no scan",
                               counts[0]);
    l.agreed = calloc(d->slots, sizeof(*l.agreed));
    l.from = calloc(d->slots, sizeof(*l.from));
    l.verdict = calloc(d->slots, sizeof(*l.verdict));
    l.shape = calloc(d->extents, sizeof(*l.shape));
    if (l.agreed && l.from && l.verdict && l.shape) {
        d->started = true;
        read_extents(d, &l);
        compare_ranks(d, &l);
        insert_keys(d, &l);
        find_parents(d, &l);
        build(d, &l);
        finish(d);
    } else {
        rc = tutti_error_set(err, -ENOMEM, "directory: out of memory for the scans of %u slots",
                             d->slots);
    }
    free(l.agreed);
    free(l.from);
    free(l.verdict);
    free(l.shape);
    return rc;
}
