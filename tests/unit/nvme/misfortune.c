/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What drives do when they fail: each has a bound and an errno with a message,
 * and memory that the drive may still write to is not given back.
 */
#include "drive.h"

enum { SHORT_NS = 20000000 };

/** A drive whose admin commands have a short bound, and what is to happen. */
static void open_with(struct drive *d, const struct soft_options *o, uint64_t command_ns)
{
    struct tutti_error err = {0};

    drive_make(d, o);
    if (nvme_open(&d->port, 0, 4, command_ns, &d->controller, &err) < 0)
        fail_msg("%s", err.message);
}

/** Put one read. Return: its identifier. */
static uint32_t put_read(struct nvme_queue *q, const uint8_t *memory)
{
    uint64_t words[NVME_SQE_WORDS];
    int32_t id = nvme_queue_take(q);

    assert_true(id >= 0);
    drive_words(words, NVME_READ, id, memory, 0, 8);
    nvme_queue_put(q, words);
    nvme_queue_ring(q);
    return (uint32_t)id;
}

static void errors_of_a_command(void **state)
{
    static const uint32_t status[] = {NVME_READ_ERROR, NVME_INTERNAL, NVME_NOT_READY};
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    (void)state;

    open_with(&d, &SOFT_USUAL, SECOND);
    memory = drive_memory(&d, NVME_PAGE);
    assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
    for (uint32_t i = 0; i < 3; i++) {
        struct soft_fault f = {
            .kind = SOFT_STATUS, .opcode = NVME_READ, .skip = 1, .count = 1, .status = status[i]};

        assert_int_equal(soft_inject(d.soft, &f), 0);
        put_read(&q, memory);
        assert_int_equal(drive_take(&d, &q), NVME_OK);
        put_read(&q, memory);
        assert_int_equal(drive_take(&d, &q), status[i]);
        assert_string_not_equal(nvme_status_text(status[i]), nvme_status_text(0x7ff));
    }
    put_read(&q, memory);
    assert_int_equal(drive_take(&d, &q), NVME_OK);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    drive_memory_free(&d, memory);
    drive_close(&d);
}

/** A completion nobody waits for: nothing that the controller says is believed any more. */
static void completions_of_nothing(void **state)
{
    static const enum soft_fault_kind kind[] = {SOFT_TWICE, SOFT_FOREIGN};
    (void)state;

    for (uint32_t k = 0; k < 2; k++) {
        struct soft_fault f = {.kind = kind[k], .opcode = NVME_READ, .count = 1};
        struct tutti_error err = {0};
        struct nvme_done done;
        struct nvme_queue q;
        struct drive d;
        uint8_t *memory;
        int rc = 0;

        open_with(&d, &SOFT_USUAL, SECOND);
        memory = drive_memory(&d, NVME_PAGE);
        assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
        assert_int_equal(soft_inject(d.soft, &f), 0);
        put_read(&q, memory);
        for (uint32_t i = 0; i < 100 && rc >= 0; i++) {
            drive_step(&d);
            rc = nvme_queue_poll(&q, &done);
        }
        assert_int_equal(rc, -EPROTO);
        assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
        drive_memory_free(&d, memory);
        drive_close(&d);
    }
}

/** Deleting a queue ends what is out in it, and only then is its memory given back. */
static void deleted_with_commands_out(void **state)
{
    struct soft_fault lost = {.kind = SOFT_LOST, .opcode = NVME_READ, .count = 1};
    struct soft_options o = SOFT_USUAL;
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    uint32_t before;
    (void)state;

    o.ways.latency_ns = 1000 * SECOND;
    open_with(&d, &o, SECOND);
    memory = drive_memory(&d, NVME_PAGE);
    before = d.mapped;
    assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
    assert_int_equal(soft_inject(d.soft, &lost), 0);
    for (uint32_t i = 0; i < 5; i++)
        put_read(&q, memory);
    drive_step(&d);
    assert_int_equal(soft_under_way(d.soft), 5);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    assert_int_equal(soft_under_way(d.soft), 0);
    assert_int_equal(d.mapped, before);
    memset(memory, 0x77, NVME_PAGE); /* ours again */
    for (uint32_t i = 0; i < 100; i++)
        drive_step(&d);
    for (uint32_t i = 0; i < NVME_PAGE; i++)
        assert_int_equal(memory[i], 0x77);
    drive_memory_free(&d, memory);
    drive_close(&d);
}

/** A deletion that is never answered: an error in its bound, and the memory stays the drive's. */
static void deletion_never_answered(void **state)
{
    struct soft_fault lost = {
        .kind = SOFT_LOST, .opcode = NVME_ADMIN_DELETE_SQ, .admin = true, .count = 1};
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint32_t before;
    (void)state;

    open_with(&d, &SOFT_USUAL, SHORT_NS);
    assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
    before = d.mapped;
    assert_int_equal(soft_inject(d.soft, &lost), 0);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), -ETIMEDOUT);
    assert_non_null(strstr(err.message, "soft: admin command 0 did not end within 20 ms"));
    assert_int_equal(d.mapped, before);
    free(q.free_id);
    free(q.out);
    drive_close(&d); /* disabling proves that it is done with all of it */
}

