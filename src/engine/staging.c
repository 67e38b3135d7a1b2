/* SPDX-License-Identifier: Apache-2.0 */
/* staging.c: see staging.h. A next-fit search over a byte a unit; a member has a thousand or so. */
#include "engine/staging.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomics.h"

static uint32_t units_of(size_t bytes)
{
    return (uint32_t)((bytes + STAGING_UNIT - 1) / STAGING_UNIT);
}

int staging_open(struct staging *s, const struct tutti_device *device, size_t bytes,
                 struct tutti_error *err)
{
    void *memory;
    int rc;

    memset(s, 0, sizeof(*s));
    s->device = device;
    s->units = units_of(bytes);
    s->bytes = s->units * STAGING_UNIT;
    s->taken = calloc(s->units, 1);
    if (!s->taken)
        return tutti_error_set(err, -ENOMEM, "no memory for a staging area's table");
    rc = device->alloc(s->bytes, &memory, &s->huge, err);
    if (rc < 0) {
        free(s->taken);
        s->taken = NULL;
        return rc;
    }
    s->memory = memory;
    return 0;
}

void staging_close(struct staging *s)
{
    if (s->memory)
        s->device->free(s->memory, s->bytes);
    free(s->taken);
    s->memory = NULL;
    s->taken = NULL;
}

/** First of @wanted free units in [from, to), or @to. */
static uint32_t find(const struct staging *s, uint32_t from, uint32_t to, uint32_t wanted)
{
    uint32_t run = 0;

    for (uint32_t u = from; u < to; u++) {
        run = s->taken[u] ? 0 : run + 1;
        if (run == wanted)
            return u + 1 - wanted;
    }
    return to;
}

/** Relaxed: figures that order nothing, of one writer. */
static void count(struct staging *s, uint64_t taken)
{
    tutti_store_relaxed(&s->taken_bytes, taken);
    if (taken > s->most_bytes)
        tutti_store_relaxed(&s->most_bytes, taken);
}

void *staging_take(struct staging *s, size_t bytes)
{
    uint32_t wanted = units_of(bytes);
    uint32_t at = find(s, s->next, s->units, wanted);

    if (at == s->units) {
        at = find(s, 0, s->units, wanted);
        if (at == s->units)
            return NULL;
    }
    memset(s->taken + at, 1, wanted);
    s->next = at + wanted;
    count(s, s->taken_bytes + wanted * STAGING_UNIT);
    return s->memory + at * STAGING_UNIT;
}

void staging_give(struct staging *s, void *memory, size_t bytes)
{
    size_t at = (size_t)((uint8_t *)memory - s->memory) / STAGING_UNIT;

    memset(s->taken + at, 0, units_of(bytes));
    count(s, s->taken_bytes - units_of(bytes) * STAGING_UNIT);
}
