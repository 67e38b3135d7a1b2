/* SPDX-License-Identifier: Apache-2.0 */
/* admin.c: the controller's admin commands: what it is, queues, features, logs, aborts, events. */
#include <stdio.h>
#include <string.h>

#include "nvme/soft/internal.h"

static uint32_t dword(const struct soft_command *c, uint32_t number)
{
    return (uint32_t)(c->words[number / 2] >> (number % 2 * 32));
}

uint32_t soft_admin_check(struct soft *s, struct soft_command *c)
{
    uint32_t opcode = NVME_SQE_OPCODE(c->words[0]);

    switch (opcode) {
    case NVME_ADMIN_DELETE_SQ:
    case NVME_ADMIN_CREATE_SQ:
    case NVME_ADMIN_GET_LOG_PAGE:
    case NVME_ADMIN_DELETE_CQ:
    case NVME_ADMIN_CREATE_CQ:
    case NVME_ADMIN_IDENTIFY:
    case NVME_ADMIN_ABORT:
    case NVME_ADMIN_SET_FEATURES:
    case NVME_ADMIN_GET_FEATURES:
        return NVME_OK;
    case NVME_ADMIN_ASYNC_EVENT:
        if (s->events_out == SOFT_MOST_EVENTS) {
            soft_break(s, SOFT_EVENTS, "%u are out", s->events_out);
            return NVME_EVENT_LIMIT;
        }
        s->events_out++;
        return NVME_OK;
    default:
        soft_break(s, SOFT_OPCODE, "admin command %#x", opcode);
        return NVME_INVALID_OPCODE;
    }
}

/* Identify. */

static void put(uint8_t *data, uint32_t at, uint64_t value, uint32_t bytes)
{
    memcpy(data + at, &value, bytes);
}

static void put_text(uint8_t *data, uint32_t at, uint32_t bytes, const char *text)
{
    for (uint32_t i = 0; i < bytes; i++)
        data[at + i] = *text ? (uint8_t)*text++ : ' ';
}

static void describe_controller(const struct soft *s, uint8_t *data)
{
    put_text(data, NVME_ID_SERIAL, 20, "soft0001");
    put_text(data, NVME_ID_MODEL, 40, "Tutti software controller");
    put_text(data, NVME_ID_FIRMWARE, 8, "1");
    data[NVME_ID_MDTS] = (uint8_t)s->options.mdts;
    data[NVME_ID_CNTRLTYPE] = 1;
    data[NVME_ID_ACL] = SOFT_MOST_ABORTS - 1;
    data[NVME_ID_AERL] = SOFT_MOST_EVENTS - 1;
    data[NVME_ID_SQES] = 0x66;
    data[NVME_ID_CQES] = 0x44;
    put(data, NVME_ID_NN, 1, 4);
    data[NVME_ID_VWC] = s->options.write_cache;
    put(data, NVME_ID_SGLS, s->options.sgls, 4);
}

static void describe_namespace(const struct soft *s, uint8_t *data)
{
    uint32_t log2 = s->options.block_bytes == 512 ? 9 : 12;

    put(data, NVME_NS_SIZE, s->options.blocks, 8);
    put(data, NVME_NS_SIZE + 8, s->options.blocks, 8);
    put(data, NVME_NS_SIZE + 16, s->options.blocks, 8);
    data[NVME_NS_NLBAF] = 0;
    data[NVME_NS_FLBAS] = 0;
    data[NVME_NS_NSATTR] = s->options.read_only;
    put(data, NVME_NS_LBAF0, s->options.metadata_bytes | log2 << 16, 4);
}

static uint32_t give(struct soft *s, const struct soft_command *c, const uint8_t *data,
                     uint32_t bytes)
{
    uint32_t status = soft_data(s, c, bytes, true);

    if (status == NVME_OK)
        soft_copy_to(s, data, bytes);
    return status;
}

