/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runs.c: which free slots a sequence gets, so that its slots lie together.
 *
 * Must not know keys, reports or pins; asks evict.c for room, not for which.
 *
 * The free map is a bit a slot. Each extent knows its longest free stretch and
 * lies in a list, per member, of extents of like stretches, so that a run finds
 * its extent in a step and its place in a scan of that extent's bits. A
 * sequence goes on right behind its last slot where that is free; a new run
 * goes to the next member and to the smallest stretch that holds it whole.
 *
 * A growing sequence holds the slots behind its last one: they stay free but
 * their bits are clear, so other runs don't see them. A hold needs no memory:
 * it is written into its first slot, which is free. Holds take part in what
 * goes next: one whose sequence has stopped growing (all others grew four times
 * meanwhile) or that is older than the least recently used leaf is let go
 * before anything is evicted, the others after everything. (Letting all of them
 * go first is what a full pool would do at every call: 128 sequences decoding
 * in turn then had runs of 1 to 3 slots.)
 *
 * A pool that is full to the last slot puts a new run wherever the last one
 * went, and ends as scattered pieces. So up to 1/32 of it may lie idle: as much
 * is evicted ahead (not in a small pool), so that what comes free joins what is
 * free already before it is used again, and before a run is cut to pieces that
 * much is made free. After ten turnovers (bench/directory.c, one member) a mean
 * run has 17.9 slots; without eviction ahead 10.9, without either 6.3, in a pool
 * just filled 26.8.
 */
#include "directory/internal.h"

#define LIST_LOOKS 8u

static uint64_t *words_of(const struct tutti_directory *d, uint32_t extent)
{
    return d->open + (size_t)extent * d->open_words;
}

/* The bits [from, from + count) of a word, count <= 64 - from, count > 0. */
static uint64_t mask(uint32_t from, uint32_t count)
{
    return (~UINT64_C(0) >> (64 - count)) << from;
}

static void write_bits(uint64_t *words, uint32_t from, uint32_t count, bool value)
{
    while (count > 0) {
        uint32_t n = 64 - from % 64 < count ? 64 - from % 64 : count;

        if (value)
            words[from / 64] |= mask(from % 64, n);
        else
            words[from / 64] &= ~mask(from % 64, n);
        from += n;
        count -= n;
    }
}

/* First bit at or after @from whose value is @value; @limit when there is none. */
static uint32_t next_bit(const uint64_t *words, uint32_t from, uint32_t limit, bool value)
{
    while (from < limit) {
        uint64_t word = (value ? words[from / 64] : ~words[from / 64]) >> (from % 64);

        if (word != 0) {
            from += (uint32_t)__builtin_ctzll(word);
            return from < limit ? from : limit;
        }
        from = (from / 64 + 1) * 64;
    }
    return limit;
}

/* First set bit of the stretch that ends at @from, which is set. */
static uint32_t stretch_start(const uint64_t *words, uint32_t from)
{
    for (;;) {
        uint64_t clear = ~words[from / 64] << (63 - from % 64);

        if (clear != 0)
            return from - (uint32_t)__builtin_clzll(clear) + 1;
        if (from < 64)
            return 0;
        from = from / 64 * 64 - 1;
    }
}

bool directory_slot_open(const struct tutti_directory *d, uint32_t slot)
{
    uint32_t index = slot % d->per_extent;

    return words_of(d, slot / d->per_extent)[index / 64] >> (index % 64) & 1;
}

uint32_t directory_longest_range(const struct tutti_directory *d, uint32_t extent)
{
    const uint64_t *words = words_of(d, extent);
    uint32_t limit = d->per_extent;
    uint32_t longest = 0;
    uint32_t at = next_bit(words, 0, limit, true);

    while (at < limit) {
        uint32_t end = next_bit(words, at, limit, false);

        if (end - at > longest)
            longest = end - at;
        at = next_bit(words, end, limit, true);
    }
    return longest;
}

