# SPDX-License-Identifier: Apache-2.0
"""Blocks of KV memory that a read without an end may still write to.

Responsible for nobody computing in, attending to or being given such a block until every
rank has seen the read's end. Must not know loads or ranks' reasons. The one idea: a time-out
frees no memory, but it need not hold a step either: the block gets one reference more, ours,
so vLLM never hands it out again; and a running request that still has it in its table is
told that no blocks are left for it, so vLLM preempts it, and it comes back on other blocks.
"""

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("vllm.tutti_kv")


class Quarantine:
    """vLLM's block pool, minus what must not be touched."""

    def __init__(self) -> None:
        self._manager: Any = None
        self._by_rank: dict[int, frozenset[int]] = {}
        self._held: frozenset[int] = frozenset()

    def bind(self, manager: Any) -> None:
        """manager: vLLM's KVCacheManager."""
        self._manager = manager

    def __len__(self) -> int:
        return len(self._held)

    def report(self, rank: int, blocks: frozenset[int]) -> None:
        """All blocks that a rank holds now."""
        if blocks == self._by_rank.get(rank, frozenset()):
            return
        self._by_rank[rank] = blocks
        held = frozenset().union(*self._by_rank.values())
        new, over = held - self._held, self._held - held
        self._held = held
        pool = self._manager.block_pool
        if new:
            pool.touch([pool.blocks[block] for block in sorted(new)])
            pool.evict_blocks(set(new))
            logger.error(
                "Tutti: a read of rank %d does not end; the %d blocks of KV memory that it may "
                "still write to are set aside, and nothing is loaded until it has ended",
                rank,
                len(new),
            )
        if over:
            pool.evict_blocks(set(over))
            pool.free_blocks([pool.blocks[block] for block in sorted(over)])
            logger.warning("Tutti: a read has ended; %d blocks are in use again", len(over))
        self._move_requests_off()

    def _move_requests_off(self) -> None:
        """While blocks are held, nothing runs on them: vLLM preempts what it can't allocate for."""
        watching = "allocate_slots" in vars(self._manager)
        if not self._held:
            if watching:
                del self._manager.allocate_slots
        elif not watching:
            self._manager.allocate_slots = self._watched(self._manager.allocate_slots)

    def _watched(self, allocate: Callable[..., Any]) -> Callable[..., Any]:
        def watched(request: Any, *arguments: Any, **named: Any) -> Any:
            table = self._manager.get_block_ids(request.request_id)
            if any(not self._held.isdisjoint(blocks) for blocks in table):
                return None
            return allocate(request, *arguments, **named)

        return watched
