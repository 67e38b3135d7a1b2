/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.h: transfers of any size on one pair of queues.
 *
 * A lane cuts a transfer into commands (largest transfer, one list each), keeps
 * as many out as its queue and its lists allow, and collects them. Knows nothing
 * of recovery: that is the drive's (drive.c), which stops a lane, replaces its
 * queue and fails what was out.
 *
 * One thread submits and collects; what stands behind @lock is shared with the drive's
 * warden, who comes by now and then: the lock is taken once a batch.
 */
#ifndef TUTTI_NVME_LANE_H
#define TUTTI_NVME_LANE_H

#include <pthread.h>
#include <stdbool.h>

#include "nvme/controller.h"
#include "nvme/data.h"

/**
 * struct nvme_transfer - the submitter's, but between submit and its return by collect
 * @offset, @bytes: in the namespace; multiples of its block
 * @iov, @segments: memory, @bytes in sum; all in windows of the lane
 * @opcode: NVME_READ, NVME_WRITE, or NVME_FLUSH (no bytes)
 * @result: out: 0 or a negative errno
 * @status: out: the first status that was not NVME_OK, or 0
 */
struct nvme_transfer {
    uint64_t offset;
    uint32_t bytes;
    uint32_t segments;
    const struct iovec *iov;
    uint8_t opcode;
    int result;
    uint32_t status;
    /* The lane's own. */
    struct nvme_transfer *next;
    struct nvme_place place;
    uint32_t left;
    uint32_t open; /* commands */
    bool queued;
};

struct nvme_transfer_list {
    struct nvme_transfer *first;
    struct nvme_transfer **last;
};

/** A command that is out; @of is NULL where there is none. */
struct nvme_piece {
    struct nvme_transfer *of;
    uint64_t deadline;
    uint16_t list; /* 1 + its number, or 0 */
    bool aborted;  /* an abort was asked for */
};

struct nvme_lane {
    pthread_mutex_t lock;
    struct nvme_queue queue;
    struct nvme_limits limits;
    struct nvme_windows windows;
    uint64_t capacity; /* bytes of the namespace */
    uint32_t nsid;
    uint32_t number;
    uint32_t depth;
    uint64_t command_ns;
    struct nvme_piece *piece; /* by identifier */
    uint8_t *lists;
    uint64_t lists_address;
    uint16_t *free_list;
    uint32_t lists_free;
    uint32_t list_count;
    struct nvme_transfer_list fresh; /* the submitter's, until collect() hands it over */
    struct nvme_transfer_list waiting;
    struct nvme_transfer_list ended;
    bool draining;                    /* nothing more is issued */
    bool stopped;                     /* the warden works on it: the queue is not touched */
    const struct nvme_source *source; /* of its queues and lists; NULL: the heap */
    uint32_t life;                    /* queues that it has had */
    int broken;                       /* what it said can't be believed: the warden is to reset */
    int dead;                         /* -ENODEV: everything ends with that */
};

/**
 * nvme_lane_init() - around a queue that is open
 * @lists: most lists; commands that need one wait for it. At least 1
 *
 * Return: 0 or -ENOMEM. @lane->queue was set; memory of lists is let to the drive by the caller.
 */
int nvme_lane_init(struct nvme_lane *lane, const struct nvme_facts *facts, uint32_t lists,
                   uint64_t command_ns);
void nvme_lane_free(struct nvme_lane *lane);

/** Queue a transfer; collect() hands it over. What is wrong with it is its result. */
void nvme_lane_submit(struct nvme_lane *lane, struct nvme_transfer *transfer);

/** Collect what ended, hand over what was submitted. Return: how many of @ended. Never blocks. */
uint32_t nvme_lane_collect(struct nvme_lane *lane, struct nvme_transfer **ended, uint32_t most);

/** Under the lock, queue gone or new: whatever was out ends with @error (-ETIMEDOUT if late). */
void nvme_lane_fail_all(struct nvme_lane *lane, int error);

/** What a status means for the caller: a negative errno. */
int nvme_status_errno(uint32_t status);

#endif
