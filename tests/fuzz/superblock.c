/* SPDX-License-Identifier: Apache-2.0 */
/*
 * superblock.c: a pool is opened from bytes that anybody may have written.
 *
 * An input patches the superblocks of a good pool, or brings bytes of its own,
 * seals them or not, and opens the pool in one of several ways. Claimed: what is
 * refused is refused with a sentence and nothing written; what is opened is one
 * of the copies on disk, by the rule which copy counts, and every place that its
 * numbers can name lies inside the member; an epoch that began is there after
 * the next opening, whichever one copy is lost.
 *
 * Seen to fail, from what was learned in minutes: with the older copy chosen, at the first input;
 * without the lower bound of first_extent, after 1 s (1,072 executions). What takes
 * two fields at once takes longer: not seen in 60 s (145,144) without the bound of
 * extents x extent_bytes, which wraps for 2^24 extents of 2^40 bytes only.
 */
#include "base/checksum.h"
#include "input.h"
#include "memory.h"
#include "pool/internal.h"

enum { BASES = 4, AREA = TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES, MOST_SLOTS = 4096 };

static uint8_t area[MEMORY_MEMBERS][AREA];
static struct tutti_superblock base[BASES];
static struct tutti_superblock copies[MEMORY_MEMBERS][2]; /* before the pool was opened */

static const struct tutti_geometry shape[] = {
    {.layers = 2, .parts = 2, .object_bytes = 512, .block_tokens = 16, .group = 0},
    {.layers = 3, .parts = 1, .object_bytes = 700, .block_tokens = 16, .group = 1},
    {.layers = 33, .parts = 4, .object_bytes = 5000, .block_tokens = 32, .group = 2},
    {.layers = 1, .parts = 1, .object_bytes = 1, .block_tokens = 1, .group = 0, .layout_tag = 7},
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct tutti_geometry full[TUTTI_MAX_GROUPS];

    (void)argc;
    (void)argv;
    for (uint32_t g = 0; g < TUTTI_MAX_GROUPS; g++) {
        full[g] = shape[0];
        full[g].layout_tag = g;
    }
    memory_superblock(&base[0], shape, 1, 512, 1, 2, 4);
    memory_superblock(&base[1], shape, 3, 512, 2, 3, 5);
    memory_superblock(&base[2], shape, 2, 4096, 1, 1, 1);
    memory_superblock(&base[3], full, TUTTI_MAX_GROUPS, 512, 2, 2, 7);
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++)
        memory_member[m] = (struct memory_member){area[m], AREA, 0, -1};
    return 0;
}

static uint8_t *copy_at(uint32_t member, uint32_t copy)
{
    return area[member] + copy * TUTTI_SUPERBLOCK_COPY;
}

static void lay_out(const struct tutti_superblock *s)
{
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++)
        for (uint32_t copy = 0; copy < 2; copy++) {
            struct tutti_superblock *at = (struct tutti_superblock *)(void *)copy_at(m, copy);

            *at = *s;
            at->member = m;
            at->sequence = 1 + copy;
        }
}

/** One change of a superblock: a number put, added or mixed in, somewhere. */
static void patch(struct input *in)
{
    uint64_t how = take(in, 1);
    uint8_t *at = copy_at(how & 1, how >> 1 & 1);
    uint32_t width = 1u << (how >> 2 & 3);
    uint64_t offset = how & 0x80 ? take(in, 2) : take(in, 1) * 4;
    uint64_t value = take_value(in);
    uint64_t before = 0;

    offset %= TUTTI_SUPERBLOCK_BYTES - width + 1;
    memcpy(&before, at + offset, width);
    value = how & 0x10 ? before + value : how & 0x20 ? before ^ value : value;
    memcpy(at + offset, &value, width);
    if (how & 0x40) /* in both copies */
        memcpy(copy_at(how & 1, 1 - (how >> 1 & 1)) + offset, &value, width);
}

static void bring_bytes(struct input *in)
{
    for (uint32_t copy = 0; copy < 2; copy++) {
        size_t bytes = in->left < TUTTI_SUPERBLOCK_BYTES ? in->left : TUTTI_SUPERBLOCK_BYTES;

        memcpy(copy_at(0, copy), in->at, bytes);
        in->at += bytes;
        in->left -= bytes;
    }
}

static void remember(void)
{
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++)
        for (uint32_t copy = 0; copy < 2; copy++)
            memcpy(&copies[m][copy], copy_at(m, copy), sizeof(copies[m][copy]));
}

static bool whole(const struct tutti_superblock *s)
{
    char why[128];

    return superblock_judge(s, why) == SUPERBLOCK_WHOLE;
}

/** Whether numbers run out between the two writes of a change: then one of them is done. */
static bool at_last_sequence(void)
{
    for (uint32_t i = 0; i < 4; i++)
        if (copies[i >> 1][i & 1].sequence >= (UINT64_MAX >> 1) - 1)
            return true;
    return false;
}

/** The rule which copy counts, told a second time (docs/format.md, section 4). */
static void check_choice(const struct member *m, uint32_t number)
{
    const struct tutti_superblock *mine = &copies[number][m->copy];
    const struct tutti_superblock *other = &copies[number][1 - m->copy];
    static struct tutti_superblock unsealed;

    unsealed = *mine;
    unsealed.checksum = 0;
    CLAIM(tutti_sum64(&unsealed, sizeof(unsealed)) == mine->checksum, "a checksum that fails");
    CLAIM(mine->magic == TUTTI_SUPERBLOCK_MAGIC && mine->version == 1, "magic or version");
    CLAIM(!whole(other) || other->sequence <= mine->sequence, "the older copy");
    CLAIM(mine->member == number && memcmp(mine->pool, memory_pool, 16) == 0, "not ours");
    CLAIM(mine->oldest_epoch <= mine->epoch && mine->epoch < 1 << 24, "epochs");
    CLAIM(mine->record_stride >= 256 && mine->record_stride <= 4096, "record stride");
    CLAIM(mine->reserved[0] == 0 &&
              memcmp(mine->reserved, mine->reserved + 1, sizeof(mine->reserved) - 1) == 0,
          "reserved bytes");
}

