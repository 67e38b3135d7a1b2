/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_kernel.h: the I/O kernel: a warp takes entries from its ring, builds NVMe
 * commands, rings, polls, verifies, and says how each entry ended.
 *
 * Included by io.cu for CUDA and by host lanes. Every function is called by all
 * lanes of the warp together, unless it says "a lane's". What is one for the
 * warp (tail, head, phase, time) every lane holds for itself and computes alike;
 * what is a lane's (a transfer, its commands, counts of every 32nd entry)
 * no other lane looks at, so that shuffles hand over values and memory is shared
 * in few places, each with its fence:
 *
 *     entries        lane 0 acquires the ring's tail, warp_sync(), all read
 *     commands       each lane writes its own and fences, warp_sync(), lane 0 rings
 *     completions    each lane acquires one, warp_sync(), all read the data
 *     page sums      a lane writes, warp_sync(), others read (sums.h)
 *     results        a lane writes, warp_sync(), who counts the entry releases its turn
 *
 * Finite: it ends when nothing is left that can go on, at its bound, or when
 * nothing moved for its patience; what is out then stays in the lanes' own
 * memory for the next launch. It waits for no call of the CPU.
 */
#ifndef TUTTI_DEVICE_KERNELS_IO_KERNEL_H
#define TUTTI_DEVICE_KERNELS_IO_KERNEL_H

#include <errno.h>

#include "device/kernels/io.h"
#include "device/kernels/sums.h"
#include "device/kernels/warp.h"
#include "nvme/fill.h"

/** One for the warp, the same in each lane's registers; but @lane and @mine. */
struct io_run {
    struct io_warp *warp;
    struct io_lane *mine;
    struct nvme_queue queue;
    uint32_t lane;
    uint32_t seen;
    uint32_t oldest;
    int32_t broken;
};

TUTTI_KERNEL uint32_t io_below(uint32_t lane)
{
    return (1u << lane) - 1;
}

/** A lane's: the entry that it keeps count of. */
TUTTI_KERNEL struct io_own *io_own(struct io_run *r, uint32_t number)
{
    return &r->mine->own[number % IO_ENTRIES / IO_LANES];
}

/** A lane's: which number of 32 from @base on it keeps count of. */
TUTTI_KERNEL uint32_t io_number(const struct io_run *r, uint32_t base)
{
    return base + ((r->lane - base) & (IO_LANES - 1));
}

/** Entries that were issued meanwhile. */
TUTTI_KERNEL void io_see(struct io_run *r)
{
    uint32_t tail = 0;

    if (r->lane == 0)
        tail = io_acquire(&r->warp->ring->tail); /* with the CPU's release of it */
    tail = warp_shuffle(WARP_ALL, tail, 0);
    if (tail == r->seen)
        return;
    warp_sync(WARP_ALL); /* what lane 0 acquired, all may read: a shuffle does not say so */
    for (uint32_t n = io_number(r, r->seen); n - r->seen < tail - r->seen; n += IO_LANES) {
        struct io_own *o = io_own(r, n);

        memset(o, 0, sizeof(*o));
        o->remaining = io_entry_of(r->warp->ring, n)->count;
    }
    r->seen = tail;
}

/** A lane's: whether what an entry waits for has happened. */
TUTTI_KERNEL bool io_ready(struct io_run *r, const struct io_entry *e)
{
    if (e->waits && (int32_t)(e->wait_for - r->oldest) >= 0 &&
        !io_has_ended(r->warp->ring, e->wait_for))
        return false;
    if (!e->ready)
        return true;
    /* With the release of whoever announces memory by that word. */
    return (int32_t)(io_acquire((const struct io_word *)(uintptr_t)e->ready) - e->ready_value) >= 0;
}

