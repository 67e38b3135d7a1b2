#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Branch coverage of the library's rooms by the C tests; exits 1 below the bar.

Responsible for: a build with gcov, the C tests in it, and a line for each file with
the lines whose branches nobody took. Must not know what any test is about. Plain
Python, standard library only.

A branch that no test can take is left out in the code, in the line that holds it:
`/* GCOVR_EXCL_BR: reason */`. Without a reason it counts.

    tests/coverage.py            build, test, count
    tests/coverage.py --count    count again what is there
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build-coverage"
ROOMS = ("pool", "directory", "layout", "ring", "serve")

# Percent of the branches of all rooms together.
BAR = 100.0


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def build_and_test() -> None:
    """Without optimisation: a branch of the source is then a branch of the machine."""
    if not (FOLDER / "build.ninja").exists():
        run("meson", "setup", str(FOLDER), "--buildtype=debug", "-Db_coverage=true")
    run("ninja", "-C", str(FOLDER))
    for old in FOLDER.rglob("*.gcda"):
        old.unlink()
    jobs = str(os.cpu_count() or 1)
    run("meson", "test", "-C", str(FOLDER), "--no-rebuild", "--num-processes", jobs)


def count() -> list[dict[str, object]]:
    """What gcovr says of each file, worst first."""
    report = FOLDER / "coverage.json"
    run(
        "gcovr",
        *("--root", str(ROOT), "--object-directory", str(FOLDER)),
        *("--filter", f"src/({'|'.join(ROOMS)})/"),
        "--exclude-unreachable-branches",
        *("--exclude-branches-by-pattern", r".*/\* GCOVR_EXCL_BR: \S.*"),
        *("--json", str(report), str(FOLDER / "src")),
    )
    files = []
    for entry in json.loads(report.read_text())["files"]:
        branches = taken = 0
        lines = set()
        for line in entry["lines"]:
            for branch in line["branches"]:
                branches += 1
                taken += branch["count"] > 0
                if not branch["count"]:
                    lines.add(line["line_number"])
        files.append(
            {"name": entry["file"], "branches": branches, "taken": taken, "missing": sorted(lines)}
        )
    return files


def show(files: list[dict[str, object]]) -> float:
    """A line for each file. Return: percent taken of all."""
    total = taken = 0
    for entry in sorted(files, key=lambda entry: str(entry["name"])):
        branches, hit = int(str(entry["branches"])), int(str(entry["taken"]))
        total += branches
        taken += hit
        missing = ", ".join(str(line) for line in entry["missing"])  # type: ignore[attr-defined]
        share = 100.0 * hit / branches if branches else 100.0
        print(f"{share:6.1f} %  {hit:4} of {branches:4}  {entry['name']}: {missing or '-'}")
    percent = 100.0 * taken / total
    print(f"{percent:6.1f} %  {taken:4} of {total:4}  branches of {', '.join(ROOMS)}")
    return percent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="of the last run's tests")
    arguments = parser.parse_args()
    if not arguments.count:
        build_and_test()
    percent = show(count())
    if percent < BAR:
        print(f"below the bar of {BAR} %")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
