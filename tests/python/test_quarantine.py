# SPDX-License-Identifier: Apache-2.0
"""Blocks under a read without an end: vLLM's own pool never gives them out."""

from typing import Any

import pytest
from tutti_kv.quarantine import Quarantine
from vllm.v1.core.block_pool import BlockPool

BLOCKS = 16


class Manager:
    """Of vLLM's KVCacheManager what is used here."""

    def __init__(self) -> None:
        self.block_pool = BlockPool(BLOCKS, True, 32)
        self.tables: dict[str, list[int]] = {}

    def get_block_ids(self, request: str) -> tuple[list[int], ...]:
        return (self.tables.get(request, []),)

    def allocate_slots(self, request: Any, tokens: int, **named: Any) -> str:
        return f"{tokens} tokens"


class Request:
    def __init__(self, name: str) -> None:
        self.request_id = name


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def quarantine(manager: Manager) -> Quarantine:
    quarantine = Quarantine()
    quarantine.bind(manager)
    return quarantine


def given_out(manager: Manager) -> set[int]:
    """All that the pool has to give, and back again."""
    pool = manager.block_pool
    blocks = pool.get_new_blocks(pool.get_num_free_blocks())
    pool.free_blocks(blocks)
    return {block.block_id for block in blocks}


def test_free_blocks_are_not_given_out(manager: Manager, quarantine: Quarantine) -> None:
    everything = given_out(manager)
    quarantine.report(0, frozenset({3, 4}))
    assert len(quarantine) == 2
    assert given_out(manager) == everything - {3, 4}
    quarantine.report(0, frozenset({4}))
    assert given_out(manager) == everything - {4}
    quarantine.report(0, frozenset())
    assert given_out(manager) == everything
    assert all(block.ref_cnt == 0 for block in manager.block_pool.blocks[1:])


def test_blocks_of_a_request_stay_when_it_lets_go(manager: Manager, quarantine: Quarantine) -> None:
    pool = manager.block_pool
    mine = pool.get_new_blocks(3)
    held = frozenset(block.block_id for block in mine[:2])
    quarantine.report(0, held)
    pool.free_blocks(reversed(mine))
    assert given_out(manager).isdisjoint(held)
    quarantine.report(0, frozenset())
    assert held <= given_out(manager)


def test_the_last_rank_counts(manager: Manager, quarantine: Quarantine) -> None:
    """One rank's read may have ended while another's still lands."""
    quarantine.report(0, frozenset({5}))
    quarantine.report(1, frozenset({5, 6}))
    quarantine.report(0, frozenset())
    assert given_out(manager).isdisjoint({5, 6})
    quarantine.report(1, frozenset())
    assert {5, 6} <= given_out(manager)


def test_a_request_on_such_a_block_gets_nothing(manager: Manager, quarantine: Quarantine) -> None:
    """vLLM preempts it then; others, and it on other blocks, are served as ever."""
    manager.tables = {"a": [1, 2, 3], "b": [4]}
    plain = manager.allocate_slots
    quarantine.report(0, frozenset({2}))
    assert manager.allocate_slots(Request("a"), 5) is None
    assert manager.allocate_slots(Request("b"), 5, num_lookahead_tokens=0) == "5 tokens"
    assert manager.allocate_slots(Request("new"), 5) == "5 tokens"
    manager.tables["a"] = [7]
    assert manager.allocate_slots(Request("a"), 5) == "5 tokens"
    quarantine.report(0, frozenset())
    assert manager.allocate_slots == plain, "nothing is left in vLLM's way"
