/* SPDX-License-Identifier: Apache-2.0 */
/*
 * soft.c: see soft.h. The controller's life, its registers, and its thread.
 *
 * The one idea: a step looks at everything that a driver can have changed, in
 * one fixed order (registers, doorbells, fetch, execute, post), so that what
 * happens is a function of the steps and of what was written between them.
 */
#include "nvme/soft/soft.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "nvme/soft/internal.h"

#define IDLE_STEPS 200u
#define IDLE_NS 50000
#define LONG_IDLE (IDLE_STEPS + 2000u) /* about 100 ms without work */
#define LONG_IDLE_NS 1000000

void soft_count(uint64_t *counter, uint64_t by)
{
    tutti_store_relaxed(counter, *counter + by);
}

void soft_break(struct soft *s, enum soft_rule rule, const char *format, ...)
{
    va_list arguments;
    int n;

    soft_count(&s->broken[rule], 1);
    if (s->first_broken[0])
        return;
    n = snprintf(s->first_broken, sizeof(s->first_broken), "%s (%s): ", soft_rule_text(rule),
                 soft_rule_section(rule));
    va_start(arguments, format);
    vsnprintf(s->first_broken + n, sizeof(s->first_broken) - (size_t)n, format, arguments);
    va_end(arguments);
}

uint64_t soft_random(struct soft *s)
{
    s->dice ^= s->dice << 13;
    s->dice ^= s->dice >> 7;
    s->dice ^= s->dice << 17;
    return s->dice;
}

/* Registers. */

static void set_status(struct soft *s, uint32_t csts)
{
    nvme_write32(s->bar, NVME_CSTS, csts);
}

static uint32_t status(const struct soft *s)
{
    return nvme_read32(s->bar, NVME_CSTS);
}

static bool enter_admin_queues(struct soft *s)
{
    uint32_t aqa = nvme_read32(s->bar, NVME_AQA);
    uint32_t sq_depth = (aqa & 0xfff) + 1, cq_depth = (aqa >> 16 & 0xfff) + 1;
    uint64_t asq = nvme_read64(s->bar, NVME_ASQ), acq = nvme_read64(s->bar, NVME_ACQ);

    if (sq_depth < 2 || cq_depth < 2 || (aqa & 0xf000f000) != 0) {
        soft_break(s, SOFT_ADMIN_DEPTH, "AQA is %#x", aqa);
        return false;
    }
    if (asq == 0 || acq == 0 || (asq | acq) % NVME_PAGE != 0) {
        soft_break(s, SOFT_ADMIN_MEMORY, "ASQ %#llx, ACQ %#llx", (unsigned long long)asq,
                   (unsigned long long)acq);
        return false;
    }
    return soft_make_cq(s, 0, acq, cq_depth) == 0 && soft_make_sq(s, 0, asq, sq_depth, 0) == 0;
}

static bool configuration_is_good(struct soft *s, uint32_t cc)
{
    if (NVME_CC_MPS(cc) != 0) {
        soft_break(s, SOFT_PAGE_SIZE, "CC is %#x", cc);
        return false;
    }
    if (NVME_CC_CSS(cc) != 0 || NVME_CC_AMS(cc) != 0) {
        soft_break(s, SOFT_COMMAND_SET, "CC is %#x", cc);
        return false;
    }
    if (cc & 0xff00000e) {
        soft_break(s, SOFT_RESERVED_CC, "CC is %#x", cc);
        return false;
    }
    return enter_admin_queues(s);
}

void soft_reset_queues(struct soft *s)
{
    while (s->out) {
        struct soft_command *c = s->out;

        s->out = c->next;
        c->next = s->unused;
        s->unused = c;
    }
    s->under_way = 0;
    s->events_out = 0;
    for (uint32_t i = 0; i < SOFT_QUEUES; i++) {
        soft_drop_sq(s, i);
        soft_drop_cq(s, i);
    }
}

