# SPDX-License-Identifier: Apache-2.0
"""How the scheduler's half knows between two steps that a worker has news.

Responsible for one number that a worker counts up and the scheduler's half reads. Must not
know what the news is: that comes with the next step's report, which says how many rings it
covers. The one idea: an idle engine takes no steps, so what a worker finds meanwhile would be
told after the next request was looked up; who has heard the bell lets the request wait for
one step.

The number lies in memory without a name; a process of the same user on the same machine opens
it by the worker's descriptor. Where that is not possible the bell is not heard, and news come
a step late.
"""

import contextlib
import mmap
import os
import struct
import threading

_NUMBER = struct.Struct("Q")  # native: one store, so whole for who reads it


class Bell:
    """The worker's end. Any thread may ring."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("tutti-bell"), "r+b", buffering=0)
        self._file.truncate(mmap.PAGESIZE)
        self._page = mmap.mmap(self._file.fileno(), mmap.PAGESIZE)
        self._lock = threading.Lock()
        self.rung = 0
        self.path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def ring(self) -> None:
        """There is news, and whoever gathers a report from now on has it."""
        with self._lock:
            self.rung += 1
            _NUMBER.pack_into(self._page, 0, self.rung)

    def close(self) -> None:
        """Nobody rings any more."""
        self._page.close()
        self._file.close()


class Ears:
    """The scheduler's end: the bells of all ranks."""

    def __init__(self, paths: dict[int, str]) -> None:
        self._pages: dict[int, mmap.mmap] = {}
        self._covered = dict.fromkeys(paths, 0)
        for rank, path in paths.items():
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self._pages[rank] = mmap.mmap(file, mmap.PAGESIZE, prot=mmap.PROT_READ)
                finally:
                    os.close(file)

    def covered(self, rank: int, rung: int) -> None:
        """A report has told what these rings were about."""
        self._covered[rank] = max(self._covered.get(rank, 0), rung)

    def news(self) -> bool:
        """Whether a worker has something that no report has told yet."""
        return any(
            _NUMBER.unpack_from(page, 0)[0] > self._covered[rank]
            for rank, page in self._pages.items()
        )
