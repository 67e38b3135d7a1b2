/* SPDX-License-Identifier: Apache-2.0 */
/*
 * audit.c: what must hold between the parts of the directory, checked.
 *
 * Changes nothing and allocates nothing; a walk over slots and one over
 * extents. Every count is counted anew, every link is followed both ways, and
 * every structure that only makes things fast is compared with what it sums up.
 */
#include "directory/internal.h"

#include <errno.h>
#include <string.h>

static int broken(const struct tutti_directory *d, uint32_t slot, const char *what,
                  struct tutti_error *err)
{
    const struct slot *s = &d->slot[slot];

    return tutti_error_set(err, -EUCLEAN,
                           "directory: slot %u (state %u, generation %llx): %s; restart the engine "
                           "and report this",
                           slot_number(d, slot), s->state, (unsigned long long)s->generation, what);
}

static const char *check_links(const struct tutti_directory *d, uint32_t slot)
{
    const struct slot *s = &d->slot[slot];
    const struct slot *p;

    if (s->child != NONE && (s->child >= d->slots || d->slot[s->child].parent != slot ||
                             d->slot[s->child].prev != NONE))
        return "its first child is not its child";
    if (s->parent == NONE) {
        if (s->depth != 0)
            return "no parent, but not a first block";
        if (!(s->flags & SLOT_HEAD))
            return "no parent, but no run's first";
        return s->next == NONE && s->prev == NONE ? NULL : "no parent, but siblings";
    }
    if (s->parent >= d->slots)
        return "its parent is no slot";
    p = &d->slot[s->parent];
    if (s->depth != p->depth + 1)
        return "its depth is not its parent's + 1";
    if (s->prev == NONE ? p->child != slot : s->prev >= d->slots || d->slot[s->prev].next != slot)
        return "missing among its parent's children";
    if (s->next != NONE && (s->next >= d->slots || d->slot[s->next].prev != slot ||
                            d->slot[s->next].parent != s->parent))
        return "its next sibling is none";
    if (!(s->flags & SLOT_HEAD) && (s->parent + 1 != slot || slot_first(d, slot)))
        return "goes on a run that it is not behind";
    return NULL;
}

/* What a slot in the tree must satisfy, by its state. */
static const char *check_life(const struct tutti_directory *d, uint32_t slot)
{
    const struct slot *s = &d->slot[slot];
    const struct slot *p = s->parent < d->slots ? &d->slot[s->parent] : NULL;
    bool keyed = (s->flags & SLOT_KEYED) != 0;

    if (s->generation == 0)
        return "used without a generation";
    if (keyed && directory_table_find(d, s->key, directory_table_hash(d, s->key)) != slot)
        return "its key leads elsewhere";
    switch ((enum slot_state)s->state) {
    case SLOT_WRITING:
        if (d->pending[slot] == 0 && !slot_void(d, s) && (!p || slot_visible(d, p)))
            return "complete, but not visible";
        if (p && p->state != SLOT_WRITING && p->state != SLOT_VISIBLE)
            return "being written below a slot that was hidden";
        break;
    case SLOT_VISIBLE:
        if (d->pending[slot] != 0)
            return "visible before all ranks reported";
        if (p && (p->state != SLOT_VISIBLE || (slot_void(d, p) && !slot_void(d, s))))
            return "visible below a slot that is not";
        break;
    case SLOT_HIDDEN:
        if (keyed)
            return "hidden with a key";
        if (s->child == NONE && s->pins == 0 && d->pending[slot] == 0)
            return "hidden, and nothing needs it";
        if (s->child < d->slots && d->slot[s->child].state != SLOT_HIDDEN)
            return "hidden, its child is not";
        return NULL;
    case SLOT_FOREIGN:
        if (keyed || s->pins || d->pending[slot] || s->child != NONE || s->parent != NONE)
            return "foreign, but in use";
        return NULL;
    default:
        return "in no state";
    }
    if (!keyed && !slot_void(d, s))
        return "not in the key table";
    return NULL;
}

