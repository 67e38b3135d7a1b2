/* SPDX-License-Identifier: Apache-2.0 */
/*
 * health.h: how many errors are too many.
 *
 * Pure: events go in with their time, the verdict comes out. One number is
 * configured, the bound of errors in a row; the others are multiples of it, so
 * that a drive that fails now and then, and one that answers with wrong bytes,
 * are given up too, only later.
 */
#ifndef TUTTI_ENGINE_HEALTH_H
#define TUTTI_ENGINE_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

#define HEALTH_WINDOW_NS UINT64_C(60000000000)
#define HEALTH_ERRORS 4u      /* times the bound, in a window */
#define HEALTH_MISMATCHES 64u /* the same: wrong bytes say less about a device */

enum health_event { HEALTH_GOOD, HEALTH_ERROR, HEALTH_MISMATCH };

/**
 * struct health
 * @bound: errors in a row, with no command that succeeded between them; UINT32_MAX: any number
 * @began: when the window began; it begins anew with the first event after its end
 */
struct health {
    uint32_t bound;
    uint32_t in_row;
    uint64_t began;
    uint64_t errors;
    uint64_t mismatches;
};

/** Why it is too much now, or NULL. The text lasts. */
const char *health_note(struct health *h, enum health_event event, uint64_t now);

/** Begin anew, with the same bound. */
void health_reset(struct health *h);

#endif
