/* SPDX-License-Identifier: Apache-2.0 */
/* controller.c: see controller.h. Sections are of the NVM Express Base Specification 2.0. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/controller_internal.h"

#define ADMIN_DEPTH 32u
#define HALF_SECOND UINT64_C(500000000)

/** Why the port's map or unmap failed. */
static const char *port_said(const struct nvme_port *port, int rc)
{
    return port->said ? port->said->message : strerror(-rc);
}

/* Memory that both sides see. */

static void memory_give(struct pair_memory *m)
{
    if (m->source)
        m->source->give(m->source->self, m->memory);
    else
        free(m->memory);
    m->memory = NULL;
}

static int pair_memory_new(const struct nvme_port *port, struct pair_memory *m, uint32_t depth,
                           struct tutti_error *err)
{
    size_t sq = ((size_t)depth * NVME_SQE_BYTES + NVME_PAGE - 1) / NVME_PAGE * NVME_PAGE;
    size_t cq = ((size_t)depth * NVME_CQE_BYTES + NVME_PAGE - 1) / NVME_PAGE * NVME_PAGE;
    int rc;

    m->bytes = sq + cq;
    m->memory =
        m->source ? m->source->take(m->source->self, m->bytes) : aligned_alloc(NVME_PAGE, m->bytes);
    if (!m->memory)
        return tutti_error_set(err, -ENOMEM, "%s: no memory for queues of %" PRIu32 " entries",
                               port->name, depth);
    memset(m->memory, 0, m->bytes); /* phase 0: nothing is there yet */
    rc = port->map(port->self, m->memory, m->bytes, &m->address);
    if (rc < 0) {
        memory_give(m);
        return tutti_error_set(err, rc, "%s: the drive cannot be let to its queues: %s", port->name,
                               port_said(port, rc));
    }
    return 0;
}

/** Only when nothing of it is the controller's any more. */
static void pair_memory_free(const struct nvme_port *port, struct pair_memory *m)
{
    if (!m->memory)
        return;
    if (port->unmap(port->self, m->address, m->bytes) == 0)
        memory_give(m);
    m->memory = NULL; /* where it is not, better lost than written to */
}

static void queue_forget(struct nvme_queue *q)
{
    free(q->free_id);
    free(q->out);
    memset(q, 0, sizeof(*q));
}

static int queue_init(struct nvme_queue *q, const struct nvme_controller *c,
                      const struct pair_memory *m, uint32_t number, uint32_t depth)
{
    uint32_t stride = NVME_CAP_DSTRD(c->cap);
    size_t sq = ((size_t)depth * NVME_SQE_BYTES + NVME_PAGE - 1) / NVME_PAGE * NVME_PAGE;

    *q = (struct nvme_queue){
        .sq = m->memory,
        .cq = (uint64_t *)(void *)((uint8_t *)m->memory + sq),
        .bar = c->port.bar,
        .sq_doorbell = NVME_SQ_DOORBELL(number, stride),
        .cq_doorbell = NVME_CQ_DOORBELL(number, stride),
        .number = number,
        .depth = depth,
        .phase = 1,
        .free = depth - 1,
        .free_id = calloc(depth, sizeof(*q->free_id)),
        .out = calloc(depth, sizeof(*q->out)),
    };
    if (!q->free_id || !q->out) {
        queue_forget(q);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < depth - 1; i++)
        q->free_id[i] = (uint16_t)(depth - 2 - i);
    return 0;
}

static uint64_t cq_address(const struct pair_memory *m, uint32_t depth)
{
    return m->address + ((uint64_t)depth * NVME_SQE_BYTES + NVME_PAGE - 1) / NVME_PAGE * NVME_PAGE;
}

/* Registers. */

/** Wait until CSTS.RDY is @wanted. Return: 0, -ENODEV, -EIO, -ETIMEDOUT. */
static int wait_ready(struct nvme_controller *c, uint32_t wanted, struct tutti_error *err)
{
    uint64_t began = tutti_clock_now();

    for (;;) {
        uint32_t csts = nvme_read32(c->port.bar, NVME_CSTS);

        if (controller_is_gone(c, csts))
            return tutti_error_set(err, -ENODEV, "%s: the drive does not answer: it was removed",
                                   c->port.name);
        if ((csts & NVME_CSTS_RDY) == wanted)
            return 0;
        if (wanted && csts & NVME_CSTS_CFS)
            return tutti_error_set(err, -EIO,
                                   "%s: the controller reports a fatal status (CSTS %#x); reset "
                                   "it, or power the machine off and on",
                                   c->port.name, csts);
        if (tutti_clock_now() - began > c->ready_ns)
            return tutti_error_set(err, -ETIMEDOUT,
                                   "%s: the controller did not become %s within %" PRIu64 " ms",
                                   c->port.name, wanted ? "ready" : "idle", c->ready_ns / 1000000);
        controller_idle(c, began);
    }
}

