#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets of a build folder; one line a target, "ok" or "failed" first.

Each target replays its corpus and the inputs that once found a defect, then fuzzes for the seconds
given; two targets side by side, each on one core. What it finds on the way stays in BUILD/corpus,
so that later runs go on from there. A crash fails, and so does a target that executed nothing.

    tests/fuzz/run.py build-fuzz --seconds 600 --target serving
    tests/fuzz/run.py build-fuzz --keep     # what BUILD/corpus has learned, into tests/fuzz/corpus
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

JOBS = 2
HERE = Path(__file__).resolve().parent
TARGETS = {  # longest input, bytes
    "superblock": 8300,
    "record": 300,
    "configuration": 250,
    "ring": 200,
    "serving": 250,
}
# An input holds many of them.
PARSED = {"record": "records", "ring": "entries"}


def seeds(target: str) -> list[Path]:
    """Folders of inputs that are in the repository."""
    folders = [HERE / "corpus" / target, HERE / "regressions" / target]
    return [folder for folder in folders if folder.is_dir()]


def fuzz(build: Path, target: str, seconds: int) -> bool:
    """Replay, then fuzz. Return: whether all was well."""
    learned = build / "corpus" / target
    log = build / f"fuzz-{target}.txt"
    learned.mkdir(parents=True, exist_ok=True)
    command = [
        str(build / "tests/fuzz" / target),
        f"-max_len={TARGETS[target]}",
        "-len_control=0",
        "-entropic=0",  # its bookkeeping takes half the time of a small target
        "-timeout=60",
        "-print_final_stats=1",
        f"-artifact_prefix={build}/crash-{target}-",
    ]
    replayed = [path for folder in seeds(target) for path in sorted(folder.iterdir())]
    status = 0
    with log.open("wb") as out:
        if replayed:
            status = subprocess.run(
                [*command, *map(str, replayed)], stdout=out, stderr=out, check=False
            ).returncode
        began = time.monotonic()
        if status == 0:
            status = subprocess.run(
                [*command, f"-max_total_time={seconds}", str(learned), *map(str, seeds(target))],
                stdout=out,
                stderr=out,
                check=False,
            ).returncode
        took = time.monotonic() - began
    text = log.read_text(errors="replace")
    found = re.findall(r"number_of_executed_units: (\d+)", text)
    executed = int(found[-1]) if found else 0
    if status or executed == 0:
        said = [line for line in text.splitlines() if re.search("not so|SUMMARY|written to", line)]
        print(f"failed {target}: status {status}, {executed} executions; see {log}")
        print(*said, sep="\n", flush=True)
        return False
    parsed = max(int(re.findall(r"stat::parsed: (\d+)", text)[-1]), executed)
    print(
        f"ok {target}: {len(replayed)} inputs replayed, {executed:,} executions in {took:.0f} s, "
        f"{executed / took * 3600:,.0f} an hour; {PARSED.get(target, 'inputs')}: {parsed:,}, "
        f"{parsed / took * 3600:,.0f} an hour",
        flush=True,
    )
    return True


def keep(build: Path, target: str) -> bool:
    """Make the repository's corpus of a target anew: the fewest inputs that cover what is known."""
    fresh = build / "kept" / target
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    command = [
        str(build / "tests/fuzz" / target),
        "-set_cover_merge=1",
        "-use_counters=0",  # an edge counts once: some dozen inputs and not hundreds
        f"-max_len={TARGETS[target]}",
        str(fresh),
        str(build / "corpus" / target),
        *map(str, seeds(target)),
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        print(f"failed {target}: its corpus cannot be merged")
        return False
    corpus = HERE / "corpus" / target
    shutil.rmtree(corpus, ignore_errors=True)
    shutil.copytree(fresh, corpus)
    sizes = [path.stat().st_size for path in corpus.iterdir()]
    print(f"ok {target}: {len(sizes)} inputs, {sum(sizes)} bytes")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--seconds", type=int, default=6, help="of each target (default 6)")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--keep", action="store_true", help="keep the fewest that cover as much")
    arguments = parser.parse_args()
    build = arguments.build.resolve()

    def go(target: str) -> bool:
        return keep(build, target) if arguments.keep else fuzz(build, target, arguments.seconds)

    with ThreadPoolExecutor(JOBS) as pool:
        well = list(pool.map(go, arguments.target or TARGETS))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
