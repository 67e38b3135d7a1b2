/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c: a backend that spoils another one's commands, by rule and by seed.
 *
 * For tests: it may allocate, and does the spoiled command itself, at once, on
 * the member's thread. Which commands are spoiled, and how, is the language of
 * fault_rule.h, e.g. "read:eio:offset=4096-8192:count=1;write:torn:every=7:seed=3".
 * Commands that no rule names pass through untouched.
 */
#include "engine/fault_rule.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "nvme/drive.h"

/** What a stretch held before it was written; newest first. */
struct version {
    struct version *older;
    uint64_t offset;
    uint32_t bytes;
    uint8_t data[];
};

struct fault_backend {
    struct backend base;
    struct backend *inner;
    struct backend_options options;
    struct fault_rules rules;
    bool keeps_versions;
    struct version *versions;
    struct command *ended; /* spoiled and over */
    struct command *held;  /* over, reported later */
};

static struct fault_backend *fault_of(struct backend *b)
{
    return (struct fault_backend *)(void *)b;
}

static int fault_open(const struct backend_options *o, struct backend **out,
                      struct tutti_error *err)
{
    struct fault_backend *f = calloc(1, sizeof(*f));
    int rc;

    if (!f)
        return tutti_error_set(err, -ENOMEM, "no memory for engine \"fault\"");
    f->base.type = &backend_fault;
    f->options = *o;
    rc = fault_rules_parse(&f->rules, o->rules, o->member, err);
    if (rc == 0)
        rc = o->inner->open(o, &f->inner, err);
    if (rc < 0) {
        free(f);
        return rc;
    }
    f->base.fixed_only = f->inner->fixed_only;
    for (uint32_t i = 0; i < f->rules.count; i++)
        f->keeps_versions = f->keeps_versions || f->rules.rule[i].fault == FAULT_STALE;
    *out = &f->base;
    return 0;
}

static void fault_close(struct backend *b)
{
    struct fault_backend *f = fault_of(b);
    struct version *v;

    while ((v = f->versions)) {
        f->versions = v->older;
        free(v);
    }
    f->inner->type->close(f->inner);
    free(f);
}

static int fault_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    struct fault_backend *f = fault_of(b);

    return f->inner->type->fix(f->inner, memory, bytes, err);
}

static bool fault_reaches(const struct backend *b, const void *memory, size_t bytes)
{
    const struct fault_backend *f = (const struct fault_backend *)(const void *)b;

    return f->inner->type->reaches(f->inner, memory, bytes);
}

/* Copies between a command's memory and one piece. */

static uint8_t *piece_new(size_t bytes)
{
    void *piece;

    return posix_memalign(&piece, 4096, bytes) == 0 ? piece : NULL;
}

static void gather(const struct command *c, uint8_t *piece)
{
    for (uint32_t i = 0; i < c->segments; piece += c->iov[i++].iov_len)
        memcpy(piece, c->iov[i].iov_base, c->iov[i].iov_len);
}

static void scatter(const struct command *c, const uint8_t *piece)
{
    for (uint32_t i = 0; i < c->segments; piece += c->iov[i++].iov_len)
        memcpy(c->iov[i].iov_base, piece, c->iov[i].iov_len);
}

static int32_t read_piece(const struct fault_backend *f, uint8_t *piece, uint64_t bytes,
                          uint64_t offset)
{
    ssize_t rc;

    if (f->options.drive) {
        rc = nvme_drive_read(f->options.drive, piece, bytes, offset);
        return rc < 0 ? (int32_t)rc : (int32_t)bytes;
    }
    rc = pread(f->options.fd, piece, bytes, (off_t)offset);

    return rc < 0 ? -errno : (int32_t)rc;
}

