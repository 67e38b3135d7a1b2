/* SPDX-License-Identifier: Apache-2.0 */
/* health.c: see health.h. */
#include "engine/health.h"

#include <stddef.h>

void health_reset(struct health *h)
{
    *h = (struct health){.bound = h->bound};
}

static void count(struct health *h, uint64_t *counter, uint64_t now)
{
    if (h->errors + h->mismatches == 0 || now - h->began >= HEALTH_WINDOW_NS) {
        h->began = now;
        h->errors = h->mismatches = 0;
    }
    ++*counter;
}

const char *health_note(struct health *h, enum health_event event, uint64_t now)
{
    if (event == HEALTH_GOOD) {
        h->in_row = 0;
        return NULL;
    }
    count(h, event == HEALTH_ERROR ? &h->errors : &h->mismatches, now);
    h->in_row += event == HEALTH_ERROR;
    if (h->bound == UINT32_MAX)
        return NULL;
    if (h->in_row >= h->bound)
        return "too many I/O errors in a row";
    if (h->errors >= (uint64_t)h->bound * HEALTH_ERRORS)
        return "too many I/O errors within a minute";
    if (h->mismatches >= (uint64_t)h->bound * HEALTH_MISMATCHES)
        return "too many wrong checksums within a minute";
    return NULL;
}
