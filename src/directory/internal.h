/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h: what the files of the directory share.
 *
 *     directory.c  the public calls: find, pin, reserve, report, drop, ...
 *     table.c      key -> slot
 *     tree.c       who is whose parent; becoming visible, hiding, becoming free
 *     runs.c       which free slots a sequence gets: extents, ranges, holds
 *     fence.c      members that nothing is asked of
 *     evict.c      which slot goes next
 *     load.c       what the ranks' scans found becomes a tree
 *     audit.c      everything above, checked against itself
 *
 * Inside, slots are counted without the gaps that extents of fewer slots than
 * records leave in slot numbers: "slot" below means this index, "number" the
 * public slot number. One cache line a slot; everything is allocated at new().
 *
 * Recency is kept where it is used. Only leaves can go, so a use of a prefix
 * marks its last slot alone, and a slot that goes hands its mark to its parent:
 * a parent has, when it becomes a leaf, the time of the last use of anything
 * below it. That is what marking the whole prefix at each use would give, at
 * O(1) a use whatever the length.
 */
#ifndef TUTTI_DIRECTORY_INTERNAL_H
#define TUTTI_DIRECTORY_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/directory.h"

#define NONE UINT32_MAX
#define BUCKETS 33u
#define IDLE_SHARE 32u /* 1/32 of a pool may lie idle so that runs stay long */

/**
 * enum slot_state - where in its life a slot is
 * @SLOT_FREE: nobody's; its bit in the free map is set, unless it is held
 * @SLOT_WRITING: given out; not every rank has reported, or its parent isn't visible
 * @SLOT_VISIBLE: can be found
 * @SLOT_HIDDEN: can't be found any more, but pinned, unreported or with children
 * @SLOT_ERASING: waits for tutti_directory_take_erased()
 * @SLOT_FOREIGN: another identity's, of our shape
 * @SLOT_CARVED: in an extent that is carved for another shape
 *
 * A slot in state WRITING or VISIBLE is void when its generation is older than
 * the directory's void_before: no walk is needed to make it so.
 */
enum slot_state {
    SLOT_FREE,
    SLOT_WRITING,
    SLOT_VISIBLE,
    SLOT_HIDDEN,
    SLOT_ERASING,
    SLOT_FOREIGN,
    SLOT_CARVED,
    SLOT_STATES
};

/** What the public counts call it; void slots make this differ from the state. */
enum slot_class { CLASS_FREE, CLASS_WRITING, CLASS_VISIBLE, CLASS_FOREIGN, CLASS_LEAVING, CLASSES };

#define SLOT_KEYED 1u /* in the key table */
#define SLOT_HEAD 2u  /* starts a run: its parent is not the slot before it */
#define SLOT_ERASE 4u /* its record is to be emptied before it is free */
#define SLOT_HOLD 8u  /* free, and the first one held for a growing sequence */

/**
 * struct slot - one cache line
 * @touch: time of the last use; see the head comment
 * @parent, @child, @next, @prev: the tree. In the first slot of a hold: owner,
 *   length and the list of holds. @next links the slots that wait for erasure
 * @heap: place in the eviction heap + 1, 0 outside
 * @touches: uses, handed to the parent like @touch; stops at its maximum
 */
struct slot {
    struct tutti_key key;
    uint64_t generation;
    uint64_t touch;
    uint32_t parent;
    uint32_t child;
    uint32_t next;
    uint32_t prev;
    uint32_t depth;
    uint32_t heap;
    uint32_t pins;
    uint16_t touches;
    uint8_t state;
    uint8_t flags;
};

/**
 * struct extent
 * @largest: longest stretch of set bits in its part of the free map
 * @next, @prev: the list of its bucket, or of the carved extents
 * @bucket: log2(@largest) + 1; 0 in no list
 * @carved: belongs to another shape until it is taken back
 */
struct extent {
    uint32_t incarnation;
    uint32_t largest;
    uint32_t next;
    uint32_t prev;
    uint8_t bucket;
    uint8_t carved;
};

struct tutti_directory {
    struct tutti_directory_options options;
    uint64_t geometry_digest;
    uint32_t slots;
    uint32_t per_extent; /* slots of an extent */
    uint32_t stride;     /* slot numbers of an extent */
    uint32_t extents;
    uint32_t members;
    uint64_t all_ranks; /* a bit for each */

    uint64_t epoch;      /* 0: no generation may be given out yet */
    uint64_t epoch_seen; /* largest that load met */
    uint64_t counter;
    uint64_t void_before;
    uint64_t tick;
    bool started; /* too late to load */

    struct slot *slot;
    uint64_t *pending; /* per slot, a bit for each rank that owes a report */

    /* table.c: (hash, slot + 1), 0 is empty */
    uint64_t *cell;
    uint32_t cells;
    uint32_t cells_used;
    uint64_t salt[4];

    /* evict.c: leaves, least recently used on top */
    uint32_t *heap;
    uint32_t heap_used;
    uint32_t guard; /* never evicted: the slot that the reservation extends */

