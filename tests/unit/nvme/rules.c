/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each rule of the software controller has a driver that breaks just that one,
 * and is refused and counted: what the product's driver is held to can be seen.
 * A rule without a driver here does not compile. docs/nvme-rules.md lists them all.
 */
#include <stdio.h>

#include "drive.h"

enum { DEPTH = 16, CLOCKS = 50 };

/** A driver by hand: an admin queue, and an I/O queue where that is wanted. */
struct raw {
    struct drive d;
    struct nvme_queue admin;
    struct nvme_queue io;
    uint8_t *pages; /* 0 to 3: queues; 4 and on: data, lists */
};

enum { PAGES = 64, DATA = 8, LIST = 4, BLOCKS = 4096 };

static uint8_t *page(struct raw *r, uint32_t n)
{
    return r->pages + n * NVME_PAGE;
}

static uint64_t at(struct raw *r, uint32_t n)
{
    return (uint64_t)(uintptr_t)page(r, n);
}

static void queue(struct raw *r, struct nvme_queue *q, uint32_t number, uint32_t dstrd)
{
    *q = (struct nvme_queue){.sq = (uint64_t *)(void *)page(r, 2 * number),
                             .cq = (uint64_t *)(void *)page(r, 2 * number + 1),
                             .bar = r->d.port.bar,
                             .sq_doorbell = NVME_SQ_DOORBELL(number, dstrd),
                             .cq_doorbell = NVME_CQ_DOORBELL(number, dstrd),
                             .number = number,
                             .depth = DEPTH,
                             .phase = 1,
                             .free = DEPTH - 1,
                             .free_id = calloc(DEPTH, 2),
                             .out = calloc(DEPTH, 1)};
    for (uint32_t i = 0; i < DEPTH - 1; i++)
        q->free_id[i] = (uint16_t)i;
}

static void steps(struct raw *r, uint32_t count)
{
    while (count-- > 0)
        drive_step(&r->d);
}

static void configure(struct raw *r, uint32_t cc)
{
    nvme_write32(r->d.port.bar, NVME_CC, cc);
}

static void set_admin(struct raw *r, uint32_t aqa, uint64_t asq)
{
    nvme_write32(r->d.port.bar, NVME_AQA, aqa);
    nvme_write64(r->d.port.bar, NVME_ASQ, asq);
    nvme_write64(r->d.port.bar, NVME_ACQ, at(r, 1));
}

static uint32_t csts(const struct raw *r)
{
    return nvme_read32(r->d.port.bar, NVME_CSTS);
}

static void enable(struct raw *r)
{
    set_admin(r, (DEPTH - 1) | (DEPTH - 1) << 16, at(r, 0));
    configure(r, NVME_CC_OURS | NVME_CC_EN);
    steps(r, CLOCKS);
    assert_int_equal(csts(r), NVME_CSTS_RDY);
}

/** One command; its status. */
static uint32_t run(struct raw *r, struct nvme_queue *q, uint64_t words[NVME_SQE_WORDS])
{
    int32_t id = nvme_queue_take(q);

    assert_true(id >= 0);
    words[0] |= (uint64_t)(uint32_t)id << 16;
    nvme_queue_put(q, words);
    nvme_queue_ring(q);
    return drive_take(&r->d, q);
}

static uint32_t admin(struct raw *r, uint32_t opcode, uint64_t address, uint32_t dword10,
                      uint32_t dword11)
{
    uint64_t words[NVME_SQE_WORDS] = {opcode, 0, 0, address, 0, dword10 | (uint64_t)dword11 << 32};

    return run(r, &r->admin, words);
}

static uint32_t make_cq(struct raw *r, uint32_t number, uint32_t depth)
{
    return admin(r, NVME_ADMIN_CREATE_CQ, at(r, 3), number | (depth - 1) << 16, 1);
}

