/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller_internal.h: what the files of one controller share.
 *
 *     controller.c   its life: registers, bring-up, queues, shutdown
 *     identify.c     what it and its namespace say of themselves
 *     admin.c        admin commands, and what is made of them
 */
#ifndef TUTTI_NVME_CONTROLLER_INTERNAL_H
#define TUTTI_NVME_CONTROLLER_INTERNAL_H

#include "base/clock.h"
#include "nvme/controller.h"

#define NVME_GONE UINT32_MAX /* what a register reads where nobody answers */

/** A pair of queues and the memory that it lives in. */
struct pair_memory {
    void *memory;
    size_t bytes;
    uint64_t address;
    const struct nvme_source *source; /* NULL: the heap */
};

struct nvme_controller {
    struct nvme_port port;
    struct nvme_facts facts;
    uint64_t cap;
    uint64_t command_ns;
    uint64_t ready_ns;
    struct nvme_queue admin;
    struct pair_memory admin_memory;
    struct pair_memory *pair; /* by number of I/O queue */
    uint8_t *page;            /* what the controller answers with */
    uint64_t page_address;
    int32_t event_id; /* of the request for events that is out, or -1 */
    bool event;       /* it was answered */
    bool failed;      /* it did not do what it had to: it may still write to what it was given */
};

static inline void controller_idle(const struct nvme_controller *c, uint64_t since)
{
    c->port.idle(c->port.self, tutti_clock_now() - since);
}

/** Nobody answers: ones from an empty slot, zeros from some virtual ones (a CAP is never 0). */
static inline bool controller_is_gone(const struct nvme_controller *c, uint32_t csts)
{
    return csts == NVME_GONE || (csts == 0 && nvme_read32(c->port.bar, NVME_CAP) == 0);
}

/** Ask it and namespace @nsid (0: its first) what they are; into c->facts. Return: as nvme_open().
 */
int controller_identify(struct nvme_controller *c, uint32_t nsid, struct tutti_error *err);

#endif