static uint32_t bucket_of(uint32_t length)
{
    return length ? 32u - (uint32_t)__builtin_clz(length) : 0;
}

static void set_largest(struct tutti_directory *d, uint32_t extent, uint32_t largest)
{
    struct extent *e = &d->extent[extent];
    uint32_t member = extent % d->members;
    uint32_t bucket = bucket_of(largest);
    uint32_t *first = &d->bucket[member][e->bucket];

    e->largest = largest;
    if (bucket == e->bucket)
        return;
    if (e->bucket) {
        if (e->next != NONE)
            d->extent[e->next].prev = e->prev;
        if (e->prev != NONE)
            d->extent[e->prev].next = e->next;
        else
            *first = e->next;
        if (*first == NONE)
            d->bucket_mask[member] &= ~(UINT64_C(1) << e->bucket);
    }
    e->bucket = (uint8_t)bucket;
    e->next = e->prev = NONE;
    if (bucket) {
        first = &d->bucket[member][bucket];
        e->next = *first;
        if (e->next != NONE)
            d->extent[e->next].prev = extent;
        *first = extent;
        d->bucket_mask[member] |= UINT64_C(1) << bucket;
    }
}

void directory_measure(struct tutti_directory *d, uint32_t extent)
{
    set_largest(d, extent, directory_longest_range(d, extent));
}

uint64_t directory_open_slots(const struct tutti_directory *d, uint32_t extent)
{
    const uint64_t *words = words_of(d, extent);
    uint64_t open = 0;

    for (uint32_t i = 0; i < d->open_words; i++)
        open += (uint32_t)__builtin_popcountll(words[i]);
    return open;
}

/* Where an extent's open slots are counted. */
static uint64_t *open_counter(struct tutti_directory *d, uint32_t extent)
{
    return extent_fenced(d, extent) ? &d->open_fenced : &d->open_count;
}

/* Within one extent; the slots are free, or are about to be. */
void directory_open_range(struct tutti_directory *d, uint32_t slot, uint32_t count)
{
    uint32_t extent = slot / d->per_extent;
    uint32_t index = slot % d->per_extent;
    uint64_t *words;
    uint32_t length;

    if (count == 0)
        return;
    words = words_of(d, extent);
    write_bits(words, index, count, true);
    *open_counter(d, extent) += count;
    length = next_bit(words, index + count - 1, d->per_extent, false) - stretch_start(words, index);
    if (length > d->extent[extent].largest)
        set_largest(d, extent, length);
}

static void close_range(struct tutti_directory *d, uint32_t slot, uint32_t count)
{
    uint32_t extent = slot / d->per_extent;

    write_bits(words_of(d, extent), slot % d->per_extent, count, false);
    *open_counter(d, extent) -= count;
    directory_measure(d, extent);
}

/* While loading: the slot is taken; directory_measure() follows for its extent. */
void directory_close(struct tutti_directory *d, uint32_t slot)
{
    write_bits(words_of(d, slot / d->per_extent), slot % d->per_extent, 1, false);
    --*open_counter(d, slot / d->per_extent);
}

/* Open slots from @slot on, in its extent, @most at most. */
static uint32_t open_from(const struct tutti_directory *d, uint32_t slot, uint32_t most)
{
    uint32_t index = slot % d->per_extent;
    uint32_t limit = most < d->per_extent - index ? index + most : d->per_extent;

    return next_bit(words_of(d, slot / d->per_extent), index, limit, false) - index;
}

/* Length of the run that ends in @slot, as far as the longest allowed. */
static uint32_t run_length(const struct tutti_directory *d, uint32_t slot)
{
    uint32_t length = 1;

    while (length < d->run_cap && !(d->slot[slot].flags & SLOT_HEAD)) {
        slot--;
        length++;
    }
    return length;
}

/*
 * Holds: slot[first].parent is the owner (first - 1), .child the length, .touch
 * and .depth when it was made, by the clock of uses and by that of holds.
 */
