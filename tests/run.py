#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every test and counts them; the last line is "N passed, N failed".

Responsible for: building the variants (gcc, clang, ASan+UBSan, TSan), running
each folder's tests there, the linters, and the time budget of each folder.
Must not know what any test is about. Plain Python, standard library only: it
runs before anything is installed for Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
MINUTE = 60.0

# Seconds that a folder's tests may take on two cores, environment warm; half of the rest is NVMe's.
BUDGET = {"serving": 15 * MINUTE, "rest": 24 * MINUTE}

# Reports name lines; variables, for a debugger, would take a fifth of the time to compile.
SANITIZED = ["--buildtype=debugoptimized", "-Dc_args=-g1", "-Db_lundef=false"]


@dataclass
class Tally:
    """What a suite found: how many passed, and the names of those that failed."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add_lines(self, suite: str, log: Path) -> None:
        """Count a log's lines: "ok NAME", "failed NAME", "skipped NAME: WHY"."""
        for line in log.read_text(errors="replace").splitlines():
            self.passed += line.startswith("ok ")
            if line.startswith("skipped "):
                self.skipped.append(f"{suite}: {line.removeprefix('skipped ')}")
            if line.startswith("failed "):
                self.failed.append(f"{suite}: {line.removeprefix('failed ')}")


def say(text: str) -> None:
    print(text, flush=True)


def run(command: list[str], log: Path, env: dict[str, str] | None = None) -> int:
    """Run a command with its output in a log; return its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        return subprocess.run(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            check=False,
        ).returncode


def works(command: list[str]) -> bool:
    """Whether a command is there and permitted here."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


# What clang-tidy prints of files that are well: it would push what is wrong out of sight.
CHATTER = re.compile(r"^\[\s*\d+/\d+\]|^\d+ warnings? generated\.$|^$")


def show_tail(log: Path, lines: int = 60) -> None:
    text = [t for t in log.read_text(errors="replace").splitlines() if not CHATTER.match(t)]
    say("\n".join("    " + line for line in text[-lines:]))


def python() -> str:
    """The interpreter of the cached environment (made when it is missing)."""
    made = subprocess.run(
        [str(ROOT / "setup/python-env")], stdout=subprocess.PIPE, check=True, text=True
    )
    return made.stdout.splitlines()[-1] + "/bin/python"


def configure(folder: Path, options: list[str], env: dict[str, str]) -> None:
    if not (folder / "build.ninja").exists():
        log = BUILD / "log" / f"setup-{folder.name}.txt"
        if run(["meson", "setup", str(folder), *options], log, env):
            show_tail(log)
            raise SystemExit(f"meson setup {folder.name} failed, see {log}")


def compile_folder(folder: Path, targets: list[str] | None = None) -> Tally:
    """Compile; any warning counts as a failure."""
    log = BUILD / "log" / f"compile-{folder.name}.txt"
    status = run(["ninja", "-C", str(folder), *(targets or [])], log)
    if status == 0:
        return Tally(passed=1)
    show_tail(log)
    return Tally(failed=[f"{folder.name}: does not compile without warnings"])


def meson_suite(
    name: str, options: list[str], env: dict[str, str], wrapper: list[str], torture: bool
) -> Tally:
    """Build a variant of the library and run every C test in it."""
    folder = ROOT / f"build-{name}" if name != "gcc" else BUILD
    configure(folder, [*options, "-Dwerror=true"], env)
    tally = compile_folder(folder)
    if tally.failed:
        return tally
    log = BUILD / "log" / f"test-{name}.txt"
    command = ["meson", "test", "-C", str(folder), "--no-rebuild", "--num-processes", "2"]
    if wrapper and works([*wrapper, "true"]):
        command += ["--wrapper", " ".join(wrapper)]
    if torture:
        command += ["--timeout-multiplier", "30"]
    logs = folder / "meson-logs"
    for old in logs.glob("testlog*.json"):  # its name has the wrapper's in it
        old.unlink()
    status = run(command, log, {"TUTTI_TORTURE": "1"} if torture else {})
    lines = [line for file in logs.glob("testlog*.json") for line in file.read_text().splitlines()]
    if not lines:
        show_tail(log)
        return Tally(failed=[f"{name}: no test ran, meson ended with status {status}"])
    for line in lines:
        test = json.loads(line)
        label = f"{name}: {test['name']}"
        if test["result"] in ("OK", "EXPECTEDFAIL"):  # a rule's test, with the rule broken
            tally.passed += 1
        elif test["result"] == "SKIP":
            tally.skipped.append(label)
        else:
            tally.failed.append(label)
            say(f"  FAILED {label} ({test['result']})")
            output = (test.get("stdout") or "") + (test.get("stderr") or "")
            say("\n".join("    " + text for text in output.splitlines()[-40:]))
    return tally


