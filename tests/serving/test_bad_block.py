# SPDX-License-Identifier: Apache-2.0
"""Case 10 as users meet it: an HTTP server, idle but for one request, whose block is bad on disk.

The bar is twice the time that the same request took by computation, in the same life. Where a
block lies is read by the second implementation of the format, so nothing of ours says it.
"""

import os
from pathlib import Path
from typing import NamedTuple

import pytest
import reader
from conftest import Reference, prompt
from faultmount import Faults
from server import Server
from service import ask, service, wait_stored

from engine import BLOCK, Answer, Tokens, damage

BLOCKS = 40
BAD = 5  # which of them
MEMBER = "rank0.member0.tutti"
# A prompt is computed in one step, so that there is one load and one store of all of it.
STEPS = ("--max-num-batched-tokens", "4096")


class Place(NamedTuple):
    """Where one layer of one block lies, in the member's file."""

    offset: int
    size: int


def place(home: Path, block_hash: bytes, layer: int) -> Place:
    with reader.open_pool(home) as pool:
        slot = next(slot for slot in pool.slots() if slot.engine_hash == block_hash)
        return Place(slot.layer_offset(layer), slot.layer_bytes)


class Asked(NamedTuple):
    answer: Answer
    seconds: float


def once_more(server: Server, tokens: Tokens) -> Asked:
    """With nothing of vLLM's own left, and nothing else to do."""
    server.forget_memory()
    return Asked(*ask(server, tokens))


class Met(NamedTuple):
    """A prompt that is stored, spoilt, and asked for twice.

    reads: of the place that was spoilt, by the request that met it
    """

    cold: Asked
    bad: Asked
    after: Asked
    reads: int


def meet(server: Server, disk: Faults, tokens: Tokens, where: Place, cut: bool) -> tuple[Asked, int]:
    """Spoil it, and ask."""
    path = disk.backing / disk.pool / MEMBER
    if cut:
        os.truncate(path, where.offset)
    else:
        damage(str(path), where.offset + 100)
    rule = disk.rule(f"read:delay:ms=0:offset={where.offset}-{where.offset + where.size}")
    asked = once_more(server, tokens)
    return asked, disk.count(rule, "seen")


@pytest.mark.parametrize("how", ["flipped", "cut short"])
def test_one_bad_block(how: str, spoken: Path, faults: Faults, tmp_path: Path, reference: Reference) -> None:
    disk = faults.of(f"block-{how[:3]}")
    prompts = [prompt(8600 + i, BLOCKS * BLOCK + 5) for i in range(6)]
    met = []
    with service(spoken, tmp_path / "log", disk.folder, arguments=STEPS).start() as server:
        server.wait_ready()
        ask(server, prompt(8599, BLOCKS * BLOCK + 5))
        for i, tokens in enumerate(prompts):
            cold = Asked(*ask(server, tokens))
            wait_stored(server, (i + 2) * BLOCKS)
            where = place(disk.backing / disk.pool, reference.hashes(tokens)[BAD], 2)
            bad, reads = meet(server, disk, tokens, where, how != "flipped")
            print(how, "cold", cold.seconds, "bad", bad.seconds, bad.seconds/cold.seconds, "cached", bad.answer.cached, "reads", reads, flush=True)
            import time; time.sleep(1)
            if how != "flipped":
                os.truncate(disk.backing / disk.pool / MEMBER, 64 << 20)
            after = once_more(server, tokens)
            print("after", after.seconds, after.answer.cached)
            print({k:v for k,v in server.metrics().items() if k.startswith("tutti_") and k.endswith("_total") and v})
