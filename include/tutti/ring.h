/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.h: I/O control blocks between whoever decides and whoever moves bytes.
 *
 * The paper's four calls: make a ring of a depth; take and fill IOCBs (a
 * direction, a layer, a range of a transfer map, what they wait for); issue;
 * wait by IOCB. One IOCB is worth a layer, whatever the number of blocks: the
 * caller writes a few words, the engine's threads (or kernel) do the rest.
 *
 * One thread takes, fills, issues and puts back (the producer); every member's
 * engine thread is a consumer with a head of its own; any thread may wait. An
 * IOCB over several members counts its remaining parts with one atomic; whoever
 * brings it to zero writes the completion.
 */
#ifndef TUTTI_RING_H
#define TUTTI_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "tutti/directory.h"
#include "tutti/error.h"
#include "tutti/format.h"
#include "tutti/geometry.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tutti_ring;

enum tutti_direction { TUTTI_READ = 0, TUTTI_WRITE = 1 };

/** Lower goes first inside an engine; the order of issue counts within a class. */
enum tutti_class {
    TUTTI_CLASS_LOAD_NOW = 0,   /* a computation waits for it */
    TUTTI_CLASS_LOAD_AHEAD = 1, /* it will */
    TUTTI_CLASS_STORE = 2,
    TUTTI_CLASS_SCRUB = 3,
    TUTTI_CLASS_PROBE = 4,
    TUTTI_CLASSES = 5
};

/*
 * Layers that are not layers. READ RECORDS: read and check the records of the
 * range. WRITE RECORDS: seal and write them, for the positions that have no
 * error so far. WRITE EMPTY: overwrite them with empty ones.
 */
#define TUTTI_LAYER_RECORDS 0xfffeu
#define TUTTI_LAYER_EMPTY 0xfffdu

#define TUTTI_NO_IOCB UINT32_MAX

/**
 * struct tutti_map - a transfer map: what a request's IOCBs name ranges of
 * @items: @count transfers, in the request's order. A generation of 0, in a
 *   scrub's, takes whatever record of this shape is in the slot, ENODATA for none
 * @origins: for stores, @count; else NULL
 * @count: slots
 * @placement: the disk formula
 * @planes: the memory formula, layers x parts
 * @stencil: record header with what all records of the map share: pool, rank,
 *   geometry, identity, group, layers. On a load, what must be equal
 *   (identity is not compared: the key covers it)
 * @records: @count x placement->record_stride bytes, aligned to the pool's
 *   alignment, reachable by the engine; position i's record lies at i x stride
 * @status: one byte per position, 0 or a positive errno; position i is written
 *   by the engine thread of the member that holds slot i and by nobody else
 * @verify: compare every layer with its record (false is the unsafe mode)
 * @after, @after_value: where the device has streams: a word that must have reached a value before
 *   a load's bytes may be put into KV memory (until then others use the blocks); NULL: none
 *
 * Everything in it stays in place and unchanged (but for @records and @status)
 * from the first issue to the completion of the last IOCB that names it. The
 * caller owns it.
 */
struct tutti_map {
    const struct tutti_transfer *items;
    const struct tutti_origin *origins;
    uint32_t count;
    bool verify;
    const struct tutti_placement *placement;
    const struct tutti_kv_plane *planes;
    const struct tutti_record *stencil;
    uint8_t *records;
    uint8_t *status;
    const uint32_t *after;
    uint32_t after_value;
};

/**
 * struct tutti_completion - what became of an IOCB
 * @status: 0, or the negative errno of the first position that failed;
 *   -ECANCELED when cancelled before it started
 * @verified: longest prefix of the range without an error, in positions
 * @issued, @started, @ended: monotonic nanoseconds; started 0 if it never was
 * @bytes: data bytes moved, per member
 * @hashed: bytes whose checksum was computed
 * @retried: commands tried a second time
 */
struct tutti_completion {
    int32_t status;
    uint32_t verified;
    uint64_t issued;
    uint64_t started;
    uint64_t ended;
    uint64_t hashed;
    uint32_t retried;
    uint32_t commands;
    uint64_t bytes[TUTTI_MAX_MEMBERS];
};

/**
 * struct tutti_iocb - one ring entry
 * @map: the transfer map
 * @first, @count: range of positions in it
 * @layer: a layer, or one of TUTTI_LAYER_*
 * @direction: enum tutti_direction
 * @class_: enum tutti_class
 * @wait_for: index of an earlier IOCB that must have completed first, or
 *   TUTTI_NO_IOCB. An IOCB that is not ready is stepped over, never waited for
 * @ready: a word (device memory or host) that must have reached @ready_value
 *   (>=, modulo 2^32), or NULL
 * @ready_value: see @ready
 * @deadline: monotonic ns by which it is wanted, 0 for none (reordering hint)
 * @budget: queue entries (or SMs) that it may use, 0 for no limit
 * @tag: the caller's, carried through (request)
 * @word: written by the last consumer with @word_value when the IOCB completes, whatever its
 *   status, for who does not wait by tutti_ring_wait() (a GPU's stream); or NULL
 * @word_value: see @word
 * @reserved: 0, checked at issue
 * @completion: written by the engine before the completion word
 */
