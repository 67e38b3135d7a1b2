/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_io.c: the I/O kernel on host lanes before a software controller: what is
 * written is read back, sums are the CPU's, and every way in which it can go
 * wrong ends, and says so.
 *
 *     test_io            the tests
 *     test_io count N    in how many of N seeds the whole way goes wrong (mutations.py)
 *
 * Seen to fail: see mutations.py; and with positions of other members moved,
 * with io_ready() always true, with a bound that is not looked at (the run ends
 * by its count of steps), with io_take() that takes what is not out.
 */
#include "lanes/io_rig.h"

#include "base/checksum.h"

enum { SEEDS = 12, SLOTS = 40, PARTS = 2, LAYERS = 3, RECORDS = 64, STEP = 12288 };

/* Sums. */

static void sums_are_the_cpus(void **state)
{
    static const uint64_t bytes[] = {1, 511, 512, 4096, 4097, 12288, 65536, 100000};
    static uint8_t data[4 * 100000 + 64];
    static uint64_t root[128], sum[LANES];
    (void)state;

    for (uint32_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint32_t b = 0; b < sizeof(bytes) / sizeof(bytes[0]); b++)
        for (uint32_t parts = 1; parts <= 4; parts *= 2) {
            struct tutti_kv_plane plane[4];
            const void *part[4];
            const uint64_t word[] = {
                (uint64_t)(uintptr_t)plane, parts, 0, bytes[b], (uint64_t)(uintptr_t)root,
                (uint64_t)(uintptr_t)sum};
            const struct lanes_options o = {.seed = b + 1, .warps = 1};

            for (uint32_t p = 0; p < parts; p++) {
                part[p] = data + p * bytes[b] + b; /* at any alignment */
                plane[p] = (struct tutti_kv_plane){.base = (uint64_t)(uintptr_t)part[p]};
            }
            assert_int_equal(
                lanes_run(&o, lanes_kernel_find("sum_layer")->function, word, NULL, NULL), 0);
            for (uint32_t i = 0; i < LANES; i++)
                assert_int_equal(sum[i], tutti_layer_sum(part, parts, bytes[b]));
        }
}

/* The whole way: layers stored and loaded. */

struct world {
    struct io_rig rig;
    uint32_t watched[LAYERS]; /* entries that were seen to end */
    uint32_t number[LAYERS];
    uint32_t opcode;
    uint32_t early;  /* turns that came before what they announce */
    uint32_t object; /* bytes: pages where there is no SGL */
    struct tutti_placement placement;
    struct tutti_kv_plane plane[LAYERS * PARTS];
    struct io_item item[SLOTS];
    uint64_t sum[LAYERS][SLOTS];
    struct io_word result[LAYERS][SLOTS];
};

static void world_open(struct world *w, const struct soft_options *soft, uint32_t warps,
                       uint32_t depth, uint32_t ids)
{
    uint32_t alignment = soft->block_bytes;
    uint32_t object = soft->sgls ? 5000 : 8192;
    uint64_t stride = (object + alignment - 1) / alignment * alignment;

    memset(w, 0, sizeof(*w));
    w->object = object;
    io_rig_open(&w->rig, soft, warps, depth, ids);
    w->placement = (struct tutti_placement){.extent_bytes = 4 << 20,
                                            .first_extent = 1 << 20,
                                            .data_offset = RECORDS * 4096,
                                            .object_bytes = object,
                                            .object_stride = stride,
                                            .record_stride = 4096,
                                            .alignment = alignment,
                                            .records_per_extent = RECORDS,
                                            .slots_per_extent = SLOTS,
                                            .extents = 4,
                                            .members = 2,
                                            .layers = LAYERS,
                                            .parts = PARTS};
    for (uint32_t i = 0; i < LAYERS * PARTS; i++)
        w->plane[i] = (struct tutti_kv_plane){.base = (uint64_t)(uintptr_t)w->rig.memory + 4096 +
                                                      i * SLOTS * (uint64_t)STEP,
                                              .block_stride = STEP};
    for (uint32_t i = 0; i < SLOTS; i++)
        w->item[i] = (struct io_item){.slot = i % 5 == 4 ? RECORDS + i : i, /* of member 1 */
                                      .block = (i * 7 + 3) % SLOTS};
}

