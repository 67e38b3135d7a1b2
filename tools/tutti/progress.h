/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.h: a bar on standard error for work that takes long.
 *
 * On a terminal one line that is drawn over; elsewhere, where --progress asks
 * for it, a line each ten percent. Otherwise silent.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label;
    bool shown;    /* at all */
    bool terminal; /* draw over the line */
    bool bytes;    /* counts are bytes, so that a rate makes sense */
    bool drawn;
    uint64_t began;
    uint64_t last_ns;
    int last_tenth;
};

/** @label must outlive it. @force shows it where standard error is no terminal. */
void progress_begin(struct progress *progress, const char *label, bool bytes, bool force);

/** Cheap: draws at most ten times a second. */
void progress_update(struct progress *progress, uint64_t done, uint64_t all);

/** Clear the line; what follows on standard error starts fresh. */
void progress_end(struct progress *progress);

#endif