/** A lane's: the scattered memory of a position's layer. */
TUTTI_KERNEL void io_gather(struct io_lane *l, const struct io_entry *e,
                            const struct tutti_placement *p, uint32_t block)
{
    const struct tutti_kv_plane *planes = (const struct tutti_kv_plane *)(uintptr_t)e->planes;
    uint32_t n = 0;

    for (uint32_t part = 0; part < p->parts; part++) {
        l->iov[n].iov_base = (void *)(uintptr_t)tutti_kv_address(planes, p->parts, 0, part, block);
        l->iov[n++].iov_len = p->object_bytes;
        if (p->object_stride == p->object_bytes)
            continue;
        l->iov[n].iov_base = (void *)(uintptr_t)e->padding;
        l->iov[n++].iov_len = p->object_stride - p->object_bytes;
    }
    l->place.iov = l->iov;
    l->place.segments = n;
    l->place.skip = 0;
}

/** Pages of a position's layer; their sums and one word more have to fit the warp's scratch. */
TUTTI_KERNEL uint64_t io_pages(const struct tutti_placement *p)
{
    return (p->object_bytes + SUM_PAGE - 1) / SUM_PAGE * p->parts;
}

/** A lane's: begin a position. One of another member's has nothing to move and ends at once. */
TUTTI_KERNEL void io_begin(struct io_run *r, uint32_t number, uint32_t position)
{
    const struct io_entry *e = io_entry_of(r->warp->ring, number);
    struct io_lane *l = r->mine;

    l->active = true;
    l->entry = number;
    l->position = position;
    l->error = 0;
    l->status = 0;
    l->commands = 0;
    l->at = 0;
    l->left = 0;
    if (e->kind == IO_STRETCH) {
        l->at = e->offset;
        l->left = e->bytes;
        l->place.iov = (const struct iovec *)(uintptr_t)e->iov;
        l->place.segments = e->segments;
        l->place.skip = 0;
    } else {
        const struct tutti_placement *p = (const struct tutti_placement *)(uintptr_t)e->placement;
        const struct io_item *item = (const struct io_item *)(uintptr_t)e->items + position;

        if (!tutti_slot_valid(p, item->slot)) {
            l->error = EINVAL;
        } else if (item->slot / p->records_per_extent % p->members == e->member) {
            l->at = tutti_object_place(p, item->slot, e->layer, 0).offset;
            l->left = tutti_layer_stride(p);
            io_gather(l, e, p, item->block);
            if (e->sums && io_pages(p) >= r->warp->root_words)
                l->error = EFBIG;
        }
    }
    if ((l->at | l->left) % r->warp->limits.block != 0 || l->at > r->warp->capacity ||
        l->left > r->warp->capacity - l->at)
        l->error = EINVAL;
    if (l->error)
        l->left = 0;
}

/** Positions of entries that are ready go to lanes that have none; in order, but for those. */
TUTTI_KERNEL bool io_assign(struct io_run *r)
{
    uint32_t idle = warp_ballot(WARP_ALL, r->lane < r->warp->ids && !r->mine->active);
    bool some = false;

    for (uint32_t base = r->oldest; idle && (int32_t)(r->seen - base) > 0; base += IO_LANES) {
        uint32_t n = io_number(r, base), open = 0, wanting;

        if (n - base < r->seen - base) {
            const struct io_entry *e = io_entry_of(r->warp->ring, n);

            if (io_own(r, n)->cursor < e->count && io_ready(r, e))
                open = e->count - io_own(r, n)->cursor;
        }
        wanting = warp_ballot(WARP_ALL, open > 0);
        for (uint32_t k = 0; k < IO_LANES && idle; k++) {
            uint32_t owner = (base + k) % IO_LANES, rank = warp_count(idle & io_below(r->lane));
            uint32_t give, cursor;

            if (!(wanting >> owner & 1))
                continue;
            give = warp_shuffle(WARP_ALL, open, owner);
            cursor = warp_shuffle(WARP_ALL, io_own(r, n)->cursor, owner);
            if (give > warp_count(idle))
                give = warp_count(idle);
            if ((idle >> r->lane & 1) && rank < give)
                io_begin(r, base + k, cursor + rank);
            if (r->lane == owner)
                io_own(r, n)->cursor += give;
            for (uint32_t i = 0; i < give; i++)
                idle &= idle - 1;
            some = true;
        }
    }
    return some;
}

