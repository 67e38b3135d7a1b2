/* SPDX-License-Identifier: Apache-2.0 */
/* rules.c: see rules.h. */
#include "rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_RULES = 64, MOST_TEXT = 256 };

#define SECOND UINT64_C(1000000000)

/**
 * struct rule
 * @operations: bit per operation
 * @file: pattern, as for a shell
 * @from, @to: it touches bytes of [from, to)
 * @free_at: FAULT_LIMIT: when what was let through is through
 * @waiting: operations that it delays just now; they hold the rule
 */
struct rule {
    struct rule *next;
    uint32_t number;
    char text[MOST_TEXT];
    unsigned operations;
    enum fault fault;
    int error;
    char file[MOST_TEXT];
    uint64_t from, to;
    uint64_t after, every, count, permille;
    uint64_t random;
    uint64_t ms, by, mb;
    uint64_t seen, acted;
    uint64_t free_at;
    uint32_t waiting;
    bool lifted;
};

static const char *const operation_name[OPERATIONS] = {"read", "write", "fsync", "open"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t lifted; /* a rule was */
static pthread_once_t once = PTHREAD_ONCE_INIT;
/* Under the lock: */
static struct rule *rules;
static uint32_t rule_count, last_number;
static uint64_t operations[OPERATIONS], moved[OPERATIONS];
static bool ended;

/** Deadlines are by a clock that nobody sets. */
static void set_up(void)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&lifted, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void take_lock(void)
{
    pthread_once(&once, set_up);
    pthread_mutex_lock(&lock);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* The grammar. */

static const struct {
    const char *name;
    enum fault fault;
    int error;
    unsigned operations; /* that it can be about */
} faults[] = {
    {"delay", FAULT_DELAY, 0, 15},       {"hold", FAULT_HOLD, 0, 15},
    {"limit", FAULT_LIMIT, 0, 3},        {"eio", FAULT_ERROR, EIO, 15},
    {"enospc", FAULT_ERROR, ENOSPC, 15}, {"erofs", FAULT_ERROR, EROFS, 15},
    {"eacces", FAULT_ERROR, EACCES, 15}, {"short", FAULT_SHORT, 0, 3},
    {"torn", FAULT_TORN, 0, 2},          {"lost", FAULT_LOST, 0, 6},
    {"stale", FAULT_STALE, 0, 1},
};

static bool parse_operation(struct rule *r, const char *word)
{
    if (strcmp(word, "any") == 0)
        r->operations = (1u << OPERATIONS) - 1;
    for (unsigned i = 0; i < OPERATIONS; i++)
        if (strcmp(word, operation_name[i]) == 0)
            r->operations = 1u << i;
    return r->operations != 0;
}

static bool parse_fault(struct rule *r, const char *word)
{
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        if (strcmp(word, faults[i].name) == 0) {
            r->fault = faults[i].fault;
            r->error = faults[i].error;
            r->operations &= faults[i].operations;
            return r->operations != 0;
        }
    return false;
}

static bool parse_number(const char *text, char stop, const char **end, uint64_t *number)
{
    char *last;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *number = strtoull(text, &last, 10);
    *end = last;
    return errno == 0 && *last == stop;
}

static bool parse_key(struct rule *r, char *word)
{
    const struct {
        const char *name;
        uint64_t *field;
    } keys[] = {
        {"after", &r->after}, {"every", &r->every},
        {"count", &r->count}, {"permille", &r->permille},
        {"seed", &r->random}, {"ms", &r->ms},
        {"by", &r->by},       {"mb", &r->mb},
    };
    char *value = strchr(word, '=');
    const char *end;

    if (!value)
        return false;
    *value++ = 0;
    if (strcmp(word, "file") == 0) {
        snprintf(r->file, sizeof(r->file), "%s", value);
        return true;
    }
    if (strcmp(word, "offset") == 0)
        return parse_number(value, '-', &end, &r->from) && parse_number(end + 1, 0, &end, &r->to);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strcmp(word, keys[i].name) == 0)
            return parse_number(value, 0, &end, keys[i].field);
    return false;
}

static int parse_rule(struct rule *r, const char *line)
{
    char words[MOST_TEXT], *rest = words, *word;
    uint32_t place = 0;

    *r = (struct rule){.file = "*",
                       .to = UINT64_MAX,
                       .every = 1,
                       .count = UINT64_MAX,
                       .permille = 1000,
                       .random = 1,
                       .ms = 100,
                       .by = 512,
                       .mb = 1};
    snprintf(r->text, sizeof(r->text), "%s", line);
    snprintf(words, sizeof(words), "%s", line);
    for (; (word = strsep(&rest, ":")); place++)
        if (!(place == 0   ? parse_operation(r, word)
              : place == 1 ? parse_fault(r, word)
                           : parse_key(r, word)))
            return -EINVAL;
    return place < 2 || r->every == 0 || r->mb == 0 ? -EINVAL : 0;
}

static int add_rule(const char *line)
{
    struct rule **last = &rules;
    struct rule *r;
    int rc;

    if (ended || rule_count == MOST_RULES)
        return -EINVAL;
    r = malloc(sizeof(*r));
    if (!r)
        return -ENOMEM;
    rc = parse_rule(r, line);
    if (rc < 0) {
        free(r);
        return rc;
    }
    while (*last)
        last = &(*last)->next;
    r->number = ++last_number;
    rule_count++;
    *last = r;
    return 0;
}

static void free_unless_held(struct rule *r)
{
    if (r->lifted && r->waiting == 0)
        free(r);
}

/** @number: of a rule; 0: all. Whoever waits for it goes on. */
static void lift(uint64_t number)
{
    struct rule **at = &rules;

    while (*at) {
        struct rule *r = *at;

        if (number != 0 && r->number != number) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        rule_count--;
        r->lifted = true;
        free_unless_held(r);
    }
    pthread_cond_broadcast(&lifted);
}

static int control_line(const char *line)
{
    uint64_t number = 0;
    const char *end;

    if (strcmp(line, "lift") == 0 ||
        (strncmp(line, "lift ", 5) == 0 && parse_number(line + 5, 0, &end, &number))) {
        lift(number);
        return 0;
    }
    if (strcmp(line, "zero") == 0) {
        memset(operations, 0, sizeof(operations));
        memset(moved, 0, sizeof(moved));
        return 0;
    }
    return add_rule(line);
}

int rules_control(const char *text, size_t bytes)
{
    int rc = 0;

    take_lock();
    for (size_t at = 0; at < bytes && rc == 0;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t length = end ? (size_t)(end - text) - at : bytes - at;
        char line[MOST_TEXT];

        if (length >= sizeof(line)) {
            rc = -EINVAL;
            break;
        }
        memcpy(line, text + at, length);
        line[length] = 0;
        if (length > 0)
            rc = control_line(line);
        at += length + 1;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

void rules_end(void)
{
    take_lock();
    ended = true;
    lift(0);
    pthread_mutex_unlock(&lock);
}

/* Operations. */

static uint64_t draw(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = *state;

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static bool has_place(enum operation operation)
{
    return operation == OPERATION_READ || operation == OPERATION_WRITE;
}

/** Whether a rule acts on an operation. Counts. */
static bool acts(struct rule *r, const struct spot *s)
{
    if (!(r->operations >> s->operation & 1) || fnmatch(r->file, s->file, 0) != 0)
        return false;
    if (has_place(s->operation) && (s->offset >= r->to || s->offset + s->bytes <= r->from))
        return false;
    r->seen++;
    if (r->seen <= r->after || (r->seen - r->after) % r->every != 0 || r->acted >= r->count)
        return false;
    if (r->permille < 1000 && draw(&r->random) % 1000 >= r->permille)
        return false;
    r->acted++;
    return true;
}

/** When a rule that delays lets an operation go; UINT64_MAX: when it is lifted. */
static uint64_t due(struct rule *r, const struct spot *s)
{
    uint64_t now = now_ns();

    if (r->fault == FAULT_HOLD)
        return UINT64_MAX;
    if (r->fault == FAULT_DELAY)
        return now + r->ms * 1000000;
    if (r->free_at < now)
        r->free_at = now;
    r->free_at += s->bytes * 1000 / r->mb;
    return r->free_at;
}

static void wait_for(struct rule *r, uint64_t until)
{
    struct timespec t = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
    int rc = 0;

    while (!r->lifted && rc != ETIMEDOUT)
        rc = until == UINT64_MAX ? pthread_cond_wait(&lifted, &lock)
                                 : pthread_cond_timedwait(&lifted, &lock, &t);
    r->waiting--;
    free_unless_held(r);
}

void rules_meet(const struct spot *spot, struct verdict *verdict)
{
    struct rule *delays[MOST_RULES];
    uint64_t until[MOST_RULES];
    uint32_t count = 0;

    *verdict = (struct verdict){.fault = FAULT_NONE};
    take_lock();
    operations[spot->operation]++;
    moved[spot->operation] += spot->bytes;
    for (struct rule *r = rules; r; r = r->next) {
        bool delay = r->fault <= FAULT_LIMIT;

        if ((!delay && verdict->fault != FAULT_NONE) || !acts(r, spot))
            continue;
        if (delay) {
            until[count] = due(r, spot);
            r->waiting++;
            delays[count++] = r;
        } else {
            *verdict = (struct verdict){r->fault, r->error, r->by, draw(&r->random)};
        }
    }
    for (uint32_t i = 0; i < count; i++)
        wait_for(delays[i], until[i]);
    pthread_mutex_unlock(&lock);
}

bool rules_want_old(const char *file)
{
    bool wanted = false;

    take_lock();
    for (struct rule *r = rules; r; r = r->next)
        wanted = wanted || (r->fault == FAULT_STALE && fnmatch(r->file, file, 0) == 0);
    pthread_mutex_unlock(&lock);
    return wanted;
}

size_t rules_report(char *to, size_t room)
{
    size_t length = 0;

    take_lock();
    for (unsigned i = 0; i < OPERATIONS; i++)
        length += (size_t)snprintf(to + length, room - length, "%s operations %llu bytes %llu\n",
                                   operation_name[i], (unsigned long long)operations[i],
                                   (unsigned long long)moved[i]);
    for (struct rule *r = rules; r && room - length > MOST_TEXT + 100; r = r->next)
        length += (size_t)snprintf(
            to + length, room - length, "rule %u %s seen %llu acted %llu waiting %u\n", r->number,
            r->text, (unsigned long long)r->seen, (unsigned long long)r->acted, r->waiting);
    pthread_mutex_unlock(&lock);
    return length;
}
