/* SPDX-License-Identifier: Apache-2.0 */
/*
 * member_model.h: how fast a member is now, in each direction and when both are mixed.
 *
 * Responsible for estimates with an age, from what completed and from what should have. Must not
 * know requests or queues. The one idea: an estimate is what recent samples say, and slides back to
 * what the member usually does as they grow old, so that no decision hides its own evidence; and a
 * command that is late makes the member slow before it completes.
 */
#ifndef TUTTI_MEMBER_MODEL_H
#define TUTTI_MEMBER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tutti_way { TUTTI_WAY_READ, TUTTI_WAY_WRITE, TUTTI_WAYS };

/** What a member is thought to do before anything was seen of it: bytes per second, ns, a share. */
struct tutti_member_prior {
    double bandwidth[TUTTI_WAYS];
    double latency_ns;
    double mix;
};

/**
 * struct tutti_member_model - private fields
 * @usual: bytes per ns over the last ten busy minutes; first the prior
 * @bytes, @ns: of recent samples; @told: what was last given out (hysteresis)
 * @alone, @mixed: ns that mixed bytes would have taken one after the other, and did take
 */
struct tutti_member_model {
    double usual[TUTTI_WAYS], seen[TUTTI_WAYS];
    double bytes[TUTTI_WAYS], ns[TUTTI_WAYS];
    double spread[TUTTI_WAYS];
    double told[TUTTI_WAYS];
    uint64_t sampled[TUTTI_WAYS]; /* when; 0 never */
    uint32_t odd[TUTTI_WAYS];
    double alone, mixed, usual_mix;
    uint64_t mix_sampled;
    bool mixes;
    double latency;
    uint64_t late_since, late_bytes; /* the oldest command that is out, 0: none */
    uint32_t changes;                /* of what was told */
};

void tutti_member_model_init(struct tutti_member_model *model,
                             const struct tutti_member_prior *prior);

/** Bytes moved one way in @ns of the member's time, nothing else with them. */
void tutti_member_model_moved(struct tutti_member_model *model, uint64_t now, enum tutti_way way,
                              uint64_t bytes, uint64_t ns);

/** Bytes of both ways moved within the same @ns. */
void tutti_member_model_mixed(struct tutti_member_model *model, uint64_t now, uint64_t read,
                              uint64_t written, uint64_t ns);

/**
 * tutti_member_model_out() - the oldest read that is out
 * @since: when nothing lay before it any more, 0 for none out; @bytes: of it
 */
void tutti_member_model_out(struct tutti_member_model *model, uint64_t since, uint64_t bytes);

/** Bytes per ns, now. @lateness: let a late command count. */
double tutti_member_model_rate(const struct tutti_member_model *model, uint64_t now,
                               enum tutti_way way, bool lateness);

/** Expected relative error of the rate. */
double tutti_member_model_error(const struct tutti_member_model *model, uint64_t now,
                                enum tutti_way way);

/** As rate(), but moves only when the estimate has left what was told by more than its error. */
double tutti_member_model_tell(struct tutti_member_model *model, uint64_t now, enum tutti_way way,
                               bool lateness);

/** What both ways reach at once, as a share of one after the other. */
double tutti_member_model_mix(const struct tutti_member_model *model, uint64_t now);

/** Whether mixing costs nothing: from 0.93 on, until below 0.87. */
bool tutti_member_model_mixes(struct tutti_member_model *model, uint64_t now);

/** Whether nothing was read for so long that a probe should look. @after: ns. */
bool tutti_member_model_stale(const struct tutti_member_model *model, uint64_t now, uint64_t after);

#ifdef __cplusplus
}
#endif
#endif
