/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one consumer did for an IOCB is seen by another consumer of one that waits
 * for it, whether it was waited for or had completed when the other was issued.
 *
 * Meant for TSan: seen to fail there with issue() reading the turn relaxed.
 */
#include "fake_map.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

enum { DEPTH = 64, PAIRS = 20000 };

static struct fake_map f;
static struct tutti_ring *ring;
static uint64_t word[DEPTH]; /* plain: written for A by consumer 0, read for B by consumer 1 */
static uint64_t unseen;

static void *consume(void *argument)
{
    uint32_t me = (uint32_t)(uintptr_t)argument;

    for (uint32_t n = 0; n < 2 * PAIRS;) {
        uint32_t index = tutti_ring_take(ring, me);
        const struct tutti_iocb *iocb;
        bool first;

        if (index == TUTTI_NO_IOCB) {
            sched_yield();
            continue;
        }
        iocb = tutti_ring_iocb(ring, index);
        first = iocb->wait_for == TUTTI_NO_IOCB;
        while (!tutti_ring_ready(ring, index))
            sched_yield();
        tutti_ring_start(ring, index, 1);
        if (first && me == 0)
            word[index] = iocb->tag;
        if (!first && me == 1)
            unseen += word[iocb->wait_for] != iocb->tag;
        tutti_ring_finish(ring, index, me, 1, 1, 1, 0, 1);
        n++;
    }
    return NULL;
}

static uint32_t issue(uint64_t tag, uint32_t wait_for)
{
    uint32_t index;
    struct tutti_iocb *iocb = fake_iocb(ring, &f, &index);

    assert_non_null(iocb);
    iocb->tag = tag;
    iocb->wait_for = wait_for;
    assert_int_equal(tutti_ring_issue(ring, index), 0);
    return index;
}

static void what_was_done_is_seen(void **state)
{
    pthread_t thread[2];
    (void)state;

    fake_map_init(&f, 2);
    assert_int_equal(tutti_ring_new(DEPTH, 2, &ring, NULL), 0);
    for (uint32_t c = 0; c < 2; c++)
        pthread_create(&thread[c], NULL, consume, (void *)(uintptr_t)c);
    for (uint64_t pair = 0; pair < PAIRS; pair++) {
        uint32_t a = issue(pair + 1, TUTTI_NO_IOCB);
        uint32_t b;

        for (uint64_t pause = pair % 8; pause > 0; pause--)
            sched_yield(); /* so that A has completed, sometimes, and nobody looked */
        b = issue(pair + 1, a);
        assert_int_equal(tutti_ring_wait(ring, b, UINT64_MAX), 0);
        assert_int_equal(tutti_ring_put(ring, b), 0);
        assert_int_equal(tutti_ring_wait(ring, a, UINT64_MAX), 0);
        assert_int_equal(tutti_ring_put(ring, a), 0);
    }
    for (uint32_t c = 0; c < 2; c++)
        pthread_join(thread[c], NULL);
    assert_int_equal(unseen, 0);
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_done_is_seen)};

    alarm(300);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
