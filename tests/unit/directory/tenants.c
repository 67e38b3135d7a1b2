/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Case 22: who has another pool's secret, another identity, group or salt finds
 * nothing; and no two of them meet because bytes moved from one field to its
 * neighbour.
 * Seen to fail with a key that leaves the secret, the identity or the group out,
 * and with a hash that is cut to 16 bytes.
 */
#include "world.h"

#include <string.h>

enum { MOST = 300 };

static struct tutti_key keys[MOST];
static uint32_t count;

/** A key that nobody had before. */
static void distinct(const char *secret, const char *identity, uint32_t group, const char *hash,
                     uint32_t bytes)
{
    uint8_t s[16] = {0}, i[16] = {0}, h[32] = {0};

    memcpy(s, secret, strlen(secret));
    memcpy(i, identity, strlen(identity));
    memcpy(h, hash, bytes);
    keys[count] = tutti_key_make(s, i, group, h, bytes);
    for (uint32_t k = 0; k < count; k++)
        assert_false(tutti_key_equal(keys[k], keys[count]));
    count++;
}

static void no_two_keys_are_equal(void **state)
{
    static const char zeros[32];
    (void)state;

    count = 0;
    distinct("secret", "model", 0, "c", 1);
    distinct("other secret", "model", 0, "c", 1);
    distinct("secret", "other model", 0, "c", 1);
    distinct("secret", "model", 1, "c", 1);
    distinct("secret", "ab", 0, "c", 1); /* "ab","c" against "a","bc" */
    distinct("secret", "a", 0, "bc", 2);
    distinct("secret", "", 0, "abc", 3);
    distinct("secret", "model", 'x', "c", 1);
    distinct("secret", "model", 0, "xc", 2);
    for (uint32_t bytes = 1; bytes <= 32; bytes++)
        distinct("secret", "zeros", 0, zeros, bytes); /* the length counts too */
    for (uint32_t at = 0; at < 256; at++) {
        char hash[32] = {0};

        hash[at / 8] = (char)(1 << at % 8); /* and every bit */
        distinct("secret", "bits", 0, hash, 32);
    }
}

/** What one pool's scan found, in a directory with another pool's secret: there, and never hit. */
static void another_secret_finds_nothing(void **state)
{
    enum { BLOCKS = 20 };
    struct tutti_directory_options o = options_of(4, 16, 1, 1);
    struct chain_of *c = chain_new(5, BLOCKS);
    struct tutti_scan_entry entries[BLOCKS] = {{0}};
    const struct tutti_scan_entry *all = entries;
    const size_t found = BLOCKS;
    struct tutti_key parent = {{0, 0}};
    (void)state;

    for (uint32_t b = 0; b < BLOCKS; b++) {
        entries[b].slot = b;
        entries[b].incarnation = 1;
        entries[b].generation = (UINT64_C(1) << TUTTI_EPOCH_SHIFT) + b + 1;
        entries[b].geometry = tutti_geometry_digest(&o.geometry);
        entries[b].key = tutti_key_make(o.secret, o.identity, 0, c->hash + b * 32, 32);
        entries[b].parent = parent;
        memcpy(entries[b].identity, o.identity, 16);
        parent = entries[b].key;
    }
    for (uint32_t mine = 0; mine < 2; mine++) {
        struct tutti_directory *d;

        o.secret[15] = (uint8_t)(7 + !mine);
        assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
        assert_int_equal(tutti_directory_load(d, &all, &found, NULL), 0);
        assert_int_equal(hit(d, c, BLOCKS), mine ? BLOCKS : 0);
        assert_int_equal(stats_of(d).visible, BLOCKS);
        tutti_directory_free(d);
    }
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_two_keys_are_equal),
                                       cmocka_unit_test(another_secret_finds_nothing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
