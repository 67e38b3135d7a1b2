/* SPDX-License-Identifier: Apache-2.0 */
/*
 * superblock.c: reading, judging and writing the two copies at a member's head.
 *
 * Knows one member at a time; which members belong together is open.c's affair.
 *
 * The idea: a superblock is believed only after its checksum held *and* every
 * field was compared with its limits and with the others, so that the code
 * behind may divide and multiply by them without a thought. A hostile pool file
 * can be refused, but it cannot make us compute nonsense.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "pool/internal.h"

#define MAX_SEQUENCE (UINT64_MAX >> 1)
#define MAX_FIRST_EXTENT (UINT64_C(1) << 30)
#define MAX_RECORD_STRIDE 4096u
#define MIN_RECORD_STRIDE 256u

_Static_assert(TUTTI_RECORD_HEADER + 8 * TUTTI_MAX_LAYERS <= MAX_RECORD_STRIDE,
               "every record fits");

static uint64_t own_sum(const struct tutti_superblock *s)
{
    struct tutti_superblock copy = *s;

    copy.checksum = 0;
    return tutti_sum64(&copy, sizeof(copy));
}

static bool all_zero(const void *data, size_t bytes)
{
    const unsigned char *p = data;

    return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

static enum superblock_state garbage(char why[128], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static enum superblock_state garbage(char why[128], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(why, 128, format, arguments);
    va_end(arguments);
    return SUPERBLOCK_GARBAGE;
}

static enum superblock_state judge_numbers(const struct tutti_superblock *s, char why[128])
{
    if (s->bytes != TUTTI_SUPERBLOCK_BYTES)
        return garbage(why, "says that it has %" PRIu32 " bytes", s->bytes);
    if (s->sequence == 0 || s->sequence > MAX_SEQUENCE)
        return garbage(why, "sequence %" PRIu64, s->sequence);
    if (s->ranks < 1 || s->ranks > POOL_MAX_RANKS || s->rank >= s->ranks)
        return garbage(why, "rank %" PRIu32 " of %" PRIu32, s->rank, s->ranks);
    if (s->members < 1 || s->members > TUTTI_MAX_MEMBERS || s->member >= s->members)
        return garbage(why, "member %" PRIu32 " of %" PRIu32, s->member, s->members);
    if (s->alignment != 512 && s->alignment != 4096)
        return garbage(why, "alignment %" PRIu32, s->alignment);
    if (s->record_stride < MIN_RECORD_STRIDE || s->record_stride > MAX_RECORD_STRIDE ||
        s->record_stride % s->alignment != 0)
        return garbage(why, "record stride %" PRIu32, s->record_stride);
    if (s->first_extent % POOL_BUFFER_ALIGNMENT != 0 || s->first_extent > MAX_FIRST_EXTENT ||
        s->first_extent < TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES)
        return garbage(why, "first extent at %" PRIu64, s->first_extent);
    if (s->extent_bytes == 0 || s->extent_bytes % POOL_BUFFER_ALIGNMENT != 0 ||
        s->extent_bytes > (UINT64_C(1) << 40))
        return garbage(why, "extents of %" PRIu64 " bytes", s->extent_bytes);
    if (s->records_per_extent < 1 ||
        (uint64_t)s->records_per_extent * s->record_stride >= s->extent_bytes)
        return garbage(why, "%" PRIu32 " records an extent", s->records_per_extent);
    if (s->extents < 1 || s->extents > ((uint64_t)INT64_MAX - s->first_extent) / s->extent_bytes ||
        (uint64_t)s->extents * s->members > (UINT32_MAX - 1) / s->records_per_extent)
        return garbage(why, "%" PRIu32 " extents", s->extents);
    if (s->epoch > TUTTI_EPOCH_MAX || s->oldest_epoch > s->epoch)
        return garbage(why, "epoch %" PRIu64 ", oldest %" PRIu64, s->epoch, s->oldest_epoch);
    return SUPERBLOCK_WHOLE;
}

static enum superblock_state judge_shapes(const struct tutti_superblock *s, char why[128])
{
    struct tutti_placement placement;

    if (s->groups < 1 || s->groups > TUTTI_MAX_GROUPS)
        return garbage(why, "%" PRIu32 " shapes", s->groups);
    for (uint32_t i = 0; i < s->groups; i++) {
        if (tutti_placement_init(&placement, &s->geometry[i], s->alignment, s->first_extent,
                                 s->extent_bytes, s->extents * s->members, s->members,
                                 s->records_per_extent, s->record_stride, NULL) < 0)
            return garbage(why, "shape %" PRIu32 " does not fit the pool", i);
        for (uint32_t j = 0; j < i; j++)
            if (memcmp(&s->geometry[i], &s->geometry[j], sizeof(s->geometry[0])) == 0)
                return garbage(why, "shapes %" PRIu32 " and %" PRIu32 " are the same", j, i);
    }
    if (s->reserved0 != 0 || !all_zero(s->reserved, sizeof(s->reserved)) ||
        !all_zero(&s->geometry[s->groups], (TUTTI_MAX_GROUPS - s->groups) * sizeof(s->geometry[0])))
        return garbage(why, "reserved bytes are not zero");
    return SUPERBLOCK_WHOLE;
}

enum superblock_state superblock_judge(const struct tutti_superblock *s, char why[128])
{
    enum superblock_state state;

    if (all_zero(s, sizeof(*s))) {
        snprintf(why, 128, "all zero");
        return SUPERBLOCK_BLANK;
    }
    if (s->magic != TUTTI_SUPERBLOCK_MAGIC)
        return garbage(why, "not a Tutti superblock");
    if (s->checksum != own_sum(s))
        return garbage(why, "checksum does not match");
    if (s->version != TUTTI_FORMAT_VERSION) {
        snprintf(why, 128, "format version %" PRIu32, s->version);
        return SUPERBLOCK_VERSION;
    }
    state = judge_numbers(s, why);
    return state == SUPERBLOCK_WHOLE ? judge_shapes(s, why) : state;
}

uint64_t superblock_member_bytes(const struct tutti_superblock *s)
{
    return s->first_extent + (uint64_t)s->extents * s->extent_bytes;
}

/* Read one copy; a file that ends before it counts as a copy that is not there. */
static int read_copy(const struct backing *b, struct tutti_superblock *buffer, unsigned copy,
                     enum superblock_state *state, char why[128], struct tutti_error *err)
{
    uint64_t offset = (uint64_t)copy * TUTTI_SUPERBLOCK_COPY;
    int rc = backing_read(b, buffer, sizeof(*buffer), offset);

