/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bounds of errors are exact: one error less fences nothing, in a row, within a minute, and for
 * wrong checksums; what succeeds ends a row, and a minute ends a window.
 * Seen to fail with ">" for ">=" in each of the three comparisons, without the reset of in_row, and
 * with a window that never begins anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/health.h"

enum { BOUND = 5 };

static const uint64_t start = 7;

static void in_a_row(void **state)
{
    struct health h = {.bound = BOUND};
    (void)state;

    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < BOUND - 1; i++)
            assert_null(health_note(&h, HEALTH_ERROR, start + i));
        assert_null(health_note(&h, HEALTH_GOOD, start));
    }
    health_reset(&h);
    for (uint32_t i = 0; i < BOUND - 1; i++)
        assert_null(health_note(&h, HEALTH_ERROR, start + i * HEALTH_WINDOW_NS));
    assert_non_null(health_note(&h, HEALTH_ERROR, start + BOUND * HEALTH_WINDOW_NS));
    health_reset(&h);
    assert_null(health_note(&h, HEALTH_ERROR, start));
}

/** @events of a kind, each followed by a success, the last one @later after the first. */
static const char *spread(enum health_event event, uint32_t events, uint64_t later)
{
    struct health h = {.bound = BOUND};
    const char *why = NULL;

    for (uint32_t i = 0; i < events; i++) {
        assert_null(why);
        why = health_note(&h, event, i + 1 < events ? start + i : start + later);
        assert_null(health_note(&h, HEALTH_GOOD, start));
    }
    return why;
}

static void within_a_minute(void **state)
{
    const uint32_t errors = BOUND * HEALTH_ERRORS, mismatches = BOUND * HEALTH_MISMATCHES;
    (void)state;

    assert_null(spread(HEALTH_ERROR, errors - 1, HEALTH_WINDOW_NS - 1));
    assert_non_null(spread(HEALTH_ERROR, errors, HEALTH_WINDOW_NS - 1));
    assert_null(spread(HEALTH_ERROR, errors, HEALTH_WINDOW_NS));
    assert_null(spread(HEALTH_MISMATCH, mismatches - 1, HEALTH_WINDOW_NS - 1));
    assert_non_null(spread(HEALTH_MISMATCH, mismatches, HEALTH_WINDOW_NS - 1));
    assert_null(spread(HEALTH_MISMATCH, mismatches, HEALTH_WINDOW_NS));
}

static void never(void **state)
{
    struct health h = {.bound = UINT32_MAX};
    (void)state;

    for (uint32_t i = 0; i < 100000; i++)
        assert_null(health_note(&h, i % 2 ? HEALTH_ERROR : HEALTH_MISMATCH, start));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_a_row),
        cmocka_unit_test(within_a_minute),
        cmocka_unit_test(never),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
