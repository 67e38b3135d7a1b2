/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.c: a ring user's whole use: make a ring, take and fill IOCBs, issue, wait by IOCB.
 *
 *     ring [FILE]
 *
 * Two slots of three layers go from memory into a file and come back, with an engine directly on
 * the ring: no pool, no directory. One IOCB is worth a layer of both slots; the engine makes
 * commands of it, sums up what it writes and verifies what it reads.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tutti/engine.h"
#include "tutti/format.h"

#define LAYERS 3u
#define SLOTS 2u
#define BYTES 65536u /* of an object: one block of one part of one layer */
#define SECOND UINT64_C(1000000000)

static struct tutti_error err;
static struct tutti_ring *ring;

static void check(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, err.message, strerror(-rc));
    exit(1);
}

/** Take an IOCB, fill it, issue it: the second and the third call. Return: its index. */
static uint32_t issue(const struct tutti_map *map, enum tutti_direction direction, uint16_t layer,
                      uint32_t after)
{
    uint32_t index;
    struct tutti_iocb *iocb = tutti_ring_get(ring, &index);

    check(iocb ? 0 : -1, "the ring is full");
    iocb->map = map;
    iocb->count = map->count; /* positions [0, count) of the map */
    iocb->layer = layer;
    iocb->direction = (uint8_t)direction;
    iocb->class_ = direction == TUTTI_READ ? TUTTI_CLASS_LOAD_NOW : TUTTI_CLASS_STORE;
    iocb->wait_for = after;
    check(tutti_ring_issue(ring, index), "issue");
    return index;
}

/** Wait for it and give it back: the fourth call. */
static void finish(uint32_t index, const char *what)
{
    int status = tutti_ring_wait(ring, index, 10 * SECOND);
    const struct tutti_completion *c = &tutti_ring_iocb(ring, index)->completion;

    printf("%-14s %7llu bytes, %u commands, %.2f ms\n", what, (unsigned long long)c->bytes[0],
           c->commands, (double)(c->ended - c->issued) / 1e6);
    check(status, what);
    check(tutti_ring_put(ring, index), "put");
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "ring-example.bin";
    const struct tutti_geometry shape = {
        .layers = LAYERS, .parts = 1, .object_bytes = BYTES, .block_tokens = 16};
    struct tutti_placement place;
    struct tutti_kv_plane plane[LAYERS];
    uint8_t *kv, *records;
    bool huge;

    /* Where things lie: on disk by one formula, in memory by another. */
    check(tutti_placement_init(&place, &shape, 4096, 0, 4u << 20, 1, 1, 0, 0, &err), "placement");
    check(tutti_device_host.alloc(LAYERS * SLOTS * BYTES, (void **)&kv, &huge, &err), "alloc");
    check(tutti_device_host.alloc(SLOTS * place.record_stride, (void **)&records, &huge, &err),
          "alloc");
    for (uint32_t l = 0; l < LAYERS; l++)
        plane[l] = (struct tutti_kv_plane){(uint64_t)(uintptr_t)kv + l * SLOTS * BYTES, BYTES};

    /* The first call: a ring of a depth, read by one engine thread; and the engine on it. */
    struct tutti_member member = {.path = path, .alignment = 4096, .direct = true};
    struct tutti_engine_options options = {.name = "auto",
                                           .member = &member,
                                           .members = 1,
                                           .device = &tutti_device_host,
                                           .staging_bytes = 1u << 22};
    struct tutti_engine *engine;

    member.fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (member.fd < 0) { /* a file system without direct I/O */
        member.direct = false;
        member.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    check(member.fd, path);
    check(posix_fallocate(member.fd, 0, 4 << 20) ? -1 : 0, "fallocate");
    check(tutti_ring_new(16, 1, &ring, &err), "ring");
    options.ring = ring;
    check(tutti_engine_open(&options, &engine, &err), "engine");
    check(tutti_engine_register(engine, (uint64_t)(uintptr_t)kv, LAYERS * SLOTS * BYTES, &err),
          "register");

    /* The transfer map, given once: which slots, from which blocks, under which keys. */
    struct tutti_transfer item[SLOTS] = {
        {.slot = 0, .block = 1, .generation = 1, .key = {{11, 12}}},
        {.slot = 1, .block = 0, .generation = 2, .key = {{21, 22}}}};
    struct tutti_origin origin[SLOTS] = {{.engine_hash_bytes = 8}, {.engine_hash_bytes = 8}};
    struct tutti_record stencil = {.geometry = tutti_geometry_digest(&shape), .layers = LAYERS};
    uint8_t status[SLOTS] = {0};
    struct tutti_map map = {.items = item,
                            .origins = origin,
                            .count = SLOTS,
                            .verify = true,
                            .placement = &place,
                            .planes = plane,
                            .stencil = &stencil,
                            .records = records,
                            .status = status};
    uint32_t layer[LAYERS], last;

    for (uint32_t i = 0; i < LAYERS * SLOTS * BYTES; i++)
        kv[i] = (uint8_t)(i * 7 + i / BYTES);
    for (uint16_t l = 0; l < LAYERS; l++)
        layer[l] = issue(&map, TUTTI_WRITE, l, TUTTI_NO_IOCB);
    for (uint32_t l = 0; l < LAYERS; l++)
        finish(layer[l], "write layer");
    finish(issue(&map, TUTTI_WRITE, TUTTI_LAYER_RECORDS, TUTTI_NO_IOCB), "write records");

    /* And back: the records first, then the layers, each when the one before it is there. */
    memset(kv, 0, LAYERS * SLOTS * BYTES);
    last = issue(&map, TUTTI_READ, TUTTI_LAYER_RECORDS, TUTTI_NO_IOCB);
    for (uint16_t l = 0; l < LAYERS; l++)
        layer[l] = issue(&map, TUTTI_READ, l, l ? layer[l - 1] : last);
    finish(last, "read records");
    for (uint32_t l = 0; l < LAYERS; l++)
        finish(layer[l], "read layer");
    uint32_t bad = 0;

    for (uint32_t i = 0; i < LAYERS * SLOTS * BYTES; i++)
        bad += kv[i] != (uint8_t)(i * 7 + i / BYTES);
    printf("engine %s: %u wrong bytes\n", tutti_engine_name(engine), bad);
    tutti_engine_close(engine);
    tutti_ring_free(ring);
    unlink(path);
    return bad != 0;
}
