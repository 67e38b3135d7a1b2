/* SPDX-License-Identifier: Apache-2.0 */
/*
 * member.c: the thread of one member.
 *
 * Responsible for the loop, for sleeping and waking, and for letters from
 * outside (register memory, stop). The one idea, in the loop's order: collect
 * what ended, fill the queue again, hand it over, and only then compute
 * checksums, so that the device works while this thread does.
 */
#include "engine/member.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/thread.h"

#define REAP_AT_ONCE 64u
#define POLL_NS UINT64_C(50000) /* between looks at a word that wakes nobody */

void member_io_error(struct member *m, int code, const char *what, uint64_t offset)
{
    pthread_mutex_lock(&m->lock);
    tutti_error_set(&m->io_error, code, "%s: %s at offset %llu: %s", m->options.path, what,
                    (unsigned long long)offset, strerror(-code));
    pthread_mutex_unlock(&m->lock);
}

/** A backend that reaches only what was fixed is told of all that commands of ours name. */
static int fix_own(struct member *m, struct tutti_error *err)
{
    int (*fix)(struct backend *, void *, size_t, struct tutti_error *) = m->type->fix;
    int rc = staging_open(&m->record_staging, m->device, m->command_bytes, err);

    if (rc == 0)
        rc = fix(m->backend, m->record_staging.memory, m->record_staging.bytes, err);
    if (rc == 0)
        rc = fix(m->backend, m->staging.memory, m->staging.bytes, err);
    if (rc == 0)
        rc = fix(m->backend, m->scratch, (size_t)MEMBER_COMMANDS * MEMBER_SCRATCH, err);
    return rc == 0 ? fix(m->backend, m->zeros, MEMBER_SCRATCH, err) : rc;
}

static int open_all(struct member *m, struct tutti_error *err)
{
    struct tutti_error unfixed;
    int rc;

    m->again.last = &m->again.first;
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        m->check[c].last = &m->check[c].first;
    if (task_open(m) < 0 || batch_pools_open(m) < 0)
        return tutti_error_set(err, -ENOMEM, "%s: no memory for the engine's pools",
                               m->options.path);
    rc = staging_open(&m->staging, m->device, m->staging_bytes, err);
    if (rc == 0)
        rc = place_open(m, err);
    if (rc < 0)
        return rc;
    rc = m->type->open(&m->options, &m->backend, err);
    if (rc < 0)
        return rc;
    if (m->backend->fixed_only)
        return fix_own(m, err);
    if (m->type->fix(m->backend, m->staging.memory, m->staging.bytes, &unfixed) < 0)
        tutti_error_set(err, 0, "%s: staging: %s", m->options.path, unfixed.message);
    return 0;
}

static void close_all(struct member *m)
{
    if (m->backend)
        m->type->close(m->backend);
    m->backend = NULL;
    place_close(m);
    staging_close(&m->record_staging);
    staging_close(&m->staging);
    batch_pools_close(m);
    free(m->task);
}

static void read_mail(struct member *m)
{
    struct letter *letter;

    /* Relaxed: set before the write to the eventfd, so who read that count sees it. What it
     * announces is under the lock. */
    if (!tutti_load_relaxed(&m->mail))
        return;
    pthread_mutex_lock(&m->lock);
    tutti_store_relaxed(&m->mail, false);
    letter = m->letter;
    if (letter) {
        letter->result = m->type->fix(m->backend, letter->memory, letter->bytes, &letter->error);
        m->letter = NULL;
        pthread_cond_broadcast(&m->answered);
    }
    m->closing = m->stop;
    pthread_mutex_unlock(&m->lock);
    fence_open_again(m);
}

/** Collect what ended. Return: how many. */
static uint32_t collect(struct member *m)
{
    struct command *ended[REAP_AT_ONCE];
    uint32_t n = m->type->reap(m->backend, ended, REAP_AT_ONCE);

    for (uint32_t i = 0; i < n; i++)
        check_ended(m, (struct io *)(void *)ended[i]); /* the command is its first field */
    /* What ended is collected, so this thread's own pauses (SIGSTOP) make no command late. */
    if (n < REAP_AT_ONCE && m->out > 0 && m->now >= m->next_look)
        fence_look_for_late(m);
    return n;
}

static void hand_over(struct member *m)
{
    m->type->reap(m->backend, NULL, 0);
}

/** A command that is out and does not end is noticed in time. */
static uint64_t longest_sleep(const struct member *m)
{
    if (m->polls || m->copying > 0)
        return POLL_NS;
    if (m->out == 0)
        return UINT64_MAX;
    return m->next_look > m->now ? m->next_look - m->now : 0;
}

