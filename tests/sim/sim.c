/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.c: runs of the simulation, one a seed.
 *
 *     sim [options] SEED [COUNT]
 *     sim --list FILE
 *
 * Prints the hash of what happened: the same seed gives the same hash, in every
 * process and build. A seed that fails is printed with the number of its
 * operation and the tail of its trace; --ops N ends a run early, to find the
 * shortest that fails; SIM_TAIL=N in the environment shows more of the trace.
 *
 * What it sees (mutants.py, seeds from 1 on until a broken rule of the product was
 * found, 2026-11-26):
 *
 *     a layer counts without its checksum                     12
 *     records compared without key and generation            277
 *     records compared without generation alone              277
 *     reports compared without generation                      8
 *     a slot is free before every rank has reported            1
 *     a slot is visible when one rank has reported             2
 *     a pinned slot is evicted / is free when dropped     52, 18
 *     a fence waits for nobody / cancels only               3, 3
 *     a record waits for no erasure / not for its data  231, 195
 *     what was not written counts                             88
 *     an epoch is not flushed / a reset is not written     18, 6
 *     a reset voids nothing / does not outlive a start     4, 12
 *     one rank's records are enough                          218
 *     slots of another identity are taken over             3,492
 *     a wake-up is lost / staging is lost                   1, 2
 *
 *     a fenced member gets commands / errors fence none   3, 966
 *     what lies on, or behind, a fenced member is found   14, 56
 *     a fenced member's slots are given out                   14
 *     who is enabled stays fenced / keeps its errors      8, 889
 *     a switch is thrown anew behind an enable             3,963
 *     a scrub leaves a layer out / a pool's drops more    17, 38
 *     a scrub tells of what is stored meanwhile               38
 *
 * A record's generation alone needs the same block in the same slot on both sides
 * of a reset, and a disk that lost all writes between: keep_old() does that. The last
 * rule has two defences: what a scrub knows of stores, and its second try, which reads
 * the record again and so verifies what was stored. Without the first alone nothing
 * was seen in 12,000 seeds (tests/unit/serve/scrub.c sees it: a second try can meet the
 * middle of a store), so the mutation leaves out both.
 */
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dice.h"
#include "machine.h"
#include "world.h"

enum {
    MOST_OPERATIONS = 160,
    AGAIN = 64,
    HANG_SECONDS = 120,
    TORTURE_SEEDS = 1000000,
    TORTURE_SECONDS = 5400
};

struct world world;
const char *broken;

static bool failure_wanted;
static uint64_t seeds_done, hash_of_all;

/* Memory of a run. */

struct piece {
    struct piece *next;
    uint64_t align;
};

static struct piece *pieces;

void *world_memory(size_t bytes)
{
    struct piece *p = calloc(1, sizeof(*p) + bytes);

    must(p);
    p->next = pieces;
    pieces = p;
    return p + 1;
}

static void free_pieces(void)
{
    struct piece *next;

    for (; pieces; pieces = next) {
        next = pieces->next;
        free(pieces);
    }
}

bool breaks(const char *rule)
{
    return broken && strcmp(broken, rule) == 0;
}

/* Failing. */

void sim_fail(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    if (!failure_wanted)
        trace_print();
    fprintf(stderr, "seed %llu, operation %llu, profile %d: ", (unsigned long long)world.seed,
            (unsigned long long)world.op, (int)world.profile);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    pools_remove();
    if (failure_wanted)
        printf("found after %llu seeds\n", (unsigned long long)seeds_done + 1);
    fflush(stdout);
    _exit(failure_wanted ? 0 : 1);
}

static void on_signal(int signal)
{
    sim_fail("signal %d", signal);
}

/** A sanitizer has something to say: of which run. */
static void on_death(void)
{
    fprintf(stderr, "seed %llu, operation %llu\n", (unsigned long long)world.seed,
            (unsigned long long)world.op);
}

/* Operations. */

static void run_a_while(void)
{
    if (dice_chance(5000))
        machine_sleep(dice_below(dice_chance(2000) ? 20000 : 1000) * US);
    else
        for (uint32_t i = dice_below(40); i > 0; i--)
            machine_yield();
}

