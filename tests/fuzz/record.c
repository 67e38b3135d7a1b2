/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.c: a pool's records, and its scan file, as anybody may have written them.
 *
 * An input is a list of steps that write, patch, seal, exchange and tear records
 * and data of a small pool; then the pool is scanned and checked. Claimed: every
 * record is judged as docs/format.md judges it (told a second time here, by byte
 * offsets), the entries are those that count, the checker finds the slots whose
 * data does not match, a record that counts is made again byte for byte from
 * what was read out of it, and it is matched by no other transfer. What the scan
 * found, or a scan file with entries of any kind, goes into a directory, whose
 * invariants must hold.
 *
 * Seen to fail, from what was learned in minutes, within 3 s: a scan that does not compare the slot
 * number (176 executions), a match by half of the key (20 executions).
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checksum.h"
#include "engine/member.h"
#include "input.h"
#include "layout/record.h"
#include "memory.h"
#include "tutti/directory.h"

enum {
    STRIDE = 512,
    SLOTS = 6, /* of an extent */
    EXTENTS = 4,
    ALL = SLOTS * EXTENTS,
    EXTENT = 32768,
    FIRST = TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES,
    HELD = FIRST + EXTENTS / 2 * EXTENT,
    MOST_ENTRIES = 12,
    SCAN_HEADER = 64,
};

static const struct tutti_geometry shape[] = {
    {.layers = 3, .parts = 2, .object_bytes = 700, .block_tokens = 16, .group = 0},
    {.layers = 2, .parts = 1, .object_bytes = 512, .block_tokens = 16, .group = 1},
    {.layers = 1, .parts = 1, .object_bytes = 9, .block_tokens = 16, .group = 0, .layout_tag = 9},
};
enum { SHAPES = 3 };

static uint8_t area[MEMORY_MEMBERS][HELD];
static uint8_t records[STRIDE] __attribute__((aligned(4096)));
static struct member engine_member[MEMORY_MEMBERS];
static struct tutti_superblock superblock;
static int scan_file = -1;
static char scan_path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    memory_superblock(&superblock, shape, SHAPES, 512, 2, EXTENTS / 2, SLOTS);
    superblock.extent_bytes = EXTENT; /* four slots of the first shape, six of the others */
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++) {
        memory_member[m] = (struct memory_member){area[m], HELD, HELD, -1};
        superblock.member = m;
        memcpy(area[m], &superblock, sizeof(superblock));
        memory_seal(area[m]);
        engine_member[m].number = m;
    }
    superblock.member = 0;
    memory_snapshot();
    scan_file = memfd_create("scan", MFD_CLOEXEC);
    snprintf(scan_path, sizeof(scan_path), "/proc/self/fd/%d", scan_file);
    return scan_file < 0;
}

/* The pool's bytes. */

static uint8_t *record_at(uint32_t slot)
{
    uint32_t extent = slot / SLOTS;

    return area[extent % 2] + FIRST + extent / 2 * EXTENT + slot % SLOTS * STRIDE;
}

static uint8_t *part_at(const struct tutti_placement *p, uint32_t slot, uint32_t layer,
                        uint32_t part)
{
    struct tutti_place place = tutti_object_place(p, slot, layer, part);

    return area[place.member] + place.offset;
}

static void touched(uint8_t *at, uint64_t bytes)
{
    uint32_t m = at >= area[1] && at < area[1] + HELD;

    memory_touched(m, (uint64_t)(at - area[m]), bytes);
}

static struct tutti_placement placement_of(uint32_t g)
{
    struct tutti_placement p;

    CLAIM(tutti_placement_init(&p, &shape[g], 512, FIRST, EXTENT, EXTENTS, 2, SLOTS, STRIDE,
                               NULL) == 0,
          "shape %u", g);
    return p;
}

static uint64_t layer_sum_at(const struct tutti_placement *p, uint32_t slot, uint32_t layer)
{
    const void *part[TUTTI_MAX_PARTS];

    for (uint32_t k = 0; k < p->parts; k++)
        part[k] = part_at(p, slot, layer, k);
    return tutti_layer_sum(part, p->parts, p->object_bytes);
}

