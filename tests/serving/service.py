# SPDX-License-Identifier: Apache-2.0
"""One life of a vLLM HTTP server: its engine core in a process of its own, as users have it.

Responsible for starting it and for putting what it answers into the tests' words. Must not know
what is right. The one idea: it is demo/server.py's Server, but forked from the process that has
vLLM imported, as the lives of engine.py are; so it starts in seconds.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from server import Server, connector_config

from engine import BLOCK, PRELOAD, Answer, Tokens, bend

ARGUMENTS = ("--enable-prompt-tokens-details", "--num-gpu-blocks-override", "512")
STORED = "tutti_stored_slots_total"
PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


class Forked:
    """What Server wants of a process, of one that multiprocessing made."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _serve(arguments: Sequence[str], variables: dict[str, str], log: str) -> None:
    """In the child: become the server."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(os.path.dirname(log))
    sys.argv = list(arguments)
    from vllm.entrypoints.launchers.api_server.entry import main

    bend(two_batches=False)  # so that the engine core is forked too
    main()


class Service(Server):
    """A Server that is forked."""

    def spawn(self) -> "subprocess.Popen[bytes]":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        program = self.command()[2:]  # without the interpreter and its -m
        process = context.Process(target=_serve, args=(program, self.variables(), str(self.log)))
        process.start()
        return cast("subprocess.Popen[bytes]", Forked(process))


def service(
    model: Path,
    log: Path,
    pool: Path,
    *,
    size: str = "64MiB",
    fresh: bool = False,
    arguments: Sequence[str] = (),
    **extra: Any,
) -> Server:
    """A server on a pool, not yet started. fresh: nothing of it is forked, as after a reboot."""
    make = Server if fresh else Service
    return make(
        model,
        log,
        connector_config(pool, size, mode="preload", **extra),
        max_model_len=4096,
        memory_gib=1,
        block_size=BLOCK,
        dtype="float32",
        arguments=(*ARGUMENTS, *arguments),
        environment=PROCESSES,
    )


def ask(server: Server, tokens: Tokens, n: int = 16, timeout: float = 30.0) -> tuple[Answer, float]:
    """The answer, and the seconds that it took."""
    got = server.ask(tokens, max_tokens=n, log_probs=True, timeout=timeout)
    assert got.log_probs is not None
    assert got.cached_tokens is not None
    return Answer(got.token_ids, got.log_probs, got.cached_tokens, 0), got.total_s


def wait_stored(server: Server, slots: float) -> None:
    """Until so many have been reported stored in this life."""
    until = time.monotonic() + 60
    while (have := server.metrics().get(STORED, 0.0)) < slots:
        assert time.monotonic() < until, f"{have} of {slots} slots are stored"
        time.sleep(0.02)
