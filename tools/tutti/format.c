/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format.c: "tutti format": makes the members of one rank or of all.
 *
 * Responsible for: turning options into tutti_pool_format() calls. Must not
 * know what lies on disk, nor decide what may be overwritten (the pool does).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "command.h"
#include "pools.h"
#include "progress.h"
#include "shape.h"
#include "size.h"

#define ALL_RANKS UINT32_MAX

struct arguments {
    struct common common;
    struct shape_options shape;
    struct pool_named pool;
    uint64_t size;
    uint64_t extent;
    uint32_t alignment;
    uint32_t ranks;
    uint32_t rank;
    bool force;
};

enum { OPTION_RANKS = 0x200, OPTION_RANK, OPTION_ALIGNMENT, OPTION_EXTENT, OPTION_FORCE };

static const struct argp_option options[] = {
    {"size", 's', "SIZE", 0,
     "Capacity of each rank over all its members; a hard bound (default: a block device whole)", 1},
    {"ranks", OPTION_RANKS, "N", 0, "Tensor-parallel size that the pool serves (default 1)", 2},
    {"rank", OPTION_RANK, "R", 0, "Format this rank only, or 'all' (the default)", 2},
    {"alignment", OPTION_ALIGNMENT, "BYTES", 0, "512 or 4096 (default: what the members need)", 3},
    {"extent", OPTION_EXTENT, "SIZE", 0, "Bytes of an extent (default: by shape and size)", 3},
    {"force", OPTION_FORCE, NULL, 0, "Format over what is not empty", 4},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->pool;
        state->child_inputs[1] = &a->shape;
        state->child_inputs[2] = &a->common;
        return 0;
    case 's':
        a->size = size_option(text, "--size", state);
        return 0;
    case OPTION_RANKS:
        a->ranks = number_option(text, "--ranks", 1, 64, state);
        return 0;
    case OPTION_RANK:
        a->rank =
            strcmp(text, "all") == 0 ? ALL_RANKS : number_option(text, "--rank", 0, 63, state);
        return 0;
    case OPTION_ALIGNMENT:
        a->alignment = alignment_option(text, state);
        return 0;
    case OPTION_EXTENT:
        a->extent = size_option(text, "--extent", state);
        return 0;
    case OPTION_FORCE:
        a->force = true;
        return 0;
    case ARGP_KEY_END:
        if (!a->size && !a->pool.members.count)
            argp_error(state, "--size is missing (only a block device is taken whole)");
        else if (a->rank != ALL_RANKS && a->rank >= a->ranks)
            argp_error(state, "--rank %u of --ranks %u", a->rank, a->ranks);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{POOL_CHILD}, {SHAPE_CHILD}, {COMMON_CHILD}, {0}};
static const struct argp parser = {
    options,
    parse,
    "POOL",
    "Make a pool: a folder with its secret, and for each rank its members, allocated in full. "
    "Nothing that holds other data is formatted without --force."
    "\vExample:\n  tutti format /data/tutti --size 200GiB --model llama3-8b\n\n"
    "Exit status: 0 formatted, 2 wrong usage, 3 cannot (the message says why).",
    children,
    NULL,
    NULL};

/** Members of several ranks must not be one file. */
static int check_members(const struct arguments *a, struct tutti_error *err)
{
    struct stat st;

    for (uint32_t m = 0; a->rank == ALL_RANKS && a->ranks > 1 && m < a->pool.members.count; m++)
        if (!strstr(a->pool.members.item[m], "{rank}") &&
            !(stat(a->pool.members.item[m], &st) == 0 && S_ISDIR(st.st_mode)))
            return tutti_error_set(err, -EINVAL,
                                   "--member %s would serve %u ranks: name a folder, put {rank} "
                                   "into the path, or give --rank",
                                   a->pool.members.item[m], a->ranks);
    return 0;
}

/** Where whole extents leave much of the size unused, say how none would be. */
static void print_left(const struct arguments *a, const struct tutti_pool_info *info,
                       uint64_t bytes)
{
    const struct tutti_superblock *s = &info->superblock;
    uint64_t more = s->members * (s->first_extent + ((uint64_t)s->extents + 1) * s->extent_bytes);
    char left[SIZE_TEXT], next[SIZE_TEXT];

    if (a->size > bytes && a->size - bytes > a->size / 10)
        printf("  %s of the size are left: a member holds whole extents; with %s it has one more\n",
               size_text(a->size - bytes, left), size_text(more, next));
}

