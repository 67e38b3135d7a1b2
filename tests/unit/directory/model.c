/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <errno.h>

static struct chain_of chain; /* too large for a stack */

void model_tree(struct model *m, struct tutti_directory *d, uint64_t *seed)
{
    uint32_t i;

    memset(m, 0, sizeof(*m));
    m->d = d;
    m->slots = d->slots;
    assert_true(m->slots <= MOST_SLOTS);
    for (i = 0; i < NODES; i++) {
        /* Mostly long chains, now and then a branch or a new root. */
        uint32_t what = below(seed, 16);

        m->node[i].parent = i == 0 || what == 0 ? NONE : what < 13 ? i - 1 : below(seed, i);
        m->node[i].depth = m->node[i].parent == NONE ? 0 : m->node[m->node[i].parent].depth + 1;
    }
}

void model_adopt(struct model *m)
{
    const struct tutti_directory *d = m->d;
    uint32_t i;
    uint32_t n;

    m->tick = d->tick;
    m->epoch = d->epoch;
    m->newest = d->epoch << TUTTI_EPOCH_SHIFT;
    for (n = 0; n < m->slots; n++) {
        struct model_slot *s = &m->slot[n];

        s->state = (enum slot_state)d->slot[n].state;
        s->parent = s->state == SLOT_VISIBLE ? d->slot[n].parent : NONE;
        s->generation = d->slot[n].generation;
        s->touch = d->slot[n].touch;
        s->node = NONE;
        for (i = 0; i < NODES && s->state == SLOT_VISIBLE; i++)
            if (tutti_key_equal(model_key(m, i), d->slot[n].key))
                s->node = i;
        assert_true(s->state != SLOT_VISIBLE || s->node != NONE);
    }
    /* What was loaded last is a use of everything above it. */
    for (n = 0; n < m->slots; n++)
        for (i = m->slot[n].parent; i != NONE; i = m->slot[i].parent)
            if (m->slot[i].touch < m->slot[n].touch)
                m->slot[i].touch = m->slot[n].touch;
}

struct tutti_key model_key(const struct model *m, uint32_t node)
{
    uint8_t hash[HASH_BYTES];

    hash_fill(hash, node, 0);
    return tutti_key_make(m->d->options.secret, m->d->options.identity,
                          m->d->options.geometry.group, hash, HASH_BYTES);
}

uint32_t model_chain(const struct model *m, uint32_t node, struct chain_of *c, uint32_t *path)
{
    uint32_t length = m->node[node].depth + 1;
    uint32_t i;

    for (i = length; i-- > 0; node = m->node[node].parent) {
        path[i] = node;
        hash_fill(c->hash + (size_t)i * HASH_BYTES, node, 0);
    }
    return length;
}

static bool in_tree(const struct model_slot *s)
{
    return s->state == SLOT_WRITING || s->state == SLOT_VISIBLE || s->state == SLOT_HIDDEN;
}

/* The slot that counts for a node: given out or visible, and not void. */
static uint32_t holder(const struct model *m, uint32_t node)
{
    uint32_t found = NONE;
    uint32_t n;

    for (n = 0; n < m->slots; n++) {
        const struct model_slot *s = &m->slot[n];

        if ((s->state != SLOT_WRITING && s->state != SLOT_VISIBLE) || s->is_void || s->node != node)
            continue;
        assert_int_equal(found, NONE); /* twins are stored once */
        found = n;
    }
    return found;
}

static bool childless(const struct model *m, uint32_t slot)
{
    uint32_t n;

    for (n = 0; n < m->slots; n++)
        if (in_tree(&m->slot[n]) && m->slot[n].parent == slot)
            return false;
    return true;
}

static bool can_go(const struct model *m, uint32_t slot)
{
    const struct model_slot *s = &m->slot[slot];

    return (s->state == SLOT_VISIBLE || s->state == SLOT_FOREIGN) && s->pins == 0 &&
           childless(m, slot);
}

static void use(struct model *m, uint32_t slot)
{
    for (; slot != NONE; slot = m->slot[slot].parent) {
        m->slot[slot].touch = m->tick;
        m->slot[slot].touches++;
    }
}

