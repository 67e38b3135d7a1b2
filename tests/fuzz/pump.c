/* SPDX-License-Identifier: Apache-2.0 */
/* pump.c: see pump.h. */
#include "pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/member.h"
#include "input.h"
#include "memory.h"

struct pump_backend {
    struct backend base;
    uint32_t number;
    struct command *out[MEMBER_COMMANDS];
    uint32_t count;
    uint32_t may_end;
};

/** What batch_pools_open() makes, kept from one execution to the next. */
struct pools {
    struct batch *batch_pool, *batches;
    struct io *io_pool, *ios;
    struct iovec *segments;
    uint8_t *scratch, *zeros;
};

const char *pump_engine;
uint64_t pump_clock;

static struct pump_ways ways;
static struct pump_backend backend[MEMORY_MEMBERS];
static struct pools pools[MEMORY_MEMBERS];
static struct member *running[MEMORY_MEMBERS];

int __real_member_start(struct member *m, struct tutti_error *err);
void __real_member_tell_to_stop(struct member *m);
int __real_member_join(struct member *m, uint64_t deadline);
int __real_member_fix(struct member *m, void *memory, size_t bytes, struct tutti_error *err);
int __real_tutti_ring_wait(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns);
int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __real_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_member_start(struct member *m, struct tutti_error *err);
void __wrap_member_tell_to_stop(struct member *m);
int __wrap_member_join(struct member *m, uint64_t deadline);
int __wrap_member_fix(struct member *m, void *memory, size_t bytes, struct tutti_error *err);
int __wrap_tutti_ring_wait(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);

/* The backend. */

static uint32_t draw(uint32_t limit)
{
    if (ways.order == 0)
        return 0;
    ways.order = ways.order * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(ways.order >> 33) % limit;
}

/** A command's result, by the ways of this device: whole, failed, busy, cut short, or nothing. */
static int32_t result_of(const struct command *c)
{
    const int32_t bad[] = {-EIO, -EAGAIN, -EINTR, -ENOSPC, (int32_t)(c->bytes / 2), 0};

    if (ways.spoils == 0 || draw(16) >= ways.spoils)
        return (int32_t)c->bytes;
    return bad[draw(6)];
}

static void move(struct pump_backend *b, struct command *c)
{
    const struct memory_member *m = &memory_member[b->number];
    uint64_t offset = c->offset, left = c->result > 0 ? (uint64_t)c->result : 0, sum = 0;

    CLAIM(offset >= TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES && offset + c->bytes <= m->held,
          "%u bytes at offset %llu, member of %llu", c->bytes, (unsigned long long)offset,
          (unsigned long long)m->held);
    CLAIM(c->segments >= 1 && c->segments <= MEMBER_SEGMENTS, "%u segments", c->segments);
    for (uint32_t i = 0; i < c->segments; i++) {
        uint64_t step = c->iov[i].iov_len < left ? c->iov[i].iov_len : left;

        if (c->direction == TUTTI_READ)
            memcpy(c->iov[i].iov_base, m->bytes + offset, step);
        else
            memcpy(m->bytes + offset, c->iov[i].iov_base, step);
        offset += step;
        left -= step;
        sum += c->iov[i].iov_len;
    }
    CLAIM(sum == c->bytes, "segments of %llu bytes", (unsigned long long)sum);
    if (c->direction == TUTTI_WRITE)
        memory_touched(b->number, c->offset, c->bytes);
}

static struct pump_backend *pump_of(struct backend *b)
{
    return (struct pump_backend *)(void *)b;
}

static int backend_open(const struct backend_options *o, struct backend **out,
                        struct tutti_error *err);

static int backend_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    (void)b;
    (void)memory;
    (void)bytes;
    (void)err;
    return 0;
}

static void backend_submit(struct backend *base, struct command *c)
{
    struct pump_backend *b = pump_of(base);

    CLAIM(b->count < MEMBER_COMMANDS, "more commands than there are");
    b->out[b->count++] = c;
    c->result = result_of(c);
    if (!ways.late)
        move(b, c);
}

static uint32_t backend_reap(struct backend *base, struct command **ended, uint32_t most)
{
    struct pump_backend *b = pump_of(base);
    uint32_t n = 0;

    while (b->count > 0 && b->may_end > 0 && n < most) {
        uint32_t i = draw(b->count);

        ended[n] = b->out[i];
        memmove(&b->out[i], &b->out[i + 1], (--b->count - i) * sizeof(b->out[0]));
        if (ways.late)
            move(b, ended[n]);
        n++;
        b->may_end--;
    }
    return n;
}

static void backend_wait(struct backend *b, uint64_t timeout_ns)
{
    (void)b;
    (void)timeout_ns;
}

static void backend_close(struct backend *base)
{
    CLAIM(pump_of(base)->count == 0, "closed with commands out");
}

static const struct backend_type type = {
    .name = "pump",
    .open = backend_open,
    .fix = backend_fix,
    .submit = backend_submit,
    .reap = backend_reap,
    .wait = backend_wait,
    .close = backend_close,
};

static int backend_open(const struct backend_options *o, struct backend **out,
                        struct tutti_error *err)
{
    struct pump_backend *b = &backend[o->member];

