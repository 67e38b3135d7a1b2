# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's half keeps of a request: little, for vLLM knows the rest.

Responsible for following a request's chained block hashes. Must not know the
directory. The one idea: hashes are kept joined, as the library wants them, and only
ever grow (or, when a streaming session replaces its last token, are cut).

A request that runs on an adapter has a second chain of hashes, made by vLLM's own function,
in which the adapter is called by its content: that one is kept, vLLM's own is followed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tutti_kv._tutti import Match
from tutti_kv.metadata import Adapter

HASH_BYTES = 32

# vLLM's: the hashes of a request's blocks behind those in its `block_hashes`.
Hasher = Callable[[Any], list[Any]]


class ByContent:
    """A request as vLLM's hash function sees it, its adapter called by its content."""

    def __init__(self, request: Any, content: bytes, hasher: Hasher) -> None:
        self._request = request
        self._hasher = hasher
        # a path is never empty: no adapter's name is mistaken for a content
        self.lora_request = SimpleNamespace(lora_name=content.hex(), lora_path="")
        self.block_hashes: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def behind(self, have: int) -> list[Any]:
        """The hashes of its blocks behind so many."""
        del self.block_hashes[have:]
        self.block_hashes.extend(self._hasher(self))
        return self.block_hashes[have:]


@dataclass(slots=True)
class Sequence:
    """One request.

    planned: blocks below it need no thought any more
    asked: tokens that vLLM had when it last asked; in_step: how it was answered
    computed: tokens whose KV exists or is being computed or loaded, as of the last plan
    since: when the oldest block that waits to be planned was full
    skip: why it is neither looked up nor stored: a metric's label, and a sentence
    refused: the label under which it was last counted as unable to hit
    tainted: computed before a reset; only admission anew makes it clean
    memo: (version of the directory, blocks asked about, answer)
    admitted: it holds blocks, or did until vLLM asks about it again
    asked_in: the step after which the workers were asked about its adapter
    adapter: what all of its KV is computed with, beside the model; named: its chain then
    followed: vLLM's hash of the last block in `hashes`
    """

    request: Any
    skip: tuple[str, str] | None = None
    refused: str | None = None
    hashes: bytearray = field(default_factory=bytearray)
    planned: int = 0
    asked: int = 0
    in_step: bool = False
    computed: int = 0
    since: float = 0.0
    failed_loads: int = 0
    lost_stores: int = 0
    tainted: bool = False
    memo: tuple[int, int, Match] | None = None
    admitted: bool = False
    asked_in: int | None = None
    adapter: Adapter | None = None
    named: ByContent | None = None
    followed: bytes = b""

    def run_on(self, adapter: Adapter | None, hasher: Hasher) -> None:
        """It is computed anew with this adapter, as far as is known (None: it is not)."""
        if adapter != self.adapter:
            self.adapter = adapter
            content = adapter.content if adapter is not None else b""
            self.named = ByContent(self.request, content, hasher) if content else None
            self._start_over()

    def _start_over(self) -> None:
        self.hashes = bytearray()
        self.planned = 0
        self.memo = None

    def update_hashes(self) -> None:
        """Follow the request's block hashes."""
        known = self.request.block_hashes
        have = len(self.hashes) // HASH_BYTES
        if have > len(known) or (have and self.followed != known[have - 1]):
            self._start_over()
            have = 0
        if have < len(known):
            new = self.named.behind(have) if self.named is not None else known[have:]
            self.hashes += b"".join(new)
            self.followed = known[-1]
