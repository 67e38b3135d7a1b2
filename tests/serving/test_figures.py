# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is shown, against what happened; and a request's story in the log."""

import logging
import re
from typing import Any

from conftest import Lives, Reference, look_at_switch, prompt
from tutti_kv import _tutti

from engine import Engine

P = prompt(61, 640)
A = P + prompt(62, 40)
B = P + prompt(63, 50)
SLOT = 131072  # bytes: 4 layers of 32 tokens, 2 heads of 64, K and V, fp32


def scrape(engine: Engine) -> dict[str, float]:
    """What the server's /metrics would say: name and our labels -> value."""
    from prometheus_client import REGISTRY, generate_latest

    for gauged in (engine.half._telling, engine.worker._counting):
        gauged._gauged_at = 0.0  # gauges are due
    engine.ask([1, 2, 3], n=1)
    engine.llm.llm_engine.do_log_stats()
    seen: dict[str, float] = {}
    pattern = re.compile(r"^((?:tutti_|vllm:external)\w+)(?:\{(.*)\})? (\S+)$", re.M)
    for name, labels, value in pattern.findall(generate_latest(REGISTRY).decode()):
        ours = [
            label
            for label in re.findall(r'(\w+="[^"]*")', labels)
            if not label.startswith(("model_name=", "engine="))
        ]
        seen[name + "".join(f" {label}" for label in ours)] = float(value)
    return seen


def happens(engine: Engine) -> tuple[list[dict[str, float]], list[dict[str, int]], list[Any]]:
    """P cold, A from the pool, B over a flipped byte, C while disabled; scraped after each."""
    seen, counted = [scrape(engine)], [engine.counters()]

    def look() -> None:
        seen.append(scrape(engine))
        counted.append(engine.counters())

    answers = [engine.ask(P, n=1)]
    look()
    engine.drop_local()
    answers.append(engine.ask(A, n=1))
    look()
    engine.drop_local()
    engine.spoil(P, 5)
    answers.append(engine.ask(B, n=1))
    look()
    engine.drop_local()
    _tutti.disable(engine.half._home, "a test")
    look_at_switch(engine)
    engine.ask([1, 2, 3], n=1)
    for seed in range(2):
        answers.append(engine.ask(prompt(64 + seed, 100), n=1))
    look()
    stats = engine.half.directory_stats()
    return seen, counted, [answers, stats, engine.half._epoch]


def moved(seen: list[dict[str, float]], step: int) -> dict[str, float]:
    """What changed between two looks; counts without change are left out."""
    before, after = seen[step], seen[step + 1]
    return {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if value != before.get(name, 0.0) and not name.endswith("_created")
    }