void directory_hold_release(struct tutti_directory *d, uint32_t first)
{
    struct slot *s = &d->slot[first];
    uint32_t length = s->child;

    if (s->next != NONE)
        d->slot[s->next].prev = s->prev;
    else
        d->newest_hold = s->prev;
    if (s->prev != NONE)
        d->slot[s->prev].next = s->next;
    else
        d->oldest_hold = s->next;
    s->parent = s->child = s->next = s->prev = NONE;
    s->flags = 0;
    d->held -= length;
    d->holds--;
    directory_open_range(d, first, length);
}

/* The slots behind @slot, the last one of a growing sequence, are kept for it. */
void directory_hold_behind(struct tutti_directory *d, uint32_t slot)
{
    uint32_t first = slot + 1;
    uint32_t most = d->run_slots;
    uint32_t length;
    struct slot *s;

    if (first >= d->slots || slot_first(d, first))
        return;
    if (d->run_cap != UINT32_MAX) {
        uint32_t room = d->run_cap - run_length(d, slot);

        most = room < most ? room : most;
    }
    length = open_from(d, first, most);
    if (length == 0)
        return;
    close_range(d, first, length);
    s = &d->slot[first];
    s->flags = SLOT_HOLD;
    s->parent = slot;
    s->child = length;
    s->touch = d->tick;
    s->depth = ++d->hold_clock;
    s->prev = d->newest_hold;
    s->next = NONE;
    if (s->prev != NONE)
        d->slot[s->prev].next = first;
    else
        d->oldest_hold = first;
    d->newest_hold = first;
    d->held += length;
    d->holds++;
}

/* Whether the oldest hold goes before the least recently used leaf does, or there is none. */
static bool hold_goes(const struct tutti_directory *d)
{
    const struct slot *hold;

    if (d->oldest_hold == NONE)
        return false;
    hold = &d->slot[d->oldest_hold];
    return d->hold_clock - hold->depth > 4 * d->holds || d->held > d->slots / 8 ||
           d->heap_used == 0 || hold->touch <= d->slot[d->heap[0]].touch;
}

/* An extent with a stretch of @want, in the member asked for or the next ones. */
static uint32_t choose(const struct tutti_directory *d, uint32_t member, uint32_t want)
{
    uint32_t bucket = bucket_of(want);
    uint32_t i;

    for (i = 0; i < d->members; i++, member = member + 1 == d->members ? 0 : member + 1) {
        uint32_t e = d->bucket[member][bucket];
        uint32_t looks = LIST_LOOKS;
        uint64_t longer;

        if (d->fenced >> member & 1)
            continue;
        for (; e != NONE && looks > 0; e = d->extent[e].next, looks--)
            if (d->extent[e].largest >= want)
                return e;
        longer = d->bucket_mask[member] & ~mask(0, bucket + 1);
        if (longer)
            return d->bucket[member][__builtin_ctzll(longer)];
    }
    return NONE;
}

/* An extent of about the longest stretch there is. */
static uint32_t choose_longest(const struct tutti_directory *d, uint32_t member)
{
    uint32_t best = NONE;
    uint32_t i;

    for (i = 0; i < d->members; i++, member = member + 1 == d->members ? 0 : member + 1) {
        uint32_t looks = LIST_LOOKS;
        uint32_t e;

        if (d->bucket_mask[member] == 0 || (d->fenced >> member & 1))
            continue;
        e = d->bucket[member][63 - __builtin_clzll(d->bucket_mask[member])];
        for (; e != NONE && looks > 0; e = d->extent[e].next, looks--)
            if (best == NONE || d->extent[e].largest > d->extent[best].largest)
                best = e;
    }
    return best;
}