def fuzz_suite(torture: bool) -> Tally:
    """Every fuzz target for some seconds; with torture ten minutes, or $TUTTI_FUZZ_SECONDS."""
    folder = ROOT / "build-fuzz"
    options = ["-Dfuzz=true", "-Dwerror=true", *SANITIZED, "-Db_sanitize=address,undefined"]
    configure(folder, options, {"CC": "clang"})
    tally = compile_folder(folder)
    if tally.failed:
        return tally
    seconds = os.environ.get("TUTTI_FUZZ_SECONDS", "600" if torture else "6")
    log = BUILD / "log" / "fuzz.txt"
    run([sys.executable, "tests/fuzz/run.py", str(folder), "--seconds", seconds], log)
    show_tail(log)
    tally.add_lines("fuzz", log)
    if tally.passed + len(tally.failed) < 2:
        tally.failed.append("fuzz: no target ran")
    return tally


def vm_suite() -> Tally:
    """NVMe in user space against Linux, VFIO and an IOMMU, in a virtual machine."""
    configure(BUILD, ["-Dwerror=true"], {})
    compiled, log = BUILD / "log" / "compile-vm.txt", BUILD / "log" / "vm.txt"
    if run(["ninja", "-C", str(BUILD), "tests/vm/guest"], compiled):
        show_tail(compiled)
        return Tally(failed=["vm: the guest does not compile without warnings"])
    status = run([sys.executable, "tests/vm/run.py", str(BUILD / "tests/vm/guest")], log)
    tally = Tally()
    tally.add_lines("vm", log)
    if status and not tally.failed:
        tally.failed.append("vm: the machine did not start")
    if tally.failed:
        show_tail(log)
    return tally


def clang_suite(torture: bool) -> Tally:
    """No warnings under clang: in the sanitizers' builds, where its code runs, and here for what
    those leave out; for torture everything."""
    if torture:
        return meson_suite("clang", [], {"CC": "clang"}, [], torture)
    folder = ROOT / "build-clang"
    configure(folder, ["-Dwerror=true"], {"CC": "clang"})
    return compile_folder(folder, ["tests/vm/guest"])


def pytest_suite(folder: str, torture: bool) -> Tally:
    """Run a folder of Python tests in the cached environment."""
    report = BUILD / "log" / f"pytest-{Path(folder).name}.xml"
    log = report.with_suffix(".txt")
    report.unlink(missing_ok=True)
    env = {"PYTHONPATH": os.pathsep.join([str(BUILD / "site"), str(ROOT)])}
    if torture:
        env["TUTTI_TORTURE"] = "1"
    status = run(
        [python(), "-m", "pytest", "-q", f"--junitxml={report}", "--durations=10", folder], log, env
    )
    tally = Tally()
    if not report.exists():
        show_tail(log)
        return Tally(failed=[f"{folder}: pytest ended with status {status}"])
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        label = f"{folder}: {case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            tally.failed.append(label)
        elif case.find("skipped") is not None:
            tally.skipped.append(label)
        else:
            tally.passed += 1
    if tally.failed or (status and not tally.failed):
        show_tail(log)
    if status and not tally.failed:
        tally.failed.append(f"{folder}: pytest ended with status {status}")
    return tally


