# SPDX-License-Identifier: Apache-2.0
"""Shows what takes long while it does: a spinner on a terminal, a line every few seconds in a log.

Responsible for: how steps look. Must not know: what the steps are.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

EVERY_S = 10.0


class Step:
    """One long step; `note` says what it is at just now, `done` what it came to."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.now = ""
        self.result = ""
        self.begin = time.monotonic()

    def note(self, now: str) -> None:
        self.now = now

    def done(self, result: str) -> None:
        self.result = result

    def line(self) -> str:
        seconds = time.monotonic() - self.begin
        tail = f"  {self.now}" if self.now else ""
        return f"{self.text} ({seconds:.0f} s){tail}"


class Progress:
    """Prints steps to a console, one after the other."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Shows a step while the block runs, and one line with its time at the end."""
        step = Step(text)
        end = threading.Event()
        thread = threading.Thread(target=self.watch, args=(step, end), daemon=True)
        thread.start()
        mark = "[red]failed[/red] "
        try:
            yield step
            mark = ""
        finally:
            end.set()
            thread.join()
            seconds = time.monotonic() - step.begin
            result = f": {step.result}" if step.result else ""
            self.console.print(f"  {mark}{text}{result} ({seconds:.1f} s)", highlight=False)

    def watch(self, step: Step, end: threading.Event) -> None:
        if self.console.is_terminal:
            width = max(20, self.console.width - 4)
            with self.console.status(step.text) as status:
                while not end.wait(0.2):
                    status.update(step.line()[:width])
            return
        while not end.wait(EVERY_S):
            self.console.print(f"    ... {step.line()}"[:160], highlight=False, markup=False)
