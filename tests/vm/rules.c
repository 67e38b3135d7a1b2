/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules.c: rules of the specification that a controller refuses to see broken: QEMU's too, as
 * src/nvme/soft/rules.h says of each ("QEMU"). So what is shown of them over the software
 * controller does not rest on our reading alone. What QEMU takes (a PRP off its dword, reserved
 * fields, one identifier twice, doorbells beyond the queue), only the software controller shows.
 *
 * Not here, for they end the controller: ASQ, ACQ, AQA, CC; and event requests beyond AERL.
 *
 * Seen to fail: commands with each made as it should be (all eight said so); queues where nothing
 * was refused.
 */
#include "guest.h"

enum { QUEUE = 3, PIECE = 8192 };

/** A read of two pages by PRP, right in all; then one word is made wrong. */
static void good(const struct drive *d, uint64_t at, uint64_t words[NVME_SQE_WORDS])
{
    memset(words, 0, NVME_SQE_BYTES);
    words[0] = NVME_WORD0(NVME_READ, 0, 0, d->facts.nsid);
    words[3] = at;
    words[4] = at + 4096;
    words[6] = PIECE / d->facts.block_bytes - 1;
}

static void good_sgl(const struct drive *d, uint64_t at, uint64_t words[NVME_SQE_WORDS])
{
    good(d, at, words);
    words[0] |= NVME_PSDT_SGL;
    words[4] = NVME_SGL_WORD1(NVME_SGL_DATA, PIECE);
}

static uint32_t status_of(struct nvme_queue *q, uint64_t words[NVME_SQE_WORDS])
{
    int32_t id = nvme_queue_take(q);

    CHECK(id >= 0);
    words[0] |= (uint64_t)(uint32_t)id << 16;
    nvme_queue_put(q, words);
    nvme_queue_ring(q);
    return drive_take(q).status;
}

static void commands(void)
{
    uint64_t w[NVME_SQE_WORDS], at;
    struct nvme_queue q;
    struct drive d;

    drive_open(&d, PLAIN);
    drive_queue(&d, &q, 1, 8);
    drive_memory(&d, 2 << 20, &at);
    good(&d, at, w);
    CHECK(status_of(&q, w) == NVME_OK);
    good_sgl(&d, at, w);
    CHECK(status_of(&q, w) == NVME_OK);
#define REFUSED(rule, make, change)                                                                \
    make(&d, at, w);                                                                               \
    change;                                                                                        \
    CHECK(status_of(&q, w) != NVME_OK, "%s is not refused", #rule)
    REFUSED(OPCODE, good, w[0] |= 0x7f);
    REFUSED(NAMESPACE, good, w[0] += UINT64_C(8) << 32);
    REFUSED(RANGE, good, w[5] = d.facts.blocks - 1);
    REFUSED(TRANSFER_SIZE, good_sgl,
            (w[6] = d.facts.transfer_bytes / d.facts.block_bytes,
             w[4] = NVME_SGL_WORD1(NVME_SGL_DATA, d.facts.transfer_bytes + d.facts.block_bytes)));
    REFUSED(PRP_OFFSET, good, w[4] += 512);
    REFUSED(SGL_TYPE, good_sgl, w[4] |= UINT64_C(0xf) << 60);
    REFUSED(SGL_LENGTH, good_sgl, w[4] -= 512);
    REFUSED(SGL_SEGMENT, good_sgl, w[4] = NVME_SGL_WORD1(NVME_SGL_LAST_SEGMENT, 24));
    good(&d, at, w);
    CHECK(status_of(&q, w) == NVME_OK, "it does not go on");
    drive_queue_close(&d, &q);
    drive_close(&d);
}

/** An admin command. Return: whether it was refused; that it succeeds is shown beside. */
static bool refused(struct drive *d, uint32_t opcode, uint64_t address, uint64_t shape)
{
    const uint64_t words[NVME_SQE_WORDS] = {opcode, 0, 0, address, 0, shape};
    struct tutti_error err = {0};
    int rc = nvme_admin(d->controller, words, NULL, &err);

    CHECK(rc == 0 || rc == -EIO, "%d: %s", rc, err.message);
    return rc != 0;
}

static void queues(void)
{
    const uint64_t cq = QUEUE | UINT64_C(7) << 16 | UINT64_C(1) << 32;
    const uint64_t sq = cq | (uint64_t)QUEUE << 48;
    struct drive d;
    uint64_t at;

    drive_open(&d, PLAIN);
    drive_memory(&d, 1 << 20, &at);
    CHECK(refused(&d, NVME_ADMIN_CREATE_CQ, at, cq + 97), "QUEUE_NUMBER");
    CHECK(refused(&d, NVME_ADMIN_CREATE_CQ, at, cq | UINT64_C(0xfff) << 16), "QUEUE_DEPTH");
    CHECK(refused(&d, NVME_ADMIN_CREATE_CQ, at + 512, cq), "QUEUE_MEMORY");
    CHECK(refused(&d, NVME_ADMIN_CREATE_SQ, at + 4096, sq), "QUEUE_CQ");
    CHECK(refused(&d, NVME_ADMIN_DELETE_SQ, 0, QUEUE), "DELETED_IN_USE");
    CHECK(!refused(&d, NVME_ADMIN_CREATE_CQ, at, cq));
    CHECK(!refused(&d, NVME_ADMIN_CREATE_SQ, at + 4096, sq));
    CHECK(refused(&d, NVME_ADMIN_DELETE_CQ, 0, QUEUE), "DELETION_ORDER");
    CHECK(!refused(&d, NVME_ADMIN_DELETE_SQ, 0, QUEUE));
    CHECK(!refused(&d, NVME_ADMIN_DELETE_CQ, 0, QUEUE));
    drive_close(&d);
}

const struct test rule_tests[] = {
    {"rules of commands that QEMU enforces too", commands},
    {"rules of queues that QEMU enforces too", queues},
    {0},
};
