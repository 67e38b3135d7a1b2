/* SPDX-License-Identifier: Apache-2.0 */
/* drive_internal.h: what drive.c and warden.c share of an open drive. */
#ifndef TUTTI_NVME_DRIVE_INTERNAL_H
#define TUTTI_NVME_DRIVE_INTERNAL_H

#include <sys/types.h>

#include "base/left_behind.h"
#include "nvme/drive.h"

#define DRIVE_LANES 2u /* the pool's, the engine's */

/**
 * struct nvme_drive
 * @controller: NULL where it was given back while the drive is open: then it is dead
 * @lock: guards the controller's admin queue, @lane and what the warden decides; held through
 *   whole steps of recovery, never by who moves data
 * @whole_lock: guards @whole and @buffer: one whole read or write at a time
 */
struct nvme_drive {
    struct nvme_drive *next;
    char *name;
    uint32_t users; /* under the registry's lock */
    pid_t opener;
    struct nvme_port port;
    struct nvme_bounds bounds;
    struct nvme_facts facts;
    pthread_mutex_t map_lock; /* of the port's map and unmap, and of @gone */
    bool gone;                /* the port is closed */
    pthread_mutex_t whole_lock;
    struct nvme_transfer whole;
    struct iovec whole_iov;
    uint8_t *buffer;

    pthread_mutex_t lock;
    struct nvme_controller *controller;
    struct nvme_lane *lane[DRIVE_LANES];
    bool held; /* read relaxed by who waits: once set it stays */
    int dead;
    uint64_t leaving;          /* when it was asked for; 0: it was not */
    pthread_mutex_t word_lock; /* of what follows, and never held for long */
    bool claimed;
    struct nvme_steps steps;
    struct nvme_health health;

    pthread_t warden;
    pthread_cond_t call;
    bool warden_runs;
    bool stop; /* under lock */
    struct left_behind left;
};

int warden_start(struct nvme_drive *d, struct tutti_error *err);
void warden_stop(struct nvme_drive *d);

#endif
