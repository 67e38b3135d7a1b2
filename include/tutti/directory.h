/* SPDX-License-Identifier: Apache-2.0 */
/*
 * directory.h: who is where, what is pinned, what goes next.
 *
 * The volatile key table of a pool, in the scheduler's process. It does no
 * I/O and knows no file. One thread at a time.
 *
 * The one idea: presence is monotone. A slot is visible only while its parent
 * is, so along a chain of block hashes "present" is true up to a point and
 * false behind it: the longest prefix is found by binary search (a few keyed
 * hashes, whatever the length), and the slots of the prefix by walking up
 * parents (no hash at all).
 *
 * A slot's life:
 *     free -> writing -> (reported by every rank) visible -> free
 * Dropping or evicting hides it and its subtree at once; the number itself is
 * free again only when nothing may touch it: no pin, and every rank has
 * reported on its generation.
 */
#ifndef TUTTI_DIRECTORY_H
#define TUTTI_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"
#include "tutti/format.h"
#include "tutti/geometry.h"
#include "tutti/pool.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TUTTI_NO_SLOT UINT32_MAX

struct tutti_directory;

/**
 * struct tutti_directory_options
 * @placement: placement of the group; extents is the minimum over ranks
 * @geometry: shape of the group; slots of other shapes are foreign
 * @ranks: how many ranks report on a slot, 1..64
 * @secret: the pool's
 * @identity: slots of other identities are foreign: never hit, first to go
 * @run_slots: slots that a growing sequence holds ahead so that decode does
 *   not make runs of one; 0 chooses
 * @ghosts: room for keys of evicted slots, for admission by reuse; reserved, 0
 */
struct tutti_directory_options {
    struct tutti_placement placement;
    struct tutti_geometry geometry;
    uint32_t ranks;
    uint8_t secret[16];
    uint8_t identity[TUTTI_IDENTITY_BYTES];
    uint32_t run_slots;
    uint32_t ghosts;
};

/** One slot of a transfer map: what a load or store names. 32 bytes. */
struct tutti_transfer {
    uint32_t slot;
    uint32_t block; /* engine block number; the directory leaves it alone */
    uint64_t generation;
    struct tutti_key key;
};

/** What a record needs beside the transfer, for a store. */
struct tutti_origin {
    struct tutti_key parent;
    uint8_t engine_hash[TUTTI_ENGINE_HASH_BYTES];
    uint32_t engine_hash_bytes;
    uint32_t incarnation;
};

/**
 * struct tutti_match - the longest visible prefix
 * @blocks: its length in blocks, 0 for none
 * @slot: slot of its last block
 * @generation: and its generation: pinning fails when the slot has moved on
 */
struct tutti_match {
    uint32_t blocks;
    uint32_t slot;
    uint64_t generation;
};

/** Counts of slots, and of events since the start. */
struct tutti_directory_stats {
    uint64_t slots; /* capacity */
    uint64_t free;
    uint64_t writing;
    uint64_t visible;
    uint64_t foreign;
    uint64_t leaving; /* hidden, but still pinned, unreported or to be erased */
    uint64_t pinned;  /* pins held */
    uint64_t evicted;
    uint64_t dropped;
    uint64_t refused; /* reservations cut short: no slot could be freed */
    uint64_t runs;    /* runs among the visible slots */
    uint64_t memory_bytes;
    uint64_t fenced_members; /* a bit for each */
};

int tutti_directory_new(const struct tutti_directory_options *options,
                        struct tutti_directory **directory, struct tutti_error *err);
void tutti_directory_free(struct tutti_directory *d);

/**
 * tutti_directory_load() - take over what the ranks' scans found; once, first
 * @entries: per rank, sorted by slot
 * @counts: per rank
 *
 * Keeps what all ranks hold with equal (slot, generation, key) and whose
 * ancestors are kept; foreign slots occupy their place until evicted. The
 * rest is free. Recency is the order of generations.
 */
int tutti_directory_load(struct tutti_directory *d, const struct tutti_scan_entry *const *entries,
                         const size_t *counts, struct tutti_error *err);

/**
 * tutti_directory_begin_epoch() - start giving out generations of an epoch
 * @epoch: larger than any before
 * @reset: everything older is void from now on, in O(1)
 * @identity: NULL keeps it; a new one makes older slots foreign
 */
int tutti_directory_begin_epoch(struct tutti_directory *d, uint64_t epoch, bool reset,
                                const uint8_t *identity, struct tutti_error *err);

