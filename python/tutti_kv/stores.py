# SPDX-License-Identifier: Apache-2.0
"""Stores under way, as the scheduler's half sees them.

Responsible for when blocks are due, for reserving places, for who owes a report on them, and for
which of the engine's blocks a store may still read. Must not know vLLM's steps. The one idea: a
store has a number; workers answer a number with one word per slot, and the directory hears of it.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutti_kv._tutti import Directory, Transfers
from tutti_kv.metadata import StorePlan
from tutti_kv.metrics import TuttiStats
from tutti_kv.sequence import HASH_BYTES, Sequence
from tutti_kv.telling import Telling

# Blocks filled by decoding go out when so many wait, or the oldest is `decode_age` old.
DECODE_BLOCKS = 16
# A request whose stores were lost so often is left alone.
MAX_LOST = 3


def take_erased(directory: Directory) -> Transfers:
    """All of it: an erasure must not come after the next store into its slot."""
    taken = [directory.take_erased()]
    while len(taken[-1]):
        taken.append(directory.take_erased())
    return np.concatenate(taken)


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

    def __init__(
        self,
        ranks: int,
        blocks: int,
        block_tokens: int,
        decode_age: float,
        stats: TuttiStats,
    ) -> None:
        self._ranks = ranks
        self._block_tokens = block_tokens
        self._decode_age = decode_age
        self._stats = stats
        self._number = 0
        self._under_way: dict[int, Storing] = {}
        self._waiting: list[StorePlan] = []
        self._readers = np.zeros(blocks, np.uint16)
        self.version = 0
        self.news_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._under_way)

    def full(self, request: Any, computed: int) -> int:
        """Blocks of which every token is known and, of `computed` ones, has its KV."""
        tokens = min(computed, request.num_tokens)
        return int(min(tokens // self._block_tokens, len(request.block_hashes)))

    def due(self, sequence: Sequence, computed: int) -> int:
        """How many of its first blocks are to be planned by now; 0 where that is nothing new."""
        full = self.full(sequence.request, computed)
        if full <= sequence.planned:
            return 0
        if self._grows(sequence):
            now = time.monotonic()
            sequence.since = sequence.since or now
            young = now - sequence.since < self._decode_age
            if young and full - sequence.planned < DECODE_BLOCKS:
                return 0
        return full

    def _grows(self, sequence: Sequence) -> bool:
        """It is decoding."""
        return sequence.planned >= int(sequence.request.num_prompt_tokens) // self._block_tokens

    def plan(
        self,
        directory: Directory,
        sequence: Sequence,
        full: int,
        table: list[int],
        *,
        early: bool = False,
    ) -> int:
        """Reserve places for a sequence's blocks [planned, full); how many are to be written.

        table: the engine's numbers of the sequence's blocks
        early: see StorePlan; it is over, and grows no more
        """
        sequence.update_hashes()
        grows = not early and self._grows(sequence)
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
        if len(lost) and sequence.lost_stores < MAX_LOST:
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
