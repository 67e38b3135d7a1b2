/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slot dropped for bad data takes its subtree along at once, and each of
 * these slots is handed out for erasure, with the generation and key that it
 * had, before it is given to anybody: an erasure can't hit the next owner's
 * record. Dropping again, or what has moved on, does nothing. (cases.md row 10:
 * the block is then stored again.)
 *
 * Seen to fail with dropped slots made free at once, and with the subtree left
 * visible.
 */
#include "world.h"

static void subtree_goes_and_is_erased(void **state)
{
    struct tutti_directory *d = directory_of(2, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);
    struct chain_of *again = chain_new(1, 10);
    struct tutti_transfer erased[16];
    uint32_t seen = 0;
    uint32_t i;

    (void)state;
    put_blocks(d, c, 0, 10, false);
    assert_int_equal(tutti_directory_drop(d, c->out[5].slot, c->out[5].generation + 1), 0);
    assert_int_equal(tutti_directory_drop(d, 1000, 1), 0);
    assert_int_equal(tutti_directory_drop(d, c->out[5].slot, c->out[5].generation), 5);
    assert_int_equal(tutti_directory_drop(d, c->out[5].slot, c->out[5].generation), 0);
    assert_int_equal(hit(d, c, 10), 5);
    assert_int_equal(stats_of(d).leaving, 5);
    assert_int_equal(stats_of(d).dropped, 5);

    assert_int_equal(put_blocks(d, again, 0, 10, false), 5); /* stored again, elsewhere */
    for (i = 0; i < 5; i++)
        assert_true(again->out[i].slot < c->out[5].slot || again->out[i].slot > c->out[9].slot);
    assert_int_equal(hit(d, c, 10), 10);

    assert_int_equal(tutti_directory_take_erased(d, erased, 2), 2);
    assert_int_equal(tutti_directory_take_erased(d, erased + 2, 14), 3);
    assert_int_equal(tutti_directory_take_erased(d, erased, 14), 0);
    for (i = 0; i < 5; i++) {
        uint32_t block = erased[i].slot - c->out[0].slot;

        assert_in_range(block, 5, 9);
        assert_int_equal(erased[i].generation, c->out[block].generation);
        assert_true(tutti_key_equal(erased[i].key, c->out[block].key));
        seen |= 1u << block;
    }
    assert_int_equal(seen, 0x3e0);
    assert_int_equal(stats_of(d).leaving, 0);
    assert_int_equal(stats_of(d).free, 10);
    audit(d);
    tutti_directory_free(d);
    free(c);
    free(again);
}

/* What is still being written is erased when every rank has spoken, not before. */
static void not_before_the_write_ended(void **state)
{
    struct tutti_directory *d = directory_of(2, 10, 1, 2);
    struct chain_of *c = chain_new(1, 4);
    struct tutti_transfer erased[4];

    (void)state;
    assert_int_equal(reserve(d, c, 0, 4, false), 4);
    report_all(d, c, 2);
    assert_int_equal(tutti_directory_drop(d, c->out[1].slot, c->out[1].generation), 3);
    assert_int_equal(tutti_directory_take_erased(d, erased, 4), 0);
    assert_int_equal(tutti_directory_report(d, 0, c->out[3].slot, c->out[3].generation, true), 0);
    assert_int_equal(tutti_directory_take_erased(d, erased, 4), 0);
    assert_int_equal(tutti_directory_report(d, 1, c->out[3].slot, c->out[3].generation, false), 0);
    assert_int_equal(tutti_directory_take_erased(d, erased, 4), 1);
    assert_int_equal(tutti_directory_report(d, 0, c->out[2].slot, c->out[2].generation, true), 0);
    assert_int_equal(tutti_directory_report(d, 1, c->out[2].slot, c->out[2].generation, true), 0);
    assert_int_equal(tutti_directory_take_erased(d, erased, 4), 2);
    assert_int_equal(stats_of(d).free, 19);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(subtree_goes_and_is_erased),
                                       cmocka_unit_test(not_before_the_write_ended)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