static void check_open(const struct tutti_pool *pool, const struct tutti_pool_options *o)
{
    uint64_t largest = 0;

    CLAIM(pool->members == pool->superblock.members, "%u members", pool->members);
    for (uint32_t m = 0; m < pool->members; m++) {
        check_choice(&pool->member[m], m);
        if (copies[m][pool->member[m].copy].sequence > largest && o->read_only)
            largest = copies[m][pool->member[m].copy].sequence;
        CLAIM(pool->member[m].backing.bytes >= superblock_member_bytes(&pool->superblock),
              "shorter than it was formatted");
    }
    CLAIM(pool->superblock.sequence >= largest, "not the latest member");
    for (uint32_t i = 0; i < pool->superblock.groups; i++)
        memory_check_placement(&pool->placement[i], superblock_member_bytes(&pool->superblock));
    for (uint32_t i = 0; i < o->groups; i++) {
        struct tutti_geometry g;

        CLAIM(tutti_pool_geometry(pool, o->geometry[i].group, &g) == 0 &&
                  memcmp(&g, &o->geometry[i], sizeof(g)) == 0,
              "a shape that was asked for");
    }
}

static struct tutti_pool_options options_of(struct input *in, uint32_t members, bool read_only)
{
    uint64_t how = take(in, 1);

    return (struct tutti_pool_options){
        .home = "home",
        .member = (const char *const *)memory_path,
        .members = members,
        .ranks = how & 1,
        .rank = how >> 1 & 1,
        .geometry = &shape[how >> 2 & 3],
        .groups = how & 0x10                        ? 0
                  : how & 0x20 && (how & 0x0c) <= 4 ? 2
                                                    : 1,
        .read_only = read_only,
    };
}

/** Records of a small pool: none was ever written, so all are empty. */
static void check_scan(struct tutti_pool *pool)
{
    const struct tutti_superblock *s = &pool->superblock;
    uint64_t slots = (uint64_t)s->extents * s->members * s->records_per_extent;
    struct tutti_scan_report report;
    struct tutti_scan_entry *entries;
    struct tutti_error err = {0};
    size_t count;

    if (slots > MOST_SLOTS)
        return;
    CLAIM(tutti_pool_scan(pool, 1, &entries, &count, &report, &err) == 0, "%s", err.message);
    CLAIM(count == 0 && report.empty == slots, "%zu records, %llu empty", count,
          (unsigned long long)report.empty);
    free(entries);
}

static void check_epoch(struct input *in, const struct tutti_pool_options *o,
                        struct tutti_pool *pool)
{
    uint64_t epoch = pool->superblock.epoch + 1;
    uint64_t oldest = take(in, 1) & 1 ? epoch : 0;
    struct tutti_pool_options again = *o;
    struct tutti_error err = {0};
    struct tutti_pool_info info;
    uint32_t lost = (uint32_t)take(in, 1);
    int rc = tutti_pool_begin_epoch(pool, epoch, oldest, (const uint8_t *)"an identity.....", &err);

    if (rc < 0) {
        CLAIM(epoch > TUTTI_EPOCH_MAX || pool->superblock.sequence >= UINT64_MAX >> 1, "%s",
              err.message);
        return;
    }
    tutti_pool_info(pool, &info);
    tutti_pool_close(pool);
    for (uint32_t m = 0; m < info.superblock.members && lost & 4; m++)
        memset(copy_at(m, lost & 1), 0xff, 512);
    again.read_only = true;
    remember();
    CLAIM(tutti_pool_open(&again, &pool, &err) == 0, "%s", err.message);
    CLAIM(pool->superblock.epoch == epoch, "the epoch is forgotten");
    CLAIM(pool->superblock.oldest_epoch == info.superblock.oldest_epoch, "the reset is forgotten");
    check_open(pool, &again);
    tutti_pool_close(pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint64_t how = take(&in, 1);
    uint64_t seals = take(&in, 1);
    const struct tutti_superblock *s = &base[how % BASES];
    struct tutti_pool_options o = options_of(&in, s->members, how & 0x10);
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    uint64_t writes;
    int rc;

    lay_out(s);
    for (uint32_t m = 0; m < s->members; m++)
        memory_member[m].size =
            how & 0x40 ? UINT64_C(1) << (seals >> 4) * 4 : superblock_member_bytes(s);
    for (uint32_t i = 0; seals & 0x80 && i < 4; i++) /* sealed before it is patched */
        memory_seal(copy_at(i >> 1, i & 1));
    if (how & 0x80)
        bring_bytes(&in);
    else
        while (in.left > 0)
            patch(&in);
    for (uint32_t i = 0; i < 4; i++)
        if (!(seals >> i & 1))
            memory_seal(copy_at(i >> 1, i & 1));
    remember();
    writes = memory_writes;
    rc = tutti_pool_open(&o, &pool, &err);
    if (rc < 0) {
        CLAIM(pool == NULL && err.code == rc && err.message[0], "refused without a word");
        CLAIM(memory_writes == writes || at_last_sequence(), "refused, and written to");
        return 0;
    }
    CLAIM(!o.read_only || memory_writes == writes, "opened for reading, and written to");
    if (memory_writes == writes)
        check_open(pool, &o);
    check_scan(pool);
    if (o.read_only)
        tutti_pool_close(pool);
    else
        check_epoch(&in, &o, pool);
    return 0;
}
