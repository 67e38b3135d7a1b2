/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes: transfers of any size and scatter come back byte for byte over drives
 * of every kind (block size, largest transfer, PRP and SGL, shallow queues, a
 * cap of one list), and the drive finds no rule broken. Doorbells are rung once
 * for a batch, and at once for a command alone. Whole reads and writes of any
 * memory; a flush only where there is a cache; who may open, claim and drive.
 *
 * Seen to fail: with lists given out twice (a cap of one: wrong data), with a
 * list that is not given back (stands still), with the offset of a command that
 * forgets what earlier ones of its transfer moved, and with a doorbell rung for
 * each command.
 */
#include "soft_drive.h"

enum { TRANSFERS = 24, MEMORY = 24 << 20 };

static void run(struct nvme_lane *lane, struct job *job, uint8_t opcode)
{
    scatter_submit(lane, job, TRANSFERS, opcode);
    assert_int_equal(collect_within(lane, TRANSFERS, 20000 * MS), TRANSFERS);
    for (uint32_t i = 0; i < TRANSFERS; i++)
        assert_int_equal(job[i].transfer.result, 0);
}

static void there_and_back(const char *options, uint32_t block, uint32_t depth, uint32_t lists,
                           uint32_t skew)
{
    static uint8_t was[MEMORY];
    uint8_t *memory = aligned_alloc(NVME_PAGE, MEMORY);
    struct tutti_error err = {0};
    struct job job[TRANSFERS];
    uint64_t reached, used;
    struct nvme_lane *lane;
    struct soft_drive s;

    soft_drive_open(&s, options, &NVME_BOUNDS);
    assert_int_equal(nvme_drive_take_lane(s.drive, depth, lists, &lane, &err), 0);
    assert_int_equal(nvme_drive_reach(s.drive, lane, memory, MEMORY, &err), 0);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < MEMORY; i += 8)
            *(uint64_t *)(void *)(memory + i) = i * UINT64_C(0x9e3779b97f4a7c15) + round;
        reached = scatter_jobs(job, TRANSFERS, memory + skew, block, &used);
        assert_true(reached < MEMORY - NVME_PAGE && used < SOFT_DRIVE_BYTES);
        run(lane, job, NVME_WRITE);
        memcpy(was, memory, MEMORY);
        scatter_wipe(job, TRANSFERS);
        run(lane, job, NVME_READ);
        assert_memory_equal(memory, was, MEMORY);
    }
    nvme_drive_give_lane(s.drive, lane);
    soft_drive_close(&s);
    free(memory);
}

static void every_kind(void **state)
{
    static const char *const mdts[] = {",mdts=0", ",mdts=1", ",mdts=5"};
    (void)state;

    for (uint32_t m = 0; m < 3; m++)
        for (uint32_t sgls = 0; sgls <= 2; sgls++)
            for (uint32_t lba = 512; lba <= 4096; lba *= 8) {
                char options[64];

                snprintf(options, sizeof(options), "%s,sgls=%u,lba=%u", mdts[m], sgls, lba);
                there_and_back(options, lba, sgls == 1 ? 3 : 256, 64, 0);
                if (m == 2)
                    there_and_back(options, lba, 64, 1, sgls == 0 ? 0 : 1024);
            }
}

static void doorbells(void **state)
{
    enum { COUNT = 512 };
    uint8_t *memory = aligned_alloc(NVME_PAGE, NVME_PAGE);
    static struct nvme_transfer t[COUNT];
    struct iovec iov = {.iov_base = memory, .iov_len = NVME_PAGE};
    struct tutti_error err = {0};
    struct nvme_transfer *ended;
    struct nvme_lane *lane;
    struct soft_drive s;
    uint64_t before;
    (void)state;

    soft_drive_open(&s, "", &NVME_BOUNDS);
    assert_int_equal(nvme_drive_take_lane(s.drive, 1024, 64, &lane, &err), 0);
    assert_int_equal(nvme_drive_reach(s.drive, lane, memory, NVME_PAGE, &err), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        t[i] = (struct nvme_transfer){
            .bytes = NVME_PAGE, .segments = 1, .iov = &iov, .opcode = NVME_READ};
        nvme_lane_submit(lane, &t[i]);
    }
    before = lane->queue.sq_doorbells;
    assert_int_equal(collect_within(lane, COUNT, 10000 * MS), COUNT);
    assert_true(lane->queue.sq_doorbells - before <= COUNT / 8);
    before = lane->queue.sq_doorbells;
    nvme_lane_submit(lane, &t[0]);
    if (nvme_lane_collect(lane, &ended, 1) == 0) { /* handed over by the first look */
        assert_int_equal(lane->queue.sq_doorbells, before + 1);
        assert_int_equal(collect_within(lane, 1, 10000 * MS), 1);
    }
    nvme_drive_give_lane(s.drive, lane);
    soft_drive_close(&s);
    free(memory);
}

