/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command that does not return, and drives that fail: each step is reached
 * (abort, deletion of the queues, disabling, holding), each within its bound; a
 * transfer ends with an errno; memory is not given back before it is proven
 * that the drive is done with it; and where it can go on, it goes on. A
 * completion after the time-out is nobody's.
 *
 * Seen to fail: with an abort that is taken for the end of a command (its memory
 * would be free while it is out), with a queue that is opened anew under
 * commands of the old one, with a lane that is used while it is stopped (rule
 * broken: doorbell of a queue that is not there), and with a dead drive whose
 * transfers are left waiting.
 */
#include "soft_drive.h"

static const struct nvme_bounds SHORT = {150 * MS, 300 * MS, 300 * MS};

/** What goes wrong, and what is to come of a read under it. */
struct story {
    struct soft_fault fault[3];
    uint32_t faults;
    bool no_aborts;
    int result;
    uint64_t aborts;
    uint64_t deletions;
    uint64_t resets;
    bool held;
    int dead;
};

static struct nvme_transfer a_read(const struct iovec *iov)
{
    return (struct nvme_transfer){
        .bytes = NVME_PAGE, .segments = 1, .iov = iov, .opcode = NVME_READ};
}

static uint8_t *window_of(struct soft_drive *s, struct nvme_lane *lane)
{
    uint8_t *memory = aligned_alloc(NVME_PAGE, NVME_PAGE);
    struct tutti_error err = {0};

    memset(memory, 0x11, NVME_PAGE);
    assert_int_equal(nvme_drive_reach(s->drive, lane, memory, NVME_PAGE, &err), 0);
    return memory;
}

/** One read under a story, then another where the drive lives. */
static void tell(const struct story *story)
{
    struct nvme_transfer first, second;
    struct tutti_error err = {0};
    struct nvme_steps steps;
    struct nvme_lane *lane;
    struct soft_drive s;
    struct iovec iov;
    uint64_t began;

    soft_drive_open(&s, story->no_aborts ? ",ready=1,aborts=0" : ",ready=1", &SHORT);
    assert_int_equal(nvme_drive_take_lane(s.drive, 32, 4, &lane, &err), 0);
    iov = (struct iovec){.iov_base = window_of(&s, lane), .iov_len = NVME_PAGE};
    for (uint32_t i = 0; i < story->faults; i++)
        soft_drive_inject(&s, story->fault[i]);
    first = a_read(&iov);
    began = tutti_clock_now();
    nvme_lane_submit(lane, &first);
    if (story->held) {
        assert_int_equal(collect_within(lane, 1, 3000 * MS), 0);
        nvme_drive_steps(s.drive, &steps);
        assert_true(steps.held);
        assert_string_not_equal(steps.said.message, "");
        assert_int_equal(nvme_drive_read(s.drive, iov.iov_base, NVME_PAGE, 0), -EIO);
        return; /* left behind, with all its memory: by contract */
    }
    assert_int_equal(collect_within(lane, 1, 5000 * MS), 1);
    assert_int_equal(first.result, story->result);
    assert_true(tutti_clock_now() - began >= SHORT.command || story->result == -ENODEV ||
                story->fault[0].kind == SOFT_TWICE || story->fault[0].kind == SOFT_FOREIGN);
    nvme_drive_steps(s.drive, &steps);
    assert_int_equal(steps.aborts, story->aborts);
    assert_int_equal(steps.deletions, story->deletions);
    assert_int_equal(steps.resets, story->resets);
    assert_int_equal(steps.dead, story->dead);
    second = a_read(&iov);
    nvme_lane_submit(lane, &second);
    assert_int_equal(collect_within(lane, 1, 5000 * MS), 1);
    assert_int_equal(second.result, story->dead);
    nvme_drive_give_lane(s.drive, lane);
    soft_drive_close(&s);
    free(iov.iov_base);
}

static struct soft_fault lost(uint8_t opcode, bool admin)
{
    return (struct soft_fault){.kind = SOFT_LOST, .opcode = opcode, .admin = admin, .count = 1};
}

static struct soft_fault late(uint8_t opcode)
{
    return (struct soft_fault){
        .kind = SOFT_LATE, .opcode = opcode, .count = 1, .delay_ns = 600 * MS};
}

static void an_abort_helps(void **state)
{
    const struct story story = {
        .fault = {lost(NVME_READ, false)}, .faults = 1, .result = -EIO, .aborts = 1};
    (void)state;

    tell(&story);
}

static void aborts_do_nothing(void **state)
{
    const struct story never = {.fault = {lost(NVME_READ, false)},
                                .faults = 1,
                                .no_aborts = true,
                                .result = -ETIMEDOUT,
                                .aborts = 1,
                                .deletions = 1};
    const struct story at_last = {.fault = {late(NVME_READ)},
                                  .faults = 1,
                                  .no_aborts = true,
                                  .result = -ETIMEDOUT,
                                  .aborts = 1,
                                  .deletions = 1};
    (void)state;

    tell(&never);
    tell(&at_last);
}

