/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serving from a GPU's memory, over the CUDA driver's stand-in (a test double; nothing
 * here ran on a GPU). Run with one hardware queue and with eight. What attends is a
 * function on computation's stream, which looks at the blocks when its turn comes:
 *     serve ENGINE
 * Seen to fail with a hook that does not wait for the launch (with one queue it hangs until
 * the watchdog), a wait for the word's last number, a word written before the copies are done,
 * loads without the mark, stores without it, and a watchdog that does not mark.
 */
#include "gpu.h"

#include <errno.h>
#include <stdlib.h>

#include "base/atomics.h"
#include "tutti/scrub.h"

enum { COUNT = 24, INTO = 64 };

static const char *engine = "uring";

/** One layer's attention: counts the words that are not what chain 1 holds. */
struct attention {
    struct rig *rig;
    uint32_t layer;
    uint64_t wrong;
    uint32_t ran; /* release; pairs with who asks whether it did */
};

static void attend(void *argument)
{
    struct attention *a = argument;

    for (uint32_t b = 0; b < COUNT; b++)
        for (uint32_t p = 0; p < RIG_PARTS; p++) {
            const uint64_t *words = (const void *)rig_object(a->rig, a->layer, p, INTO + b);

            for (uint32_t i = 0; i < RIG_OBJECT / 8; i++)
                a->wrong += words[i] != rig_word(1, b, a->layer, p, i);
        }
    tutti_store_release(&a->ran, 1);
}

/** Blocks of chain 1 on disk; what they will be loaded into holds something else. */
static void make(struct rig *r, const char *rules)
{
    rig_make(r, engine, NULL);
    assert_int_equal(rig_store(r, 1, 0, COUNT), COUNT);
    if (rules) {
        rig_close(r);
        rig_open(r, engine, rules);
    }
    memset(r->kv, 0x77, r->kv_bytes);
}

static struct tutti_retrieve *begin(struct rig *r, bool in_step, struct tutti_match *match)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};

    assert_int_equal(rig_find(r, 1, COUNT, INTO, match, items), COUNT);
    rig_ok(tutti_retrieve_begin(r->serve, 0, items, COUNT, in_step, 1, &retrieve, &err), &err);
    return retrieve;
}

/** Wait for the end. Return: its status. */
static int end(struct rig *r, struct tutti_retrieve *retrieve, const struct tutti_match *match)
{
    struct tutti_result result;
    int status;

    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    status = result.status;
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    assert_int_equal(tutti_directory_unpin(r->directory, match->slot, match->generation), 0);
    return status;
}

enum when { BEFORE, DURING, AFTER };

/** A step that attends to what it loads; the hooks come before, during or after the disk's reads.
 */
static void step(enum when when)
{
    struct attention a[RIG_LAYERS] = {0};
    struct tutti_match match;
    struct rig r;
    struct tutti_retrieve *retrieve;
    cu_stream stream = gpu_stream();

    make(&r, when == AFTER ? NULL : "read:delay:ns=5000000:offset=1048576-99999999");
    tutti_serve_stream(r.serve, stream);
    standin_slow_copies(200000);
    retrieve = begin(&r, when != DURING, &match);
    if (when == AFTER)
        assert_true(SOON(tutti_retrieve_wait(retrieve, 1000000) == 0));
    if (when == DURING) {
        struct tutti_engine_counters counters;

        assert_true(SOON((tutti_serve_counters(r.serve, &counters), counters.commands > 4)));
    }
    for (uint32_t l = 0; l < RIG_LAYERS; l++) {
        assert_int_equal(tutti_retrieve_layer(retrieve, l, 10 * SECOND), 0);
        a[l] = (struct attention){.rig = &r, .layer = l};
        assert_int_equal(d.launch_host(stream, attend, &a[l]), CU_OK);
    }
    assert_int_equal(end(&r, retrieve, &match), 0);
    assert_int_equal(d.stream_synchronize(stream), CU_OK);
    standin_slow_copies(0);
    for (uint32_t l = 0; l < RIG_LAYERS; l++) {
        assert_int_equal(a[l].ran, 1);
        assert_int_equal(a[l].wrong, 0);
    }
    rig_close(&r);
    rig_remove(&r);
}

static void hook_before_the_read(void **state)
{
    (void)state;
    step(BEFORE);
}

static void hook_during_the_read(void **state)
{
    (void)state;
    step(DURING);
}

static void hook_after_the_read(void **state)
{
    (void)state;
    step(AFTER);
}

/** A bad block is told before its bytes are used, and nothing hangs. */
static void bad_block(void **state)
{
    struct attention a = {0};
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    cu_stream stream = gpu_stream();
    struct rig r;
    (void)state;

    make(&r, "read:flip:offset=1048576-99999999");
    tutti_serve_stream(r.serve, stream);
    retrieve = begin(&r, true, &match);
    for (uint32_t l = 0; l < RIG_LAYERS; l++)
        tutti_retrieve_layer(retrieve, l, 10 * SECOND);
    a.rig = &r;
    assert_int_equal(d.launch_host(stream, attend, &a), CU_OK);
    assert_int_equal(end(&r, retrieve, &match), -EBADMSG);
    assert_int_equal(d.stream_synchronize(stream), CU_OK);
    rig_close(&r);
    rig_remove(&r);
}