static void look(void)
{
    struct tutti_directory_stats before, after;
    struct tutti_transfer item[LENGTH];

    tutti_directory_stats(world.directory, &before);
    model_check_chain(dice_below(CHAINS), item);
    tutti_directory_stats(world.directory, &after);
    must(memcmp(&before, &after, sizeof(before)) == 0);
}

/**
 * The weights change and the identity stays, the server starts anew, and the same is stored in the
 * same slots: by a disk that keeps what it has. Key, slot and shape of the old records are right.
 */
static void keep_old(struct rank *r)
{
    scheduler_begin_epoch(false);
    scheduler_make_durable();
    if (!scheduler_quiet())
        return;
    life_restart();
    for (uint32_t m = 0; m < world.shape->members; m++)
        r->disk[m].lose = 200;
}

static void spoil_disk(void)
{
    struct rank *r = &world.rank[dice_below(world.ranks)];
    struct disk *d = &r->disk[dice_below(world.shape->members)];

    if (world.profile == PROFILE_LIES && world.chains == 1 && dice_chance(6000)) {
        keep_old(r);
    } else if (world.profile == PROFILE_LIES && dice_chance(5000)) {
        d->lose = dice_between(1, 30);
    } else if (world.profile != PROFILE_CLEAN && dice_chance(5000)) {
        d->sick = dice_between(5, 300);
    } else if (world.profile != PROFILE_CLEAN) {
        size_t from = dice_below((uint32_t)(d->size / DISK_SECTOR - 16));

        memset(d->bad + from, 1, dice_between(1, 16));
        memset(d->bad, 0, 2 * TUTTI_SUPERBLOCK_BYTES / DISK_SECTOR);
        d->silent++; /* no promise holds over it */
    }
}

static void quiet(void)
{
    if (!scheduler_quiet())
        return;
    members_check_idle();
    for (uint32_t i = 0; i < world.ranks; i++)
        if (dice_chance(3000))
            scrub_round(&world.rank[i]);
}

static const struct operation {
    const char *name;
    uint32_t weight;
    void (*run)(void);
} operations[] = {
    {"request", 220, scheduler_request},
    {"grow", 80, scheduler_grow},
    {"abort", 60, scheduler_abort},
    {"finish", 140, scheduler_finish},
    {"report", 260, scheduler_take_report},
    {"reports", 60, scheduler_take_all},
    {"run", 260, run_a_while},
    {"look", 60, look},
    {"old pin", 30, scheduler_old_pin},
    {"drop", 20, scheduler_drop},
    {"erase", 80, scheduler_erase},
    {"flush", 20, scheduler_flush},
    {"reset", 8, scheduler_reset},
    {"toggle", 3, scheduler_toggle},
    {"spoil", 16, spoil_disk},
    {"quiet", 12, quiet},
    {"watch", 40, members_watch},
    {"disable", 6, members_disable},
    {"enable", 30, members_enable},
    {"scrub", 30, scheduler_scrub},
    {"restart", 18, life_restart},
};

static void operate(void)
{
    enum { OPERATIONS = sizeof(operations) / sizeof(operations[0]) };
    static uint32_t total;
    uint32_t at, i = 0;

    if (total == 0)
        for (uint32_t k = 0; k < OPERATIONS; k++)
            total += operations[k].weight;
    at = dice_below(total);
    for (; at >= operations[i].weight; i++)
        at -= operations[i].weight;
    trace(operations[i].name, world.op, 0, 0, 0);
    operations[i].run();
    model_audit();
}

static void run(uint64_t seed, uint64_t most)
{
    uint32_t count, preempt;

    alarm(HANG_SECONDS);
    memset(&world, 0, sizeof(world));
    world.seed = seed;
    dice_state = dice_mix(seed + UINT64_C(0x9e3779b97f4a7c15));
    trace_begin();
    preempt = dice_below(1500);
    machine_begin(dice_below(3) * preempt);
    world.profile = (enum profile)dice_below(3);
    world.stuck_allowed = dice_chance(1500);
    world.chains = dice_chance(6000) ? CHAINS : dice_between(1, 2);
    count = dice_between(MOST_OPERATIONS / 4, MOST_OPERATIONS);
    life_begin();
    for (world.op = 1; world.op <= count && world.op <= most; world.op++)
        operate();
    life_end();
    free_pieces();
}

