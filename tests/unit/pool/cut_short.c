/* SPDX-License-Identifier: Apache-2.0 */
/* A member that lost its end is refused at any length, and left as it is. */
#include "fixture.h"

static void every_length(void **state)
{
    const uint64_t whole = 5 * MIB; /* 1 MiB and four extents, exactly */
    const uint64_t lengths[] = {
        whole - 1, whole - 4096, MIB + 4096, MIB, 65536 + 4096, 65536 + 4095, 65536 + 1000, 65536,
        4096,      4095,         1,          0};
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);

    (void)state;
    fixture_format(&options);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct bytes before;

        assert_int_equal(truncate(path, (off_t)lengths[i]), 0);
        before = fixture_bytes(path);
        if (lengths[i] >= 4096) /* a superblock is left to say how long it was */
            REFUSED(&options, -EFBIG, path, "cut short", "offset", "format again");
        else
            REFUSED(&options, -EUCLEAN, path, "ends before");
        assert_unchanged(path, before);
        free(before.data);
    }
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_length)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
