/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.c: the ring on a CPU: one producer, one consumer per member, any waiter.
 *
 * Responsible for handing IOCBs over, counting their parts, completing,
 * cancelling and waking. Knows nothing of disks or memory beyond the status
 * bytes of a map. The one idea: every shared word has one writer or is changed
 * by compare-and-swap, so nothing is locked and nothing allocated after new().
 *
 * The completion word is a turn: even while the IOCB is out, odd once it has
 * completed; get() and completion each add one. So "has what I wait for
 * completed" stays right when its index was reused meanwhile.
 *
 * The pairs of barriers are named where they stand and listed in
 * docs/memory-model.md.
 */
#include "tutti/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "ring/futex.h"

#define CACHE_LINE 64
#define MOST_RECORD_STRIDE 4096u /* 256 layers take 2,240 bytes; engines keep room for a page */

enum state { UNUSED, TAKEN, ISSUED, STARTED, CANCELLED, FENCED };
enum sleep { AWAKE, ASLEEP, ASLEEP_HOLDING };

/** The shared words of one IOCB. */
struct entry {
    uint32_t turn;      /* producer (even) and last consumer (odd); futex word */
    uint32_t state;     /* enum state; compare-and-swap once issued */
    uint32_t remaining; /* consumers whose part is not over */
    uint32_t launching; /* consumers who may enqueue copies for it; futex word */
    uint32_t waiters;   /* threads in or before a futex wait */
    uint32_t after;     /* producer: index that it waits for, or TUTTI_NO_IOCB */
    uint32_t after_turn;
} __attribute__((aligned(CACHE_LINE)));

struct consumer {
    uint32_t head;   /* its own: next place of the queue to read */
    uint32_t asleep; /* enum sleep; set by the consumer, taken back by whoever wakes it */
    int wakeup;
} __attribute__((aligned(CACHE_LINE)));

/* Padded on purpose: consumers do not read from a line that the producer writes. */
struct tutti_ring { // NOLINT(clang-analyzer-optin.performance.Padding)
    uint32_t depth;
    uint32_t consumers;
    struct tutti_iocb *iocb;
    struct entry *entry;
    uint32_t *queue;  /* indices in the order of issue */
    uint32_t *unused; /* stack of indices, the producer's */
    uint32_t unused_count;
    uint32_t tail __attribute__((aligned(CACHE_LINE))); /* producer: places written */
    struct consumer consumer[TUTTI_MAX_MEMBERS];
};

static void *lines_new(size_t bytes)
{
    size_t rounded = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    void *memory = aligned_alloc(CACHE_LINE, rounded);

    if (memory)
        memset(memory, 0, rounded);
    return memory;
}

int tutti_ring_new(uint32_t depth, uint32_t consumers, struct tutti_ring **out,
                   struct tutti_error *err)
{
    struct tutti_ring *ring;

    *out = NULL;
    if (depth < 2 || depth > 65536 || (depth & (depth - 1)) != 0)
        return tutti_error_set(err, -EINVAL,
                               "ring: depth %u; a power of two from 2 to 65536 is possible", depth);
    if (consumers < 1 || consumers > TUTTI_MAX_MEMBERS)
        return tutti_error_set(err, -EINVAL, "ring: %u consumers; 1 to %u are possible", consumers,
                               TUTTI_MAX_MEMBERS);
    ring = lines_new(sizeof(*ring));
    if (!ring)
        return tutti_error_set(err, -ENOMEM, "ring: no memory");
    ring->depth = depth;
    ring->consumers = consumers;
    for (uint32_t c = 0; c < consumers; c++)
        ring->consumer[c].wakeup = -1;
    ring->iocb = lines_new(depth * sizeof(*ring->iocb));
    ring->entry = lines_new(depth * sizeof(*ring->entry));
    ring->queue = lines_new(depth * sizeof(*ring->queue));
    ring->unused = lines_new(depth * sizeof(*ring->unused));
    if (!ring->iocb || !ring->entry || !ring->queue || !ring->unused) {
        tutti_ring_free(ring);
        return tutti_error_set(err, -ENOMEM, "ring: no memory for %u IOCBs", depth);
    }
    for (uint32_t c = 0; c < consumers; c++) {
        /* Blocking on purpose: io_uring answers -EAGAIN at once where it is not. */
        ring->consumer[c].wakeup = eventfd(0, EFD_CLOEXEC);
        if (ring->consumer[c].wakeup < 0) {
            int rc = -errno;

            tutti_ring_free(ring);
            return tutti_error_set(err, rc, "ring: eventfd: %s", strerror(-rc));
        }
    }
    for (uint32_t i = 0; i < depth; i++) {
        ring->entry[i].turn = 1;
        ring->unused[ring->unused_count++] = depth - 1 - i;
    }
    *out = ring;
    return 0;
}

