/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.c: streams and hardware queues of the CUDA driver's stand-in.
 *
 * The one idea: a hardware queue is a thread that runs operations strictly in the order
 * in which they were enqueued, and streams share the queues in turn. So whoever
 * enqueues a wait before what ends it, on streams that may share a queue, hangs here as
 * he would there. Stricter than a GPU in one point: what shares a queue never overlaps.
 */
#include "double.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/atomics.h"
#include "base/thread.h"

#define MOST_QUEUES 64u
#define STREAM_MAGIC UINT64_C(0x6d61657274730a01)
#define LOOK_NS 50000 /* between looks at a word that wakes nobody */

struct queue {
    struct op *first;
    struct op **last;
    bool stalled;
};

static struct queue queue[MOST_QUEUES];
static unsigned queues = 8, streams;
static struct cu_stream_s *made;
static struct op *all; /* not done, in order of enqueuing */
static struct op **all_last = &all;
static uint64_t numbers;
static struct cu_stream_s null_stream = {.magic = STREAM_MAGIC, .is_null = true};

struct cu_stream_s *stream_of(cu_stream handle)
{
    if (!handle || handle == CU_LEGACY_STREAM)
        return &null_stream;
    return (uintptr_t)handle < 4096 || handle->magic != STREAM_MAGIC ? NULL : handle;
}

void stamp_drop(struct stamp *stamp)
{
    if (stamp && --stamp->users == 0)
        free(stamp);
}

/* What may run. */

static bool blocks(const struct cu_stream_s *s)
{
    return !s->is_null && !(s->flags & CU_STREAM_FLAG_NON_BLOCKING);
}

/** The legacy stream waits for all others that block, and they for it. */
static bool legacy_allows(const struct op *op)
{
    if (!kept(RULE_legacy) || (!op->stream->is_null && !blocks(op->stream)))
        return true;
    for (const struct op *other = all; other != op; other = other->all_next)
        if (op->stream->is_null ? blocks(other->stream) : other->stream->is_null)
            return false;
    return true;
}

static bool word_reached(const struct op *op)
{
    void *reach;
    uint32_t word;

    if (!kept(RULE_wait_value) || place_of(op->to, sizeof(word), &reach) == NOWHERE)
        return true; /* nowhere: it will fault */
    /* Acquire: what the word announces; pairs with its writer's release. */
    word = tutti_load_acquire((const uint32_t *)reach);
    switch (op->flags & ~(unsigned)CU_WAIT_FLUSH) {
    case CU_WAIT_GEQ:
        return (int32_t)(word - op->value) >= 0;
    case CU_WAIT_EQ:
        return word == op->value;
    case CU_WAIT_AND:
        return (word & op->value) != 0;
    default:
        return ~(word | op->value) != 0;
    }
}

static bool ready(const struct op *op)
{
    if (standin_context.sticky)
        return true;
    if (!legacy_allows(op))
        return false;
    if (op->kind == WAIT_WORD)
        return word_reached(op);
    if (op->kind == WAIT_STAMP)
        return op->stamp ? op->stamp->done : ((cu_event)op->argument)->stamp->done;
    return true;
}

/** The next to run: the first, unless the order is broken on purpose. */
static struct op *pick(struct queue *q)
{
    struct op *op = q->first;

    if (!kept(RULE_stream_order))
        while (op && !ready(op))
            op = op->next;
    return op && ready(op) ? op : NULL;
}

/* Running it. */

static void fault(void)
{
    if (standin_context.sticky == CU_OK)
        standin_context.sticky = CU_ILLEGAL_ADDRESS;
}

static long slow_ns;

void standin_slow_copies(long ns)
{
    pthread_mutex_lock(&standin_lock);
    slow_ns = ns;
    pthread_mutex_unlock(&standin_lock);
}

