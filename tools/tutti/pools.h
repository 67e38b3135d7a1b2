/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pools.h: from a pool's folder and --member options to one rank's options.
 *
 * Responsible for: naming a pool on the command line, {rank} in paths, and
 * opening a pool's ranks. Must not know what is done with them.
 */
#ifndef TOOLS_POOLS_H
#define TOOLS_POOLS_H

#include "command.h"
#include "tutti/pool.h"

/** Which pool: the argument POOL, and the option --member. */
struct pool_named {
    const char *home;
    struct strings members;
};

/** Child parser for both; its input is a struct pool_named. */
extern const struct argp pool_argp;

/** The entry of pool_argp among a subcommand's children. */
#define POOL_CHILD &pool_argp, 0, NULL, 1

/** Paths of one rank's members, expanded. */
struct member_paths {
    char text[TUTTI_MAX_MEMBERS][4096];
    const char *path[TUTTI_MAX_MEMBERS];
    uint32_t count;
};

/**
 * member_paths_expand() - "{rank}" in each --member becomes the rank's number
 *
 * Fills @options->member and @options->members (NULL and 0 where none is named).
 * Return: 0 or -EINVAL with a message.
 */
int member_paths_expand(const struct strings *members, uint32_t rank, struct member_paths *paths,
                        struct tutti_pool_options *options, struct tutti_error *err);

/** Open rank @rank of a pool for reading about it; it may be in use elsewhere. */
int pool_open_to_read(const struct pool_named *named, uint32_t rank, struct tutti_pool **pool,
                      struct tutti_error *err);

/** Open it for writing, locked; for work on a pool that nobody serves from. */
int pool_open_to_write(const struct pool_named *named, uint32_t rank, struct tutti_pool **pool,
                       struct tutti_error *err);

/** Bytes as 2 hexadecimal digits each; @text holds 2 x @count + 1; returns @text. */
const char *hex_text(const void *bytes, size_t count, char *text);

/** {"layers", "parts", "object_bytes", "block_tokens", "group"} */
json_t *geometry_json(const struct tutti_geometry *geometry);

/** "32 layers x 2 parts x 32 KiB, 16 tokens a block" */
const char *geometry_text(const struct tutti_geometry *geometry, char text[128]);

#endif
