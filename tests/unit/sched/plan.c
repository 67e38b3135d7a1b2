/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simple policy, with the clock handed in: loads before stores, a fixed
 * look-ahead, and an age at which a store goes all the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tutti/sched.h"

static const struct tutti_sched_options options = {.look_ahead = 3, .store_age_ns = 100};

static struct tutti_sched_plan plan(struct tutti_sched_state s)
{
    struct tutti_sched_plan p;

    tutti_sched_plan(&options, &s, &p);
    return p;
}

static void looks_ahead_and_no_further(void **state)
{
    uint32_t issued = 0;
    (void)state;

    for (uint32_t needed = 0; needed < 10; needed++) {
        issued += plan((struct tutti_sched_state){
                           .layers = 10, .load_needed = needed, .load_issued = issued})
                      .issue_layers;
        assert_int_equal(issued, needed + 4 < 10 ? needed + 4 : 10);
    }
}

static void stores_wait_for_loads_but_not_for_ever(void **state)
{
    struct tutti_sched_state busy = {.now = 1050, .loads_pending = 1, .oldest_store = 1000};
    (void)state;

    assert_false(plan(busy).issue_stores);
    assert_int_equal(plan(busy).wake_at, 1100);
    busy.now = 1100;
    assert_true(plan(busy).issue_stores);
    assert_int_equal(plan(busy).wake_at, 0);
    busy.now = 1000;
    busy.loads_pending = 0;
    assert_true(plan(busy).issue_stores);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(looks_ahead_and_no_further),
        cmocka_unit_test(stores_wait_for_loads_but_not_for_ever),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
