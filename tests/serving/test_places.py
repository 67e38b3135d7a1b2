# SPDX-License-Identifier: Apache-2.0
"""Case 24: containers and media that forbid or lack something: it works, or says what and why."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confine import forbid, limit_locked_memory, page_cache_of
from conftest import Lives, Reference, prompt

from engine import Answer, Engine, LifeError

P = prompt(81, 640)
A = P + prompt(82, 30)


def twice(engine: Engine) -> tuple[Answer, Answer, dict[str, int], list[int]]:
    one = engine.ask(P)
    engine.drop_local()
    two = engine.ask(A)
    engine.healthy()
    return one, two, engine.counters(), engine.unlike_cold(P)


def works(life: Any, reference: Reference) -> dict[str, int]:
    one, two, counters, unlike = life.run(twice)
    assert two.external == 640
    assert unlike == []
    reference.check(P, one)
    reference.check(A, two)
    return dict(counters)


def no_uring() -> None:
    forbid("io_uring_setup", errno.EPERM)


def test_io_uring_is_forbidden(lives: Lives, reference: Reference) -> None:
    """By a container's seccomp profile: "auto" takes threads and says so; "uring" names it."""
    with lives("preload", before=no_uring) as life:
        works(life, reference)
        assert "engine threads" in life.log.read_text()
    with (
        pytest.raises(LifeError, match="io_uring is not permitted here"),
        lives("preload", before=no_uring, extra={"engine": "uring"}),
    ):
        pass
    off = {"engine": "uring", "on_error": "disable"}
    with lives("preload", before=no_uring, extra=off) as life:
        answer = life.run(lambda engine: engine.ask(P))
        assert "io_uring is not permitted here" in life.log.read_text()
    assert answer.external == 0
    reference.check(P, answer)


def little_memory() -> None:
    limit_locked_memory(65536)


def test_locked_memory_is_limited(lives: Lives, reference: Reference) -> None:
    """64 KiB, as containers have by default, and no CAP_IPC_LOCK."""
    with lives("preload", before=little_memory) as life:
        works(life, reference)


def test_memory_that_is_not_page_aligned_is_staged(lives: Lives, reference: Reference) -> None:
    """KV tensors 64 bytes off are the rule on CPU; direct with 4,096-byte alignment where asked."""
    with lives("preload", extra={"alignment": 4096}) as life:
        counters = works(life, reference)
        text = life.log.read_text()
    assert ", staged (" in text
    assert counters["staged_bytes"] > 0
    environment = {"THP_MEM_ALLOC_ENABLE": "1"}
    with lives("preload", environment=environment) as life:
        works(life, reference)


def test_page_cache_is_left_alone(lives: Lives, tmp_path: Path, reference: Reference) -> None:
    """On a file system with direct I/O less than 1% of what was moved stays in it."""
    with lives("preload") as life:
        counters = works(life, reference)
        path = life.run(lambda engine: engine.worker._pool.info()["paths"][0])
        direct = life.run(lambda engine: engine.worker._pool.info()["direct"])
    if not direct:
        pytest.skip("no direct I/O on this file system")
    moved = counters["read_bytes"] + counters["written_bytes"]
    # the superblock, the scan's records and what unlike_cold read itself are in it
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with lives("preload") as life:
        answer = life.run(lambda engine: engine.ask(A))
        grown = page_cache_of(path)
    assert answer.external == 640
    assert grown < max(moved // 100, 65536)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False)


def tmpfs(folder: Path) -> Callable[[], None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)], check=True)
    return lambda: unmount(folder)


def overlay(folder: Path) -> Callable[[], None]:
    parts = {name: folder.parent / f"overlay-{name}" for name in ("lower", "upper", "work")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(folder)], check=True)
    return lambda: unmount(folder)


def large_sectors(folder: Path) -> Callable[[], None]:
    image = folder.parent / "image"
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    loop = subprocess.run(
        ["losetup", "--find", "--show", "--sector-size", "4096", "--direct-io=on", str(image)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()

    def undo() -> None:
        unmount(folder)
        subprocess.run(["losetup", "--detach", loop], check=False)

    try:
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", loop], check=True)
        subprocess.run(["mount", loop, str(folder)], check=True)
    except subprocess.CalledProcessError:
        undo()
        raise
    return undo


MEDIA = {"tmpfs": tmpfs, "overlay": overlay, "4096-byte sectors": large_sectors}


@pytest.fixture
def medium(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on it."""
    folder = tmp_path / "medium"
    folder.mkdir()
    try:
        undo = MEDIA[request.param](folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{request.param} can't be mounted here: {error}")
    try:
        yield folder
    finally:
        undo()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("medium", MEDIA, indirect=True)
def test_media(medium: Path, lives: Lives, reference: Reference) -> None:
    """Bytes equal, and the line at start says how they go."""
    with lives("preload", pool=medium / "pool") as life:
        works(life, reference)
        text = life.log.read_text()
    assert "; engine " in text
    assert ", staged" in text or ", direct" in text