/** While computation that was given its work before still uses the blocks, nothing lands there. */
static void a_load_waits_for_its_blocks(void **state)
{
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    cu_stream stream = gpu_stream();
    uint32_t *word;
    struct rig r;
    (void)state;

    make(&r, NULL);
    tutti_serve_stream(r.serve, stream);
    word = gpu_stuck(stream);
    retrieve = begin(&r, false, &match);
    assert_true(NEVER(tutti_retrieve_poll(retrieve)));
    for (uint32_t l = 0; l < RIG_LAYERS; l++)
        assert_int_equal(*rig_object(&r, l, 0, INTO), 0x77);
    tutti_store_release(word, 1);
    assert_int_equal(end(&r, retrieve, &match), 0);
    for (uint32_t b = 0; b < COUNT; b++)
        assert_int_equal(rig_wrong(&r, 1, b, INTO + b), 0);
    rig_close(&r);
    rig_remove(&r);
}

/** What computes a block's KV: the last thing on the stream before the store. */
struct computation {
    struct rig *rig;
    uint32_t count;
};

static void compute(void *argument)
{
    const struct computation *c = argument;

    for (uint32_t b = 0; b < c->count; b++)
        rig_fill(c->rig, 2, b, b);
}

/** A store reads what the stream has computed, not what was there when it was asked for. */
static void a_store_waits_for_its_source(void **state)
{
    struct tutti_transfer items[64];
    struct computation c;
    struct tutti_store *store;
    cu_stream stream = gpu_stream();
    uint32_t *word;
    struct rig r;
    int entries;
    (void)state;

    make(&r, NULL);
    c = (struct computation){&r, COUNT};
    tutti_serve_stream(r.serve, stream);
    word = gpu_stuck(stream);
    assert_int_equal(d.launch_host(stream, compute, &c), CU_OK);
    store = rig_store_begin(&r, 2, 0, COUNT, items, &entries); /* fills the blocks, as it does, */
    assert_int_equal(entries, COUNT);
    memset(r.kv, 0x55, r.kv_bytes); /* and they are to be computed yet */
    assert_true(NEVER(tutti_store_poll(store)));
    tutti_store_release(word, 1);
    assert_int_equal(rig_store_end(&r, store, items), COUNT);
    assert_int_equal(rig_load(&r, 2, COUNT, INTO), COUNT); /* compares */
    rig_close(&r);
    rig_remove(&r);
}

/** A load that gives nothing in time: the stream is let go, and the load has failed. */
static void watchdog(void **state)
{
    cu_stream stream = gpu_stream(), other = gpu_stream();
    struct attention a = {0};
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    uint32_t *word;
    struct rig r;
    (void)state;

    make(&r, NULL);
    tutti_serve_stream(r.serve, other);
    word = gpu_stuck(other);
    retrieve = begin(&r, false, &match); /* its copies wait for the other stream */
    tutti_serve_stream(r.serve, stream);
    assert_int_equal(tutti_retrieve_layer(retrieve, 0, SECOND / 5), 0);
    a.rig = &r;
    assert_int_equal(d.launch_host(stream, attend, &a), CU_OK);
    assert_true(SOON(tutti_load_acquire(&a.ran) == 1));
    assert_true(a.wrong > 0);
    tutti_store_release(word, 1);
    assert_int_equal(end(&r, retrieve, &match), -ETIMEDOUT); /* though all of it came */
    rig_close(&r);
    rig_remove(&r);
}

/** A wait is refused where it would become part of a graph; the graph is none the worse. */
static void never_captured(void **state)
{
    struct standin_counts counts;
    struct tutti_error err = {0};
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    cu_stream stream = gpu_stream(), other = gpu_stream();
    uint32_t *word;
    cu_graph graph;
    struct rig r;
    (void)state;

    make(&r, NULL);
    tutti_serve_stream(r.serve, other);
    word = gpu_stuck(other);
    retrieve = begin(&r, false, &match);
    tutti_serve_stream(r.serve, stream);
    assert_int_equal(d.capture_begin(stream, CU_CAPTURE_GLOBAL), CU_OK);
    assert_int_equal(tutti_retrieve_layer(retrieve, 0, 10 * SECOND), -EBUSY);
    assert_int_equal(d.capture_end(stream, &graph), CU_OK);
    assert_int_equal(d.graph_destroy(graph), CU_OK);
    standin_counts(&counts);
    assert_int_equal(counts.waits_captured, 0);
    assert_int_equal(tutti_retrieve_refused(retrieve, &err), -EBUSY);
    assert_non_null(strstr(err.message, "preload"));
    tutti_store_release(word, 1);
    assert_int_equal(end(&r, retrieve, &match), -EBUSY);
    rig_close(&r);
    rig_remove(&r);
}

