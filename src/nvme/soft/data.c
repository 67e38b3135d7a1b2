/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.c: from a command's data pointer to pieces of memory.
 *
 * Walked when the command is executed, not when it is fetched: a driver that
 * takes a list back before the command has completed is found out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/soft/internal.h"

typedef unsigned long long number;

void *soft_reach(struct soft *s, uint64_t address, uint64_t bytes, bool write)
{
    uint8_t *memory = NULL;
    bool found = false;

    pthread_mutex_lock(&s->map_lock);
    for (uint32_t i = 0; i < s->mappings && !found; i++) {
        const struct soft_mapping *m = &s->mapping[i];

        found = address >= m->address && address - m->address < m->bytes;
        if (found && bytes <= m->bytes - (address - m->address) && (m->writable || !write))
            memory = m->memory + (address - m->address);
        else if (found && bytes <= m->bytes - (address - m->address))
            soft_break(s, SOFT_NOT_WRITABLE, "%#llx", (number)address);
    }
    if (!found)
        soft_break(s, SOFT_UNMAPPED, "%#llx, %llu bytes", (number)address, (number)bytes);
    pthread_mutex_unlock(&s->map_lock);
    return memory;
}

static uint32_t add_piece(struct soft *s, uint64_t address, uint64_t bytes, bool write)
{
    void *memory = bytes ? soft_reach(s, address, bytes, write) : NULL;

    if (bytes == 0)
        return NVME_OK;
    if (!memory)
        return NVME_TRANSFER_ERROR;
    if (s->pieces == s->pieces_room) {
        uint32_t room = s->pieces_room ? 2 * s->pieces_room : 64;
        struct soft_piece *more = realloc(s->piece, room * sizeof(*more));

        if (!more)
            return NVME_INTERNAL;
        s->piece = more;
        s->pieces_room = room;
    }
    s->piece[s->pieces++] = (struct soft_piece){memory, bytes};
    return NVME_OK;
}

/* PRP. */

static uint32_t prp_list(struct soft *s, uint64_t list, uint64_t left, bool write)
{
    uint32_t status = NVME_OK;

    if (list % 8 != 0) {
        soft_break(s, SOFT_PRP_LIST, "list at %#llx", (number)list);
        return NVME_BAD_PRP_OFFSET;
    }
    while (left > 0 && status == NVME_OK) {
        const uint64_t *at = soft_reach(s, list, 8, false);
        uint64_t entry;
        bool last_in_page = (list + 8) % NVME_PAGE == 0;

        if (!at)
            return NVME_TRANSFER_ERROR;
        entry = nvme_load64(at);
        if (entry % NVME_PAGE != 0) {
            soft_break(s, SOFT_PRP_OFFSET, "entry %#llx in the list at %#llx", (number)entry,
                       (number)list);
            return NVME_BAD_PRP_OFFSET;
        }
        if (last_in_page && left > NVME_PAGE) {
            list = entry;
            continue;
        }
        status = add_piece(s, entry, left < NVME_PAGE ? left : NVME_PAGE, write);
        left -= left < NVME_PAGE ? left : NVME_PAGE;
        list += 8;
    }
    return status;
}

static uint32_t prp(struct soft *s, const struct soft_command *c, uint64_t bytes, bool write)
{
    uint64_t first = c->words[3], second = c->words[4];
    uint64_t room = NVME_PAGE - first % NVME_PAGE, now = bytes < room ? bytes : room;
    uint32_t status;

    if (first % 4 != 0) {
        soft_break(s, SOFT_PRP_DWORD, "PRP entry 1 is %#llx", (number)first);
        return NVME_BAD_PRP_OFFSET;
    }
    status = add_piece(s, first, now, write);
    bytes -= now;
    if (status != NVME_OK || bytes == 0)
        return status;
    if (bytes > NVME_PAGE)
        return prp_list(s, second, bytes, write);
    if (second % NVME_PAGE != 0) {
        soft_break(s, SOFT_PRP_OFFSET, "PRP entry 2 is %#llx", (number)second);
        return NVME_BAD_PRP_OFFSET;
    }
    return add_piece(s, second, bytes, write);
}

/* SGL. */

struct sgl_walk {
    uint64_t left;
    bool write;
};

static uint32_t sgl_data(struct soft *s, struct sgl_walk *w, uint64_t address, uint32_t bytes)
{
    uint64_t now = bytes < w->left ? bytes : w->left;

    if (s->options.sgls == 2 && (address % 4 != 0 || bytes % 4 != 0)) {
        soft_break(s, SOFT_SGL_DWORD, "%#llx, %u bytes", (number)address, bytes);
        return NVME_INVALID_FIELD;
    }
    if (bytes > w->left) {
        soft_break(s, SOFT_SGL_LENGTH, "%u bytes where %llu are left", bytes, (number)w->left);
        return NVME_BAD_SGL_LENGTH;
    }
    w->left -= now;
    return add_piece(s, address, now, w->write);
}

