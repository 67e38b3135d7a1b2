# SPDX-License-Identifier: Apache-2.0
"""What stands in for a worker's half in which something unexpected was raised.

Responsible for ending, as failed, what vLLM waits for, so that the server serves on without
the pool. Must not know why, nor trust anything but the list of what is owed. The one idea: a
load whose state is unknown has failed; one whose read was not seen to end keeps its blocks.

It answers as the worker's half does. Should it fail as well, the step fails: that is the
last resort, for wrong bytes would be worse.
"""

import contextlib
import ctypes
import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutti_kv import _tutti
from tutti_kv.metadata import Handshake, Load, Plan, RankReport, Report, no_blocks
from tutti_kv.metrics import TuttiStats

logger = logging.getLogger("vllm.tutti_kv.worker")

# A read that was cancelled gets so long to end before its blocks are set aside.
CANCEL_PATIENCE = 5.0

Session = _tutti.Retrieve


def keep_for_ever(*things: object) -> None:
    """Never freed: to close them would wait for the disk, at the interpreter's end too."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Salvage:
    """One rank's rest.

    owed: loads that vLLM has not heard the end of; begun: those that the library may know
    loads: sessions of those, by request; held: blocks set aside before, and their sessions
    stores: number -> (slots, session)
    """

    def __init__(
        self,
        rank: int,
        why: str,
        *,
        owed: dict[str, Load],
        begun: set[str],
        loads: dict[str, Session],
        held: list[tuple[NDArray[np.uint32], Session]],
        stores: dict[int, tuple[int, _tutti.Store]],
        invalid: set[int],
        stats: TuttiStats,
        plan: Plan | None,
        epoch: int,
        failure: int,
        engine: tuple[_tutti.Serve | None, _tutti.Pool | None],
    ) -> None:
        self._rank, self._why = rank, why
        self._owed, self._begun, self._loads = dict(owed), set(begun), dict(loads)
        self._held: list[tuple[NDArray[np.uint32], Session | None]] = list(held)
        self._stored = {number: np.zeros(count, np.uint8) for number, (count, _) in stores.items()}
        self._invalid = set(invalid)
        self._stats, self._plan = stats, plan
        self._epoch, self._failure = epoch, failure
        self._engine = engine
        self._until = time.monotonic() + CANCEL_PATIENCE
        for load in self._loads.values():
            with contextlib.suppress(Exception):
                load.cancel()
        for _, store in stores.values():
            with contextlib.suppress(Exception):
                store.cancel()  # and then it writes no record

    def register(self, kv_caches: dict[str, Any]) -> None:
        pass

    def handshake(self) -> Handshake | None:
        return Handshake(self._rank, refusal=self._why)

    def prepare(self, plan: Plan) -> None:
        pass

    def bind(self, plan: Plan) -> None:
        self._plan = plan
        self._owed.update((load.request, load) for load in plan.loads)

    def unbind(self) -> None:
        self._plan = None

    def wait_for_layer(self, name: str) -> None:
        pass

    def step_ended(self) -> None:
        pass

    @staticmethod
    def _ended(session: Session | None, patience: float) -> bool:
        """Seen to have ended, and let go of."""
        if session is None:
            return False
        try:
            if not session.wait(max(patience, 0.0)):
                return False
            session.end()
        except Exception:
            return False
        return True

    def poll_loads(self) -> tuple[set[str], set[str]]:
        """As the worker's half: requests whose loads are over, and those to leave their blocks."""
        finished: set[str] = set()
        failed: set[str] = set()
        for name, load in list(self._owed.items()):
            session = self._loads.get(name)
            late = time.monotonic() >= self._until
            patience = self._until - time.monotonic() if load.in_step else 0.0
            over = name not in self._begun or self._ended(session, patience)
            if not over and not load.in_step and not late:
                continue
            if not over:
                self._held.append((load.items["block"], session))
            if not load.in_step:
                finished.add(name)
                failed |= set() if over else {name}
            self._invalid.update(load.items["block"].tolist())
            self._failure += 1
            del self._owed[name]
        return finished, failed

    def take_invalid_blocks(self) -> set[int]:
        invalid, self._invalid = self._invalid, set()
        return invalid

    def report(self) -> Report | None:
        plan = self._plan
        if plan is None:
            return None
        stored, self._stored = self._stored, {}
        for store in plan.stores:
            stored[store.number] = np.zeros(len(store.items), np.uint8)
        self._held = [one for one in self._held if not self._ended(one[1], 0.0)]
        held = [blocks for blocks, _ in self._held]
        news = RankReport(plan.step, self._epoch, self._failure, stored)
        news.held = np.concatenate(held) if held else no_blocks()
        news.broken = self._why
        return Report({self._rank: news})

    def take_stats(self) -> TuttiStats | None:
        return self._stats.take()

    def close(self) -> None:
        """Nothing is known to have ended: the process's end closes all of it."""
        keep_for_ever(*self._engine)
