/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.h: from scattered memory to the data pointer of a command.
 *
 * Knows windows (memory that the drive was let to), the two forms of a data
 * pointer, and their rules of alignment; knows no queue. The one idea: one pass
 * over the segments finds how far one command can reach, a second one writes
 * exactly that, so no list is ever longer than its page and none is chained.
 *
 * PRP: pages; the first may begin anywhere at a dword, each further one begins
 * a page, each but the last ends one (Base 4.1.1). SGL: stretches (Base 4.1.2).
 */
#ifndef TUTTI_NVME_DATA_H
#define TUTTI_NVME_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "nvme/access.h"
#include "nvme/spec.h"

#define NVME_WINDOWS 1024u
#define NVME_LIST_BYTES NVME_PAGE /* of one command: 512 PRP entries or 256 SGL descriptors */

/** Memory that the drive reaches: @bytes from @memory on are at @address on the bus. */
struct nvme_window {
    uint64_t memory;
    uint64_t bytes;
    uint64_t address;
};

/** Windows in the order of their memory; they do not overlap. One owner. */
struct nvme_windows {
    uint32_t count;
    struct nvme_window window[NVME_WINDOWS];
};

/** A place in scattered memory. */
struct nvme_place {
    const struct iovec *iov;
    uint32_t segments; /* left, the one at @iov included */
    uint64_t skip;     /* bytes of the first that are behind us */
};

/**
 * struct nvme_limits - what one command can do
 * @bytes: most data; a multiple of @block
 * @block: of the namespace, bytes
 * @sgls: as in struct nvme_facts
 */
struct nvme_limits {
    uint64_t bytes;
    uint32_t block;
    uint32_t sgls;
};

/**
 * struct nvme_list - where a list is written when one is needed
 * @words: NVME_LIST_BYTES, whole pages of the drive's reach; NULL: there is none now
 * @address: of it on the bus
 * @used: out: whether the command needs it until it ends
 */
struct nvme_list {
    uint64_t *words;
    uint64_t address;
    bool used;
};

/** Add a window. Return: 0, -EEXIST where it overlaps another, or -ENOSPC. */
int nvme_windows_add(struct nvme_windows *w, const void *memory, uint64_t bytes, uint64_t address);

/** Whether all of a stretch of memory lies in windows that touch. */
bool nvme_windows_hold(const struct nvme_windows *w, const void *memory, uint64_t bytes);

/**
 * nvme_data_fill() - point a command at as much memory as it can carry
 * @place: where to begin; moved behind what the command carries
 * @left: bytes that are left to move, a multiple of the block
 * @sqe: its words 3 and 4, and the form in word 0, are written
 *
 * Return: bytes, a multiple of the block; 0 where a list is needed and @list has none (nothing is
 * changed then); -EFAULT where memory is not in a window; -EINVAL where not even one block can be
 * carried for its alignment. Makes no call and takes no memory.
 */
int64_t nvme_data_fill(const struct nvme_windows *w, const struct nvme_limits *limits,
                       struct nvme_place *place, uint64_t left, struct nvme_list *list,
                       uint64_t sqe[NVME_SQE_WORDS]);

#endif
