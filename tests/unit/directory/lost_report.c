/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rank's report that is lost: the block never becomes visible, and its slot,
 * into which that rank may still write, is given to nobody else, not when its
 * parent goes, not after a reset, not when the pool is full. Late and double
 * reports are refused and change nothing.
 *
 * Seen to fail with visibility after the first rank's report, with hidden slots
 * freed without a look at the outstanding reports, and with the generation of a
 * report not compared.
 */
#include "world.h"

#include <errno.h>

#define RANKS 3u

static int say(struct tutti_directory *d, uint32_t rank, const struct tutti_transfer *t, bool ok)
{
    return tutti_directory_report(d, rank, t->slot, t->generation, ok);
}

/* Nobody gets the slot, whoever asks for everything. */
static void assert_kept(struct tutti_directory *d, uint32_t slot, uint64_t name)
{
    struct chain_of *other = chain_new(name, 40);
    int given = reserve(d, other, 0, 40, false);
    int i;

    assert_true(given >= 0);
    for (i = 0; i < given; i++)
        assert_int_not_equal(other->out[i].slot, slot);
    report_all(d, other, given);
    audit(d);
    free(other);
}

static void never_visible_never_reused(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, RANKS);
    struct chain_of *c = chain_new(1, 10);
    struct tutti_transfer lost;
    int i;

    (void)state;
    assert_int_equal(reserve(d, c, 0, 10, false), 10);
    lost = c->out[5];
    for (i = 0; i < 10; i++) {
        assert_int_equal(say(d, 0, &c->out[i], true), 0);
        assert_int_equal(say(d, 1, &c->out[i], true), 0);
        if (i != 5)
            assert_int_equal(say(d, 2, &c->out[i], true), 0);
    }
    assert_int_equal(hit(d, c, 10), 5);
    assert_kept(d, lost.slot, 100);
    assert_int_equal(hit(d, c, 10), 5); /* what is written holds its ancestors */

    assert_true(tutti_directory_drop(d, c->out[0].slot, c->out[0].generation) == 10);
    assert_kept(d, lost.slot, 200);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, true, NULL, NULL), 0);
    assert_kept(d, lost.slot, 300);
    assert_int_equal(stats_of(d).leaving, 1 + 5 + 4);  /* its ancestors; the erased ones */
    assert_int_equal(say(d, 2, &lost, true), 0);       /* late, but due */
    assert_int_equal(say(d, 2, &lost, true), -EINVAL); /* twice */
    audit(d);
    tutti_directory_free(d);
    free(c);
}

static void wrong_reports_are_refused(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, RANKS);
    struct chain_of *c = chain_new(1, 2);

    (void)state;
    assert_int_equal(reserve(d, c, 0, 2, false), 2);
    assert_int_equal(say(d, RANKS, &c->out[0], true), -EINVAL);
    c->out[0].generation++;
    assert_int_equal(say(d, 0, &c->out[0], true), -EINVAL);
    c->out[0].generation--;
    assert_int_equal(tutti_directory_report(d, 0, UINT32_MAX, c->out[0].generation, true), -EINVAL);
    assert_int_equal(tutti_directory_report(d, 0, 39, 0, true), -EINVAL);
    assert_int_equal(say(d, 0, &c->out[0], true), 0);
    assert_int_equal(say(d, 0, &c->out[0], false), -EINVAL);
    assert_int_equal(stats_of(d).writing, 2);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

static void one_no_hides_at_once(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, RANKS);
    struct chain_of *c = chain_new(1, 4);
    uint32_t rank;
    int i;

    (void)state;
    assert_int_equal(reserve(d, c, 0, 4, false), 4);
    report_all(d, c, 1);
    assert_int_equal(say(d, 1, &c->out[1], false), 0);
    assert_int_equal(hit(d, c, 4), 1);
    assert_int_equal(stats_of(d).leaving, 3); /* the subtree, too */
    for (i = 1; i < 4; i++)
        for (rank = 0; rank < RANKS; rank++)
            if (i != 1 || rank != 1)
                assert_int_equal(say(d, rank, &c->out[i], true), 0);
    assert_int_equal(hit(d, c, 4), 1);
    assert_int_equal(stats_of(d).free, 39);
    assert_int_equal(put_blocks(d, c, 0, 4, false), 3); /* and can be stored again */
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(never_visible_never_reused),
                                       cmocka_unit_test(wrong_reports_are_refused),
                                       cmocka_unit_test(one_no_hides_at_once)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
