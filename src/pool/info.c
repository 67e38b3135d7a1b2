/* SPDX-License-Identifier: Apache-2.0 */
/* info.c: what an open pool tells about itself. Touches no disk. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "nvme/drive.h"
#include "pool/internal.h"

#define ZERO_CELSIUS 273

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

int tutti_pool_member_health(const struct tutti_pool *pool, uint32_t member,
                             struct tutti_member_health *health)
{
    struct nvme_drive *drive = tutti_pool_member_drive(pool, member);
    struct nvme_health said;

    memset(health, 0, sizeof(*health));
    if (!drive)
        return member < pool->members ? -EOPNOTSUPP : -EINVAL;
    nvme_drive_health(drive, &said);
    if (!said.known)
        return -ENODATA;
    *health = (struct tutti_member_health){
        .low_on_spare = said.warnings & NVME_WARNING_SPARE,
        .hot = said.warnings & NVME_WARNING_TEMPERATURE,
        .unreliable = said.warnings & NVME_WARNING_DEGRADED,
        .read_only = said.warnings & NVME_WARNING_READ_ONLY,
        .unprotected = said.warnings & NVME_WARNING_BACKUP,
        .spare_left = said.spare,
        .used = said.used,
        .celsius = said.kelvin ? (int32_t)said.kelvin - ZERO_CELSIUS : INT32_MIN,
        .media_errors = said.media_errors,
    };
    return 0;
}

void tutti_member_health_text(const struct tutti_member_health *h, char text[TUTTI_HEALTH_TEXT])
{
    const struct {
        bool holds;
        const char *text;
    } warnings[] = {{h->read_only, "read-only"},
                    {h->unreliable, "unreliable"},
                    {h->low_on_spare, "low on spare blocks"},
                    {h->hot, "too hot or too cold"},
                    {h->unprotected, "its cache is lost with the power"}};
    const char *before = "; WARNS: ";
    char celsius[24] = "";
    size_t at;

    if (h->celsius != INT32_MIN)
        snprintf(celsius, sizeof(celsius), ", %" PRId32 " C", h->celsius);
    at = (size_t)snprintf(text, TUTTI_HEALTH_TEXT,
                          "%" PRIu32 " %% worn, %" PRIu32 " %% spare%s, %" PRIu64 " media errors",
                          h->used, h->spare_left, celsius, h->media_errors);
    for (size_t i = 0; i < sizeof(warnings) / sizeof(warnings[0]); i++)
        if (warnings[i].holds) {
            at += (size_t)snprintf(text + at, TUTTI_HEALTH_TEXT - at, "%s%s", before,
                                   warnings[i].text);
            before = ", ";
        }
}