static bool is_ours(const struct world *w, uint32_t i)
{
    return w->item[i].slot < RECORDS;
}

static uint8_t *object(struct world *w, uint32_t layer, uint32_t i, uint32_t part)
{
    return (uint8_t *)(uintptr_t)tutti_kv_address(w->plane, PARTS, layer, part, w->item[i].block);
}

static void fill(struct world *w, bool wipe)
{
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t i = 0; i < SLOTS; i++)
            for (uint32_t p = 0; p < PARTS; p++)
                for (uint32_t k = 0; k < STEP; k++)
                    object(w, l, i, p)[k] =
                        wipe || k >= w->object
                            ? 0xa5
                            : (uint8_t)((l * 131 + i * 31 + p * 7 + k) * 2654435761u >> 21);
}

/** Bytes that are not what fill() put there; behind an object nothing changes. */
static uint32_t differences(struct world *w)
{
    uint32_t wrong = 0;

    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t i = 0; i < SLOTS; i++)
            for (uint32_t p = 0; p < PARTS; p++)
                for (uint32_t k = 0; k < STEP; k++) {
                    uint8_t is = object(w, l, i, p)[k];
                    uint8_t was = (uint8_t)((l * 131 + i * 31 + p * 7 + k) * 2654435761u >> 21);

                    wrong += is != (k >= w->object || !is_ours(w, i) ? 0xa5 : was);
                }
    return wrong;
}

static uint32_t post_layer(struct world *w, uint32_t warp, uint32_t layer, uint32_t opcode)
{
    struct io_entry *e;
    uint32_t number = io_rig_entry(&w->rig, warp, &e);

    e->kind = IO_LAYER;
    e->opcode = opcode;
    e->count = SLOTS;
    e->items = (uint64_t)(uintptr_t)w->item;
    e->placement = (uint64_t)(uintptr_t)&w->placement;
    e->planes = (uint64_t)(uintptr_t)&w->plane[layer * PARTS];
    e->padding = (uint64_t)(uintptr_t)(w->rig.memory + (opcode == NVME_WRITE ? 0 : 2048));
    e->layer = layer;
    e->sums = (uint64_t)(uintptr_t)w->sum[layer];
    e->sum_stride = 8;
    e->results = (uint64_t)(uintptr_t)w->result[layer];
    io_rig_post(&w->rig, warp);
    return number;
}

/** Who waits for an entry sees its turn, and then results and sums. */
static void watch(void *self)
{
    struct world *w = self;

    io_rig_world(&w->rig);
    for (uint32_t l = 0; l < LAYERS; l++) {
        if (w->watched[l] || !io_rig_ended(&w->rig, l % w->rig.warps, w->number[l]))
            continue;
        w->watched[l] = 1;
        for (uint32_t i = 0; i < SLOTS; i++)
            w->early += io_load(&w->result[l][i]) == UINT32_MAX ||
                        (w->opcode == NVME_WRITE && is_ours(w, i) && w->sum[l][i] == UINT64_MAX);
    }
}

/** All layers, over the warps in turn. Return: what went wrong, or 0. */
static uint32_t move_all(struct world *w, uint32_t opcode, uint64_t seed)
{
    uint32_t wrong = 0;

    memset(w->result, 0xff, sizeof(w->result));
    if (opcode == NVME_WRITE)
        memset(w->sum, 0xff, sizeof(w->sum));
    memset(w->watched, 0, sizeof(w->watched));
    w->opcode = opcode;
    for (uint32_t l = 0; l < LAYERS; l++)
        w->number[l] = post_layer(w, l % w->rig.warps, l, opcode);
    if (io_rig_run(&w->rig, seed, watch) < 0)
        return 1;
    watch(w);
    for (uint32_t l = 0; l < LAYERS; l++)
        wrong += !w->watched[l] || io_rig_error(&w->rig, l % w->rig.warps, w->number[l]) != 0;
    return wrong + w->early;
}