static void what_is_wrong_with_a_transfer(void **state)
{
    uint8_t *memory = aligned_alloc(NVME_PAGE, NVME_PAGE);
    struct iovec iov = {.iov_base = memory, .iov_len = NVME_PAGE};
    const struct {
        uint64_t offset;
        uint32_t bytes;
        int result;
    } wrong[] = {
        {100, 512, -EINVAL},
        {0, 100, -EINVAL},
        {SOFT_DRIVE_BYTES, 512, -EINVAL},
        {SOFT_DRIVE_BYTES - 512, 1024, -EINVAL},
        {UINT64_MAX - 511, 512, -EINVAL},
        {0, 512, -EFAULT},
    };
    struct tutti_error err = {0};
    struct nvme_lane *lane, *second;
    struct soft_drive s;
    (void)state;

    soft_drive_open(&s, "", &NVME_BOUNDS);
    assert_int_equal(nvme_drive_take_lane(s.drive, 32, 4, &lane, &err), 0);
    assert_int_equal(nvme_drive_take_lane(s.drive, 32, 4, &second, &err), -EBUSY);
    for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct nvme_transfer t = {.offset = wrong[i].offset,
                                  .bytes = wrong[i].bytes,
                                  .segments = 1,
                                  .iov = &iov,
                                  .opcode = NVME_READ};

        nvme_lane_submit(lane, &t);
        assert_int_equal(collect_within(lane, 1, 1000 * MS), 1);
        assert_int_equal(t.result, wrong[i].result);
    }
    nvme_drive_give_lane(s.drive, lane);
    assert_int_equal(nvme_drive_take_lane(s.drive, 32, 4, &lane, &err), 0);
    nvme_drive_give_lane(s.drive, lane);
    soft_drive_close(&s);
    free(memory);
}

static void whole_reads_and_writes(void **state)
{
    uint8_t *data = malloc(5 << 20), *back = malloc(5 << 20);
    struct soft_counters counters;
    struct soft_drive s;
    (void)state;

    soft_drive_open(&s, ",mdts=5", &NVME_BOUNDS);
    for (uint32_t i = 0; i < 5 << 20; i++)
        data[i] = (uint8_t)(i * 31 >> 3);
    assert_int_equal(nvme_drive_write(s.drive, data, 5 << 20, 512 * 7), 0);
    assert_int_equal(nvme_drive_flush(s.drive), 0);
    assert_int_equal(nvme_drive_read(s.drive, back, 5 << 20, 512 * 7), 0);
    assert_memory_equal(data, back, 5 << 20);
    assert_int_equal(nvme_drive_read(s.drive, back, 512, SOFT_DRIVE_BYTES), -EINVAL);
    soft_counters(s.soft, &counters);
    assert_int_equal(counters.flushes, 0); /* it has no cache that could be flushed */
    soft_drive_close(&s);
    free(data);
    free(back);
}

static void named_drives(void **state)
{
    struct nvme_drive *a, *b;
    struct tutti_error err = {0};
    struct nvme_facts facts;
    char path[64], name[160];
    (void)state;

    soft_drive_file(path);
    snprintf(name, sizeof(name), "soft:%s,lba=4096,mdts=3,sgls=1,depth=64,queues=8", path);
    assert_true(nvme_drive_is_named(name));
    assert_false(nvme_drive_is_named(path));
    assert_int_equal(nvme_drive_open(name, &a, &err), 0);
    assert_int_equal(nvme_drive_open(name, &b, &err), 0); /* once more, not a second one */
    assert_ptr_equal(a, b);
    nvme_drive_facts(a, &facts);
    assert_int_equal(facts.block_bytes, 4096);
    assert_int_equal(facts.blocks, SOFT_DRIVE_BYTES / 4096);
    assert_int_equal(facts.transfer_bytes, 32768);
    assert_int_equal(facts.sgls, 1);
    assert_int_equal(facts.depth, 64);
    assert_int_equal(nvme_drive_claim(a), 0);
    assert_int_equal(nvme_drive_claim(b), -EBUSY);
    nvme_drive_release(a);
    assert_int_equal(nvme_drive_claim(b), 0);
    nvme_drive_close(b);
    snprintf(name, sizeof(name), "soft:%s", path); /* the same file by another name */
    assert_int_equal(nvme_drive_open(name, &b, &err), -EBUSY);
    nvme_drive_close(a);
    nvme_drive_close(NULL);
    snprintf(name, sizeof(name), "soft:%s,lba=1024", path);
    assert_int_equal(nvme_drive_open(name, &b, &err), -EINVAL);
    snprintf(name, sizeof(name), "soft:%s,color=red", path);
    assert_int_equal(nvme_drive_open(name, &b, &err), -EINVAL);
    snprintf(name, sizeof(name), "soft:%s,lba=5x", path);
    assert_int_equal(nvme_drive_open(name, &b, &err), -EINVAL);
    assert_int_equal(truncate(path, 0), 0);
    snprintf(name, sizeof(name), "soft:%s", path);
    assert_int_equal(nvme_drive_open(name, &b, &err), -EINVAL);
    unlink(path);
    assert_int_equal(nvme_drive_open(name, &b, &err), -ENOENT);
    assert_int_equal(nvme_drive_open("elsewhere", &b, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind),
        cmocka_unit_test(doorbells),
        cmocka_unit_test(what_is_wrong_with_a_transfer),
        cmocka_unit_test(whole_reads_and_writes),
        cmocka_unit_test(named_drives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
