/* SPDX-License-Identifier: Apache-2.0 */
/*
 * directory.c: the public calls; each is checks, and a few steps of the other
 * files. new() and free() are in setup.c.
 *
 * Must not know how cells, heap and free map are kept.
 */
#include "directory/internal.h"

#include <errno.h>
#include <string.h>

#define BATCH 32u /* keys made ahead, so that their cells are on the way */
#define COUNTER_MAX ((UINT64_C(1) << TUTTI_EPOCH_SHIFT) - 1)

static struct tutti_key key_of(const struct tutti_directory *d, const uint8_t *hash, uint32_t bytes)
{
    return tutti_key_make(d->options.secret, d->options.identity, d->options.geometry.group, hash,
                          bytes);
}

static void touch(struct tutti_directory *d, uint32_t slot, uint64_t now)
{
    struct slot *s = &d->slot[slot];

    s->touch = now;
    if (s->touches < UINT16_MAX)
        s->touches++;
    directory_settle(d, slot);
}

int tutti_directory_begin_epoch(struct tutti_directory *d, uint64_t epoch, bool reset,
                                const uint8_t *identity, struct tutti_error *err)
{
    uint64_t before = d->epoch > d->epoch_seen ? d->epoch : d->epoch_seen;

    if (epoch <= before || epoch > TUTTI_EPOCH_MAX)
        return tutti_error_set(err, -EINVAL,
                               "directory: epoch %llu; one from %llu to %llu is needed, larger "
                               "than any before",
                               (unsigned long long)epoch, (unsigned long long)before + 1,
                               (unsigned long long)TUTTI_EPOCH_MAX);
    if (identity && memcmp(identity, d->options.identity, TUTTI_IDENTITY_BYTES) != 0) {
        memcpy(d->options.identity, identity, TUTTI_IDENTITY_BYTES);
        reset = true;
    }
    d->started = true;
    d->epoch = epoch;
    d->counter = 0;
    if (!reset)
        return 0;
    /* Every generation given out so far is below this: void without a walk. */
    d->void_before = epoch << TUTTI_EPOCH_SHIFT;
    d->count[CLASS_FOREIGN] += d->count[CLASS_VISIBLE];
    d->count[CLASS_VISIBLE] = 0;
    d->count[CLASS_LEAVING] += d->count[CLASS_WRITING];
    d->count[CLASS_WRITING] = 0;
    d->runs = 0;
    return 0;
}

int tutti_directory_find(const struct tutti_directory *d, const uint8_t *hashes,
                         uint32_t hash_bytes, uint32_t count, struct tutti_match *match)
{
    uint32_t present = 0; /* blocks [0, present) are visible */
    uint32_t absent = count;
    uint32_t slot = NONE;

    *match = (struct tutti_match){.slot = TUTTI_NO_SLOT};
    if (hash_bytes < 1 || hash_bytes > TUTTI_ENGINE_HASH_BYTES)
        return -EINVAL;
    while (present < absent) {
        uint32_t middle = present + (absent - present) / 2;
        struct tutti_key key = key_of(d, hashes + (size_t)middle * hash_bytes, hash_bytes);
        uint32_t found = directory_table_find(d, key, directory_table_hash(d, key));

        if (found != NONE && slot_visible(d, &d->slot[found]) && d->slot[found].depth == middle) {
            slot = found;
            present = middle + 1;
        } else {
            absent = middle;
        }
    }
    if (slot != NONE && d->fenced) {
        slot = directory_before_fence(d, slot);
        present = slot == NONE ? 0 : d->slot[slot].depth + 1;
    }
    if (slot != NONE) {
        match->blocks = present;
        match->slot = slot_number(d, slot);
        match->generation = d->slot[slot].generation;
    }
    return 0;
}

int tutti_directory_pin(struct tutti_directory *d, const struct tutti_match *match, uint32_t first,
                        struct tutti_transfer *out)
{
    uint32_t slot = slot_index(d, match->slot);
    uint32_t n = slot;
    uint32_t number = match->slot;
    uint32_t i = match->blocks;

