/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child reported before its parent is not visible until the parent is; then
 * it is at once, with everything below that waited, however deep: a million
 * blocks reported from the last to the first, then hidden by one drop.
 *
 * Seen to fail with show() or hide() not going on below.
 */
#include "world.h"

static void waits_for_its_parent(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 2);
    struct chain_of *c = chain_new(1, 6);
    int i;

    (void)state;
    assert_int_equal(reserve(d, c, 0, 6, false), 6);
    for (i = 5; i >= 1; i--) {
        assert_int_equal(tutti_directory_report(d, 0, c->out[i].slot, c->out[i].generation, true),
                         0);
        assert_int_equal(tutti_directory_report(d, 1, c->out[i].slot, c->out[i].generation, true),
                         0);
    }
    assert_int_equal(hit(d, c, 6), 0);
    assert_int_equal(tutti_directory_report(d, 1, c->out[0].slot, c->out[0].generation, true), 0);
    assert_int_equal(hit(d, c, 6), 0);
    assert_int_equal(tutti_directory_report(d, 0, c->out[0].slot, c->out[0].generation, true), 0);
    assert_int_equal(hit(d, c, 6), 6);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

static void however_deep(void **state)
{
    const uint32_t blocks = 1000000;
    struct tutti_directory *d = directory_of(1000, 1000, 1, 1);
    uint8_t *hash = calloc(blocks, HASH_BYTES);
    struct tutti_transfer *out = calloc(blocks, sizeof(*out));
    struct tutti_origin *origin = calloc(blocks, sizeof(*origin));
    uint32_t *index = calloc(blocks, sizeof(*index));
    struct tutti_match match;
    uint32_t i;

    (void)state;
    assert_true(hash && out && origin && index);
    for (i = 0; i < blocks; i++)
        memcpy(hash + (size_t)i * HASH_BYTES, &i, sizeof(i));
    assert_int_equal(
        tutti_directory_reserve(d, hash, HASH_BYTES, 0, blocks, false, out, origin, index), blocks);
    for (i = blocks; i-- > 0;) {
        assert_int_equal(stats_of(d).visible, 0);
        assert_int_equal(tutti_directory_report(d, 0, out[i].slot, out[i].generation, true), 0);
    }
    assert_int_equal(tutti_directory_find(d, hash, HASH_BYTES, blocks, &match), 0);
    assert_int_equal(match.blocks, blocks);
    assert_int_equal(tutti_directory_drop(d, out[0].slot, out[0].generation), blocks);
    assert_int_equal(stats_of(d).visible, 0);
    assert_int_equal(tutti_directory_take_erased(d, out, blocks), blocks);
    assert_int_equal(stats_of(d).free, blocks);
    audit(d);
    tutti_directory_free(d);
    free(hash);
    free(out);
    free(origin);
    free(index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(waits_for_its_parent),
                                       cmocka_unit_test(however_deep)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
