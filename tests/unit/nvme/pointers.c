/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data pointers: whatever is scattered how, at any alignment that the
 * controller allows, the commands together name exactly the memory asked for,
 * in order, as PRP entries and as SGL descriptors; lists stay within their page;
 * and none is longer than the largest transfer. A small reader of data pointers
 * of its own says what a command names.
 *
 * Seen to fail: with a second PRP entry that keeps the offset of the first, with
 * a page counted anew where a stretch goes on within it (two commands where one
 * would do), with stretches that do not end a page joined, with a command that is not
 * cut to whole blocks, and with SGL descriptors that are joined over a gap.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nvme/data.h"
#include "scatter.h"

enum { REGIONS = 3, REGION_BYTES = 4 << 20, MOST_SEGMENTS = 400 };

/** Addresses on the bus of bytes, in order; what a command names, or what was asked for. */
struct bytes {
    uint64_t *at; /* in units of 4 bytes */
    uint64_t count;
};

static void name(struct bytes *b, uint64_t address, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += 4)
        b->at[b->count++] = address + i;
}

static uint64_t address_of(const struct nvme_windows *w, const uint8_t *memory)
{
    for (uint32_t i = 0; i < w->count; i++)
        if ((uintptr_t)memory - w->window[i].memory < w->window[i].bytes)
            return w->window[i].address + ((uintptr_t)memory - w->window[i].memory);
    fail_msg("not in a window");
    return 0;
}

static void read_prp(const uint64_t *sqe, const struct nvme_list *list, uint64_t bytes,
                     struct bytes *named)
{
    uint64_t first = NVME_PAGE - sqe[3] % NVME_PAGE;
    const uint64_t *entry = &sqe[4];
    uint64_t left;

    assert_int_equal(sqe[3] % 4, 0);
    name(named, sqe[3], bytes < first ? bytes : first);
    left = bytes < first ? 0 : bytes - first;
    if (left == 0)
        assert_int_equal(sqe[4], 0); /* reserved where it is not used */
    assert_int_equal(list->used, left > NVME_PAGE);
    if (left > NVME_PAGE) {
        assert_int_equal(sqe[4], list->address);
        entry = list->words;
        assert_true((left + NVME_PAGE - 1) / NVME_PAGE <= NVME_PRP_LIST_ENTRIES);
    }
    for (; left > 0; entry++) {
        uint64_t step = left < NVME_PAGE ? left : NVME_PAGE;

        assert_int_equal(*entry % NVME_PAGE, 0);
        name(named, *entry, step);
        left -= step;
    }
}

static void read_sgl(const uint64_t *sqe, const struct nvme_list *list, uint64_t bytes,
                     struct bytes *named)
{
    uint64_t count = 1, sum = 0;
    const uint64_t *words = &sqe[3];

    assert_int_equal(sqe[0] & 0xc000, NVME_PSDT_SGL);
    if (NVME_SGL_TYPE(sqe[4]) == NVME_SGL_LAST_SEGMENT) {
        assert_true(list->used);
        assert_int_equal(sqe[3], list->address);
        count = (sqe[4] & UINT32_MAX) / NVME_SGL_BYTES;
        words = list->words;
        assert_true(count > 1 && count * NVME_SGL_BYTES <= NVME_LIST_BYTES);
    } else {
        assert_false(list->used);
    }
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(NVME_SGL_TYPE(words[2 * i + 1]), NVME_SGL_DATA);
        name(named, words[2 * i], words[2 * i + 1] & UINT32_MAX);
        sum += words[2 * i + 1] & UINT32_MAX;
    }
    assert_int_equal(sum, bytes);
}

