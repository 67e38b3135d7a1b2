# SPDX-License-Identifier: Apache-2.0
"""Reads that do not end: the server goes on, and nobody computes in the blocks they may reach."""

import time
from typing import Any

import pytest
from conftest import MODES, Lives, Reference, prompt

from engine import Answer, Engine

P = prompt(51, 640)
A = P + prompt(52, 40)
B = P + prompt(53, 50)
Q = prompt(54, 300)
LATE = 2.0
# Of a load of one run: the records, then a command a layer.
WHICH = {"records": 0, "a layer": 2}


def impatient(engine: Engine) -> list[set[int]]:
    """Short bounds; and what steps computed on blocks that a read may still write to."""
    from tutti_kv import salvage

    salvage.CANCEL_PATIENCE = 0.3
    seen: list[set[int]] = []
    plan = engine.half.plan

    def watched(output: Any) -> Any:
        held = {
            int(block)
            for loading in getattr(engine.worker, "_held", [])
            for block in loading.load.items["block"]
        }
        for name in output.num_scheduled_tokens:
            used = held & set(engine.scheduler.kv_cache_manager.get_block_ids(name)[0])
            if used:
                seen.append(used)
        return plan(output)

    engine.half.plan = watched
    return seen


def stuck(engine: Engine) -> dict[str, Any]:
    """P is stored; a request for it meets the read that does not end; then it ends."""
    seen = impatient(engine)
    engine.ask(P)
    engine.drop_local()
    began = time.monotonic()
    first = engine.collect([engine.submit(A)])[0]
    took = time.monotonic() - began
    held = sum(len(loading.load.items) for loading in engine.worker._held)
    pool = engine.scheduler.kv_cache_manager.block_pool
    missing = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
    other, second = engine.collect([engine.submit(Q), engine.submit(B)])
    refused = engine.half.stats.data.get("refused_requests|stuck", 0) + engine.totals.get(
        "refused_requests|stuck", 0
    )
    while engine.worker._held:
        engine.ask([1, 2, 3], n=1)
        time.sleep(0.05)
    engine.ask([1, 2, 3], n=1)
    engine.healthy()
    engine.drop_local()  # it would say no if a block were missing
    third = engine.ask(B)
    return {
        "answers": (first, other, second, third),
        "took": took,
        "held": held,
        "missing": missing,
        "refused": refused,
        "seen": seen,
        "totals": dict(engine.totals),
    }


def life_with_stuck_read(lives: Lives, mode: str, which: str, **options: Any) -> Any:
    rule = f"read:delay:ns={int(LATE * 1e9)}:count=1:after={WHICH[which]}"
    extra = {"engine": "fault", "fault_rules": rule, "load_timeout": 0.4}
    return lives(mode, extra=extra, **options)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("mode", MODES)
def test_a_read_without_end(mode: str, which: str, lives: Lives, reference: Reference) -> None:
    """The step, or the request, waits a bounded time; then all is as if the load had failed."""
    with life_with_stuck_read(lives, mode, which) as life:
        got = life.run(stuck)
        log = life.log.read_text()
    first, other, second, third = got["answers"]
    assert got["held"] == 20, "void: the read was not stuck"
    assert got["took"] < LATE
    assert got["missing"] >= 20, "the blocks are given out again while the read is under way"
    assert got["seen"] == []
    assert (second.external, got["refused"]) == (0, 3), "all that ask meanwhile, A once more too"
    assert third.external == 640, "the slots are whole and hit again"
    for tokens, answer in ((A, first), (Q, other), (B, second), (B, third)):
        reference.check(tokens, answer)
    assert "20 blocks of KV memory that it may still write to are set aside" in log
    assert got["totals"]["load_failed_slots|0|no end"] == 20


@pytest.mark.parametrize("mode", MODES)
def test_under_fail_the_request_ends_with_an_error(
    mode: str, lives: Lives, reference: Reference
) -> None:
    """And only that one; its blocks stay out of use all the same."""
    with life_with_stuck_read(lives, mode, "a layer", policy="fail") as life:
        got = life.run(stuck)
    first, other, second, third = got["answers"]
    assert first.error
    assert (got["held"], got["missing"] >= 20, got["seen"]) == (20, True, [])
    for tokens, answer in ((Q, other), (B, second), (B, third)):
        reference.check(tokens, answer)


def test_control_without_the_quarantine_blocks_are_reused(lives: Lives) -> None:
    """Negative control: vLLM by itself computes anew in the very blocks."""

    def scenario(engine: Engine) -> list[set[int]]:
        engine.half._quarantine.report = lambda rank, blocks: None
        seen = impatient(engine)
        engine.ask(P)
        engine.drop_local()
        engine.collect([engine.submit(A)])
        return seen

    with life_with_stuck_read(lives, "layerwise", "a layer") as life:
        assert life.run(scenario)


def test_others_run_on_while_one_is_moved_off(lives: Lives, reference: Reference) -> None:
    """A is told that there are no blocks; vLLM preempts those behind it as well, and all end."""
    others = [prompt(560 + i, 200) for i in range(3)]

    def scenario(engine: Engine) -> tuple[list[Answer], list[set[int]], int]:
        seen = impatient(engine)
        engine.ask(P)
        engine.drop_local()
        names = [engine.submit(A), *(engine.submit(tokens) for tokens in others)]
        answers = engine.collect(names)
        return answers, seen, sum(len(one.load.items) for one in engine.worker._held)

    with life_with_stuck_read(lives, "layerwise", "a layer") as life:
        answers, seen, held = life.run(scenario)
        life.end()
    assert held == 20
    assert seen == []
    for tokens, answer in zip([A, *others], answers, strict=True):
        reference.check(tokens, answer)


def test_shutdown_does_not_wait_for_the_disk(lives: Lives) -> None:
    """A read of a minute, and the process is gone in a few seconds.

    Seen to fail with a close() that closes the engine whatever is under way: it took the minute.
    """

    def scenario(engine: Engine) -> None:
        from tutti_kv import worker

        worker.SHUTDOWN_TIMEOUT = 1.0
        impatient(engine)
        engine.ask(P)
        engine.drop_local()
        engine.collect([engine.submit(A)])
        assert engine.worker._held

    extra = {
        "engine": "fault",
        "fault_rules": "read:delay:ns=60000000000:count=1:after=2",
        "load_timeout": 0.3,
    }
    with lives("layerwise", extra=extra) as life:
        life.run(scenario)
        began = time.monotonic()
        life.end()
        took = time.monotonic() - began
        assert not life.alive()
    assert took < 20
