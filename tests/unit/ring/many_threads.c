/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A producer, four consumers, two waiters and a canceller over 100,000 IOCBs:
 * every completion comes once, with every consumer's share in it, and what was
 * cancelled before it started moved nothing. Meant for TSan as well.
 *
 * Seen to fail under TSan with a relaxed store of tail (the IOCB's fields race),
 * with a relaxed decrement of remaining (the shares race), and with a relaxed
 * store of turn (the completion races).
 */
#include "fake_map.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

enum { CONSUMERS = 4, DEPTH = 64, IOCBS = 100000 };

static struct fake_map f;
static struct tutti_ring *ring;
static uint32_t newest; /* index that waiters and the canceller look at; relaxed */
static bool over;
static uint64_t cancels[3];

static void *consume(void *argument)
{
    uint32_t me = (uint32_t)(uintptr_t)argument;

    for (uint32_t n = 0; n < IOCBS;) {
        uint32_t index = tutti_ring_take(ring, me);
        const struct tutti_iocb *iocb;
        uint64_t moved = 0;

        if (index == TUTTI_NO_IOCB) {
            sched_yield();
            continue;
        }
        iocb = tutti_ring_iocb(ring, index);
        if (tutti_ring_start(ring, index, 1))
            moved = iocb->tag + me;
        tutti_ring_finish(ring, index, me, 2, moved, 1, 0, moved != 0);
        n++;
    }
    return NULL;
}

/** Somebody else who waits; the producer may put the IOCB back only when nobody does. */
static uint32_t waiting;
static uint32_t wanted = TUTTI_NO_IOCB;

static void *wait_too(void *argument)
{
    (void)argument;
    while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE)) {
        uint32_t index = __atomic_exchange_n(&wanted, TUTTI_NO_IOCB, __ATOMIC_ACQ_REL);

        if (index == TUTTI_NO_IOCB) {
            sched_yield();
            continue;
        }
        tutti_ring_wait(ring, index, UINT64_MAX);
        if (!tutti_ring_done(ring, index))
            fail();
        __atomic_fetch_sub(&waiting, 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void *cancel_some(void *argument)
{
    (void)argument;
    while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE)) {
        cancels[tutti_ring_cancel(ring, __atomic_load_n(&newest, __ATOMIC_RELAXED))]++;
        usleep(20);
    }
    return NULL;
}

static void check(uint32_t index, uint64_t tag)
{
    const struct tutti_completion *c = &tutti_ring_iocb(ring, index)->completion;

    assert_true(c->status == 0 || c->status == -ECANCELED);
    assert_int_equal(c->hashed, CONSUMERS);
    if (c->status == -ECANCELED)
        assert_int_equal(c->commands, 0);
    for (uint32_t k = 0; k < CONSUMERS; k++)
        assert_true(c->bytes[k] == tag + k || c->bytes[k] == 0);
}

static void every_completion_comes_once(void **state)
{
    pthread_t thread[CONSUMERS + 3];
    uint32_t out[DEPTH], issued = 0, collected = 0;
    (void)state;

    fake_map_init(&f, CONSUMERS);
    assert_int_equal(tutti_ring_new(DEPTH, CONSUMERS, &ring, NULL), 0);
    for (uint32_t c = 0; c < CONSUMERS; c++)
        pthread_create(&thread[c], NULL, consume, (void *)(uintptr_t)c);
    pthread_create(&thread[CONSUMERS], NULL, wait_too, NULL);
    pthread_create(&thread[CONSUMERS + 1], NULL, wait_too, NULL);
    pthread_create(&thread[CONSUMERS + 2], NULL, cancel_some, NULL);
    while (collected < IOCBS) {
        uint32_t index;
        struct tutti_iocb *iocb =
            issued < IOCBS && issued - collected < DEPTH ? fake_iocb(ring, &f, &index) : NULL;

        if (iocb) {
            iocb->tag = 1000 + issued;
            assert_int_equal(tutti_ring_issue(ring, index), 0);
            out[issued++ % DEPTH] = index;
            __atomic_store_n(&newest, index, __ATOMIC_RELAXED);
            if (issued % 8 == 0 && __atomic_load_n(&wanted, __ATOMIC_RELAXED) == TUTTI_NO_IOCB &&
                __atomic_load_n(&waiting, __ATOMIC_ACQUIRE) == 0) {
                __atomic_store_n(&waiting, 1, __ATOMIC_RELAXED);
                __atomic_store_n(&wanted, index, __ATOMIC_RELEASE);
            }
            continue;
        }
        index = out[collected % DEPTH];
        tutti_ring_wait(ring, index, UINT64_MAX);
        check(index, 1000 + collected);
        while (__atomic_load_n(&waiting, __ATOMIC_ACQUIRE) != 0)
            sched_yield();
        assert_int_equal(tutti_ring_put(ring, index), 0);
        collected++;
    }
    __atomic_store_n(&over, true, __ATOMIC_RELEASE);
    for (uint32_t c = 0; c < CONSUMERS + 3; c++)
        pthread_join(thread[c], NULL);
    print_message("cancels: %llu not started, %llu ended, %llu fenced\n",
                  (unsigned long long)cancels[0], (unsigned long long)cancels[1],
                  (unsigned long long)cancels[2]);
    tutti_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_completion_comes_once)};

    alarm(300);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