/** What one rank became. Return: NULL with a message. */
static json_t *describe(const struct arguments *a, uint32_t rank, struct tutti_error *err)
{
    struct tutti_pool *pool;
    struct tutti_pool_info info;
    struct tutti_placement place;
    struct tutti_geometry geometry;
    char id[33], size[SIZE_TEXT], extent[SIZE_TEXT], shape[128];
    uint64_t bytes;
    json_t *object, *members = json_array();

    if (pool_open_to_read(&a->pool, rank, &pool, err) < 0) {
        json_decref(members);
        return NULL;
    }
    tutti_pool_info(pool, &info);
    tutti_pool_placement(pool, 0, &place);
    tutti_pool_geometry(pool, 0, &geometry);
    bytes = (uint64_t)info.superblock.members *
            (info.superblock.first_extent +
             (uint64_t)info.superblock.extents * info.superblock.extent_bytes);
    for (uint32_t m = 0; m < info.superblock.members; m++)
        json_array_append_new(members, json_string(tutti_pool_member_path(pool, m)));
    if (!a->common.json) {
        printf("rank %u of %u: %s, %u extents of %s, %u slots (%llu tokens); %s; alignment %u%s\n",
               rank, a->ranks, size_text(bytes, size), info.extents,
               size_text(place.extent_bytes, extent), info.extents * place.slots_per_extent,
               (unsigned long long)info.extents * place.slots_per_extent * geometry.block_tokens,
               geometry_text(&geometry, shape), info.superblock.alignment,
               info.direct ? "" : "; no direct I/O here");
        for (uint32_t m = 0; m < info.superblock.members; m++)
            printf("  member %u  %s\n", m, tutti_pool_member_path(pool, m));
        print_left(a, &info, bytes);
    }
    object = json_pack("{s:i, s:s, s:o, s:I, s:i, s:I, s:I, s:i, s:b, s:o}", "rank", (int)rank,
                       "pool_id", hex_text(info.superblock.pool, 16, id), "members", members,
                       "bytes", (json_int_t)bytes, "extents", (int)info.extents, "extent_bytes",
                       (json_int_t)place.extent_bytes, "slots",
                       (json_int_t)info.extents * place.slots_per_extent, "alignment",
                       (int)info.superblock.alignment, "direct", (int)info.direct, "geometry",
                       geometry_json(&geometry));
    tutti_pool_close(pool);
    return object;
}

static void tell_progress(void *argument, uint64_t done, uint64_t all)
{
    progress_update(argument, done, all);
}

static int format_rank(const struct arguments *a, uint32_t rank,
                       const struct tutti_geometry *geometry, struct tutti_error *err)
{
    struct progress progress;
    struct tutti_pool_options o = {
        .home = a->pool.home,
        .rank = rank,
        .ranks = a->ranks,
        .bytes = a->size,
        .alignment = a->alignment,
        .extent_bytes = a->extent,
        .geometry = geometry,
        .groups = 1,
        .force = a->force,
        .progress = tell_progress,
        .argument = &progress,
    };
    static struct member_paths paths;
    int rc = member_paths_expand(&a->pool.members, rank, &paths, &o, err);

    if (rc < 0)
        return rc;
    progress_begin(&progress, "format", true, a->common.progress);
    rc = tutti_pool_format(&o, err);
    progress_end(&progress);
    return rc;
}

int command_format(int argc, char **argv)
{
    struct arguments a = {.ranks = 1, .rank = ALL_RANKS};
    struct tutti_geometry geometry;
    struct tutti_error err = {0};
    json_t *ranks;

    argp_parse(&parser, argc, argv, 0, NULL, &a);
    if (shape_geometry(&a.shape, a.ranks, &geometry, &err) < 0 || check_members(&a, &err) < 0) {
        fprintf(stderr, "%s: %s\nTry '%s --help'.\n", argv[0], err.message, argv[0]);
        return USAGE;
    }
    ranks = json_array();
    for (uint32_t r = a.rank == ALL_RANKS ? 0 : a.rank;
         r < (a.rank == ALL_RANKS ? a.ranks : a.rank + 1); r++) {
        json_t *rank = NULL;

        if (format_rank(&a, r, &geometry, &err) == 0)
            rank = describe(&a, r, &err);
        if (!rank) {
            json_decref(ranks);
            return cannot(&a.common, &err);
        }
        json_array_append_new(ranks, rank);
    }
    if (a.common.json)
        print_json(
            json_pack("{s:s, s:s, s:o}", "command", "format", "pool", a.pool.home, "ranks", ranks));
    else
        json_decref(ranks);
    return DONE;
}
