/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open.c: from paths to a pool that may be used.
 *
 * Everything is compared before anything is believed: that nobody else has the
 * members, that each is whole, that they are this rank's members of this pool
 * and belong together, that they are as long as they were formatted, and that
 * the shapes fit. Writes nothing but a shape that the pool does not know yet.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/internal.h"

static void hex(const uint8_t id[16], char out[33])
{
    sodium_bin2hex(out, 33, id, 16);
}

/* That the member is the one that was asked for: pool, rank, place. */
static int check_belonging(const struct member *m, const struct tutti_pool_options *o,
                           uint32_t index, uint32_t members, const uint8_t pool_id[16],
                           const uint8_t secret[16], struct tutti_error *err)
{
    const struct tutti_superblock *s = &m->superblock;
    const char *path = m->backing.path;
    uint32_t offset = m->copy * TUTTI_SUPERBLOCK_COPY;
    char theirs[33];
    char ours[33];

    hex(s->pool, theirs);
    hex(pool_id, ours);
    if (memcmp(s->pool, pool_id, 16) != 0)
        return tutti_error_set(err, -EXDEV,
                               "%s: belongs to pool %s (superblock at offset %u) and %s/secret to "
                               "pool %s: name the folder and the members of one pool",
                               path, theirs, offset, o->home, ours);
    if (s->secret_check != superblock_secret_check(secret, pool_id))
        return tutti_error_set(err, -EXDEV,
                               "%s: was formatted with another secret than %s/secret holds "
                               "(superblock at offset %u): bring back the secret file of pool %s",
                               path, o->home, offset, theirs);
    if (o->ranks != 0 && s->ranks != o->ranks)
        return tutti_error_set(err, -EXDEV,
                               "%s: was formatted for %u ranks (superblock at offset %u) and is "
                               "opened for %u: use that tensor-parallel size, or format a pool "
                               "for this one",
                               path, s->ranks, offset, o->ranks);
    if (s->rank != o->rank)
        return tutti_error_set(err, -EXDEV,
                               "%s: belongs to rank %u (superblock at offset %u) and is opened by "
                               "rank %u: give each rank its own members",
                               path, s->rank, offset, o->rank);
    if (s->members != members)
        return tutti_error_set(err, -EXDEV,
                               "%s: is one of %u members (superblock at offset %u) and %u were "
                               "named: name all of them, in their order",
                               path, s->members, offset, members);
    if (s->member != index)
        return tutti_error_set(err, -EXDEV,
                               "%s: is member %u (superblock at offset %u) and was named as member "
                               "%u: name the members in their order",
                               path, s->member, offset, index);
    return 0;
}

/* That what lies under the member still suits what was formatted. */
static int check_backing(const struct member *m, struct tutti_error *err)
{
    const struct tutti_superblock *s = &m->superblock;
    uint64_t wanted = superblock_member_bytes(s);

    if (m->backing.bytes < wanted)
        return tutti_error_set(err, -EFBIG,
                               "%s: cut short: it ends at offset %" PRIu64
                               " and was formatted with "
                               "%" PRIu64 " bytes: bring the whole file back, or remove it and "
                               "format again",
                               m->backing.path, m->backing.bytes, wanted);
    if (m->backing.logical > s->alignment)
        return tutti_error_set(err, -EINVAL,
                               "%s: its device has sectors of %u bytes and the pool was formatted "
                               "with alignment %u (superblock at offset %u): format it again here "
                               "with alignment 4096, or move it back",
                               m->backing.path, m->backing.logical, s->alignment,
                               m->copy * TUTTI_SUPERBLOCK_COPY);
    return 0;
}

/* That two members were formatted together. */
static int check_siblings(const struct member *a, const struct member *b, struct tutti_error *err)
{
    const struct tutti_superblock *s = &a->superblock;
    const struct tutti_superblock *t = &b->superblock;

    if (s->alignment != t->alignment || s->record_stride != t->record_stride ||
        s->records_per_extent != t->records_per_extent || s->extents != t->extents ||
        s->extent_bytes != t->extent_bytes || s->first_extent != t->first_extent ||
        s->created != t->created)
        return tutti_error_set(err, -EXDEV,
                               "%s and %s (superblocks at offsets %u and %u): were not formatted "
                               "together: name the members of one format",
                               a->backing.path, b->backing.path, a->copy * TUTTI_SUPERBLOCK_COPY,
                               b->copy * TUTTI_SUPERBLOCK_COPY);
    return 0;
}

static int open_member(struct tutti_pool *pool, const struct tutti_pool_options *o, uint32_t index,
                       const char *path, uint32_t members, const uint8_t pool_id[16],
                       struct tutti_error *err)
{
    struct member *m = &pool->member[index];
    int rc = backing_open(&m->backing, path, !o->read_only, err);

    if (rc == -ENOENT)
        return tutti_error_set(err, rc,
                               "%s: member %u of rank %u is missing (%s): bring it back, check the "
                               "path, or format the pool",
                               path, index, o->rank, strerror(ENOENT));
    if (rc < 0)
        return rc;
    pool->members = index + 1;
    if (!o->read_only)
        rc = backing_lock(&m->backing, err);
    if (rc == 0)
        rc = superblock_read(&m->backing, &m->superblock, &m->copy, err);
    if (rc == 0)
        rc = check_belonging(m, o, index, members, pool_id, pool->secret, err);
    if (rc == 0)
        rc = check_backing(m, err);
    if (rc == 0 && index > 0)
        rc = check_siblings(&pool->member[0], m, err);
    return rc;
}

