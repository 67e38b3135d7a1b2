/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: what a drive may reach, what it may not, and what mapping refuses.
 *
 * Seen to fail: stray where unmapping did nothing; bus_master with mastering on from the start;
 * refused where a part of a piece could be unmapped; places where the pieces were not kept in
 * order, and where places were not used again; huge_pages aligned to small pages; ranges where the
 * ends of what the kernel allows were not kept.
 */
#include <sys/mman.h>

#include "guest.h"

/** The drive is told of memory that it may no longer reach: it gets nowhere, and Linux says so. */
static void stray(void)
{
    struct tutti_error err = {0};
    int log = klog_open();
    uint8_t *page, *near;
    struct nvme_queue q;
    uint64_t at, other;
    struct drive d;

    drive_open(&d, PLAIN);
    drive_queue(&d, &q, 1, 8);
    near = drive_memory(&d, 4096, &other);
    fill(near, 4096, 9);
    CHECK(drive_do(&d, &q, NVME_WRITE, other, 1 << 20, 4096) == NVME_OK);
    page = drive_memory(&d, 4096, &at);
    CHECK(drive_do(&d, &q, NVME_READ, at, 1 << 20, 4096) == NVME_OK);
    CHECK(filled(page, 4096, 9), "not even mapped memory is reached");
    fill(page, 4096, 10);
    fill(near, 4096, 11);
    CHECK(nvme_vfio_unmap(d.vfio, at, 4096, &err) == 0, "%s", err.message);
    drive_do(&d, &q, NVME_READ, at, 1 << 20, 4096); /* whatever it says of it */
    CHECK(filled(page, 4096, 10), "the drive wrote to memory that was taken away");
    CHECK(filled(near, 4096, 11));
    CHECK(klog_says(log, "DMAR", "DMA Write", 5 * SECOND), "no fault in the kernel's log");
    CHECK(drive_do(&d, &q, NVME_READ, other, 1 << 20, 4096) == NVME_OK, "the drive does not go on");
    CHECK(filled(near, 4096, 9));
    drive_queue_close(&d, &q);
    drive_close(&d);
}

static void mapping_fails(struct drive *d, void *memory, size_t bytes, int rc, const char *word)
{
    struct tutti_error err = {0};
    uint64_t at;
    int got = nvme_vfio_map(d->vfio, memory, bytes, &at, &err);

    CHECK(got == rc && strstr(err.message, word) && strstr(err.message, d->address), "%d: %s", got,
          err.message);
}

static void refused(void)
{
    struct tutti_error err = {0};
    struct nvme_queue q;
    uint8_t *memory, *hole;
    struct drive d;
    uint64_t at;
    int rc;

    put("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "8");
    drive_open(&d, PLAIN);
    put("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535");
    memory = drive_memory(&d, 2 * 4096, &at);
    mapping_fails(&d, memory + 512, 4096, -EINVAL, "whole pages");
    mapping_fails(&d, memory, 4096 + 512, -EINVAL, "whole pages");
    mapping_fails(&d, memory, 0, -EINVAL, "whole pages");
    hole = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(hole + 2 * 4096, 4096);
    mapping_fails(&d, hole, 4 * 4096, -EFAULT, "not there");
    rc = nvme_vfio_unmap(d.vfio, at, 4096, &err);
    CHECK(rc == -EINVAL && strstr(err.message, "as one piece"), "%d: %s", rc, err.message);
    rc = nvme_vfio_unmap(d.vfio, at + 4096, 4096, &err);
    CHECK(rc == -EINVAL, "%d: %s", rc, err.message);
    for (int i = 0; i < 5; i++) /* two are the controller's, one is @memory */
        drive_memory(&d, 4096, &at);
    mapping_fails(&d, memory, 4096, -ENOSPC, "dma_entry_limit");
    rc = nvme_queue_open(d.controller, 1, 8, &q, &err);
    CHECK(rc == -ENOSPC && strstr(err.message, "dma_entry_limit"), "%d: %s", rc, err.message);
    CHECK(nvme_vfio_unmap(d.vfio, at, 4096, &err) == 0, "%s", err.message);
    drive_queue(&d, &q, 1, 8);
    drive_queue_close(&d, &q);
    drive_close(&d);
}

/** Pieces come and go: none overlaps another, and each place is used again. */
static void places(void)
{
    enum { PIECES = 24, ROUNDS = 400 };
    struct tutti_error err = {0};
    uint64_t at[PIECES] = {0}, bytes[PIECES], top = 0, state = 1;
    struct drive d;
    uint8_t *memory;

    drive_open(&d, PLAIN);
    memory = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t i =
            (uint32_t)((state = state * 6364136223846793005u + 1442695040888963407u) >> 33);
        uint32_t pages = 1 + (i >> 8) % 300, first = (i >> 16) % 3000;

        i %= PIECES;
        if (at[i]) {
            CHECK(nvme_vfio_unmap(d.vfio, at[i], bytes[i], &err) == 0, "%s", err.message);
            at[i] = 0;
            continue;
        }
        bytes[i] = pages * 4096ull;
        CHECK(nvme_vfio_map(d.vfio, memory + first * 4096ull, bytes[i], &at[i], &err) == 0, "%s",
              err.message);
        for (uint32_t j = 0; j < PIECES; j++)
            CHECK(j == i || !at[j] || at[j] + bytes[j] <= at[i] || at[i] + bytes[i] <= at[j]);
        top = at[i] + bytes[i] > top ? at[i] + bytes[i] : top;
    }
    CHECK(top < 64 << 20, "addresses are not used again: up to %#llx", (unsigned long long)top);
    drive_close(&d);
}

