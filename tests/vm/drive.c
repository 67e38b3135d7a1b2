/* SPDX-License-Identifier: Apache-2.0 */
/* drive.c: a drive through src/nvme, its queues, and commands of one contiguous piece (SGL). */
#include <sys/mman.h>

#include "guest.h"

#define COMMAND_NS (2 * SECOND)

void drive_open(struct drive *d, const char *address)
{
    struct tutti_error err = {0};

    *d = (struct drive){.address = address};
    pci_bind(address, "vfio-pci");
    CHECK(nvme_vfio_open(address, &d->port, &d->vfio, &err) == 0, "%s", err.message);
    CHECK(nvme_open(&d->port, 0, 8, COMMAND_NS, &d->controller, &err) == 0, "%s", err.message);
    nvme_facts(d->controller, &d->facts);
}

void drive_close(struct drive *d)
{
    struct tutti_error err = {0};

    CHECK(nvme_close(d->controller, &err) == 0, "%s", err.message);
    nvme_vfio_close(d->vfio);
}

uint8_t *drive_memory(struct drive *d, size_t bytes, uint64_t *address)
{
    struct tutti_error err = {0};
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(memory != MAP_FAILED);
    CHECK(nvme_vfio_map(d->vfio, memory, bytes, address, &err) == 0, "%s", err.message);
    return memory;
}

void drive_queue(struct drive *d, struct nvme_queue *q, uint32_t number, uint32_t depth)
{
    struct tutti_error err = {0};

    CHECK(nvme_queue_open(d->controller, number, depth, q, &err) == 0, "%s", err.message);
}

void drive_queue_close(struct drive *d, struct nvme_queue *q)
{
    struct tutti_error err = {0};

    CHECK(nvme_queue_close(d->controller, q, &err) == 0, "%s", err.message);
}

uint32_t drive_put(const struct drive *d, struct nvme_queue *q, uint32_t opcode, uint64_t address,
                   uint64_t at, uint32_t bytes)
{
    int32_t id = nvme_queue_take(q);
    uint32_t block = d->facts.block_bytes;
    const uint64_t words[NVME_SQE_WORDS] = {
        NVME_WORD0(opcode, NVME_PSDT_SGL, (uint32_t)id, d->facts.nsid),
        0,
        0,
        address,
        NVME_SGL_WORD1(NVME_SGL_DATA, bytes),
        at / block,
        bytes / block - 1,
        0};

    CHECK(id >= 0, "no identifier is free");
    nvme_queue_put(q, words);
    return (uint32_t)id;
}

struct nvme_done drive_take(struct nvme_queue *q)
{
    uint64_t began = tutti_clock_now();
    struct nvme_done done;
    int rc;

    do {
        rc = nvme_queue_poll(q, &done);
        CHECK(rc >= 0, "it completed what is not out");
        CHECK(tutti_clock_now() - began < PATIENCE, "no completion; %u are out", nvme_queue_out(q));
    } while (rc == 0);
    nvme_queue_ring_completed(q);
    return done;
}

uint32_t drive_do(const struct drive *d, struct nvme_queue *q, uint32_t opcode, uint64_t address,
                  uint64_t at, uint32_t bytes)
{
    uint32_t id = drive_put(d, q, opcode, address, at, bytes);
    struct nvme_done done;

    nvme_queue_ring(q);
    done = drive_take(q);
    CHECK(done.id == id, "completion of %u, not %u", done.id, id);
    return done.status;
}

void drive_queue_at(struct drive *d, struct nvme_queue *q, uint32_t number, uint32_t depth,
                    uint8_t *memory, uint64_t address)
{
    uint32_t sq = (depth * NVME_SQE_BYTES + NVME_PAGE - 1) / NVME_PAGE * NVME_PAGE;
    uint32_t stride = NVME_CAP_DSTRD(nvme_read64(d->port.bar, NVME_CAP));
    uint64_t shape = number | (uint64_t)(depth - 1) << 16 | UINT64_C(1) << 32;
    const uint64_t make_cq[NVME_SQE_WORDS] = {NVME_ADMIN_CREATE_CQ, 0, 0, address + sq, 0, shape};
    const uint64_t make_sq[NVME_SQE_WORDS] = {NVME_ADMIN_CREATE_SQ,          0, 0, address, 0,
                                              shape | (uint64_t)number << 48};
    struct tutti_error err = {0};

    *q = (struct nvme_queue){.sq = (uint64_t *)(void *)memory,
                             .cq = (uint64_t *)(void *)(memory + sq),
                             .bar = d->port.bar,
                             .sq_doorbell = NVME_SQ_DOORBELL(number, stride),
                             .cq_doorbell = NVME_CQ_DOORBELL(number, stride),
                             .number = number,
                             .depth = depth,
                             .phase = 1,
                             .free = depth - 1,
                             .free_id = calloc(depth, sizeof(*q->free_id)),
                             .out = calloc(depth, sizeof(*q->out))};
    for (uint32_t i = 0; i < depth - 1; i++)
        q->free_id[i] = (uint16_t)i;
    memset(memory, 0, sq + depth * NVME_CQE_BYTES);
    CHECK(nvme_admin(d->controller, make_cq, NULL, &err) == 0, "%s", err.message);
    CHECK(nvme_admin(d->controller, make_sq, NULL, &err) == 0, "%s", err.message);
}

static uint64_t word(uint64_t seed, uint32_t i)
{
    return (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

void fill(uint8_t *memory, uint32_t bytes, uint64_t seed)
{
    uint64_t *to = (uint64_t *)(void *)memory;

    for (uint32_t i = 0; i < bytes / 8; i++)
        nvme_store64(to + i, word(seed, i));
}

bool filled(const uint8_t *memory, uint32_t bytes, uint64_t seed)
{
    const uint64_t *from = (const uint64_t *)(const void *)memory;

    for (uint32_t i = 0; i < bytes / 8; i++)
        if (nvme_load64(from + i) != word(seed, i))
            return false;
    return true;
}
