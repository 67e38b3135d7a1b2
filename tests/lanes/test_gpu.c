/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_gpu.c: engine "gpu" (on host lanes, a test double) when things go wrong
 * below it: every command comes back, with an errno, and what can go on does.
 *
 * Seen to fail with gpu_warp_tell() that tells the warden of nothing (the lost
 * command never ends), with gpu_warp_take_news() that keeps the old queue, with
 * finish_launch() that forgets a launch's error, and with a rest that never ends.
 */
#include "../unit/nvme/soft_drive.h"

#include "base/clock.h"
#include "engine/gpu.h"

#include <sys/eventfd.h>

enum { COMMANDS = 24, BYTES = 16384 };

static const struct nvme_bounds hasty = {300 * MS, 200 * MS, 300 * MS};

struct fixture {
    struct soft_drive s;
    struct backend *b;
    int wakeup;
    uint8_t *memory;
    struct iovec iov[COMMANDS];
    struct command command[COMMANDS];
};

static void begin(struct fixture *f, const char *kind)
{
    struct tutti_error err = {0};
    struct backend_options o = {.depth = 64, .path = "test"};

    gpu_launcher = gpu_launcher ? gpu_launcher : &launcher_lanes;
    soft_drive_open(&f->s, kind, &hasty);
    f->wakeup = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    o.drive = f->s.drive;
    o.wakeup = f->wakeup;
    if (backend_gpu.open(&o, &f->b, &err) < 0)
        fail_msg("%s", err.message);
    f->memory = aligned_alloc(4096, COMMANDS * BYTES);
    assert_non_null(f->memory);
    memset(f->memory, 0x5a, COMMANDS * BYTES);
    assert_int_equal(backend_gpu.fix(f->b, f->memory, COMMANDS * BYTES, &err), 0);
}

static void finish(struct fixture *f)
{
    backend_gpu.close(f->b);
    free(f->memory);
    close(f->wakeup);
}

static void submit_all(struct fixture *f, uint8_t direction)
{
    for (uint32_t i = 0; i < COMMANDS; i++) {
        f->iov[i] = (struct iovec){.iov_base = f->memory + i * BYTES, .iov_len = BYTES};
        f->command[i] = (struct command){.offset = (uint64_t)i * BYTES,
                                         .bytes = BYTES,
                                         .segments = 1,
                                         .iov = &f->iov[i],
                                         .direction = direction,
                                         .result = 1};
        backend_gpu.submit(f->b, &f->command[i]);
    }
}

/** All come back, within a bound. Return: how many with an error. */
static uint32_t collect_all(struct fixture *f)
{
    uint64_t end = tutti_clock_now() + 20000 * MS;
    struct command *ended[COMMANDS];
    uint32_t got = 0, errors = 0;

    while (got < COMMANDS) {
        uint32_t n = backend_gpu.reap(f->b, ended, COMMANDS);

        for (uint32_t i = 0; i < n; i++)
            errors += ended[i]->result != BYTES;
        got += n;
        if (tutti_clock_now() > end)
            fail_msg("%u of %u commands came back", got, COMMANDS);
        if (got < COMMANDS)
            backend_gpu.wait(f->b, 100 * MS);
    }
    return errors;
}

static uint32_t round_of(struct fixture *f, uint8_t direction)
{
    submit_all(f, direction);
    return collect_all(f);
}

static void inject(struct fixture *f, enum soft_fault_kind kind, uint32_t status)
{
    soft_drive_inject(
        &f->s, (struct soft_fault){
                   .kind = kind, .opcode = NVME_READ, .skip = 5, .count = 1, .status = status});
}

static void nothing_runs_it(void **state)
{
    struct tutti_error err = {0};
    struct backend_options o = {.path = "test"};
    struct backend *b;
    (void)state;

    gpu_launcher = NULL;
    assert_int_equal(backend_gpu.open(&o, &b, &err), -ENODEV);
    assert_non_null(strstr(err.message, "nothing here that runs its kernel"));
    gpu_launcher = &launcher_lanes;
    assert_int_equal(backend_gpu.open(&o, &b, &err), -EINVAL);
    assert_non_null(strstr(err.message, "this is a file"));
}

static void a_status_has_its_words(void **state)
{
    struct fixture f;
    uint32_t found = 0;
    (void)state;

    begin(&f, "");
    assert_int_equal(round_of(&f, TUTTI_WRITE), 0);
    inject(&f, SOFT_STATUS, NVME_READ_ERROR);
    assert_int_equal(round_of(&f, TUTTI_READ), 1);
    for (uint32_t i = 0; i < COMMANDS; i++)
        found += f.command[i].result == -EIO && f.command[i].why;
    assert_int_equal(found, 1);
    assert_int_equal(round_of(&f, TUTTI_READ), 0);
    finish(&f);
    soft_drive_close(&f.s);
}