/** EN goes to 0 only from a controller that is ready or has failed: Base 3.1.3.5. */
static int disable(struct nvme_controller *c, struct tutti_error *err)
{
    uint32_t cc = nvme_read32(c->port.bar, NVME_CC);
    uint32_t csts = nvme_read32(c->port.bar, NVME_CSTS);
    int rc = 0;

    if (cc & NVME_CC_EN && !(csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)))
        rc = wait_ready(c, NVME_CSTS_RDY, err);
    if (rc == -ENODEV)
        return rc;
    nvme_write32(c->port.bar, NVME_CC, cc & ~NVME_CC_EN);
    return wait_ready(c, 0, err);
}

static int enable(struct nvme_controller *c, struct tutti_error *err)
{
    uint32_t depth = c->admin.depth;

    nvme_write32(c->port.bar, NVME_AQA, (depth - 1) | (depth - 1) << 16);
    nvme_write64(c->port.bar, NVME_ASQ, c->admin_memory.address);
    nvme_write64(c->port.bar, NVME_ACQ, cq_address(&c->admin_memory, depth));
    nvme_write32(c->port.bar, NVME_CC, NVME_CC_OURS);
    nvme_write32(c->port.bar, NVME_CC, NVME_CC_OURS | NVME_CC_EN);
    return wait_ready(c, NVME_CSTS_RDY, err);
}

static int ask_for_queues(struct nvme_controller *c, uint32_t wanted, struct tutti_error *err)
{
    uint64_t both = (wanted - 1) | (uint64_t)(wanted - 1) << 16;
    const uint64_t words[NVME_SQE_WORDS] = {
        NVME_WORD0(NVME_ADMIN_SET_FEATURES, 0, 0, 0), 0, 0, 0, 0, NVME_FEATURE_QUEUES | both << 32};
    uint32_t granted, sq, cq;
    int rc = nvme_admin(c, words, &granted, err);

    if (rc < 0)
        return rc;
    sq = (granted & 0xffff) + 1;
    cq = (granted >> 16) + 1;
    sq = sq < cq ? sq : cq;
    c->facts.queues = sq < wanted ? sq : wanted;
    return 0;
}

/* Life. */

static int check_capabilities(struct nvme_controller *c, struct tutti_error *err)
{
    uint64_t stride;

    c->cap = nvme_read64(c->port.bar, NVME_CAP);
    if (c->cap == UINT64_MAX || c->cap == 0)
        return tutti_error_set(err, -ENODEV, "%s: no NVMe controller answers", c->port.name);
    if (!(NVME_CAP_CSS(c->cap) & NVME_CAP_CSS_NVM) || NVME_CAP_MPSMIN(c->cap) > 0)
        return tutti_error_set(err, -EOPNOTSUPP,
                               "%s: the controller lacks the NVM command set or pages of 4096 "
                               "bytes (CAP %#" PRIx64 ")",
                               c->port.name, c->cap);
    stride = UINT64_C(4) << NVME_CAP_DSTRD(c->cap);
    c->facts.depth = NVME_CAP_MQES(c->cap) + 1;
    /* Only doorbells inside the mapped BAR are used. */
    if (c->port.bar_bytes < NVME_DOORBELLS + 4 * stride)
        return tutti_error_set(err, -EOPNOTSUPP, "%s: a BAR of %zu bytes holds no doorbells",
                               c->port.name, c->port.bar_bytes);
    c->ready_ns = (NVME_CAP_TO(c->cap) + 1) * HALF_SECOND;
    return 0;
}

static uint32_t most_queues(const struct nvme_controller *c)
{
    uint64_t stride = UINT64_C(4) << NVME_CAP_DSTRD(c->cap);
    uint64_t fit = (c->port.bar_bytes - NVME_DOORBELLS) / (2 * stride) - 1;

    return fit < 65535 ? (uint32_t)fit : 65535;
}

static int bring_up(struct nvme_controller *c, uint32_t nsid, uint32_t queues,
                    struct tutti_error *err)
{
    uint32_t depth = ADMIN_DEPTH;
    int rc = check_capabilities(c, err);