def sources(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def lint_suite() -> Tally:
    """Formatting and static checks; each linter counts as one test."""
    interpreter = python()
    c_files = sources("*.c", "*.h")
    configure(BUILD, ["-Dwerror=true"], {})
    checks: dict[str, list[str]] = {
        "clang-format": ["clang-format", "--dry-run", "-Werror", *c_files],
        "clang-tidy": [
            "run-clang-tidy",
            "-quiet",
            "-p",
            str(BUILD),
            r"/(src|tools)/(?!.*kernel).*\.c$",
        ],
        "ruff check": [interpreter, "-m", "ruff", "check", "."],
        "ruff format": [interpreter, "-m", "ruff", "format", "--check", "."],
        "mypy": [interpreter, "-m", "mypy"],
    }
    tally = Tally()
    for name, command in checks.items():
        log = BUILD / "log" / f"lint-{name.replace(' ', '-')}.txt"
        if run(command, log):
            say(f"  FAILED {name}")
            show_tail(log)
            tally.failed.append(f"lint: {name}")
        else:
            tally.passed += 1
    return tally


def package_suite() -> Tally:
    """Install the Python package as a user would, into build/site."""
    log = BUILD / "log" / "package.txt"
    if run([str(ROOT / "setup/python-package")], log):
        show_tail(log)
        return Tally(failed=["pip install . failed"])
    return Tally(passed=1)


Suite = Callable[[], Tally]


def suites(torture: bool) -> dict[str, Suite]:
    """Every suite by name, in the order in which they run."""
    return {
        "lint": lint_suite,
        "gcc": lambda: meson_suite("gcc", [], {}, [], torture),
        "clang": lambda: clang_suite(torture),
        "asan": lambda: meson_suite(
            "asan", [*SANITIZED, "-Db_sanitize=address,undefined"], {"CC": "clang"}, [], torture
        ),
        "tsan": lambda: meson_suite(
            # Without address randomisation: older runtimes refuse high-entropy maps.
            "tsan",
            [*SANITIZED, "-Db_sanitize=thread"],
            {"CC": "clang"},
            ["setarch", "-R"],
            torture,
        ),
        "vm": vm_suite,
        "fuzz": lambda: fuzz_suite(torture),
        "package": package_suite,
        **{
            folder: (lambda folder=folder: pytest_suite(f"tests/{folder}", torture))  # type: ignore[misc]
            for folder in ("models", "format", "cli", "python", "serving")
            if any((ROOT / "tests" / folder).glob("test_*.py"))
        },
    }


def over_budget(seconds: dict[str, float]) -> Iterable[str]:
    spent = {
        "serving": seconds.get("serving", 0.0),
        "rest": sum(took for name, took in seconds.items() if name != "serving"),
    }
    for part, limit in BUDGET.items():
        say(f"time: {part} {spent[part]:.0f} s of {limit:.0f} s")
        if spent[part] > limit:
            yield f"time budget: {part} took {spent[part]:.0f} s of {limit:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="run only this suite (may be repeated)")
    parser.add_argument("--torture", action="store_true", help="long counts, no time budget")
    parser.add_argument("--minutes", help="with --torture: kill a serving vLLM for so long")
    arguments = parser.parse_args()
    if arguments.minutes:
        os.environ["TUTTI_TORTURE_MINUTES"] = arguments.minutes

    total = Tally()
    seconds: dict[str, float] = {}
    for name, suite in suites(arguments.torture).items():
        if arguments.only and name not in arguments.only:
            continue
        began = time.monotonic()
        tally = suite()
        seconds[name] = time.monotonic() - began
        total.passed += tally.passed
        total.failed += tally.failed
        total.skipped += tally.skipped
        say(f"{name}: {tally.passed} passed, {len(tally.failed)} failed, {seconds[name]:.0f} s")
    if not arguments.torture:
        total.failed += over_budget(seconds)
    for label in total.skipped:
        say(f"skipped: {label}")
    for label in total.failed:
        say(f"failed: {label}")
    say(f"{total.passed} passed, {len(total.failed)} failed")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
