# SPDX-License-Identifier: Apache-2.0
"""The format, proven twice: the library and reader.py must agree on every pool.

Pools of several shapes are made with the library (make_pool.c); then both find
the same slots and the same checksums, and both notice each byte that is flipped.
Environment: TUTTI_BUILD (the build folder; default: build/ beside tests/).
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import reader

ROOT = Path(__file__).resolve().parents[2]
MAKE_POOL = Path(os.environ.get("TUTTI_BUILD", ROOT / "build")) / "tests" / "format" / "make_pool"
MIB = 1 << 20

# name -> keys of make_pool, number of members
SHAPES: dict[str, tuple[dict[str, int], int]] = {
    "one byte": ({"layers": 1, "parts": 1, "object": 1, "bytes": 2 * MIB, "extent": MIB // 4}, 1),
    "odd object, 512": ({"alignment": 512, "bytes": 5 * MIB, "extent": MIB}, 1),
    "odd object, 4096": ({"alignment": 4096, "bytes": 5 * MIB, "extent": MIB}, 1),
    "K and V, 32 layers": (
        {"layers": 32, "parts": 2, "object": 8192, "bytes": 17 * MIB, "extent": 4 * MIB},
        1,
    ),
    "MLA, 61 layers": (
        {"layers": 61, "parts": 1, "object": 18432, "bytes": 18 * MIB, "extent": 8 * MIB},
        1,
    ),
    "most layers and parts": (
        {"layers": 256, "parts": 4, "object": 700, "bytes": 10 * MIB, "extent": 4 * MIB}
        | {"alignment": 512},
        1,
    ),
    "three members, rank 1 of 2, group 5": (
        {"rank": 1, "ranks": 2, "group": 5, "bytes": 16 * MIB, "extent": MIB},
        3,
    ),
    "objects of many pages": (
        {"layers": 2, "parts": 2, "object": 600_001, "bytes": 14 * MIB, "extent": 6 * MIB},
        1,
    ),
}


@dataclass
class Made:
    """A pool that make_pool made."""

    home: Path
    keys: dict[str, int]
    members: list[Path] = field(default_factory=list)

    def run(self, command: str, **keys: int) -> subprocess.CompletedProcess[str]:
        pairs = [f"{key}={value}" for key, value in {**self.keys, **keys}.items()]
        members = [str(path) for path in self.members]
        return subprocess.run(
            [str(MAKE_POOL), command, str(self.home), *pairs, *members],
            capture_output=True,
            text=True,
            check=False,
        )

    def library(self, command: str) -> dict[str, Any]:
        done = self.run(command)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    @property
    def rank(self) -> int:
        return self.keys.get("rank", 0)

    def open(self) -> reader.Pool:
        return reader.open_pool(self.home, self.members or None, self.rank)

    @property
    def file(self) -> Path:
        named = f"rank{self.rank}.member0.tutti"
        return self.members[0] / named if self.members else self.home / named


def make(folder: Path, keys: dict[str, int], members: int = 1) -> Made:
    made = Made(folder / "home", keys)
    if members > 1:
        made.members = [folder / f"drive{i}" for i in range(members)]
        for path in made.members:
            path.mkdir()
    done = made.run("make", seed=3)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("pool"), SHAPES["odd object, 512"][0])


@pytest.fixture
def pool(original: Made, tmp_path: Path) -> Made:
    """A copy that a test may damage."""
    shutil.copytree(original.home, tmp_path / "home")
    return Made(tmp_path / "home", original.keys)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0] ^ 0x10
        f.seek(offset)
        f.write(bytes([byte]))


def counts(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result[name] for name in ("valid", "empty", "torn", "void", "alien"))


@pytest.mark.parametrize("name", SHAPES)
def test_both_find_the_same(name: str, tmp_path: Path) -> None:
    keys, members = SHAPES[name]
    made = make(tmp_path, keys, members)
    library, verified = made.library("scan"), made.library("check")
    with made.open() as opened:
        ours = [
            {
                "slot": slot.slot,
                "generation": slot.generation,
                "key": slot.key.hex(),
                "parent": slot.parent.hex(),
            }
            for slot in opened.slots(made.rank)
        ]
        result = opened.check()
        superblock = opened.superblock(made.rank)
    assert ours, "the pool holds nothing"
    assert ours == library["slots"]
    assert counts(result) == counts(library) == counts(verified)
    assert result["mismatched"] == verified["mismatched"] == 0
    assert result["layers"] == len(ours) * made.keys.get("layers", 3)
    assert superblock.epoch == 1
    assert superblock.written_bytes > 0


def test_slots_lie_apart_and_inside(original: Made) -> None:
    """No two objects or records overlap, and none leaves its member."""
    with original.open() as opened:
        superblock = opened.superblock()
        taken = [(0, 4096, "superblock"), (65536, 65536 + 4096, "superblock")]
        for slot in opened.slots():
            size = superblock.record_stride
            taken.append((slot.record_offset, slot.record_offset + size, f"record {slot.slot}"))
            for layer in range(slot.geometry.layers):
                assert slot.layer_offset(layer) == slot.object_offset(layer, 0)
                for part in range(slot.geometry.parts):
                    at = slot.object_offset(layer, part)
                    taken.append((at, at + slot.object_stride, f"{slot.slot} {layer} {part}"))
    taken.sort()
    assert taken[-1][1] <= superblock.member_bytes
    for before, after in itertools.pairwise(taken):
        assert before[1] <= after[0], f"{before} overlaps {after}"


SUPERBLOCK_FIELDS = {
    "magic": 0, "version": 8, "bytes": 12, "pool": 16, "sequence": 32, "rank": 40, "ranks": 44,
    "member": 48, "members": 52, "alignment": 56, "record_stride": 60, "records_per_extent": 64,
    "extents": 68, "extent_bytes": 72, "first_extent": 80, "epoch": 88, "oldest_epoch": 96,
    "written_bytes": 104, "created": 112, "secret_check": 120, "identity": 128, "groups": 144,
    "reserved0": 148, "geometry": 152, "second geometry": 184, "reserved": 408,
    "reserved's end": 4087, "checksum": 4088,
}  # fmt: skip


@pytest.mark.parametrize("name", SUPERBLOCK_FIELDS)
def test_flipped_superblock_field_is_noticed(name: str, pool: Made) -> None:
    offset = SUPERBLOCK_FIELDS[name]
    before = pool.library("scan")
    with pool.open() as opened:
        newest = opened.superblock().copy

    flip(pool.file, newest * reader.SUPERBLOCK_COPY + offset)
    with pool.open() as opened:  # the other copy serves, for both
        assert opened.superblock().copy == 1 - newest
    assert pool.library("scan") == before

    flip(pool.file, (1 - newest) * reader.SUPERBLOCK_COPY + offset)
    with pytest.raises(reader.FormatError, match="neither superblock"):
        pool.open()
    done = pool.run("scan")
    assert done.returncode == 1
    assert "neither superblock is whole" in done.stderr


def test_every_superblock_byte_is_covered(pool: Made) -> None:
    raw = pool.file.read_bytes()[:4096]
    reader.parse_superblock(raw, 0)
    for at in range(4096):
        damaged = bytearray(raw)
        damaged[at] ^= 0x80
        with pytest.raises(reader.FormatError):
            reader.parse_superblock(bytes(damaged), 0)


# What a superblock must not say even when its checksum holds: (offset, struct format, value).
HOSTILE: dict[str, tuple[int, str, int]] = {
    "no sequence": (32, "<Q", 0),
    "huge sequence": (32, "<Q", (1 << 64) - 1),
    "rank beyond ranks": (40, "<I", 1),
    "no ranks": (44, "<I", 0),
    "huge ranks": (44, "<I", (1 << 32) - 1),
    "no members": (52, "<I", 0),
    "huge members": (52, "<I", (1 << 32) - 1),
    "no alignment": (56, "<I", 0),
    "odd alignment": (56, "<I", 520),
    "no record stride": (60, "<I", 0),
    "huge record stride": (60, "<I", 1 << 31),
    "no records": (64, "<I", 0),
    "huge records": (64, "<I", (1 << 32) - 1),
    "no extents": (68, "<I", 0),
    "huge extents": (68, "<I", (1 << 32) - 1),
    "no extent bytes": (72, "<Q", 0),
    "huge extent bytes": (72, "<Q", (1 << 64) - 4096),
    "extent bytes that wrap": (72, "<Q", 1 << 62),
    "first extent in the superblocks": (80, "<Q", 4096),
    "huge first extent": (80, "<Q", (1 << 64) - 4096),
    "epoch beyond a generation": (88, "<Q", 1 << 24),
    "oldest epoch beyond the epoch": (96, "<Q", 2),
    "no shapes": (144, "<I", 0),
    "too many shapes": (144, "<I", 9),
    "reserved": (148, "<I", 1),
    "no layers": (152, "<I", 0),
    "too many layers": (152, "<I", 257),
    "no parts": (156, "<I", 0),
    "empty objects": (160, "<Q", 0),
    "huge objects": (160, "<Q", (1 << 64) - 1),
    "objects larger than an extent": (160, "<Q", 1 << 30),
    "no tokens": (168, "<I", 0),
    "group beyond its limit": (176, "<I", 8),
    "reserved bytes": (1000, "<I", 1),
}


def seal(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change both superblock copies and give them checksums that hold."""
    with path.open("r+b") as f:
        for at in (0, reader.SUPERBLOCK_COPY):
            f.seek(at)
            raw = bytearray(f.read(4096))
            change(raw)
            raw[-8:] = reader.sum64(bytes(raw[:-8]) + bytes(8)).to_bytes(8, "little")
            f.seek(at)
            f.write(raw)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_superblock_is_refused(name: str, pool: Made) -> None:
    offset, kind, value = HOSTILE[name]
    seal(pool.file, lambda raw: struct.pack_into(kind, raw, offset, value))
    with pytest.raises(reader.FormatError):
        pool.open()
    done = pool.run("scan")
    assert done.returncode == 1, f"{done.returncode}: {done.stdout} {done.stderr}"
    assert "neither superblock is whole" in done.stderr


