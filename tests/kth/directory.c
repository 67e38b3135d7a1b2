/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The k-th allocation fails, for every k, in all of a directory's life: made or
 * not, loaded or empty, and whole in any case. What happens after loading
 * allocates nothing at all.
 * Seen to fail with a load that forgets its first array when the last one is
 * not to be had (LeakSanitizer), and with malloc() in tutti_directory_pin().
 */
#include "../unit/pool/fixture.h"

#include "kth.h"

#include "tutti/directory.h"

enum { BLOCKS = 40 };

static const uint8_t secret[16] = "not so secret...";

static struct tutti_directory_options options_of(void)
{
    struct tutti_directory_options o = {.geometry = small_shape, .ranks = 2};
    struct tutti_error err = {0};

    must(tutti_placement_init(&o.placement, &small_shape, 512, TUTTI_FIRST_EXTENT, MIB, 8, 2, 0, 0,
                              &err),
         &err);
    memcpy(o.secret, secret, sizeof(o.secret));
    memcpy(o.identity, fixture_identity, sizeof(o.identity));
    return o;
}

static void hashes_of(uint8_t hashes[BLOCKS * 32])
{
    memset(hashes, 0, BLOCKS * 32);
    for (uint32_t b = 0; b < BLOCKS; b++)
        hashes[b * 32] = (uint8_t)(b + 1);
}

/** What a scan would find of a chain of blocks in slots 0, 1, ... */
static void entries_of(struct tutti_scan_entry entries[BLOCKS])
{
    const struct tutti_directory_options o = options_of();
    uint8_t hashes[BLOCKS * 32];
    struct tutti_key parent = {{0, 0}};

    hashes_of(hashes);
    memset(entries, 0, BLOCKS * sizeof(entries[0]));
    for (uint32_t b = 0; b < BLOCKS; b++) {
        entries[b].slot = b / o.placement.slots_per_extent * o.placement.records_per_extent +
                          b % o.placement.slots_per_extent;
        entries[b].incarnation = 1;
        entries[b].generation = generation_of(1, b + 1);
        entries[b].geometry = tutti_geometry_digest(&small_shape);
        entries[b].key = tutti_key_make(secret, fixture_identity, 0, &hashes[(size_t)b * 32], 32);
        entries[b].parent = parent;
        memcpy(entries[b].identity, fixture_identity, 16);
        parent = entries[b].key;
    }
}

/** A chain is stored, found, pinned and dropped; two ranks report. */
static void live(struct tutti_directory *d, uint32_t loaded)
{
    struct tutti_transfer out[BLOCKS];
    struct tutti_origin origin[BLOCKS];
    uint32_t index[BLOCKS];
    uint8_t hashes[BLOCKS * 32];
    struct tutti_match match;
    struct tutti_error err = {0};
    int n;

    hashes_of(hashes);
    must(tutti_directory_begin_epoch(d, 2, false, NULL, &err), &err);
    assert_int_equal(tutti_directory_find(d, hashes, 32, BLOCKS, &match), 0);
    assert_int_equal(match.blocks, loaded);
    n = tutti_directory_reserve(d, hashes, 32, loaded, BLOCKS - loaded, true, out, origin, index);
    assert_int_equal(n, BLOCKS - loaded);
    for (int i = 0; i < n; i++)
        for (uint32_t rank = 0; rank < 2; rank++)
            assert_int_equal(tutti_directory_report(d, rank, out[i].slot, out[i].generation, true),
                             0);
    tutti_directory_find(d, hashes, 32, BLOCKS, &match);
    assert_int_equal(match.blocks, BLOCKS);
    assert_int_equal(tutti_directory_pin(d, &match, 0, out), 0);
    assert_int_equal(tutti_directory_drop(d, out[1].slot, out[1].generation), BLOCKS - 1);
    assert_int_equal(tutti_directory_unpin(d, match.slot, match.generation), 0);
    assert_int_equal(tutti_directory_take_erased(d, out, BLOCKS), BLOCKS - 1);
    must(tutti_directory_audit(d, &err), &err);
}

static void made_loaded_or_not(void **state)
{
    struct tutti_scan_entry entries[BLOCKS];
    const struct tutti_scan_entry *ranks[2] = {entries, entries};
    const struct tutti_directory_options options = options_of();
    const size_t counts[2] = {BLOCKS, BLOCKS};
    (void)state;

    entries_of(entries);
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();) {
        struct tutti_directory *d = NULL;
        struct tutti_error err = {0};
        int made, loaded = -1;

        kth_arm();
        made = tutti_directory_new(&options, &d, &err);
        if (made == 0)
            loaded = tutti_directory_load(d, ranks, counts, &err);
        kth_disarm();
        assert_true((made == 0 && loaded == 0) || strlen(err.message) > 0);
        if (made < 0) {
            assert_int_equal(made, -ENOMEM);
            assert_null(d);
            continue;
        }
        assert_true(loaded == 0 || loaded == -ENOMEM);
        must(tutti_directory_audit(d, &err), &err);
        if (loaded < 0) /* once more, as a caller would that got memory */
            loaded = tutti_directory_load(d, ranks, counts, &err);
        must(loaded, &err);
        live(d, BLOCKS);
        tutti_directory_free(d);
    }
    print_message("directory: %llu failures\n", (unsigned long long)kth_met());
    assert_true(kth_met() > 8);
}

static void needs_nothing_later(void **state)
{
    const struct tutti_directory_options options = options_of();
    struct tutti_directory *d = NULL;
    struct tutti_error err = {0};
    (void)state;

    must(tutti_directory_new(&options, &d, &err), &err);
    kth_every(KTH_MEMORY | KTH_SYSTEM, ENOMEM);
    assert_true(kth_more());
    kth_arm();
    live(d, 0);
    assert_false(kth_disarm());
    tutti_directory_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(made_loaded_or_not),
                                       cmocka_unit_test(needs_nothing_later)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
