/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member that was switched off is probed where its switch says that it is, or at its usual place;
 * what is not that member, or not all of it, does not come back, and the message says what it is.
 * Seen to fail with each of the three comparisons taken out of check_member().
 */
#include "fixture.h"

struct ranks {
    char *home;
    struct tutti_pool_options options[2];
    char *file[2];
};

static void begin(struct ranks *r)
{
    r->home = fixture_folder();
    for (uint32_t rank = 0; rank < 2; rank++) {
        char name[32];

        r->options[rank] = fixture_options(r->home);
        r->options[rank].ranks = 2;
        r->options[rank].rank = rank;
        fixture_format(&r->options[rank]);
        snprintf(name, sizeof(name), "rank%u.member0.tutti", rank);
        r->file[rank] = fixture_path(r->home, name);
    }
}

static void end(struct ranks *r)
{
    free(r->file[0]);
    free(r->file[1]);
    fixture_remove(r->home);
}

static void refused(const struct ranks *r, const char *at, int code, const char *words)
{
    struct tutti_error err = {0};

    must(tutti_pool_disable_member(r->home, 0, 0, "it erred", at, &err), &err);
    assert_int_equal(tutti_pool_probe_member(r->home, 0, 0, &err), code);
    assert_int_equal(err.code, code);
    if (!strstr(err.message, words) || !strstr(err.message, at))
        fail_msg("'%s' is not in: %s", words, err.message);
}

static void only_what_was_switched_off(void **state)
{
    struct tutti_superblock s;
    struct tutti_error err = {0};
    struct ranks r, other;
    char *moved;
    (void)state;

    begin(&r);
    begin(&other);
    must(tutti_pool_probe_member(r.home, 0, 0, &err), &err); /* at its usual place */
    moved = fixture_path(r.home, "moved");
    assert_int_equal(rename(r.file[0], moved), 0);
    assert_int_equal(tutti_pool_probe_member(r.home, 0, 0, &err), -ENOENT);
    assert_non_null(strstr(err.message, r.file[0]));
    must(tutti_pool_disable_member(r.home, 0, 0, "it erred", moved, &err), &err);
    must(tutti_pool_probe_member(r.home, 0, 0, &err), &err);

    refused(&r, r.file[1], -EXDEV, "is member 0 of rank 1 of this pool");
    refused(&r, other.file[0], -EXDEV, "is member 0 of rank 0 of another pool");
    fixture_superblock(moved, 1, &s);
    s.member = 1;
    s.members = 2;
    fixture_put_superblock(moved, 1, &s);
    refused(&r, moved, -EXDEV, "is member 1 of rank 0 of this pool");
    s.member = 0;
    fixture_put_superblock(moved, 1, &s);
    assert_int_equal(truncate(moved, 3 * MIB), 0);
    refused(&r, moved, -EFBIG, "ends at offset 3145728");
    free(moved);
    end(&r);
    end(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_what_was_switched_off)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
