# SPDX-License-Identifier: Apache-2.0
"""The compiled binding on a real pool: types, errors, and bytes that come back."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tutti_kv import _tutti as t
from tutti_kv.counting import Counting
from tutti_kv.metrics import TuttiStats

GEOMETRY = t.Geometry(3, 1, 8192, 32, 1)
WHO = b"who are you? me!"


@pytest.fixture
def pool(tmp_path: Path) -> t.Pool:
    pool, made = t.Pool.open_or_format(str(tmp_path / "pool"), size=16 << 20, geometry=GEOMETRY)
    assert made
    return pool


def directory(pool: t.Pool, home: Path) -> t.Directory:
    scan = str(home / "scan")
    pool.scan_to_file(scan)
    _, secret = t.secret_load(str(home))
    made = t.Directory(pool.placement(), GEOMETRY, 1, secret, WHO)
    made.load([scan])
    return made


def test_messages_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(t.TuttiError, match=str(tmp_path)) as caught:
        t.Pool.open(str(tmp_path / "none"), geometry=GEOMETRY)
    assert caught.value.errno == 2
    assert isinstance(caught.value, OSError)


def test_types_are_checked(pool: t.Pool, tmp_path: Path) -> None:
    d = directory(pool, tmp_path / "pool")
    with pytest.raises(TypeError, match="is wanted"):
        d.report(0, np.zeros(3, np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="fewer hashes"):
        d.find(b"x" * 32, 32, 2)
    with pytest.raises(ValueError, match="16 bytes"):
        t.Directory(pool.placement(), GEOMETRY, 1, b"short", WHO)


def test_shapes_travel() -> None:
    """Between processes, as the handshake needs."""
    again = pickle.loads(pickle.dumps(GEOMETRY))
    assert (repr(again), again.digest()) == (repr(GEOMETRY), GEOMETRY.digest())


def test_round_trip(pool: t.Pool, tmp_path: Path) -> None:
    """Stored, reported, found by a second life's directory, brought back to other blocks."""
    home = tmp_path / "pool"
    d = directory(pool, home)
    d.begin_epoch(1)
    pool.begin_epoch(1, 0, WHO)
    serve = t.Serve(pool, engine="auto")
    kv = np.random.default_rng(0).integers(0, 255, (3, 40, 8192), np.uint8)
    planes = np.array([(kv.ctypes.data + i * kv[0].nbytes, 8192) for i in range(3)], t.PLANE)
    serve.register(planes, 40, np.array([(kv.ctypes.data, kv.nbytes)], t.REGION))
    hashes = os.urandom(32 * 10)
    got = d.reserve(hashes, 32, 0, 10)
    assert got is not None
    items, origins, index = got
    items["block"] = index
    assert d.find(hashes, 32, 10).blocks == 0, "not before it is reported"
    store = serve.store(items, origins, layers_ready=3)
    assert store.wait(10)
    result = store.result()
    store.end()
    assert (result.status, result.good) == (0, 10)
    assert d.report(0, items, (result.position == 0).astype(np.uint8)) == 10
    assert d.report(0, items, np.ones(10, np.uint8)) == 0, "twice is ignored"

    other = directory(pool, home)
    other.begin_epoch(2)
    match = other.find(hashes, 32, 10)
    assert match.blocks == 10
    want = other.pin(match, 4)
    assert want is not None
    want["block"] = np.arange(20, 26)
    retrieve = serve.retrieve(want)
    assert retrieve.wait(10)
    assert retrieve.result().status == 0
    retrieve.end()
    with pytest.raises(ValueError, match="over"):
        retrieve.poll()
    assert (kv[:, 20:26] == kv[:, 4:10]).all()
    other.unpin(match.slot, match.generation)
    with pytest.raises(t.TuttiError):
        other.unpin(match.slot, match.generation)
    assert other.drop(int(want["slot"][0]), int(want["generation"][0])) == 6
    assert other.find(hashes, 32, 10).blocks == 4
    other.audit()
    serve.erase(other.take_erased())
    assert serve.fence(np.arange(40, dtype=np.uint32), 1.0) == 0
    serve.close()
    with pytest.raises(ValueError, match="closed"):
        serve.progress()
    pool.close()


def test_switch(pool: t.Pool, tmp_path: Path) -> None:
    home = str(tmp_path / "pool")
    assert t.disabled(home) is None
    t.disable(home, "maintenance")
    assert "maintenance" in (t.disabled(home) or "")
    t.enable(home)
    assert t.disabled(home) is None


