/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ends between the two looks of a cancel has ended, and is not said to be still under way.
 * The end comes with the wake-up of a consumer that holds something. Seen to fail without the
 * second look.
 */
#include "fake_map.h"

#include <sys/types.h>

static struct fake_map f;
static struct tutti_ring *ring;
static uint32_t ending = TUTTI_NO_IOCB;

ssize_t __real_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes)
{
    uint32_t index = ending;

    ending = TUTTI_NO_IOCB;
    if (index != TUTTI_NO_IOCB)
        tutti_ring_finish(ring, index, 0, 1, 2, 3, 4, 5);
    return __real_write(fd, data, bytes);
}

static void is_told(void **state)
{
    uint32_t index;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(2, 1, &ring, NULL), 0);
    for (int ends = 0; ends < 2; ends++) {
        assert_non_null(fake_iocb(ring, &f, &index));
        assert_int_equal(tutti_ring_issue(ring, index), 0);
        assert_int_equal(tutti_ring_take(ring, 0), index);
        assert_true(tutti_ring_start(ring, index, 1));
        assert_true(tutti_ring_sleep(ring, 0, true));
        if (ends)
            ending = index;
        assert_int_equal(tutti_ring_cancel(ring, index),
                         ends ? TUTTI_CANCEL_ENDED : TUTTI_CANCEL_FENCED);
        if (!ends)
            tutti_ring_finish(ring, index, 0, 1, 2, 3, 4, 5);
        assert_int_equal(tutti_ring_wait(ring, index, 0), 0);
        assert_int_equal(tutti_ring_put(ring, index), 0);
    }
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(is_told)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