void tutti_ring_free(struct tutti_ring *ring)
{
    if (!ring)
        return;
    for (uint32_t c = 0; c < ring->consumers; c++)
        if (ring->consumer[c].wakeup >= 0)
            close(ring->consumer[c].wakeup);
    free(ring->iocb);
    free(ring->entry);
    free(ring->queue);
    free(ring->unused);
    free(ring);
}

struct tutti_iocb *tutti_ring_get(struct tutti_ring *ring, uint32_t *index)
{
    struct tutti_iocb *iocb;
    struct entry *e;

    if (ring->unused_count == 0)
        return NULL;
    *index = ring->unused[--ring->unused_count];
    iocb = &ring->iocb[*index];
    e = &ring->entry[*index];
    memset(iocb, 0, sizeof(*iocb));
    iocb->wait_for = TUTTI_NO_IOCB;
    tutti_store_relaxed(&e->state, TAKEN); /* nobody acts on it but the producer */
    /* Release: ready() of who waits for an earlier life may see this turn first; passes on what
     * put() acquired. */
    tutti_store_release(&e->turn, e->turn + 1);
    return iocb;
}

/** Whether a layer (or what stands for one) goes with the direction and the map. */
static bool layer_valid(const struct tutti_iocb *i)
{
    const struct tutti_map *map = i->map;

    switch (i->layer) {
    case TUTTI_LAYER_RECORDS:
        return map->records && (i->direction == TUTTI_READ || map->origins);
    case TUTTI_LAYER_EMPTY:
        return i->direction == TUTTI_WRITE;
    default:
        return i->layer < map->placement->layers && map->planes && map->records;
    }
}

static bool iocb_valid(const struct tutti_ring *ring, uint32_t index)
{
    const struct tutti_iocb *i = &ring->iocb[index];
    const struct tutti_map *map = i->map;

    if (!map || !map->items || !map->placement || !map->stencil || !map->status)
        return false;
    if (i->count == 0 || i->first >= map->count || i->count > map->count - i->first)
        return false;
    if (i->direction > TUTTI_WRITE || i->class_ >= TUTTI_CLASSES || i->reserved[0] ||
        i->reserved[1])
        return false;
    if (map->placement->members != ring->consumers ||
        map->stencil->layers != map->placement->layers ||
        map->placement->record_stride < tutti_record_bytes(map->placement->layers) ||
        map->placement->record_stride > MOST_RECORD_STRIDE ||
        (uint64_t)(uintptr_t)map->records % map->placement->alignment != 0)
        return false;
    if (i->wait_for != TUTTI_NO_IOCB &&
        (i->wait_for >= ring->depth || i->wait_for == index ||
         tutti_load_relaxed(&ring->entry[i->wait_for].state) == TAKEN))
        return false; /* a TAKEN one may never be issued: nothing would end the wait */
    return layer_valid(i);
}

/**
 * Wake a consumer unless it is awake. CAS: of several wakers whoever changes the word writes; it
 * orders nothing, the eventfd and tail do.
 */
