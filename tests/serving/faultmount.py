# SPDX-License-Identifier: Apache-2.0
"""The fault mount (tests/faultmount/faultmount.c, where its grammar stands) for Python tests.

Responsible for starting and ending it and for talking to it. Must not know what a test
is about. The one idea: what talks to it is a path, so that it goes into a life as well.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TUTTI_BUILD", ROOT / "build"))
PROGRAM = BUILD / "tests" / "faultmount" / "faultmount"


@dataclass(frozen=True)
class Faults:
    """The control of a mount, its rules being about a pool's members.

    point: the mountpoint; backing: the folder that it shows; pool: a folder of these
    """

    point: Path
    backing: Path
    pool: str = "*"

    def of(self, pool: str) -> "Faults":
        return Faults(self.point, self.backing, pool)

    @property
    def folder(self) -> Path:
        """The pool's, on the mount."""
        return self.point / self.pool

    def say(self, line: str) -> None:
        with (self.point / ".faults").open("wb", buffering=0) as control:
            control.write(line.encode())

    def report(self) -> list[str]:
        return (self.point / ".faults").read_text().splitlines()

    def rule(self, text: str) -> int:
        """Give it a rule ("read:hold:count=1"); returns its number."""
        self.say(f"{text}:file={self.pool}/*.tutti")
        return int(self.report()[-1].split()[1])

    def lift(self) -> None:
        self.say("lift")

    def count(self, rule: int, word: str) -> int:
        """What a rule has counted: "seen", "acted" or "waiting"."""
        line = next(line for line in self.report() if line.startswith(f"rule {rule} "))
        words = line.split()
        return int(words[words.index(word) + 1])


class FaultMount:
    """A context manager: a mount over a fresh folder."""

    def __init__(self, folder: Path) -> None:
        self.faults = Faults(folder / "mount", folder / "backing")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        assert PROGRAM.exists(), f"{PROGRAM} is not there: make builds it"
        self.faults.point.mkdir()
        self.faults.backing.mkdir()
        self.process = subprocess.Popen([PROGRAM, self.faults.backing, self.faults.point])
        while not (self.faults.point / ".faults").exists():
            status = self.process.poll()
            if status == 77:
                pytest.skip("FUSE mounts are not permitted here: run as root, with /dev/fuse")
            assert status is None, f"faultmount ended with status {status}"
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