static uint32_t identify(struct soft *s, const struct soft_command *c)
{
    uint8_t data[NVME_IDENTIFY_BYTES] = {0};
    uint32_t nsid = NVME_SQE_NSID(c->words[0]);

    switch (dword(c, 10) & 0xff) {
    case NVME_CNS_CONTROLLER:
        describe_controller(s, data);
        break;
    case NVME_CNS_NAMESPACE:
        if (nsid == 1)
            describe_namespace(s, data);
        else if (nsid == 0) {
            soft_break(s, SOFT_NAMESPACE, "%u", nsid);
            return NVME_INVALID_NAMESPACE;
        } /* one that is not there reads as zeros */
        break;
    case NVME_CNS_NAMESPACES:
        put(data, 0, nsid < 1, 4);
        break;
    default:
        return NVME_INVALID_FIELD;
    }
    return give(s, c, data, sizeof(data));
}

/* Queues. */

static bool entry_sizes_are_set(struct soft *s)
{
    if (NVME_CC_IOSQES(s->cc) == 6 && NVME_CC_IOCQES(s->cc) == 4)
        return true;
    soft_break(s, SOFT_ENTRY_SIZES, "CC is %#x", s->cc);
    return false;
}

/** What creating either kind of queue is held to. */
static uint32_t check_queue(struct soft *s, const struct soft_command *c, bool taken)
{
    uint32_t number = dword(c, 10) & 0xffff, depth = (dword(c, 10) >> 16) + 1;

    if (!entry_sizes_are_set(s))
        return NVME_BAD_QUEUE_SIZE;
    if (number == 0 || number > s->options.queues || taken) {
        soft_break(s, SOFT_QUEUE_NUMBER, "%u", number);
        return NVME_BAD_QUEUE;
    }
    if (depth < 2 || depth > s->options.mqes + 1) {
        soft_break(s, SOFT_QUEUE_DEPTH, "%u", depth);
        return NVME_BAD_QUEUE_SIZE;
    }
    if (c->words[3] % NVME_PAGE != 0 || !(dword(c, 11) & NVME_QUEUE_CONTIGUOUS)) {
        soft_break(s, SOFT_QUEUE_MEMORY, "%#llx", (unsigned long long)c->words[3]);
        return c->words[3] % NVME_PAGE ? NVME_BAD_PRP_OFFSET : NVME_INVALID_FIELD;
    }
    return NVME_OK;
}

static uint32_t create_cq(struct soft *s, const struct soft_command *c)
{
    uint32_t number = dword(c, 10) & 0xffff;
    uint32_t status = check_queue(s, c, number < SOFT_QUEUES && s->cq[number].there);

    if (status != NVME_OK)
        return status;
    soft_make_cq(s, number, c->words[3], (dword(c, 10) >> 16) + 1);
    return NVME_OK;
}

static uint32_t create_sq(struct soft *s, const struct soft_command *c)
{
    uint32_t number = dword(c, 10) & 0xffff, cq = dword(c, 11) >> 16;
    uint32_t status = check_queue(s, c, number < SOFT_QUEUES && s->sq[number].there);

    if (status != NVME_OK)
        return status;
    if (cq == 0 || cq > s->options.queues || !s->cq[cq].there) {
        soft_break(s, SOFT_QUEUE_CQ, "submission queue %u, completion queue %u", number, cq);
        return NVME_BAD_CQ;
    }
    if (soft_make_sq(s, number, c->words[3], (dword(c, 10) >> 16) + 1, cq) < 0)
        return NVME_INTERNAL;
    return NVME_OK;
}

/** Commands of it that are under way end as aborted. */
static uint32_t delete_sq(struct soft *s, const struct soft_command *c)
{
    uint32_t number = dword(c, 10) & 0xffff;

    if (number == 0 || number > s->options.queues || !s->sq[number].there) {
        soft_break(s, SOFT_DELETED_IN_USE, "submission queue %u", number);
        return NVME_BAD_QUEUE;
    }
    return soft_end_sq(s, number);
}

static uint32_t delete_cq(struct soft *s, const struct soft_command *c)
{
    uint32_t number = dword(c, 10) & 0xffff;

    if (number == 0 || number > s->options.queues || !s->cq[number].there) {
        soft_break(s, SOFT_DELETED_IN_USE, "completion queue %u", number);
        return NVME_BAD_QUEUE;
    }
    if (s->cq[number].users > 0) {
        soft_break(s, SOFT_DELETION_ORDER, "completion queue %u", number);
        return NVME_BAD_QUEUE_DELETION;
    }
    soft_drop_cq(s, number);
    return NVME_OK;
}