/* The smallest stretch of @want or more in an extent, else its longest. */
static void fit(const struct tutti_directory *d, uint32_t extent, uint32_t want, uint32_t *start,
                uint32_t *count)
{
    const uint64_t *words = words_of(d, extent);
    uint32_t limit = d->per_extent;
    uint32_t at = next_bit(words, 0, limit, true);
    uint32_t best = 0;

    *start = 0;
    while (at < limit) {
        uint32_t end = next_bit(words, at, limit, false);
        uint32_t length = end - at;

        if (best < want ? length > best : length >= want && length < best) {
            best = length;
            *start = extent * d->per_extent + at;
        }
        at = next_bit(words, end, limit, true);
    }
    *count = best;
}

/*
 * An extent for a new run. In this order: a stretch that holds all of it; an
 * extent taken back from another shape; a stretch of a run's worth; slots of
 * other identities or void; holds (see hold_goes()); the least recently used,
 * until there is a stretch of a run's worth or much is free in pieces.
 */
static uint32_t find_room(struct tutti_directory *d, uint32_t member, uint32_t want)
{
    uint32_t good = want < d->run_slots ? want : d->run_slots;
    uint32_t piece = want > d->run_slots ? want : d->run_slots;
    uint32_t ahead = 0;

    /* At most twice what is asked for, so that no call pays for the whole allowance. */
    while (d->open_count < d->spare && ahead < 2 * piece) {
        uint32_t freed;

        if (directory_take_back(d))
            break;
        if (!directory_foreign_waits(d) && hold_goes(d)) {
            directory_hold_release(d, d->oldest_hold);
            continue;
        }
        freed = directory_evict(d, piece);
        if (freed == 0)
            break;
        ahead += freed;
    }
    for (;;) {
        uint32_t e = choose(d, member, want);

        if (e != NONE)
            return e;
        if (directory_take_back(d))
            continue;
        e = choose_longest(d, member);
        if (e != NONE && d->extent[e].largest >= good)
            return e;
        if (directory_foreign_waits(d)) { /* on top of the heap, so that one goes */
            directory_evict(d, piece);
            continue;
        }
        if (hold_goes(d)) {
            directory_hold_release(d, d->oldest_hold);
            continue;
        }
        if (e != NONE && d->open_count >= d->slots / IDLE_SHARE)
            return e;
        if (!directory_evict(d, piece))
            return e;
    }
}

/*
 * Free slots for the @want blocks behind @parent: as many as lie together.
 * Their bits are cleared; the caller gives them a state or opens them again.
 * @head: they start a run. Return: false when there is no room at all.
 */
bool directory_place(struct tutti_directory *d, uint32_t parent, uint32_t want, bool grows,
                     uint32_t *start, uint32_t *count, bool *head)
{
    uint32_t most = want < d->run_cap ? want : d->run_cap;
    uint32_t all = grows ? want + d->run_slots : want;
    uint32_t whole = d->per_extent < d->run_cap ? d->per_extent : d->run_cap;
    uint32_t member;
    uint32_t extent;

    if (d->fenced == (UINT32_C(1) << d->members) - 1)
        return false; /* nothing that could go would make room */
    if (parent != NONE && parent + 1 < d->slots && !slot_first(d, parent + 1)) {
        uint32_t behind = parent + 1;
        uint32_t length;

        if (d->slot[behind].state == SLOT_FREE && (d->slot[behind].flags & SLOT_HOLD))
            directory_hold_release(d, behind);
        length = d->run_cap == UINT32_MAX ? most : d->run_cap - run_length(d, parent);
        length = open_from(d, behind, length < most ? length : most);
        if (length > 0) {
            close_range(d, behind, length);
            *start = behind;
            *count = length;
            *head = false;
            return true;
        }
    }

    if (parent != NONE) {
        member = (parent / d->per_extent + 1) % d->members;
    } else {
        member = d->next_member;
        d->next_member = (member + 1) % d->members;
    }
    if (all < whole)
        whole = all;
    extent = find_room(d, member, whole);
    if (extent == NONE)
        return false;
    fit(d, extent, whole, start, count);
    if (*count > most)
        *count = most;
    close_range(d, *start, *count);
    *head = parent == NONE || *start != parent + 1 || slot_first(d, *start);
    return true;
}
