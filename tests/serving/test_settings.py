# SPDX-License-Identifier: Apache-2.0
"""Models, settings and calls of the engine: what is served, refused, or served without hits."""

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Lives, Reference, look_at_switch, prompt
from tutti_kv import _tutti

from engine import Answer, Engine, Life, LifeError, Tokens

P = prompt(41, 500)
Q = prompt(42, 400)


def twice(engine: Engine, tokens: Tokens, **extra: Any) -> tuple[Answer, Answer]:
    one = engine.ask(tokens, **extra)
    engine.drop_local()
    two = engine.ask(tokens, **extra)
    assert engine.half._off is None or "bug" not in engine.half._off
    return one, two


def test_refused_configuration(lives: Lives) -> None:
    """A mistake in the configuration ends the start with a sentence (tests/python has them all)."""
    words = "unknown key 'sise'.*known are pool, size, members"
    with pytest.raises(LifeError, match=words), lives(extra={"sise": "1GiB"}):
        pass


def test_refused_role(model: Path, tmp_path: Path) -> None:
    """kv_producer would lose vLLM's deferred freeing of blocks."""
    life = Life(model, tmp_path / "log", tmp_path / "pool")
    life.options["kv_transfer_config"]["kv_role"] = "kv_producer"
    with pytest.raises(LifeError, match=r"must be .kv_both."), life:
        pass


def test_speculation_stores_what_it_accepts(lives: Lives, reference: Reference) -> None:
    """Case 20 (a): n-gram drafts, some rejected; the next turn hits every whole block."""
    pattern = prompt(43, 24) * 14

    def scenario(engine: Engine) -> tuple[Answer, Answer, Tokens, list[int]]:
        first = engine.ask(pattern, n=120)
        turn = [*pattern, *first.tokens, 1, 2]
        engine.drop_local()
        second = engine.ask(turn)
        engine.healthy()
        return first, second, turn, engine.unlike_cold(turn)

    speculation = {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 2,
    }
    with lives(speculative_config=speculation) as life:
        _first, second, turn, unlike = life.run(scenario)
    assert second.external == (len(turn) - 3) // 32 * 32
    assert unlike == []
    reference.check(turn, second)