/** All of a scatter list, command by command. Return: how many it took. */
static uint32_t move_all(const struct nvme_windows *w, const struct nvme_limits *limits,
                         const struct iovec *iov, uint32_t segments, uint64_t bytes)
{
    static uint64_t page[NVME_LIST_BYTES / 8 + 1], asked[3 << 20], named[3 << 20];
    struct bytes wanted = {.at = asked}, got = {.at = named};
    struct nvme_place place = {.iov = iov, .segments = segments};
    uint32_t commands = 0;

    for (uint32_t i = 0; i < segments; i++)
        for (uint64_t at = 0; at < iov[i].iov_len; at += 4)
            name(&wanted, address_of(w, (uint8_t *)iov[i].iov_base + at), 4);
    for (uint64_t left = bytes; left > 0; commands++) {
        struct nvme_list list = {.words = page, .address = UINT64_C(0x7000000000)};
        uint64_t sqe[NVME_SQE_WORDS] = {0};
        int64_t moved;

        memset(page, 0xee, sizeof(page));
        if (roll(4) == 0) { /* without a list it moves nothing, or does not need one */
            struct nvme_list none = {0};
            struct nvme_place before = place;

            moved = nvme_data_fill(w, limits, &place, left, &none, sqe);
            assert_true(moved >= 0);
            if (moved == 0)
                assert_memory_equal(&place, &before, sizeof(place));
            list = moved > 0 ? none : list;
        } else {
            moved = 0;
        }
        if (moved == 0)
            moved = nvme_data_fill(w, limits, &place, left, &list, sqe);
        assert_true(moved > 0 && (uint64_t)moved <= left && (uint64_t)moved <= limits->bytes);
        assert_int_equal(moved % limits->block, 0);
        assert_true(page[NVME_LIST_BYTES / 8] == UINT64_C(0xeeeeeeeeeeeeeeee));
        if (limits->sgls)
            read_sgl(sqe, &list, (uint64_t)moved, &got);
        else
            read_prp(sqe, &list, (uint64_t)moved, &got);
        left -= (uint64_t)moved;
    }
    assert_int_equal(got.count, wanted.count);
    assert_memory_equal(named, asked, got.count * 8);
    return commands;
}

static struct nvme_windows windows;
static uint8_t *region[REGIONS];

static int map_regions(void **state)
{
    uint8_t *memory = aligned_alloc(NVME_PAGE, (size_t)REGIONS * REGION_BYTES);
    (void)state;

    /* Side by side in memory; on the bus the second follows the first, the third lies apart. */
    for (uint32_t i = 0; i < REGIONS; i++) {
        region[i] = memory + (size_t)i * REGION_BYTES;
        assert_int_equal(nvme_windows_add(&windows, region[i], REGION_BYTES,
                                          UINT64_C(0x100000000) + i * (uint64_t)REGION_BYTES +
                                              (i == 2 ? UINT64_C(1) << 40 : 0)),
                         0);
    }
    return 0;
}

static int unmap_regions(void **state)
{
    (void)state;
    free(region[0]);
    return 0;
}

/** Objects as KV memory has them: a size and a stride, or pieces anywhere. */
static void random_scatter(void **state)
{
    static const uint64_t mdts[] = {4096, 8192, 131072, 524288, UINT64_C(1) << 31};
    (void)state;

    for (uint32_t round = 0; round < 500; round++) {
        uint32_t block = roll(2) ? 512 : 4096, segments = 1 + (uint32_t)roll(MOST_SEGMENTS);
        struct nvme_limits limits = {
            .bytes = mdts[roll(5)], .block = block, .sgls = (uint32_t)roll(3)};
        uint64_t object = block * (1 + roll(16)), gap = block * roll(4), bytes = 0;
        uint64_t skew = limits.sgls == 0 ? 4 * roll(128) * roll(2) : 4 * roll(1024);
        uint8_t *at = region[0] + skew, *end = region[REGIONS - 1] + REGION_BYTES;
        struct iovec iov[MOST_SEGMENTS];
        uint32_t n = 0;

        if (roll(3) == 0)
            object = 4096 * (1 + roll(600));
        while (n < segments && at + object <= end && bytes + object < (8u << 20)) {
            iov[n++] = (struct iovec){.iov_base = at, .iov_len = object};
            at += object + gap;
            bytes += object;
            if (roll(8) == 0)
                at = region[0] + skew + block * roll(2048);
        }
        if (n > 0)
            move_all(&windows, &limits, iov, n, bytes);
    }
}

