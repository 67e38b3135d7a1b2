/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit is no rubber stamp: of a busy directory, a link, state, count or list
 * that is changed to another one that could be is found, with a sentence.
 * Seen to fail with check_links() and with check_extents() that say yes.
 */
#include "world.h"

#include <errno.h>

enum { ROUNDS = 10000 };

static uint64_t seed = 3;

/** Chains of all lengths, some pinned, unreported, dropped and to be erased; holds and evictions.
 */
static struct tutti_directory *busy(void)
{
    struct tutti_directory *d = directory_of(16, 32, 2, 2);
    struct chain_of *c = chain_new(0, 1);

    for (uint32_t round = 0; round < 200; round++) {
        uint32_t length = 1 + below(&seed, 20);
        struct tutti_match m;

        chain_name(c, below(&seed, 40), 0, length);
        m = match_of(d, c, length);
        if (m.blocks < length)
            put_blocks(d, c, m.blocks, length - m.blocks, round % 3 == 0);
        m = match_of(d, c, length);
        if (m.blocks > 0 && below(&seed, 8) == 0)
            assert_int_equal(tutti_directory_pin(d, &m, 0, c->out), 0);
        if (m.blocks > 0 && below(&seed, 12) == 0)
            tutti_directory_drop(d, m.slot, m.generation);
        if (round > 190) {
            chain_name(c, 1000 + round, 0, 5);
            reserve(d, c, 0, 5, true); /* and nobody reports */
        }
    }
    audit(d);
    free(c);
    return d;
}

static uint32_t any_slot(const struct tutti_directory *d)
{
    return below(&seed, 3) == 0 ? UINT32_MAX : below(&seed, d->slots);
}

/** Another value that the field could have. Return: whether it is another. */
static bool change_slot(struct tutti_directory *d, uint32_t n)
{
    struct slot *s = &d->slot[n], before = *s;
    uint64_t owed = d->pending[n];

    switch (below(&seed, 11)) {
    case 0:
        s->parent = any_slot(d);
        break;
    case 1:
        s->child = any_slot(d);
        break;
    case 2:
        s->next = any_slot(d);
        break;
    case 3:
        s->prev = any_slot(d);
        break;
    case 4:
        s->depth += 1 + below(&seed, 5);
        break;
    case 5:
        s->heap = s->heap ? 0 : 1 + below(&seed, d->heap_used);
        break;
    case 6:
        s->pins ^= 1;
        break;
    case 7:
        s->state = (uint8_t)below(&seed, SLOT_CARVED + 1);
        break;
    case 8:
        s->flags ^= (uint8_t)(1u << below(&seed, 4));
        break;
    case 9:
        s->generation = 0;
        break;
    default:
        d->pending[n] ^= 1;
        break;
    }
    return memcmp(s, &before, sizeof(before)) != 0 || owed != d->pending[n];
}

static bool found(const struct tutti_directory *d)
{
    struct tutti_error err = {0};
    int rc = tutti_directory_audit(d, &err);

    assert_true(rc == 0 || (rc == -EUCLEAN && strlen(err.message) > 0));
    return rc < 0;
}

static void changed_slots(void **state)
{
    struct tutti_directory *d = busy();
    uint64_t changes = 0, seen = 0;
    (void)state;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t n = below(&seed, d->slots);
        struct slot before = d->slot[n];
        uint64_t owed = d->pending[n];

        if (change_slot(d, n)) {
            changes++;
            seen += found(d);
        }
        d->slot[n] = before;
        d->pending[n] = owed;
    }
    audit(d);
    print_message("%llu of %llu changes of slots found\n", (unsigned long long)seen,
                  (unsigned long long)changes);
    assert_true(seen * 10 > changes * 6); /* the rest are of slots that use no such field */
    tutti_directory_free(d);
}

/** These have one right value each. */
static void changed_counts(void **state)
{
    struct tutti_directory *d = busy();
    uint64_t *const words[] = {&d->count[0],       &d->count[1], &d->count[2],   &d->count[4],
                               &d->pinned,         &d->runs,     &d->open_count, &d->held,
                               &d->bucket_mask[0], &d->open[0]};
    uint32_t *const small[] = {&d->cells_used, &d->holds};
    (void)state;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        *words[i] ^= 2;
        assert_true(found(d));
        *words[i] ^= 2;
    }
    for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++) {
        ++*small[i];
        assert_true(found(d));
        --*small[i];
    }
    d->heap_used--;
    assert_true(found(d));
    d->heap_used++;
    for (uint32_t e = 0; e < d->extents; e++) {
        struct extent before = d->extent[e];

        d->extent[e].largest++;
        assert_true(found(d));
        d->extent[e] = before;
        d->extent[e].bucket = (uint8_t)(before.bucket + 1);
        assert_true(found(d));
        d->extent[e] = before;
    }
    for (uint32_t i = 1; i < d->heap_used; i++) {
        uint64_t touch = d->slot[d->heap[i]].touch;

        d->slot[d->heap[i]].touch = 0;
        assert_true(found(d) || d->slot[d->heap[(i - 1) / 2]].touch == 0);
        d->slot[d->heap[i]].touch = touch;
    }
    audit(d);
    tutti_directory_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(changed_slots),
                                       cmocka_unit_test(changed_counts)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
