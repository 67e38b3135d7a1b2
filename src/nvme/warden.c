/* SPDX-License-Identifier: Apache-2.0 */
/*
 * warden.c: who looks after a drive: status, health, and commands that do not
 * return.
 *
 * Knows the steps of drive.h and their order; moves no data. The one idea: it
 * comes by on its own clock, so that neither a command nor a wait pays for it,
 * and a lane is only ever locked for the moment in which it is stopped or
 * given a new queue, never through a step.
 */
#include <string.h>
#include <time.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "base/thread.h"
#include "nvme/drive_internal.h"

#define SECOND UINT64_C(1000000000)
#define HEALTH_EVERY (60 * SECOND)
#define MOST_ABORTS 4u

static void lane_stop(struct nvme_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    lane->stopped = true;
    pthread_mutex_unlock(&lane->lock);
}

static void stop_lanes(struct nvme_drive *d)
{
    for (uint32_t i = 0; i < DRIVE_LANES; i++)
        if (d->lane[i])
            lane_stop(d->lane[i]);
}

/** The drive is done with all queues: those that were not closed are forgotten. */
static void lose_queues(struct nvme_drive *d)
{
    for (uint32_t i = 0; i < DRIVE_LANES; i++)
        if (d->lane[i])
            nvme_queue_lost(d->controller, &d->lane[i]->queue);
}

/** What happened goes to who asks; @count is a step's, or NULL. */
static void note(struct nvme_drive *d, uint64_t *count, const struct tutti_error *err)
{
    pthread_mutex_lock(&d->word_lock);
    if (count)
        ++*count;
    if (err && err->message[0])
        d->steps.said = *err;
    d->steps.held = d->held;
    d->steps.dead = d->dead;
    pthread_mutex_unlock(&d->word_lock);
}

/** What is out never returns, for nothing proves that the drive is done with it. */
static void hold(struct nvme_drive *d, const struct tutti_error *err)
{
    tutti_store_relaxed(&d->held, true); /* relaxed: it orders nothing */
    note(d, NULL, err);
}

/** The drive is over, or cut off: nothing can move a byte of anyone's. All ends with @error. */
static void declare_dead(struct nvme_drive *d, int error, const struct tutti_error *err)
{
    d->dead = error;
    note(d, NULL, err); /* before whoever waits can see what came of it */
    for (uint32_t i = 0; i < DRIVE_LANES; i++) {
        struct nvme_lane *lane = d->lane[i];

        if (!lane)
            continue;
        pthread_mutex_lock(&lane->lock);
        lane->dead = error;
        lane->stopped = true;
        nvme_lane_fail_all(lane, error);
        pthread_mutex_unlock(&lane->lock);
    }
}

/** A new queue for a stopped lane, whose old one is gone. */
static int reopen(struct nvme_drive *d, struct nvme_lane *lane, struct tutti_error *err)
{
    struct nvme_queue queue = {0};
    int rc =
        nvme_queue_open_in(d->controller, lane->number, lane->depth, lane->source, &queue, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&lane->lock);
    lane->queue = queue;
    lane->life++;
    lane->broken = 0;
    nvme_lane_fail_all(lane, -EIO);
    lane->stopped = false;
    pthread_mutex_unlock(&lane->lock);
    return 0;
}

/** Disable it and enable it again; where that fails, cut it off; where that fails, hold. */
static void reset(struct nvme_drive *d, struct tutti_error *err)
{
    int rc;

    note(d, &d->steps.resets, err);
    stop_lanes(d);
    rc = nvme_stop(d->controller, err);
    if (rc < 0 && rc != -ENODEV && (!d->port.cut || d->port.cut(d->port.self) < 0)) {
        hold(d, err);
        return;
    }
    lose_queues(d);
    if (rc == 0)
        rc = nvme_restart(d->controller, err);
    for (uint32_t i = 0; i < DRIVE_LANES && rc == 0; i++)
        if (d->lane[i])
            rc = reopen(d, d->lane[i], err);
    if (rc < 0)
        declare_dead(d, -ENODEV, err);
}

/** Commands of a lane that are late. Return: how many, and whether any was so before. */
static uint32_t find_late(struct nvme_lane *lane, uint64_t now, uint64_t again,
                          uint32_t id[MOST_ABORTS], bool *aborted)
{
    uint32_t n = 0;

    *aborted = false;
    for (uint32_t i = 0; i < lane->depth && n < MOST_ABORTS; i++) {
        struct nvme_piece *p = &lane->piece[i];

        if (!p->of || p->deadline > now)
            continue;
        *aborted = *aborted || p->aborted;
        p->aborted = true;
        p->deadline = now + again;
        id[n++] = i;
    }
    return n;
}

static void ask_for_aborts(struct nvme_drive *d, const struct nvme_lane *lane, const uint32_t *id,
                           uint32_t count, struct tutti_error *err)
{
    int rc = 0;

    nvme_bound(d->controller, d->bounds.abort);
    for (uint32_t i = 0; i < count && rc != -ETIMEDOUT; i++) {
        note(d, &d->steps.aborts, NULL); /* before whoever waits can see what came of it */
        rc = nvme_abort(d->controller, lane->number, id[i], err);
    }
    if (rc == -ETIMEDOUT || rc == -EPROTO)
        reset(d, err); /* it does not even answer to the admin queue */
}

static void delete_queues(struct nvme_drive *d, struct nvme_lane *lane, struct tutti_error *err)
{
    int rc;

    note(d, &d->steps.deletions, err);
    lane_stop(lane);
    nvme_bound(d->controller, d->bounds.deletion);
    rc = nvme_queue_close(d->controller, &lane->queue, err);
    if (rc == 0)
        rc = reopen(d, lane, err);
    if (rc < 0)
        reset(d, err);
}