static uint32_t make_sq(struct raw *r, uint32_t number, uint32_t cq)
{
    return admin(r, NVME_ADMIN_CREATE_SQ, at(r, 2), number | (DEPTH - 1) << 16, 1 | cq << 16);
}

static void make_io(struct raw *r)
{
    assert_int_equal(make_cq(r, 1, DEPTH), NVME_OK);
    assert_int_equal(make_sq(r, 1, 1), NVME_OK);
}

/** A read into @pages pages of data; @change makes it wrong. */
static void words_of(struct raw *r, uint64_t words[NVME_SQE_WORDS], uint32_t pages)
{
    drive_words(words, NVME_READ, 0, page(r, DATA), 0, pages * 8);
    if (pages > 2) {
        words[4] = at(r, LIST);
        for (uint32_t i = 1; i < pages; i++)
            ((uint64_t *)(void *)page(r, LIST))[i - 1] = at(r, DATA + i);
    }
}

static uint32_t read_with(struct raw *r, uint32_t word, uint64_t change, uint32_t pages)
{
    uint64_t words[NVME_SQE_WORDS];

    words_of(r, words, pages);
    words[word] ^= change;
    return run(r, &r->io, words);
}

/** A read of one page by an SGL. */
static uint32_t read_sgl(struct raw *r, uint64_t address, uint64_t type, uint32_t bytes)
{
    uint64_t words[NVME_SQE_WORDS];

    words_of(r, words, 1);
    words[0] |= NVME_PSDT_SGL;
    words[3] = address;
    words[4] = NVME_SGL_WORD1(type, bytes);
    return run(r, &r->io, words);
}

/* The drivers. Each returns whether it was refused. */

static bool break_ADMIN_MEMORY(struct raw *r)
{
    set_admin(r, (DEPTH - 1) | (DEPTH - 1) << 16, at(r, 0) + 64);
    configure(r, NVME_CC_OURS | NVME_CC_EN);
    steps(r, CLOCKS);
    return csts(r) & NVME_CSTS_CFS;
}

static bool break_ADMIN_DEPTH(struct raw *r)
{
    set_admin(r, 0, at(r, 0));
    configure(r, NVME_CC_OURS | NVME_CC_EN);
    steps(r, CLOCKS);
    return csts(r) & NVME_CSTS_CFS;
}

static bool with_cc(struct raw *r, uint32_t bits)
{
    set_admin(r, (DEPTH - 1) | (DEPTH - 1) << 16, at(r, 0));
    configure(r, NVME_CC_OURS | NVME_CC_EN | bits);
    steps(r, CLOCKS);
    return csts(r) & NVME_CSTS_CFS;
}

static bool break_PAGE_SIZE(struct raw *r)
{
    return with_cc(r, 1u << 7);
}

static bool break_COMMAND_SET(struct raw *r)
{
    return with_cc(r, 1u << 4);
}

static bool break_RESERVED_CC(struct raw *r)
{
    return with_cc(r, 2);
}

static bool break_ENABLED_EARLY(struct raw *r)
{
    enable(r);
    configure(r, NVME_CC_OURS);
    steps(r, 1);
    configure(r, NVME_CC_OURS | NVME_CC_EN);
    steps(r, 1);
    return true; /* what happens then is not defined */
}

static bool break_DISABLED_EARLY(struct raw *r)
{
    set_admin(r, (DEPTH - 1) | (DEPTH - 1) << 16, at(r, 0));
    configure(r, NVME_CC_OURS | NVME_CC_EN);
    steps(r, 1);
    configure(r, NVME_CC_OURS);
    steps(r, 1);
    return true; /* as above */
}

static bool break_DOORBELL_VALUE(struct raw *r)
{
    enable(r);
    nvme_write32(r->d.port.bar, r->admin.sq_doorbell, DEPTH);
    steps(r, 1);
    return nvme_read32(r->d.port.bar, r->admin.sq_doorbell) == 0;
}

