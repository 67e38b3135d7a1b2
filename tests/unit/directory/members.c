/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs of one prefix go round-robin over the members, so that one layer of one
 * prefix uses every drive, in an empty pool and in one that was turned over:
 * no member has more than half as much again as its share.
 *
 * Seen to fail with each new run started in the first member, and with runs of
 * any length.
 */
#include "world.h"

#define MEMBERS 4u

static void assert_spread(const struct tutti_directory *d, const struct chain_of *c,
                          uint32_t blocks)
{
    uint32_t share[MEMBERS] = {0};
    uint32_t i;

    for (i = 0; i < blocks; i++)
        share[c->out[i].slot / d->stride % MEMBERS]++;
    for (i = 0; i < MEMBERS; i++)
        assert_in_range(share[i], blocks / MEMBERS / 2, blocks / MEMBERS * 3 / 2);
}

static void round_robin(void **state)
{
    struct tutti_directory *d = directory_of(32, 256, MEMBERS, 1);
    struct chain_of *c = chain_new(1, 1024);
    uint64_t seed = 3;
    uint32_t i;

    (void)state;
    assert_int_equal(put_blocks(d, c, 0, 1024, false), 1024);
    assert_spread(d, c, 1024);
    for (i = 1; i < 1024; i++)
        if (c->out[i].slot != c->out[i - 1].slot + 1)
            assert_int_equal(c->out[i].slot / 256 % MEMBERS,
                             (c->out[i - 1].slot / 256 + 1) % MEMBERS);

    for (i = 2; i < 200; i++) {
        uint32_t blocks = 100 + below(&seed, 900);

        chain_name(c, i, 0, blocks);
        assert_int_equal(put_blocks(d, c, 0, blocks, false), blocks);
    }
    assert_true(stats_of(d).evicted > 9u * d->slots);
    chain_name(c, i, 0, 1024);
    assert_int_equal(put_blocks(d, c, 0, 1024, false), 1024);
    assert_spread(d, c, 1024);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_robin)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
