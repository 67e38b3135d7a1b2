/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.c: from a key to its slot.
 *
 * Knows keys and slot indices; nothing of states, parents or extents.
 *
 * Open addressing, linear probing, two cells a slot, so that a search ends
 * after a cell or two. A cell is the slot's index and 32 bits of the key's
 * hash: enough to pass other keys by, and to close a gap, without a look at
 * the slots themselves, each of which would be a cache miss. Keys come from
 * disk and are not proven to be ours, so the hash multiplies with secret
 * numbers, and a scan that was made up cannot pile keys up.
 */
#include "directory/internal.h"

#include <errno.h>

static uint32_t home(const struct tutti_directory *d, uint64_t cell)
{
    return (uint32_t)(((cell >> 32) * d->cells) >> 32);
}

static uint32_t after(const struct tutti_directory *d, uint32_t at)
{
    return at + 1 == d->cells ? 0 : at + 1;
}

/* Index + 1 in the lower half: 0 is an empty cell. */
static uint64_t cell_of(uint32_t slot, uint64_t hash)
{
    return (hash >> 32 << 32) | (slot + 1);
}

void directory_table_seed(struct tutti_directory *d)
{
    static const uint8_t nobody[TUTTI_IDENTITY_BYTES];
    uint32_t i;

    for (i = 0; i < 2; i++) {
        struct tutti_key key =
            tutti_key_make(d->options.secret, nobody, i, (const uint8_t *)"directory table", 15);

        d->salt[2 * i] = key.word[0];
        d->salt[2 * i + 1] = key.word[1] | 1;
    }
}

uint64_t directory_table_hash(const struct tutti_directory *d, struct tutti_key key)
{
    uint64_t a = (key.word[0] ^ d->salt[0]) * d->salt[1];
    uint64_t b = (key.word[1] ^ d->salt[2]) * d->salt[3];

    return (a ^ a >> 32 ^ b) * d->salt[1];
}

void directory_table_prefetch(const struct tutti_directory *d, uint64_t hash)
{
    __builtin_prefetch(&d->cell[home(d, hash)]);
}

uint32_t directory_table_find(const struct tutti_directory *d, struct tutti_key key, uint64_t hash)
{
    uint32_t at = home(d, hash);
    uint64_t cell;

    for (; (cell = d->cell[at]) != 0; at = after(d, at)) {
        uint32_t slot = (uint32_t)cell - 1;

        if ((cell ^ hash) >> 32 == 0 && tutti_key_equal(d->slot[slot].key, key))
            return slot;
    }
    return NONE;
}

/* The key must not be there. Half the cells are always empty: this ends. */
void directory_table_insert(struct tutti_directory *d, uint32_t slot, uint64_t hash)
{
    uint32_t at = home(d, hash);

    while (d->cell[at] != 0)
        at = after(d, at);
    d->cell[at] = cell_of(slot, hash);
    d->cells_used++;
}

/* Closes the gap by moving back what was pushed past it: no tombstones. */
void directory_table_remove(struct tutti_directory *d, uint32_t slot)
{
    uint64_t wanted = cell_of(slot, directory_table_hash(d, d->slot[slot].key));
    uint32_t gap = home(d, wanted);
    uint32_t at;

    while (d->cell[gap] != wanted) {
        if (d->cell[gap] == 0)
            return; /* not there: audit() tells */
        gap = after(d, gap);
    }
    for (at = after(d, gap); d->cell[at] != 0; at = after(d, at)) {
        uint32_t from = home(d, d->cell[at]);
        /* It stays if its home lies behind the gap, on the way (gap, at]. */
        bool stays = gap <= at ? gap < from && from <= at : gap < from || from <= at;

        if (!stays) {
            d->cell[gap] = d->cell[at];
            gap = at;
        }
    }
    d->cell[gap] = 0;
    d->cells_used--;
}