/* What a slot outside the tree must satisfy. */
static const char *check_rest(const struct tutti_directory *d, uint32_t slot)
{
    const struct slot *s = &d->slot[slot];

    if (s->pins || d->pending[slot])
        return "pinned or unreported, but nobody's";
    if (s->flags & SLOT_KEYED)
        return "nobody's, but with a key";
    if (s->state == SLOT_CARVED && !d->extent[slot / d->per_extent].carved)
        return "of another shape in an extent of ours";
    if (s->state == SLOT_FREE && d->extent[slot / d->per_extent].carved)
        return "free in an extent of another shape";
    return NULL;
}

static int check_slots(const struct tutti_directory *d, struct tutti_error *err)
{
    uint64_t count[CLASSES] = {0};
    uint64_t keyed = 0;
    uint64_t runs = 0;
    uint64_t pins = 0;
    uint64_t heaped = 0;
    uint64_t erasing = 0;
    uint32_t n;

    for (n = 0; n < d->slots; n++) {
        const struct slot *s = &d->slot[n];
        enum slot_class class = directory_class(d, s);
        bool outside = s->state == SLOT_FREE || s->state == SLOT_ERASING || s->state == SLOT_CARVED;
        const char *what = outside ? check_rest(d, n) : check_life(d, n);

        if (!what && !outside && s->state != SLOT_FOREIGN)
            what = check_links(d, n);
        if (!what && (s->heap != 0) != directory_evictable(d, n))
            what = s->heap ? "could be evicted, but must not" : "can't be evicted, but should";
        if (!what && s->heap != 0 && (s->heap > d->heap_used || d->heap[s->heap - 1] != n))
            what = "not at its place in the heap";
        if (!what && s->state != SLOT_FREE && directory_slot_open(d, n))
            what = "used, but free in the map";
        if (what)
            return broken(d, n, what, err);
        count[class]++;
        keyed += (s->flags & SLOT_KEYED) != 0;
        pins += s->pins;
        heaped += s->heap != 0;
        erasing += s->state == SLOT_ERASING;
        runs += class == CLASS_VISIBLE && (s->flags & SLOT_HEAD);
    }
    for (n = d->erase_first; n < d->slots && erasing > 0; n = d->slot[n].next, erasing--)
        if (d->slot[n].state != SLOT_ERASING)
            return broken(d, n, "queued for erasure, but in use", err);
    if (n != NONE || erasing != 0)
        return tutti_error_set(err, -EUCLEAN, "directory: the erasure queue is not whole");
    if (memcmp(count, d->count, sizeof(count)) != 0)
        return tutti_error_set(
            err, -EUCLEAN,
            "directory: counts (free, writing, visible, foreign, leaving) are %llu %llu %llu %llu "
            "%llu, slots say %llu %llu %llu %llu %llu",
            (unsigned long long)d->count[0], (unsigned long long)d->count[1],
            (unsigned long long)d->count[2], (unsigned long long)d->count[3],
            (unsigned long long)d->count[4], (unsigned long long)count[0],
            (unsigned long long)count[1], (unsigned long long)count[2],
            (unsigned long long)count[3], (unsigned long long)count[4]);
    if (keyed != d->cells_used || runs != d->runs || pins != d->pinned || heaped != d->heap_used)
        return tutti_error_set(err, -EUCLEAN,
                               "directory: %u keys, %llu runs, %llu pins, %u leaves; slots say "
                               "%llu, %llu, %llu, %llu",
                               d->cells_used, (unsigned long long)d->runs,
                               (unsigned long long)d->pinned, d->heap_used,
                               (unsigned long long)keyed, (unsigned long long)runs,
                               (unsigned long long)pins, (unsigned long long)heaped);
    return 0;
}

static int check_heap(const struct tutti_directory *d, struct tutti_error *err)
{
    uint32_t i;

    for (i = 1; i < d->heap_used; i++)
        if (d->slot[d->heap[i]].touch < d->slot[d->heap[(i - 1) / 2]].touch)
            return broken(d, d->heap[i], "used before what lies above it in the heap", err);
    return 0;
}

