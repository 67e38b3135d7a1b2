/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h: the directory again, as arrays that are searched from end to end.
 *
 * No table, heap, map or list: children are found by looking at every slot, a
 * use marks the whole prefix, the least recently used leaf is the smallest
 * after looking at all. It does not choose places: it takes those that the
 * directory chose, and checks that they and the evictions were allowed.
 */
#ifndef TESTS_DIRECTORY_MODEL_H
#define TESTS_DIRECTORY_MODEL_H

#include "world.h"

#define NODES 120u
#define MOST_SLOTS 96u

/** A block of the universe of sequences: a tree of hashes. */
struct node {
    uint32_t parent;
    uint32_t depth;
};

struct model_slot {
    enum slot_state state;
    uint32_t node;
    uint32_t parent;
    uint64_t generation;
    uint64_t pending;
    uint64_t touch;
    uint32_t touches;
    uint32_t pins;
    bool is_void;
    bool erase;
};

struct model {
    struct tutti_directory *d;
    struct node node[NODES];
    struct model_slot slot[MOST_SLOTS];
    uint32_t slots;
    uint64_t tick;
    uint64_t epoch;
    uint64_t newest; /* generation */
    /* what happened, so that a test can tell that it tested something */
    uint64_t evictions;
    uint64_t foreign_evictions;
    uint64_t hits;
    uint64_t cut_short;
    uint64_t replaced; /* keys of a void epoch stored again */
    uint64_t shown_by_parent;
};

/** Draw the tree of sequences. */
void model_tree(struct model *m, struct tutti_directory *d, uint64_t *seed);

/** Take over what the directory holds, after its first epoch began: nothing, or loaded. */
void model_adopt(struct model *m);

/** The chain of a node into @c; its length. */
uint32_t model_chain(const struct model *m, uint32_t node, struct chain_of *c, uint32_t *path);

struct tutti_key model_key(const struct model *m, uint32_t node);

/* Each does the call and its naive counterpart, and compares what they say. */
void model_find(struct model *m, uint32_t node);
void model_pin(struct model *m, uint32_t node, uint32_t first);
void model_unpin(struct model *m, uint32_t slot);
void model_reserve(struct model *m, uint32_t node, uint32_t first, bool grows);
void model_report(struct model *m, uint32_t slot, uint32_t rank, bool ok);
void model_drop(struct model *m, uint32_t slot);
void model_take_erased(struct model *m, uint32_t most);
void model_epoch(struct model *m, bool reset, bool other_identity);

/** Every slot, every count, and the directory's own audit. */
void model_compare(const struct model *m);

#endif