/** 2 MiB at any dword is one command where the drive can do it, as PRP and as SGL. */
static void largest_object(void **state)
{
    (void)state;
    for (uint32_t sgls = 0; sgls <= 2; sgls++)
        for (uint32_t skew = 0; skew <= 4092; skew += 1364) {
            const struct nvme_limits limits = {.bytes = 2 << 20, .block = 512, .sgls = sgls};
            const struct iovec iov = {.iov_base = region[0] + skew, .iov_len = 2 << 20};

            const struct iovec cut[3] = {
                {.iov_base = region[0] + skew, .iov_len = 512},
                {.iov_base = region[0] + skew + 512, .iov_len = (1 << 20) + 512},
                {.iov_base = region[0] + skew + (1 << 20) + 1024, .iov_len = (1 << 20) - 1024}};

            assert_int_equal(move_all(&windows, &limits, &iov, 1, 2 << 20), 1);
            assert_int_equal(move_all(&windows, &limits, cut, 3, 2 << 20), 1);
        }
}

static void what_is_refused(void **state)
{
    const struct nvme_limits prp = {.bytes = 131072, .block = 4096};
    const struct nvme_limits dwords = {.bytes = 131072, .block = 512, .sgls = 2};
    struct iovec foreign = {.iov_base = region[0] - 4096, .iov_len = 4096};
    struct iovec odd = {.iov_base = region[0] + 2, .iov_len = 4096};
    struct iovec halves[2] = {{.iov_base = region[0], .iov_len = 2048},
                              {.iov_base = region[0] + 8192, .iov_len = 2048}};
    static uint64_t page[NVME_LIST_BYTES / 8];
    struct nvme_list list = {.words = page};
    uint64_t sqe[NVME_SQE_WORDS] = {0};
    struct nvme_place place = {.iov = &foreign, .segments = 1};
    (void)state;

    assert_int_equal(nvme_data_fill(&windows, &prp, &place, 4096, &list, sqe), -EFAULT);
    foreign.iov_base = region[REGIONS - 1] + REGION_BYTES;
    place = (struct nvme_place){.iov = &foreign, .segments = 1};
    assert_int_equal(nvme_data_fill(&windows, &prp, &place, 4096, &list, sqe), -EFAULT);
    place = (struct nvme_place){.iov = &odd, .segments = 1};
    assert_int_equal(nvme_data_fill(&windows, &prp, &place, 4096, &list, sqe), -EINVAL);
    place = (struct nvme_place){.iov = &odd, .segments = 1};
    assert_int_equal(nvme_data_fill(&windows, &dwords, &place, 4096, &list, sqe), -EINVAL);
    place = (struct nvme_place){.iov = halves, .segments = 2};
    assert_int_equal(nvme_data_fill(&windows, &prp, &place, 4096, &list, sqe), -EINVAL);
    place = (struct nvme_place){.iov = halves, .segments = 1}; /* less memory than bytes */
    assert_int_equal(nvme_data_fill(&windows, &prp, &place, 4096, &list, sqe), -EFAULT);
}

static void windows_of_memory(void **state)
{
    static struct nvme_windows w;
    uint8_t *base = (uint8_t *)(uintptr_t)0x100000;
    (void)state;

    for (uint32_t i = 0; i < NVME_WINDOWS; i++) /* from the last to the first */
        assert_int_equal(nvme_windows_add(&w, base + (NVME_WINDOWS - 1 - i) * (size_t)8192, 4096,
                                          i * UINT64_C(4096)),
                         0);
    assert_int_equal(nvme_windows_add(&w, base + 4096, 4096, 0), -ENOSPC);
    assert_int_equal(nvme_windows_add(&w, base + 4095, 2, 0), -EEXIST);
    assert_true(nvme_windows_hold(&w, base + 8192, 4096));
    assert_true(nvme_windows_hold(&w, base + 100, 0));
    assert_false(nvme_windows_hold(&w, base + 8192, 4097));
    assert_false(nvme_windows_hold(&w, base + 8191, 1));
    assert_true(nvme_windows_hold(&windows, region[0] + 5, 2 * REGION_BYTES)); /* they touch */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_scatter),
        cmocka_unit_test(largest_object),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(windows_of_memory),
    };

    return cmocka_run_group_tests(tests, map_regions, unmap_regions);
}
