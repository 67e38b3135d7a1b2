/* SPDX-License-Identifier: Apache-2.0 */
/*
 * use.c: drives as they are meant to be used: bring-up, queues of every depth, peer memory, Linux.
 *
 * Seen to fail: refused without the check of the driver; owned where the end kept the group; facts
 * and largest with half the largest transfer; depths where the phase did not turn; depths_4096 with
 * blocks taken for 512 bytes; peer where its memory was mapped for reading alone, and a page off;
 * linux_reads with blocks taken for 4096 bytes; interrupts where the queue was created without, and
 * with another vector.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include "guest.h"

static void refused(void)
{
    const struct {
        const char *address;
        int rc;
        const char *word;
    } all[] = {
        {"/dev/nvme0", -EINVAL, "lspci"},
        {"0000:00:1e.0", -ENODEV, "no such device"},
        {PEER, -ENODEV, "not an NVMe drive"},
        {PLAIN, -ENXIO, "driver nvme"},
    };

    pci_bind(PLAIN, "nvme");
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct tutti_error err = {0};
        struct nvme_vfio *vfio;
        struct nvme_port port;
        int rc = nvme_vfio_open(all[i].address, &port, &vfio, &err);

        CHECK(rc == all[i].rc && strstr(err.message, all[i].word) &&
                  strstr(err.message, all[i].address),
              "%d: %s", rc, err.message);
    }
}

/** One owner: what a second hears names the reason; and after the first it can. */
static void owned(void)
{
    struct tutti_error err = {0};
    struct nvme_vfio *second;
    struct nvme_port port;
    struct drive d;

    drive_open(&d, PLAIN);
    CHECK(nvme_vfio_open(PLAIN, &port, &second, &err) == -EBUSY, "%s", err.message);
    CHECK(strstr(err.message, "another process"), "%s", err.message);
    drive_close(&d);
    drive_open(&d, PLAIN);
    drive_close(&d);
}

/** What run.py found that this QEMU takes: no MDTS, or the largest of a newer one. */
static uint64_t largest_transfer(void)
{
    const char *mdts = getenv("largest");

    CHECK(mdts);
    return atoi(mdts) == 0 ? UINT64_MAX : UINT64_C(4096) << atoi(mdts);
}

static void facts(void)
{
    const struct {
        const char *address, *serial;
        uint32_t block;
        uint64_t transfer;
    } all[] = {{PLAIN, "plain", 512, 512 << 10},
               {FAULTY, "faulty", 512, largest_transfer()},
               {SLOW, "slow", 512, 512 << 10},
               {PULLED, "pulled", 4096, 128 << 10}};
    struct drive d[4];

    for (size_t i = 0; i < 4; i++)
        drive_open(&d[i], all[i].address);
    for (size_t i = 0; i < 4; i++) {
        const struct nvme_facts *f = &d[i].facts;

        CHECK(strcmp(f->serial, all[i].serial) == 0, "%s", f->serial);
        CHECK(f->block_bytes == all[i].block, "%u", f->block_bytes);
        CHECK(f->blocks == DRIVE_BYTES / all[i].block);
        CHECK(f->transfer_bytes == all[i].transfer);
        CHECK(f->depth == 2048 && f->queues == 8 && f->sgls == 1, "%u %u %u", f->depth, f->queues,
              f->sgls);
        CHECK(pci_bus_master(all[i].address));
    }
    for (size_t i = 0; i < 4; i++)
        drive_close(&d[i]);
    for (size_t i = 0; i < 4; i++)
        CHECK(!pci_bus_master(all[i].address), "%s", all[i].address);
}

/** Commands one after the other through a queue, many times round, as many out as it holds. */
static void stream(const struct drive *d, struct nvme_queue *q, uint32_t opcode, uint8_t *memory,
                   uint64_t address, uint32_t count)
{
    uint32_t done = 0, put = 0, place[2048];

    while (done < count) {
        struct nvme_done end;

        while (put < count && q->free > 0) {
            uint32_t slot = q->free_id[q->free - 1];

            if (opcode == NVME_WRITE)
                fill(memory + slot * 4096, 4096, put);
            else
                memset(memory + slot * 4096, 0, 4096);
            place[slot] = put;
            drive_put(d, q, opcode, address + slot * 4096, put++ * 4096ull, 4096);
        }
        nvme_queue_ring(q);
        end = drive_take(q);
        CHECK(end.status == NVME_OK, "%s", nvme_status_text(end.status));
        if (opcode == NVME_READ)
            CHECK(filled(memory + end.id * 4096, 4096, place[end.id]), "command %u of depth %u",
                  place[end.id], q->depth);
        done++;
    }
}

