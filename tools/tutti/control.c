/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c: "tutti disable" and "tutti enable": the kill switch without a
 * restart.
 *
 * Must not know how a server obeys it, and needs no pool that can be opened:
 * it has to work when the pool is what is broken.
 */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "tutti/pool.h"

struct arguments {
    struct common common;
    const char *pool;
    const char *reason;
    bool takes_reason;
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case ARGP_KEY_ARG:
        if (!a->pool)
            a->pool = text;
        else if (a->takes_reason && !a->reason)
            a->reason = text;
        else
            argp_error(state, "too many arguments (a reason of several words needs quotes)");
        return 0;
    case ARGP_KEY_END:
        if (!a->pool)
            argp_error(state, "name the POOL, a folder");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{COMMON_CHILD}, {0}};
static const struct argp disable_parser = {
    NULL,
    parse,
    "POOL [REASON]",
    "Switch a pool off without a restart: within a second every server that uses it finds "
    "nothing in it and stores nothing more; what is under way is finished."
    "\vExample:\n  tutti disable /data/tutti 'drive is being replaced'\n\n"
    "Exit status: 0 disabled (also when it was before), 2 wrong usage, 3 cannot.",
    children,
    NULL,
    NULL};
static const struct argp enable_parser = {
    NULL,
    parse,
    "POOL",
    "Switch a pool on again that 'tutti disable' or the connector switched off."
    "\vExample:\n  tutti enable /data/tutti\n\n"
    "Exit status: 0 enabled (also when it was before), 2 wrong usage, 3 cannot.",
    children,
    NULL,
    NULL};

static int tell(const struct arguments *a, const char *command)
{
    char reason[256] = "";
    int disabled = tutti_pool_disabled(a->pool, reason, sizeof(reason)) == 1;

    if (a->common.json)
        print_json(json_pack("{s:s, s:s, s:b, s:s}", "command", command, "pool", a->pool,
                             "disabled", disabled, "reason", reason));
    else if (disabled)
        printf("%s: disabled: %s\n", a->pool, reason);
    else
        printf("%s: enabled\n", a->pool);
    return DONE;
}

/* A typing mistake must not look like success while the real pool serves on. */
static int must_be_pool(const char *path, struct tutti_error *err)
{
    char pattern[4200];
    glob_t found = {0};
    bool is_pool = false;

    snprintf(pattern, sizeof(pattern), "%s/secret", path);
    is_pool = access(pattern, F_OK) == 0;
    snprintf(pattern, sizeof(pattern), "%s/rank*.tutti", path);
    is_pool = is_pool || glob(pattern, 0, NULL, &found) == 0;
    globfree(&found);
    if (is_pool)
        return 0;
    return tutti_error_set(err, -ENOENT,
                           "%s: no pool in this folder (neither a secret nor members): the first "
                           "log line of the server names its pool",
                           path);
}

int command_disable(int argc, char **argv)
{
    struct arguments a = {.takes_reason = true};
    struct tutti_error err = {0};

    argp_parse(&disable_parser, argc, argv, 0, NULL, &a);
    if (must_be_pool(a.pool, &err) < 0 || tutti_pool_disable(a.pool, a.reason, &err) < 0)
        return cannot(&a.common, &err);
    return tell(&a, "disable");
}

int command_enable(int argc, char **argv)
{
    struct arguments a = {0};
    struct tutti_error err = {0};

    argp_parse(&enable_parser, argc, argv, 0, NULL, &a);
    if (must_be_pool(a.pool, &err) < 0 || tutti_pool_enable(a.pool, &err) < 0)
        return cannot(&a.common, &err);
    return tell(&a, "enable");
}
