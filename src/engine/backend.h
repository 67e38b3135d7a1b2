/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.h: what lies below a member's thread: something that reads and
 * writes one file or device.
 *
 * A backend knows offsets and memory, nothing of slots, maps or checksums. All
 * calls come from the member's thread. The one idea: submit() only queues, so
 * that reap() or wait() hand a batch to the system with one call.
 */
#ifndef TUTTI_ENGINE_BACKEND_H
#define TUTTI_ENGINE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tutti/error.h"
#include "tutti/ring.h"

/**
 * struct command - one read or write, the member thread's until submit() and
 * again once reap() returned it
 * @offset: bytes from the start of the member
 * @bytes: sum over @iov
 * @segments: entries of @iov, 1..1024
 * @direction: enum tutti_direction
 * @result: bytes moved, or a negative errno
 * @why: what the device said of a failure, a constant; NULL where only @result is known
 * @next, @due: the backend's own while it has the command
 */
struct command {
    uint64_t offset;
    uint32_t bytes;
    uint32_t segments;
    struct iovec *iov;
    uint8_t direction;
    int32_t result;
    const char *why;
    struct command *next;
    uint64_t due;
};

/**
 * struct backend_options
 * @fd, @drive, @path, @direct, @alignment: as struct tutti_member
 * @wakeup: eventfd; a wake-up on it ends wait()
 * @depth: most commands that are out at a time
 * @member: number, for thread names and for seeds
 * @rules: "fault" only
 * @inner: "fault" only: what it wraps
 */
struct backend_options {
    int fd;
    struct nvme_drive *drive;
    const char *path;
    bool direct;
    uint32_t alignment;
    int wakeup;
    uint32_t depth;
    uint32_t member;
    const char *rules;
    const struct backend_type *inner;
};

/** @fixed_only: commands may name only memory that was fixed; set by open. */
struct backend {
    const struct backend_type *type;
    bool fixed_only;
    uint64_t system_calls; /* made by the member's thread for I/O; single writer */
};

/**
 * struct backend_type - operations
 * @open: in the member's thread; 0 or a negative errno with a message
 * @fix: register memory for fixed buffers. 0, or a negative errno with the
 *   reason; transfers work without, where not @fixed_only. Only while no command is out
 * @reaches: where @fixed_only: whether all of this memory was fixed
 * @submit: queue a command; at most @depth are out
 * @reap: hand over what is queued and collect what ended; never blocks
 * @wait: hand over what is queued, return when something ended, at a wake-up,
 *   or after @timeout_ns (UINT64_MAX: no bound)
 * @close: nothing is out any more
 */
struct backend_type {
    const char *name;
    int (*open)(const struct backend_options *options, struct backend **backend,
                struct tutti_error *err);
    int (*fix)(struct backend *b, void *memory, size_t bytes, struct tutti_error *err);
    bool (*reaches)(const struct backend *b, const void *memory, size_t bytes);
    void (*submit)(struct backend *b, struct command *command);
    uint32_t (*reap)(struct backend *b, struct command **ended, uint32_t most);
    void (*wait)(struct backend *b, uint64_t timeout_ns);
    void (*close)(struct backend *b);
};

extern const struct backend_type backend_uring;
extern const struct backend_type backend_threads;
extern const struct backend_type backend_nvme;
extern const struct backend_type backend_fault;
extern const struct backend_type backend_gpu;

#endif
