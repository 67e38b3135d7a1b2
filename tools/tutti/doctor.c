/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.c: "tutti doctor": tells a newcomer what this machine and path will
 * give, why, how fast that is beside what Tutti needs, and what to change.
 *
 * Loading pays where it is faster than computing again:
 *     needed speed = KV bytes per token x tokens computed per second
 *     tokens per second = FLOP/s / (2 x parameters)     (attention left out,
 * which grows with length: long prompts need less than said here).
 * Must not know how anything is found out.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"
#include "shape.h"
#include "size.h"

#define DEFAULT_TFLOPS 400u /* an H100 at 40% of its 989 bf16 TFLOP/s */

struct arguments {
    struct common common;
    struct machine machine;
    const char *path;
    uint32_t tflops;
};

enum { OPTION_TFLOPS = 0x400 };

static const struct argp_option options[] = {
    {"tflops", OPTION_TFLOPS, "N", 0,
     "TFLOP/s that the engine reaches in prefill (default 400, about an H100's)", 1},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->machine;
        state->child_inputs[1] = &a->common;
        return 0;
    case OPTION_TFLOPS:
        a->tflops = number_option(text, "--tflops", 1, 1000000, state);
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            argp_error(state, "one PATH at a time");
        a->path = text;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{MACHINE_CHILD}, {COMMON_CHILD}, {0}};
static const struct argp parser = {
    options,
    parse,
    "[PATH]",
    "Say which engine and mode this machine and PATH (a folder or a block device; default the "
    "current folder) will get, and why; measure the path for a second or two on a temporary file "
    "beside what loading must reach to beat computing again; and name what to change, also for "
    "driving NVMe from user space where there is an NVMe controller. A block device is only read."
    "\vExample:\n  tutti doctor /data\n\n"
    "Exit status: 0 all is well, 1 something should be changed (named, with the command), "
    "2 wrong usage, 3 the path cannot be used.",
    children,
    NULL,
    NULL};

struct finding *find(struct diagnosis *d, const char *name, enum grade grade, const char *format,
                     ...)
{
    struct finding *f = &d->finding[d->count < MOST_FINDINGS ? d->count++ : MOST_FINDINGS - 1];
    va_list arguments;

    f->name = name;
    f->grade = grade;
    f->remedy[0] = 0;
    va_start(arguments, format);
    vsnprintf(f->fact, sizeof(f->fact), format, arguments);
    va_end(arguments);
    return f;
}

void remedy(struct finding *f, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(f->remedy, sizeof(f->remedy), format, arguments);
    va_end(arguments);
}

/** Tokens per second that the engine computes. */
static double computed(const struct shape *s, uint32_t tflops)
{
    return tflops * 1e12 / (2 * s->parameters);
}

static double needed(const struct shape *s, uint32_t tflops)
{
    return computed(s, tflops) * (double)shape_token_bytes(s) / 1e9;
}

static bool worth(const struct diagnosis *d, const struct shape *s, uint32_t tflops)
{
    return d->measured && d->read_gb_s > needed(s, tflops);
}

static void judge_speed(struct diagnosis *d, uint32_t tflops)
{
    uint32_t count = 0;
    struct finding *f;

    if (!d->measured)
        return;
    for (size_t i = 0; i < shape_count; i++)
        count += worth(d, &shapes[i], tflops);
    f = find(d, "fast enough", count ? GOOD : WORSE,
             "loading beats computing again for %u of %zu known shapes at %u TFLOP/s", count,
             shape_count, tflops);
    if (!count)
        remedy(f, "a faster drive, or several (tutti format --member A --member B stripes them)");
}

static const char *const grades[] = {"good", "worse", "bad"};

static json_t *findings_json(const struct diagnosis *d)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < d->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name", d->finding[i].name,
                                              "grade", grades[d->finding[i].grade], "fact",
                                              d->finding[i].fact, "remedy", d->finding[i].remedy));
    return list;
}

static json_t *shapes_json(const struct diagnosis *d, uint32_t tflops)
{
    json_t *list = json_array();

    for (size_t i = 0; i < shape_count; i++) {
        const struct shape *s = &shapes[i];

        json_array_append_new(
            list,
            json_pack("{s:s, s:I, s:f, s:f, s:f, s:b}", "model", s->name, "token_bytes",
                      (json_int_t)shape_token_bytes(s), "computed_tokens_s", computed(s, tflops),
                      "loaded_tokens_s", d->read_gb_s * 1e9 / (double)shape_token_bytes(s),
                      "needed_gb_s", needed(s, tflops), "worth", (int)worth(d, s, tflops)));
    }
    return list;
}

static void print_report(const struct diagnosis *d, const struct arguments *a)
{
    static const char *const marks[] = {"ok", "--", "!!"};
    char size[SIZE_TEXT];

    printf("%s", d->path);
    if (d->folder[0] && strcmp(d->folder, d->path) != 0)
        printf(" (looked at %s)", d->folder);
    printf("\nengine %s, transfers %s%s%s\n\n", d->engine, d->direct ? "direct" : "staged",
           d->reason[0] ? ": " : "", d->reason);
    for (uint32_t i = 0; i < d->count; i++) {
        const struct finding *f = &d->finding[i];

        printf("  %s  %-14s %s\n", marks[f->grade], f->name, f->fact);
        if (f->remedy[0])
            printf("      %-14s -> %s\n", "", f->remedy);
    }
    if (!d->measured)
        return;
    printf("\nLoading against computing (at %u TFLOP/s of prefill; this path reads "
           "%.2f GB/s):\n  %-14s %12s %12s %12s %12s\n",
           a->tflops, d->read_gb_s, "shape", "KV a token", "computes t/s", "loads t/s",
           "needs GB/s");
    for (size_t i = 0; i < shape_count; i++) {
        const struct shape *s = &shapes[i];

        printf("  %-14s %12s %12.0f %12.0f %12.2f  %s\n", s->name,
               size_text(shape_token_bytes(s), size), computed(s, a->tflops),
               d->read_gb_s * 1e9 / (double)shape_token_bytes(s), needed(s, a->tflops),
               worth(d, s, a->tflops) ? "worth it" : "computing is faster");
    }
    printf("Attention is left out, so long prompts need less. Slower GPUs need less; see "
           "--tflops.\n");
}

int command_doctor(int argc, char **argv)
{
    struct arguments a = {.tflops = DEFAULT_TFLOPS};
    static struct diagnosis d; /* large */
    struct tutti_error err = {0};
    enum grade worst = GOOD;

    argp_parse(&parser, argc, argv, 0, NULL, &a);
    examine_system(&d);
    if (examine_nvme(&d, &a.machine, &err) < 0 || examine_path(&d, a.path ? a.path : ".", &err) < 0)
        return cannot(&a.common, &err);
    judge_speed(&d, a.tflops);
    for (uint32_t i = 0; i < d.count; i++)
        if (!d.finding[i].aside && d.finding[i].grade > worst)
            worst = d.finding[i].grade;
    if (a.common.json)
        print_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:i, s:o, s:o}", "command",
                             "doctor", "path", d.path, "engine", d.engine, "mode",
                             d.direct ? "direct" : "staged", "reason", d.reason, "verdict",
                             grades[worst], "read_gb_s", d.read_gb_s, "write_gb_s", d.write_gb_s,
                             "tflops", (int)a.tflops, "findings", findings_json(&d), "shapes",
                             shapes_json(&d, a.tflops)));
    else
        print_report(&d, &a);
    return worst == GOOD ? DONE : FOUND_BAD;
}
