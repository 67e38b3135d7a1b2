# SPDX-License-Identifier: Apache-2.0
"""vLLM's own prefix cache, as far as it must not be hit.

Responsible for taking out of it what may be wrong. Must not know the pool, nor why. The one
idea: evicted is forgotten and no more; who holds a block keeps it, and nobody else finds it.
"""

from collections.abc import Iterable
from typing import Any

from tutti_kv.sequence import Sequence


class Local:
    """vLLM's BlockPool; before it is known there is nothing to hit."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._pool: Any = None

    def bind(self, pool: Any) -> None:
        """pool: vLLM's."""
        self._pool = pool

    def evict(self, blocks: set[int]) -> None:
        """These blocks hit no more."""
        if blocks and self._pool is not None:
            self._pool.evict_blocks(blocks)

    def distrust(self) -> None:
        """Something in it may be bad, and we can't tell what: nothing of it hits.

        Were this to fail, the step would: wrong tokens are worse than an engine that stops.
        """
        if self._pool is not None:
            self._pool.evict_blocks(set(range(self._pool.num_gpu_blocks)))

    def void(self) -> bool:
        """Whether nobody runs on KV of before: then what is still cached of it goes."""
        if self._pool is not None:
            if self._pool.num_gpu_blocks - self._pool.get_num_free_blocks() > 1:
                return False  # beside vLLM's null block
            self.distrust()
        return True

    def forget_uncomputed(self, sequences: Iterable[Sequence]) -> None:
        """Evict what vLLM 0.32 caches and never computes, of requests that were preempted just now.

        A request that gets tokens and is preempted in the same step (priority policy) leaves
        the hashes of those blocks in the prefix cache; it would hit them itself.
        """
        if self._pool is None:
            return
        for sequence in sequences:
            first = sequence.computed // self._block_tokens
            for block_hash in sequence.request.block_hashes[first:]:
                hit = self._pool.get_cached_block(block_hash, [0])
                if hit:
                    self._pool.evict_blocks({hit[0].block_id})
