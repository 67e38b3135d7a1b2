# SPDX-License-Identifier: Apache-2.0
"""What is left of a worker's half that failed: everything owed ends, nothing is trusted."""

import time
from typing import Any

import numpy as np
import pytest
from tutti_kv import _tutti
from tutti_kv.metadata import Load, Plan, RankReport, StorePlan
from tutti_kv.metrics import TuttiStats
from tutti_kv.salvage import CANCEL_PATIENCE, Salvage


class Session:
    """Ends when it is told to."""

    def __init__(self, ends: bool = False, raises: bool = False) -> None:
        self.ends, self.raises = ends, raises
        self.cancelled = self.over = 0

    def cancel(self) -> None:
        self.cancelled += 1

    def wait(self, timeout: float) -> bool:
        if self.raises:
            raise ValueError("the session is over")
        return self.ends

    def end(self) -> None:
        self.over += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def load(name: str, first: int, in_step: bool = False) -> Load:
    items = np.zeros(2, _tutti.TRANSFER)
    items["block"] = [first, first + 1]
    return Load(name, items, in_step)


def salvage(
    owed: list[Load], loads: dict[str, Session], begun: set[str] | None = None, **rest: Any
) -> Salvage:
    known: dict[str, Any] = {
        "held": [],
        "stores": {},
        "invalid": set(),
        "stats": TuttiStats(data={}),
        "plan": plan(),
        "epoch": 3,
        "failure": 5,
        "engine": (None, None),
        **rest,
    }
    return Salvage(
        1,
        "Oops",
        owed={one.request: one for one in owed},
        begun=set(loads) if begun is None else begun,
        loads=loads,  # type: ignore[arg-type]
        **known,
    )


def plan(*stores: StorePlan) -> Plan:
    return Plan(7, 3, 1, bytes(16), stores=list(stores))


def news(left: Salvage) -> RankReport:
    report = left.report()
    assert report is not None
    return report.ranks[1]


def test_a_load_that_was_never_begun_is_over(clock: list[float]) -> None:
    left = salvage([load("a", 10)], {})
    assert left.poll_loads() == ({"a"}, set())
    assert left.take_invalid_blocks() == {10, 11}
    assert left.take_invalid_blocks() == set()
    assert left.poll_loads() == (set(), set()), "once: vLLM dies of a second time"
    assert (news(left).failure, news(left).held.tolist()) == (6, [])


def test_a_load_that_ends_gives_its_blocks_back(clock: list[float]) -> None:
    """But what they hold is not believed, however well it ended."""
    session = Session()
    left = salvage([load("a", 10)], {"a": session})
    assert session.cancelled == 1
    assert left.poll_loads() == (set(), set())
    session.ends = True
    assert left.poll_loads() == ({"a"}, set())
    assert left.take_invalid_blocks() == {10, 11}
    assert (session.over, news(left).held.tolist()) == (1, [])


@pytest.mark.parametrize("session", [Session(), Session(raises=True), None])
def test_a_load_without_an_end_keeps_them(clock: list[float], session: Session | None) -> None:
    """Its request is let go, off its blocks; also where the session is not known at all."""
    left = salvage([load("a", 10)], {"a": session} if session else {}, {"a"})
    assert left.poll_loads() == (set(), set())
    clock[0] += CANCEL_PATIENCE
    assert left.poll_loads() == ({"a"}, {"a"})
    assert news(left).held.tolist() == [10, 11]
    if session is not None and not session.raises:
        session.ends = True
        assert news(left).held.tolist() == []


def test_a_load_in_step_is_not_reported_as_received(clock: list[float]) -> None:
    """vLLM knows no such request as waiting; its blocks are, at the end of this very step."""
    left = salvage([load("a", 10, in_step=True), load("b", 20)], {"a": Session(ends=True)}, {"a"})
    assert left.poll_loads() == ({"b"}, set())
    assert left.take_invalid_blocks() == {10, 11, 20, 21}


def test_later_plans_fail_at_once(clock: list[float]) -> None:
    left = salvage([], {})
    store = StorePlan(9, load("", 1).items, np.zeros(2, _tutti.ORIGIN))
    later = plan(store)
    later.loads = [load("c", 30)]
    left.prepare(later)
    left.bind(later)
    left.wait_for_layer("layer")
    left.step_ended()
    assert left.poll_loads() == ({"c"}, set())
    assert left.take_invalid_blocks() == {30, 31}
    assert {number: ok.tolist() for number, ok in news(left).stored.items()} == {9: [0, 0]}
    left.unbind()
    assert left.report() is None


def test_stores_are_cancelled_and_reported_as_lost(clock: list[float]) -> None:
    session = Session()
    left = salvage([], {}, stores={4: (3, session)})
    assert session.cancelled == 1
    first = news(left)
    assert {number: ok.tolist() for number, ok in first.stored.items()} == {4: [0, 0, 0]}
    assert (first.broken, first.epoch) == ("Oops", 3)
    assert news(left).stored == {}


def test_blocks_held_before_stay_held(clock: list[float]) -> None:
    session = Session()
    left = salvage([], {}, held=[(np.array([5, 6], np.uint32), session)])
    assert news(left).held.tolist() == [5, 6]
    session.ends = True
    assert news(left).held.tolist() == []
