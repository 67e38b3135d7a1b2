# SPDX-License-Identifier: Apache-2.0
"""The scheduler's half against a toy directory: what is planned, when, and what is given up."""

import hashlib
import time
from typing import Any

import numpy as np
import pytest
from tutti_kv import _tutti, scheduler, stores
from tutti_kv.bell import Bell, Ears
from tutti_kv.config import parse
from tutti_kv.metadata import Handshake, Plan, RankReport, Report
from tutti_kv.scheduler import SchedulerHalf

BLOCK = 4


class Thing:
    """An object with these attributes."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class ToyMatch:
    def __init__(self, blocks: int) -> None:
        self.blocks = blocks


class ToyDirectory:
    """A directory of unlimited room: hash -> visible?; slots are numbered as they come."""

    def __init__(self) -> None:
        self.visible: dict[bytes, bool] = {}
        self.slot: dict[int, bytes] = {}
        self.pins = 0
        self.dropped: list[int] = []
        self.erase: list[int] = []
        self.fenced: list[int] = []

    def fence_members(self, members: int) -> bool:
        self.fenced.append(members)
        return True

    def _split(self, hashes: bytes, count: int) -> list[bytes]:
        return [bytes(hashes[32 * i : 32 * i + 32]) for i in range(count)]

    def find(self, hashes: bytes, size: int, count: int) -> ToyMatch:
        found = 0
        for key in self._split(hashes, count):
            if not self.visible.get(key):
                break
            found += 1
        return ToyMatch(found)

    def _items(self, keys: list[bytes]) -> Any:
        items = np.zeros(len(keys), _tutti.TRANSFER)
        by_key = {key: slot for slot, key in self.slot.items()}
        for i, key in enumerate(keys):
            items[i]["slot"] = by_key[key]
            items[i]["generation"] = 7
        return items

    def pin(self, match: ToyMatch, first: int) -> Any:
        self.pins += 1
        items = np.zeros(match.blocks - first, _tutti.TRANSFER)
        items["generation"] = 7
        return items

    def unpin(self, slot: int, generation: int) -> None:
        self.pins -= 1

    def reserve(self, hashes: bytes, size: int, first: int, count: int, grows: bool = False) -> Any:
        keys = self._split(hashes, first + count)
        if first and keys[first - 1] not in self.visible:
            return None
        new = [(i, key) for i, key in enumerate(keys) if i >= first and key not in self.visible]
        for _, key in new:
            self.visible[key] = False
            self.slot[len(self.slot)] = key
        items = self._items([key for _, key in new])
        return items, np.zeros(len(new), _tutti.ORIGIN), np.array([i for i, _ in new], np.uint32)

    def report(self, rank: int, items: Any, ok: Any) -> int:
        for item, good in zip(items, ok, strict=True):
            key = self.slot[int(item["slot"])]
            if good:
                self.visible[key] = True
            else:
                self.visible.pop(key, None)
        return len(items)

    def drop(self, slot: int, generation: int) -> int:
        self.dropped.append(slot)
        self.visible.pop(self.slot.get(slot, b""), None)
        return 1

    def take_erased(self) -> Any:
        return np.zeros(0, _tutti.TRANSFER)

    def begin_epoch(self, epoch: int, reset: bool = False, identity: bytes | None = None) -> None:
        if reset:
            self.visible.clear()

    def stats(self) -> dict[str, int]:
        return {"evicted": 0, "refused": 0, "visible": sum(self.visible.values())}


class Request(Thing):
    """What vLLM's Request shows of itself."""

    num_computed_tokens: int

    def __init__(self, name: str, tokens: list[int], **fields: Any) -> None:
        super().__init__(
            request_id=name,
            tokens=list(tokens),
            num_prompt_tokens=len(tokens),
            num_computed_tokens=0,
            lora_request=None,
            skip_reading_prefix_cache=False,
            status=Thing(name="RUNNING"),
            **fields,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def block_hashes(self) -> list[bytes]:
        return [
            hashlib.sha256(repr(self.tokens[: BLOCK * (i + 1)]).encode()).digest()
            for i in range(len(self.tokens) // BLOCK)
        ]


class Bench:
    """A scheduler's half with a clock, a toy directory, and blocks numbered by request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mode: str = "preload") -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(_tutti, "disabled", lambda home: self.switch)
        self.switch: str | None = None
        config = Thing(
            parallel_config=Thing(
                tensor_parallel_size=1, data_parallel_index=0, enable_expert_parallel=False
            ),
            cache_config=Thing(enable_prefix_caching=True, prefix_caching_hash_algo="sha256"),
            lora_config=None,
            kv_transfer_config=Thing(kv_load_failure_policy="recompute"),
            max_concurrent_batches=1,
            device_config=Thing(device_type="cpu"),
            model_config=Thing(enforce_eager=True),
        )
        spec = Thing(block_size=BLOCK)
        cache = Thing(kv_cache_groups=[Thing(kv_cache_spec=spec)], num_blocks=1000)
        self.half = SchedulerHalf(config, cache, parse({"pool": "/none", "mode": mode}))
        self.directory = ToyDirectory()
        self.half._directory = self.directory  # type: ignore[assignment]
        self.half._off = None
        self.tables: dict[str, list[int]] = {}
        self.next = 1

    def throw(self, why: str | None) -> None:
        """The pool's switch, and somebody has looked."""
        self.switch = why
        self.half._switch.look()

    def admit(self, request: Request, external: int = 0, async_: bool = False) -> None:
        blocks = (request.num_tokens + BLOCK) // BLOCK + 8
        self.tables[request.request_id] = list(range(self.next, self.next + blocks))
        self.next += blocks
        self.half.allocated(request, self.tables[request.request_id], external)
        if not async_:
            request.num_computed_tokens += external

    def step(
        self,
        scheduled: dict[Request, int],
        new: list[Request] | None = None,
        preempted: set[str] | None = None,
    ) -> Plan:
        output = Thing(
            num_scheduled_tokens={r.request_id: n for r, n in scheduled.items()},
            scheduled_new_reqs=[
                Thing(
                    block_ids=(self.tables[r.request_id],),
                    num_computed_tokens=r.num_computed_tokens,
                )
                for r in new or []
            ],
            scheduled_cached_reqs=Thing(
                req_ids=[], new_block_ids=[], num_computed_tokens=[], resumed_req_ids=set()
            ),
            preempted_req_ids=preempted,
            kv_connector_block_state=Thing(resolve_block_ids=lambda name: (self.tables[name],)),
        )
        plan = self.half.plan(output)
        for request, tokens in scheduled.items():
            request.num_computed_tokens += tokens
        return plan

    def answer(self, plan: Plan, good: bool = True, **news: Any) -> None:
        stored = {store.number: np.full(len(store.items), good, np.uint8) for store in plan.stores}
        stored.update(news.pop("stored", {}))
        invalid = news.pop("invalid", set())
        finished = news.pop("finished", set())
        report = Report({0: RankReport(plan.step, plan.epoch, stored=stored, **news)})
        self.half.take_output(
            Thing(
                kv_connector_worker_meta=report,
                invalid_block_ids=invalid,
                finished_recving=finished,
            )
        )


def blocks(used: int) -> Any:
    """vLLM's block pool; one block is always used."""
    return Thing(
        num_gpu_blocks=1000,
        get_num_free_blocks=lambda: 1000 - used,
        evict_blocks=lambda blocks: None,
    )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def stored(plan: Plan) -> int:
    return sum(len(store.items) for store in plan.stores)


def test_chunks_are_stored_as_they_fill(bench: Bench) -> None:
    """Ten tokens in chunks of three: blocks of four are stored when they are full."""
    request = Request("a", list(range(10)))
    assert bench.half.matched_tokens(request, 0) == (0, False)
    bench.admit(request)
    counts = []
    for chunk in (3, 3, 3, 1):
        plan = bench.step({request: chunk})
        counts.append(stored(plan))
        bench.answer(plan)
    assert counts == [0, 1, 1, 0]
    # the block numbers are those of the request's table
    assert bench.half._stores.read_any_of(list(range(100))).tolist() == []


def test_lookup_has_no_side_effect(bench: Bench) -> None:
    request = Request("a", list(range(12)))
    bench.admit(request)
    bench.answer(bench.step({request: 12}))
    other = Request("b", list(range(12)))
    for _ in range(5):
        # three whole blocks, but the last token must be computed
        assert bench.half.matched_tokens(other, 0) == (8, True)
    assert bench.directory.pins == 0
    assert bench.half.matched_tokens(other, 4) == (4, True)
    assert bench.half.matched_tokens(other, 8) == (0, False)


def test_the_last_sampled_token_has_no_kv(bench: Bench) -> None:
    """Seven tokens of a prompt and one sampled: the block of eight is not full yet."""
    request = Request("a", list(range(7)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 7}))
    request.tokens.append(99)
    bench.half.finished(request, bench.tables["a"])
    assert stored(bench.step({})) == 0


def test_rejected_drafts_never_count(bench: Bench) -> None:
    """Scheduled drafts reach over a block's end that known tokens do not."""
    request = Request("a", list(range(6)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 6}))
    request.tokens.append(50)
    plan = bench.step({request: 5})  # one token and four drafts: 11 computed, 7 known
    assert stored(plan) == 0


