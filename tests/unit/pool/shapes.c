/* SPDX-License-Identifier: Apache-2.0 */
/* A pool takes up new shapes that fit its records, remembers them, and refuses those that don't. */
#include "fixture.h"

static struct tutti_superblock superblock_of(const struct tutti_pool_options *options)
{
    struct tutti_pool_options reader = *options;
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    reader.read_only = true;
    reader.groups = 0;
    pool = fixture_open(&reader);
    tutti_pool_info(pool, &info);
    tutti_pool_close(pool);
    return info.superblock;
}

static void appended_once(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_geometry other = small_shape;
    struct tutti_geometry got;
    struct tutti_pool *pool;
    uint64_t sequence;

    (void)state;
    fixture_format(&options);
    assert_int_equal(superblock_of(&options).groups, 1);
    other.object_bytes = 9000;
    options.geometry = &other;

    options.read_only = true; /* looking adds nothing on disk */
    pool = fixture_open(&options);
    assert_int_equal(tutti_pool_geometry(pool, 0, &got), 0);
    assert_int_equal(got.object_bytes, 9000);
    tutti_pool_close(pool);
    assert_int_equal(superblock_of(&options).groups, 1);
    options.read_only = false;

    pool = fixture_open(&options);
    assert_int_equal(tutti_pool_geometry(pool, 1, &got), -ENOENT);
    tutti_pool_close(pool);
    assert_int_equal(superblock_of(&options).groups, 2);
    sequence = superblock_of(&options).sequence;
    tutti_pool_close(fixture_open(&options));
    options.geometry = &small_shape;
    pool = fixture_open(&options); /* the opener's shape is the current one */
    assert_int_equal(tutti_pool_geometry(pool, 0, &got), 0);
    assert_int_equal(got.object_bytes, small_shape.object_bytes);
    tutti_pool_close(pool);
    assert_int_equal(superblock_of(&options).sequence, sequence); /* nothing was written */
    fixture_remove(folder);
}

static void two_groups(void **state)
{
    char *folder = fixture_folder();
    struct tutti_geometry shapes[2] = {small_shape, small_shape};
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_placement p[2];
    struct tutti_error err = {0};
    struct tutti_pool *pool;

    (void)state;
    shapes[1].group = 1;
    shapes[1].layers = 40;
    options.geometry = shapes;
    options.groups = 2;
    options.alignment = 512;
    fixture_format(&options);
    pool = fixture_open(&options);
    for (uint32_t g = 0; g < 2; g++)
        assert_int_equal(tutti_pool_placement(pool, g, &p[g]), 0);
    assert_int_equal(p[0].record_stride, 512); /* 192 + 8 x 40 */
    assert_int_equal(p[0].record_stride, p[1].record_stride);
    assert_int_equal(p[0].records_per_extent, p[1].records_per_extent);
    assert_int_equal(p[0].slots_per_extent, p[0].records_per_extent);
    assert_true(p[1].slots_per_extent < p[0].slots_per_extent);
    tutti_pool_close(pool);
    shapes[1].group = 0;
    assert_int_equal(tutti_pool_open(&options, &pool, &err), -EINVAL);
    assert_non_null(strstr(err.message, "two shapes are given for group 0"));
    fixture_remove(folder);
}

static void refused(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_geometry shape = small_shape;
    struct bytes before;

    (void)state;
    options.alignment = 512;
    fixture_format(&options);
    before = fixture_bytes(path);
    options.geometry = &shape;
    shape.layers = 41; /* a record of 520 bytes */
    REFUSED(&options, -EINVAL, path, "41 layers", "format a pool");
    shape = small_shape;
    shape.object_bytes = MIB;
    REFUSED(&options, -EINVAL, path, "holds no slot", "larger extents");
    shape.layers = 0;
    REFUSED(&options, -EINVAL, "0 layers", "1 to 256");
    assert_unchanged(path, before);
    free(before.data);
    free(path);
    fixture_remove(folder);
}

/* The ninth shape takes the place of the oldest that nobody asks for. */
static void table_full(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_geometry shape[2] = {small_shape, small_shape};
    struct tutti_superblock s;

    (void)state;
    fixture_format(&options);
    options.geometry = shape;
    options.groups = 2;
    shape[1].group = 1;
    for (uint64_t i = 0; i < 20; i++) {
        shape[1].object_bytes = 100 + i;
        tutti_pool_close(fixture_open(&options));
        s = superblock_of(&options);
        assert_int_equal(s.groups, i + 2 < 8 ? i + 2 : 8);
        assert_memory_equal(&s.geometry[0], &shape[0], sizeof(shape[0]));
        assert_memory_equal(&s.geometry[s.groups - 1], &shape[1], sizeof(shape[1]));
    }
    fixture_remove(folder);
}

/* When all but the newest are asked for, the newest goes. */
static void table_full_of_wanted(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_geometry shape[8];
    struct tutti_superblock s;

    (void)state;
    options.geometry = shape;
    options.groups = 8;
    for (uint32_t i = 0; i < 8; i++) {
        shape[i] = small_shape;
        shape[i].group = i;
    }
    fixture_format(&options);
    shape[7].object_bytes = 100;
    tutti_pool_close(fixture_open(&options));
    s = superblock_of(&options);
    assert_int_equal(s.groups, 8);
    assert_memory_equal(s.geometry, shape, sizeof(shape));
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appended_once), cmocka_unit_test(two_groups), cmocka_unit_test(refused),
        cmocka_unit_test(table_full_of_wanted), cmocka_unit_test(table_full)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
