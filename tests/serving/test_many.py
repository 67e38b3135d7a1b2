# SPDX-License-Identifier: Apache-2.0
"""Many requests at once: shared prefixes, a pool too small, KV memory too small, aborts."""

import random
import time
from typing import Any

import pytest
from conftest import MODES, Lives, Reference, Shared, prompt, torture

from engine import Answer, Engine, Tokens


@pytest.mark.parametrize("mode", MODES)
def test_sixteen_at_once(mode: str, shared: Shared, reference: Reference) -> None:
    """Cold, then all back; a prefix that is stored by several at once is stored once."""
    heads = [prompt(300 + i, 256) for i in range(4)]
    many = [heads[i % 4] + prompt(310 + i, 40 + 9 * i) for i in range(16)]

    def scenario(engine: Engine) -> tuple[list[Answer], int, dict[str, float]]:
        engine.drop_local()
        before = engine.half.directory_stats()["visible"]
        engine.ask_all(many)
        stored = engine.half.directory_stats()["visible"] - before
        engine.drop_local()
        engine.spend()
        again = engine.ask_all(many)
        engine.healthy()
        return again, stored, engine.spend()

    again, stored, totals = shared(mode).run(scenario)
    blocks = {tuple(p[: 32 * (i + 1)]) for p in many for i in range((len(p) + 15) // 32)}
    assert abs(stored - len(blocks)) <= 16, "blocks are stored once"
    for tokens, answer in zip(many, again, strict=True):
        assert answer.cached == (len(tokens) - 1) // 32 * 32
        reference.check(tokens, answer)
    # in a preload a shared head is loaded by one and local for the others
    assert totals["load_tokens"] == sum(answer.external for answer in again)
    if mode == "preload":
        assert totals["load_tokens"] < sum(answer.cached for answer in again) - 3 * 256


def test_small_pool_turned_over_ten_times(lives: Lives, reference: Reference) -> None:
    """A working set far larger than the pool, with hot heads: right, bounded, and still hits."""
    draw = random.Random(9)
    heads = [prompt(400 + i, 128) for i in range(12)]
    asked = [
        heads[min(int(draw.expovariate(0.5)), 11)] + prompt(5000 + i, draw.randrange(60, 300))
        for i in range(200)
    ]

    def scenario(engine: Engine) -> tuple[list[tuple[Tokens, Answer]], dict[str, Any]]:
        seen = []
        used = 0
        for tokens in asked:
            if draw.random() < 0.7:
                engine.drop_local()
            answer = engine.ask(tokens, n=4)
            stats = engine.half.directory_stats()
            used = max(used, stats["visible"])
            seen.append((tokens, answer))
        engine.healthy()
        return seen, {**engine.half.directory_stats(), "used": used}

    with lives(size="10MiB") as life:
        seen, stats = life.run(scenario, timeout=300)
    assert stats["slots"] < 80
    assert stats["evicted"] >= 10 * stats["slots"]
    assert stats["refused"] < 200
    assert sum(answer.external for _, answer in seen) > 2000
    for tokens, answer in seen[-12:]:
        reference.check(tokens, answer, n=4)


@pytest.mark.parametrize("mode", MODES)
def test_preemption(mode: str, lives: Lives, reference: Reference) -> None:
    """Case 7: KV memory for a fraction of the requests: blocks change hands under stores."""
    prompts = [prompt(600 + i, 300) for i in range(6)]

    def scenario(engine: Engine) -> tuple[list[Answer], list[Answer], int, list[list[int]]]:
        preempted = 0
        preempt = engine.scheduler._preempt_request

        def count(*arguments: Any, **named: Any) -> None:
            nonlocal preempted
            preempted += 1
            preempt(*arguments, **named)

        engine.scheduler._preempt_request = count
        first = engine.ask_all(prompts, n=120)
        engine.drop_local()
        second = engine.ask_all(prompts, n=8)
        engine.healthy()
        unlike = [engine.unlike_cold(tokens) for tokens in prompts]
        return first, second, preempted, unlike

    with lives(mode, num_gpu_blocks_override=40, max_model_len=1024) as life:
        first, second, preempted, unlike = life.run(scenario)
    assert preempted > 0, "void: nothing was preempted"
    assert sum(answer.external for answer in second) > 0
    assert unlike == [[]] * 6
    for tokens, one, two in zip(prompts, first, second, strict=True):
        # a preempted request resumes elsewhere, so only its beginning has one right answer
        assert one.tokens[:4] == reference.cold(tokens).tokens[:4]
        reference.check(tokens, two, n=8)


def slow(engine: Engine, seconds: float) -> None:
    """Loads seem to take longer than they do."""
    begin = engine.worker._begin_load

    def begin_slowly(load: Any) -> None:
        begin(load)
        for loading in engine.worker._loads[-1:]:
            session, until = loading.session, time.monotonic() + seconds
            loading.session = Slow(session, until)

    engine.worker._begin_load = begin_slowly


class Slow:
    """A session that ends later."""

    def __init__(self, session: Any, until: float) -> None:
        self.session = session
        self.until = until

    def poll(self) -> bool:
        return bool(self.session.poll()) and time.monotonic() > self.until

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def test_aborted_while_loading(shared: Shared, reference: Reference) -> None:
    """Case 13: blocks come back when the load has ended, not before, and exactly once."""
    tokens = prompt(700, 640)

    def scenario(engine: Engine) -> tuple[int, Answer]:
        engine.ask(tokens)
        slow(engine, 0.05)
        draw = random.Random(4)
        aborted = 0
        for _ in range(400 if torture() else 40):
            engine.drop_local()
            name = engine.submit(tokens, n=4)
            until = time.monotonic() + draw.uniform(0.0, 0.1)
            while time.monotonic() < until and engine.scheduler.has_unfinished_requests():
                engine.step()
            if engine.scheduler.has_unfinished_requests():
                aborted += 1
                engine.abort(name)
            engine.drain()
            assert engine.scheduler.get_kv_cache_usage() == 0
            assert engine.half.directory_stats()["pinned"] == 0
        engine.healthy()
        del engine.worker._begin_load
        engine.drop_local()
        return aborted, engine.ask(tokens)

    aborted, answer = shared().run(scenario, timeout=900)
    assert aborted > 5
    reference.check(tokens, answer)


def test_pinned_against_eviction(lives: Lives, reference: Reference) -> None:
    """Case 14: what was promised is loaded although others' stores need its place."""
    hot = prompt(800, 480)

    def scenario(engine: Engine) -> list[Answer]:
        engine.ask(hot)
        slow(engine, 0.1)
        answers = []
        for round_ in range(8):
            engine.drop_local()
            name = engine.submit(hot, n=2)
            others = [engine.submit(prompt(810 + 4 * round_ + i, 400), n=2) for i in range(3)]
            answers += engine.collect([name, *others])[:1]
            engine.drain()
        engine.healthy()
        return [answer for answer in answers if answer.external]

    with lives(size="10MiB") as life:
        answers = life.run(scenario)
    assert answers
    for answer in answers:
        reference.check(hot, answer, n=2)


def preempted_in_the_step(engine: Engine) -> tuple[int, list[int], Answer, Answer]:
    """A gets a chunk and gives its blocks to B, of a higher priority, in the same step."""
    a, b, c = prompt(21, 256), prompt(22, 63), prompt(23, 20)
    engine.scheduler.scheduler_config.long_prefill_token_threshold = 64
    preempt, seen = engine.scheduler._preempt_request, []

    def counted(request: Any, *arguments: Any, **rest: Any) -> None:
        seen.append(request.request_id)
        preempt(request, *arguments, **rest)

    engine.scheduler._preempt_request = counted
    names = [engine.submit(a, priority=5), engine.submit(c, n=1, priority=9)]
    engine.step()
    names.append(engine.submit(b, priority=0))
    answer = engine.collect([names[0], names[2]])[0]
    engine.drain()
    engine.scheduler.scheduler_config.long_prefill_token_threshold = 0
    engine.drop_local()
    again = engine.ask(a)
    return len(seen), engine.unlike_cold(a), answer, again


def test_preempted_in_the_step(lives: Lives, reference: Reference) -> None:
    """vLLM 0.32 caches blocks that it never computes then; they are not served nor stored.

    Seen to fail without Local.forget_uncomputed.
    """
    options: dict[str, Any] = {
        "scheduling_policy": "priority",
        "num_gpu_blocks_override": 11,
        "max_model_len": 320,
        "max_num_batched_tokens": 512,
    }
    with lives("preload", **options) as life:
        preemptions, unlike, answer, again = life.run(preempted_in_the_step)
    assert preemptions > 0
    assert unlike == []
    reference.check(prompt(21, 256), answer)
    reference.check(prompt(21, 256), again)
