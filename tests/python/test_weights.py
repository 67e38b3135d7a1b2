# SPDX-License-Identifier: Apache-2.0
"""Weights that change under a running worker: counted, whoever changed them."""

import time
from typing import Any

import pytest
import torch
from tutti_kv import weights
from tutti_kv.weights import Weights, sample


class Runner:
    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Embedding(4, 8)
        )
        self.model.register_buffer("scale", torch.tensor(2.0))


class Worker:
    """With some of the calls that vLLM's have."""

    def __init__(self) -> None:
        self.model_runner = Runner()

    def reload_weights(self, fail: bool = False) -> str:
        if fail:
            raise OSError("no such weights")
        return "reloaded"

    def wake_up(self, tags: list[str] | None = None) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def one_step(seen: Weights, clock: list[float], idle: float = 0.0) -> int:
    clock[0] += idle
    seen.step_began()
    seen.look()
    seen.step_ended()
    return seen.changes


def test_the_sample_sees_every_tensor() -> None:
    """Whichever is multiplied, transposed views and single numbers included."""
    runner = Runner()
    runner.model.register_buffer("turned", torch.arange(12.0).reshape(3, 4).t())
    before = sample(runner.model)
    assert sample(runner.model) == before
    for tensor in [*runner.model.parameters(), *runner.model.buffers()]:
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.mul_(1.5).add_(0.5)
            assert sample(runner.model) != before
            tensor.copy_(kept)
    assert sample(runner.model) == before


def test_behind_its_back_is_seen_after_a_pause(clock: list[float]) -> None:
    """Not between two steps that follow each other: that would cost each of them."""
    worker = Worker()
    seen = Weights(worker)
    assert one_step(seen, clock) == 0
    assert one_step(seen, clock, 10) == 0
    with torch.no_grad():
        worker.model_runner.model[0].weight.mul_(1.5)
    assert one_step(seen, clock, weights.IDLE / 2) == 0
    assert one_step(seen, clock, weights.IDLE * 2) == 1
    assert one_step(seen, clock, weights.IDLE * 2) == 1, "once for each change"


def test_it_looks_once_after_a_pause(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    real = weights.sample

    def sampled(model: Any) -> bytes:
        looked.append(model)
        return real(model)

    monkeypatch.setattr(weights, "sample", sampled)
    seen = Weights(Worker())
    one_step(seen, clock, 10)
    looked.clear()
    for _ in range(100):
        one_step(seen, clock, weights.IDLE / 100)
        seen.look()
    assert looked == []


@pytest.mark.parametrize("call", ["reload_weights", "wake_up"])
def test_the_engine_s_own_calls_are_seen_at_once(clock: list[float], call: str) -> None:
    """Whether or not they changed anything."""
    worker = Worker()
    seen = Weights(worker)
    assert getattr(worker, call)() in ("reloaded", None)
    assert seen.changes == 1
    with torch.no_grad():  # what the call wrote is what is compared with from now on
        worker.model_runner.model[0].weight.mul_(1.5)
    assert one_step(seen, clock) == 1
    assert one_step(seen, clock, 10) == 1


def test_a_call_that_failed_may_have_changed_some() -> None:
    worker = Worker()
    seen = Weights(worker)
    with pytest.raises(OSError, match="no such weights"):
        worker.reload_weights(fail=True)
    assert seen.changes == 1


def test_what_can_t_be_sampled_does_no_harm(clock: list[float]) -> None:
    worker = Worker()
    worker.model_runner.model = None
    seen = Weights(worker)
    assert one_step(seen, clock, 10) == 0
    worker.reload_weights()
    assert one_step(seen, clock, 10) == 1


def test_no_worker_no_harm(clock: list[float]) -> None:
    assert one_step(Weights(None), clock, 10) == 0
