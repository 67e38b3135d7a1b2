/* SPDX-License-Identifier: Apache-2.0 */
/* A format that was killed leaves a file under another name; the next format takes it over. */
#include "fixture.h"

static void taken_over(void **state)
{
    char *folder = fixture_folder();
    char *left = fixture_path(folder, "rank0.member0.tutti.formatting");
    struct tutti_pool_options options = fixture_options(folder);
    FILE *f = fopen(left, "w");
    struct stat st;

    (void)state;
    assert_non_null(f);
    for (int i = 0; i < 100000; i++)
        fputs("half made ", f);
    fclose(f);
    REFUSED(&options, -ENOENT, "no pool in this folder"); /* it is not mistaken for a pool */
    fixture_format(&options);
    assert_int_equal(stat(left, &st), -1);
    tutti_pool_close(fixture_open(&options));
    free(left);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(taken_over)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
