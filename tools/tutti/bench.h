/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h: what the files of "tutti bench" share.
 *
 *     bench.c         options, the report of pairs
 *     bench_arm.c     the two arms: the library on a pool, the raw pass on a file
 *     bench_pairs.c   store and retrieve, pair by pair
 *     bench_turns.c   a conversation
 */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "command.h"
#include "kv.h"
#include "progress.h"
#include "raw.h"
#include "scratch.h"
#include "shape.h"
#include "tutti/serve.h"

#define GIB 1073741824.0
#define MOST_PAIRS 100u
#define HASH_BYTES 32u
#define COMMAND_BYTES (UINT32_C(1) << 20) /* as the engines choose by default */
#define WAIT_NS UINT64_C(120000000000)
#define FILE_SYSTEM_SHARE (UINT64_C(1) << 20) /* what a large file takes beyond its bytes */

struct bench_options {
    struct common common;
    struct shape_options shape;
    const char *pool;
    const char *engine;
    uint64_t extent;
    uint32_t alignment;
    uint32_t tokens;
    uint32_t pairs;
    uint32_t depth; /* commands in flight of the raw pass */
    bool apart;
    bool turns;
};

/** What a timed part took. CPU time is that of all threads. */
struct measure {
    double seconds;
    double cpu;
    double first_layer;
};

/**
 * struct bench - one run
 * @blocks: of KV memory
 * @extents: of the pool; its file has @file_bytes
 * @item, @origin, @index: room for a transfer of all blocks
 * @block: memory block of each block of the chain
 */
struct bench {
    const struct bench_options *options;
    struct tutti_geometry geometry;
    struct tutti_placement placement;
    struct tutti_error err;
    struct progress progress;
    char scratch[SCRATCH_PATH];
    uint32_t blocks;
    uint32_t extents;
    uint64_t extent_bytes;
    uint64_t file_bytes;
    struct kv kv;
    struct tutti_transfer *item;
    struct tutti_origin *origin;
    uint32_t *index;
    uint32_t *block;
    double load;         /* of the machine, before */
    uint64_t busy_until; /* when the disk was last worked */
    uint64_t wrong_bytes;
    uint64_t failed_blocks;
    const char *engine;
    bool direct; /* member and transfers */
    bool member_direct;
    char reason[TUTTI_ERROR_MESSAGE]; /* why staged, or why not the first choice of engine */
    char raw_name[32];
};

/* bench_arm.c: the library's arm. */

/** A fresh pool with its directory and serving level. */
struct ours {
    struct tutti_pool *pool;
    struct tutti_directory *directory;
    struct tutti_serve *serve;
    char home[SCRATCH_PATH + 16];
};

int ours_open(struct bench *b, struct ours *ours);
void ours_close(struct ours *ours);

/** A chain of block hashes; @count x HASH_BYTES, malloc()ed. */
uint8_t *make_chain(uint64_t seed, uint32_t count);

/**
 * Store blocks [first, first + count) of a chain layer by layer, from memory blocks b->block[].
 * b->item[] then says where they went. Return: blocks stored, or a negative errno.
 */
int ours_store(struct bench *b, struct ours *ours, const uint8_t *chain, uint32_t first,
               uint32_t count, bool grows, struct measure *m);

/** Bring blocks [0, count) of a chain back, layer by layer, into b->block[]. */
int ours_retrieve(struct bench *b, struct ours *ours, const uint8_t *chain, uint32_t count,
                  struct measure *m);

/* bench_arm.c: the raw arm. */

/** A file of the pool's size, preallocated like it and as fresh. */
struct peer {
    int fd;
    char path[SCRATCH_PATH + 16];
    struct raw *raw;
    struct raw_piece *piece;
    size_t pieces;
};

int peer_open(struct bench *b, struct peer *peer);
void peer_close(struct peer *peer);

/** The same bytes at the same places: layer by layer, neighbours in one command. */
int peer_plan(struct bench *b, struct peer *peer, const struct tutti_transfer *item,
              uint32_t count);
int peer_run(struct bench *b, struct peer *peer, bool write, struct measure *m);

/* The two programs; each returns an exit code and prints. */
int bench_pairs(struct bench *b, json_t *report);
int bench_turns(struct bench *b, json_t *report);

/** Blocks of KV memory, and slots of the pool, that the run needs. */
uint32_t bench_blocks(const struct bench *b);
uint32_t bench_slots(const struct bench *b);

/** Pool geometry for @slots slots into b. */
int bench_place(struct bench *b, uint32_t slots);

/* Statistics and their JSON. */
double median(const double *value, uint32_t count);
json_t *spread_json(const double *value, uint32_t count);
double gb_s(uint64_t bytes, double seconds);

#endif
