/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c: an engine beside the raw device, same file, same bytes, same pattern.
 *
 *     bench/engine FOLDER [ENGINE [PAIRS [TOKENS [unverified]]]]
 *
 * Shape of Llama 3 8B (32 layers, K and V of 32 KiB per block of 16 tokens),
 * layer-wise with a look-ahead of 4 layers, blocks scattered over huge-page KV
 * memory. The raw pass is io_uring, 1 MiB, depth 32, fixed huge-page buffers,
 * over the same offsets in the same order. The two alternate; the figure is the
 * median of the pairs' ratios. Times in seconds, CPU seconds of all threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "tutti/engine.h"

enum { LAYERS = 32, PARTS = 2, OBJECT = 32768, SLOTS = 256, COMMAND = 1 << 20, DEPTH = 32 };
enum { LOOK_AHEAD = 4, MOST_PAIRS = 64 };

struct bed {
    int fd;
    bool direct;
    uint32_t blocks;
    struct tutti_geometry geometry;
    struct tutti_placement placement;
    struct tutti_record stencil;
    struct tutti_kv_plane plane[LAYERS * PARTS];
    struct tutti_map map;
    struct tutti_ring *ring;
    struct tutti_engine *engine;
    uint8_t *kv;
    uint8_t *raw;
    struct io_uring uring;
};

struct figure {
    double seconds;
    double cpu;
};