/** A run; every so often it is run again, and must be the same. */
static void run_seed(uint64_t seed, uint64_t most)
{
    uint64_t hash;

    run(seed, most);
    hash = trace_hash();
    if (seed % AGAIN == 0) {
        run(seed, most);
        if (trace_hash() != hash)
            sim_fail("run again it is another run");
    }
    hash_of_all = dice_mix(hash_of_all ^ hash);
}

struct sums {
    uint64_t lives, good, bad, stored, computed, fences, scrubbed;
};

static void add(struct sums *s)
{
    s->lives += world.lives;
    s->good += world.loads_good;
    s->bad += world.loads_bad;
    s->stored += world.stored;
    s->computed += world.computed;
    s->fences += world.fences;
    s->scrubbed += world.scrubbed;
}

static void print(const struct sums *s, uint64_t began)
{
    double seconds = (double)(machine_real_now() - began) / 1e9;

    printf("%llu seeds in %.1f s, %.0f a minute; %llu lives, %llu blocks computed, %llu stored, "
           "%llu loaded, %llu missed, %llu fences, %llu scrubbed; hash %016llx\n",
           (unsigned long long)seeds_done, seconds, (double)seeds_done / seconds * 60,
           (unsigned long long)s->lives, (unsigned long long)s->computed,
           (unsigned long long)s->stored, (unsigned long long)s->good, (unsigned long long)s->bad,
           (unsigned long long)s->fences, (unsigned long long)s->scrubbed,
           (unsigned long long)hash_of_all);
    fflush(stdout);
}

/** The next seed of a list: a number a line, with its story behind it; # begins a comment. */
static bool next_listed(FILE *list, uint64_t *seed)
{
    char line[256];

    while (fgets(line, sizeof(line), list))
        if (line[0] >= '0' && line[0] <= '9') {
            *seed = strtoull(line, NULL, 0);
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"ops", required_argument, NULL, 'o'},  {"seconds", required_argument, NULL, 's'},
        {"list", required_argument, NULL, 'l'}, {"break", required_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},       {0}};
    uint64_t most = UINT64_MAX, seconds = 0, seed, count, began;
    struct sums sums = {0};
    FILE *list = NULL;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (option == 'o') {
            most = strtoull(optarg, NULL, 0);
        } else if (option == 's') {
            seconds = strtoull(optarg, NULL, 0);
        } else if (option == 'l') {
            list = fopen(optarg, "r");
            must(list);
        } else if (option == 'b') {
            broken = optarg;
            failure_wanted = true;
        } else {
            fprintf(stderr,
                    "usage: %s [--ops N] [--seconds N] [--break fence|report] SEED [COUNT]\n       "
                    "%s --list FILE\n",
                    argv[0], argv[0]);
            return 2;
        }
    }
    if (optind >= argc && !list)
        return 2;
    seed = list ? 0 : strtoull(argv[optind], NULL, 0);
    count = list ? UINT64_MAX : optind + 1 < argc ? strtoull(argv[optind + 1], NULL, 0) : 1;
    signal(SIGSEGV, on_signal);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    machine_at_death(on_death);
    if (getenv("TUTTI_TORTURE") && !broken && !list && count > 1) {
        count = TORTURE_SEEDS;
        seconds = TORTURE_SECONDS;
    }
    began = machine_real_now();
    for (; seeds_done < count; seeds_done++, seed++) {
        if (seconds && machine_real_now() - began > seconds * SECOND)
            break;
        if (list && !next_listed(list, &seed))
            break;
        run_seed(seed, most);
        add(&sums);
    }
    print(&sums, began);
    pools_remove();
    if (list)
        fclose(list);
    if (failure_wanted)
        fprintf(stderr, "breaking \"%s\" was not found\n", broken);
    return failure_wanted;
}
