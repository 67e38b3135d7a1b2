/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each thing that the audit knows, broken by itself, is found and said by its name: links that
 * lead out of the directory, states that are none, holds and lists that are linked wrongly.
 * The audit itself read behind its arrays where a link led there (AddressSanitizer).
 * Seen to fail so, and with one condition of each of its functions taken out.
 */
#include "world.h"

#include <errno.h>

enum { PER_EXTENT = 7, EXTENTS = 6 };

/** What is wrong is said so. */
static void says(const struct tutti_directory *d, const char *words)
{
    struct tutti_error err = {0};

    assert_int_equal(tutti_directory_audit(d, &err), -EUCLEAN);
    if (!strstr(err.message, words))
        fail_msg("'%s' is not in: %s", words, err.message);
}

/* Break one field, listen, and put it back. */
#define BROKEN_STILL(d, field, value, words)                                                       \
    do {                                                                                           \
        __typeof__(field) before_ = (field);                                                       \
        (field) = (value);                                                                         \
        says((d), (words));                                                                        \
        (field) = before_;                                                                         \
    } while (0)

/* The same, of a directory that is whole otherwise. */
#define BROKEN(d, field, value, words)                                                             \
    do {                                                                                           \
        BROKEN_STILL(d, field, value, words);                                                      \
        audit(d);                                                                                  \
    } while (0)

/** Two chains that share their first block; slots [0, 3) are the first chain's. */
static struct tutti_directory *forked(struct chain_of *c)
{
    struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, 1, 1);

    chain_name(c, 1, 0, 3);
    assert_int_equal(put_blocks(d, c, 0, 3, false), 3);
    chain_name(c, 2, 1, 3); /* behind block 0 of the first */
    assert_int_equal(put_blocks(d, c, 1, 2, false), 2);
    audit(d);
    return d;
}

static void links(void **state)
{
    struct chain_of *c = chain_new(1, 1);
    struct tutti_directory *d = forked(c);
    uint32_t far = d->slots + 100;
    uint32_t second = d->slot[0].child;
    (void)state;

    assert_int_equal(d->slot[second].next, 1); /* the later child stands first */
    BROKEN(d, d->slot[0].child, far, "its first child is not its child");
    BROKEN(d, d->slot[1].parent, far, "its parent is no slot");
    BROKEN(d, d->slot[1].prev, far, "missing among its parent's children");
    /* The other way round, so that a sibling's own links are looked at later. */
    d->slot[0].child = 1;
    d->slot[1].prev = d->slot[second].next = NONE;
    d->slot[1].next = second;
    d->slot[second].prev = 1;
    audit(d);
    BROKEN(d, d->slot[1].next, far, "its next sibling is none");
    BROKEN(d, d->slot[second].parent, 2, "its next sibling is none");
    tutti_directory_free(d);

    d = directory_of(EXTENTS, PER_EXTENT, 1, 1);
    chain_name(c, 3, 0, PER_EXTENT + 2);
    assert_int_equal(put_blocks(d, c, 0, PER_EXTENT + 2, false), PER_EXTENT + 2);
    assert_int_equal(d->slot[PER_EXTENT].parent, PER_EXTENT - 1);
    BROKEN(d, d->slot[PER_EXTENT].flags, SLOT_KEYED, "goes on a run that it is not behind");
    tutti_directory_free(d);
    free(c);
}

static void states(void **state)
{
    struct chain_of *c = chain_new(1, 1);
    struct tutti_directory *d = forked(c);
    uint32_t n = d->slots - 1; /* free */
    (void)state;

    BROKEN(d, d->slot[1].state, SLOT_STATES, "in no state");
    d->slot[1].state = SLOT_HIDDEN;
    d->slot[1].flags &= (uint8_t)~SLOT_KEYED;
    BROKEN_STILL(d, d->slot[1].child, d->slots + 100, "its first child is not its child");
    d->slot[1].state = SLOT_VISIBLE;
    d->slot[1].flags |= SLOT_KEYED;
    BROKEN(d, d->void_before, d->slot[1].generation, "visible below a slot that is not");
    BROKEN(d, d->extent[0].carved, 1, "free in an extent of another shape");
    d->slot[n].state = SLOT_FOREIGN;
    d->slot[n].generation = 1;
    d->slot[n].child = NONE;
    for (int field = 0; field < 3; field++) {
        d->slot[n].pins = field == 0;
        d->pending[n] = field == 1;
        d->slot[n].parent = field == 2 ? 0 : NONE;
        says(d, "foreign, but in use");
    }
    tutti_directory_free(d);
    free(c);
}

static void heap(void **state)
{
    struct chain_of *c = chain_new(1, 1);
    struct tutti_directory *d = forked(c);
    uint32_t first = d->heap[0];
    (void)state;

    assert_int_equal(d->heap_used, 2);
    d->heap[0] = d->heap[1];
    d->heap[1] = first;
    says(d, "not at its place in the heap");
    d->heap[1] = d->heap[0];
    d->heap[0] = first;
    BROKEN(d, d->heap_used, 3, "leaves");
    tutti_directory_free(d);
    free(c);
}

