# SPDX-License-Identifier: Apache-2.0
"""Case 4: weights that change in a running server, by every way there is."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Lives, Reference, prompt
from test_restart import scaled

from engine import Answer, Engine

P = prompt(71, 500)
A = P + prompt(72, 60)
Q = prompt(73, 400)
B = Q + prompt(74, 40)


def perturb(engine: Engine) -> None:
    """Behind the engine's back."""
    runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    for name, weights in runner.model.named_parameters():
        if name.endswith("layers.1.input_layernorm.weight"):  # read as it is (linear ones
            weights.data.mul_(1.5)  # are packed at start on CPU)


def pause() -> None:
    """Longer than what the connector takes for idleness."""
    from tutti_kv import weights

    time.sleep(weights.IDLE + 0.1)


def no_reset(engine: Engine) -> None:
    pass


def default_reset(engine: Engine) -> None:
    assert engine.llm.reset_prefix_cache()


def whole_reset(engine: Engine) -> None:
    assert engine.llm.llm_engine.engine_core.reset_prefix_cache(False, True)
    engine.drain()


RESETS = {"none": no_reset, "default": default_reset, "whole": whole_reset}


def changed(engine: Engine, reset: str) -> tuple[Answer, Answer, Answer, list[Answer]]:
    before = engine.ask(P)
    engine.drop_local()  # what vLLM itself holds of before is vLLM's to answer for
    perturb(engine)
    RESETS[reset](engine)
    pause()
    after = engine.ask(A)
    cold = engine.ask(Q)
    engine.drop_local()
    return before, after, cold, [engine.ask(A), engine.ask(B)]


@pytest.mark.parametrize("mode", ["preload", "layerwise"])
@pytest.mark.parametrize("reset", RESETS)
def test_behind_the_engine_s_back(
    reset: str, mode: str, lives: Lives, reference: Reference
) -> None:
    """The sample digest sees it: no KV of before is used, and nothing of after outlives it."""
    with lives(mode) as life:
        before, after, _, again = life.run(changed, reset)
        log = life.log.read_text()
        if reset != "whole":
            assert "the weights changed behind the engine's back" in log
        assert "the cache was reset" in log
        life.kill()
    reference.check(P, before)
    assert after.tokens != reference.cold(A).tokens, "void: the change changes nothing"
    assert after.cached == 0 or after.external > 0, "vLLM's own cache was empty"
    # what ran while the change was noticed is not stored; what came after is, and hits here
    assert [answer.external for answer in again] == [0, 384]
    assert again[0].tokens == after.tokens, "= cold of the new weights"
    with lives(mode) as life:
        q = life.run(lambda engine: engine.ask(B))
        p = life.run(lambda engine: engine.ask(A))
    assert (p.external, q.external) == (0, 0)
    reference.check(B, q)
    reference.check(A, p)


def test_control_without_the_sample_old_kv_is_used(lives: Lives) -> None:
    """Negative control: nobody looks; the pool's KV of the old weights is hit, and it shows."""

    def scenario(engine: Engine) -> tuple[Answer, Answer]:
        engine.worker._weights.look = lambda: None
        engine.ask(P)
        engine.drop_local()
        perturb(engine)
        pause()
        hit = engine.ask(A)
        engine.drop_local()
        engine.half._off = "a test computes"
        return hit, engine.ask(A)

    with lives("preload") as life:
        hit, cold = life.run(scenario)
    assert hit.external == 480
    assert hit.tokens != cold.tokens


def test_by_the_engine_s_own_call(model: Path, tmp_path: Path, lives: Lives) -> None:
    """reload_weights, with no pause and no reset: seen before the next load or store."""
    other = tmp_path / "other"
    shutil.copytree(model, other)
    file = other / "model.safetensors"
    file.write_bytes(scaled(file.read_bytes(), "model.layers.1.input_layernorm.weight", 1.5))

    def scenario(engine: Engine, path: str) -> tuple[Any, ...]:
        before = engine.ask(P)
        engine.drop_local()
        engine.llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
        after = engine.ask(A)
        engine.drop_local()
        again = engine.ask(A)
        engine.half._off = "a test computes"
        engine.drop_local()
        return before, after, again, engine.ask(A)

    with lives("preload") as life:
        before, after, again, cold = life.run(scenario, str(other))
        log = life.log.read_text()
    assert "by the engine's call reload_weights" in log
    assert after.tokens == cold.tokens
    assert again.tokens == cold.tokens
    assert again.external == 0, "it ran while the change was noticed"
    assert before.tokens != cold.tokens or after.tokens[0] != before.tokens[0]


def test_sleep_and_wake_up_begin_epochs(lives: Lives) -> None:
    """vLLM on CPU ignores sleep mode, but its hooks are called: nothing of before is hit."""

    def scenario(engine: Engine) -> tuple[list[int], list[int]]:
        epochs, hits = [engine.half._epoch], []
        engine.ask(P)
        core = engine.core
        core.sleep(level=1)
        core.wake_up()
        for _ in range(2):
            hits.append(engine.ask(P).external)
            engine.drop_local()
            epochs.append(engine.half._epoch)
        hits.append(engine.ask(P).external)
        return hits, epochs

    with lives("preload") as life:
        hits, epochs = life.run(scenario)
    assert epochs[1] > epochs[0]
    assert hits[0] == 0
    assert hits[-1] == 480