/** A lane's: its next command, under the identifier that it has free. Return: whether there is. */
TUTTI_KERNEL bool io_build(struct io_run *r, uint64_t sqe[NVME_SQE_WORDS], uint32_t *bit)
{
    struct io_lane *l = r->mine;
    const struct io_warp *w = r->warp;
    struct nvme_list list;
    uint32_t k = 0;
    int64_t bytes;

    if (!l->active || l->left == 0)
        return false;
    while (k < 32 && (l->out >> k & 1))
        k++;
    if (k == 32 || k * IO_LANES + r->lane >= w->ids)
        return false;
    *bit = k;
    k = k * IO_LANES + r->lane; /* the identifier, and its list */
    list.words = (uint64_t *)(uintptr_t)(w->lists + (uint64_t)k * NVME_LIST_BYTES);
    list.address = w->lists_address + (uint64_t)k * NVME_LIST_BYTES;
    list.used = false;
    memset(sqe, 0, NVME_SQE_BYTES);
    sqe[0] = NVME_WORD0(io_entry_of(w->ring, l->entry)->opcode, 0, k, w->nsid);
    bytes = nvme_fill(w->windows, &w->limits, &l->place, l->left, &list, sqe);
    if (bytes <= 0) {
        l->error = bytes < 0 ? (uint32_t)-bytes : EINVAL;
        l->left = 0;
        return false;
    }
    sqe[5] = l->at / w->limits.block;
    sqe[6] = (uint64_t)bytes / w->limits.block - 1;
    l->at += (uint64_t)bytes;
    l->left -= (uint64_t)bytes;
    l->commands++;
    r->warp->issued[k]++;
    return true;
}

/** Lanes build commands side by side until none has one more; one doorbell for all of them. */
TUTTI_KERNEL bool io_issue(struct io_run *r)
{
    struct nvme_queue *q = &r->queue;

    for (;;) {
        uint64_t sqe[NVME_SQE_WORDS];
        uint32_t bit = 0;
        bool one = io_build(r, sqe, &bit);
        uint32_t votes = warp_ballot(WARP_ALL, one);

        if (!votes)
            break;
        if (one) {
            nvme_queue_put_at(q, (q->tail + warp_count(votes & io_below(r->lane))) % q->depth, sqe);
            r->mine->out |= 1u << bit;
        }
        q->tail = (q->tail + warp_count(votes)) % q->depth;
        q->free -= warp_count(votes);
    }
    if (q->rung == q->tail)
        return false;
    tutti_fence_system(); /* its own entries and lists; with the controller's fetch */
    warp_sync(WARP_ALL);  /* all have fenced theirs */
    if (r->lane == 0)
        nvme_write32(q->bar, q->sq_doorbell, q->tail);
    q->rung = q->tail;
    q->sq_doorbells++;
    return true;
}

/** A lane's: one of its commands has ended. Return: whether it was out. */
TUTTI_KERNEL bool io_take(struct io_lane *l, uint32_t k, uint64_t word1)
{
    if (!(l->out >> k & 1))
        return false;
    l->out &= ~(1u << k);
    if (NVME_CQE_STATUS(word1) != NVME_OK && l->error == 0) {
        l->error = EIO;
        l->status = NVME_CQE_STATUS(word1);
        l->left = 0; /* what is not issued stays so */
    }
    return true;
}

/** What the controller completed meanwhile: 32 entries at a look, those before the first old one.
 */
