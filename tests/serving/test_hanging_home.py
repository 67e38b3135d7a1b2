# SPDX-License-Identifier: Apache-2.0
"""The pool's home lies on a file system that hangs: the server goes on with what it knows.

The members lie elsewhere. Seen to fail with halves that look at the switch in a step, and with a
binding that keeps Python's lock while it looks: the first request never ends.
"""

from pathlib import Path

from conftest import Lives, Reference, prompt, until
from faultmount import Faults

from engine import Answer, Engine

TOKENS = prompt(8500, 320)
TAILS = [TOKENS + prompt(8501 + i, 20) for i in range(3)]


def test_a_home_that_hangs(
    faults: Faults, lives: Lives, tmp_path: Path, reference: Reference
) -> None:
    """It hits meanwhile; the switch, thrown before it hung, holds when the home answers."""
    home = faults.of("home")
    member = tmp_path / "member"
    member.mkdir()

    def waiting() -> int:
        line = next(line for line in home.report() if "open:hold" in line)
        return int(line.split()[-1])

    def ask(engine: Engine, tokens: list[int]) -> Answer:
        engine.drop_local()
        return engine.ask(tokens, n=4)

    def hang(engine: Engine) -> list[Answer]:
        engine.ask(TOKENS, n=4)
        home.say("open:hold:file=home/disabled")
        (home.backing / "home" / "disabled").write_text("a test\n")
        until(lambda: waiting() == 2)  # both halves' threads
        answers = [ask(engine, tokens) for tokens in TAILS[:2]]
        assert waiting() == 2, "void: nothing hangs"
        return answers

    def come_back(engine: Engine) -> Answer:
        until(lambda: engine.half._switch.thrown is not None)
        return ask(engine, TAILS[2])

    with lives("preload", pool=home.folder, extra={"members": [str(member)]}) as life:
        try:
            answers = life.run(hang, timeout=60)
        finally:
            home.lift()
        answers.append(life.run(come_back))
    assert [answer.external for answer in answers] == [320, 320, 0]
    for tokens, answer in zip(TAILS, answers, strict=True):
        reference.check(tokens, answer, n=4)