    (void)err;
    memset(b, 0, sizeof(*b));
    b->base.type = &type;
    b->number = o->member;
    *out = &b->base;
    return 0;
}

/* A member without its thread. */

static void give_pools(struct member *m)
{
    struct pools *p = &pools[m->number];

    if (!p->batch_pool) {
        CLAIM(batch_pools_open(m) == 0, "no memory");
        return;
    }
    m->batch_pool = p->batch_pool;
    m->batches = p->batches;
    m->io_pool = p->io_pool;
    m->ios = p->ios;
    m->segments = p->segments;
    m->scratch = p->scratch;
    m->zeros = p->zeros;
}

UNTRACED static void take_pools(struct member *m)
{
    uint32_t batches = 0, ios = 0;

    for (const struct batch *b = m->batches; ways.counts && b; b = b->next)
        batches++;
    for (const struct io *io = m->ios; ways.counts && io; io = io->next)
        ios++;
    CLAIM(!ways.counts || batches == MEMBER_BATCHES, "%u batches came back", batches);
    CLAIM(!ways.counts || ios == MEMBER_COMMANDS, "%u commands came back", ios);
    CLAIM(m->in_flight == 0, "%llu bytes in flight", (unsigned long long)m->in_flight);
    for (uint32_t i = 0; i < m->staging.units; i++)
        CLAIM(!m->staging.taken[i], "staging unit %u is taken", i);
    pools[m->number] = (struct pools){m->batch_pool, m->batches, m->io_pool, m->ios,
                                      m->segments,   m->scratch, m->zeros};
}

int __wrap_member_start(struct member *m, struct tutti_error *err)
{
    if (pump_engine)
        return __real_member_start(m, err);
    m->options.inner = &type;
    if (m->type != &backend_fault)
        m->type = &type;
    pthread_mutex_init(&m->lock, NULL);
    m->again.last = &m->again.first;
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        m->check[c].last = &m->check[c].first;
    give_pools(m);
    CLAIM(task_open(m) == 0 && staging_open(&m->staging, m->device, m->staging_bytes, err) == 0 &&
              m->type->open(&m->options, &m->backend, err) == 0,
          "%s", err->message);
    running[m->number] = m;
    return 0;
}

void __wrap_member_tell_to_stop(struct member *m)
{
    if (pump_engine)
        __real_member_tell_to_stop(m);
    else
        m->closing = true;
}

int __wrap_member_join(struct member *m, uint64_t deadline)
{
    if (pump_engine)
        return __real_member_join(m, deadline);
    while (pump_turn(m->number, UINT32_MAX))
        ;
    CLAIM(m->active == 0, "%u IOCBs never end", m->active);
    take_pools(m);
    running[m->number] = NULL;
    m->type->close(m->backend);
    staging_close(&m->staging);
    free(m->task);
    pthread_mutex_destroy(&m->lock);
    return 0;
}

int __wrap_member_fix(struct member *m, void *memory, size_t bytes, struct tutti_error *err)
{
    return pump_engine ? __real_member_fix(m, memory, bytes, err) : 0;
}

bool pump_turn(uint32_t number, uint32_t commands)
{
    struct member *m = running[number];
    struct command *ended[64];
    uint32_t active, n;
    bool busy = false;

    if (!m)
        return false;
    active = m->active;
    backend[number].may_end = commands;
    while (task_take(m))
        busy = true;
    n = m->type->reap(m->backend, ended, commands < 64 ? commands : 64);
    for (uint32_t i = 0; i < n; i++)
        check_ended(m, (struct io *)(void *)ended[i]);
    task_fill(m);
    /* An IOCB that ended without a command may have been what another member's waits for. */
    busy = check_some(m) || busy || n > 0 || m->active != active;
    return busy || (commands > 0 && m->in_flight > 0);
}

bool pump_all(void)
{
    bool any = false, busy = true;

    while (busy) {
        busy = false;
        for (uint32_t m = 0; m < MEMORY_MEMBERS; m++)
            busy = pump_turn(m, UINT32_MAX) || busy;
        any = any || busy;
    }
    return any;
}

void pump_open(void)
{
    pump_engine = getenv("TUTTI_FUZZ_ENGINE");
    memory_threads = pump_engine;
}

void pump_begin(struct pump_ways new_ways)
{
    ways = new_ways;
    pump_clock = UINT64_C(1000000000);
}

/* Waiting. */

int __wrap_tutti_ring_wait(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns)
{
    if (pump_engine || timeout_ns == 0)
        return __real_tutti_ring_wait(ring, index, timeout_ns);
    pump_all();
    CLAIM(tutti_ring_done(ring, index), "an IOCB that never ends");
    return __real_tutti_ring_wait(ring, index, 0);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (pump_engine)
        return __real_clock_gettime(clock, t);
    pump_clock += 100;
    *t = (struct timespec){.tv_sec = (time_t)(pump_clock / 1000000000),
                           .tv_nsec = (long)(pump_clock % 1000000000)};
    return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    if (pump_engine)
        return __real_nanosleep(t, left);
    pump_clock += (uint64_t)t->tv_nsec;
    pump_all();
    return 0;
}
