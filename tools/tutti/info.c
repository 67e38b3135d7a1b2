/* SPDX-License-Identifier: Apache-2.0 */
/*
 * info.c: "tutti info": what a pool is, without disturbing who uses it.
 *
 * Responsible for: reading superblocks (and with --scan the records) and
 * saying them. Must not write, lock, or judge.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "command.h"
#include "pools.h"
#include "size.h"

struct arguments {
    struct common common;
    struct pool_named pool;
    bool scan;
};

static const struct argp_option options[] = {
    {"scan", 's', NULL, 0, "Read every record too, and count the slots in use", 1}, {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    (void)text;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->pool;
        state->child_inputs[1] = &a->common;
        return 0;
    case 's':
        a->scan = true;
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
    "Say what a pool is: its ranks, members, shapes, epoch and bytes written. Takes no lock and "
    "writes nothing, so a server may be using it."
    "\vWith --scan records are counted: valid; empty; torn (what a crash leaves: a miss); void "
    "(older "
    "than the oldest valid epoch); alien (whole, but of another pool, rank or slot).\n\n"
    "Example:\n  tutti info /data/tutti --scan\n\n"
    "Exit status: 0 done, 2 wrong usage, 3 cannot (the message says why).",
    children,
    NULL,
    NULL};

static json_t *members_json(const struct tutti_pool *pool, const struct tutti_pool_info *info)
{
    json_t *list = json_array();

    for (uint32_t m = 0; m < info->superblock.members; m++)
        json_array_append_new(list, json_string(tutti_pool_member_path(pool, m)));
    return list;
}

/** By member: what its drive says of itself, or null for what is no drive of ours. */
static json_t *health_json(const struct tutti_pool *pool, uint32_t members)
{
    json_t *list = json_array();

    for (uint32_t m = 0; m < members; m++) {
        struct tutti_member_health h;
        char text[TUTTI_HEALTH_TEXT];
        json_t *one = json_null();

        if (tutti_pool_member_health(pool, m, &h) == 0) {
            tutti_member_health_text(&h, text);
            one = json_pack("{s:b, s:b, s:b, s:b, s:b, s:i, s:i, s:I, s:s}", "low_on_spare",
                            (int)h.low_on_spare, "hot", (int)h.hot, "unreliable", (int)h.unreliable,
                            "read_only", (int)h.read_only, "unprotected", (int)h.unprotected,
                            "spare_left", (int)h.spare_left, "used", (int)h.used, "media_errors",
                            (json_int_t)h.media_errors, "text", text);
            if (h.celsius != INT32_MIN)
                json_object_set_new(one, "celsius", json_integer(h.celsius));
        }
        json_array_append_new(list, one);
    }
    return list;
}

/** Members that are given no commands, by number, each with the reason. */
static json_t *fenced_json(const char *home, const struct tutti_superblock *s)
{
    json_t *fenced = json_object();
    char reason[512], number[16];

    for (uint32_t m = 0; m < s->members; m++)
        if (tutti_pool_member_disabled(home, s->rank, m, reason, sizeof(reason)) != 0) {
            snprintf(number, sizeof(number), "%" PRIu32, m);
            json_object_set_new(fenced, number, json_string(reason));
        }
    return fenced;
}

static json_t *shapes_json(const struct tutti_pool_info *info)
{
    const struct tutti_superblock *s = &info->superblock;
    json_t *list = json_array();

    for (uint32_t g = 0; g < s->groups; g++) {
        struct tutti_placement place;
        json_t *shape = geometry_json(&s->geometry[g]);

        if (tutti_placement_init(&place, &s->geometry[g], s->alignment, s->first_extent,
                                 s->extent_bytes, info->extents, s->members, s->records_per_extent,
                                 s->record_stride, NULL) == 0)
            json_object_set_new(shape, "slots",
                                json_integer((json_int_t)info->extents * place.slots_per_extent));
        json_array_append_new(list, shape);
    }
    return list;
}

static json_t *scan_json(struct tutti_pool *pool, struct tutti_error *err)
{
    struct tutti_scan_entry *entries = NULL;
    struct tutti_scan_report report = {0};
    size_t count;

    if (tutti_pool_scan(pool, 0, &entries, &count, &report, err) < 0)
        return NULL;
    free(entries);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "valid", (json_int_t)report.valid,
                     "empty", (json_int_t)report.empty, "torn", (json_int_t)report.torn, "void",
                     (json_int_t)report.void_, "alien", (json_int_t)report.alien, "bytes",
                     (json_int_t)report.bytes, "seconds", (double)report.nanoseconds / 1e9);
}

/** One rank. Return: NULL with a message. */
static json_t *rank_json(const struct arguments *a, uint32_t rank, struct tutti_pool_info *info,
                         struct tutti_error *err)
{
    struct tutti_pool *pool;
    json_t *object;

    if (pool_open_to_read(&a->pool, rank, &pool, err) < 0)
        return NULL;
    tutti_pool_info(pool, info);
    object = json_pack("{s:i, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:s, s:i, s:o}", "rank",
                       (int)rank, "members", members_json(pool, info), "health",
                       health_json(pool, info->superblock.members), "fenced",
                       fenced_json(a->pool.home, &info->superblock), "extents",
                       (json_int_t)info->extents, "epoch", (json_int_t)info->superblock.epoch,
                       "oldest_epoch", (json_int_t)info->superblock.oldest_epoch, "written_bytes",
                       (json_int_t)info->superblock.written_bytes, "direct", (int)info->direct,
                       "direct_reason", info->direct_reason, "logical_block",
                       (int)info->logical_block, "shapes", shapes_json(info));
    if (a->scan) {
        json_t *scan = scan_json(pool, err);

        if (scan) {
            json_object_set_new(object, "scan", scan);
        } else {
            json_decref(object);
            object = NULL;
        }
    }
    tutti_pool_close(pool);
    return object;
}

