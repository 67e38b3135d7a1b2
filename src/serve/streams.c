/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streams.c: words between computation's stream and the ring.
 *
 * Responsible for the words that a stream waits for or writes, and for the watchdog: a stream
 * can't time out, so a thread lets it go. Knows neither disks nor copies.
 *
 * The one idea: every place of the ring has a word, and each life of the place a number that the
 * word reaches (>=) when the IOCB completes. The ring's last finisher writes it: status and
 * checksums are known by then, and the copies are done. The watchdog writes the same number, having
 * marked the session bad before; so it does not matter which of the two is first.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "base/thread.h"
#include "internal.h"

#define MARKS 1024u /* sessions under way */

/** A stream waits for this place's word. Under the lock. */
struct watch {
    struct session *session;
    uint64_t deadline;
};

/**
 * @stream: computation's, as tutti_serve_stream() last said
 * @word: @places of the ring, then MARKS; memory of the device's
 * @value: what each word was last to reach; the caller's thread's
 * @unused: a queue of marks, from @first on
 */
struct stream_words {
    const struct tutti_streams *streams;
    void *stream;
    uint32_t places;
    uint32_t *word;
    size_t bytes;
    uint32_t *value;
    uint32_t unused[MARKS];
    uint32_t first;
    uint32_t unused_count;
    struct watch *watch;
    uint32_t watched;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool running;
    bool stop;
};

/** Mark it bad, then let the stream go. Under the lock. */
static void let_go(struct stream_words *w, uint32_t place)
{
    struct session *s = w->watch[place].session;

    tutti_store_relaxed(&s->on.bad, ETIMEDOUT);
    /* Release: the mark; who uses the step's output does so after the stream passed the word. */
    tutti_store_release(&w->word[place], w->value[place]);
    w->watch[place].session = NULL;
    w->watched--;
}

/** Let go of what is overdue. Return: when to look again. */
static uint64_t look(struct stream_words *w, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    for (uint32_t i = 0; w->watched > 0 && i < w->places; i++) {
        if (!w->watch[i].session)
            continue;
        if (w->watch[i].deadline <= now)
            let_go(w, i);
        else if (w->watch[i].deadline < next)
            next = w->watch[i].deadline;
    }
    return next;
}

static void *watchdog(void *argument)
{
    struct stream_words *w = argument;

    pthread_setname_np(pthread_self(), "tutti-watchdog");
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        uint64_t next = look(w, tutti_clock_now());
        struct timespec until = {.tv_sec = (time_t)(next / 1000000000),
                                 .tv_nsec = (long)(next % 1000000000)};

        if (next == UINT64_MAX)
            pthread_cond_wait(&w->changed, &w->lock);
        else
            pthread_cond_timedwait(&w->changed, &w->lock, &until);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static int start_watchdog(struct stream_words *w, struct tutti_error *err)
{
    pthread_condattr_t by_our_clock;
    int rc;

    pthread_condattr_init(&by_our_clock);
    pthread_condattr_setclock(&by_our_clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, &by_our_clock);
    pthread_condattr_destroy(&by_our_clock);
    rc = tutti_thread_start(&w->thread, watchdog, w);
    w->running = rc == 0;
    return rc < 0 ? tutti_error_set(err, rc, "no thread to watch a GPU's waits: %s", strerror(-rc))
                  : 0;
}

static void give_mark(struct stream_words *w, uint32_t mark)
{
    w->unused[(w->first + w->unused_count++) % MARKS] = mark;
}

/**
 * One that the stream of its last user has written: that write, on another stream than the next
 * user's, would take the word back. NO_MARK where there is none.
 */
static uint32_t take_mark(struct stream_words *w)
{
    for (uint32_t tries = w->unused_count; tries > 0; tries--) {
        uint32_t mark = w->unused[w->first];

        w->first = (w->first + 1) % MARKS;
        w->unused_count--;
        /* Relaxed: it announces nothing any more. */
        if (tutti_load_relaxed(&w->word[mark]) == w->value[mark])
            return mark;
        give_mark(w, mark);
    }
    return NO_MARK;
}

int streams_open(struct tutti_serve *serve, struct tutti_error *err)
{
    struct stream_words *w;
    void *memory = NULL;
    uint32_t consumers;
    bool huge;
    int rc;

    if (!serve->device->streams)
        return 0;
    w = serve->words = calloc(1, sizeof(*w));
    if (!w)
        return tutti_error_set(err, -ENOMEM, "no memory for a GPU's words");
    w->streams = serve->device->streams;
    tutti_ring_shape(serve->ring, &w->places, &consumers);
    w->bytes = (w->places + MARKS) * sizeof(*w->word);
    w->value = calloc(w->places + MARKS, sizeof(*w->value));
    w->watch = calloc(w->places, sizeof(*w->watch));
    if (!w->value || !w->watch)
        return tutti_error_set(err, -ENOMEM, "no memory for a GPU's words");
    rc = serve->device->alloc(w->bytes, &memory, &huge, err);
    if (rc < 0)
        return rc;
    w->word = memory;
    for (uint32_t i = 0; i < MARKS; i++)
        give_mark(w, w->places + i);
    return start_watchdog(w, err);
}

void streams_close(struct tutti_serve *serve)
{
    struct stream_words *w = serve->words;

    if (!w)
        return;
    if (w->running) {
        pthread_mutex_lock(&w->lock);
        w->stop = true;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->thread, NULL);
        pthread_mutex_destroy(&w->lock);
        pthread_cond_destroy(&w->changed);
    }
    serve->device->free(w->word, w->bytes);
    free(w->value);
    free(w->watch);
    free(w);
    serve->words = NULL;
}

