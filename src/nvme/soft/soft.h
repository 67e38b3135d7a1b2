/* SPDX-License-Identifier: Apache-2.0 */
/*
 * soft.h: an NVMe controller in software, for machines that have none to spare.
 *
 * It lives in the process of whoever drives it: its registers and doorbells are
 * memory that it polls, "addresses on the bus" are what was mapped for it, and
 * its medium is memory. It is stricter than a drive: whatever a driver may do
 * wrong is a rule (soft_rules.h), and a driver that breaks one is refused as the
 * specification says where it says how, and always counted.
 *
 * Two ways to run it: soft_step() with the clock handed in, so that a test or a
 * simulation sees every interleaving that it wants; or a thread of its own.
 *
 * Not a drive: no namespaces beyond one, no protection information, no power.
 */
#ifndef TUTTI_NVME_SOFT_H
#define TUTTI_NVME_SOFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvme/soft/rules.h"
#include "nvme/soft/timing.h"
#include "tutti/error.h"

struct soft;

#define SOFT_BAR_BYTES 65536u

/** How it completes commands; all zero: at once and in order. */
struct soft_ways {
    uint64_t seed;       /* not 0: in an order drawn from it */
    uint64_t latency_ns; /* from its fetch to its end */
    bool halves;         /* an entry in three writes, a step apart, the phase last */
    bool no_aborts;      /* an abort is answered and does nothing, as many drives do */
};

/**
 * struct soft_options
 * @mqes: deepest queue, 0's based, 1 to 65535
 * @dstrd: doorbell stride, 0 to 4
 * @mdts: log2 of pages of the largest transfer, 0 for no limit
 * @sgls: 0 none, 1 at any alignment, 2 at dwords
 * @queues: pairs of I/O queues that it grants
 * @block_bytes: of a logical block, 512 or 4096
 * @metadata_bytes: of each, as the namespace says; a driver is to refuse it
 * @blocks: of the namespace
 * @media: blocks x block_bytes that outlive it, or NULL: memory of its own, all zero
 * @write_cache: a volatile one is there; see soft_power_loss()
 * @read_only: the namespace is write protected
 * @enable_ns: from CC.EN to CSTS.RDY, both ways
 * @timing: of reads, writes and flushes; timing.h. Zero: they take no time
 * @ready_in: within how many times 500 ms it says that it is ready, less 1: CAP.TO, 0 to 255
 */
struct soft_options {
    uint32_t mqes;
    uint32_t dstrd;
    uint32_t mdts;
    uint32_t sgls;
    uint32_t queues;
    uint32_t block_bytes;
    uint32_t metadata_bytes;
    uint64_t blocks;
    uint8_t *media;
    bool write_cache;
    bool read_only;
    uint64_t enable_ns;
    uint32_t ready_in;
    struct soft_timing timing;
    struct soft_ways ways;
};

/** What a drive like many has: 64 pairs of queues of 1,024 entries, 128 KiB transfers, no SGL. */
#define SOFT_USUAL                                                                                 \
    ((struct soft_options){                                                                        \
        .mqes = 1023, .mdts = 5, .queues = 64, .block_bytes = 512, .blocks = 65536})

/** What goes wrong with the next @count commands of @opcode after @skip others of it. */
enum soft_fault_kind {
    SOFT_STATUS,  /* it completes with @status, nothing moved */
    SOFT_LOST,    /* done, and never completed */
    SOFT_LATE,    /* completed @delay_ns later; it moves its data then */
    SOFT_TWICE,   /* completed twice, @delay_ns apart: by then another may have its identifier */
    SOFT_FOREIGN, /* completed under an identifier that is not out */
    SOFT_TORN,    /* half of the data is moved, and it reports success */
    SOFT_DEAD     /* from here on nothing is fetched, completed or answered: a broken drive */
};

struct soft_fault {
    enum soft_fault_kind kind;
    uint8_t opcode;
    bool admin;
    uint32_t skip;
    uint32_t count;
    uint32_t status;
    uint64_t delay_ns;
};

/** Make one. Return: 0, -EINVAL, or -ENOMEM with a message. */
int soft_new(const struct soft_options *options, struct soft **soft, struct tutti_error *err);
void soft_free(struct soft *soft);

/** Its registers, SOFT_BAR_BYTES of them. */
void *soft_bar(struct soft *soft);
/** Its medium, blocks x block_bytes. */
uint8_t *soft_media(struct soft *soft);

/** Let it reach memory under an address on the bus. Return: 0, -EINVAL, -EEXIST or -ENOSPC. */
int soft_map(struct soft *soft, void *memory, uint64_t bytes, uint64_t address, bool writable);
/** Take that away. Return: 0, or -ENOENT. */
int soft_unmap(struct soft *soft, uint64_t address);

/** Do what there is to do at @now (ns). Return: whether it did anything. */
bool soft_step(struct soft *soft, uint64_t now);
/** When the next of what is under way ends, UINT64_MAX where nothing does: till then no step is due
 * but for what a driver does. */
uint64_t soft_next(const struct soft *soft);
/** Commands that were fetched and not completed. */
uint32_t soft_under_way(const struct soft *soft);

/** A thread that steps by the monotonic clock, until soft_stop(). Return: 0 or a negative errno. */
int soft_start(struct soft *soft);
void soft_stop(struct soft *soft);

/** Not while its thread runs. Return: 0 or -ENOSPC. */
int soft_inject(struct soft *soft, const struct soft_fault *fault);
/** It is pulled out of its slot: registers read as ones, nothing is done any more. */
void soft_remove(struct soft *soft);
/** It dies as drives do: CSTS.CFS. */
void soft_fatal(struct soft *soft);
/** Its health log has these warnings from here on (NVME_WARNING_), and it tells of it. */
void soft_warn(struct soft *soft, uint32_t warnings);
/** The volatile write cache is lost: blocks written since the last flush are what they were. */
void soft_power_loss(struct soft *soft);

/** How often a rule was broken; from any thread. */
uint64_t soft_broken(const struct soft *soft, enum soft_rule rule);
/** All rules together. */
uint64_t soft_broken_any(const struct soft *soft);
/** What was wrong the first time; empty where nothing was. Not while its thread runs. */
const char *soft_first_broken(const struct soft *soft);

/** Commands completed so far, and bytes of data moved. */
struct soft_counters {
    uint64_t admin;
    uint64_t reads;
    uint64_t writes;
    uint64_t flushes;
    uint64_t bytes;
    uint64_t sq_doorbells; /* new values seen */
    uint64_t cq_doorbells;
};
void soft_counters(const struct soft *soft, struct soft_counters *counters);

#endif
