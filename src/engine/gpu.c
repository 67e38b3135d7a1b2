/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.c: the backend whose commands a kernel makes: entries in a ring, a warp
 * that builds NVMe commands of them, rings, polls and reports.
 *
 * Knows commands, launches and how to wait; how an entry becomes commands of
 * the drive is the kernel's (device/kernels/io_kernel.h), who runs it is the launcher's
 * (device/launch.h), and what is done about commands that do not return is the
 * warden's. The one idea: a launch is finite. It ends when nothing is left for
 * it, or after its patience, and the next one goes on where it stopped; in
 * between the queue is the warden's to look at.
 */
#include "engine/gpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/member.h"
#include "engine/wakeup.h"

#define BOUND_NS UINT64_C(20000000)
#define PATIENCE_NS UINT64_C(1000000)
#define FIRST_REST_NS UINT64_C(20000)
#define LONGEST_REST_NS UINT64_C(1000000)
#define LOOK_NS UINT64_C(200000) /* between looks for new work while a launch is under way */

const struct launcher_type *gpu_launcher;

static struct gpu *gpu_of(const struct backend *b)
{
    return (struct gpu *)(uintptr_t)b; /* its first field */
}

/* Entries. */

static bool is_room(const struct gpu *g)
{
    return g->issued - g->oldest < IO_ENTRIES;
}

/** Into the ring: the kernel sees it with the tail, without a system call. */
static void issue(struct gpu *g, struct command *c)
{
    uint32_t place = g->issued % IO_ENTRIES;
    struct iovec *iov = g->iov + (size_t)place * MEMBER_SEGMENTS;

    memcpy(iov, c->iov, c->segments * sizeof(*iov));
    *io_entry_of(g->ring, g->issued) = (struct io_entry){
        .kind = IO_STRETCH,
        .opcode = c->direction == TUTTI_READ ? NVME_READ : NVME_WRITE,
        .count = 1,
        .offset = c->offset,
        .bytes = c->bytes,
        .segments = c->segments,
        .iov = gpu_device_of(g, iov),
    };
    g->command[place] = c;
    g->issued++;
    io_release(&g->ring->tail, g->issued); /* with io_see() of the kernel */
}

static void end(struct gpu *g, struct command *c, int32_t result, uint32_t status)
{
    c->result = result;
    c->why = status ? nvme_status_text(status) : NULL;
    c->next = g->ended;
    g->ended = c;
}

static void end_entry(struct gpu *g, uint32_t number)
{
    struct command *c = g->command[number % IO_ENTRIES];
    const struct io_end *e = io_end_of(g->ring, number);
    uint32_t status = io_load(&e->status);
    uint32_t error = io_load(&e->error);
    int32_t result = (int32_t)c->bytes;

    if (error)
        result = status ? nvme_status_errno(status) : -(int32_t)error;
    g->command[number % IO_ENTRIES] = NULL;
    end(g, c, result, status);
}

/** Entries whose turn has come; those behind an older one too. */
static void collect(struct gpu *g)
{
    for (uint32_t n = g->oldest; n != g->issued; n++)
        if (g->command[n % IO_ENTRIES] && io_has_ended(g->ring, n))
            end_entry(g, n);
    while (g->oldest != g->issued && !g->command[g->oldest % IO_ENTRIES])
        g->oldest++;
    while (g->waiting && is_room(g)) {
        struct command *c = g->waiting;

        g->waiting = c->next;
        issue(g, c);
    }
    if (!g->waiting)
        g->last = &g->waiting;
}

/** Nothing can move a byte any more: all ends. No launch is under way, and none follows. */
static void end_all(struct gpu *g, int error)
{
    struct command *c;

    collect(g);
    for (uint32_t n = g->oldest; n != g->issued; n++)
        if ((c = g->command[n % IO_ENTRIES])) {
            g->command[n % IO_ENTRIES] = NULL;
            end(g, c, error, 0);
        }
    g->oldest = g->issued;
    while ((c = g->waiting)) {
        g->waiting = c->next;
        end(g, c, error, 0);
    }
    g->last = &g->waiting;
}

/* Launches. */

static bool anything_to_do(const struct gpu *g)
{
    return g->oldest != g->issued;
}

static void rest_after(struct gpu *g)
{
    bool moved = g->warp->commands != g->commands || !g->warp->late;

    g->commands = g->warp->commands;
    g->step = moved || g->step == 0           ? FIRST_REST_NS
              : g->step * 2 < LONGEST_REST_NS ? g->step * 2
                                              : LONGEST_REST_NS;
    g->rest = moved ? 0 : tutti_clock_now() + g->step;
}

/** Take a launch's end, waiting at most so long. Return: whether none is under way. */
static bool finish_launch(struct gpu *g, uint64_t timeout_ns)
{
    int rc;

    if (!g->under_way)
        return true;
    rc = g->launcher->type->wait(g->launcher, g->ticket, timeout_ns, NULL);
    if (rc == -ETIMEDOUT)
        return false;
    if (rc < 0)
        g->failed = rc;
    gpu_warp_tell(g);
    if (rc < 0) /* the drive may still work on what it issued: a reset ends that */
        g->lane->broken = rc;
    g->under_way = false;
    rest_after(g);
    pthread_mutex_unlock(&g->lane->lock);
    return true;
}

