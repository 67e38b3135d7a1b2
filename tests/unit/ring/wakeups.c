/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No wake-up is lost: a consumer that sleeps without bound is woken by an
 * issue, by a completion that it stepped over for, by a cancel; a waiter by
 * the completion. A lost one shows as an alarm that ends the program.
 *
 * Seen to fail (alarm) with sleep() that does not look at the tail again after
 * its flag, and with wake_holders() left out of finish(). (The full fences
 * themselves only show on machines and compilers that move the load up.)
 */
#include "fake_map.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

enum { ROUNDS = 30000, SWEEPS = 200000, CONSUMERS = 2 };

static struct fake_map f;
static struct tutti_ring *ring;

static void sleep_until_woken(uint32_t consumer)
{
    struct pollfd p = {.fd = tutti_ring_wakeup_fd(ring, consumer), .events = POLLIN};
    uint64_t count;

    assert_int_equal(poll(&p, 1, -1), 1);
    assert_int_equal(read(p.fd, &count, sizeof(count)), sizeof(count));
}

/** Finishes whatever is ready or cancelled; steps over the rest; sleeps otherwise. */
static void *consume(void *argument)
{
    uint32_t me = (uint32_t)(uintptr_t)argument;
    uint32_t held[8], holds = 0, ended = 0;

    while (ended < 2 * ROUNDS) {
        bool worked = false;
        uint32_t index;

        while ((index = tutti_ring_take(ring, me)) != TUTTI_NO_IOCB)
            held[holds++] = index;
        for (uint32_t i = 0; i < holds;)
            if (tutti_ring_ready(ring, held[i]) || tutti_ring_cancelled(ring, held[i])) {
                tutti_ring_finish(ring, held[i], me, 1, 0, 0, 0, 0);
                held[i] = held[--holds];
                worked = true;
                ended++;
            } else {
                i++;
            }
        if (worked || !tutti_ring_sleep(ring, me, holds > 0))
            continue;
        for (uint32_t i = 0; i < holds; i++)
            worked =
                worked || tutti_ring_ready(ring, held[i]) || tutti_ring_cancelled(ring, held[i]);
        if (!worked)
            sleep_until_woken(me);
        tutti_ring_awake(ring, me);
    }
    return NULL;
}

static void none_is_lost(void **state)
{
    pthread_t thread[CONSUMERS];
    static uint32_t never;
    (void)state;

    fake_map_init(&f, CONSUMERS);
    assert_int_equal(tutti_ring_new(4, CONSUMERS, &ring, NULL), 0);
    for (uint32_t c = 0; c < CONSUMERS; c++)
        pthread_create(&thread[c], NULL, consume, (void *)(uintptr_t)c);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t a, b;
        struct tutti_iocb *second;

        fake_iocb(ring, &f, &a);
        assert_int_equal(tutti_ring_issue(ring, a), 0);
        second = fake_iocb(ring, &f, &b);
        if (i % 4 == 3)
            second->ready = &never, second->ready_value = 1;
        else
            second->wait_for = a;
        assert_int_equal(tutti_ring_issue(ring, b), 0);
        if (i % 4 == 3)
            tutti_ring_cancel(ring, b);
        tutti_ring_wait(ring, b, UINT64_MAX);
        tutti_ring_wait(ring, a, UINT64_MAX);
        assert_int_equal(tutti_ring_put(ring, a), 0);
        assert_int_equal(tutti_ring_put(ring, b), 0);
    }
    for (uint32_t c = 0; c < CONSUMERS; c++)
        pthread_join(thread[c], NULL);
    tutti_ring_free(ring);
}

static void *consume_one(void *argument)
{
    (void)argument;
    for (uint32_t ended = 0; ended < SWEEPS;) {
        uint32_t index = tutti_ring_take(ring, 0);

        if (index != TUTTI_NO_IOCB) {
            tutti_ring_finish(ring, index, 0, 1, 0, 0, 0, 0);
            ended++;
            for (volatile uint32_t pause = 0; pause < ended % 512; pause = pause + 1)
                ;
        } else if (tutti_ring_sleep(ring, 0, false)) {
            sleep_until_woken(0);
            tutti_ring_awake(ring, 0);
        }
    }
    return NULL;
}

/** An issue at every moment of falling asleep: the consumer's pause sweeps over it. */
static void none_is_lost_while_falling_asleep(void **state)
{
    pthread_t thread;
    (void)state;

    fake_map_init(&f, 1);
    assert_int_equal(tutti_ring_new(4, 1, &ring, NULL), 0);
    pthread_create(&thread, NULL, consume_one, NULL);
    for (uint32_t i = 0; i < SWEEPS; i++) {
        uint32_t index;

        fake_iocb(ring, &f, &index);
        assert_int_equal(tutti_ring_issue(ring, index), 0);
        while (!tutti_ring_done(ring, index))
            ;
        assert_int_equal(tutti_ring_put(ring, index), 0);
    }
    pthread_join(thread, NULL);
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_is_lost),
        cmocka_unit_test(none_is_lost_while_falling_asleep),
    };

    alarm(120);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
