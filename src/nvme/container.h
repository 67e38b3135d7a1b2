/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.h: the memory that a drive may reach.
 *
 * Responsible for VFIO's container and group of one drive (type 1, an IOMMU
 * that is told of each piece), and for where on the bus a piece lies. Knows
 * neither the device nor NVMe; vfio.c is its only user.
 *
 * Addresses on the bus are given out first fit, from what the kernel says may
 * be used, and congruent with the memory's own, so that large pages stay large.
 */
#ifndef TUTTI_NVME_CONTAINER_H
#define TUTTI_NVME_CONTAINER_H

#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"

#define NVME_CONTAINER_RANGES 16u

struct nvme_piece;

/**
 * struct nvme_container - one drive's
 * @name: the drive's, for messages
 * @container, @group: descriptors, or -1
 * @page: smallest that the IOMMU maps
 * @pieces_left: how many more the kernel takes
 * @range: addresses on the bus that may be used
 * @piece: what is mapped, sorted by address
 */
struct nvme_container {
    const char *name;
    int container;
    int group;
    uint64_t page;
    uint32_t pieces_left;
    uint32_t ranges;
    struct {
        uint64_t first;
        uint64_t last;
    } range[NVME_CONTAINER_RANGES];
    struct nvme_piece *piece;
};

/**
 * nvme_container_open() - one for an IOMMU group
 *
 * Return: 0, or a negative errno with a message; nvme_container_unmap_all() and the descriptors'
 * closing end it in both cases.
 */
int nvme_container_open(struct nvme_container *c, const char *name, int group,
                        struct tutti_error *err);

/** As nvme_vfio_map() and nvme_vfio_unmap(). */
int nvme_container_map(struct nvme_container *c, void *memory, size_t bytes, uint64_t *address,
                       struct tutti_error *err);
int nvme_container_unmap(struct nvme_container *c, uint64_t address, size_t bytes,
                         struct tutti_error *err);

/** Of a drive that can reach nothing any more. */
void nvme_container_unmap_all(struct nvme_container *c);

#endif
