# SPDX-License-Identifier: Apache-2.0
"""Two members, one of which begins to fail: it is fenced, the other serves on, and it comes back.

Seen to fail with the bound of errors at infinity, which is the control below; with a scheduler's
half that is not told (prompts on the fenced member are asked for, and fail); and without the
bell (the first request after the fence is lifted finds nothing).
"""

import functools
import json
import subprocess
from pathlib import Path

import pytest
from conftest import MODES, Lives, Reference, prompt, until
from faultmount import BUILD, Faults

from engine import Answer, Engine, Tokens

PROMPTS = [prompt(8300 + i, 320) for i in range(14)]
TAIL = prompt(8330, 20)
FRESH = [prompt(8340 + i, 320) for i in range(40)]
BOUND = 16  # errors in a row
BAD = 1


def where(engine: Engine, tokens: Tokens) -> set[int]:
    """Members that hold a prompt."""
    placement = engine.worker._pool.placement()
    return {placement.record_place(int(item["slot"]))[0] for item in engine.slots(tokens)}


def fill(engine: Engine) -> tuple[list[Tokens], list[Tokens], int]:
    """Store all prompts: those that lie on the good member, on the bad one; where data begins."""
    engine.ask_all(PROMPTS, n=1)
    engine.drop_local()
    engine.healthy()
    good = [tokens for tokens in PROMPTS if where(engine, tokens) == {1 - BAD}]
    bad = [tokens for tokens in PROMPTS if where(engine, tokens) == {BAD}]
    return good, bad, engine.worker._pool.info()["first_extent"]


def ask(engine: Engine, tokens: Tokens) -> tuple[Tokens, Answer]:
    engine.drop_local()
    return tokens + TAIL, engine.ask(tokens + TAIL, n=4)


Asked = list[tuple[Tokens, Answer]]


def err(engine: Engine, lying: list[Tokens], most: int) -> tuple[Asked, int, int]:
    """Ask for what lies on it, then for what is new, until it is fenced."""
    asked: Asked = []
    for tokens in [*lying, *FRESH][:most]:
        if engine.worker._serve.fenced():
            break
        asked.append(ask(engine, tokens))
    state = engine.worker._serve.member_states()[BAD]
    return asked, engine.worker._serve.fenced(), state["io_errors"]


def ask_each(engine: Engine, prompts: list[Tokens]) -> Asked:
    return [ask(engine, tokens) for tokens in prompts]


def members(engine: Engine) -> dict[str, float]:
    """The gauge."""
    engine.worker._counting._gauged_at = 0.0
    data = engine.worker.take_stats().data
    return {state: data[f"members|0|{state}"] for state in ("ok", "fenced")}


def back(engine: Engine, tokens: Tokens) -> Asked:
    """The fence is lifted while the engine is idle; the first request must find it so."""
    until(lambda: engine.worker._serve.fenced() == 0)
    until(lambda: engine.half._ears.news())  # the watcher has rung
    asked = [ask(engine, tokens)]
    engine.healthy()
    return asked


def tutti(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BUILD / "tutti", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def place(tmp_path: Path, disk: Faults) -> list[str]:
    """Folders of the two members; the second is on the mount."""
    paths = [tmp_path / "good", disk.folder]
    for path in paths:
        path.mkdir()
    return [str(path) for path in paths]


def fail(disk: Faults, begin: int) -> list[int]:
    """All but the superblocks can be neither read nor written."""
    return [disk.rule(f"{what}:eio:offset={begin}-{1 << 40}") for what in ("read", "write")]


def seen(disk: Faults, rules: list[int]) -> int:
    return sum(disk.count(rule, "seen") for rule in rules)


@pytest.mark.parametrize("mode", MODES)
def test_a_member_fails_and_comes_back(
    mode: str, faults: Faults, lives: Lives, tmp_path: Path, reference: Reference
) -> None:
    """Fenced after the bound; the rest hits whole, and right; `enable` brings back what it has."""
    disk = faults.of(f"fence-{mode}")
    paths = place(tmp_path, disk)
    home = tmp_path / "pool"
    asked: Asked = []
    with lives(mode, extra={"members": paths}) as life:
        good, bad, begin = life.run(fill)
        assert len(good) >= 2, "void: nothing lies on the good member"
        assert len(bad) >= 3, "void: nothing lies on the bad one"
        rules = fail(disk, begin)
        met, fenced, errors = life.run(err, bad[2:], 100)
        asked += met
        assert fenced == 1 << BAD
        assert errors >= BOUND
        until(lambda: (home / f"disabled.rank0.member{BAD}").exists())

        before = seen(disk, rules)
        whole = life.run(ask_each, good)
        assert [answer.external for _, answer in whole] == [320] * len(good)
        anew = life.run(ask_each, [bad[0], bad[0]])  # found nowhere; then on the good one
        assert [answer.external for _, answer in anew] == [0, 320]
        asked += whole + anew
        assert seen(disk, rules) == before, "the fenced member is still asked"
        assert life.run(members) == {"ok": 1, "fenced": 1}

        named = [word for path in paths for word in ("--member", path)]
        info = json.loads(tutti("info", home, "--json", *named).stdout)
        assert list(info["ranks"][0]["fenced"]) == [str(BAD)]
        assert "in a row" in info["ranks"][0]["fenced"][str(BAD)]
        dead = disk.rule("any:eio")
        text = tutti("info", home, *named).stderr
        assert f"member {BAD} is fenced: too many I/O errors in a row" in text
        disk.say(f"lift {dead}")
        enable = tutti("enable", home, "--rank", 0, "--member", BAD)
        assert enable.returncode == 3
        assert "stays off" in enable.stderr

        disk.lift()
        enable = tutti("enable", home, "--rank", 0, "--member", BAD)
        assert enable.returncode == 0, enable.stderr
        again = life.run(back, bad[1])
        assert [answer.external for _, answer in again] == [320], "what lay there is lost"
        asked += again
        assert life.run(members) == {"ok": 2, "fenced": 0}
        log = life.log.read_text()
    assert f"member {BAD} of rank 0 is given no more commands: too many I/O errors in a row" in log
    assert f"member {BAD} of rank 0 is back" in log
    for tokens, answer in asked:
        reference.check(tokens, answer, n=4)


def unbounded() -> None:
    """No number of errors is too many."""
    from tutti_kv import _tutti

    _tutti.Serve = functools.partial(  # type: ignore[assignment,misc]
        _tutti.Serve, fence_errors=2**32 - 1
    )


def test_control_without_a_bound_it_is_asked_for_ever(
    faults: Faults, lives: Lives, tmp_path: Path, reference: Reference
) -> None:
    """Right all the same, but each request meets errors, and loads and stores go on failing."""
    disk = faults.of("unbounded")
    with lives("preload", extra={"members": place(tmp_path, disk)}, before=unbounded) as life:
        _, bad, begin = life.run(fill)
        rules = fail(disk, begin)
        asked, fenced, errors = life.run(err, bad, len(bad) + 6)
        before = seen(disk, rules)
        asked += life.run(ask_each, FRESH[20:24])
        moved = seen(disk, rules) - before
        disk.lift()
    assert fenced == 0
    assert errors > 2 * BOUND
    assert moved > 0
    for tokens, answer in asked:
        reference.check(tokens, answer, n=4)
