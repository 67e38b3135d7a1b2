# SPDX-License-Identifier: Apache-2.0
"""What the log says: each reason once, one line a minute, and a request's story."""

import logging
import time

import pytest
from tutti_kv.metrics import TuttiStats
from tutti_kv.telling import LINE_EVERY, Telling


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(logging.getLogger("vllm.tutti_kv"), "propagate", True)
        monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
        caplog.set_level(logging.INFO, "vllm.tutti_kv")
        self.caplog = caplog
        self.stats = TuttiStats(data={})
        self.telling = Telling(self.stats)

    def lines(self) -> list[str]:
        lines = [record.getMessage() for record in self.caplog.records]
        self.caplog.clear()
        return lines


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Bench:
    return Bench(monkeypatch, caplog)


def test_a_reason_is_said_once_and_counted_always(bench: Bench) -> None:
    for _ in range(3):
        bench.telling.refused("lora", "requests with LoRA adapters are not stored")
    bench.telling.refused("disabled", "disabled: a test")
    assert len(bench.lines()) == 2
    assert bench.stats.data == {"refused_requests|lora": 3, "refused_requests|disabled": 1}


def test_one_line_a_minute_while_nothing_moves(bench: Bench) -> None:
    """It names what stands against all, and the most frequent reasons."""
    for _ in range(20):
        bench.telling.why("requests with LoRA adapters are not stored")
        bench.telling.minute("disabled: a test")
        bench.now += LINE_EVERY / 10
    assert bench.lines() == [
        "Tutti: nothing stored or read back: disabled: a test; "
        "requests with LoRA adapters are not stored (11)"
    ]
    bench.now += LINE_EVERY
    bench.telling.minute(None)
    assert "adapters are not stored (9)" in bench.lines()[0]
    bench.now += LINE_EVERY
    bench.telling.minute(None)
    assert bench.lines() == ["Tutti: nothing stored or read back: no block was filled"]


def test_no_line_in_a_minute_in_which_something_moved(bench: Bench) -> None:
    bench.telling.moved()
    bench.now += LINE_EVERY + 1
    bench.telling.minute(None)
    assert bench.lines() == []
    bench.now += LINE_EVERY + 1
    bench.telling.minute(None)
    assert len(bench.lines()) == 1, "the next minute is judged by itself"


def test_a_story_is_told_at_debug_only(bench: Bench) -> None:
    bench.telling.story("r1", "loaded %d tokens", 64)
    assert bench.lines() == []
    bench.caplog.set_level(logging.DEBUG, "vllm.tutti_kv")
    bench.telling.story("r1", "loaded %d tokens", 64)
    assert bench.lines() == ["Tutti: request r1: loaded 64 tokens"]
