/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A match is a promise only until the next change: pinning one whose slot has
 * moved on is -ESTALE, whatever the slot holds now, and pins nothing
 * (cases.md row 14). Looking, again and again, changes nothing at all.
 *
 * Seen to fail with the generation not compared (pin, unpin), the depth not
 * compared, and with find() counting as a use.
 */
#include "world.h"

#include <errno.h>

static void moved_on(void **state)
{
    struct tutti_directory *d = directory_of(1, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);
    struct chain_of *other = chain_new(2, 10);
    struct tutti_match match;

    (void)state;
    put_blocks(d, c, 0, 10, false);
    match = match_of(d, c, 10);
    put_blocks(d, other, 0, 10, false); /* evicts it: same slots, same depths */
    assert_int_equal(match_of(d, other, 10).slot, match.slot);
    assert_int_equal(tutti_directory_pin(d, &match, 0, c->out), -ESTALE);
    assert_int_equal(tutti_directory_unpin(d, match.slot, match.generation), -EINVAL);
    assert_int_equal(stats_of(d).pinned, 0);

    /* Nor does a late unpin take the new owner's pin. */
    {
        struct tutti_match now = match_of(d, other, 10);

        assert_int_equal(tutti_directory_pin(d, &now, 0, other->out), 0);
        assert_int_equal(tutti_directory_unpin(d, match.slot, match.generation), -EINVAL);
        assert_int_equal(stats_of(d).pinned, 1);
        assert_int_equal(tutti_directory_unpin(d, now.slot, now.generation), 0);
    }
    tutti_directory_free(d);
    free(c);
    free(other);
}

static void dropped_reset_or_nonsense(void **state)
{
    struct tutti_directory *d = directory_of(2, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);
    struct chain_of *b = chain_new(2, 5);
    struct tutti_match match;
    struct tutti_match wrong;

    (void)state;
    put_blocks(d, b, 0, 5, false);
    put_blocks(d, c, 0, 10, false);
    match = match_of(d, c, 10);
    assert_int_equal(tutti_directory_drop(d, match.slot, match.generation), 1);
    assert_int_equal(tutti_directory_pin(d, &match, 0, c->out), -ESTALE);
    match = match_of(d, b, 5);
    wrong = match;
    wrong.blocks = 4;
    assert_int_equal(tutti_directory_pin(d, &wrong, 0, c->out), -EUCLEAN);
    assert_int_equal(tutti_directory_pin(d, &wrong, 4, NULL), -EUCLEAN);
    wrong.blocks = 0;
    assert_int_equal(tutti_directory_pin(d, &wrong, 0, c->out), -EINVAL);
    assert_int_equal(tutti_directory_pin(d, &match, 6, c->out), -EINVAL);
    wrong = match;
    wrong.slot = UINT32_MAX;
    assert_int_equal(tutti_directory_pin(d, &wrong, 0, c->out), -ESTALE);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, true, NULL, NULL), 0);
    assert_int_equal(tutti_directory_pin(d, &match, 0, c->out), -ESTALE);
    assert_int_equal(stats_of(d).pinned, 0);
    audit(d);
    tutti_directory_free(d);
    free(c);
    free(b);
}

static void looking_changes_nothing(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);
    struct chain_of *other = chain_new(2, 10);
    struct tutti_directory before;
    struct slot slots[40];
    uint32_t i;

    (void)state;
    put_blocks(d, c, 0, 10, false);
    put_blocks(d, other, 0, 10, false);
    memcpy(&before, d, sizeof(before));
    memcpy(slots, d->slot, sizeof(slots));
    for (i = 0; i < 100; i++)
        assert_int_equal(hit(d, c, 10), 10);
    assert_memory_equal(&before, d, sizeof(before));
    assert_memory_equal(slots, d->slot, sizeof(slots));
    tutti_directory_free(d);
    free(c);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(moved_on),
                                       cmocka_unit_test(dropped_reset_or_nonsense),
                                       cmocka_unit_test(looking_changes_nothing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