static void wake(struct consumer *c, enum sleep least)
{
    /* Relaxed: the caller's full fence stands before it. */
    uint32_t asleep = tutti_load_relaxed(&c->asleep);
    uint64_t one = 1;

    while (asleep >= least)
        if (tutti_compare_swap(&c->asleep, &asleep, AWAKE)) {
            ssize_t rc = write(c->wakeup, &one, sizeof(one));

            (void)rc; /* fails only when the counter is full, and then it is awake */
            return;
        }
}

int tutti_ring_issue(struct tutti_ring *ring, uint32_t index)
{
    struct entry *e;

    /* Relaxed: UNUSED and TAKEN are written by the producer alone, and that is us. */
    if (index >= ring->depth || tutti_load_relaxed(&ring->entry[index].state) != TAKEN ||
        !iocb_valid(ring, index))
        return -EINVAL;
    e = &ring->entry[index];
    e->after = ring->iocb[index].wait_for;
    if (e->after != TUTTI_NO_IOCB) {
        /* Acquire: pairs with finish(). What has completed is not waited for; what it did is
         * passed on through tail. */
        e->after_turn = tutti_load_acquire(&ring->entry[e->after].turn);
        if (e->after_turn & 1)
            e->after = TUTTI_NO_IOCB;
    }
    memset(&ring->iocb[index].completion, 0, sizeof(ring->iocb[index].completion));
    ring->iocb[index].completion.issued = tutti_clock_now();
    /* Relaxed: published by tail below. */
    tutti_store_relaxed(&e->remaining, ring->consumers);
    tutti_store_relaxed(&e->launching, ring->consumers);
    tutti_store_relaxed(&e->state, ISSUED);

    /* This place was written depth issues ago. At most depth IOCBs are out, so that one or a later
     * one was put back; consumers take in order, so all had read the place, and put() acquired
     * that. */
    ring->queue[ring->tail & (ring->depth - 1)] = index;
    /* Release: the IOCB and its place in the queue; pairs with the acquire in take(). */
    tutti_store_release(&ring->tail, ring->tail + 1);
    /* Dekker with sleep(): our tail before their flag, their flag before our tail. One of the two
     * sees the other. */
    tutti_fence_full();
    for (uint32_t c = 0; c < ring->consumers; c++)
        wake(&ring->consumer[c], ASLEEP);
    return 0;
}

int tutti_ring_done(const struct tutti_ring *ring, uint32_t index)
{
    /* Acquire: the completion and the data; pairs with the release in finish(). */
    return (int)(tutti_load_acquire(&ring->entry[index].turn) & 1);
}

static bool has_turned(uint32_t turn)
{
    return turn & 1;
}

static bool is_zero(uint32_t launching)
{
    return launching == 0;
}

int tutti_ring_wait(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns)
{
    struct entry *e = &ring->entry[index];

    if (tutti_ring_done(ring, index))
        return ring->iocb[index].completion.status;
    if (timeout_ns == 0 || !futex_wait_for(&e->turn, has_turned, &e->waiters, timeout_ns))
        return -ETIMEDOUT;
    return ring->iocb[index].completion.status;
}

int tutti_ring_wait_launched(struct tutti_ring *ring, uint32_t index, uint64_t timeout_ns)
{
    struct entry *e = &ring->entry[index];

    return futex_wait_for(&e->launching, is_zero, &e->waiters, timeout_ns) ? 0 : -ETIMEDOUT;
}

void tutti_ring_launched(struct tutti_ring *ring, uint32_t index)
{
    struct entry *e = &ring->entry[index];

    /* Release: what was enqueued; pairs with the acquire in futex_wait_for(). */
    if (tutti_sub_acq_rel(&e->launching, 1) != 0)
        return;
    tutti_fence_full(); /* Dekker with futex_wait_for() */
    if (tutti_load_relaxed(&e->waiters))
        futex_wake_all(&e->launching);
}

