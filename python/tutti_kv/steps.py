# SPDX-License-Identifier: Apache-2.0
"""What a step will do, read from vLLM's SchedulerOutput.

Responsible for the names of its fields. Must not know what is made of it. The one idea: whose
blocks a step writes is all in there, so nothing about blocks is remembered from step to step.
"""

from typing import Any


def table(output: Any, request: str) -> list[int]:
    """The engine's numbers of a request's blocks, all of them."""
    blocks: list[int] = output.kv_connector_block_state.resolve_block_ids(request)[0]
    return blocks


def tables(output: Any) -> dict[str, list[int]]:
    """Of all requests that the step computes."""
    return {name: table(output, name) for name in output.num_scheduled_tokens}


def written_anew(output: Any, block_tokens: int) -> list[int]:
    """Blocks that were given out for this step, but for those that a prefix was found in."""
    blocks: list[int] = []
    for new in output.scheduled_new_reqs:
        blocks += new.block_ids[0][new.num_computed_tokens // block_tokens :]
    cached = output.scheduled_cached_reqs
    for name, ids, computed in zip(
        cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
    ):
        if ids is not None:
            old = computed // block_tokens if name in cached.resumed_req_ids else 0
            blocks += ids[0][old:]
    return blocks
