/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The secret lies in its file and nowhere else: neither its bytes nor its digits
 * are in a member, in a scan file, or in what is said when it is refused.
 * Seen to fail with half of the secret in a field of the superblock, and with its
 * text in the message of a secret file that is not whole.
 */
#include "fixture.h"

static void assert_not_in(const void *data, size_t bytes, const uint8_t secret[16])
{
    char hex[33];

    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", secret[i]);
    assert_null(memmem(data, bytes, secret, 8)); /* half of it would be too much */
    assert_null(memmem(data, bytes, secret + 8, 8));
    assert_null(memmem(data, bytes, hex, 16));
    assert_null(memmem(data, bytes, hex + 16, 16));
}

static void in_its_file_alone(void **state)
{
    char *home = fixture_folder();
    char *member = fixture_path(home, "rank0.member0.tutti");
    char *scan = fixture_path(home, "scan.rank0");
    char *file = fixture_path(home, "secret");
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct bytes bytes[2];
    uint8_t id[16], secret[16];
    (void)state;

    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    for (uint32_t slot = 0; slot < 20; slot++)
        fixture_write_slot(
            pool, &(struct fixture_slot){.slot = slot, .generation = generation_of(1, slot + 1)});
    must(tutti_pool_scan_to_file(pool, 0, scan, NULL, &err), &err);
    tutti_pool_close(pool);
    must(tutti_pool_secret_load(home, false, id, secret, &err), &err);
    bytes[0] = fixture_bytes(member);
    bytes[1] = fixture_bytes(scan);
    for (int i = 0; i < 2; i++) {
        assert_not_in(bytes[i].data, bytes[i].count, secret);
        free(bytes[i].data);
    }
    for (off_t length = 92; length > 50; length--) {
        uint8_t unused[16];

        assert_int_equal(truncate(file, length), 0);
        assert_int_equal(tutti_pool_secret_load(home, false, id, unused, &err), -EUCLEAN);
        assert_not_in(err.message, sizeof(err.message), secret);
    }
    free(member);
    free(scan);
    free(file);
    fixture_remove(home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(in_its_file_alone)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
