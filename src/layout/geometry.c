/* SPDX-License-Identifier: Apache-2.0 */
/*
 * geometry.c: from a shape to a placement, within limits that are checked here
 * and relied on everywhere. Pure: no file, no clock.
 */
#include "tutti/geometry.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "base/checksum.h"
#include "tutti/format.h"

_Static_assert(sizeof(struct tutti_geometry) == 32, "on disk");
_Static_assert(sizeof(struct tutti_record) == TUTTI_RECORD_HEADER, "on disk");
_Static_assert(sizeof(struct tutti_superblock) == TUTTI_SUPERBLOCK_BYTES, "on disk");
_Static_assert(crypto_shorthash_siphashx24_BYTES == sizeof(struct tutti_key), "one key");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

#define MAX_OBJECT_BYTES (UINT64_C(1) << 30)
#define MAX_EXTENT_BYTES (UINT64_C(1) << 40)
#define DATA_ALIGNMENT UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

int tutti_geometry_check(const struct tutti_geometry *g, struct tutti_error *err)
{
    if (g->layers < 1 || g->layers > TUTTI_MAX_LAYERS)
        return tutti_error_set(err, -EINVAL, "geometry: %u layers; 1 to %u are possible", g->layers,
                               TUTTI_MAX_LAYERS);
    if (g->parts < 1 || g->parts > TUTTI_MAX_PARTS)
        return tutti_error_set(err, -EINVAL, "geometry: %u parts a layer; 1 to %u are possible",
                               g->parts, TUTTI_MAX_PARTS);
    if (g->object_bytes < 1 || g->object_bytes > MAX_OBJECT_BYTES)
        return tutti_error_set(
            err, -EINVAL, "geometry: %llu bytes an object; 1 to %llu are possible",
            (unsigned long long)g->object_bytes, (unsigned long long)MAX_OBJECT_BYTES);
    if (g->block_tokens < 1)
        return tutti_error_set(err, -EINVAL, "geometry: a block of 0 tokens");
    if (g->group >= TUTTI_MAX_GROUPS)
        return tutti_error_set(err, -EINVAL, "geometry: group %u; 0 to %u are possible", g->group,
                               TUTTI_MAX_GROUPS - 1);
    if (g->reserved != 0)
        return tutti_error_set(err, -EINVAL, "geometry: reserved field is %u, not 0", g->reserved);
    return 0;
}

uint32_t tutti_record_bytes(uint32_t layers)
{
    uint32_t bytes = TUTTI_RECORD_HEADER + 8 * layers;

    return bytes < 256 ? 256 : bytes;
}

uint64_t tutti_geometry_digest(const struct tutti_geometry *g)
{
    return tutti_sum64(g, sizeof(*g));
}

struct tutti_key tutti_key_make(const uint8_t secret[16], const uint8_t identity[16],
                                uint32_t group, const uint8_t *engine_hash, uint32_t bytes)
{
    unsigned char input[TUTTI_IDENTITY_BYTES + 4 + TUTTI_ENGINE_HASH_BYTES];
    struct tutti_key key;

    memcpy(input, identity, TUTTI_IDENTITY_BYTES);
    memcpy(input + TUTTI_IDENTITY_BYTES, &group, 4);
    memcpy(input + TUTTI_IDENTITY_BYTES + 4, engine_hash, bytes);
    crypto_shorthash_siphashx24((unsigned char *)&key, input, TUTTI_IDENTITY_BYTES + 4 + bytes,
                                secret);
    return key;
}

uint64_t tutti_extent_bytes_default(const struct tutti_geometry *g, uint64_t member_bytes)
{
    uint64_t least = 2 * MIB;
    uint64_t wanted = member_bytes / 64;
    uint64_t slot = (uint64_t)g->layers * g->parts * round_up(g->object_bytes, DATA_ALIGNMENT) +
                    round_up(tutti_record_bytes(g->layers), DATA_ALIGNMENT) + DATA_ALIGNMENT;

    while (least < g->layers * MIB || least < slot)
        least *= 2;
    if (wanted > 1024 * MIB)
        wanted = 1024 * MIB;
    while (least * 2 <= wanted)
        least *= 2;
    return least;
}

int tutti_placement_init(struct tutti_placement *p, const struct tutti_geometry *g,
                         uint32_t alignment, uint64_t first_extent, uint64_t extent_bytes,
                         uint32_t extents, uint32_t members, uint32_t records_per_extent,
                         uint32_t record_stride, struct tutti_error *err)
{
    uint64_t slot_bytes;
    uint64_t slots;
    int rc = tutti_geometry_check(g, err);

    if (rc < 0)
        return rc;
    if (alignment != 512 && alignment != 4096)
        return tutti_error_set(err, -EINVAL, "alignment %u; 512 and 4096 are possible", alignment);
    if (members < 1 || members > TUTTI_MAX_MEMBERS)
        return tutti_error_set(err, -EINVAL, "%u members; 1 to %u are possible", members,
                               TUTTI_MAX_MEMBERS);
    if (extent_bytes == 0 || extent_bytes > MAX_EXTENT_BYTES || extent_bytes % DATA_ALIGNMENT ||
        first_extent % DATA_ALIGNMENT)
        return tutti_error_set(err, -EINVAL, "extents of %llu bytes from offset %llu",
                               (unsigned long long)extent_bytes, (unsigned long long)first_extent);

    memset(p, 0, sizeof(*p));
    p->object_bytes = g->object_bytes;
    p->object_stride = round_up(g->object_bytes, alignment);
    p->record_stride = record_stride ? record_stride
                                     : (uint32_t)round_up(tutti_record_bytes(g->layers), alignment);
    if (p->record_stride % alignment || p->record_stride < tutti_record_bytes(g->layers))
        return tutti_error_set(err, -EINVAL,
                               "a record of %u layers takes %u bytes and the pool holds records "
                               "of %u: format a pool for this model",
                               g->layers, tutti_record_bytes(g->layers), p->record_stride);
    slot_bytes = p->object_stride * g->layers * g->parts; /* > 0: the shape was checked */
    if (records_per_extent) {
        p->data_offset = round_up((uint64_t)records_per_extent * p->record_stride, DATA_ALIGNMENT);
        /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
        slots = p->data_offset < extent_bytes ? (extent_bytes - p->data_offset) / slot_bytes : 0;
        if (slots > records_per_extent)
            slots = records_per_extent;
    } else {
        slots = extent_bytes / (slot_bytes + p->record_stride);
        while (slots > 0 &&
               round_up(slots * p->record_stride, DATA_ALIGNMENT) + slots * slot_bytes >
                   extent_bytes)
            slots--;
        p->data_offset = round_up(slots * p->record_stride, DATA_ALIGNMENT);
    }
    if (slots == 0)
        return tutti_error_set(err, -EINVAL,
                               "an extent of %llu bytes holds no slot of %llu bytes: format the "
                               "pool with larger extents",
                               (unsigned long long)extent_bytes, (unsigned long long)slot_bytes);
    p->slots_per_extent = (uint32_t)slots;
    p->records_per_extent = records_per_extent ? records_per_extent : (uint32_t)slots;
    if ((uint64_t)extents * p->records_per_extent >= UINT32_MAX)
        return tutti_error_set(err, -EINVAL, "%u extents of %u slots are too many slots", extents,
                               p->records_per_extent);
    p->extent_bytes = extent_bytes;
    p->first_extent = first_extent;
    p->alignment = alignment;
    p->extents = extents;
    p->members = members;
    p->layers = g->layers;
    p->parts = g->parts;
    return 0;
}
