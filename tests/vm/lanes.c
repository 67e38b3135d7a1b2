/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.c: what the pool and engine "nvme" use of a drive: whole reads and writes, scattered
 * transfers of any size as PRP and as SGL, and the warden's steps.
 *
 * Seen to fail: scattered with a list shared by two commands, and with an SGL's last segment
 * described as a data block; large with lists that run over their page; stuck where nothing was
 * done about late commands.
 */
#include "../unit/nvme/scatter.h"
#include "guest.h"
#include "nvme/drive.h"

enum { TRANSFERS = 48, MEMORY = 48 << 20 };

static struct nvme_drive *open_named(const char *address)
{
    struct tutti_error err = {0};
    struct nvme_drive *drive;
    char name[64];

    pci_bind(address, "vfio-pci");
    snprintf(name, sizeof(name), "nvme:%s", address);
    CHECK(nvme_drive_open(name, &drive, &err) == 0, "%s", err.message);
    return drive;
}

static void run_jobs(struct nvme_lane *lane, struct job *job, uint8_t opcode)
{
    scatter_submit(lane, job, TRANSFERS, opcode);
    CHECK(collect_within(lane, TRANSFERS, PATIENCE) == TRANSFERS);
    for (uint32_t i = 0; i < TRANSFERS; i++)
        CHECK(job[i].transfer.result == 0, "%d, status %#x", job[i].transfer.result,
              job[i].transfer.status);
}

/** Written and read back, as the drive reports SGLs and without them, at any dword. */
static void scatter_over(const char *address, uint32_t depth, uint32_t lists)
{
    uint8_t *memory = aligned_alloc(4096, MEMORY), *was = malloc(MEMORY);
    struct nvme_drive *drive = open_named(address);
    struct tutti_error err = {0};
    struct job job[TRANSFERS];
    uint64_t reached, used;
    struct nvme_facts facts;
    struct nvme_lane *lane;

    nvme_drive_facts(drive, &facts);
    CHECK(nvme_drive_take_lane(drive, depth, lists, &lane, &err) == 0, "%s", err.message);
    CHECK(nvme_drive_reach(drive, lane, memory, MEMORY, &err) == 0, "%s", err.message);
    for (uint32_t round = 0; round < 2; round++) {
        uint32_t skew = round ? 0 : 1020;

        lane->limits.sgls = round ? 0 : facts.sgls;
        for (uint64_t i = 0; i < MEMORY; i += 8)
            *(uint64_t *)(void *)(memory + i) = (i + round) * UINT64_C(0x9e3779b97f4a7c15);
        reached = scatter_jobs(job, TRANSFERS, memory + skew, facts.block_bytes, &used);
        CHECK(reached < MEMORY - NVME_PAGE && used < DRIVE_BYTES);
        run_jobs(lane, job, NVME_WRITE);
        memcpy(was, memory, MEMORY);
        scatter_wipe(job, TRANSFERS);
        run_jobs(lane, job, NVME_READ);
        CHECK(memcmp(memory, was, MEMORY) == 0);
    }
    nvme_drive_give_lane(drive, lane);
    nvme_drive_close(drive);
    free(memory);
    free(was);
}

static void scattered(void)
{
    scatter_over(PLAIN, 256, 64);
    scatter_over(PLAIN, 32, 1); /* a cap of one list */
    scatter_over(PULLED, 64, 16);
}

/** One request: at the start of a page and behind it, by PRP and by SGL. */
static void large_round(struct nvme_lane *lane, uint8_t *memory, uint32_t sgls, uint32_t skew)
{
    enum { BYTES = 6 << 20, GUARD = 8192 };
    uint8_t *at = memory + GUARD + skew, *own = malloc(BYTES), *end = memory + BYTES + 2 * GUARD;
    struct iovec iov = {.iov_base = at, .iov_len = BYTES};
    struct nvme_transfer t = {
        .offset = 8 << 20, .bytes = BYTES, .segments = 1, .iov = &iov, .opcode = NVME_WRITE};

    lane->limits.sgls = sgls;
    memset(memory, 0xa5, (size_t)(end - memory));
    fill(at, BYTES, skew + sgls);
    memcpy(own, at, BYTES);
    nvme_lane_submit(lane, &t);
    CHECK(collect_within(lane, 1, PATIENCE) == 1 && t.result == 0, "%d", t.result);
    memset(at, 0xa5, BYTES);
    t.opcode = NVME_READ;
    nvme_lane_submit(lane, &t);
    CHECK(collect_within(lane, 1, PATIENCE) == 1 && t.result == 0, "%d", t.result);
    CHECK(memcmp(at, own, BYTES) == 0, "sgls %u, skew %u", sgls, skew);
    for (const uint8_t *p = memory; p < end; p++)
        CHECK(*p == 0xa5 || (p >= at && p < at + BYTES), "before or behind it");
    free(own);
}

