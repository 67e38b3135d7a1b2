/* SPDX-License-Identifier: Apache-2.0 */
/* fault_rule.c: the little language of fault_rule.h. */
#include "engine/fault_rule.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    enum fault fault;
    int error;
} faults[] = {
    {"eio", FAULT_ERROR, EIO},     {"enospc", FAULT_ERROR, ENOSPC},
    {"erofs", FAULT_ERROR, EROFS}, {"delay", FAULT_DELAY, 0},
    {"short", FAULT_SHORT, 0},     {"torn", FAULT_TORN, 0},
    {"lost", FAULT_LOST, 0},       {"stale", FAULT_STALE, 0},
    {"flip", FAULT_FLIP, 0},       {"misdirected", FAULT_MISDIRECTED, 0},
};

#define KEY(name) #name, offsetof(struct fault_rule, name)
static const struct {
    const char *name;
    size_t field;
} keys[] = {{KEY(member)}, {KEY(after)},    {KEY(every)},
            {KEY(count)},  {KEY(permille)}, {KEY(ns)},
            {KEY(by)},     {KEY(at)},       {"seed", offsetof(struct fault_rule, random)}};

uint64_t fault_random(struct fault_rule *rule)
{
    rule->random = rule->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return rule->random >> 33;
}

static bool word_is(const char *word, size_t length, const char *name)
{
    return strlen(name) == length && strncmp(word, name, length) == 0;
}

/** A number that ends exactly at @end or, for offsets, at @stop. */
static bool number(const char **at, const char *end, char stop, uint64_t *value)
{
    char *after;

    if (*at >= end || **at < '0' || **at > '9')
        return false;
    errno = 0;
    *value = strtoull(*at, &after, 0);
    if (errno || (after != end && !(stop && *after == stop)))
        return false;
    *at = after;
    return true;
}

static bool parse_key(struct fault_rule *r, const char *word, const char *end)
{
    const char *equals = memchr(word, '=', (size_t)(end - word));
    const char *value = equals ? equals + 1 : end;

    if (!equals)
        return false;
    if (word_is(word, (size_t)(equals - word), "offset")) {
        if (!number(&value, end, '-', &r->from) || *value != '-')
            return false;
        value++;
        return number(&value, end, 0, &r->to) && r->from < r->to;
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (word_is(word, (size_t)(equals - word), keys[i].name))
            return number(&value, end, 0, (uint64_t *)(void *)((char *)r + keys[i].field));
    return false;
}

static bool parse_word(struct fault_rule *r, uint32_t place, const char *word, const char *end)
{
    size_t length = (size_t)(end - word);

    if (place == 0) {
        r->reads = word_is(word, length, "read") || word_is(word, length, "any");
        r->writes = word_is(word, length, "write") || word_is(word, length, "any");
        return r->reads || r->writes;
    }
    if (place > 1)
        return parse_key(r, word, end);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        if (word_is(word, length, faults[i].name)) {
            r->fault = faults[i].fault;
            r->error = faults[i].error;
            return true;
        }
    return false;
}

int fault_rules_parse(struct fault_rules *rules, const char *text, uint32_t member,
                      struct tutti_error *err)
{
    const char *at = text;

    memset(rules, 0, sizeof(*rules));
    while (at && *at) {
        struct fault_rule *r = &rules->rule[rules->count];

        if (rules->count++ == FAULT_RULES)
            return tutti_error_set(err, -EINVAL, "fault rules: more than %u", FAULT_RULES);
        *r = (struct fault_rule){.to = UINT64_MAX,
                                 .member = UINT64_MAX,
                                 .every = 1,
                                 .count = UINT64_MAX,
                                 .permille = 1000,
                                 .random = 1,
                                 .ns = 1000000,
                                 .by = 4096,
                                 .at = UINT64_MAX};
        for (uint32_t place = 0;; place++) {
            const char *end = at + strcspn(at, ":;");

            if (!parse_word(r, place, at, end))
                return tutti_error_set(err, -EINVAL,
                                       "fault rules: \"%.*s\" in \"%s\" is not understood "
                                       "(src/engine/fault_rule.h has the grammar)",
                                       (int)(end - at), at, text);
            at = end + (*end != 0);
            if (*end != ':') {
                if (place == 0 || r->every == 0)
                    return tutti_error_set(err, -EINVAL,
                                           "fault rules: \"%s\": a rule is a "
                                           "direction and a fault, and every=0 is never",
                                           text);
                break;
            }
        }
        if (r->fault == FAULT_STALE)
            r->writes = false;
        if (!r->reads && !r->writes)
            return tutti_error_set(
                err, -EINVAL, "fault rules: \"%s\": a write cannot be stale, only a read", text);
        r->random += (uint64_t)member << 32;
        fault_random(r);
    }
    return 0;
}

struct fault_rule *fault_rules_match(struct fault_rules *rules, const struct command *c,
                                     uint32_t member)
{
    for (uint32_t i = 0; i < rules->count; i++) {
        struct fault_rule *r = &rules->rule[i];

        if (!(c->direction == TUTTI_READ ? r->reads : r->writes))
            continue;
        if (r->member != UINT64_MAX && r->member != member)
            continue;
        if (c->offset >= r->to || c->offset + c->bytes <= r->from)
            continue;
        r->seen++;
        if (r->seen <= r->after || (r->seen - r->after) % r->every != 0 || r->fired == r->count)
            continue;
        if (r->permille < 1000 && fault_random(r) % 1000 >= r->permille)
            continue;
        r->fired++;
        return r;
    }
    return NULL;
}
