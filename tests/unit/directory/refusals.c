/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options that make no directory: each is refused with a message that names the
 * number, and nothing is leaked.
 */
#include "world.h"

#include <errno.h>

static void refused(const struct tutti_directory_options *o, int code, const char *says)
{
    struct tutti_directory *d = (struct tutti_directory *)1;
    struct tutti_error err = {0};

    assert_int_equal(tutti_directory_new(o, &d, &err), code);
    assert_null(d);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.message, says));
}

static void each_option(void **state)
{
    struct tutti_directory_options o;

    (void)state;
    o = options_of(4, 10, 1, 0);
    refused(&o, -EINVAL, "0 ranks");
    o = options_of(4, 10, 1, 65);
    refused(&o, -EINVAL, "65 ranks");
    o = options_of(0, 10, 1, 1);
    refused(&o, -EINVAL, "0 extents");
    o = options_of(4, 0, 1, 1);
    refused(&o, -EINVAL, "0 slots");
    o = options_of(4, 10, 0, 1);
    refused(&o, -EINVAL, "0 members");
    o = options_of(4, 10, TUTTI_MAX_MEMBERS + 1, 1);
    refused(&o, -EINVAL, "17 members");
    o = options_of(4, 10, 1, 1);
    o.placement.slots_per_extent = 11;
    refused(&o, -EINVAL, "11 slots and 10 records");
    o = options_of(1u << 20, 1u << 11, 1, 1);
    refused(&o, -EINVAL, "2147483648 slots");
    o = options_of(4, 10, 1, 1);
    o.ghosts = 1;
    refused(&o, -EINVAL, "ghosts");
}

/** Chains that cannot be: hashes of no length, more blocks than there are numbers. */
static void each_question(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 4);
    struct tutti_match match;

    (void)state;
    for (uint32_t bytes = 0; bytes <= 33; bytes += 33) {
        assert_int_equal(
            tutti_directory_reserve(d, c->hash, bytes, 0, 4, false, c->out, c->origin, c->index),
            -EINVAL);
        assert_int_equal(tutti_directory_find(d, c->hash, bytes, 4, &match), -EINVAL);
    }
    assert_int_equal(reserve(d, c, 0, UINT32_MAX, false), -EINVAL);
    assert_int_equal(reserve(d, c, UINT32_MAX, 2, false), -EINVAL);
    assert_int_equal(reserve(d, c, 1, 2, false), -ENOENT);
    assert_int_equal(tutti_directory_unpin(d, 4000, 1), -EINVAL);
    assert_int_equal(tutti_directory_report(d, 0, 4000, 1, true), -EINVAL);
    assert_int_equal(tutti_directory_drop(d, 4000, 1), 0);
    audit(d);
    free(c);
    tutti_directory_free(d);
    tutti_directory_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_option),
                                       cmocka_unit_test(each_question)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
