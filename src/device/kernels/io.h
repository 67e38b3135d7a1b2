/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.h: what the CPU and the I/O kernel say to each other.
 *
 * A ring for each warp, in memory that both reach: the CPU fills an entry and
 * moves `tail`, without a system call; the kernel, launched when there is work,
 * makes commands of it, and writes for each entry how it ended, then its turn.
 * An entry is a range of a transfer map's layer (many slots, a few words), or
 * one stretch of the namespace with its scattered memory.
 *
 * A pointer here is as the kernel names it; `uint64_t` where the CPU may name
 * it otherwise. Common subset of C and C++ (docs/shared-headers.md).
 */
#ifndef TUTTI_DEVICE_KERNELS_IO_H
#define TUTTI_DEVICE_KERNELS_IO_H

#include "nvme/data.h"
#include "nvme/queue.h"
#include "tutti/geometry.h"

#define IO_KERNEL "tutti_io" /* one word: the address of struct io_launch */
#define IO_WORDS 1u

#define IO_ENTRIES 256u /* of a ring, a power of two */
#define IO_LANES 32u
#define IO_OWN (IO_ENTRIES / IO_LANES)
#define IO_MOST_IDS (32u * IO_LANES) /* commands of a warp that are out */
#define IO_IOVS (2u * TUTTI_MAX_PARTS)
#define IO_GROUP 8u /* lanes that hash a page together */

/** A word that two sides share; base/shared.h is the only way to it (tests/lanes/words.py). */
struct io_word {
    uint32_t only_by_name;
};

TUTTI_INLINE uint32_t io_acquire(const struct io_word *w)
{
    return tutti_word32_acquire(&w->only_by_name);
}

TUTTI_INLINE void io_release(struct io_word *w, uint32_t value)
{
    tutti_word32_release(&w->only_by_name, value);
}

TUTTI_INLINE uint32_t io_load(const struct io_word *w)
{
    return tutti_word32_load(&w->only_by_name);
}

TUTTI_INLINE void io_store(struct io_word *w, uint32_t value)
{
    tutti_word32_store(&w->only_by_name, value);
}

/* Kinds of entries. */
#define IO_STRETCH 0u
#define IO_LAYER 1u

/** A position of a transfer map: its slot, and its block in KV memory. */
struct io_item {
    uint32_t slot;
    uint32_t block;
};

/**
 * struct io_entry - the CPU's until `tail` passes it, and again once its turn has come
 * @kind, @opcode: IO_STRETCH or IO_LAYER; NVME_READ or NVME_WRITE
 * @waits, @wait_for: an earlier entry, by its number, that has to end first
 * @ready, @ready_value: a word that has to reach a value (>=, modulo 2^32); 0 for none
 * @count: positions of a layer; 1 for a stretch
 * @offset, @bytes, @iov, @segments: a stretch and its memory (struct iovec)
 * @items: struct io_item, from the first position on
 * @placement, @planes: struct tutti_placement; struct tutti_kv_plane of this layer, one a part
 * @padding: memory for what lies between objects: zeros to write, or anything to read into
 * @layer, @member: which layer; positions of other members are passed over
 * @sums, @sum_stride: where the sum of the first position is (read: compared; write: written), and
 *   bytes to the next one's; 0: nothing is hashed
 * @results: struct io_word, one a position, written with 0 or a positive errno: EBADMSG for a sum
 */
struct io_entry {
    uint32_t kind;
    uint32_t opcode;
    uint32_t waits;
    uint32_t wait_for;
    uint64_t ready;
    uint32_t ready_value;
    uint32_t count;
    uint64_t offset;
    uint32_t bytes;
    uint32_t segments;
    uint64_t iov;
    uint64_t items;
    uint64_t placement;
    uint64_t planes;
    uint64_t padding;
    uint32_t layer;
    uint32_t member;
    uint64_t sums;
    uint64_t sum_stride;
    uint64_t results;
};

/**
 * struct io_end - how an entry ended; the kernel's, published by @turn
 * @turn: the entry's number + 1
 * @error: 0, or the positive errno of a position
 * @status: the first NVMe status that was not good, or 0
 */
