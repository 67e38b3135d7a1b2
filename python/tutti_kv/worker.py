# SPDX-License-Identifier: Apache-2.0
"""The worker's half: carries plans out on one rank's members.

Responsible for opening the pool, for registering KV memory, for starting what a
plan names, waiting where computation does, and telling what became of it. Must not
know requests (but for a load's name), prefixes or the directory. The one idea: it
keeps a list of sessions of the C library and looks at it once a step; between two
looks everything happens in the library's threads.

The order of a step: erase what was dropped, begin early stores, fence the blocks
that the step overwrites, begin loads; (the step computes;) end loads that were in
step, begin the step's stores, report.
"""

import errno
import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti_kv import _tutti, layout, support
from tutti_kv.config import Config
from tutti_kv.metadata import Handshake, Load, Plan, RankReport, Report, StorePlan, no_transfers
from tutti_kv.metrics import TuttiStats

logger = logging.getLogger("vllm.tutti_kv.worker")

FENCE_TIMEOUT = 5.0
SHUTDOWN_TIMEOUT = 10.0
FLUSH_EVERY = 5.0
BUSY_PATIENCE = 5.0
# Slots of stores under way; more are dropped and counted, never waited for.
MAX_STORING = 16384
_FAULTLESS = (errno.ECANCELED, errno.ETIMEDOUT)


@dataclass
class Loading:
    load: Load
    session: _tutti.Retrieve
    deadline: float
    cancelled: bool = False


@dataclass
class Storing:
    plan: StorePlan
    session: _tutti.Store