static void die(const char *what, int rc)
{
    fprintf(stderr, "bench engine: %s: %s\n", what, strerror(rc < 0 ? -rc : rc));
    exit(1);
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void *memory(size_t bytes)
{
    struct tutti_error err = {0};
    void *m;
    bool huge;

    if (tutti_device_host.alloc(bytes, &m, &huge, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return m;
}

static void open_file(struct bed *b, const char *folder)
{
    uint32_t extents = (b->blocks + SLOTS - 1) / SLOTS;
    uint64_t extent = (uint64_t)SLOTS * (LAYERS * PARTS * OBJECT + 512) + 4096;
    struct tutti_error err = {0};
    char path[256];

    b->geometry = (struct tutti_geometry){
        .layers = LAYERS, .parts = PARTS, .object_bytes = OBJECT, .block_tokens = 16};
    extent = (extent + 4095) / 4096 * 4096;
    if (tutti_placement_init(&b->placement, &b->geometry, 512, TUTTI_FIRST_EXTENT, extent, extents,
                             1, SLOTS, 0, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    snprintf(path, sizeof(path), "%s/tutti-bench-engine", folder);
    b->fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    b->direct = b->fd >= 0;
    if (b->fd < 0)
        b->fd = open(path, O_RDWR | O_CREAT, 0600);
    if (b->fd < 0)
        die(path, errno);
    unlink(path);
    if (posix_fallocate(b->fd, 0, (off_t)(TUTTI_FIRST_EXTENT + extents * extent)) != 0)
        die("no room for the file", ENOSPC);
}

static void make_map(struct bed *b)
{
    struct tutti_transfer *items = calloc(b->blocks, sizeof(*items));
    struct tutti_origin *origins = calloc(b->blocks, sizeof(*origins));
    uint64_t plane_bytes = (uint64_t)b->blocks * OBJECT;

    b->kv = memory(plane_bytes * LAYERS * PARTS);
    for (uint64_t at = 0; at < plane_bytes * LAYERS * PARTS; at += 8)
        *(uint64_t *)(void *)(b->kv + at) = at * UINT64_C(0x9e3779b97f4a7c15);
    for (uint32_t i = 0; i < LAYERS * PARTS; i++)
        b->plane[i] = (struct tutti_kv_plane){(uint64_t)(uintptr_t)b->kv + i * plane_bytes, OBJECT};
    for (uint32_t i = 0; i < b->blocks; i++)
        items[i] = (struct tutti_transfer){
            .slot = i, .block = i * 7919 % b->blocks, .generation = i + 1, .key = {{i, 1}}};
    b->stencil.layers = LAYERS;
    b->stencil.geometry = tutti_geometry_digest(&b->geometry);
    b->map = (struct tutti_map){.items = items,
                                .origins = origins,
                                .count = b->blocks,
                                .verify = true,
                                .placement = &b->placement,
                                .planes = b->plane,
                                .stencil = &b->stencil,
                                .records = memory((size_t)b->blocks * 512),
                                .status = calloc(b->blocks, 1)};
    b->raw = memory((size_t)DEPTH * COMMAND);
}

static void start(struct bed *b, const char *engine)
{
    struct tutti_member member = {
        .fd = b->fd, .path = "bench file", .direct = b->direct, .alignment = 512};
    struct tutti_engine_options options = {.name = engine,
                                           .member = &member,
                                           .members = 1,
                                           .device = &tutti_device_host,
                                           .staging_bytes = 64 << 20};
    struct tutti_error err = {0};
    struct iovec raw = {.iov_base = b->raw, .iov_len = (size_t)DEPTH * COMMAND};

    if (tutti_ring_new(256, 1, &b->ring, &err) < 0)
        die(err.message, 1);
    options.ring = b->ring;
    if (tutti_engine_open(&options, &b->engine, &err) < 0 ||
        tutti_engine_register(b->engine, (uint64_t)(uintptr_t)b->kv,
                              (size_t)b->blocks * OBJECT * LAYERS * PARTS, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    if (io_uring_queue_init(DEPTH, &b->uring, 0) < 0 ||
        io_uring_register_buffers(&b->uring, &raw, 1) < 0 ||
        io_uring_register_files(&b->uring, &b->fd, 1) < 0)
        die("raw io_uring", EPERM);
}

static uint32_t issue(struct bed *b, uint32_t layer, enum tutti_direction direction)
{
    uint32_t index;
    struct tutti_iocb *iocb = tutti_ring_get(b->ring, &index);

    iocb->map = &b->map;
    iocb->count = b->map.count;
    iocb->layer = (uint16_t)layer;
    iocb->direction = (uint8_t)direction;
    if (tutti_ring_issue(b->ring, index) < 0)
        die("issue", EINVAL);
    return index;
}

static void collect(struct bed *b, uint32_t index)
{
    int rc = tutti_ring_wait(b->ring, index, UINT64_C(60000000000));

    if (rc < 0)
        die("a transfer", rc);
    tutti_ring_put(b->ring, index);
}

/** Returns when the first layer was there in *first. */
static struct figure run_engine(struct bed *b, enum tutti_direction direction, double *first)
{
    struct figure f;
    uint64_t began = tutti_clock_now();
    double cpu = cpu_seconds();
    uint32_t index[LAYERS], records = 0;

    if (direction == TUTTI_READ)
        records = issue(b, TUTTI_LAYER_RECORDS, TUTTI_READ);
    for (uint32_t l = 0; l < LAYERS + LOOK_AHEAD; l++) {
        if (l < LAYERS)
            index[l] = issue(b, l, direction);
        if (l >= LOOK_AHEAD)
            collect(b, index[l - LOOK_AHEAD]);
        if (l == LOOK_AHEAD)
            *first = 1e-9 * (double)(tutti_clock_now() - began);
    }
    collect(b, direction == TUTTI_READ ? records : issue(b, TUTTI_LAYER_RECORDS, TUTTI_WRITE));
    f.seconds = 1e-9 * (double)(tutti_clock_now() - began);
    f.cpu = cpu_seconds() - cpu;
    return f;
}

/** The n-th stretch of a pass: a layer of an extent, cut into commands. */
static uint64_t raw_offset(const struct bed *b, uint64_t n)
{
    uint64_t per_layer = (uint64_t)b->blocks * PARTS * OBJECT / COMMAND;
    uint32_t layer = (uint32_t)(n / per_layer);
    uint32_t slot = (uint32_t)(n % per_layer * (COMMAND / (PARTS * OBJECT)));

    return tutti_object_place(&b->placement, slot, layer, 0).offset;
}

static struct figure run_raw(struct bed *b, enum tutti_direction direction)
{
    struct figure f;
    uint64_t total = (uint64_t)b->blocks * PARTS * OBJECT / COMMAND * LAYERS;
    uint64_t submitted = 0, ended = 0;
    uint64_t began = tutti_clock_now();
    double cpu = cpu_seconds();
    uint64_t unused[DEPTH], free_count = DEPTH;
    struct io_uring_cqe *cqe;

    for (uint64_t i = 0; i < DEPTH; i++)
        unused[i] = i;
    while (ended < total) {
        while (free_count > 0 && submitted < total) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&b->uring);
            uint64_t slot = unused[--free_count];
            uint8_t *at = b->raw + slot * COMMAND;

            if (direction == TUTTI_READ)
                io_uring_prep_read_fixed(sqe, 0, at, COMMAND, raw_offset(b, submitted), 0);
            else
                io_uring_prep_write_fixed(sqe, 0, at, COMMAND, raw_offset(b, submitted), 0);
            sqe->flags |= IOSQE_FIXED_FILE;
            sqe->user_data = slot;
            submitted++;
        }
        io_uring_submit_and_wait(&b->uring, 1);
        while (io_uring_peek_cqe(&b->uring, &cqe) == 0) {
            if (cqe->res != COMMAND)
                die("raw transfer", cqe->res < 0 ? cqe->res : EIO);
            unused[free_count++] = cqe->user_data;
            io_uring_cqe_seen(&b->uring, cqe);
            ended++;
        }
    }
    f.seconds = 1e-9 * (double)(tutti_clock_now() - began);
    f.cpu = cpu_seconds() - cpu;
    return f;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void show(const char *name, double *values, uint32_t count, const char *end)
{
    qsort(values, count, sizeof(*values), ascending);
    printf("\"%s\": [%.4f, %.4f, %.4f]%s", name, values[0], values[count / 2], values[count - 1],
           end);
}

/** Alternate, and print min, median, max of each figure. */
static void compare(struct bed *b, enum tutti_direction direction, uint32_t pairs)
{
    double ratio[MOST_PAIRS], ours[MOST_PAIRS], raw[MOST_PAIRS], our_cpu[MOST_PAIRS];
    double raw_cpu[MOST_PAIRS], first[MOST_PAIRS];
    double gib = (double)b->blocks * PARTS * OBJECT * LAYERS / (1 << 30);

    for (uint32_t i = 0; i < pairs; i++) {
        struct figure r = {0}, e;

        if (i % 2 == 0)
            r = run_raw(b, direction);
        e = run_engine(b, direction, &first[i]);
        if (i % 2 == 1)
            r = run_raw(b, direction);
        ratio[i] = r.seconds / e.seconds;
        ours[i] = gib * 1.073741824 / e.seconds;
        raw[i] = gib * 1.073741824 / r.seconds;
        our_cpu[i] = e.cpu / gib;
        raw_cpu[i] = r.cpu / gib;
    }
    printf("\"%s\": {", direction == TUTTI_READ ? "retrieve" : "store");
    show("ratio", ratio, pairs, ", ");
    show("GB_per_s", ours, pairs, ", ");
    show("raw_GB_per_s", raw, pairs, ", ");
    show("cpu_s_per_GiB", our_cpu, pairs, ", ");
    show("raw_cpu_s_per_GiB", raw_cpu, pairs, ", ");
    show("first_layer_s", first, pairs, "}");
}

int main(int argc, char **argv)
{
    static struct bed b;
    const char *engine = argc > 2 ? argv[2] : "auto";
    uint32_t pairs = argc > 3 ? (uint32_t)atoi(argv[3]) : 5;
    struct tutti_engine_counters c;
    double first;

    if (argc < 2 || pairs < 1 || pairs > MOST_PAIRS) {
        fprintf(stderr, "bench/engine FOLDER [ENGINE [PAIRS [TOKENS [unverified]]]]\n");
        return 2;
    }
    b.blocks = (argc > 4 ? (uint32_t)atoi(argv[4]) : 8192) / 16;
    open_file(&b, argv[1]);
    make_map(&b);
    b.map.verify = !(argc > 5 && strcmp(argv[5], "unverified") == 0);
    start(&b, engine);
    run_engine(&b, TUTTI_WRITE, &first); /* both arms write over what was written */
    printf("{\"engine\": \"%s\", \"direct_io\": %s, \"pairs\": %u, \"bytes\": %llu, ",
           tutti_engine_name(b.engine), b.direct ? "true" : "false", pairs,
           (unsigned long long)b.blocks * PARTS * OBJECT * LAYERS);
    compare(&b, TUTTI_WRITE, pairs);
    printf(", ");
    run_engine(&b, TUTTI_WRITE, &first); /* the raw pass left other bytes */
    compare(&b, TUTTI_READ, pairs);
    tutti_engine_counters(b.engine, &c);
    printf(", \"commands\": %llu, \"system_calls\": %llu, \"verify_failures\": %llu}\n",
           (unsigned long long)c.commands, (unsigned long long)c.system_calls,
           (unsigned long long)c.verify_failures);
    tutti_engine_close(b.engine);
    io_uring_queue_exit(&b.uring);
    return c.verify_failures != 0;
}
