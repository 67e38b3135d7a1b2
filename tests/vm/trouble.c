/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trouble.c: drives that fail, stall, or answer late, and others that go on meanwhile.
 *
 * Seen to fail: bad_sectors where a status lost its type; stalled with both drives behind one
 * throttle; closed_busy where the controller was not disabled; late where an identifier was given
 * out twice; deletion_late where the queue's memory was taken away first; queue_taken_away where
 * the fatal status was not looked at.
 */
#include "guest.h"

/** Two sectors are bad: what touches them fails by name, and nothing else does. */
static void bad_sectors(void)
{
    struct nvme_queue q, other;
    struct drive bad, good;
    struct nvme_done done;
    uint64_t at, elsewhere;
    uint32_t status;

    drive_open(&bad, FAULTY);
    drive_open(&good, PLAIN);
    drive_queue(&bad, &q, 1, 64);
    drive_queue(&good, &other, 1, 64);
    drive_memory(&bad, 4096, &at);
    drive_memory(&good, 4096, &elsewhere);
    for (int round = 0; round < 3; round++) {
        status = drive_do(&bad, &q, NVME_READ, at, BAD_READ * 512ull, 4096);
        CHECK(status == NVME_READ_ERROR, "%#x: %s", status, nvme_status_text(status));
        status = drive_do(&bad, &q, NVME_WRITE, at, BAD_WRITE * 512ull, 4096);
        CHECK(status == NVME_WRITE_FAULT, "%#x: %s", status, nvme_status_text(status));
        CHECK(drive_do(&bad, &q, NVME_READ, at, BAD_WRITE * 512ull, 4096) == NVME_OK);
        CHECK(drive_do(&bad, &q, NVME_WRITE, at, BAD_READ * 512ull, 4096) == NVME_OK);
        CHECK(drive_do(&bad, &q, NVME_READ, at, (BAD_READ + 1) * 512ull, 4096) == NVME_OK);
        CHECK(drive_do(&good, &other, NVME_READ, elsewhere, BAD_READ * 512ull, 4096) == NVME_OK);
    }
    /* Among others in flight: the one that fails is the one that was bad. */
    for (uint32_t i = 0; i < 63; i++)
        drive_put(&bad, &q, NVME_READ, at, i == 31 ? BAD_READ * 512ull : i * 4096ull, 4096);
    nvme_queue_ring(&q);
    for (uint32_t i = 0; i < 63; i++) {
        done = drive_take(&q);
        status = done.id == 31 ? NVME_READ_ERROR : NVME_OK;
        CHECK(done.status == status, "command %u: %s", done.id, nvme_status_text(done.status));
    }
    CHECK(strcmp(nvme_status_text(NVME_READ_ERROR), "unrecovered read error") == 0);
    drive_queue_close(&bad, &q);
    drive_queue_close(&good, &other);
    drive_close(&bad);
    drive_close(&good);
}

/** Whether completions are there, without waiting. Return: how many were taken. */
static uint32_t take_ready(struct nvme_queue *q)
{
    struct nvme_done done;
    uint32_t taken = 0;

    while (nvme_queue_poll(q, &done) == 1) {
        CHECK(done.status == NVME_OK, "%s", nvme_status_text(done.status));
        taken++;
    }
    nvme_queue_ring_completed(q);
    return taken;
}

/** One stalls; another does 100 reads before it is done with 64. */
static void stalled(void)
{
    struct nvme_queue q, other;
    struct drive slow, good;
    uint64_t at, elsewhere;

    drive_open(&slow, SLOW);
    drive_open(&good, PLAIN);
    drive_queue(&slow, &q, 1, 65);
    drive_queue(&good, &other, 1, 8);
    drive_memory(&slow, 4096, &at);
    drive_memory(&good, 4096, &elsewhere);
    for (int i = 0; i < 64; i++)
        drive_put(&slow, &q, NVME_READ, at, 0, 4096);
    nvme_queue_ring(&q);
    for (int i = 0; i < 100; i++)
        CHECK(drive_do(&good, &other, NVME_READ, elsewhere, 0, 4096) == NVME_OK);
    take_ready(&q);
    CHECK(nvme_queue_out(&q) > 0, "the slow drive is not slow");
    drive_queue_close(&good, &other);
    drive_close(&good);
    drive_close(&slow); /* with commands out: disabled, it moves nothing more */
}