/** Wake those who hold IOCBs that they stepped over: one of them may be ready, or cancelled. */
static void wake_holders(struct tutti_ring *ring)
{
    for (uint32_t c = 0; c < ring->consumers; c++)
        wake(&ring->consumer[c], ASLEEP_HOLDING);
}

int tutti_ring_cancel(struct tutti_ring *ring, uint32_t index)
{
    struct entry *e = &ring->entry[index];
    uint32_t state = ISSUED;

    if (tutti_ring_done(ring, index))
        return TUTTI_CANCEL_ENDED;
    /* CAS: against start() and other cancels; state carries no data. */
    if (tutti_compare_swap(&e->state, &state, CANCELLED)) {
        /* Dekker with sleep(), as in finish(). */
        tutti_fence_full();
        wake_holders(ring);
        return TUTTI_CANCEL_NOT_STARTED;
    }
    if (state == STARTED)
        tutti_compare_swap(&e->state, &state, FENCED);
    if (state == CANCELLED || state == TAKEN)
        return TUTTI_CANCEL_NOT_STARTED;
    tutti_fence_full(); /* as above: a part of it may be stepped over somewhere */
    wake_holders(ring);
    return tutti_ring_done(ring, index) ? TUTTI_CANCEL_ENDED : TUTTI_CANCEL_FENCED;
}

struct tutti_iocb *tutti_ring_iocb(struct tutti_ring *ring, uint32_t index)
{
    return &ring->iocb[index];
}

int tutti_ring_put(struct tutti_ring *ring, uint32_t index)
{
    struct entry *e = &ring->entry[index % ring->depth];
    uint32_t state = tutti_load_relaxed(&e->state); /* as in issue() */

    if (index >= ring->depth || state == UNUSED)
        return -EINVAL;
    if (state == TAKEN)
        tutti_store_release(&e->turn, e->turn + 1); /* as in get() */
    else if (!tutti_ring_done(ring, index))         /* acquire: all consumers are through with it */
        return -EBUSY;
    tutti_store_relaxed(&e->state, UNUSED);
    ring->unused[ring->unused_count++] = index;
    return 0;
}

void tutti_ring_shape(const struct tutti_ring *ring, uint32_t *depth, uint32_t *consumers)
{
    *depth = ring->depth;
    *consumers = ring->consumers;
}

uint32_t tutti_ring_take(struct tutti_ring *ring, uint32_t consumer)
{
    struct consumer *c = &ring->consumer[consumer];

    /* Acquire: pairs with the release of tail in issue(). */
    if (c->head == tutti_load_acquire(&ring->tail))
        return TUTTI_NO_IOCB;
    return ring->queue[c->head++ & (ring->depth - 1)];
}

bool tutti_ring_ready(const struct tutti_ring *ring, uint32_t index)
{
    const struct entry *e = &ring->entry[index];
    const struct tutti_iocb *iocb = &ring->iocb[index];

    /* Acquire: what the earlier IOCB did; pairs with the release of turn in finish(). */
    if (e->after != TUTTI_NO_IOCB &&
        tutti_load_acquire(&ring->entry[e->after].turn) == e->after_turn)
        return false;
    /* Acquire: the memory that the word announces; pairs with its writer's release. */
    return !iocb->ready || (int32_t)(tutti_load_acquire(iocb->ready) - iocb->ready_value) >= 0;
}

bool tutti_ring_cancelled(const struct tutti_ring *ring, uint32_t index)
{
    /* Relaxed: a request, nothing was written for it. */
    uint32_t state = tutti_load_relaxed(&ring->entry[index].state);

    return state == CANCELLED || state == FENCED;
}

bool tutti_ring_start(struct tutti_ring *ring, uint32_t index, uint64_t now)
{
    uint32_t state = ISSUED;

    /* CAS: against cancel(). */
    if (tutti_compare_swap(&ring->entry[index].state, &state, STARTED)) {
        ring->iocb[index].completion.started = now; /* one consumer gets here */
        return true;
    }
    return state == STARTED;
}

