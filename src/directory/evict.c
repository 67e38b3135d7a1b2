/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evict.c: which slot goes next.
 *
 * Must not know for whom room is made, or where.
 *
 * Only a leaf that is visible, unpinned and without a child of any kind can
 * go. Those leaves, and slots of another identity, lie in a binary heap by the
 * time of their last use: there are as many as sequences, not as slots. What
 * is foreign was last used before anything of ours (load gives it time 0, a
 * reset turns the clock on), so it goes first without a rule of its own.
 */
#include "directory/internal.h"

#define AHEAD 4u /* whose cell of the table is fetched while this slot goes */

bool directory_evictable(const struct tutti_directory *d, uint32_t slot)
{
    const struct slot *s = &d->slot[slot];

    return (s->state == SLOT_VISIBLE || s->state == SLOT_FOREIGN) && s->child == NONE &&
           s->pins == 0 && slot != d->guard;
}

static bool before(const struct tutti_directory *d, uint32_t a, uint32_t b)
{
    const struct slot *x = &d->slot[a];
    const struct slot *y = &d->slot[b];

    return x->touch != y->touch ? x->touch < y->touch : a < b;
}

static void put(struct tutti_directory *d, uint32_t at, uint32_t slot)
{
    d->heap[at] = slot;
    d->slot[slot].heap = at + 1;
}

static void sift_up(struct tutti_directory *d, uint32_t at, uint32_t slot)
{
    while (at > 0) {
        uint32_t above = (at - 1) / 2;

        if (!before(d, slot, d->heap[above]))
            break;
        put(d, at, d->heap[above]);
        at = above;
    }
    put(d, at, slot);
}

static void sift_down(struct tutti_directory *d, uint32_t at, uint32_t slot)
{
    for (;;) {
        uint32_t below = 2 * at + 1;

        if (below >= d->heap_used)
            break;
        if (below + 1 < d->heap_used && before(d, d->heap[below + 1], d->heap[below]))
            below++;
        if (!before(d, d->heap[below], slot))
            break;
        put(d, at, d->heap[below]);
        at = below;
    }
    put(d, at, slot);
}

/* After anything about a slot changed: in the heap, at its place, or not in it. */
void directory_settle(struct tutti_directory *d, uint32_t slot)
{
    struct slot *s = &d->slot[slot];
    bool wanted = directory_evictable(d, slot);
    uint32_t at;
    uint32_t last;

    if (wanted && s->heap == 0) {
        sift_up(d, d->heap_used++, slot);
    } else if (wanted) {
        sift_up(d, s->heap - 1, slot);
        sift_down(d, s->heap - 1, slot);
    } else if (s->heap != 0) {
        at = s->heap - 1;
        s->heap = 0;
        last = d->heap[--d->heap_used];
        if (at < d->heap_used) {
            sift_up(d, at, last);
            sift_down(d, d->slot[last].heap - 1, last);
        }
    }
}

bool directory_foreign_waits(const struct tutti_directory *d)
{
    return d->heap_used != 0 && directory_class(d, &d->slot[d->heap[0]]) == CLASS_FOREIGN;
}

/*
 * The least recently used leaf goes, and with it the piece of its run above it
 * that was not used since and has no other branch, up to @most slots: what
 * comes free lies together. Return: slots freed, 0 when nothing can go.
 */
uint32_t directory_evict(struct tutti_directory *d, uint32_t most)
{
    uint32_t slot = d->heap_used ? d->heap[0] : NONE;
    uint32_t freed = 0;
    uint64_t touch;

    if (slot == NONE)
        return 0;
    touch = d->slot[slot].touch;
    for (;;) {
        bool head = (d->slot[slot].flags & SLOT_HEAD) != 0;
        uint32_t parent;

        if (slot >= AHEAD && d->slot[slot - AHEAD].flags & SLOT_KEYED)
            directory_table_prefetch(d, directory_table_hash(d, d->slot[slot - AHEAD].key));
        d->evicted += directory_class(d, &d->slot[slot]) == CLASS_VISIBLE;
        directory_unkey(d, slot);
        parent = directory_detach(d, slot);
        directory_make_free(d, slot);
        if (freed == 0)
            directory_settle(d, slot); /* the others never got into the heap */
        freed++;
        if (parent == NONE)
            break;
        if (head || freed >= most || !directory_evictable(d, parent) ||
            d->slot[parent].touch != touch) {
            directory_settle(d, parent);
            break;
        }
        slot = parent;
    }
    return freed;
}

/* An extent of another shape becomes ours, whole: its records end with its incarnation. */
bool directory_take_back(struct tutti_directory *d)
{
    uint32_t extent = d->carved;
    uint32_t first = extent * d->per_extent;
    uint32_t i;

    if (extent == NONE)
        return false;
    d->carved = d->extent[extent].next;
    d->extent[extent].next = NONE;
    d->extent[extent].carved = 0;
    d->extent[extent].incarnation++;
    for (i = 0; i < d->per_extent; i++)
        directory_set_state(d, first + i, SLOT_FREE);
    directory_open_range(d, first, d->per_extent);
    return true;
}