static void an_abort_is_not_answered(void **state)
{
    const struct story story = {.fault = {lost(NVME_READ, false), lost(NVME_ADMIN_ABORT, true)},
                                .faults = 2,
                                .result = -ETIMEDOUT,
                                .aborts = 1,
                                .resets = 1};
    (void)state;

    tell(&story);
}

static void a_deletion_is_not_answered(void **state)
{
    const struct story story = {.fault = {lost(NVME_READ, false), lost(NVME_ADMIN_DELETE_SQ, true)},
                                .faults = 2,
                                .no_aborts = true,
                                .result = -ETIMEDOUT,
                                .aborts = 1,
                                .deletions = 1,
                                .resets = 1};
    (void)state;

    tell(&story);
}

/** A queue that is gone and cannot be made again: the drive is reset, and that helps. */
static void a_queue_cannot_be_made_again(void **state)
{
    const struct story story = {.fault = {lost(NVME_READ, false),
                                          {.kind = SOFT_STATUS,
                                           .opcode = NVME_ADMIN_CREATE_SQ,
                                           .admin = true,
                                           .count = 1,
                                           .status = NVME_INTERNAL}},
                                .faults = 2,
                                .no_aborts = true,
                                .result = -ETIMEDOUT,
                                .aborts = 1,
                                .deletions = 1,
                                .resets = 1};
    (void)state;

    tell(&story);
}

static void what_it_says_is_not_believed(void **state)
{
    const struct story story = {.fault = {{.kind = SOFT_FOREIGN, .opcode = NVME_READ, .count = 1}},
                                .faults = 1,
                                .result = -EIO,
                                .resets = 1};
    (void)state;

    tell(&story);
}

static void nothing_helps(void **state)
{
    const struct story story = {
        .fault = {{.kind = SOFT_DEAD, .opcode = NVME_READ, .count = 1}}, .faults = 1, .held = true};
    (void)state;

    tell(&story);
}

/** It is pulled out: everything ends, what is out, what waits and what comes. */
static void pulled_out(void **state)
{
    struct nvme_transfer t[40];
    struct tutti_error err = {0};
    struct nvme_steps steps;
    struct nvme_lane *lane;
    struct soft_drive s;
    struct iovec iov;
    (void)state;

    soft_drive_open(&s, "", &SHORT);
    assert_int_equal(nvme_drive_take_lane(s.drive, 16, 4, &lane, &err), 0);
    iov = (struct iovec){.iov_base = window_of(&s, lane), .iov_len = NVME_PAGE};
    soft_drive_inject(&s, (struct soft_fault){.kind = SOFT_LOST, .opcode = NVME_READ, .count = 40});
    for (uint32_t i = 0; i < 40; i++) {
        t[i] = a_read(&iov);
        nvme_lane_submit(lane, &t[i]);
    }
    assert_int_equal(collect_within(lane, 1, 10 * MS), 0);
    soft_stop(s.soft);
    soft_remove(s.soft);
    assert_int_equal(soft_start(s.soft), 0);
    assert_int_equal(collect_within(lane, 40, 2000 * MS), 40);
    for (uint32_t i = 0; i < 40; i++)
        assert_int_equal(t[i].result, -ENODEV);
    assert_int_equal(nvme_drive_read(s.drive, iov.iov_base, 512, 0), -ENODEV);
    assert_int_equal(nvme_drive_write(s.drive, iov.iov_base, 512, 0), -ENODEV);
    nvme_drive_steps(s.drive, &steps);
    assert_int_equal(steps.dead, -ENODEV);
    assert_non_null(strstr(steps.said.message, "removed"));
    nvme_drive_give_lane(s.drive, lane);
    assert_int_equal(nvme_drive_take_lane(s.drive, 16, 4, &lane, &err), -ENODEV);
    soft_drive_close(&s);
    free(iov.iov_base);
}

static bool asked_for;

static bool is_asked_for(void *self)
{
    (void)self;
    return __atomic_load_n(&asked_for, __ATOMIC_RELAXED);
}

