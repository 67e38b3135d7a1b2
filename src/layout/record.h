/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.h: making a record, and not believing one.
 *
 * A record counts only when its own checksum holds and it is the one that was
 * asked for: pool, member, rank, slot, shape, generation and key. An
 * acknowledged but lost write leaves an old record and old data that agree
 * with each other, so agreement alone proves nothing.
 */
#ifndef TUTTI_LAYOUT_RECORD_H
#define TUTTI_LAYOUT_RECORD_H

#include <errno.h>
#include <string.h>

#include "base/checksum.h"
#include "tutti/format.h"

/** The layer checksums behind a record's header. */
static inline uint64_t *tutti_record_sums(struct tutti_record *record)
{
    return (uint64_t *)(void *)(record + 1);
}

static inline uint64_t tutti_record_sum(const struct tutti_record *record, uint32_t layer)
{
    return ((const uint64_t *)(const void *)(record + 1))[layer];
}

/** A record's own checksum; @record is readable for tutti_record_bytes(layers). */
static inline uint64_t tutti_record_own_sum(const struct tutti_record *record, uint32_t layers)
{
    uint64_t copy[(TUTTI_RECORD_HEADER + 8 * TUTTI_MAX_LAYERS) / 8];
    uint32_t bytes = tutti_record_bytes(layers);

    memcpy(copy, record, bytes);
    ((struct tutti_record *)(void *)copy)->checksum = 0;
    return tutti_sum64(copy, bytes);
}

/** Complete a record: everything else is in place, the bytes behind the sums are zero. */
static inline void tutti_record_seal(struct tutti_record *record)
{
    record->checksum = tutti_record_own_sum(record, record->layers);
}

/**
 * tutti_record_whole() - whether these bytes are a record of ours at all
 * @stride: readable bytes at @record
 *
 * Return: 0; -ENODATA for an empty one (all zero head, or emptied by us);
 * -EBADMSG for anything else that fails.
 */
static inline int tutti_record_whole(const struct tutti_record *record, uint32_t stride)
{
    if (record->magic == 0)
        return -ENODATA;
    if (record->magic != TUTTI_RECORD_MAGIC || record->version != TUTTI_FORMAT_VERSION ||
        record->layers < 1 || record->layers > TUTTI_MAX_LAYERS ||
        tutti_record_bytes(record->layers) > stride ||
        record->checksum != tutti_record_own_sum(record, record->layers))
        return -EBADMSG;
    return record->flags & TUTTI_RECORD_EMPTY ? -ENODATA : 0;
}

/**
 * tutti_record_match() - whether a whole record is the one asked for
 * @stencil: pool, rank, geometry, group and layers that it must carry
 *
 * Return: 0 or -ESTALE.
 */
static inline int tutti_record_match(const struct tutti_record *record,
                                     const struct tutti_record *stencil, uint32_t member,
                                     uint32_t slot, uint64_t generation, struct tutti_key key)
{
    if (memcmp(record->pool, stencil->pool, sizeof(record->pool)) != 0 ||
        record->rank != stencil->rank || record->geometry != stencil->geometry ||
        record->group != stencil->group || record->layers != stencil->layers ||
        record->member != member || record->slot != slot || record->generation != generation ||
        !tutti_key_equal(record->key, key))
        return -ESTALE;
    return 0;
}

#endif
