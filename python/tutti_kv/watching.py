# SPDX-License-Identifier: Apache-2.0
"""What is looked at beside serving: the pool's switch, members' fences, and what is to be flushed.

Responsible for asking file systems from threads that nothing waits for. Must not know plans,
requests or sessions. The one idea: to look may take for ever, where the file system of the
pool's home or a member hangs; so what was seen last is an attribute, and vLLM's threads read that.
"""

import logging
import threading
import time

from tutti_kv import _tutti
from tutti_kv.bell import Bell

logger = logging.getLogger("vllm.tutti_kv.worker")

LOOK_EVERY = 1.0
FLUSH_EVERY = 5.0
# So often a drive that warns is told of, as long as it does.
HEALTH_EVERY = 60.0
# So long who throws the pool's switch waits for the file: a process may end right after.
THROW_PATIENCE = 1.0


class Switch:
    """The pool's kill switch; one per half.

    thrown: why the pool is off, or None; only its own thread looks
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self.thrown: str | None = None
        self._over = threading.Event()

    def watch(self) -> None:
        """From now on; where nothing is served yet the first look may be waited for."""
        self.look()
        threading.Thread(target=self._run, name="tutti-switch", daemon=True).start()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self.look()

    def look(self) -> None:
        self.thrown = _tutti.disabled(self._home)

    def throw(self, why: str) -> None:
        """Have it thrown; bounded. Any thread."""
        thrower = threading.Thread(target=self._throw, args=(why,), daemon=True)
        thrower.start()
        thrower.join(THROW_PATIENCE)

    def _throw(self, why: str) -> None:
        try:
            _tutti.disable(self._home, why)
        except Exception:
            logger.exception("Tutti: %s can't be disabled", self._home)

    def close(self) -> None:
        """Nobody looks any more."""
        self._over.set()


class MemberWatch:
    """One rank's members: in step with their switches, and flushed, which bounds what a power
    loss forgets. Its thread uses the library beside vLLM's, and so must end before that is closed.
    """

    def __init__(
        self, opened: tuple[_tutti.Serve, _tutti.Pool], rank: int, home: str, bell: Bell
    ) -> None:
        self._serve, self._pool = opened
        self._rank, self._home, self._bell = rank, home, bell
        self._written = threading.Event()
        self._over = threading.Event()
        self._warned: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="tutti-members", daemon=True)
        self._thread.start()

    def written(self) -> None:
        """There is something to flush."""
        self._written.set()

    def _run(self) -> None:
        flushed = time.monotonic()
        fenced = 0
        while not self._over.wait(LOOK_EVERY):
            before, fenced = fenced, self._serve.watch_members()
            if fenced != before:
                self._bell.ring()
                self._tell(before, fenced)
            self._tell_health()
            if self._written.is_set() and time.monotonic() - flushed >= FLUSH_EVERY:
                flushed = time.monotonic()
                self._written.clear()
                try:
                    self._pool.flush()
                except OSError:
                    logger.exception("Tutti: rank %d can't flush its members", self._rank)

    def _tell(self, before: int, fenced: int) -> None:
        for number, state in enumerate(self._serve.member_states()):
            if (before ^ fenced) >> number & 1 == 0:
                continue
            if state["fenced"]:
                logger.error(
                    "Tutti: member %d of rank %d is given no more commands: %s; the others serve "
                    "on (tutti enable %s --rank %d --member %d brings it back)",
                    number,
                    self._rank,
                    state["reason"],
                    self._home,
                    self._rank,
                    number,
                )
            else:
                logger.warning("Tutti: member %d of rank %d is back", number, self._rank)

    def _tell_health(self) -> None:
        """What drives warn of: at once, and then once a minute until it is over."""
        now = time.monotonic()
        for number, health in enumerate(self._pool.member_health()):
            told = self._warned.get(number)
            if health is None or not health["warns"]:
                if self._warned.pop(number, None) is not None:
                    logger.warning("Tutti: member %d of rank %d warns no more", number, self._rank)
            elif told is None or now - told >= HEALTH_EVERY:
                self._warned[number] = now
                logger.warning(
                    "Tutti: member %d of rank %d says of its drive: %s; move what is on it, and "
                    "replace it",
                    number,
                    self._rank,
                    health["text"],
                )

    def end(self) -> None:
        """Nothing new is begun."""
        self._over.set()

    def ended(self, patience: float) -> bool:
        """Wait so long; whether the thread has let go of the library."""
        self._thread.join(patience)
        return not self._thread.is_alive()