static void seal(uint32_t slot)
{
    struct tutti_record *r = (struct tutti_record *)(void *)record_at(slot);

    if (r->layers >= 1 && tutti_record_bytes(r->layers) <= STRIDE)
        tutti_record_seal(r);
}

static void write_good(struct input *in, uint32_t slot)
{
    struct tutti_record *r = (struct tutti_record *)(void *)record_at(slot);
    uint64_t how = take(in, 1);
    uint32_t g = (uint32_t)(how & 3) % SHAPES;
    struct tutti_placement p = placement_of(g);

    memset(r, 0, STRIDE);
    r->magic = TUTTI_RECORD_MAGIC;
    r->version = TUTTI_FORMAT_VERSION;
    memcpy(r->pool, memory_pool, sizeof(r->pool));
    r->member = slot / SLOTS % 2;
    r->slot = slot;
    r->incarnation = how >> 2 & 1;
    r->geometry = tutti_geometry_digest(&shape[g]);
    r->generation = (2 + (how >> 3 & 3)) << TUTTI_EPOCH_SHIFT | take(in, 1);
    r->key.word[0] = slot + 1;
    r->parent.word[0] = take(in, 1) % (ALL + 1);
    r->engine_hash[0] = (uint8_t)slot;
    r->engine_hash_bytes = 1 + (uint32_t)(how >> 5);
    r->group = shape[g].group;
    r->layers = shape[g].layers;
    for (uint32_t layer = 0; layer < r->layers && slot % SLOTS < p.slots_per_extent; layer++)
        tutti_record_sums(r)[layer] = layer_sum_at(&p, slot, layer);
    tutti_record_seal(r);
}

static void step(struct input *in)
{
    uint64_t how = take(in, 1);
    uint32_t slot = take_below(in, ALL);
    uint8_t *at = record_at(slot);
    uint32_t width = 1u << (how >> 3 & 3);
    uint64_t value;

    switch (how & 7) {
    case 0:
    case 1:
        write_good(in, slot);
        break;
    case 2: /* a field */
        at += take(in, 1) * 4 % (STRIDE - width + 1);
        value = take_value(in);
        memcpy(at, &value, width);
        if (how & 0x20)
            seal(slot);
        break;
    case 3:
        seal(slot);
        break;
    case 4: /* a write that went elsewhere */
        memmove(at, record_at(take_below(in, ALL)), STRIDE);
        break;
    case 5: /* torn: half of another */
        memcpy(at + STRIDE / 2, record_at(take_below(in, ALL)) + STRIDE / 2, STRIDE / 2);
        break;
    case 6: { /* a byte of data */
        struct tutti_placement p = placement_of((uint32_t)(how >> 3) % SHAPES);
        uint8_t *part = part_at(&p, slot / SLOTS * SLOTS + slot % SLOTS % p.slots_per_extent,
                                (uint32_t)(how >> 5) % p.layers, 0);

        part[take(in, 1)] ^= (uint8_t)take(in, 1);
        touched(part, 256);
        break;
    }
    default:
        value = in->left < 16 * width ? in->left : 16 * width;
        memcpy(at, in->at, value);
        in->at += value;
        in->left -= value;
        break;
    }
    touched(record_at(slot), STRIDE);
}

/* The judgement, a second time: docs/format.md, section 7. */

enum worth { COUNTS, EMPTY, TORN, ALIEN, VOID };

static uint64_t number_at(const uint8_t *at, size_t bytes)
{
    struct input in = {at, bytes};

    return take(&in, bytes);
}

static int shape_of(const uint8_t *r)
{
    for (int g = 0; g < SHAPES; g++)
        if (tutti_sum64(&shape[g], 32) == number_at(r + 48, 8))
            return g;
    return -1;
}