/** What verifies while nothing else goes on reads into pinned memory of its own. */
static void scrub(void **state)
{
    struct tutti_scrub_report report;
    struct tutti_transfer bad[8];
    struct tutti_error err = {0};
    uint64_t until = tutti_clock_now() + 20 * SECOND;
    struct tutti_scrub *s;
    struct rig r;
    (void)state;

    make(&r, NULL);
    rig_ok(tutti_scrub_open(r.serve, 0, UINT64_C(1) << 30, 0, &s, &err), &err);
    do {
        assert_int_equal(tutti_scrub_step(s, tutti_clock_now(), bad, 8), 0);
        tutti_scrub_report(s, &report);
    } while (report.rounds == 0 && tutti_clock_now() < until);
    assert_int_equal(report.verified, COUNT);
    assert_int_equal(report.bad, 0);
    tutti_scrub_close(s);
    rig_close(&r);
    rig_remove(&r);
}

/** Load and store, with the k-th call from here failing. Return: whether all went well. */
static bool with_a_failure(struct rig *r, uint64_t k)
{
    uint32_t chain = 10 + 2 * (uint32_t)k, good = 0;
    struct tutti_transfer items[64];
    struct tutti_origin origins[64];
    struct tutti_error err = {0};
    struct tutti_result result;
    struct tutti_retrieve *load;
    struct tutti_store *store;
    struct tutti_match match;
    uint8_t hashes[64 * 32];
    uint32_t index[64];
    bool all = true;

    memset(r->kv, 0x77, r->kv_bytes);
    assert_int_equal(rig_find(r, 1, COUNT, INTO, &match, items), COUNT);
    standin_fail_call(k, CU_INVALID_VALUE);
    if (tutti_retrieve_begin(r->serve, 0, items, COUNT, false, 1, &load, &err) == 0) {
        assert_int_equal(tutti_retrieve_wait(load, 20 * SECOND), 0);
        tutti_retrieve_result(load, &result);
        for (uint32_t i = 0; i < COUNT; i++) {
            if (result.position[i] == 0)
                assert_int_equal(rig_wrong(r, 1, i, INTO + i), 0);
            good += result.position[i] == 0;
        }
        assert_int_equal(tutti_retrieve_end(load), 0);
    }
    all = good == COUNT;
    assert_int_equal(tutti_directory_unpin(r->directory, match.slot, match.generation), 0);

    rig_hashes(chain, 8, hashes);
    assert_int_equal(
        tutti_directory_reserve(r->directory, hashes, 32, 0, 8, false, items, origins, index), 8);
    for (uint32_t i = 0; i < 8; i++)
        rig_fill(r, chain, items[i].block = index[i], index[i]);
    good = 0;
    if (tutti_store_begin(r->serve, 0, items, origins, 8, RIG_LAYERS, 1, &store, &err) == 0)
        good = rig_store_end(r, store, items);
    else
        for (uint32_t i = 0; i < 8; i++)
            tutti_directory_report(r->directory, 0, items[i].slot, items[i].generation, false);
    standin_fail_call(0, CU_OK);
    assert_int_equal(rig_load(r, chain, 8, INTO), good); /* compares what it calls good */
    return all && good == 8;
}

/** Whichever of the driver's calls fails, all ends, and what is called good is right. */
static void any_call_fails(void **state)
{
    uint32_t failed = 0;
    struct rig r;
    (void)state;

    make(&r, NULL);
    tutti_serve_stream(r.serve, gpu_stream());
    for (uint64_t k = 1; k <= 80; k++)
        failed += !with_a_failure(&r, k);
    assert_true(failed > 10);
    assert_true(with_a_failure(&r, 100000));
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest both[] = {
        cmocka_unit_test(hook_before_the_read),
        cmocka_unit_test(hook_during_the_read),
        cmocka_unit_test(hook_after_the_read),
        cmocka_unit_test(bad_block),
        cmocka_unit_test(a_load_waits_for_its_blocks),
        cmocka_unit_test(a_store_waits_for_its_source),
        cmocka_unit_test(scrub),
        cmocka_unit_test(any_call_fails),
    };
    /* A stream that is stuck holds all others up where there is one queue. */
    const struct CMUnitTest several_queues[] = {
        cmocka_unit_test(watchdog),
        cmocka_unit_test(never_captured),
    };
    const char *queues = getenv("STANDIN_QUEUES");
    int failed;

    engine = argc > 1 ? argv[1] : engine;
    driver_open(&d);
    failed = cmocka_run_group_tests_name(engine, both, NULL, NULL);
    if (!queues || atoi(queues) > 1)
        failed += cmocka_run_group_tests_name("several queues", several_queues, NULL, NULL);
    return failed;
}