/* Until nothing changes: show what is complete, free what is hidden and unneeded. */
static void settle(struct model *m, uint32_t reported)
{
    bool changed = true;

    while (changed) {
        uint32_t n;

        changed = false;
        for (n = 0; n < m->slots; n++) {
            struct model_slot *s = &m->slot[n];

            if (s->state == SLOT_WRITING && s->pending == 0 && !s->is_void &&
                (s->parent == NONE || m->slot[s->parent].state == SLOT_VISIBLE)) {
                s->state = SLOT_VISIBLE;
                m->shown_by_parent += n != reported;
                changed = true;
            }
            if (s->state == SLOT_HIDDEN && s->pending == 0 && s->pins == 0 && childless(m, n)) {
                s->state = s->erase ? SLOT_ERASING : SLOT_FREE;
                s->erase = false;
                s->parent = NONE;
                changed = true;
            }
        }
    }
}

static uint32_t hide(struct model *m, uint32_t slot, bool erase)
{
    uint32_t hidden = 0;
    uint32_t n;

    if (m->slot[slot].state != SLOT_HIDDEN)
        hidden = 1;
    m->slot[slot].state = SLOT_HIDDEN;
    m->slot[slot].erase |= erase;
    for (n = 0; n < m->slots; n++)
        if (in_tree(&m->slot[n]) && m->slot[n].parent == slot)
            hidden += hide(m, n, erase);
    return hidden;
}

static uint32_t longest(const struct model *m, const uint32_t *path, uint32_t length)
{
    uint32_t blocks = 0;

    while (blocks < length) {
        uint32_t n = holder(m, path[blocks]);

        if (n == NONE || m->slot[n].state != SLOT_VISIBLE)
            break;
        blocks++;
    }
    return blocks;
}

void model_find(struct model *m, uint32_t node)
{
    uint32_t path[NODES];
    uint32_t length = model_chain(m, node, &chain, path);
    struct tutti_match match = match_of(m->d, &chain, length);

    assert_int_equal(match.blocks, longest(m, path, length));
    m->hits += match.blocks > 1;
    if (match.blocks == 0) {
        assert_int_equal(match.slot, TUTTI_NO_SLOT);
    } else {
        uint32_t n = holder(m, path[match.blocks - 1]);

        assert_int_equal(match.slot, slot_number(m->d, n));
        assert_int_equal(match.generation, m->slot[n].generation);
    }
}

void model_pin(struct model *m, uint32_t node, uint32_t first)
{
    uint32_t path[NODES];
    uint32_t length = model_chain(m, node, &chain, path);
    struct tutti_match match = match_of(m->d, &chain, length);
    uint32_t i;

    if (match.blocks == 0)
        return;
    first %= match.blocks + 1;
    assert_int_equal(tutti_directory_pin(m->d, &match, first, chain.out), 0);
    for (i = first; i < match.blocks; i++) {
        const struct tutti_transfer *t = &chain.out[i - first];
        uint32_t n = holder(m, path[i]);

        assert_int_equal(t->slot, slot_number(m->d, n));
        assert_int_equal(t->generation, m->slot[n].generation);
        assert_true(tutti_key_equal(t->key, model_key(m, path[i])));
    }
    m->tick++;
    m->slot[holder(m, path[match.blocks - 1])].pins++;
    use(m, holder(m, path[match.blocks - 1]));
}

void model_unpin(struct model *m, uint32_t slot)
{
    struct model_slot *s = &m->slot[slot];
    int rc = tutti_directory_unpin(m->d, slot_number(m->d, slot), s->generation);

    assert_int_equal(rc, s->pins ? 0 : -EINVAL);
    s->pins -= s->pins != 0;
    settle(m, slot);
}

/* Which of the model's slots the directory has taken from their owners. */
static uint32_t find_evicted(const struct model *m, bool *gone)
{
    uint32_t count = 0;
    uint32_t n;

    for (n = 0; n < m->slots; n++) {
        const struct slot *s = &m->d->slot[n];
        const struct model_slot *old = &m->slot[n];

        gone[n] = (old->state == SLOT_VISIBLE || old->state == SLOT_FOREIGN) &&
                  (s->state == SLOT_FREE || s->generation != old->generation);
        count += gone[n];
    }
    return count;
}

