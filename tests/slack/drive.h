/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drive.h: a drive in model time: bandwidth by direction, latency, a mix factor, slow-downs.
 *
 * Jobs of each direction go one after another. With both under way each gets half of its own
 * bandwidth times the mix factor. What has moved is seen a command (1 MiB) at a time.
 */
#ifndef TUTTI_TESTS_SLACK_DRIVE_H
#define TUTTI_TESTS_SLACK_DRIVE_H

#include <stdbool.h>
#include <stdint.h>

enum { DRIVE_JOBS = 8192, DRIVE_SLOWDOWNS = 8 };

struct drive_job {
    uint32_t tag;
    double bytes, left, told, wait; /* wait: latency that is left */
    double began;
};

struct drive_queue {
    struct drive_job job[DRIVE_JOBS];
    uint32_t first, count;
};

struct drive {
    double rate[2]; /* bytes per ns */
    double latency, mix;
    struct {
        double from, to, factor;
    } slow[DRIVE_SLOWDOWNS];
    uint32_t slows;
    struct drive_queue queue[2];
    double now;
    double alone_bytes[2], alone_ns[2], mixed_bytes[2], mixed_ns; /* since last taken */
    double moved[2];                                              /* ever */
};

/** What a command of a job, or the job, has just done. */
struct drive_event {
    uint32_t tag;
    int way;
    double bytes, began;
    bool over;
};

void drive_add(struct drive *d, int way, uint32_t tag, double bytes);
/** Take a job out, wherever it is. */
void drive_cancel(struct drive *d, int way, uint32_t tag);
/** When the next command ends if nothing is added; 0 for never. */
double drive_next(const struct drive *d);
/** Run until then, one event at most (true: *event happened, and now is its time). */
bool drive_run(struct drive *d, double until, struct drive_event *event);

#endif
