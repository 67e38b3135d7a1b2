/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member is recognised without its home, whatever copy is left, and nothing else is.
 * Seen to fail: with the superblock's verdict not handed on; with the secret asked for.
 */
#include "fixture.h"

static void recognised(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    char *secret = fixture_path(folder, "secret");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_superblock s = {0};
    struct tutti_error err = {0};

    (void)state;
    fixture_format(&options);
    assert_int_equal(unlink(secret), 0);
    must(tutti_pool_recognise(path, &s, &err), &err);
    assert_int_equal(s.magic, TUTTI_SUPERBLOCK_MAGIC);
    assert_int_equal(s.members, 1);
    fixture_superblock(path, 0, &s);
    s.version = 2;
    fixture_put_superblock(path, 0, &s);
    assert_int_equal(tutti_pool_recognise(path, &s, &err), -EPROTONOSUPPORT);
    fixture_flip(path, 200);
    must(tutti_pool_recognise(path, &s, &err), &err);
    fixture_flip(path, TUTTI_SUPERBLOCK_COPY + 200);
    assert_int_equal(tutti_pool_recognise(path, &s, &err), -EUCLEAN);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(tutti_pool_recognise(secret, &s, &err), -ENOENT);
    free(secret);
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(recognised)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
