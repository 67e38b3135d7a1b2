# SPDX-License-Identifier: Apache-2.0
"""The four lives of the demo's server, and what is measured in each.

Responsible for: starting, asking, killing, waiting until stored, the damage between two lives, and
the places for the pools. Must not know: what counts as a success (demo/report.py).
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from damage import flip_one_byte
from disk import RawDisk
from progress import Progress
from question import Question
from server import Answer, Server, ServerError, connector_config

ROUNDS = 5
# The flipped byte is near the end of the prompt: an engine that keeps what comes before it has
# little to recompute.
DAMAGED = 0.9
STORED = "tutti_stored_slots_total"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass
class Asked:
    """One question of the demo: its answer, and what the counters at /metrics moved by."""

    answer: Answer
    load_tokens: int
    load_bytes: int
    external_hits: int
    verify_failures: int


@dataclass
class Lives:
    progress: Progress
    question: Question
    model: Path
    dtype: str
    pool: Path
    size: str
    answer_tokens: int
    memory_gib: int
    work: Path
    connector: bool
    block_size: int = 32
    raw: RawDisk | None = None
    loaded_bytes: int = 0
    memory_pool: Path | None = None
    mounted: list[Path] = field(default_factory=list)

    def prepare(self) -> None:
        """Makes room for the pools; what an earlier demo left there goes."""
        self.work.mkdir(parents=True, exist_ok=True)
        # Beside the pool, not in it: the pool's folder holds the pool alone.
        marker = self.pool.with_name(self.pool.name + ".tutti-demo")
        if self.pool.exists() and not marker.exists() and any(self.pool.iterdir()):
            raise RuntimeError(f"{self.pool} is not this demo's: name an empty folder with --pool")
        shutil.rmtree(self.pool, ignore_errors=True)
        self.pool.mkdir(parents=True)
        marker.touch()
        free, needed = shutil.disk_usage(self.pool).free, size_bytes(self.size)
        if free < needed * 3 // 2:
            raise RuntimeError(
                f"{self.pool}: {free / 2**30:.1f} GiB free; a pool of {self.size} and as much as"
                " half of it for the raw-speed file are needed"
            )

    def remove_pools(self) -> None:
        if self.raw is not None:
            self.raw.remove()
        shutil.rmtree(self.pool, ignore_errors=True)
        self.pool.with_name(self.pool.name + ".tutti-demo").unlink(missing_ok=True)
        self.remove_memory_pool()

    def remove_memory_pool(self) -> None:
        if self.memory_pool is not None:
            shutil.rmtree(self.memory_pool, ignore_errors=True)
            if not self.mounted:
                shutil.rmtree(self.memory_pool.parent, ignore_errors=True)
        self.memory_pool = None
        for folder in self.mounted:
            subprocess.run(["umount", str(folder)], check=False)
        self.mounted.clear()

    # The lives

    def compute_and_store(self) -> tuple[list[Asked], list[Asked]]:
        """Life 1: the answer by recomputation, and by vLLM's own prefix cache.

        Ends by kill -9 when all of it is stored.
        """
        with self.life("1, nothing stored yet", "1-recompute", self.pool) as server:
            before = server.metrics().get(STORED, 0.0)
            asked = self.ask(server, "asking about the document, computed from nothing")
            if self.connector:
                self.wait_stored(server, before)
            own = self.ask(server, "the same question, from vLLM's own prefix cache")
        return [asked], [own]

    def answer_from_disk(self) -> tuple[list[Asked], list[float]]:
        """Life 2: the same question; the disk's raw speed measured in between."""
        with self.life("2, after kill -9", "2-disk", self.pool) as server:
            answers = [self.ask(server, "the same question, from disk")]
            self.loaded_bytes = answers[0].load_bytes
            if not self.loaded_bytes:
                return answers, []
            with self.progress.step("writing as many bytes to a file for fio"):
                self.raw = RawDisk(self.pool.parent, self.loaded_bytes)
            raw: list[float] = []
            for number in range(1, ROUNDS):
                raw.append(self.read_raw())
                server.forget_memory()
                answers.append(self.ask(server, f"from disk, time {number + 1}"))
            raw.append(self.read_raw())
        return answers, raw

    def answer_from_memory(self) -> tuple[list[Asked], str]:
        """Life 3: a copy of the pool in memory; vLLM's own cache is emptied before each time."""
        if self.raw is not None:
            self.raw.remove()
        if not self.loaded_bytes:
            return [], "not measured: nothing came from disk"
        if not self.find_memory():
            return [], "not measured: no memory-backed folder with enough room"
        assert self.memory_pool is not None
        with self.progress.step(f"copying the pool to {self.memory_pool.parent}"):
            # Files with holes stay so: only what is stored takes memory.
            copy = ["cp", "-a", "--sparse=always", str(self.pool), str(self.memory_pool)]
            subprocess.run(copy, check=True)
        answers = []
        with self.life("3, pool in memory", "3-memory", self.memory_pool) as server:
            for number in range(1, ROUNDS + 1):
                server.forget_memory()
                answers.append(self.ask(server, f"from memory, time {number}"))
        self.remove_memory_pool()
        return answers, ""

    def answer_from_damaged_disk(self) -> list[Asked]:
        """Life 4, the negative control: one byte of the pool flipped while nobody had it open."""
        with self.progress.step("flipping one byte in the pool") as step:
            damage = flip_one_byte(self.pool, where=DAMAGED)
            step.done(
                f"{damage.path.name} at {damage.offset:,}: {damage.before:#04x}"
                f" -> {damage.after:#04x}"
            )
        with self.life("4, one byte flipped", "4-flipped", self.pool) as server:
            return [self.ask(server, "the same question, over damaged data")]

    # Their parts

    @contextmanager
    def life(self, name: str, log: str, pool: Path) -> Iterator[Server]:
        """Starts a server, warms it up, and kills its process group at the end of the block."""
        room = self.question.tokens + self.answer_tokens + self.block_size
        server = Server(
            model=self.model,
            log=self.work / f"server-{log}.log",
            kv_transfer=connector_config(pool, self.size) if self.connector else None,
            max_model_len=-(-room // 256) * 256,
            memory_gib=self.memory_gib,
            block_size=self.block_size,
            dtype=self.dtype,
        )
        with server:
            with self.progress.step(f"starting vLLM, life {name}") as step:
                server.wait_ready(waiting=step.note)
            with self.progress.step("an unrelated question, to warm it up"):
                server.ask(self.question.warm_up, max_tokens=4, ignore_eos=True)
            yield server
            server.kill()
            self.progress.console.print("  kill -9 to the whole process group", highlight=False)

    def ask(self, server: Server, text: str) -> Asked:
        before = server.metrics()
        with self.progress.step(text) as step:
            answer = server.ask(self.question.prompt, max_tokens=self.answer_tokens)
            step.done(f"first token after {answer.first_token_s:.2f} s")
        after = settled(server, before)

        def moved(name: str) -> int:
            return round(after.get(name, 0.0) - before.get(name, 0.0))

        return Asked(
            answer=answer,
            load_tokens=moved("tutti_load_tokens_total"),
            load_bytes=moved("tutti_load_bytes_total"),
            external_hits=moved("vllm:external_prefix_cache_hits_total"),
            verify_failures=moved("tutti_verify_failures_total"),
        )

    def wait_stored(self, server: Server, before: float, timeout: float = 60.0) -> None:
        """Waits until the connector reports every complete block of the prompt as stored."""
        wanted = (self.question.tokens - 1) // self.block_size
        begin = time.monotonic()
        with self.progress.step("waiting until it is stored") as step:
            while (stored := server.metrics().get(STORED, 0.0) - before) < wanted:
                step.note(f"{stored:.0f} of {wanted} slots")
                if time.monotonic() - begin > timeout:
                    raise ServerError(
                        f"{stored:.0f} of {wanted} slots stored after {timeout:.0f} s"
                        f" (see {server.log})"
                    )
                time.sleep(0.1)
            step.done(f"{stored:.0f} slots")

    def read_raw(self) -> float:
        assert self.raw is not None
        with self.progress.step("the same bytes by fio, O_DIRECT") as step:
            seconds = self.raw.read_s(self.loaded_bytes)
            step.done(f"{seconds:.2f} s")
        return seconds

    def find_memory(self) -> bool:
        """Finds, or as root mounts, a memory-backed folder with room for a pool."""
        needed = self.loaded_bytes * 3 // 2 + (256 << 20)
        shm = Path("/dev/shm")
        if shm.is_dir() and shutil.disk_usage(shm).free >= needed:
            self.memory_pool = shm / f"tutti-demo-{os.getpid()}" / "pool"
            self.memory_pool.parent.mkdir()
            return True
        folder = self.work / "memory"
        folder.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={needed}", "tutti-demo", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        self.mounted.append(folder)
        self.memory_pool = folder / "pool"
        return True


def settled(server: Server, before: dict[str, float], timeout: float = 5.0) -> dict[str, float]:
    """The counters once the request that just ended is counted in them."""
    done = "vllm:request_success_total"
    begin = time.monotonic()
    while True:
        after = server.metrics()
        if after.get(done, 0.0) > before.get(done, 0.0) or time.monotonic() - begin > timeout:
            return after
        time.sleep(0.05)


def size_bytes(text: str) -> int:
    """Bytes of a size like 4GiB."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    raise ValueError(f"{text}: not a size like 4GiB")
