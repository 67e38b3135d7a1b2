/* SPDX-License-Identifier: Apache-2.0 */
/* container.c: see container.h. The kernel's side is Documentation/driver-api/vfio.rst. */
#include "nvme/container.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "nvme/spec.h"

#define LOWEST UINT64_C(0x10000) /* on the bus: 0 means "none" in an NVMe command */
#define TRIES 16                 /* of a mapping that meets a change of the page tables */

struct nvme_piece {
    struct nvme_piece *next;
    uint64_t address;
    uint64_t bytes;
};

/* Container and group. */

static int open_node(const struct nvme_container *c, const char *path, int *fd,
                     struct tutti_error *err)
{
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd >= 0)
        return 0;
    return tutti_error_set(
        err, -errno, "%s: %s: %s; %s", c->name, path, strerror(errno),
        errno == EBUSY    ? "another process has the drive, or the kernel has not let go of it yet"
        : errno == ENOENT ? "modprobe vfio-pci, and let a container see /dev/vfio"
                          : "give it to this user (chown)");
}

/** Page size, the addresses that may be used, and how many pieces. */
static int know_container(struct nvme_container *c, struct tutti_error *err)
{
    struct vfio_iommu_type1_info head = {.argsz = sizeof(head)}, *info = NULL;
    uint32_t at;

    if (ioctl(c->container, VFIO_IOMMU_GET_INFO, &head) == 0)
        info = calloc(1, head.argsz);
    if (info)
        info->argsz = head.argsz;
    if (!info || ioctl(c->container, VFIO_IOMMU_GET_INFO, info) < 0) {
        free(info);
        return tutti_error_set(err, -EIO, "%s: VFIO_IOMMU_GET_INFO: %s", c->name, strerror(errno));
    }
    c->page = info->iova_pgsizes & -info->iova_pgsizes;
    c->pieces_left = UINT32_MAX;
    at = info->flags & VFIO_IOMMU_INFO_CAPS ? info->cap_offset : 0;
    while (at != 0 && at < info->argsz) {
        const void *found = (const uint8_t *)info + at;
        const struct vfio_info_cap_header *header = found;

        if (header->id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
            const struct vfio_iommu_type1_info_cap_iova_range *cap = found;

            c->ranges =
                cap->nr_iovas < NVME_CONTAINER_RANGES ? cap->nr_iovas : NVME_CONTAINER_RANGES;
            for (uint32_t i = 0; i < c->ranges; i++) {
                c->range[i].first = cap->iova_ranges[i].start;
                c->range[i].last = cap->iova_ranges[i].end;
            }
        } else if (header->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
            c->pieces_left = ((const struct vfio_iommu_type1_info_dma_avail *)found)->avail;
        }
        at = header->next;
    }
    free(info);
    if (c->ranges == 0 || c->page == 0 || c->page > NVME_PAGE)
        return tutti_error_set(err, -EOPNOTSUPP,
                               "%s: the kernel names no addresses for it, or pages of %" PRIu64
                               " bytes; Linux 5.15 with pages of 4096 is needed",
                               c->name, c->page);
    return 0;
}

int nvme_container_open(struct nvme_container *c, const char *name, int group,
                        struct tutti_error *err)
{
    struct vfio_group_status status = {.argsz = sizeof(status)};
    char path[32];
    int rc;

