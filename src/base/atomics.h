/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atomics.h: the few memory operations that shared words need, by name.
 *
 * On plain types, since nvcc takes no <stdatomic.h>. Every use has a comment
 * that says which other operation it pairs with (docs/memory-model.md).
 */
#ifndef TUTTI_BASE_ATOMICS_H
#define TUTTI_BASE_ATOMICS_H

/* What was written before the release is seen by who acquires the value. */
#define tutti_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define tutti_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Whole, and no more: counters, flags that order nothing. */
#define tutti_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define tutti_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define tutti_add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

/* Both ways: the last of several to arrive sees what the others wrote. */
#define tutti_sub_acq_rel(p, v) __atomic_sub_fetch((p), (v), __ATOMIC_ACQ_REL)
/* One of several changes it; *expected tells what was there. */
#define tutti_compare_swap(p, expected, desired)                                                   \
    __atomic_compare_exchange_n((p), (expected), (desired), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

/* A store before it and a load after it stay in that order (Dekker's pattern). */
#define tutti_fence_full() __atomic_thread_fence(__ATOMIC_SEQ_CST)

#endif
