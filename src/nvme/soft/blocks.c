/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c: the NVM command set on a medium that is memory: read, write, flush. */
#include <string.h>

#include "nvme/soft/internal.h"

#define RESERVED_DWORD12 0x3fff0000u /* with no protection information, directives or copies */
#define RESERVED_DWORD13 0xffffff00u

static uint64_t first_block(const struct soft_command *c)
{
    return c->words[5];
}

static uint64_t block_count(const struct soft_command *c)
{
    return (c->words[6] & 0xffff) + 1;
}

static uint32_t check_transfer(struct soft *s, const struct soft_command *c)
{
    uint64_t first = first_block(c), count = block_count(c);
    uint64_t bytes = count * s->options.block_bytes;
    unsigned long long low = first;

    if (c->words[6] & (RESERVED_DWORD12 | (uint64_t)RESERVED_DWORD13 << 32)) {
        soft_break(s, SOFT_RESERVED, "dwords 12 and 13: %#llx", (unsigned long long)c->words[6]);
        return NVME_INVALID_FIELD;
    }
    if (s->options.mdts && bytes > (uint64_t)NVME_PAGE << s->options.mdts) {
        soft_break(s, SOFT_TRANSFER_SIZE, "%llu bytes", (unsigned long long)bytes);
        return NVME_INVALID_FIELD;
    }
    if (first >= s->options.blocks || count > s->options.blocks - first) {
        soft_break(s, SOFT_RANGE, "block %llu, %llu of them", low, (unsigned long long)count);
        return NVME_BEYOND_END;
    }
    return NVME_OK;
}

uint32_t soft_blocks_check(struct soft *s, const struct soft_command *c)
{
    uint32_t opcode = NVME_SQE_OPCODE(c->words[0]), nsid = NVME_SQE_NSID(c->words[0]);

    if (opcode > NVME_READ) {
        soft_break(s, SOFT_OPCODE, "I/O command %#x", opcode);
        return NVME_INVALID_OPCODE;
    }
    if (nsid != 1 && !(nsid == UINT32_MAX && opcode == NVME_FLUSH)) {
        soft_break(s, SOFT_NAMESPACE, "%u", nsid);
        return NVME_INVALID_NAMESPACE;
    }
    if (opcode == NVME_WRITE && s->options.read_only)
        return NVME_NAMESPACE_READ_ONLY;
    if (opcode != NVME_FLUSH)
        return check_transfer(s, c);
    for (uint32_t i = 3; i < NVME_SQE_WORDS; i++)
        if (c->words[i] != 0) {
            soft_break(s, SOFT_RESERVED, "a flush with word %u", i);
            return NVME_INVALID_FIELD;
        }
    return NVME_OK;
}

uint64_t soft_blocks_end(struct soft *s, const struct soft_command *c)
{
    uint32_t opcode = NVME_SQE_OPCODE(c->words[0]);
    uint64_t bytes = opcode == NVME_FLUSH ? 0 : block_count(c) * s->options.block_bytes;

    return soft_timing_end(&s->options.timing, &s->medium, s->now,
                           opcode == NVME_READ ? SOFT_READS : SOFT_WRITES, bytes);
}

uint32_t soft_blocks(struct soft *s, const struct soft_command *c)
{
    uint32_t opcode = NVME_SQE_OPCODE(c->words[0]);
    uint64_t size = s->options.block_bytes, at = first_block(c) * size;
    uint64_t bytes = block_count(c) * size, moved = c->torn ? bytes / 2 : bytes;
    uint32_t status;

    if (opcode == NVME_FLUSH) {
        if (s->durable)
            memcpy(s->durable, s->media, s->options.blocks * size);
        soft_count(&s->counters.flushes, 1);
        return NVME_OK;
    }
    status = soft_data(s, c, bytes, opcode == NVME_READ);
    if (status != NVME_OK)
        return status;
    if (opcode == NVME_READ)
        soft_copy_to(s, s->media + at, moved);
    else
        soft_copy_from(s, s->media + at, moved);
    soft_count(opcode == NVME_READ ? &s->counters.reads : &s->counters.writes, 1);
    soft_count(&s->counters.bytes, moved);
    return NVME_OK;
}