def test_decode_blocks_go_out_some_at_a_time(bench: Bench) -> None:
    """Not one by one; together when the oldest is old, or at the end."""
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    assert stored(bench.step({request: 8})) == 2
    plans = []
    for i in range(12):
        request.tokens.append(100 + i)
        plans.append(bench.step({request: 1}))
        bench.now += 0.01
    assert [stored(plan) for plan in plans] == [0] * 12
    bench.now += 0.6
    request.tokens.append(200)
    assert stored(bench.step({request: 1})) == 3
    for i in range(4):
        request.tokens.append(300 + i)
        assert stored(bench.step({request: 1})) == 0
    bench.half.finished(request, bench.tables["a"])
    plan = bench.step({})
    assert [store.early for store in plan.stores] == [True]
    assert stored(plan) == 1


def test_pin_until_the_load_has_ended(bench: Bench) -> None:
    request = Request("a", list(range(12)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 12}))
    other = Request("b", [*range(12), 1, 2])
    tokens, async_ = bench.half.matched_tokens(other, 0)
    assert (tokens, async_) == (12, True)
    bench.admit(other, 12, async_=True)
    assert bench.directory.pins == 1
    plan = bench.step({})
    assert [(load.request, load.in_step) for load in plan.loads] == [("b", False)]
    assert plan.loads[0].items["block"].tolist() == bench.tables["b"][:3]
    # a third with the same prefix waits for it
    third = Request("c", list(range(12)))
    assert bench.half.matched_tokens(third, 0) == (None, False)
    # but not for ever
    bench.now += 31
    assert bench.half.matched_tokens(third, 0) == (8, True)
    bench.now -= 31
    bench.answer(plan)
    assert bench.directory.pins == 1
    bench.answer(bench.step({}), finished={"b"})
    assert bench.directory.pins == 0
    assert bench.half.matched_tokens(third, 0)[0] == 8
    assert bench.half.stats.data["load_tokens"] == 12


