/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c: copies and words of the CUDA driver's stand-in.
 *
 * The one idea: what the host's end of a copy is decides whether the call returns before
 * the copy is done. Pageable memory blocks the caller; pinned memory does not, and is
 * read or written when the copy runs, not when it was asked for.
 */
#include "double.h"

/** One copy: both ends checked, counted, enqueued, and waited for where that is the rule. */
static cu_result copy(struct cu_stream_s *s, uint64_t to, uint64_t from, size_t bytes, bool now)
{
    void *reach;
    enum place to_place = place_of(to, bytes, &reach);
    enum place from_place = place_of(from, bytes, &reach);
    bool in = to_place == ON_DEVICE;
    bool pageable = (in ? from_place : to_place) == NOWHERE && kept(RULE_pageable);
    cu_result rc;

    if (!in && from_place != ON_DEVICE)
        return CU_INVALID_VALUE;
    if (pageable || now) {
        rc = capture_forbids(s);
        if (rc)
            return rc;
    }
    standin_count.copies_in += in;
    standin_count.copies_out += !in;
    standin_count.pageable += pageable;
    rc = enqueue(s, &(struct op){.kind = COPY, .to = to, .from = from, .bytes = bytes});
    if (rc == CU_OK && (pageable || now || !kept(RULE_pinned)))
        rc = drain(s);
    return rc;
}

static cu_result copy_on(cu_stream stream, uint64_t to, uint64_t from, size_t bytes, bool now)
{
    cu_result rc = call_begin(now ? IN_CONTEXT | UNSAFE : IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);

    if (rc == CU_OK && !s)
        rc = CU_INVALID_HANDLE;
    return call_end(rc ? rc : copy(s, to, from, bytes, now));
}

static uint64_t number(const void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

cu_result cuMemcpyHtoDAsync_v2(cu_pointer to, const void *from, size_t bytes, cu_stream stream)
{
    return copy_on(stream, to, number(from), bytes, false);
}

cu_result cuMemcpyDtoHAsync_v2(void *to, cu_pointer from, size_t bytes, cu_stream stream)
{
    return copy_on(stream, number(to), from, bytes, false);
}

cu_result cuMemcpyHtoD_v2(cu_pointer to, const void *from, size_t bytes)
{
    return copy_on(CU_LEGACY_STREAM, to, number(from), bytes, true);
}

cu_result cuMemcpyDtoH_v2(void *to, cu_pointer from, size_t bytes)
{
    return copy_on(CU_LEGACY_STREAM, number(to), from, bytes, true);
}

/* Batches, in both binary interfaces. */

static cu_result copy_batch(const cu_pointer *to, const cu_pointer *from, const size_t *bytes,
                            size_t count, const struct cu_copy_attributes *attributes,
                            const size_t *index, size_t number_of, cu_stream stream)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);

    if (rc)
        return call_end(rc);
    if (!s || s->is_null || count == 0 || number_of == 0 || number_of > count || index[0] != 0 ||
        attributes[0].source_order != CU_ORDER_STREAM)
        return call_end(CU_INVALID_VALUE);
    standin_count.batches++;
    for (size_t i = 0; i < count && rc == CU_OK; i++)
        rc = copy(s, to[i], from[i], bytes[i], false);
    return call_end(rc);
}

cu_result cuMemcpyBatchAsync(cu_pointer *to, cu_pointer *from, size_t *bytes, size_t count,
                             struct cu_copy_attributes *attributes, size_t *index, size_t number_of,
                             size_t *failed, cu_stream stream)
{
    cu_result rc = copy_batch(to, from, bytes, count, attributes, index, number_of, stream);

    *failed = rc ? SIZE_MAX : 0;
    return rc;
}

cu_result cuMemcpyBatchAsync_v2(cu_pointer *to, cu_pointer *from, size_t *bytes, size_t count,
                                struct cu_copy_attributes *attributes, size_t *index,
                                size_t number_of, cu_stream stream)
{
    return copy_batch(to, from, bytes, count, attributes, index, number_of, stream);
}

/* Words. */

static cu_result word_op(enum kind kind, cu_stream stream, cu_pointer word, uint32_t value,
                         unsigned flags)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);
    void *reach;

    if (rc)
        return call_end(rc);
    if (!standin_attribute(CU_ATTRIBUTE_STREAM_OPS_64))
        return call_end(CU_NOT_SUPPORTED);
    if (!s)
        return call_end(CU_INVALID_HANDLE);
    if (word % 4 != 0 ||
        (place_of(word, sizeof(value), &reach) == NOWHERE && kept(RULE_words_mapped)))
        return call_end(CU_INVALID_VALUE);
    return call_end(
        enqueue(s, &(struct op){.kind = kind, .to = word, .value = value, .flags = flags}));
}

cu_result cuStreamWaitValue32_v2(cu_stream stream, cu_pointer word, uint32_t value, unsigned flags)
{
    return word_op(WAIT_WORD, stream, word, value, flags);
}

cu_result cuStreamWriteValue32_v2(cu_stream stream, cu_pointer word, uint32_t value, unsigned flags)
{
    return word_op(WRITE_WORD, stream, word, value, flags);
}

/* The first version of these has to be allowed by the driver's module, and here it is not. */
cu_result cuStreamWaitValue32(cu_stream stream, cu_pointer word, uint32_t value, unsigned flags)
{
    (void)stream, (void)word, (void)value, (void)flags;
    return call_end(call_begin(IN_CONTEXT) ? CU_INVALID_CONTEXT : CU_NOT_SUPPORTED);
}

cu_result cuStreamWriteValue32(cu_stream stream, cu_pointer word, uint32_t value, unsigned flags)
{
    return cuStreamWaitValue32(stream, word, value, flags);
}
