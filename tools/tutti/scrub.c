/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c: "tutti scrub": verify all that lies in a pool, and drop for good
 * what is bad, so that no load meets it.
 *
 * Responsible for: running tutti_pool_scrub() over all ranks and saying what it
 * found. Must not run beside a server: that scrubs by itself.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "pools.h"
#include "progress.h"
#include "size.h"

#define LISTED 1000u /* bad slots named in the output; all are counted */

struct arguments {
    struct common common;
    struct pool_named pool;
    uint64_t rate;
};

static const struct argp_option options[] = {
    {"rate", 'r', "SIZE", 0, "Read at most SIZE a second, such as 50MiB (the default)", 1}, {0}};

/** "50MiB" or "50MiB/s". */
static uint64_t rate_option(const char *text, struct argp_state *state)
{
    char number[64];
    size_t length = strlen(text);

    if (length > 2 && length < sizeof(number) && strcmp(text + length - 2, "/s") == 0)
        length -= 2;
    snprintf(number, sizeof(number), "%.*s", (int)length, text);
    return size_option(number, "--rate", state);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->pool;
        state->child_inputs[1] = &a->common;
        return 0;
    case 'r':
        a->rate = rate_option(text, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{POOL_CHILD}, {COMMON_CHILD}, {0}};
static const struct argp parser = {
    options,
    parse,
    "POOL",
    "Verify every record and every layer of a pool at a bounded rate, and empty the records of "
    "what does not verify: no later load meets it, and a server stores it again. The pool must "
    "not be in use; a server scrubs its own."
    "\vExample:\n  tutti scrub /data/tutti --rate 50MiB\n\n"
    "Exit status: 0 everything agrees, 1 bad slots were found and dropped (they are named), "
    "2 wrong usage, 3 cannot (in use, or the device fails).",
    children,
    NULL,
    NULL};

struct run {
    const struct arguments *arguments;
    struct progress progress;
    uint32_t rank;
    uint32_t listed;
    json_t *bad;
};

static int tell_bad(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                    const char *what)
{
    struct run *run = argument;
    bool record = layer == UINT32_MAX;

    if (run->listed++ >= LISTED)
        return 0;
    if (!run->arguments->common.json) {
        progress_end(&run->progress);
        if (record)
            printf("rank %u slot %u: its record: %s\n", run->rank, entry->slot, what);
        else
            printf("rank %u slot %u layer %u: %s\n", run->rank, entry->slot, layer, what);
    }
    json_array_append_new(
        run->bad,
        json_pack("{s:i, s:I, s:o, s:s}", "rank", (int)run->rank, "slot", (json_int_t)entry->slot,
                  "layer", record ? json_null() : json_integer((json_int_t)layer), "what", what));
    return 0;
}

static void tell_progress(void *argument, uint64_t done, uint64_t all)
{
    struct run *run = argument;

    progress_update(&run->progress, done, all);
}

static int scrub_rank(struct run *run, struct tutti_pool_scrub *totals, uint32_t *ranks,
                      struct tutti_error *err)
{
    const struct arguments *a = run->arguments;
    struct tutti_pool_scrub report;
    struct tutti_pool_info info;
    struct tutti_pool *pool;
    int rc = pool_open_to_write(&a->pool, run->rank, &pool, err);

    if (rc < 0)
        return rc;
    tutti_pool_info(pool, &info);
    *ranks = info.superblock.ranks;
    rc = tutti_pool_scrub(pool, a->rate, &report, tell_bad, tell_progress, run, err);
    tutti_pool_close(pool);
    totals->records.valid += report.records.valid;
    totals->records.torn += report.records.torn;
    totals->records.alien += report.records.alien;
    totals->bad += report.bad;
    totals->dropped += report.dropped;
    totals->bytes += report.bytes;
    totals->nanoseconds += report.nanoseconds;
    return rc;
}

static void print_totals(const struct arguments *a, const struct tutti_pool_scrub *t)
{
    char read[SIZE_TEXT];

    printf("%s: %" PRIu64 " slots scanned, %s read in %.1f s; %" PRIu64 " bad, %" PRIu64
           " records torn or of others; %" PRIu64 " dropped\n",
           a->pool.home, t->records.valid, size_text(t->bytes, read), (double)t->nanoseconds / 1e9,
           t->bad, t->records.torn + t->records.alien, t->dropped);
    if (t->dropped > LISTED)
        printf("(the first %u are named)\n", LISTED);
}

int command_scrub(int argc, char **argv)
{
    struct arguments a = {.rate = UINT64_C(50) << 20};
    struct run run = {.arguments = &a};
    struct tutti_pool_scrub totals = {0};
    struct tutti_error err = {0};
    uint32_t ranks = 1;

    argp_parse(&parser, argc, argv, 0, NULL, &a);
    run.bad = json_array();
    for (run.rank = 0; run.rank < ranks; run.rank++) {
        int rc;

        progress_begin(&run.progress, "scrub", true, a.common.progress);
        rc = scrub_rank(&run, &totals, &ranks, &err);
        progress_end(&run.progress);
        if (rc < 0) {
            json_decref(run.bad);
            return cannot(&a.common, &err);
        }
    }
    if (a.common.json) {
        print_json(json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "command",
                             "scrub", "pool", a.pool.home, "ranks", (int)ranks, "scanned",
                             (json_int_t)totals.records.valid, "bytes", (json_int_t)totals.bytes,
                             "bad", (json_int_t)totals.bad, "torn", (json_int_t)totals.records.torn,
                             "alien", (json_int_t)totals.records.alien, "dropped",
                             (json_int_t)totals.dropped, "seconds",
                             (double)totals.nanoseconds / 1e9, "slots", run.bad));
    } else {
        print_totals(&a, &totals);
        json_decref(run.bad);
    }
    return totals.dropped ? FOUND_BAD : DONE;
}