static void depths_of(const char *address, const uint32_t *depth, uint32_t depths)
{
    struct drive d;
    uint64_t bus;
    uint8_t *memory;

    drive_open(&d, address);
    memory = drive_memory(&d, 1023 * 4096, &bus);
    for (uint32_t i = 0; i < depths; i++) {
        uint32_t count = depth[i] < 16 ? 101 * depth[i] : depth[i] < 300 ? 1501 : 3 * depth[i] + 1;
        struct nvme_queue q;

        drive_queue(&d, &q, 1 + i, depth[i]);
        stream(&d, &q, NVME_WRITE, memory, bus, count);
        stream(&d, &q, NVME_READ, memory, bus, count);
        CHECK(nvme_queue_out(&q) == 0 && q.sq_doorbells <= 2 * count);
        drive_queue_close(&d, &q);
    }
    drive_close(&d);
}

static void depths(void)
{
    static const uint32_t all[] = {2, 3, 7, 64, 256, 1023};

    depths_of(PLAIN, all, 6);
}

static void depths_4096(void)
{
    static const uint32_t all[] = {2, 64, 1023};

    depths_of(PULLED, all, 3);
}

/** The largest transfer passes whole; a block more is the controller's to refuse, and it does. */
static void largest(void)
{
    static const char *const all[] = {PLAIN, PULLED};

    for (size_t i = 0; i < 2; i++) {
        struct nvme_queue q;
        struct drive d;
        uint8_t *memory;
        uint64_t bus;
        uint32_t most, status;

        drive_open(&d, all[i]);
        most = (uint32_t)d.facts.transfer_bytes;
        drive_queue(&d, &q, 1, 4);
        memory = drive_memory(&d, 2 * most, &bus);
        fill(memory, most, i);
        CHECK(drive_do(&d, &q, NVME_WRITE, bus, 1 << 20, most) == NVME_OK);
        memset(memory, 0, most);
        CHECK(drive_do(&d, &q, NVME_READ, bus, 1 << 20, most) == NVME_OK);
        CHECK(filled(memory, most, i));
        status = drive_do(&d, &q, NVME_READ, bus, 1 << 20, most + d.facts.block_bytes);
        CHECK(status == NVME_INVALID_FIELD, "%#x", status);
        status = drive_do(&d, &q, NVME_READ, bus, DRIVE_BYTES - d.facts.block_bytes,
                          2 * d.facts.block_bytes);
        CHECK(status == NVME_BEYOND_END, "%#x", status);
        drive_queue_close(&d, &q);
        drive_close(&d);
    }
}

/** Queues, and the data of reads and writes, in another PCI device's memory. */
static void peer(void)
{
    struct tutti_error err = {0};
    uint8_t *memory = peer_map();
    struct nvme_queue q;
    struct drive d;
    uint64_t bus;

    drive_open(&d, PLAIN);
    CHECK(nvme_vfio_map(d.vfio, memory, PEER_BYTES, &bus, &err) == 0, "%s", err.message);
    drive_queue_at(&d, &q, 1, 256, memory, bus);
    stream(&d, &q, NVME_WRITE, memory + (1 << 20), bus + (1 << 20), 1000);
    stream(&d, &q, NVME_READ, memory + (1 << 20), bus + (1 << 20), 1000);
    fill(memory + (4 << 20), 512 << 10, 77);
    CHECK(drive_do(&d, &q, NVME_WRITE, bus + (4 << 20), 8 << 20, 512 << 10) == NVME_OK);
    CHECK(drive_do(&d, &q, NVME_READ, bus + (5 << 20), 8 << 20, 512 << 10) == NVME_OK);
    CHECK(filled(memory + (5 << 20), 512 << 10, 77));
    CHECK(nvme_close(d.controller, &err) == 0, "%s", err.message);
    CHECK(nvme_vfio_unmap(d.vfio, bus, PEER_BYTES, &err) == 0, "%s", err.message);
    nvme_vfio_close(d.vfio);
}