/*
 * Epochs and shapes change in every member, one after the other; after a crash
 * in between, the member with the largest sequence is right.
 */
static void choose_superblock(struct tutti_pool *pool)
{
    const struct tutti_superblock *best = &pool->member[0].superblock;

    for (uint32_t i = 1; i < pool->members; i++)
        if (pool->member[i].superblock.sequence > best->sequence)
            best = &pool->member[i].superblock;
    pool->superblock = *best;
    pool->superblock.member = 0;
}

static bool is_wanted(const struct tutti_pool_options *o, const struct tutti_geometry *g)
{
    for (uint32_t i = 0; i < o->groups; i++)
        if (memcmp(&o->geometry[i], g, sizeof(*g)) == 0)
            return true;
    return false;
}

static int find_shape(const struct tutti_superblock *s, const struct tutti_geometry *g)
{
    for (uint32_t i = 0; i < s->groups; i++)
        if (memcmp(&s->geometry[i], g, sizeof(*g)) == 0)
            return (int)i;
    return -1;
}

/*
 * Append a shape. A full table forgets its oldest shape that nobody asks for:
 * the records of that shape then count no more, and their slots are free.
 */
static void append_shape(struct tutti_superblock *s, const struct tutti_pool_options *o,
                         const struct tutti_geometry *g)
{
    if (s->groups == TUTTI_MAX_GROUPS) {
        uint32_t oldest = 0;

        while (oldest + 1 < s->groups && is_wanted(o, &s->geometry[oldest]))
            oldest++;
        s->groups--;
        memmove(&s->geometry[oldest], &s->geometry[oldest + 1],
                (s->groups - oldest) * sizeof(s->geometry[0]));
    }
    s->geometry[s->groups++] = *g;
}

static int place_shape(const struct tutti_pool *pool, const struct tutti_geometry *g,
                       struct tutti_placement *p, struct tutti_error *err)
{
    const struct tutti_superblock *s = &pool->superblock;
    struct tutti_error why = {0};
    int rc = tutti_placement_init(p, g, s->alignment, s->first_extent, s->extent_bytes,
                                  s->extents * s->members, s->members, s->records_per_extent,
                                  s->record_stride, &why);

    if (rc < 0)
        return tutti_error_set(err, rc, "%s: the model's KV cache does not fit this pool: %s",
                               pool->member[0].backing.path, why.message);
    return 0;
}

/* Find or add the opener's shapes, and lay out all that the pool knows. */
static int take_shapes(struct tutti_pool *pool, const struct tutti_pool_options *o, bool *added,
                       struct tutti_error *err)
{
    struct tutti_superblock *s = &pool->superblock;

    *added = false;
    for (uint32_t i = 0; i < o->groups; i++) {
        struct tutti_placement p;
        int rc = place_shape(pool, &o->geometry[i], &p, err);

        if (rc < 0)
            return rc;
        if (find_shape(s, &o->geometry[i]) < 0) {
            append_shape(s, o, &o->geometry[i]);
            *added = true;
        }
    }
    for (uint32_t g = 0; g < TUTTI_MAX_GROUPS; g++)
        pool->current[g] = -1;
    for (uint32_t i = 0; i < s->groups; i++) {
        int rc = place_shape(pool, &s->geometry[i], &pool->placement[i], err);

        if (rc < 0) /* GCOVR_EXCL_BR: superblock_judge() or the loop above placed each already */
            return rc;
        if (o->groups == 0 || is_wanted(o, &s->geometry[i]))
            pool->current[s->geometry[i].group] = (int)i;
    }
    return 0;
}

static int open_all(struct tutti_pool *pool, const struct tutti_pool_options *o,
                    struct tutti_error *err)
{
    char *path[TUTTI_MAX_MEMBERS];
    uint8_t pool_id[16];
    bool added = false;
    int count;
    int rc = tutti_pool_secret_load(o->home, false, pool_id, pool->secret, err);

    if (rc < 0)
        return rc;
    count = member_paths(o, path, err);
    if (count < 0)
        return count;
    rc = member_paths_distinct(path, (uint32_t)count, err);
    for (int i = 0; i < count && rc == 0; i++)
        rc = open_member(pool, o, (uint32_t)i, path[i], (uint32_t)count, pool_id, err);
    member_paths_free(path, (uint32_t)count);
    if (rc < 0)
        return rc;
    choose_superblock(pool);
    rc = take_shapes(pool, o, &added, err);
    if (rc == 0 && added && !o->read_only)
        rc = pool_commit(pool, true, err);
    return rc;
}

int tutti_pool_open(const struct tutti_pool_options *options, struct tutti_pool **pool,
                    struct tutti_error *err)
{
    struct tutti_pool *p;
    int rc = options_check(options, err);

    *pool = NULL;
    if (rc < 0)
        return rc;
    p = calloc(1, sizeof(*p));
    if (!p)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", options->home);
    for (uint32_t i = 0; i < TUTTI_MAX_MEMBERS; i++)
        p->member[i].backing.fd = -1;
    p->home = strdup(options->home);
    if (!p->home) {
        free(p);
        return tutti_error_set(err, -ENOMEM, "%s: no memory", options->home);
    }
    p->read_only = true; /* so that closing a half-open pool writes nothing */
    rc = open_all(p, options, err);
    if (rc < 0) {
        tutti_pool_close(p);
        return rc;
    }
    p->read_only = options->read_only;
    *pool = p;
    return 0;
}
