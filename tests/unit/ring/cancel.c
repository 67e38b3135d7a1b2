/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three outcomes of a cancel, and that a completion comes in any case.
 * Seen to fail with tutti_ring_start() that ignores CANCELLED (bytes moved for
 * an IOCB whose cancel said that nothing would).
 */
#include "fake_map.h"

#include <errno.h>

static struct fake_map f;

static struct tutti_ring *ring_with_one(uint32_t *index)
{
    struct tutti_ring *ring;

    fake_map_init(&f, 2);
    assert_int_equal(tutti_ring_new(8, 2, &ring, NULL), 0);
    assert_non_null(fake_iocb(ring, &f, index));
    assert_int_equal(tutti_ring_issue(ring, *index), 0);
    return ring;
}

static void finish(struct tutti_ring *ring, uint32_t index, uint32_t consumer)
{
    tutti_ring_finish(ring, index, consumer, 1, 0, 0, 0, 0);
}

static void not_started(void **state)
{
    uint32_t index;
    struct tutti_ring *ring = ring_with_one(&index);
    (void)state;

    assert_int_equal(tutti_ring_take(ring, 0), index);
    assert_int_equal(tutti_ring_cancel(ring, index), TUTTI_CANCEL_NOT_STARTED);
    assert_int_equal(tutti_ring_cancel(ring, index), TUTTI_CANCEL_NOT_STARTED);
    assert_int_equal(tutti_ring_take(ring, 1), index);
    assert_true(tutti_ring_cancelled(ring, index));
    assert_false(tutti_ring_start(ring, index, 1));
    finish(ring, index, 0);
    assert_false(tutti_ring_done(ring, index));
    finish(ring, index, 1);
    assert_int_equal(tutti_ring_wait(ring, index, 0), -ECANCELED);
    assert_int_equal(tutti_ring_iocb(ring, index)->completion.started, 0);
    tutti_ring_free(ring);
}

static void fenced(void **state)
{
    uint32_t index;
    struct tutti_ring *ring = ring_with_one(&index);
    (void)state;

    assert_true(tutti_ring_start(ring, index, 7));
    assert_false(tutti_ring_cancelled(ring, index));
    assert_int_equal(tutti_ring_cancel(ring, index), TUTTI_CANCEL_FENCED);
    assert_true(tutti_ring_cancelled(ring, index));
    assert_false(tutti_ring_start(ring, index, 8)); /* the other member had not begun */
    f.status[3] = ECANCELED;
    finish(ring, index, 0);
    finish(ring, index, 1);
    assert_int_equal(tutti_ring_wait(ring, index, 0), -ECANCELED);
    assert_int_equal(tutti_ring_iocb(ring, index)->completion.verified, 3);
    assert_int_equal(tutti_ring_iocb(ring, index)->completion.started, 7);
    tutti_ring_free(ring);
}

static void ended(void **state)
{
    uint32_t index;
    struct tutti_ring *ring = ring_with_one(&index);
    (void)state;

    assert_true(tutti_ring_start(ring, index, 7));
    assert_true(tutti_ring_start(ring, index, 8));
    finish(ring, index, 0);
    finish(ring, index, 1);
    assert_int_equal(tutti_ring_cancel(ring, index), TUTTI_CANCEL_ENDED);
    assert_int_equal(tutti_ring_wait(ring, index, 0), 0);
    assert_int_equal(tutti_ring_iocb(ring, index)->completion.started, 7);
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(not_started),
        cmocka_unit_test(fenced),
        cmocka_unit_test(ended),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
