/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h: a binary heap of small numbers with the least key on top, and where each lies in it.
 *
 * Responsible for O(log n) insertion, removal and change of any item. Must not know what the items
 * are; memory and keys are the caller's.
 */
#ifndef TUTTI_SCHED_HEAP_H
#define TUTTI_SCHED_HEAP_H

#include <stdint.h>

struct heap {
    uint32_t *count;
    uint16_t *item;  /* by place */
    uint16_t *place; /* by item */
    const double *key;
};

static inline void heap_put(const struct heap *h, uint32_t at, uint16_t item)
{
    h->item[at] = item;
    h->place[item] = (uint16_t)at;
}

/** Move what lies at a place to where it belongs. */
static inline void heap_settle(const struct heap *h, uint32_t at)
{
    uint16_t item = h->item[at];
    double key = h->key[item];

    for (; at > 0 && h->key[h->item[(at - 1) / 2]] > key; at = (at - 1) / 2)
        heap_put(h, at, h->item[(at - 1) / 2]);
    for (uint32_t child; (child = 2 * at + 1) < *h->count; at = child) {
        if (child + 1 < *h->count && h->key[h->item[child + 1]] < h->key[h->item[child]])
            child++;
        if (h->key[h->item[child]] >= key)
            break;
        heap_put(h, at, h->item[child]);
    }
    heap_put(h, at, item);
}

static inline void heap_insert(const struct heap *h, uint32_t item)
{
    heap_put(h, *h->count, (uint16_t)item);
    heap_settle(h, (*h->count)++);
}

static inline void heap_remove(const struct heap *h, uint32_t item)
{
    uint32_t at = h->place[item];
    uint16_t last = h->item[--*h->count];

    if (last == item)
        return;
    heap_put(h, at, last);
    heap_settle(h, at);
}

#endif
