# SPDX-License-Identifier: Apache-2.0
"""Flips one byte of a stored object in a pool that no server has open.

Responsible for: damage that a checksum must find, for the demo and for tests. Must not know: the
pool's format; where an object lies is asked of tests/format/reader.py, which shares no code with
the library.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

READER = Path(__file__).resolve().parent.parent / "tests" / "format"


@dataclass(frozen=True)
class Damage:
    """Which byte was flipped, and what it was."""

    path: Path
    offset: int
    before: int
    after: int


def flip_byte(path: Path, offset: int) -> Damage:
    """Inverts one byte of a file, durably."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        before = os.pread(descriptor, 1, offset)[0]
        after = before ^ 0xFF
        os.pwrite(descriptor, bytes([after]), offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Damage(path, offset, before, after)


def flip_one_byte(
    pool: Path, *, where: float = 0.5, layer: int = 0, part: int = 0, inside: int = 1000
) -> Damage:
    """Inverts one byte of one object, `inside` bytes into it.

    `where`, from 0 to 1, picks the slot, in the order in which the pool holds them.
    """
    if str(READER) not in sys.path:
        sys.path.insert(0, str(READER))
    reader = importlib.import_module("reader")
    slots = list(reader.open_pool(pool).slots())
    if not slots:
        raise RuntimeError(f"{pool}: no stored slot to damage")
    slot = slots[min(int(len(slots) * where), len(slots) - 1)]
    return flip_byte(Path(slot.member_path), int(slot.object_offset(layer, part)) + inside)
