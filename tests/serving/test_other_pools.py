# SPDX-License-Identifier: Apache-2.0
"""Slots of one pool that lie in another, and a member of another: not hit, not served, refused.

Two pools of one shape hold the same prompt, so block for block the same bytes in the same places;
what tells them apart is in the records. Records are counted by the second implementation too.

Seen to fail with a library that compares neither a record's pool nor its key and generation (the
swapped slot is served; its bytes are right, and whose they are nobody can tell).
"""

import os
from pathlib import Path

import pytest
import reader
from conftest import Lives, Reference, prompt

from engine import Answer, Engine, LifeError

BLOCKS = 20
HEAD = prompt(8700, BLOCKS * 32)
TAIL = HEAD + prompt(8701, 20)
SWAPPED = 5
MEMBER = "rank0.member0.tutti"


def store(engine: Engine) -> None:
    engine.ask(HEAD, n=1)


def ask_twice(engine: Engine) -> tuple[list[Answer], dict[str, float]]:
    """And what the loads have met."""
    engine.spend()
    answers = []
    for _ in range(2):
        engine.drop_local()
        answers.append(engine.ask(TAIL, n=4))
    engine.healthy()
    return answers, engine.spend()


def records(home: Path) -> tuple[object, ...]:
    """How many count, are another pool's, and do not match their data."""
    with reader.open_pool(home) as pool:
        counts = pool.check()
    return counts["valid"], counts["alien"], counts["mismatched"]


def pieces(home: Path, block_hash: bytes) -> list[tuple[int, int]]:
    """Offset and length of all that a slot has in its member: the record, and each layer."""
    with reader.open_pool(home) as pool:
        slot = next(slot for slot in pool.slots() if slot.engine_hash == block_hash)
        layers = range(slot.geometry.layers)
        return [
            (slot.record_offset, slot.superblock.record_stride),
            *((slot.layer_offset(layer), slot.layer_bytes) for layer in layers),
        ]


def swap(one: Path, other: Path, places: list[tuple[int, int]]) -> None:
    with (one / MEMBER).open("r+b", 0) as a, (other / MEMBER).open("r+b", 0) as b:
        for offset, size in places:
            there, here = (os.pread(file.fileno(), size, offset) for file in (a, b))
            os.pwrite(a.fileno(), here, offset)
            os.pwrite(b.fileno(), there, offset)
        for file in (a, b):
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_swapped_between_two_pools(lives: Lives, tmp_path: Path, reference: Reference) -> None:
    """While a server runs on one of them, and before one starts on the other."""
    one, other = tmp_path / "one", tmp_path / "other"
    asked: list[Answer] = []
    with lives(pool=one) as life:
        life.run(store)
    with lives(pool=other) as life:
        life.run(store)
        places = pieces(one, reference.hashes(HEAD)[SWAPPED])
        assert places == pieces(other, reference.hashes(HEAD)[SWAPPED])
        assert records(one) == records(other) == (BLOCKS, 0, 0)
        swap(one, other, places)
        assert records(one) == records(other) == (BLOCKS - 1, 1, 0)
        answers, spent = life.run(ask_twice)
        asked += answers
    assert spent["load_failed_slots|0|other record"] == 1
    assert spent["load_failures|0"] == 1
    assert answers[1].external == BLOCKS * 32
    assert records(other) == (BLOCKS, 0, 0)
    with lives(pool=one) as life:
        answers, spent = life.run(ask_twice)
        asked += answers
        log = life.log.read_text()
    assert f"{BLOCKS - 1} records found" in log
    assert "1 alien" in log
    assert "load_failures|0" not in spent
    assert [answer.external for answer in answers] == [SWAPPED * 32, BLOCKS * 32]
    assert records(one) == (BLOCKS, 0, 0)
    for answer in asked:
        reference.check(TAIL, answer, n=4)

    (one / MEMBER).rename(one / "kept")
    (other / MEMBER).rename(one / MEMBER)
    with (
        pytest.raises(LifeError, match="name the folder and the members of one pool"),
        lives(pool=one),
    ):
        pass