static int32_t write_piece(const struct fault_backend *f, const uint8_t *piece, uint64_t bytes,
                           uint64_t offset)
{
    ssize_t rc;

    if (f->options.drive) {
        rc = nvme_drive_write(f->options.drive, piece, bytes, offset);
        return rc < 0 ? (int32_t)rc : (int32_t)bytes;
    }
    rc = pwrite(f->options.fd, piece, bytes, (off_t)offset);

    return rc < 0 ? -errno : (int32_t)rc;
}

/* Older versions. */

/** Return: 0 or -ENOMEM. */
static int keep_version(struct fault_backend *f, const struct command *c)
{
    struct version *v = malloc(sizeof(*v) + c->bytes);
    uint8_t *piece = piece_new(c->bytes);

    if (!v || !piece) {
        free(v);
        free(piece);
        return -ENOMEM;
    }
    if (read_piece(f, piece, c->bytes, c->offset) == (int32_t)c->bytes) {
        v->offset = c->offset;
        v->bytes = c->bytes;
        memcpy(v->data, piece, c->bytes);
        v->older = f->versions;
        f->versions = v;
    } else {
        free(v);
    }
    free(piece);
    return 0;
}

/** Lay what was kept over a piece, oldest first, so that the last write is the one undone. */
static void lay_over(const struct version *v, uint8_t *piece, uint64_t from, uint64_t to)
{
    uint64_t start, end;

    if (!v)
        return;
    lay_over(v->older, piece, from, to);
    start = v->offset > from ? v->offset : from;
    end = v->offset + v->bytes < to ? v->offset + v->bytes : to;
    if (start < end)
        memcpy(piece + (start - from), v->data + (start - v->offset), end - start);
}

/* Doing a command wrongly. Each returns its result. */

static int32_t do_short(const struct fault_backend *f, const struct command *c, uint8_t *piece)
{
    uint64_t half = c->bytes / 2 / f->options.alignment * f->options.alignment;
    int32_t rc;

    if (c->direction == TUTTI_WRITE) {
        gather(c, piece);
        return half ? write_piece(f, piece, half, c->offset) : 0;
    }
    rc = read_piece(f, piece, c->bytes, c->offset);
    if (rc < 0 || (uint64_t)rc < half)
        return rc;
    gather(c, piece + c->bytes); /* behind the half, memory stays as it was */
    memcpy(piece + half, piece + c->bytes + half, c->bytes - half);
    scatter(c, piece);
    return (int32_t)half;
}

static int32_t do_torn(const struct fault_backend *f, struct fault_rule *r, const struct command *c,
                       uint8_t *piece)
{
    uint32_t sector = f->options.alignment;
    uint8_t *before = piece + c->bytes;

    if (read_piece(f, before, c->bytes, c->offset) != (int32_t)c->bytes)
        return -EIO;
    gather(c, piece);
    for (uint32_t at = 0; at < c->bytes; at += sector) {
        bool first = fault_random(r) & 1;

        /* A write leaves sectors of before; a read leaves sectors of memory. */
        if (c->direction == TUTTI_WRITE ? first : !first)
            memcpy(piece + at, before + at, sector);
    }
    if (c->direction == TUTTI_WRITE)
        return write_piece(f, piece, c->bytes, c->offset);
    scatter(c, piece);
    return (int32_t)c->bytes;
}

static int32_t do_elsewhere(const struct fault_backend *f, const struct fault_rule *r,
                            const struct command *c, uint8_t *piece)
{
    int32_t rc;

    if (c->direction == TUTTI_WRITE) {
        gather(c, piece);
        return write_piece(f, piece, c->bytes, c->offset + r->by);
    }
    rc = read_piece(f, piece, c->bytes, c->offset + r->by);
    if (rc > 0)
        scatter(c, piece);
    return rc;
}

static int32_t do_flip(const struct fault_backend *f, struct fault_rule *r, const struct command *c,
                       uint8_t *piece)
{
    uint64_t at = r->at < c->bytes ? r->at : fault_random(r) % c->bytes;
    uint8_t bit = (uint8_t)(1u << fault_random(r) % 8);
    int32_t rc;

    if (c->direction == TUTTI_WRITE) {
        gather(c, piece);
        piece[at] ^= bit;
        return write_piece(f, piece, c->bytes, c->offset);
    }
    rc = read_piece(f, piece, c->bytes, c->offset);
    if (rc > 0) {
        piece[at] ^= bit;
        scatter(c, piece);
    }
    return rc;
}

