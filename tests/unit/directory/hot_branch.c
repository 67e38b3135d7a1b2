/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capacity comes back behind a hot branch: a run whose head is held by another
 * branch gives back its tail, and what came back is one piece.
 *
 * Seen to fail with evict() not looking at the leaf's parent again (the trunk
 * then stays for ever), and with pins not looked at.
 */
#include "world.h"

static void tail_comes_back(void **state)
{
    struct tutti_directory *d = directory_of(2, 20, 1, 1);
    struct chain_of *trunk = chain_new(1, 20);
    struct chain_of *branch = chain_new(1, 20);
    struct chain_of *other = chain_new(3, 40);
    struct tutti_match hot;
    uint32_t i;

    (void)state;
    chain_name(branch, 2, 8, 12);
    assert_int_equal(put_blocks(d, trunk, 0, 20, false), 20);
    assert_int_equal(put_blocks(d, branch, 0, 12, false), 4);
    hot = match_of(d, branch, 12);
    assert_int_equal(hot.blocks, 12);
    assert_int_equal(tutti_directory_pin(d, &hot, 0, branch->out), 0);

    /* 16 free, 12 behind the branch point: 28 can be had, not one more. */
    assert_int_equal(put_blocks(d, other, 0, 40, false), 28);
    audit(d);
    assert_int_equal(hit(d, branch, 12), 12);
    assert_int_equal(hit(d, trunk, 20), 8);
    assert_int_equal(hit(d, other, 40), 28);
    /* The tail came back whole: 16 + 12 slots are two runs. */
    assert_int_equal(stats_of(d).runs, 2 + 2);
    for (i = 1; i < 28; i++)
        assert_true(i == 16 || other->out[i].slot == other->out[i - 1].slot + 1);

    /* And when the branch has cooled down, the rest. */
    assert_int_equal(tutti_directory_unpin(d, hot.slot, hot.generation), 0);
    assert_int_equal(put_blocks(d, other, 0, 40, false), 12);
    assert_int_equal(hit(d, other, 40), 40);
    audit(d);
    tutti_directory_free(d);
    free(trunk);
    free(branch);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tail_comes_back)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