static bool own_sum_holds(const uint8_t *r)
{
    uint64_t bytes = 192 + 8 * number_at(r + 148, 4);
    uint8_t copy[STRIDE];

    bytes = bytes < 256 ? 256 : bytes;
    if (bytes > STRIDE)
        return false;
    memcpy(copy, r, bytes);
    memset(copy + 184, 0, 8);
    return tutti_sum64(copy, bytes) == number_at(r + 184, 8);
}

static enum worth judge(const uint8_t *r, uint32_t slot)
{
    static const uint32_t most[SHAPES] = {4, 6, 6};
    uint64_t epoch = number_at(r + 56, 8) >> 40;
    uint64_t layers = number_at(r + 148, 4);
    int g = shape_of(r);

    if (number_at(r, 8) == 0)
        return EMPTY;
    if (memcmp(r, "TTTREC01", 8) != 0 || number_at(r + 8, 4) != 1 || layers < 1 || layers > 256 ||
        !own_sum_holds(r))
        return TORN;
    if (r[12] & 1)
        return EMPTY;
    if (memcmp(r + 16, memory_pool, 16) != 0 || number_at(r + 32, 4) != 0 ||
        number_at(r + 36, 4) != slot / SLOTS % 2 || number_at(r + 40, 4) != slot || g < 0 ||
        number_at(r + 144, 4) != shape[g].group || layers != shape[g].layers ||
        slot % SLOTS >= most[g])
        return ALIEN;
    if (number_at(r + 56, 8) == 0 || epoch < superblock.oldest_epoch || epoch > superblock.epoch)
        return VOID;
    return COUNTS;
}

/** What of the incarnations of an extent is left. */
static void judge_extent(uint32_t extent, enum worth worth[ALL])
{
    uint32_t first = extent * SLOTS;
    uint32_t best = ALL;

    for (uint32_t slot = first; slot < first + SLOTS; slot++) {
        const uint8_t *r = record_at(slot);

        worth[slot] = judge(r, slot);
        if (worth[slot] == COUNTS &&
            (best == ALL || number_at(r + 44, 4) > number_at(record_at(best) + 44, 4) ||
             (number_at(r + 44, 4) == number_at(record_at(best) + 44, 4) &&
              number_at(r + 56, 8) > number_at(record_at(best) + 56, 8))))
            best = slot;
    }
    for (uint32_t slot = first; slot < first + SLOTS; slot++)
        if (worth[slot] == COUNTS &&
            (number_at(record_at(slot) + 44, 4) != number_at(record_at(best) + 44, 4) ||
             number_at(record_at(slot) + 48, 8) != number_at(record_at(best) + 48, 8)))
            worth[slot] = VOID;
}

static bool data_matches(uint32_t slot)
{
    const struct tutti_record *r = (const struct tutti_record *)(const void *)record_at(slot);
    struct tutti_placement p = placement_of((uint32_t)shape_of(record_at(slot)));

    for (uint32_t layer = 0; layer < p.layers; layer++)
        if (layer_sum_at(&p, slot, layer) != tutti_record_sum(r, layer))
            return false;
    return true;
}

/* A record that counts: made again, and matched. */

static void check_match(const struct tutti_record *r, const struct tutti_scan_entry *e)
{
    struct tutti_record other = *r;
    struct tutti_key key = e->key;

    CLAIM(tutti_record_match(r, r, r->member, e->slot, e->generation, key) == 0, "no match");
    key.word[e->slot % 2] ^= 1;
    CLAIM(tutti_record_match(r, r, r->member, e->slot, e->generation, key) < 0, "another key");
    CLAIM(tutti_record_match(r, r, r->member, e->slot, e->generation + 1, e->key) < 0, "stale");
    CLAIM(tutti_record_match(r, r, r->member, e->slot + 1, e->generation, e->key) < 0, "slot");
    CLAIM(tutti_record_match(r, r, 1 - r->member, e->slot, e->generation, e->key) < 0, "member");
    other.pool[e->slot % 16]++;
    CLAIM(tutti_record_match(r, &other, r->member, e->slot, e->generation, e->key) < 0, "pool");
}

