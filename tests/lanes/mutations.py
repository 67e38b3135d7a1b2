# SPDX-License-Identifier: Apache-2.0
"""What of the I/O kernel's order host lanes see: each synchronisation left out, one at a time.

Responsible for: a table of mutations of src/device/kernels, each compiled into test_io and run over
seeds, with the least number of seeds in which it has to be caught; that the kernel as it is is
caught in none; that every synchronisation in the sources has its line here; and that words which
two sides share are reached by name alone. Must not know how lanes work. What lanes can't see has 0
here and its model or PTX rule in docs/memory-model.md, section 5.

    mutations.py BUILD
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "src/device/kernels"
SEEDS = 20

IO, SUMS = "io_kernel.h", "sums.h"
# Name, file, what is there (once), what is put in its place, seeds that have to catch it.
MUTATIONS = [
    ("nothing", IO, "#include <errno.h>", "#include <errno.h>", 0),
    ("no sync behind the ring's tail", IO, r"warp_sync\(WARP_ALL\); /\* what lane 0 acq", "/*", 0),
    ("tail loaded without acquire", IO, r"io_acquire\(&r->warp->ring->tail\)",
     "io_load(&r->warp->ring->tail)", 0),
    ("a ready word without acquire", IO, r"io_acquire\(\(const struct io_word \*\)",
     "io_load((const struct io_word *)", 0),
    ("no fence before the doorbell", IO, r"tutti_fence_system\(\);", ";", SEEDS),
    ("no sync before the doorbell", IO, r"warp_sync\(WARP_ALL\);  */\* all have fenced", "/*",
     SEEDS // 2),
    ("doorbell before the fence", IO,
     r"tutti_fence_system\(\);([^}]*?)(if \(r->lane == 0\)\s*nvme_write32\(q->bar, q->sq_doorbell, "
     r"q->tail\);)", r"\2 tutti_fence_system(); warp_sync(WARP_ALL);", SEEDS),
    ("no sync behind completions", IO,
     r"warp_sync\(WARP_ALL\);(\s*if \(r->lane == 0\)\s*nvme_write32\(q->bar, q->cq)", r"\1", 0),
    ("no sync before results are released", IO, r"warp_sync\(WARP_ALL\); /\* results", "/*",
     SEEDS // 2),
    ("a turn without its release", IO, r"io_release\(&end->turn", "io_store(&end->turn",
     SEEDS // 2),
    ("no sync behind page sums", SUMS, r"warp_sync\(WARP_ALL\); /\* page sums", "/*", SEEDS),
    ("no sync before the next position's sums", SUMS, r"warp_sync\(WARP_ALL\); /\* all have read",
     "/*", 0),
]  # fmt: skip

SYNCHRONISES = re.compile(r"\b(warp_sync|tutti_fence_system|io_release|io_acquire)\(")


def flags(build: Path) -> list[str]:
    return [
        "gcc", "-std=gnu11", "-O1", "-g", "-w", "-D_GNU_SOURCE",
        f"-I{ROOT}/include", f"-I{ROOT}/src", f"-I{ROOT}/tests",
        str(ROOT / "tests/lanes/kernels.c"),
        *map(str, sorted(build.glob("tests/lanes/lanes_io.p/*.o"))),
        str(build / "tests/lanes/liblanes.a"), str(build / "src/libtutti.a"),
        "-luring", "-lsodium", "-lcmocka", "-pthread",
    ]  # fmt: skip


def caught(build: Path, folder: Path, mutation: tuple[str, str, str, str, int]) -> int:
    """In how many seeds; -1 where it does not apply once, or does not compile."""
    _, file, there, instead, _ = mutation
    for name in (IO, SUMS):
        text = (KERNELS / name).read_text()
        if name == file:
            text, times = re.subn(there, instead, text, flags=re.S)
            if times != 1:
                return -1
        (folder / "device/kernels").mkdir(parents=True, exist_ok=True)
        (folder / "device/kernels" / name).write_text(text)
    program = folder / "mutant"
    command = flags(build)
    command[1:1] = [f"-I{folder}", "-o", str(program)]
    if subprocess.run(command, check=False).returncode:
        return -1
    try:
        done = subprocess.run(
            [program, "count", str(SEEDS)], capture_output=True, text=True, timeout=200, check=False
        )
    except subprocess.TimeoutExpired:
        return SEEDS
    if done.returncode < 0:
        return SEEDS  # it crashed
    found = re.search(r"caught in (\d+)", done.stdout)
    return int(found[1]) if found else -1


def forgotten() -> list[str]:
    """Synchronisations without a mutation: as many lines here as calls there."""
    calls = sum(
        len(SYNCHRONISES.findall(re.sub(r"/\*.*?\*/", "", (KERNELS / n).read_text(), flags=re.S)))
        for n in (IO, SUMS)
    )
    mutated = len(MUTATIONS) - 2  # nothing, and the fence's second
    return [] if calls == mutated else [f"{calls} synchronisations, {mutated} of them mutated"]


def plain_accesses() -> list[str]:
    """Shared words have one door: their names stand nowhere else in what a kernel is made of."""
    bad = []
    for source in [*KERNELS.iterdir(), *(ROOT / "src/engine").glob("gpu*")]:
        text = re.sub(r"/\*.*?\*/", "", source.read_text(), flags=re.S)
        if source.name != "io.h" and "only_by_name" in text:
            bad.append(f"{source.name}: only_by_name")
        for pattern in (r"(?:->|\.)[sc]q\s*\[", r"\*\s*\(?[\w.>-]+[.>][sc]q\b", r"\bvolatile\s+u"):
            bad += [f"{source.name}: {found}" for found in re.findall(pattern, text)]
    return bad


def main() -> int:
    build = Path(sys.argv[1])
    bad = forgotten() + plain_accesses()
    with tempfile.TemporaryDirectory() as folder:
        for mutation in MUTATIONS:
            seeds = caught(build, Path(folder), mutation)
            print(f"{mutation[0]}: caught in {seeds} of {SEEDS} seeds", flush=True)
            if seeds < mutation[4] or (mutation[4] == 0 and seeds != 0):
                bad.append(f"{mutation[0]}: caught in {seeds} of {SEEDS}, not as written")
    for line in bad:
        print(f"failed: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