/**
 * tutti_directory_find() - longest visible prefix of a chain; no side effect
 * @hashes: @count engine block hashes, @hash_bytes each, back to back
 *
 * O(log count) keyed hashes. Return: 0; @match->blocks tells.
 */
int tutti_directory_find(const struct tutti_directory *d, const uint8_t *hashes,
                         uint32_t hash_bytes, uint32_t count, struct tutti_match *match);

/**
 * tutti_directory_pin() - hold a prefix against eviction and list its slots
 * @match: from find; may be shortened by the caller's wish through @first
 * @first: list blocks from this one on (the engine has those before)
 * @out: match->blocks - first transfers; .block is left alone
 *
 * Counts as a use of the whole prefix. Return: 0; -ESTALE when the slot no
 * longer holds that generation (find again); -EUCLEAN when the prefix is not
 * match->blocks long (an invariant is broken).
 */
int tutti_directory_pin(struct tutti_directory *d, const struct tutti_match *match, uint32_t first,
                        struct tutti_transfer *out);

/** Let go. Return: 0, or -EINVAL when that generation holds no pin. */
int tutti_directory_unpin(struct tutti_directory *d, uint32_t slot, uint64_t generation);

/**
 * tutti_directory_reserve() - places for blocks [first, first + count) of a chain
 * @hashes: the chain's hashes from block 0 on
 * @grows: the sequence is decoding: hold the next slots of its run for it
 * @out, @origin, @index: one entry per slot given (arrays of @count): the
 *   transfer (.block untouched), its origin, and its block's place in the chain
 *
 * Blocks that are present or being written already get no entry. Admission is
 * prefix-closed: it stops at the first block that gets no place. Evicts leaf
 * runs as needed. Counts as a use of the prefix.
 *
 * Return: number of entries; -ENOENT when block first - 1 is neither visible
 *   nor being written; -EINVAL before the first epoch.
 */
int tutti_directory_reserve(struct tutti_directory *d, const uint8_t *hashes, uint32_t hash_bytes,
                            uint32_t first, uint32_t count, bool grows, struct tutti_transfer *out,
                            struct tutti_origin *origin, uint32_t *index);

/**
 * tutti_directory_report() - a rank's word on a write
 * @ok: false when the rank did not or could not write it
 *
 * Visible when every rank said yes and its parent is visible. One no: hidden
 * with its subtree, free when every rank has spoken. Return: 0, or -EINVAL for
 * a (slot, generation, rank) that owes no report (late or twice: ignored).
 */
int tutti_directory_report(struct tutti_directory *d, uint32_t rank, uint32_t slot,
                           uint64_t generation, bool ok);

/**
 * tutti_directory_drop() - a slot's data is bad: hide it and its subtree
 * @generation: as it was when that was found; 0 where even the record is bad:
 *   whichever it is, if the slot can be found
 *
 * Return: number of slots hidden, 0 when the slot has moved on already. Each
 * hidden slot whose record should be emptied is queued for
 * tutti_directory_take_erased().
 */
int tutti_directory_drop(struct tutti_directory *d, uint32_t slot, uint64_t generation);

/**
 * tutti_directory_fence_members() - nothing is asked of these members
 * @members: a bit for each; those that were fenced and are not in it are not
 *   any more
 *
 * Slots on a fenced member keep their place and are not found, nor is what lies
 * behind them in a chain; no new ones are given out there. When the fence is
 * lifted they are found again, but for those whose blocks were reserved anew
 * meanwhile: they went elsewhere. While a member is fenced, find() walks the
 * prefix that it found. O(extents). Return: 1 when it changed something, 0, or
 * -EINVAL for a member that there is not.
 */
int tutti_directory_fence_members(struct tutti_directory *d, uint32_t members);

/**
 * tutti_directory_take_erased() - slots whose records are to be emptied
 * @out: .slot, .generation and .key that they had
 *
 * Call it once a step: a dropped slot is not given out again before it was
 * taken here, so that emptying its record, if ordered before later stores,
 * can't hit the next owner's. Return: count.
 */
size_t tutti_directory_take_erased(struct tutti_directory *d, struct tutti_transfer *out,
                                   size_t max);

void tutti_directory_stats(const struct tutti_directory *d, struct tutti_directory_stats *stats);

/** Invariants, for tests and for the kill switch: 0, or -EUCLEAN with a message. O(slots). */
int tutti_directory_audit(const struct tutti_directory *d, struct tutti_error *err);

#ifdef __cplusplus
}
#endif
#endif