    *c = (struct nvme_container){.name = name, .container = -1, .group = -1};
    rc = open_node(c, "/dev/vfio/vfio", &c->container, err);
    snprintf(path, sizeof(path), "/dev/vfio/%d", group);
    if (rc == 0)
        rc = open_node(c, path, &c->group, err);
    if (rc < 0)
        return rc;
    if (ioctl(c->container, VFIO_GET_API_VERSION) != VFIO_API_VERSION ||
        ioctl(c->container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1)
        return tutti_error_set(err, -EOPNOTSUPP,
                               "%s: the kernel has no type 1 IOMMU for VFIO (modprobe "
                               "vfio_iommu_type1)",
                               c->name);
    if (ioctl(c->group, VFIO_GROUP_GET_STATUS, &status) < 0 ||
        !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
        return tutti_error_set(err, -EBUSY,
                               "%s: another device of its IOMMU group is in use by the kernel; "
                               "bind those of /sys/kernel/iommu_groups/%d/devices to vfio-pci too, "
                               "or put the drive in another slot",
                               c->name, group);
    if (ioctl(c->group, VFIO_GROUP_SET_CONTAINER, &c->container) < 0 ||
        ioctl(c->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
        return tutti_error_set(err, -errno,
                               "%s: the IOMMU does not take group %d: %s; see the kernel's log "
                               "(interrupt remapping has to be on)",
                               c->name, group, strerror(errno));
    return know_container(c, err);
}

/* Memory. */

/** The first address from @at on that is @memory's modulo @size: large pages stay large. */
static uint64_t congruent(uint64_t at, uint64_t memory, uint64_t size)
{
    return at + ((memory - at) & (size - 1));
}

/** A place for @bytes. Return: the link after which it goes, or NULL without one. */
static struct nvme_piece **find_place(struct nvme_container *c, uint64_t memory, uint64_t bytes,
                                      uint64_t *address)
{
    uint64_t size = bytes >= 1u << 30 ? 1u << 30 : bytes >= 1u << 21 ? 1u << 21 : c->page;

    for (uint32_t i = 0; i < c->ranges; i++) {
        uint64_t first = c->range[i].first, last = c->range[i].last;
        uint64_t at = congruent(first < LOWEST ? LOWEST : first, memory, size);
        struct nvme_piece **link = &c->piece;

        while (*link && (*link)->address < at + bytes) {
            if ((*link)->address + (*link)->bytes > at)
                at = congruent((*link)->address + (*link)->bytes, memory, size);
            link = &(*link)->next;
        }
        if (at >= first && at <= last && last - at >= bytes - 1) {
            *address = at;
            return link;
        }
    }
    return NULL;
}

static const char *remedy(int rc)
{
    return rc == -ENOMEM   ? "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)"
           : rc == -ENOSPC ? "fewer, larger pieces, or more (dma_entry_limit of vfio_iommu_type1)"
           : rc == -EFAULT ? "it is not there, or not writable"
           : rc == -EINVAL ? "another device's memory needs the kernel's vfio_iommu_type1 (iommufd "
                             "in its place refuses it)"
                           : "see the kernel's log";
}

int nvme_container_map(struct nvme_container *c, void *memory, size_t bytes, uint64_t *address,
                       struct tutti_error *err)
{
    struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map),
                                           .flags =
                                               VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                           .vaddr = (uintptr_t)memory,
                                           .size = bytes};
    uint64_t at = 0;
    struct nvme_piece **link, *piece;
    int rc = 0;

    if (bytes == 0 || (map.vaddr | bytes) & (NVME_PAGE - 1))
        return tutti_error_set(err, -EINVAL, "%s: %zu bytes at %p are not whole pages of %u",
                               c->name, bytes, memory, NVME_PAGE);
    link = find_place(c, map.vaddr, bytes, &at);
    piece = malloc(sizeof(*piece));
    if (!piece)
        rc = -ENOMEM;
    else if (!link || c->pieces_left == 0)
        rc = -ENOSPC;
    map.iova = at;
    for (int tries = TRIES; rc == 0 && tries > 0; tries--) {
        if (ioctl(c->container, VFIO_IOMMU_MAP_DMA, &map) == 0)
            break;
        if (errno != EINVAL || tries == 1)
            rc = -errno;
        sched_yield(); /* EINVAL also where a BAR's page tables changed meanwhile: again */
    }
    if (rc < 0) {
        free(piece);
        return tutti_error_set(err, rc, "%s: %zu bytes at %p cannot be mapped for it: %s; %s",
                               c->name, bytes, memory, strerror(-rc), remedy(rc));
    }
    *piece = (struct nvme_piece){.next = *link, .address = at, .bytes = bytes};
    *link = piece;
    c->pieces_left--;
    *address = at;
    return 0;
}

int nvme_container_unmap(struct nvme_container *c, uint64_t address, size_t bytes,
                         struct tutti_error *err)
{
    struct vfio_iommu_type1_dma_unmap unmap = {
        .argsz = sizeof(unmap), .iova = address, .size = bytes};
    struct nvme_piece **link = &c->piece, *piece;

    while (*link && (*link)->address != address)
        link = &(*link)->next;
    piece = *link;
    if (!piece || piece->bytes != bytes)
        return tutti_error_set(
            err, -EINVAL, "%s: %zu bytes at bus address %#" PRIx64 " were not mapped as one piece",
            c->name, bytes, address);
    errno = 0;
    if (ioctl(c->container, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0 || unmap.size != bytes)
        return tutti_error_set(err, -EIO,
                               "%s: of %zu bytes at bus address %#" PRIx64 " %" PRIu64
                               " were unmapped: %s; they stay allocated",
                               c->name, bytes, address, (uint64_t)unmap.size, strerror(errno));
    *link = piece->next;
    free(piece);
    c->pieces_left++;
    return 0;
}

void nvme_container_unmap_all(struct nvme_container *c)
{
    while (c->piece && nvme_container_unmap(c, c->piece->address, c->piece->bytes, NULL) == 0)
        ;
    for (struct nvme_piece *next; c->piece; c->piece = next) { /* these end with the container */
        next = c->piece->next;
        free(c->piece);
    }
}
