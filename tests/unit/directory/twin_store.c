/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A prefix that two requests store at once is stored once: the second gets
 * entries only for what it has beyond the first, and those wait for the first
 * one's blocks. If the first one's store fails, both are gone: no half copy.
 * (cases.md row 8.)
 *
 * Seen to fail with reserve() taking only visible blocks for present.
 */
#include "world.h"

static void stored_once(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *first = chain_new(1, 10);
    struct chain_of *second = chain_new(1, 10);

    (void)state;
    chain_name(second, 2, 6, 10);
    assert_int_equal(reserve(d, first, 0, 8, false), 8);
    assert_int_equal(reserve(d, second, 0, 10, false), 4);
    assert_int_equal(second->index[0], 6);
    assert_int_equal(stats_of(d).writing, 12);
    report_all(d, second, 4);
    assert_int_equal(hit(d, second, 10), 0);
    report_all(d, first, 8);
    assert_int_equal(hit(d, first, 8), 8);
    assert_int_equal(hit(d, second, 10), 10);
    assert_int_equal(reserve(d, second, 0, 10, false), 0); /* all there */
    audit(d);
    tutti_directory_free(d);
    free(first);
    free(second);
}

static void fails_for_both(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *first = chain_new(1, 10);
    struct chain_of *second = chain_new(1, 10);

    (void)state;
    chain_name(second, 2, 6, 10);
    assert_int_equal(reserve(d, first, 0, 8, false), 8);
    assert_int_equal(reserve(d, second, 0, 10, false), 4);
    report_all(d, second, 4);
    assert_int_equal(
        tutti_directory_report(d, 0, first->out[3].slot, first->out[3].generation, false), 0);
    audit(d);
    report_all(d, first, 3);
    assert_int_equal(hit(d, second, 10), 3);
    assert_int_equal(stats_of(d).leaving, 5); /* blocks 4 to 7 are unreported, 3 is above them */
    tutti_directory_free(d);
    free(first);
    free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(stored_once),
                                       cmocka_unit_test(fails_for_both)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
