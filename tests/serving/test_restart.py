# SPDX-License-Identifier: Apache-2.0
"""What the next life finds: after an orderly end, after SIGKILL, under other weights."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Lives, Reference, prompt, torture

from engine import Answer, Engine, LifeError, Tokens

P = prompt(11, 700)
WHOLE = 699 // 32 * 32


def ask(engine: Engine, tokens: Tokens) -> Answer:
    return engine.ask(tokens)


def stored(engine: Engine) -> int:
    return int(engine.half.directory_stats()["visible"])


def test_lives_in_a_row(lives: Lives, reference: Reference) -> None:
    """SIGTERM and SIGKILL right after the last token, and SIGKILL two seconds later."""
    q, r = prompt(12, 700), prompt(13, 700)

    def to_the_last_token(engine: Engine, tokens: Tokens) -> tuple[Answer, int]:
        """No step follows it; what has been reported stored by then is counted."""
        answer = engine.collect([engine.submit(tokens)])[0]
        return answer, stored(engine)

    def and_a_little_longer(engine: Engine, tokens: Tokens) -> tuple[Answer, float]:
        answer = engine.collect([engine.submit(tokens, n=80)])[0]
        began = time.monotonic()
        engine.drain()
        return answer, time.monotonic() - began

    with lives("preload") as life:
        cold, _ = life.run(to_the_last_token, P)
    with lives("layerwise") as life:
        warm = life.run(ask, P)
        before = life.run(stored)
        _, after = life.run(to_the_last_token, q)
        life.kill()
    assert (cold.external, warm.external) == (0, WHOLE)
    reference.check(P, warm)

    with lives("preload") as life:
        second = life.run(ask, q)
        third, took = life.run(and_a_little_longer, r)
        life.kill()
    assert second.external >= min((after - before) * 32, WHOLE)
    reference.check(q, second)
    assert took < 2.0

    turn = [*r, *third.tokens, 5, 6]
    with lives("layerwise") as life:
        fourth = life.run(ask, turn)
    assert fourth.external == 779 // 32 * 32
    reference.check(turn, fourth)


def test_killed_at_any_moment(lives: Lives, reference: Reference) -> None:
    """Case 12: SIGKILL while prompts are stored; two restarts find the same; counts agree.

    Every slot is free, visible or foreign, and each visible one belongs to a prompt. Full count
    under TUTTI_TORTURE.
    """
    draw = random.Random(5)
    prompts = [prompt(100 + i, 400) for i in range(6)]

    def burst(engine: Engine, begin: int) -> int:
        for tokens in prompts[begin:]:
            engine.collect([engine.submit(tokens, n=2)])
        return stored(engine)

    def found(engine: Engine) -> tuple[int, list[int]]:
        engine.half._directory.audit()
        stats = engine.half.directory_stats()
        assert stats["free"] + stats["visible"] + stats["foreign"] == stats["slots"]
        return stats["visible"], [len(engine.slots(tokens)) for tokens in prompts]

    for round_ in range(10 if torture() else 2):
        with lives() as life:
            life.channel.send(_packed(burst, round_ % 5))
            time.sleep(draw.uniform(0.02, 0.4))
            life.kill()
        with lives() as life:
            first = life.run(found)
            answers = life.run(lambda engine: [engine.ask(tokens) for tokens in prompts[:2]])
            life.kill()
        for tokens, answer in zip(prompts, answers, strict=False):
            reference.check(tokens, answer)
        assert first[0] == sum(first[1])
    with lives() as life:
        again = life.run(found)
    assert all(a >= b for a, b in zip(again[1], first[1], strict=True))


def _packed(function: object, *arguments: object) -> bytes:
    import sys

    import cloudpickle  # type: ignore[import-untyped]

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return bytes(cloudpickle.dumps((function, arguments)))


def test_other_weights_under_the_same_name(
    model: Path, tmp_path: Path, lives: Lives, reference: Reference
) -> None:
    """Case 3: bytes changed, names, sizes, headers and times kept: no hit. The old file: hits."""
    mine = tmp_path / "model"
    shutil.copytree(model, mine)
    weights = mine / "model.safetensors"
    whole = weights.read_bytes()
    stat = weights.stat()

    def change(content: bytes) -> None:
        weights.write_bytes(content)
        os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        time.sleep(0.2)  # what changes just as a server starts is not believed

    change(whole)
    with lives(model=mine) as life:
        life.run(ask, P)
    change(scaled(whole, "model.layers.1.self_attn.k_proj.weight", 1.5))
    with lives(model=mine) as life:
        changed = life.run(ask, P)
        stats = life.run(lambda engine: dict(engine.half.directory_stats()))
    assert changed.external == 0
    assert stats["foreign"] > 0
    assert changed.tokens != reference.cold(P).tokens, "void: the change changes nothing"
    change(whole)
    with lives(model=mine) as life:
        back = life.run(ask, P)
    assert back.external == WHOLE
    reference.check(P, back)


def scaled(content: bytes, name: str, factor: float) -> bytes:
    """A safetensors file with one fp32 tensor multiplied."""
    length = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    tensor = np.frombuffer(content[8 + length + begin : 8 + length + end], np.float32)
    changed = (tensor * np.float32(factor)).tobytes()
    return content[: 8 + length + begin] + changed + content[8 + length + end :]


def test_other_settings_do_not_hit(lives: Lives) -> None:
    """Another block size, type of numbers is another cache."""
    with lives() as life:
        assert life.run(ask, P).external == 0
    for options in ({"block_size": 64}, {"dtype": "bfloat16"}):
        with lives(**options) as life:
            assert life.run(ask, P).external == 0, options
    with lives() as life:  # and the first is still there
        assert life.run(ask, P).external == WHOLE


def test_a_pool_in_use_is_refused(lives: Lives) -> None:
    """A second engine on the same pool does not start."""
    with lives() as life:
        life.run(ask, P)
        with pytest.raises(LifeError, match="Tutti can't serve"), lives():
            pass
        assert life.run(ask, P).cached == WHOLE
