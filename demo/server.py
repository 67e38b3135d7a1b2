# SPDX-License-Identifier: Apache-2.0
"""One life of a vLLM OpenAI server on CPU: start, wait until ready, ask, read metrics, end it.

Responsible for: the command line and environment that vLLM needs on CPU, the whole process group
(nothing survives `kill`), and one streamed question over HTTP with its times. Must not know: what
is stored where, or what an answer should be. Used by the demo and by the tests under tests/serving.

The idea: a life is a context manager around one process group and one log file; every failure
carries the end of that log, for the cause is always there and never in the HTTP error.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
HOST = "127.0.0.1"


class ServerError(RuntimeError):
    """The server did not do what it was asked to; the message ends with the end of its log."""


@dataclass(frozen=True)
class Answer:
    """What one question brought. Times are seconds from the moment the request was sent.

    `cached_tokens` are those that vLLM did not compute, where it was started with
    `--enable-prompt-tokens-details`.
    """

    text: str
    token_ids: list[int]
    prompt_tokens: int
    cached_tokens: int | None
    first_token_s: float
    total_s: float
    token_s: list[float]
    log_probs: list[float] | None


def connector_config(
    pool: Path | str, size: str, *, policy: str = "recompute", **extra: Any
) -> dict[str, Any]:
    """The value of `--kv-transfer-config` that the manual tells users to give."""
    return {
        "kv_connector": "TuttiConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": policy,
        "kv_connector_extra_config": {"pool": str(pool), "size": size, **extra},
    }


@dataclass
class Server:
    """A server that is not running yet. `kv_transfer` None runs vLLM without any connector."""

    model: Path
    log: Path
    kv_transfer: Mapping[str, Any] | None = None
    max_model_len: int = 8448
    memory_gib: int = 2
    block_size: int = 32
    dtype: str = "auto"
    threads: str = field(default_factory=lambda: engine_cores())
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable
    port: int = 0
    ready_s: float = 0.0
    process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line, as a user would type it (for a log or a manual)."""
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.model), "--served-model-name", "model"]
        command += ["--host", HOST, "--port", str(self.port)]
        command += ["--max-model-len", str(self.max_model_len), "--dtype", self.dtype]
        command += ["--block-size", str(self.block_size), "--enforce-eager"]
        if self.kv_transfer is not None:
            command += ["--kv-transfer-config", json.dumps(self.kv_transfer)]
        return [*command, *self.arguments]

    def variables(self) -> dict[str, str]:
        """The environment: vLLM's CPU settings, nothing fetched, tutti_kv from build/site."""
        path = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH", "")]))
        return {
            **os.environ,
            "PYTHONPATH": path,
            "VLLM_CPU_KVCACHE_SPACE": str(self.memory_gib),
            "VLLM_CPU_OMP_THREADS_BIND": self.threads,
            "THP_MEM_ALLOC_ENABLE": "1",  # page-aligned KV memory: direct I/O without a copy
            "TORCHDYNAMO_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
            **self.environment,
        }

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> Self:
        """Starts the process group and returns at once; `wait_ready` does the waiting."""
        if self.process is not None:
            raise ServerError("this life was started before; make another Server for another life")
        if self.port == 0:
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                self.port = int(probe.getsockname()[1])
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            log.write((" ".join(self.command()) + "\n").encode())
        self.process = self.spawn()
        return self

    def spawn(self) -> subprocess.Popen[bytes]:
        """A process group of its own that serves, with its output behind what the log has."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                env=self.variables(),
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(
        self, timeout: float = 180.0, waiting: Callable[[str], None] | None = None
    ) -> Self:
        """Waits until it answers; `waiting` hears, a few times a second, the last log line."""
        begin = time.monotonic()
        while True:
            if self.running().poll() is not None:
                raise self.failure(f"ended with status {self.running().returncode} at start")
            try:
                if httpx.get(f"{self.url}/health", timeout=2.0).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() - begin > timeout:
                raise self.failure(f"was not ready within {timeout:.0f} s")
            if waiting is not None:
                waiting(self.last_line())
            time.sleep(0.25)
        self.ready_s = time.monotonic() - begin
        return self

    def ask(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 32,
        log_probs: bool = False,
        timeout: float = 300.0,
        **fields: Any,
    ) -> Answer:
        """Asks one question, streamed, temperature 0; `fields` join the request's body."""
        body: dict[str, Any] = {
            "model": "model",
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **({"logprobs": 0} if log_probs else {}),
            **fields,
        }
        text: list[str] = []
        token_ids: list[int] = []
        token_s: list[float] = []
        chosen: list[float] = []
        prompt_tokens = 0
        cached_tokens = None
        # A connection of its own, made before the clock starts.
        with httpx.Client(base_url=self.url, timeout=timeout) as client:
            client.get("/health")
            begin = time.monotonic()
            with client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    detail = response.read().decode(errors="replace")
                    raise self.failure(f"answered HTTP {response.status_code}: {detail}")
                for event in events(response):
                    now = time.monotonic() - begin
                    if "error" in event:
                        raise self.failure(f"broke off an answer: {event['error']}")
                    if event.get("usage"):
                        prompt_tokens = int(event["usage"]["prompt_tokens"])
                        cached_tokens = (event["usage"].get("prompt_tokens_details") or {}).get(
                            "cached_tokens"
                        )
                    for choice in event["choices"]:
                        fresh = choice.get("token_ids") or []
                        text.append(choice["text"])
                        token_ids += fresh
                        token_s += [now] * len(fresh)
                        if choice.get("logprobs"):
                            chosen += choice["logprobs"]["token_logprobs"]
            total = time.monotonic() - begin
        if not token_s:
            raise self.failure("answered without a single token")
        return Answer(
            text="".join(text),
            token_ids=token_ids,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            first_token_s=token_s[0],
            total_s=total,
            token_s=token_s,
            log_probs=chosen if log_probs else None,
        )

    def metrics(self) -> dict[str, float]:
        """Every sample at /metrics, summed over its labels (buckets of histograms left out)."""
        sums: dict[str, float] = {}
        page = httpx.get(f"{self.url}/metrics", timeout=30.0, follow_redirects=True)
        page.raise_for_status()
        for family in text_string_to_metric_families(page.text):
            for sample in family.samples:
                if not sample.name.endswith("_bucket"):
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def forget_memory(self) -> None:
        """Empties vLLM's own prefix cache; what a connector holds stays."""
        response = httpx.post(f"{self.url}/reset_prefix_cache", timeout=30.0)
        if response.status_code != 200:
            raise self.failure(f"did not reset its prefix cache: {response.text}")

    def kill(self) -> None:
        """`kill -9` of the whole process group; returns when none of it runs."""
        self.end(signal.SIGKILL, 30.0)

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM to the server alone, as an operator does; what is left after `timeout` is killed.

        Returns the server's exit status (negative: the signal that ended it).
        """
        process = self.running()
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
        self.end(signal.SIGKILL, 30.0)
        return int(process.returncode)

    def end(self, number: signal.Signals, timeout: float) -> None:
        process = self.running()
        group = process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        process.wait(timeout)
        deadline = time.monotonic() + timeout
        while members := members_of(group):
            if time.monotonic() > deadline:
                raise self.failure(f"left processes behind: {members}")
            time.sleep(0.02)

    def running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServerError("the server was not started")
        return self.process

    def last_line(self) -> str:
        """The last line of the log that says something, without vLLM's prefixes."""
        lines = [line for line in self.log_text()[-4000:].splitlines() if line.strip()]
        line = lines[-1] if lines else ""
        return re.sub(r"^(\([^)]*\) )?([A-Z]+ [-\d]+ [:\d]+ (\[[^]]*\] )?)?", "", line).strip()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def failure(self, what: str) -> ServerError:
        tail = "\n".join(self.log_text().splitlines()[-25:])
        return ServerError(f"the server {what}\n--- the end of {self.log}:\n{tail}")

    def __enter__(self) -> Self:
        return self if self.process is not None else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None:
            self.kill()


def engine_cores() -> str:
    """The cores that vLLM computes on: all but one, which is left to Tutti's threads.

    Said, not left to vLLM: it takes another number of cores with a connector than without, and
    then the two cannot be compared.
    """
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores[: max(1, len(cores) - 1)]))


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to its end mark."""
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def members_of(group: int) -> list[int]:
    """The processes of a group that still run (one that waits to be reaped does not)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold anything: state, parent, process group, ...
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found
