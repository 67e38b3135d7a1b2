/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fence.c: members that nothing is asked of.
 *
 * A fence changes no slot: it is a bit, so that lifting it brings everything
 * back. What it costs is monotony: behind a slot on a fenced member, a chain
 * has slots that are visible and must not be hit. So whoever finds a slot walks
 * up from it once, while there is a fence.
 */
#include "directory/internal.h"

#include <errno.h>

_Static_assert(TUTTI_MAX_MEMBERS < 32, "a bit for each, and a shift by their number");

/* The last slot of the chain that ends in @slot before any fenced one, or NONE. */
uint32_t directory_before_fence(const struct tutti_directory *d, uint32_t slot)
{
    uint32_t last = slot;

    for (uint32_t n = slot; n != NONE; n = d->slot[n].parent)
        if (slot_fenced(d, n))
            last = d->slot[n].parent;
    return last;
}

int tutti_directory_fence_members(struct tutti_directory *d, uint32_t members)
{
    if (members >> d->members != 0)
        return -EINVAL;
    if (members == d->fenced)
        return 0;
    d->fenced = members;
    d->open_count = d->open_fenced = 0;
    for (uint32_t e = 0; e < d->extents; e++)
        *(extent_fenced(d, e) ? &d->open_fenced : &d->open_count) += directory_open_slots(d, e);
    return 1;
}
