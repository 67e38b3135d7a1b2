/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_rule.h: which commands engine "fault" spoils, and how.
 *
 * Rules are a string:
 *
 *     rules     = rule *( ";" rule )
 *     rule      = direction ":" fault *( ":" key "=" number )
 *     direction = "read" | "write" | "any"
 *
 *     fault         what happens to the command
 *     eio, enospc, erofs   it fails with that errno, nothing moved
 *     delay         it is done, and reported @ns later
 *     short         its first half is moved and reported
 *     torn          each sector is moved or not, at random; reported as whole
 *     lost          nothing is moved; reported as whole
 *     stale         a read gets what the place held before its last write; writes
 *                   are left alone
 *     misdirected   it goes to a place @by bytes further on
 *     flip          one bit of it is flipped on the way: of byte @at, or of any
 *
 *     key       which commands the rule is about; all must hold
 *     offset=A-B    it touches bytes A to B of the member (B not included)
 *     member=N      on that member
 *     after=N       not the first N of those
 *     every=N       every N-th of those
 *     count=N       at most N times in all
 *     permille=N    with that probability, from @seed
 *     seed=N        of the rule's random numbers; 1
 *     ns=N, by=N, at=N     see above; 1000000, 4096, any
 *
 * "read:eio:offset=4096-8192:count=1;write:torn:every=7:seed=3". The first rule
 * that holds is the one that acts. Counting is per member.
 */
#ifndef TUTTI_ENGINE_FAULT_RULE_H
#define TUTTI_ENGINE_FAULT_RULE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend.h"

enum { FAULT_RULES = 16 };

enum fault {
    FAULT_NONE,
    FAULT_ERROR,
    FAULT_DELAY,
    FAULT_SHORT,
    FAULT_TORN,
    FAULT_LOST,
    FAULT_STALE,
    FAULT_MISDIRECTED,
    FAULT_FLIP,
};

struct fault_rule {
    bool reads, writes;
    enum fault fault;
    int error; /* positive errno of FAULT_ERROR */
    uint64_t from, to;
    uint64_t member; /* UINT64_MAX: any */
    uint64_t after, every, count, permille;
    uint64_t random; /* state */
    uint64_t ns, by, at;
    uint64_t seen, fired;
};

struct fault_rules {
    uint32_t count;
    struct fault_rule rule[FAULT_RULES];
};

/** Parse. Return: 0, or -EINVAL with a message that names the place. */
int fault_rules_parse(struct fault_rules *rules, const char *text, uint32_t member,
                      struct tutti_error *err);

/** The rule that acts on a command, or NULL. Counts. */
struct fault_rule *fault_rules_match(struct fault_rules *rules, const struct command *c,
                                     uint32_t member);

/** Next random number of a rule. */
uint64_t fault_random(struct fault_rule *rule);

#endif