void tutti_serve_stream(struct tutti_serve *serve, void *stream)
{
    if (serve->words)
        serve->words->stream = stream;
}

int streams_mark(struct session *s, struct tutti_error *err)
{
    struct stream_words *w = s->serve->words;
    int rc;

    if (!w || s->kind == SESSION_ERASE)
        return 0;
    if (s->on.mark == NO_MARK)
        s->on.mark = take_mark(w);
    if (s->on.mark == NO_MARK)
        return tutti_error_set(err, -EBUSY,
                               "%u transfers are under way, or computation's stream does not get "
                               "to their marks",
                               MARKS);
    s->on.mark_value = w->value[s->on.mark] + 1;
    rc = w->streams->write(w->stream, &w->word[s->on.mark], s->on.mark_value, err);
    if (rc < 0)
        return rc;
    w->value[s->on.mark] = s->on.mark_value;
    if (s->kind == SESSION_RETRIEVE) {
        s->map.after = &w->word[s->on.mark];
        s->map.after_value = s->on.mark_value;
    }
    return 0;
}

void streams_forget(struct session *s)
{
    struct stream_words *w = s->serve->words;

    if (w && s->on.mark != NO_MARK)
        give_mark(w, s->on.mark);
}

void streams_name(struct session *s, uint32_t index, struct tutti_iocb *iocb)
{
    struct stream_words *w = s->serve->words;

    if (iocb->layer >= TUTTI_MAX_LAYERS)
        return;
    if (s->kind == SESSION_RETRIEVE) {
        iocb->word = &w->word[index];
        iocb->word_value = ++w->value[index];
    } else {
        iocb->ready = &w->word[s->on.mark];
        iocb->ready_value = s->on.mark_value;
    }
}

int streams_wait(struct session *s, uint32_t index, uint64_t timeout_ns)
{
    struct stream_words *w = s->serve->words;
    int rc = w->streams->wait(w->stream, &w->word[index], w->value[index], &s->on.refused);

    if (rc < 0) {
        tutti_store_relaxed(&s->on.bad, (uint32_t)-rc); /* nothing waits: see finish() */
        return rc;
    }
    pthread_mutex_lock(&w->lock);
    w->watched += w->watch[index].session == NULL;
    w->watch[index].session = s;
    w->watch[index].deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

void streams_collected(struct tutti_serve *serve, uint32_t index)
{
    struct stream_words *w = serve->words;

    pthread_mutex_lock(&w->lock);
    w->watched -= w->watch[index].session != NULL;
    w->watch[index].session = NULL;
    pthread_mutex_unlock(&w->lock);
}