static void sleep_until_needed(struct member *m)
{
    bool holding = m->stepped_over;

    if (!tutti_ring_sleep(m->ring, m->number, holding))
        return;
    /* After the flag of tutti_ring_sleep(): what became ready before it wakes nobody. And mail
     * again: a bell after read_mail() may have ended the backend's read of the eventfd, and
     * collect() took that end. A bell after this look ends the wait. */
    if (!tutti_load_relaxed(&m->mail) && (!holding || !task_any_ready(m)))
        m->type->wait(m->backend, longest_sleep(m));
    tutti_ring_awake(m->ring, m->number);
}

static void work(struct member *m)
{
    for (;;) {
        bool busy = false;

        m->now = tutti_clock_now();
        read_mail(m);
        while (task_take(m))
            busy = true;
        if (m->closing && m->active == 0 && !busy)
            return;
        busy = collect(m) > 0 || busy;
        busy = place_collect(m) || busy;
        task_fill(m);
        hand_over(m);
        busy = check_some(m) || busy;
        if (!busy && !(m->closing && m->active == 0))
            sleep_until_needed(m);
    }
}

static void set_name_and_place(const struct member *m)
{
    char name[16];
    cpu_set_t cpus;

    snprintf(name, sizeof(name), "tutti-%u", m->number);
    pthread_setname_np(pthread_self(), name);
    if (m->cpu < 0)
        return;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)m->cpu, &cpus);
    pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

static void *run(void *argument)
{
    struct member *m = argument;
    struct tutti_error error = {0};
    int rc;

    set_name_and_place(m);
    rc = open_all(m, &error);
    pthread_mutex_lock(&m->lock);
    m->open_result = rc;
    m->open_error = error;
    m->opened = true;
    pthread_cond_broadcast(&m->answered);
    pthread_mutex_unlock(&m->lock);
    if (rc == 0)
        work(m);
    close_all(m);
    pthread_mutex_lock(&m->lock);
    m->ended = true;
    pthread_cond_broadcast(&m->answered);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

int member_start(struct member *m, struct tutti_error *err)
{
    pthread_condattr_t by_our_clock;
    int rc;

    pthread_condattr_init(&by_our_clock);
    pthread_condattr_setclock(&by_our_clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->answered, &by_our_clock);
    pthread_condattr_destroy(&by_our_clock);
    rc = tutti_thread_start(&m->thread, run, m);
    if (rc < 0) {
        tutti_error_set(err, rc, "%s: no thread for its engine: %s", m->options.path,
                        strerror(-rc));
    } else {
        pthread_mutex_lock(&m->lock);
        while (!m->opened)
            pthread_cond_wait(&m->answered, &m->lock);
        rc = m->open_result;
        if (err && m->open_error.message[0])
            *err = m->open_error;
        pthread_mutex_unlock(&m->lock);
        if (rc < 0)
            pthread_join(m->thread, NULL);
    }
    if (rc < 0) {
        pthread_mutex_destroy(&m->lock);
        pthread_cond_destroy(&m->answered);
    }
    return rc;
}

/** Whatever the thread does, it looks at its mail soon. */
void member_ring_the_bell(struct member *m)
{
    uint64_t one = 1;
    ssize_t rc;

    tutti_store_relaxed(&m->mail, true); /* as in read_mail() */
    rc = write(m->options.wakeup, &one, sizeof(one));
    (void)rc;
}

void member_tell_to_stop(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    member_ring_the_bell(m);
    pthread_mutex_unlock(&m->lock);
}

/**
 * Wait for the thread's end. Return: 0; or -ETIMEDOUT, and then it still waits for a command: it,
 * what it works with and what the command moves bytes to have to stay.
 */
int member_join(struct member *m, uint64_t deadline)
{
    struct timespec until = {.tv_sec = (time_t)(deadline / 1000000000),
                             .tv_nsec = (long)(deadline % 1000000000)};
    int rc = 0;
    bool ended;

    pthread_mutex_lock(&m->lock);
    while (!m->ended && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&m->answered, &m->lock, &until);
    ended = m->ended;
    pthread_mutex_unlock(&m->lock);
    if (!ended) {
        pthread_detach(m->thread);
        return -ETIMEDOUT;
    }
    pthread_join(m->thread, NULL);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->answered);
    return 0;
}

int member_fix(struct member *m, void *memory, size_t bytes, struct tutti_error *err)
{
    struct letter letter = {.memory = memory, .bytes = bytes};

    pthread_mutex_lock(&m->lock);
    m->letter = &letter;
    member_ring_the_bell(m);
    while (m->letter)
        pthread_cond_wait(&m->answered, &m->lock);
    pthread_mutex_unlock(&m->lock);
    if (letter.result < 0 && err)
        *err = letter.error;
    return letter.result;
}
