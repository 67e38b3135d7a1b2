# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's half keeps of a request: little, for vLLM knows the rest.

Responsible for following a request's chained block hashes. Must not know the
directory. The one idea: hashes are kept joined, as the library wants them, and only
ever grow (or, when a streaming session replaces its last token, are cut).
"""

from dataclasses import dataclass, field
from typing import Any

from tutti_kv._tutti import Match

HASH_BYTES = 32


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

    def update_hashes(self) -> None:
        """Follow the request's block hashes."""
        known = self.request.block_hashes
        have = len(self.hashes) // HASH_BYTES
        if have > len(known) or (have and self.hashes[-HASH_BYTES:] != known[have - 1]):
            self.hashes = bytearray()
            self.planned = 0
            self.memo = None
            have = 0
        if have < len(known):
            self.hashes += b"".join(known[have:])
