/* SPDX-License-Identifier: Apache-2.0 */
/* data.c: see data.h. */
#include "nvme/data.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define LIST_DESCRIPTORS (NVME_LIST_BYTES / NVME_SGL_BYTES)

/** First window that ends behind @memory. */
static uint32_t seek(const struct nvme_windows *w, uint64_t memory)
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

int nvme_windows_add(struct nvme_windows *w, const void *memory, uint64_t bytes, uint64_t address)
{
    uint64_t from = (uintptr_t)memory;
    uint32_t at = seek(w, from);

    if (at < w->count && w->window[at].memory < from + bytes)
        return -EEXIST;
    if (w->count == NVME_WINDOWS)
        return -ENOSPC;
    memmove(&w->window[at + 1], &w->window[at], (w->count - at) * sizeof(w->window[0]));
    w->window[at] = (struct nvme_window){.memory = from, .bytes = bytes, .address = address};
    w->count++;
    return 0;
}

/** A stretch on the bus. */
struct stretch {
    uint64_t address;
    uint64_t bytes;
};

/** What lies in one window from @memory on, at most @bytes. Return: whether anything does. */
static bool look_up(const struct nvme_windows *w, uint64_t memory, uint64_t bytes,
                    struct stretch *s)
{
    uint32_t at = seek(w, memory);
    const struct nvme_window *window = &w->window[at];
    uint64_t inside;

    if (at == w->count || window->memory > memory)
        return false;
    inside = memory - window->memory;
    s->address = window->address + inside;
    s->bytes = window->bytes - inside < bytes ? window->bytes - inside : bytes;
    return true;
}

bool nvme_windows_hold(const struct nvme_windows *w, const void *memory, uint64_t bytes)
{
    uint64_t at = (uintptr_t)memory;
    struct stretch s;

    while (bytes > 0 && look_up(w, at, bytes, &s)) {
        at += s.bytes;
        bytes -= s.bytes;
    }
    return bytes == 0;
}

/** The next stretch of scattered memory, at most @most bytes. Return: 0, or -EFAULT. */
static int next_stretch(const struct nvme_windows *w, struct nvme_place *p, uint64_t most,
                        struct stretch *s)
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
    if (!look_up(w, (uintptr_t)p->iov->iov_base + p->skip, most, s))
        return -EFAULT;
    p->skip += s->bytes;
    return 0;
}

/** How far a command can reach: bytes and stretches, where stretches that touch count as one. */
struct reach {
    uint64_t bytes;
    uint32_t stretches;
    uint32_t pages;
};

static uint32_t pages_of(uint64_t address, uint64_t bytes)
{
    return (uint32_t)((address % NVME_PAGE + bytes + NVME_PAGE - 1) / NVME_PAGE);
}

/** Most bytes from @address on that @pages pages hold. */
static uint64_t bytes_of(uint64_t address, uint32_t pages)
{
    return (uint64_t)pages * NVME_PAGE - address % NVME_PAGE;
}

/** Whether a stretch may follow what ended at @end. */
static bool may_follow(const struct nvme_limits *limits, const struct reach *r, uint64_t end,
                       uint64_t address)
{
    if (r->bytes == 0 || address == end)
        return true;
    if (limits->sgls)
        return r->stretches < LIST_DESCRIPTORS;
    return end % NVME_PAGE == 0 && address % NVME_PAGE == 0;
}

/** Whether the form allows its address (and, for an SGL at dwords, its length). */
static bool is_aligned(const struct nvme_limits *limits, const struct stretch *s)
{
    if (limits->sgls == 1)
        return true;
    return s->address % 4 == 0 && (limits->sgls == 0 || s->bytes % 4 == 0);
}

/** Return: 0, or -EFAULT; what was reached before counts all the same. */
static int measure(const struct nvme_windows *w, const struct nvme_limits *limits,
                   struct nvme_place place, uint64_t most, struct reach *r)
{
    const uint32_t most_pages = NVME_PRP_LIST_ENTRIES + 1; /* PRP1, and a list of one page */
    uint64_t end = 0;
    bool full = false;

    memset(r, 0, sizeof(*r));
    while (r->bytes < most && !full) {
        struct stretch s;
        bool joined;
        int rc = next_stretch(w, &place, most - r->bytes, &s);

        if (rc < 0)
            return rc;
        joined = r->bytes > 0 && s.address == end;
        if (!may_follow(limits, r, end, s.address) || (!joined && !is_aligned(limits, &s)))
            return 0;
        if (!limits->sgls) {
            /* What goes on within a page has its entry already. */
            uint32_t had = joined && end % NVME_PAGE != 0;
            uint64_t fits = bytes_of(s.address, most_pages - r->pages + had);

            full = s.bytes >= fits;
            if (full)
                s.bytes = fits;
            r->pages += pages_of(s.address, s.bytes) - had;
        }
        r->stretches += !joined;
        r->bytes += s.bytes;
        end = s.address + s.bytes;
    }
    return 0;
}

/** Exactly @bytes as PRP entries. They are there: they were measured. */
static void write_prp(const struct nvme_windows *w, struct nvme_place *place, uint64_t bytes,
                      struct nvme_list *list, uint64_t sqe[NVME_SQE_WORDS])
{
    uint64_t second = 0, end = 0;
    uint32_t n = 0;

    while (bytes > 0) {
        struct stretch s = {0, 0};
        uint64_t at;

        (void)next_stretch(w, place, bytes, &s);
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
            at += bytes_of(at, 1);
        }
    }
    list->used = n > 2;
    sqe[4] = n < 2 ? 0 : n == 2 ? second : list->address;
}

/** Exactly @bytes as SGL descriptors. */
static void write_sgl(const struct nvme_windows *w, struct nvme_place *place, uint64_t bytes,
                      struct nvme_list *list, uint64_t sqe[NVME_SQE_WORDS])
{
    struct stretch whole = {0, 0};
    uint32_t n = 0;

    sqe[0] |= NVME_PSDT_SGL;
    while (bytes > 0) {
        struct stretch s = {0, 0};

        (void)next_stretch(w, place, bytes, &s);
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

int64_t nvme_data_fill(const struct nvme_windows *w, const struct nvme_limits *limits,
                       struct nvme_place *place, uint64_t left, struct nvme_list *list,
                       uint64_t sqe[NVME_SQE_WORDS])
{
    uint64_t most = left < limits->bytes ? left : limits->bytes;
    struct reach r;
    int rc = measure(w, limits, *place, most, &r);
    uint64_t bytes = r.bytes - r.bytes % limits->block;

    if (bytes == 0)
        return rc < 0 ? rc : -EINVAL;
    list->used = false;
    if (!list->words && (limits->sgls ? r.stretches > 1 : r.pages > 2))
        return 0;
    if (limits->sgls)
        write_sgl(w, place, bytes, list, sqe);
    else
        write_prp(w, place, bytes, list, sqe);
    return (int64_t)bytes;
}
