# SPDX-License-Identifier: Apache-2.0
"""Stores under way on one rank.

Responsible for beginning them, for what became of each slot, and for the fence that a step's
blocks get before they are overwritten. Must not know why something is not to be stored. The one
idea: nothing ever waits for a store but a fence, once and for a bounded time; what finds no room
or does not end is dropped, counted and reported as not written.
"""

import errno
import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutti_kv import _tutti
from tutti_kv.metadata import StorePlan
from tutti_kv.metrics import TuttiStats

logger = logging.getLogger("vllm.tutti_kv.worker")

FENCE_TIMEOUT = 5.0
# Slots of stores under way; more are dropped and counted, never waited for.
MAX_STORING = 16384
# The words of a metric's labels; any other errno is the disk's.
_REASONS = {errno.ECANCELED: "fenced", errno.ENOBUFS: "staging"}


def reasons(position: NDArray[np.uint8], words: dict[int, str]) -> Counter[str]:
    """How many positions failed, by reason."""
    return Counter(words.get(int(error), "disk") for error in position[position != 0])


@dataclass
class Storing:
    plan: StorePlan
    session: _tutti.Store


class Writing:
    """All of a rank's stores.

    slots: how many are under way; stuck: one of them outlived its fence
    """

    def __init__(self, rank: int, stats: TuttiStats) -> None:
        self._rank = rank
        self._stats = stats
        self.under_way: list[Storing] = []
        self.slots = 0
        self.stuck = False
        self._stored: dict[int, NDArray[np.uint8]] = {}

    def begin(self, serve: _tutti.Serve, store: StorePlan, layers: int, why: str | None) -> None:
        """Begin it, or drop it: why is what is against it, in the words of a metric's label."""
        count = len(store.items)
        if why is None and self.slots + count > MAX_STORING:
            why = "too many under way"
        if why is None:
            try:
                session = serve.store(
                    store.items, store.origins, layers_ready=layers, tag=store.number
                )
            except OSError as error:
                logger.warning("Tutti: a store was dropped: %s", error.strerror)
                why = "failed"
            else:
                self.under_way.append(Storing(store, session))
                self.slots += count
                return
        self._stored[store.number] = np.zeros(count, np.uint8)
        self._stats.add("store_dropped", count, rank=self._rank, reason=why)

    def fence(self, serve: _tutti.Serve, blocks: NDArray[np.uint32]) -> None:
        """They are about to be overwritten."""
        patience = 0.0 if self.stuck else FENCE_TIMEOUT
        if len(blocks) and serve.fence(blocks, patience) < 0 and not self.stuck:
            # What it still reads is overwritten; but a cancelled store writes no record.
            self.stuck = True
            logger.warning(
                "Tutti: a store did not end within %g s of its fence; nothing is stored until it "
                "has, and nothing waits for it any more",
                FENCE_TIMEOUT,
            )

    def cancel(self) -> None:
        """A store that is cancelled writes no record, whatever it still reads."""
        for storing in self.under_way:
            storing.session.cancel()

    def poll(self) -> int:
        """Look which have ended; how many slots were written."""
        still: list[Storing] = []
        written = 0
        for storing in self.under_way:
            if not storing.session.poll():
                still.append(storing)
                continue
            result = storing.session.result()
            storing.session.end()
            ok = (result.position == 0).astype(np.uint8)
            self._stored[storing.plan.number] = ok
            self.slots -= len(ok)
            good = int(ok.sum())
            written += good
            self._stats.add("stored_slots", good, rank=self._rank)
            self._stats.add("stored_bytes", result.bytes, rank=self._rank)
            for reason, slots in reasons(result.position, _REASONS).items():
                self._stats.add("store_dropped", slots, rank=self._rank, reason=reason)
        self.under_way = still
        self.stuck = self.stuck and bool(still)
        return written

    def sessions(self) -> dict[int, tuple[int, _tutti.Store]]:
        """Number -> (slots, session) of what is under way."""
        return {one.plan.number: (len(one.plan.items), one.session) for one in self.under_way}

    def take(self) -> dict[int, NDArray[np.uint8]]:
        """Of stores that ended since the last time, by number: 1 for each slot that is written."""
        stored, self._stored = self._stored, {}
        return stored
