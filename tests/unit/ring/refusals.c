/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A field outside its limits is refused at issue, and nothing is issued.
 * Seen to fail with iocb_valid() returning true.
 */
#include "fake_map.h"

#include <errno.h>

static struct fake_map f;

static void refused(struct tutti_ring *ring, void (*spoil)(struct tutti_iocb *, struct fake_map *))
{
    uint32_t index;
    struct tutti_iocb *iocb;

    fake_map_init(&f, 2);
    iocb = fake_iocb(ring, &f, &index);
    spoil(iocb, &f);
    assert_int_equal(tutti_ring_issue(ring, index), -EINVAL);
    assert_int_equal(tutti_ring_take(ring, 0), TUTTI_NO_IOCB);
    assert_int_equal(tutti_ring_put(ring, index), 0);
}

#define SPOIL(name, statement)                                                                     \
    static void name(struct tutti_iocb *i, struct fake_map *m)                                     \
    {                                                                                              \
        (void)i;                                                                                   \
        (void)m;                                                                                   \
        statement;                                                                                 \
    }
SPOIL(no_map, i->map = NULL)
SPOIL(no_items, m->map.items = NULL)
SPOIL(no_placement, m->map.placement = NULL)
SPOIL(no_stencil, m->map.stencil = NULL)
SPOIL(no_status, m->map.status = NULL)
SPOIL(no_planes, m->map.planes = NULL)
SPOIL(no_records, m->map.records = NULL)
SPOIL(records_nowhere, i->layer = TUTTI_LAYER_RECORDS; m->map.records = NULL)
SPOIL(large_stride, m->placement.record_stride = 8192)
SPOIL(askew_records, m->map.records++)
SPOIL(other_members, m->placement.members = 3)
SPOIL(other_layers, m->stencil.layers = 5)
SPOIL(small_stride, m->placement.record_stride = 128)
SPOIL(no_range, i->count = 0)
SPOIL(behind_the_end, i->first = FAKE_POSITIONS)
SPOIL(over_the_end, i->first = 1)
SPOIL(wraps, i->first = 2; i->count = UINT32_MAX)
SPOIL(no_such_layer, i->layer = 4)
SPOIL(no_such_direction, i->direction = 2)
SPOIL(no_such_class, i->class_ = TUTTI_CLASSES)
SPOIL(reserved_0, i->reserved[0] = 1)
SPOIL(reserved_1, i->reserved[1] = 1)
SPOIL(read_empty, i->layer = TUTTI_LAYER_EMPTY)
SPOIL(records_of_nowhere, i->layer = TUTTI_LAYER_RECORDS; i->direction = TUTTI_WRITE;
      m->map.origins = NULL)
SPOIL(waits_for_nothing, i->wait_for = 8)

static void fields(void **state)
{
    static void (*const spoils[])(struct tutti_iocb *, struct fake_map *) = {
        no_map,        no_items,           no_placement,      no_stencil,      no_status,
        no_planes,     no_records,         askew_records,     other_members,   other_layers,
        small_stride,  no_range,           behind_the_end,    over_the_end,    wraps,
        no_such_layer, no_such_direction,  no_such_class,     reserved_0,      reserved_1,
        read_empty,    records_of_nowhere, waits_for_nothing, records_nowhere, large_stride};
    struct tutti_ring *ring;
    (void)state;

    assert_int_equal(tutti_ring_new(8, 2, &ring, NULL), 0);
    for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++)
        refused(ring, spoils[i]);
    tutti_ring_free(ring);
}

static void waits_that_nothing_would_end(void **state)
{
    struct tutti_ring *ring;
    uint32_t first, second;
    struct tutti_iocb *iocb;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(8, 1, &ring, NULL), 0);
    iocb = fake_iocb(ring, &f, &first);
    iocb->wait_for = first;
    assert_int_equal(tutti_ring_issue(ring, first), -EINVAL); /* itself */
    iocb = fake_iocb(ring, &f, &second);
    iocb->wait_for = first;
    assert_int_equal(tutti_ring_issue(ring, second), -EINVAL); /* one that is not issued */
    iocb = tutti_ring_iocb(ring, first);
    iocb->wait_for = TUTTI_NO_IOCB;
    assert_int_equal(tutti_ring_issue(ring, first), 0);
    assert_int_equal(tutti_ring_issue(ring, first), -EINVAL); /* twice */
    assert_int_equal(tutti_ring_issue(ring, second), 0);
    assert_int_equal(tutti_ring_issue(ring, 8), -EINVAL); /* no such index */
    tutti_ring_free(ring);
}

