# SPDX-License-Identifier: Apache-2.0
"""Case 18: what a pool may take is exact, while it is turned over and when its size is changed.

The library's part is in tests/unit/serve/capacity.c. Under TUTTI_TORTURE the pool has 1 GiB.
"""

import threading
from pathlib import Path

import pytest
from conftest import Lives, Reference, prompt, torture

from engine import Engine, LifeError

SIZE = (1024 if torture() else 16) << 20
PROMPTS = [prompt(88000 + i, 640) for i in range(26 * (SIZE >> 24))]  # 20 slots of 128 KiB each
TAIL = PROMPTS[-1] + prompt(8799, 20)


class Sampler:
    """Looks a hundred times a second at what a folder takes: bytes by file, as stat has them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self.seen: list[dict[str, tuple[int, int]]] = []
        self._thread = threading.Thread(target=self._run)

    def look(self) -> dict[str, tuple[int, int]]:
        stats = {path.name: path.stat() for path in self._folder.iterdir()}
        return {name: (stat.st_size, stat.st_blocks * 512) for name, stat in stats.items()}

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self.seen.append(self.look())

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def fill(engine: Engine) -> dict[str, int]:
    """Four times what the pool holds."""
    for tokens in PROMPTS:
        engine.ask(tokens, n=1)
    engine.healthy()
    stats: dict[str, int] = engine.half.directory_stats()
    return stats


def test_capacity_is_exact(lives: Lives, tmp_path: Path, reference: Reference) -> None:
    """Turned over, it never takes more, and no file comes or goes; a smaller size is refused, or
    the server serves without, as the user chose, and nothing changes; a larger one has no effect.

    Seen to fail with a smaller size that is let pass.
    """
    pool = tmp_path / "pool"
    with lives(size=str(SIZE)) as life, Sampler(pool) as sampler:
        stats = life.run(fill, timeout=600)
    assert stats["evicted"] > 2 * stats["slots"]
    assert len(sampler.seen) > 20, "void: nobody looked"
    assert all(seen.keys() == sampler.seen[0].keys() for seen in sampler.seen)
    sizes = [[size for size, _ in seen.values()] for seen in sampler.seen]
    assert all(size == sizes[0] for size in sizes)
    taken = max(sum(blocks for _, blocks in seen.values()) for seen in sampler.seen)
    assert taken <= SIZE + 64 * 1024

    before = sampler.look()
    with pytest.raises(LifeError, match="give it its size back"), lives(size=str(SIZE // 2)):
        pass
    with lives(size=str(SIZE // 2), extra={"on_error": "disable"}) as life:
        answer = life.run(lambda engine: engine.ask(TAIL, n=4))
    assert answer.external == 0
    assert sampler.look() == before
    with lives(size=str(2 * SIZE)) as life:
        answer = life.run(lambda engine: engine.ask(TAIL, n=4))
        log = life.log.read_text()
    assert f"the configured {2 * SIZE} have no effect" in log
    assert sampler.look() == before
    assert answer.external == 640
    reference.check(TAIL, answer, n=4)