/** Pulled out, or dead: the next wait says so, and closing does not wait. */
static void removed_or_dead(void **state)
{
    (void)state;
    for (int how = 0; how < 2; how++) {
        struct tutti_error err = {0};
        struct nvme_queue q;
        struct drive d;
        int rc;

        open_with(&d, &SOFT_USUAL, SHORT_NS);
        if (how == 0)
            soft_remove(d.soft);
        else
            soft_fatal(d.soft);
        rc = nvme_queue_open(d.controller, 1, 8, &q, &err);
        assert_int_equal(rc, how == 0 ? -ENODEV : -EIO);
        assert_non_null(strstr(err.message, how == 0 ? "removed" : "fatal"));
        assert_int_equal(nvme_close(d.controller, &err), 0);
        assert_int_equal(d.mapped, 0);
        assert_string_equal(soft_first_broken(d.soft), "");
        soft_free(d.soft);
    }
}

/** An abort ends a command that hangs, or says that it did not; then deleting its queue does. */
static void aborted(void **state)
{
    (void)state;
    for (int refuses = 0; refuses < 2; refuses++) {
        struct soft_fault lost = {.kind = SOFT_LOST, .opcode = NVME_READ, .count = 1};
        uint64_t words[NVME_SQE_WORDS] = {NVME_ADMIN_ABORT};
        struct soft_options o = SOFT_USUAL;
        struct tutti_error err = {0};
        struct nvme_queue q;
        struct drive d;
        uint8_t *memory;
        uint32_t value = 7;

        o.ways.no_aborts = refuses;
        open_with(&d, &o, SECOND);
        memory = drive_memory(&d, NVME_PAGE);
        assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
        assert_int_equal(soft_inject(d.soft, &lost), 0);
        words[5] = 1 | (uint64_t)put_read(&q, memory) << 16;
        for (uint32_t i = 0; i < 10; i++)
            drive_step(&d);
        assert_int_equal(nvme_admin(d.controller, words, &value, &err), 0);
        assert_int_equal(value, refuses);
        if (!refuses)
            assert_int_equal(drive_take(&d, &q), NVME_ABORTED);
        assert_int_equal(nvme_queue_out(&q), refuses);
        assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
        drive_memory_free(&d, memory);
        drive_close(&d);
    }
}

/** Data that is only half there and reported as good: what checksums are for. Late data is late. */
static void torn_and_late(void **state)
{
    struct soft_fault torn = {.kind = SOFT_TORN, .opcode = NVME_READ, .count = 1};
    struct soft_fault late = {
        .kind = SOFT_LATE, .opcode = NVME_READ, .count = 1, .delay_ns = 50 * STEP_NS};
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    (void)state;

    open_with(&d, &SOFT_USUAL, SECOND);
    memset(soft_media(d.soft), 0x5a, NVME_PAGE);
    memory = drive_memory(&d, NVME_PAGE);
    assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
    assert_int_equal(soft_inject(d.soft, &torn), 0);
    assert_int_equal(soft_inject(d.soft, &late), 0);
    put_read(&q, memory);
    assert_int_equal(drive_take(&d, &q), NVME_OK);
    assert_int_equal(memory[NVME_PAGE / 2 - 1], 0x5a);
    assert_int_equal(memory[NVME_PAGE / 2], 0);
    put_read(&q, memory);
    for (uint32_t i = 0; i < 40; i++)
        drive_step(&d);
    assert_int_equal(memory[NVME_PAGE / 2], 0); /* it moves its data when it ends */
    assert_int_equal(drive_take(&d, &q), NVME_OK);
    assert_int_equal(memory[NVME_PAGE / 2], 0x5a);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    drive_memory_free(&d, memory);
    drive_close(&d);
}

/** What a power loss takes is what was written since the last flush. */
static void write_cache(void **state)
{
    struct soft_options o = SOFT_USUAL;
    struct tutti_error err = {0};
    uint64_t words[NVME_SQE_WORDS];
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    (void)state;

    o.write_cache = true;
    open_with(&d, &o, SECOND);
    memory = drive_memory(&d, NVME_PAGE);
    assert_int_equal(nvme_queue_open(d.controller, 1, 8, &q, &err), 0);
    for (uint32_t i = 0; i < 3; i++) { /* written, flushed, written */
        memset(memory, 0x11 * (int)(i + 1), NVME_PAGE);
        drive_words(words, i == 1 ? NVME_FLUSH : NVME_WRITE, nvme_queue_take(&q), memory, 0, 8);
        if (i == 1)
            memset(words + 3, 0, 4 * 8);
        nvme_queue_put(&q, words);
        nvme_queue_ring(&q);
        assert_int_equal(drive_take(&d, &q), NVME_OK);
    }
    assert_int_equal(soft_media(d.soft)[0], 0x33);
    soft_power_loss(d.soft);
    assert_int_equal(soft_media(d.soft)[0], 0x11);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    drive_memory_free(&d, memory);
    drive_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_of_a_command),
        cmocka_unit_test(completions_of_nothing),
        cmocka_unit_test(deleted_with_commands_out),
        cmocka_unit_test(deletion_never_answered),
        cmocka_unit_test(removed_or_dead),
        cmocka_unit_test(write_cache),
        cmocka_unit_test(aborted),
        cmocka_unit_test(torn_and_late),
    };

    return cmocka_run_group_tests_name("misfortune", tests, NULL, NULL);
}