/** CC.EN or CC.SHN changed. */
static bool take_configuration(struct soft *s)
{
    uint32_t cc = nvme_read32(s->bar, NVME_CC), was = s->cc;

    if (cc == was)
        return false;
    s->cc = cc;
    if ((cc & NVME_CC_EN) && !(was & NVME_CC_EN)) {
        if (s->enabled)
            soft_break(s, SOFT_ENABLED_EARLY, "CC.EN set, CSTS %#x", status(s));
        soft_reset_queues(s);
        s->enabled = configuration_is_good(s, cc);
        if (!s->enabled)
            set_status(s, NVME_CSTS_CFS);
        s->ready_at = s->now + s->options.enable_ns;
    } else if (!(cc & NVME_CC_EN) && (was & NVME_CC_EN)) {
        if (s->enabled && !(status(s) & NVME_CSTS_RDY))
            soft_break(s, SOFT_DISABLED_EARLY, "CC.EN cleared, CSTS %#x", status(s));
        soft_reset_queues(s); /* nothing of before moves a byte from here on */
        s->ready_at = s->now + s->options.enable_ns;
    }
    if (NVME_CC_SHN(cc) != 0 && NVME_CC_SHN(was) == 0) {
        if (s->durable)
            memcpy(s->durable, s->media, s->options.blocks * s->options.block_bytes);
        set_status(s, status(s) | NVME_SHST_DONE << 2);
    }
    return true;
}

/** CSTS.RDY follows CC.EN after its time. */
static bool follow(struct soft *s)
{
    uint32_t csts = status(s);

    if (s->now < s->ready_at || (csts & NVME_CSTS_CFS && s->cc & NVME_CC_EN))
        return false;
    if ((s->cc & NVME_CC_EN) && s->enabled && !(csts & NVME_CSTS_RDY)) {
        set_status(s, (csts & ~(3u << 2)) | NVME_CSTS_RDY);
        return true;
    }
    if (!(s->cc & NVME_CC_EN) && (s->enabled || csts & (NVME_CSTS_RDY | NVME_CSTS_CFS))) {
        s->enabled = false;
        set_status(s, csts & ~(NVME_CSTS_RDY | NVME_CSTS_CFS));
        return true;
    }
    return false;
}

bool soft_step(struct soft *s, uint64_t now)
{
    bool busy;

    if (s->dead)
        return false;
    s->now = now;
    busy = take_configuration(s);
    busy = follow(s) || busy;
    if (!(status(s) & NVME_CSTS_RDY) || status(s) & NVME_CSTS_CFS)
        return busy;
    busy = soft_doorbells(s) || busy;
    busy = soft_fetch(s) || busy;
    if (s->dead)
        return busy;
    busy = soft_execute(s) || busy;
    return soft_post(s) || busy;
}

uint64_t soft_next(const struct soft *s)
{
    uint64_t next = UINT64_MAX;

    for (const struct soft_command *c = s->out; c; c = c->next)
        if (!c->done && !c->held && c->due < next)
            next = c->due;
    return next;
}

uint32_t soft_under_way(const struct soft *s)
{
    return s->under_way;
}

/* Life. */

static bool options_are_good(const struct soft_options *o)
{
    return o->mqes >= 1 && o->mqes <= 65535 && o->dstrd <= 4 && o->mdts <= 16 && o->sgls <= 2 &&
           o->queues >= 1 && o->queues < SOFT_QUEUES && o->blocks >= 1 &&
           (o->block_bytes == 512 || o->block_bytes == 4096) && o->metadata_bytes <= 64;
}

