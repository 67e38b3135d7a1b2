/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events.c: events of the CUDA driver's stand-in.
 *
 * The one idea: to record an event makes a stamp, and who waits holds the stamp that was the latest
 * when it asked. An event that was never recorded has none, so there is nothing to wait for.
 */
#include "double.h"

#include <stdlib.h>

#define EVENT_MAGIC UINT64_C(0x746e6576650a0001)

static cu_event event_of(cu_event event)
{
    return event && event->magic == EVENT_MAGIC ? event : NULL;
}

cu_result cuEventCreate(cu_event *event, unsigned flags)
{
    cu_result rc = call_begin(IN_CONTEXT);

    (void)flags;
    *event = rc ? NULL : calloc(1, sizeof(**event));
    if (*event)
        (*event)->magic = EVENT_MAGIC;
    return call_end(rc ? rc : *event ? CU_OK : CU_OUT_OF_MEMORY);
}

cu_result cuEventDestroy_v2(cu_event event)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && !event_of(event))
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK) {
        stamp_drop(event->stamp);
        event->magic = 0;
        free(event);
    }
    return call_end(rc);
}

cu_result cuEventRecord(cu_event event, cu_stream stream)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);
    struct stamp *stamp = NULL;

    if (rc == CU_OK && (!s || !event_of(event)))
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK)
        stamp = calloc(1, sizeof(*stamp));
    if (rc || !stamp)
        return call_end(rc ? rc : CU_OUT_OF_MEMORY);
    stamp->users = 2;
    event->captured_into = s->capture == CU_CAPTURE_ACTIVE ? s : NULL;
    stamp_drop(event->stamp);
    event->stamp = stamp;
    return call_end(enqueue(s, &(struct op){.kind = RECORD, .stamp = stamp}));
}

cu_result cuStreamWaitEvent(cu_stream stream, cu_event event, unsigned flags)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);
    struct op wait = {.kind = WAIT_STAMP};

    if (rc == CU_OK && (!s || !event_of(event) || flags != 0))
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK && !event->stamp) /* nothing was recorded, so nothing is waited for */
        return call_end(kept(RULE_unrecorded) ? CU_OK : CU_INVALID_HANDLE);
    if (rc)
        return call_end(rc);
    wait.argument = event;
    if (kept(RULE_capture_at_call)) { /* what is recorded later does not count */
        wait.stamp = event->stamp;
        wait.stamp->users++;
    }
    return call_end(enqueue(s, &wait));
}

static cu_result event_ready(cu_event event)
{
    if (!event_of(event))
        return CU_INVALID_HANDLE;
    if (event->captured_into)
        return capture_forbids(event->captured_into);
    return event->stamp && !event->stamp->done ? CU_NOT_READY : CU_OK;
}

cu_result cuEventQuery(cu_event event)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    return call_end(rc ? rc : event_ready(event));
}

cu_result cuEventSynchronize(cu_event event)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    while (rc == CU_OK && (rc = event_ready(event)) == CU_NOT_READY && !standin_context.sticky) {
        pthread_cond_wait(&standin_changed, &standin_lock);
        rc = CU_OK;
    }
    return call_end(rc == CU_NOT_READY ? standin_context.sticky : rc);
}