static void shapes_of_rings(void **state)
{
    static const uint32_t depths[] = {0, 1, 3, 100, 131072};
    struct tutti_ring *ring;
    struct tutti_error err;
    (void)state;

    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(tutti_ring_new(depths[i], 1, &ring, &err), -EINVAL);
        assert_null(ring);
        assert_non_null(strstr(err.message, "power of two"));
    }
    assert_int_equal(tutti_ring_new(8, 0, &ring, &err), -EINVAL);
    assert_int_equal(tutti_ring_new(8, TUTTI_MAX_MEMBERS + 1, &ring, &err), -EINVAL);
    tutti_ring_free(NULL);
}

static void full_and_put(void **state)
{
    struct tutti_ring *ring;
    uint32_t index[2], third;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(2, 1, &ring, NULL), 0);
    assert_non_null(fake_iocb(ring, &f, &index[0]));
    assert_non_null(fake_iocb(ring, &f, &index[1]));
    assert_null(tutti_ring_get(ring, &third));
    assert_int_equal(tutti_ring_cancel(ring, index[0]), TUTTI_CANCEL_NOT_STARTED); /* nor issued */
    assert_int_equal(tutti_ring_put(ring, 2), -EINVAL);
    assert_int_equal(tutti_ring_put(ring, index[0]), 0); /* never issued */
    assert_int_equal(tutti_ring_put(ring, index[0]), -EINVAL);
    assert_int_equal(tutti_ring_issue(ring, index[1]), 0);
    assert_int_equal(tutti_ring_put(ring, index[1]), -EBUSY);
    assert_int_equal(tutti_ring_wait(ring, index[1], 0), -ETIMEDOUT);
    assert_int_equal(tutti_ring_wait(ring, index[1], 1000000), -ETIMEDOUT);
    assert_int_equal(tutti_ring_take(ring, 0), index[1]);
    f.status[5] = EIO;
    tutti_ring_finish(ring, index[1], 0, 1, 2, 3, 4, 5);
    assert_int_equal(tutti_ring_wait(ring, index[1], 0), -EIO);
    assert_int_equal(tutti_ring_iocb(ring, index[1])->completion.verified, 5);
    assert_int_equal(tutti_ring_put(ring, index[1]), 0);
    tutti_ring_free(ring);
}

/** What is good before the first error is counted from wherever the IOCB begins. */
static void verified_from_anywhere(void **state)
{
    struct tutti_ring *ring;
    uint32_t index;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(2, 1, &ring, NULL), 0);
    for (uint32_t first = 0; first < 20; first++)
        for (uint32_t bad = first; bad < 40; bad++) {
            struct tutti_iocb *iocb = fake_iocb(ring, &f, &index);

            iocb->first = first;
            iocb->count = 30;
            f.status[bad] = EIO;
            assert_int_equal(tutti_ring_issue(ring, index), 0);
            assert_int_equal(tutti_ring_take(ring, 0), index);
            tutti_ring_finish(ring, index, 0, 1, 2, 3, 4, 5);
            assert_int_equal(iocb->completion.verified, bad - first < 30 ? bad - first : 30);
            assert_int_equal(iocb->completion.status, bad - first < 30 ? -EIO : 0);
            assert_int_equal(tutti_ring_put(ring, index), 0);
            f.status[bad] = 0;
        }
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields),
        cmocka_unit_test(waits_that_nothing_would_end),
        cmocka_unit_test(shapes_of_rings),
        cmocka_unit_test(full_and_put),
        cmocka_unit_test(verified_from_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
