/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an IOCB waits for: an earlier IOCB, even when its index was put back and
 * taken again meanwhile, and a word that counts modulo 2^32.
 * Seen to fail with a completion word that is merely 0 or 1.
 */
#include "fake_map.h"

static struct fake_map f;

static void run(struct tutti_ring *ring, uint32_t index)
{
    assert_int_equal(tutti_ring_take(ring, 0), index);
    tutti_ring_finish(ring, index, 0, 1, 0, 0, 0, 0);
}

static void an_index_used_again(void **state)
{
    struct tutti_ring *ring;
    uint32_t a, b, c;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(4, 1, &ring, NULL), 0);
    fake_iocb(ring, &f, &a);
    assert_int_equal(tutti_ring_issue(ring, a), 0);
    fake_iocb(ring, &f, &b)->wait_for = a;
    assert_int_equal(tutti_ring_issue(ring, b), 0);
    assert_false(tutti_ring_ready(ring, b));
    run(ring, a);
    assert_int_equal(tutti_ring_put(ring, a), 0);
    fake_iocb(ring, &f, &c);
    assert_int_equal(c, a);
    assert_int_equal(tutti_ring_issue(ring, c), 0);
    assert_true(tutti_ring_ready(ring, b)); /* it waited for the first life of that index */
    tutti_ring_free(ring);
}

static void one_that_has_completed(void **state)
{
    struct tutti_ring *ring;
    uint32_t a, b, c;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(4, 1, &ring, NULL), 0);
    fake_iocb(ring, &f, &a);
    assert_int_equal(tutti_ring_issue(ring, a), 0);
    run(ring, a);
    fake_iocb(ring, &f, &b)->wait_for = a;
    assert_int_equal(tutti_ring_issue(ring, b), 0);
    assert_true(tutti_ring_ready(ring, b));
    assert_int_equal(tutti_ring_put(ring, a), 0);
    fake_iocb(ring, &f, &c)->wait_for = b;
    assert_int_equal(c, a);
    assert_true(tutti_ring_ready(ring, b)); /* taken again, still ready */
    tutti_ring_free(ring);
}

static void a_word(void **state)
{
    struct tutti_ring *ring;
    uint32_t word = UINT32_MAX - 1, index;
    struct tutti_iocb *iocb;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(4, 1, &ring, NULL), 0);
    iocb = fake_iocb(ring, &f, &index);
    iocb->ready = &word;
    iocb->ready_value = 1;
    assert_int_equal(tutti_ring_issue(ring, index), 0);
    assert_false(tutti_ring_ready(ring, index));
    word += 2; /* 0 */
    assert_false(tutti_ring_ready(ring, index));
    word += 1;
    assert_true(tutti_ring_ready(ring, index));
    word += 5;
    assert_true(tutti_ring_ready(ring, index));
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_index_used_again),
        cmocka_unit_test(one_that_has_completed),
        cmocka_unit_test(a_word),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
