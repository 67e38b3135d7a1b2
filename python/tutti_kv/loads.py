# SPDX-License-Identifier: Apache-2.0
"""Loads under way, as the scheduler's half sees them, and what a failed one spoils.

Responsible for pinning what was promised until its load has ended, for knowing which
blocks are being brought, and for finding every block that was computed over one that
failed. Must not know stores or the workers. The one idea: a pin is taken when blocks
are allocated and let go when vLLM has heard of the load's end, never in between.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutti_kv._tutti import TRANSFER, Directory, Transfers
from tutti_kv.metadata import Load
from tutti_kv.metrics import TuttiStats
from tutti_kv.sequence import HASH_BYTES, Sequence
from tutti_kv.telling import Telling


@dataclass(slots=True)
class Loading:
    """A load under way: what it pins (generation 0: nothing) and what it brings."""

    sequence: Sequence
    slot: int
    generation: int
    first: int  # place of its first block in the chain
    tokens: int
    began: float
    in_step: bool
    step: int
    blocks: NDArray[np.uint32]
    hashes: list[bytes]
    failed: bool = False


class Loads:
    """All of an engine's loads, by request."""

    def __init__(self, block_tokens: int, stats: TuttiStats, patience: float) -> None:
        self._block_tokens = block_tokens
        self._stats = stats
        self._patience = patience  # seconds that others wait for a load
        self._under_way: dict[str, Loading] = {}
        self._brought: dict[bytes, float] = {}  # by preloads, and since when
        self._waiting: list[Load] = []
        # step -> block tables of its requests, for steps with or after a load in step
        self._tables: dict[int, dict[str, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, request: str) -> bool:
        return request in self._under_way

    def brings(self, block_hash: bytes) -> bool:
        """Whether a preload is bringing that block, and may still be waited for."""
        since = self._brought.get(block_hash)
        return since is not None and time.monotonic() - since < self._patience

    def unproven(self, block_hashes: Sequence_[bytes], local: int) -> bool:
        """Whether a local hit of so many blocks has blocks of a load in step among them.

        vLLM caches them when it gives them out, and lets others compute over them though the
        load may fail; whoever waits until the step is processed finds them right or gone.
        """
        return any(
            load.in_step
            and load.first < local
            and bytes(block_hashes[load.first]) == load.hashes[0]
            for load in self._under_way.values()
        )

    def plan(
        self,
        directory: Directory | None,
        sequence: Sequence,
        table: list[int],
        tokens: int,
        step: int,
    ) -> list[int]:
        """Pin what was promised and plan to load it; returns the blocks that will be overwritten.

        table: the engine's numbers of the request's blocks, all of them
        tokens: how many are to be loaded, behind those that vLLM had when it asked
        step: the step that will carry the plan
        """
        first = sequence.asked // self._block_tokens
        last = first + tokens // self._block_tokens
        items = None if directory is None else self._pin(directory, sequence, first, last)
        return self._begin(sequence, table, tokens, step, items)

    def fail(self, sequence: Sequence, table: list[int], tokens: int, step: int) -> list[int]:
        """As plan(), where nothing can be planned: the workers report the blocks as failed."""
        name = sequence.request.request_id
        self._waiting = [load for load in self._waiting if load.request != name]
        return self._begin(sequence, table, tokens, step, None)

    def _begin(
        self, sequence: Sequence, table: list[int], tokens: int, step: int, pinned: Transfers | None
    ) -> list[int]:
        name = sequence.request.request_id
        first = sequence.asked // self._block_tokens
        last = first + tokens // self._block_tokens
        # promised and gone: a load of no generation fails, and vLLM computes
        items = pinned if pinned is not None else np.zeros(last - first, TRANSFER)
        items["block"] = table[first:last]
        hashes = [bytes(block_hash) for block_hash in sequence.request.block_hashes[first:last]]
        self._under_way[name] = Loading(
            sequence=sequence,
            slot=int(items["slot"][-1]),
            generation=int(items["generation"][-1]) if pinned is not None else 0,
            first=first,
            tokens=tokens,
            began=time.monotonic(),
            in_step=sequence.in_step,
            step=step,
            blocks=items["block"],
            hashes=hashes,
        )
        if not sequence.in_step:
            self._brought.update(dict.fromkeys(hashes, time.monotonic()))
        self._waiting.append(Load(name, items, sequence.in_step, sequence.adapter))
        return table[first:]

    @staticmethod
    def _pin(directory: Directory, sequence: Sequence, first: int, last: int) -> Transfers | None:
        match = directory.find(sequence.hashes, HASH_BYTES, last)
        return directory.pin(match, first) if match.blocks == last else None

    def take(self) -> list[Load]:
        """What was planned since the last time, for the workers."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def ended(self, directory: Directory | None, name: str) -> bool:
        """vLLM knows that a load is over: let go of what it pinned."""
        load = self._under_way.pop(name, None)
        if load is None:
            return False
        if not load.in_step:
            for block_hash in load.hashes:
                self._brought.pop(block_hash, None)
        seconds = time.monotonic() - load.began
        if not load.failed:
            self._stats.add("load_tokens", load.tokens)
        self._stats.add("load_seconds", seconds)
        Telling.story(
            name,
            "%s %d tokens in %d slots after %.1f ms",
            "could not load" if load.failed else "loaded",
            load.tokens,
            len(load.hashes),
            seconds * 1e3,
        )
        if load.generation and directory is not None:
            directory.unpin(load.slot, load.generation)
        return True

    # ---- what a failed load in step spoils -------------------------------------------

    def watch(self, step: int, tables: Callable[[], dict[str, list[int]]]) -> None:
        """Remember who is computed over what, in steps that loads may still spoil."""
        if any(load.in_step for load in self._under_way.values()):
            self._tables[step] = tables()

    def processed(self, step: int) -> list[str]:
        """A step's output is processed; returns the requests whose in-step loads ended by it."""
        for old in [s for s in self._tables if s <= step]:
            del self._tables[old]
        return [n for n, load in self._under_way.items() if load.in_step and load.step <= step]

    def spoilt(self, invalid: set[int]) -> set[int]:
        """Failed blocks and all that lie behind them in any table of a watched step.

        vLLM looks at requests that run; one that was aborted or preempted since the step was
        planned is seen by nobody but us. Also counts the failure against its request.
        """
        blocks = np.fromiter(invalid, np.uint32)
        for load in self._under_way.values():
            if not load.failed and np.isin(load.blocks, blocks).any():
                load.failed = True
                load.sequence.failed_loads += 1
        spoilt: set[int] = set()
        for tables in self._tables.values():
            for table in tables.values():
                bad = next((i for i, block in enumerate(table) if block in invalid), None)
                if bad is not None:
                    spoilt.update(table[bad:])
        return spoilt