static bool canonical(const struct tutti_record *r)
{
    static const uint8_t none[32];

    return r->flags == 0 && r->reserved0 == 0 && r->reserved1 == 0 &&
           memcmp(r->reserved, none, sizeof(r->reserved)) == 0;
}

static void check_made_again(const struct tutti_record *r, const struct tutti_scan_entry *e)
{
    struct tutti_placement p = placement_of((uint32_t)shape_of((const uint8_t *)r));
    struct tutti_transfer item = {.slot = e->slot, .generation = e->generation, .key = e->key};
    struct tutti_origin origin = {.parent = e->parent,
                                  .engine_hash_bytes = r->engine_hash_bytes,
                                  .incarnation = e->incarnation};
    struct tutti_record stencil = {.group = e->group, .layers = p.layers, .geometry = e->geometry};
    struct tutti_map map = {.items = &item,
                            .origins = &origin,
                            .count = 1,
                            .placement = &p,
                            .stencil = &stencil,
                            .records = records};

    memcpy(stencil.pool, superblock.pool, sizeof(stencil.pool));
    memcpy(stencil.identity, e->identity, sizeof(stencil.identity));
    memcpy(origin.engine_hash, r->engine_hash, sizeof(origin.engine_hash));
    memcpy(records, r, STRIDE);
    memset(records, 0x5a, TUTTI_RECORD_HEADER);
    check_build_record(&engine_member[r->member], &map, 0);
    CLAIM(memcmp(records, r, tutti_record_bytes(p.layers)) == 0, "made again, slot %u", e->slot);
    check_build_empty(&engine_member[r->member], &map, 0, records);
    CLAIM(tutti_record_whole((const void *)records, STRIDE) == -ENODATA, "an empty one");
}

static void check_entry(const struct tutti_scan_entry *e)
{
    const struct tutti_record *r = (const struct tutti_record *)(const void *)record_at(e->slot);

    CLAIM(e->generation == r->generation && e->incarnation == r->incarnation &&
              e->geometry == r->geometry && e->group == r->group && e->reserved == 0 &&
              tutti_key_equal(e->key, r->key) && tutti_key_equal(e->parent, r->parent) &&
              memcmp(e->identity, r->identity, sizeof(e->identity)) == 0,
          "an entry that is not its record, slot %u", e->slot);
    check_match(r, e);
    if (canonical(r))
        check_made_again(r, e);
}

static void check_directory(const struct tutti_scan_entry *entries, size_t count)
{
    struct tutti_directory_options o = {
        .placement = placement_of(0), .geometry = shape[0], .ranks = 1};
    struct tutti_directory_stats stats;
    struct tutti_directory *d;
    struct tutti_error err = {0};

    CLAIM(tutti_directory_new(&o, &d, &err) == 0, "%s", err.message);
    if (tutti_directory_load(d, &entries, &count, &err) == 0) {
        CLAIM(tutti_directory_audit(d, &err) == 0, "%s", err.message);
        tutti_directory_stats(d, &stats);
        CLAIM(stats.free + stats.visible + stats.foreign + stats.leaving == stats.slots, "sum");
        CLAIM(stats.pinned == 0 && stats.writing == 0, "pins of nobody");
    }
    tutti_directory_free(d);
}

static void check_pool(bool data)
{
    struct tutti_pool_options o = {.home = "home",
                                   .member = (const char *const *)memory_path,
                                   .members = MEMORY_MEMBERS,
                                   .read_only = true};
    enum worth worth[ALL];
    uint64_t sum[5] = {0};
    struct tutti_scan_report report;
    struct tutti_scan_entry *entries;
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    int64_t mismatched = 0;
    size_t count, at = 0;

    CLAIM(tutti_pool_open(&o, &pool, &err) == 0, "%s", err.message);
    CLAIM(tutti_pool_scan(pool, 1, &entries, &count, &report, &err) == 0, "%s", err.message);
    for (uint32_t extent = 0; extent < EXTENTS; extent++)
        judge_extent(extent, worth);
    for (uint32_t slot = 0; slot < ALL; slot++) {
        sum[worth[slot]]++;
        parsed += number_at(record_at(slot), 8) != 0;
        if (worth[slot] != COUNTS)
            continue;
        CLAIM(at < count && entries[at].slot == slot, "slot %u counts", slot);
        check_entry(&entries[at++]);
        mismatched += data && !data_matches(slot);
    }
    CLAIM(at == count, "%zu entries, %zu count", count, at);
    CLAIM(report.valid == sum[COUNTS] && report.empty == sum[EMPTY] && report.torn == sum[TORN] &&
              report.alien == sum[ALIEN] && report.void_ == sum[VOID],
          "the report");
    if (data)
        CLAIM(tutti_pool_check(pool, true, &report, NULL, NULL, NULL, &err) == mismatched,
              "%lld slots do not match", (long long)mismatched);
    check_directory(entries, count);
    free(entries);
    tutti_pool_close(pool);
}

