/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.h: retrieve and store, layer by layer: what a serving engine calls.
 *
 * One tutti_serve per rank: a pool, a ring, an engine and the KV memory. A
 * retrieve brings the blocks of one request back, each layer verified against
 * its record before it is announced; a store writes blocks away. Both take the
 * request's lists once; each layer afterwards costs the same however many
 * blocks there are.
 *
 * The order of calls: tutti_pool_open() (and tutti_pool_format() before, the
 * first time), tutti_pool_scan(), tutti_directory_new() and _load(),
 * tutti_pool_begin_epoch() and tutti_directory_begin_epoch() with the same new
 * epoch, tutti_serve_open(), tutti_serve_register() for each group; then stores
 * and retrieves. examples/retrieve_store.c is all of it.
 *
 * On a device with streams (a GPU) computation goes on beside the host: see tutti_serve_stream().
 *
 * One thread per tutti_serve at a time.
 */
#ifndef TUTTI_SERVE_H
#define TUTTI_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/directory.h"
#include "tutti/engine.h"
#include "tutti/error.h"
#include "tutti/pool.h"
#include "tutti/ring.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tutti_serve;
struct tutti_retrieve;
struct tutti_store;

/**
 * struct tutti_serve_options
 * @pool: open, for writing; the caller closes it after tutti_serve_close()
 * @device: where KV memory lives; NULL is the host
 * @engine: as struct tutti_engine_options.name; NULL is "auto"
 * @fault_rules, @fault_inner: see engine.h
 * @staging_bytes: per member; 0 chooses (64 MiB)
 * @ring_depth: 0 chooses (4096)
 * @look_ahead: layers of an in-step load issued ahead; 0 chooses (4)
 * @unverified: the unsafe mode: nothing is compared; say so wherever it is used
 * @cpu, @cpus: where engine threads run; none for anywhere
 * @fence_errors, @late_ns: as in struct tutti_engine_options
 */
struct tutti_serve_options {
    struct tutti_pool *pool;
    const struct tutti_device *device;
    const char *engine;
    const char *fault_rules;
    const char *fault_inner;
    size_t staging_bytes;
    uint32_t ring_depth;
    uint32_t look_ahead;
    bool unverified;
    const int *cpu;
    uint32_t cpus;
    uint32_t fence_errors;
    uint64_t late_ns;
};

int tutti_serve_open(const struct tutti_serve_options *options, struct tutti_serve **serve,
                     struct tutti_error *err);

/**
 * tutti_serve_close_within() - end or cancel everything, stop the engine
 *
 * Loads and stores are cancelled; erasures end, so that what was dropped is not found again.
 *
 * Return: 0, or -ETIMEDOUT with a message: a device does not end a command. What that command may
 * still touch is left behind, the pool's descriptors and locks with it (tutti_pool_close() knows);
 * KV memory must stay mapped. NULL is allowed.
 */
int tutti_serve_close_within(struct tutti_serve *serve, uint64_t timeout_ns,
                             struct tutti_error *err);

/** The same, within half a minute, for who has nothing to do about it. */
void tutti_serve_close(struct tutti_serve *serve);

/** One stretch of memory that planes point into. */
struct tutti_kv_region {
    uint64_t base;
    uint64_t bytes;
};

/**
 * tutti_serve_register() - the KV memory of a group; once, before any transfer
 * @planes: layers x parts, layer-major
 * @blocks: engine blocks; numbers in transfers are below it
 * @regions: memory behind the planes
 *
 * Checks that no two planes' blocks overlap, that all lie inside regions, and
 * where transfers are staged, that a slot's layer fits the staging.
 *
 * Return: 1 when transfers will be direct, 0 when staged (the reason in @err
 * with code 0), or a negative errno with a message.
 */
int tutti_serve_register(struct tutti_serve *serve, uint32_t group,
                         const struct tutti_kv_plane *planes, uint32_t blocks,
                         const struct tutti_kv_region *regions, uint32_t region_count,
                         struct tutti_error *err);

/**
 * tutti_serve_stream() - the stream that computes from now on, on a device that has streams
 * @stream: the device's own handle (CUstream), of the device's primary context
 *
 * It stands for what computation has been given so far: a load that begins puts nothing into its
 * blocks before the stream has come to this point, a store (or tutti_store_ready()) reads
 * nothing before, and tutti_retrieve_layer() makes the stream wait instead of the caller. NULL is
 * the legacy default stream, and what holds before the first call. No effect on the host.
 */
void tutti_serve_stream(struct tutti_serve *serve, void *stream);

/** Engine's name, whether direct, whether verified; for the one line at start. */
const char *tutti_serve_engine(const struct tutti_serve *serve);
void tutti_serve_counters(const struct tutti_serve *serve, struct tutti_engine_counters *counters);

/**
 * tutti_retrieve_begin() - start bringing blocks back
 * @items: @count transfers (slot, block, generation, key); copied
 * @in_step: false: all layers are issued at once (preload). true: the records
 *   and the first layers, the rest as tutti_retrieve_layer() advances
 * @tag: the caller's, for logs
 *
 * Until the retrieve has ended the blocks belong to it.
 *
 * Return: 0, -EINVAL (a slot or block outside, a block named twice), -ENOMEM.
 */
int tutti_retrieve_begin(struct tutti_serve *serve, uint32_t group,
                         const struct tutti_transfer *items, uint32_t count, bool in_step,
                         uint64_t tag, struct tutti_retrieve **retrieve, struct tutti_error *err);

