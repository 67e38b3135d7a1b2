/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads.c: the backend for where io_uring is not permitted: a few threads
 * that call preadv and pwritev.
 *
 * Knows nothing but commands. The one idea: two lists under one lock, a
 * command a time; the member's thread is woken through the same eventfd as by
 * the ring, and only while it sleeps.
 */
#include "engine/backend.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/wakeup.h"

#define WORKERS 8u

struct list {
    struct command *first;
    struct command **last;
};

struct threads {
    struct backend base;
    int fd;
    int wakeup;
    uint32_t member;
    uint32_t workers;
    pthread_t worker[WORKERS];
    struct list fresh; /* the member's thread's, until reap() or wait() hands it over */
    uint32_t fresh_count;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;
    struct list queued;
    struct list ended;
    bool asleep; /* the member's thread is in poll(), or about to be */
    bool stop;
};

static struct threads *threads_of(struct backend *b)
{
    return (struct threads *)(void *)b;
}

static void append(struct list *l, struct command *c)
{
    c->next = NULL;
    *l->last = c;
    l->last = &c->next;
}

static struct command *pop(struct list *l)
{
    struct command *c = l->first;

    if (c) {
        l->first = c->next;
        if (!l->first)
            l->last = &l->first;
    }
    return c;
}

static void move(int fd, struct command *c)
{
    ssize_t rc;

    do {
        if (c->direction == TUTTI_READ)
            rc = preadv(fd, c->iov, (int)c->segments, (off_t)c->offset);
        else
            rc = pwritev(fd, c->iov, (int)c->segments, (off_t)c->offset);
    } while (rc < 0 && errno == EINTR);
    c->result = rc < 0 ? -errno : (int32_t)rc;
}

static void *serve(void *argument)
{
    struct threads *t = argument;
    char name[16];
    struct command *c;

    snprintf(name, sizeof(name), "tutti-%u-io", t->member);
    pthread_setname_np(pthread_self(), name);
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!(c = pop(&t->queued)) && !t->stop)
            pthread_cond_wait(&t->work, &t->lock);
        if (!c)
            break;
        pthread_mutex_unlock(&t->lock);
        move(t->fd, c);
        pthread_mutex_lock(&t->lock);
        append(&t->ended, c);
        if (t->asleep) {
            uint64_t one = 1;
            ssize_t rc = write(t->wakeup, &one, sizeof(one));

            (void)rc;
            t->asleep = false;
        }
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void threads_close(struct backend *b)
{
    struct threads *t = threads_of(b);

    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (uint32_t i = 0; i < t->workers; i++)
        pthread_join(t->worker[i], NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static int threads_open(const struct backend_options *o, struct backend **out,
                        struct tutti_error *err)
{
    struct threads *t = calloc(1, sizeof(*t));

    if (!t)
        return tutti_error_set(err, -ENOMEM, "no memory for I/O threads");
    t->base.type = &backend_threads;
    t->fd = o->fd;
    t->wakeup = o->wakeup;
    t->member = o->member;
    t->fresh.last = &t->fresh.first;
    t->queued.last = &t->queued.first;
    t->ended.last = &t->ended.first;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    /* Signals are blocked already: this is the member's thread. */
    while (t->workers < WORKERS && pthread_create(&t->worker[t->workers], NULL, serve, t) == 0)
        t->workers++;
    if (t->workers == 0) {
        threads_close(&t->base);
        return tutti_error_set(err, -EAGAIN,
                               "%s: no thread can be made for I/O (limit of "
                               "processes reached?)",
                               o->path);
    }
    *out = &t->base;
    return 0;
}

static int threads_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    (void)b;
    (void)memory;
    (void)bytes;
    (void)err;
    return 0; /* there is nothing to gain */
}

static void threads_submit(struct backend *b, struct command *c)
{
    struct threads *t = threads_of(b);

    append(&t->fresh, c);
    t->fresh_count++;
}

/** Under the lock: what was submitted becomes the workers'. */
static void hand_over(struct threads *t)
{
    if (!t->fresh.first)
        return;
    *t->queued.last = t->fresh.first;
    t->queued.last = t->fresh.last;
    t->fresh.first = NULL;
    t->fresh.last = &t->fresh.first;
    if (t->fresh_count == 1)
        pthread_cond_signal(&t->work);
    else
        pthread_cond_broadcast(&t->work);
    t->fresh_count = 0;
}

static uint32_t threads_reap(struct backend *b, struct command **ended, uint32_t most)
{
    struct threads *t = threads_of(b);
    uint32_t n = 0;

    pthread_mutex_lock(&t->lock);
    hand_over(t);
    while (n < most && t->ended.first)
        ended[n++] = pop(&t->ended);
    pthread_mutex_unlock(&t->lock);
    return n;
}

static void threads_wait(struct backend *b, uint64_t timeout_ns)
{
    struct threads *t = threads_of(b);
    bool nothing;

    pthread_mutex_lock(&t->lock);
    hand_over(t);
    nothing = !t->ended.first;
    t->asleep = nothing;
    pthread_mutex_unlock(&t->lock);
    if (!nothing)
        return;
    wakeup_sleep(b, t->wakeup, timeout_ns);
    pthread_mutex_lock(&t->lock);
    t->asleep = false;
    pthread_mutex_unlock(&t->lock);
}

const struct backend_type backend_threads = {
    .name = "threads",
    .open = threads_open,
    .fix = threads_fix,
    .submit = threads_submit,
    .reap = threads_reap,
    .wait = threads_wait,
    .close = threads_close,
};