TUTTI_KERNEL bool io_poll(struct io_run *r)
{
    struct nvme_queue *q = &r->queue;
    uint32_t at = q->head + r->lane, phase = q->phase, news, count;
    bool is_new = false, good = true;
    uint64_t word1 = 0;

    if (at >= q->depth) {
        at -= q->depth;
        phase ^= 1;
    }
    if (r->lane < q->depth)
        is_new = nvme_queue_look(q, at, phase, &word1);
    news = warp_ballot(WARP_ALL, is_new);
    count = news == WARP_ALL ? WARP_LANES : warp_first(~news);
    if (count == 0)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = warp_shuffle64(WARP_ALL, word1, i);
        uint32_t id = NVME_CQE_ID(word);

        if (id >= r->warp->ids || NVME_CQE_SQ(word) != q->number)
            good = false;
        else if (id % IO_LANES == r->lane)
            good = io_take(r->mine, id / IO_LANES, word) && good;
    }
    if (warp_ballot(WARP_ALL, !good)) {
        r->broken = -EPROTO; /* nothing that it says can be believed any more */
        return true;
    }
    q->free += count;
    q->phase ^= q->head + count >= q->depth;
    q->head = (q->head + count) % q->depth;
    /* The data that a lane's acquire announced, all lanes read to hash it; and all entries were
     * read before the controller may write there again. */
    warp_sync(WARP_ALL);
    if (r->lane == 0)
        nvme_write32(q->bar, q->cq_doorbell, q->head);
    q->cq_doorbells++;
    return true;
}

/** Hash lane @j's position and compare, or write. Return, in lane @j: 0 or EBADMSG. */
TUTTI_KERNEL uint32_t io_verify(struct io_run *r, uint32_t j)
{
    uint32_t number = warp_shuffle(WARP_ALL, r->mine->entry, j);
    uint32_t position = warp_shuffle(WARP_ALL, r->mine->position, j);
    const struct io_entry *e = io_entry_of(r->warp->ring, number);
    const struct tutti_placement *p = (const struct tutti_placement *)(uintptr_t)e->placement;
    const struct io_item *item = (const struct io_item *)(uintptr_t)e->items + position;
    uint64_t *at = (uint64_t *)(uintptr_t)(e->sums + position * e->sum_stride);
    uint64_t sum = sum_layer((const struct tutti_kv_plane *)(uintptr_t)e->planes, p->parts,
                             item->block, p->object_bytes, r->warp->root);

    r->warp->hashed += r->lane == 0 ? p->parts * p->object_bytes : 0;
    if (r->lane != j)
        return 0;
    if (e->opcode == NVME_READ)
        return tutti_word64_load(at) == sum ? 0 : EBADMSG;
    tutti_word64_store(at, sum);
    return 0;
}

/** A lane's: whether its transfer is one that is hashed. */
TUTTI_KERNEL bool io_is_hashed(const struct io_run *r)
{
    const struct io_entry *e = io_entry_of(r->warp->ring, r->mine->entry);

    return e->kind == IO_LAYER && e->sums && r->mine->error == 0 && r->mine->commands > 0;
}

/** A lane's, who keeps count of the entry: a position of it ended in another lane. */
TUTTI_KERNEL void io_count(struct io_own *o, uint64_t how, uint32_t commands)
{
    uint32_t error = (uint32_t)how, status = (uint32_t)(how >> 32);

    if (o->error == 0)
        o->error = error;
    if (o->status == 0)
        o->status = status;
    o->commands += commands;
    o->remaining--;
}