/** Seven are still to be fetched, and ten are announced besides. */
static bool break_QUEUE_FULL(struct raw *r)
{
    uint64_t words[NVME_SQE_WORDS];

    enable(r);
    make_io(r);
    for (uint32_t i = 0; i < DEPTH - 1; i++) {
        words_of(r, words, 1);
        words[0] |= (uint64_t)(uint32_t)nvme_queue_take(&r->io) << 16;
        nvme_queue_put(&r->io, words);
    }
    nvme_queue_ring(&r->io);
    steps(r, 1);
    nvme_write32(r->d.port.bar, r->io.sq_doorbell, DEPTH - 1 + 10 - DEPTH);
    steps(r, 1);
    return nvme_read32(r->d.port.bar, r->io.sq_doorbell) == DEPTH - 1;
}

static bool break_DOORBELL_NOWHERE(struct raw *r)
{
    enable(r);
    nvme_write32(r->d.port.bar, r->io.sq_doorbell, 1);
    steps(r, 1);
    return nvme_read32(r->d.port.bar, r->io.sq_doorbell) == 0;
}

static bool break_HEAD_BEYOND_TAIL(struct raw *r)
{
    enable(r);
    nvme_write32(r->d.port.bar, r->admin.cq_doorbell, 1);
    steps(r, 1);
    return nvme_read32(r->d.port.bar, r->admin.cq_doorbell) == 0;
}

/** More than are fetched at once; one of the rest is written again. */
static bool break_ENTRY_CHANGED(struct raw *r)
{
    uint64_t words[NVME_SQE_WORDS];

    enable(r);
    make_io(r);
    for (uint32_t i = 0; i < 12; i++) {
        words_of(r, words, 1);
        words[0] |= (uint64_t)(uint32_t)nvme_queue_take(&r->io) << 16;
        nvme_queue_put(&r->io, words);
    }
    nvme_queue_ring(&r->io);
    steps(r, 1);
    nvme_store64(r->io.sq + 10 * NVME_SQE_WORDS + 5, 8);
    steps(r, 4);
    return true; /* a drive would take either */
}

static bool break_ENTRY_SIZES(struct raw *r)
{
    set_admin(r, (DEPTH - 1) | (DEPTH - 1) << 16, at(r, 0));
    configure(r, NVME_CC_EN);
    steps(r, CLOCKS);
    return make_cq(r, 1, DEPTH) == NVME_BAD_QUEUE_SIZE;
}

static bool break_QUEUE_NUMBER(struct raw *r)
{
    enable(r);
    make_io(r);
    return make_cq(r, 1, DEPTH) == NVME_BAD_QUEUE && make_cq(r, 0, DEPTH) == NVME_BAD_QUEUE &&
           make_cq(r, 5, DEPTH) == NVME_BAD_QUEUE;
}

static bool break_QUEUE_DEPTH(struct raw *r)
{
    enable(r);
    return make_cq(r, 1, 65) == NVME_BAD_QUEUE_SIZE && make_cq(r, 1, 1) == NVME_BAD_QUEUE_SIZE;
}

static bool break_QUEUE_MEMORY(struct raw *r)
{
    enable(r);
    return admin(r, NVME_ADMIN_CREATE_CQ, at(r, 3) + 512, 1 | (DEPTH - 1) << 16, 1) ==
               NVME_BAD_PRP_OFFSET &&
           admin(r, NVME_ADMIN_CREATE_CQ, at(r, 3), 1 | (DEPTH - 1) << 16, 0) == NVME_INVALID_FIELD;
}

static bool break_QUEUE_CQ(struct raw *r)
{
    enable(r);
    return make_sq(r, 1, 2) == NVME_BAD_CQ;
}

static bool break_DELETION_ORDER(struct raw *r)
{
    enable(r);
    make_io(r);
    return admin(r, NVME_ADMIN_DELETE_CQ, 0, 1, 0) == NVME_BAD_QUEUE_DELETION;
}

