/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.h: what of the NVMe specification is used, and nothing else.
 *
 * Section numbers are those of the NVM Express Base Specification 2.0 ("Base"),
 * the NVM Command Set Specification 1.0 ("NVM") and the NVMe over PCIe
 * Transport Specification 1.0 ("PCIe"). Little-endian throughout: a command is
 * eight 64-bit words, a completion two, so that each is written or read by that
 * many named accesses (access.h) on a CPU and on a GPU alike.
 */
#ifndef TUTTI_NVME_SPEC_H
#define TUTTI_NVME_SPEC_H

#include <stdint.h>

/* Controller properties: Base 3.1.3; where they lie: PCIe 3.1.1. Byte offsets in BAR 0. */
#define NVME_CAP 0x00u
#define NVME_VS 0x08u
#define NVME_CC 0x14u
#define NVME_CSTS 0x1cu
#define NVME_AQA 0x24u
#define NVME_ASQ 0x28u
#define NVME_ACQ 0x30u
#define NVME_DOORBELLS 0x1000u /* PCIe 3.1.2 */

/* Controller capabilities: Base 3.1.3.1. */
#define NVME_CAP_MQES(cap) ((uint32_t)(0xffff & (cap)))      /* deepest queue, 0's based */
#define NVME_CAP_TO(cap) ((uint32_t)((cap) >> 24 & 0xff))    /* longest wait for RDY, 500 ms */
#define NVME_CAP_DSTRD(cap) ((uint32_t)((cap) >> 32 & 0xf))  /* doorbell stride: 4 << this */
#define NVME_CAP_CSS(cap) ((uint32_t)((cap) >> 37 & 0xff))   /* command sets; bit 0: NVM */
#define NVME_CAP_MPSMIN(cap) ((uint32_t)((cap) >> 48 & 0xf)) /* page: 4096 << this */
#define NVME_CAP_MPSMAX(cap) ((uint32_t)((cap) >> 52 & 0xf))
#define NVME_CAP_CSS_NVM 1u

/* Controller configuration: Base 3.1.3.5. */
#define NVME_CC_EN 1u
#define NVME_CC_SHN_NORMAL (1u << 14)
#define NVME_CC_SHN(cc) ((cc) >> 14 & 3)
#define NVME_CC_CSS(cc) ((cc) >> 4 & 7)
#define NVME_CC_MPS(cc) ((cc) >> 7 & 0xf)
#define NVME_CC_AMS(cc) ((cc) >> 11 & 7)
#define NVME_CC_IOSQES(cc) ((cc) >> 16 & 0xf)
#define NVME_CC_IOCQES(cc) ((cc) >> 20 & 0xf)
/** Page size 4096, NVM command set, round robin, entries of 64 and 16 bytes. */
#define NVME_CC_OURS (6u << 16 | 4u << 20)

/* Controller status: Base 3.1.3.6. */
#define NVME_CSTS_RDY 1u
#define NVME_CSTS_CFS 2u
#define NVME_CSTS_SHST(csts) ((csts) >> 2 & 3)
#define NVME_SHST_DONE 2u

#define NVME_PAGE 4096u

/* Doorbells: PCIe 3.1.2.1 and 3.1.2.2. */
#define NVME_SQ_DOORBELL(queue, dstrd) (NVME_DOORBELLS + (2u * (queue)) * (4u << (dstrd)))
#define NVME_CQ_DOORBELL(queue, dstrd) (NVME_DOORBELLS + (2u * (queue) + 1u) * (4u << (dstrd)))

/* A command: Base 3.3.3.1. Word 0 is dwords 0 and 1. */
#define NVME_SQE_WORDS 8u
#define NVME_SQE_BYTES 64u
#define NVME_PSDT_SGL (1u << 14) /* data pointer: SGL, no metadata (bits 15:14 = 01) */
/** Word 0: opcode, flags of dword 0, command identifier, namespace. */
#define NVME_WORD0(opcode, flags, id, nsid)                                                        \
    ((uint64_t)(opcode) | (uint64_t)(flags) | (uint64_t)(id) << 16 | (uint64_t)(nsid) << 32)