class WorkerHalf:
    """One per rank; all calls come from the worker's thread."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, config: Config, rank: int) -> None:
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._config = config
        self._rank = rank
        self._ranks: int = vllm_config.parallel_config.tensor_parallel_size
        self._dp: int = vllm_config.parallel_config.data_parallel_index
        self._home = config.home(self._dp)
        self._pool: _tutti.Pool | None = None
        self._serve: _tutti.Serve | None = None
        self._layers: dict[str, int] = {}
        self._handshake: Handshake | None = None
        self._plan: Plan | None = None
        self._loads: list[Loading] = []
        self._in_step: list[Loading] = []
        self._hooked: set[int] = set()
        self._stores: list[Storing] = []
        self._storing = 0
        self._epoch = self._oldest = 0
        self._failure = 0
        self._finished: set[str] = set()
        self._invalid: set[int] = set()
        self._bad: list[_tutti.Transfers] = []
        self._stored: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self._disabled = False
        self._stuck = False  # a store outlived its fence
        self._looked_at = 0.0
        self._counted: dict[str, int] = {}
        self._written = threading.Event()
        self._closing = threading.Event()
        self._flusher: threading.Thread | None = None
        self.stats = TuttiStats(data={})

    # ---- start ------------------------------------------------------------------

    def register(self, kv_caches: dict[str, Any]) -> None:
        """Open the pool and tell it of KV memory. Raises a sentence, or serves without."""
        reason = support.why_no_hits(self._vllm_config)
        try:
            if reason is None:
                self._open(kv_caches)
        except (OSError, layout.LayoutError) as error:
            message = error.strerror if isinstance(error, _tutti.TuttiError) else str(error)
            self.close()
            if self._config.on_error == "fail":
                raise RuntimeError(
                    f"Tutti can't serve from {self._home}: {message} "
                    '("on_error": "disable" would serve without it)'
                ) from error
            reason = message or str(error)
        if reason is not None:
            self._handshake = Handshake(self._rank, refusal=reason)

    def handshake(self) -> Handshake | None:
        return self._handshake

    def _views(self, kv_caches: dict[str, Any]) -> list[layout.View]:
        """The group's layers in order of their numbers."""
        names = list(self._kv_cache_config.kv_cache_groups[0].layer_names)
        names.sort(key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))
        self._layers = {name: index for index, name in enumerate(names)}
        views = []
        for name in names:
            tensor = kv_caches[name]
            if tensor.device.type != "cpu":
                raise layout.LayoutError(
                    f"KV memory on {tensor.device.type!r}: only host memory is served yet"
                )
            size = tensor.element_size()
            storage = tensor.untyped_storage()
            views.append(
                layout.View(
                    name,
                    tensor.data_ptr(),
                    tuple(tensor.shape),
                    tuple(stride * size for stride in tensor.stride()),
                    size,
                    storage.data_ptr(),
                    storage.nbytes(),
                )
            )
        return views

    def _layout_text(self, names: list[str], inner: tuple[tuple[int, int], ...]) -> str:
        """What gives a block's bytes their meaning, beside the model."""
        context = self._vllm_config.compilation_config.static_forward_context
        layers = [context[n] for n in names if n in context]
        backends = sorted(
            # the CPU back-end packs KV as the instruction set wants it: same shape, other bytes
            {
                f"{layer.get_attn_backend().get_name()} {getattr(layer, 'isa', '')}"
                for layer in layers
            }
        )
        cache = self._vllm_config.cache_config
        spec = support.first_spec(self._kv_cache_config.kv_cache_groups[0].kv_cache_spec)
        return (
            f"{'+'.join(backends)} {cache.kv_cache_layout} {cache.cache_dtype} {spec.dtype} "
            f"{spec.block_size} tokens {list(inner)}"
        )

    def _open(self, kv_caches: dict[str, Any]) -> None:
        spec = support.first_spec(self._kv_cache_config.kv_cache_groups[0].kv_cache_spec)
        blocks = self._kv_cache_config.num_blocks
        views = self._views(kv_caches)
        block_bytes = getattr(spec, "unpadded_page_size_bytes", spec.page_size_bytes)
        planes, regions, parts, part_bytes = layout.planes(views, blocks, block_bytes)
        inner = layout.split(views[0], blocks, block_bytes).inner
        text = self._layout_text([view.name for view in views], inner)
        geometry = layout.geometry(len(views), parts, part_bytes, spec.block_size, text)
        pool = self._open_pool(geometry)
        self._pool = pool
        info = pool.info()
        scan = os.path.join(self._home, f"scan.rank{self._rank}")
        counts = pool.scan_to_file(scan)
        logger.info(
            "Tutti: rank %d: %d records found in %.2f s (%d empty, %d torn, %d void, %d alien)",
            self._rank,
            counts["valid"],
            counts["nanoseconds"] / 1e9,
            counts["empty"],
            counts["torn"],
            counts["void"],
            counts["alien"],
        )
        config = self._config
        self._serve = _tutti.Serve(
            pool,
            engine=config.engine,
            staging=config.staging,
            cpus=config.cpus,
            look_ahead=config.look_ahead,
            unverified=config.unverified,
            fault_rules=config.fault_rules,
            fault_inner=config.fault_inner,
        )
        direct, why = self._serve.register(planes, blocks, regions)
        self._epoch, self._oldest = info["epoch"], info["oldest_epoch"]
        self._handshake = Handshake(
            self._rank,
            pool=info["pool"],
            epoch=info["epoch"],
            geometry=geometry,
            placement=pool.placement(),
            layout=text,
            scan_path=scan,
            engine=self._serve.engine,
            direct=direct and info["direct"],
            direct_reason=why or info["direct_reason"],
        )
        self._flusher = threading.Thread(target=self._flush, name="tutti-flush", daemon=True)
        self._flusher.start()

    def _open_pool(self, geometry: _tutti.Geometry) -> _tutti.Pool:
        config = self._config
        members = config.member_paths(self._rank, self._dp)
        if not config.members:
            for folder in members:  # of a pool with {rank} in its path
                os.makedirs(folder, mode=0o700, exist_ok=True)
        size = config.size or 0
        until = time.monotonic() + BUSY_PATIENCE
        while True:
            try:
                pool, made = _tutti.Pool.open_or_format(
                    self._home,
                    members=members,
                    rank=self._rank,
                    ranks=self._ranks,
                    size=size,
                    geometry=geometry,
                    alignment=config.alignment,
                )
                break
            except _tutti.TuttiError as error:
                if error.errno == errno.EBUSY and time.monotonic() < until:
                    # the workers of a server that was killed outlive it by a moment
                    logger.info("Tutti: %s; trying again", error.strerror)
                    time.sleep(1.0)
                elif error.errno == errno.ENOENT and size == 0:
                    raise _tutti.TuttiError(
                        errno.ENOENT, f'{error.strerror}; give a "size" to have it made'
                    ) from error
                else:
                    raise
        info = pool.info()
        there = info["first_extent"] * info["members"] + info["extents"] * info["extent_bytes"]
        if made:
            logger.info("Tutti: made a pool of %.2f GiB for rank %d", there / 2**30, self._rank)
        elif 0 < size < there:
            pool.close()
            raise _tutti.TuttiError(
                errno.EINVAL,
                f"{info['paths'][0]} was formatted with {there} bytes a rank, more than the "
                f"configured {size}: remove the pool, or give it its size back",
            )
        elif size > there + info["extent_bytes"] * info["members"]:
            logger.warning(
                "Tutti: the pool keeps the %d bytes a rank that it was formatted with; "
                "the configured %d have no effect",
                there,
                size,
            )
        return pool

    def _flush(self) -> None:
        """Bound what a power loss forgets; nothing waits for it."""
        while not self._closing.wait(FLUSH_EVERY):
            if self._written.is_set() and self._pool is not None:
                self._written.clear()
                try:
                    self._pool.flush()
                except OSError:
                    logger.exception("Tutti: rank %d can't flush its members", self._rank)

    # ---- before a step computes -----------------------------------------------------

    def prepare(self, plan: Plan) -> None:
        """Blocks are about to be overwritten: fence them. Also what must go before."""
        if self._serve is None:
            return
        if plan.oldest_epoch > self._oldest or len(plan.erase):
            self._make_durable(plan)
        if len(plan.erase) and self._epoch >= plan.epoch:
            try:
                self._serve.erase(plan.erase)
            except OSError as error:  # they are dropped all the same, and verified if they return
                logger.warning("Tutti: records can't be emptied: %s", error.strerror)
        for store in plan.stores:
            if store.early:
                self._begin_store(plan, store)
        patience = 0.0 if self._stuck else FENCE_TIMEOUT
        if len(plan.fence) and self._serve.fence(plan.fence, patience) < 0 and not self._stuck:
            # What it still reads is overwritten; but a cancelled store writes no record.
            self._stuck = True
            logger.warning(
                "Tutti: a store did not end within %g s of its fence; nothing is stored until it "
                "has, and nothing waits for it any more",
                FENCE_TIMEOUT,
            )

    def bind(self, plan: Plan) -> None:
        """Begin the loads: those in step now, the others beside the computation."""
        self._plan = plan
        self._hooked.clear()
        for load in plan.loads:
            self._begin_load(load)

    def _begin_load(self, load: Load) -> None:
        try:
            if self._serve is None:
                raise _tutti.TuttiError(errno.ENODEV, "no pool is open")
            session = self._serve.retrieve(load.items, in_step=load.in_step, tag=0)
        except OSError as error:
            logger.error("Tutti: a load can't be begun: %s", error.strerror)
            self._load_failed(load, np.full(len(load.items), errno.ECANCELED, np.uint8))
            if not load.in_step:
                self._finished.add(load.request)
            return
        loading = Loading(load, session, time.monotonic() + self._config.load_timeout)
        (self._in_step if load.in_step else self._loads).append(loading)

    def wait_for_layer(self, name: str) -> None:
        """Before a layer attends: its blocks are in place and verified, or noted as bad."""
        index = self._layers.get(name)
        if index is None or not self._in_step:
            return
        self._hooked.add(index)
        for loading in self._in_step:
            rest = loading.deadline - time.monotonic()
            if loading.session.layer(index, max(rest, 0.0)) == errno.ETIMEDOUT:
                loading.cancelled = True
                loading.session.cancel()

    # ---- when a step has computed ---------------------------------------------------

    def step_ended(self) -> None:
        """Every layer of every token of the step is computed: store what the plan names."""
        plan = self._plan
        if plan is None or self._serve is None:
            return
        self._end_in_step()
        for store in plan.stores:
            if not store.early:
                self._begin_store(plan, store)
        self._serve.progress()
        self._poll_stores()

    def _make_durable(self, plan: Plan) -> bool:
        """An epoch is on disk before the first store of it."""
        if self._epoch >= plan.epoch:
            return True
        assert self._pool is not None
        try:
            self._pool.begin_epoch(plan.epoch, plan.oldest_epoch, plan.identity)
        except OSError as error:
            logger.error("Tutti: epoch %d can't be begun: %s", plan.epoch, error.strerror)
            return False
        self._epoch, self._oldest = plan.epoch, plan.oldest_epoch
        return True

    def _may_store(self, plan: Plan) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= 1.0:
            self._looked_at = now
            self._disabled = _tutti.disabled(self._home) is not None
        if self._disabled or self._stuck or self._failure > plan.acknowledged.get(self._rank, 0):
            return False
        return self._make_durable(plan)

    def _begin_store(self, plan: Plan, store: StorePlan) -> None:
        count = len(store.items)
        if self._storing + count <= MAX_STORING and self._may_store(plan):
            assert self._serve is not None
            try:
                session = self._serve.store(
                    store.items, store.origins, layers_ready=len(self._layers), tag=store.number
                )
            except OSError as error:
                logger.warning("Tutti: a store was dropped: %s", error.strerror)
            else:
                self._stores.append(Storing(store, session))
                self._storing += count
                return
        self._stored[store.number] = np.zeros(count, np.uint8)
        self.stats.add("store_dropped", count)

    def _poll_stores(self) -> None:
        still: list[Storing] = []
        for storing in self._stores:
            if not storing.session.poll():
                still.append(storing)
                continue
            result = storing.session.result()
            storing.session.end()
            ok = (result.position == 0).astype(np.uint8)
            self._stored[storing.plan.number] = ok
            self._storing -= len(ok)
            good = int(ok.sum())
            self.stats.add("stored_slots", good)
            self.stats.add("stored_bytes", result.bytes)
            self.stats.add("store_dropped", len(ok) - good)
            if good:
                self._written.set()
        self._stores = still
        self._stuck = self._stuck and bool(still)

    def _end_in_step(self) -> None:
        """All in-step loads are over before the step's output is used."""
        if not self._in_step:
            return
        hooks_ran = len(self._hooked) == len(self._layers)
        for loading in self._in_step:
            while not loading.session.wait(max(loading.deadline - time.monotonic(), 1.0)):
                # its blocks can't be given back while a read may still land in them
                logger.error("Tutti: a load does not end; cancelling it")
                loading.session.cancel()
            position = self._take_result(loading)
            if not hooks_ran and not position.any():
                position = np.full(len(position), errno.ECANCELED, np.uint8)
                logger.error(
                    "Tutti: only %d of %d layers waited for their loads; the blocks are "
                    "reported as failed (does a CUDA graph skip the hooks?)",
                    len(self._hooked),
                    len(self._layers),
                )
            self._load_failed(loading.load, position)
        self._in_step = []

    def _take_result(self, loading: Loading) -> np.ndarray[Any, np.dtype[np.uint8]]:
        result = loading.session.result()
        loading.session.end()
        self.stats.add("load_bytes", result.bytes)
        self.stats.add("load_slots", result.good)
        return result.position

    def _load_failed(self, load: Load, position: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Note the blocks of positions with an errno; nothing happens where there are none."""
        failed = position != 0
        if not failed.any():
            return
        self._failure += 1
        self.stats.add("load_failures")
        self._invalid.update(load.items["block"][failed].tolist())
        bad = load.items[failed & ~np.isin(position, _FAULTLESS)]
        self._bad.append(bad[bad["generation"] != 0])

    def poll_loads(self) -> set[str]:
        """Names of the requests whose loads have ended since the last time, well or not."""
        self._end_in_step()
        still: list[Loading] = []
        for loading in self._loads:
            if not loading.session.poll():
                if not loading.cancelled and time.monotonic() > loading.deadline:
                    logger.error("Tutti: a load takes longer than load_timeout; cancelling it")
                    loading.cancelled = True
                    loading.session.cancel()
                still.append(loading)
                continue
            self._load_failed(loading.load, self._take_result(loading))
            self._finished.add(loading.load.request)
        self._loads = still
        finished, self._finished = self._finished, set()
        return finished

    def take_invalid_blocks(self) -> set[int]:
        invalid, self._invalid = self._invalid, set()
        return invalid

    def report(self) -> Report | None:
        """This step's news."""
        plan = self._plan
        if plan is None:
            return None
        stored, self._stored = self._stored, {}
        bad, self._bad = self._bad, []
        return Report(
            {
                self._rank: RankReport(
                    plan.step,
                    self._epoch,
                    self._failure,
                    stored,
                    np.concatenate(bad) if bad else no_transfers(),
                )
            }
        )

    def unbind(self) -> None:
        self._plan = None

    def take_stats(self) -> TuttiStats | None:
        if self._serve is not None:
            counters = self._serve.counters()
            for name in ("verify_failures", "io_errors"):
                self.stats.add(name, counters[name] - self._counted.get(name, 0))
            self._counted = counters
        return self.stats.take()

    # ---- the end --------------------------------------------------------------------

    def close(self) -> None:
        """Stores under way get a bounded time; then everything is closed."""
        self._closing.set()
        if self._flusher is not None:
            self._flusher.join()
            self._flusher = None
        if self._serve is not None:
            until = time.monotonic() + SHUTDOWN_TIMEOUT
            for storing in self._stores:
                storing.session.wait(max(until - time.monotonic(), 0.0))
            self._stores, self._loads, self._in_step = [], [], []
            self._serve.close()
            self._serve = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
