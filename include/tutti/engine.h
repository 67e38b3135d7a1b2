/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h: who executes IOCBs.
 *
 * An engine reads a ring, turns ranges of transfer maps into commands of its
 * devices, verifies what arrives and completes. "uring" (Linux io_uring),
 * "threads" (a pool of preadv/pwritev threads, where io_uring is not
 * permitted), "nvme" (queue pairs of a drive that this process has to itself),
 * "gpu" (the same queue pairs, driven by a kernel; where something runs it), and
 * "fault" (wraps another engine's commands and spoils some).
 *
 * Rules for all: a completion word is always written; data is in place and
 * verified before it is; the queue is refilled before checksums are computed;
 * a failed read is tried once more before it is reported; no allocation, lock
 * or system call per object.
 */
#ifndef TUTTI_ENGINE_H
#define TUTTI_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/device.h"
#include "tutti/error.h"
#include "tutti/geometry.h"
#include "tutti/ring.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvme_drive;

/** A member as an engine sees it. */
struct tutti_member {
    int fd;                   /* -1 where there is a drive */
    struct nvme_drive *drive; /* an NVMe namespace that this process drives itself, or NULL */
    const char *path;         /* for messages */
    bool direct;              /* the descriptor does direct I/O */
    uint32_t alignment;       /* offsets and lengths; memory too where direct */
};

/**
 * struct tutti_engine_options
 * @name: "auto" (nvme where the members are drives; else uring, else threads, with the reason),
 *   "uring", "threads", "nvme", "gpu", or "fault" with @fault_rules and @fault_inner
 * @ring: read by one consumer per member
 * @member: @members members, in order
 * @device: where KV memory lives
 * @staging_bytes: per member, bounded staging for memory that is not reachable
 *   or not aligned; at least one command
 * @queue_bytes: bytes in flight per member, 0 chooses
 * @write_bytes: of them, bytes of writes, which a load would queue behind; 0 chooses a quarter
 * @command_bytes: largest command, 0 chooses
 * @cpus, @cpu: pin engine threads to these CPUs (round-robin); 0 for none
 * @fault_rules: rules of engine "fault" (src/engine/fault_rule.h has the grammar)
 * @fault_inner: the engine that it wraps
 * @fence_errors: a member is fenced after so many I/O errors in a row, four
 *   times as many within a minute, or 64 times as many wrong checksums within
 *   a minute; 0 chooses (16), UINT32_MAX never. An error is a stretch of slots
 *   that could not be moved (its second try is no further one), or a command
 *   that is late, each time anew
 * @late_ns: after which a command is late; 0 chooses (30 s)
 */
struct tutti_engine_options {
    const char *name;
    struct tutti_ring *ring;
    const struct tutti_member *member;
    uint32_t members;
    const struct tutti_device *device;
    size_t staging_bytes;
    size_t queue_bytes;
    size_t write_bytes;
    size_t command_bytes;
    const int *cpu;
    uint32_t cpus;
    const char *fault_rules;
    const char *fault_inner;
    uint32_t fence_errors;
    uint64_t late_ns;
};

/** Monotone counters of an engine, over all members. Read without a lock; each is whole. */
struct tutti_engine_counters {
    uint64_t commands;
    uint64_t read_bytes;
    uint64_t written_bytes;
    uint64_t staged_bytes;
    uint64_t hashed_bytes;
    uint64_t verify_failures;
    uint64_t io_errors;
    uint64_t retries;
    uint64_t system_calls;
    uint64_t late_commands;
};

struct tutti_engine;

/**
 * tutti_engine_open() - start an engine on a ring
 *
 * Return: 0, or a negative errno with a message. With "auto", @err holds the
 * reason (code 0) when the second choice was taken.
 */
int tutti_engine_open(const struct tutti_engine_options *options, struct tutti_engine **engine,
                      struct tutti_error *err);

/** Name of what runs: "uring", "threads", "fault+uring". Owned by the engine. */
const char *tutti_engine_name(const struct tutti_engine *engine);

/**
 * tutti_engine_register() - tell it of KV memory
 * @base, @bytes: a range that planes will point into; stays mapped until close
 *
 * Registers it with the kernel where that is possible (fixed buffers). Call
 * while the ring is idle. Return: 1 when transfers will be direct, 0 when they
 * will be staged (with the reason in @err, code 0), or a negative errno.
 */
int tutti_engine_register(struct tutti_engine *engine, uint64_t base, size_t bytes,
                          struct tutti_error *err);

void tutti_engine_counters(const struct tutti_engine *engine,
                           struct tutti_engine_counters *counters);

/**
 * tutti_engine_last_error() - the sentence of the latest I/O error
 *
 * A position's status is an errno; what it was about (member, direction, offset) is here. Return:
 * its negative errno, or 0 when there was none. Any thread.
 */
int tutti_engine_last_error(const struct tutti_engine *engine, struct tutti_error *err);

#define TUTTI_MEMBER_REASON 512

/**
 * struct tutti_member_state - how a member does
 * @fenced: it is given no commands: whatever is asked of it ends with ENODEV
 * @io_errors, @late_commands, @verify_failures: since the start
 * @staging_bytes: of its staging; @staging_taken: of these, in use now;
 *   @staging_most: the most that ever were
 * @reason: why it is fenced
 */
struct tutti_member_state {
    bool fenced;
    uint64_t io_errors;
    uint64_t late_commands;
    uint64_t verify_failures;
    uint64_t staging_bytes;
    uint64_t staging_taken;
    uint64_t staging_most;
    char reason[TUTTI_MEMBER_REASON];
};

/** Return: 0, or -EINVAL where there is no such member. Any thread. */
int tutti_engine_member_state(const struct tutti_engine *engine, uint32_t member,
                              struct tutti_member_state *state);

/** Whether a member is fenced: 1 or 0, -EINVAL where there is no such member. Any thread. */
int tutti_engine_fenced(const struct tutti_engine *engine, uint32_t member);

/**
 * tutti_engine_fence() - give a member no more commands; it does so itself when it errs too much
 *
 * Positions on it that are not submitted end with ENODEV, at once; what is out
 * is waited for, since the device may still move its bytes. The other members
 * are not concerned. Return: 0 or -EINVAL. Any thread.
 */
int tutti_engine_fence(struct tutti_engine *engine, uint32_t member, const char *reason);

/** Give it commands again, its errors forgotten. Return: 0 or -EINVAL. Any thread. */
int tutti_engine_unfence(struct tutti_engine *engine, uint32_t member);

/**
 * tutti_engine_close_within() - end what was issued, stop the threads
 *
 * IOCBs not started are completed with -ECANCELED; what was submitted is waited
 * for, with a bound. Nothing is issued any more; the ring outlives the engine.
 * NULL is allowed. In a child of fork(), which has none of the threads, it does
 * nothing.
 *
 * Return: 0, or -ETIMEDOUT with a message: a command does not end. Its thread
 * and the engine are then left behind, and the caller leaves what they may
 * still touch: the ring, the maps of IOCBs that are not done, KV memory, and
 * the members' descriptors (open, so that a late write finds its own file).
 */
int tutti_engine_close_within(struct tutti_engine *engine, uint64_t timeout_ns,
                              struct tutti_error *err);

/** The same, within half a minute, for who has nothing to do about it. */
void tutti_engine_close(struct tutti_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
