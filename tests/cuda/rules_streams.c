/* SPDX-License-Identifier: Apache-2.0 */
/* rules_streams.c: the rules of what is enqueued; see rules.c. */
#include "rules.h"

#include <stdlib.h>
#include <string.h>

#include "base/atomics.h"

static const unsigned alone = CU_STREAM_FLAG_NON_BLOCKING;

static uint64_t number(const void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

/** A queue is stuck at a wait. */
static bool is_stalled(void)
{
    struct standin_counts counts;

    standin_counts(&counts);
    return counts.stalled > 0;
}

/** A stream that waits for a word, and the word. */
static cu_stream stuck_stream(unsigned flags, uint32_t **word)
{
    cu_stream stream = new_stream(flags);

    *word = new_pinned(4);
    assert_int_equal(d.wait_value(stream, number(*word), 1, CU_WAIT_GEQ), CU_OK);
    assert_true(SOON(is_stalled()));
    return stream;
}

static void release(uint32_t *word)
{
    tutti_store_release(word, 1); /* pairs with the wait */
}

/** A write on another stream than the one that is stuck. */
static cu_pointer write_elsewhere(void)
{
    cu_pointer to = new_memory(4);

    assert_int_equal(d.write_value(new_stream(alone), to, 7, 0), CU_OK);
    return to;
}

/** Streams that share a hardware queue: what is behind a wait there does not start. */
void one_queue(void **state)
{
    uint32_t *word;
    cu_pointer to;
    (void)state;

    stuck_stream(alone, &word);
    to = write_elsewhere();
    assert_true(NEVER(word_at(to) == 7));
    release(word);
    assert_true(SOON(word_at(to) == 7));
}

void many_queues(void **state)
{
    uint32_t *word;
    (void)state;

    stuck_stream(alone, &word);
    assert_true(WITHIN(1000, word_at(write_elsewhere()) == 7));
    release(word);
}

void stream_order(void **state)
{
    uint32_t *word;
    cu_stream stream = stuck_stream(alone, &word);
    cu_pointer to = new_memory(4);
    (void)state;

    assert_int_equal(d.write_value(stream, to, 7, 0), CU_OK);
    assert_true(NEVER(word_at(to) == 7));
    assert_int_equal(d.stream_query(stream), CU_NOT_READY);
    release(word);
    assert_true(SOON(word_at(to) == 7));
    assert_int_equal(d.stream_synchronize(stream), CU_OK);
    assert_int_equal(d.stream_query(stream), CU_OK);
}

/** A wait is for what was recorded when it was asked for. */
void capture_at_call(void **state)
{
    uint32_t *first, *second = new_pinned(4);
    cu_stream stream = stuck_stream(alone, &first), other = new_stream(alone);
    cu_pointer to = new_memory(4);
    cu_event event;
    (void)state;

    assert_int_equal(d.event_create(&event, CU_EVENT_FLAG_DISABLE_TIMING), CU_OK);
    assert_int_equal(d.event_record(event, stream), CU_OK);
    assert_int_equal(d.stream_wait_event(other, event, 0), CU_OK);
    assert_int_equal(d.write_value(other, to, 7, 0), CU_OK);
    assert_int_equal(d.wait_value(stream, number(second), 1, CU_WAIT_GEQ), CU_OK);
    assert_int_equal(d.event_record(event, stream), CU_OK); /* later: not waited for */
    assert_int_equal(word_at(to), 0);
    release(first);
    assert_true(WITHIN(1000, word_at(to) == 7));
    assert_int_equal(d.event_query(event), CU_NOT_READY);
    release(second);
    assert_int_equal(d.event_synchronize(event), CU_OK);
    assert_int_equal(d.event_destroy(event), CU_OK);
}

/** A wait for an event that nobody recorded is no wait. */
void unrecorded(void **state)
{
    cu_stream stream = new_stream(alone);
    cu_event event;
    (void)state;

    assert_int_equal(d.event_create(&event, 0), CU_OK);
    assert_int_equal(d.event_query(event), CU_OK);
    assert_int_equal(d.stream_wait_event(stream, event, 0), CU_OK);
    assert_int_equal(d.stream_synchronize(stream), CU_OK);
    assert_int_equal(d.event_record(event, stream), CU_OK);
    assert_int_equal(d.event_synchronize(event), CU_OK);
    assert_int_equal(d.event_destroy(event), CU_OK);
}

void wait_value(void **state)
{
    cu_stream stream = new_stream(alone);
    uint32_t *word = new_pinned(4);
    (void)state;

    *word = 4;
    assert_int_equal(d.wait_value(stream, number(word), 5, CU_WAIT_GEQ), CU_OK);
    assert_true(NEVER(d.stream_query(stream) == CU_OK));
    tutti_store_release(word, 6);
    assert_true(SOON(d.stream_query(stream) == CU_OK));
    tutti_store_release(word, 1); /* past 2^32: greater than what is just below it */
    assert_int_equal(d.wait_value(stream, number(word), UINT32_MAX, CU_WAIT_GEQ), CU_OK);
    assert_true(SOON(d.stream_query(stream) == CU_OK));
    assert_int_equal(d.wait_value(stream, number(word), 1, CU_WAIT_EQ), CU_OK);
    assert_int_equal(d.wait_value(stream, number(word), 3, CU_WAIT_AND), CU_OK);
    assert_true(SOON(d.stream_query(stream) == CU_OK));
}

void write_value(void **state)
{
    cu_stream stream = new_stream(alone);
    cu_pointer far_word = new_memory(4);
    uint32_t *near_word = new_pinned(4);
    (void)state;

    assert_int_equal(d.write_value(stream, far_word, 7, 0), CU_OK);
    assert_int_equal(d.write_value(stream, number(near_word), 8, 0), CU_OK);
    assert_int_equal(d.stream_synchronize(stream), CU_OK);
    assert_int_equal(word_at(far_word), 7);
    assert_int_equal(word_at(number(near_word)), 8);
}

/** Words of the host are reached where they are registered, and nowhere else. */
void words_mapped(void **state)
{
    cu_stream stream = new_stream(alone);
    uint32_t *word = malloc(sizeof(*word));
    (void)state;

    *word = 1;
    assert_int_equal(d.wait_value(stream, number(word), 1, 0), CU_INVALID_VALUE);
    assert_int_equal(d.write_value(stream, number(word), 1, 0), CU_INVALID_VALUE);
    free(word);
}

static cu_stream capturing_stream(int mode)
{
    cu_stream stream = new_stream(alone);

    assert_int_equal(d.capture_begin(stream, mode), CU_OK);
    return stream;
}

/** What is captured does not run, waits included, and nobody says so. */
void capture(void **state)
{
    uint32_t *word = new_pinned(4);
    cu_stream stream = capturing_stream(CU_CAPTURE_THREAD_LOCAL);
    struct standin_counts counts;
    cu_graph graph;
    size_t nodes;
    int status;
    (void)state;

    assert_int_equal(d.stream_capturing(stream, &status), CU_OK);
    assert_int_equal(status, CU_CAPTURE_ACTIVE);
    assert_int_equal(d.write_value(stream, number(word), 7, 0), CU_OK);
    assert_int_equal(d.wait_value(stream, number(word), 9, 0), CU_OK);
    assert_int_equal(d.capture_end(stream, &graph), CU_OK);
    assert_int_equal(d.graph_nodes(graph, NULL, &nodes), CU_OK);
    assert_int_equal(nodes, 2);
    assert_int_equal(d.stream_synchronize(stream), CU_OK);
    assert_int_equal(*word, 0);
    standin_counts(&counts);
    assert_int_equal(counts.waits_captured, 1);
    assert_int_equal(d.graph_destroy(graph), CU_OK);
}

/** To ask a captured stream what it has done spoils the capture. */
void capture_forbids(void **state)
{
    cu_pointer to = new_memory(4);
    cu_stream stream = capturing_stream(CU_CAPTURE_RELAXED);
    cu_graph graph;
    (void)state;

    assert_int_equal(d.stream_query(stream), CU_CAPTURE_UNSUPPORTED);
    assert_int_equal(d.capture_end(stream, &graph), CU_CAPTURE_INVALIDATED);
    stream = capturing_stream(CU_CAPTURE_RELAXED);
    assert_int_equal(d.copy_in(to, &(int){0}, 4, stream), CU_CAPTURE_UNSUPPORTED);
    assert_int_equal(d.capture_end(stream, &graph), CU_CAPTURE_INVALIDATED);
}

static void ask(struct task *task)
{
    int mode = task->from ? CU_CAPTURE_RELAXED : CU_CAPTURE_GLOBAL;

    d.capture_mode(&mode);
    task->result = d.stream_query((cu_stream)(uintptr_t)task->to);
}

/** A thread that has nothing to do with a capture spoils it, unless it asked to be let alone. */
void capture_global(void **state)
{
    cu_stream mine = new_stream(alone), stream = capturing_stream(CU_CAPTURE_GLOBAL);
    struct task relaxed = {.run = ask, .to = number(mine), .from = "relaxed"};
    struct task other = {.run = ask, .to = number(mine)};
    cu_graph graph;
    (void)state;

    task_start(&relaxed);
    assert_true(SOON(task_done(&relaxed)));
    assert_int_equal(relaxed.result, CU_OK);
    task_start(&other);
    assert_true(SOON(task_done(&other)));
    assert_int_equal(other.result, CU_CAPTURE_UNSUPPORTED);
    assert_int_equal(d.capture_end(stream, &graph), CU_CAPTURE_INVALIDATED);
}

static void copy_now(struct task *task)
{
    task->result = d.copy_in_now(task->to, task->from, 4);
}

/** The legacy stream waits for what was given to those that block, not for the others. */
void legacy(void **state)
{
    uint32_t *first, *second;
    struct task task = {.run = copy_now, .to = new_memory(4), .from = new_pinned(4)};
    cu_pointer to = new_memory(4);
    cu_stream other = new_stream(0);
    (void)state;

    stuck_stream(alone, &first);
    assert_int_equal(d.copy_in_now(to, task.from, 4), CU_OK);
    stuck_stream(0, &second);
    task_start(&task);
    assert_true(NEVER(task_done(&task)));
    assert_int_equal(d.write_value(other, to, 7, 0), CU_OK); /* behind the legacy copy */
    assert_true(NEVER(word_at(to) == 7));
    release(second);
    assert_true(SOON(task_done(&task) && word_at(to) == 7));
    release(first);
}

static cu_stream behind;

static void copy_behind(struct task *task)
{
    task->result = d.copy_in(task->to, task->from, 4, behind);
}

/** Of memory that is not pinned a copy is done when its call returns. */
void pageable(void **state)
{
    uint32_t *word, mine = 7;
    struct task task = {.run = copy_behind, .to = new_memory(4), .from = &mine};
    (void)state;

    behind = stuck_stream(alone, &word);
    task_start(&task);
    assert_true(NEVER(task_done(&task)));
    release(word);
    assert_true(SOON(task_done(&task)));
    assert_int_equal(task.result, CU_OK);
    assert_int_equal(word_at(task.to), 7);
}

/** Pinned memory is read when the copy runs: until then it belongs to the copy. */
void pinned(void **state)
{
    uint32_t *word, *mine = new_pinned(4);
    struct task task = {.run = copy_behind, .to = new_memory(4), .from = mine};
    (void)state;

    *mine = 7;
    behind = stuck_stream(alone, &word);
    task_start(&task);
    assert_true(WITHIN(1000, task_done(&task)));
    assert_int_equal(word_at(task.to), 0);
    tutti_store_relaxed(mine, 8); /* too late for us, and too early for the copy */
    release(word);
    assert_int_equal(d.stream_synchronize(behind), CU_OK);
    assert_int_equal(word_at(task.to), 8);
}