def test_prompt_embeddings(lives: Lives) -> None:
    """Case 22: two tensors of one shape are two prompts; each hits what it stored itself."""

    def scenario(engine: Engine) -> tuple[list[int], list[Tokens]]:
        import torch

        tensors = [
            torch.randn(200, 256, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
        ]
        hits, tokens = [], []
        for which in (0, 1, 0, 1):
            engine.drop_local()
            answer = engine.ask_embeddings(tensors[which])
            hits.append(answer.external)
            tokens.append(answer.tokens)
        return hits, tokens

    with lives("preload", enable_prompt_embeds=True) as life:
        hits, tokens = life.run(scenario)
    assert hits == [0, 0, 192, 192]
    assert tokens[:2] == tokens[2:]
    assert tokens[0] != tokens[1], "void: the embeddings change nothing"


def test_two_pools_have_other_keys(lives: Lives, tmp_path: Path) -> None:
    """Case 22: what one pool holds says nothing about another: the keys are secret per pool."""

    def records(engine: Engine) -> list[bytes]:
        engine.ask(P)
        return [bytes(item["key"]) for item in engine.slots(P)]

    keys = []
    for name in ("one", "two"):
        with lives("preload", pool=tmp_path / name) as life:
            keys.append(life.run(records))
    assert len(keys[0]) == len(keys[1]) == 15
    assert not set(keys[0]) & set(keys[1])


def test_switch_without_restart(lives: Lives, tmp_path: Path, reference: Reference) -> None:
    """tutti disable: lookups miss and stores stop; enable: as before."""

    def scenario(engine: Engine) -> list[int]:
        hits = []
        engine.ask(P)
        for change in (None, _tutti.disable, None, _tutti.enable):
            engine.drop_local()
            if change is _tutti.disable:
                _tutti.disable(str(tmp_path / "pool"), "a test")
            elif change is _tutti.enable:
                _tutti.enable(str(tmp_path / "pool"))
            look_at_switch(engine)
            engine.ask([1, 2, 3], n=1)
            engine.drop_local()
            hits.append(engine.ask(P).external)
        return hits

    with lives() as life:
        assert life.run(scenario) == [480, 0, 0, 480]
        assert "a test" in life.log.read_text()


def test_reset_begins_an_epoch(lives: Lives, reference: Reference) -> None:
    """Case 4: weights changed through the engine; nothing of before hits, nor after a restart."""

    def scenario(engine: Engine) -> tuple[list[int], bool]:
        before = engine.ask(P)
        runner = engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        for name, weights in runner.model.named_parameters():
            if name.endswith("layers.1.input_layernorm.weight"):  # read as it is (linear ones
                weights.data.mul_(1.5)  # are packed at start on CPU)
        assert engine.llm.llm_engine.engine_core.reset_prefix_cache(False, True)
        engine.drain()
        after = engine.ask(P)
        hits = [after.external, engine.ask(Q).external]
        engine.drop_local()
        return [*hits, engine.ask(Q).external], after.tokens != before.tokens

    with lives() as life:
        hits, changed = life.run(scenario)
        life.kill()
    assert hits == [0, 0, 384]
    assert changed, "the weights that the test changes have no effect: it shows nothing"
    with lives() as life:
        p = life.run(lambda engine: engine.ask(P))
        q = life.run(lambda engine: engine.ask(Q))
    assert (p.external, q.external) == (0, 0)
    reference.check(P, p)
    reference.check(Q, q)


def test_several_groups(gemma: Path, lives: Lives, tmp_path: Path) -> None:
    """Refused, with the engine's own switch named; with the switch it is served."""
    options: dict[str, Any] = {"model": gemma, "max_model_len": 2048}
    with (
        pytest.raises(LifeError, match="--disable-hybrid-kv-cache-manager"),
        lives(**options),
    ):
        pass
    with lives(disable_hybrid_kv_cache_manager=True, **options) as life:
        one, two = life.run(twice_finite)
    assert two.external == 480
    assert one.tokens == two.tokens


def twice_finite(engine: Engine) -> tuple[Answer, Answer]:
    """vLLM's attention on CPU gives NaN now and then where it has a window and the machine is busy.

    Seen in some of a hundred lives, in the first decode of a request that hits nothing, with all
    of the first layer's KV finite. KV that came back wrong would be wrong each time.
    """
    for seed in range(5):
        answers = twice(engine, prompt(45 + seed, 500))
        if all(math.isfinite(p) for answer in answers for p in answer.logprobs):
            break
    return answers


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DeepSeek V2: MLA."""
    import torch
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    folder = tmp_path_factory.mktemp("deepseek")
    torch.manual_seed(4)
    config = DeepseekV2Config(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        vocab_size=1000,
        max_position_embeddings=2048,
        first_k_dense_replace=2,
        n_routed_experts=4,
        initializer_range=0.12,
    )
    DeepseekV2ForCausalLM(config).to(torch.float32).save_pretrained(str(folder))
    return folder


def test_mla_on_cpu_has_no_hits(deepseek: Path, lives: Lives) -> None:
    """Case 6: the platform switched prefix caching off: no hits, and the reason in the log.

    The control, where the user did: test_long_prompt_in_chunks_is_stored_whole (test_warm.py).
    """

    def scenario(engine: Engine) -> tuple[Answer, Answer]:
        return engine.ask(P), engine.ask(P)

    with lives(model=deepseek, max_model_len=2048, block_size=16) as life:
        one, two = life.run(scenario)
        assert life.run(lambda engine: engine.totals["refused_requests|off"]) == 2
        assert "can't continue behind cached tokens" in life.log.read_text()
    assert (one.external, two.external) == (0, 0)
    assert one.tokens == two.tokens


@pytest.mark.parametrize("heads", [1, 4])
def test_other_numbers_of_heads(heads: int, lives: Lives, tmp_path: Path) -> None:
    """Case 17: the layout comes from strides, whatever the number of KV heads."""
    from model import make_tiny_model

    other = make_tiny_model(tmp_path / "model", num_key_value_heads=heads)
    with lives(model=other) as life:
        one, two = life.run(twice, P)
    assert two.external == 480
    assert one.tokens == two.tokens


def own_cache(engine: Engine, tokens: Tokens) -> tuple[Answer, Answer]:
    """From the pool, and from vLLM's own prefix cache with the same hit."""
    _, pool = twice(engine, tokens)
    own = engine.ask(tokens)
    return pool, own


NUMBERS = {
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "fp8": {"dtype": "bfloat16", "kv_cache_dtype": "fp8"},
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_kinds_of_numbers(kind: str, lives: Lives) -> None:
    """Whatever the KV is made of: the same tokens as vLLM's own cache gives for the same hit."""
    try:
        with lives(**NUMBERS[kind]) as life:
            pool, own = life.run(own_cache, P)
    except LifeError as error:
        if kind == "fp8" and "requires x86 with AVX-512" in str(error):
            pytest.skip("vLLM has no FP8 KV cache on this CPU")
        raise
    assert (pool.external, pool.cached) == (480, 480)
    assert (own.external, own.cached) == (0, 480)
    assert pool.tokens == own.tokens
