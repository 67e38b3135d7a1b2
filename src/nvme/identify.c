/* SPDX-License-Identifier: Apache-2.0 */
/* identify.c: what a controller says of itself and of a namespace. Sections are of the NVM Express
 * Base Specification 2.0. */
#include <inttypes.h>
#include <string.h>

#include "nvme/controller_internal.h"

/** An identify page into c->page. */
static int identify(struct nvme_controller *c, uint32_t cns, uint32_t nsid, struct tutti_error *err)
{
    const uint64_t words[NVME_SQE_WORDS] = {
        NVME_WORD0(NVME_ADMIN_IDENTIFY, 0, 0, nsid), 0, 0, c->page_address, 0, cns};

    return nvme_admin(c, words, NULL, err);
}

static uint64_t number(const uint8_t *page, uint32_t at, uint32_t bytes)
{
    uint64_t value = 0;

    memcpy(&value, page + at, bytes);
    return value;
}

/** Text without the spaces that fill it. */
static void text(char *to, const uint8_t *page, uint32_t at, uint32_t bytes)
{
    memcpy(to, page + at, bytes);
    to[bytes] = 0;
    while (bytes > 0 && (to[bytes - 1] == ' ' || to[bytes - 1] == 0))
        to[--bytes] = 0;
}

static int know_controller(struct nvme_controller *c, struct tutti_error *err)
{
    struct nvme_facts *f = &c->facts;
    uint32_t mdts;
    int rc = identify(c, NVME_CNS_CONTROLLER, 0, err);

    if (rc < 0)
        return rc;
    text(f->serial, c->page, NVME_ID_SERIAL, 20);
    text(f->model, c->page, NVME_ID_MODEL, 40);
    mdts = c->page[NVME_ID_MDTS];
    f->transfer_bytes = mdts == 0 || mdts > 40 ? UINT64_MAX : (uint64_t)NVME_PAGE << mdts;
    f->sgls = (uint32_t)number(c->page, NVME_ID_SGLS, 4) & 3;
    f->write_cache = c->page[NVME_ID_VWC] & 1;
    return 0;
}

/** @nsid 0: the first one that there is. */
static int choose_namespace(struct nvme_controller *c, uint32_t nsid, struct tutti_error *err)
{
    int rc = identify(c, NVME_CNS_NAMESPACES, 0, err);

    for (uint32_t i = 0; rc == 0 && i < NVME_IDENTIFY_BYTES / 4; i++) {
        uint32_t there = (uint32_t)number(c->page, 4 * i, 4);

        if (there == 0)
            break;
        if (nsid == 0 || nsid == there) {
            c->facts.nsid = there;
            return 0;
        }
    }
    if (rc < 0)
        return rc;
    if (nsid == 0)
        return tutti_error_set(err, -ENOENT,
                               "%s: the drive has no namespace; make one (nvme "
                               "create-ns)",
                               c->port.name);
    return tutti_error_set(err, -ENOENT, "%s: the drive has no namespace %" PRIu32, c->port.name,
                           nsid);
}

static int know_namespace(struct nvme_controller *c, struct tutti_error *err)
{
    struct nvme_facts *f = &c->facts;
    uint32_t flbas, format, metadata, log2;
    int rc = identify(c, NVME_CNS_NAMESPACE, f->nsid, err);

    if (rc < 0)
        return rc;
    flbas = c->page[NVME_NS_FLBAS];
    format = (flbas & 0xf) | (flbas >> 5 & 3) << 4;
    metadata = (uint32_t)number(c->page, NVME_NS_LBAF0 + 4 * format, 2);
    log2 = c->page[NVME_NS_LBAF0 + 4 * format + 2];
    if (metadata != 0 || c->page[NVME_NS_DPS] & 7)
        return tutti_error_set(err, -EOPNOTSUPP,
                               "%s: namespace %" PRIu32 " is formatted with %" PRIu32 " bytes of "
                               "metadata a block; format it without (nvme format --lbaf=N)",
                               c->port.name, f->nsid, metadata);
    if (log2 != 9 && log2 != 12)
        return tutti_error_set(err, -EOPNOTSUPP,
                               "%s: namespace %" PRIu32 " has blocks of 2^%" PRIu32 " bytes; 512 "
                               "and 4096 are possible (nvme format --lbaf=N)",
                               c->port.name, f->nsid, log2);
    f->block_bytes = 1u << log2;
    f->blocks = number(c->page, NVME_NS_SIZE, 8);
    f->read_only = c->page[NVME_NS_NSATTR] & 1;
    return 0;
}

int controller_identify(struct nvme_controller *c, uint32_t nsid, struct tutti_error *err)
{
    int rc = know_controller(c, err);

    if (rc == 0)
        rc = choose_namespace(c, nsid, err);
    return rc == 0 ? know_namespace(c, err) : rc;
}