    if (match->blocks == 0 || first > match->blocks)
        return -EINVAL;
    if (slot == NONE || !slot_visible(d, &d->slot[slot]) ||
        d->slot[slot].generation != match->generation)
        return -ESTALE;
    if (d->slot[slot].depth != match->blocks - 1)
        return -EUCLEAN;
    if (d->slot[slot].pins == UINT32_MAX)
        return -EOVERFLOW;
    while (i > first) {
        const struct slot *s;
        struct tutti_transfer *t = &out[--i - first];

        if (n == NONE || d->slot[n].depth != i)
            return -EUCLEAN;
        if (slot_fenced(d, n))
            return -ESTALE;
        s = &d->slot[n];
        t->slot = number;
        t->generation = s->generation;
        t->key = s->key;
        /* A run is walked from its end: numbers go down by one. */
        number = s->flags & SLOT_HEAD && s->parent != NONE ? slot_number(d, s->parent) : number - 1;
        n = s->parent;
    }
    d->slot[slot].pins++;
    d->pinned++;
    touch(d, slot, ++d->tick);
    return 0;
}

int tutti_directory_unpin(struct tutti_directory *d, uint32_t slot, uint64_t generation)
{
    uint32_t n = slot_index(d, slot);

    if (n == NONE || d->slot[n].generation != generation || d->slot[n].pins == 0)
        return -EINVAL;
    d->slot[n].pins--;
    d->pinned--;
    directory_settle(d, n);
    directory_leave(d, n);
    return 0;
}

/*
 * struct chain - a reservation under way
 * @last: the last block of the chain that has a slot, NONE before block 0
 * @next, @left: slots that were placed and not given yet
 * @head: the next one starts a run
 */
struct chain {
    uint32_t last;
    uint32_t next;
    uint32_t left;
    uint32_t number;
    uint32_t incarnation;
    bool head;
    bool grows;
};

/* Slots for the next @want blocks of the chain, or for some of them. */
static bool more(struct tutti_directory *d, struct chain *c, uint32_t want)
{
    bool placed;

    if (c->left > 0)
        return true;
    /* What is extended must not be evicted to make room for that. */
    d->guard = c->last;
    if (c->last != NONE)
        directory_settle(d, c->last);
    placed = directory_place(d, c->last, want, c->grows, &c->next, &c->left, &c->head);
    d->guard = NONE;
    if (!placed) {
        c->left = 0;
        if (c->last != NONE)
            directory_settle(d, c->last);
        return false;
    }
    c->number = slot_number(d, c->next);
    c->incarnation = d->extent[c->next / d->per_extent].incarnation;
    return true;
}

static void give(struct tutti_directory *d, struct chain *c, struct tutti_key key, uint64_t hash,
                 uint32_t depth)
{
    uint32_t slot = c->next;
    struct slot *s = &d->slot[slot];

    s->key = key;
    s->generation = d->epoch << TUTTI_EPOCH_SHIFT | ++d->counter;
    s->touch = d->tick;
    s->child = NONE;
    s->depth = depth;
    s->heap = 0;
    s->pins = 0;
    s->touches = 0;
    s->flags = c->head ? SLOT_KEYED | SLOT_HEAD : SLOT_KEYED;
    directory_set_state(d, slot, SLOT_WRITING);
    d->pending[slot] = d->all_ranks;
    directory_attach(d, slot, c->last);
    directory_table_insert(d, slot, hash);
    c->last = slot;
    c->next++;
    c->left--;
    c->number++;
    c->head = false;
}

/* The slot that a key names, if it counts; a void one gives its key up. */
static uint32_t present(struct tutti_directory *d, struct tutti_key key, uint64_t hash)
{
    uint32_t slot = directory_table_find(d, key, hash);

    if (slot != NONE && slot_void(d, &d->slot[slot])) {
        directory_unkey(d, slot);
        slot = NONE;
    }
    return slot;
}

int tutti_directory_reserve(struct tutti_directory *d, const uint8_t *hashes, uint32_t hash_bytes,
                            uint32_t first, uint32_t count, bool grows, struct tutti_transfer *out,
                            struct tutti_origin *origin, uint32_t *index)
{
    struct chain c = {.last = NONE, .grows = grows};
    struct tutti_key key[BATCH];
    uint64_t hash[BATCH];
    int given = 0;
    uint32_t i;