int soft_new(const struct soft_options *options, struct soft **out, struct tutti_error *err)
{
    uint64_t bytes = options->blocks * options->block_bytes;
    struct soft *s;

    if (!options_are_good(options))
        return tutti_error_set(err, -EINVAL, "a software controller with such options is none");
    s = calloc(1, sizeof(*s));
    if (!s)
        return tutti_error_set(err, -ENOMEM, "no memory for a software controller");
    s->options = *options;
    s->dice = options->ways.seed * 2 + 1;
    pthread_mutex_init(&s->map_lock, NULL);
    s->pool = calloc(SOFT_COMMANDS, sizeof(*s->pool));
    s->bar = aligned_alloc(NVME_PAGE, SOFT_BAR_BYTES);
    s->media = options->media ? options->media : calloc(1, bytes);
    s->durable = options->write_cache ? calloc(1, bytes) : NULL;
    if (!s->pool || !s->bar || !s->media || (options->write_cache && !s->durable)) {
        soft_free(s);
        return tutti_error_set(err, -ENOMEM, "no memory for a software controller of %llu bytes",
                               (unsigned long long)bytes);
    }
    for (uint32_t i = 0; i < SOFT_COMMANDS; i++) {
        s->pool[i].next = s->unused;
        s->unused = &s->pool[i];
    }
    memset(s->bar, 0, SOFT_BAR_BYTES);
    nvme_write64(s->bar, NVME_CAP,
                 options->mqes | 1u << 16 | (uint64_t)(options->ready_in & 0xff) << 24 |
                     (uint64_t)options->dstrd << 32 | (uint64_t)NVME_CAP_CSS_NVM << 37);
    nvme_write32(s->bar, NVME_VS, 0x20000);
    *out = s;
    return 0;
}

void soft_free(struct soft *s)
{
    if (!s)
        return;
    soft_stop(s);
    soft_reset_queues(s);
    pthread_mutex_destroy(&s->map_lock);
    free(s->piece);
    free(s->pool);
    free(s->bar);
    if (!s->options.media)
        free(s->media);
    free(s->durable);
    free(s);
}

void *soft_bar(struct soft *s)
{
    return s->bar;
}

uint8_t *soft_media(struct soft *s)
{
    return s->media;
}

static void *run(void *argument)
{
    struct soft *s = argument;
    uint32_t idle = 0;

    while (!tutti_load_relaxed(&s->stop)) {
        if (soft_step(s, tutti_clock_now()))
            idle = 0;
        else if (++idle > IDLE_STEPS)
            nanosleep(&(struct timespec){.tv_nsec = idle < LONG_IDLE ? IDLE_NS : LONG_IDLE_NS},
                      NULL);
    }
    return NULL;
}

int soft_start(struct soft *s)
{
    int rc = pthread_create(&s->thread, NULL, run, s);

    s->running = rc == 0;
    return -rc;
}

void soft_stop(struct soft *s)
{
    if (!s->running)
        return;
    tutti_store_relaxed(&s->stop, true);
    pthread_join(s->thread, NULL);
    s->stop = false;
    s->running = false;
}

/* Misfortune. */

int soft_inject(struct soft *s, const struct soft_fault *fault)
{
    if (s->faults == SOFT_FAULTS)
        return -ENOSPC;
    s->fault[s->faults++] = *fault;
    return 0;
}

void soft_remove(struct soft *s)
{
    s->dead = true;
    for (uint32_t at = 0; at < SOFT_BAR_BYTES; at += 4)
        nvme_write32(s->bar, at, UINT32_MAX);
}

void soft_fatal(struct soft *s)
{
    set_status(s, status(s) | NVME_CSTS_CFS);
}

void soft_warn(struct soft *s, uint32_t warnings)
{
    s->warning = (uint8_t)warnings;
    s->event = true;
}

void soft_power_loss(struct soft *s)
{
    if (s->durable)
        memcpy(s->media, s->durable, s->options.blocks * s->options.block_bytes);
}

/* Counts. */

uint64_t soft_broken(const struct soft *s, enum soft_rule rule)
{
    return tutti_load_relaxed(&s->broken[rule]);
}

uint64_t soft_broken_any(const struct soft *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < SOFT_RULE_COUNT; i++)
        sum += soft_broken(s, (enum soft_rule)i);
    return sum;
}

const char *soft_first_broken(const struct soft *s)
{
    return s->first_broken;
}

void soft_counters(const struct soft *s, struct soft_counters *counters)
{
    const uint64_t *from = (const uint64_t *)&s->counters;
    uint64_t *to = (uint64_t *)counters;

    for (size_t i = 0; i < sizeof(*counters) / sizeof(*to); i++)
        to[i] = tutti_load_relaxed(&from[i]);
}
