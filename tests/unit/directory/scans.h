/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scans.h: scans as several ranks might hand in, good ones and made-up ones.
 */
#ifndef TESTS_DIRECTORY_SCANS_H
#define TESTS_DIRECTORY_SCANS_H

#include "model.h"

#define MOST_RANKS 4u
#define MOST_ENTRIES 512u

struct scans {
    struct tutti_scan_entry entry[MOST_RANKS][MOST_ENTRIES];
    const struct tutti_scan_entry *entries[MOST_RANKS];
    size_t counts[MOST_RANKS];
};

/** A whole entry for a node of the model's tree in a slot (by its number). */
static inline struct tutti_scan_entry entry_of(const struct model *m, uint32_t number,
                                               uint32_t node, uint64_t generation)
{
    struct tutti_scan_entry e = {.slot = number,
                                 .generation = generation,
                                 .geometry = m->d->geometry_digest,
                                 .key = model_key(m, node)};

    if (m->node[node].parent != NONE)
        e.parent = model_key(m, m->node[node].parent);
    memcpy(e.identity, m->d->options.identity, sizeof(e.identity));
    return e;
}

/** One thing wrong with an entry. */
static inline void spoil(const struct model *m, struct tutti_scan_entry *e, uint64_t *seed)
{
    static const uint32_t far[] = {UINT32_MAX, UINT32_MAX - 1, 1u << 31, 97, 200};

    switch (below(seed, 12)) {
    case 0:
        e->slot = far[below(seed, 5)];
        break;
    case 1:
        e->generation = below(seed, 2) ? 0 : UINT64_MAX - below(seed, 2);
        break;
    case 2:
        e->parent = model_key(m, below(seed, NODES)); /* cycles, too */
        break;
    case 3:
        e->parent = e->key;
        break;
    case 4:
        e->parent.word[0] = draw(seed);
        break;
    case 5:
        e->parent = (struct tutti_key){{0, 0}};
        break;
    case 6:
        e->key = (struct tutti_key){{0, 0}};
        break;
    case 7:
        e->geometry ^= 1;
        break;
    case 8:
        e->identity[0] ^= 1;
        break;
    case 9:
        e->incarnation = below(seed, 2) ? UINT32_MAX : e->incarnation + 1;
        break;
    case 10:
        e->group = 1;
        break;
    default:
        e->generation += 1 + below(seed, 3);
        break;
    }
}

/** @wild: how many of 100 entries are spoilt, on one rank or on all. */
static inline void scans_draw(struct scans *s, const struct model *m, uint64_t *seed, uint32_t wild)
{
    uint32_t ranks = m->d->options.ranks;
    uint32_t numbers = m->d->extents * m->d->stride;
    uint32_t node = below(seed, NODES);
    uint32_t n;
    uint32_t r;

    memset(s, 0, sizeof(*s));
    for (n = 0; n < numbers; n++) {
        uint32_t extent = n / m->d->stride;
        struct tutti_scan_entry e;

        node = below(seed, 8) ? (node + 1) % NODES : below(seed, NODES);
        if (below(seed, 8) == 0)
            continue;
        e = entry_of(m, n, node,
                     (uint64_t)(1 + below(seed, 3)) << TUTTI_EPOCH_SHIFT | (1 + draw(seed) % 1000));
        e.incarnation = extent % 3;
        e.geometry += extent % 5 == 4; /* carved for another shape */
        e.identity[0] = (uint8_t)(e.identity[0] + (below(seed, 8) == 0));
        if (below(seed, 100) < wild)
            spoil(m, &e, seed);
        for (r = 0; r < ranks; r++) {
            uint32_t copies = below(seed, 100) < wild ? below(seed, 3) : 1;

            while (copies-- > 0 && s->counts[r] < MOST_ENTRIES) {
                s->entry[r][s->counts[r]] = e;
                if (below(seed, 200) < wild)
                    spoil(m, &s->entry[r][s->counts[r]], seed);
                s->counts[r]++;
            }
        }
    }
    for (r = 0; r < ranks; r++) {
        s->entries[r] = s->entry[r];
        for (n = 0; wild > 20 && n < s->counts[r]; n++) { /* not even sorted */
            uint32_t other = below(seed, (uint32_t)s->counts[r]);
            struct tutti_scan_entry e = s->entry[r][n];

            s->entry[r][n] = s->entry[r][other];
            s->entry[r][other] = e;
        }
    }
}

#endif
