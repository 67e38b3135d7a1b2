#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second implementation of the pool format, written from docs/format.md alone.

Responsible for: reading a pool's secret, superblocks, records and data, and
checking every checksum. Must not know: the library (it imports none of it).
It reads plainly, one slot at a time; a proof, not a tool for large pools.

    reader.py HOME [--rank N] [--member PATH ...]     a JSON summary, status 1 if anything is bad
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import xxhash

PAGE = 4096
SUPERBLOCK_BYTES = 4096
SUPERBLOCK_COPY = 65536
SUPERBLOCK_MAGIC = b"TTPOOL01"
RECORD_MAGIC = b"TTTREC01"
VERSION = 1
RECORD_HEADER = 192
RECORD_EMPTY = 1
MAX_LAYERS, MAX_PARTS, MAX_MEMBERS, MAX_GROUPS, MAX_RANKS = 256, 4, 16, 8, 64
EPOCH_MAX = (1 << 24) - 1
NO_KEY = bytes(16)

GEOMETRY = struct.Struct("<IIQIIII")
SUPERBLOCK = struct.Struct("<8sII16sQIIIIIIIIQQQQQQQ16sII")
RECORD = struct.Struct("<8sII16sIIIIQQ16s16s16s32sIIII16sQQ")
assert GEOMETRY.size == 32
assert SUPERBLOCK.size == 152
assert RECORD.size == RECORD_HEADER


class FormatError(Exception):
    """What is wrong with a pool, for a person."""


class VersionError(FormatError):
    """A superblock that is whole, but of another format version."""


def sum64(data: bytes | bytearray | memoryview) -> int:
    """XXH3-64, default secret, seed 0."""
    return xxhash.xxh3_64_intdigest(data)


def round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def layer_sum(parts: Sequence[bytes]) -> int:
    """Checksum of one slot's layer over the bytes of its parts, in order."""
    words = [sum(len(part) for part in parts)]
    for part in parts:
        for at in range(0, len(part), PAGE):
            words.append(sum64(part[at : at + PAGE].ljust(PAGE, b"\0")))
    words += [0] * (32 - len(words))
    return sum64(struct.pack(f"<{len(words)}Q", *words))


