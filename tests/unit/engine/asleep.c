/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine's thread costs no core: CPU time that the kernel counts for it while
 * there is nothing to do, and (engine "nvme", which looks) while a drive takes
 * its time over one command. CPU time, so a machine that is busy with something
 * else makes no difference.
 *
 * Seen to fail: with a wait that never sleeps where commands are out, and with
 * one that looks on when there is none.
 */
#include "rig.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nvme/drive_internal.h"
#include "nvme/soft/port.h"
#include "nvme/soft/soft.h"

static const char *engine;

enum { PERIOD_NS = 300000000 };

/** What the one member's thread has used so far, ns. */
static uint64_t cpu_of_engine(void)
{
    DIR *tasks = opendir("/proc/self/task");
    uint64_t used = UINT64_MAX;
    struct dirent *e;

    assert_non_null(tasks);
    while ((e = readdir(tasks))) {
        char path[300], line[64] = "";
        FILE *f;

        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        f = fopen(path, "r");
        if (!f)
            continue;
        if (fgets(line, sizeof(line), f) && strcmp(line, "tutti-0\n") == 0) {
            fclose(f);
            snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", e->d_name);
            f = fopen(path, "r");
            assert_true(f && fgets(line, sizeof(line), f));
            used = strtoull(line, NULL, 10);
        }
        fclose(f);
    }
    closedir(tasks);
    assert_true(used != UINT64_MAX);
    return used;
}

static void for_a_while(void)
{
    nanosleep(&(struct timespec){.tv_nsec = PERIOD_NS}, NULL);
}

static struct tutti_map *open_and_use(struct rig *rig)
{
    struct tutti_map *map;

    rig_open(rig, &(struct rig_options){.engine = engine});
    map = rig_map_range(rig, 0, 4, 1);
    rig_fill(rig, map, 1);
    assert_int_equal(rig_store(rig, map), 0);
    assert_int_equal(rig_load(rig, map), 0);
    for_a_while(); /* the last looks of what was under way */
    return map;
}

static void nothing_to_do(void **state)
{
    struct tutti_map *map;
    uint64_t before, used;
    struct rig rig;
    (void)state;

    map = open_and_use(&rig);
    before = cpu_of_engine();
    for_a_while();
    used = cpu_of_engine() - before;
    printf("%s, idle: %.3f %% of a core\n", engine, 100.0 * (double)used / PERIOD_NS);
    assert_true(used < PERIOD_NS / 100);
    rig_map_free(map);
    rig_close(&rig);
}

static void one_that_takes_its_time(void **state)
{
    struct soft_fault late = {
        .kind = SOFT_LATE, .opcode = NVME_READ, .count = 1, .delay_ns = 2 * (uint64_t)PERIOD_NS};
    struct tutti_map *map;
    uint64_t before, used;
    struct soft *soft;
    struct rig rig;
    uint32_t index;
    (void)state;

    if (strcmp(engine, "nvme") != 0)
        return; /* the others wait in the kernel */
    map = open_and_use(&rig);
    soft = soft_port_soft(&rig.member[0].drive->port);
    soft_stop(soft);
    assert_int_equal(soft_inject(soft, &late), 0);
    assert_int_equal(soft_start(soft), 0);
    before = cpu_of_engine();
    index = rig_issue(&rig, map, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    for_a_while();
    used = cpu_of_engine() - before;
    printf("%s, one command out: %.3f %% of a core\n", engine, 100.0 * (double)used / PERIOD_NS);
    assert_true(used < PERIOD_NS / 5); /* sanitizers take their part */
    assert_int_equal(rig_wait(&rig, index, NULL), 0);
    rig_map_free(map);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(one_that_takes_its_time),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
