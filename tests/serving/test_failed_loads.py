# SPDX-License-Identifier: Apache-2.0
"""Bad blocks: found, never served, and what was computed over them never stored."""

import os
import time
from typing import Any

import pytest
from conftest import MODES, Lives, Reference, Shared, prompt
from tutti_kv.metadata import Plan

from engine import Answer, Engine, Life, LifeError, Tokens

P = prompt(21, 640)
A = P + prompt(22, 40)
B = P + prompt(23, 50)
C = P + prompt(24, 60)
POLICIES = ("recompute", "fail")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", POLICIES)
def test_flipped_byte(mode: str, policy: str, shared: Shared, reference: Reference) -> None:
    """Case 10: read at most twice, not served, replaced: the next request hits all of it again.

    One request, nothing else: it neither loops (steps are counted) nor waits for other traffic.
    """
    head, *tails = family(2500 + 10 * MODES.index(mode) + 100 * POLICIES.index(policy))

    def scenario(engine: Engine) -> tuple[list[Answer], dict[str, float], list[int]]:
        engine.ask(head)
        engine.drop_local()
        engine.spoil(head, 5)
        engine.spend()
        answers = []
        for tokens in tails:
            answers.append(engine.ask(tokens))
            engine.drop_local()
        engine.healthy()
        return answers, engine.spend(), engine.unlike_cold(head)

    answers, spent, unlike = shared(mode, policy).run(scenario)
    first, second, third = answers
    assert spent["verify_failures"] >= 1
    assert spent["load_failures"] == 1
    assert unlike == []
    assert first.error == (policy == "fail")
    if policy == "recompute":
        reference.check(tails[0], first)
        assert first.steps < 40
        assert second.external == 640
    else:  # what was dropped is stored again by the next one
        assert second.external == 160
    assert third.external == 640
    reference.check(tails[1], second)
    reference.check(tails[2], third)


def abort(engine: Engine, name: str) -> None:
    engine.abort(name)


def preempt(engine: Engine, name: str) -> None:
    """As the scheduler does when blocks run out."""
    scheduler = engine.scheduler
    running = [request for request in scheduler.running if request.request_id == name]
    if running:
        scheduler.running.remove(running[0])
        scheduler._preempt_request(
            running[0], time.monotonic(), drop_stale_output=scheduler.requires_kv_delivery
        )


def nothing(engine: Engine, name: str) -> None:
    pass


WINDOW = {"abort": abort, "preempt": preempt, "share": nothing, "together": nothing}


def family(seed: int) -> tuple[Tokens, Tokens, Tokens, Tokens]:
    """A prompt of 20 blocks and three with other tails."""
    head = prompt(seed, 640)
    first, second, third = (head + prompt(seed + i, 30 + 10 * i) for i in (1, 2, 3))
    return head, first, second, third


def between(engine: Engine, what: str, seed: int) -> tuple[list[Answer | None], list[list[int]]]:
    """Something happens to A between the step whose load fails and the processing of its output.

    Then B, which has the same prefix, and C. With one batch in flight there is no moment between
    steps, so it happens where vLLM handles aborts: after the step's execution.
    """
    head, first, second, third = family(seed)
    engine.drop_local()
    engine.ask(head)
    engine.drop_local()
    engine.spoil(head, 5)
    core = engine.core
    engine.scheduler.scheduler_config.long_prefill_token_threshold = 32
    loads: list[int] = []
    bind = engine.worker.bind

    def watched(plan: Plan) -> None:
        loads.extend([plan.step] * len(plan.loads))
        bind(plan)

    engine.worker.bind = watched
    name = engine.submit(first)
    other = engine.submit(second) if what == "together" else ""
    if core.batch_queue is not None:
        while not loads:  # the load is under way or over, its output not processed
            engine.step()
        assert len(core.batch_queue) >= 1
        WINDOW[what](engine, name)
        other = other or engine.submit(second)
        engine.step()
    else:
        process = core._process_aborts_queue

        def once() -> None:
            process()
            if loads:
                core._process_aborts_queue = process
                WINDOW[what](engine, name)

        core._process_aborts_queue = once
        while not loads:
            engine.step()
        core._process_aborts_queue = process
        other = other or engine.submit(second)
    engine.worker.bind = bind
    names = [other] if what == "abort" else [name, other]
    done = dict(zip(names, engine.collect(names), strict=True))
    answers: list[Answer | None] = [done.get(name), done[other]]
    engine.drain()
    answers.append(engine.ask(third))
    engine.drop_local()
    answers.append(engine.ask(third))
    engine.scheduler.scheduler_config.long_prefill_token_threshold = 0
    engine.healthy()
    return answers, [engine.unlike_cold(tokens) for tokens in (first, second, third)]