def test_unchanged_superblock_sealed_again_is_accepted(pool: Made) -> None:
    """The negative control of the test above: sealing alone refuses nothing."""
    before = pool.library("scan")
    seal(pool.file, lambda raw: None)
    assert pool.library("scan") == before


RECORD_FIELDS = {
    "magic": 0, "version": 8, "flags": 12, "pool": 16, "rank": 32, "member": 36, "slot": 40,
    "incarnation": 44, "geometry": 48, "generation": 56, "key": 64, "parent": 80, "identity": 96,
    "engine_hash": 112, "group": 144, "layers": 148, "engine_hash_bytes": 152, "reserved0": 156,
    "reserved": 160, "reserved1": 176, "checksum": 184, "layer_sum[0]": 192, "layer_sum[2]": 208,
    "zeros": 216, "last zero": 255,
}  # fmt: skip


@pytest.mark.parametrize("name", RECORD_FIELDS)
def test_flipped_record_field_is_noticed(name: str, pool: Made) -> None:
    before = pool.library("scan")
    with pool.open() as opened:
        victim = list(opened.slots())[7]
    flip(pool.file, victim.record_offset + RECORD_FIELDS[name])
    after = pool.library("check")
    with pool.open() as opened:
        assert counts(opened.check()) == counts(after)
        assert victim.slot not in [slot.slot for slot in opened.slots()]
    assert after["torn"] == before["torn"] + 1
    assert after["valid"] == before["valid"] - 1
    assert after["bad"] == [
        {"slot": victim.slot, "layer": -1, "what": after["bad"][0]["what"]},
    ]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("where", [0, 4095, 4096, 4999])
