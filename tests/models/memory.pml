/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.pml: weakly ordered memory for the ring's models.
 *
 * Stands for src/base/atomics.h. Each process has a store buffer with one
 * place per word; the process memory() makes stores visible at any later time
 * and in any order, so stores are delayed past loads (as on x86) and past each
 * other (as on Arm). Compare-and-swap and fetch-and-add act on memory at once.
 * Loads are made in the order of the program: where a barrier orders loads, the
 * mutation that removes it exchanges the two loads.
 *
 * The model defines PROCESSES, WORDS and STORED: a SHOW for each process and each
 * word that it stores. A place per word is enough: a newer value may replace an
 * older one that nobody has seen.
 */
byte seen[WORDS];                      /* what others read */
byte buffered[PROCESSES * WORDS];      /* what only its writer reads */
bit holds_store[PROCESSES * WORDS];
byte stores[PROCESSES];                /* buffered now */

#define AT(p, w) ((p) * WORDS + (w))
#define LOAD(p, w) (holds_store[AT(p, w)] -> buffered[AT(p, w)] : seen[w])

/* Relaxed: visible at some time. */
#define store(p, w, value)                                                                     \
    d_step {                                                                                    \
        buffered[AT(p, w)] = value;                                                             \
        stores[p] = stores[p] + !holds_store[AT(p, w)];                                         \
        holds_store[AT(p, w)] = 1                                                               \
    }

/* A full fence, and the release half of a compare-and-swap: all before it is visible. */
#define FENCED(p) (stores[p] == 0)

/* Release: visible at some time, and all before it by then. */
#define store_release(p, w, value)                                                             \
    atomic { FENCED(p) -> store(p, w, value) }

/* For memory(): p's store to w becomes visible. */
#define SHOW(p, w)                                                                             \
    ::atomic { holds_store[AT(p, w)] ->                                                         \
               d_step { seen[w] = buffered[AT(p, w)]; buffered[AT(p, w)] = 0;                   \
                        holds_store[AT(p, w)] = 0; stores[p]-- } }

active proctype memory()
{
end:
    do
    STORED
    od
}