/** 6 MiB, split at MDTS or where a list of one page ends; what is around is untouched (case 19). */
static void large_over(const char *address, uint32_t lists)
{
    const size_t bytes = (6 << 20) + 4 * 8192;
    uint8_t *memory = aligned_alloc(4096, bytes);
    struct nvme_drive *drive = open_named(address);
    struct tutti_error err = {0};
    struct nvme_facts facts;
    struct nvme_lane *lane;

    nvme_drive_facts(drive, &facts);
    CHECK(nvme_drive_take_lane(drive, 64, lists, &lane, &err) == 0, "%s", err.message);
    CHECK(nvme_drive_reach(drive, lane, memory, bytes, &err) == 0, "%s", err.message);
    for (uint32_t skew = 0; skew <= 512; skew += 512) {
        large_round(lane, memory, 0, skew);
        large_round(lane, memory, facts.sgls, skew);
    }
    nvme_drive_give_lane(drive, lane);
    nvme_drive_close(drive);
    free(memory);
}

static void large(void)
{
    large_over(PLAIN, 16);
    large_over(FAULTY, 16); /* no MDTS: the list of one page is the bound */
    large_over(FAULTY, 1);
}

static void whole(void)
{
    struct nvme_drive *drive = open_named(PLAIN), *same = open_named(PLAIN);
    uint8_t *data = malloc(3 << 20), *back = malloc(3 << 20);

    CHECK(same == drive);
    fill(data, 3 << 20, 5);
    CHECK(nvme_drive_write(drive, data, 3 << 20, 512 * 9) == 0);
    CHECK(nvme_drive_flush(drive) == 0);
    CHECK(nvme_drive_read(drive, back, 3 << 20, 512 * 9) == 0);
    CHECK(memcmp(data, back, 3 << 20) == 0);
    CHECK(nvme_drive_read(drive, back, 512, DRIVE_BYTES) == -EINVAL);
    nvme_drive_close(same);
    nvme_drive_close(drive);
}

/** A drive that stalls: aborts do nothing on it and a deletion waits, so it is disabled. */
static void stuck(void)
{
    const struct nvme_bounds bounds = {SECOND / 2, SECOND, SECOND};
    uint8_t *memory = aligned_alloc(4096, 4096);
    struct nvme_transfer t[64], later;
    struct iovec iov = {.iov_base = memory, .iov_len = 4096};
    struct tutti_error err = {0};
    struct nvme_drive *drive;
    struct nvme_steps steps;
    struct nvme_vfio *vfio;
    struct nvme_lane *lane;
    struct nvme_port port;

    pci_bind(SLOW, "vfio-pci");
    CHECK(nvme_vfio_open(SLOW, &port, &vfio, &err) == 0, "%s", err.message);
    CHECK(nvme_drive_open_port("slow", &port, 0, &bounds, &drive, &err) == 0, "%s", err.message);
    CHECK(nvme_drive_take_lane(drive, 128, 4, &lane, &err) == 0, "%s", err.message);
    CHECK(nvme_drive_reach(drive, lane, memory, 4096, &err) == 0, "%s", err.message);
    for (uint32_t i = 0; i < 64; i++) {
        t[i] = (struct nvme_transfer){
            .offset = i * 4096, .bytes = 4096, .segments = 1, .iov = &iov, .opcode = NVME_READ};
        nvme_lane_submit(lane, &t[i]);
    }
    CHECK(collect_within(lane, 64, PATIENCE) == 64);
    CHECK(t[63].result == -ETIMEDOUT || t[63].result == -EIO, "%d", t[63].result);
    nvme_drive_steps(drive, &steps);
    CHECK(steps.aborts > 0 && steps.deletions > 0 && !steps.held && steps.dead == 0,
          "%llu aborts, %llu deletions, %llu resets: %s", (unsigned long long)steps.aborts,
          (unsigned long long)steps.deletions, (unsigned long long)steps.resets,
          steps.said.message);
    usleep(2000000); /* until it may answer again */
    later = (struct nvme_transfer){.bytes = 512, .segments = 1, .iov = &iov, .opcode = NVME_READ};
    nvme_lane_submit(lane, &later);
    CHECK(collect_within(lane, 1, PATIENCE) == 1);
    CHECK(later.result == 0, "%d", later.result);
    nvme_drive_give_lane(drive, lane);
    nvme_drive_close(drive);
}

const struct test lane_tests[] = {
    {"whole reads and writes", whole},
    {"a request of 6 MiB, split at MDTS or its list", large},
    {"scattered transfers, as PRP and as SGL", scattered},
    {"a stalled drive is brought back step by step", stuck},
    {NULL, NULL},
};
