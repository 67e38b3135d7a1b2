/* SPDX-License-Identifier: Apache-2.0 */
/* pools.c: see pools.h. Must not know any subcommand. */
#include "pools.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "size.h"

static const struct argp_option pool_options[] = {
    {"member", 'M', "PATH", 0,
     "A file, block device, folder or drive (nvme:ADDRESS or nvme:serial=SERIAL) that holds a "
     "member; may be repeated "
     "and may "
     "contain {rank} (default: one file in POOL)",
     1},
    {0}};

static error_t parse_pool(int key, char *text, struct argp_state *state)
{
    struct pool_named *named = state->input;

    switch (key) {
    case 'M':
        add_string(&named->members, text, state);
        return 0;
    case ARGP_KEY_ARG:
        if (named->home)
            argp_error(state, "one POOL at a time");
        named->home = text;
        return 0;
    case ARGP_KEY_END:
        if (!named->home)
            argp_error(state, "name the POOL, a folder");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp pool_argp = {pool_options, parse_pool, NULL, NULL, NULL, NULL, NULL};

static int expand(const char *pattern, uint32_t rank, char text[4096])
{
    static const char mark[] = "{rank}";
    size_t length = 0;

    while (*pattern) {
        if (*pattern == '{' && strncmp(pattern, mark, sizeof(mark) - 1) == 0) {
            length += (size_t)snprintf(text + length, 4096 - length, "%u", rank);
            pattern += sizeof(mark) - 1;
        } else {
            text[length++] = *pattern++;
        }
        if (length >= 4095)
            return -ENAMETOOLONG;
    }
    text[length] = 0;
    return 0;
}

int member_paths_expand(const struct strings *members, uint32_t rank, struct member_paths *paths,
                        struct tutti_pool_options *options, struct tutti_error *err)
{
    if (members->count > TUTTI_MAX_MEMBERS)
        return tutti_error_set(err, -EINVAL, "%u members are named; 1 to %u are possible",
                               members->count, TUTTI_MAX_MEMBERS);
    paths->count = members->count;
    for (uint32_t m = 0; m < members->count; m++) {
        if (expand(members->item[m], rank, paths->text[m]) < 0)
            return tutti_error_set(err, -EINVAL, "the path of member %u is too long", m);
        paths->path[m] = paths->text[m];
    }
    options->member = members->count ? paths->path : NULL;
    options->members = members->count;
    return 0;
}

static int pool_open(const struct pool_named *named, uint32_t rank, bool read_only,
                     struct tutti_pool **pool, struct tutti_error *err)
{
    struct tutti_pool_options options = {.home = named->home, .rank = rank, .read_only = read_only};
    static struct member_paths paths;
    int rc = member_paths_expand(&named->members, rank, &paths, &options, err);

    return rc < 0 ? rc : tutti_pool_open(&options, pool, err);
}

int pool_open_to_read(const struct pool_named *named, uint32_t rank, struct tutti_pool **pool,
                      struct tutti_error *err)
{
    return pool_open(named, rank, true, pool, err);
}

int pool_open_to_write(const struct pool_named *named, uint32_t rank, struct tutti_pool **pool,
                       struct tutti_error *err)
{
    return pool_open(named, rank, false, pool, err);
}

const char *hex_text(const void *bytes, size_t count, char *text)
{
    const unsigned char *byte = bytes;

    text[0] = 0;
    for (size_t i = 0; i < count; i++)
        sprintf(text + 2 * i, "%02x", byte[i]);
    return text;
}

json_t *geometry_json(const struct tutti_geometry *g)
{
    return json_pack("{s:i, s:i, s:i, s:I, s:i, s:i}", "group", (int)g->group, "layers",
                     (int)g->layers, "parts", (int)g->parts, "object_bytes",
                     (json_int_t)g->object_bytes, "block_tokens", (int)g->block_tokens,
                     "layout_tag", (int)g->layout_tag);
}

const char *geometry_text(const struct tutti_geometry *g, char text[128])
{
    char size[SIZE_TEXT];

    snprintf(text, 128, "%u layers x %u part%s x %s, %u tokens a block", g->layers, g->parts,
             g->parts == 1 ? "" : "s", size_text(g->object_bytes, size), g->block_tokens);
    return text;
}