def test_scraped_figures_are_what_happened(lives: Lives, reference: Reference) -> None:
    """Exact numbers; and nothing else moves."""
    with lives("preload", disable_log_stats=False) as life:
        seen, counted, (answers, stats, epoch) = life.run(happens)
    for tokens, answer in zip((P, A, B), answers, strict=False):
        reference.check(tokens, answer, n=1)
    seconds = "tutti_load_seconds_total"

    # (the three tokens asked for to get a step are a lookup of three tokens each time)
    cold = moved(seen, 0)
    assert cold['tutti_stored_slots_total rank="0"'] == 20
    assert cold['tutti_stored_bytes_total rank="0"'] == 20 * SLOT
    assert cold["tutti_lookup_tokens_total"] == 640 + 3
    assert cold['tutti_refused_requests_total reason="not stored"'] == 1
    assert cold['tutti_slots state="visible"'] == 20
    assert not [name for name in cold if "load" in name or "hit" in name or "dropped" in name]

    warm = moved(seen, 1)
    assert warm.pop(seconds) > 0
    assert warm.pop("tutti_lookup_tokens_total") == 680 + 3
    assert warm.pop("tutti_hit_tokens_total") == 640
    assert warm.pop("vllm:external_prefix_cache_hits_total") == 640
    assert warm.pop("tutti_load_tokens_total") == 640
    assert warm.pop('tutti_load_slots_total rank="0"') == 20
    assert warm.pop('tutti_load_bytes_total rank="0"') == 20 * SLOT
    assert warm.pop('tutti_stored_slots_total rank="0"') == 1
    assert warm.pop('tutti_staged_bytes_total rank="0"') == (
        counted[2]["staged_bytes"] - counted[1]["staged_bytes"]
    )
    assert counted[2]["read_bytes"] - counted[1]["read_bytes"] >= 20 * SLOT
    assert not [name for name in warm if re.search("fail|error|drop|refus|retr", name)]

    bad = moved(seen, 2)
    assert bad['tutti_verify_failures_total rank="0"'] == (
        counted[3]["verify_failures"] - counted[2]["verify_failures"]
    )
    assert bad['tutti_io_retries_total rank="0"'] == 1
    assert bad['tutti_load_failures_total rank="0"'] == 1
    assert bad['tutti_load_failed_slots_total rank="0" reason="checksum"'] == 1
    assert bad["tutti_hit_tokens_total"] == 640
    assert "tutti_load_tokens_total" not in bad
    assert 'tutti_io_errors_total rank="0"' not in bad

    off = moved(seen, 3)
    assert off['tutti_refused_requests_total reason="disabled"'] == 2
    assert off["tutti_serving"] == -1
    assert 'tutti_stored_slots_total rank="0"' not in off

    last = seen[-1]
    for state in ("visible", "free", "pinned", "foreign"):
        assert last[f'tutti_slots state="{state}"'] == stats[state]
    assert last["tutti_epoch"] == epoch
    assert last['tutti_members rank="0" state="ok"'] == 1
    assert last['tutti_staging_bytes rank="0" state="bound"'] == 64 << 20
    assert last['tutti_staging_bytes rank="0" state="taken"'] == 0
    most = last['tutti_staging_bytes rank="0" state="most"']
    assert (0 < most <= 64 << 20) == (counted[-1]["staged_bytes"] > 0)
    for name in ("loads_under_way", "stores_under_way", "held_blocks"):
        assert last[f'tutti_{name} rank="0"'] == 0


def test_a_request_s_story(lives: Lives) -> None:
    """At DEBUG: what was matched, loaded, stored; for each request by its name."""

    def scenario(engine: Engine) -> list[str]:
        for logger in (logging.getLogger("vllm"), logging.getLogger("vllm.tutti_kv")):
            logger.setLevel(logging.DEBUG)
            for handler in logger.handlers:
                handler.setLevel(logging.DEBUG)
        names = []
        for tokens in (P, A):
            names.append(engine.submit(tokens, n=1))
            engine.collect(names[-1:])
            engine.drain()
            engine.drop_local()
        return names

    with lives("preload") as life:
        first, second = life.run(scenario)
        stories = [
            line.split("Tutti: request ", 1)[1]
            for line in life.log.read_text().splitlines()
            if "Tutti: request " in line
        ]
    told = {
        name: [text[len(name) + 2 :] for text in stories if text.startswith(name)]
        for name in (first, second)
    }
    assert told[first] == [
        "no hit: nothing of the prompt is stored",
        "storing 20 of its first 20 blocks",
        "over (FINISHED_LENGTH_CAPPED): 20 blocks",
        "wrote 20 of 20 slots",
    ] or sorted(told[first]) == sorted(set(told[first]))
    assert told[second][0] == (
        "matched 640 tokens behind 0 of vLLM's own; loading them before it runs"
    )
    assert re.fullmatch(r"loaded 640 tokens in 20 slots after [\d.]+ ms", told[second][1])
    assert "storing 1 of its first 21 blocks" in told[second]
    assert "wrote 1 of 1 slots" in told[second]


def test_the_dashboard_s_figures_are_scraped(lives: Lives) -> None:
    """Each figure with no label of its own is there from the start, so that no panel is empty."""
    from tutti_kv.metrics import COUNTERS, FIGURES

    with lives("preload", disable_log_stats=False) as life:
        seen = life.run(scrape)
    for name, figure in FIGURES.items():
        if not figure.labels:
            assert f"tutti_{name}{'_total' if name in COUNTERS else ''}" in seen
