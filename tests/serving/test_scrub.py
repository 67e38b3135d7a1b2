# SPDX-License-Identifier: Apache-2.0
"""What rots in an idle server is found and dropped before a request meets it; nobody waits for it.

Seen to fail: with the scrub off, and with a scheduler's half that does not hear the bell (the
controls below), the load meets the bad block.
"""

import time

import pytest
from conftest import MODES, Lives, Reference, prompt, until
from faultmount import Faults

from engine import Answer, Engine, Life

HEAD = prompt(8000, 640)
TAILS = [HEAD + prompt(8001 + i, 40) for i in range(3)]


def never_rests() -> None:
    """A pool of a test is through in no time; go through it again at once."""
    from tutti_kv import scrubbing

    scrubbing.ROUND_EVERY = 0.0


def rots(engine: Engine, found: bool, deaf: bool) -> tuple[list[Answer], dict[str, float], int]:
    """HEAD is stored; its sixth block rots while the engine is idle; then it is asked for."""
    engine.ask(HEAD)
    engine.drop_local()
    engine.spend()
    if deaf:
        engine.half._ears.news = lambda: False
    steps = engine.half._step
    engine.spoil(HEAD, 5)
    if found:
        until(lambda: engine.worker._bad)
    idle = engine.half._step - steps
    answers = []
    for tokens in TAILS[:2]:
        answers.append(engine.ask(tokens))
        engine.drop_local()
    engine.healthy()
    return answers, engine.spend(), idle


@pytest.mark.parametrize("mode", MODES)
def test_found_while_idle(mode: str, lives: Lives, reference: Reference) -> None:
    """With the rate that is the default: no load fails, the hit ends before, all is stored anew."""
    with lives(mode, extra={"scrub": "16MiB"}, before=never_rests) as life:
        answers, spent, idle = life.run(rots, True, False)
        until(lambda: "a scrub is through after" in life.log.read_text())
        log = life.log.read_text()
    assert idle == 0, "void: the engine took steps meanwhile"
    assert "load_failures" not in spent
    assert spent["scrubbed_slots|0|bad"] == 1
    assert spent["scrubbed_slots|0|good"] >= 19
    assert spent["scrubbed_bytes|0"] > 0
    assert [answer.external for answer in answers] == [160, 640]
    assert "it and 14 behind it are dropped" in log
    for tokens, answer in zip(TAILS, answers, strict=False):
        reference.check(tokens, answer)


@pytest.mark.parametrize("why", ["off", "deaf"])
def test_control_the_load_meets_it(why: str, lives: Lives, reference: Reference) -> None:
    """Without a scrub; and with one whose news comes with the first step after."""
    extra = {"scrub": 0 if why == "off" else "16MiB"}
    with lives("preload", extra=extra, before=never_rests) as life:
        answers, spent, _ = life.run(rots, why == "deaf", why == "deaf")
    assert spent["load_failures"] == 1
    assert answers[0].external == 640
    assert ("scrubbed_slots|0|bad" in spent) == (why == "deaf")
    for tokens, answer in zip(TAILS, answers, strict=False):
        reference.check(tokens, answer)


@pytest.mark.parametrize("mode", MODES)
def test_beside_serving(mode: str, lives: Lives, reference: Reference) -> None:
    """As fast as it goes, round after round, under stores, loads and eviction: nothing is bad."""
    prompts = [prompt(8100 + i, 200 + 60 * i) for i in range(10)]

    def scenario(engine: Engine) -> tuple[list[Answer], dict[str, float], int]:
        answers = []
        for _ in range(4):
            answers += engine.ask_all(prompts, n=4)
            engine.drop_local()
        engine.healthy()
        return answers, engine.spend(), int(engine.half.directory_stats()["evicted"])

    # room for half of the prompts' 150 blocks
    with lives(mode, extra={"scrub": "1GiB"}, before=never_rests, size="16MiB") as life:
        answers, spent, evicted = life.run(scenario)
    assert spent["scrubbed_slots|0|good"] > 100, "void: it hardly ran"
    assert evicted > 0, "void: nothing was evicted"
    for name in ("scrubbed_slots|0|bad", "load_failures", "verify_failures"):
        assert name not in spent
    for tokens, answer in zip(prompts * 4, answers, strict=True):
        reference.check(tokens, answer, n=4)


def shut_down(life: Life) -> float:
    """How long the engine took to end, its process still waiting for the disk."""
    began = time.monotonic()
    life.channel.send(None)
    life._receive(60)
    return time.monotonic() - began


def test_a_scrub_s_read_without_end(faults: Faults, lives: Lives, reference: Reference) -> None:
    """Stores and loads go on beside it, and shutting down is bounded.

    Seen to fail with a close that waits as long as the library's own bound.
    """
    disk = faults.of("scrub")

    def scenario(engine: Engine) -> list[Answer]:
        engine.ask(HEAD)
        engine.drop_local()
        rule = disk.rule("read:hold:count=1")
        until(lambda: disk.count(rule, "waiting") == 1)
        answers = [engine.ask(TAILS[0])]
        engine.drop_local()
        answers.append(engine.ask(TAILS[0]))
        assert disk.count(rule, "waiting") == 1, "void: the read has ended"
        engine.healthy()
        return answers

    extra = {"scrub": "1GiB"}
    with lives("preload", pool=disk.folder, extra=extra, before=never_rests) as life:
        try:
            answers = life.run(scenario)
            took = shut_down(life)
        finally:
            disk.lift()
        life.process.join(30)
    assert took < 20
    assert [answer.external for answer in answers] == [640, 672]
    for answer in answers:
        reference.check(TAILS[0], answer)