    if (rc == 0)
        rc = disable(c, err); /* first: until then a former owner's commands may be under way */
    if (rc == 0)
        rc = pair_memory_new(&c->port, &c->admin_memory, depth, err);
    if (rc < 0)
        return rc;
    if (queue_init(&c->admin, c, &c->admin_memory, 0, depth) < 0)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", c->port.name);
    c->page = aligned_alloc(NVME_PAGE, NVME_PAGE);
    rc = c->page ? c->port.map(c->port.self, c->page, NVME_PAGE, &c->page_address) : -ENOMEM;
    if (rc < 0) {
        free(c->page);
        c->page = NULL;
        return tutti_error_set(err, rc, "%s: no memory for its answers: %s", c->port.name,
                               port_said(&c->port, rc));
    }
    rc = enable(c, err);
    if (rc == 0)
        rc = controller_identify(c, nsid, err);
    if (rc == 0)
        rc = ask_for_queues(c, queues < most_queues(c) ? queues : most_queues(c), err);
    if (rc < 0)
        return rc;
    c->pair = calloc(c->facts.queues + 1, sizeof(*c->pair));
    return c->pair ? 0 : tutti_error_set(err, -ENOMEM, "%s: no memory", c->port.name);
}

static void release(struct nvme_controller *c)
{
    pair_memory_free(&c->port, &c->admin_memory);
    if (c->page && c->port.unmap(c->port.self, c->page_address, NVME_PAGE) == 0)
        free(c->page);
    for (uint32_t i = 1; c->pair && i <= c->facts.queues; i++)
        pair_memory_free(&c->port, &c->pair[i]);
    free(c->pair);
    queue_forget(&c->admin);
    free(c);
}

int nvme_open(const struct nvme_port *port, uint32_t nsid, uint32_t queues, uint64_t command_ns,
              struct nvme_controller **out, struct tutti_error *err)
{
    struct nvme_controller *c = calloc(1, sizeof(*c));
    int rc;

    if (!c)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", port->name);
    c->port = *port;
    c->command_ns = command_ns;
    c->event_id = -1;
    rc = bring_up(c, nsid, queues ? queues : 1, err);
    if (rc < 0) {
        struct tutti_error later;

        if (c->cap == UINT64_MAX || c->cap == 0 || c->ready_ns == 0 || disable(c, &later) == 0)
            release(c); /* else it may still write there: lost, on purpose */
        return rc;
    }
    *out = c;
    return 0;
}

/** Ask it to write back what it holds: Base 3.6.1. It is disabled whatever it says. */
static void notify_shutdown(struct nvme_controller *c)
{
    uint64_t began = tutti_clock_now();
    uint32_t csts;

    nvme_write32(c->port.bar, NVME_CC, nvme_read32(c->port.bar, NVME_CC) | NVME_CC_SHN_NORMAL);
    do {
        csts = nvme_read32(c->port.bar, NVME_CSTS);
        if (controller_is_gone(c, csts) || csts & NVME_CSTS_CFS ||
            NVME_CSTS_SHST(csts) == NVME_SHST_DONE)
            return;
        controller_idle(c, began);
    } while (tutti_clock_now() - began < c->command_ns);
}

int nvme_close(struct nvme_controller *c, struct tutti_error *err)
{
    int rc;

    if (!c)
        return 0;
    if (nvme_alive(c, err) == 0)
        notify_shutdown(c);
    rc = disable(c, err);
    if (rc == 0 || rc == -ENODEV)
        release(c);
    return rc == -ENODEV ? 0 : rc;
}

int nvme_stop(struct nvme_controller *c, struct tutti_error *err)
{
    int rc = disable(c, err);

    if (rc == 0 || rc == -ENODEV)
        c->failed = false;
    return rc;
}

int nvme_restart(struct nvme_controller *c, struct tutti_error *err)
{
    uint32_t queues = c->facts.queues;
    int rc;

    queue_forget(&c->admin);
    memset(c->admin_memory.memory, 0, c->admin_memory.bytes);
    c->event_id = -1;
    if (queue_init(&c->admin, c, &c->admin_memory, 0, ADMIN_DEPTH) < 0)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", c->port.name);
    rc = enable(c, err);
    if (rc == 0)
        rc = ask_for_queues(c, queues, err);
    if (rc == 0 && c->facts.queues < queues)
        rc = tutti_error_set(err, -EIO,
                             "%s: after a reset the drive grants %" PRIu32 " queues, and %" PRIu32
                             " before",
                             c->port.name, c->facts.queues, queues);
    c->facts.queues = queues; /* as many as there is room for in c->pair */
    return rc;
}