    if (d->epoch == 0 || hash_bytes < 1 || hash_bytes > TUTTI_ENGINE_HASH_BYTES ||
        count > (uint32_t)INT32_MAX || first > UINT32_MAX - count)
        return -EINVAL;
    if (first > 0) {
        key[0] = key_of(d, hashes + (size_t)(first - 1) * hash_bytes, hash_bytes);
        c.last = present(d, key[0], directory_table_hash(d, key[0]));
        if (c.last == NONE || d->slot[c.last].depth != first - 1 ||
            (d->fenced && directory_before_fence(d, c.last) != c.last))
            return -ENOENT;
    }
    d->tick++;
    for (i = 0; i < count; i++) {
        const uint8_t *h = hashes + (size_t)(first + i) * hash_bytes;
        uint32_t slot;
        uint32_t k;

        for (k = 0; i % BATCH == 0 && k < BATCH && k < count - i; k++) {
            key[k] = key_of(d, h + (size_t)k * hash_bytes, hash_bytes);
            hash[k] = directory_table_hash(d, key[k]);
            directory_table_prefetch(d, hash[k]);
        }
        k = i % BATCH;
        slot = present(d, key[k], hash[k]);
        if (slot != NONE && slot_fenced(d, slot)) {
            /* It cannot be had where it is: its key, and what lies behind it, go elsewhere. */
            directory_hide(d, slot, false);
            slot = NONE;
        }
        if (slot != NONE) {
            /* Else these hashes are no chain: nothing behind can be trusted. */
            if (d->slot[slot].depth != first + i || d->slot[slot].parent != c.last)
                break;
            c.last = slot;
            continue;
        }
        if (d->counter == COUNTER_MAX || !more(d, &c, count - i)) {
            d->refused++;
            break;
        }
        out[given].slot = c.number;
        origin[given].parent = c.last == NONE ? (struct tutti_key){{0, 0}} : d->slot[c.last].key;
        give(d, &c, key[k], hash[k], first + i);
        out[given].generation = d->slot[c.last].generation;
        out[given].key = key[k];
        memset(origin[given].engine_hash, 0, sizeof(origin[given].engine_hash));
        memcpy(origin[given].engine_hash, h, hash_bytes);
        origin[given].engine_hash_bytes = hash_bytes;
        origin[given].incarnation = c.incarnation;
        index[given++] = first + i;
    }
    directory_open_range(d, c.next, c.left);
    if (c.last != NONE)
        touch(d, c.last, d->tick);
    if (grows && given > 0)
        directory_hold_behind(d, c.last);
    return given;
}

int tutti_directory_report(struct tutti_directory *d, uint32_t rank, uint32_t slot,
                           uint64_t generation, bool ok)
{
    uint32_t n = slot_index(d, slot);
    struct slot *s;

    if (n == NONE || rank >= d->options.ranks || d->slot[n].generation != generation ||
        !(d->pending[n] >> rank & 1))
        return -EINVAL;
    s = &d->slot[n];
    d->pending[n] &= ~(UINT64_C(1) << rank);
    if (s->state == SLOT_HIDDEN)
        directory_leave(d, n);
    else if (!ok || (d->pending[n] == 0 && slot_void(d, s)))
        directory_hide(d, n, false);
    else if (d->pending[n] == 0)
        directory_show(d, n);
    return 0;
}

int tutti_directory_drop(struct tutti_directory *d, uint32_t slot, uint64_t generation)
{
    uint32_t n = slot_index(d, slot);
    uint32_t hidden;

    if (n == NONE || (generation != 0 && d->slot[n].generation != generation) ||
        (generation == 0 && d->slot[n].state != SLOT_VISIBLE) || slot_void(d, &d->slot[n]) ||
        (d->slot[n].state != SLOT_WRITING && d->slot[n].state != SLOT_VISIBLE))
        return 0;
    hidden = directory_hide(d, n, true);
    d->dropped += hidden;
    return (int)hidden;
}

size_t tutti_directory_take_erased(struct tutti_directory *d, struct tutti_transfer *out,
                                   size_t max)
{
    size_t count = 0;

    while (count < max && d->erase_first != NONE) {
        uint32_t n = d->erase_first;
        struct slot *s = &d->slot[n];

        out[count].slot = slot_number(d, n);
        out[count].generation = s->generation;
        out[count].key = s->key;
        count++;
        d->erase_first = s->next;
        if (d->erase_first == NONE)
            d->erase_last = NONE;
        directory_make_free(d, n);
    }
    return count;
}

void tutti_directory_stats(const struct tutti_directory *d, struct tutti_directory_stats *stats)
{
    *stats = (struct tutti_directory_stats){
        .slots = d->slots,
        .free = d->count[CLASS_FREE],
        .writing = d->count[CLASS_WRITING],
        .visible = d->count[CLASS_VISIBLE],
        .foreign = d->count[CLASS_FOREIGN],
        .leaving = d->count[CLASS_LEAVING],
        .pinned = d->pinned,
        .evicted = d->evicted,
        .dropped = d->dropped,
        .refused = d->refused,
        .runs = d->runs,
        .memory_bytes = d->memory_bytes,
        .fenced_members = d->fenced,
    };
}
