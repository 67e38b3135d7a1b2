# SPDX-License-Identifier: Apache-2.0
"""What one rank's library has counted, as figures.

Responsible for the library's names of them. Must not know when it is asked. The one idea: the
library's counters only grow, so what they have grown by is added; gauges are set once a second.
"""

import time

from tutti_kv import _tutti
from tutti_kv.metrics import TuttiStats

GAUGE_EVERY = 1.0
# The library's counters and our names for them.
_COUNTERS = {
    "verify_failures": "verify_failures",
    "io_errors": "io_errors",
    "retries": "io_retries",
    "staged_bytes": "staged_bytes",
}


class Counting:
    """One per worker."""

    def __init__(self, rank: int, stats: TuttiStats) -> None:
        self._rank = rank
        self._stats = stats
        self._counted: dict[str, int] = {}
        self._gauged_at = 0.0

    def count(self, serve: _tutti.Serve) -> None:
        """Add what was counted since the last time."""
        counters = serve.counters()
        for theirs, ours in _COUNTERS.items():
            grown = counters[theirs] - self._counted.get(theirs, 0)
            self._stats.add(ours, grown, rank=self._rank)
        self._counted = counters

    def gauges_are_due(self) -> bool:
        """Once a second."""
        due = time.monotonic() - self._gauged_at >= GAUGE_EVERY
        if due:
            self._gauged_at = time.monotonic()
        return due

    def _gauge_health(self, pool: _tutti.Pool) -> None:
        """Set what drives of ours say of themselves."""
        for number, health in enumerate(pool.member_health()):
            if health is None:
                continue
            of = {"rank": self._rank, "member": number}
            self._stats.set("drive_warns", int(health["warns"]), **of)
            self._stats.set("drive_used_percent", health["used"], **of)
            self._stats.set("drive_spare_percent", health["spare_left"], **of)
            self._stats.set("drive_media_errors", health["media_errors"], **of)
            if health["celsius"] is not None:
                self._stats.set("drive_celsius", health["celsius"], **of)

    def gauge_members(self, serve: _tutti.Serve, pool: _tutti.Pool | None) -> None:
        """Set what holds of members now."""
        if pool is not None:
            self._gauge_health(pool)
        states = serve.member_states()
        fenced = sum(state["fenced"] for state in states)
        self._stats.set("members", len(states) - fenced, rank=self._rank, state="ok")
        self._stats.set("members", fenced, rank=self._rank, state="fenced")
        for state, size in (
            ("taken", sum(member["staging_taken"] for member in states)),
            ("most", sum(member["staging_most"] for member in states)),
            ("bound", sum(member["staging_bytes"] for member in states)),
        ):
            self._stats.set("staging_bytes", size, rank=self._rank, state=state)