/** Transfers whose commands have all ended: verified, counted, and whole entries published. */
TUTTI_KERNEL bool io_land(struct io_run *r)
{
    struct io_lane *l = r->mine;
    bool landed = l->active && l->left == 0 && l->out == 0;
    uint32_t all = warp_ballot(WARP_ALL, landed), hashed;

    if (!all)
        return false;
    hashed = warp_ballot(WARP_ALL, landed && io_is_hashed(r));
    for (uint32_t left = hashed; left; left &= left - 1) {
        uint32_t error = io_verify(r, warp_first(left));

        if (error)
            l->error = error;
    }
    if (landed) {
        const struct io_entry *e = io_entry_of(r->warp->ring, l->entry);

        if (e->results)
            io_store((struct io_word *)(uintptr_t)e->results + l->position, l->error);
        l->active = false;
    }
    warp_sync(WARP_ALL); /* results and sums, with the releases below */
    for (uint32_t left = all; left; left &= left - 1) {
        uint32_t j = warp_first(left);
        uint32_t number = warp_shuffle(WARP_ALL, l->entry, j);
        uint64_t how = warp_shuffle64(WARP_ALL, l->error | (uint64_t)l->status << 32, j);
        uint32_t commands = warp_shuffle(WARP_ALL, l->commands, j);
        struct io_own *o = io_own(r, number);
        struct io_end *end = io_end_of(r->warp->ring, number);

        if (r->lane != number % IO_LANES)
            continue;
        io_count(o, how, commands);
        if (o->remaining > 0)
            continue;
        o->over = true;
        io_store(&end->error, o->error);
        io_store(&end->status, o->status);
        io_store(&end->commands, o->commands);
        io_release(&end->turn, number + 1); /* with io_has_ended() on either side */
    }
    return true;
}

/** Pass over entries that have ended, as far as they lie side by side. */
TUTTI_KERNEL void io_advance(struct io_run *r)
{
    for (;;) {
        uint32_t n = io_number(r, r->oldest), shift = r->oldest % IO_LANES, over, count;
        bool mine = n - r->oldest < r->seen - r->oldest && io_own(r, n)->over;

        over = warp_ballot(WARP_ALL, mine);
        if (shift)
            over = over >> shift | over << (IO_LANES - shift);
        count = over == WARP_ALL ? IO_LANES : warp_first(~over);
        r->oldest += count;
        if (count < IO_LANES)
            return;
    }
}

TUTTI_KERNEL void io_load_state(struct io_run *r, struct io_warp *w)
{
    r->warp = w;
    r->lane = warp_lane();
    r->mine = &w->lane[r->lane];
    r->queue = w->queue;
    r->seen = w->seen;
    r->oldest = w->oldest;
    r->broken = w->broken;
}

/** What is one for the warp is lane 0's to keep; what is out, lanes have in their own. */
TUTTI_KERNEL void io_keep_state(struct io_run *r, uint64_t rounds, bool late)
{
    uint32_t out = 0;

    for (uint32_t i = 0; i < IO_LANES; i++)
        out += warp_count(warp_shuffle(WARP_ALL, r->mine->out, i));
    if (r->lane != 0)
        return;
    r->warp->queue = r->queue;
    r->warp->seen = r->seen;
    r->warp->oldest = r->oldest;
    r->warp->broken = r->broken;
    r->warp->late = late;
    r->warp->out = out;
    r->warp->rounds += rounds;
}

TUTTI_KERNEL uint64_t io_now(void)
{
    return warp_shuffle64(WARP_ALL, warp_lane() == 0 ? warp_clock() : 0, 0);
}

/** The kernel. One round: refill before verify, so that the drive works while the warp hashes. */
TUTTI_KERNEL void io_kernel(uint64_t word)
{
    const struct io_launch *launch = (const struct io_launch *)(uintptr_t)word;
    struct io_run run;
    uint64_t began, moved, rounds = 0;
    bool late = false;

    io_load_state(&run, (struct io_warp *)(uintptr_t)launch->warp + warp_number());
    began = moved = io_now();
    while (!run.broken && !late) {
        bool some, active;
        uint64_t now;

        io_see(&run);
        some = false;
        if (!launch->drains) {
            some = io_assign(&run);
            some = io_issue(&run) || some;
        }
        some = io_poll(&run) || some;
        if (!run.broken)
            some = io_land(&run) || some;
        io_advance(&run);
        rounds++;
        /* Draining, what is out counts alone. */
        active = warp_ballot(WARP_ALL, launch->drains ? run.mine->out != 0 : run.mine->active) != 0;
        if (!active && !some)
            break;
        now = io_now();
        if (some)
            moved = now;
        else
            warp_pause();
        late = now - began >= launch->bound_ns || now - moved >= launch->patience_ns;
    }
    io_keep_state(&run, rounds, late);
}

#endif