/** Length of the prefix of zero bytes. Other members may be writing bytes of later layers. */
static uint32_t zero_prefix(const uint8_t *status, uint32_t count)
{
    typedef uint64_t __attribute__((may_alias)) word;
    uint32_t i = 0;

    for (; i < count && (uintptr_t)&status[i] % sizeof(word) != 0; i++)
        if (tutti_load_relaxed(&status[i]))
            return i;
    for (; count - i >= sizeof(word); i += (uint32_t)sizeof(word))
        if (tutti_load_relaxed((const word *)(const void *)&status[i]))
            break;
    for (; i < count; i++)
        if (tutti_load_relaxed(&status[i]))
            break;
    return i;
}

void tutti_ring_finish(struct tutti_ring *ring, uint32_t index, uint32_t consumer, uint64_t now,
                       uint64_t bytes, uint64_t hashed, uint32_t retried, uint32_t commands)
{
    struct entry *e = &ring->entry[index];
    struct tutti_iocb *iocb = &ring->iocb[index];
    struct tutti_completion *c = &iocb->completion;
    uint8_t first_error;

    c->bytes[consumer] = bytes;
    /* Relaxed: sums, published by the decrement below. */
    tutti_add_relaxed(&c->hashed, hashed);
    tutti_add_relaxed(&c->retried, retried);
    tutti_add_relaxed(&c->commands, commands);
    /* Release our share, acquire that of the others: the last one reads them all. */
    if (tutti_sub_acq_rel(&e->remaining, 1) != 0)
        return;
    c->verified = zero_prefix(iocb->map->status + iocb->first, iocb->count);
    /* Relaxed: who gave up because of CANCELLED did so before its decrement, acquired above. */
    if (tutti_load_relaxed(&e->state) == CANCELLED) {
        c->status = -ECANCELED;
    } else if (c->verified < iocb->count) {
        first_error = tutti_load_relaxed(&iocb->map->status[iocb->first + c->verified]);
        c->status = -(int32_t)first_error;
    }
    c->ended = now;
    /* Release: the data; pairs with the stream's wait. Before the turn: then the IOCB may be the
     * producer's. Its watchdog may write the same value before us, and no other: the word gets its
     * next value with the next life of this index. */
    if (iocb->word)
        tutti_store_release(iocb->word, iocb->word_value);
    /* Release: completion, data and status bytes; pairs with done(), wait(), put(), ready(). From
     * here on the IOCB is the producer's, and only words that outlive it are touched. The load is
     * relaxed: since issue() nobody else writes turn. */
    tutti_store_release(&e->turn, tutti_load_relaxed(&e->turn) + 1);
    /* Dekker with wait() (count, turn) and with sleep() (flag, turn). */
    tutti_fence_full();
    if (tutti_load_relaxed(&e->waiters))
        futex_wake_all(&e->turn);
    wake_holders(ring);
}

bool tutti_ring_sleep(struct tutti_ring *ring, uint32_t consumer, bool holding)
{
    struct consumer *c = &ring->consumer[consumer];

    tutti_store_relaxed(&c->asleep, holding ? ASLEEP_HOLDING : ASLEEP);
    /* Dekker with issue() (tail), finish() (turn) and cancel() (state): our flag before we look,
     * theirs before they look at our flag. The caller looks at what it holds after this. */
    tutti_fence_full();
    if (c->head != tutti_load_acquire(&ring->tail)) {
        tutti_ring_awake(ring, consumer);
        return false;
    }
    return true;
}

void tutti_ring_awake(struct tutti_ring *ring, uint32_t consumer)
{
    /* Relaxed: who still sees the old flag writes to the eventfd for nothing. */
    tutti_store_relaxed(&ring->consumer[consumer].asleep, AWAKE);
}

int tutti_ring_wakeup_fd(const struct tutti_ring *ring, uint32_t consumer)
{
    return ring->consumer[consumer].wakeup;
}