/** Store, wipe, load, compare. Return: whether anything was wrong. */
static bool whole_way(struct world *w, uint64_t seed)
{
    uint32_t wrong;

    fill(w, false);
    wrong = move_all(w, NVME_WRITE, seed);
    for (uint32_t l = 0; l < LAYERS && !wrong; l++)
        for (uint32_t i = 0; i < SLOTS; i++) {
            const void *part[PARTS] = {object(w, l, i, 0), object(w, l, i, 1)};

            wrong += w->sum[l][i] !=
                     (is_ours(w, i) ? tutti_layer_sum(part, PARTS, w->object) : UINT64_MAX);
        }
    fill(w, true);
    wrong = wrong ? wrong : move_all(w, NVME_READ, seed + 1000);
    return wrong || differences(w) > 0 || soft_broken_any(w->rig.d.soft) > 0;
}

static const struct kind {
    struct soft_options soft;
    uint32_t warps;
    uint32_t depth;
    uint32_t ids;
} kinds[] = {
    {{.mqes = 1023, .mdts = 1, .queues = 4, .block_bytes = 512, .blocks = 65536}, 2, 64, 63},
    {{.mqes = 1023, .mdts = 5, .sgls = 1, .queues = 4, .block_bytes = 512, .blocks = 65536},
     1,
     33,
     1000},
    {{.mqes = 15,
      .mdts = 5,
      .queues = 4,
      .block_bytes = 4096,
      .blocks = 8192,
      .ways = {.seed = 3, .latency_ns = 20000, .halves = true}},
     2,
     4,
     2},
    {{.mqes = 1023,
      .mdts = 1,
      .queues = 4,
      .block_bytes = 512,
      .blocks = 65536,
      .ways = {.seed = 5, .latency_ns = 5000, .halves = true}},
     1,
     256,
     255},
};

static void stored_and_loaded(void **state)
{
    static struct world w;
    (void)state;

    for (uint32_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            world_open(&w, &kinds[k].soft, kinds[k].warps, kinds[k].depth, kinds[k].ids);
            if (whole_way(&w, seed))
                fail_msg("kind %u, seed %u: %s %s", k, (uint32_t)seed, w.rig.said.message,
                         soft_first_broken(w.rig.d.soft));
            io_rig_close(&w.rig);
        }
}

/** A byte of the medium flipped: that position fails, with EBADMSG, and no other. */
static void a_flipped_byte_is_found(void **state)
{
    static struct world w;
    uint32_t number;
    (void)state;

    world_open(&w, &kinds[0].soft, 1, 64, 63);
    fill(&w, false);
    assert_int_equal(move_all(&w, NVME_WRITE, 1), 0);
    soft_media(w.rig.d.soft)[tutti_object_place(&w.placement, 11, 1, 1).offset + w.object - 1] ^= 4;
    fill(&w, true);
    number = post_layer(&w, 0, 1, NVME_READ);
    assert_int_equal(io_rig_run(&w.rig, 2, io_rig_world), 0);
    assert_true(io_rig_ended(&w.rig, 0, number));
    assert_int_equal(io_rig_error(&w.rig, 0, number), EBADMSG);
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(io_load(&w.result[1][i]), w.item[i].slot == 11 ? EBADMSG : 0);
    io_rig_close(&w.rig);
}

/* Stretches, for what is not a layer. */

static uint32_t post_stretch(struct io_rig *r, uint32_t opcode, uint32_t block, struct iovec *iov)
{
    struct io_entry *e;
    uint32_t number = io_rig_entry(r, 0, &e);

    e->kind = IO_STRETCH;
    e->opcode = opcode;
    e->count = 1;
    e->offset = (uint64_t)block * 4096;
    e->bytes = (uint32_t)iov->iov_len;
    e->iov = (uint64_t)(uintptr_t)iov;
    e->segments = 1;
    return number;
}

