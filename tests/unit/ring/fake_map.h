/* SPDX-License-Identifier: Apache-2.0 */
/* fake_map.h: a transfer map that a ring accepts and nobody moves. */
#ifndef TUTTI_TESTS_RING_FAKE_MAP_H
#define TUTTI_TESTS_RING_FAKE_MAP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tutti/ring.h"

enum { FAKE_POSITIONS = 64 };

struct fake_map {
    struct tutti_map map;
    struct tutti_placement placement;
    struct tutti_record stencil;
    struct tutti_kv_plane plane[8];
    struct tutti_transfer item[FAKE_POSITIONS];
    struct tutti_origin origin[FAKE_POSITIONS];
    uint8_t status[FAKE_POSITIONS];
    _Alignas(4096) uint8_t records[FAKE_POSITIONS * 512];
};

static inline void fake_map_init(struct fake_map *f, uint32_t members)
{
    memset(f, 0, sizeof(*f));
    f->placement = (struct tutti_placement){.layers = 4,
                                            .parts = 2,
                                            .members = members,
                                            .alignment = 512,
                                            .record_stride = 512,
                                            .records_per_extent = 16,
                                            .slots_per_extent = 16,
                                            .extents = 16};
    f->stencil.layers = 4;
    f->map = (struct tutti_map){.items = f->item,
                                .origins = f->origin,
                                .count = FAKE_POSITIONS,
                                .verify = true,
                                .placement = &f->placement,
                                .planes = f->plane,
                                .stencil = &f->stencil,
                                .records = f->records,
                                .status = f->status};
}

/** Take one that names the whole map, layer 0, a load. */
static inline struct tutti_iocb *fake_iocb(struct tutti_ring *ring, struct fake_map *f,
                                           uint32_t *index)
{
    struct tutti_iocb *iocb = tutti_ring_get(ring, index);

    if (iocb) {
        iocb->map = &f->map;
        iocb->count = FAKE_POSITIONS;
    }
    return iocb;
}

#endif
