/* SPDX-License-Identifier: Apache-2.0 */
/*
 * geometry.h: shapes, and the two address formulas.
 *
 * Addresses are arithmetic, not metadata: a slot number and a layer give a
 * member and an offset by one formula, a block number and a layer give a memory
 * address by another. Both are inline and use plain numbers only, so the same
 * lines compile for a CPU and for a GPU.
 *
 * Inside an extent (docs/format.md):
 *
 *     +---------+------------------+------------------+-- --+
 *     | records | layer 0          | layer 1          | ... |
 *     |  S x R  | slot 0 1 .. S'-1 | slot 0 1 .. S'-1 |     |
 *     +---------+------------------+------------------+-- --+
 *
 * S records of R bytes whatever the geometry; S' <= S slots of this geometry;
 * a slot's parts of one layer lie side by side. Neighbouring slots of one layer
 * are therefore one stretch of the member: a run is read with one command.
 */
#ifndef TUTTI_GEOMETRY_H
#define TUTTI_GEOMETRY_H

#include <stdint.h>

#include "tutti/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __CUDACC__
#define TUTTI_INLINE static inline __host__ __device__
#else
#define TUTTI_INLINE static inline
#endif

#define TUTTI_MAX_LAYERS 256u /* layers of one KV cache group */
#define TUTTI_MAX_PARTS 4u    /* parts of one layer: 2 for K and V, 1 where fused or MLA */
#define TUTTI_MAX_MEMBERS 16u /* members of one rank */
#define TUTTI_MAX_GROUPS 8u   /* geometries of one pool */
#define TUTTI_IDENTITY_BYTES 16u
#define TUTTI_ENGINE_HASH_BYTES 32u

/**
 * struct tutti_geometry - the shape of one KV cache group on one rank
 * @layers: layers of the group, 1..TUTTI_MAX_LAYERS
 * @parts: tensors of one layer, 1..TUTTI_MAX_PARTS
 * @object_bytes: bytes of one engine block of one part of one layer
 * @block_tokens: tokens of one engine block
 * @layout_tag: the engine's memory layout of a block; equal tags promise equal
 *   meaning of the bytes, chosen by the adapter
 * @group: number of the KV cache group, 0..TUTTI_MAX_GROUPS-1
 */
struct tutti_geometry {
    uint32_t layers;
    uint32_t parts;
    uint64_t object_bytes;
    uint32_t block_tokens;
    uint32_t layout_tag;
    uint32_t group;
    uint32_t reserved; /* 0 */
};

/**
 * struct tutti_placement - everything that the disk address formula needs
 * @extent_bytes: bytes of an extent
 * @first_extent: offset of extent 0 in every member, bytes
 * @data_offset: offset of the layer area inside an extent, bytes
 * @object_bytes: bytes of an object that carry data
 * @object_stride: bytes from one object to the next, a multiple of @alignment
 * @record_stride: bytes from one record to the next, a multiple of @alignment
 * @alignment: the pool's alignment, 512 or 4096
 * @records_per_extent: S; slot numbers run in steps of it from extent to extent
 * @slots_per_extent: S'; slots of this geometry in one extent, <= S
 * @extents: extents of the rank, over all its members
 * @members: members of the rank; extent e lies on member e % members
 * @layers: layers of the geometry
 * @parts: parts per layer
 *
 * Made by tutti_placement_init(), then never changed.
 */
struct tutti_placement {
    uint64_t extent_bytes;
    uint64_t first_extent;
    uint64_t data_offset;
    uint64_t object_bytes;
    uint64_t object_stride;
    uint32_t record_stride;
    uint32_t alignment;
    uint32_t records_per_extent;
    uint32_t slots_per_extent;
    uint32_t extents;
    uint32_t members;
    uint32_t layers;
    uint32_t parts;
};

/**
 * struct tutti_place - where something lies on disk
 * @offset: bytes from the start of the member
 * @member: number of the member under its rank
 */
struct tutti_place {
    uint64_t offset;
    uint32_t member;
};

/** Bytes of one slot's layer on disk: its parts side by side, strides included. */
TUTTI_INLINE uint64_t tutti_layer_stride(const struct tutti_placement *p)
{
    return p->object_stride * p->parts;
}