/* Exactly what leaves can go, oldest use first, and never what is being extended. */
static void replay_evictions(struct model *m, bool *gone, uint32_t count, uint32_t guard)
{
    for (; count > 0; count--) {
        uint64_t least = UINT64_MAX;
        uint32_t choice = NONE;
        uint32_t n;

        for (n = 0; n < m->slots; n++)
            if (n != guard && can_go(m, n) && m->slot[n].touch < least)
                least = m->slot[n].touch;
        for (n = 0; n < m->slots; n++)
            if (gone[n] && n != guard && can_go(m, n) && m->slot[n].touch == least)
                choice = n;
        if (choice == NONE)
            fail_msg("evicted what was not the least recently used leaf");
        if (m->slot[choice].state == SLOT_VISIBLE && !m->slot[choice].is_void)
            m->evictions++;
        else
            m->foreign_evictions++;
        gone[choice] = false;
        m->slot[choice].state = SLOT_FREE;
        m->slot[choice].parent = NONE;
    }
}

static void replay_taken_back(struct model *m)
{
    uint32_t n;

    for (n = 0; n < m->slots; n++)
        if (m->slot[n].state == SLOT_CARVED && m->d->slot[n].state != SLOT_CARVED)
            m->slot[n].state = SLOT_FREE;
}

static uint32_t in_state(const struct model *m, enum slot_state state)
{
    uint32_t count = 0;
    uint32_t n;

    for (n = 0; n < m->slots; n++)
        count += m->slot[n].state == state;
    return count;
}

/* What it may have done for @needed blocks, of which it gave @given. */
static void check_room(struct model *m, uint32_t needed, uint32_t given, uint32_t evicted,
                       uint32_t open_before, uint32_t guard)
{
    uint32_t piece = needed + m->d->run_slots;
    uint32_t n;

    if (given < needed) {
        m->cut_short++;
        assert_int_equal(in_state(m, SLOT_FREE), 0);
        for (n = 0; n < m->slots; n++)
            assert_true(n == guard || !can_go(m, n));
    }
    /* No more is evicted than the call needs, a piece at a time. */
    if (m->d->spare == 0) {
        uint32_t missing = given > open_before ? given - open_before : 0;
        uint32_t most = missing ? missing - 1 + piece : 0;

        /* In larger pools, also to make a run of pieces. */
        assert_true(evicted <=
                    (m->slots < IDLE_SHARE ? most : given + m->slots / IDLE_SHARE + piece));
    }
}

static void check_entry(struct model *m, uint32_t i, uint32_t block, uint32_t node, uint32_t parent)
{
    const struct tutti_transfer *t = &chain.out[i];
    uint32_t n = slot_index(m->d, t->slot);
    struct tutti_key above =
        parent == NONE ? (struct tutti_key){{0, 0}} : model_key(m, m->slot[parent].node);

    assert_true(n != NONE);
    assert_int_equal(chain.index[i], block);
    assert_int_equal(m->slot[n].state, SLOT_FREE); /* never two owners */
    assert_true(t->generation > m->newest);        /* never twice */
    assert_int_equal(tutti_generation_epoch(t->generation), m->epoch);
    assert_true(tutti_key_equal(t->key, model_key(m, node)));
    assert_true(tutti_key_equal(chain.origin[i].parent, above));
    assert_memory_equal(chain.origin[i].engine_hash, chain.hash + (size_t)block * HASH_BYTES,
                        HASH_BYTES);
    assert_int_equal(chain.origin[i].incarnation, m->d->extent[n / m->d->per_extent].incarnation);
    m->newest = t->generation;
    m->slot[n] = (struct model_slot){.state = SLOT_WRITING,
                                     .node = node,
                                     .parent = parent,
                                     .generation = t->generation,
                                     .pending = m->d->all_ranks,
                                     .touch = m->tick};
}

void model_reserve(struct model *m, uint32_t node, uint32_t first, bool grows)
{
    uint32_t path[NODES] = {0};
    uint32_t length = model_chain(m, node, &chain, path);
    uint32_t last;
    uint32_t block;
    uint32_t evicted;
    uint32_t ours = 0;
    uint32_t open_before;
    bool gone[MOST_SLOTS];
    uint32_t n;
    uint32_t o;
    int given;

    first = length ? first % length : 0;
    last = first ? holder(m, path[first - 1]) : NONE;
    open_before = (uint32_t)m->d->open_count;
    given = reserve(m->d, &chain, first, length - first, grows);
    if (first && last == NONE) {
        assert_int_equal(given, -ENOENT);
        return;
    }
    assert_true(given >= 0);
    m->tick++;
    for (block = first; block < length && holder(m, path[block]) != NONE; block++)
        last = holder(m, path[block]);
    evicted = find_evicted(m, gone);
    for (n = 0; n < m->slots; n++)
        ours += gone[n] && m->slot[n].state == SLOT_VISIBLE && !m->slot[n].is_void;
    replay_taken_back(m);
    replay_evictions(m, gone, evicted, last);
    assert_true((uint32_t)given <= length - block);
    for (n = 0; n < (uint32_t)given; n++) {
        for (o = 0; o < m->slots; o++)
            m->replaced += in_tree(&m->slot[o]) && m->slot[o].is_void &&
                           m->slot[o].node == path[block + n] && m->slot[o].state != SLOT_HIDDEN;
        check_entry(m, n, block + n, path[block + n], last);
        last = slot_index(m->d, chain.out[n].slot);
    }
    check_room(m, length - block, (uint32_t)given, ours, open_before, last);
    use(m, last);
}

