/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.h: the raw pass: bytes between memory and a file, and nothing else.
 *
 * The peer that the library is measured against: a minimal loop on io_uring
 * with registered file and buffers, a fixed number of commands in flight, in
 * the order given. Where io_uring is not permitted, as many threads with
 * pread() and pwrite().
 */
#ifndef TOOLS_RAW_H
#define TOOLS_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"

/** One command: @bytes at @offset of the file and at @memory of the buffer. */
struct raw_piece {
    uint64_t offset;
    uint64_t memory;
    uint32_t bytes;
    uint32_t layer;
};

/** When it was over, and when everything of layer 0 was; ns after the start. */
struct raw_time {
    uint64_t all;
    uint64_t first_layer;
};

struct raw;

/** Buffers are registered in pieces of this; no command may cross a multiple of it. */
#define RAW_REGION (UINT64_C(1) << 30)

/**
 * raw_open() - get ready
 * @fd: stays the caller's
 * @buffer, @bytes: all memory that pieces point into
 * @depth: commands in flight
 * @uring: false: threads even where io_uring is permitted
 */
int raw_open(struct raw **raw, int fd, void *buffer, size_t bytes, uint32_t depth, bool uring,
             struct tutti_error *err);
void raw_close(struct raw *raw);

/** "uring, fixed buffers", "uring" or "threads". */
const char *raw_name(const struct raw *raw);

/** Move all pieces. Return: 0, or a negative errno with a message. */
int raw_run(struct raw *raw, bool write, const struct raw_piece *pieces, size_t count,
            struct raw_time *time, struct tutti_error *err);

#endif
