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
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutti_kv import _tutti, salvage, support
from tutti_kv.adapters import Loaded
from tutti_kv.bell import Bell
from tutti_kv.config import Config
from tutti_kv.counting import Counting
from tutti_kv.members import Opener
from tutti_kv.metadata import (
    Handshake,
    Load,
    Plan,
    RankReport,
    Report,
    StorePlan,
    no_blocks,
    no_transfers,
)
from tutti_kv.metrics import TuttiStats
from tutti_kv.salvage import Salvage, keep_for_ever
from tutti_kv.scrubbing import Scrubbing
from tutti_kv.watching import MemberWatch, Switch
from tutti_kv.weights import Weights, find_worker
from tutti_kv.writing import Writing, reasons

logger = logging.getLogger("vllm.tutti_kv.worker")

SHUTDOWN_TIMEOUT = 10.0
MAX_UNTOLD = 64  # lists of bad slots that wait for a report; then nothing more is looked for
_OTHER_ADAPTER = errno.EKEYREJECTED  # of a position whose request has another adapter by now
# of positions that say nothing about a slot: given up, on a fenced member, or not awaited
_FAULTLESS = (errno.ECANCELED, errno.ETIMEDOUT, errno.ENODEV, errno.EBUSY, _OTHER_ADAPTER)
# The words of the metrics' labels; any other errno is the disk's.
_LOAD_REASONS = {
    errno.EBADMSG: "checksum",
    errno.ESTALE: "other record",
    errno.ECANCELED: "cancelled",
    errno.ETIMEDOUT: "no end",
    errno.ENOBUFS: "staging",
    _OTHER_ADAPTER: "adapter replaced",
    errno.EBUSY: "captured",
}


@dataclass
class Loading:
    load: Load
    session: _tutti.Retrieve
    deadline: float
    cancelled: bool = False