void nvme_facts(const struct nvme_controller *c, struct nvme_facts *facts)
{
    *facts = c->facts;
}

/* Pairs of I/O queues. */

static int create(struct nvme_controller *c, const struct nvme_queue *q,
                  const struct pair_memory *m, struct tutti_error *err)
{
    uint64_t shape = q->number | (uint64_t)(q->depth - 1) << 16;
    uint32_t vector = c->port.vector ? c->port.vector(c->port.self, q->number) : 0;
    uint32_t interrupt = vector ? NVME_QUEUE_INTERRUPT | vector << 16 : 0;
    const uint64_t cq[NVME_SQE_WORDS] = {NVME_WORD0(NVME_ADMIN_CREATE_CQ, 0, 0, 0),
                                         0,
                                         0,
                                         cq_address(m, q->depth),
                                         0,
                                         shape | (uint64_t)(NVME_QUEUE_CONTIGUOUS | interrupt)
                                                     << 32};
    const uint64_t sq[NVME_SQE_WORDS] = {NVME_WORD0(NVME_ADMIN_CREATE_SQ, 0, 0, 0),
                                         0,
                                         0,
                                         m->address,
                                         0,
                                         shape | (uint64_t)(NVME_QUEUE_CONTIGUOUS | q->number << 16)
                                                     << 32};
    const uint64_t no_cq[NVME_SQE_WORDS] = {
        NVME_WORD0(NVME_ADMIN_DELETE_CQ, 0, 0, 0), 0, 0, 0, 0, q->number};
    int rc = nvme_admin(c, cq, NULL, err);

    if (rc < 0)
        return rc;
    rc = nvme_admin(c, sq, NULL, err);
    if (rc < 0 && !c->failed)
        c->failed = nvme_admin(c, no_cq, NULL, NULL) < 0;
    return rc;
}

int nvme_queue_open(struct nvme_controller *c, uint32_t number, uint32_t depth,
                    struct nvme_queue *q, struct tutti_error *err)
{
    return nvme_queue_open_in(c, number, depth, NULL, q, err);
}

int nvme_queue_open_in(struct nvme_controller *c, uint32_t number, uint32_t depth,
                       const struct nvme_source *source, struct nvme_queue *q,
                       struct tutti_error *err)
{
    struct pair_memory *m;
    int rc;

    if (number < 1 || number > c->facts.queues || depth < 2 || depth > c->facts.depth ||
        c->pair[number].memory)
        return tutti_error_set(err, -EINVAL,
                               "%s: queue %" PRIu32 " of %" PRIu32 " entries: %" PRIu32
                               " queues of 2 to %" PRIu32 " entries are granted, each once",
                               c->port.name, number, depth, c->facts.queues, c->facts.depth);
    m = &c->pair[number];
    m->source = source;
    rc = pair_memory_new(&c->port, m, depth, err);
    if (rc < 0)
        return rc;
    rc = queue_init(q, c, m, number, depth);
    if (rc < 0)
        tutti_error_set(err, rc, "%s: no memory for a queue", c->port.name);
    else
        rc = create(c, q, m, err);
    if (rc < 0) {
        queue_forget(q);
        if (!c->failed)
            pair_memory_free(&c->port, m);
    }
    return rc;
}

int nvme_queue_close(struct nvme_controller *c, struct nvme_queue *q, struct tutti_error *err)
{
    const uint64_t sq[NVME_SQE_WORDS] = {
        NVME_WORD0(NVME_ADMIN_DELETE_SQ, 0, 0, 0), 0, 0, 0, 0, q->number};
    const uint64_t cq[NVME_SQE_WORDS] = {
        NVME_WORD0(NVME_ADMIN_DELETE_CQ, 0, 0, 0), 0, 0, 0, 0, q->number};
    int rc = nvme_admin(c, sq, NULL, err);

    if (rc == 0)
        rc = nvme_admin(c, cq, NULL, err);
    if (rc < 0 && rc != -ENODEV)
        return rc; /* its memory stays: nothing proves that the controller is done with it */
    pair_memory_free(&c->port, &c->pair[q->number]);
    queue_forget(q);
    return 0;
}

void nvme_queue_lost(struct nvme_controller *c, struct nvme_queue *q)
{
    if (!q->out)
        return;
    pair_memory_free(&c->port, &c->pair[q->number]);
    queue_forget(q);
}