/** More entries than the ring holds at once, one after the other; doorbells are few. */
static void stretches_and_doorbells(void **state)
{
    static struct io_rig r;
    struct soft_counters before, after;
    struct iovec iov[200];
    uint32_t number = 0, lone;
    (void)state;

    io_rig_open(&r, &kinds[3].soft, 1, 256, 255);
    for (uint32_t round = 0; round < 3; round++) {
        soft_counters(r.d.soft, &before);
        for (uint32_t i = 0; i < 200; i++) {
            iov[i] = (struct iovec){.iov_base = r.memory + i * 4096, .iov_len = 4096};
            memset(r.memory + i * 4096, (int)(i + round), 4096);
            number = post_stretch(&r, NVME_WRITE, 300 + i, &iov[i]);
            io_rig_post(&r, 0);
        }
        assert_int_equal(io_rig_run(&r, round + 1, io_rig_world), 0);
        for (uint32_t i = 0; i < 200; i++) {
            assert_true(io_rig_ended(&r, 0, number - i));
            assert_int_equal(io_rig_error(&r, 0, number - i), 0);
            assert_int_equal(soft_media(r.d.soft)[(300 + i) * 4096 + 77], (uint8_t)(i + round));
        }
        soft_counters(r.d.soft, &after);
        printf("200 commands, 32 at a time: %u SQ and %u CQ doorbells\n",
               (uint32_t)(after.sq_doorbells - before.sq_doorbells),
               (uint32_t)(after.cq_doorbells - before.cq_doorbells));
        assert_true(after.sq_doorbells - before.sq_doorbells <= 200 / 8);
    }
    soft_counters(r.d.soft, &before);
    iov[0] = (struct iovec){.iov_base = r.memory, .iov_len = 4096};
    lone = post_stretch(&r, NVME_READ, 300, &iov[0]);
    io_rig_post(&r, 0);
    assert_int_equal(io_rig_run(&r, 9, io_rig_world), 0);
    assert_true(io_rig_ended(&r, 0, lone));
    soft_counters(r.d.soft, &after);
    assert_int_equal(after.sq_doorbells - before.sq_doorbells, 1);
    io_rig_close(&r);
}

/** Stepped over, never waited for: by a word, and by another entry. */
static void what_is_not_ready_is_stepped_over(void **state)
{
    static struct io_rig r;
    struct io_word ready = {0};
    struct iovec iov = {0};
    struct io_entry *e;
    uint32_t first, second, third;
    (void)state;

    io_rig_open(&r, &kinds[0].soft, 1, 64, 63);
    iov = (struct iovec){.iov_base = r.memory, .iov_len = 4096};
    first = post_stretch(&r, NVME_READ, 300, &iov);
    e = io_entry_of(&r.ring[0], first);
    e->ready = (uint64_t)(uintptr_t)&ready;
    e->ready_value = 5;
    io_rig_post(&r, 0);
    second = post_stretch(&r, NVME_READ, 301, &iov);
    e = io_entry_of(&r.ring[0], second);
    e->waits = 1;
    e->wait_for = first;
    io_rig_post(&r, 0);
    third = post_stretch(&r, NVME_READ, 302, &iov);
    io_rig_post(&r, 0);
    assert_int_equal(io_rig_run(&r, 1, io_rig_world), 0);
    assert_false(io_rig_ended(&r, 0, first));
    assert_false(io_rig_ended(&r, 0, second));
    assert_true(io_rig_ended(&r, 0, third));
    assert_false(r.warp[0].late); /* it ended because there was nothing to do */
    io_release(&ready, 6);
    assert_int_equal(io_rig_run(&r, 2, io_rig_world), 0);
    assert_true(io_rig_ended(&r, 0, first));
    assert_true(io_rig_ended(&r, 0, second));
    io_rig_close(&r);
}

/* What goes wrong. */

static void fault(struct io_rig *r, struct soft_fault f)
{
    f.opcode = NVME_READ;
    f.count = 1;
    assert_int_equal(soft_inject(r->d.soft, &f), 0);
}