/** @last: may only hold data; else its own last descriptor may lead on. */
static uint32_t sgl_segment(struct soft *s, struct sgl_walk *w, uint64_t address, uint32_t bytes,
                            bool last)
{
    for (uint32_t segments = 0;; segments++) {
        uint32_t count = bytes / NVME_SGL_BYTES;
        bool leads_on = false;

        if (bytes == 0 || bytes % NVME_SGL_BYTES != 0 || segments == 1024) {
            soft_break(s, SOFT_SGL_SEGMENT, "a segment of %u bytes", bytes);
            return NVME_BAD_SGL_SEGMENT;
        }
        for (uint32_t i = 0; i < count; i++) {
            const uint64_t *d = soft_reach(s, address + i * NVME_SGL_BYTES, NVME_SGL_BYTES, false);
            uint64_t word1 = d ? nvme_load64(d + 1) : 0, type = NVME_SGL_TYPE(word1);
            uint32_t status;

            if (!d)
                return NVME_TRANSFER_ERROR;
            if (NVME_SGL_SUBTYPE(word1) != 0 ||
                (type != NVME_SGL_DATA &&
                 (last || i + 1 < count ||
                  (type != NVME_SGL_SEGMENT && type != NVME_SGL_LAST_SEGMENT)))) {
                soft_break(s, SOFT_SGL_TYPE, "descriptor %u of %u: %#llx", i, count, (number)word1);
                return NVME_BAD_SGL_TYPE;
            }
            if (type == NVME_SGL_DATA) {
                status = sgl_data(s, w, nvme_load64(d), (uint32_t)word1);
                if (status != NVME_OK)
                    return status;
            } else {
                leads_on = true;
                last = type == NVME_SGL_LAST_SEGMENT;
                address = nvme_load64(d);
                bytes = (uint32_t)word1;
            }
        }
        if (!leads_on)
            return NVME_OK;
    }
}

static uint32_t sgl(struct soft *s, const struct soft_command *c, uint64_t bytes, bool write)
{
    struct sgl_walk w = {bytes, write};
    uint64_t word1 = c->words[4], type = NVME_SGL_TYPE(word1);
    uint32_t status;

    if (NVME_SGL_SUBTYPE(word1) != 0 || type > NVME_SGL_LAST_SEGMENT || type == 1) {
        soft_break(s, SOFT_SGL_TYPE, "the command's descriptor: %#llx", (number)word1);
        return NVME_BAD_SGL_TYPE;
    }
    status = type == NVME_SGL_DATA
                 ? sgl_data(s, &w, c->words[3], (uint32_t)word1)
                 : sgl_segment(s, &w, c->words[3], (uint32_t)word1, type == NVME_SGL_LAST_SEGMENT);
    if (status == NVME_OK && w.left > 0) {
        soft_break(s, SOFT_SGL_LENGTH, "%llu bytes of %llu are not described", (number)w.left,
                   (number)bytes);
        return NVME_BAD_SGL_LENGTH;
    }
    return status;
}

uint32_t soft_data(struct soft *s, const struct soft_command *c, uint64_t bytes, bool write)
{
    s->pieces = 0;
    return NVME_SQE_PSDT(c->words[0]) ? sgl(s, c, bytes, write) : prp(s, c, bytes, write);
}

void soft_copy_to(struct soft *s, const uint8_t *from, uint64_t bytes)
{
    for (uint32_t i = 0; i < s->pieces && bytes > 0; i++) {
        uint64_t now = s->piece[i].bytes < bytes ? s->piece[i].bytes : bytes;

        memcpy(s->piece[i].memory, from, now);
        from += now;
        bytes -= now;
    }
}

void soft_copy_from(struct soft *s, uint8_t *to, uint64_t bytes)
{
    for (uint32_t i = 0; i < s->pieces && bytes > 0; i++) {
        uint64_t now = s->piece[i].bytes < bytes ? s->piece[i].bytes : bytes;

        memcpy(to, s->piece[i].memory, now);
        to += now;
        bytes -= now;
    }
}

/* What is mapped. */

int soft_map(struct soft *s, void *memory, uint64_t bytes, uint64_t address, bool writable)
{
    int rc = s->mappings == SOFT_MAPPINGS ? -ENOSPC : 0;

    if (bytes == 0 || (address | bytes | (uint64_t)(uintptr_t)memory) % NVME_PAGE != 0)
        return -EINVAL;
    pthread_mutex_lock(&s->map_lock);
    for (uint32_t i = 0; i < s->mappings; i++)
        if (address < s->mapping[i].address + s->mapping[i].bytes &&
            s->mapping[i].address < address + bytes)
            rc = -EEXIST;
    if (rc == 0)
        s->mapping[s->mappings++] = (struct soft_mapping){memory, address, bytes, writable};
    pthread_mutex_unlock(&s->map_lock);
    return rc;
}

int soft_unmap(struct soft *s, uint64_t address)
{
    int rc = -ENOENT;

    pthread_mutex_lock(&s->map_lock);
    for (uint32_t i = 0; i < s->mappings && rc < 0; i++)
        if (s->mapping[i].address == address) {
            s->mapping[i] = s->mapping[--s->mappings];
            rc = 0;
        }
    pthread_mutex_unlock(&s->map_lock);
    return rc;
}