def test_flipped_data_is_noticed(layer: int, part: int, where: int, pool: Made) -> None:
    with pool.open() as opened:
        victim = list(opened.slots())[11]
    flip(pool.file, victim.object_offset(layer, part) + where)
    with pool.open() as opened:
        ours = opened.check()
    theirs = pool.library("check")
    assert ours["bad"] == [{"rank": 0, "slot": victim.slot, "layer": layer}]
    assert [(bad["slot"], bad["layer"]) for bad in theirs["bad"]] == [(victim.slot, layer)]
    assert ours["mismatched"] == theirs["mismatched"] == 1


def test_padding_is_nobodys(pool: Made) -> None:
    """Bytes of a stride behind its data are covered by nothing and mean nothing."""
    before = pool.library("scan")
    with pool.open() as opened:
        victim = list(opened.slots())[3]
    flip(pool.file, victim.object_offset(1, 0) + 5000)
    flip(pool.file, victim.record_offset + 256)
    after = pool.library("check")
    assert counts(after) == counts(before)
    assert after["mismatched"] == 0
    with pool.open() as opened:
        assert opened.check()["mismatched"] == 0


def rewrite(pool: Made, slot: reader.Slot, change: Callable[[bytearray], None], at: int) -> None:
    """Write a slot's record, changed and sealed, at an offset."""
    with pool.file.open("r+b") as f:
        f.seek(slot.record_offset)
        raw = bytearray(f.read(slot.superblock.record_stride))
        change(raw)
        size = slot.geometry.record_bytes
        raw[184:192] = bytes(8)
        raw[184:192] = reader.sum64(bytes(raw[:size])).to_bytes(8, "little")
        f.seek(at)
        f.write(raw)