/** Aborted in vain, its queue deleted; the kernel goes on with a new one. */
static void a_lost_command_comes_back(void **state)
{
    struct fixture f;
    struct nvme_steps steps;
    uint32_t errors;
    (void)state;

    begin(&f, ",aborts=0,depth=16");
    assert_int_equal(round_of(&f, TUTTI_WRITE), 0);
    inject(&f, SOFT_LOST, 0);
    errors = round_of(&f, TUTTI_READ);
    assert_true(errors >= 1);
    nvme_drive_steps(f.s.drive, &steps);
    assert_true(steps.aborts > 0 && steps.deletions > 0);
    assert_int_equal(steps.dead, 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(round_of(&f, TUTTI_READ), 0);
    finish(&f);
    soft_drive_close(&f.s);
}

static void what_cannot_be_believed_is_reset(void **state)
{
    struct fixture f;
    struct nvme_steps steps;
    (void)state;

    begin(&f, "");
    inject(&f, SOFT_FOREIGN, 0);
    assert_true(round_of(&f, TUTTI_READ) >= 1);
    nvme_drive_steps(f.s.drive, &steps);
    assert_true(steps.resets > 0);
    assert_int_equal(round_of(&f, TUTTI_READ), 0);
    finish(&f);
    nvme_drive_close(f.s.drive);
}

static void a_drive_that_is_gone_ends_all(void **state)
{
    struct fixture f;
    (void)state;

    begin(&f, "");
    assert_int_equal(round_of(&f, TUTTI_WRITE), 0);
    soft_stop(f.s.soft);
    soft_remove(f.s.soft);
    submit_all(&f, TUTTI_READ);
    assert_int_equal(soft_start(f.s.soft), 0);
    assert_int_equal(collect_all(&f), COMMANDS);
    for (uint32_t i = 0; i < COMMANDS; i++)
        assert_int_equal(f.command[i].result, -ENODEV);
    finish(&f);
    nvme_drive_close(f.s.drive);
}

/* A launcher whose launch, or whose wait, fails for good. */

static uint32_t launches, fails_at;
static bool in_wait, failed;

static int failing_launch(struct launcher *l, const struct launch *what, uint64_t *ticket,
                          struct tutti_error *err)
{
    failed = failed || (!in_wait && ++launches >= fails_at);
    return failed && !in_wait ? -EIO : launcher_lanes.launch(l, what, ticket, err);
}

static int failing_wait(struct launcher *l, uint64_t ticket, uint64_t timeout_ns,
                        struct tutti_error *err)
{
    int rc = launcher_lanes.wait(l, ticket, timeout_ns, err);

    if (rc == 0 && in_wait && ++launches >= fails_at)
        failed = true;
    return failed && rc == 0 ? -EIO : rc;
}

static struct launcher_type failing;

static int failing_open(const struct launch_options *o, struct launcher **l,
                        struct tutti_error *err)
{
    int rc = launcher_lanes.open(o, l, err);

    if (rc == 0)
        (*l)->type = &failing;
    return rc;
}

static void a_launcher_that_fails_ends_all(void **state)
{
    struct fixture f;
    (void)state;

    failing = launcher_lanes;
    failing.open = failing_open;
    failing.launch = failing_launch;
    failing.wait = failing_wait;
    for (uint32_t i = 0; i < 2; i++) {
        in_wait = i == 1;
        failed = false;
        launches = 0;
        fails_at = UINT32_MAX;
        gpu_launcher = &failing;
        begin(&f, "");
        assert_int_equal(round_of(&f, TUTTI_WRITE), 0);
        fails_at = 0;
        /* A launch that is under way may still do a round, or two. */
        for (uint32_t round = 0; round_of(&f, TUTTI_READ) < COMMANDS; round++)
            assert_true(round < 5);
        assert_int_equal(round_of(&f, TUTTI_READ), COMMANDS);
        finish(&f);
        nvme_drive_close(f.s.drive);
        gpu_launcher = &launcher_lanes;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_runs_it),
        cmocka_unit_test(a_status_has_its_words),
        cmocka_unit_test(a_lost_command_comes_back),
        cmocka_unit_test(what_cannot_be_believed_is_reset),
        cmocka_unit_test(a_drive_that_is_gone_ends_all),
        cmocka_unit_test(a_launcher_that_fails_ends_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