/** Closed with commands out: from then on the drive moves nothing, and misses nothing. */
static void closed_busy(void)
{
    struct tutti_error err = {0};
    int log = klog_open();
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    uint64_t at;

    drive_open(&d, SLOW);
    drive_queue(&d, &q, 1, 64);
    memory = drive_memory(&d, 32 * 4096, &at);
    for (uint32_t i = 0; i < 32; i++)
        drive_put(&d, &q, NVME_READ, at + i * 4096, 0, 4096);
    nvme_queue_ring(&q);
    CHECK(nvme_close(d.controller, &err) == 0, "%s", err.message);
    fill(memory, 32 * 4096, 6);
    CHECK(!klog_says(log, "DMAR", "fault addr", 2 * SECOND), "it is cut off, and goes on");
    CHECK(filled(memory, 32 * 4096, 6), "it writes after its end");
    nvme_vfio_close(d.vfio);
}

/** Commands that were given up complete late: each once, into memory that is still theirs. */
static void late(void)
{
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    uint64_t at;
    bool was[16] = {false};

    drive_open(&d, SLOW);
    drive_queue(&d, &q, 1, 16);
    memory = drive_memory(&d, 16 * 4096, &at);
    fill(memory, 4096, 5);
    CHECK(drive_do(&d, &q, NVME_WRITE, at, 0, 4096) == NVME_OK);
    memset(memory, 0, 16 * 4096);
    for (int i = 0; i < 10; i++) {
        uint32_t id = (uint32_t)q.free_id[q.free - 1];

        drive_put(&d, &q, NVME_READ, at + id * 4096, 0, 4096);
    }
    nvme_queue_ring(&q);
    for (int i = 0; i < 5; i++) { /* while those are given up, others are put: never one's id */
        int32_t id = q.free_id[q.free - 1];

        CHECK(!q.out[id]);
        drive_put(&d, &q, NVME_READ, at + (uint32_t)id * 4096, 0, 4096);
    }
    CHECK(nvme_queue_take(&q) == -1, "an identifier that is out was given again");
    nvme_queue_ring(&q);
    for (int i = 0; i < 15; i++) {
        struct nvme_done done = drive_take(&q);

        CHECK(done.status == NVME_OK && !was[done.id], "%u", done.id);
        CHECK(filled(memory + done.id * 4096, 4096, 5), "%u completed before its data", done.id);
        was[done.id] = true;
    }
    drive_queue_close(&d, &q);
    drive_close(&d);
}

/**
 * A queue with commands out is deleted, and the drive takes longer than the bound: nothing that it
 * was given is taken away meanwhile.
 */
static void deletion_late(void)
{
    struct tutti_error err = {0};
    int log = klog_open(), rc;
    struct nvme_queue q;
    struct drive d;
    uint64_t at;

    drive_open(&d, SLOW);
    drive_queue(&d, &q, 1, 64);
    drive_memory(&d, 64 * 4096, &at);
    for (uint32_t i = 0; i < 60; i++)
        drive_put(&d, &q, NVME_READ, at + i * 4096, 0, 4096);
    nvme_queue_ring(&q);
    rc = nvme_queue_close(d.controller, &q, &err);
    CHECK(rc == 0 || rc == -ETIMEDOUT, "%d: %s", rc, err.message);
    CHECK(!klog_says(log, "DMAR", "fault addr", SECOND), "it was cut off from what is its own");
    drive_close(&d);
}

/** The queue's own memory goes under a live controller: it reports a fatal status, by name. */
static void queue_taken_away(void)
{
    struct tutti_error err = {0};
    const uint64_t get[NVME_SQE_WORDS] = {NVME_ADMIN_GET_FEATURES, 0, 0, 0, 0, NVME_FEATURE_QUEUES};
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    uint64_t at, began;
    int rc;

    drive_open(&d, PLAIN);
    memory = drive_memory(&d, 2 * 4096, &at);
    drive_queue_at(&d, &q, 1, 8, memory, at);
    CHECK(nvme_vfio_unmap(d.vfio, at, 2 * 4096, &err) == 0, "%s", err.message);
    drive_put(&d, &q, NVME_READ, at, 0, 4096);
    nvme_queue_ring(&q);
    began = tutti_clock_now();
    do
        rc = nvme_admin(d.controller, get, NULL, &err);
    while (rc == 0 && tutti_clock_now() - began < PATIENCE);
    CHECK(rc == -EIO && strstr(err.message, "fatal"), "%d: %s", rc, err.message);
    drive_close(&d);
    drive_open(&d, PLAIN); /* and it is as new */
    drive_queue(&d, &q, 1, 8);
    drive_memory(&d, 4096, &at);
    CHECK(drive_do(&d, &q, NVME_READ, at, 0, 4096) == NVME_OK);
    drive_queue_close(&d, &q);
    drive_close(&d);
}

const struct test trouble_tests[] = {
    {"bad sectors fail by name, others go on", bad_sectors},
    {"one drive stalls, another answers", stalled},
    {"closed with commands out, it moves nothing more", closed_busy},
    {"commands that were given up complete late", late},
    {"a queue's deletion that comes late", deletion_late},
    {"a queue's memory goes: a fatal status", queue_taken_away},
    {0},
};