static bool break_DELETED_IN_USE(struct raw *r)
{
    enable(r);
    return admin(r, NVME_ADMIN_DELETE_CQ, 0, 1, 0) == NVME_BAD_QUEUE &&
           admin(r, NVME_ADMIN_DELETE_SQ, 0, 0, 0) == NVME_BAD_QUEUE;
}

static bool break_OPCODE(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_with(r, 0, 0x55 ^ NVME_READ, 1) == NVME_INVALID_OPCODE &&
           admin(r, 0x7f, 0, 0, 0) == NVME_INVALID_OPCODE;
}

static bool break_IDENTIFIER(struct raw *r)
{
    uint64_t words[NVME_SQE_WORDS];
    int32_t id;

    enable(r);
    make_io(r);
    words_of(r, words, 1);
    id = nvme_queue_take(&r->io);
    nvme_queue_take(&r->io);
    words[0] |= (uint64_t)(uint32_t)id << 16;
    nvme_queue_put(&r->io, words);
    nvme_queue_put(&r->io, words);
    nvme_queue_ring(&r->io);
    steps(r, 3);
    return NVME_CQE_STATUS(nvme_load64(r->io.cq + 3)) == NVME_ID_CONFLICT;
}

static bool with_word(struct raw *r, uint32_t word, uint64_t change, uint32_t status)
{
    enable(r);
    make_io(r);
    return read_with(r, word, change, 1) == status;
}

static bool break_RESERVED(struct raw *r)
{
    return with_word(r, 1, 1, NVME_INVALID_FIELD) &&
           read_with(r, 0, 1u << 10, 1) == NVME_INVALID_FIELD &&
           read_with(r, 0, 3u << 14, 1) == NVME_INVALID_FIELD &&
           read_with(r, 6, 1u << 20, 1) == NVME_INVALID_FIELD &&
           read_with(r, 0, NVME_READ ^ NVME_FLUSH, 1) == NVME_INVALID_FIELD; /* with an address */
}

static bool break_FUSED(struct raw *r)
{
    return with_word(r, 0, 1u << 8, NVME_INVALID_FIELD);
}

static bool break_NAMESPACE(struct raw *r)
{
    return with_word(r, 0, UINT64_C(3) << 32, NVME_INVALID_NAMESPACE);
}

static bool break_RANGE(struct raw *r)
{
    return with_word(r, 5, BLOCKS - 7, NVME_BEYOND_END) &&
           read_with(r, 5, UINT64_MAX, 1) == NVME_BEYOND_END;
}

static bool break_TRANSFER_SIZE(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_with(r, 0, 0, 33) == NVME_INVALID_FIELD;
}

static bool break_EVENTS(struct raw *r)
{
    uint64_t words[NVME_SQE_WORDS] = {NVME_ADMIN_ASYNC_EVENT};

    enable(r);
    for (uint32_t i = 0; i < 4; i++) {
        words[0] = NVME_WORD0(NVME_ADMIN_ASYNC_EVENT, 0, (uint32_t)nvme_queue_take(&r->admin), 0);
        nvme_queue_put(&r->admin, words);
    }
    nvme_queue_ring(&r->admin);
    steps(r, 4);
    assert_int_equal(soft_broken_any(r->d.soft), 0);
    words[0] = NVME_ADMIN_ASYNC_EVENT;
    return run(r, &r->admin, words) == NVME_EVENT_LIMIT;
}

static bool break_PRP_DWORD(struct raw *r)
{
    return with_word(r, 3, 2, NVME_BAD_PRP_OFFSET);
}

static bool break_PRP_OFFSET(struct raw *r)
{
    enable(r);
    make_io(r);
    if (read_with(r, 4, 8, 2) != NVME_BAD_PRP_OFFSET)
        return false;
    ((uint64_t *)(void *)page(r, LIST + 1))[1] = at(r, DATA + 2) + 64;
    ((uint64_t *)(void *)page(r, LIST + 1))[0] = at(r, DATA + 1);
    return read_with(r, 4, at(r, LIST) ^ at(r, LIST + 1), 3) == NVME_BAD_PRP_OFFSET;
}

