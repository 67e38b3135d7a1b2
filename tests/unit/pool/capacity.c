/* SPDX-License-Identifier: Apache-2.0 */
/* The size is a bound: all files together, as the file system charges them, stay within it. */
#include "fixture.h"

static void count_up(void *argument, uint64_t done, uint64_t all)
{
    uint64_t *last = argument;

    assert_true(done > last[0]);
    assert_true(done <= all);
    last[0] = done;
    last[1] = all;
}

static void stays_within(void **state)
{
    const uint64_t sizes[] = {2 * MIB,  2 * MIB + 1,      3 * MIB - 1, 5 * MIB,
                              10 * MIB, 17 * MIB + 12345, 64 * MIB,    100 * MIB};
    const uint32_t members[] = {1, 2, 5};

    (void)state;
    for (size_t m = 0; m < 3; m++)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            char *folder = fixture_folder();
            struct tutti_pool_options options = fixture_options(folder);
            char *path[8];
            struct tutti_error err = {0};
            uint64_t charged = 0, progress[2] = {0};
            int rc;

            for (uint32_t k = 0; k < members[m]; k++) {
                char name[16];

                snprintf(name, sizeof(name), "file%u", k);
                path[k] = fixture_path(folder, name);
            }
            options.member = (const char *const *)path;
            options.members = members[m];
            options.bytes = sizes[i];
            options.progress = count_up;
            options.argument = progress;
            rc = tutti_pool_format(&options, &err);
            if (sizes[i] / members[m] < 2 * MIB) {
                assert_int_equal(rc, -EINVAL);
                assert_non_null(strstr(err.message, "too few for this model"));
                assert_non_null(strstr(err.message, "needs at least"));
            } else {
                must(rc, &err);
                assert_int_equal(progress[0], progress[1]);
                assert_true(progress[1] > 0);
                for (uint32_t k = 0; k < members[m]; k++) {
                    struct stat st;

                    assert_int_equal(stat(path[k], &st), 0);
                    assert_true((uint64_t)st.st_blocks * 512 >=
                                (uint64_t)st.st_size); /* all of it */
                    charged += (uint64_t)st.st_blocks * 512;
                }
                assert_true(charged <= sizes[i]);
                assert_true(charged + members[m] * 2 * MIB > sizes[i]); /* and not much less */
                tutti_pool_close(fixture_open(&options));
            }
            for (uint32_t k = 0; k < members[m]; k++)
                free(path[k]);
            fixture_remove(folder);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(stays_within)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
