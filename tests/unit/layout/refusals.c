/* SPDX-License-Identifier: Apache-2.0 */
/* A placement outside the format's limits (docs/format.md, sections 4 to 6) is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tutti/format.h"
#include "tutti/geometry.h"

static const struct tutti_geometry shape = {
    .layers = 4, .parts = 2, .object_bytes = 8192, .block_tokens = 16};

#define MIB (UINT64_C(1) << 20)

struct numbers {
    struct tutti_geometry g;
    uint32_t alignment;
    uint64_t first, extent_bytes;
    uint32_t extents, members, records, stride;
};

static int place(const struct numbers *n)
{
    struct tutti_placement p;
    struct tutti_error err = {0};
    int rc = tutti_placement_init(&p, &n->g, n->alignment, n->first, n->extent_bytes, n->extents,
                                  n->members, n->records, n->stride, &err);

    assert_true(rc == 0 || strlen(err.message) > 0);
    return rc;
}

static void outside_the_limits(void **state)
{
    const struct numbers good = {shape, 512, MIB, MIB, 4, 1, 0, 0};
    struct numbers n = good;
    (void)state;

    assert_int_equal(place(&n), 0);
#define TRY(...)                                                                                   \
    do {                                                                                           \
        n = good;                                                                                  \
        __VA_ARGS__;                                                                               \
        assert_int_equal(place(&n), -EINVAL);                                                      \
    } while (0)
    TRY(n.g.layers = 0);
    TRY(n.g.layers = TUTTI_MAX_LAYERS + 1);
    TRY(n.g.parts = 0);
    TRY(n.g.parts = TUTTI_MAX_PARTS + 1);
    TRY(n.g.object_bytes = 0);
    TRY(n.g.object_bytes = (UINT64_C(1) << 30) + 1);
    TRY(n.g.block_tokens = 0);
    TRY(n.g.group = TUTTI_MAX_GROUPS);
    TRY(n.g.reserved = 1);
    TRY(n.alignment = 1024);
    TRY(n.members = 0);
    TRY(n.members = TUTTI_MAX_MEMBERS + 1);
    TRY(n.extent_bytes = 0);
    TRY(n.extent_bytes = MIB + 512);
    TRY(n.extent_bytes = (UINT64_C(1) << 40) + 4096);
    TRY(n.first = 512);
    TRY(n.stride = 256);
    TRY(n.stride = 768);
    TRY((n.g.layers = 100, n.stride = 512));
    TRY(n.extent_bytes = 4096);
    TRY((n.records = 10000, n.stride = 512)); /* nothing is left for slots */
    TRY(n.extents = UINT32_MAX);
#undef TRY
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(outside_the_limits)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
