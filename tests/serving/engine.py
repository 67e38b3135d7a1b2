# SPDX-License-Identifier: Apache-2.0
"""One life of a vLLM engine in a process of its own, driven from a test.

Responsible for starting vLLM (real, on CPU, in one process), for running a test's
functions inside it, and for killing it in every way. Must not know what is right.
The one idea: a process that has vLLM imported is forked for each life, so a life
costs two seconds and a test may have many.

In the child a test's function gets an Engine: it asks, steps, aborts, looks at both
halves of the connector and at the pool's files.
"""

import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

import cloudpickle  # type: ignore[import-untyped]

T = TypeVar("T")
Tokens = list[int]

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}
# The process that lives are forked from imports torch, which looks at some of them once.
os.environ.update(ENVIRONMENT)
PRELOAD = [
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.models.llama",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.openai.api_server",
    "tutti_kv.connector",
]
BLOCK = 32


@dataclass
class Answer:
    """What became of one request.

    tokens, logprobs: what was generated, and the log-probability of each
    cached: prompt tokens that vLLM did not compute; external: of these, those that
        the connector was asked to bring
    error: it ended by the policy "fail"
    """

    tokens: Tokens
    logprobs: list[float]
    cached: int
    external: int
    error: bool = False
    steps: int = 0


@dataclass
class Engine:
    """vLLM inside the child."""

    llm: Any
    external: dict[str, int] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    number: int = 0
    steps: int = 0
    ended: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        connector = self.scheduler.connector
        if connector is None:
            return
        allocated = connector.update_state_after_alloc

        def count(request: Any, blocks: Any, tokens: int) -> None:
            if tokens:
                self.external[request.request_id] = tokens
            allocated(request, blocks, tokens)

        connector.update_state_after_alloc = count
        self._total(self.half)
        if self.core.vllm_config.parallel_config.tensor_parallel_size == 1:
            self._total(self.worker)

    def _total(self, half: Any) -> None:
        take = half.take_stats

        def taking() -> Any:
            stats = take()
            for name, value in (stats.data if stats else {}).items():
                for of in {name, name.partition("|")[0]}:  # by its labels, and over all of them
                    self.totals[of] = self.totals.get(of, 0) + value
            return stats

        half.take_stats = taking

    @property
    def half(self) -> Any:
        """The connector's half in the scheduler."""
        return self.scheduler.connector.scheduler

    @property
    def worker(self) -> Any:
        """The connector's half in the (only) worker."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group().worker

    def submit(self, prompt: Tokens, *, n: int = 16, **extra: Any) -> str:
        """Hand a request in; returns vLLM's own name of it."""
        from vllm import SamplingParams

        lora = extra.pop("lora", None)
        salt = extra.pop("salt", None)
        logprobs = extra.pop("logprobs", 0)
        priority = extra.pop("priority", 0)
        embeddings = extra.pop("embeddings", None)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=n,
            ignore_eos=True,
            detokenize=False,
            logprobs=logprobs,
            **extra,
        )
        self.number += 1
        body: dict[str, Any] = {"prompt_token_ids": list(prompt)}
        if embeddings is not None:
            body = {"prompt_embeds": embeddings}
        if salt is not None:
            body["cache_salt"] = salt
        name: str = self.llm.llm_engine.add_request(
            f"r{self.number}", body, params, lora_request=lora, priority=priority
        )
        return name

    def step(self) -> list[Any]:
        """One step of the engine; what it has put out, and the ended requests are kept."""
        outputs: list[Any] = self.llm.llm_engine.step()
        self.steps += 1
        for output in outputs:
            if output.finished:
                self.ended[output.request_id] = (output, self.steps)
        return outputs

    def abort(self, name: str) -> None:
        self.llm.llm_engine.abort_request([name], internal=True)

    def collect(self, names: Sequence[str], limit: int = 20000) -> list[Answer]:
        """Step until all of these have ended (some may have, before)."""
        waiting = {name.rsplit("-", 1)[0]: name for name in names}
        began = self.steps
        for _ in range(limit):
            if all(short in self.ended for short in waiting):
                return [
                    self._answer(name, self.ended[short][0], self.ended[short][1] - began)
                    for short, name in waiting.items()
                ]
            if not self.scheduler.has_unfinished_requests() and not self.core.batch_queue:
                break
            self.step()
            if not self.scheduler.running:
                time.sleep(0.0005)  # as the engine's own loop does
        missing = [short for short in waiting if short not in self.ended]
        raise AssertionError(f"{missing} did not end in {self.steps - began} steps")

    def _answer(self, name: str, output: Any, steps: int) -> Answer:
        best = output.outputs[0]
        logprobs = [
            float(table[token].logprob)
            for token, table in zip(best.token_ids, best.logprobs or [], strict=False)
        ]
        return Answer(
            list(best.token_ids),
            logprobs,
            output.num_cached_tokens or 0,
            self.external.get(name, 0),
            best.finish_reason == "error",
            steps,
        )

    def ask(self, prompt: Tokens, **extra: Any) -> Answer:
        """One request from beginning to end, reports included."""
        return self.ask_all([prompt], **extra)[0]

    def ask_embeddings(self, embeddings: Any) -> Answer:
        """As ask(), for a prompt that is a tensor."""
        return self.ask([], embeddings=embeddings, logprobs=None)

    def ask_all(self, prompts: Sequence[Tokens], **extra: Any) -> list[Answer]:
        """Requests all at once, and then until nothing is under way."""
        answers = self.collect([self.submit(prompt, **extra) for prompt in prompts])
        self.drain()
        return answers

    def drain(self, patience: float = 60.0) -> None:
        """Step as an idle engine does until nothing is under way."""
        end = time.monotonic() + patience
        while self.scheduler.has_requests() or self.core.batch_queue:
            assert time.monotonic() < end, "the engine does not come to rest"
            self.step()
            time.sleep(0.0005)

    def healthy(self) -> None:
        """Nothing is left behind, and no invariant is broken."""
        self.drain()
        half = self.half
        assert half._off is None, half._off
        assert half.directory_stats()["pinned"] == 0
        assert len(half._loads) == 0
        assert len(half._stores) == 0
        half._directory.audit()

    def spend(self) -> dict[str, float]:
        """What the connector has counted since the last call."""
        self.step()
        spent, self.totals = self.totals, {}
        for half in (self.half, self.worker):
            half.take_stats()
        for name, value in self.totals.items():
            spent[name] = spent.get(name, 0) + value
        self.totals = {}
        return spent

    def drop_local(self) -> None:
        """Empty vLLM's own prefix cache."""
        assert self.llm.reset_prefix_cache(), "vLLM's prefix cache is in use"

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.worker._serve.counters()
        return counters

    def slots(self, prompt: Tokens) -> list[Any]:
        """The transfers of a prompt's visible blocks, by the engine's own hashes."""
        from tutti_kv.sequence import HASH_BYTES

        hashes = b"".join(self.hashes(prompt))
        directory = self.half._directory
        match = directory.find(hashes, HASH_BYTES, len(hashes) // HASH_BYTES)
        if match.blocks == 0:
            return []
        items = directory.pin(match, 0)
        directory.unpin(match.slot, match.generation)
        return list(items)

    def hashes(self, prompt: Tokens) -> list[bytes]:
        """vLLM's block hashes of a prompt."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        request = Request(
            "hash",
            list(prompt),
            SamplingParams(max_tokens=1),
            None,
            block_hasher=self.core.request_block_hasher,
        )
        return list(request.block_hashes)

    def unlike_cold(self, tokens: Tokens) -> list[int]:
        """Blocks of a prompt whose stored bytes differ from KV that is computed anew."""
        import numpy as np

        off, self.half._off = self.half._off, "a test computes"
        try:
            self.drop_local()
            self.ask(tokens, n=1)
        finally:
            self.half._off = off
        pool = self.scheduler.kv_cache_manager.block_pool
        layers = self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.kv_caches
        placement = self.worker._pool.placement()
        paths = self.worker._pool.info()["paths"]
        unlike = []
        for index, (item, block_hash) in enumerate(
            zip(self.slots(tokens), self.hashes(tokens), strict=False)
        ):
            cached = pool.get_cached_block(block_hash, [0])
            if cached is None:
                continue  # the last block's tail has no hash
            for layer, tensor in enumerate(layers):
                want = tensor[cached[0].block_id].numpy().reshape(-1)
                member, offset = placement.object_place(int(item["slot"]), layer)
                with open(paths[member], "rb", buffering=0) as file:
                    have = np.frombuffer(os.pread(file.fileno(), want.nbytes, offset), np.float32)
                if not np.allclose(want, have, atol=1e-2):
                    unlike.append(index)
                    break
        return unlike

    def spoil(self, prompt: Tokens, block: int, layer: int = 1, at: int = 100) -> None:
        """Overwrite bytes of one object of a stored block in the member."""
        item = self.slots(prompt)[block]
        member, offset = self.worker._pool.placement().object_place(int(item["slot"]), layer)
        damage(self.worker._pool.info()["paths"][member], offset + at)


def damage(path: str, offset: int, length: int = 64) -> None:
    """Make bytes of a file other ones, past the page cache of nobody (O_DIRECT readers see it)."""
    with open(path, "r+b", buffering=0) as file:
        old = os.pread(file.fileno(), length, offset)
        os.pwrite(file.fileno(), bytes(byte ^ 0x5A for byte in old), offset)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bend(two_batches: bool) -> None:
    """Change what vLLM on CPU decides for itself.

    two_batches: it forces asynchronous scheduling off; set it back (feasibility.md). And its
    workers, where there are several, are forked: they have vLLM imported already.
    """
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def keep(cls: Any, vllm_config: Any) -> None:
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = two_batches
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(keep)


def _live(channel: Connection, log: str, environment: dict[str, str], options: Any) -> None:
    """The child: make the engine, then run what is sent until told to stop."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    # What was imported before the fork is not looked through at each end (vLLM would thaw it).
    gc.freeze()
    gc.unfreeze = lambda: None
    try:
        if (before := options.pop("before", None)) is not None:
            cloudpickle.loads(before)()
        from vllm import LLM

        bend(options.pop("two_batches"))
        engine = Engine(LLM(**options))
        if environment.get("TUTTI_TEST_BATCHES"):
            assert engine.core.vllm_config.max_concurrent_batches == 2
        channel.send((True, None))
        while True:
            packed = channel.recv()
            if packed is None:
                break
            function, arguments = cloudpickle.loads(packed)
            try:
                channel.send((True, function(engine, *arguments)))
            except BaseException as error:
                channel.send((False, f"{error!r}\n{traceback.format_exc()}"))
        engine.core.shutdown()
        channel.send((True, None))
    except BaseException as error:
        channel.send((False, f"{error!r}\n{traceback.format_exc()}"))
    sys.stdout.flush()
    os._exit(0)


class LifeError(AssertionError):
    """What went wrong inside a life, with the end of its log."""


class Life:
    """A context manager around one engine process.

    pool: the pool's folder, or None for vLLM without a connector
    before: called in the process before the engine is made
    """

    def __init__(
        self,
        model: Path,
        log: Path,
        pool: Path | None = None,
        *,
        size: str = "64MiB",
        policy: str = "recompute",
        extra: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        two_batches: bool = False,
        before: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        self.log = log
        transfer = None
        if pool is not None:
            transfer = {
                "kv_connector": "TuttiConnector",
                "kv_role": "kv_both",
                "kv_load_failure_policy": policy,
                "kv_connector_extra_config": {
                    "pool": str(pool),
                    "size": size,
                    "scrub": 0,  # it would find what a test spoils before a load does
                    **(extra or {}),
                },
            }
        self.options: dict[str, Any] = {
            "model": str(model),
            "skip_tokenizer_init": True,
            "enforce_eager": True,
            "block_size": BLOCK,
            "max_model_len": 4096,
            "dtype": "float32",
            "distributed_executor_backend": "uni",
            "seed": 0,
            "num_gpu_blocks_override": 512,
            "kv_transfer_config": transfer,
            "two_batches": two_batches,
            "before": None if before is None else cloudpickle.dumps(before),
            **options,
        }
        self.environment = {**ENVIRONMENT, **(environment or {})}
        if two_batches:
            self.environment["TUTTI_TEST_BATCHES"] = "2"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.channel, self._far = self.context.Pipe()
        self.process: Any = None

    def __enter__(self) -> Self:
        self.process = self.context.Process(
            target=_live, args=(self._far, str(self.log), self.environment, self.options)
        )
        self.process.start()
        self._far.close()
        self._receive(120)
        return self

    def _receive(self, timeout: float) -> Any:
        try:
            if not self.channel.poll(timeout):
                raise LifeError(f"no answer in {timeout:g} s\n{self.tail()}")
            good, value = self.channel.recv()
        except EOFError:
            raise LifeError(f"the engine's process ended\n{self.tail()}") from None
        if not good:
            raise LifeError(f"{value}\n{self.tail()}")
        return value

    def tail(self, lines: int = 20) -> str:
        """The end of the log, without vLLM's chatter."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        kept = [
            line[:300]
            for line in text.splitlines()
            if "Tutti" in line or not any(word in line for word in (" INFO ", " WARNING "))
        ]
        return "\n".join(kept[-lines:])

    def run(self, function: Callable[..., T], *arguments: Any, timeout: float = 120) -> T:
        """Run function(engine, *arguments) in the child and return what it returns."""
        module = sys.modules[function.__module__]
        cloudpickle.register_pickle_by_value(module)
        try:
            self.channel.send(cloudpickle.dumps((function, arguments)))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        value: T = self._receive(timeout)
        return value

    def alive(self) -> bool:
        return self.process is not None and bool(self.process.is_alive())

    def end(self) -> None:
        """As SIGTERM does: the engine shuts down in order."""
        if self.alive():
            self.channel.send(None)
            self._receive(60)
            self.process.join(30)

    def kill(self) -> None:
        """As SIGKILL does."""
        if self.alive():
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.join(30)

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.end()
        finally:
            self.kill()
