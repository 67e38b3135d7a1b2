/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c: who is whose parent, and the three changes that run along the tree:
 * becoming visible, being hidden, becoming free.
 *
 * Must not know how a slot was chosen or why it goes.
 *
 * A slot stays in the tree until it is free: a hidden one that is still read
 * or written keeps its ancestors from going, as it did before. It is free when
 * it has no child, no pin and no report outstanding, and then its parent is
 * looked at. Walks follow child, next and parent links, so they need no stack
 * and cost O(slots changed).
 */
#include "directory/internal.h"

enum slot_class directory_class(const struct tutti_directory *d, const struct slot *s)
{
    switch ((enum slot_state)s->state) {
    case SLOT_FREE:
        return CLASS_FREE;
    case SLOT_WRITING:
        return slot_void(d, s) ? CLASS_LEAVING : CLASS_WRITING;
    case SLOT_VISIBLE:
        return slot_void(d, s) ? CLASS_FOREIGN : CLASS_VISIBLE;
    case SLOT_FOREIGN:
    case SLOT_CARVED:
        return CLASS_FOREIGN;
    case SLOT_HIDDEN:
    case SLOT_ERASING:
    default:
        return CLASS_LEAVING;
    }
}

/* The generation must be final before: it decides what is void. */
void directory_set_state(struct tutti_directory *d, uint32_t slot, enum slot_state state)
{
    struct slot *s = &d->slot[slot];
    enum slot_class before = directory_class(d, s);
    enum slot_class now;

    s->state = (uint8_t)state;
    now = directory_class(d, s);
    d->count[before]--;
    d->count[now]++;
    if (s->flags & SLOT_HEAD) {
        d->runs -= before == CLASS_VISIBLE;
        d->runs += now == CLASS_VISIBLE;
    }
}

void directory_attach(struct tutti_directory *d, uint32_t slot, uint32_t parent)
{
    struct slot *s = &d->slot[slot];

    s->parent = parent;
    s->prev = NONE;
    s->next = NONE;
    if (parent == NONE)
        return;
    s->next = d->slot[parent].child;
    if (s->next != NONE)
        d->slot[s->next].prev = slot;
    d->slot[parent].child = slot;
}

/* Hands the marks of use on. Return: the parent, for the caller to settle. */
uint32_t directory_detach(struct tutti_directory *d, uint32_t slot)
{
    struct slot *s = &d->slot[slot];
    uint32_t parent = s->parent;
    struct slot *p;
    uint32_t touches;

    if (parent == NONE)
        return NONE;
    p = &d->slot[parent];
    if (s->next != NONE)
        d->slot[s->next].prev = s->prev;
    if (s->prev != NONE)
        d->slot[s->prev].next = s->next;
    else
        p->child = s->next;
    s->parent = s->next = s->prev = NONE;
    if (p->touch < s->touch)
        p->touch = s->touch;
    touches = (uint32_t)p->touches + s->touches;
    p->touches = touches > UINT16_MAX ? UINT16_MAX : (uint16_t)touches;
    return parent;
}

void directory_unkey(struct tutti_directory *d, uint32_t slot)
{
    struct slot *s = &d->slot[slot];

    if (!(s->flags & SLOT_KEYED))
        return;
    directory_table_remove(d, slot);
    s->flags &= (uint8_t)~SLOT_KEYED;
}

/* Out of the tree, the heap and the table already. */
void directory_make_free(struct tutti_directory *d, uint32_t slot)
{
    struct slot *s = &d->slot[slot];
    uint32_t behind = slot + 1;

    directory_set_state(d, slot, SLOT_FREE);
    s->flags = 0;
    s->parent = s->child = s->next = s->prev = NONE;
    /* What was held for its sequence is nobody's now. */
    if (behind < d->slots && !slot_first(d, behind) && d->slot[behind].state == SLOT_FREE &&
        (d->slot[behind].flags & SLOT_HOLD))
        directory_hold_release(d, behind);
    directory_open_range(d, slot, 1);
}

static bool ready(const struct tutti_directory *d, uint32_t slot)
{
    return d->slot[slot].state == SLOT_WRITING && d->pending[slot] == 0;
}

/* A slot that every rank has reported, and what waited for it below. */
void directory_show(struct tutti_directory *d, uint32_t slot)
{
    uint32_t parent = d->slot[slot].parent;
    uint32_t n = slot;

    if (parent != NONE && !slot_visible(d, &d->slot[parent]))
        return;
    for (;;) {
        bool shown = ready(d, n);

        if (shown) {
            directory_set_state(d, n, SLOT_VISIBLE);
            directory_settle(d, n);
        }
        if (shown && d->slot[n].child != NONE) {
            n = d->slot[n].child;
            continue;
        }
        while (n != slot && d->slot[n].next == NONE)
            n = d->slot[n].parent;
        if (n == slot)
            return;
        n = d->slot[n].next;
    }
}

/* One hidden slot, if nothing needs it. Return: its parent when it went, else NONE. */
static uint32_t retire(struct tutti_directory *d, uint32_t slot)
{
    struct slot *s = &d->slot[slot];
    uint32_t parent;

    if (s->state != SLOT_HIDDEN || s->child != NONE || s->pins != 0 || d->pending[slot] != 0)
        return NONE;
    parent = directory_detach(d, slot);
    if (s->flags & SLOT_ERASE) {
        directory_set_state(d, slot, SLOT_ERASING);
        s->next = NONE;
        if (d->erase_last != NONE)
            d->slot[d->erase_last].next = slot;
        else
            d->erase_first = slot;
        d->erase_last = slot;
    } else {
        directory_make_free(d, slot);
    }
    if (parent != NONE)
        directory_settle(d, parent);
    return parent;
}

/* A pin or a report less: the slot may be free now, and hidden ones above it. */
void directory_leave(struct tutti_directory *d, uint32_t slot)
{
    while (slot != NONE)
        slot = retire(d, slot);
}

/*
 * The slot and its subtree can't be found from now on; what nothing needs any
 * more is free at once, leaves first. Return: how many were hidden.
 */
uint32_t directory_hide(struct tutti_directory *d, uint32_t slot, bool erase)
{
    uint32_t hidden = 0;
    uint32_t n = slot;

    for (;;) {
        struct slot *s = &d->slot[n];

        if (s->state != SLOT_HIDDEN) {
            directory_unkey(d, n);
            directory_set_state(d, n, SLOT_HIDDEN);
            directory_settle(d, n);
            hidden++;
        }
        if (erase)
            s->flags |= SLOT_ERASE;
        if (s->child != NONE) {
            n = s->child;
            continue;
        }
        for (;;) {
            uint32_t next = d->slot[n].next;
            uint32_t parent = d->slot[n].parent;

            retire(d, n);
            if (n == slot)
                return hidden;
            if (next != NONE) {
                n = next;
                break;
            }
            n = parent;
        }
    }
}
