# SPDX-License-Identifier: Apache-2.0
"""When the scrub gets its turn, and what becomes of what it finds; the library is a double."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tutti_kv import scrubbing
from tutti_kv._tutti import TRANSFER, Transfers
from tutti_kv.bell import Bell
from tutti_kv.metrics import TuttiStats
from tutti_kv.scrubbing import ROUND_EVERY, Scrubbing

ZERO = dict.fromkeys(("slots", "verified", "bad", "torn", "skipped", "bytes", "rounds"), 0)


class Double:
    """Serve, pool, placement and scrub of the library."""

    def __init__(self) -> None:
        self.steps = 0
        self.now = dict(ZERO)
        self.finds = 0
        self.raises = False

    def placement(self) -> "Double":
        return self

    def extent_starts(self) -> range:
        return range(0, 100, 10)

    def scrub(self, *, rate: int, cursor: int) -> "Double":
        assert rate > 0
        assert cursor % 10 == 0
        return self

    def step(self, now: int) -> Transfers:
        self.steps += 1
        if self.raises:
            raise ValueError("a bug")
        return np.zeros(self.finds, TRANSFER)

    def report(self) -> dict[str, int]:
        return dict(self.now)


class Bench:
    """A scrub over the double; nothing is idle yet."""

    library: Any

    def __init__(self) -> None:
        self.library = Double()
        self.turn = threading.Lock()
        self.bell = Bell()
        self.idle = False
        self.bad: list[Transfers] = []
        self.scrubbing = Scrubbing(
            (self.library, self.library),
            1 << 30,
            0,
            self.turn,
            self.bell,
            idle=lambda: self.idle,
            found=self.bad.append,
        )

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not what():
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.fixture
def bench() -> Any:
    bench = Bench()
    yield bench
    bench.scrubbing.close()


def test_its_thread_steps_while_idle_and_never_waits_for_the_turn(bench: Bench) -> None:
    with bench.turn:
        bench.idle = True
        time.sleep(0.02)
        assert bench.library.steps == 0, "somebody else had the turn"
    bench.until(lambda: bench.library.steps > 0)
    bench.idle = False
    with bench.turn:
        steps = bench.library.steps
    time.sleep(0.02)
    assert bench.library.steps == steps, "a step is under way"


def test_what_is_found_is_handed_on_and_rung_for(bench: Bench) -> None:
    bench.scrubbing.step()
    assert (bench.bad, bench.bell.rung) == ([], 0)
    bench.library.finds = 3
    bench.scrubbing.step()
    assert [len(bad) for bad in bench.bad] == [3]
    assert bench.bell.rung == 1


def test_figures_are_differences(bench: Bench) -> None:
    stats = TuttiStats(data={})
    bench.library.now.update(verified=5, bad=1, bytes=100)
    bench.scrubbing.count(stats)
    bench.library.now.update(verified=7, bytes=150)
    bench.scrubbing.count(stats)
    assert stats.data == {
        "scrubbed_slots|0|good": 7,
        "scrubbed_slots|0|bad": 1,
        "scrubbed_bytes|0": 150,
    }


def test_a_round_begins_an_hour_after_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is over when it has come to its end twice, for it began somewhere."""
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + bench.library.now["skipped"])

    def step_at(rounds: int, seconds: float) -> bool:
        bench.library.now.update(rounds=rounds, skipped=seconds)
        steps = bench.library.steps
        bench.scrubbing.step()
        return bool(bench.library.steps > steps)

    assert step_at(1, 10)
    assert step_at(1, 20)
    assert step_at(2, 30)
    assert not step_at(2, 40)
    assert not step_at(2, ROUND_EVERY - 1)
    assert step_at(2, ROUND_EVERY + 1)
    assert step_at(3, 2 * ROUND_EVERY + 500)  # this one took longer than that
    assert step_at(3, 2 * ROUND_EVERY + 501)


def test_a_bug_ends_the_scrub_and_nothing_else(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.library.raises = True
    bench.scrubbing.step()
    bench.scrubbing.step()
    bench.scrubbing.count(TuttiStats(data={}))
    assert bench.library.steps == 1
    assert "rank 0 is scrubbed no more" in caplog.text


def test_nothing_after_the_end(bench: Bench) -> None:
    with bench.turn:
        bench.scrubbing.close()
        bench.idle = True
    time.sleep(3 * scrubbing.TICK)
    bench.scrubbing.step()
    assert bench.library.steps == 0
