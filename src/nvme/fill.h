/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fill.h: the lines behind data.h's nvme_data_fill(), for the CPU and for the
 * I/O kernel: a lane of a warp and a host thread point commands at memory by
 * the same code.
 *
 * Common subset of C and C++ (docs/shared-headers.md). Reads windows that
 * nobody changes meanwhile; what a drive will read is written by name.
 */
#ifndef TUTTI_NVME_FILL_H
#define TUTTI_NVME_FILL_H

#include <errno.h>
#include <string.h>

#include "nvme/data.h"

#define NVME_LIST_DESCRIPTORS (NVME_LIST_BYTES / NVME_SGL_BYTES)

/** First window that ends behind @memory. */
TUTTI_INLINE uint32_t nvme_window_seek(const struct nvme_windows *w, uint64_t memory)
{
    uint32_t low = 0, high = w->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (w->window[middle].memory + w->window[middle].bytes > memory)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/** A stretch on the bus. */
struct nvme_stretch {
    uint64_t address;
    uint64_t bytes;
};

/** What lies in one window from @memory on, at most @bytes. Return: whether anything does. */
TUTTI_INLINE bool nvme_look_up(const struct nvme_windows *w, uint64_t memory, uint64_t bytes,
                               struct nvme_stretch *s)
{
    uint32_t at = nvme_window_seek(w, memory);
    const struct nvme_window *window = &w->window[at];
    uint64_t inside;

    if (at == w->count || window->memory > memory)
        return false;
    inside = memory - window->memory;
    s->address = window->address + inside;
    s->bytes = window->bytes - inside < bytes ? window->bytes - inside : bytes;
    return true;
}

/** The next stretch of scattered memory, at most @most bytes. Return: 0, or -EFAULT. */
TUTTI_INLINE int nvme_next_stretch(const struct nvme_windows *w, struct nvme_place *p,
                                   uint64_t most, struct nvme_stretch *s)
{
    while (p->segments > 0 && p->skip == p->iov->iov_len) {
        p->iov++;
        p->segments--;
        p->skip = 0;
    }
    if (p->segments == 0)
        return -EFAULT;
    if (p->iov->iov_len - p->skip < most)
        most = p->iov->iov_len - p->skip;
    if (!nvme_look_up(w, (uintptr_t)p->iov->iov_base + p->skip, most, s))
        return -EFAULT;
    p->skip += s->bytes;
    return 0;
}

/** How far a command can reach: bytes and stretches, where stretches that touch count as one. */
struct nvme_reach {
    uint64_t bytes;
    uint32_t stretches;
    uint32_t pages;
};

TUTTI_INLINE uint32_t nvme_pages_of(uint64_t address, uint64_t bytes)
{
    return (uint32_t)((address % NVME_PAGE + bytes + NVME_PAGE - 1) / NVME_PAGE);
}

/** Most bytes from @address on that @pages pages hold. */
TUTTI_INLINE uint64_t nvme_bytes_of(uint64_t address, uint32_t pages)
{
    return (uint64_t)pages * NVME_PAGE - address % NVME_PAGE;
}

/** Whether a stretch may follow what ended at @end. */
TUTTI_INLINE bool nvme_may_follow(const struct nvme_limits *limits, const struct nvme_reach *r,
                                  uint64_t end, uint64_t address)
{
    if (r->bytes == 0 || address == end)
        return true;
    if (limits->sgls)
        return r->stretches < NVME_LIST_DESCRIPTORS;
    return end % NVME_PAGE == 0 && address % NVME_PAGE == 0;
}

/** Whether the form allows its address (and, for an SGL at dwords, its length). */
TUTTI_INLINE bool nvme_is_aligned(const struct nvme_limits *limits, const struct nvme_stretch *s)
{
    if (limits->sgls == 1)
        return true;
    return s->address % 4 == 0 && (limits->sgls == 0 || s->bytes % 4 == 0);
}

/** Return: 0, or -EFAULT; what was reached before counts all the same. */
TUTTI_INLINE int nvme_measure(const struct nvme_windows *w, const struct nvme_limits *limits,
                              struct nvme_place place, uint64_t most, struct nvme_reach *r)
{
    const uint32_t most_pages = NVME_PRP_LIST_ENTRIES + 1; /* PRP1, and a list of one page */
    uint64_t end = 0;
    bool full = false;

    memset(r, 0, sizeof(*r));
    while (r->bytes < most && !full) {
        struct nvme_stretch s;
        bool joined;
        int rc = nvme_next_stretch(w, &place, most - r->bytes, &s);

        if (rc < 0)
            return rc;
        joined = r->bytes > 0 && s.address == end;
        if (!nvme_may_follow(limits, r, end, s.address) ||
            (!joined && !nvme_is_aligned(limits, &s)))
            return 0;
        if (!limits->sgls) {
            /* What goes on within a page has its entry already. */
            uint32_t had = joined && end % NVME_PAGE != 0;
            uint64_t fits = nvme_bytes_of(s.address, most_pages - r->pages + had);

            full = s.bytes >= fits;
            if (full)
                s.bytes = fits;
            r->pages += nvme_pages_of(s.address, s.bytes) - had;
        }
        r->stretches += !joined;
        r->bytes += s.bytes;
        end = s.address + s.bytes;
    }
    return 0;
}

/** Exactly @bytes as PRP entries. They are there: they were measured. */
TUTTI_INLINE void nvme_write_prp(const struct nvme_windows *w, struct nvme_place *place,
                                 uint64_t bytes, struct nvme_list *list,
                                 uint64_t sqe[NVME_SQE_WORDS])
{
    uint64_t second = 0, end = 0;
    uint32_t n = 0;

    while (bytes > 0) {
        struct nvme_stretch s = {0, 0};
        uint64_t at;

        (void)nvme_next_stretch(w, place, bytes, &s);
        at = s.address;
        if (n > 0 && s.address == end && end % NVME_PAGE) /* it goes on in the last page */
            at += NVME_PAGE - end % NVME_PAGE;
        end = s.address + s.bytes;
        bytes -= s.bytes;
        while (at < end) {
            if (n == 0)
                sqe[3] = at;
            else if (list->words)
                nvme_store64(&list->words[n - 1], at);
            if (n == 1)
                second = at;
            n++;
            at += nvme_bytes_of(at, 1);
        }
    }
    list->used = n > 2;
    sqe[4] = n < 2 ? 0 : n == 2 ? second : list->address;
}

/** Exactly @bytes as SGL descriptors. */
TUTTI_INLINE void nvme_write_sgl(const struct nvme_windows *w, struct nvme_place *place,
                                 uint64_t bytes, struct nvme_list *list,
                                 uint64_t sqe[NVME_SQE_WORDS])
{
    struct nvme_stretch whole = {0, 0};
    uint32_t n = 0;

    sqe[0] |= NVME_PSDT_SGL;
    while (bytes > 0) {
        struct nvme_stretch s = {0, 0};

        (void)nvme_next_stretch(w, place, bytes, &s);
        bytes -= s.bytes;
        if (n > 0 && whole.address + whole.bytes == s.address) {
            whole.bytes += s.bytes;
        } else {
            whole = s;
            n++;
        }
        if (list->words) {
            nvme_store64(&list->words[2 * (n - 1)], whole.address);
            nvme_store64(&list->words[2 * (n - 1) + 1], NVME_SGL_WORD1(NVME_SGL_DATA, whole.bytes));
        }
    }
    list->used = n > 1;
    sqe[3] = n > 1 ? list->address : whole.address;
    sqe[4] = n > 1 ? NVME_SGL_WORD1(NVME_SGL_LAST_SEGMENT, n * NVME_SGL_BYTES)
                   : NVME_SGL_WORD1(NVME_SGL_DATA, whole.bytes);
}

TUTTI_INLINE int64_t nvme_fill(const struct nvme_windows *w, const struct nvme_limits *limits,
                               struct nvme_place *place, uint64_t left, struct nvme_list *list,
                               uint64_t sqe[NVME_SQE_WORDS])
{
    uint64_t most = left < limits->bytes ? left : limits->bytes;
    struct nvme_reach r;
    int rc = nvme_measure(w, limits, *place, most, &r);
    uint64_t bytes = r.bytes - r.bytes % limits->block;

    if (bytes == 0)
        return rc < 0 ? rc : -EINVAL;
    list->used = false;
    if (!list->words && (limits->sgls ? r.stretches > 1 : r.pages > 2))
        return 0;
    if (limits->sgls)
        nvme_write_sgl(w, place, bytes, list, sqe);
    else
        nvme_write_prp(w, place, bytes, list, sqe);
    return (int64_t)bytes;
}

#endif
