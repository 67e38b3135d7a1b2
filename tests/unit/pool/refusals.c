/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nobody can mean is refused with a sentence before a file is touched: options
 * outside their limits, paths that are empty or too long, shapes that contradict
 * each other, groups and members that are not there.
 * Seen to fail without options_check(), with a path that is cut, and with
 * tutti_pool_member_fd() that trusts its argument.
 */
#include "fixture.h"

static char long_path[5000];

static void refused(const struct tutti_pool_options *o, int code)
{
    struct tutti_error err = {0};
    struct tutti_pool *pool = NULL;

    assert_int_equal(tutti_pool_format(o, &err), code);
    assert_true(strlen(err.message) > 0);
    memset(&err, 0, sizeof(err));
    assert_true(tutti_pool_open(o, &pool, &err) < 0); /* there is no pool either */
    assert_true(strlen(err.message) > 0);
    assert_null(pool);
}

static void options(void **state)
{
    struct tutti_geometry two[2] = {small_shape, small_shape};
    const char *members[17], *nobody = NULL;
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    const struct tutti_pool_options good = fixture_options(home);
    struct tutti_pool_options o;
    (void)state;

    for (int i = 0; i < 17; i++)
        members[i] = "";
#define TRY(code, ...)                                                                             \
    do {                                                                                           \
        o = good;                                                                                  \
        __VA_ARGS__;                                                                               \
        refused(&o, (code));                                                                       \
        assert_int_equal(access(home, F_OK), -1);                                                  \
    } while (0)
    TRY(-EINVAL, o.home = NULL);
    TRY(-EINVAL, o.home = "");
    TRY(-EINVAL, o.ranks = 65);
    TRY(-EINVAL, o.rank = 1);
    TRY(-EINVAL, o.ranks = 0);
    TRY(-EINVAL, o.members = 1);
    TRY(-EINVAL, (o.member = members, o.members = 17));
    TRY(-EINVAL, o.member = members);
    TRY(-EINVAL, (o.member = members, o.members = 1));
    TRY(-EINVAL, o.groups = 9);
    TRY(-EINVAL, o.groups = 0);
    TRY(-EINVAL, o.geometry = NULL);
    TRY(-EINVAL, (o.geometry = two, o.groups = 2)); /* both of group 0 */
    TRY(-EINVAL, o.alignment = 1024);
    TRY(-EINVAL, o.bytes = 0);
    TRY(-EINVAL, o.bytes = 4096);
    TRY(-EINVAL, o.bytes = UINT64_MAX); /* more extents than can be counted */
    TRY(-EINVAL, (o.member = &nobody, o.members = 1));
    TRY(-EINVAL, o.extent_bytes = 4097);
    TRY(-EINVAL, o.extent_bytes = UINT64_C(1) << 41);
    two[0].layers = 0;
    TRY(-EINVAL, o.geometry = two);
    two[0] = small_shape;
    two[0].object_bytes = UINT64_C(1) << 30;
    TRY(-EINVAL, o.geometry = two); /* no extent of this size holds a slot of it */
#undef TRY
    free(home);
    fixture_remove(folder);
}

static void paths(void **state)
{
    const char *named = long_path;
    uint8_t id[16], secret[16];
    struct tutti_error err = {0};
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *below = fixture_path(folder, "no/such/folder");
    struct tutti_pool_options o = fixture_options(home);
    (void)state;

    memset(long_path, 'x', sizeof(long_path) - 1);
    o.member = &named;
    o.members = 1;
    refused(&o, -ENAMETOOLONG);
    o = fixture_options(long_path);
    refused(&o, -ENAMETOOLONG);
    o = fixture_options(below);
    refused(&o, -ENOENT);
    named = below;
    o = fixture_options(home);
    o.member = &named;
    o.members = 1;
    refused(&o, -ENOENT);
    assert_int_equal(tutti_pool_secret_load("", true, id, secret, &err), -EINVAL);
    assert_int_equal(tutti_pool_secret_load(below, true, id, secret, &err), -ENOENT);
    assert_int_equal(tutti_pool_disable(long_path, NULL, &err), -ENAMETOOLONG);
    assert_int_equal(tutti_pool_enable(long_path, &err), -ENAMETOOLONG);
    assert_int_equal(tutti_pool_disabled(long_path, NULL, 0), 0);
    assert_int_equal(tutti_pool_disable(below, "", &err), -ENOENT);
    assert_int_equal(tutti_pool_disabled("/dev/null", NULL, 0), 0);
    assert_int_equal(tutti_pool_disable(NULL, NULL, &err), -EINVAL);
    must(tutti_pool_disable(folder, NULL, &err), &err); /* both say that it was by hand */
    must(tutti_pool_disable(folder, "", &err), &err);
    assert_int_equal(tutti_pool_disabled(folder, NULL, 0), 1);
    free(home);
    free(below);
    fixture_remove(folder);
}

/** Paths without a folder in them are of the working directory. */
static void here(void **state)
{
    char *folder = fixture_folder(), *before = getcwd(NULL, 0);
    const char *names[2] = {"one", "two"};
    struct tutti_pool_options o = fixture_options("home/");
    (void)state;

    assert_int_equal(chdir(folder), 0);
    fixture_format(&o);
    tutti_pool_close(fixture_open(&o));
    o.home = "other";
    o.bytes = 10 * MIB;
    o.member = names;
    o.members = 2;
    fixture_format(&o);
    tutti_pool_close(fixture_open(&o));
    names[1] = "./one";
    REFUSED(&o, -EINVAL, "given twice");
    names[0] = "new";
    names[1] = "./new";
    REFUSED(&o, -EINVAL, "given twice");
    assert_int_equal(chdir(before), 0);
    free(before);
    fixture_remove(folder);
}

/** Extents are as large as the largest shape needs, wherever it stands. */
static void extents_of_two_shapes(void **state)
{
    char *folder = fixture_folder();
    struct tutti_geometry two[2] = {small_shape, small_shape};
    struct tutti_pool_options o = fixture_options(folder);
    struct tutti_pool_info info;
    struct tutti_pool *pool;
    (void)state;

    two[0].object_bytes = 4 * MIB;
    two[1].group = 1;
    o.geometry = two;
    o.groups = 2;
    o.extent_bytes = 0;
    o.bytes = 128 * MIB;
    fixture_format(&o);
    o.ranks = 0; /* as many as there are */
    pool = fixture_open(&o);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.superblock.extent_bytes, 32 * MIB); /* 6 x 4 MiB, and records */
    tutti_pool_close(pool);
    fixture_remove(folder);
}

static void questions(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options o = fixture_options(folder);
    struct tutti_placement placement;
    struct tutti_geometry geometry;
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    (void)state;

    fixture_format(&o);
    o.read_only = true;
    pool = fixture_open(&o);
    for (uint32_t group = 1; group < 12; group += 7) {
        assert_int_equal(tutti_pool_placement(pool, group, &placement), -ENOENT);
        assert_int_equal(tutti_pool_geometry(pool, group, &geometry), -ENOENT);
    }
    assert_int_equal(tutti_pool_member_fd(pool, 1), -1);
    assert_null(tutti_pool_member_path(pool, 1));
    assert_int_equal(tutti_pool_begin_epoch(pool, 1, 0, fixture_identity, &err), -EROFS);
    must(tutti_pool_flush(pool, &err), &err); /* there is nothing to flush */
    tutti_pool_close(pool);
    tutti_pool_close(NULL);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(options), cmocka_unit_test(paths),
                                       cmocka_unit_test(here), cmocka_unit_test(questions),
                                       cmocka_unit_test(extents_of_two_shapes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
