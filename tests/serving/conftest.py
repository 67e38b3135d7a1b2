# SPDX-License-Identifier: Apache-2.0
"""What the serving tests share: the model, places for pools, and the right answers.

Responsible for fixtures. Must not know any scenario. The one idea: what is right
comes from vLLM without a connector, asked in a life of its own that stays open.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faultmount import FaultMount, Faults
from model import make_tiny_model

from engine import Answer, Engine, Life, Tokens

MODES = ("preload", "layerwise")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model: real random weights, fp32."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return make_tiny_model(folder, max_position_embeddings=16384)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer: the HTTP server wants one. The weights are the same."""
    folder = tmp_path_factory.mktemp("spoken") / "tiny"
    return make_tiny_model(folder, max_position_embeddings=16384, tokenizer=True)


def torture() -> bool:
    """Whether long counts are wanted."""
    return bool(os.environ.get("TUTTI_TORTURE"))


def prompt(seed: int, length: int) -> Tokens:
    """Token ids that differ from seed to seed."""
    draw = random.Random(seed)
    return [draw.randrange(1000) for _ in range(length)]


def until(what: Callable[[], Any], patience: float = 30.0) -> None:
    """Wait as an idle server does: no step is taken."""
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def look_at_switch(engine: Engine) -> None:
    """Both halves know of the pool's switch what is so now; by themselves, once a second."""
    for half in (engine.half, engine.worker):
        half._switch.look()


def ask_cold(engine: Engine, tokens: Tokens, extra: dict[str, Any]) -> Answer:
    engine.drop_local()
    answer = engine.ask(tokens, **extra)
    assert answer.cached == 0
    return answer


def ask_warm(engine: Engine, tokens: Tokens, have: int, extra: dict[str, Any]) -> Answer:
    """The answer where vLLM's own prefix cache brings `have` tokens."""
    engine.drop_local()
    engine.ask(tokens[:have] + [999] * 2, **{**extra, "n": 1})
    answer = engine.ask(tokens, **extra)
    assert answer.cached == have, "vLLM's own prefix cache did not hit as long"
    return answer


class Reference:
    """The right answers, remembered."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._known: dict[str, Answer] = {}

    def cold(self, tokens: Tokens, **extra: Any) -> Answer:
        """By recomputation."""
        key = repr(("cold", tokens, extra))
        if key not in self._known:
            self._known[key] = self._life.run(ask_cold, tokens, extra)
        return self._known[key]

    def warm(self, tokens: Tokens, have: int, **extra: Any) -> Answer:
        """By vLLM's own prefix cache with the same hit length."""
        if have == 0:
            return self.cold(tokens, **extra)
        key = repr(("warm", tokens, have, extra))
        if key not in self._known:
            self._known[key] = self._life.run(ask_warm, tokens, have, extra)
        return self._known[key]

    def hashes(self, tokens: Tokens) -> list[bytes]:
        """vLLM's block hashes of a prompt, as records hold them."""
        return self._life.run(lambda engine: engine.hashes(tokens))

    def check(self, tokens: Tokens, answer: Answer, **extra: Any) -> None:
        """The same tokens as for the same hit length; log-probabilities as by recomputation."""
        assert not answer.error
        assert answer.tokens == self.warm(tokens, answer.cached, **extra).tokens
        cold = self.cold(tokens, **extra)
        same = 0
        while same < len(cold.tokens) and cold.tokens[same] == answer.tokens[same]:
            same += 1
        far = [
            abs(a - b) for a, b in zip(answer.logprobs[:same], cold.logprobs[:same], strict=True)
        ]
        assert same > 0, "the first token differs from recomputation"
        assert max(far) < 1e-4, f"log-probabilities differ by {max(far)}"


@pytest.fixture(scope="session")
def reference(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """vLLM without a connector, open for the whole session."""
    log = tmp_path_factory.mktemp("reference") / "log"
    with Life(model, log) as life:
        yield Reference(life)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A mount that fails on command, for pools: faults.of("name").folder."""
    with FaultMount(tmp_path_factory.mktemp("faults")) as mount:
        yield mount.faults


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3: sliding and full attention."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(3)
    config = Gemma3TextConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=1000,
        max_position_embeddings=2048,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"] * 2,
        initializer_range=0.12,
    )
    Gemma3ForCausalLM(config).to(torch.float32).save_pretrained(str(folder))
    return folder


Lives = Callable[..., Life]
Shared = Callable[..., Life]


@pytest.fixture(scope="session")
def shared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Lives that stay open for tests that need no life of their own.

    shared(mode, policy="recompute", batches=1): each test brings prompts that no other has.
    """
    open_lives: dict[tuple[str, str, int], Life] = {}

    def get(mode: str = "preload", policy: str = "recompute", batches: int = 1) -> Life:
        key = (mode, policy, batches)
        life = open_lives.get(key)
        if life is None or not life.alive():
            folder = tmp_path_factory.mktemp(f"{mode}-{policy}-{batches}")
            life = Life(
                model,
                folder / "log",
                folder / "pool",
                size="256MiB",
                policy=policy,
                extra={"mode": mode},
                two_batches=batches == 2,
            )
            open_lives[key] = life.__enter__()
        return life

    yield get
    for life in open_lives.values():
        life.__exit__(None, None, None)


@pytest.fixture
def lives(model: Path, tmp_path: Path) -> Lives:
    """Makes lives on one pool in a fresh folder: lives(mode="preload", size=..., ...)."""
    counter = iter(range(1000))

    def make(mode: str = "preload", **options: Any) -> Life:
        extra = {"mode": mode, **options.pop("extra", {})}
        pool = options.pop("pool", tmp_path / "pool")
        which = options.pop("model", model)
        return Life(which, tmp_path / f"log{next(counter)}", pool, extra=extra, **options)

    return make
