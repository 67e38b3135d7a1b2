# SPDX-License-Identifier: Apache-2.0
"""The scheduler's half: what is stored where, and what each step is to move.

Responsible for answering how much of a prompt can be loaded, for each step's plan,
and for reading the workers' reports. Must not know members, tensors or I/O. The one
idea: it plans from what vLLM itself says of a request at that moment (computed tokens,
block hashes, block table) and keeps of a request only how far its blocks are planned
already, so that preemption, chunks and speculation need no tracking of their own.

The store rule. The plan of step N may name a block when, at the end of N, every
token of it is computed (min(computed after N, tokens known) covers it): rejected
drafts and the last sampled token never count. What a failed load may have spoilt is
refused by the worker until the plan acknowledges the failure by number, and stores
that wait here at that moment are given up.

What vLLM calls is guarded: something unexpected that is raised in here turns Tutti off, in
this process and by the pool's switch, and what the server must not do without (a load's end,
blocks that must not be hit) is answered in the safest way.
"""

import logging
import os
import time
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutti_kv import _tutti, identity, opening, steps, support
from tutti_kv.adapters import UNKNOWN, Adapters
from tutti_kv.bell import Ears
from tutti_kv.config import Config
from tutti_kv.guard import Guard
from tutti_kv.loads import Loads
from tutti_kv.local import Local
from tutti_kv.metadata import Handshake, Plan, RankReport
from tutti_kv.metrics import TuttiStats
from tutti_kv.quarantine import Quarantine
from tutti_kv.sequence import HASH_BYTES, Sequence
from tutti_kv.stores import Stores, take_erased
from tutti_kv.telling import Telling
from tutti_kv.watching import Switch

logger = logging.getLogger("vllm.tutti_kv")

MAX_FAILED_LOADS = 2  # of a request, which is then computed
# Without news for so long, pending reports keep an idle engine stepping no longer.
PUSH_PATIENCE = 30.0
# Why a request finds nothing: labels of a metric.
NOT_THERE = ("not stored", "other identity")