#define NVME_SQE_OPCODE(word0) ((uint32_t)(0xff & (word0)))
#define NVME_SQE_FUSE(word0) ((uint32_t)((word0) >> 8 & 3))
#define NVME_SQE_PSDT(word0) ((uint32_t)((word0) >> 14 & 3))
#define NVME_SQE_ID(word0) ((uint32_t)((word0) >> 16 & 0xffff))
#define NVME_SQE_NSID(word0) ((uint32_t)((word0) >> 32))

/* A completion: Base 3.3.3.2. Word 1 is dwords 2 and 3. */
#define NVME_CQE_WORDS 2u
#define NVME_CQE_BYTES 16u
#define NVME_CQE_PHASE (UINT64_C(1) << 48)
#define NVME_CQE_SQ_HEAD(word1) ((uint32_t)(0xffff & (word1)))
#define NVME_CQE_SQ(word1) ((uint32_t)((word1) >> 16 & 0xffff))
#define NVME_CQE_ID(word1) ((uint32_t)((word1) >> 32 & 0xffff))
/** Status code and its type: bits 7:0 and 10:8. */
#define NVME_CQE_STATUS(word1) ((uint32_t)((word1) >> 49 & 0x7ff))
#define NVME_CQE_DNR(word1) ((uint32_t)((word1) >> 63)) /* do not retry */

/* Status: Base 3.3.3.2.1, as type << 8 | code. */
#define NVME_OK 0x000u
#define NVME_INVALID_OPCODE 0x001u
#define NVME_INVALID_FIELD 0x002u
#define NVME_ID_CONFLICT 0x003u
#define NVME_TRANSFER_ERROR 0x004u
#define NVME_ABORTED_POWER 0x005u
#define NVME_INTERNAL 0x006u
#define NVME_ABORTED 0x007u
#define NVME_ABORTED_SQ_DELETED 0x008u
#define NVME_INVALID_NAMESPACE 0x00bu
#define NVME_BAD_SGL_SEGMENT 0x00du
#define NVME_BAD_SGL_COUNT 0x00eu
#define NVME_BAD_SGL_LENGTH 0x00fu
#define NVME_BAD_SGL_TYPE 0x011u
#define NVME_BAD_PRP_OFFSET 0x013u
#define NVME_NAMESPACE_READ_ONLY 0x020u
#define NVME_BEYOND_END 0x080u
#define NVME_NOT_READY 0x082u
#define NVME_BAD_CQ 0x100u
#define NVME_BAD_QUEUE 0x101u
#define NVME_BAD_QUEUE_SIZE 0x102u
#define NVME_EVENT_LIMIT 0x105u
#define NVME_BAD_LOG_PAGE 0x109u
#define NVME_BAD_QUEUE_DELETION 0x10cu
#define NVME_WRITE_FAULT 0x280u
#define NVME_READ_ERROR 0x281u

/* Admin commands: Base 5. */
#define NVME_ADMIN_DELETE_SQ 0x00u    /* 5.7 */
#define NVME_ADMIN_CREATE_SQ 0x01u    /* 5.5 */
#define NVME_ADMIN_GET_LOG_PAGE 0x02u /* 5.16 */
#define NVME_ADMIN_DELETE_CQ 0x04u    /* 5.6 */
#define NVME_ADMIN_CREATE_CQ 0x05u    /* 5.4 */
#define NVME_ADMIN_IDENTIFY 0x06u     /* 5.17 */
#define NVME_ADMIN_ABORT 0x08u        /* 5.1 */
#define NVME_ADMIN_SET_FEATURES 0x09u /* 5.27 */
#define NVME_ADMIN_GET_FEATURES 0x0au /* 5.15 */
#define NVME_ADMIN_ASYNC_EVENT 0x0cu  /* 5.2 */

#define NVME_CNS_NAMESPACE 0u  /* NVM 4.1.5.1 */
#define NVME_CNS_CONTROLLER 1u /* Base 5.17.2.1 */
#define NVME_CNS_NAMESPACES 2u /* Base 5.17.2.2: list of active ones */
#define NVME_IDENTIFY_BYTES 4096u