WHOLE_BUT_WRONG: dict[str, tuple[str, int, str, int]] = {
    "another pool": ("alien", 16, "<Q", 1),
    "another rank": ("alien", 32, "<I", 1),
    "another member": ("alien", 36, "<I", 1),
    "another slot": ("alien", 40, "<I", 0),
    "unknown shape": ("alien", 48, "<Q", 1),
    "another group": ("alien", 144, "<I", 1),
    "no generation": ("void", 56, "<Q", 0),
    "an epoch that has not begun": ("void", 56, "<Q", 2 << 40),
    "emptied": ("empty", 12, "<I", 1),
}


@pytest.mark.parametrize("name", WHOLE_BUT_WRONG)
def test_whole_record_that_does_not_belong(name: str, pool: Made) -> None:
    kind, offset, form, value = WHOLE_BUT_WRONG[name]
    before = pool.library("scan")
    with pool.open() as opened:
        victim = list(opened.slots())[5]
    rewrite(
        pool, victim, lambda raw: struct.pack_into(form, raw, offset, value), victim.record_offset
    )
    after = pool.library("scan")
    with pool.open() as opened:
        assert counts(opened.check()) == counts(after)
    assert after[kind] == before[kind] + 1
    assert after["valid"] == before["valid"] - 1


def test_record_in_another_place_is_alien(pool: Made) -> None:
    """A misdirected write: the record is whole, and lies where another slot's belongs."""
    with pool.open() as opened:
        first, second = list(opened.slots())[:2]
    rewrite(pool, first, lambda raw: None, second.record_offset)
    after = pool.library("scan")
    assert after["alien"] == 1
    assert second.slot not in [slot["slot"] for slot in after["slots"]]
    with pool.open() as opened:
        assert counts(opened.check()) == counts(after)


def test_larger_incarnation_voids_its_extent(pool: Made) -> None:
    with pool.open() as opened:
        slots = list(opened.slots())
        records = opened.superblock().records_per_extent
    victim = slots[0]
    extent = [slot for slot in slots if slot.slot // records == victim.slot // records]
    rewrite(pool, victim, lambda raw: struct.pack_into("<I", raw, 44, 9), victim.record_offset)
    after = pool.library("scan")
    assert after["void"] == len(extent) - 1
    assert after["slots"][0]["slot"] == victim.slot
    with pool.open() as opened:
        assert counts(opened.check()) == counts(after)


def test_key_is_made_as_the_document_says(original: Made) -> None:
    with original.open() as opened:
        slot = next(opened.slots())
        secret = opened.secret.secret
    assert reader.make_key(secret, slot.identity, slot.group, slot.engine_hash) == slot.key
    assert reader.make_key(secret, slot.identity, slot.group + 1, slot.engine_hash) != slot.key
    # The vector of the SipHash authors' reference code (vectors.h, 128 bits, 15 bytes of input).
    vector = reader.siphash_128(bytes(range(16)), bytes(range(15)))
    assert vector.hex() == "5493e99933b0a8117e08ec0f97cfc3d9"


def test_command_line(pool: Made) -> None:
    command = [sys.executable, reader.__file__, str(pool.home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mismatched"] == 0
    with pool.open() as opened:
        flip(pool.file, next(opened.slots()).object_offset(0, 0))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["mismatched"] == 1
