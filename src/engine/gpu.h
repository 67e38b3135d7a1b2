/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.h: what the files of engine "gpu" share.
 *
 *     gpu.c        the backend: commands become entries of the ring, launches, waiting
 *     gpu_warp.c   the warp's memory, and its state between two launches: the drive's
 *                  warden (nvme/drive.h) finds there what is out and for how long
 *
 * All of it is the member's thread's. While a launch is under way the lane's
 * lock is held, so that its queue is the kernel's alone; a launch is short.
 */
#ifndef TUTTI_ENGINE_GPU_H
#define TUTTI_ENGINE_GPU_H

#include "device/kernels/io.h"
#include "device/launch.h"
#include "engine/backend.h"
#include "nvme/drive.h"

#define GPU_MEMORIES 16u

/** Who runs kernels; NULL: nobody, and engine "gpu" says so. Set before an engine is opened. */
extern const struct launcher_type *gpu_launcher;

/** A launch and all that the CPU and the kernel share; as the CPU names it. */
struct gpu {
    struct backend base;
    struct nvme_drive *drive;
    struct nvme_lane *lane;
    int wakeup;
    struct nvme_source source;
    struct launcher *launcher;
    struct launch_memory memory[GPU_MEMORIES];
    struct launch_memory registers;
    struct nvme_windows *windows;
    struct io_ring *ring;
    struct io_warp *warp;
    struct io_launch *launch;
    struct iovec *iov; /* of entry n: at n % IO_ENTRIES x MEMBER_SEGMENTS */

    uint32_t issued;                     /* entries: `tail` */
    uint32_t oldest;                     /* the first that was not collected */
    struct command *command[IO_ENTRIES]; /* by entry; NULL once it is collected */
    struct command *waiting;             /* no place in the ring yet */
    struct command **last;
    struct command *ended;
    uint32_t out;

    uint64_t ticket;
    bool under_way;              /* then the lane's lock is held */
    uint64_t rest;               /* not before: the last launch ended with nothing moved */
    uint64_t step;               /* how long that is */
    uint64_t commands;           /* seen by the last launch */
    uint32_t life;               /* the lane's queue that the warp has */
    int failed;                  /* the launcher is: nothing is launched any more */
    uint32_t known[IO_MOST_IDS]; /* how often an identifier was used, at the last look */
    struct nvme_transfer lane_of[IO_LANES]; /* what the warden sees of a lane's commands */
};

/* gpu_warp.c */
int gpu_warp_open(struct gpu *g, struct tutti_error *err);
void gpu_warp_close(struct gpu *g);
void gpu_warp_windows(struct gpu *g);
/** How the kernel names what the CPU names so. */
uint64_t gpu_device_of(struct gpu *g, const void *host);
/** Under the lane's lock, before a launch: what the warden did meanwhile. */
void gpu_warp_take_news(struct gpu *g);
/** Under the lane's lock, after one: what is out, for the warden. */
void gpu_warp_tell(struct gpu *g);

#endif
