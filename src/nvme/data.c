/* SPDX-License-Identifier: Apache-2.0 */
/* data.c: see data.h; what a kernel needs of it too is in fill.h. */
#include "nvme/data.h"

#include <errno.h>
#include <string.h>

#include "nvme/fill.h"

int nvme_windows_add(struct nvme_windows *w, const void *memory, uint64_t bytes, uint64_t address)
{
    uint64_t from = (uintptr_t)memory;
    uint32_t at = nvme_window_seek(w, from);

    if (at < w->count && w->window[at].memory < from + bytes)
        return -EEXIST;
    if (w->count == NVME_WINDOWS)
        return -ENOSPC;
    memmove(&w->window[at + 1], &w->window[at], (w->count - at) * sizeof(w->window[0]));
    w->window[at] = (struct nvme_window){.memory = from, .bytes = bytes, .address = address};
    w->count++;
    return 0;
}

bool nvme_windows_hold(const struct nvme_windows *w, const void *memory, uint64_t bytes)
{
    uint64_t at = (uintptr_t)memory;
    struct nvme_stretch s;

    while (bytes > 0 && nvme_look_up(w, at, bytes, &s)) {
        at += s.bytes;
        bytes -= s.bytes;
    }
    return bytes == 0;
}

int64_t nvme_data_fill(const struct nvme_windows *w, const struct nvme_limits *limits,
                       struct nvme_place *place, uint64_t left, struct nvme_list *list,
                       uint64_t sqe[NVME_SQE_WORDS])
{
    return nvme_fill(w, limits, place, left, list, sqe);
}