/** The others go on meanwhile. */
static void take_time(void)
{
    struct timespec time = {.tv_nsec = slow_ns};

    pthread_mutex_unlock(&standin_lock);
    nanosleep(&time, NULL);
    pthread_mutex_lock(&standin_lock);
}

static void copy(const struct op *op)
{
    void *to, *from;
    enum place to_place = place_of(op->to, op->bytes, &to);
    enum place from_place = place_of(op->from, op->bytes, &from);

    /* One end is the device's; the other may be any memory of the host. */
    if (to_place != ON_DEVICE && from_place != ON_DEVICE)
        fault();
    else
        memcpy(to, from, op->bytes);
}

static void write_word(const struct op *op)
{
    void *reach;

    if (place_of(op->to, sizeof(op->value), &reach) == NOWHERE)
        fault();
    else if (kept(RULE_write_value))
        tutti_store_release((uint32_t *)reach, op->value); /* pairs with whoever waits for it */
}

static void run_op(struct op *op)
{
    if (fault_is_due())
        fault();
    if (standin_context.sticky)
        return; /* nothing of this context runs any more */
    if (op->kind == COPY && slow_ns > 0)
        take_time();
    if (op->kind == COPY)
        copy(op);
    else if (op->kind == WRITE_WORD)
        write_word(op);
    else if (op->kind == HOST_FUNCTION) {
        pthread_mutex_unlock(&standin_lock);
        op->function(op->argument);
        pthread_mutex_lock(&standin_lock);
    }
}

static void finish(struct queue *q, struct op *op)
{
    struct op **at = &q->first;

    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    if (q->last == &op->next)
        q->last = at;
    for (at = &all; *at != op; at = &(*at)->all_next)
        ;
    *at = op->all_next;
    if (all_last == &op->all_next)
        all_last = at;
    op->stream->open--;
    if (op->kind == RECORD)
        op->stamp->done = true;
    stamp_drop(op->stamp);
    free(op);
    pthread_cond_broadcast(&standin_changed);
}

static void set_stalled(struct queue *q, bool stalled)
{
    standin_count.stalled += (uint64_t)stalled - (uint64_t)q->stalled;
    q->stalled = stalled;
}

static void *serve(void *argument)
{
    struct queue *q = argument;

    pthread_mutex_lock(&standin_lock);
    for (;;) {
        struct op *op = pick(q);
        struct timespec until;

        set_stalled(q, !op && q->first);
        if (op) {
            run_op(op);
            finish(q, op);
        } else if (q->first) {
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += LOOK_NS;
            until.tv_sec += until.tv_nsec / 1000000000;
            until.tv_nsec %= 1000000000;
            pthread_cond_timedwait(&standin_changed, &standin_lock, &until);
        } else {
            pthread_cond_wait(&standin_changed, &standin_lock);
        }
    }
    return NULL;
}

void queues_open(void)
{
    const char *told = getenv("STANDIN_QUEUES");
    unsigned wanted = told ? (unsigned)atoi(told) : 8;

    if (!kept(RULE_one_queue))
        wanted = 8;
    if (!kept(RULE_many_queues))
        wanted = 1;
    queues = wanted < 1 || wanted > MOST_QUEUES ? 1 : wanted;
    for (unsigned i = 0; i < queues; i++) {
        pthread_t thread;

        queue[i].last = &queue[i].first;
        if (tutti_thread_start(&thread, serve, &queue[i]) < 0)
            abort();
        pthread_detach(thread);
    }
}

/* Enqueuing. */