struct tutti_iocb {
    const struct tutti_map *map;
    uint32_t first;
    uint32_t count;
    uint16_t layer;
    uint8_t direction;
    uint8_t class_;
    uint32_t wait_for;
    const uint32_t *ready;
    uint32_t ready_value;
    uint32_t budget;
    uint64_t deadline;
    uint64_t tag;
    uint32_t *word;
    uint32_t word_value;
    uint64_t reserved[2];
    struct tutti_completion completion;
};

/**
 * tutti_ring_new() - a ring of a depth
 * @depth: IOCBs, a power of two, 2..65536
 * @consumers: engine threads that will read it, 1..TUTTI_MAX_MEMBERS
 */
int tutti_ring_new(uint32_t depth, uint32_t consumers, struct tutti_ring **ring,
                   struct tutti_error *err);

/**
 * tutti_ring_free() - free it; NULL is allowed
 *
 * Every consumer has been joined and no call is under way: a wait that returned
 * is not enough, since the last consumer still looks for whom to wake.
 */
void tutti_ring_free(struct tutti_ring *ring);

/** Take an IOCB, zeroed (wait_for = TUTTI_NO_IOCB). NULL when all are taken. Producer only. */
struct tutti_iocb *tutti_ring_get(struct tutti_ring *ring, uint32_t *index);

/**
 * tutti_ring_issue() - hand an IOCB over; wakes engine threads that sleep
 *
 * Return: 0, or -EINVAL when a field is outside its limits (nothing was
 * issued). Costs the same whatever the range. Producer only.
 */
int tutti_ring_issue(struct tutti_ring *ring, uint32_t index);

/** Whether it has completed (1 or 0). Any thread; acquire. */
int tutti_ring_done(const struct tutti_ring *ring, uint32_t index);

/**
 * tutti_ring_wait() - wait for a completion
 * @timeout_ns: bound; 0 polls
 *
 * Return: the completion's status, or -ETIMEDOUT; after -ETIMEDOUT the memory
 * still belongs to the engine. Any thread.
 */
int tutti_ring_wait(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns);

/**
 * tutti_ring_wait_launched() - wait until nothing more will be enqueued for it on a device's
 * streams
 *
 * All of its copies are, or it has completed; what is given to a stream from then on comes behind
 * them, whatever queues the streams share. Return: 0 or -ETIMEDOUT. Any thread.
 */
int tutti_ring_wait_launched(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns);

enum tutti_cancel {
    TUTTI_CANCEL_NOT_STARTED = 0, /* nothing moved, and nothing will */
    TUTTI_CANCEL_ENDED = 1,       /* it had completed */
    TUTTI_CANCEL_FENCED = 2       /* under way: what is not submitted stays undone, wait for it */
};

/** Ask that an IOCB not be done. Return: enum tutti_cancel. Its completion comes in any case. */
int tutti_ring_cancel(struct tutti_ring *ring, uint32_t index);

/** The IOCB of an index, for its completion. */
struct tutti_iocb *tutti_ring_iocb(struct tutti_ring *ring, uint32_t index);

/**
 * Give a completed (or never issued) IOCB back; nobody may be waiting for it any more. Return: 0,
 * -EBUSY, or -EINVAL when it is not out. Producer only.
 */
int tutti_ring_put(struct tutti_ring *ring, uint32_t index);

/*
 * The engines' side.
 */

/** Depth and number of consumers, as given to tutti_ring_new(). */
void tutti_ring_shape(const struct tutti_ring *ring, uint32_t *depth, uint32_t *consumers);

/** Next issued IOCB that consumer has not seen, or TUTTI_NO_IOCB. */
uint32_t tutti_ring_take(struct tutti_ring *ring, uint32_t consumer);

/** Whether what the IOCB waits for has happened. */
bool tutti_ring_ready(const struct tutti_ring *ring, uint32_t index);

/** Whether somebody asked for it to be cancelled. */
bool tutti_ring_cancelled(const struct tutti_ring *ring, uint32_t index);

/** Mark that a consumer begins to move bytes for it. Return: false when it was cancelled first. */
bool tutti_ring_start(struct tutti_ring *ring, uint32_t index, uint64_t now);

/** This consumer's copies for it are enqueued, all of them; once, before tutti_ring_finish(). */
void tutti_ring_launched(struct tutti_ring *ring, uint32_t index);

/**
 * tutti_ring_finish() - this consumer's part is over
 *
 * @bytes, @hashed, @retried, @commands: this consumer's share. The last one to
 * finish computes status and verified prefix from map->status and publishes.
 */
void tutti_ring_finish(struct tutti_ring *ring, uint32_t index, uint32_t consumer, uint64_t now,
                       uint64_t bytes, uint64_t hashed, uint32_t retried, uint32_t commands);

/**
 * tutti_ring_sleep() / the wake-up: an engine thread says that it is about to
 * sleep and gets false when there is work after all; a wake-up arrives on the
 * eventfd that tutti_ring_wakeup_fd() returns.
 * @holding: it stepped over IOCBs that were not ready: completions and
 *   cancellations wake it too. It looks at those again after this call and
 *   before it sleeps. A @ready word wakes nobody: look at it from time to time
 */
bool tutti_ring_sleep(struct tutti_ring *ring, uint32_t consumer, bool holding);
void tutti_ring_awake(struct tutti_ring *ring, uint32_t consumer);
int tutti_ring_wakeup_fd(const struct tutti_ring *ring, uint32_t consumer);

#ifdef __cplusplus
}
#endif
#endif
