/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format.h: what lies on disk, byte for byte. docs/format.md explains it.
 *
 * Little-endian, naturally aligned, no implicit padding: the structs are the
 * bytes. Every record stands alone: it is verified before anything it tells is
 * believed, and so is every layer it sums up. Nothing on disk is ordered with
 * regard to anything else, except a superblock, which is flushed.
 */
#ifndef TUTTI_FORMAT_H
#define TUTTI_FORMAT_H

#include <stdint.h>

#include "tutti/geometry.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TUTTI_FORMAT_VERSION 1u
#define TUTTI_SUPERBLOCK_MAGIC UINT64_C(0x31304c4f4f505454) /* "TTPOOL01" */
#define TUTTI_RECORD_MAGIC UINT64_C(0x3130434552545454)     /* "TTTREC01" */
#define TUTTI_SUPERBLOCK_BYTES 4096u
#define TUTTI_SUPERBLOCK_COPY 65536u /* offset of the second copy; the first is at 0 */
#define TUTTI_FIRST_EXTENT (UINT64_C(1) << 20)

/**
 * struct tutti_key - a keyed hash that names a block's content
 *
 * SipHash-2-4 with 128-bit output over (identity, group, engine block hash)
 * under the pool's secret; see tutti_key_make(). All zero: no key (the parent
 * of a first block).
 */
struct tutti_key {
    uint64_t word[2];
};

TUTTI_INLINE int tutti_key_equal(struct tutti_key a, struct tutti_key b)
{
    return ((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1])) == 0;
}

/*
 * A generation is a number that a slot never has twice: the epoch of the
 * scheduler's life in the upper 24 bits, a counter of that life in the lower
 * 40. 0 is no generation.
 */
#define TUTTI_EPOCH_SHIFT 40u
#define TUTTI_EPOCH_MAX ((UINT64_C(1) << 24) - 1)

TUTTI_INLINE uint64_t tutti_generation_epoch(uint64_t generation)
{
    return generation >> TUTTI_EPOCH_SHIFT;
}

/**
 * struct tutti_record - the on-disk truth about a slot, first 192 bytes
 *
 * Followed by one 64-bit checksum per layer. @checksum is XXH3-64 over the
 * first tutti_record_bytes(layers) bytes with the field itself zero. Unused
 * bytes are zero and are checked.
 */
struct tutti_record {
    uint64_t magic;
    uint32_t version;
    uint32_t flags; /* TUTTI_RECORD_EMPTY or 0 */
    uint8_t pool[16];
    uint32_t rank;
    uint32_t member;
    uint32_t slot;
    uint32_t incarnation; /* of the extent */
    uint64_t geometry;    /* tutti_geometry_digest() */
    uint64_t generation;
    struct tutti_key key;
    struct tutti_key parent;
    uint8_t identity[TUTTI_IDENTITY_BYTES];
    uint8_t engine_hash[TUTTI_ENGINE_HASH_BYTES];
    uint32_t group;
    uint32_t layers;
    uint32_t engine_hash_bytes; /* how many of engine_hash count */
    uint32_t reserved0;
    uint64_t reserved[2];
    uint64_t reserved1;
    uint64_t checksum;
    /* uint64_t layer_sum[layers]; */
};

#define TUTTI_RECORD_EMPTY 1u
#define TUTTI_RECORD_HEADER 192u

/**
 * struct tutti_superblock - one of two copies at the head of a member
 *
 * @checksum is XXH3-64 over all 4,096 bytes with the field itself zero. The
 * valid copy with the larger @sequence counts; they are written in turn.
 */
struct tutti_superblock {
    uint64_t magic;
    uint32_t version;
    uint32_t bytes; /* TUTTI_SUPERBLOCK_BYTES */
    uint8_t pool[16];
    uint64_t sequence;
    uint32_t rank;
    uint32_t ranks;
    uint32_t member;
    uint32_t members;
    uint32_t alignment;
    uint32_t record_stride;
    uint32_t records_per_extent;
    uint32_t extents; /* of this member */
    uint64_t extent_bytes;
    uint64_t first_extent;
    uint64_t epoch;         /* largest epoch that may have written here */
    uint64_t oldest_epoch;  /* records of older epochs are void */
    uint64_t written_bytes; /* over the pool's life, as of this copy */
    uint64_t created;       /* seconds since 1970 */
    uint64_t secret_check;  /* keyed hash of the pool's id: tells a wrong secret file */
    uint8_t identity[TUTTI_IDENTITY_BYTES]; /* of the largest epoch */
    uint32_t groups;
    uint32_t reserved0;
    struct tutti_geometry geometry[TUTTI_MAX_GROUPS]; /* 32 bytes each */
    uint8_t reserved[4096 - 408 - 8];
    uint64_t checksum;
};

/**
 * tutti_generation_counts() - whether what carries this generation may be used
 *
 * An epoch is durable before its first record, so a larger one was never ours; what is older than
 * the oldest valid one is void.
 */
TUTTI_INLINE int tutti_generation_counts(const struct tutti_superblock *s, uint64_t generation)
{
    uint64_t epoch = tutti_generation_epoch(generation);

    return generation != 0 && epoch >= s->oldest_epoch && epoch <= s->epoch;
}

/** Digest of a shape, as records carry it: XXH3-64 over the 32 bytes of the struct. */
uint64_t tutti_geometry_digest(const struct tutti_geometry *g);

/**
 * tutti_key_make() - the key of a block
 * @secret: the pool's 16 secret bytes
 * @identity: what else changes the meaning of the bytes
 * @group: KV cache group
 * @engine_hash: the engine's chained block hash
 * @bytes: its length, 1..TUTTI_ENGINE_HASH_BYTES
 */
struct tutti_key tutti_key_make(const uint8_t secret[16], const uint8_t identity[16],
                                uint32_t group, const uint8_t *engine_hash, uint32_t bytes);

#ifdef __cplusplus
}
#endif
#endif
