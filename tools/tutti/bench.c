/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.c: "tutti bench": options, and what the measurements have in common.
 *
 * Must not know how either arm moves bytes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "pools.h"
#include "size.h"

#define LARGE_POOL (UINT64_C(64) << 30)
#define STRIDE_UNIT UINT64_C(4096) /* the larger alignment: places are counted with it */

enum {
    OPTION_POOL = 0x300,
    OPTION_PAIRS,
    OPTION_TURNS,
    OPTION_EXTENT,
    OPTION_ALIGNMENT,
    OPTION_DEPTH,
    OPTION_APART,
    OPTION_ENGINE
};

static const struct argp_option options[] = {
    {"tokens", 't', "N", 0, "Tokens of the prompt (default 8192)", 1},
    {"pool", OPTION_POOL, "DIR", 0,
     "Measure on the disk of this folder (default: the folder of this program); a temporary "
     "folder is made in it and removed again",
     1},
    {"pairs", OPTION_PAIRS, "N", 0, "Pairs of ours and raw, alternating (default 5)", 1},
    {"turns", OPTION_TURNS, NULL, 0,
     "Play a conversation instead: 20 turns of 100 tokens on top of the prompt, beside a second "
     "one, and print run lengths",
     1},
    {"extent", OPTION_EXTENT, "SIZE", 0, "Extent size of the pool (default: as format)", 2},
    {"alignment", OPTION_ALIGNMENT, "BYTES", 0,
     "Alignment of the pool, 512 or 4096 (default: what the disk needs)", 2},
    {"depth", OPTION_DEPTH, "N", 0, "Commands in flight of the raw pass (default 32)", 2},
    {"apart", OPTION_APART, NULL, 0,
     "KV memory with K and V of a layer in tensors of their own (default: side by side in each "
     "block)",
     2},
    {"engine", OPTION_ENGINE, "NAME", 0, "auto, uring or threads (default auto)", 2},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct bench_options *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->shape;
        state->child_inputs[1] = &o->common;
        return 0;
    case 't':
        o->tokens = number_option(text, "--tokens", 1, 1u << 24, state);
        return 0;
    case OPTION_POOL:
        o->pool = text;
        return 0;
    case OPTION_PAIRS:
        o->pairs = number_option(text, "--pairs", 1, MOST_PAIRS, state);
        return 0;
    case OPTION_TURNS:
        o->turns = true;
        return 0;
    case OPTION_EXTENT:
        o->extent = size_option(text, "--extent", state);
        return 0;
    case OPTION_ALIGNMENT:
        o->alignment = alignment_option(text, state);
        return 0;
    case OPTION_DEPTH:
        o->depth = number_option(text, "--depth", 1, 1024, state);
        return 0;
    case OPTION_APART:
        o->apart = true;
        return 0;
    case OPTION_ENGINE:
        o->engine = text;
        if (strcmp(text, "auto") != 0 && strcmp(text, "uring") != 0 && strcmp(text, "threads") != 0)
            argp_error(state, "--engine takes auto, uring or threads, not '%s'", text);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{SHAPE_CHILD}, {COMMON_CHILD}, {0}};
static const struct argp parser = {
    options,
    parse,
    NULL,
    "Store and retrieve the KV cache of a prompt, layer by layer and verified, alternating with "
    "a raw pass over the same bytes with the same pattern on a file as fresh. The figure is the "
    "median of the pairwise ratios of speed, ours over raw."
    "\vExample:\n  tutti bench --model llama3-8b --tokens 8192 --pool /data --json\n\n"
    "Needs twice the KV cache's size on the disk (2 GiB for llama3-8b and 8192 tokens) and once "
    "in memory. Exit status: 0 measured and every byte right, 1 wrong bytes or failed blocks, "
    "2 wrong usage, 3 cannot, 128 + signal interrupted (temporary files are removed).",
    children,
    NULL,
    NULL};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void sorted(const double *value, uint32_t count, double *out)
{
    memcpy(out, value, count * sizeof(*value));
    qsort(out, count, sizeof(*out), by_value);
}

double median(const double *value, uint32_t count)
{
    double s[MOST_PAIRS];

    sorted(value, count, s);
    return count % 2 ? s[count / 2] : (s[count / 2 - 1] + s[count / 2]) / 2;
}

json_t *spread_json(const double *value, uint32_t count)
{
    double s[MOST_PAIRS];

    sorted(value, count, s);
    return json_pack("{s:f, s:f, s:f}", "min", s[0], "median", median(value, count), "max",
                     s[count - 1]);
}

double gb_s(uint64_t bytes, double seconds)
{
    return (double)bytes / seconds / 1e9;
}

int bench_place(struct bench *b, uint32_t slots)
{
    const struct tutti_geometry *g = &b->geometry;
    uint64_t stride = (g->object_bytes + STRIDE_UNIT - 1) / STRIDE_UNIT * STRIDE_UNIT;
    uint64_t slot = (uint64_t)g->layers * g->parts * stride + 2 * STRIDE_UNIT;
    struct tutti_placement p;
    int rc;

    b->extent_bytes = b->options->extent;
    if (!b->extent_bytes) /* turns are about runs, which extents bound: as in a large pool there */
        b->extent_bytes =
            tutti_extent_bytes_default(g, b->options->turns ? LARGE_POOL : slots * slot);
    rc = tutti_placement_init(&p, g, (uint32_t)STRIDE_UNIT, TUTTI_FIRST_EXTENT, b->extent_bytes, 1,
                              1, 0, 0, &b->err);
    if (rc < 0)
        return rc;
    b->extents = (slots + p.slots_per_extent - 1) / p.slots_per_extent;
    b->file_bytes = TUTTI_FIRST_EXTENT + b->extents * b->extent_bytes;
    return kv_open(&b->kv, g, b->blocks, (uint64_t)b->blocks * g->layers * g->parts * stride,
                   b->options->apart, &b->err);
}

