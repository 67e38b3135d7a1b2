/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c: a bar on standard error; see progress.h. Must not know what goes on. */
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "size.h"

#define WIDTH 30
#define REDRAW_NS UINT64_C(100000000)

void progress_begin(struct progress *progress, const char *label, bool bytes, bool force)
{
    memset(progress, 0, sizeof(*progress));
    progress->label = label;
    progress->bytes = bytes;
    progress->terminal = isatty(STDERR_FILENO);
    progress->shown = progress->terminal || force;
    progress->began = tutti_clock_now();
    progress->last_tenth = -1;
}

static void describe(const struct progress *progress, uint64_t done, uint64_t all, char *text,
                     size_t size)
{
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];
    double seconds = (double)(tutti_clock_now() - progress->began) / 1e9;

    if (progress->bytes)
        snprintf(text, size, "%s of %s, %s/s", size_text(done, a), size_text(all, b),
                 size_text(seconds > 0 ? (uint64_t)((double)done / seconds) : 0, c));
    else
        snprintf(text, size, "%llu of %llu", (unsigned long long)done, (unsigned long long)all);
}

void progress_update(struct progress *progress, uint64_t done, uint64_t all)
{
    uint64_t now;
    double share = all ? (double)done / (double)all : 1;
    char text[128];

    if (!progress->shown)
        return;
    if (share > 1)
        share = 1;
    if (!progress->terminal) {
        int tenth = (int)(share * 10);

        if (tenth == progress->last_tenth)
            return;
        progress->last_tenth = tenth;
        describe(progress, done, all, text, sizeof(text));
        fprintf(stderr, "%s: %d%% (%s)\n", progress->label, tenth * 10, text);
        return;
    }
    now = tutti_clock_now();
    if (progress->drawn && now - progress->last_ns < REDRAW_NS && done < all)
        return;
    progress->last_ns = now;
    progress->drawn = true;
    describe(progress, done, all, text, sizeof(text));
    fprintf(stderr, "\r\033[K%s [", progress->label);
    for (int i = 0; i < WIDTH; i++)
        fputc(i < (int)(share * WIDTH) ? '#' : '.', stderr);
    fprintf(stderr, "] %3.0f%% %s", share * 100, text);
}

void progress_end(struct progress *progress)
{
    if (progress->drawn)
        fprintf(stderr, "\r\033[K");
    progress->drawn = false;
}
