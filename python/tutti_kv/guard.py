# SPDX-License-Identifier: Apache-2.0
"""A bug of ours ends Tutti, not the server.

Responsible for turning it off, in this process and by the pool's switch. Must not know what the
calls do. The one idea: each call comes with the answer that is safe where it fails, and after the
first failure nothing is believed any more.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from tutti_kv.watching import Switch

logger = logging.getLogger("vllm.tutti_kv")

T = TypeVar("T")


class Guard:
    """Of the scheduler's half. off: told once, with a reason."""

    def __init__(self, switch: Switch, off: Callable[[str], None]) -> None:
        self._switch = switch
        self._off = off
        self.tripped = False

    def __call__(self, otherwise: Callable[[], T], call: Callable[..., T], *arguments: Any) -> T:
        """Call it. What is raised turns Tutti off; `otherwise` is then the safe answer."""
        try:
            return call(*arguments)
        except Exception as error:
            if not self.tripped:  # what comes after the first follows from it
                logger.exception("Tutti: a bug; nothing is looked up or stored any more")
            self.trip(f"{type(error).__name__}: {error}")
        return otherwise()

    def trip(self, why: str) -> None:
        """Lookups miss and stores stop from now on; loads under way end as they would."""
        if self.tripped:
            return
        self.tripped = True
        reason = f"a bug: {why}"
        self._off(reason)
        self._switch.throw(reason)