/* Free slots are open or held; each hold lies behind its owner. */
static int check_holds(const struct tutti_directory *d, struct tutti_error *err)
{
    uint64_t held = 0;
    uint32_t holds = 0;
    uint32_t last = NONE;
    uint32_t n;
    uint32_t i;

    for (n = d->oldest_hold; n < d->slots && held <= d->held; last = n, n = d->slot[n].next) {
        const struct slot *s = &d->slot[n];

        if (s->state != SLOT_FREE || !(s->flags & SLOT_HOLD) || s->prev != last)
            return broken(d, n, "in the list of holds, but holds nothing", err);
        if (n == 0 || s->parent != n - 1 || slot_first(d, n) || d->slot[n - 1].state == SLOT_FREE)
            return broken(d, n, "held behind nobody", err);
        for (i = 0; i < s->child; i++)
            if (n + i >= d->slots || d->slot[n + i].state != SLOT_FREE ||
                directory_slot_open(d, n + i) || (i > 0 && slot_first(d, n + i)))
                return broken(d, n, "holds what is not free", err);
        held += s->child;
        holds++;
    }
    if (n != NONE || holds != d->holds || last != d->newest_hold || held != d->held ||
        d->open_count + d->open_fenced + d->held != d->count[CLASS_FREE])
        return tutti_error_set(err, -EUCLEAN,
                               "directory: %llu slots open and %llu held of %llu free; holds say "
                               "%llu",
                               (unsigned long long)(d->open_count + d->open_fenced),
                               (unsigned long long)d->held,
                               (unsigned long long)d->count[CLASS_FREE], (unsigned long long)held);
    return 0;
}

static int check_extents(const struct tutti_directory *d, struct tutti_error *err)
{
    uint64_t listed = 0;
    uint64_t wanted = 0;
    uint64_t open[2] = {0, 0}; /* of members that are not fenced, and that are */
    uint32_t e;
    uint32_t m;
    uint32_t b;

    for (e = 0; e < d->extents; e++) {
        const struct extent *x = &d->extent[e];
        uint32_t largest = directory_longest_range(d, e);

        if (x->largest != largest || (x->largest >> x->bucket) != 0 ||
            (x->bucket && !(x->largest >> (x->bucket - 1))))
            return tutti_error_set(err, -EUCLEAN,
                                   "directory: extent %u has a free stretch of %u, list %u, and "
                                   "remembers %u",
                                   e, largest, x->bucket, x->largest);
        wanted += x->bucket != 0;
        open[extent_fenced(d, e)] += directory_open_slots(d, e);
    }
    for (m = 0; m < d->members; m++)
        for (b = 1; b < BUCKETS; b++) {
            if ((d->bucket[m][b] != NONE) != (d->bucket_mask[m] >> b & 1))
                return tutti_error_set(err, -EUCLEAN, "directory: member %u, list %u: mask", m, b);
            for (e = d->bucket[m][b]; e < d->extents && listed <= wanted; e = d->extent[e].next) {
                if (d->extent[e].bucket != b || e % d->members != m)
                    return tutti_error_set(err, -EUCLEAN, "directory: extent %u in list %u of %u",
                                           e, b, m);
                listed++;
            }
        }
    if (listed != wanted || open[0] != d->open_count || open[1] != d->open_fenced)
        return tutti_error_set(
            err, -EUCLEAN,
            "directory: %llu extents listed of %llu; %llu and %llu slots open in "
            "the map, %llu and %llu counted",
            (unsigned long long)listed, (unsigned long long)wanted, (unsigned long long)open[0],
            (unsigned long long)open[1], (unsigned long long)d->open_count,
            (unsigned long long)d->open_fenced);
    return 0;
}

int tutti_directory_audit(const struct tutti_directory *d, struct tutti_error *err)
{
    int rc = check_slots(d, err);

    if (rc == 0)
        rc = check_heap(d, err);
    if (rc == 0)
        rc = check_holds(d, err);
    if (rc == 0)
        rc = check_extents(d, err);
    return rc;
}