static int32_t do_stale(const struct fault_backend *f, const struct command *c, uint8_t *piece)
{
    int32_t rc = read_piece(f, piece, c->bytes, c->offset);

    if (rc == (int32_t)c->bytes) {
        lay_over(f->versions, piece, c->offset, c->offset + c->bytes);
        scatter(c, piece);
    }
    return rc;
}

static int32_t spoil(struct fault_backend *f, struct fault_rule *r, struct command *c)
{
    uint8_t *piece = piece_new(2 * (size_t)c->bytes);
    int32_t rc = (int32_t)c->bytes;

    if (!piece)
        return -ENOMEM;
    switch (r->fault) {
    case FAULT_ERROR:
        rc = -r->error;
        break;
    case FAULT_SHORT:
        rc = do_short(f, c, piece);
        break;
    case FAULT_TORN:
        rc = do_torn(f, r, c, piece);
        break;
    case FAULT_STALE:
        rc = do_stale(f, c, piece);
        break;
    case FAULT_MISDIRECTED:
        rc = do_elsewhere(f, r, c, piece);
        break;
    case FAULT_FLIP:
        rc = do_flip(f, r, c, piece);
        break;
    default: /* FAULT_LOST: nothing at all */
        break;
    }
    free(piece);
    return rc;
}

static void fault_submit(struct backend *b, struct command *c)
{
    struct fault_backend *f = fault_of(b);
    struct fault_rule *r = fault_rules_match(&f->rules, c, f->options.member);
    int kept = 0;

    c->due = r && r->fault == FAULT_DELAY ? r->ns : 0;
    if (f->keeps_versions && c->direction == TUTTI_WRITE && (!r || r->fault != FAULT_LOST))
        kept = keep_version(f, c);
    if (kept == 0 && (!r || r->fault == FAULT_DELAY)) {
        f->inner->type->submit(f->inner, c);
        return;
    }
    c->result = kept < 0 ? kept : spoil(f, r, c);
    c->next = f->ended;
    f->ended = c;
}

static uint32_t fault_reap(struct backend *b, struct command **ended, uint32_t most)
{
    struct fault_backend *f = fault_of(b);
    uint32_t found = f->inner->type->reap(f->inner, ended, most);
    uint64_t now = tutti_clock_now();
    uint32_t n = 0;

    for (uint32_t i = 0; i < found; i++) {
        struct command *c = ended[i];

        if (c->due) {
            c->due += now;
            c->next = f->held;
            f->held = c;
        } else {
            ended[n++] = c;
        }
    }
    for (struct command **at = &f->held; *at && n < most;)
        if ((*at)->due <= now) {
            ended[n++] = *at;
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    while (f->ended && n < most) {
        ended[n++] = f->ended;
        f->ended = f->ended->next;
    }
    tutti_store_relaxed(&b->system_calls, f->inner->system_calls); /* a number; one writer */
    return n;
}

static void fault_wait(struct backend *b, uint64_t timeout_ns)
{
    struct fault_backend *f = fault_of(b);
    uint64_t now = tutti_clock_now();

    for (const struct command *c = f->held; c; c = c->next) {
        uint64_t left = c->due > now ? c->due - now : 0;

        if (left < timeout_ns)
            timeout_ns = left;
    }
    if (!f->ended && timeout_ns > 0)
        f->inner->type->wait(f->inner, timeout_ns);
}

const struct backend_type backend_fault = {
    .name = "fault",
    .open = fault_open,
    .fix = fault_fix,
    .reaches = fault_reaches,
    .submit = fault_submit,
    .reap = fault_reap,
    .wait = fault_wait,
    .close = fault_close,
};
