# SPDX-License-Identifier: Apache-2.0
"""What is said of the scheduler's half: why nothing hits, what a request went through.

Responsible for the log, for gauges and for the figures with a reason. Must not decide anything. The
one idea: each reason is said once when it first holds, counted always, and summed up once
a minute while nothing is stored or read back; a request's own story is told at DEBUG.
"""

import logging
import time
from collections import Counter

from tutti_kv._tutti import Directory
from tutti_kv.metrics import TuttiStats

logger = logging.getLogger("vllm.tutti_kv")

LINE_EVERY = 60.0
GAUGE_EVERY = 1.0


class Telling:
    """One per engine."""

    def __init__(self, stats: TuttiStats) -> None:
        self._stats = stats
        self._said: set[str] = set()
        self._line_at = time.monotonic()
        self._quiet = True
        self._why: Counter[str] = Counter()
        self._serving: bool | None = None
        self._switch: str | None = None
        self._gauged_at = 0.0
        self._evicted = self._refused = 0

    def moved(self) -> None:
        """Something is stored or read back."""
        self._quiet = False

    def why(self, reason: str) -> None:
        """A reason why nothing was stored or read back just now."""
        self._why[reason] += 1

    def refused(self, label: str, reason: str) -> None:
        """A request can't hit: counted by label, said once for each reason."""
        self._stats.add("refused_requests", reason=label)
        if reason not in self._said:
            self._said.add(reason)
            logger.info("Tutti: a request can't hit: %s (said once)", reason)

    def minute(self, standing: str | None) -> None:
        """The one line a minute. standing: what is against everything now."""
        now = time.monotonic()
        if now - self._line_at < LINE_EVERY:
            return
        self._line_at = now
        if self._quiet:
            reasons = [standing] if standing else []
            reasons += [f"{why} ({count})" for why, count in self._why.most_common(3)]
            logger.info(
                "Tutti: nothing stored or read back: %s",
                "; ".join(reasons or ["no block was filled"]),
            )
        self._quiet = True
        self._why.clear()

    def serving(self, serving: bool) -> None:
        """Whether requests are looked up and stored."""
        if self._serving != serving:
            self._serving = serving
            self._stats.set("serving", int(serving))

    def switch(self, home: str, thrown: str | None) -> None:
        """The pool's switch as it is now."""
        if self._switch != thrown:
            self._switch = thrown
            state = f"disabled: {thrown}" if thrown is not None else "enabled again"
            logger.warning("Tutti: pool %s is %s", home, state)

    def gauges(self, directory: Directory, epoch: int) -> None:
        """Once a second: what the pool holds, and what the directory has counted since."""
        now = time.monotonic()
        if now - self._gauged_at < GAUGE_EVERY:
            return
        self._gauged_at = now
        stats = directory.stats()
        self._stats.add("evicted_slots", stats["evicted"] - self._evicted)
        refused = stats["refused"] - self._refused
        self._stats.add("store_dropped", refused, rank="", reason="no place")
        self._evicted, self._refused = stats["evicted"], stats["refused"]
        for state in ("visible", "free", "pinned", "foreign"):
            self._stats.set("slots", stats.get(state, 0), state=state)
        self._stats.set("epoch", epoch)

    @staticmethod
    def story(request: str, text: str, *arguments: object) -> None:
        """One sentence of a request's story."""
        logger.debug(f"Tutti: request %s: {text}", request, *arguments)