def test_nobody_joins_a_load_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM caches its blocks at once; a local hit over them waits until the step is processed."""
    bench = Bench(monkeypatch, "layerwise")
    request = Request("a", list(range(12)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 12}))
    loads = Request("b", [*range(12), 1, 2])
    assert bench.half.matched_tokens(loads, 0) == (12, False)
    bench.admit(loads, 12)
    joins = Request("c", [*range(12), 3, 4])
    assert bench.half.matched_tokens(joins, 12) == (None, False)
    assert bench.half.matched_tokens(joins, 4) == (None, False)
    assert bench.half.matched_tokens(Request("d", [*range(50, 70)]), 12) == (0, False)
    plan = bench.step({loads: 2})
    assert bench.half.matched_tokens(joins, 12) == (None, False)
    bench.answer(plan)
    assert bench.half.matched_tokens(joins, 12) == (0, False)
    bench.step({loads: 1})
    assert not bench.half._loads._tables, "nothing is watched where no load is in step"


def test_what_is_never_computed_is_forgotten(bench: Bench) -> None:
    """Blocks of tokens that were given to a request and taken back in the same step."""
    request = Request("a", list(range(12)))
    evicted: list[set[int]] = []
    pool = blocks(used=5)
    pool.get_cached_block = lambda block_hash, groups: [
        Thing(block_id=request.block_hashes.index(block_hash))
    ]
    pool.evict_blocks = evicted.append
    bench.half.bind_manager(Thing(block_pool=pool))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 4}))
    bench.step({}, preempted={"a"})
    assert evicted == [{1}, {2}]


def test_a_failed_load_is_not_asked_for_for_ever(bench: Bench) -> None:
    request = Request("a", list(range(12)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 12}))
    other = Request("b", [*range(12), 1])
    for _ in range(scheduler.MAX_FAILED_LOADS):
        assert bench.half.matched_tokens(other, 0)[0]
        bench.admit(other, 12, async_=True)
        plan = bench.step({})
        bench.answer(plan, failure=1, invalid={int(plan.loads[0].items["block"][0])})
        bench.answer(bench.step({}), finished={"b"}, failure=1)
    assert bench.half.matched_tokens(other, 0) == (0, False)
    assert bench.directory.pins == 0
    assert bench.half.stats.data.get("load_tokens", 0) == 0


def test_failures_are_acknowledged_by_number(bench: Bench) -> None:
    """And what waited for the next plan at that moment is given up."""
    request = Request("a", list(range(4)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    plan = bench.step({request: 3})
    assert plan.acknowledged == {}
    request.num_computed_tokens = 4
    bench.half.finished(request, bench.tables["a"])  # its block waits
    assert len(bench.half._stores) == 1
    bench.answer(plan, failure=3)
    plan = bench.step({})
    assert plan.acknowledged == {0: 3}
    assert stored(plan) == 0
    assert len(bench.half._stores) == 0


def test_lost_stores_are_tried_again_and_not_for_ever(bench: Bench) -> None:
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    plan = bench.step({request: 8})
    tries = 0
    while stored(plan):
        tries += 1
        bench.answer(plan, good=False)
        request.tokens.append(1000 + tries)
        plan = bench.step({request: 1})
        assert tries < 20
    assert tries == 1 + stores.MAX_LOST


def test_blocks_under_a_store_are_fenced(bench: Bench) -> None:
    """Only those that a store may still read, and only while it may."""
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    plan = bench.step({request: 8}, [request])
    assert plan.fence.tolist() == []
    bench.half.finished(request, bench.tables["a"])
    other = Request("b", list(range(50, 70)))
    bench.half.matched_tokens(other, 0)
    bench.admit(other)
    bench.tables["b"][:2] = bench.tables["a"][:2]
    late = bench.step({other: 4}, [other])
    assert late.fence.tolist() == bench.tables["a"][:2]
    bench.answer(plan)
    assert bench.step({other: 4}, [other]).fence.tolist() == []


def test_the_chain_in_front_may_have_left(bench: Bench) -> None:
    """Then the whole sequence is offered again: it still holds all of it."""
    request = Request("a", list(range(12)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 8}))
    bench.directory.visible.clear()
    assert stored(bench.step({request: 4})) == 3


def test_switch(bench: Bench) -> None:
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 4}))
    bench.throw("a test")
    assert stored(bench.step({request: 4})) == 0
    assert bench.half.matched_tokens(Request("b", list(range(8))), 0) == (0, False)
    bench.throw(None)
    request.tokens.append(1)
    assert stored(bench.step({request: 1})) == 1
    assert bench.half.matched_tokens(Request("b", list(range(8))), 0) == (4, True)


def test_reset_taints_what_was_computed_before(bench: Bench) -> None:
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 4}))
    bench.half.bind_manager(Thing(block_pool=blocks(used=1)))
    assert bench.half.reset()
    plan = bench.step({request: 4})
    assert stored(plan) == 0
    assert plan.oldest_epoch == plan.epoch > 0
    assert bench.half.pending(), "workers have not made the epoch durable"
    bench.answer(plan)
    assert not bench.half.pending()
    request.num_computed_tokens = 0
    bench.admit(request)  # preempted and admitted again
    assert stored(bench.step({request: 8})) == 2


def test_reset_while_requests_run_on_old_blocks(bench: Bench) -> None:
    """vLLM may hand their blocks on: nothing is stored until none runs, and then its cache goes."""
    pool = blocks(used=9)
    evicted: list[set[int]] = []
    pool.evict_blocks = evicted.append
    bench.half.bind_manager(Thing(block_pool=pool))
    bench.half.reset()
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    assert stored(bench.step({request: 8})) == 0
    bench.half.finished(request, bench.tables["a"])
    assert stored(bench.step({})) == 0
    assert evicted == []
    pool.get_num_free_blocks = lambda: 999
    bench.step({})
    assert evicted == [set(range(1000))]
    other = Request("b", list(range(8)))
    bench.half.matched_tokens(other, 0)
    bench.admit(other)
    assert stored(bench.step({other: 8})) == 2


def test_reset_under_a_preload(bench: Bench) -> None:
    """What a load of before the reset brings stays tainted when the request is let in."""
    request = Request("a", list(range(12)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.answer(bench.step({request: 12}))
    other = Request("b", [*range(12), 1, 2, 3, 4])
    assert bench.half.matched_tokens(other, 0) == (12, True)
    bench.admit(other, 12, async_=True)
    plan = bench.step({})
    bench.half.bind_manager(Thing(block_pool=blocks(used=1)))
    bench.half.reset()
    bench.answer(plan, finished={"b"})
    other.num_computed_tokens = 12
    bench.half.allocated(other, [], 0)
    assert stored(bench.step({other: 4})) == 0


def test_pending_is_bounded(bench: Bench) -> None:
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    bench.step({request: 8})
    assert bench.half.pending()
    bench.now += scheduler.PUSH_PATIENCE + 1
    assert not bench.half.pending()


def test_a_bug_serves_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken invariant turns Tutti off, not the server."""
    tripped: list[str] = []
    monkeypatch.setattr(_tutti, "disable", lambda home, why: tripped.append(why))
    monkeypatch.setattr(bench.directory, "reserve", lambda *arguments: 1 / 0)
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    assert stored(bench.step({request: 8})) == 0
    assert "division" in tripped[0]
    assert bench.half.matched_tokens(Request("b", [1] * 9), 0) == (0, False)


