/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A superblock write torn at any 512-byte boundary, from its head or from its
 * tail, leaves a pool that opens, with the epoch before or the one after.
 */
#include "fixture.h"

static uint64_t epoch_of(const struct tutti_pool_options *options)
{
    struct tutti_pool *pool = fixture_open(options);
    struct tutti_pool_info info;

    tutti_pool_info(pool, &info);
    tutti_pool_close(pool);
    return info.superblock.epoch;
}

/* An image of the member before and after begin_epoch() gives what each write changed. */
static void every_boundary(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    unsigned char before[2][4096];
    unsigned char after[2][4096];
    struct tutti_pool *pool;
    int seen_old = 0;
    int seen_new = 0;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    for (unsigned copy = 0; copy < 2; copy++)
        fixture_peek(path, (off_t)copy * TUTTI_SUPERBLOCK_COPY, before[copy], 4096);
    fixture_begin_epoch(pool, 2, 2);
    for (unsigned copy = 0; copy < 2; copy++)
        fixture_peek(path, (off_t)copy * TUTTI_SUPERBLOCK_COPY, after[copy], 4096);
    tutti_pool_close(pool);
    /* The older copy is written first: with three writes so far, that is the second one's twin. */
    for (unsigned first = 0; first < 2; first++)
        for (int stage = 0; stage < 2; stage++)
            for (int sectors = 0; sectors <= 8; sectors++)
                for (int tail = 0; tail < 2; tail++) {
                    unsigned torn = stage == 0 ? first : 1 - first;
                    unsigned char image[4096];
                    size_t cut = (size_t)sectors * 512;
                    uint64_t epoch;

                    memcpy(image, tail ? before[torn] : after[torn], cut);
                    memcpy(image + cut, (tail ? after[torn] : before[torn]) + cut, 4096 - cut);
                    fixture_poke(path, (off_t)torn * TUTTI_SUPERBLOCK_COPY, image, 4096);
                    fixture_poke(path, (off_t)(1 - torn) * TUTTI_SUPERBLOCK_COPY,
                                 stage == 0 ? before[1 - torn] : after[1 - torn], 4096);
                    epoch = epoch_of(&options);
                    assert_true(epoch == 1 || epoch == 2);
                    if (stage == 1) /* the first copy was flushed: it is not forgotten */
                        assert_int_equal(epoch, 2);
                    seen_old += epoch == 1;
                    seen_new += epoch == 2;
                }
    assert_true(seen_old > 0);
    assert_true(seen_new > 0);
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_boundary)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
