/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staging.h: the bounded memory of one member through which goes what cannot
 * go directly.
 *
 * The member thread's alone: no lock; but how much is taken, anybody may read.
 * Everything taken comes back when its command and its checksum have ended, so
 * whoever finds it exhausted needs only wait. Huge pages where there are any,
 * so a piece is one segment.
 */
#ifndef TUTTI_ENGINE_STAGING_H
#define TUTTI_ENGINE_STAGING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/device.h"

#define STAGING_UNIT ((size_t)64 << 10)

struct staging {
    const struct tutti_device *device;
    uint8_t *memory;
    size_t bytes;
    uint32_t units;
    uint32_t next;  /* where the last search ended */
    uint8_t *taken; /* one byte a unit */
    bool huge;
    uint64_t taken_bytes; /* relaxed: now, */
    uint64_t most_bytes;  /* and the most that ever was */
};

int staging_open(struct staging *s, const struct tutti_device *device, size_t bytes,
                 struct tutti_error *err);
void staging_close(struct staging *s);

/** A stretch of @bytes (> 0), aligned to STAGING_UNIT; NULL when there is none just now. */
void *staging_take(struct staging *s, size_t bytes);
void staging_give(struct staging *s, void *memory, size_t bytes);

#endif