static void a_status_is_an_error(void **state)
{
    static struct io_rig r;
    struct iovec iov;
    uint32_t number;
    (void)state;

    io_rig_open(&r, &kinds[0].soft, 1, 64, 63);
    iov = (struct iovec){.iov_base = r.memory, .iov_len = 65536};
    fault(&r, (struct soft_fault){.kind = SOFT_STATUS, .skip = 2, .status = NVME_READ_ERROR});
    number = post_stretch(&r, NVME_READ, 300, &iov);
    io_rig_post(&r, 0);
    assert_int_equal(io_rig_run(&r, 1, io_rig_world), 0);
    assert_true(io_rig_ended(&r, 0, number));
    assert_int_equal(io_rig_error(&r, 0, number), EIO);
    assert_int_equal(io_load(&io_end_of(&r.ring[0], number)->status), NVME_READ_ERROR);
    io_rig_close(&r);
}

/** A launch ends though a command does not; the next one takes it when it comes. */
static void a_bound_ends_every_wait(void **state)
{
    static struct io_rig r;
    struct iovec iov;
    uint32_t number;
    (void)state;

    io_rig_open(&r, &kinds[0].soft, 1, 64, 63);
    iov = (struct iovec){.iov_base = r.memory, .iov_len = 4096};
    fault(&r, (struct soft_fault){.kind = SOFT_LATE, .delay_ns = 5 * 1000 * 1000});
    number = post_stretch(&r, NVME_READ, 300, &iov);
    io_rig_post(&r, 0);
    assert_int_equal(io_rig_run(&r, 1, io_rig_world), 0);
    assert_false(io_rig_ended(&r, 0, number));
    assert_true(r.warp[0].late);
    assert_int_equal(r.warp[0].out, 1);
    for (uint64_t seed = 2; !io_rig_ended(&r, 0, number); seed++) {
        assert_true(seed < 9);
        assert_int_equal(io_rig_run(&r, seed, io_rig_world), 0);
    }
    assert_int_equal(r.warp[0].out, 0);
    assert_int_equal(io_rig_error(&r, 0, number), 0);
    io_rig_close(&r);
}

static void what_cannot_be_believed_ends_it(void **state)
{
    static struct io_rig r;
    struct iovec iov;
    (void)state;

    for (uint32_t kind = SOFT_TWICE; kind <= SOFT_FOREIGN; kind++) {
        io_rig_open(&r, &kinds[0].soft, 1, 64, 63);
        iov = (struct iovec){.iov_base = r.memory, .iov_len = 65536};
        fault(&r, (struct soft_fault){.kind = (enum soft_fault_kind)kind});
        (void)post_stretch(&r, NVME_READ, 300, &iov);
        io_rig_post(&r, 0);
        assert_int_equal(io_rig_run(&r, 1, io_rig_world), 0);
        assert_int_equal(r.warp[0].broken, -EPROTO);
        io_rig_free(&r);
    }
}

static int count(uint32_t seeds)
{
    static struct world w;
    uint32_t wrong = 0;

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        const struct kind *k = &kinds[seed % 2 ? 3 : 0];

        world_open(&w, &k->soft, k->warps, k->depth, k->ids);
        wrong += whole_way(&w, seed);
        io_rig_free(&w.rig);
    }
    printf("caught in %u of %u seeds\n", wrong, seeds);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_the_cpus),
        cmocka_unit_test(stored_and_loaded),
        cmocka_unit_test(a_flipped_byte_is_found),
        cmocka_unit_test(stretches_and_doorbells),
        cmocka_unit_test(what_is_not_ready_is_stepped_over),
        cmocka_unit_test(a_status_is_an_error),
        cmocka_unit_test(a_bound_ends_every_wait),
        cmocka_unit_test(what_cannot_be_believed_ends_it),
    };

    if (argc > 2)
        return count((uint32_t)strtoul(argv[2], NULL, 10));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