static bool break_PRP_LIST(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_with(r, 4, 4, 3) == NVME_BAD_PRP_OFFSET;
}

static bool break_SGL_SUPPORT(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_sgl(r, at(r, DATA), NVME_SGL_DATA, NVME_PAGE) == NVME_INVALID_FIELD;
}

static bool break_SGL_TYPE(struct raw *r)
{
    uint64_t *segment = (uint64_t *)(void *)page(r, LIST);

    enable(r);
    make_io(r);
    segment[0] = at(r, LIST + 1);
    segment[1] = NVME_SGL_WORD1(NVME_SGL_SEGMENT, 16); /* a last segment does not lead on */
    return read_sgl(r, at(r, DATA), 5, NVME_PAGE) == NVME_BAD_SGL_TYPE &&
           read_sgl(r, at(r, LIST), NVME_SGL_LAST_SEGMENT, 16) == NVME_BAD_SGL_TYPE;
}

static bool break_SGL_SEGMENT(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_sgl(r, at(r, LIST), NVME_SGL_LAST_SEGMENT, 8) == NVME_BAD_SGL_SEGMENT &&
           read_sgl(r, at(r, LIST), NVME_SGL_SEGMENT, 0) == NVME_BAD_SGL_SEGMENT;
}

static bool break_SGL_LENGTH(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_sgl(r, at(r, DATA), NVME_SGL_DATA, 512) == NVME_BAD_SGL_LENGTH &&
           read_sgl(r, at(r, DATA), NVME_SGL_DATA, NVME_PAGE + 4) == NVME_BAD_SGL_LENGTH;
}

static bool break_SGL_DWORD(struct raw *r)
{
    enable(r);
    make_io(r);
    return read_sgl(r, at(r, DATA) + 1, NVME_SGL_DATA, NVME_PAGE) == NVME_INVALID_FIELD;
}

static bool break_UNMAPPED(struct raw *r)
{
    return with_word(r, 3, UINT64_C(1) << 60, NVME_TRANSFER_ERROR);
}

static bool break_NOT_WRITABLE(struct raw *r)
{
    uint8_t *memory = aligned_alloc(NVME_PAGE, NVME_PAGE);
    uint64_t address = (uint64_t)(uintptr_t)memory;
    bool refused;

    assert_int_equal(soft_map(r->d.soft, memory, NVME_PAGE, address, false), 0);
    refused = with_word(r, 3, at(r, DATA) ^ address, NVME_TRANSFER_ERROR);
    assert_int_equal(soft_unmap(r->d.soft, address), 0);
    free(memory);
    return refused;
}

/* The table. */

static const struct rule {
    enum soft_rule rule;
    bool (*broken_by)(struct raw *r);
    const char *name;
} rule[] = {
#define ROW(name, text, section, qemu) {SOFT_##name, break_##name, #name},
    SOFT_RULES(ROW)
#undef ROW
};

static void each_rule(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SOFT_RULE_COUNT; i++) {
        enum soft_rule of = rule[i].rule;
        struct soft_options o = {.mqes = 63,
                                 .mdts = 5,
                                 .sgls = of == SOFT_SGL_SUPPORT ? 0
                                         : of == SOFT_SGL_DWORD ? 2
                                                                : 1,
                                 .queues = 4,
                                 .block_bytes = 512,
                                 .blocks = BLOCKS,
                                 .enable_ns = 10 * STEP_NS};
        struct raw r = {0};

        drive_make(&r.d, &o);
        r.pages = drive_memory(&r.d, PAGES * NVME_PAGE);
        queue(&r, &r.admin, 0, 0);
        queue(&r, &r.io, 1, 0);
        if (!rule[i].broken_by(&r))
            fail_msg("%s was not refused", rule[i].name);
        if (soft_broken(r.d.soft, of) == 0)
            fail_msg("%s was not noticed", rule[i].name);
        if (soft_broken_any(r.d.soft) != soft_broken(r.d.soft, of))
            fail_msg("%s: another rule was broken too: %s", rule[i].name,
                     soft_first_broken(r.d.soft));
        drive_memory_free(&r.d, r.pages);
        soft_free(r.d.soft);
        free(r.admin.free_id);
        free(r.admin.out);
        free(r.io.free_id);
        free(r.io.out);
    }
}