    if (rc == -ENODATA) {
        *state = garbage(why, "the file ends before it");
        return 0;
    }
    if (rc == -EIO) { /* an unreadable sector is no worse than a torn copy */
        *state = garbage(why, "I/O error");
        return 0;
    }
    if (rc < 0)
        return backing_error(rc, "reading the superblock of", b->path, offset, err);
    *state = superblock_judge(buffer, why);
    return 0;
}

int superblock_read(const struct backing *b, struct tutti_superblock *s, unsigned *copy,
                    struct tutti_error *err)
{
    struct tutti_superblock *buffer = backing_buffer(2 * sizeof(*buffer));
    enum superblock_state state[2] = {SUPERBLOCK_BLANK, SUPERBLOCK_BLANK};
    char why[2][128];
    int rc = 0;

    if (!buffer)
        return tutti_error_set(err, -ENOMEM, "%s: no memory to read the superblock", b->path);
    for (unsigned i = 0; i < 2 && rc == 0; i++)
        rc = read_copy(b, &buffer[i], i, &state[i], why[i], err);
    if (rc == 0 && (state[0] == SUPERBLOCK_VERSION || state[1] == SUPERBLOCK_VERSION)) {
        unsigned i = state[0] == SUPERBLOCK_VERSION ? 0 : 1;

        rc = tutti_error_set(
            err, -EPROTONOSUPPORT,
            "%s: the superblock at offset %" PRIu64 " is of format version %" PRIu32
            ", this library knows version %u: open it with the version of Tutti "
            "that formatted it, or remove it and format again",
            b->path, (uint64_t)i * TUTTI_SUPERBLOCK_COPY, buffer[i].version, TUTTI_FORMAT_VERSION);
    } else if (rc == 0 && state[0] != SUPERBLOCK_WHOLE && state[1] != SUPERBLOCK_WHOLE) {
        rc = tutti_error_set(err, -EUCLEAN,
                             "%s: neither superblock is whole (offset 0: %s; offset %u: %s; the "
                             "file has %" PRIu64 " bytes): not a Tutti member, or damaged; nothing "
                             "was changed. Format it, or name the right file",
                             b->path, why[0], TUTTI_SUPERBLOCK_COPY, why[1], b->bytes);
    } else if (rc == 0) {
        *copy = state[1] == SUPERBLOCK_WHOLE &&
                (state[0] != SUPERBLOCK_WHOLE || buffer[1].sequence > buffer[0].sequence);
        *s = buffer[*copy];
    }
    free(buffer);
    return rc;
}

int superblock_write(const struct backing *b, struct tutti_superblock *s, unsigned copy,
                     struct tutti_error *err)
{
    uint64_t offset = (uint64_t)copy * TUTTI_SUPERBLOCK_COPY;
    struct tutti_superblock *buffer;
    char why[128];
    int rc;

    s->checksum = own_sum(s);
    if (superblock_judge(s, why) != SUPERBLOCK_WHOLE) /* what we would not read, we do not write */
        return tutti_error_set(err, -EINVAL,
                               "%s: a superblock was to be written that is not "
                               "valid (%s)",
                               b->path, why);
    buffer = backing_buffer(sizeof(*buffer));
    if (!buffer)
        return tutti_error_set(err, -ENOMEM, "%s: no memory to write the superblock", b->path);
    *buffer = *s;
    rc = backing_write(b, buffer, sizeof(*buffer), offset);
    free(buffer);
    if (rc == 0)
        rc = backing_flush(b);
    if (rc < 0)
        return backing_error(rc, "writing the superblock of", b->path, offset, err);
    return 0;
}

uint64_t superblock_secret_check(const uint8_t secret[16], const uint8_t pool[16])
{
    unsigned char hash[crypto_shorthash_siphashx24_BYTES];
    uint64_t check;

    crypto_shorthash_siphashx24(hash, pool, 16, secret);
    memcpy(&check, hash, sizeof(check));
    return check;
}