class WorkerHalf:
    """One per rank; all calls come from the worker's thread, and that holds the turn."""

    def __init__(
        self,
        vllm_config: Any,
        kv_cache_config: Any,
        config: Config,
        rank: int,
        turn: threading.Lock,
    ) -> None:
        self._vllm_config = vllm_config
        self._config = config
        self._rank = rank
        self._home = config.home(vllm_config.parallel_config.data_parallel_index)
        self._opener = Opener(vllm_config, kv_cache_config, config, rank)
        self._pool: _tutti.Pool | None = None
        self._serve: _tutti.Serve | None = None
        self._weights: Weights | None = None
        self._turn = turn
        self._bell = Bell()
        self._scrubbing: Scrubbing | None = None
        self._adapters = Loaded()
        self._layers: dict[str, int] = {}
        self._handshake: Handshake | None = None
        self._plan: Plan | None = None
        self._owed: dict[str, Load] = {}  # loads that vLLM has not heard the end of
        self._begun: set[str] = set()  # those of them that the library may know
        self._loads: list[Loading] = []
        self._in_step: list[Loading] = []
        self._held: list[Loading] = []  # over for vLLM, not for the disk
        self._hooked: set[int] = set()
        self._epoch = self._oldest = 0
        self._failure = 0
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._invalid: set[int] = set()
        self._bad: list[_tutti.Transfers] = []
        self._switch = Switch(self._home)
        self._members: MemberWatch | None = None
        self.stats = TuttiStats(data={})
        self._stores = Writing(rank, self.stats)
        self._counting = Counting(rank, self.stats)

    # ---- start ------------------------------------------------------------------

    def register(self, kv_caches: dict[str, Any]) -> None:
        """Open the pool and tell it of KV memory. Raises a sentence, or serves without."""
        reason = support.why_no_hits(self._vllm_config)
        try:
            if reason is None:
                self._open(kv_caches)
        except Exception as error:
            message = str(getattr(error, "strerror", None) or error) or repr(error)
            self.close()
            if self._config.on_error == "fail":
                raise RuntimeError(
                    f"Tutti can't serve from {self._home}: {message} "
                    '("on_error": "disable" would serve without it)'
                ) from error
            reason = message
        if reason is not None:
            self._handshake = Handshake(self._rank, refusal=reason)

    def _open(self, kv_caches: dict[str, Any]) -> None:
        opened = self._opener.open(kv_caches)
        self._pool, self._serve, self._layers = opened.pool, opened.serve, opened.layers
        self._handshake = opened.handshake
        self._handshake.bell = self._bell.path
        worker = find_worker(self._vllm_config)
        self._weights = Weights(worker)
        self._adapters.follow(worker, self._vllm_config.lora_config)
        info = opened.pool.info()
        self._epoch, self._oldest = info["epoch"], info["oldest_epoch"]
        self._switch.watch()
        self._members = MemberWatch((opened.serve, opened.pool), self._rank, self._home, self._bell)
        if self._config.scrub:
            self._scrubbing = Scrubbing(
                (opened.serve, opened.pool),
                self._config.scrub,
                self._rank,
                self._turn,
                self._bell,
                idle=lambda: self._plan is None and len(self._bad) < MAX_UNTOLD,
                found=lambda bad: self._bad.append(bad),
            )

    def handshake(self) -> Handshake | None:
        return self._handshake

    # ---- before a step computes -----------------------------------------------------

    def prepare(self, plan: Plan) -> None:
        """Blocks are about to be overwritten: fence them. Also what must go before."""
        if self._serve is None:
            return
        self._look_at_held()
        if self._weights is not None:
            self._weights.step_began()
        if plan.off:
            self._stores.cancel()
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
        self._stores.fence(self._serve, plan.fence)

    def bind(self, plan: Plan) -> None:
        """Begin the loads: those in step now, the others beside the computation."""
        self._plan = plan
        self._hooked.clear()
        self._owed.update((load.request, load) for load in plan.loads)
        for load in plan.loads:
            self._begin_load(load)

    def _begin_load(self, load: Load) -> None:
        try:
            if self._serve is None:
                raise _tutti.TuttiError(errno.ENODEV, "no pool is open")
            if self._held:
                raise _tutti.TuttiError(errno.EBUSY, "an earlier read has not ended")
            if self._weights_changed():
                raise _tutti.TuttiError(errno.ESTALE, "the weights have changed")
            if not self._adapters.computes_with(load.adapter):
                raise _tutti.TuttiError(_OTHER_ADAPTER, "its adapter was replaced")
            self._begun.add(load.request)  # now it may: what is raised from here on tells nothing
            session = self._serve.retrieve(load.items, in_step=load.in_step, tag=0)
        except OSError as error:
            self._begun.discard(load.request)
            logger.error("Tutti: a load can't be begun: %s", error.strerror)
            why = _OTHER_ADAPTER if error.errno == _OTHER_ADAPTER else errno.ECANCELED
            self._load_failed(load, np.full(len(load.items), why, np.uint8))
            self._over(load)
            return
        loading = Loading(load, session, time.monotonic() + self._config.load_timeout)
        (self._in_step if load.in_step else self._loads).append(loading)

    def _weights_changed(self) -> bool:
        """Whether they did, and the scheduler's half has not dealt with it yet."""
        if self._weights is None or self._plan is None:
            return False
        self._weights.look()
        return self._weights.changes > self._plan.weights.get(self._rank, 0)

    def wait_for_layer(self, name: str) -> None:
        """Before a layer attends: its blocks are in place and verified, or noted as bad."""
        index = self._layers.get(name)
        if index is None or not self._in_step:
            return
        self._hooked.add(index)
        began = time.monotonic()
        for loading in self._in_step:
            rest = loading.deadline - time.monotonic()
            failed = loading.session.layer(index, max(rest, 0.0))
            if failed == errno.ETIMEDOUT:
                loading.cancelled = True
                loading.session.cancel()
            elif failed == errno.EBUSY:  # told by the session's end too: all of it has failed
                logger.error("Tutti: %s", loading.session.refused())
        self.stats.add("layer_wait_seconds", time.monotonic() - began, rank=self._rank)

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
        if self._stores.poll() and self._members is not None:
            self._members.written()
        if self._weights is not None:
            self._weights.step_ended()

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

    def _why_no_store(self, plan: Plan) -> str | None:
        """What is against storing now, in the words of a metric's label."""
        if plan.off:
            return "off"
        if self._switch.thrown is not None:
            return "disabled"
        if self._weights_changed():
            return "weights changed"
        if self._stores.stuck:
            return "a write is stuck"
        if self._failure > plan.acknowledged.get(self._rank, 0):
            return "computed over a failed load"
        return None if self._make_durable(plan) else "no epoch"

    def _begin_store(self, plan: Plan, store: StorePlan) -> None:
        assert self._serve is not None
        why = self._why_no_store(plan)
        known = plan.replaced.get(self._rank, {})
        if why is None and self._adapters.spoils(store.adapter, known):
            why = "adapter replaced"
        self._stores.begin(self._serve, store, len(self._layers), why)

    def _end_in_step(self) -> None:
        """All in-step loads are over, or set aside, before the step's output is used."""
        if not self._in_step:
            return
        hooks_ran = len(self._hooked) == len(self._layers)
        for loading in self._in_step:
            position = self._wait_for_end(loading)
            if not hooks_ran and not position.any():
                position = np.full(len(position), errno.ECANCELED, np.uint8)
                logger.error(
                    "Tutti: only %d of %d layers waited for their loads; the blocks are "
                    "reported as failed (does a CUDA graph skip the hooks?)",
                    len(self._hooked),
                    len(self._layers),
                )
            self._load_failed(loading.load, position)
            self._over(loading.load)
        self._in_step = []

    def _wait_for_end(self, loading: Loading) -> NDArray[np.uint8]:
        """What became of each position; ETIMEDOUT where a read may still land."""
        for patience in (0.0, salvage.CANCEL_PATIENCE):
            rest = loading.deadline + patience - time.monotonic()
            if loading.session.wait(max(rest, 0.0)):
                return self._take_result(loading)
            loading.session.cancel()
        return self._hold(loading)

    def _hold(self, loading: Loading) -> NDArray[np.uint8]:
        """It does not end: vLLM gets its blocks back as failed, and nobody gets them."""
        logger.error("Tutti: rank %d: a load does not end, and its blocks are held", self._rank)
        self._held.append(loading)
        self._begun.discard(loading.load.request)
        return np.full(len(loading.load.items), errno.ETIMEDOUT, np.uint8)

    def _look_at_held(self) -> None:
        for loading in [loading for loading in self._held if loading.session.poll()]:
            loading.session.end()
            self._held.remove(loading)

    def _over(self, load: Load) -> None:
        """vLLM will hear of it with this step's report."""
        if load.in_step:
            self._owed.pop(load.request, None)
        else:
            self._finished.add(load.request)

    def _take_result(self, loading: Loading) -> NDArray[np.uint8]:
        result = loading.session.result()
        loading.session.end()
        self._begun.discard(loading.load.request)
        self.stats.add("load_bytes", result.bytes, rank=self._rank)
        self.stats.add("load_slots", result.good, rank=self._rank)
        if not self._adapters.computes_with(loading.load.adapter):
            return np.full(len(result.position), _OTHER_ADAPTER, np.uint8)
        return result.position

    def _load_failed(self, load: Load, position: NDArray[np.uint8]) -> None:
        """Note the blocks of positions with an errno; nothing happens where there are none."""
        failed = position != 0
        if not failed.any():
            return
        self._failure += 1
        self.stats.add("load_failures", rank=self._rank)
        for reason, slots in reasons(position, _LOAD_REASONS).items():
            self.stats.add("load_failed_slots", slots, rank=self._rank, reason=reason)
        self._invalid.update(load.items["block"][failed].tolist())
        bad = load.items[failed & ~np.isin(position, _FAULTLESS)]
        self._bad.append(bad[bad["generation"] != 0])

    def poll_loads(self) -> tuple[set[str], set[str]]:
        """Requests whose loads have ended since the last time; those that must leave their blocks.

        The second are among the first: vLLM takes all blocks from them, for a read may still
        write to some.
        """
        self._end_in_step()
        still: list[Loading] = []
        for loading in self._loads:
            if loading.session.poll():
                self._load_failed(loading.load, self._take_result(loading))
                self._over(loading.load)
                continue
            late = time.monotonic() - loading.deadline
            if late > 0 and not loading.cancelled:
                logger.error("Tutti: a load takes longer than load_timeout; cancelling it")
                loading.cancelled = True
                loading.session.cancel()
            if late > salvage.CANCEL_PATIENCE:
                self._load_failed(loading.load, self._hold(loading))
                self._over(loading.load)
                self._failed.add(loading.load.request)
            else:
                still.append(loading)
        self._loads = still
        finished, self._finished = self._finished, set()
        failed, self._failed = self._failed, set()
        for request in finished:
            del self._owed[request]
        return finished, failed

    def take_invalid_blocks(self) -> set[int]:
        invalid, self._invalid = self._invalid, set()
        return invalid

    def report(self) -> Report | None:
        """This step's news."""
        plan = self._plan
        if plan is None:
            return None
        if self._scrubbing is not None:
            self._scrubbing.step()
        rung = self._bell.rung  # before what it was rung for is gathered
        bad, self._bad = self._bad, []
        held = [loading.load.items["block"] for loading in self._held]
        return Report(
            {
                self._rank: RankReport(
                    plan.step,
                    self._epoch,
                    self._failure,
                    self._stores.take(),
                    np.concatenate(bad) if bad else no_transfers(),
                    np.concatenate(held) if held else no_blocks(),
                    weights=self._weights.changes if self._weights is not None else 0,
                    fenced=self._serve.fenced() if self._serve is not None else 0,
                    rung=rung,
                    adapters=self._adapters.answer(plan.questions),
                    replaced=dict(self._adapters.replaced),
                )
            }
        )

    def unbind(self) -> None:
        self._plan = None

    def take_stats(self) -> TuttiStats | None:
        if self._serve is not None:
            self._count(self._serve)
        return self.stats.take()

    def _count(self, serve: _tutti.Serve) -> None:
        self._counting.count(serve)
        if self._scrubbing is not None:
            self._scrubbing.count(self.stats)
        if not self._counting.gauges_are_due():
            return
        self._counting.gauge_members(serve, self._pool)
        loads, held = len(self._loads) + len(self._in_step), self._held
        self.stats.set("loads_under_way", loads, rank=self._rank)
        self.stats.set("stores_under_way", self._stores.slots, rank=self._rank)
        self.stats.set("held_blocks", sum(len(h.load.items) for h in held), rank=self._rank)

    # ---- the end --------------------------------------------------------------------

    def close(self) -> None:
        """Stores under way get a bounded time; then everything is closed."""
        until = time.monotonic() + SHUTDOWN_TIMEOUT
        self._switch.close()
        if self._members is not None:
            self._members.end()
        if self._scrubbing is not None:
            self._scrubbing.close()
        loads = [*self._loads, *self._in_step, *self._held]
        for loading in loads:
            loading.session.cancel()  # nobody wants what it brings
        sessions: list[_tutti.Retrieve | _tutti.Store] = []
        sessions += [session for _, session in self._stores.sessions().values()]
        sessions += [loading.session for loading in loads]
        ended = [session.wait(max(until - time.monotonic(), 0.0)) for session in sessions]
        if self._members is not None:
            ended.append(self._members.ended(max(until - time.monotonic(), 0.1)))
            self._members = None
        self._stores.under_way, self._loads, self._in_step, self._held = [], [], [], []
        serve, pool, self._serve, self._pool = self._serve, self._pool, None, None
        if not all(ended):
            # Closing would wait for the disk. The process ends, and with it all that it holds.
            logger.error("Tutti: rank %d ends with commands that did not", self._rank)
            keep_for_ever(serve, pool)
            return
        if serve is not None and (stuck := serve.close(max(until - time.monotonic(), 1.0))):
            logger.error("Tutti: rank %d: %s", self._rank, stuck)
        if pool is not None:
            pool.close()
        self._bell.close()

    def salvage(self, error: BaseException) -> Salvage:
        """Who takes over when this code failed."""
        if self._scrubbing is not None:
            self._scrubbing.close()
        under_way = {one.load.request: one.session for one in (*self._loads, *self._in_step)}
        return Salvage(
            self._rank,
            f"{type(error).__name__}: {error}",
            owed=self._owed,
            begun=self._begun,
            loads=under_way,
            held=[(one.load.items["block"], one.session) for one in self._held],
            stores=self._stores.sessions(),
            invalid=self._invalid,
            stats=self.stats,
            plan=self._plan,
            epoch=self._epoch,
            failure=self._failure,
            engine=(self._serve, self._pool),
        )