#define NVME_FEATURE_WRITE_CACHE 0x06u /* Base 5.27.1.4 */
#define NVME_FEATURE_QUEUES 0x07u      /* Base 5.27.1.5 */
#define NVME_FEATURE_EVENTS 0x0bu      /* Base 5.27.1.8 */

#define NVME_LOG_HEALTH 0x02u /* Base 5.16.1.3 */
#define NVME_LOG_HEALTH_BYTES 512u

/* Creation of queues: command dword 11. */
#define NVME_QUEUE_CONTIGUOUS 1u /* its memory is one piece */
#define NVME_QUEUE_INTERRUPT 2u  /* of completions; the vector: bits 31:16 */

/* Commands of the NVM command set: NVM 3.2; flush: Base 7.1. */
#define NVME_FLUSH 0x00u
#define NVME_WRITE 0x01u
#define NVME_READ 0x02u

/* Identify controller data: Base 5.17.2.1. Byte offsets. */
#define NVME_ID_SERIAL 4u    /* 20 characters, padded with spaces */
#define NVME_ID_MODEL 24u    /* 40 */
#define NVME_ID_FIRMWARE 64u /* 8 */
#define NVME_ID_MDTS 77u     /* largest transfer: page << this; 0: no limit */
#define NVME_ID_CNTRLTYPE 111u
#define NVME_ID_OACS 256u
#define NVME_ID_ACL 258u  /* concurrent aborts, 0's based */
#define NVME_ID_AERL 259u /* concurrent asynchronous event requests, 0's based */
#define NVME_ID_SQES 512u /* bits 3:0 least, 7:4 most; 6 is 64 bytes */
#define NVME_ID_CQES 513u
#define NVME_ID_MAXCMD 514u
#define NVME_ID_NN 516u   /* largest namespace number */
#define NVME_ID_VWC 525u  /* bit 0: a volatile write cache is there */
#define NVME_ID_SGLS 536u /* bits 1:0: 0 none, 1 any alignment, 2 dword alignment */

/* Identify namespace data: NVM 4.1.5.1. Byte offsets. */
#define NVME_NS_SIZE 0u    /* logical blocks */
#define NVME_NS_FLBAS 26u  /* bits 3:0 and 6:5: the format in use */
#define NVME_NS_NLBAF 25u  /* formats, 0's based */
#define NVME_NS_DPS 29u    /* protection information in use: bits 2:0 */
#define NVME_NS_NSATTR 99u /* bit 0: write protected */
#define NVME_NS_LBAF0 128u /* a dword a format: metadata bytes 15:0, log2 of block bytes 23:16 */

/* Physical region pages: Base 4.1.1. A list's last entry points to the next list where more follow.
 */
#define NVME_PRP_LIST_ENTRIES 512u

/* SGL descriptors: Base 4.1.2. Two words: address; length 31:0, type 63:60. */
#define NVME_SGL_DATA UINT64_C(0)
#define NVME_SGL_SEGMENT UINT64_C(2)
#define NVME_SGL_LAST_SEGMENT UINT64_C(3)
#define NVME_SGL_BYTES 16u
#define NVME_SGL_WORD1(type, bytes) ((type) << 60 | (uint64_t)(bytes))
#define NVME_SGL_TYPE(word1) ((word1) >> 60)
#define NVME_SGL_SUBTYPE(word1) ((word1) >> 56 & 0xf)

/* Health information: Base 5.16.1.3. Byte offsets. */
#define NVME_HEALTH_WARNING 0u        /* bits below */
#define NVME_HEALTH_TEMPERATURE 1u    /* 2 bytes, kelvin */
#define NVME_HEALTH_SPARE 3u          /* percent */
#define NVME_HEALTH_USED 5u           /* percent of the rated endurance; may exceed 100 */
#define NVME_HEALTH_MEDIA_ERRORS 160u /* 16 bytes */
#define NVME_WARNING_SPARE 1u
#define NVME_WARNING_TEMPERATURE 2u
#define NVME_WARNING_DEGRADED 4u
#define NVME_WARNING_READ_ONLY 8u
#define NVME_WARNING_BACKUP 16u /* of volatile memory */

#endif
