# SPDX-License-Identifier: Apache-2.0
"""A serving engine is killed at random instants for as long as it is told.

`make torture ARGS="--minutes 30"`, or TUTTI_TORTURE_MINUTES; without it nothing is
tested. Prompts with shared prefixes come at random, every answer that arrived
before a kill is compared with the cold one, the pool is checked after each kill,
and each life after the first must find something.

Seen to fail with verification off and bytes of each slot flipped after a kill (other
tokens), and, verification on, with the same flips (the check names the slots).
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest
from conftest import MODES, Lives, Reference, prompt

from engine import Answer, Engine, Life, Tokens

ROOT = Path(__file__).resolve().parents[2]
MINUTES = float(os.environ.get("TUTTI_TORTURE_MINUTES", "0"))
LONGEST_LIFE = 40.0  # seconds; with its start, and the comparing, a kill every 120 at least
BASES = 6


def draw_prompt(draw: random.Random) -> Tokens:
    """One of a few stems, cut anywhere, with one of a few tails: a tree of prefixes."""
    base = draw.randrange(BASES)
    length = draw.choice((96, 200, 320, 500))
    tail = draw.randrange(3)
    return prompt(7000 + base, length) + (prompt(7100 + tail, 40) if tail else [])


def ask_some(engine: Engine, prompts: list[Tokens]) -> list[Answer]:
    return engine.ask_all(prompts, n=8)


def ask_until_killed(engine: Engine, seed: int) -> None:
    """Without an end, so that a kill meets loads and stores under way."""
    draw = random.Random(seed)
    while True:
        engine.collect([engine.submit(draw_prompt(draw), n=4) for _ in range(3)])


def stored(engine: Engine) -> int:
    engine.half._directory.audit()
    return int(engine.half.directory_stats()["visible"])


def kill_at_work(life: Life, seed: int, after: float) -> None:
    """Start what never ends, and kill it in the middle."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    life.channel.send(cloudpickle.dumps((ask_until_killed, (seed,))))
    time.sleep(after)
    life.kill()


def check(pool: Path) -> dict[str, int]:
    """What `tutti check --data` counts; nothing may be bad."""
    done = subprocess.run(
        [str(ROOT / "build/tutti"), "check", str(pool), "--data", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(MINUTES <= 0, reason="only with a time: TUTTI_TORTURE_MINUTES")
def test_killed_for_minutes(lives: Lives, reference: Reference, tmp_path: Path) -> None:
    seed = int(os.environ.get("TUTTI_TORTURE_SEED", str(time.time_ns() % 1_000_000)))
    draw = random.Random(seed)
    deadline = time.monotonic() + 60 * MINUTES
    kills = answers = hits = loaded = torn = 0
    longest = 0.0
    while time.monotonic() < deadline:
        began = time.monotonic()
        until = min(began + draw.uniform(2, LONGEST_LIFE), deadline)
        mode = draw.choice(MODES)
        policy = draw.choice(("recompute", "fail"))
        given: list[tuple[Tokens, Answer]] = []
        with lives(mode, policy=policy, size="24MiB", num_gpu_blocks_override=160) as life:
            found = life.run(stored)
            assert kills == 0 or found > 0, f"nothing was found after a kill (seed {seed})"
            while time.monotonic() < until:
                prompts = [draw_prompt(draw) for _ in range(draw.randrange(1, 5))]
                given += zip(prompts, life.run(ask_some, prompts), strict=True)
            kill_at_work(life, draw.randrange(1 << 30), draw.uniform(0.0, 1.5))
        kills += 1
        longest = max(longest, time.monotonic() - began)
        counts = check(tmp_path / "pool")
        torn += counts["torn"]
        for tokens, answer in given:
            reference.check(tokens, answer, n=8)
        answers += len(given)
        hits += sum(answer.external > 0 for _, answer in given)
        loaded += sum(answer.external for _, answer in given)
        print(
            f"{kills} kills, {answers} answers, all as recomputed; {hits} with hits "
            f"({loaded} tokens); pool: {counts['valid']} slots, {torn} torn so far; seed {seed}",
            flush=True,
        )
    assert hits > 0
    assert longest < 120, f"a life lasted {longest:.0f} s"
