/* SPDX-License-Identifier: Apache-2.0 */
/* admin.c: admin commands of a controller. Sections are of the NVM Express Base Specification 2.0.
 */
#include <inttypes.h>
#include <string.h>

#include "nvme/controller_internal.h"

const char *nvme_status_text(uint32_t status)
{
    static const struct {
        uint32_t status;
        const char *text;
    } known[] = {
        {NVME_OK, "success"},
        {NVME_INVALID_OPCODE, "no such command"},
        {NVME_INVALID_FIELD, "a field is invalid"},
        {NVME_ID_CONFLICT, "the identifier is in use"},
        {NVME_TRANSFER_ERROR, "data could not be transferred"},
        {NVME_ABORTED_POWER, "power was lost"},
        {NVME_INTERNAL, "internal error"},
        {NVME_ABORTED, "aborted"},
        {NVME_ABORTED_SQ_DELETED, "aborted, its queue was deleted"},
        {NVME_INVALID_NAMESPACE, "no such namespace"},
        {NVME_BAD_SGL_SEGMENT, "an SGL segment is invalid"},
        {NVME_BAD_SGL_COUNT, "too many SGL descriptors"},
        {NVME_BAD_SGL_LENGTH, "the SGL's length is not the transfer's"},
        {NVME_BAD_SGL_TYPE, "an SGL descriptor's type is invalid"},
        {NVME_BAD_PRP_OFFSET, "a PRP entry has an offset"},
        {NVME_NAMESPACE_READ_ONLY, "the namespace is write protected"},
        {NVME_BEYOND_END, "beyond the end of the namespace"},
        {NVME_NOT_READY, "the namespace is not ready"},
        {NVME_BAD_CQ, "no such completion queue"},
        {NVME_BAD_QUEUE, "no such queue number"},
        {NVME_BAD_QUEUE_SIZE, "a queue of that depth is not possible"},
        {NVME_BAD_LOG_PAGE, "no such log page"},
        {NVME_BAD_QUEUE_DELETION, "the completion queue is in use"},
        {NVME_WRITE_FAULT, "write fault"},
        {NVME_READ_ERROR, "unrecovered read error"},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].status == status)
            return known[i].text;
    return "a status that is not known here";
}

int nvme_alive(const struct nvme_controller *c, struct tutti_error *err)
{
    uint32_t csts = nvme_read32(c->port.bar, NVME_CSTS);

    if (controller_is_gone(c, csts))
        return tutti_error_set(err, -ENODEV, "%s: the drive does not answer: it was removed",
                               c->port.name);
    if (csts & NVME_CSTS_CFS)
        return tutti_error_set(err, -EIO, "%s: the controller reports a fatal status (CSTS %#x)",
                               c->port.name, csts);
    return 0;
}

static void note_event(struct nvme_controller *c, const struct nvme_done *done)
{
    if (c->event_id != (int32_t)done->id)
        return;
    c->event_id = -1;
    c->event = done->status == NVME_OK;
}

/** The next completion. Return: as nvme_queue_poll(), with a message. */
static int take(struct nvme_controller *c, struct nvme_done *done, struct tutti_error *err)
{
    int rc = nvme_queue_poll(&c->admin, done);

    nvme_queue_ring_completed(&c->admin);
    if (rc >= 0)
        return rc;
    c->failed = true;
    return tutti_error_set(err, rc,
                           "%s: the controller completed a command that is not out; nothing that "
                           "it says can be believed",
                           c->port.name);
}

int nvme_admin(struct nvme_controller *c, const uint64_t words[NVME_SQE_WORDS], uint32_t *value,
               struct tutti_error *err)
{
    uint64_t began = tutti_clock_now(), own[NVME_SQE_WORDS];
    int32_t id = nvme_queue_take(&c->admin);
    struct nvme_done done;
    int rc;

    if (id < 0)
        return tutti_error_set(err, -EBUSY, "%s: too many admin commands did not end",
                               c->port.name);
    memcpy(own, words, sizeof(own));
    own[0] |= (uint64_t)(uint32_t)id << 16;
    nvme_queue_put(&c->admin, own);
    nvme_queue_ring(&c->admin);
    for (;;) {
        rc = take(c, &done, err);
        if (rc < 0)
            return rc;
        if (rc == 1 && done.id == (uint32_t)id)
            break;
        if (rc == 1) {
            note_event(c, &done); /* or one that was given up */
            continue;
        }
        rc = nvme_alive(c, err);
        if (rc < 0)
            return rc;
        if (tutti_clock_now() - began > c->command_ns) {
            c->failed = true;
            return tutti_error_set(err, -ETIMEDOUT,
                                   "%s: admin command %#x did not end within %" PRIu64 " ms",
                                   c->port.name, NVME_SQE_OPCODE(own[0]), c->command_ns / 1000000);
        }
        controller_idle(c, began);
    }
    if (value)
        *value = done.value;
    if (done.status != NVME_OK)
        return tutti_error_set(err, -EIO, "%s: admin command %#x: %s (status %#05x)", c->port.name,
                               NVME_SQE_OPCODE(own[0]), nvme_status_text(done.status), done.status);
    return 0;
}

void nvme_bound(struct nvme_controller *c, uint64_t command_ns)
{
    c->command_ns = command_ns;
}

int nvme_abort(struct nvme_controller *c, uint32_t queue, uint32_t id, struct tutti_error *err)
{
    const uint64_t words[NVME_SQE_WORDS] = {
        NVME_WORD0(NVME_ADMIN_ABORT, 0, 0, 0), 0, 0, 0, 0, queue | (uint64_t)id << 16};

    return nvme_admin(c, words, NULL, err);
}

int nvme_health(struct nvme_controller *c, struct nvme_health *health, struct tutti_error *err)
{
    const uint64_t dwords = NVME_LOG_HEALTH_BYTES / 4 - 1;
    const uint64_t words[NVME_SQE_WORDS] = {NVME_WORD0(NVME_ADMIN_GET_LOG_PAGE, 0, 0, UINT32_MAX),
                                            0,
                                            0,
                                            c->page_address,
                                            0,
                                            NVME_LOG_HEALTH | dwords << 16};
    int rc = nvme_admin(c, words, NULL, err);

    if (rc < 0)
        return rc;
    health->known = true;
    health->warnings = c->page[NVME_HEALTH_WARNING];
    health->kelvin =
        c->page[NVME_HEALTH_TEMPERATURE] | (uint32_t)c->page[NVME_HEALTH_TEMPERATURE + 1] << 8;
    health->spare = c->page[NVME_HEALTH_SPARE];
    health->used = c->page[NVME_HEALTH_USED];
    memcpy(&health->media_errors, c->page + NVME_HEALTH_MEDIA_ERRORS, 8);
    return 0;
}

/** Base 5.2: it stays out until there is something to tell. */
static void ask_for_event(struct nvme_controller *c)
{
    uint64_t words[NVME_SQE_WORDS] = {0};

    c->event_id = nvme_queue_take(&c->admin);
    if (c->event_id < 0)
        return;
    words[0] = NVME_WORD0(NVME_ADMIN_ASYNC_EVENT, 0, (uint32_t)c->event_id, 0);
    nvme_queue_put(&c->admin, words);
    nvme_queue_ring(&c->admin);
}

int nvme_event(struct nvme_controller *c, struct tutti_error *err)
{
    struct nvme_done done;
    bool told;
    int rc;

    while ((rc = take(c, &done, err)) == 1)
        note_event(c, &done);
    if (rc < 0)
        return rc;
    told = c->event;
    c->event = false;
    if (c->event_id < 0)
        ask_for_event(c);
    return told;
}