/** It is asked for: what is out ends right, nothing more is issued, and it is given back, soon. */
static void asked_for_in_order(void **state)
{
    struct nvme_transfer t, later;
    struct tutti_error err = {0};
    struct nvme_steps steps;
    struct nvme_port port;
    struct nvme_lane *lane;
    struct soft_drive s;
    struct iovec iov;
    char what[96];
    (void)state;

    for (uint32_t stuck = 0; stuck < 2; stuck++) {
        __atomic_store_n(&asked_for, false, __ATOMIC_RELAXED);
        steps = (struct nvme_steps){0};
        soft_drive_file(s.path);
        snprintf(what, sizeof(what), "%s,aborts=0", s.path);
        assert_int_equal(soft_port_open(what, &port, &err), 0);
        unlink(s.path);
        s.soft = soft_port_soft(&port);
        port.leaving = is_asked_for;
        assert_int_equal(nvme_drive_open_port(s.path, &port, 0, &SHORT, &s.drive, &err), 0);
        assert_int_equal(nvme_drive_take_lane(s.drive, 16, 4, &lane, &err), 0);
        iov = (struct iovec){.iov_base = window_of(&s, lane), .iov_len = NVME_PAGE};
        soft_drive_inject(&s, (struct soft_fault){.kind = stuck ? SOFT_LOST : SOFT_LATE,
                                                  .opcode = NVME_READ,
                                                  .count = 1,
                                                  .delay_ns = 100 * MS});
        t = a_read(&iov);
        nvme_lane_submit(lane, &t);
        assert_int_equal(collect_within(lane, 1, MS), 0);
        __atomic_store_n(&asked_for, true, __ATOMIC_RELAXED);
        assert_int_equal(collect_within(lane, 1, 5000 * MS), 1);
        assert_true(t.result == (stuck ? -ENODEV : 0) || t.result == -ETIMEDOUT);
        for (uint32_t i = 0; steps.dead == 0 && i < 5000; i++) { /* until the warden has looked */
            later = a_read(&iov);
            nvme_lane_submit(lane, &later);
            assert_int_equal(collect_within(lane, 1, 5000 * MS), 1);
            assert_true(later.result == 0 || later.result == -ENODEV);
            nvme_drive_steps(s.drive, &steps);
            usleep(1000);
        }
        assert_int_equal(steps.dead, -ENODEV);
        assert_non_null(strstr(steps.said.message, "given back"));
        later = a_read(&iov);
        nvme_lane_submit(lane, &later);
        assert_int_equal(collect_within(lane, 1, 5000 * MS), 1);
        assert_int_equal(later.result, -ENODEV);
        assert_int_equal(nvme_drive_reach(s.drive, lane, what, 1, &err), -ENODEV);
        nvme_drive_give_lane(s.drive, lane);
        nvme_drive_close(s.drive);
        free(iov.iov_base);
    }
}

/** A fatal status: it is reset, and goes on. */
static void fatal_status(void **state)
{
    struct tutti_error err = {0};
    struct nvme_transfer t, *ended;
    struct nvme_steps steps;
    struct nvme_lane *lane;
    struct soft_drive s;
    struct iovec iov;
    (void)state;

    soft_drive_open(&s, "", &SHORT);
    assert_int_equal(nvme_drive_take_lane(s.drive, 16, 4, &lane, &err), 0);
    iov = (struct iovec){.iov_base = window_of(&s, lane), .iov_len = NVME_PAGE};
    assert_int_equal(nvme_drive_write(s.drive, iov.iov_base, 512, 0), 0);
    soft_drive_inject(&s, lost(NVME_READ, false)); /* so that it is out when that happens */
    t = a_read(&iov);
    nvme_lane_submit(lane, &t);
    assert_int_equal(nvme_lane_collect(lane, &ended, 1), 0);
    soft_stop(s.soft);
    soft_fatal(s.soft);
    assert_int_equal(soft_start(s.soft), 0);
    assert_int_equal(collect_within(lane, 1, 5000 * MS), 1);
    assert_true(t.result == -EIO || t.result == -ETIMEDOUT); /* or an abort was asked for before */
    nvme_drive_steps(s.drive, &steps);
    assert_true(steps.resets >= 1);
    assert_int_equal(nvme_drive_write(s.drive, iov.iov_base, 512, 0), 0); /* it goes on */
    nvme_drive_give_lane(s.drive, lane);
    soft_drive_close(&s);
    free(iov.iov_base);
}

static void health(void **state)
{
    struct nvme_health h = {0};
    struct soft_drive s;
    (void)state;

    soft_drive_open(&s, "", &SHORT);
    nvme_drive_health(s.drive, &h);
    assert_true(h.known); /* from the start */
    assert_int_equal(h.spare, 100);
    assert_int_equal(h.used, 3);
    assert_int_equal(h.kelvin, 310);
    assert_int_equal(h.media_errors, 2);
    assert_int_equal(h.warnings, 0);
    soft_stop(s.soft);
    soft_warn(s.soft, NVME_WARNING_READ_ONLY); /* it tells of it by itself */
    assert_int_equal(soft_start(s.soft), 0);
    for (uint32_t i = 0; i < 200 && h.warnings == 0; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        nvme_drive_health(s.drive, &h);
    }
    assert_int_equal(h.warnings, NVME_WARNING_READ_ONLY);
    soft_drive_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_abort_helps),
        cmocka_unit_test(aborts_do_nothing),
        cmocka_unit_test(an_abort_is_not_answered),
        cmocka_unit_test(a_deletion_is_not_answered),
        cmocka_unit_test(a_queue_cannot_be_made_again),
        cmocka_unit_test(what_it_says_is_not_believed),
        cmocka_unit_test(pulled_out),
        cmocka_unit_test(asked_for_in_order),
        cmocka_unit_test(fatal_status),
        cmocka_unit_test(health),
        cmocka_unit_test(nothing_helps), /* last: what is held is left behind */
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