cu_result enqueue(struct cu_stream_s *stream, const struct op *what)
{
    struct queue *q = &queue[stream->queue];
    struct op *op;

    if (stream->capture == CU_CAPTURE_INVALID)
        return CU_CAPTURE_INVALIDATED;
    if (stream->capture == CU_CAPTURE_ACTIVE && kept(RULE_capture)) {
        stream->nodes++;
        standin_count.waits_captured += what->kind == WAIT_WORD;
        stamp_drop(what->stamp);
        return CU_OK;
    }
    op = malloc(sizeof(*op));
    if (!op)
        return CU_OUT_OF_MEMORY;
    *op = *what;
    op->next = op->all_next = NULL;
    op->stream = stream;
    op->number = ++numbers;
    *q->last = op;
    q->last = &op->next;
    *all_last = op;
    all_last = &op->all_next;
    stream->open++;
    stream->last = op->number;
    standin_count.waits += op->kind == WAIT_WORD;
    standin_count.writes += op->kind == WRITE_WORD;
    pthread_cond_broadcast(&standin_changed);
    return CU_OK;
}

cu_result drain(struct cu_stream_s *stream)
{
    while (stream->open && !standin_context.sticky)
        pthread_cond_wait(&standin_changed, &standin_lock);
    return standin_context.sticky;
}

cu_result stream_new(cu_stream *stream, unsigned flags, int priority)
{
    struct cu_stream_s *s = calloc(1, sizeof(*s));

    if (!s)
        return CU_OUT_OF_MEMORY;
    s->magic = STREAM_MAGIC;
    s->flags = flags;
    s->priority = kept(RULE_priorities) && priority < -5  ? -5
                  : kept(RULE_priorities) && priority > 0 ? 0
                                                          : priority;
    s->queue = streams++ % queues;
    s->next = made;
    made = s;
    standin_count.streams++;
    *stream = s;
    return CU_OK;
}

/* Calls. */

cu_result cuStreamCreateWithPriority(cu_stream *stream, unsigned flags, int priority)
{
    cu_result rc = call_begin(IN_CONTEXT);

    return call_end(rc ? rc : stream_new(stream, flags, priority));
}

cu_result cuStreamGetPriority(cu_stream stream, int *priority)
{
    cu_result rc = call_begin(IN_CONTEXT);
    const struct cu_stream_s *s = stream_of(stream);

    if (rc == CU_OK && s)
        *priority = s->priority;
    return call_end(rc ? rc : s ? CU_OK : CU_INVALID_HANDLE);
}

cu_result cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    cu_result rc = call_begin(IN_CONTEXT);

    *least = 0;
    *greatest = -5;
    return call_end(rc);
}

cu_result cuStreamDestroy_v2(cu_stream stream)
{
    cu_result rc = call_begin(ANYWHERE);
    struct cu_stream_s *s = stream_of(stream);
    struct cu_stream_s **at = &made;

    if (rc)
        return call_end(rc);
    if (!s || s->is_null)
        return call_end(CU_INVALID_HANDLE);
    drain(s); /* there it goes when its work is done; here at once, after it */
    while (s->open)
        pthread_cond_wait(&standin_changed, &standin_lock);
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    s->magic = 0;
    standin_count.streams--;
    free(s);
    return call_end(CU_OK);
}

cu_result cuStreamQuery(cu_stream stream)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);
    struct cu_stream_s *s = stream_of(stream);

    if (rc == CU_OK && !s)
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK)
        rc = capture_forbids(s);
    return call_end(rc ? rc : s->open ? CU_NOT_READY : CU_OK);
}

cu_result cuStreamSynchronize(cu_stream stream)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);
    struct cu_stream_s *s = stream_of(stream);

    if (rc == CU_OK && !s)
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK)
        rc = capture_forbids(s);
    return call_end(rc ? rc : drain(s));
}

cu_result cuCtxSynchronize(void)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    while (rc == CU_OK && all && !standin_context.sticky)
        pthread_cond_wait(&standin_changed, &standin_lock);
    return call_end(rc ? rc : standin_context.sticky);
}

cu_result cuLaunchHostFunc(cu_stream stream, void (*function)(void *), void *argument)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);

    if (rc == CU_OK && (!s || !function))
        rc = CU_INVALID_HANDLE;
    return call_end(rc ? rc
                       : enqueue(s, &(struct op){.kind = HOST_FUNCTION,
                                                 .function = function,
                                                 .argument = argument}));
}
