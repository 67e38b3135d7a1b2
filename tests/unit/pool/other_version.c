/* SPDX-License-Identifier: Apache-2.0 */
/* A pool of another format version is refused, named, and not even formatted over by force. */
#include "fixture.h"

static void refused(void **state)
{
    for (unsigned copies = 1; copies <= 3; copies++) { /* the first, the second, both */
        char *folder = fixture_folder();
        char *path = fixture_path(folder, "rank0.member0.tutti");
        struct tutti_pool_options options = fixture_options(folder);
        struct tutti_superblock s;
        struct tutti_error err = {0};
        struct bytes before;

        (void)state;
        fixture_format(&options);
        for (unsigned copy = 0; copy < 2; copy++)
            if (copies & (1u << copy)) {
                fixture_superblock(path, copy, &s);
                s.version = 2;
                fixture_put_superblock(path, copy, &s);
            }
        before = fixture_bytes(path);
        REFUSED(&options, -EPROTONOSUPPORT, path, "offset", "version 2", "knows version 1");
        options.force = true;
        assert_int_equal(tutti_pool_format(&options, &err), -EEXIST);
        assert_non_null(strstr(err.message, "another format version"));
        assert_unchanged(path, before);
        free(before.data);
        free(path);
        fixture_remove(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