/** Huge pages keep their size on the bus, and are read into. */
static void huge_pages(void)
{
    const size_t bytes = 4 << 20;
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    uint64_t at;

    put("/proc/sys/vm/nr_hugepages", "4");
    memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    CHECK(memory != MAP_FAILED, "%s", strerror(errno));
    drive_open(&d, PLAIN);
    drive_queue(&d, &q, 1, 8);
    CHECK(nvme_vfio_map(d.vfio, memory, bytes, &at, &err) == 0, "%s", err.message);
    CHECK(at % (2 << 20) == 0, "at %#llx", (unsigned long long)at);
    fill(memory, 512 << 10, 3);
    CHECK(drive_do(&d, &q, NVME_WRITE, at, 0, 512 << 10) == NVME_OK);
    CHECK(drive_do(&d, &q, NVME_READ, at + (3 << 20), 0, 512 << 10) == NVME_OK);
    CHECK(filled(memory + (3 << 20), 512 << 10, 3));
    drive_queue_close(&d, &q);
    drive_close(&d);
    munmap(memory, bytes);
    put("/proc/sys/vm/nr_hugepages", "0");
}

/** Four GiB and more of addresses: what the kernel keeps for itself (interrupts) is left out. */
static void ranges(void)
{
    enum { GIB = 1 << 30 };
    struct tutti_error err = {0};
    uint8_t *memory, *all;
    struct drive d;
    uint64_t at;

    memory = mmap(NULL, 2ull * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    all = (uint8_t *)(((uintptr_t)memory + GIB - 1) / GIB * GIB);
    for (size_t i = 0; i < GIB / PEER_BYTES;
         i++) { /* the peer's memory over and over: nothing is pinned */
        uint8_t *piece = peer_map();

        CHECK(mremap(piece, PEER_BYTES, PEER_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
                     all + i * PEER_BYTES) != MAP_FAILED,
              "%s", strerror(errno));
    }
    drive_open(&d, PLAIN);
    for (int i = 0; i < 3; i++) {
        CHECK(nvme_vfio_map(d.vfio, all, GIB, &at, &err) == 0, "%s", err.message);
        CHECK(at % GIB == 0 && (at + GIB <= 0xfee00000 || at > 0xfeefffff), "at %#llx",
              (unsigned long long)at);
    }
    CHECK(at > UINT32_MAX, "at %#llx", (unsigned long long)at);
    drive_close(&d);
}

/** The drive can reach memory from the first mapping on, and not after the end. */
static void bus_master(void)
{
    struct tutti_error err = {0};
    struct drive d = {.address = PLAIN};
    uint64_t at;

    pci_bind(PLAIN, "vfio-pci");
    CHECK(nvme_vfio_open(PLAIN, &d.port, &d.vfio, &err) == 0, "%s", err.message);
    CHECK(!pci_bus_master(PLAIN), "before anything is mapped");
    drive_memory(&d, 4096, &at);
    CHECK(pci_bus_master(PLAIN), "with memory mapped");
    nvme_vfio_close(d.vfio);
    CHECK(!pci_bus_master(PLAIN), "after the end");
}

const struct test memory_tests[] = {
    {"a stray read is stopped and logged", stray},
    {"bus mastering from the first mapping to the end", bus_master},
    {"mappings that are refused, and why", refused},
    {"pieces come and go, none overlaps", places},
    {"huge pages", huge_pages},
    {"addresses that the kernel keeps are left out", ranges},
    {0},
};