def test_reserve_behind_nothing(pool: t.Pool, tmp_path: Path) -> None:
    d = directory(pool, tmp_path / "pool")
    d.begin_epoch(1)
    nothing: Any = d.reserve(os.urandom(320), 32, 5, 5)
    assert nothing is None


def test_members_and_scrub(tmp_path: Path) -> None:
    """A member is fenced, the other serves on; it comes back; a scrub tells what rotted."""
    home, folders = str(tmp_path / "pool"), [str(tmp_path / "a"), str(tmp_path / "b")]
    pool, _ = t.Pool.open_or_format(home, members=folders, size=32 << 20, geometry=GEOMETRY)
    d = directory(pool, tmp_path / "pool")
    d.begin_epoch(1)
    pool.begin_epoch(1, 0, WHO)
    serve = t.Serve(pool, fence_errors=4, late=5.0)
    kv = np.random.default_rng(0).integers(0, 255, (3, 40, 8192), np.uint8)
    planes = np.array([(kv.ctypes.data + i * kv[0].nbytes, 8192) for i in range(3)], t.PLANE)
    serve.register(planes, 40, np.array([(kv.ctypes.data, kv.nbytes)], t.REGION))
    assert serve.fenced() == 0
    assert [state["fenced"] for state in serve.member_states()] == [False, False]

    t.disable_member(home, 0, 1, "slow")
    assert serve.watch_members() == 2
    assert serve.member_states()[1]["reason"] == "slow"
    assert d.fence_members(serve.fenced())
    assert not d.fence_members(serve.fenced())
    for chain in range(4):
        got = d.reserve(bytes([chain]) * 320, 32, 0, 1)
        assert got is not None
        items, origins, _ = got
        assert pool.placement().record_place(int(items["slot"][0]))[0] == 0
        store = serve.store(items, origins, layers_ready=3)
        assert store.wait(10)
        assert store.result().good == 1
        store.end()
        d.report(0, items, np.ones(1, np.uint8))
    t.enable_member(home, 0, 1)  # the watch had put in where it is
    assert t.member_disabled(home, 0, 1) is None
    assert serve.watch_members() == 0
    assert d.fence_members(0)
    with pytest.raises(t.TuttiError):
        d.fence_members(4)

    member, offset = pool.placement().object_place(int(items["slot"][0]), 1)
    with open(pool.info()["paths"][member], "r+b") as file:
        os.pwrite(file.fileno(), b"rot", offset)
        os.fsync(file.fileno())
    scrub = serve.scrub(rate=1 << 30)
    bad = [np.zeros(0, t.TRANSFER)]
    now = 0
    while scrub.report()["rounds"] == 0:
        bad.append(scrub.step(now := now + 10**12))
    found = np.concatenate(bad)
    assert found["slot"].tolist() == items["slot"].tolist()
    assert found["generation"].tolist() == items["generation"].tolist()
    assert scrub.report()["verified"] == 3
    assert d.drop(int(found["slot"][0]), int(found["generation"][0])) == 1
    scrub.close()
    with pytest.raises(ValueError, match="over"):
        scrub.step(0)
    assert serve.close(timeout=5.0) is None
    pool.close()


def test_health_of_drives(tmp_path: Path) -> None:
    """What a drive (of software) says of itself; of a file there is nothing to say."""
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.touch()
        os.truncate(file, 24 << 20)
    drives = [f"soft:{files[0]}", f"soft:{files[1]},warns=9"]
    pool, _ = t.Pool.open_or_format(
        str(tmp_path / "pool"), members=drives, size=16 << 20, geometry=GEOMETRY
    )
    well, ill = pool.member_health()
    assert well is not None
    assert ill is not None
    assert not well["warns"]
    assert ill["warns"]
    assert well["text"] == "3 % worn, 100 % spare, 37 C, 2 media errors"
    assert "WARNS: read-only, low on spare blocks" in ill["text"]
    stats = TuttiStats(data={})
    Counting(0, stats)._gauge_health(pool)
    assert stats.data["drive_warns|0|0"] == 0
    assert stats.data["drive_warns|0|1"] == 1
    assert stats.data["drive_celsius|0|1"] == 37
    pool.close()

    pool, _ = t.Pool.open_or_format(str(tmp_path / "files"), size=16 << 20, geometry=GEOMETRY)
    assert pool.member_health() == [None]
    pool.close()
