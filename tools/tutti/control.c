/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c: "tutti disable" and "tutti enable": the kill switch without a
 * restart, of a pool or of one of its members.
 *
 * Must not know how a server obeys it, and needs no pool that can be opened:
 * it has to work when the pool is what is broken. But a member that a server
 * gave up is looked at before it comes back.
 */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "tutti/pool.h"

#define MOST_RANKS 64u
#define ANY UINT32_MAX

struct arguments {
    struct common common;
    const char *pool;
    const char *reason;
    uint32_t member; /* ANY: the pool */
    uint32_t rank;   /* ANY: each that has the member off */
    bool takes_reason;
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case 'm':
        a->member = number_option(text, "--member", 0, TUTTI_MAX_MEMBERS - 1, state);
        return 0;
    case 'r':
        a->rank = number_option(text, "--rank", 0, MOST_RANKS - 1, state);
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
        if (a->rank != ANY && a->member == ANY)
            argp_error(state, "--rank goes with --member");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{COMMON_CHILD}, {0}};
static const struct argp_option disable_options[] = {
    {"member", 'm', "N", 0, "Only member N; the others serve on", 1},
    {"rank", 'r', "R", 0, "The member of rank R (0 where none is named)", 1},
    {0}};
static const struct argp disable_parser = {
    disable_options,
    parse,
    "POOL [REASON]",
    "Switch a pool off without a restart: within a second every server that uses it finds "
    "nothing in it and stores nothing more; what is under way is finished."
    "\vExample:\n  tutti disable /data/tutti 'drive is being replaced'\n\n"
    "Exit status: 0 disabled (also when it was before), 2 wrong usage, 3 cannot.",
    children,
    NULL,
    NULL};
static const struct argp_option enable_options[] = {
    {"member", 'm', "N", 0, "Only member N", 1},
    {"rank", 'r', "R", 0, "The member of rank R (of every rank where none is named)", 1},
    {0}};
static const struct argp enable_parser = {
    enable_options,
    parse,
    "POOL",
    "Switch a pool on again that 'tutti disable' or the connector switched off, and members that "
    "were fenced: each is read all over first, and stays off where that fails."
    "\vExample:\n  tutti enable /data/tutti\n  tutti enable /data/tutti --member 1\n\n"
    "Exit status: 0 enabled (also when it was before), 2 wrong usage, 3 cannot: a member still "
    "fails, and the message says how.",
    children,
    NULL,
    NULL};

/** Members that are off, of the ranks and members that were asked for. */
static json_t *fenced(const struct arguments *a)
{
    json_t *list = json_array();
    char reason[512];

    for (uint32_t r = 0; r < MOST_RANKS; r++)
        for (uint32_t m = 0; m < TUTTI_MAX_MEMBERS; m++)
            if (tutti_pool_member_disabled(a->pool, r, m, reason, sizeof(reason)) != 0)
                json_array_append_new(list, json_pack("{s:i, s:i, s:s}", "rank", (int)r, "member",
                                                      (int)m, "reason", reason));
    return list;
}

static int tell(const struct arguments *a, const char *command)
{
    char reason[256] = "";
    int disabled = tutti_pool_disabled(a->pool, reason, sizeof(reason)) == 1;
    json_t *members = fenced(a), *member;
    size_t i;

    if (a->common.json) {
        print_json(json_pack("{s:s, s:s, s:b, s:s, s:o}", "command", command, "pool", a->pool,
                             "disabled", disabled, "reason", reason, "fenced", members));
        return DONE;
    }
    if (disabled)
        printf("%s: disabled: %s\n", a->pool, reason);
    else
        printf("%s: enabled\n", a->pool);
    json_array_foreach(members, i, member)
    {
        printf("rank %lld member %lld: fenced: %s\n",
               (long long)json_integer_value(json_object_get(member, "rank")),
               (long long)json_integer_value(json_object_get(member, "member")),
               json_string_value(json_object_get(member, "reason")));
    }
    json_decref(members);
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

/** Each member that is off and was asked for comes back if it can. Return: 0, or the first refusal.
 */
static int enable_members(const struct arguments *a, struct tutti_error *err)
{
    int result = 0;

    for (uint32_t r = 0; r < MOST_RANKS; r++)
        for (uint32_t m = 0; m < TUTTI_MAX_MEMBERS; m++) {
            struct tutti_error why = {0};
            int rc;

            if ((a->rank != ANY && a->rank != r) || (a->member != ANY && a->member != m) ||
                tutti_pool_member_disabled(a->pool, r, m, NULL, 0) == 0)
                continue;
            rc = tutti_pool_probe_member(a->pool, r, m, &why);
            if (rc == 0)
                rc = tutti_pool_enable_member(a->pool, r, m, &why);
            if (rc < 0 && result == 0)
                result = tutti_error_set(err, rc, "member %u of rank %u stays off: %s", m, r,
                                         why.message);
        }
    return result;
}

int command_disable(int argc, char **argv)
{
    struct arguments a = {.takes_reason = true, .member = ANY, .rank = ANY};
    struct tutti_error err = {0};
    int rc;

    argp_parse(&disable_parser, argc, argv, 0, NULL, &a);
    rc = must_be_pool(a.pool, &err);
    if (rc == 0 && a.member == ANY)
        rc = tutti_pool_disable(a.pool, a.reason, &err);
    else if (rc == 0)
        rc = tutti_pool_disable_member(a.pool, a.rank == ANY ? 0 : a.rank, a.member, a.reason, NULL,
                                       &err);
    return rc < 0 ? cannot(&a.common, &err) : tell(&a, "disable");
}

int command_enable(int argc, char **argv)
{
    struct arguments a = {.member = ANY, .rank = ANY};
    struct tutti_error err = {0};
    int rc;

    argp_parse(&enable_parser, argc, argv, 0, NULL, &a);
    rc = must_be_pool(a.pool, &err);
    if (rc == 0 && a.member == ANY)
        rc = tutti_pool_enable(a.pool, &err);
    if (rc == 0)
        rc = enable_members(&a, &err);
    return rc < 0 ? cannot(&a.common, &err) : tell(&a, "enable");
}