def problems_of(life: Life, reference: Reference, what: str, seed: int, policy: str) -> list[str]:
    """What went wrong, in words; empty where all is right."""
    _, first, second, third = family(seed)
    answers, unlike = life.run(between, what, seed)
    problems = []
    for tokens, answer in zip((first, second, third, third), answers, strict=True):
        if answer is None or (answer.error and policy == "fail"):
            continue
        try:
            reference.check(tokens, answer)
        except AssertionError as error:
            problems.append(f"{what}: {error}")
    if answers[-1] is not None and answers[-1].external < 640:
        problems.append(f"{what}: only {answers[-1].external} tokens hit at last")
    if unlike != [[], [], []]:
        problems.append(f"{what}: stored bytes differ from cold ones: {unlike}")
    return problems


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_between_failure_and_its_processing(
    mode: str, batches: int, policy: str, shared: Shared, reference: Reference
) -> None:
    """Case 1: abort, preemption and sharing in that window: no wrong token or byte stored."""
    if (mode, batches, policy) == ("layerwise", 2, "recompute"):
        with pytest.raises(LifeError, match="kv_load_failure_policy"):
            shared(mode, policy, batches)
        return
    problems = []
    for index, what in enumerate(WINDOW):
        if what == "preempt" and batches == 1:
            continue  # vLLM preempts when it plans; with one batch nothing is unprocessed then
        life = shared(mode, policy, batches)
        problems += problems_of(life, reference, what, 2100 + 10 * index, policy)
    assert not problems, "\n".join(problems)


def joined(engine: Engine, what: str, seed: int) -> tuple[list[Answer], list[int]]:
    """B has A's prefix and comes with it, in the step in which A loads a bad block.

    Then A is aborted before it has computed that block anew; or there are two bad blocks, and A
    computes the first of them alone.
    """
    head, first, second, _ = family(seed)
    engine.ask(head)
    engine.drop_local()
    engine.spoil(head, 5)
    if what == "two":
        engine.spoil(head, 7)
        engine.scheduler.scheduler_config.long_prefill_token_threshold = 32
    a, b = engine.submit(first), engine.submit(second)
    while not engine.totals.get("load_failures"):
        engine.step()
    if what == "abort":
        engine.abort(a)
    answers = engine.collect([b] if what == "abort" else [a, b])
    engine.drain()
    engine.scheduler.scheduler_config.long_prefill_token_threshold = 0
    engine.drop_local()
    answers.append(engine.ask(second))
    engine.healthy()
    return [answers[-2], answers[-1]], engine.unlike_cold(second)


@pytest.mark.parametrize("what", ["abort", "two"])
def test_joining_a_load_that_fails(what: str, lives: Lives, reference: Reference) -> None:
    """vLLM lets B compute over A's blocks; they may be bad, and then be stored for good."""
    with lives("layerwise") as life:
        answers, unlike = life.run(joined, what, 2200)
    for answer in answers:
        reference.check(family(2200)[2], answer)
    assert unlike == []


def test_control_joining_is_wrong_without_holding_back(lives: Lives) -> None:
    """Negative control: B let in."""

    def broken(engine: Engine) -> list[int]:
        engine.half._loads.unproven = lambda block_hashes, local: False
        return joined(engine, "two", 2200)[1]

    with lives("layerwise") as life:
        assert life.run(broken)


def test_stuck_write_stalls_one_step(lives: Lives) -> None:
    """A fence waits for a store that does not end once, not in each step; nothing is stored."""

    def scenario(engine: Engine) -> tuple[int, int]:
        from tutti_kv import writing

        writing.FENCE_TIMEOUT = 1.0
        slow, steps = 0, 0
        for seed in range(8):
            engine.submit(prompt(9000 + seed, 300), n=4)
            while engine.scheduler.has_unfinished_requests():
                began = time.monotonic()
                engine.step()
                slow += time.monotonic() - began > 0.9
                steps += 1
        return slow, steps

    extra = {"engine": "fault", "fault_rules": "write:delay:ns=60000000000"}
    with lives("preload", num_gpu_blocks_override=40, max_model_len=1024, extra=extra) as life:
        slow, steps = life.run(scenario)
        life.kill()
    assert slow == 1
    assert steps > 30


def break_eviction(engine: Engine) -> None:
    spoilt = engine.half._loads.spoilt
    engine.half._loads.spoilt = lambda invalid: spoilt(invalid) and set()


def test_control_without_own_eviction_wrong_tokens_are_served(
    lives: Lives, reference: Reference
) -> None:
    """Negative control: what vLLM does by itself in that window is wrong, and seen."""
    with lives("layerwise") as life:
        life.run(break_eviction)
        problems = problems_of(life, reference, "abort", 2100, "recompute")
    assert problems


def break_store_rule(engine: Engine) -> None:
    why = engine.worker._why_no_store

    def always(plan: Any) -> str | None:
        plan.acknowledged[0] = engine.worker._failure
        return str(reason) if (reason := why(plan)) else None

    engine.worker._why_no_store = always


LONGER = P + prompt(25, 96)


def fail_and_die(engine: Engine) -> None:
    """A request whose load fails, and three blocks behind it, in one step; the step ends."""
    engine.ask(P)
    engine.drop_local()
    engine.spoil(P, 5)
    engine.submit([*LONGER, 1, 2], n=4)
    while not engine.totals.get("load_failures"):
        engine.step()
    for storing in engine.worker._stores.under_way:
        storing.session.wait(5.0)