static void look_at_lane(struct nvme_drive *d, struct nvme_lane *lane, struct tutti_error *err)
{
    uint32_t id[MOST_ABORTS], late;
    bool aborted;
    int broken;

    pthread_mutex_lock(&lane->lock);
    broken = lane->broken;
    late = find_late(lane, tutti_clock_now(), d->bounds.abort, id, &aborted);
    pthread_mutex_unlock(&lane->lock);
    if (broken)
        reset(d, err);
    else if (late > 0 && aborted)
        delete_queues(d, lane, err);
    else if (late > 0)
        ask_for_aborts(d, lane, id, late, err);
}

static void look_at_health(struct nvme_drive *d, uint64_t now, uint64_t *next,
                           struct tutti_error *err)
{
    struct nvme_health health;
    int told;

    nvme_bound(d->controller, d->bounds.deletion);
    told = nvme_event(d->controller, err);
    if (told <= 0 && now < *next)
        return;
    *next = now + HEALTH_EVERY;
    if (nvme_health(d->controller, &health, err) < 0)
        return; /* a drive without the log keeps zeros */
    pthread_mutex_lock(&d->word_lock);
    d->health = health;
    pthread_mutex_unlock(&d->word_lock);
}

/* A drive that is asked for: what is out ends, nothing more is issued, and it is given back. */

static bool is_drained(struct nvme_lane *lane)
{
    bool drained;

    pthread_mutex_lock(&lane->lock);
    lane->draining = true;
    drained = lane->dead || nvme_queue_out(&lane->queue) == 0;
    pthread_mutex_unlock(&lane->lock);
    return drained;
}

static void give_back(struct nvme_drive *d)
{
    struct tutti_error err = {0};
    int rc = 0;

    nvme_bound(d->controller, d->bounds.deletion);
    stop_lanes(d);
    for (uint32_t i = 0; i < DRIVE_LANES && rc == 0; i++)
        if (d->lane[i])
            rc = nvme_queue_close(d->controller, &d->lane[i]->queue, &err);
    if (rc < 0)
        rc = nvme_stop(d->controller, &err);
    if (rc == 0 || rc == -ENODEV) {
        lose_queues(d);
        rc = nvme_close(d->controller, &err);
    }
    if (rc < 0) {
        hold(d, &err);
        return;
    }
    d->controller = NULL;
    tutti_error_set(&err, -ENODEV, "%s: the drive was asked for, and was given back", d->name);
    declare_dead(d, -ENODEV, &err);
    pthread_mutex_lock(&d->map_lock);
    d->gone = true;
    d->port.close(d->port.self);
    d->port.close = NULL;
    pthread_mutex_unlock(&d->map_lock);
}

/** Return: whether it is on its way out. */
static bool leaves(struct nvme_drive *d)
{
    uint64_t now = tutti_clock_now();
    bool drained = true;

    if (!d->leaving && d->port.leaving && d->port.leaving(d->port.self))
        d->leaving = now;
    if (!d->leaving)
        return false;
    for (uint32_t i = 0; i < DRIVE_LANES; i++)
        if (d->lane[i] && !is_drained(d->lane[i]))
            drained = false;
    if (drained || now - d->leaving > d->bounds.deletion)
        give_back(d);
    return true;
}

/** Under the drive's lock. */
static void look(struct nvme_drive *d, uint64_t *next_health)
{
    struct tutti_error err = {0};
    int rc;

    if (leaves(d))
        return;
    rc = nvme_alive(d->controller, &err);
    if (rc == -ENODEV)
        declare_dead(d, rc, &err); /* it was pulled out: nothing of it can reach memory */
    else if (rc < 0)
        reset(d, &err);
    for (uint32_t i = 0; i < DRIVE_LANES && !d->dead && !d->held; i++)
        if (d->lane[i])
            look_at_lane(d, d->lane[i], &err);
    if (!d->dead && !d->held)
        look_at_health(d, tutti_clock_now(), next_health, &err);
    note(d, NULL, &err);
}

static void *watch(void *argument)
{
    struct nvme_drive *d = argument;
    uint64_t every = d->bounds.command / 8 < SECOND ? d->bounds.command / 8 : SECOND;
    uint64_t next_health = 0;

    pthread_mutex_lock(&d->lock);
    while (!d->stop) {
        uint64_t wake = tutti_clock_now() + every;
        struct timespec until = {.tv_sec = (time_t)(wake / SECOND),
                                 .tv_nsec = (long)(wake % SECOND)};

        if (!d->dead && !d->held)
            look(d, &next_health);
        while (!d->stop && pthread_cond_timedwait(&d->call, &d->lock, &until) == 0)
            ;
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

int warden_start(struct nvme_drive *d, struct tutti_error *err)
{
    int rc = tutti_thread_start(&d->warden, watch, d);

    if (rc < 0)
        return tutti_error_set(err, rc, "%s: no thread to look after the drive: %s", d->name,
                               strerror(-rc));
    pthread_setname_np(d->warden, "tutti-warden");
    d->warden_runs = true;
    return 0;
}

void warden_stop(struct nvme_drive *d)
{
    if (!d->warden_runs)
        return;
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_broadcast(&d->call);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->warden, NULL);
    d->warden_runs = false;
}

void nvme_drive_health(struct nvme_drive *d, struct nvme_health *health)
{
    pthread_mutex_lock(&d->word_lock);
    *health = d->health;
    pthread_mutex_unlock(&d->word_lock);
}

void nvme_drive_steps(struct nvme_drive *d, struct nvme_steps *steps)
{
    pthread_mutex_lock(&d->word_lock);
    *steps = d->steps;
    pthread_mutex_unlock(&d->word_lock);
}
