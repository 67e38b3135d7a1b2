/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retrieve_store.c: an engine author's whole use of the library.
 *
 * Opens the pool in a folder (makes it the first time), stores what is not there, or not right, of
 * a prompt of 8 blocks, and brings it back layer by layer. The second run answers from disk.
 */
#include <errno.h>
#include <error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tutti/serve.h"

#define LAYERS 4u
#define PLANES (LAYERS * 2) /* K and V */
#define BLOCKS 8u
#define BYTES 8192u /* of one block of K, or of V, of one layer */
#define KV_BYTES (PLANES * BLOCKS * BYTES)
#define HASH 32u                   /* bytes of an engine's chained hash of a block */
#define LONG UINT64_C(10000000000) /* ns */

static struct tutti_error err;
static struct tutti_pool *pool;
static struct tutti_directory *directory;
static struct tutti_serve *serve;
static uint8_t *kv, computed[KV_BYTES], hashes[BLOCKS * HASH]; /* [layer][K, V][block] */
static struct tutti_transfer item[BLOCKS];

static void check(int rc, const char *what)
{
    if (rc < 0)
        error(1, -rc, "%s: %s", what, err.message);
}

/* The pool; then the directory, which takes over what a scan finds. */
static void open_pool(const char *home)
{
    struct tutti_directory_options o = {
        .geometry = {.layers = LAYERS, .parts = 2, .object_bytes = BYTES, .block_tokens = 16},
        .ranks = 1,
        .identity = "weights, dtype."}; /* what else the bytes' meaning depends on */
    struct tutti_pool_options where = {
        .home = home, .ranks = 1, .bytes = 64u << 20, .geometry = &o.geometry, .groups = 1};
    struct tutti_pool_info info;
    struct tutti_scan_entry *found;
    size_t count;
    if (tutti_pool_open(&where, &pool, &err) == -ENOENT)
        check(tutti_pool_format(&where, &err), "format");
    if (!pool)
        check(tutti_pool_open(&where, &pool, &err), "open");
    tutti_pool_info(pool, &info);
    tutti_pool_placement(pool, 0, &o.placement);
    memcpy(o.secret, tutti_pool_secret(pool), sizeof(o.secret));
    check(tutti_directory_new(&o, &directory, &err), "directory");
    check(tutti_pool_scan(pool, 0, &found, &count, NULL, &err), "scan");
    check(tutti_directory_load(directory, (const void *)&found, &count, &err), "load");
    free(found);
    const uint64_t epoch = info.superblock.epoch + 1;
    check(tutti_pool_begin_epoch(pool, epoch, 0, o.identity, &err), "epoch");
    check(tutti_directory_begin_epoch(directory, epoch, false, NULL, &err), "epoch");
}

/* Serving: engine, ring, and the KV memory that they read and write. */
static void open_serve(void)
{
    struct tutti_serve_options o = {.pool = pool}; /* the engine: whichever works here */
    struct tutti_kv_plane plane[PLANES];
    bool huge;
    check(tutti_device_host.alloc(KV_BYTES, (void **)&kv, &huge, &err), "alloc");
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)kv, KV_BYTES};
    for (uint32_t p = 0; p < PLANES; p++)
        plane[p] = (struct tutti_kv_plane){region.base + p * BLOCKS * BYTES, BYTES};
    check(tutti_serve_open(&o, &serve, &err), "serve");
    check(tutti_serve_register(serve, 0, plane, BLOCKS, &region, 1, &err), "register");
}

/* Blocks from @first on: a place for each, the layers as they are computed, and the report. */
static void store_from(uint32_t first)
{
    struct tutti_origin origin[BLOCKS];
    uint32_t index[BLOCKS];
    struct tutti_store *store;
    struct tutti_result result;
    int given = tutti_directory_reserve(directory, hashes, HASH, first, BLOCKS - first, false, item,
                                        origin, index);
    check(given, "reserve");
    memcpy(kv, computed, KV_BYTES);
    for (int i = 0; i < given; i++)
        item[i].block = index[i];
    check(tutti_store_begin(serve, 0, item, origin, (uint32_t)given, 0, 0, &store, &err), "store");
    for (uint32_t layer = 1; layer <= LAYERS; layer++) /* as they are computed */
        tutti_store_ready(store, layer);
    check(tutti_store_wait(store, LONG), "wait");
    tutti_store_result(store, &result);
    printf("stored %u blocks\n", result.good);
    for (int i = 0; i < given; i++)
        tutti_directory_report(directory, 0, item[i].slot, item[i].generation, !result.position[i]);
    tutti_store_end(store);
}

/* Layer by layer; what is not as it was stored is dropped. Return: blocks that are right. */
static uint32_t retrieve(void)
{
    struct tutti_transfer gone[BLOCKS];
    struct tutti_match match;
    struct tutti_retrieve *r;
    struct tutti_result result;
    tutti_directory_find(directory, hashes, HASH, BLOCKS, &match);
    printf("%u of %u blocks are on disk\n", match.blocks, BLOCKS);
    if (match.blocks == 0)
        return 0;
    check(tutti_directory_pin(directory, &match, 0, item), "pin");
    for (uint32_t i = 0; i < match.blocks; i++)
        item[i].block = i;
    memset(kv, 0, KV_BYTES);
    check(tutti_retrieve_begin(serve, 0, item, match.blocks, true, 0, &r, &err), "retrieve");
    for (uint32_t layer = 0; layer < LAYERS && tutti_retrieve_layer(r, layer, LONG) == 0; layer++)
        ; /* compute with the layer here */
    check(tutti_retrieve_wait(r, LONG), "wait");
    tutti_retrieve_result(r, &result);
    tutti_directory_unpin(directory, match.slot, match.generation);
    for (uint32_t i = 0; i < match.blocks; i++)
        if (result.position[i])
            tutti_directory_drop(directory, item[i].slot, item[i].generation);
    check(tutti_retrieve_end(r), "end");
    const size_t count = tutti_directory_take_erased(directory, gone, BLOCKS);
    check(tutti_serve_erase(serve, 0, gone, (uint32_t)count, &err), "erase");
    return result.verified;
}

int main(int argc, char **argv)
{
    for (uint32_t i = 0; i < KV_BYTES; i++)
        computed[i] = (uint8_t)(i / BYTES * 3 + i);
    memcpy(hashes, computed, sizeof(hashes));
    open_pool(argc > 1 ? argv[1] : "example-pool");
    open_serve();
    uint32_t good = retrieve();
    if (good < BLOCKS)
        store_from(good);
    bool wrong = retrieve() < BLOCKS || memcmp(kv, computed, KV_BYTES) != 0;
    printf("retrieved, %s\n", wrong ? "WRONG" : "every byte right");
    tutti_serve_close(serve);
    tutti_directory_free(directory);
    tutti_pool_close(pool);
    return wrong;
}
