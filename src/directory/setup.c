/* SPDX-License-Identifier: Apache-2.0 */
/*
 * setup.c: everything that a directory will ever need, allocated once.
 *
 * Must not know what happens afterwards. Chooses the three numbers that are
 * not the user's: how much a growing sequence holds ahead, how long a run is
 * where several members share the work, and how much may lie idle.
 */
#include "directory/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define MAX_SLOTS (UINT64_C(1) << 31) /* a cell of the table takes two of them */
#define LINE UINT64_C(64)
#define HUGE (UINT64_C(2) << 20)
#define SMALL_POOL 1024u

_Static_assert(sizeof(struct slot) == LINE, "a slot is one cache line");

static int check(const struct tutti_directory_options *o, struct tutti_error *err)
{
    const struct tutti_placement *p = &o->placement;
    uint64_t slots = (uint64_t)p->extents * p->slots_per_extent;

    if (p->extents == 0 || p->slots_per_extent == 0 || p->members == 0 ||
        p->members > TUTTI_MAX_MEMBERS || p->slots_per_extent > p->records_per_extent ||
        (uint64_t)p->extents * p->records_per_extent >= UINT32_MAX)
        return tutti_error_set(err, -EINVAL,
                               "directory: placement of %u extents over %u members, %u slots and "
                               "%u records each",
                               p->extents, p->members, p->slots_per_extent, p->records_per_extent);
    if (slots >= MAX_SLOTS)
        return tutti_error_set(err, -EINVAL, "directory: %llu slots; fewer than %llu are possible",
                               (unsigned long long)slots, (unsigned long long)MAX_SLOTS);
    if (o->ranks < 1 || o->ranks > 64)
        return tutti_error_set(err, -EINVAL, "directory: %u ranks; 1 to 64 are possible", o->ranks);
    if (o->ghosts != 0)
        return tutti_error_set(err, -EINVAL, "directory: ghosts are reserved: must be 0, not %u",
                               o->ghosts);
    return 0;
}

/* Slots that make a layer's command of 1 MiB: longer ones are hardly faster. */
static uint32_t worthwhile(const struct tutti_placement *p)
{
    uint64_t stride = tutti_layer_stride(p);
    uint64_t slots = stride ? (MIB + stride - 1) / stride : 4;

    return slots < 4 ? 4 : slots > 128 ? 128 : (uint32_t)slots;
}

static void choose_sizes(struct tutti_directory *d)
{
    uint32_t worth = worthwhile(&d->options.placement);
    uint32_t most = d->slots / 16 > 1 ? d->slots / 16 : 1;

    d->run_slots = d->options.run_slots;
    if (d->run_slots == 0) {
        d->run_slots = worth < 8 ? 8 : worth;
        if (d->run_slots > most)
            d->run_slots = most;
    }
    if (d->run_slots > d->per_extent)
        d->run_slots = d->per_extent;
    d->run_cap = UINT32_MAX;
    if (d->members > 1)
        d->run_cap = worth > d->run_slots ? worth : d->run_slots;
    d->spare = d->slots < SMALL_POOL ? 0 : d->slots / IDLE_SHARE;
}

/*
 * Zeroed and touched: a page fault costs more than an insert, so none is left
 * for later, and memory that is not there is missed at start.
 */
static void *zeroed(struct tutti_directory *d, uint64_t count, size_t size)
{
    uint64_t bytes = count * size;
    uint64_t alignment = bytes >= 2 * HUGE ? HUGE : LINE;
    void *memory;

    bytes = (bytes + alignment - 1) / alignment * alignment;
    d->memory_bytes += bytes;
    memory = aligned_alloc(alignment, bytes);
    if (!memory)
        return NULL;
    if (alignment == HUGE)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* fewer TLB misses where it works */
    return memset(memory, 0, bytes);
}

static int allocate(struct tutti_directory *d)
{
    d->slot = zeroed(d, d->slots, sizeof(*d->slot));
    d->pending = zeroed(d, d->slots, sizeof(*d->pending));
    d->cell = zeroed(d, d->cells, sizeof(*d->cell));
    d->heap = zeroed(d, d->slots, sizeof(*d->heap));
    d->extent = zeroed(d, d->extents, sizeof(*d->extent));
    d->open = zeroed(d, (uint64_t)d->extents * d->open_words, sizeof(*d->open));
    d->bucket = zeroed(d, d->members, sizeof(*d->bucket));
    d->bucket_mask = zeroed(d, d->members, sizeof(*d->bucket_mask));
    return d->slot && d->pending && d->cell && d->heap && d->extent && d->open && d->bucket &&
                   d->bucket_mask
               ? 0
               : -ENOMEM;
}

int tutti_directory_new(const struct tutti_directory_options *options,
                        struct tutti_directory **directory, struct tutti_error *err)
{
    struct tutti_directory *d;
    uint32_t i;
    int rc = check(options, err);

    *directory = NULL;
    if (rc < 0)
        return rc;
    d = calloc(1, sizeof(*d));
    if (!d)
        return tutti_error_set(err, -ENOMEM, "directory: out of memory");
    d->memory_bytes = sizeof(*d);
    d->options = *options;
    d->geometry_digest = tutti_geometry_digest(&options->geometry);
    d->per_extent = options->placement.slots_per_extent;
    d->stride = options->placement.records_per_extent;
    d->extents = options->placement.extents;
    d->members = options->placement.members;
    d->slots = d->extents * d->per_extent;
    d->all_ranks = options->ranks < 64 ? (UINT64_C(1) << options->ranks) - 1 : ~UINT64_C(0);
    d->open_words = (d->per_extent + 63) / 64;
    d->guard = d->carved = d->oldest_hold = d->newest_hold = NONE;
    d->erase_first = d->erase_last = NONE;
    d->cells = d->slots < 8 ? 16 : 2 * d->slots;
    choose_sizes(d);
    directory_table_seed(d);
    if (allocate(d) < 0) {
        rc = tutti_error_set(err, -ENOMEM,
                             "directory: %llu bytes for %u slots are not to be had: make the pool "
                             "smaller or its blocks larger",
                             (unsigned long long)d->memory_bytes, d->slots);
        tutti_directory_free(d);
        return rc;
    }
    for (i = 0; i < d->members * BUCKETS; i++)
        d->bucket[i / BUCKETS][i % BUCKETS] = NONE;
    d->count[CLASS_FREE] = d->slots;
    for (i = d->extents; i-- > 0;) {
        d->extent[i].next = d->extent[i].prev = NONE;
        directory_open_range(d, i * d->per_extent, d->per_extent);
    }
    *directory = d;
    return 0;
}

void tutti_directory_free(struct tutti_directory *d)
{
    if (!d)
        return;
    free(d->cell);
    free(d->slot);
    free(d->pending);
    free(d->heap);
    free(d->extent);
    free(d->open);
    free(d->bucket);
    free(d->bucket_mask);
    free(d);
}
