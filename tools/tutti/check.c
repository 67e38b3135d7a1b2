/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c: "tutti check": does what lies in a pool agree with its checksums?
 *
 * Responsible for: running tutti_pool_check() over all ranks and naming what
 * is bad. Must not repair: a bad slot is a miss for whoever serves from it.
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
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
    bool data;
};

static const struct argp_option options[] = {
    {"data", 'd', NULL, 0, "Read and verify every layer of every valid slot too", 1}, {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    (void)text;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->pool;
        state->child_inputs[1] = &a->common;
        return 0;
    case 'd':
        a->data = true;
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
    "Verify a pool: both superblocks and every record, and with --data every layer of every slot "
    "against its checksum. Writes nothing. A pool that is being written to may show slots as bad "
    "that are merely under way."
    "\vExample:\n  tutti check /data/tutti --data\n\n"
    "Exit status: 0 everything agrees, 1 bad slots were found (they are named; a server treats "
    "them as misses), 2 wrong usage, 3 cannot.",
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
    char key[33];

    if (run->listed++ >= LISTED)
        return 0;
    hex_text(&entry->key, sizeof(entry->key), key);
    if (!run->arguments->common.json) {
        progress_end(&run->progress);
        if (layer == UINT32_MAX)
            printf("rank %u slot %u: its record: %s\n", run->rank, entry->slot, what);
        else
            printf("rank %u slot %u layer %u: %s (key %s)\n", run->rank, entry->slot, layer, what,
                   key);
    }
    json_array_append_new(
        run->bad, json_pack("{s:i, s:I, s:o, s:s, s:s, s:I}", "rank", (int)run->rank, "slot",
                            (json_int_t)entry->slot, "layer",
                            layer == UINT32_MAX ? json_null() : json_integer((json_int_t)layer),
                            "key", key, "what", what, "generation", (json_int_t)entry->generation));
    return 0;
}

static void tell_progress(void *argument, uint64_t done, uint64_t all)
{
    struct run *run = argument;

    progress_update(&run->progress, done, all);
}

struct totals {
    struct tutti_scan_report report;
    int64_t bad;
};

static int check_rank(struct run *run, struct totals *totals, uint32_t *ranks,
                      struct tutti_error *err)
{
    struct tutti_scan_report report = {0};
    struct tutti_pool_info info;
    struct tutti_pool *pool;
    int64_t bad;
    int rc = pool_open_to_read(&run->arguments->pool, run->rank, &pool, err);

    if (rc < 0)
        return rc;
    tutti_pool_info(pool, &info);
    *ranks = info.superblock.ranks;
    bad = tutti_pool_check(pool, run->arguments->data, &report, tell_bad, tell_progress, run, err);
    tutti_pool_close(pool);
    if (bad < 0)
        return (int)bad;
    totals->bad += bad;
    totals->report.valid += report.valid;
    totals->report.empty += report.empty;
    totals->report.torn += report.torn;
    totals->report.void_ += report.void_;
    totals->report.alien += report.alien;
    totals->report.bytes += report.bytes;
    totals->report.nanoseconds += report.nanoseconds;
    return 0;
}

/* Every file that a pool's folder may hold (docs/format.md, section 2). */
static bool is_known(const char *name)
{
    /* With a suffix also what a crash left of one that was being made. */
    static const char *const known[] = {
        "secret",       "secret.*",     "disabled",       "disabled.*", "rank*.member*.tutti",
        "*.formatting", "weights.json", "weights.json.*", "scan.rank*"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (fnmatch(known[i], name, 0) == 0)
            return true;
    return false;
}

/* Files in the pool's folder that are not the pool's: nobody reads them, and they take room. */
static json_t *find_strangers(const char *pool)
{
    json_t *names = json_array();
    DIR *folder = opendir(pool);
    const struct dirent *entry;

    while (folder && (entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !is_known(entry->d_name))
            json_array_append_new(names, json_string(entry->d_name));
    if (folder)
        closedir(folder);
    return names;
}

static void print_totals(const struct arguments *a, const struct totals *t, uint32_t ranks,
                         json_t *strangers)
{
    json_t *name;
    size_t i;

    json_array_foreach(strangers, i, name)
        printf("%s/%s: not of this pool\n", a->pool.home, json_string_value(name));
    printf("%s: %u rank%s; records: %" PRIu64 " valid, %" PRIu64 " empty, %" PRIu64
           " torn, %" PRIu64 " void, %" PRIu64 " alien\n",
           a->pool.home, ranks, ranks == 1 ? "" : "s", t->report.valid, t->report.empty,
           t->report.torn, t->report.void_, t->report.alien);
    if (t->bad > (int64_t)LISTED)
        printf("(the first %u bad slots are named)\n", LISTED);
    if (t->bad)
        printf("%" PRId64 " bad slot%s\n", t->bad, t->bad == 1 ? "" : "s");
    else if (t->report.torn)
        printf("%" PRIu64 " torn records (what a crash leaves: misses); all others agree%s\n",
               t->report.torn, a->data ? "" : " (--data reads the layers too)");
    else
        printf(a->data ? "every record and every layer agrees with its checksum\n"
                       : "every record agrees with its checksum (--data reads the layers too)\n");
}

int command_check(int argc, char **argv)
{
    struct arguments a = {0};
    struct run run = {.arguments = &a};
    struct totals totals = {0};
    struct tutti_error err = {0};
    uint32_t ranks = 1;
    json_t *strangers;

    argp_parse(&parser, argc, argv, 0, NULL, &a);
    run.bad = json_array();
    for (run.rank = 0; run.rank < ranks; run.rank++) {
        int rc;

        progress_begin(&run.progress, a.data ? "check data" : "check records", true,
                       a.common.progress);
        rc = check_rank(&run, &totals, &ranks, &err);
        progress_end(&run.progress);
        if (rc < 0) {
            json_decref(run.bad);
            return cannot(&a.common, &err);
        }
    }
    strangers = find_strangers(a.pool.home);
    if (a.common.json) {
        print_json(json_pack(
            "{s:s, s:s, s:i, s:b, s:o, s:I, s:o, s:I, s:I, s:I, s:I, s:I}", "command", "check",
            "pool", a.pool.home, "ranks", (int)ranks, "data", (int)a.data, "strangers", strangers,
            "bad_slots", (json_int_t)totals.bad, "bad", run.bad, "valid",
            (json_int_t)totals.report.valid, "empty", (json_int_t)totals.report.empty, "torn",
            (json_int_t)totals.report.torn, "void", (json_int_t)totals.report.void_, "alien",
            (json_int_t)totals.report.alien));
    } else {
        print_totals(&a, &totals, ranks, strangers);
        json_decref(run.bad);
        json_decref(strangers);
    }
    return totals.bad ? FOUND_BAD : DONE;
}
