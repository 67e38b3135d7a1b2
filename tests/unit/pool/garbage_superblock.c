/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Garbage in one superblock copy: the pool opens from the other, writes nothing,
 * and the next change repairs it. In both: refused, and left as it is.
 */
#include "fixture.h"

static void damage(const char *path, unsigned copy)
{
    unsigned char garbage[4096];

    fixture_fill(garbage, sizeof(garbage), 99, copy, 0, 0);
    fixture_poke(path, (off_t)copy * TUTTI_SUPERBLOCK_COPY, garbage, sizeof(garbage));
}

static void one_copy(void **state)
{
    (void)state;
    for (unsigned copy = 0; copy < 2; copy++) {
        char *folder = fixture_folder();
        char *path = fixture_path(folder, "rank0.member0.tutti");
        struct tutti_pool_options options = fixture_options(folder);
        struct tutti_pool *pool;
        struct tutti_pool_info info;
        struct bytes before;

        fixture_format(&options);
        pool = fixture_open(&options);
        fixture_begin_epoch(pool, 4, 2);
        tutti_pool_close(pool);
        damage(path, copy);
        before = fixture_bytes(path);
        pool = fixture_open(&options);
        tutti_pool_info(pool, &info);
        assert_int_equal(info.superblock.epoch, 4); /* either copy remembers it */
        assert_int_equal(info.superblock.oldest_epoch, 2);
        assert_unchanged(path, before);
        free(before.data);
        fixture_begin_epoch(pool, 5, 0);
        tutti_pool_close(pool);
        damage(path, 1 - copy); /* now the repaired one must serve */
        pool = fixture_open(&options);
        tutti_pool_info(pool, &info);
        assert_int_equal(info.superblock.epoch, 5);
        tutti_pool_close(pool);
        free(path);
        fixture_remove(folder);
    }
}

static void both_copies(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    struct bytes before;

    (void)state;
    fixture_format(&options);
    damage(path, 0);
    damage(path, 1);
    before = fixture_bytes(path);
    REFUSED(&options, -EUCLEAN, path, "neither superblock", "offset 0", "offset 65536", "Format");
    assert_unchanged(path, before);
    free(before.data);
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_copy), cmocka_unit_test(both_copies)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