/** Under the lane's lock. Return: whether a launch is under way, which keeps the lock. */
static bool begin_launch(struct gpu *g)
{
    struct launch what = {.kernel = IO_KERNEL, .count = IO_WORDS, .warps = 1};
    bool draining = g->lane->draining;
    int rc;

    if (draining && g->warp->out == 0)
        return false;
    g->launch->bound_ns = BOUND_NS;
    g->launch->patience_ns = PATIENCE_NS;
    g->launch->drains = draining;
    what.word[0] = gpu_device_of(g, g->launch);
    rc = g->launcher->type->launch(g->launcher, &what, &g->ticket, NULL);
    if (rc < 0)
        g->failed = rc;
    return rc == 0;
}

/** Launch, where there is work and the lane may be used. */
static void go_on(struct gpu *g)
{
    struct nvme_lane *lane = g->lane;

    if (!finish_launch(g, 0) || !anything_to_do(g) || tutti_clock_now() < g->rest)
        return;
    pthread_mutex_lock(&lane->lock);
    gpu_warp_take_news(g);
    if (lane->dead || (g->failed && g->warp->out == 0)) {
        end_all(g, lane->dead ? lane->dead : -EIO);
    } else if (!lane->stopped && !lane->broken && !g->failed) {
        g->under_way = begin_launch(g);
        if (g->under_way)
            return;
    }
    pthread_mutex_unlock(&lane->lock);
}

/* The backend. */

static void gpu_close(struct backend *b)
{
    struct gpu *g = gpu_of(b);

    while (!finish_launch(g, BOUND_NS))
        ; /* it is finite, and its launcher says so */
    gpu_warp_close(g);
    if (g->launcher)
        g->launcher->type->close(g->launcher);
    free(g);
}

static int gpu_open(const struct backend_options *o, struct backend **out, struct tutti_error *err)
{
    struct launch_options options = {.seed = o->member + 1};
    struct gpu *g;
    int rc;

    if (!gpu_launcher)
        return tutti_error_set(err, -ENODEV,
                               "%s: engine \"gpu\" has nothing here that runs its kernel; use "
                               "\"auto\"",
                               o->path);
    if (!o->drive)
        return tutti_error_set(err, -EINVAL,
                               "%s: engine \"gpu\" drives NVMe controllers of its own (members "
                               "named nvme:ADDRESS or soft:FILE); this is a file",
                               o->path);
    g = calloc(1, sizeof(*g));
    if (!g)
        return tutti_error_set(err, -ENOMEM, "%s: no memory for an engine", o->path);
    g->base.type = &backend_gpu;
    g->base.fixed_only = true;
    g->drive = o->drive;
    g->wakeup = o->wakeup;
    g->last = &g->waiting;
    rc = gpu_launcher->open(&options, &g->launcher, err);
    if (rc == 0)
        rc = gpu_warp_open(g, err);
    if (rc < 0) {
        gpu_close(&g->base);
        return rc;
    }
    *out = &g->base;
    return 0;
}

static int gpu_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    struct gpu *g = gpu_of(b);
    int rc;

    while (!finish_launch(g, BOUND_NS))
        ; /* the kernel reads the windows; no command is out, so it ends at once */
    rc = nvme_drive_reach(g->drive, g->lane, memory, bytes, err);
    if (rc == 0)
        gpu_warp_windows(g);
    return rc;
}

static bool gpu_reaches(const struct backend *b, const void *memory, size_t bytes)
{
    return nvme_windows_hold(&gpu_of(b)->lane->windows, memory, bytes);
}

static void gpu_submit(struct backend *b, struct command *c)
{
    struct gpu *g = gpu_of(b);

    g->out++;
    c->next = NULL;
    if (!g->waiting && is_room(g)) {
        issue(g, c);
        return;
    }
    *g->last = c;
    g->last = &c->next;
}

static uint32_t gpu_reap(struct backend *b, struct command **ended, uint32_t most)
{
    struct gpu *g = gpu_of(b);
    uint32_t n = 0;

    collect(g);
    go_on(g);
    while (n < most && g->ended) {
        struct command *c = g->ended;

        g->ended = c->next;
        ended[n++] = c;
        g->out--;
    }
    return n;
}

/** A moment: until the launch's end or new work. Return: whether there is new work. */
static bool sleep_a_moment(struct gpu *g, uint64_t most)
{
    if (g->under_way) {
        (void)finish_launch(g, most < LOOK_NS ? most : LOOK_NS);
        most = 0;
    }
    return wakeup_sleep(&g->base, g->wakeup, most < LONGEST_REST_NS ? most : LONGEST_REST_NS);
}

static void gpu_wait(struct backend *b, uint64_t timeout_ns)
{
    struct gpu *g = gpu_of(b);
    uint64_t end = tutti_clock_after(tutti_clock_now(), timeout_ns);

    if (g->out == 0) {
        while (!finish_launch(g, BOUND_NS))
            ; /* nothing is left for it */
        wakeup_sleep(b, g->wakeup, timeout_ns);
        return;
    }
    for (;;) {
        uint64_t now;

        collect(g);
        go_on(g);
        if (g->ended)
            return;
        now = tutti_clock_now();
        if (now >= end)
            return;
        if (!g->under_way && now < g->rest && g->rest < end) {
            if (sleep_a_moment(g, g->rest - now))
                return;
        } else if (sleep_a_moment(g, end - now)) {
            return;
        }
    }
}

const struct backend_type backend_gpu = {
    .name = "gpu",
    .open = gpu_open,
    .fix = gpu_fix,
    .reaches = gpu_reaches,
    .submit = gpu_submit,
    .reap = gpu_reap,
    .wait = gpu_wait,
    .close = gpu_close,
};
