#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a command costs the thread of engine "nvme", from IOCB to completion word.

    command_cost.py PROGRAM [RESULT.json]

Runs bench/nvme under callgrind with two and with four rounds: what lies between
them is without the start. Instructions of member.c:run, callees included, but
for the drive's; they repeat within a few in a hundred and have a bound. Times
are of a third run, CPU time of the thread, and have none: this machine's noise
is not the engine's. Beside them stand those of the lane alone, and of libvfn for
what it does of that (https://github.com/SamsungDS/libvfn, commit c2acee36bf05,
-O2, doorbells once for 64 commands, six mappings): nvme_rq_acquire(), the
address by iommu_translate_vaddr(), nvme_rq_map_prp() or nvme_rq_mapv_prp() for
two pieces, nvme_rq_post(); nvme_cq_get_cqe(), status, nvme_rq_release(). It has
no deadline, no limit of its lists or of a transfer's size, and no offset. With a
second argument all of it is written there.

Seen to fail with sentences that each good command makes room for (fence_note()
as it was: 126 instructions more).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# (bytes, positions of an IOCB) and the most instructions of a command
BOUNDS = {(4096, 256): 1600, (65536, 256): 2200}
ALONE = (4096, 1)
LIBVFN = {4096: 692, 65536: 1410}


def run(program: str, shape: tuple[int, int], rounds: int) -> dict[str, object]:
    """Time a run; what the program said."""
    command = [program, str(shape[0]), str(shape[1]), str(rounds)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(said))


def number(listing: str, pattern: str) -> int:
    """Find the count that a pattern stands for."""
    found = re.search(pattern, listing, re.MULTILINE)
    if not found:
        raise SystemExit(f"{pattern}: not in callgrind's listing: the test is void")
    return int(found.group(1).replace(",", ""))


def counted(program: str, shape: tuple[int, int], rounds: int) -> tuple[int, int, int]:
    """Count the engine's instructions without the drive's, the lane's, and commands, of a run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command = [*tool, program, str(shape[0]), str(shape[1]), str(rounds)]
        said = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
        show = ["callgrind_annotate", "--inclusive=yes", "--auto=no", "--threshold=100"]
        command = [*show, "--tree=calling", str(out)]
        listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    # The tree has a line with a star for each function, behind it those with ">" that it calls.
    engine = number(listing, r"^\s*([\d,]+)\s.*\*\s.*member\.c:run\b")
    drive = number(
        listing,
        r"\*\s.*:__wrap_nvme_lane_collect\b(?:.*\n)*?\s*([\d,]+)\s.*>.*:drive_works\b",
    )
    lane = sum(
        number(listing, rf"^\s*([\d,]+)\s.*\*\s.*lane\.c:{name}\b")
        for name in ("nvme_lane_submit", "nvme_lane_collect")
    )
    return engine - drive, lane, int(json.loads(said)["commands"])


def per_command(program: str, shape: tuple[int, int]) -> tuple[float, float]:
    """Count instructions of a command, and those of them in the lane."""
    short, long = counted(program, shape, 2), counted(program, shape, 4)
    commands = long[2] - short[2]
    return (long[0] - short[0]) / commands, (long[1] - short[1]) / commands


def main() -> int:
    program = sys.argv[1]
    failed = 0
    result = []
    for shape in (*BOUNDS, ALONE):
        instructions, lane = per_command(program, shape)
        timed = run(program, shape, 40)
        ns = timed["ns"]
        assert isinstance(ns, list)
        rate = 1e3 / ns[1]
        bound = BOUNDS.get(shape)
        print(
            f"{shape[0]:6} bytes, {shape[1]:3} commands an IOCB: {instructions:.0f} instructions"
            f" (bound {bound}), {lane:.0f} of them in the lane (libvfn {LIBVFN[shape[0]]});"
            f" {ns[0]:.0f} / {ns[1]:.0f} / {ns[2]:.0f} ns,"
            f" {rate:.2f} M commands/s a thread"
        )
        failed += bound is not None and instructions > bound
        result.append(
            {
                **timed,
                "instructions": round(instructions),
                "in_the_lane": round(lane),
                "libvfn": LIBVFN[shape[0]],
                "M_commands_per_s": round(rate, 2),
            }
        )
    if len(sys.argv) > 2:
        about = {
            "command": "tests/unit/nvme/command_cost.py build/tests/unit/nvme/bench_nvme FILE",
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "ns": "min, median, max of rounds; CPU time of the engine's thread",
        }
        Path(sys.argv[2]).write_text(json.dumps({**about, "results": result}, indent=2) + "\n")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
