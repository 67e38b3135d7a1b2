/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A controller is brought up, asked what it is, and shut down; what cannot be
 * used is refused with its name and a remedy, and whatever fails on the way
 * leaves nothing mapped.
 */
#include "drive.h"

static void usual_drive(void **state)
{
    struct nvme_facts f;
    struct drive d;
    (void)state;

    drive_open(&d, &SOFT_USUAL);
    nvme_facts(d.controller, &f);
    assert_string_equal(f.serial, "soft0001");
    assert_string_equal(f.model, "Tutti software controller");
    assert_int_equal(f.depth, 1024);
    assert_int_equal(f.queues, 4);
    assert_int_equal(f.transfer_bytes, 131072);
    assert_int_equal(f.sgls, 0);
    assert_false(f.write_cache);
    assert_false(f.read_only);
    assert_int_equal(f.nsid, 1);
    assert_int_equal(f.block_bytes, 512);
    assert_int_equal(f.blocks, 65536);
    drive_close(&d);
}

static void other_drive(void **state)
{
    struct soft_options o = {.mqes = 1,
                             .dstrd = 4,
                             .sgls = 2,
                             .queues = 2, /* fewer than the four that are asked for */
                             .block_bytes = 4096,
                             .blocks = 100,
                             .write_cache = true,
                             .read_only = true,
                             .enable_ns = 50 * STEP_NS};
    struct nvme_facts f;
    struct drive d;
    (void)state;

    drive_open(&d, &o);
    nvme_facts(d.controller, &f);
    assert_int_equal(f.depth, 2);
    assert_int_equal(f.queues, 2);
    assert_true(f.transfer_bytes == UINT64_MAX);
    assert_int_equal(f.sgls, 2);
    assert_true(f.write_cache);
    assert_true(f.read_only);
    assert_int_equal(f.block_bytes, 4096);
    assert_int_equal(f.blocks, 100);
    drive_close(&d);
}

/** A driver that was killed leaves a controller that is enabled, with queues. */
static void after_a_former_owner(void **state)
{
    struct tutti_error err = {0};
    struct nvme_controller *former;
    struct nvme_queue q;
    struct drive d;
    (void)state;

    drive_open(&d, &SOFT_USUAL);
    former = d.controller;
    assert_int_equal(nvme_queue_open(former, 1, 8, &q, &err), 0);
    assert_int_equal(nvme_open(&d.port, 0, 4, SECOND, &d.controller, &err), 0);
    assert_int_equal(nvme_close(d.controller, &err), 0);
    free(q.free_id); /* what the kernel does for one that was killed */
    free(q.out);
    assert_int_equal(nvme_close(former, &err), 0);
    assert_int_equal(d.mapped, 0);
    assert_string_equal(soft_first_broken(d.soft), "");
    soft_free(d.soft);
}

struct refusal {
    const char *what;
    const char *word; /* in the message */
    struct soft_options options;
    uint32_t nsid;
    int rc;
};

static void refused(void **state)
{
    struct soft_options metadata = SOFT_USUAL, slow = SOFT_USUAL;
    struct refusal all[] = {
        {"metadata", "metadata", SOFT_USUAL, 0, -EOPNOTSUPP},
        {"no such namespace", "namespace 7", SOFT_USUAL, 7, -ENOENT},
        {"never ready", "ready", SOFT_USUAL, 0, -ETIMEDOUT},
    };
    (void)state;

    metadata.metadata_bytes = 8;
    slow.enable_ns = 1000 * SECOND;
    all[0].options = metadata;
    all[2].options = slow;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct tutti_error err = {0};
        struct drive d;

        drive_make(&d, &all[i].options);
        assert_int_equal(nvme_open(&d.port, all[i].nsid, 4, SECOND, &d.controller, &err),
                         all[i].rc);
        if (!strstr(err.message, all[i].word) || !strstr(err.message, "soft"))
            fail_msg("%s: %s", all[i].what, err.message);
        assert_int_equal(d.mapped, 0);
        soft_free(d.soft);
    }
}