struct io_end {
    struct io_word turn;
    struct io_word error;
    struct io_word status;
    struct io_word commands;
};

/** @tail: entries issued, modulo 2^32; entry n lies at n % IO_ENTRIES. The CPU's, release. */
struct io_ring {
    struct io_word tail;
    uint32_t unused[31];
    struct io_end end[IO_ENTRIES];
    struct io_entry entry[IO_ENTRIES];
};

/** An entry that a lane keeps count of; of no other's concern. */
struct io_own {
    uint32_t cursor;    /* next position to be begun */
    uint32_t remaining; /* positions that have not ended */
    uint32_t error;
    uint32_t status;
    uint32_t commands;
    bool over;
};

/**
 * struct io_lane - a lane's own between launches and in them: a transfer, and counts of entries
 * @active: there is a transfer; @entry, @position: what of
 * @place, @at, @left: what is still to be issued, and where in the namespace
 * @out: bit k: command k * 32 + lane is out
 * @error: positive errno of this transfer so far
 */
struct io_lane {
    struct nvme_place place;
    uint64_t at;
    uint64_t left;
    uint32_t entry;
    uint32_t position;
    uint32_t out;
    uint32_t error;
    uint32_t status;
    uint32_t commands;
    bool active;
    struct io_own own[IO_OWN];
    struct iovec iov[IO_IOVS];
};

/**
 * struct io_warp - a pair of queues and all that its warp works with
 * @queue: pointers as the kernel names them; free_id and out are not used: lanes own identifiers
 * @windows, @limits: memory that the drive was let to, and what a command can do
 * @ids: commands that may be out, at most queue.depth - 1: each has a list of its own
 * @lists, @lists_address: NVME_LIST_BYTES each, for the kernel and on the bus
 * @ring: struct io_ring
 * @root, @root_words: scratch for the page sums of one position
 * @seen, @oldest: entries that were seen; the first one that has not ended
 * @broken: -EPROTO: the controller completed what was not out
 * @late: the launch ended by its bound or its patience
 * @out: commands that are out
 *
 * Plain: the CPU's while no launch is under way, the warp's in one.
 */
struct io_warp {
    struct nvme_queue queue;
    const struct nvme_windows *windows;
    struct nvme_limits limits;
    uint64_t capacity;
    uint32_t nsid;
    uint32_t ids;
    uint64_t lists;
    uint64_t lists_address;
    struct io_ring *ring;
    uint64_t *root;
    uint32_t root_words;
    uint32_t seen;
    uint32_t oldest;
    int32_t broken;
    uint32_t late;
    uint32_t out;
    uint64_t rounds;
    uint64_t commands;
    uint64_t hashed;              /* bytes */
    uint32_t issued[IO_MOST_IDS]; /* how often each identifier was used; its lane's */
    struct io_lane lane[IO_LANES];
};

/**
 * struct io_launch - the kernel's one word points to it
 * @warp: struct io_warp, one a warp of the launch
 * @bound_ns: a launch ends then, whatever is out
 * @patience_ns: and after so long without any progress
 * @drains: nothing more is issued
 */
struct io_launch {
    uint64_t warp;
    uint64_t bound_ns;
    uint64_t patience_ns;
    uint64_t drains;
};

TUTTI_INLINE struct io_entry *io_entry_of(struct io_ring *ring, uint32_t number)
{
    return &ring->entry[number % IO_ENTRIES];
}

TUTTI_INLINE struct io_end *io_end_of(struct io_ring *ring, uint32_t number)
{
    return &ring->end[number % IO_ENTRIES];
}

/** Whether an entry has ended, who waits for it acquires what it did. */
TUTTI_INLINE bool io_has_ended(struct io_ring *ring, uint32_t number)
{
    /* A later life of its place has a later turn. Pairs with the release of who ends it. */
    return (int32_t)(io_acquire(&io_end_of(ring, number)->turn) - (number + 1)) >= 0;
}

#endif
