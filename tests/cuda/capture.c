/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture.c: stream capture in the CUDA driver's stand-in.
 *
 * While a stream is captured nothing of it runs; calls that would have to know what
 * ran are forbidden and spoil the capture. A capture in the global mode forbids unsafe
 * calls to every thread that has not asked to be left alone (relaxed), so a thread of
 * ours that asks for an event's state spoils somebody else's graph.
 */
#include "double.h"

#include <stdlib.h>

static struct cu_stream_s *capturing; /* one at a time */

struct cu_graph_s {
    size_t nodes;
};

static cu_result spoil(struct cu_stream_s *s)
{
    s->capture = CU_CAPTURE_INVALID;
    return CU_CAPTURE_UNSUPPORTED;
}

cu_result capture_forbids(struct cu_stream_s *s)
{
    if (s->is_null && capturing && capturing->capture == CU_CAPTURE_ACTIVE &&
        !(capturing->flags & CU_STREAM_FLAG_NON_BLOCKING) && kept(RULE_capture_forbids)) {
        spoil(capturing);
        return CU_CAPTURE_IMPLICIT;
    }
    if (s->capture != CU_CAPTURE_ACTIVE || !kept(RULE_capture_forbids))
        return CU_OK;
    return spoil(s);
}

cu_result capture_unsafe(void)
{
    bool ours, global;

    if (!capturing || capturing->capture != CU_CAPTURE_ACTIVE || !kept(RULE_capture_global) ||
        *thread_capture_mode() == CU_CAPTURE_RELAXED || capturing->mode == CU_CAPTURE_RELAXED)
        return CU_OK;
    ours = pthread_equal(capturing->by, pthread_self());
    global = capturing->mode == CU_CAPTURE_GLOBAL && *thread_capture_mode() == CU_CAPTURE_GLOBAL;
    return ours || global ? spoil(capturing) : CU_OK;
}

cu_result cuThreadExchangeStreamCaptureMode(int *mode)
{
    int *mine = thread_capture_mode();
    int before = *mine;

    if (*mode < CU_CAPTURE_GLOBAL || *mode > CU_CAPTURE_RELAXED)
        return CU_INVALID_VALUE;
    *mine = *mode;
    *mode = before;
    return CU_OK;
}

cu_result cuStreamBeginCapture_v2(cu_stream stream, int mode)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);

    if (rc)
        return call_end(rc);
    if (!s || s->is_null)
        return call_end(CU_CAPTURE_UNSUPPORTED);
    if (s->capture != CU_CAPTURE_NONE || capturing)
        return call_end(CU_INVALID_VALUE);
    s->capture = CU_CAPTURE_ACTIVE;
    s->mode = mode;
    s->by = pthread_self();
    s->nodes = 0;
    capturing = s;
    return call_end(CU_OK);
}

cu_result cuStreamEndCapture(cu_stream stream, cu_graph *graph)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);
    bool spoilt;

    if (rc)
        return call_end(rc);
    if (!s || s->capture == CU_CAPTURE_NONE)
        return call_end(CU_CAPTURE_UNMATCHED);
    if (s->mode != CU_CAPTURE_RELAXED && !pthread_equal(s->by, pthread_self()))
        return call_end(CU_CAPTURE_WRONG_THREAD);
    spoilt = s->capture == CU_CAPTURE_INVALID;
    s->capture = CU_CAPTURE_NONE;
    capturing = NULL;
    *graph = spoilt ? NULL : calloc(1, sizeof(**graph));
    if (*graph)
        (*graph)->nodes = s->nodes;
    return call_end(spoilt ? CU_CAPTURE_INVALIDATED : *graph ? CU_OK : CU_OUT_OF_MEMORY);
}

cu_result cuStreamIsCapturing(cu_stream stream, int *status)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);

    if (rc == CU_OK && !s)
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK && s->is_null)
        rc = capture_forbids(s);
    if (rc == CU_OK)
        *status = s->capture;
    return call_end(rc);
}

cu_result cuGraphGetNodes(cu_graph graph, void **nodes, size_t *count)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && nodes)
        rc = CU_NOT_SUPPORTED; /* only their number is kept here */
    if (rc == CU_OK)
        *count = graph->nodes;
    return call_end(rc);
}

cu_result cuGraphDestroy(cu_graph graph)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK)
        free(graph);
    return call_end(rc);
}