/** A driver that breaks none: nothing is said. */
static void no_rule(void **state)
{
    struct soft_options o = SOFT_USUAL;
    struct raw r = {0};
    uint64_t *segment;
    (void)state;

    o.sgls = 1;
    drive_make(&r.d, &o);
    r.pages = drive_memory(&r.d, PAGES * NVME_PAGE);
    queue(&r, &r.admin, 0, 0);
    queue(&r, &r.io, 1, 0);
    for (uint32_t i = 0; i < 8 * NVME_PAGE; i++)
        soft_media(r.d.soft)[i] = (uint8_t)(i * 13 + i / 251);
    enable(&r);
    make_io(&r);
    for (uint32_t pages = 1; pages <= 8; pages++) {
        memset(page(&r, DATA), 0, 8 * NVME_PAGE);
        assert_int_equal(read_with(&r, 0, 0, pages), NVME_OK);
        assert_memory_equal(page(&r, DATA), soft_media(r.d.soft), pages * NVME_PAGE);
    }
    segment = (uint64_t *)(void *)page(&r, LIST);
    segment[0] = at(&r, DATA);
    segment[1] = NVME_SGL_WORD1(NVME_SGL_DATA, 1000);
    segment[2] = at(&r, LIST + 1);
    segment[3] = NVME_SGL_WORD1(NVME_SGL_LAST_SEGMENT, 16);
    segment = (uint64_t *)(void *)page(&r, LIST + 1);
    segment[0] = at(&r, DATA) + 1000;
    segment[1] = NVME_SGL_WORD1(NVME_SGL_DATA, NVME_PAGE - 1000);
    memset(page(&r, DATA), 0, NVME_PAGE);
    assert_int_equal(read_sgl(&r, at(&r, LIST), NVME_SGL_SEGMENT, 32), NVME_OK);
    assert_memory_equal(page(&r, DATA), soft_media(r.d.soft), NVME_PAGE);
    assert_string_equal(soft_first_broken(r.d.soft), "");
    drive_memory_free(&r.d, r.pages);
    soft_free(r.d.soft);
    free(r.admin.free_id);
    free(r.admin.out);
    free(r.io.free_id);
    free(r.io.out);
}

/** The manual's table has a line for each rule, as it is here, and none besides. */
static void documented(void **state)
{
    static const char *const line[] = {
#define LINE(name, text, section, qemu) "| " text " | " section " | " #qemu " |\n",
        SOFT_RULES(LINE)
#undef LINE
    };
    FILE *manual = fopen(RULES_MANUAL, "r");
    char read[512];
    uint32_t lines = 0;
    (void)state;

    assert_non_null(manual);
    while (fgets(read, sizeof(read), manual)) {
        if (strncmp(read, "| ", 2) != 0 || strncmp(read, "| rule ", 7) == 0)
            continue;
        assert_true(lines < SOFT_RULE_COUNT);
        assert_string_equal(read, line[lines]);
        lines++;
    }
    assert_int_equal(lines, SOFT_RULE_COUNT);
    fclose(manual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_rule), cmocka_unit_test(no_rule),
                                       cmocka_unit_test(documented)};

    return cmocka_run_group_tests_name("rules", tests, NULL, NULL);
}
