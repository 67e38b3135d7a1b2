/* SPDX-License-Identifier: Apache-2.0 */
/* info.c: what an open pool tells about itself. Touches no disk. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pool/internal.h"

void tutti_pool_info(const struct tutti_pool *pool, struct tutti_pool_info *info)
{
    memset(info, 0, sizeof(*info));
    info->superblock = pool->superblock;
    info->extents = pool->superblock.extents * pool->superblock.members;
    info->direct = true;
    for (uint32_t i = 0; i < pool->members; i++) {
        const struct backing *b = &pool->member[i].backing;

        if (b->logical > info->logical_block)
            info->logical_block = b->logical;
        if (!b->direct && info->direct) {
            info->direct = false;
            snprintf(info->direct_reason, sizeof(info->direct_reason), "%s", b->reason);
        }
    }
}

static int current_shape(const struct tutti_pool *pool, uint32_t group)
{
    return group < TUTTI_MAX_GROUPS ? pool->current[group] : -1;
}

int tutti_pool_placement(const struct tutti_pool *pool, uint32_t group,
                         struct tutti_placement *placement)
{
    int i = current_shape(pool, group);

    if (i < 0)
        return -ENOENT;
    *placement = pool->placement[i];
    return 0;
}

int tutti_pool_geometry(const struct tutti_pool *pool, uint32_t group,
                        struct tutti_geometry *geometry)
{
    int i = current_shape(pool, group);

    if (i < 0)
        return -ENOENT;
    *geometry = pool->superblock.geometry[i];
    return 0;
}

const uint8_t *tutti_pool_secret(const struct tutti_pool *pool)
{
    return pool->secret;
}

const char *tutti_pool_home(const struct tutti_pool *pool)
{
    return pool->home;
}

int tutti_pool_member_fd(const struct tutti_pool *pool, uint32_t member)
{
    return member < pool->members ? pool->member[member].backing.fd : -1;
}

struct nvme_drive *tutti_pool_member_drive(const struct tutti_pool *pool, uint32_t member)
{
    return member < pool->members ? pool->member[member].backing.drive : NULL;
}

const char *tutti_pool_member_path(const struct tutti_pool *pool, uint32_t member)
{
    return member < pool->members ? pool->member[member].backing.path : NULL;
}
