# SPDX-License-Identifier: Apache-2.0
"""Types of the compiled binding."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

# Structured arrays: numpy's stubs know their dtype as Any.
Transfers = NDArray[Any]
Origins = NDArray[Any]

TRANSFER: np.dtype[Any]
ORIGIN: np.dtype[Any]
PLANE: np.dtype[Any]
REGION: np.dtype[Any]

class TuttiError(OSError): ...

class Geometry:
    def __init__(
        self,
        layers: int = 0,
        parts: int = 0,
        object_bytes: int = 0,
        block_tokens: int = 0,
        layout_tag: int = 0,
        group: int = 0,
    ) -> None: ...
    @property
    def layers(self) -> int: ...
    @property
    def parts(self) -> int: ...
    @property
    def object_bytes(self) -> int: ...
    @property
    def block_tokens(self) -> int: ...
    @property
    def slot_bytes(self) -> int: ...
    def digest(self) -> int: ...

class Placement:
    @property
    def extents(self) -> int: ...
    @property
    def slots(self) -> int: ...
    def with_extents(self, extents: int) -> Placement: ...
    def object_place(self, slot: int, layer: int, part: int = 0) -> tuple[int, int]: ...
    def record_place(self, slot: int) -> tuple[int, int]: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(raw: bytes) -> Placement: ...

class PoolInfo(TypedDict):
    pool: bytes
    rank: int
    ranks: int
    members: int
    paths: list[str]
    alignment: int
    extents: int
    extent_bytes: int
    first_extent: int
    epoch: int
    oldest_epoch: int
    written_bytes: int
    identity: bytes
    direct: bool
    direct_reason: str

class Pool:
    @staticmethod
    def format(
        home: str,
        *,
        members: Sequence[str] = (),
        rank: int = 0,
        ranks: int = 1,
        size: int = 0,
        geometry: Geometry,
        alignment: int = 0,
        extent_bytes: int = 0,
        force: bool = False,
    ) -> None: ...
    @staticmethod
    def open(
        home: str,
        *,
        members: Sequence[str] = (),
        rank: int = 0,
        ranks: int = 1,
        geometry: Geometry | None = None,
        read_only: bool = False,
    ) -> Pool: ...
    @staticmethod
    def open_or_format(
        home: str,
        *,
        members: Sequence[str] = (),
        rank: int = 0,
        ranks: int = 1,
        size: int = 0,
        geometry: Geometry,
        alignment: int = 0,
    ) -> tuple[Pool, bool]: ...
    def close(self) -> None: ...
    def info(self) -> PoolInfo: ...
    def placement(self, group: int = 0) -> Placement: ...
    def begin_epoch(self, epoch: int, oldest_epoch: int, identity: bytes) -> None: ...
    def flush(self) -> None: ...
    def scan_to_file(self, path: str, threads: int = 0) -> dict[str, int]: ...

def secret_load(home: str, create: bool = False) -> tuple[bytes, bytes]: ...
def disable(home: str, reason: str) -> None: ...
def enable(home: str) -> None: ...
def disabled(home: str) -> str | None: ...

class Match:
    @property
    def blocks(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def generation(self) -> int: ...

class Directory:
    def __init__(
        self,
        placement: Placement,
        geometry: Geometry,
        ranks: int,
        secret: bytes,
        identity: bytes,
        run_slots: int = 0,
    ) -> None: ...
    def load(self, paths: Sequence[str]) -> None: ...
    def begin_epoch(
        self, epoch: int, reset: bool = False, identity: bytes | None = None
    ) -> None: ...
    def find(self, hashes: bytes | bytearray, hash_bytes: int, count: int) -> Match: ...
    def pin(self, match: Match, first: int) -> Transfers | None: ...
    def unpin(self, slot: int, generation: int) -> None: ...
    def reserve(
        self,
        hashes: bytes | bytearray,
        hash_bytes: int,
        first: int,
        count: int,
        grows: bool = False,
    ) -> tuple[Transfers, Origins, NDArray[np.uint32]] | None: ...
    def report(self, rank: int, items: Transfers, ok: NDArray[np.uint8]) -> int: ...
    def drop(self, slot: int, generation: int) -> int: ...
    def take_erased(self, most: int = 4096) -> Transfers: ...
    def stats(self) -> dict[str, int]: ...
    def audit(self) -> None: ...

class Result:
    status: int
    good: int
    verified: int
    position: NDArray[np.uint8]
    bytes: int
    began: int
    first_layer: int
    ended: int

class Serve:
    def __init__(
        self,
        pool: Pool,
        *,
        engine: str | None = None,
        staging: int = 0,
        cpus: Sequence[int] = (),
        ring_depth: int = 0,
        look_ahead: int = 0,
        unverified: bool = False,
        fault_rules: str | None = None,
        fault_inner: str | None = None,
    ) -> None: ...
    def close(self) -> None: ...
    def register(
        self, planes: NDArray[Any], blocks: int, regions: NDArray[Any], group: int = 0
    ) -> tuple[bool, str]: ...
    @property
    def engine(self) -> str: ...
    def counters(self) -> dict[str, int]: ...
    def retrieve(
        self, items: Transfers, *, in_step: bool = False, tag: int = 0, group: int = 0
    ) -> Retrieve: ...
    def store(
        self,
        items: Transfers,
        origins: Origins,
        *,
        layers_ready: int,
        tag: int = 0,
        group: int = 0,
    ) -> Store: ...
    def fence(self, blocks: NDArray[np.uint32], timeout: float) -> int: ...
    def erase(self, items: Transfers, group: int = 0) -> None: ...
    def progress(self) -> None: ...

class Retrieve:
    def poll(self) -> bool: ...
    def layer(self, layer: int, timeout: float) -> int: ...
    def wait(self, timeout: float) -> bool: ...
    def cancel(self) -> None: ...
    def result(self) -> Result: ...
    def end(self) -> None: ...

class Store:
    def ready(self, layers: int) -> None: ...
    def poll(self) -> bool: ...
    def wait(self, timeout: float) -> bool: ...
    def cancel(self) -> None: ...
    def result(self) -> Result: ...
    def end(self) -> None: ...
