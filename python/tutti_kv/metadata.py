# SPDX-License-Identifier: Apache-2.0
"""What the two halves of the connector say to each other.

Responsible for the three messages: the handshake (worker to scheduler, once), the
plan (scheduler to workers, every step) and the report (workers to scheduler,
every step). Must not know how a plan is made or carried out. The one idea: what
passes between the halves is (slot, generation, key) and numbers given by the
scheduler's half: of steps, stores and epochs; and, by each rank, of failures.

Lists of slots are numpy arrays of the C structs, so they are pickled as bytes.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from tutti_kv._tutti import TRANSFER, Geometry, Origins, Placement, Transfers


def no_transfers() -> Transfers:
    return np.zeros(0, TRANSFER)


def no_blocks() -> NDArray[np.uint32]:
    return np.zeros(0, np.uint32)


class Adapter(NamedTuple):
    """An adapter that requests run on: vLLM's number of it, and its content (adapters.py)."""

    number: int
    content: bytes


# What a request says of its adapter: vLLM's number of it, its path, whether to load it anew.
Question = tuple[int, str, bool]


@dataclass
class Handshake(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    """What a worker found when it opened its members.

    refusal: why this rank works without the pool (on_error "disable"); the other
        fields are then void
    layout: text that names the memory layout of a block; equal on all ranks
    scan_path: file with this rank's records; the scheduler's half removes it
    bell: where this rank's bell is heard (bell.py); "" for nowhere
    """

    rank: int
    refusal: str | None = None
    pool: bytes = b""
    epoch: int = 0
    geometry: Geometry = field(default_factory=Geometry)
    placement: Placement = field(default_factory=Placement)
    layout: str = ""
    scan_path: str = ""
    engine: str = ""
    direct: bool = False
    direct_reason: str = ""
    bell: str = ""


@dataclass
class Load:
    """Bring blocks back for one request; in_step: while this step computes."""

    request: str
    items: Transfers
    in_step: bool
    adapter: Adapter | None = None


@dataclass
class StorePlan:
    """Write blocks away.

    early: before this step computes (the request has finished, its blocks may be
        handed on in this very step); else when the step has ended
    """

    number: int
    items: Transfers
    origins: Origins
    early: bool = False
    adapter: Adapter | None = None


@dataclass
class Plan(KVConnectorMetadata):  # type: ignore[misc]
    """One step's work.

    epoch, oldest_epoch, identity: what records are written under from now on
    fence: blocks that this step, or a load planned in it, overwrites
    erase: slots whose records are to be emptied, before later stores
    acknowledged: per rank, the number of the last failure that the scheduler's
        half has dealt with: stores go on from there
    weights: per rank, the number of the last change of its weights that has been dealt
        with: loads and stores go on from there
    off: nothing is stored any more, and what is being stored is cancelled
    questions: requests for adapters whose content is to be told
    replaced: per rank, which adapters were replaced, as far as that has been dealt with:
        stores of requests that run on them go on from there
    """

    step: int
    epoch: int
    oldest_epoch: int
    identity: bytes
    loads: list[Load] = field(default_factory=list)
    stores: list[StorePlan] = field(default_factory=list)
    fence: NDArray[np.uint32] = field(default_factory=no_blocks)
    erase: Transfers = field(default_factory=no_transfers)
    acknowledged: dict[int, int] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    off: bool = False
    questions: list[Any] = field(default_factory=list)
    replaced: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass
class RankReport:
    """One rank's news of one step.

    stored: store number -> one word per slot, 1 when it was written
    bad: slots that could not be read or whose bytes are wrong
    failure: number of this rank's last failed load
    held: blocks that a read without an end may still write to; all of them, each time
    weights: how often this rank's weights have changed
    broken: what is wrong with our own code here, if anything
    fenced: members of this rank that are given no commands, a bit for each
    rung: how often the bell had been rung when this was gathered
    adapters: answers to the plan's questions: the content, or why it can't be told
    replaced: number of an adapter -> how often other content took its place
    """

    step: int
    epoch: int = 0
    failure: int = 0
    stored: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    bad: Transfers = field(default_factory=no_transfers)
    held: NDArray[np.uint32] = field(default_factory=no_blocks)
    weights: int = 0
    broken: str | None = None
    fenced: int = 0
    rung: int = 0
    adapters: dict[Question, bytes | str] = field(default_factory=dict)
    replaced: dict[int, int] = field(default_factory=dict)


@dataclass
class Report(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """All ranks' news of one step."""

    ranks: dict[int, RankReport]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Report":
        assert isinstance(other, Report)
        return Report({**self.ranks, **other.ranks})
