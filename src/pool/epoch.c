/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoch.c: what changes in a pool while it is open, and closing it.
 *
 * The members' superblocks move in step: every change gives all of them the
 * same new sequence number, one member after the other. A change that must not
 * be forgotten (epoch, shape) goes to both copies in turn, each flushed before
 * the other is touched: a crash leaves one whole copy in every member, and a
 * copy that rots later takes nothing with it.
 *
 * A fenced member is left out. Whoever opens the pool next takes the largest
 * sequence of all members, so one of them is enough to remember.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/atomics.h"
#include "pool/internal.h"

static bool is_fenced(const struct tutti_pool *pool, uint32_t member)
{
    return tutti_load_relaxed(&pool->fenced) >> member & 1; /* it orders nothing */
}

static int commit_once(struct tutti_pool *pool, struct tutti_error *err)
{
    struct tutti_superblock *s = &pool->superblock;
    uint32_t written = 0;

    s->sequence++;
    for (uint32_t i = 0; i < pool->members; i++) {
        struct member *m = &pool->member[i];
        int rc;

        if (is_fenced(pool, i))
            continue;
        written++;
        s->member = i;
        rc = superblock_write(&m->backing, s, 1 - m->copy, err);
        s->member = 0;
        if (rc < 0)
            return rc; /* the copy that m->copy names is untouched */
        m->copy = 1 - m->copy;
    }
    if (written == 0)
        return tutti_error_set(err, -ENODEV,
                               "%s: no member of this rank is given commands: bring one back "
                               "(tutti enable)",
                               pool->home);
    return 0;
}

int pool_commit(struct tutti_pool *pool, bool both, struct tutti_error *err)
{
    /* Relaxed: a counter that orders nothing. */
    uint64_t counted = tutti_load_relaxed(&pool->written);
    int rc;

    pool->superblock.written_bytes += counted;
    rc = commit_once(pool, err);
    if (rc == 0 && both)
        rc = commit_once(pool, err);
    if (rc < 0)
        pool->superblock.written_bytes -= counted;
    else
        tutti_add_relaxed(&pool->written, -counted);
    return rc;
}

int tutti_pool_begin_epoch(struct tutti_pool *pool, uint64_t epoch, uint64_t oldest_epoch,
                           const uint8_t identity[TUTTI_IDENTITY_BYTES], struct tutti_error *err)
{
    struct tutti_superblock before = pool->superblock;
    const char *path = pool->member[0].backing.path;
    int rc;

    if (pool->read_only)
        return tutti_error_set(err, -EROFS, "%s: the pool is open for reading only", path);
    if (epoch <= before.epoch || epoch > TUTTI_EPOCH_MAX)
        return tutti_error_set(err, -EINVAL,
                               "%s: epoch %" PRIu64 " is not above the pool's %" PRIu64
                               " and at most %" PRIu64,
                               path, epoch, before.epoch, (uint64_t)TUTTI_EPOCH_MAX);
    if (oldest_epoch == 0)
        oldest_epoch = before.oldest_epoch;
    if (oldest_epoch < before.oldest_epoch || oldest_epoch > epoch)
        return tutti_error_set(err, -EINVAL,
                               "%s: oldest epoch %" PRIu64 " is not between the pool's %" PRIu64
                               " and the new epoch %" PRIu64,
                               path, oldest_epoch, before.oldest_epoch, epoch);
    pool->superblock.epoch = epoch;
    pool->superblock.oldest_epoch = oldest_epoch;
    memcpy(pool->superblock.identity, identity, TUTTI_IDENTITY_BYTES);
    rc = pool_commit(pool, true, err);
    pool->half_begun = rc < 0;
    if (rc < 0) { /* but for the sequence, which no copy may have twice */
        before.sequence = pool->superblock.sequence;
        pool->superblock = before;
    }
    return rc;
}

void tutti_pool_count_written(struct tutti_pool *pool, uint64_t bytes)
{
    tutti_add_relaxed(&pool->written, bytes); /* a counter that orders nothing */
}

int tutti_pool_flush(struct tutti_pool *pool, struct tutti_error *err)
{
    int result = 0;

    for (uint32_t i = 0; i < pool->members && !pool->read_only; i++) {
        const struct backing *b = &pool->member[i].backing;
        int rc = is_fenced(pool, i) ? 0 : backing_flush(b);

        if (rc < 0 && result == 0)
            result = backing_error(rc, "flushing", b->path, 0, err);
    }
    return result;
}

void tutti_pool_set_fenced(struct tutti_pool *pool, uint32_t member, bool fenced)
{
    /* Relaxed: one writer; a commit that comes at this moment may meet the device once more. */
    uint32_t bits = tutti_load_relaxed(&pool->fenced) & ~(UINT32_C(1) << member);

    tutti_store_relaxed(&pool->fenced, bits | (uint32_t)fenced << member);
}

void tutti_pool_leave_open(struct tutti_pool *pool)
{
    pool->left = true;
}

void tutti_pool_close(struct tutti_pool *pool)
{
    if (!pool)
        return;
    if (!pool->read_only && !pool->left && !pool->half_begun &&
        pool->member[0].backing.opener == getpid() && tutti_load_relaxed(&pool->written) > 0)
        pool_commit(pool, false, NULL); /* only counters are lost when it fails */
    for (uint32_t i = 0; i < TUTTI_MAX_MEMBERS; i++)
        if (pool->left)
            free(pool->member[i].backing.path);
        else
            backing_close(&pool->member[i].backing);
    sodium_memzero(pool->secret, sizeof(pool->secret));
    free(pool->home);
    free(pool);
}