def siphash_128(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4 with 128-bit output (Aumasson and Bernstein)."""
    mask = (1 << 64) - 1

    def rotate(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & mask

    k0, k1 = struct.unpack("<QQ", key)
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def rounds(count: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0 = (v0 + v1) & mask
            v1 = rotate(v1, 13) ^ v0
            v0 = rotate(v0, 32)
            v2 = (v2 + v3) & mask
            v3 = rotate(v3, 16) ^ v2
            v0 = (v0 + v3) & mask
            v3 = rotate(v3, 21) ^ v0
            v2 = (v2 + v1) & mask
            v1 = rotate(v1, 17) ^ v2
            v2 = rotate(v2, 32)

    whole = len(data) // 8 * 8
    words = [*struct.unpack(f"<{whole // 8}Q", data[:whole])]
    words.append(int.from_bytes(data[whole:].ljust(7, b"\0") + bytes([len(data) & 255]), "little"))
    for word in words:
        v3 ^= word
        rounds(2)
        v0 ^= word
    v2 ^= 0xEE
    rounds(4)
    first = v0 ^ v1 ^ v2 ^ v3
    v1 ^= 0xDD
    rounds(4)
    return struct.pack("<QQ", first, v0 ^ v1 ^ v2 ^ v3)


def make_key(secret: bytes, identity: bytes, group: int, engine_hash: bytes) -> bytes:
    return siphash_128(secret, identity + struct.pack("<I", group) + engine_hash)


@dataclass(frozen=True)
class Secret:
    pool: bytes
    secret: bytes


def read_secret(home: Path) -> Secret:
    path = home / "secret"
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise FormatError(f"{path}: others may read the secret")
    lines = path.read_text("ascii").split("\n")
    if len(lines) != 4 or lines[0] != "tutti-secret 1" or lines[3] != "":
        raise FormatError(f"{path}: not a secret file")
    values = []
    for line, name in zip(lines[1:3], ("pool ", "secret "), strict=True):
        if not line.startswith(name) or len(line) != len(name) + 32:
            raise FormatError(f"{path}: not a secret file")
        values.append(bytes.fromhex(line[len(name) :]))
    return Secret(values[0], values[1])


@dataclass(frozen=True)
class Geometry:
    layers: int
    parts: int
    object_bytes: int
    block_tokens: int
    layout_tag: int
    group: int
    reserved: int
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Geometry:
        layers, parts, object_bytes, tokens, tag, group, reserved = GEOMETRY.unpack(raw)
        return cls(layers, parts, object_bytes, tokens, tag, group, reserved, raw)

    @property
    def digest(self) -> int:
        return sum64(self.raw)

    @property
    def record_bytes(self) -> int:
        return max(256, RECORD_HEADER + 8 * self.layers)

    def problem(self) -> str | None:
        if not 1 <= self.layers <= MAX_LAYERS or not 1 <= self.parts <= MAX_PARTS:
            return "layers or parts outside their limits"
        if not 1 <= self.object_bytes <= 1 << 30 or self.block_tokens < 1:
            return "object bytes or block tokens outside their limits"
        if self.group >= MAX_GROUPS or self.reserved:
            return "group outside its limits, or reserved bytes"
        return None


@dataclass(frozen=True)
class Superblock:
    pool: bytes
    sequence: int
    rank: int
    ranks: int
    member: int
    members: int
    alignment: int
    record_stride: int
    records_per_extent: int
    extents: int
    extent_bytes: int
    first_extent: int
    epoch: int
    oldest_epoch: int
    written_bytes: int
    created: int
    secret_check: int
    identity: bytes
    geometries: tuple[Geometry, ...]
    copy: int

    @property
    def static(self) -> tuple[int | bytes, ...]:
        """What all members of a rank have in common."""
        return (
            *(self.pool, self.rank, self.ranks, self.members, self.alignment, self.record_stride),
            *(self.records_per_extent, self.extents, self.extent_bytes, self.first_extent),
            *(self.created, self.secret_check),
        )

    @property
    def member_bytes(self) -> int:
        return self.first_extent + self.extents * self.extent_bytes

    @property
    def data_offset(self) -> int:
        return round_up(self.records_per_extent * self.record_stride, PAGE)

    def slots_per_extent(self, g: Geometry) -> int:
        stride = round_up(g.object_bytes, self.alignment)
        room = (self.extent_bytes - self.data_offset) // (stride * g.layers * g.parts)
        return min(self.records_per_extent, max(0, room))


def parse_superblock(raw: bytes, copy: int) -> Superblock:
    """Believe 4,096 bytes only when everything fits; FormatError says what does not."""
    if len(raw) != SUPERBLOCK_BYTES:
        raise FormatError("the file ends before it")
    if raw[:8] != SUPERBLOCK_MAGIC:
        raise FormatError("not a superblock")
    if sum64(raw[:-8] + bytes(8)) != int.from_bytes(raw[-8:], "little"):
        raise FormatError("checksum does not match")
    (_, version, size, pool, sequence, rank, ranks, member, members, alignment, stride, records,
     extents, extent_bytes, first_extent, epoch, oldest, written, created, check, identity, groups,
     reserved) = SUPERBLOCK.unpack_from(raw)  # fmt: skip
    if version != VERSION:
        raise VersionError(f"format version {version}")
    shapes = [Geometry.parse(raw[at : at + 32]) for at in range(152, 152 + 32 * MAX_GROUPS, 32)]
    s = Superblock(
        *(pool, sequence, rank, ranks, member, members, alignment, stride, records, extents),
        *(extent_bytes, first_extent, epoch, oldest, written, created, check, identity),
        tuple(shapes[:groups]),
        copy,
    )
    checks = {
        "bytes": size == SUPERBLOCK_BYTES,
        "sequence": 1 <= sequence < 1 << 63,
        "rank": rank < ranks <= MAX_RANKS,
        "member": member < members <= MAX_MEMBERS,
        "alignment": alignment in (512, 4096),
        "record stride": 256 <= stride <= 4096 and alignment > 0 and stride % alignment == 0,
        "first extent": first_extent % PAGE == 0 and 69632 <= first_extent <= 1 << 30,
        "extent bytes": 0 < extent_bytes <= 1 << 40 and extent_bytes % PAGE == 0,
        "records": records >= 1 and records * stride < extent_bytes,
        "extents": extents >= 1
        and s.member_bytes < 1 << 63
        and (extents * members) * records < (1 << 32) - 1,
        "epochs": oldest <= epoch <= EPOCH_MAX,
        "shapes": 1 <= groups <= MAX_GROUPS and len({g.raw for g in shapes[:groups]}) == groups,
        "reserved": reserved == 0 and not any(raw[152 + 32 * min(groups, MAX_GROUPS) : -8]),
    }
    for name, good in checks.items():
        if not good:
            raise FormatError(f"{name} outside its limits")
    for g in s.geometries:
        if g.problem() or g.record_bytes > stride or s.slots_per_extent(g) == 0:
            raise FormatError(f"a shape does not fit: {g.problem() or 'record or slot too large'}")
    return s


class Member:
    """One member: its file and the superblock copy that counts."""

    def __init__(self, path: Path, secret: Secret, rank: int, index: int, count: int) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.bytes = os.lseek(self._fd, 0, os.SEEK_END)
        self.superblock = self._choose()
        s = self.superblock
        if s.pool != secret.pool:
            raise FormatError(f"{path}: a member of another pool")
        expected = struct.unpack("<Q", siphash_128(secret.secret, secret.pool)[:8])[0]
        if s.secret_check != expected:
            raise FormatError(f"{path}: formatted with another secret")
        if (s.rank, s.member, s.members) != (rank, index, count):
            raise FormatError(f"{path}: rank {s.rank}, member {s.member} of {s.members}")
        if self.bytes < s.member_bytes:
            raise FormatError(f"{path}: cut short: {self.bytes} of {s.member_bytes} bytes")

    def _choose(self) -> Superblock:
        whole, problems = [], []
        for copy in (0, 1):
            try:
                raw = self.read(copy * SUPERBLOCK_COPY, SUPERBLOCK_BYTES)
                whole.append(parse_superblock(raw, copy))
            except VersionError as error:
                raise FormatError(f"{self.path}: {error}") from error
            except FormatError as error:
                problems.append(str(error))
        if not whole:
            raise FormatError(f"{self.path}: neither superblock is whole: {problems}")
        return max(whole, key=lambda s: (s.sequence, -s.copy))

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Slot:
    """A record that counts, and where everything of its slot lies."""

    slot: int
    generation: int
    key: bytes
    parent: bytes
    incarnation: int
    identity: bytes
    engine_hash: bytes
    group: int
    geometry: Geometry
    layer_sums: tuple[int, ...]
    record_offset: int
    member: Member
    superblock: Superblock

    @property
    def member_path(self) -> str:
        return str(self.member.path)

    @property
    def object_stride(self) -> int:
        return round_up(self.geometry.object_bytes, self.superblock.alignment)

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer on disk: its parts side by side, strides included."""
        return self.object_stride * self.geometry.parts

    def layer_offset(self, layer: int) -> int:
        return self.object_offset(layer, 0)

    def object_offset(self, layer: int, part: int) -> int:
        s = self.superblock
        index = self.slot % s.records_per_extent
        row = layer * s.slots_per_extent(self.geometry) + index
        extent = self.record_offset - index * s.record_stride
        row_offset = (row * self.geometry.parts + part) * self.object_stride
        return extent + s.data_offset + row_offset

    def object_data(self, layer: int, part: int) -> bytes:
        return self.member.read(self.object_offset(layer, part), self.geometry.object_bytes)

    def bad_layers(self) -> list[int]:
        """Layers whose bytes do not match the record."""
        bad = []
        for layer, expected in enumerate(self.layer_sums):
            parts = [self.object_data(layer, part) for part in range(self.geometry.parts)]
            short = any(len(part) != self.geometry.object_bytes for part in parts)
            if short or layer_sum(parts) != expected:
                bad.append(layer)
        return bad


@dataclass
class Counts:
    valid: int = 0
    empty: int = 0
    torn: int = 0
    void: int = 0
    alien: int = 0


class Rank:
    """One rank's members, opened together."""

    def __init__(self, home: Path, secret: Secret, rank: int, paths: Sequence[Path]) -> None:
        self.rank = rank
        self.secret = secret
        self.members = [
            Member(self._file(path, rank, i), secret, rank, i, len(paths))
            for i, path in enumerate(paths or [home])
        ]
        first = self.members[0].superblock
        for member in self.members[1:]:
            if member.superblock.static != first.static:
                raise FormatError(f"{member.path}: not formatted with {self.members[0].path}")
        self.superblock = max((m.superblock for m in self.members), key=lambda s: s.sequence)

    @staticmethod
    def _file(path: Path, rank: int, member: int) -> Path:
        return path / f"rank{rank}.member{member}.tutti" if path.is_dir() else path

    @cached_property
    def scan(self) -> tuple[list[Slot], Counts]:
        """Slots that count, ascending, and how many records were what."""
        counts, slots = Counts(), []
        for extent in range(self.superblock.extents * self.superblock.members):
            found = [slot for slot in self._extent(extent, counts) if slot is not None]
            if found:
                best = max(found, key=lambda s: (s.incarnation, s.generation))
                kept = [
                    s
                    for s in found
                    if (s.incarnation, s.geometry) == (best.incarnation, best.geometry)
                ]
                counts.void += len(found) - len(kept)
                counts.valid -= len(found) - len(kept)
                slots += kept
        return slots, counts

    def _extent(self, extent: int, counts: Counts) -> Iterator[Slot | None]:
        s = self.superblock
        member = self.members[extent % s.members]
        offset = s.first_extent + extent // s.members * s.extent_bytes
        for index in range(s.records_per_extent):
            at = offset + index * s.record_stride
            slot = extent * s.records_per_extent + index
            raw = member.read(at, s.record_stride)
            verdict = self._judge(raw, slot, extent % s.members)
            if isinstance(verdict, str):
                setattr(counts, verdict, getattr(counts, verdict) + 1)
                yield None
                continue
            counts.valid += 1
            fields = RECORD.unpack_from(raw)
            (_, _, _, _, _, _, _, incarnation, _, generation, key, parent, identity, engine_hash,
             group, layers, hash_bytes, *_) = fields  # fmt: skip
            yield Slot(
                *(slot, generation, key, parent, incarnation, identity, engine_hash[:hash_bytes]),
                *(group, verdict, struct.unpack_from(f"<{layers}Q", raw, RECORD_HEADER)),
                *(at, member, s),
            )

    def _judge(self, raw: bytes, slot: int, member: int) -> Geometry | str:
        """The geometry of a record that counts, or why it does not."""
        s = self.superblock
        if len(raw) < s.record_stride:
            return "torn"
        (magic, version, flags, pool, rank, its_member, its_slot, _, geometry, generation, _, _, _,
         _, group, layers, *_, checksum) = RECORD.unpack_from(raw)  # fmt: skip
        if magic == bytes(8):
            return "empty"
        size = max(256, RECORD_HEADER + 8 * layers)
        if magic != RECORD_MAGIC or version != VERSION or not 1 <= layers <= MAX_LAYERS:
            return "torn"
        if size > s.record_stride or sum64(raw[:184] + bytes(8) + raw[192:size]) != checksum:
            return "torn"
        if flags & RECORD_EMPTY:
            return "empty"
        shape = next((g for g in s.geometries if g.digest == geometry), None)
        here = (s.pool, s.rank, member, slot)
        if (pool, rank, its_member, its_slot) != here or shape is None:
            return "alien"
        if (group, layers) != (shape.group, shape.layers):
            return "alien"
        if slot % s.records_per_extent >= s.slots_per_extent(shape):
            return "alien"
        if generation == 0 or not s.oldest_epoch <= generation >> 40 <= s.epoch:
            return "void"
        return shape

    def close(self) -> None:
        for member in self.members:
            member.close()


class Pool:
    """A pool opened for reading. `members` is one rank's paths, or a mapping from rank to paths."""

    def __init__(
        self,
        home: str | os.PathLike[str],
        members: Sequence[str | os.PathLike[str]]
        | dict[int, Sequence[str | os.PathLike[str]]]
        | None = None,
        rank: int | None = None,
    ) -> None:
        folder = Path(home)
        self.secret = read_secret(folder)
        self.ranks: dict[int, Rank] = {}
        if members is None:
            found = {
                int(path.name.removeprefix("rank").split(".")[0])
                for path in folder.glob("rank*.member0.tutti")
            }
            named: dict[int, Sequence[Path]] = {
                r: sorted(
                    folder.glob(f"rank{r}.member*.tutti"),
                    key=lambda path: int(path.name.split(".member")[1].removesuffix(".tutti")),
                )
                for r in sorted(found)
                if rank is None or r == rank
            }
        elif isinstance(members, dict):
            named = {r: [Path(path) for path in paths] for r, paths in members.items()}
        else:
            named = {rank or 0: [Path(path) for path in members]}
        if not named:
            raise FormatError(f"{folder}: no member of rank {rank or 0} is here")
        for r, paths in named.items():
            self.ranks[r] = Rank(folder, self.secret, r, paths)

    def superblock(self, rank: int = 0, member: int = 0) -> Superblock:
        """The copy that counts, of one member."""
        return self.ranks[rank].members[member].superblock

    def slots(self, rank: int | None = None) -> Iterator[Slot]:
        """Slots that count, ascending; of one rank, or of all in turn."""
        for r, opened in self.ranks.items():
            if rank is None or r == rank:
                yield from opened.scan[0]

    def check(self, rank: int | None = None) -> dict[str, object]:
        """Verify every record, every layer and every key; counts, and what is bad."""
        total = Counts()
        layers = 0
        bad: list[dict[str, object]] = []
        for r, opened in self.ranks.items():
            if rank is not None and r != rank:
                continue
            slots, counts = opened.scan
            for name in vars(total):
                setattr(total, name, getattr(total, name) + getattr(counts, name))
            for slot in slots:
                layers += len(slot.layer_sums)
                for layer in slot.bad_layers():
                    bad.append({"rank": r, "slot": slot.slot, "layer": layer})
                key = make_key(self.secret.secret, slot.identity, slot.group, slot.engine_hash)
                if key != slot.key:
                    bad.append({"rank": r, "slot": slot.slot, "layer": "key"})
        mismatched = len({(entry["rank"], entry["slot"]) for entry in bad})
        return {**vars(total), "layers": layers, "mismatched": mismatched, "bad": bad}

    def close(self) -> None:
        for opened in self.ranks.values():
            opened.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_pool(
    home: str | os.PathLike[str],
    members: Sequence[str | os.PathLike[str]]
    | dict[int, Sequence[str | os.PathLike[str]]]
    | None = None,
    rank: int | None = None,
) -> Pool:
    """Open a pool; FormatError says why not. Without @members: what lies in its home folder."""
    return Pool(home, members, rank)


def main() -> int:
    parser = argparse.ArgumentParser(description="Read a Tutti pool and check every checksum.")
    parser.add_argument("home")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--member", action="append", help="path of a member, in order")
    arguments = parser.parse_args()
    try:
        with open_pool(arguments.home, arguments.member, arguments.rank) as pool:
            result = pool.check()
    except (FormatError, OSError, ValueError) as error:
        print(json.dumps({"error": str(error)}))
        return 2
    print(json.dumps(result))
    return 1 if result["mismatched"] or result["torn"] or result["alien"] else 0


if __name__ == "__main__":
    sys.exit(main())
