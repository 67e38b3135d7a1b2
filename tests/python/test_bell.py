# SPDX-License-Identifier: Apache-2.0
"""A bell is heard in another process, through memory that nobody has to remove."""

import multiprocessing
from multiprocessing.connection import Connection
from threading import Thread

from tutti_kv.bell import Bell, Ears


def listen(path: str, channel: Connection) -> None:
    ears = Ears({0: path})
    channel.send(ears.news())
    while (rung := channel.recv()) is not None:
        ears.covered(0, rung)
        channel.send(ears.news())


def test_heard_in_another_process() -> None:
    bell = Bell()
    here, there = multiprocessing.get_context("spawn").Pipe()
    other = multiprocessing.get_context("spawn").Process(target=listen, args=(bell.path, there))
    other.start()
    heard = [here.recv()]
    for rings, covered in ((0, 0), (1, 0), (0, 1), (300, 1), (0, 300), (0, 301)):
        for _ in range(rings):
            bell.ring()
        here.send(covered)
        heard.append(here.recv())
    here.send(None)
    other.join()
    bell.close()
    assert heard == [False, False, True, False, True, True, False]


def test_no_ring_is_lost_between_threads() -> None:
    bell = Bell()

    def ring() -> None:
        for _ in range(1000):
            bell.ring()

    threads = [Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ears = Ears({0: bell.path})
    ears.covered(0, 3999)
    assert ears.news()
    ears.covered(0, 4000)
    ears.covered(0, 17)  # an older report comes late
    assert not ears.news()
    assert bell.rung == 4000
    bell.close()


def test_what_cannot_be_heard_is_silent() -> None:
    """A rank that refused has no bell; one whose process is gone has none that can be opened."""
    ears = Ears({0: "", 1: "/proc/1/fd/999999"})
    ears.covered(0, 5)
    assert not ears.news()