/** One extent; four blocks that grow, and a hold of two behind them. */
static struct tutti_directory *held(struct chain_of *c, uint32_t per_extent)
{
    struct tutti_directory_options o = options_of(2, per_extent, 1, 1);
    struct tutti_directory *d;

    o.run_slots = 2;
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), 0);
    chain_name(c, 1, 0, 4);
    assert_int_equal(put_blocks(d, c, 0, 4, true), 4);
    audit(d);
    return d;
}

static void holds(void **state)
{
    struct chain_of *c = chain_new(1, 4);
    struct tutti_directory *d = held(c, 12);
    uint32_t first = d->oldest_hold;
    (void)state;

    assert_int_equal(first, d->slot[first].parent + 1);
    assert_int_equal(d->slot[first].child, 2);
    BROKEN(d, d->slot[first].child, 3, "holds what is not free"); /* the third is open */
    BROKEN(d, d->newest_hold, 0, "holds say");
    BROKEN(d, d->oldest_hold, d->slots + 100, "holds say");
    chain_name(c, 2, 0, 1);
    assert_int_equal(put_blocks(d, c, 0, 1, true), 1);
    assert_int_equal(d->holds, 2);
    BROKEN(d, d->held, 1, "holds say");
    BROKEN(d, d->erase_first, d->slots + 100, "erasure queue");
    BROKEN(d, d->erase_first, 0, "erasure queue");
    tutti_directory_free(d);

    d = held(c, 6); /* the hold ends with its extent */
    first = d->oldest_hold;
    assert_int_equal(first % 6, 4);
    if (first > 6) /* and with the directory */
        BROKEN(d, d->slot[first].child, 3, "holds what is not free");
    directory_close(d, first > 6 ? 0 : 6);
    d->slot[first].child = 3;
    says(d, "holds what is not free");
    tutti_directory_free(d);

    d = directory_of(1, 6, 1, 1); /* the last slot's hold goes on to nowhere */
    directory_close(d, 5);
    chain_name(c, 1, 0, 5);
    assert_int_equal(put_blocks(d, c, 0, 5, false), 5);
    d->slot[5].flags = SLOT_HOLD;
    d->slot[5].parent = 4;
    d->slot[5].child = 2;
    d->slot[5].prev = d->slot[5].next = NONE;
    d->oldest_hold = d->newest_hold = 5;
    says(d, "holds what is not free");
    tutti_directory_free(d);
    free(c);
}

/** A hold behind nobody: of the first slot, of an extent's first, behind a free one. */
static void holds_of_nobody(void **state)
{
    static const uint32_t at[] = {0, PER_EXTENT, 3};
    (void)state;

    for (int i = 0; i < 3; i++) {
        struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, 1, 1);

        d->oldest_hold = at[i];
        d->slot[at[i]].flags = SLOT_HOLD;
        d->slot[at[i]].prev = NONE;
        d->slot[at[i]].parent = at[i] - 1;
        says(d, "held behind nobody");
        tutti_directory_free(d);
    }
}

static void lists(void **state)
{
    struct chain_of *c = chain_new(1, 4);
    struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, 2, 1);
    uint32_t all = 3; /* the list of stretches of 4 to 7 */
    uint32_t first[2] = {d->bucket[0][all], d->bucket[1][all]};
    uint32_t some;
    (void)state;

    BROKEN(d, d->extent[0].bucket, 2, "extent 0 has a free stretch of 7");
    BROKEN(d, d->extent[first[0]].next, first[0], "extents listed of"); /* for ever */
    BROKEN(d, d->extent[first[0]].next, EXTENTS + 100, "extents listed of");
    BROKEN(d, d->bucket[0][all], d->extent[first[0]].next, "extents listed of");
    BROKEN(d, d->bucket[0][all], first[1], "in list 3 of 0");
    assert_int_equal(put_blocks(d, c, 0, 4, false), 4);
    some = d->bucket[0][2] != NONE ? 0 : 1; /* the member that has 3 open in one extent */
    first[0] = d->bucket[some][all];
    BROKEN(d, d->bucket[some][2], first[0], "in list 2 of");

    d->open_count++; /* the sum is right */
    d->open_fenced--;
    says(d, "slots open in the map");
    d->open_count--;
    d->open_fenced++;
    assert_int_equal(tutti_directory_fence_members(d, 1u << (1 - some)), 1);
    audit(d);
    first[1] = d->bucket[1 - some][all];
    d->open[first[1]] &= ~UINT64_C(2);
    d->extent[first[1]].largest -= 2;
    says(d, "slots open in the map");
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links), cmocka_unit_test(states),          cmocka_unit_test(heap),
        cmocka_unit_test(holds), cmocka_unit_test(holds_of_nobody), cmocka_unit_test(lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
