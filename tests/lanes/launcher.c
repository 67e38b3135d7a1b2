/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launcher.c: device/launch.h by host lanes.
 *
 * A thread runs launches one after the other, as a stream does; memory is the
 * host's, and the same address on both sides. Host lanes are a test double.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "device/launch.h"
#include "lanes/lanes.h"

#define QUEUE 8u
#define ALIGNMENT ((size_t)65536)

struct lanes_launcher {
    struct launcher base;
    uint64_t seed;
    struct machine *one_warp; /* what engine "gpu" launches; the thread's */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct launch queue[QUEUE]; /* under lock: launches ended + 1 .. launched */
    uint64_t launched;          /* under lock */
    uint64_t ended;             /* under lock */
    int fault;                  /* under lock; sticky */
    struct tutti_error said;    /* under lock */
    bool stop;                  /* under lock */
};

static struct lanes_launcher *of(struct launcher *l)
{
    return (struct lanes_launcher *)(void *)l; /* its first field */
}

static void give_way(void *self)
{
    (void)self;
    sched_yield(); /* to the controller's thread and the CPU's side of the ring */
}

static void run_one(struct lanes_launcher *l, const struct launch *what, uint64_t number)
{
    const struct lanes_kernel *k = lanes_kernel_find(what->kernel);
    const struct lanes_options o = {
        .seed = l->seed + number, .warps = what->warps, .world = give_way};
    struct tutti_error err = {0};
    int rc = what->warps == 1 ? lanes_run_on(l->one_warp, &o, k->function, what->word, NULL, &err)
                              : lanes_run(&o, k->function, what->word, NULL, &err);

    pthread_mutex_lock(&l->lock);
    if (rc < 0 && l->fault == 0) {
        l->fault = rc;
        l->said = err;
    }
    l->ended = number;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void *stream(void *self)
{
    struct lanes_launcher *l = self;

    pthread_mutex_lock(&l->lock);
    while (!l->stop || l->ended < l->launched) {
        struct launch what;
        uint64_t number;

        if (l->ended == l->launched) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        number = l->ended + 1;
        what = l->queue[number % QUEUE];
        pthread_mutex_unlock(&l->lock);
        run_one(l, &what, number);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int lanes_open(const struct launch_options *o, struct launcher **out,
                      struct tutti_error *err)
{
    struct lanes_launcher *l = calloc(1, sizeof(*l));
    pthread_condattr_t monotonic;
    int rc;

    if (!l)
        return tutti_error_set(err, -ENOMEM, "host lanes: no memory");
    l->one_warp = lanes_machine_new(1);
    if (!l->one_warp) {
        free(l);
        return tutti_error_set(err, -ENOMEM, "host lanes: no memory");
    }
    l->base.type = &launcher_lanes;
    l->seed = o->seed * 1000003;
    snprintf(l->base.granted, sizeof(l->base.granted),
             "host lanes, a test double: no GPU; seed %llu", (unsigned long long)o->seed);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    rc = tutti_thread_start(&l->thread, stream, l);
    if (rc < 0) {
        lanes_machine_free(l->one_warp);
        free(l);
        return tutti_error_set(err, rc, "host lanes: no thread: %s", strerror(-rc));
    }
    *out = &l->base;
    return 0;
}

static int lanes_alloc(struct launcher *l, size_t bytes, enum launch_place place,
                       struct launch_memory *m, struct tutti_error *err)
{
    size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;

    (void)l;
    memset(m, 0, sizeof(*m));
    m->host = aligned_alloc(ALIGNMENT, whole);
    if (!m->host)
        return tutti_error_set(err, -ENOMEM, "host lanes: no %zu bytes of memory", bytes);
    memset(m->host, 0, whole);
    m->device = (uint64_t)(uintptr_t)m->host;
    m->bytes = bytes;
    m->beside = place == LAUNCH_BESIDE_DATA; /* the data is the host's */
    return 0;
}

static void lanes_free(struct launcher *l, struct launch_memory *m)
{
    (void)l;
    free(m->host);
    memset(m, 0, sizeof(*m));
}

static int lanes_share(struct launcher *l, void *host, size_t bytes, enum launch_sharing what,
                       struct launch_memory *m, struct tutti_error *err)
{
    (void)l;
    (void)what;
    if (!host || bytes == 0)
        return tutti_error_set(err, -EINVAL, "host lanes: %zu bytes at no address", bytes);
    *m = (struct launch_memory){.host = host, .device = (uint64_t)(uintptr_t)host, .bytes = bytes};
    return 0;
}

static void lanes_unshare(struct launcher *l, struct launch_memory *m)
{
    (void)l;
    memset(m, 0, sizeof(*m));
}

static int refuse(const struct launch *what, struct tutti_error *err)
{
    const struct lanes_kernel *k = lanes_kernel_find(what->kernel);

    if (!k || k->words != what->count)
        return tutti_error_set(err, -ENOENT, "host lanes: no kernel \"%s\" of %u words",
                               what->kernel, what->count);
    if (what->warps < 1 || what->warps > LAUNCH_MOST_WARPS)
        return tutti_error_set(err, -EINVAL, "host lanes: %u warps; 1 to %u are possible",
                               what->warps, LAUNCH_MOST_WARPS);
    return 0;
}

static int lanes_launch(struct launcher *base, const struct launch *what, uint64_t *ticket,
                        struct tutti_error *err)
{
    struct lanes_launcher *l = of(base);
    int rc = refuse(what, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&l->lock);
    rc = l->fault;
    if (rc < 0 && err) {
        *err = l->said;
    } else if (rc == 0 && l->launched - l->ended >= QUEUE - 1) {
        rc = tutti_error_set(err, -EBUSY, "host lanes: %u launches wait", QUEUE - 1);
    } else if (rc == 0) {
        *ticket = ++l->launched;
        l->queue[*ticket % QUEUE] = *what;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static int lanes_wait(struct launcher *base, uint64_t ticket, uint64_t timeout_ns,
                      struct tutti_error *err)
{
    struct lanes_launcher *l = of(base);
    uint64_t end = tutti_clock_after(tutti_clock_now(), timeout_ns);
    struct timespec until = {.tv_sec = (time_t)(end / 1000000000),
                             .tv_nsec = (long)(end % 1000000000)};
    int rc = 0;

    pthread_mutex_lock(&l->lock);
    while (l->ended < ticket && timeout_ns > 0 && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&l->changed, &l->lock, &until);
    rc = l->fault;
    if (rc < 0 && err)
        *err = l->said;
    if (rc == 0 && l->ended < ticket)
        rc = -ETIMEDOUT;
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static void lanes_close(struct launcher *base)
{
    struct lanes_launcher *l = of(base);

    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
    lanes_machine_free(l->one_warp);
    free(l);
}

const struct launcher_type launcher_lanes = {
    .name = "lanes",
    .open = lanes_open,
    .alloc = lanes_alloc,
    .free = lanes_free,
    .share = lanes_share,
    .unshare = lanes_unshare,
    .launch = lanes_launch,
    .wait = lanes_wait,
    .close = lanes_close,
};
