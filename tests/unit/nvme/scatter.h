/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scatter.h: transfers with memory scattered at random, for lanes of any drive: here over
 * controllers in software, in tests/vm over QEMU's. Asserts nothing: each has its own way.
 */
#ifndef TESTS_UNIT_NVME_SCATTER_H
#define TESTS_UNIT_NVME_SCATTER_H

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include "base/clock.h"
#include "nvme/lane.h"

#define SCATTER_SEGMENTS 24u

/** A transfer and its memory. */
struct job {
    struct nvme_transfer transfer;
    struct iovec iov[SCATTER_SEGMENTS];
};

/** The same numbers in each run. */
static inline uint64_t roll(uint64_t below)
{
    static uint64_t dice = 7;

    dice = dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (dice >> 33) % below;
}

/**
 * Transfers side by side over the drive, their memory side by side from @memory on, gaps in both.
 * Return: bytes of memory that they reach over; those of the drive are fewer than @drive.
 */
static inline uint64_t scatter_jobs(struct job *job, uint32_t count, uint8_t *memory,
                                    uint32_t block, uint64_t *drive)
{
    uint64_t at = 0, offset = 0;

    memset(job, 0, count * sizeof(*job));
    for (uint32_t i = 0; i < count; i++) {
        struct nvme_transfer *t = &job[i].transfer;

        t->iov = job[i].iov;
        t->offset = offset;
        t->segments = 1 + (uint32_t)roll(SCATTER_SEGMENTS);
        for (uint32_t s = 0; s < t->segments; s++) {
            uint64_t bytes = block * (1 + roll(roll(8) ? 4 : 40));

            job[i].iov[s] = (struct iovec){.iov_base = memory + at, .iov_len = bytes};
            at += bytes + block * roll(3);
            t->bytes += (uint32_t)bytes;
        }
        offset += t->bytes + block * roll(5);
    }
    *drive = offset;
    return at;
}

static inline void scatter_submit(struct nvme_lane *lane, struct job *job, uint32_t count,
                                  uint8_t opcode)
{
    for (uint32_t i = 0; i < count; i++) {
        job[i].transfer.opcode = opcode;
        nvme_lane_submit(lane, &job[i].transfer);
    }
}

/** Overwrite what they name. */
static inline void scatter_wipe(const struct job *job, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t s = 0; s < job[i].transfer.segments; s++)
            memset(job[i].iov[s].iov_base, 0xdd, job[i].iov[s].iov_len);
}

/** Collect until @count transfers ended. Return: how many did within @ns. */
static inline uint32_t collect_within(struct nvme_lane *lane, uint32_t count, uint64_t ns)
{
    uint64_t end = tutti_clock_now() + ns;
    struct nvme_transfer *ended[16];
    uint32_t found = 0;

    while (found < count && tutti_clock_now() < end) {
        uint32_t n = nvme_lane_collect(lane, ended, 16);

        found += n;
        if (n == 0)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return found;
}

#endif