    /* runs.c */
    struct extent *extent;
    uint64_t *open; /* free and not held; per extent open_words words */
    uint32_t open_words;
    uint64_t open_count; /* not counting fenced members' */
    uint64_t open_fenced;
    uint64_t held;
    uint32_t holds;
    uint32_t hold_clock;         /* holds made; wraps */
    uint32_t (*bucket)[BUCKETS]; /* per member, first extent */
    uint64_t *bucket_mask;       /* per member, which are not empty */
    uint32_t carved;             /* first extent that can be taken back */
    uint32_t oldest_hold;
    uint32_t newest_hold;
    uint32_t run_slots;
    uint32_t run_cap; /* longest run: unlimited with one member, else a stripe */
    uint32_t spare;   /* slots that are evicted ahead of need */
    uint32_t next_member;
    uint32_t fenced; /* a bit for each member */

    uint32_t erase_first;
    uint32_t erase_last;

    uint64_t count[CLASSES];
    uint64_t pinned;
    uint64_t evicted;
    uint64_t dropped;
    uint64_t refused;
    uint64_t runs;
    uint64_t memory_bytes;
};

static inline bool slot_void(const struct tutti_directory *d, const struct slot *s)
{
    return s->generation < d->void_before;
}

/** Whether find() may meet it. */
static inline bool slot_visible(const struct tutti_directory *d, const struct slot *s)
{
    return s->state == SLOT_VISIBLE && !slot_void(d, s);
}

static inline uint32_t slot_number(const struct tutti_directory *d, uint32_t slot)
{
    if (d->stride == d->per_extent)
        return slot;
    return slot / d->per_extent * d->stride + slot % d->per_extent;
}

/** Return: NONE for a number that names no slot. */
static inline uint32_t slot_index(const struct tutti_directory *d, uint32_t number)
{
    uint32_t extent;
    uint32_t index;

    if (d->stride == d->per_extent)
        return number < d->slots ? number : NONE;
    extent = number / d->stride;
    index = number % d->stride;
    return extent < d->extents && index < d->per_extent ? extent * d->per_extent + index : NONE;
}

static inline bool extent_fenced(const struct tutti_directory *d, uint32_t extent)
{
    return d->fenced != 0 && (d->fenced >> extent % d->members & 1);
}

static inline bool slot_fenced(const struct tutti_directory *d, uint32_t slot)
{
    return d->fenced != 0 && extent_fenced(d, slot / d->per_extent);
}

/** Whether @slot is the first of its extent, so that no run reaches it from below. */
static inline bool slot_first(const struct tutti_directory *d, uint32_t slot)
{
    return slot % d->per_extent == 0;
}

/* tree.c */
enum slot_class directory_class(const struct tutti_directory *d, const struct slot *s);
void directory_set_state(struct tutti_directory *d, uint32_t slot, enum slot_state state);
void directory_attach(struct tutti_directory *d, uint32_t slot, uint32_t parent);
uint32_t directory_detach(struct tutti_directory *d, uint32_t slot);
void directory_unkey(struct tutti_directory *d, uint32_t slot);
void directory_make_free(struct tutti_directory *d, uint32_t slot);
void directory_show(struct tutti_directory *d, uint32_t slot);
uint32_t directory_hide(struct tutti_directory *d, uint32_t slot, bool erase);
void directory_leave(struct tutti_directory *d, uint32_t slot);

/* table.c */
void directory_table_seed(struct tutti_directory *d);
uint64_t directory_table_hash(const struct tutti_directory *d, struct tutti_key key);
void directory_table_prefetch(const struct tutti_directory *d, uint64_t hash);
uint32_t directory_table_find(const struct tutti_directory *d, struct tutti_key key, uint64_t hash);
void directory_table_insert(struct tutti_directory *d, uint32_t slot, uint64_t hash);
void directory_table_remove(struct tutti_directory *d, uint32_t slot);

/* runs.c */
void directory_open_range(struct tutti_directory *d, uint32_t slot, uint32_t count);
bool directory_place(struct tutti_directory *d, uint32_t parent, uint32_t want, bool grows,
                     uint32_t *start, uint32_t *count, bool *head);
void directory_hold_behind(struct tutti_directory *d, uint32_t slot);
void directory_hold_release(struct tutti_directory *d, uint32_t first);
void directory_close(struct tutti_directory *d, uint32_t slot);
void directory_measure(struct tutti_directory *d, uint32_t extent);
uint32_t directory_longest_range(const struct tutti_directory *d, uint32_t extent);
bool directory_slot_open(const struct tutti_directory *d, uint32_t slot);
uint64_t directory_open_slots(const struct tutti_directory *d, uint32_t extent);

/* fence.c */
uint32_t directory_before_fence(const struct tutti_directory *d, uint32_t slot);

/* evict.c */
bool directory_evictable(const struct tutti_directory *d, uint32_t slot);
void directory_settle(struct tutti_directory *d, uint32_t slot);
bool directory_foreign_waits(const struct tutti_directory *d);
uint32_t directory_evict(struct tutti_directory *d, uint32_t most);
bool directory_take_back(struct tutti_directory *d);

#endif
