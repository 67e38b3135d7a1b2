/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drive.h: a software controller, and a driver's port to it, for tests.
 *
 * Addresses on the bus are those in memory. While the driver waits the
 * controller makes a step, so there is no thread and nothing depends on speed;
 * its clock goes on by a microsecond a step. Or it has a thread of its own.
 */
#ifndef TESTS_UNIT_NVME_DRIVE_H
#define TESTS_UNIT_NVME_DRIVE_H

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nvme/controller.h"
#include "nvme/soft/soft.h"

#define SECOND UINT64_C(1000000000)
#define STEP_NS 1000u

struct drive {
    struct soft *soft;
    struct nvme_port port;
    struct nvme_controller *controller;
    uint64_t clock;
    uint32_t mapped; /* pieces that it can reach now */
    bool threaded;   /* it steps by itself */
};

static inline bool drive_step(struct drive *d)
{
    if (d->threaded) {
        sched_yield();
        return false;
    }
    d->clock += STEP_NS;
    return soft_step(d->soft, d->clock);
}

static inline int drive_map(void *self, void *memory, size_t bytes, uint64_t *address)
{
    struct drive *d = self;

    *address = (uint64_t)(uintptr_t)memory;
    d->mapped++;
    return soft_map(d->soft, memory, bytes, *address, true);
}

static inline int drive_unmap(void *self, uint64_t address, size_t bytes)
{
    struct drive *d = self;

    (void)bytes;
    d->mapped--;
    return soft_unmap(d->soft, address);
}

static inline void drive_idle(void *self, uint64_t waited)
{
    (void)waited;
    drive_step(self);
}

static inline void drive_make(struct drive *d, const struct soft_options *options)
{
    struct tutti_error err = {0};

    *d = (struct drive){0};
    assert_int_equal(soft_new(options, &d->soft, &err), 0);
    d->port = (struct nvme_port){.name = "soft",
                                 .bar = soft_bar(d->soft),
                                 .bar_bytes = SOFT_BAR_BYTES,
                                 .map = drive_map,
                                 .unmap = drive_unmap,
                                 .idle = drive_idle,
                                 .self = d};
}

static inline void drive_open(struct drive *d, const struct soft_options *options)
{
    struct tutti_error err = {0};

    drive_make(d, options);
    if (nvme_open(&d->port, 0, 4, SECOND, &d->controller, &err) < 0)
        fail_msg("%s", err.message);
}

/** Close both. No rule was broken, and nothing is left mapped. */
static inline void drive_close(struct drive *d)
{
    struct tutti_error err = {0};

    if (nvme_close(d->controller, &err) < 0)
        fail_msg("%s", err.message);
    assert_string_equal(soft_first_broken(d->soft), "");
    assert_int_equal(d->mapped, 0);
    soft_free(d->soft);
}

/** Memory that the drive can reach. */
static inline uint8_t *drive_memory(struct drive *d, size_t bytes)
{
    uint8_t *memory = aligned_alloc(NVME_PAGE, bytes);
    uint64_t address;

    assert_non_null(memory);
    memset(memory, 0, bytes);
    assert_int_equal(drive_map(d, memory, bytes, &address), 0);
    return memory;
}

static inline void drive_memory_free(struct drive *d, uint8_t *memory)
{
    assert_int_equal(drive_unmap(d, (uint64_t)(uintptr_t)memory, 0), 0);
    free(memory);
}

/** A read or write of blocks by two PRP entries. */
static inline void drive_words(uint64_t words[NVME_SQE_WORDS], uint32_t opcode, int32_t id,
                               const uint8_t *memory, uint64_t block, uint32_t blocks)
{
    uint64_t address = (uint64_t)(uintptr_t)memory;

    memset(words, 0, NVME_SQE_BYTES);
    words[0] = NVME_WORD0(opcode, 0, (uint32_t)id, 1);
    words[3] = address;
    words[4] = (address / NVME_PAGE + 1) * NVME_PAGE;
    words[5] = block;
    words[6] = blocks - 1;
}

/** Steps until a completion is there. Return: its status. */
static inline uint32_t drive_take(struct drive *d, struct nvme_queue *q)
{
    struct nvme_done done;

    for (uint32_t i = 0; i < 10000; i++) {
        int rc = nvme_queue_poll(q, &done);

        assert_true(rc >= 0);
        if (rc == 1) {
            nvme_queue_ring_completed(q);
            return done.status;
        }
        drive_step(d);
    }
    fail_msg("no completion");
    return 0;
}

#endif
