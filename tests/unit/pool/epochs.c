/* SPDX-License-Identifier: Apache-2.0 */
/* An epoch is durable on every member, in both copies; the oldest one voids what came before. */
#include "fixture.h"

#include <signal.h>
#include <sys/resource.h>

static void rules(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_error err = {0};
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    assert_int_equal(tutti_pool_begin_epoch(pool, 0, 0, fixture_identity, &err), -EINVAL);
    fixture_begin_epoch(pool, 5, 3);
    assert_int_equal(tutti_pool_begin_epoch(pool, 5, 0, fixture_identity, &err), -EINVAL);
    assert_non_null(strstr(err.message, "epoch 5"));
    assert_int_equal(tutti_pool_begin_epoch(pool, 6, 2, fixture_identity, &err), -EINVAL);
    assert_int_equal(tutti_pool_begin_epoch(pool, 6, 7, fixture_identity, &err), -EINVAL);
    assert_int_equal(tutti_pool_begin_epoch(pool, TUTTI_EPOCH_MAX + 1, 0, fixture_identity, &err),
                     -EINVAL);
    fixture_begin_epoch(pool, 6, 0);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.superblock.epoch, 6);
    assert_int_equal(info.superblock.oldest_epoch, 3);
    assert_memory_equal(info.superblock.identity, fixture_identity, 16);
    fixture_begin_epoch(pool, TUTTI_EPOCH_MAX, TUTTI_EPOCH_MAX);
    tutti_pool_close(pool);
    fixture_remove(folder);
}

static void counts_of(struct tutti_pool *pool, size_t *count, struct tutti_scan_report *report)
{
    struct tutti_scan_entry *entries;
    struct tutti_error err = {0};

    must(tutti_pool_scan(pool, 0, &entries, count, report, &err), &err);
    free(entries);
}

static void reset_voids(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_scan_report report;
    struct tutti_pool *pool;
    size_t count;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    for (uint32_t epoch = 1; epoch <= 3; epoch++) {
        struct fixture_slot f = {.slot = epoch, .generation = generation_of(epoch, 1)};

        fixture_begin_epoch(pool, epoch, 0);
        fixture_write_slot(pool, &f);
    }
    /* A record of an epoch that has not begun here: its superblock was lost, or it is not ours. */
    fixture_write_slot(pool, &(struct fixture_slot){.slot = 9, .generation = generation_of(4, 1)});
    counts_of(pool, &count, &report);
    assert_int_equal(count, 3);
    assert_int_equal(report.void_, 1);
    fixture_begin_epoch(pool, 4, 3);
    counts_of(pool, &count, &report);
    assert_int_equal(count, 2); /* of epochs 3 and 4 */
    assert_int_equal(report.void_, 2);
    tutti_pool_close(pool);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 5, 5);
    counts_of(pool, &count, &report);
    assert_int_equal(count, 0);
    assert_int_equal(report.void_, 4);
    tutti_pool_close(pool);
    fixture_remove(folder);
}

/* A crash between two members: the member that is ahead is right. */
static void between_members(void **state)
{
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        char *folder = fixture_folder();
        char *file[2] = {fixture_path(folder, "first"), fixture_path(folder, "second")};
        struct tutti_pool_options options = fixture_options(folder);
        unsigned char before[2][4096];
        struct tutti_pool_info info;
        struct tutti_pool *pool;

        options.bytes = 10 * MIB;
        options.member = (const char *const *)file;
        options.members = 2;
        fixture_format(&options);
        pool = fixture_open(&options);
        fixture_begin_epoch(pool, 1, 0);
        for (unsigned copy = 0; copy < 2; copy++)
            fixture_peek(file[1 - ahead], (off_t)copy * TUTTI_SUPERBLOCK_COPY, before[copy], 4096);
        fixture_begin_epoch(pool, 2, 2);
        tutti_pool_close(pool);
        for (unsigned copy = 0; copy < 2; copy++)
            fixture_poke(file[1 - ahead], (off_t)copy * TUTTI_SUPERBLOCK_COPY, before[copy], 4096);
        pool = fixture_open(&options);
        tutti_pool_info(pool, &info);
        assert_int_equal(info.superblock.epoch, 2);
        assert_int_equal(info.superblock.oldest_epoch, 2);
        fixture_begin_epoch(pool, 3, 0);
        tutti_pool_close(pool);
        for (int i = 0; i < 2; i++)
            for (unsigned copy = 0; copy < 2; copy++) { /* and all are in step again */
                struct tutti_superblock s;

                fixture_superblock(file[i], copy, &s);
                assert_int_equal(s.epoch, 3);
            }
        free(file[0]);
        free(file[1]);
        fixture_remove(folder);
    }
}

/* A reset whose second copy failed is on disk already; closing does not take it back. */
static void half_begun(void **state)
{
    static const uint8_t identity[TUTTI_IDENTITY_BYTES];
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_pool_info before, after;
    struct tutti_pool *pool;
    struct tutti_error err = {0};
    struct rlimit old, low;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 60000; /* between the two copies: one of the two writes fails */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    assert_true(tutti_pool_begin_epoch(pool, 2, 2, identity, &err) < 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    options.read_only = true;
    {
        struct tutti_pool *look = fixture_open(&options);

        tutti_pool_info(look, &before);
        tutti_pool_close(look);
    }
    tutti_pool_count_written(pool, 1);
    tutti_pool_close(pool);
    pool = fixture_open(&options);
    tutti_pool_info(pool, &after);
    assert_true(after.superblock.epoch >= before.superblock.epoch);
    assert_true(after.superblock.oldest_epoch >= before.superblock.oldest_epoch);
    tutti_pool_close(pool);
    fixture_remove(folder);
}

static void written_bytes_add_up(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    (void)state;
    fixture_format(&options);
    for (uint64_t life = 1; life <= 3; life++) {
        pool = fixture_open(&options);
        tutti_pool_info(pool, &info);
        assert_int_equal(info.superblock.written_bytes, (life - 1) * 1500);
        tutti_pool_count_written(pool, 1000);
        fixture_begin_epoch(pool, life, 0);
        tutti_pool_count_written(pool, 500);
        tutti_pool_close(pool);
    }
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules), cmocka_unit_test(reset_voids), cmocka_unit_test(between_members),
        cmocka_unit_test(half_begun), cmocka_unit_test(written_bytes_add_up)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