static int prepare(struct bench *b)
{
    b->item = calloc(b->blocks, sizeof(*b->item));
    b->origin = calloc(b->blocks, sizeof(*b->origin));
    b->index = calloc(b->blocks, sizeof(*b->index));
    b->block = calloc(b->blocks, sizeof(*b->block));
    if (!b->item || !b->origin || !b->index || !b->block)
        return tutti_error_set(&b->err, -ENOMEM, "no memory for %u blocks", b->blocks);
    return scratch_open(b->options->pool, b->scratch, &b->err);
}

/** @load: of the minute before the run; other work beside it makes the figures worthless. */
static json_t *machine_json(double load)
{
    struct utsname u;
    char date[64];
    time_t now = time(NULL);
    struct tm utc;

    uname(&u);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    return json_pack("{s:s, s:s, s:s, s:i, s:f}", "date", date, "kernel", u.release, "machine",
                     u.machine, "cpus", (int)sysconf(_SC_NPROCESSORS_ONLN), "load_at_start", load);
}

/** What both programs report of the run as a whole. */
static void describe(const struct bench *b, json_t *report, const char *command_line)
{
    const struct bench_options *o = b->options;

    json_object_set_new(report, "command", json_string("bench"));
    json_object_set_new(report, "command_line", json_string(command_line));
    json_object_set_new(report, "machine", machine_json(b->load));
    json_object_set_new(report, "model", json_string(o->shape.model ? o->shape.model->name : ""));
    json_object_set_new(report, "tokens", json_integer((json_int_t)o->tokens));
    json_object_set_new(report, "geometry", geometry_json(&b->geometry));
    json_object_set_new(report, "extent_bytes", json_integer((json_int_t)b->extent_bytes));
    json_object_set_new(report, "folder", json_string(o->pool ? o->pool : ""));
    json_object_set_new(report, "engine", json_string(b->engine ? b->engine : ""));
    json_object_set_new(report, "mode", json_string(b->direct ? "direct" : "staged"));
    json_object_set_new(report, "reason", json_string(b->reason));
    json_object_set_new(report, "verified", json_true());
    json_object_set_new(report, "huge_pages", json_boolean(b->kv.huge));
    json_object_set_new(report, "layout", json_string(o->apart ? "apart" : "side by side"));
    json_object_set_new(report, "raw", json_string(b->raw_name));
    json_object_set_new(report, "wrong_bytes", json_integer((json_int_t)b->wrong_bytes));
    json_object_set_new(report, "failed_blocks", json_integer((json_int_t)b->failed_blocks));
}

static void print_head(const struct bench *b)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    char shape[128], size[SIZE_TEXT], extent[SIZE_TEXT];
    const struct shape *model = b->options->shape.model;

    printf("%s: %s; %u tokens are %u blocks, %s\n", model ? model->name : "given shape",
           geometry_text(&b->geometry, shape), b->options->tokens, b->blocks,
           size_text(b->kv.bytes, size));
    printf("on %s; extents of %s; KV memory %s, %s pages\n", b->scratch,
           size_text(b->extent_bytes, extent),
           b->options->apart ? "K and V apart" : "parts side by side",
           b->kv.huge ? "huge" : "small");
    if (b->load > (double)cpus / 2)
        printf("load %.1f on %ld CPUs: other work disturbs these figures\n", b->load, cpus);
}

static void close_bench(struct bench *b)
{
    scratch_close();
    kv_close(&b->kv);
    free(b->item);
    free(b->origin);
    free(b->index);
    free(b->block);
}

static void join(int argc, char **argv, char *text, size_t size)
{
    size_t length = 0;

    text[0] = 0;
    for (int i = 0; i < argc && length < size; i++)
        length += (size_t)snprintf(text + length, size - length, "%s%s", i ? " " : "", argv[i]);
}

int command_bench(int argc, char **argv)
{
    struct bench_options o = {.tokens = 8192, .pairs = 5, .depth = 32, .engine = "auto"};
    struct bench b = {.options = &o};
    char line[1024];
    json_t *report;
    int status;

    join(argc, argv, line, sizeof(line));
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    if (shape_geometry(&o.shape, 1, &b.geometry, &b.err) < 0) {
        fprintf(stderr, "%s: %s\nTry '%s --help'.\n", argv[0], b.err.message, argv[0]);
        return USAGE;
    }
    b.blocks = bench_blocks(&b);
    if (b.blocks == 0) {
        fprintf(stderr, "%s: %u tokens fill no block of %u\n", argv[0], o.tokens,
                b.geometry.block_tokens);
        return USAGE;
    }
    report = json_object();
    getloadavg(&b.load, 1);
    status = prepare(&b) < 0 || bench_place(&b, bench_slots(&b)) < 0 ? CANNOT : DONE;
    if (status == DONE) {
        if (!o.common.json)
            print_head(&b);
        status = o.turns ? bench_turns(&b, report) : bench_pairs(&b, report);
    }
    describe(&b, report, line);
    close_bench(&b);
    if (status == CANNOT) {
        json_decref(report);
        return cannot(&o.common, &b.err);
    }
    if (o.common.json)
        print_json(report);
    else
        json_decref(report);
    return status;
}
