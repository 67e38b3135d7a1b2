/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.c: options and output that every subcommand has; see command.h.
 *
 * Must not know: pools, shapes, or what a subcommand is for.
 */
#include "command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "size.h"

static const struct argp_option common_options[] = {
    {"json", 'j', NULL, 0, "Print one JSON object on standard output", 0},
    {"progress", 'p', NULL, 0, "Show progress on standard error even where that is no terminal", 0},
    {0}};

static error_t parse_common(int key, char *argument, struct argp_state *state)
{
    struct common *common = state->input;

    (void)argument;
    switch (key) {
    case 'j':
        common->json = true;
        return 0;
    case 'p':
        common->progress = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp common_argp = {common_options, parse_common, NULL, NULL, NULL, NULL, NULL};

void print_json(json_t *object)
{
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
}

int cannot(const struct common *common, const struct tutti_error *err)
{
    const char *name = strerrorname_np(-err->code);

    fprintf(stderr, "tutti: %s\n", err->message);
    if (common->json)
        print_json(
            json_pack("{s:s, s:s}", "error", err->message, "errno", name ? name : "unknown"));
    return CANNOT;
}

void add_string(struct strings *strings, const char *item, struct argp_state *state)
{
    if (strings->count == MAX_STRINGS)
        argp_error(state, "more than %u of a kind", MAX_STRINGS);
    else
        strings->item[strings->count++] = item;
}

uint32_t number_option(const char *text, const char *option, uint32_t least, uint32_t most,
                       struct argp_state *state)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || value < least || value > most)
        argp_error(state, "%s takes a number from %u to %u, not '%s'", option, least, most, text);
    return (uint32_t)value;
}

uint64_t size_option(const char *text, const char *option, struct argp_state *state)
{
    uint64_t bytes = 0;

    if (size_parse(text, &bytes) < 0 || bytes == 0)
        argp_error(state, "%s takes a size such as 200GiB, 4G or plain bytes, not '%s'", option,
                   text);
    return bytes;
}

uint32_t alignment_option(const char *text, struct argp_state *state)
{
    if (strcmp(text, "512") == 0)
        return 512;
    if (strcmp(text, "4096") != 0)
        argp_error(state, "--alignment takes 512 or 4096, not '%s'", text);
    return 4096;
}
