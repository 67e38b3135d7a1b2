# SPDX-License-Identifier: Apache-2.0
"""Engine "nvme" in vLLM, on drives of software: the code path of drives that Tutti has to itself.

Seen to fail with a software controller whose file is mapped for itself alone.
"""

import os
from pathlib import Path

from conftest import Lives, Reference, prompt

from engine import Answer, Engine, Tokens

P, Q = prompt(91000, 700), prompt(91001, 900)


def ask(engine: Engine, tokens: Tokens) -> Answer:
    answer = engine.ask(tokens)
    engine.healthy()
    return answer


def ask_and_spend(engine: Engine, tokens: Tokens) -> tuple[Answer, dict[str, float]]:
    engine.spend()
    return ask(engine, tokens), engine.spend()


def flip(path: Path) -> None:
    """A byte of every MiB, behind the drive's head."""
    with path.open("r+b") as file:
        for at in range(2 << 20, path.stat().st_size, 1 << 20):
            file.seek(at + 777)
            byte = file.read(1)[0]
            file.seek(at + 777)
            file.write(bytes([byte ^ 1]))


def test_lives_on_drives(lives: Lives, tmp_path: Path, reference: Reference) -> None:
    """Stored, killed, found by the next life in both modes; what rots on a drive is recomputed."""
    files = [tmp_path / f"drive{i}" for i in range(2)]
    for file in files:
        file.touch()
        os.truncate(file, 80 << 20)
    drives = [f"soft:{file},mdts=5,sgls={i}" for i, file in enumerate(files)]
    options = {"size": "128MiB", "extra": {"members": drives}}

    with lives("preload", **options) as life:
        cold = life.run(ask, P)
        life.run(ask, Q)
        life.kill()
    with lives("preload", **options) as life:
        warm = life.run(ask, P)
    with lives("layerwise", **options) as life:
        step = life.run(ask, Q)
    assert cold.external == 0
    assert warm.external == 699 // 32 * 32
    assert step.external == 899 // 32 * 32
    reference.check(P, warm)
    reference.check(Q, step)

    for file in files:
        flip(file)
    with lives("preload", **options) as life:
        rotten, spent = life.run(ask_and_spend, P)
    reference.check(P, rotten)
    assert spent["verify_failures"] >= 1
