/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.h: reading and verifying what lies cold, beside serving.
 *
 * Slots that nobody asks for rot unseen; a scrub finds them before a load does.
 * It walks over all slots of a group on this rank, a piece at a time, and only
 * when nothing else moves: no load and no store is under way when a piece is
 * issued, a piece is at most a MiB and of the lowest class but one, and the
 * next one waits until the rate allows it. It writes nothing: what does not
 * verify is told, and whoever has the directory drops it, by slot and
 * generation, so that a slot which was filled anew meanwhile is not touched.
 *
 * One thread at a time, the same one as for tutti_serve. One scrub a serve.
 * A pool that nobody serves from is scrubbed by tutti_pool_scrub().
 */
#ifndef TUTTI_SCRUB_H
#define TUTTI_SCRUB_H

#include <stdint.h>

#include "tutti/serve.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tutti_scrub;

/**
 * struct tutti_scrub_report - since tutti_scrub_open()
 * @slots: looked at
 * @verified: of those, all layers agree with the record
 * @bad: told by tutti_scrub_step(), torn ones included
 * @torn: records that are whole no more, or of another place. A crash leaves
 *   some on slots that are nobody's; they are told in every round
 * @skipped: a store or an erasure had the slot, or its member is fenced
 * @bytes: read, of data and records
 * @rounds: how often it was through
 * @cursor: slot that comes next
 */
struct tutti_scrub_report {
    uint64_t slots;
    uint64_t verified;
    uint64_t bad;
    uint64_t torn;
    uint64_t skipped;
    uint64_t bytes;
    uint64_t rounds;
    uint32_t cursor;
};

/**
 * tutti_scrub_open() - get ready to scrub a group
 * @bytes_per_second: at most so much is read; 0 chooses (16 MiB)
 * @cursor: slot to begin with; one that is no slot begins at 0
 *
 * Return: 0, -EINVAL (no such group), -EBUSY (there is one), -ENOMEM.
 */
int tutti_scrub_open(struct tutti_serve *serve, uint32_t group, uint64_t bytes_per_second,
                     uint32_t cursor, struct tutti_scrub **scrub, struct tutti_error *err);

/**
 * tutti_scrub_step() - take what has been read, and issue the next piece if it is time
 * @now: monotonic ns
 * @bad: slots that do not verify: .slot, .generation and .key of the record, or
 *   0 and no key where the record itself is what is bad
 * @most: room in @bad; what does not fit is told by the next call
 *
 * Never waits. Call it about as often as pieces should go (a step, some ms).
 * Return: number of entries in @bad.
 */
uint32_t tutti_scrub_step(struct tutti_scrub *scrub, uint64_t now, struct tutti_transfer *bad,
                          uint32_t most);

void tutti_scrub_report(const struct tutti_scrub *scrub, struct tutti_scrub_report *report);

/** Let go; a piece that is out is waited for at most a second, then tutti_serve_close() has it. */
void tutti_scrub_close(struct tutti_scrub *scrub);

#ifdef __cplusplus
}
#endif
#endif
