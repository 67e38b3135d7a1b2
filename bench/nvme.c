/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme.c: what a command costs the thread of engine "nvme", from IOCB to completion word.
 *
 *     bench/nvme BYTES POSITIONS ROUNDS
 *
 * The shipped engine reads POSITIONS slots of BYTES an IOCB (4096, or 65536 as K and V of half that
 * each), ring full of them, unverified: what a checksum costs is known apart. No two slots are
 * neighbours, so each is a command. The drive is the software controller, made to work by the
 * engine's own thread each time that it looks (the linker redirects nvme_lane_collect()): so every
 * look finds what there can be and nothing is waited for. Its time is taken off, and it moves no
 * bytes (soft_copy_to() is redirected too): a drive does that by itself. What is counted under
 * callgrind (tests/unit/nvme/command_cost.py) is run() of member.c without drive_works(); times are
 * CPU time of that thread, whatever else runs on this machine.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "nvme/drive.h"
#include "nvme/soft/soft.h"
#include "tutti/engine.h"

enum { RING = 32, MOST_POSITIONS = 256, MOST_ROUNDS = 4096 };
#define MINUTE UINT64_C(60000000000)

static struct soft *soft;
static pthread_mutex_t soft_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t engine_ns; /* the engine's thread writes it; read when nothing is under way */
static bool is_open;       /* all is brought up */
static uint64_t left_at;   /* its CPU time when the drive had worked last */

static void die(const char *what, const struct tutti_error *err)
{
    fprintf(stderr, "bench nvme: %s: %s\n", what, err ? err->message : "");
    exit(1);
}

/* The drive. */

