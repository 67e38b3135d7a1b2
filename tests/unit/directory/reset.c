/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reset: nothing older is found, without a walk; what is stored again under
 * the same key replaces it; what is read or written keeps its slot until that
 * ended; void slots are the first to go. A new identity does the same; an epoch
 * without a reset forgets nothing.
 *
 * Seen to fail with find() not asking for void, with reserve() taking a void
 * block for present (never stored again), and with void slots counted as ours.
 */
#include "world.h"

#include <errno.h>

static void forgets_and_stores_again(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);

    (void)state;
    put_blocks(d, c, 0, 10, false);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, false, NULL, NULL), 0);
    assert_int_equal(hit(d, c, 10), 10);
    assert_int_equal(tutti_directory_begin_epoch(d, 3, true, NULL, NULL), 0);
    audit(d);
    assert_int_equal(hit(d, c, 10), 0);
    assert_int_equal(stats_of(d).foreign, 10);
    assert_int_equal(reserve(d, c, 5, 5, false), -ENOENT);
    assert_int_equal(put_blocks(d, c, 0, 10, false), 10);
    assert_int_equal(tutti_generation_epoch(c->out[0].generation), 3);
    assert_int_equal(hit(d, c, 10), 10);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

static void in_use_across_a_reset(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *read = chain_new(1, 10);
    struct chain_of *written = chain_new(2, 10);
    struct chain_of *again = chain_new(2, 10);
    struct chain_of *other = chain_new(3, 40);
    struct tutti_match match;

    (void)state;
    put_blocks(d, read, 0, 10, false);
    match = match_of(d, read, 10);
    assert_int_equal(tutti_directory_pin(d, &match, 0, read->out), 0);
    assert_int_equal(reserve(d, written, 0, 10, false), 10);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, true, NULL, NULL), 0);
    assert_int_equal(stats_of(d).leaving, 10);

    assert_int_equal(reserve(d, again, 0, 10, false), 10); /* same keys, other slots */
    assert_int_equal(reserve(d, other, 0, 40, false), 10); /* nothing else can be had */
    audit(d);
    report_all(d, written, 10); /* too late to be seen */
    assert_int_equal(hit(d, written, 10), 0);
    assert_int_equal(tutti_directory_unpin(d, match.slot, match.generation), 0);
    report_all(d, again, 10);
    assert_int_equal(hit(d, again, 10), 10);
    assert_int_equal(reserve(d, other, 0, 30, false), 20);
    assert_int_equal(hit(d, again, 10), 10);
    audit(d);
    tutti_directory_free(d);
    free(read);
    free(written);
    free(again);
    free(other);
}

static void void_slots_go_first(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *old = chain_new(1, 20);
    struct chain_of *now = chain_new(2, 20);
    struct chain_of *next = chain_new(3, 20);

    (void)state;
    put_blocks(d, old, 0, 20, false);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, true, NULL, NULL), 0);
    put_blocks(d, now, 0, 20, false);
    put_blocks(d, next, 0, 20, false);
    assert_int_equal(hit(d, now, 20), 20);
    assert_int_equal(hit(d, next, 20), 20);
    assert_int_equal(stats_of(d).foreign, 0);
    assert_int_equal(stats_of(d).evicted, 0); /* of ours */
    tutti_directory_free(d);
    free(old);
    free(now);
    free(next);
}

static void another_identity(void **state)
{
    static const uint8_t identity[TUTTI_IDENTITY_BYTES] = {9};
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);
    struct tutti_key before;

    (void)state;
    put_blocks(d, c, 0, 10, false);
    before = c->out[0].key;
    assert_int_equal(tutti_directory_begin_epoch(d, 2, false, d->options.identity, NULL), 0);
    assert_int_equal(hit(d, c, 10), 10); /* the same one: nothing changes */
    assert_int_equal(tutti_directory_begin_epoch(d, 3, false, identity, NULL), 0);
    assert_int_equal(hit(d, c, 10), 0);
    assert_int_equal(put_blocks(d, c, 0, 10, false), 10);
    assert_false(tutti_key_equal(before, c->out[0].key));
    assert_int_equal(hit(d, c, 10), 10);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forgets_and_stores_again), cmocka_unit_test(in_use_across_a_reset),
        cmocka_unit_test(void_slots_go_first), cmocka_unit_test(another_identity)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
