/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drive.h: an NVMe namespace that this process drives by itself, as a flat
 * device that the pool and the engine share.
 *
 * A drive has a name ("nvme:0000:01:00.0", "nvme:0000:01:00.0/2", "nvme:serial=S",
 * or "soft:FILE" for the software controller over a file), one controller, one
 * lane for whole reads and writes by the pool, and one that an engine may take.
 * A thread of its own, the warden, is the only one that uses the admin queue
 * after the opening. It looks once in a while (no command pays for it): at the
 * controller's status, at what it tells of itself, and at commands that are out
 * for too long. Those it ends by steps, each with its bound and the next on its
 * expiry:
 *
 *     abort      the drive may ignore it
 *     delete     the pair of queues; the lane gets a new one
 *     disable    the controller, and enable it again; all lanes get new queues
 *     cut off    bus mastering, where the port can; the drive is dead then
 *
 * What none of them ends is held: it never returns and its memory is never
 * free, for the drive may still write there.
 */
#ifndef TUTTI_NVME_DRIVE_H
#define TUTTI_NVME_DRIVE_H

#include "nvme/lane.h"

struct nvme_drive;

/** Bounds of the steps, in nanoseconds. */
struct nvme_bounds {
    uint64_t command;
    uint64_t abort;
    uint64_t deletion;
};

#define NVME_BOUNDS                                                                                \
    ((struct nvme_bounds){UINT64_C(8000000000), UINT64_C(1000000000), UINT64_C(4000000000)})

/** Whether a path is a drive's name. */
bool nvme_drive_is_named(const char *path);

/**
 * nvme_drive_open() - the drive of that name, brought up where this process has not yet
 *
 * Any thread. Return: 0, or a negative errno with a message: as nvme_open(), -EINVAL for a name
 * that is none, -EBUSY where another process has it, -ENXIO where its serial is another.
 */
int nvme_drive_open(const char *name, struct nvme_drive **drive, struct tutti_error *err);

/** The same with a port of one's own (which is closed with it) and other bounds; for tests. */
int nvme_drive_open_port(const char *name, const struct nvme_port *port, uint32_t nsid,
                         const struct nvme_bounds *bounds, struct nvme_drive **drive,
                         struct tutti_error *err);

/** Once for each open; the last one shuts it down. */
void nvme_drive_close(struct nvme_drive *drive);

/** Be its only owner. Return: 0, or -EBUSY where another of this process is. */
int nvme_drive_claim(struct nvme_drive *drive);
void nvme_drive_release(struct nvme_drive *drive);

void nvme_drive_facts(const struct nvme_drive *drive, struct nvme_facts *facts);

/** What it said of its health last. Any thread. */
void nvme_drive_health(struct nvme_drive *drive, struct nvme_health *health);

/**
 * Whole reads and writes of any memory, in blocks; through a buffer of its own. Any thread, one at
 * a time. Return: 0 or a negative errno.
 */
int nvme_drive_read(struct nvme_drive *drive, void *data, uint64_t bytes, uint64_t offset);
int nvme_drive_write(struct nvme_drive *drive, const void *data, uint64_t bytes, uint64_t offset);
/** What was written is there after a loss of power. */
int nvme_drive_flush(struct nvme_drive *drive);

/**
 * nvme_drive_take_lane() - the lane of the one engine thread that drives it
 * @lists: most lists at a time
 *
 * Return: 0, -EBUSY where it is taken, or as nvme_queue_open(), with a message.
 */
int nvme_drive_take_lane(struct nvme_drive *drive, uint32_t depth, uint32_t lists,
                         struct nvme_lane **lane, struct tutti_error *err);

/** The same, its queues and lists in memory of the caller's, which @source outlives. */
int nvme_drive_take_lane_in(struct nvme_drive *drive, uint32_t depth, uint32_t lists,
                            const struct nvme_source *source, struct nvme_lane **lane,
                            struct tutti_error *err);
void nvme_drive_give_lane(struct nvme_drive *drive, struct nvme_lane *lane);

/** Let the drive to memory for a lane's transfers; it stays until the lane is given back. */
int nvme_drive_reach(struct nvme_drive *drive, struct nvme_lane *lane, void *memory, size_t bytes,
                     struct tutti_error *err);

/**
 * struct nvme_steps - what the warden did so far
 * @held: commands never return
 * @dead: 0 or a negative errno
 * @said: the last thing that went wrong, as a sentence
 */
struct nvme_steps {
    uint64_t aborts;
    uint64_t deletions;
    uint64_t resets;
    bool held;
    int dead;
    struct tutti_error said;
};
void nvme_drive_steps(struct nvme_drive *drive, struct nvme_steps *steps);

#endif