/* The rest. */

static uint32_t features(struct soft *s, struct soft_command *c, bool set)
{
    switch (dword(c, 10) & 0xff) {
    case NVME_FEATURE_QUEUES:
        c->value = (s->options.queues - 1) | (s->options.queues - 1) << 16;
        return NVME_OK;
    case NVME_FEATURE_WRITE_CACHE:
        c->value = set ? 0 : s->options.write_cache;
        return s->options.write_cache ? NVME_OK : NVME_INVALID_FIELD;
    case NVME_FEATURE_EVENTS:
        return NVME_OK;
    default:
        return NVME_INVALID_FIELD;
    }
}

static uint32_t log_page(struct soft *s, const struct soft_command *c)
{
    uint8_t data[NVME_LOG_HEALTH_BYTES] = {0};
    uint64_t bytes = ((uint64_t)(dword(c, 10) >> 16) + 1) * 4;

    if ((dword(c, 10) & 0xff) != NVME_LOG_HEALTH)
        return NVME_BAD_LOG_PAGE;
    data[NVME_HEALTH_WARNING] = s->warning;
    data[NVME_HEALTH_TEMPERATURE] = 310 & 0xff;
    data[NVME_HEALTH_TEMPERATURE + 1] = 310 >> 8;
    data[NVME_HEALTH_SPARE] = 100;
    data[NVME_HEALTH_USED] = 3;
    data[NVME_HEALTH_MEDIA_ERRORS] = 2;
    return give(s, c, data, (uint32_t)(bytes < sizeof(data) ? bytes : sizeof(data)));
}

/** It ends now where it has not begun to move data. Dword 0: 0 where it was aborted. */
static uint32_t abort_command(struct soft *s, struct soft_command *c)
{
    uint32_t sq = dword(c, 10) & 0xffff, id = dword(c, 10) >> 16;

    c->value = 1;
    for (struct soft_command *other = s->out; other; other = other->next) {
        if (other->sq != sq || NVME_SQE_ID(other->words[0]) != id || other == c || other->done)
            continue;
        if (s->options.ways.no_aborts)
            break;
        other->status = NVME_ABORTED;
        other->checked = true;
        other->held = false;
        other->due = s->now;
        c->value = 0;
    }
    return NVME_OK;
}

/** A request for events ends when there is one: Base 5.2. Dword 0: its type, what, and the log. */
static uint32_t tell_event(struct soft *s, struct soft_command *c)
{
    const uint32_t health = 1;

    if (!s->event)
        return SOFT_NOT_YET;
    s->event = false;
    s->events_out--;
    c->value = health | NVME_LOG_HEALTH << 16;
    return NVME_OK;
}

uint32_t soft_admin(struct soft *s, struct soft_command *c)
{
    if (NVME_SQE_OPCODE(c->words[0]) != NVME_ADMIN_ASYNC_EVENT)
        soft_count(&s->counters.admin, 1);
    switch (NVME_SQE_OPCODE(c->words[0])) {
    case NVME_ADMIN_IDENTIFY:
        return identify(s, c);
    case NVME_ADMIN_CREATE_CQ:
        return create_cq(s, c);
    case NVME_ADMIN_CREATE_SQ:
        return create_sq(s, c);
    case NVME_ADMIN_DELETE_SQ:
        return delete_sq(s, c);
    case NVME_ADMIN_DELETE_CQ:
        return delete_cq(s, c);
    case NVME_ADMIN_GET_LOG_PAGE:
        return log_page(s, c);
    case NVME_ADMIN_ABORT:
        return abort_command(s, c);
    case NVME_ADMIN_ASYNC_EVENT:
        return tell_event(s, c);
    default:
        return features(s, c, NVME_SQE_OPCODE(c->words[0]) == NVME_ADMIN_SET_FEATURES);
    }
}
