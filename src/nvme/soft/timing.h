/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timing.h: how long a drive takes, and what its driver pays, as numbers.
 *
 * Knows neither queues nor threads, and reads no clock: an instant goes in, one
 * comes out, so that what was measured by it repeats exactly. The one idea: the
 * medium is one server that reads and writes share; each command holds it for
 * its bytes or for its share of the command rate, whichever is longer, a change
 * of direction costs it time, and a latency that overlaps with others' follows.
 */
#ifndef TUTTI_NVME_SOFT_TIMING_H
#define TUTTI_NVME_SOFT_TIMING_H

#include <stdbool.h>
#include <stdint.h>

enum { SOFT_READS, SOFT_WRITES, SOFT_DIRECTIONS };

/**
 * struct soft_timing - a drive; all zero: nothing takes time
 * @bytes_per_s: of large commands, by direction
 * @commands_per_s: of small ones
 * @latency_ns: of a command alone, besides
 * @turn_ns: of the medium, when what comes next is not a read behind a read or a write behind a
 *   write: so do they interfere
 */
struct soft_timing {
    uint64_t bytes_per_s[SOFT_DIRECTIONS];
    uint64_t commands_per_s[SOFT_DIRECTIONS];
    uint64_t latency_ns[SOFT_DIRECTIONS];
    uint64_t turn_ns;
};

/**
 * A PCIe 5 x4 drive: Micron's figures of the 9550 MAX 12.8 TB, which are 14.0 and 10.0 GB/s, 3.3 M
 * and 820 k commands/s of 4 KiB, 60 and 15 us, and 1.0 M commands/s where 70 of 100 read (as
 * StorageReview lists them, https://www.storagereview.com/review/micron-9550-max-review-balanced-
 * performance-for-ai-db-and-analytics). The turn is what this model needs for that last figure:
 * without it would be 1.73 M, which is 422 ns a command less, and in a random mix 42 of 100 turn.
 */
#define SOFT_PCIE5                                                                                 \
    ((struct soft_timing){.bytes_per_s = {UINT64_C(14000000000), UINT64_C(10000000000)},           \
                          .commands_per_s = {3300000, 820000},                                     \
                          .latency_ns = {60000, 15000},                                            \
                          .turn_ns = 1005})

/** What the medium is busy with. @until: in 64ths of a nanosecond. */
struct soft_medium {
    uint64_t until;
    bool wrote;
};

/** When a command ends that comes at @now. */
uint64_t soft_timing_end(const struct soft_timing *timing, struct soft_medium *medium, uint64_t now,
                         uint32_t direction, uint64_t bytes);

/** What no driver can exceed with commands of a size, bytes a second. */
double soft_timing_limit(const struct soft_timing *timing, uint32_t direction, uint64_t bytes);

/**
 * struct soft_costs - what a driver's thread pays, in ns
 * @doorbell: a write to a register
 * @entry: a command from its transfer to its 64 bytes in the queue, list included
 * @poll: a look that finds nothing new
 * @completion: 16 bytes that the drive wrote, and what follows from them
 * @checksum_kib: of 1,024 bytes
 */
struct soft_costs {
    uint64_t doorbell;
    uint64_t entry;
    uint64_t poll;
    uint64_t completion;
    uint64_t checksum_kib;
};

/**
 * What such a thread is charged here. The doorbell is an assumption, that no machine at hand can
 * test: a write to a register leaves the core uncached, and a fence stands before it. Entry and
 * completion: together more than engine "nvme" takes for all of a command of 4 KiB (median 197 ns,
 * bench/results/nvme-2026-11-26.json), and SPDK (96 ns, doorbells included, where one thread does
 * 10.39 M commands/s, https://spdk.io/news/2019/05/06/nvme/), for the completion was written by the
 * drive and is in no near cache. The checksum: XXH3, 0.055 CPU-s per GiB of cold memory.
 */
#define SOFT_COSTS                                                                                 \
    ((struct soft_costs){                                                                          \
        .doorbell = 100, .entry = 150, .poll = 20, .completion = 100, .checksum_kib = 52})

/** How often it paid. */
struct soft_work {
    uint64_t doorbells;
    uint64_t entries;
    uint64_t polls;
    uint64_t completions;
    uint64_t checksum_bytes;
};

uint64_t soft_costs_of(const struct soft_costs *costs, const struct soft_work *work);

#endif
