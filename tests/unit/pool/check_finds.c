/* SPDX-License-Identifier: Apache-2.0 */
/* A check counts each slot whose data changed, tells where, and writes nothing. */
#include "fixture.h"

struct heard {
    uint32_t slot[64];
    uint32_t layer[64];
    int count;
    int stop_after;
    uint64_t done;
    uint64_t all;
};

static int on_bad(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                  const char *what)
{
    struct heard *h = argument;

    assert_non_null(what);
    h->slot[h->count] = entry->slot;
    h->layer[h->count] = layer;
    return ++h->count == h->stop_after;
}

static void on_progress(void *argument, uint64_t done, uint64_t all)
{
    struct heard *h = argument;

    assert_true(done > h->done); /* it only grows */
    h->done = done;
    h->all = all;
}

static bool told(const struct heard *h, uint32_t slot, uint32_t layer)
{
    for (int i = 0; i < h->count; i++)
        if (h->slot[i] == slot && h->layer[i] == layer)
            return true;
    return false;
}

static void counts_and_tells(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    struct tutti_placement p;
    struct tutti_pool *pool;
    struct heard heard = {0};
    struct bytes before;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    tutti_pool_placement(pool, 0, &p);
    for (uint32_t slot = 0; slot < p.records_per_extent; slot++)
        if (slot != 6)
            fixture_write_slot(pool, &(struct fixture_slot){
                                         .slot = slot, .generation = generation_of(1, slot + 1)});
    assert_int_equal(tutti_pool_check(pool, true, &report, on_bad, on_progress, &heard, &err), 0);
    assert_int_equal(heard.count, 0);
    assert_int_equal(heard.done, heard.all);
    assert_int_equal(heard.all, (p.records_per_extent - 1) * tutti_layer_stride(&p) * p.layers);

    fixture_flip(path, (off_t)tutti_object_place(&p, 3, 1, 0).offset);
    fixture_flip(path, (off_t)tutti_object_place(&p, 3, 2, 1).offset); /* the same slot: once */
    fixture_flip(path, (off_t)tutti_object_place(&p, 9, 2, 1).offset + 4999);
    fixture_flip(path, (off_t)tutti_record_place(&p, 5).offset + 100);
    before = fixture_bytes(path);
    memset(&heard, 0, sizeof(heard));
    assert_int_equal(tutti_pool_check(pool, true, &report, on_bad, NULL, &heard, &err), 2);
    assert_int_equal(heard.count, 3);
    assert_true(told(&heard, 3, 1));
    assert_true(told(&heard, 9, 2));
    assert_true(told(&heard, 5, UINT32_MAX));
    assert_int_equal(report.torn, 1);
    assert_unchanged(path, before);
    free(before.data);

    memset(&heard, 0, sizeof(heard));
    assert_int_equal(tutti_pool_check(pool, false, &report, on_bad, NULL, &heard, &err), 0);
    assert_int_equal(heard.count, 1); /* records only */
    heard = (struct heard){.stop_after = 1};
    assert_true(tutti_pool_check(pool, true, &report, on_bad, NULL, &heard, &err) >= 0);
    assert_int_equal(heard.count, 1);
    tutti_pool_close(pool);
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(counts_and_tells)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