/** A pool that can't be opened may be so because of a member that is known to be bad. */
static void name_fenced(const char *home, uint32_t rank, struct tutti_error *err)
{
    char reason[512];

    for (uint32_t m = 0; m < TUTTI_MAX_MEMBERS; m++) {
        struct tutti_error before = *err;

        if (tutti_pool_member_disabled(home, rank, m, reason, sizeof(reason)) != 0)
            tutti_error_set(err, before.code, "%s; member %" PRIu32 " is fenced: %s",
                            before.message, m, reason);
    }
}

static json_int_t get(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void print_rank(const json_t *rank, const struct tutti_pool_info *info)
{
    const struct tutti_superblock *s = &info->superblock;
    const json_t *scan = json_object_get(rank, "scan");
    char a[SIZE_TEXT], b[SIZE_TEXT], shape[128];
    size_t i;
    json_t *item;

    printf("rank %" PRIu32 " of %" PRIu32 "\n", s->rank, s->ranks);
    json_array_foreach(json_object_get(rank, "members"), i, item)
    {
        char number[24];
        const char *reason;

        snprintf(number, sizeof(number), "%zu", i);
        reason = json_string_value(json_object_get(json_object_get(rank, "fenced"), number));
        printf("  member %zu   %s\n", i, json_string_value(item));
        if (reason)
            printf("             fenced: %s\n", reason);
        reason = json_string_value(
            json_object_get(json_array_get(json_object_get(rank, "health"), i), "text"));
        if (reason)
            printf("             health: %s\n", reason);
    }
    printf("  extents    %" PRIu32 " of %s, alignment %" PRIu32 "\n", info->extents,
           size_text(s->extent_bytes, a), s->alignment);
    printf("  epoch      %" PRIu64 ", oldest valid %" PRIu64 "\n", s->epoch, s->oldest_epoch);
    printf("  written    %s over its life\n", size_text(s->written_bytes, b));
    printf("  direct     %s%s%s\n", info->direct ? "yes" : "no", info->direct ? "" : ": ",
           info->direct ? "" : info->direct_reason);
    json_array_foreach(json_object_get(rank, "shapes"), i, item)
    {
        printf("  group %" PRIu32 "    %s: %lld slots\n", s->geometry[i].group,
               geometry_text(&s->geometry[i], shape), (long long)get(item, "slots"));
    }
    if (scan)
        printf("  records    %lld valid, %lld empty, %lld torn, %lld void, %lld alien; %s "
               "read in %.3f s\n",
               (long long)get(scan, "valid"), (long long)get(scan, "empty"),
               (long long)get(scan, "torn"), (long long)get(scan, "void"),
               (long long)get(scan, "alien"), size_text((uint64_t)get(scan, "bytes"), a),
               json_real_value(json_object_get(scan, "seconds")));
}

static void print_head(const struct arguments *a, const struct tutti_superblock *s, bool disabled,
                       const char *reason)
{
    char id[33], created[64];
    time_t when = (time_t)s->created;
    struct tm local;

    strftime(created, sizeof(created), "%Y-%m-%d %H:%M:%S", localtime_r(&when, &local));
    printf("pool         %s\n  id         %s\n  created    %s\n  format     version %" PRIu32
           "\n  state      %s%s\n",
           a->pool.home, hex_text(s->pool, 16, id), created, s->version,
           disabled ? "disabled: " : "enabled", disabled ? reason : "");
}

int command_info(int argc, char **argv)
{
    struct arguments a = {0};
    struct tutti_pool_info info = {0};
    struct tutti_error err = {0};
    struct tutti_superblock head;
    char reason[256] = "", id[33];
    bool disabled;
    json_t *ranks = json_array(), *rank;

    argp_parse(&parser, argc, argv, 0, NULL, &a);
    disabled = tutti_pool_disabled(a.pool.home, reason, sizeof(reason)) == 1;
    for (uint32_t r = 0; r == 0 || r < info.superblock.ranks; r++) {
        rank = rank_json(&a, r, &info, &err);
        if (!rank) {
            name_fenced(a.pool.home, r, &err);
            json_decref(ranks);
            return cannot(&a.common, &err);
        }
        if (r == 0) {
            head = info.superblock;
            if (!a.common.json)
                print_head(&a, &head, disabled, reason);
        }
        if (!a.common.json)
            print_rank(rank, &info);
        json_array_append_new(ranks, rank);
    }
    if (a.common.json)
        print_json(json_pack("{s:s, s:s, s:s, s:i, s:I, s:b, s:s, s:i, s:I, s:o}", "command",
                             "info", "pool", a.pool.home, "pool_id", hex_text(head.pool, 16, id),
                             "version", (int)head.version, "created", (json_int_t)head.created,
                             "disabled", (int)disabled, "reason", reason, "alignment",
                             (int)head.alignment, "extent_bytes", (json_int_t)head.extent_bytes,
                             "ranks", ranks));
    else
        json_decref(ranks);
    return DONE;
}
