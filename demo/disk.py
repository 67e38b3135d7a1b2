# SPDX-License-Identifier: Apache-2.0
"""How long this disk takes, at its raw speed, for as many bytes as the demo loads.

Responsible for: running fio on a file of its own beside the pool. Must not know: pools or servers.

The idea: fio's best pattern here (io_uring, O_DIRECT, 1 MiB, depth 32, buffers in huge pages where
the system has them), on a file as freshly written as the pool; read again for every round, so that
rounds can alternate with what they are compared to. With O_DIRECT the page cache plays no part.
"""

import json
import os
import subprocess
from pathlib import Path

PATTERN = "fio, O_DIRECT, 1 MiB, depth 32"
MIB = 1 << 20


class RawDisk:
    """A freshly written file of `size` bytes (rounded up to 1 MiB) that fio reads."""

    def __init__(self, folder: Path, size: int) -> None:
        self.path = folder / "raw-speed"
        self.size = (size + MIB - 1) // MIB * MIB
        self.path.unlink(missing_ok=True)
        self.fio("write", "--end_fsync=1", "--fallocate=posix")

    def read_s(self, size: int) -> float:
        """Seconds that fio needs to read the whole file, scaled to `size` bytes."""
        job = self.fio("read")["read"]
        seconds = float(job["total_ios"]) * MIB / float(job["bw_bytes"])
        return seconds * size / self.size

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def fio(self, direction: str, *more: str) -> dict[str, dict[str, float]]:
        command = ["fio", "--name=raw", f"--filename={self.path}", f"--size={self.size}"]
        command += [f"--rw={direction}", "--bs=1m", "--direct=1", "--iodepth=32"]
        for engine in ("io_uring", "libaio"):
            done = subprocess.run(
                [*command, f"--ioengine={engine}", *more, "--output-format=json"],
                # glibc then asks for huge pages for fio's buffers: 254 segments a request fewer.
                env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                job: dict[str, dict[str, float]] = json.loads(done.stdout)["jobs"][0]
                return job
        raise RuntimeError(f"fio cannot {direction} {self.path}: {done.stderr.strip()}")
