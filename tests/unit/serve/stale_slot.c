/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Old sectors of a slot, put back whole, are a miss: record and data agree with
 * each other, and are not what was asked for (an acknowledged but lost write
 * looks just so). Also: a record moved to another slot, a flipped byte in any
 * layer, and only the position in question fails. Seen to fail with the
 * generation left out of tutti_record_match(), and with verification off.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>

#include "layout/record.h"

static const char *engine;

/** Read or write a whole slot (record and all layers) of the member file. */
static void slot_bytes(const struct rig *r, uint32_t slot, unsigned char *bytes, bool put)
{
    struct tutti_placement p;
    ssize_t n;
    int fd;

    assert_int_equal(tutti_pool_placement(r->pool, 0, &p), 0);
    fd = rig_open_member(r, tutti_record_place(&p, slot).member, O_RDWR);
    for (uint32_t l = 0; l <= p.layers; l++) {
        struct tutti_place at =
            l == p.layers ? tutti_record_place(&p, slot) : tutti_object_place(&p, slot, l, 0);
        size_t length = l == p.layers ? p.record_stride : tutti_layer_stride(&p);

        n = put ? pwrite(fd, bytes, length, (off_t)at.offset)
                : pread(fd, bytes, length, (off_t)at.offset);
        assert_int_equal(n, length);
        bytes += length;
    }
    fsync(fd);
    close(fd);
}

static void load(struct rig *r, const struct tutti_transfer *items, uint32_t count,
                 struct tutti_result *result, uint8_t *position)
{
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};

    rig_ok(tutti_retrieve_begin(r->serve, 0, items, count, false, 1, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 10 * SECOND), 0);
    tutti_retrieve_result(retrieve, result);
    memcpy(position, result->position, count);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
}

static void old_sectors_put_back_are_a_miss(void **state)
{
    unsigned char *before = malloc(1u << 20);
    struct tutti_transfer items[64], again[64];
    struct tutti_origin origin = {.engine_hash_bytes = 32};
    struct tutti_match match;
    struct tutti_result result;
    struct tutti_store *store;
    struct tutti_error err = {0};
    uint8_t position[64];
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 8), 8);
    assert_int_equal(rig_find(&r, 0, 8, 40, &match, items), 8);
    slot_bytes(&r, items[7].slot, before, false);
    /* The same content again under a new generation, in the same slot. */
    memcpy(again, items, sizeof(again));
    again[7].generation = r.epoch << TUTTI_EPOCH_SHIFT | 0xffff;
    again[7].block = 7;
    origin.parent = items[6].key;
    rig_hash(0, 7, origin.engine_hash);
    rig_ok(tutti_store_begin(r.serve, 0, &again[7], &origin, 1, RIG_LAYERS, 1, &store, &err), &err);
    assert_int_equal(tutti_store_wait(store, 10 * SECOND), 0);
    tutti_store_result(store, &result);
    assert_int_equal(result.good, 1);
    assert_int_equal(tutti_store_end(store), 0);
    again[7].block = 47;
    load(&r, again, 8, &result, position);
    assert_int_equal(result.good, 8);
    slot_bytes(&r, items[7].slot, before, true);
    load(&r, again, 8, &result, position);
    assert_int_equal(result.good, 7);
    assert_int_equal(position[7], ESTALE);
    assert_int_equal(result.verified, 7);
    /* The old name of the same sectors still reads: they are whole. */
    load(&r, items, 8, &result, position);
    assert_int_equal(result.good, 8);
    rig_close(&r);
    rig_remove(&r);
    free(before);
}

static void a_slot_copied_over_another_is_a_miss(void **state)
{
    unsigned char *other = malloc(1u << 20);
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_result result;
    uint8_t position[64];
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 8), 8);
    assert_int_equal(rig_find(&r, 0, 8, 40, &match, items), 8);
    slot_bytes(&r, items[2].slot, other, false);
    slot_bytes(&r, items[5].slot, other, true);
    load(&r, items, 8, &result, position);
    assert_int_equal(result.good, 7);
    assert_int_equal(position[5], ESTALE);
    rig_close(&r);
    rig_remove(&r);
    free(other);
}

static void a_flipped_byte_fails_its_position_alone(void **state)
{
    unsigned char *bytes = malloc(1u << 20);
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_result result;
    struct tutti_placement p;
    uint8_t position[64];
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 8), 8);
    assert_int_equal(rig_find(&r, 0, 8, 40, &match, items), 8);
    tutti_pool_placement(r.pool, 0, &p);
    for (uint32_t l = 0; l <= RIG_LAYERS; l++) {
        size_t at = l * tutti_layer_stride(&p) + (l * 1237) % 200;

        slot_bytes(&r, items[3].slot, bytes, false);
        bytes[at] ^= 0x10;
        slot_bytes(&r, items[3].slot, bytes, true);
        load(&r, items, 8, &result, position);
        assert_int_equal(result.good, 7);
        assert_int_not_equal(position[3], 0);
        bytes[at] ^= 0x10;
        slot_bytes(&r, items[3].slot, bytes, true);
    }
    load(&r, items, 8, &result, position);
    assert_int_equal(result.good, 8);
    rig_close(&r);
    rig_remove(&r);
    free(bytes);
}

/** A record whose own sum holds and of which one field is another's. */
static void a_record_of_elsewhere_is_a_miss(void **state)
{
    enum { FIELDS = 9 };
    unsigned char *bytes = malloc(1u << 20), *before = malloc(1u << 20);
    struct tutti_record *record;
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_result result;
    struct tutti_placement p;
    uint8_t position[64];
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 8), 8);
    assert_int_equal(rig_find(&r, 0, 8, 40, &match, items), 8);
    tutti_pool_placement(r.pool, 0, &p);
    slot_bytes(&r, items[3].slot, before, false);
    record = (struct tutti_record *)(void *)(bytes + RIG_LAYERS * tutti_layer_stride(&p));
    for (int field = 0; field < FIELDS; field++) {
        memcpy(bytes, before, 1u << 20);
        record->pool[5] ^= field == 0;
        record->rank += field == 1;
        record->geometry += field == 2;
        record->group += field == 3;
        record->layers -= field == 4;
        record->member ^= field == 5;
        record->slot += field == 6;
        record->generation += field == 7;
        record->key.word[1] += field == 8;
        tutti_record_seal(record);
        slot_bytes(&r, items[3].slot, bytes, true);
        load(&r, items, 8, &result, position);
        assert_int_equal(result.good, 7);
        assert_int_equal(position[3], ESTALE);
    }
    slot_bytes(&r, items[3].slot, before, true);
    load(&r, items, 8, &result, position);
    assert_int_equal(result.good, 8);
    rig_close(&r);
    rig_remove(&r);
    free(bytes);
    free(before);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_sectors_put_back_are_a_miss),
        cmocka_unit_test(a_slot_copied_over_another_is_a_miss),
        cmocka_unit_test(a_flipped_byte_fails_its_position_alone),
        cmocka_unit_test(a_record_of_elsewhere_is_a_miss),
    };

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