/** Start of an extent. @extent must be < p->extents. */
TUTTI_INLINE struct tutti_place tutti_extent_place(const struct tutti_placement *p, uint32_t extent)
{
    struct tutti_place place;

    place.member = extent % p->members;
    place.offset = p->first_extent + (uint64_t)(extent / p->members) * p->extent_bytes;
    return place;
}

/** The record of a slot. @slot must be a valid slot number. */
TUTTI_INLINE struct tutti_place tutti_record_place(const struct tutti_placement *p, uint32_t slot)
{
    struct tutti_place place = tutti_extent_place(p, slot / p->records_per_extent);

    place.offset += (uint64_t)(slot % p->records_per_extent) * p->record_stride;
    return place;
}

/** The object (slot, layer, part). Neighbouring slots are neighbours on disk. */
TUTTI_INLINE struct tutti_place tutti_object_place(const struct tutti_placement *p, uint32_t slot,
                                                   uint32_t layer, uint32_t part)
{
    struct tutti_place place = tutti_extent_place(p, slot / p->records_per_extent);
    uint64_t row = (uint64_t)layer * p->slots_per_extent + slot % p->records_per_extent;

    place.offset += p->data_offset + (row * p->parts + part) * p->object_stride;
    return place;
}

/** Whether a slot number names a slot of this geometry. */
TUTTI_INLINE int tutti_slot_valid(const struct tutti_placement *p, uint32_t slot)
{
    return slot / p->records_per_extent < p->extents &&
           slot % p->records_per_extent < p->slots_per_extent;
}

/** Whether b is the slot after a in the same extent, so that one command reaches both. */
TUTTI_INLINE int tutti_slot_follows(const struct tutti_placement *p, uint32_t a, uint32_t b)
{
    return b == a + 1 && b % p->records_per_extent != 0;
}

/**
 * struct tutti_kv_plane - the memory of one part of one layer
 * @base: address of block 0
 * @block_stride: bytes from one block to the next; a block's object_bytes are
 *   contiguous (other layouts are refused when registered)
 */
struct tutti_kv_plane {
    uint64_t base;
    uint64_t block_stride;
};

/**
 * tutti_kv_address() - the memory formula
 * @planes: layers x parts planes, layer-major
 * @parts: parts per layer
 *
 * Return: address of the object's first byte in device memory.
 */
TUTTI_INLINE uint64_t tutti_kv_address(const struct tutti_kv_plane *planes, uint32_t parts,
                                       uint32_t layer, uint32_t part, uint32_t block)
{
    const struct tutti_kv_plane *plane = &planes[layer * parts + part];

    return plane->base + (uint64_t)block * plane->block_stride;
}

/**
 * tutti_geometry_check() - refuse shapes outside the limits
 *
 * Return: 0, or -EINVAL with a message that names the field and its limit.
 */
int tutti_geometry_check(const struct tutti_geometry *g, struct tutti_error *err);

/** Bytes of a record of @layers layers before padding: docs/format.md, "Record". */
uint32_t tutti_record_bytes(uint32_t layers);

/**
 * tutti_extent_bytes_default() - the extent size that format chooses
 * @member_bytes: bytes of the smallest member
 *
 * At least layers x 1 MiB, so that one layer of one extent is a command of
 * 1 MiB or more; larger where the pool is large, so that the record areas are
 * large pieces and a scan is fast. A power of two, at most 1 GiB where that
 * suffices for the bound.
 */
uint64_t tutti_extent_bytes_default(const struct tutti_geometry *g, uint64_t member_bytes);

/**
 * tutti_placement_init() - derive the placement of a geometry in a pool
 * @alignment: 512 or 4096
 * @records_per_extent: 0 when formatting a pool whose first geometry this is
 *   (then as many as slots fit), else the pool's number
 * @record_stride: 0 as above, else the pool's number
 *
 * Return: 0, or -EINVAL with a message (extent too small for one slot, ...).
 */
int tutti_placement_init(struct tutti_placement *p, const struct tutti_geometry *g,
                         uint32_t alignment, uint64_t first_extent, uint64_t extent_bytes,
                         uint32_t extents, uint32_t members, uint32_t records_per_extent,
                         uint32_t record_stride, struct tutti_error *err);

#ifdef __cplusplus
}
#endif
#endif
