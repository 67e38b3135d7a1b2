/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No superblock whose checksum holds makes the library crash, divide by zero or
 * believe what cannot be: random values in random fields, as sanitizers watch.
 */
#include "fixture.h"
#include "nasty.h"
#include "pool/internal.h"

static void mutate(struct tutti_superblock *s)
{
    unsigned char *bytes = (unsigned char *)s;

    for (uint64_t i = any() % 4; i-- > 0;) {
        size_t at = any() % (offsetof(struct tutti_superblock, reserved) / 4) * 4;
        uint64_t value = nasty();

        memcpy(bytes + at, &value, at % 8 == 0 && any() % 2 ? 8 : 4);
    }
}

/* What the code behind relies on. */
static void assert_sane(const struct tutti_superblock *s)
{
    assert_true(s->extents > 0);
    assert_true(s->members >= 1 && s->members <= TUTTI_MAX_MEMBERS);
    assert_true(superblock_member_bytes(s) <= INT64_MAX);
    assert_true((superblock_member_bytes(s) - s->first_extent) / s->extents == s->extent_bytes);
    for (uint32_t i = 0; i < s->groups; i++) {
        struct tutti_placement p;
        uint32_t last;

        assert_int_equal(tutti_placement_init(&p, &s->geometry[i], s->alignment, s->first_extent,
                                              s->extent_bytes, s->extents * s->members, s->members,
                                              s->records_per_extent, s->record_stride, NULL),
                         0);
        last = p.extents * p.records_per_extent - p.records_per_extent + p.slots_per_extent - 1;
        assert_true(tutti_slot_valid(&p, last));
        assert_true(tutti_object_place(&p, last, p.layers - 1, p.parts - 1).offset +
                        p.object_stride <=
                    superblock_member_bytes(s));
    }
}

static void judged(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_superblock good;
    unsigned whole = 0;

    (void)state;
    fixture_format(&options);
    fixture_superblock(path, 0, &good);
    for (int i = 0; i < 100000; i++) {
        struct tutti_superblock s = good;
        char why[128];

        mutate(&s);
        s.checksum = 0;
        s.checksum = tutti_sum64(&s, sizeof(s));
        if (superblock_judge(&s, why) == SUPERBLOCK_WHOLE) {
            whole++;
            assert_sane(&s);
        }
    }
    assert_true(whole > 1000 && whole < 99000); /* both kinds were seen */
    free(path);
    fixture_remove(folder);
}

/** Fields that only all together are out of bounds, one after the other; none is written either. */
static void named(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_superblock good, s;
    struct tutti_error err = {0};
    struct backing b = {.fd = -1, .path = path};
    char why[128];
    (void)state;

    fixture_format(&options);
    fixture_superblock(path, 0, &good);
#define GARBAGE(word, ...)                                                                         \
    do {                                                                                           \
        s = good;                                                                                  \
        __VA_ARGS__;                                                                               \
        s.checksum = 0;                                                                            \
        s.checksum = tutti_sum64(&s, sizeof(s));                                                   \
        assert_int_equal(superblock_judge(&s, why), SUPERBLOCK_GARBAGE);                           \
        assert_non_null(strstr(why, word));                                                        \
        assert_int_equal(superblock_write(&b, &s, 0, &err), -EINVAL);                              \
        assert_non_null(strstr(err.message, word));                                                \
    } while (0)
    GARBAGE("extents", (s.extent_bytes = UINT64_C(1) << 40, s.extents = 1u << 24));
    GARBAGE("are the same", (s.groups = 2, s.geometry[1] = s.geometry[0]));
    GARBAGE("reserved", s.reserved0 = 1);
    GARBAGE("reserved", s.reserved[7] = 1);
    GARBAGE("reserved", s.geometry[3].layers = 1);
#undef GARBAGE
    free(path);
    fixture_remove(folder);
}

static void opened(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_superblock good;

    (void)state;
    fixture_format(&options);
    fixture_superblock(path, 0, &good);
    options.read_only = true;
    options.groups = 0;
    for (int i = 0; i < 300; i++) {
        struct tutti_scan_report report;
        struct tutti_superblock s = good;
        struct tutti_error err = {0};
        struct tutti_pool *pool;

        mutate(&s);
        fixture_put_superblock(path, 0, &s);
        fixture_put_superblock(path, 1, &s);
        if (tutti_pool_open(&options, &pool, &err) == 0) {
            assert_int_equal(tutti_pool_check(pool, true, &report, NULL, NULL, NULL, &err), 0);
            tutti_pool_close(pool);
        } else {
            assert_non_null(strstr(err.message, path));
        }
    }
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(judged), cmocka_unit_test(named),
                                       cmocka_unit_test(opened)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
