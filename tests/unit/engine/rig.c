/* SPDX-License-Identifier: Apache-2.0 */
/* rig.c: see rig.h. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/launch.h"
#include "engine/gpu.h"
#include "layout/record.h"
#include "nvme/drive.h"

#define MIB ((size_t)1 << 20)

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static void fill_defaults(struct rig_options *o)
{
    const char *alignment = getenv("TUTTI_TEST_ALIGNMENT");

    if (!o->engine)
        o->engine = "uring";
    if (!o->folder)
        o->folder = getenv("TUTTI_TEST_FOLDER");
    o->layers = or_default(o->layers, 3);
    o->parts = or_default(o->parts, 2);
    o->object_bytes = o->object_bytes ? o->object_bytes : 4096;
    o->alignment = or_default(o->alignment, alignment ? (uint32_t)atoi(alignment) : 512);
    o->members = or_default(o->members, 1);
    o->slots = or_default(o->slots, 16);
    o->extents = or_default(o->extents, 4);
    o->blocks = or_default(o->blocks, 64);
    o->staging_bytes = o->staging_bytes ? o->staging_bytes : 2 * MIB;
    o->ring_depth = or_default(o->ring_depth, 256);
}

/** Engines "nvme" and "gpu" have a software controller over each member's file. */
static bool uses_drive(const struct rig_options *o)
{
    const char *engine = o->inner ? o->inner : o->engine;

    return strcmp(engine, "nvme") == 0 || strcmp(engine, "gpu") == 0;
}

static void open_member(struct rig *rig, uint32_t m, uint64_t bytes)
{
    const struct rig_options *o = &rig->options;
    struct tutti_member *member = &rig->member[m];
    char name[32];
    const char *device;
    int flags = O_RDWR | O_CLOEXEC;

    snprintf(name, sizeof(name), "TUTTI_TEST_DEVICE_%u", m);
    device = o->folder ? NULL : getenv(name);
    if (device) {
        snprintf(rig->path[m], sizeof(rig->path[m]), "%s", device);
    } else {
        snprintf(rig->path[m], sizeof(rig->path[m]), "%s/engine-test-%d-%u",
                 o->folder ? o->folder : ".", (int)getpid(), m);
        flags |= O_CREAT;
    }
    member->fd = getenv("TUTTI_TEST_BUFFERED") ? -1 : open(rig->path[m], flags | O_DIRECT, 0600);
    member->direct = member->fd >= 0;
    if (member->fd < 0)
        member->fd = open(rig->path[m], flags, 0600);
    assert_true(member->fd >= 0);
    if (flags & O_CREAT) {
        assert_int_equal(posix_fallocate(member->fd, 0, (off_t)bytes), 0);
        unlink(rig->path[m]);
    }
    if (uses_drive(o)) {
        struct tutti_error err = {0};
        const char *kind = getenv("TUTTI_TEST_DRIVE");

        snprintf(rig->path[m], sizeof(rig->path[m]), "soft:/proc/self/fd/%d%s", member->fd,
                 kind ? kind : "");
        if (nvme_drive_open(rig->path[m], &member->drive, &err) < 0)
            fail_msg("%s", err.message);
        member->direct = true;
    }
    member->path = rig->path[m];
    member->alignment = o->alignment;
}

static void open_members(struct rig *rig)
{
    const struct rig_options *o = &rig->options;
    uint64_t unit = (o->object_bytes + o->alignment - 1) / o->alignment * o->alignment;
    uint64_t extent = o->slots * (unit * o->layers * o->parts + 4096);
    struct tutti_error err = {0};

    extent = (extent + 4095) / 4096 * 4096;
    rig->geometry = (struct tutti_geometry){.layers = o->layers,
                                            .parts = o->parts,
                                            .object_bytes = o->object_bytes,
                                            .block_tokens = 16};
    if (tutti_placement_init(&rig->placement, &rig->geometry, o->alignment, TUTTI_FIRST_EXTENT,
                             extent, o->extents, o->members, o->slots, 0, &err) < 0)
        fail_msg("%s", err.message);
    for (uint32_t m = 0; m < o->members; m++)
        open_member(rig, m, TUTTI_FIRST_EXTENT + (o->extents / o->members + 1) * extent);
}

