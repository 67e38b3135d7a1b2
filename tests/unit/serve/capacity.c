/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Case 18: four times a pool's size of distinct prompts is stored while somebody looks at the
 * folder all the time: no file grows, none is added, and all of them together stay within the size
 * that the pool was formatted with and what is beside it (the secret, one block). At the end the
 * last prompts are there, whole. 32 MiB; 1 GiB under TUTTI_TORTURE, where a look is every 100 ms.
 * A smaller size after a restart is the connector's to refuse (tests/serving/test_sizes.py).
 *
 * Seen to fail with a format that takes one extent more and does not give it back (above the
 * size), and with objects that lie one extent further on (files grow).
 */
#include "rig.h"

#include <pthread.h>

enum { CHAIN = 32, BESIDE = 16 << 10 };

static const char *engine;

/** What a folder holds, added up. */
struct look {
    uint64_t bytes;
    uint64_t charged; /* by the file system */
    uint32_t files;
};

struct watch {
    const struct rig *rig;
    struct look most;
    struct look least;
    uint64_t looks;
    useconds_t every;
    bool over; /* atomic */
};

static struct look look_at(const struct rig *r)
{
    struct look now = {0};
    struct dirent *entry;
    DIR *folder = opendir(r->home);
    struct stat st;

    while (folder && (entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        if (fstatat(dirfd(folder), entry->d_name, &st, 0) < 0)
            continue;
        now.bytes += (uint64_t)st.st_size;
        now.charged += (uint64_t)st.st_blocks * 512;
        now.files++;
    }
    if (folder)
        closedir(folder);
    return now;
}

#define KEEP(field)                                                                                \
    do {                                                                                           \
        if (w->looks == 0 || now.field > w->most.field)                                            \
            w->most.field = now.field;                                                             \
        if (w->looks == 0 || now.field < w->least.field)                                           \
            w->least.field = now.field;                                                            \
    } while (0)

static void *watch(void *argument)
{
    struct watch *w = argument;

    do {
        struct look now = look_at(w->rig);

        KEEP(bytes);
        KEEP(charged);
        KEEP(files);
        w->looks++;
        usleep(w->every);
    } while (!__atomic_load_n(&w->over, __ATOMIC_ACQUIRE)); /* pairs with the test's release */
    return NULL;
}

static void never_above_its_size(void **state)
{
    bool torture = getenv("TUTTI_TORTURE");
    struct tutti_directory_stats stats;
    struct tutti_pool_options options;
    struct tutti_error err = {0};
    struct watch w = {.every = torture ? 100000 : 1000};
    uint64_t stored = 0, slot_bytes = (uint64_t)RIG_LAYERS * RIG_PARTS * RIG_OBJECT;
    uint32_t chain = 0;
    pthread_t watcher;
    struct rig r;
    (void)state;

    rig_init(&r, UINT64_C(32) << (torture ? 25 : 20), 0);
    snprintf(r.home, sizeof(r.home), "rig-XXXXXX");
    assert_non_null(mkdtemp(r.home));
    options = rig_pool_options(&r);
    rig_ok(tutti_pool_format(&options, &err), &err);
    rig_open(&r, engine, NULL);
    w.rig = &r;
    assert_int_equal(pthread_create(&watcher, NULL, watch, &w), 0);
    for (; stored * slot_bytes < 4 * r.bytes; chain += 2) { /* odd ones share a half */
        uint32_t good = rig_store(&r, chain, 0, CHAIN);

        assert_int_equal(good, CHAIN);
        stored += good;
        tutti_directory_stats(r.directory, &stats);
        assert_true(stats.visible * slot_bytes <= r.bytes);
    }
    __atomic_store_n(&w.over, true, __ATOMIC_RELEASE);
    pthread_join(watcher, NULL);
    print_message("capacity: %u prompts, %llu looks\n", chain / 2, (unsigned long long)w.looks);
    assert_true(w.looks > 10);
    assert_int_equal(w.least.files, w.most.files);
    assert_int_equal(w.least.bytes, w.most.bytes);
    assert_true(w.most.bytes <= r.bytes + BESIDE);
    assert_true(w.most.charged <= r.bytes + BESIDE);
    assert_true(stats.evicted >= 2 * stats.slots); /* it was turned over */
    for (uint32_t k = 2; k <= 8; k += 2)
        assert_int_equal(rig_load(&r, chain - k, CHAIN, 64), CHAIN);
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(never_above_its_size)};

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
