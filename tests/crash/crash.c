/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever a crash leaves of the writes of a busy store, opening it finds a
 * pool, and not one byte is served under a key that it was not written under.
 *
 * A workload with more prefixes than the pool holds stores, evicts, drops,
 * erases and restarts while every write is recorded; then crash images are
 * made (recorder.h), opened, scanned, and every prefix that the directory
 * offers is loaded and compared. Arguments: images, seed.
 *
 * The negative control is part of it: the same images, read with verification
 * off, must serve wrong bytes, or they are too tame to show anything.
 */
#include "../unit/serve/rig.h"

#include "recorder.h"

enum { CHAINS = 12, ROUNDS = 120, LONGEST = 24 };

static unsigned images = 200;
static uint64_t seed = 1;
static size_t entries;

static uint32_t draw(uint32_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % below);
}

static void member_paths(const struct rig *r, char path[2][300], const char *names[2])
{
    for (int m = 0; m < 2; m++) {
        snprintf(path[m], sizeof(path[m]), "%s/rank0.member%d.tutti", r->home, m);
        names[m] = path[m];
    }
}

static void random_drop(struct rig *r, uint32_t chain)
{
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_error err = {0};
    uint32_t n = rig_find(r, chain, LONGEST, 0, &match, items), at;
    size_t erased;

    if (n == 0)
        return;
    tutti_directory_unpin(r->directory, match.slot, match.generation);
    at = draw(n);
    tutti_directory_drop(r->directory, items[at].slot, items[at].generation);
    erased = tutti_directory_take_erased(r->directory, items, 64);
    rig_ok(tutti_serve_erase(r->serve, 0, items, (uint32_t)erased, &err), &err);
}

static void workload(struct rig *r)
{
    struct tutti_error err = {0};

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t chain = draw(CHAINS), count = 1 + draw(LONGEST);
        struct tutti_transfer items[64];
        struct tutti_match match;
        uint32_t have = rig_find(r, chain, count, 0, &match, items);

        if (have > 0)
            tutti_directory_unpin(r->directory, match.slot, match.generation);
        if (have < count)
            rig_store(r, chain, have, count - have);
        if (draw(8) == 0)
            random_drop(r, draw(CHAINS));
        if (draw(12) == 0)
            rig_ok(tutti_pool_flush(r->pool, &err), &err);
        if (draw(20) == 0) {
            rig_close(r);
            rig_open(r, "threads", NULL);
        }
    }
}

/** Open an image, load whatever it offers. Return: wrong words served; adds to *hits. */
static uint64_t read_image(struct rig *r, uint64_t *hits, uint64_t *refused)
{
    uint64_t wrong = 0;

    rig_open(r, "threads", NULL);
    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        struct tutti_transfer items[64];
        struct tutti_match match;
        struct tutti_retrieve *retrieve;
        struct tutti_result result;
        struct tutti_error err = {0};
        uint32_t n = rig_find(r, chain, LONGEST, 0, &match, items);

        if (n == 0)
            continue;
        memset(r->kv, 0xaa, r->kv_bytes);
        rig_ok(tutti_retrieve_begin(r->serve, 0, items, n, false, 1, &retrieve, &err), &err);
        assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
        tutti_retrieve_result(retrieve, &result);
        for (uint32_t b = 0; b < n; b++) {
            *hits += result.position[b] == 0;
            *refused += result.position[b] != 0;
            if (result.position[b] == 0)
                wrong += rig_wrong(r, chain, b, b);
        }
        assert_int_equal(tutti_retrieve_end(retrieve), 0);
        tutti_directory_unpin(r->directory, match.slot, match.generation);
    }
    rig_close(r);
    return wrong;
}

static void copy_secret(const struct rig *from, const struct rig *to)
{
    char a[300], b[300], command[700];

    snprintf(a, sizeof(a), "%s/secret", from->home);
    snprintf(b, sizeof(b), "%s/secret", to->home);
    snprintf(command, sizeof(command), "cp -p %s %s", a, b);
    assert_int_equal(system(command), 0); /* NOLINT(bugprone-command-processor,cert-env33-c) */
}

struct outcome {
    uint64_t wrong, hits, refused;
    uint64_t unverified_wrong; /* of the control: the same image, read without verification */
};

static void run_images(struct rig *source, unsigned count, struct outcome *o)
{
    static const unsigned lands[] = {0, 10, 50, 90, 100};
    char path[2][300];
    const char *names[2];
    struct rig image;

    rig_init(&image, source->bytes, source->extent_bytes);
    snprintf(image.home, sizeof(image.home), "crash-XXXXXX");
    assert_non_null(mkdtemp(image.home));
    copy_secret(source, &image);
    member_paths(&image, path, names);
    memset(o, 0, sizeof(*o));
    for (unsigned i = 0; i < count; i++) {
        size_t at = entries * (i + 1) / count;
        uint64_t one = seed + i * 7919, ignored[2] = {0}, bad;

        recorder_crash(at, one, lands[i % 5], names);
        image.unverified = false;
        bad = read_image(&image, &o->hits, &o->refused);
        if (bad)
            print_message("image %u (entry %zu, seed %llu): %llu wrong words\n", i, at,
                          (unsigned long long)one, (unsigned long long)bad);
        o->wrong += bad;
        image.unverified = true;
        o->unverified_wrong += read_image(&image, &ignored[0], &ignored[1]);
    }
    rig_remove(&image);
}

static void no_image_serves_a_wrong_byte(void **state)
{
    char path[2][300];
    const char *names[2];
    struct tutti_pool_options options;
    struct tutti_error err = {0};
    struct outcome o;
    struct rig r;
    (void)state;

    rig_init(&r, UINT64_C(6) << 20, UINT64_C(1) << 20);
    snprintf(r.home, sizeof(r.home), "work-XXXXXX");
    assert_non_null(mkdtemp(r.home));
    options = rig_pool_options(&r);
    rig_ok(tutti_pool_format(&options, &err), &err);
    member_paths(&r, path, names);
    recorder_start(names);
    rig_open(&r, "threads", NULL);
    workload(&r);
    rig_close(&r);
    entries = recorder_stop();
    run_images(&r, images, &o);
    print_message("%u images of %zu writes: %llu slots served, %llu refused, %llu wrong words; "
                  "without verification %llu\n",
                  images, entries, (unsigned long long)o.hits, (unsigned long long)o.refused,
                  (unsigned long long)o.wrong, (unsigned long long)o.unverified_wrong);
    assert_int_equal(o.wrong, 0);
    assert_true(o.hits > images); /* or it showed nothing */
    assert_true(o.refused > 0);   /* or the crashes were too kind */
    assert_true(o.unverified_wrong > 0);
    rig_remove(&r);
    recorder_free();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_image_serves_a_wrong_byte),
    };

    if (argc > 1)
        images = (unsigned)atoi(argv[1]);
    if (argc > 2)
        seed = (uint64_t)atoll(argv[2]);
    if (getenv("TUTTI_TORTURE"))
        images *= 50;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