static void place_planes(struct rig *rig)
{
    const struct rig_options *o = &rig->options;
    uint64_t step = (o->object_bytes + 4095) / 4096 * 4096;
    uint64_t base, planes = (uint64_t)o->layers * o->parts;
    void *memory = NULL;

    if (o->layout == RIG_GAPPED)
        step += 4096;
    if (o->layout == RIG_SEPARATE && o->object_bytes % 512 == 0)
        step = o->object_bytes;
    rig->memory_bytes = planes * step * o->blocks + 3 * 4096;
    rig->memory_bytes = (rig->memory_bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    if (getenv("TUTTI_TEST_GPU")) {
        rig_gpu_open(rig);
    } else {
        assert_int_equal(posix_memalign(&memory, 4096, rig->memory_bytes), 0);
        rig->memory = memory;
        rig->base = (uint64_t)(uintptr_t)memory;
    }
    base = rig->base + 4096 + o->skew;
    for (uint32_t l = 0; l < o->layers; l++)
        for (uint32_t p = 0; p < o->parts; p++) {
            struct tutti_kv_plane *plane = &rig->plane[l * o->parts + p];

            if (o->layout == RIG_PERMUTED) {
                plane->base = base + (p * o->layers + (o->layers - 1 - l)) * step;
                plane->block_stride = planes * step;
            } else {
                plane->base = base + (l * o->parts + p) * step * o->blocks;
                plane->block_stride = step;
            }
        }
    rig_wipe(rig);
}

static bool never_direct(uint64_t address, size_t bytes)
{
    (void)address;
    (void)bytes;
    return false;
}

void rig_start(struct rig *rig)
{
    const struct rig_options *o = &rig->options;
    struct tutti_error err = {0};
    struct tutti_engine_options options = {
        .name = o->engine,
        .member = rig->member,
        .members = o->members,
        .device = &rig->device,
        .staging_bytes = o->staging_bytes,
        .command_bytes = o->command_bytes,
        .queue_bytes = o->queue_bytes,
        .fault_rules = o->rules,
        .fault_inner = o->inner,
        .fence_errors = or_default(o->fence_errors, UINT32_MAX),
        .late_ns = o->late_ns,
    };
    int rc;

    if (!rig->ring && tutti_ring_new(o->ring_depth, o->members, &rig->ring, &err) < 0)
        fail_msg("%s", err.message);
    options.ring = rig->ring;
    rig->device = rig->gpu ? *rig->gpu : tutti_device_host;
    if (o->unreachable)
        rig->device.direct = never_direct;
    memset(&rig->said, 0, sizeof(rig->said));
    rig->opened = tutti_engine_open(&options, &rig->engine, &rig->said);
    if (o->may_fail && rig->opened < 0)
        return;
    if (rig->opened == -EPERM || rig->opened == -ENOSYS) {
        fprintf(stderr, "\n*** NOT TESTED: %s ***\n\n", rig->said.message);
        exit(77);
    }
    if (rig->opened < 0)
        fail_msg("%s", rig->said.message);
    rc = tutti_engine_register(rig->engine, rig->base, rig->memory_bytes, &rig->registered);
    if (rc < 0)
        fail_msg("%s", rig->registered.message);
}

void rig_open(struct rig *rig, const struct rig_options *options)
{
    memset(rig, 0, sizeof(*rig));
    rig->options = *options;
    gpu_launcher = &launcher_lanes; /* host lanes, a test double */
    fill_defaults(&rig->options);
    open_members(rig);
    place_planes(rig);
    memcpy(rig->stencil.pool, "engine test pool", 16);
    rig->stencil.rank = 3;
    rig->stencil.geometry = tutti_geometry_digest(&rig->geometry);
    memcpy(rig->stencil.identity, "of some identity", 16);
    rig->stencil.layers = rig->geometry.layers;
    rig_start(rig);
}

static void stop(struct rig *rig)
{
    tutti_engine_close(rig->engine);
    tutti_ring_free(rig->ring);
    rig->engine = NULL;
    rig->ring = NULL;
}

void rig_reopen(struct rig *rig, const char *engine, const char *rules, const char *inner)
{
    stop(rig);
    rig->options.engine = engine;
    rig->options.rules = rules;
    rig->options.inner = inner;
    rig_start(rig);
}

void rig_close(struct rig *rig)
{
    stop(rig);
    for (uint32_t m = 0; m < rig->options.members; m++) {
        nvme_drive_close(rig->member[m].drive);
        close(rig->member[m].fd);
    }
    if (rig->gpu)
        rig_gpu_close(rig);
    else
        free(rig->memory);
}