/**
 * tutti_retrieve_layer() - wait until a layer is in place and verified
 * @timeout_ns: bound
 *
 * On a device with streams it returns when nothing more has to be enqueued for the layer, which is
 * bounded by the disk and never by the stream, and the stream waits for the rest: what it is given
 * from here on attends to verified bytes. A stream can't time out, so where the layer has not ended
 * after @timeout_ns it is let go and the whole retrieve counts as failed (ETIMEDOUT), in this
 * order: end the retrieve, or poll it, before the step's output is used. -EBUSY: the stream is
 * being captured into a graph; nothing waits, and the retrieve counts as failed.
 *
 * Return: 0, the negative errno of a position that failed, or -ETIMEDOUT. What
 * the memory of a position that failed holds is undefined; which ones failed is
 * in the result, once all has ended.
 */
int tutti_retrieve_layer(struct tutti_retrieve *retrieve, uint32_t layer, uint64_t timeout_ns);

/** The sentence of what the stream refused of this retrieve. Return: its errno, 0 for nothing. */
int tutti_retrieve_refused(const struct tutti_retrieve *retrieve, struct tutti_error *err);

/** 1 when all of it has ended, 0 while it goes on. Makes progress, as tutti_serve_progress(). */
int tutti_retrieve_poll(struct tutti_retrieve *retrieve);

/** Wait for the end. Return: 0 or -ETIMEDOUT. */
int tutti_retrieve_wait(struct tutti_retrieve *retrieve, uint64_t timeout_ns);

/** Ask that the rest not be done; poll until it ended. */
void tutti_retrieve_cancel(struct tutti_retrieve *retrieve);

/**
 * struct tutti_result - what became of a retrieve or store; valid once it ended
 * @status: 0, or the negative errno of the first position that failed
 * @good: positions without an error
 * @verified: longest prefix of positions without an error
 * @position: per position 0 or a positive errno (EBADMSG: checksum; ESTALE:
 *   another record in the slot, or of an epoch that does not count; EIO;
 *   ENODEV: its member is fenced, and the slot may be as good as ever;
 *   ECANCELED); owned by the session, gone with its end
 * @bytes: data bytes moved
 * @began, @first_layer, @ended: monotonic ns
 */
struct tutti_result {
    int status;
    uint32_t good;
    uint32_t verified;
    const uint8_t *position;
    uint32_t count;
    uint64_t bytes;
    uint64_t began;
    uint64_t first_layer;
    uint64_t ended;
};

void tutti_retrieve_result(const struct tutti_retrieve *retrieve, struct tutti_result *result);

/** Free it. Return: 0, or -EBUSY while it has not ended (nothing is freed). */
int tutti_retrieve_end(struct tutti_retrieve *retrieve);

/**
 * tutti_store_begin() - start writing blocks away
 * @items, @origins: @count each, copied
 * @layers_ready: layers whose KV is complete already (all of them, for a store
 *   at step end); more with tutti_store_ready()
 *
 * Empties the slots' old records first; writes each slot's record after its
 * data. Until the store has ended the blocks' content must not change: fence
 * before that. Return: as retrieve_begin.
 */
int tutti_store_begin(struct tutti_serve *serve, uint32_t group, const struct tutti_transfer *items,
                      const struct tutti_origin *origins, uint32_t count, uint32_t layers_ready,
                      uint64_t tag, struct tutti_store **store, struct tutti_error *err);

/** Layers below @layers are complete in memory, or will be when the stream comes to this point. */
int tutti_store_ready(struct tutti_store *store, uint32_t layers);

int tutti_store_poll(struct tutti_store *store);
int tutti_store_wait(struct tutti_store *store, uint64_t timeout_ns);
void tutti_store_cancel(struct tutti_store *store);
void tutti_store_result(const struct tutti_store *store, struct tutti_result *result);
int tutti_store_end(struct tutti_store *store);

/**
 * tutti_serve_fence() - these blocks are about to be overwritten
 *
 * Cancels what stores of them are not started, waits for what is under way.
 * Return: number of stores that it touched, or -ETIMEDOUT: one is still
 * reading (its slot's checksum will not match what it read later: a miss,
 * never a wrong byte).
 */
int tutti_serve_fence(struct tutti_serve *serve, const uint32_t *blocks, uint32_t count,
                      uint64_t timeout_ns);

/** Overwrite the records of dropped slots by empty ones. Ordered before later stores. */
int tutti_serve_erase(struct tutti_serve *serve, uint32_t group, const struct tutti_transfer *items,
                      uint32_t count, struct tutti_error *err);

/*
 * Members that err too much are fenced (engine.h): positions on them end with
 * ENODEV at once, the others serve on. Whoever has the directory fences them
 * there too, so that they are not looked up or given out.
 */

/** How a member does. Return: 0 or -EINVAL. Any thread; cheap. */
int tutti_serve_member_state(const struct tutti_serve *serve, uint32_t member,
                             struct tutti_member_state *state);

/** A bit for each member that is fenced. Any thread; a word a member is read. */
uint32_t tutti_serve_fenced(const struct tutti_serve *serve);

/**
 * tutti_serve_watch_members() - compare the members with their switches; call it once a second
 *
 * A member that was fenced meanwhile gets its switch thrown (a file in the pool's home, see
 * pool.h); one whose switch was thrown by somebody is fenced, and one whose switch was taken back
 * (tutti enable) is given commands again. Touches the home's file system, and so may wait for its
 * device: call it from a thread that no request waits for. One thread at a time, beside any other
 * call but open and close.
 *
 * Return: as tutti_serve_fenced().
 */
uint32_t tutti_serve_watch_members(struct tutti_serve *serve);

/** Issue what waits for the scheduler's leave or for room in the ring. Call once a step. */
void tutti_serve_progress(struct tutti_serve *serve);

#ifdef __cplusplus
}
#endif
#endif
