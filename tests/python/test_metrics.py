# SPDX-License-Identifier: Apache-2.0
"""Figures: how they add up, how Prometheus shows them, and that the dashboard knows them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from tutti_kv.metrics import COUNTERS, FIGURES, GAUGES, TuttiPromMetrics, TuttiStats, key

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "tutti.json"


def stats(**figures: float) -> TuttiStats:
    return TuttiStats(data=dict(figures))


def test_counts_add_up_and_gauges_are_what_was_said_last() -> None:
    one, two = stats(), stats()
    one.add("stored_slots", 3, rank=0)
    one.add("stored_slots", 4, rank=0)
    two.add("stored_slots", 5, rank=1)
    one.set("epoch", 7)
    two.set("epoch", 8)
    both = one.aggregate(two)
    assert both.data == {"stored_slots|0": 7, "stored_slots|1": 5, "epoch": 8}
    assert both.reduce() == {"stored_slots 0": 7, "stored_slots 1": 5, "epoch": 8}


def test_a_figure_needs_its_labels() -> None:
    assert key("store_dropped", reason="fenced", rank=1) == "store_dropped|1|fenced"
    for labels in ({}, {"rank": 0}, {"rank": 0, "reason": "x", "more": 1}):
        with pytest.raises(ValueError, match="has the labels"):
            key("store_dropped", **labels)
    with pytest.raises(KeyError):
        key("stored_slotz", rank=0)


def test_nothing_is_taken_twice() -> None:
    one = stats()
    one.add("load_tokens", 5)
    taken = one.take()
    assert taken is not None
    assert taken.data == {"load_tokens": 5}
    assert one.take() is None


def prometheus() -> tuple[TuttiPromMetrics, CollectorRegistry]:
    registry = CollectorRegistry()

    def made(kind: Any) -> Any:
        return lambda **named: kind(registry=registry, **named)

    kinds: Any = {kind: made(kind) for kind in (Counter, Gauge, Histogram)}
    config: Any = type("Config", (), {"kv_transfer_config": None})
    labels = ["model_name", "engine"]
    return TuttiPromMetrics(config, kinds, labels, {0: ["m", "0"], 1: ["m", "1"]}), registry


def test_prometheus_shows_what_was_counted() -> None:
    metrics, registry = prometheus()
    one = stats()
    one.add("stored_slots", 3, rank=0)
    one.add("store_dropped", 2, rank=0, reason="fenced")
    one.set("epoch", 7)
    metrics.observe(one.data, 1)
    metrics.observe(one.data, 1)
    text = generate_latest(registry).decode()
    assert 'tutti_stored_slots_total{engine="1",model_name="m",rank="0"} 6.0' in text
    dropped = 'tutti_store_dropped_total{engine="1",model_name="m",rank="0",reason="fenced"} 4.0'
    assert dropped in text
    assert 'tutti_epoch{engine="1",model_name="m"} 7.0' in text
    assert 'tutti_load_tokens_total{engine="0",model_name="m"} 0.0' in text, "there from the start"


def test_a_figure_nobody_knows_does_no_harm() -> None:
    """It comes from another process, which may be another version."""
    metrics, registry = prometheus()
    metrics.observe({"new|1": 3, "store_dropped": 1, "load_tokens": -5, "hit_tokens": 4})
    assert (
        'tutti_hit_tokens_total{engine="0",model_name="m"} 4.0'
        in generate_latest(registry).decode()
    )


def expressions(panel: dict[str, Any]) -> list[str]:
    inner = [text for part in panel.get("panels", []) for text in expressions(part)]
    return inner + [target["expr"] for target in panel.get("targets", [])]


def test_the_dashboard_names_figures_that_exist() -> None:
    """Each of its names is one of ours (counters with their suffix) or one of vLLM's."""
    board = json.loads(DASHBOARD.read_text())
    texts = [text for panel in board["panels"] for text in expressions(panel)]
    named = set(re.findall(r"tutti_[a-z_]+", " ".join(texts)))
    ours = {f"tutti_{name}_total" for name in COUNTERS} | {f"tutti_{name}" for name in GAUGES}
    assert named <= ours, f"unknown: {sorted(named - ours)}"
    assert named == ours, f"not shown: {sorted(ours - named)}"
    for text in texts:
        for name, labels in re.findall(r"by \(([a-z_, ]+)\) \([a-z]+\((tutti_[a-z_]+)", text):
            figure = labels.removeprefix("tutti_").removesuffix("_total")
            known = {*FIGURES[figure].labels, "model_name", "engine"}
            assert set(name.replace(" ", "").split(",")) <= known, text