void model_report(struct model *m, uint32_t slot, uint32_t rank, bool ok)
{
    struct model_slot *s = &m->slot[slot];
    bool owes = in_tree(s) && (s->pending >> rank & 1);
    int rc = tutti_directory_report(m->d, rank, slot_number(m->d, slot), s->generation, ok);

    assert_int_equal(rc, owes ? 0 : -EINVAL);
    if (!owes)
        return;
    s->pending &= ~(UINT64_C(1) << rank);
    if (s->state == SLOT_WRITING && (!ok || (s->is_void && s->pending == 0)))
        hide(m, slot, false);
    settle(m, slot);
}

void model_drop(struct model *m, uint32_t slot)
{
    struct model_slot *s = &m->slot[slot];
    uint32_t expected = 0;

    if ((s->state == SLOT_WRITING || s->state == SLOT_VISIBLE) && !s->is_void)
        expected = hide(m, slot, true);
    assert_int_equal(tutti_directory_drop(m->d, slot_number(m->d, slot), s->generation), expected);
    settle(m, slot);
}

void model_take_erased(struct model *m, uint32_t most)
{
    struct tutti_transfer out[MOST_SLOTS];
    uint32_t waiting = in_state(m, SLOT_ERASING);
    size_t count = tutti_directory_take_erased(m->d, out, most);
    size_t i;

    assert_int_equal(count, waiting < most ? waiting : most);
    for (i = 0; i < count; i++) {
        uint32_t n = slot_index(m->d, out[i].slot);

        assert_true(n != NONE && m->slot[n].state == SLOT_ERASING);
        assert_int_equal(out[i].generation, m->slot[n].generation);
        m->slot[n].state = SLOT_FREE;
    }
}

void model_epoch(struct model *m, bool reset, bool other_identity)
{
    uint8_t identity[TUTTI_IDENTITY_BYTES];
    uint32_t n;

    memcpy(identity, m->d->options.identity, sizeof(identity));
    identity[0] = (uint8_t)(identity[0] + other_identity);
    m->epoch++;
    assert_int_equal(tutti_directory_begin_epoch(m->d, m->epoch, reset, identity, NULL), 0);
    for (n = 0; n < m->slots; n++)
        if (in_tree(&m->slot[n]) && (reset || other_identity))
            m->slot[n].is_void = true;
}

void model_compare(const struct model *m)
{
    struct tutti_directory_stats stats = stats_of(m->d);
    uint64_t visible = 0;
    uint64_t pins = 0;
    uint32_t n;

    audit(m->d);
    for (n = 0; n < m->slots; n++) {
        const struct model_slot *s = &m->slot[n];
        const struct slot *t = &m->d->slot[n];

        assert_int_equal(t->state, s->state);
        visible += s->state == SLOT_VISIBLE && !s->is_void;
        pins += s->pins;
        if (s->state == SLOT_FREE || s->state == SLOT_CARVED)
            continue;
        assert_int_equal(t->generation, s->generation);
        assert_int_equal(t->pins, s->pins);
        assert_int_equal(m->d->pending[n], s->pending);
        assert_int_equal(t->parent, s->parent);
        if (in_tree(s) && childless(m, n)) {
            assert_int_equal(t->touch, s->touch);
            assert_int_equal(t->touches, s->touches);
        }
    }
    assert_int_equal(stats.visible, visible);
    assert_int_equal(stats.pinned, pins);
    assert_int_equal(stats.free, in_state(m, SLOT_FREE));
    assert_int_equal(stats.evicted, m->evictions);
}
