# SPDX-License-Identifier: Apache-2.0
"""What one engine life can bring back from the pool, and that it is what was computed."""

import itertools
from typing import Any

import pytest
from conftest import MODES, Lives, Reference, Shared, prompt

from engine import Answer, Engine, Tokens

SEEDS = itertools.count(1000)  # each test has prompts of its own


def twice(engine: Engine, first: Tokens, second: Tokens) -> tuple[Answer, Answer, dict[str, Any]]:
    """Ask, empty vLLM's own cache, ask again; and what the second cost."""
    one = engine.ask(first)
    engine.drop_local()
    before = engine.counters()
    two = engine.ask(second)
    after = engine.counters()
    engine.healthy()
    return one, two, {name: after[name] - before[name] for name in after}


@pytest.mark.parametrize("mode", MODES)
def test_warm_in_one_life(mode: str, shared: Shared, reference: Reference) -> None:
    """The whole prompt but its last block's tail comes back, read and verified."""
    tokens = prompt(next(SEEDS), 500)
    one, two, cost = shared(mode).run(twice, tokens, tokens)
    assert (one.cached, one.external) == (0, 0)
    assert (two.cached, two.external) == (480, 480)
    assert cost["read_bytes"] >= 15 * 131072
    assert cost["hashed_bytes"] >= 15 * 131072
    assert cost["verify_failures"] == 0
    reference.check(tokens, one)
    reference.check(tokens, two)


@pytest.mark.parametrize("mode", MODES)
def test_partial_prefix(mode: str, shared: Shared, reference: Reference) -> None:
    """Another tail behind a shared head: the shared whole blocks come back."""
    tokens = prompt(next(SEEDS), 500)
    other = tokens[:300] + prompt(next(SEEDS), 150)
    _, two, _ = shared(mode).run(twice, tokens, other)
    assert two.external == 300 // 32 * 32
    reference.check(other, two)


@pytest.mark.parametrize("mode", MODES)
def test_whole_blocks_leave_the_last_token(mode: str, shared: Shared, reference: Reference) -> None:
    """A prompt of exactly n blocks hits n - 1: the last token is computed."""
    whole = prompt(next(SEEDS), 320)
    _, two, _ = shared(mode).run(twice, whole, whole)
    assert two.external == 288
    reference.check(whole, two)


@pytest.mark.parametrize("mode", MODES)
def test_behind_a_local_hit(mode: str, shared: Shared, reference: Reference) -> None:
    """What vLLM still has itself is not loaded: the external part starts behind it."""
    tokens = prompt(next(SEEDS), 500)

    def scenario(engine: Engine) -> Answer:
        engine.drop_local()
        engine.ask(tokens)
        engine.drop_local()
        engine.ask([*tokens[:200], 1, 2, 3])  # brings six blocks back into vLLM's own cache
        return engine.ask(tokens)

    answer = shared(mode).run(scenario)
    assert answer.cached == 480
    assert answer.external == 480 - 192
    reference.check(tokens, answer)


@pytest.mark.parametrize("mode", MODES)
def test_second_turn_hits_what_the_answer_filled(
    mode: str, shared: Shared, reference: Reference
) -> None:
    """Blocks filled by decoding are stored too."""
    tokens = prompt(next(SEEDS), 500)

    def scenario(engine: Engine) -> tuple[Answer, Answer, Tokens]:
        first = engine.ask(tokens, n=100)
        turn = [*tokens, *first.tokens, 7, 8, 9]
        engine.drop_local()
        return first, engine.ask(turn), turn

    first, second, turn = shared(mode).run(scenario)
    # the last sampled token has no KV: 599 tokens are computed
    assert second.external == 599 // 32 * 32
    reference.check(tokens, first, n=100)
    reference.check(turn, second)


@pytest.mark.parametrize("mode", MODES)
def test_salts_keep_tenants_apart(mode: str, shared: Shared) -> None:
    """Case 22: equal tokens under other salts do not hit."""
    tokens = prompt(next(SEEDS), 500)

    def scenario(engine: Engine) -> list[int]:
        hits = []
        for salt in (None, "s1", "s2", "s1", None):
            engine.drop_local()
            hits.append(engine.ask(tokens, salt=salt).external)
        return hits

    assert shared(mode).run(scenario) == [0, 0, 0, 480, 480]


@pytest.mark.parametrize("mode", MODES)
def test_long_prompt_in_chunks_is_stored_whole(
    mode: str, lives: Lives, reference: Reference
) -> None:
    """Case 20 (b): 8K tokens in chunks of 256; without vLLM's own cache the pool brings it all."""
    long = prompt(next(SEEDS), 8000)

    def scenario(engine: Engine) -> tuple[Answer, Answer]:
        return engine.ask(long), engine.ask(long)

    with lives(
        mode,
        size="96MiB",
        max_num_batched_tokens=256,
        max_num_seqs=8,
        max_model_len=8448,
        enable_prefix_caching=False,
    ) as life:
        one, two = life.run(scenario)
    assert (one.external, two.external) == (0, 7999 // 32 * 32)
    # The reference has no room for so long a prompt: what was computed is the reference.
    assert one.tokens == two.tokens
    assert max(abs(a - b) for a, b in zip(one.logprobs, two.logprobs, strict=True)) < 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_control_wrong_bytes_change_the_answer(
    mode: str, lives: Lives, reference: Reference
) -> None:
    """Negative control: without verification the same flip is served, and seen in the tokens."""
    tokens = prompt(next(SEEDS), 500)

    def scenario(engine: Engine) -> tuple[Answer, list[int]]:
        engine.ask(tokens)
        engine.drop_local()
        for block in range(3, 12):
            for layer in range(4):
                engine.spoil(tokens, block, layer)
        return engine.ask(tokens), engine.unlike_cold(tokens)

    with lives(mode, extra={"unverified": True}) as life:
        answer, unlike = life.run(scenario)
        assert "UNVERIFIED" in life.log.read_text()
    assert answer.external == 480
    assert unlike == list(range(3, 12)), "and the comparison of stored bytes sees it too"
    with pytest.raises(AssertionError):
        reference.check(tokens, answer)
