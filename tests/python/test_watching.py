# SPDX-License-Identifier: Apache-2.0
"""A switch whose file system hangs: what was seen last is what holds, and nobody waits.

In real vLLM: tests/serving/test_hanging_home.py.
"""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tutti_kv import _tutti, watching
from tutti_kv.bell import Bell
from tutti_kv.watching import MemberWatch, Switch


class Disk:
    """Stands in for the pool's home."""

    def __init__(self) -> None:
        self.thrown: str | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.looks = self.throws = 0

    def disabled(self, home: str) -> str | None:
        self.looks += 1
        assert self.answers.wait(30)
        return self.thrown

    def disable(self, home: str, why: str) -> None:
        self.throws += 1
        assert self.answers.wait(30)
        if why == "fails":
            raise OSError(5, "a test")
        self.thrown = why


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(_tutti, "disabled", disk.disabled)
    monkeypatch.setattr(_tutti, "disable", disk.disable)
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(watching, "THROW_PATIENCE", 0.2)
    yield disk
    disk.answers.set()


def until(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def test_what_was_seen_last_holds_while_nothing_answers(disk: Disk) -> None:
    """Seen to fail with `thrown` a property that looks: this thread waits as well."""
    switch = Switch("/none")
    switch.watch()
    assert switch.thrown is None
    disk.answers.clear()
    looks = disk.looks
    until("nobody looks", lambda: disk.looks > looks)
    disk.thrown = "a test"
    began = time.monotonic()
    assert switch.thrown is None
    assert time.monotonic() - began < 5
    disk.answers.set()
    until("it is not seen", lambda: switch.thrown == "a test")
    switch.close()
    time.sleep(0.05)
    last = disk.looks
    time.sleep(0.05)
    assert disk.looks == last, "somebody looks at what was closed"


def test_throwing_it_is_bounded(disk: Disk) -> None:
    """Seen to fail with a throw() that calls the library itself."""
    switch = Switch("/none")
    switch.throw("a bug")
    assert disk.thrown == "a bug", "whoever ends right after leaves it thrown"
    disk.answers.clear()
    began = time.monotonic()
    switch.throw("another")
    assert time.monotonic() - began < 5
    disk.answers.set()
    until("it is not thrown", lambda: disk.thrown == "another")
    switch.throw("fails")  # it is logged, and nothing raised


class Library:
    """Serve and pool of the library."""

    def __init__(self) -> None:
        self.fenced = self.flushes = self.looks = 0
        self.fails = self.warns = False
        self.answers = threading.Event()
        self.answers.set()

    def watch_members(self) -> int:
        return self.fenced

    def member_states(self) -> list[dict[str, object]]:
        return [{"fenced": bool(self.fenced >> m & 1), "reason": "a test"} for m in range(2)]

    def member_health(self) -> list[dict[str, object] | None]:
        self.looks += 1
        return [None, {"warns": self.warns, "text": "9 % spare; WARNS: read-only"}]

    def flush(self) -> None:
        self.flushes += 1
        assert self.answers.wait(30)
        if self.fails:
            raise OSError(5, "a test")


def test_members_are_flushed_after_writes_and_told_of(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that does not end is waited for as long as is said, and no longer."""
    monkeypatch.setattr(watching, "FLUSH_EVERY", 0.02)
    library, bell = Library(), Bell()
    watch = MemberWatch((library, library), 0, "/none", bell)  # type: ignore[arg-type]
    library.fenced = 2
    until("nobody is told", lambda: bell.rung == 1)
    library.fenced = 0
    until("nobody is told", lambda: bell.rung == 2)
    assert library.flushes == 0, "nothing was written"
    library.fails = True
    watch.written()
    until("it is not flushed", lambda: library.flushes == 1)
    library.fails = False
    library.answers.clear()
    watch.written()
    until("it is not flushed after an error", lambda: library.flushes == 2)
    watch.end()
    assert not watch.ended(0.1)
    library.answers.set()
    assert watch.ended(20)
    bell.close()


def test_a_drive_that_warns_is_told_of_at_once_and_then_now_and_then(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without the look at the time: a line at every look."""
    library, bell = Library(), Bell()
    said: list[str] = []

    def lines(word: str) -> int:
        return sum(word in line for line in said)

    with monkeypatch.context() as patched:
        patched.setattr(watching.logger, "warning", lambda text, *of: said.append(text % of))
        library.warns = True
        watch = MemberWatch((library, library), 0, "/none", bell)  # type: ignore[arg-type]
        until("nobody is told", lambda: lines("member 1 of rank 0 says") == 1)
        looks = library.looks
        until("it is not looked at", lambda: library.looks >= looks + 5)
        library.warns = False
        until("nobody is told of the end", lambda: lines("warns no more") == 1)
        assert lines("WARNS: read-only") == 1
        monkeypatch.setattr(watching, "HEALTH_EVERY", 0.05)
        library.warns = True
        until("it is told of once", lambda: lines("WARNS: read-only") >= 3)
        watch.end()
        assert watch.ended(20)
    bell.close()
