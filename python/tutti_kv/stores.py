# SPDX-License-Identifier: Apache-2.0
"""Stores under way, as the scheduler's half sees them.

Responsible for reserving places, for who owes a report on them, and for which of the
engine's blocks a store may still read. Must not know vLLM's requests or steps. The
one idea: a store has a number; workers answer a number with one word per slot, and
the directory hears of it.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutti_kv._tutti import Directory, Transfers
from tutti_kv.metadata import StorePlan
from tutti_kv.metrics import TuttiStats
from tutti_kv.sequence import HASH_BYTES, Sequence
from tutti_kv.telling import Telling


@dataclass(slots=True)
class Storing:
    """A store that some ranks have not reported on. index: places in the chain."""

    sequence: Sequence
    items: Transfers
    index: NDArray[np.uint32]
    waiting: set[int]
    ok: NDArray[np.uint8]


class Stores:
    """All of an engine's stores; `version` counts changes of the directory."""

    def __init__(self, ranks: int, blocks: int, tries: int, stats: TuttiStats) -> None:
        self._ranks = ranks
        self._stats = stats
        self._tries = tries
        self._number = 0
        self._under_way: dict[int, Storing] = {}
        self._waiting: list[StorePlan] = []
        self._readers = np.zeros(blocks, np.uint16)
        self.version = 0
        self.news_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._under_way)

    def plan(
        self,
        directory: Directory,
        sequence: Sequence,
        full: int,
        table: list[int],
        *,
        grows: bool = False,
        early: bool = False,
    ) -> int:
        """Reserve places for a sequence's blocks [planned, full); how many are to be written.

        table: the engine's numbers of the sequence's blocks
        grows: it is decoding; early: see StorePlan
        """
        sequence.update_hashes()
        first = sequence.planned
        got = directory.reserve(sequence.hashes, HASH_BYTES, first, full - first, grows)
        if got is None and first:
            # the chain before them has left the pool; this sequence still holds all of it
            got = directory.reserve(sequence.hashes, HASH_BYTES, 0, full, grows)
        sequence.planned = full
        sequence.since = 0.0
        if got is None or len(got[0]) == 0:
            return 0
        items, origins, index = got
        items["block"] = np.array(table, np.uint32)[index]
        self._number += 1
        self._under_way[self._number] = Storing(
            sequence, items, index, set(range(self._ranks)), np.ones(len(items), np.uint8)
        )
        self._readers[items["block"]] += 1
        self._waiting.append(StorePlan(self._number, items, origins, early, sequence.adapter))
        self._changed()
        return len(items)

    def _changed(self) -> None:
        self.version += 1
        self.news_at = time.monotonic()

    def take(self) -> list[StorePlan]:
        """What was planned since the last time, for the workers."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def give_up(self, directory: Directory, why: str) -> None:
        """What no worker has heard of yet is not made. why: in the words of a metric's label."""
        for plan in self.take():
            self._stats.add("store_dropped", len(plan.items), rank="", reason=why)
            nothing = np.zeros(len(plan.items), np.uint8)
            for rank in range(self._ranks):
                self.report(directory, rank, plan.number, nothing)

    def report(self, directory: Directory, rank: int, number: int, ok: NDArray[np.uint8]) -> None:
        """A rank's word on a store; what was lost is planned again with the next block."""
        storing = self._under_way.get(number)
        if storing is None or rank not in storing.waiting:
            return
        directory.report(rank, storing.items, ok)
        self._changed()
        storing.waiting.discard(rank)
        storing.ok &= ok
        if storing.waiting:
            return
        del self._under_way[number]
        Telling.story(
            storing.sequence.request.request_id,
            "wrote %d of %d slots",
            int(storing.ok.sum()),
            len(storing.ok),
        )
        self._readers[storing.items["block"]] -= 1
        lost = np.flatnonzero(storing.ok == 0)
        sequence = storing.sequence
        if len(lost) and sequence.lost_stores < self._tries:
            sequence.lost_stores += 1
            sequence.planned = min(sequence.planned, int(storing.index[lost[0]]))

    def read_any_of(self, blocks: list[int]) -> NDArray[np.uint32]:
        """Those of the blocks that a store may still read."""
        if not blocks or not self._under_way:
            return np.zeros(0, np.uint32)
        written = np.array(blocks, np.uint32)
        return np.unique(written[self._readers[written] > 0])

    def all_blocks(self) -> NDArray[np.uint32]:
        """All that a store may still read."""
        return np.flatnonzero(self._readers).astype(np.uint32)
