/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules.h: what a driver may not do, each rule with a name and its section.
 *
 * A list of lines, so that the enumeration, the names and the table of mutants
 * in the tests are one. "QEMU" says whether QEMU's controller (7.2) refuses the
 * same; the others only this controller shows. docs/nvme-rules.md is this list as a table; a test
 * compares them.
 */
#ifndef TUTTI_NVME_SOFT_RULES_H
#define TUTTI_NVME_SOFT_RULES_H

/* clang-format off */
#define SOFT_RULES(RULE)                                                                           \
    /* registers */                                                                                \
    RULE(ADMIN_MEMORY, "ASQ and ACQ lie on a page", "Base 3.1.3.9", true)                          \
    RULE(ADMIN_DEPTH, "admin queues have 2 to 4096 entries", "Base 3.1.3.8", true)                 \
    RULE(PAGE_SIZE, "CC.MPS is within CAP.MPSMIN and MPSMAX", "Base 3.1.3.5", true)                \
    RULE(COMMAND_SET, "CC.CSS and AMS are supported", "Base 3.1.3.5", true)                        \
    RULE(RESERVED_CC, "reserved bits of CC are zero", "Base 3.1.3.5", false)                       \
    RULE(ENABLED_EARLY, "CC.EN is set only while CSTS.RDY is 0", "Base 3.1.3.5", false)            \
    RULE(DISABLED_EARLY, "CC.EN is cleared only while CSTS.RDY is 1", "Base 3.1.3.5", false)       \
    /* doorbells */                                                                                \
    RULE(DOORBELL_VALUE, "a doorbell's value is below its queue's depth", "PCIe 3.1.2.1", false)   \
    RULE(QUEUE_FULL, "no more entries are announced than there is room", "Base 3.3.1.5", false)    \
    RULE(DOORBELL_NOWHERE, "a doorbell belongs to a queue", "PCIe 3.1.2.1", false)                 \
    RULE(HEAD_BEYOND_TAIL, "only posted completions are acknowledged", "PCIe 3.1.2.2", false)      \
    RULE(ENTRY_CHANGED, "an entry stays as it is until it is fetched", "Base 3.3.1.2", false)      \
    /* creation and deletion of queues */                                                          \
    RULE(ENTRY_SIZES, "CC.IOSQES and IOCQES are set before I/O queues", "Base 3.1.3.5", true)      \
    RULE(QUEUE_NUMBER, "a queue's number is granted and free", "Base 5.5", true)                   \
    RULE(QUEUE_DEPTH, "a queue has 2 to MQES + 1 entries", "Base 5.5", true)                       \
    RULE(QUEUE_MEMORY, "a queue lies on a page, in one piece", "Base 5.5", true)                   \
    RULE(QUEUE_CQ, "a submission queue's completion queue exists", "Base 5.5", true)               \
    RULE(DELETION_ORDER, "a completion queue goes after its submission queues", "Base 5.6", true)  \
    RULE(DELETED_IN_USE, "a queue is deleted that exists", "Base 5.7", true)                       \
    /* commands */                                                                                 \
    RULE(OPCODE, "the command exists", "Base 5", true)                                             \
    RULE(IDENTIFIER, "an identifier is not given out twice", "Base 3.3.3.1", false)                \
    RULE(RESERVED, "reserved fields are zero", "Base 3.3.3.1", false)                              \
    RULE(FUSED, "commands are not fused", "Base 3.3.3.1", false)                                   \
    RULE(NAMESPACE, "the namespace exists", "Base 3.3.3.1", true)                                  \
    RULE(RANGE, "blocks are within the namespace", "NVM 3.2.4", true)                              \
    RULE(TRANSFER_SIZE, "a transfer is within MDTS", "Base 5.17.2.1", true)                        \
    RULE(EVENTS, "no more event requests are out than AERL says", "Base 5.2", true)                \
    /* data pointers */                                                                            \
    RULE(PRP_DWORD, "PRP entry 1 lies on a dword", "Base 4.1.1", false)                            \
    RULE(PRP_OFFSET, "later PRP entries lie on a page", "Base 4.1.1", true)                        \
    RULE(PRP_LIST, "a PRP list lies on a qword", "Base 4.1.1", false)                              \
    RULE(SGL_SUPPORT, "SGLs are used only where the controller has them", "Base 4.1.2", true)      \
    RULE(SGL_TYPE, "an SGL descriptor has a type that fits its place", "Base 4.1.2", true)         \
    RULE(SGL_SEGMENT, "an SGL segment is 16 bytes times some", "Base 4.1.2", true)                 \
    RULE(SGL_LENGTH, "an SGL is as long as the transfer", "Base 4.1.2", true)                      \
    RULE(SGL_DWORD, "SGL data lies on dwords where the controller says so", "Base 4.1.2", false)   \
    RULE(UNMAPPED, "an address is mapped", "the IOMMU", false)                                     \
    RULE(NOT_WRITABLE, "what the drive writes to is mapped writable", "the IOMMU", false)
/* clang-format on */

#define SOFT_RULE_NAME(name, text, section, qemu) SOFT_##name,
enum soft_rule { SOFT_RULES(SOFT_RULE_NAME) SOFT_RULE_COUNT };
#undef SOFT_RULE_NAME

/** What a rule says, and where it is from. */
const char *soft_rule_text(enum soft_rule rule);
const char *soft_rule_section(enum soft_rule rule);

#endif