__attribute__((noinline)) static void drive_works(void)
{
    pthread_mutex_lock(&soft_lock);
    while (soft_step(soft, tutti_clock_now()))
        ;
    pthread_mutex_unlock(&soft_lock);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint32_t __real_nvme_lane_collect(struct nvme_lane *lane, struct nvme_transfer **ended,
                                  uint32_t most);
uint32_t __wrap_nvme_lane_collect(struct nvme_lane *lane, struct nvme_transfer **ended,
                                  uint32_t most);
uint32_t __wrap_nvme_lane_collect(struct nvme_lane *lane, struct nvme_transfer **ended,
                                  uint32_t most)
{
    bool engine = lane->number == 2; /* lane 1 is the pool's */

    if (engine)
        __atomic_store_n(&engine_ns, engine_ns + (left_at ? cpu_ns() - left_at : 0),
                         __ATOMIC_RELAXED);
    drive_works();
    if (engine)
        left_at = cpu_ns();
    return __real_nvme_lane_collect(lane, ended, most);
}

void __real_soft_copy_to(struct soft *s, const uint8_t *from, uint64_t bytes);
void __wrap_soft_copy_to(struct soft *s, const uint8_t *from, uint64_t bytes);
void __wrap_soft_copy_to(struct soft *s, const uint8_t *from, uint64_t bytes)
{
    if (!is_open)
        __real_soft_copy_to(s, from, bytes);
}

static int map(void *self, void *memory, size_t bytes, uint64_t *address)
{
    (void)self;
    *address = (uint64_t)(uintptr_t)memory;
    return soft_map(soft, memory, bytes, *address, true);
}

static int unmap(void *self, uint64_t address, size_t bytes)
{
    (void)self;
    (void)bytes;
    return soft_unmap(soft, address);
}

static void idle(void *self, uint64_t waited_ns)
{
    (void)self;
    (void)waited_ns;
    drive_works();
}

static void open_drive(struct tutti_member *member, uint64_t bytes)
{
    struct soft_options o = SOFT_USUAL;
    struct tutti_error err = {0};
    struct nvme_port port = {.map = map, .unmap = unmap, .idle = idle};

    o.blocks = bytes / o.block_bytes;
    if (soft_new(&o, &soft, &err) < 0)
        die("a drive", &err);
    port.name = "soft";
    port.bar = soft_bar(soft);
    port.bar_bytes = SOFT_BAR_BYTES;
    if (nvme_drive_open_port("soft:bench", &port, 0, &NVME_BOUNDS, &member->drive, &err) < 0)
        die("a drive", &err);
}

/* The engine. */

struct bed {
    struct tutti_geometry geometry;
    struct tutti_placement placement;
    struct tutti_record stencil;
    struct tutti_kv_plane plane[2];
    struct tutti_map map;
    struct tutti_transfer items[MOST_POSITIONS];
    struct tutti_member member;
    struct tutti_ring *ring;
    struct tutti_engine *engine;
};

static void open_engine(struct bed *b, size_t memory_bytes)
{
    struct tutti_engine_options options = {.name = "nvme",
                                           .member = &b->member,
                                           .members = 1,
                                           .device = &tutti_device_host,
                                           .staging_bytes = 2 << 20};
    struct tutti_error err = {0};

    if (tutti_ring_new(RING, 1, &b->ring, &err) < 0)
        die("a ring", &err);
    options.ring = b->ring;
    if (tutti_engine_open(&options, &b->engine, &err) < 0)
        die("an engine", &err);
    if (tutti_engine_register(b->engine, b->plane[0].base, memory_bytes, &err) != 1)
        die("memory", &err);
}

static void open_bed(struct bed *b, uint32_t bytes, uint32_t positions)
{
    uint32_t slots = 2 * positions, parts = bytes > 4096 ? 2 : 1, object = bytes / parts;
    uint64_t extent = ((uint64_t)slots * (bytes + 512) + 8191) / 4096 * 4096;
    uint64_t plane = (uint64_t)positions * object;
    struct tutti_error err = {0};
    void *memory, *records;
    bool huge;

    b->geometry = (struct tutti_geometry){
        .layers = 1, .parts = parts, .object_bytes = object, .block_tokens = 16};
    if (tutti_placement_init(&b->placement, &b->geometry, 512, TUTTI_FIRST_EXTENT, extent, 1, 1,
                             slots, 0, &err) < 0)
        die("a placement", &err);
    b->member =
        (struct tutti_member){.fd = -1, .path = "soft:bench", .direct = true, .alignment = 512};
    open_drive(&b->member, TUTTI_FIRST_EXTENT + extent);
    if (tutti_device_host.alloc(plane * parts, &memory, &huge, &err) < 0 ||
        tutti_device_host.alloc((size_t)positions * 512, &records, &huge, &err) < 0)
        die("memory", &err);
    for (uint32_t p = 0; p < parts; p++)
        b->plane[p] = (struct tutti_kv_plane){(uint64_t)(uintptr_t)memory + p * plane, object};
    for (uint32_t i = 0; i < positions; i++)
        b->items[i] = (struct tutti_transfer){
            .slot = 2 * i, .block = i * 77 % positions, .generation = 1, .key = {{i, 1}}};
    b->stencil.layers = 1;
    b->stencil.geometry = tutti_geometry_digest(&b->geometry);
    b->map = (struct tutti_map){.items = b->items,
                                .count = positions,
                                .placement = &b->placement,
                                .planes = b->plane,
                                .stencil = &b->stencil,
                                .records = records,
                                .status = calloc(positions, 1)};
    open_engine(b, plane * parts);
    is_open = true;
}

/** A ring full. Return: ns of the engine's thread, without the drive's. */
static uint64_t go_round(struct bed *b)
{
    uint64_t before = __atomic_load_n(&engine_ns, __ATOMIC_RELAXED);
    uint32_t index[RING];

    for (uint32_t i = 0; i < RING; i++) {
        struct tutti_iocb *iocb = tutti_ring_get(b->ring, &index[i]);

        iocb->map = &b->map;
        iocb->count = b->map.count;
        iocb->direction = TUTTI_READ;
        if (tutti_ring_issue(b->ring, index[i]) < 0)
            die("issue", NULL);
    }
    for (uint32_t i = 0; i < RING; i++) {
        if (tutti_ring_wait(b->ring, index[i], MINUTE) < 0)
            die("a transfer", NULL);
        tutti_ring_put(b->ring, index[i]);
    }
    return __atomic_load_n(&engine_ns, __ATOMIC_RELAXED) - before;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    uint32_t bytes = argc == 4 ? (uint32_t)atoi(argv[1]) : 0;
    uint32_t positions = argc == 4 ? (uint32_t)atoi(argv[2]) : 0;
    uint32_t rounds = argc == 4 ? (uint32_t)atoi(argv[3]) : 0;
    static double ns[MOST_ROUNDS];
    struct tutti_engine_counters c;
    static struct bed b;

    if ((bytes != 4096 && bytes != 65536) || positions < 1 || positions > MOST_POSITIONS ||
        rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "bench/nvme 4096|65536 POSITIONS ROUNDS\n");
        return 2;
    }
    open_bed(&b, bytes, positions);
    for (uint32_t r = 0; r < rounds; r++)
        ns[r] = (double)go_round(&b) / (RING * positions);
    qsort(ns, rounds, sizeof(*ns), ascending);
    tutti_engine_counters(b.engine, &c);
    if (c.commands != (uint64_t)RING * positions * rounds)
        die("commands were merged, or failed", NULL);
    printf("{\"bytes\": %u, \"positions\": %u, \"commands\": %llu, \"system_calls\": %llu, "
           "\"ns\": [%.1f, %.1f, %.1f]}\n",
           bytes, positions, (unsigned long long)c.commands, (unsigned long long)c.system_calls,
           ns[0], ns[rounds / 2], ns[rounds - 1]);
    tutti_engine_close(b.engine);
    tutti_ring_free(b.ring);
    nvme_drive_close(b.member.drive);
    if (*soft_first_broken(soft))
        die(soft_first_broken(soft), NULL);
    soft_free(soft);
    return 0;
}