/** Linux reads what was written here, and the reverse. */
static void linux_reads(void)
{
    const uint32_t bytes = 256 << 10;
    uint8_t *memory, *own = aligned_alloc(4096, bytes);
    struct nvme_queue q;
    struct drive d;
    uint64_t bus;
    int fd;

    drive_open(&d, PLAIN);
    drive_queue(&d, &q, 1, 8);
    memory = drive_memory(&d, bytes, &bus);
    fill(memory, bytes, 1234);
    CHECK(drive_do(&d, &q, NVME_WRITE, bus, 3 << 20, bytes) == NVME_OK);
    drive_queue_close(&d, &q);
    drive_close(&d);
    fd = pci_disk(PLAIN, NULL);
    CHECK(pread(fd, own, bytes, 3 << 20) == (ssize_t)bytes, "%s", strerror(errno));
    CHECK(filled(own, bytes, 1234));
    fill(own, bytes, 4321);
    CHECK(pwrite(fd, own, bytes, 5 << 20) == (ssize_t)bytes, "%s", strerror(errno));
    close(fd);
    drive_open(&d, PLAIN);
    drive_queue(&d, &q, 1, 8);
    memory = drive_memory(&d, bytes, &bus);
    CHECK(drive_do(&d, &q, NVME_READ, bus, 5 << 20, bytes) == NVME_OK);
    CHECK(filled(memory, bytes, 4321));
    drive_queue_close(&d, &q);
    drive_close(&d);
}

/** A thread sleeps until the completion, and no interrupt comes from a queue that has none. */
static void interrupts(void)
{
    struct tutti_error err = {0};
    struct pollfd wait = {.events = POLLIN};
    struct nvme_queue with, without;
    struct nvme_done done;
    uint64_t bus, count;
    struct drive d;

    drive_open(&d, PLAIN);
    wait.fd = nvme_vfio_interrupt(d.vfio, 2, &err);
    CHECK(wait.fd >= 0, "%s", err.message);
    CHECK(nvme_vfio_interrupt(d.vfio, 2, &err) == wait.fd);
    CHECK(nvme_vfio_interrupt(d.vfio, 0, &err) == -EINVAL);
    CHECK(nvme_vfio_interrupt(d.vfio, 65, &err) == -EINVAL && strstr(err.message, "poll"), "%s",
          err.message);
    drive_queue(&d, &without, 1, 8);
    drive_queue(&d, &with, 2, 8);
    drive_memory(&d, 4096, &bus);
    CHECK(drive_do(&d, &without, NVME_READ, bus, 0, 4096) == NVME_OK);
    CHECK(poll(&wait, 1, 0) == 0, "an interrupt of a queue that has none");
    for (int i = 0; i < 100; i++) {
        drive_put(&d, &with, NVME_READ, bus, 0, 4096);
        nvme_queue_ring(&with);
        CHECK(poll(&wait, 1, 20000) == 1, "no interrupt, round %d", i);
        CHECK(read(wait.fd, &count, 8) == 8);
        CHECK(nvme_queue_poll(&with, &done) == 1 && done.status == NVME_OK, "round %d", i);
        nvme_queue_ring_completed(&with);
    }
    drive_queue_close(&d, &with);
    drive_queue_close(&d, &without);
    drive_close(&d);
}

const struct test use_tests[] = {
    {"what cannot be used is refused with a remedy", refused},
    {"a drive has one owner at a time", owned},
    {"four controllers, what each is", facts},
    {"queues of depths 2 to 1023, many times round", depths},
    {"the same with blocks of 4096 bytes", depths_4096},
    {"the largest transfer, and one block more", largest},
    {"queues and data in a peer's memory", peer},
    {"Linux reads what was written here, and the reverse", linux_reads},
    {"a thread sleeps until the interrupt", interrupts},
    {0},
};
