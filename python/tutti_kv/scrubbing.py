# SPDX-License-Identifier: Apache-2.0
"""Verifying what lies cold on one rank's members, beside serving.

Responsible for when the library's scrub gets its turn, and for what it found. Must not know
requests or the directory: a slot that does not verify is handed on, and whoever has the
directory drops it. The one idea: the library is for one thread at a time, so the worker's
thread scrubs at the end of a step, a thread of our own does while there is none, and both
hold the turn, which every callback of vLLM takes too. Ours takes it only when it is free,
and for one piece: microseconds, for nothing in it waits.

The library keeps to the rate and issues nothing while a load or a store is under way. What
is small is not gone through again and again: a round is begun an hour after the last one.
"""

import logging
import random
import threading
import time
from collections.abc import Callable

from tutti_kv import _tutti
from tutti_kv.bell import Bell
from tutti_kv.metrics import TuttiStats

logger = logging.getLogger("vllm.tutti_kv.worker")

PIECE = 1 << 20  # the most that one turn reads
TICK = 0.05
ROUND_EVERY = 3600.0


class Scrubbing:
    """One per rank.

    turn: held by whoever calls the library; idle: whether no step is under way
    found: takes slots that do not verify, with the turn held
    """

    def __init__(
        self,
        opened: tuple[_tutti.Serve, _tutti.Pool],
        rate: int,
        rank: int,
        turn: threading.Lock,
        bell: Bell,
        idle: Callable[[], bool],
        found: Callable[[_tutti.Transfers], None],
    ) -> None:
        serve, pool = opened
        self._rank, self._turn, self._bell = rank, turn, bell
        self._idle, self._found = idle, found
        # anywhere, so that a server that is restarted often gets to all of it
        start = random.choice(pool.placement().extent_starts())
        self._scrub: _tutti.Scrub | None = serve.scrub(rate=rate, cursor=start)
        self._told = self._round = self._scrub.report()
        self._next = 2  # what the first round left out at its beginning, the second has
        self._rest_until, self._round_began = 0.0, time.monotonic()
        self._tick = min(TICK, PIECE / rate)
        self._over = threading.Event()
        threading.Thread(target=self._run, name="tutti-scrub", daemon=True).start()

    def _run(self) -> None:
        while not self._over.wait(self._tick):
            if self._idle() and self._turn.acquire(blocking=False):
                try:
                    if self._idle() and not self._over.is_set():
                        self.step()
                finally:
                    self._turn.release()

    def step(self) -> None:
        """A piece, if it is time. The caller holds the turn."""
        if self._scrub is None or time.monotonic() < self._rest_until:
            return
        try:
            bad = self._scrub.step(time.monotonic_ns())
            if len(bad):
                self._found(bad)
                self._bell.ring()
            self._look_at_round(self._scrub.report())
        except Exception:
            logger.exception("Tutti: a bug; rank %d is scrubbed no more", self._rank)
            self._scrub = None

    def _look_at_round(self, report: dict[str, int]) -> None:
        if report["rounds"] < self._next:
            return
        began, now = self._round_began, time.monotonic()
        logger.info(
            "Tutti: rank %d: a scrub is through after %.0f s: %d slots verified, %d bad",
            self._rank,
            now - began,
            report["verified"] - self._round["verified"],
            report["bad"] - self._round["bad"],
        )
        self._rest_until = self._round_began = max(began + ROUND_EVERY, now)
        self._round, self._next = report, report["rounds"] + 1

    def count(self, stats: TuttiStats) -> None:
        """Add what was done since the last time. The caller holds the turn."""
        if self._scrub is None:
            return
        report, told = self._scrub.report(), self._told
        for result, name in (("good", "verified"), ("bad", "bad")):
            moved = report[name] - told[name]
            stats.add("scrubbed_slots", moved, rank=self._rank, result=result)
        stats.add("scrubbed_bytes", report["bytes"] - told["bytes"], rank=self._rank)
        self._told = report

    def close(self) -> None:
        """No turn is taken any more. The caller holds it."""
        self._over.set()
        self._scrub = None
