# SPDX-License-Identifier: Apache-2.0
"""A bug of ours in any of vLLM's callbacks: Tutti goes off, and the server serves on, rightly."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MODES, Lives, Reference, prompt
from tutti_kv import _tutti

from engine import Answer, Engine

WORKER = (
    "prepare",
    "bind",
    "_begin_load",
    "wait_for_layer",
    "step_ended",
    "_wait_for_end",
    "_begin_store",
    "_stores.poll",
    "poll_loads",
    "_load_failed",
    "take_invalid_blocks",
    "report",
    "unbind",
    "take_stats",
)
SCHEDULER = (
    "_match",
    "_allocated",
    "_local.forget_uncomputed",
    "_watch",
    "_blocks_overwritten",
    "_plan_stores",
    "_say",
    "_take_report",
    "_evict",
    "_finished",
    "_pending",
    "_reset",
    "_loads.plan",
    "_loads.processed",
    "_loads.ended",
    "_stores.report",
)
MATERIAL = 400  # seeds from there on


class Oops(Exception):
    pass


HEAD = prompt(MATERIAL, 192)
WARM = HEAD + prompt(MATERIAL + 1, 30)


def break_call(half: Any, name: str, after: int) -> Callable[[], bool]:
    """From its call number `after` on, half.name raises; returns whether it has."""
    *path, name = name.split(".")
    for step in path:
        half = getattr(half, step)
    call = getattr(half, name)
    calls = 0

    def broken(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Oops(name)
        return call(*arguments, **named)

    setattr(half, name, broken)

    def mend() -> bool:
        if name in vars(half):
            delattr(half, name)
        return calls > after

    return mend


def put_back(engine: Engine, worker: Any) -> None:
    """As if nothing had happened, for the next bug in the same life."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    get_kv_transfer_group().worker = worker
    for name in ("_owed", "_begun", "_finished", "_failed", "_invalid"):
        getattr(worker, name).clear()
    worker._loads, worker._in_step, worker._bad = [], [], []
    worker._plan = None
    worker._stores.under_way, worker._stores.slots, worker._stores._stored = [], 0, {}
    half = engine.half
    half._stores._under_way.clear()
    for kept in (half._loads._under_way, half._loads._brought, half._loads._tables):
        kept.clear()
    half._stores._readers[:] = 0
    half._guard.tripped, half._off = False, None
    _tutti.enable(half._home)
    for switch in (half._switch, worker._switch):
        switch.look()


def one_bug(engine: Engine, where: str, name: str, after: int, number: int, bad: bool) -> Any:
    """A hit and a new request while half.name raises; then both once more, by computation."""
    new = prompt(MATERIAL + 2 + number, 70)  # it stores what nobody has stored
    worker = engine.worker
    engine.ask(HEAD, n=1)
    engine.drop_local()
    if bad:
        engine.spoil(HEAD, 3)
    mend = break_call(worker if where == "worker" else engine.half, name, after)
    answers = engine.collect([engine.submit(WARM, n=4), engine.submit(new, n=4)])
    if name == "_reset":
        engine.drain()
        engine.llm.llm_engine.engine_core.reset_prefix_cache(False, True)
    engine.drain()
    raised = mend()
    off = engine.half._off
    again = engine.ask(WARM, n=4)
    # nobody waits for a load whose end nobody heard of
    shared = engine.ask([*WARM, 7], n=4)
    engine.drain()
    usage = engine.scheduler.get_kv_cache_usage()
    engine.drop_local()  # no block is missing
    put_back(engine, worker)
    return (WARM, new, WARM, [*WARM, 7]), [*answers, again, shared], raised, off, usage


def problems_of(got: Any, reference: Reference, what: str) -> list[str]:
    prompts, answers, raised, off, usage = got
    problems = []
    if not raised:
        problems.append(f"{what}: void, it never raised")
    elif off is None or not off.startswith("a bug"):
        problems.append(f"{what}: Tutti is not off: {off}")
    for tokens, answer in zip(prompts, answers, strict=True):
        try:
            reference.check(tokens, answer, n=4)
        except AssertionError as error:
            problems.append(f"{what}: {str(error)[:100]}")
    if answers[-1].external:
        problems.append(f"{what}: hits although it is off")
    if usage:
        problems.append(f"{what}: blocks are missing: {usage}")
    return problems


# What runs only once a load has failed, or only where layers are waited for.
ONLY_BAD = {"_load_failed", "_evict"}
LATER_TOO = {"poll_loads", "report", "wait_for_layer", "_plan_stores", "_take_report"}
ONLY_LAYERWISE = {"wait_for_layer", "_wait_for_end"}


@pytest.mark.parametrize("where", ["worker", "scheduler"])
@pytest.mark.parametrize("mode", MODES)
def test_a_bug_in_each_callback(mode: str, where: str, lives: Lives, reference: Reference) -> None:
    """At its first call, or the first after a step: right answers, no block lost, Tutti off."""
    problems: list[str] = []
    with lives(mode) as life:
        number = 0
        for name in WORKER if where == "worker" else SCHEDULER:
            if name in ONLY_LAYERWISE and mode == "preload":
                continue
            for after in (0, 1) if name in LATER_TOO else (0,):
                number += 1
                bad = name in ONLY_BAD
                began = time.monotonic()
                got = life.run(one_bug, where, name, after, number, bad)
                print(f"{mode} {where} {name} {after}: {time.monotonic() - began:.2f} s")
                problems += problems_of(got, reference, f"{mode} {where} {name} {after}")
        log = life.log.read_text()
    assert not problems, "\n".join(problems)
    assert "Traceback" in log
    assert "Oops" in log


def test_the_traceback_is_told_once(lives: Lives, tmp_path: Path) -> None:
    """And the pool's own switch is tripped, so that a restart does not walk into it again."""

    def scenario(engine: Engine) -> Answer:
        break_call(engine.half, "_match", 0)
        for seed in range(3):
            engine.ask(prompt(MATERIAL + seed, 100))
        return engine.ask(prompt(MATERIAL, 100))

    with lives() as life:
        answer = life.run(scenario)
        log = life.log.read_text()
    assert (
        len([line for line in log.splitlines() if "Oops: _match" in line and "ERROR" in line]) == 1
    )
    assert answer.external == 0
    assert "a bug: Oops: _match" in str(_tutti.disabled(str(tmp_path / "pool")))


def test_control_unguarded(lives: Lives) -> None:
    """Negative control: without the guard the same bug takes the engine down."""

    def scenario(engine: Engine) -> str:
        from tutti_kv.guard import Guard

        Guard.__call__ = (  # type: ignore[method-assign]
            lambda self, otherwise, call, *arguments: call(*arguments)
        )
        break_call(engine.half, "_match", 0)
        try:
            engine.ask(prompt(MATERIAL, 100))
        except Oops:
            return "down"
        return "up"

    with lives() as life:
        assert life.run(scenario) == "down"
        life.kill()
