# SPDX-License-Identifier: Apache-2.0
"""Case 22: what belongs to a prompt besides its tokens reaches the key, piece by piece.

Adapters, images and salts enter vLLM's block hash; our key is made of that hash whole. So real
requests are hashed by vLLM's own code, under each hash that we accept, and looked up in a real
directory: `ab`,`c` is not `a`,`bc`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tutti_kv import _tutti as t
from tutti_kv.sequence import HASH_BYTES, Sequence

BLOCK = 16
BLOCKS = 3
TOKENS = list(range(BLOCK * BLOCKS))
GEOMETRY = t.Geometry(2, 1, 4096, BLOCK, 1)
# Adapter's name (which is in every block's hash) and salt (in the first block's).
EXTRAS: list[tuple[str | None, str | None]] = [
    (None, None),
    (None, "abc"),
    ("abc", None),
    ("ab", "c"),
    ("a", "bc"),
    ("c", "ab"),
]


@pytest.fixture
def directory(tmp_path: Path) -> t.Directory:
    pool, _ = t.Pool.open_or_format(str(tmp_path / "pool"), size=16 << 20, geometry=GEOMETRY)
    made = t.Directory(pool.placement(), GEOMETRY, 1, os.urandom(16), b"whose weights? 1")
    made.begin_epoch(1)
    return made


def request_of(hasher: Callable[[Any], Any], adapter: str | None, salt: str | None) -> Any:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.request import Request

    return Request(
        "r",
        TOKENS,
        SamplingParams(max_tokens=1),
        None,
        lora_request=LoRARequest(adapter, 1, "/nowhere") if adapter else None,
        cache_salt=salt,
        block_hasher=hasher,
    )


def hashes_of(hasher: Callable[[Any], Any], adapter: str | None, salt: str | None) -> bytes:
    sequence = Sequence(request_of(hasher, adapter, salt))
    sequence.update_hashes()
    return bytes(sequence.hashes)


def hits(directory: t.Directory, all_hashes: list[bytes]) -> list[list[int]]:
    """Each is stored in turn; how much of every one is found after each."""
    table = []
    for hashes in all_hashes:
        got = directory.reserve(hashes, HASH_BYTES, 0, BLOCKS)
        if got is not None:
            directory.report(0, got[0], np.ones(len(got[0]), np.uint8))
        table.append([directory.find(other, HASH_BYTES, BLOCKS).blocks for other in all_hashes])
    return table


def hasher_of(name: str) -> Callable[[Any], Any]:
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    function = get_hash_fn_by_name(name)
    init_none_hash(function)
    hasher: Callable[[Any], Any] = get_request_block_hasher(BLOCK, function)
    return hasher


@pytest.mark.parametrize("algorithm", ["sha256", "sha256_cbor"])
def test_each_is_found_by_itself_alone(algorithm: str, directory: t.Directory) -> None:
    hasher = hasher_of(algorithm)
    table = hits(directory, [hashes_of(hasher, *extras) for extras in EXTRAS])
    for stored, row in enumerate(table):
        assert row == [BLOCKS if i <= stored else 0 for i in range(len(EXTRAS))]


def test_control_joined_extras_meet(
    directory: t.Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: extras written one behind the other; the same look sees who meets whom."""
    from vllm.v1.core import kv_cache_utils

    def joined(request: Any, start: int, end: int, index: int) -> tuple[tuple[str, ...], int]:
        adapter = request.lora_request.lora_name if request.lora_request else ""
        return (adapter + (request.cache_salt or ""),), index

    monkeypatch.setattr(kv_cache_utils, "generate_block_hash_extra_keys", joined)
    hasher = hasher_of("sha256")
    table = hits(directory, [hashes_of(hasher, *extras) for extras in EXTRAS])
    assert table[3][4] == BLOCKS
    assert table[0] == [BLOCKS, 0, 0, 0, 0, 0]