/* The scan file. */

static size_t make_file(struct input *in, uint8_t file[SCAN_HEADER + MOST_ENTRIES * 80])
{
    uint32_t count = take_below(in, MOST_ENTRIES + 1);
    struct tutti_scan_entry *e = (struct tutti_scan_entry *)(void *)(file + SCAN_HEADER);
    uint64_t number;

    memset(file, 0, SCAN_HEADER);
    memcpy(file, "TTSCAN01\1\0\0\0\120", 13);
    memcpy(file + 16, &(uint64_t){count}, 8);
    memset(e, 0, count * sizeof(*e));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t how = take(in, 1);

        e[i].slot = how & 0x80 ? (uint32_t)take_value(in) : (i ? e[i - 1].slot + 1 : 0);
        e[i].generation = UINT64_C(4) << TUTTI_EPOCH_SHIFT | (1 + (how & 7));
        e[i].geometry = tutti_geometry_digest(&shape[how >> 3 & 1]);
        e[i].incarnation = how >> 4 & 1;
        e[i].key.word[0] = how & 0x20 ? take(in, 1) : i + 1;
        e[i].parent.word[0] = how & 0x40 ? take(in, 1) : i;
    }
    if (take(in, 1) & 1) {
        number = take(in, 1) * 4 % (SCAN_HEADER + count * sizeof(*e));
        file[number] ^= (uint8_t)take(in, 1);
    }
    number = tutti_sum64(e, count * sizeof(*e));
    if (!(take(in, 1) & 1))
        memcpy(file + 48, &number, 8);
    number = tutti_sum64(file, 56);
    if (!(take(in, 1) & 1))
        memcpy(file + 56, &number, 8);
    return SCAN_HEADER + count * sizeof(*e) - take(in, 1) % 8;
}

static void check_file(struct input *in)
{
    static uint8_t file[SCAN_HEADER + MOST_ENTRIES * 80] __attribute__((aligned(16)));
    const struct tutti_scan_entry *entries;
    struct tutti_error err = {0};
    size_t bytes = make_file(in, file);
    size_t count;
    void *handle;

    CLAIM(ftruncate(scan_file, (off_t)bytes) == 0 &&
              pwrite(scan_file, file, bytes, 0) == (ssize_t)bytes,
          "no scan file");
    if (tutti_scan_file_open(scan_path, &entries, &count, &handle, &err) < 0) {
        CLAIM(handle == NULL && err.message[0], "refused without a word");
        return;
    }
    CLAIM(bytes == SCAN_HEADER + count * sizeof(*entries), "%zu entries", count);
    CLAIM(memcmp(entries, file + SCAN_HEADER, bytes - SCAN_HEADER) == 0, "other entries");
    for (size_t i = 1; i < count; i++)
        CLAIM(entries[i].slot > entries[i - 1].slot, "not in order");
    check_directory(entries, count);
    tutti_scan_file_close(handle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint64_t how = take(&in, 1);

    if ((how & 7) == 7) {
        check_file(&in);
        return 0;
    }
    while (in.left > 0)
        step(&in);
    check_pool(tutti_sum64(data, size) % 64 == 0); /* its data rarely: that takes large buffers */
    memory_restore();
    return 0;
}