def test_refused_ranks(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.half.take_handshakes({0: Handshake(0, refusal="the disk is gone")})
    assert bench.half.matched_tokens(Request("b", [1] * 9), 0) == (0, False)


def test_members_that_any_rank_lacks_are_fenced(bench: Bench) -> None:
    """Said when it changes, and of all ranks together; also that a member is back."""
    request = Request("a", list(range(8)))
    bench.half.matched_tokens(request, 0)
    bench.admit(request)
    plan = bench.step({request: 8})
    bench.answer(plan, fenced=2)
    bench.answer(plan, fenced=2)
    for news in (Report({1: RankReport(1, fenced=1)}), Report({0: RankReport(1)})):
        bench.half.take_output(
            Thing(kv_connector_worker_meta=news, invalid_block_ids=set(), finished_recving=set())
        )
    assert bench.directory.fenced == [2, 3, 1]


def test_a_lookup_waits_for_news(bench: Bench) -> None:
    """A bell that was rung since the last report: not yet; what the report drops is not hit."""
    request = Request("a", list(range(12)))
    bench.admit(request)
    bench.answer(bench.step({request: 12}))
    bell = Bell()
    bench.half._ears = Ears({0: bell.path})
    other = Request("b", list(range(12)))
    assert bench.half.matched_tokens(other, 0) == (8, True)
    bell.ring()
    bell.ring()
    assert bench.half.matched_tokens(other, 0) == (None, False)
    bench.answer(bench.step({}), rung=1)
    assert bench.half.matched_tokens(other, 0) == (None, False)
    bench.answer(bench.step({}), rung=2)
    assert bench.half.matched_tokens(other, 0) == (8, True)
    bench.throw("off")
    bell.ring()
    bench.now += 5
    bench.step({})
    assert bench.half.matched_tokens(other, 0) == (0, False), "nothing to wait for"
    bell.close()


def test_reports_of_ranks_are_put_together() -> None:
    one = Report({0: RankReport(1)})
    two = Report({1: RankReport(1, failure=2)})
    assert set(one.aggregate(two).ranks) == {0, 1}
