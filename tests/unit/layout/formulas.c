/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address formulas against brute force: for many shapes, every record and
 * object of a small pool is laid down byte by byte on a map of the members;
 * nothing may overlap, leave its extent, or be misaligned, and neighbours must
 * be neighbours. Seen to fail with parts and slots swapped in the formula, and
 * with data_offset left unrounded.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tutti/format.h"
#include "tutti/geometry.h"

struct map {
    unsigned char *taken; /* per 512-byte sector */
    uint64_t bytes;
};

static void take(struct map *m, uint64_t offset, uint64_t bytes)
{
    assert_int_equal(offset % 512, 0);
    assert_true(offset + bytes <= m->bytes);
    for (uint64_t s = offset / 512; s < (offset + bytes + 511) / 512; s++) {
        assert_int_equal(m->taken[s], 0);
        m->taken[s] = 1;
    }
}

static void lay_down(const struct tutti_placement *p)
{
    struct map map[TUTTI_MAX_MEMBERS];
    uint32_t rounds = (p->extents + p->members - 1) / p->members;

    for (uint32_t m = 0; m < p->members; m++) {
        map[m].bytes = p->first_extent + rounds * p->extent_bytes;
        map[m].taken = calloc(1, map[m].bytes / 512);
        take(&map[m], 0, p->first_extent);
    }
    for (uint32_t s = 0; s < p->extents * p->records_per_extent; s++) {
        struct tutti_place record = tutti_record_place(p, s);

        assert_int_equal(record.member, s / p->records_per_extent % p->members);
        take(&map[record.member], record.offset, p->record_stride);
        if (!tutti_slot_valid(p, s))
            continue;
        for (uint32_t l = 0; l < p->layers; l++)
            for (uint32_t part = 0; part < p->parts; part++) {
                struct tutti_place at = tutti_object_place(p, s, l, part);

                assert_int_equal(at.member, record.member);
                assert_int_equal(at.offset % p->alignment, 0);
                assert_int_equal((at.offset - p->first_extent) / p->extent_bytes,
                                 (record.offset - p->first_extent) / p->extent_bytes);
                take(&map[at.member], at.offset, p->object_stride);
                if (part > 0)
                    assert_int_equal(
                        tutti_object_place(p, s, l, part - 1).offset + p->object_stride, at.offset);
                if (tutti_slot_follows(p, s, s + 1) && tutti_slot_valid(p, s + 1))
                    assert_int_equal(tutti_object_place(p, s + 1, l, part).offset,
                                     at.offset + tutti_layer_stride(p));
            }
    }
    assert_false(tutti_slot_valid(p, p->extents * p->records_per_extent));
    for (uint32_t m = 0; m < p->members; m++)
        free(map[m].taken);
}

static void places_never_overlap(void **state)
{
    (void)state;
    srand(7);
    for (int i = 0; i < 400; i++) {
        struct tutti_geometry g = {
            .layers = 1 + (uint32_t)rand() % 9,
            .parts = 1 + (uint32_t)rand() % 4,
            .object_bytes = 1 + (uint64_t)rand() % 20000,
            .block_tokens = 16,
        };
        struct tutti_placement p, other;
        uint32_t alignment = rand() % 2 ? 512 : 4096;
        uint32_t members = 1 + (uint32_t)rand() % 4;
        uint32_t extents = members * (1 + (uint32_t)rand() % 3);
        struct tutti_error err;

        assert_int_equal(tutti_placement_init(&p, &g, alignment, TUTTI_FIRST_EXTENT, 4u << 20,
                                              extents, members, 0, 0, &err),
                         0);
        lay_down(&p);
        /* Another shape in the same pool: records stay where they are. */
        g.object_bytes = 1 + (uint64_t)rand() % 60000;
        g.layers = 1 + (uint32_t)rand() % g.layers;
        assert_int_equal(tutti_placement_init(&other, &g, alignment, TUTTI_FIRST_EXTENT, 4u << 20,
                                              extents, members, p.records_per_extent,
                                              p.record_stride, &err),
                         0);
        assert_int_equal(other.data_offset, p.data_offset);
        lay_down(&other);
    }
}

static void limits_are_refused_by_name(void **state)
{
    const struct tutti_geometry good = {
        .layers = 2, .parts = 2, .object_bytes = 4096, .block_tokens = 16};
    struct tutti_geometry g;
    struct tutti_placement p;
    struct tutti_error err;
    (void)state;

#define REFUSED(field, value, word)                                                                \
    g = good;                                                                                      \
    g.field = value;                                                                               \
    assert_int_equal(tutti_geometry_check(&g, &err), -EINVAL);                                     \
    assert_non_null(strstr(err.message, word))
    REFUSED(layers, 0, "layers");
    REFUSED(layers, TUTTI_MAX_LAYERS + 1, "layers");
    REFUSED(parts, 0, "parts");
    REFUSED(parts, TUTTI_MAX_PARTS + 1, "parts");
    REFUSED(object_bytes, 0, "object");
    REFUSED(object_bytes, UINT64_MAX, "object");
    REFUSED(block_tokens, 0, "tokens");
    REFUSED(group, TUTTI_MAX_GROUPS, "group");
    REFUSED(reserved, 1, "reserved");
    assert_int_equal(tutti_geometry_check(&good, &err), 0);
    assert_int_equal(
        tutti_placement_init(&p, &good, 1024, TUTTI_FIRST_EXTENT, 4u << 20, 1, 1, 0, 0, &err),
        -EINVAL);
    assert_int_equal(
        tutti_placement_init(&p, &good, 512, TUTTI_FIRST_EXTENT, 8192, 1, 1, 0, 0, &err), -EINVAL);
    assert_non_null(strstr(err.message, "larger extents"));
}

static void default_extents_hold_a_slot(void **state)
{
    (void)state;
    srand(3);
    for (int i = 0; i < 2000; i++) {
        struct tutti_geometry g = {
            .layers = 1 + (uint32_t)rand() % 256,
            .parts = 1 + (uint32_t)rand() % 4,
            .object_bytes = 1 + (uint64_t)rand() % (4u << 20),
            .block_tokens = 16,
        };
        uint64_t bytes = tutti_extent_bytes_default(&g, (uint64_t)rand() << (rand() % 16));
        struct tutti_placement p;

        assert_true(bytes >= (uint64_t)g.layers << 20);
        assert_int_equal(
            tutti_placement_init(&p, &g, 4096, TUTTI_FIRST_EXTENT, bytes, 1, 1, 0, 0, NULL), 0);
        assert_true(p.slots_per_extent >= 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_never_overlap),
        cmocka_unit_test(limits_are_refused_by_name),
        cmocka_unit_test(default_extents_hold_a_slot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