class SchedulerHalf:
    """One per engine; all calls come from the scheduler's thread."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, config: Config) -> None:
        self._vllm_config = vllm_config
        self._config = config
        self._ranks: int = vllm_config.parallel_config.tensor_parallel_size
        self._block_tokens: int = support.first_spec(
            kv_cache_config.kv_cache_groups[0].kv_cache_spec
        ).block_size
        self._caching: bool = vllm_config.cache_config.enable_prefix_caching
        self._home = config.home(vllm_config.parallel_config.data_parallel_index)
        self._layerwise, self._mode_reason = support.choose_mode(config, vllm_config)
        self._local = Local(self._block_tokens)
        self._directory: _tutti.Directory | None = None
        self._off: str | None = "the workers have not reported yet"
        self._switch = Switch(self._home)
        self._guard = Guard(self._switch, self._go_off)
        self._no_stores: str | None = None
        self._epoch = self._oldest = 0
        self._identity = bytes(identity.IDENTITY_BYTES)
        self._epoch_known: dict[int, int] = {}
        self._fenced: dict[int, int] = {}  # per rank, a bit for each member
        self._ears = Ears({})
        self._step = 0
        self._version = 0  # with that of the stores: what a remembered lookup was made on
        self._requests: dict[str, Sequence] = {}
        self.stats = TuttiStats(data={})
        self._telling = Telling(self.stats)
        self._quarantine = Quarantine()
        self._adapters = Adapters(
            self._ranks,
            self._requests,
            support.block_hasher(vllm_config, self._block_tokens),
            support.why_no_adapters(vllm_config),
            self._void_local,
        )
        self._loads = Loads(self._block_tokens, self.stats, config.load_timeout)
        self._stores = Stores(
            self._ranks,
            kv_cache_config.num_blocks,
            self._block_tokens,
            config.decode_age,
            self.stats,
        )
        self._acknowledged: dict[int, int] = {}
        self._weights: dict[int, int] = {}
        self._overwritten: list[int] = []
        self._decodes = 0

    # ---- start ------------------------------------------------------------------

    def bind_manager(self, manager: Any) -> None:
        """vLLM's KVCacheManager."""
        self._local.bind(manager.block_pool)
        self._quarantine.bind(manager)

    def take_handshakes(self, handshakes: dict[int, Handshake]) -> None:
        """Build the directory from what all ranks found. Raises a sentence."""
        refusals = [shake.refusal for shake in handshakes.values() if shake.refusal]
        try:
            if refusals or len(handshakes) != self._ranks:
                self._off = refusals[0] if refusals else f"{len(handshakes)} of {self._ranks} ranks"
                logger.warning("Tutti serves nothing: %s", self._off)
                return
            opened = opening.open_directory(
                [handshakes[rank] for rank in range(self._ranks)],
                self._home,
                self._config,
                self._vllm_config,
                f"{'layer-wise' if self._layerwise else 'preload'} ({self._mode_reason})",
            )
        except Exception as error:
            if self._config.on_error == "fail":
                raise
            self._off = str(getattr(error, "strerror", None) or error)
            logger.warning("Tutti serves nothing: %s", self._off)
            return
        finally:
            opening.remove_scans(handshakes.values())
        self._directory, self._identity = opened.directory, opened.identity
        self._epoch = opened.epoch
        self._ears = Ears({rank: shake.bell for rank, shake in handshakes.items()})
        self._switch.watch()
        self._off = None

    def _go_off(self, why: str) -> None:
        """A bug: whether what lies over loads under way may be hit is not known any more."""
        self._off = why
        self._local.distrust()

    def _void_local(self) -> None:
        """An adapter was replaced: of what was computed with the old one nothing may be taken."""
        if self._directory is not None:
            self._stores.give_up(self._directory, "adapter replaced")
        self._local.distrust()

    # ---- lookup -------------------------------------------------------------------

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """How many tokens behind `computed` can be loaded, and whether before it runs."""
        nothing: tuple[int | None, bool] = (0, False)
        return self._guard(lambda: nothing, self._match, request, computed)

    def _sequence(self, request: Any) -> Sequence:
        sequence = self._requests.get(request.request_id)
        if sequence is None:
            sequence = Sequence(request)
            if getattr(request, "mm_features", None) and not self._caching:
                # vLLM then names images by a counter that starts anew with each process
                sequence.skip = ("images", "images have no content hash with prefix caching off")
            elif request.lora_request is not None:
                sequence.skip = UNKNOWN
            self._requests[request.request_id] = sequence
        return sequence

    def _silent(self) -> tuple[str, str] | None:
        """What is against everything now: a metric's label, and a sentence."""
        if self._off is not None:
            return "bug" if self._guard.tripped else "off", self._off
        if (reason := self._switch.thrown) is not None:
            return "disabled", f"disabled: {reason}"
        if len(self._quarantine):
            return "stuck", "a read does not end"
        return None

    def _why_no_hit(self, sequence: Sequence) -> tuple[str, str] | None:
        """What is against loading anything for a request."""
        if (why := self._silent() or sequence.skip) is not None:
            return why
        if sequence.request.skip_reading_prefix_cache:
            return "asked", "requests ask to skip the prefix cache"
        if sequence.failed_loads >= MAX_FAILED_LOADS:
            return "failed", "loads of the request failed before"
        return None

    def _refuse(self, sequence: Sequence, label: str, reason: str) -> tuple[int, bool]:
        if sequence.refused != label:  # vLLM asks again and again
            sequence.refused = label
            self._telling.why(reason)
            self._telling.refused(label, reason)
            self._telling.story(sequence.request.request_id, "no hit: %s", reason)
        return 0, False

    def _match(self, request: Any, computed: int) -> tuple[int | None, bool]:
        sequence = self._sequence(request)
        serves = self._directory is not None and not self._guard.tripped
        if serves and not self._adapters.settle(sequence, self._step):
            return None, False
        sequence.asked = computed
        sequence.in_step = False
        first = computed // self._block_tokens
        if (
            self._caching
            and not self._guard.tripped
            and self._loads.unproven(request.block_hashes, first)
        ):
            return None, False  # its local hit lies over a load that may still fail
        most = min(len(request.block_hashes), (request.num_tokens - 1) // self._block_tokens)
        if most <= first:
            return 0, False  # no whole block is wanted
        if (why := self._why_no_hit(sequence)) is not None:
            return self._refuse(sequence, *why)
        if self._ears.news():
            return None, False  # a worker has found something; its next report says what
        sequence.update_hashes()
        blocks = self._find(sequence, most).blocks
        if blocks <= first:
            if sequence.refused in NOT_THERE:
                return 0, False
            return self._refuse(sequence, *self._why_not_stored())
        sequence.in_step = self._layerwise and self._decodes == 0
        if (
            not sequence.in_step
            and self._caching
            and self._loads.brings(bytes(request.block_hashes[first]))
        ):
            return None, False  # another request brings these blocks: they are local soon
        return (blocks - first) * self._block_tokens, not sequence.in_step

    def _why_not_stored(self) -> tuple[str, str]:
        stats = self.directory_stats()
        if stats["visible"] == 0 and stats.get("foreign", 0):
            return NOT_THERE[1], "all that the pool holds is of other weights or settings"
        return NOT_THERE[0], "nothing of the prompt is stored"

    def _find(self, sequence: Sequence, count: int) -> _tutti.Match:
        assert self._directory is not None
        version = self._version + self._stores.version
        memo = sequence.memo
        if memo is not None and memo[:2] == (version, count):
            return memo[2]
        match = self._directory.find(sequence.hashes, HASH_BYTES, count)
        sequence.memo = (version, count, match)
        return match

    def allocated(self, request: Any, table: list[int], external: int) -> None:
        """Blocks were given to a request; `external` tokens of them are ours to fill."""

        def fail() -> None:
            if external:
                sequence = self._requests[request.request_id]  # it was asked about
                self._overwritten += self._loads.fail(sequence, table, external, self._step + 1)

        self._guard(fail, self._allocated, request, table, external)

    def _allocated(self, request: Any, table: list[int], external: int) -> None:
        sequence = self._sequence(request)
        sequence.admitted, sequence.asked_in = True, None
        sequence.planned = 0
        sequence.since = 0.0
        sequence.computed = sequence.asked + external
        if self._no_stores is None and request.num_computed_tokens == 0:
            sequence.tainted = False
        if request.num_computed_tokens == 0:  # not once more when its load is over
            self.stats.add("lookup_tokens", max(request.num_tokens - sequence.asked, 0))
            self.stats.add("hit_tokens", external)
        if external:
            self._telling.moved()
            self._telling.story(
                request.request_id,
                "matched %d tokens behind %d of vLLM's own; loading them %s",
                external,
                sequence.asked,
                "in step" if sequence.in_step else "before it runs",
            )
            self._overwritten += self._loads.plan(
                self._directory, sequence, table, external, self._step + 1
            )

    # ---- the plan -----------------------------------------------------------------

    def plan(self, output: Any) -> Plan:
        """This step's work. `output` is vLLM's SchedulerOutput, before it is sent."""
        self._step += 1
        self._guard(self._local.distrust, self._count_computed, output)
        plan = Plan(self._step, self._epoch, self._oldest, self._identity)
        # where this fails, a load's failure voids all of vLLM's prefix cache
        self._guard(lambda: None, self._watch, output)
        plan.loads = self._loads.take()
        plan.acknowledged, plan.weights = dict(self._acknowledged), dict(self._weights)
        plan.questions, plan.replaced = self._adapters.take()
        # before this step's own stores
        plan.fence = self._guard(self._stores.all_blocks, self._blocks_overwritten, output)
        self._guard(lambda: None, self._plan_stores, output, plan)
        plan.off = self._guard.tripped
        self._guard(lambda: None, self._say)
        return plan

    def _watch(self, output: Any) -> None:
        self._loads.watch(self._step, lambda: steps.tables(output))

    def _count_computed(self, output: Any) -> None:
        """Who was preempted computes nothing of what was given to it; the others will."""
        preempted = output.preempted_req_ids or ()
        self._local.forget_uncomputed(
            self._requests[name] for name in preempted if name in self._requests
        )
        for name, scheduled in output.num_scheduled_tokens.items():
            sequence = self._requests.get(name)
            if sequence is not None:
                sequence.computed = sequence.request.num_computed_tokens + scheduled

    def _blocks_overwritten(self, output: Any) -> NDArray[np.uint32]:
        """Of the blocks that this step writes anew, those that a store may still read."""
        loaded, self._overwritten = self._overwritten, []
        return self._stores.read_any_of(loaded + steps.written_anew(output, self._block_tokens))

    def _plan_stores(self, output: Any, plan: Plan) -> None:
        self._decodes = 0
        if self._directory is None:
            return
        if self._no_stores and not output.num_scheduled_tokens and self._local.void():
            self._no_stores = None
        if self._silent() or self._no_stores:
            self._stores.give_up(self._directory, "off")
            return
        for name, scheduled in output.num_scheduled_tokens.items():
            sequence = self._requests.get(name)
            if sequence is None:
                continue
            request = sequence.request
            self._decodes += request.num_computed_tokens >= request.num_prompt_tokens
            if sequence.skip or sequence.tainted:
                continue
            if full := self._stores.due(sequence, request.num_computed_tokens + scheduled):
                self._store(sequence, full, steps.table(output, name))
        plan.stores = self._stores.take()
        plan.erase = take_erased(self._directory)

    def _store(self, sequence: Sequence, full: int, table: list[int], early: bool = False) -> None:
        assert self._directory is not None
        name = sequence.request.request_id
        if slots := self._stores.plan(self._directory, sequence, full, table, early=early):
            self._telling.moved()
            self._telling.story(name, "storing %d of its first %d blocks", slots, full)
        else:
            self._telling.why("every block is stored already, or finds no place")

    # ---- the reports ----------------------------------------------------------------

    def take_output(self, output: Any) -> None:
        """News of one step, of all ranks: vLLM's KVConnectorOutput."""
        report = output.kv_connector_worker_meta
        ranks: dict[int, RankReport] = report.ranks if report is not None else {}
        for rank, news in ranks.items():
            # not guarded: blocks under a live read that are handed out would be wrong bytes
            self._quarantine.report(rank, frozenset(news.held.tolist()))
        for rank, news in ranks.items():
            if news.broken is not None:
                self._guard.trip(f"rank {rank}: {news.broken}")
            self._guard(lambda: None, self._take_report, rank, news)
            self._guard(lambda: None, self._adapters.hear, rank, news)
        changes = {rank: news.weights for rank, news in ranks.items()}
        if changes and changes != {rank: self._weights.get(rank, 0) for rank in changes}:
            self._weights.update(changes)
            self._guard(lambda: None, self._reset)
        if output.invalid_block_ids:
            self._guard(self._local.distrust, self._evict, set(output.invalid_block_ids))
        if ranks:
            step = max(news.step for news in ranks.values())
            over: list[str] = self._guard(list, self._loads.processed, step)
            for name in over:
                self._guard(lambda: None, self._loads.ended, self._directory, name)
        for name in output.finished_recving or ():
            self._guard(lambda: None, self._loads.ended, self._directory, name)

    def _evict(self, invalid: set[int]) -> None:
        """Take out of vLLM's prefix cache what failed loads have spoilt."""
        spoilt = self._loads.spoilt(invalid)
        if self._guard.tripped:
            self._local.distrust()
        else:
            self._local.evict(spoilt)

    def _take_report(self, rank: int, news: RankReport) -> None:
        self._epoch_known[rank] = max(self._epoch_known.get(rank, 0), news.epoch)
        self._ears.covered(rank, news.rung)
        if self._directory is None:
            return
        if news.fenced != self._fenced.get(rank, 0):
            # all ranks place alike: a member that one lacks is of no use to the others
            self._fenced[rank] = news.fenced
            self._directory.fence_members(reduce(or_, self._fenced.values()))
            self._version += 1
        if news.failure > self._acknowledged.get(rank, 0):
            self._acknowledged[rank] = news.failure
            self._stores.give_up(self._directory, "computed over a failed load")
        for bad in news.bad:
            hidden = self._directory.drop(int(bad["slot"]), int(bad["generation"]))
            self._version += 1
            if hidden:
                logger.warning(
                    "Tutti: slot %d of rank %d can't be read or does not match its record; "
                    "it and %d behind it are dropped",
                    bad["slot"],
                    rank,
                    hidden - 1,
                )
        for number, ok in news.stored.items():
            self._stores.report(self._directory, rank, number, ok)

    # ---- the end of a request, and of the engine's cache ------------------------------

    def finished(self, request: Any, table: list[int]) -> None:
        """A request is over; what it has computed and not stored goes first thing next step."""
        self._guard(lambda: None, self._finished, request, table)

    def _finished(self, request: Any, table: list[int]) -> None:
        sequence = self._requests.pop(request.request_id, None)
        if sequence is None or request.request_id in self._loads:
            return
        self._telling.story(
            request.request_id, "over (%s): %d blocks", request.status.name, len(table)
        )
        if sequence.skip or sequence.tainted or self._silent() or self._no_stores:
            return
        if self._directory is None or "ERROR" in request.status.name:
            return
        full = min(self._stores.full(request, request.num_computed_tokens), len(table))
        if full > sequence.planned:
            self._store(sequence, full, table, early=True)

    def reset(self) -> bool:
        """The engine's cache is void, perhaps because its weights changed: begin an epoch."""
        self._guard(lambda: None, self._reset)  # off, nothing of before can hit either
        return True

    def _reset(self) -> None:
        if self._directory is None:
            return
        self._stores.give_up(self._directory, "reset")
        self._epoch += 1
        self._oldest = self._epoch
        self._identity = os.urandom(identity.IDENTITY_BYTES)
        self._directory.begin_epoch(self._epoch, True, self._identity)
        self._version += 1
        for sequence in self._requests.values():
            sequence.tainted = True
        self._no_stores = (
            None if self._local.void() else "requests still run on blocks of before the reset"
        )
        self._stores.news_at = time.monotonic()
        logger.info(
            "Tutti: the cache was reset: epoch %d; what was stored before is void, what is "
            "stored from now on is not found after a restart%s",
            self._epoch,
            f"; nothing is stored: {self._no_stores}" if self._no_stores else "",
        )

    # ---- idleness, switch and the line a minute ---------------------------------------

    def pending(self) -> bool:
        """Whether steps are wanted although no request runs; bounded."""
        return self._guard(lambda: False, self._pending)

    def _pending(self) -> bool:
        if (
            self._guard.tripped
            or self._directory is None
            or time.monotonic() - self._stores.news_at > PUSH_PATIENCE
        ):
            return False
        known = min(self._epoch_known.get(rank, 0) for rank in range(self._ranks))
        return len(self._stores) > 0 or known < self._oldest

    def _say(self) -> None:
        silent = self._silent()
        self._telling.serving(silent is None)
        self._telling.switch(self._home, self._switch.thrown)
        if self._directory is not None:
            self._telling.gauges(self._directory, self._epoch)
        self._telling.minute(silent[1] if silent else self._no_stores)

    def take_stats(self) -> TuttiStats | None:
        return self.stats.take()

    def directory_stats(self) -> dict[str, int]:
        """Counts of slots; empty where nothing is served."""
        return self._directory.stats() if self._directory is not None else {}

    def close(self) -> None:
        self._switch.close()
        self._directory = None
        self._off = "shut down"