/** Registers that read as ones, or as zeros: nobody is there. */
static void nobody_there(void **state)
{
    struct tutti_error err = {0};
    struct drive d;
    (void)state;

    for (int fill = 0; fill <= 255; fill += 255) {
        drive_make(&d, &SOFT_USUAL);
        memset(soft_bar(d.soft), fill, SOFT_BAR_BYTES);
        assert_int_equal(nvme_open(&d.port, 0, 4, SECOND, &d.controller, &err), -ENODEV);
        assert_int_equal(d.mapped, 0);
        soft_free(d.soft);
    }
}

/** What a driver may ask a controller later. */
static void asked_later(void **state)
{
    uint64_t log[NVME_SQE_WORDS] = {NVME_WORD0(NVME_ADMIN_GET_LOG_PAGE, 0, 0, UINT32_MAX)};
    uint64_t cache[NVME_SQE_WORDS] = {NVME_ADMIN_GET_FEATURES};
    struct soft_options o = SOFT_USUAL;
    struct tutti_error err = {0};
    struct drive d;
    uint8_t *memory;
    uint32_t value;
    (void)state;

    for (int there = 0; there < 2; there++) {
        o.write_cache = there;
        drive_open(&d, &o);
        memory = drive_memory(&d, NVME_PAGE);
        memset(memory, 0xee, NVME_PAGE);
        log[3] = (uint64_t)(uintptr_t)memory;
        log[5] = NVME_LOG_HEALTH | (NVME_LOG_HEALTH_BYTES / 4 - 1) << 16;
        assert_int_equal(nvme_admin(d.controller, log, NULL, &err), 0);
        assert_int_equal(memory[NVME_HEALTH_WARNING], 0);
        assert_int_equal(memory[NVME_HEALTH_SPARE], 100);
        assert_int_equal(memory[NVME_LOG_HEALTH_BYTES], 0xee);
        log[5] = 0x7f;
        assert_int_equal(nvme_admin(d.controller, log, NULL, &err), -EIO);
        assert_non_null(strstr(err.message, "no such log page"));
        cache[5] = NVME_FEATURE_WRITE_CACHE;
        assert_int_equal(nvme_admin(d.controller, cache, &value, &err), there ? 0 : -EIO);
        assert_int_equal(value, there);
        drive_memory_free(&d, memory);
        drive_close(&d);
    }
}

static void queue_limits(void **state)
{
    struct tutti_error err = {0};
    struct nvme_queue q, again;
    struct drive d;
    (void)state;

    drive_open(&d, &SOFT_USUAL);
    assert_int_equal(nvme_queue_open(d.controller, 0, 8, &q, &err), -EINVAL);
    assert_int_equal(nvme_queue_open(d.controller, 5, 8, &q, &err), -EINVAL);
    assert_int_equal(nvme_queue_open(d.controller, 1, 1, &q, &err), -EINVAL);
    assert_int_equal(nvme_queue_open(d.controller, 1, 1025, &q, &err), -EINVAL);
    assert_non_null(strstr(err.message, "2 to 1024"));
    assert_int_equal(nvme_queue_open(d.controller, 1, 1024, &q, &err), 0);
    assert_int_equal(nvme_queue_open(d.controller, 1, 8, &again, &err), -EINVAL);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    assert_int_equal(nvme_queue_open(d.controller, 1, 2, &q, &err), 0);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    drive_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_drive),  cmocka_unit_test(other_drive),
        cmocka_unit_test(refused),      cmocka_unit_test(after_a_former_owner),
        cmocka_unit_test(nobody_there), cmocka_unit_test(queue_limits),
        cmocka_unit_test(asked_later),
    };

    return cmocka_run_group_tests_name("bring_up", tests, NULL, NULL);
}
