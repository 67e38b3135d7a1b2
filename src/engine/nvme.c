/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.c: the backend on a drive that this process has to itself: queue pairs,
 * no kernel on the path.
 *
 * Knows commands and how to wait; how they become commands of the drive is the
 * lane's (nvme/lane.h), what is done about those that do not return is the
 * warden's. The one idea of waiting: look for a moment without a system call,
 * since a drive answers within tens of microseconds; then sleep by doubling
 * steps on the eventfd that new work rings; with nothing out, sleep until it
 * does. An idle drive costs no core.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "engine/wakeup.h"
#include "nvme/drive.h"

#define QUEUE_DEPTH 1024u
#define LISTS 240u /* with the pool's 16: 1 MiB of lists, whatever the size of the KV cache */
#define LOOK_NS UINT64_C(30000)
#define FIRST_SLEEP_NS UINT64_C(20000)
#define LONGEST_SLEEP_NS UINT64_C(1000000)
#define STASH 64u

/** A transfer and the command that it is for; the transfer is its first field. */
struct work {
    struct nvme_transfer transfer;
    struct command *command;
    struct work *next;
};

struct nvme {
    struct backend base;
    struct nvme_drive *drive;
    struct nvme_lane *lane;
    int wakeup;
    struct work *pool;
    struct work *unused;
    uint32_t out;
    uint32_t stashed; /* ended while wait() looked */
    struct nvme_transfer *stash[STASH];
};

static struct nvme *nvme_of(const struct backend *b)
{
    return (struct nvme *)(uintptr_t)b; /* its first field */
}

static void nvme_backend_close(struct backend *b)
{
    struct nvme *n = nvme_of(b);

    nvme_drive_give_lane(n->drive, n->lane);
    free(n->pool);
    free(n);
}

static int nvme_backend_open(const struct backend_options *o, struct backend **out,
                             struct tutti_error *err)
{
    struct nvme *n;
    int rc;

    if (!o->drive)
        return tutti_error_set(
            err, -EINVAL,
            "%s: engine \"nvme\" drives NVMe controllers of its own (members "
            "named nvme:ADDRESS, nvme:serial=SERIAL or soft:FILE); this is a file",
            o->path);
    n = calloc(1, sizeof(*n));
    if (n)
        n->pool = calloc(o->depth, sizeof(*n->pool));
    if (!n || !n->pool) {
        free(n);
        return tutti_error_set(err, -ENOMEM, "%s: no memory for a queue", o->path);
    }
    n->base.type = &backend_nvme;
    n->base.fixed_only = true;
    n->drive = o->drive;
    n->wakeup = o->wakeup;
    for (uint32_t i = 0; i < o->depth; i++) {
        n->pool[i].next = n->unused;
        n->unused = &n->pool[i];
    }
    rc = nvme_drive_take_lane(o->drive, QUEUE_DEPTH, LISTS, &n->lane, err);
    if (rc < 0) {
        nvme_backend_close(&n->base);
        return rc;
    }
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL); /* of this thread: short sleeps are short */
    *out = &n->base;
    return 0;
}

static int nvme_backend_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    struct nvme *n = nvme_of(b);

    return nvme_drive_reach(n->drive, n->lane, memory, bytes, err);
}

static bool nvme_backend_reaches(const struct backend *b, const void *memory, size_t bytes)
{
    return nvme_windows_hold(&nvme_of(b)->lane->windows, memory, bytes);
}

static void nvme_backend_submit(struct backend *b, struct command *c)
{
    struct nvme *n = nvme_of(b);
    struct work *w = n->unused; /* there is one: depth bounds us */

    n->unused = w->next;
    n->out++;
    w->command = c;
    w->transfer.offset = c->offset;
    w->transfer.bytes = c->bytes;
    w->transfer.segments = c->segments;
    w->transfer.iov = c->iov;
    w->transfer.opcode = c->direction == TUTTI_READ ? NVME_READ : NVME_WRITE;
    nvme_lane_submit(n->lane, &w->transfer);
}

static struct command *finish(struct nvme *n, struct nvme_transfer *t)
{
    struct work *w = (struct work *)(void *)t;
    struct command *c = w->command;

    c->result = t->result < 0 ? t->result : (int32_t)t->bytes;
    c->why = t->status ? nvme_status_text(t->status) : NULL;
    w->next = n->unused;
    n->unused = w;
    n->out--;
    return c;
}

static uint32_t nvme_backend_reap(struct backend *b, struct command **ended, uint32_t most)
{
    struct nvme *n = nvme_of(b);
    struct nvme_transfer *t[STASH];
    uint32_t found = 0, got;

    while (found < most && n->stashed > 0)
        ended[found++] = finish(n, n->stash[--n->stashed]);
    got = nvme_lane_collect(n->lane, t, most - found < STASH ? most - found : STASH);
    for (uint32_t i = 0; i < got; i++)
        ended[found++] = finish(n, t[i]);
    return found;
}

/** Whether something ended. */
static bool look(struct nvme *n)
{
    n->stashed += nvme_lane_collect(n->lane, n->stash + n->stashed, STASH - n->stashed);
    return n->stashed > 0;
}

static void nvme_backend_wait(struct backend *b, uint64_t timeout_ns)
{
    struct nvme *n = nvme_of(b);
    uint64_t began = tutti_clock_now(), end = tutti_clock_after(began, timeout_ns);
    uint64_t step = FIRST_SLEEP_NS;

    if (n->out == 0) {
        wakeup_sleep(b, n->wakeup, timeout_ns);
        return;
    }
    while (!look(n)) {
        uint64_t now = tutti_clock_now();

        if (now >= end)
            return;
        if (now - began < LOOK_NS)
            continue;
        if (wakeup_sleep(b, n->wakeup, step < end - now ? step : end - now))
            return;
        step = step * 2 < LONGEST_SLEEP_NS ? step * 2 : LONGEST_SLEEP_NS;
    }
}

const struct backend_type backend_nvme = {
    .name = "nvme",
    .open = nvme_backend_open,
    .fix = nvme_backend_fix,
    .reaches = nvme_backend_reaches,
    .submit = nvme_backend_submit,
    .reap = nvme_backend_reap,
    .wait = nvme_backend_wait,
    .close = nvme_backend_close,
};
