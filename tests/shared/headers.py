# SPDX-License-Identifier: Apache-2.0
"""Every shared header under every compiler that may meet it, each of its functions made into code.

Responsible for: docs/shared-headers.md, which lists them, being true. Each header alone as C (gcc,
clang) and as C++17 (g++, clang++), all together by nvcc, whose host and device passes both see
them; in a unit that takes the address of each inline function, since a compiler looks at a body
that nobody uses with half an eye. Must not know what they are about.

Seen to fail with: a cast from void* left out, `restrict`, a _Static_assert, __atomic_store_n left
in device code (nvcc), a header that lacks an include, a header not listed.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "docs/shared-headers.md"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
INCLUDE = ["-D_GNU_SOURCE", f"-I{ROOT}/include", f"-I{ROOT}/src"]
COMPILERS = [
    ["gcc", "-std=gnu11", "-xc"],
    ["clang", "-std=gnu11", "-xc"],
    ["g++", "-std=c++17", "-xc++"],
    ["clang++", "-std=c++17", "-xc++"],
]
NVCC = ["nvcc", "-std=c++17", "-arch=sm_90", "-c", "-x", "cu", "-Werror", "all-warnings"]
KERNEL = ["nvcc", "-std=c++17", "-cubin", "-x", "cu", "-Werror", "all-warnings"]


def listed() -> list[str]:
    """Headers named in the first column of the page's table."""
    return re.findall(r"^\| `((?:include|src)/[^`]+)` \|", LIST.read_text(), re.M)


def functions(header: str) -> list[str]:
    return re.findall(r"^TUTTI_INLINE [^;{]*?(\w+)\(", (ROOT / header).read_text(), re.M)


def unit(headers: list[str], cuda: bool) -> str:
    """Include the headers, and use what they define."""
    name = [re.sub("^(include|src)/", "", h) for h in headers]
    uses = [f for h in headers for f in functions(h)]
    lines = [f'#include "{n}"' for n in name]
    side = 'extern "C" __global__ ' if cuda else ""
    for prefix, function in [(side, "use")] + ([("", "use_on_host")] if cuda else []):
        lines += [f"{prefix}void {function}(void **sink);", f"{prefix}void {function}(void **sink)"]
        lines += ["{", "    (void)sink;"]
        lines += [f"    *sink++ = (void *)&{f};" for f in uses]
        lines += ["}"]
    return "\n".join(lines) + "\n"


def compiles(command: list[str], text: str, what: str) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write(text)
        source.flush()
        done = subprocess.run(
            [*command, *INCLUDE, source.name, "-o", os.devnull],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        print(f"failed {what}\n{done.stderr}{done.stdout}")
    else:
        print(f"ok {what}")
    return done.returncode == 0


def undeclared(headers: list[str]) -> list[str]:
    """What a listed header includes of ours is listed too."""
    missing = []
    for header in headers:
        for name in re.findall(r'^#include "([^"]+)"', (ROOT / header).read_text(), re.M):
            if not {f"include/{name}", f"src/{name}"} & set(headers):
                missing.append(f"{header} includes {name}, which {LIST.name} does not list")
    return missing


def main() -> int:
    headers = listed()
    bad = undeclared(headers)
    for line in bad:
        print(line)
    good = len(headers) >= 8 and not bad
    for compiler in COMPILERS:
        for header in headers:
            command = [*compiler, "-c", *WARNINGS]
            good = compiles(command, unit([header], False), f"{compiler[0]} {header}") and good
    if subprocess.run(["nvcc", "--version"], capture_output=True, check=False).returncode:
        print("nvcc is not here: not tested with it")
    else:
        good = compiles(NVCC, unit(headers, True), "nvcc, both passes") and good
        for kernel in sorted((ROOT / "src/device/kernels").glob("*.cu")):
            for arch in ("sm_80", "sm_90"):
                command = [*KERNEL, f"-arch={arch}"]
                good = compiles(command, kernel.read_text(), f"nvcc {arch} {kernel.name}") and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
