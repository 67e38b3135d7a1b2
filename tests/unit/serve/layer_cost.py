#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The caller's work per layer does not grow with the prefix (evidence, row 2).

Runs layer_cost under callgrind with 8K and 1M tokens (64-token blocks) and
compares the instructions, callees included, of the functions that the caller's
thread runs once per layer. Counts repeat exactly; the bar is 1.05.
Seen to fail with a loop over the blocks put into issue_step().
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PER_LAYER = ("issue_step", "collect_step")
BAR = 1.05


def instructions(program: str, tokens: int) -> int:
    """Inclusive instructions of PER_LAYER over one retrieve of that many tokens."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={out}",
                program,
                str(tokens // 64),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        listing = subprocess.run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    total = 0
    for name in PER_LAYER:
        found = re.search(rf"^\s*([\d,]+)\s.*:{name}\b", listing, re.MULTILINE)
        if not found:
            raise SystemExit(f"{name} is not in callgrind's listing: the test is void")
        total += int(found.group(1).replace(",", ""))
    return total


def main() -> int:
    program = sys.argv[1]
    short, long = instructions(program, 8192), instructions(program, 1 << 20)
    ratio = long / short
    print(f"instructions per retrieve of 32 layers: 8K tokens {short}, 1M tokens {long}")
    print(f"ratio {ratio:.3f} (bar {BAR})")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