def stored_unlike_cold(lives: Lives, mode: str, **options: Any) -> tuple[list[int], Answer]:
    with lives(mode, **options) as life:
        answer = life.run(lambda engine: engine.ask([*LONGER, 3, 4]))
        return life.run(lambda engine: engine.unlike_cold(LONGER)), answer


SPECULATION = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "speculation": {"speculative_config": SPECULATION},
    "deferred": {"extra": {"decode_age": 30.0}},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_computed_over_a_bad_block_is_not_stored(
    mode: str, variant: str, lives: Lives, reference: Reference
) -> None:
    """Case 2: blocks of the very step whose load failed, and of the next; then SIGKILL."""
    options = VARIANTS[variant]
    with lives(mode, **options) as life:
        life.run(fail_and_die)
        life.kill()
    unlike, answer = stored_unlike_cold(lives, mode, **options)
    assert unlike == []
    if variant == "plain":
        reference.check([*LONGER, 3, 4], answer)
    else:
        assert answer.tokens == reference.cold([*LONGER, 3, 4]).tokens


def test_control_without_the_store_rule_a_checksum_certifies_it(lives: Lives) -> None:
    """Negative control: the same with a worker that does not wait for the acknowledgement.

    The bad slot is still in the pool after the kill, so the chain ends before it; what was
    computed over it is looked at where it lies.
    """

    def scenario(engine: Engine) -> list[int]:
        break_store_rule(engine)
        seen: list[int] = []
        begin = engine.worker._serve

        class Spy:
            def __getattr__(self, name: str) -> Any:
                return getattr(begin, name)

            def store(self, items: Any, origins: Any, **rest: Any) -> Any:
                if engine.worker._failure:
                    seen.append(len(items))
                return begin.store(items, origins, **rest)

        engine.worker._serve = Spy()
        fail_and_die(engine)
        return seen

    with lives("layerwise") as life:
        assert life.run(scenario), "nothing would have been stored: the test shows nothing"


@pytest.mark.parametrize("mode", MODES)
def test_member_cut_short_while_running(mode: str, lives: Lives, reference: Reference) -> None:
    """Case 10: reads behind the new end fail; requests are computed; stores there are counted."""

    def scenario(engine: Engine) -> tuple[list[Answer], dict[str, float]]:
        engine.ask(P)
        engine.drop_local()
        path = engine.worker._pool.info()["paths"][0]
        os.truncate(path, 1 << 20)
        answers = [engine.ask(A), engine.ask(B)]
        engine.drop_local()
        answers.append(engine.ask(C))
        engine.healthy()
        return answers, dict(engine.totals)

    with lives(mode) as life:
        answers, totals = life.run(scenario)
    assert totals["load_failures"] >= 1
    for tokens, answer in zip((A, B, C), answers, strict=True):
        reference.check(tokens, answer)


def test_member_cut_short_while_stopped(lives: Lives, reference: Reference) -> None:
    """Refused with a sentence; with on_error disable the server serves without."""
    with lives() as life:
        life.run(lambda engine: engine.ask(P))
        path = life.run(lambda engine: engine.worker._pool.info()["paths"][0])
    os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(LifeError, match="Tutti can't serve"), lives():
        pass
    with lives(extra={"on_error": "disable"}) as life:
        answer = life.run(lambda engine: engine.ask(P))
    reference.check(P, answer)


def test_old_record_and_data_put_back(lives: Lives, reference: Reference) -> None:
    """A whole, valid record with its data of an earlier filling of the slot is a miss."""

    def scenario(engine: Engine) -> tuple[Any, ...]:
        pool = engine.worker._pool
        placement, path = pool.placement(), pool.info()["paths"][0]
        engine.ask(P)
        stripes = []
        slot = int(engine.slots(P)[0]["slot"])
        with open(path, "rb", buffering=0) as file:
            for offset, size in [(placement.record_place(slot)[1], 4096)] + [
                (placement.object_place(slot, layer)[1], 32768) for layer in range(4)
            ]:
                stripes.append((offset, os.pread(file.fileno(), size, offset)))
        # drop the chain, and fill the same slots with another prompt
        first = engine.slots(P)[0]
        engine.half._directory.drop(int(first["slot"]), int(first["generation"]))
        engine.half._version += 1
        fillers: list[Tokens] = []
        while not any(
            int(item["slot"]) == slot for tokens in fillers for item in engine.slots(tokens)
        ):
            fillers.append(prompt(1000 + len(fillers), 640))
            engine.ask(fillers[-1], n=1)
            assert len(fillers) < 60, "the slot is never filled again"
        engine.drop_local()
        with open(path, "r+b", buffering=0) as file:
            for offset, content in stripes:
                os.pwrite(file.fileno(), content, offset)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        holder = next(
            tokens
            for tokens in fillers
            if any(int(item["slot"]) == slot for item in engine.slots(tokens))
        )
        answer = engine.ask(holder)
        engine.healthy()
        return holder, answer, dict(engine.totals)

    with lives(size="16MiB") as life:
        holder, answer, totals = life.run(scenario)
    assert totals["load_failures"] == 1
    reference.check(holder, answer)
