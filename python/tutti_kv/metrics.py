# SPDX-License-Identifier: Apache-2.0
"""Figures for vLLM's log and for Prometheus.

Responsible for their names, their labels and how they add up over ranks and steps. Must
not know where they come from. The one idea: a figure travels as a name with its labels in
one string and a number. Counts are monotone, so adding is all that aggregation does and
no counter runs backwards; a gauge is what was said last.
"""

import logging
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
    PromMetric,
    PromMetricT,
)

logger = logging.getLogger("vllm.tutti_kv")


@dataclass(frozen=True)
class Figure:
    """What a figure is, and by what it is split."""

    documentation: str
    labels: tuple[str, ...] = ()


COUNTERS = {
    "lookup_tokens": Figure("Prompt tokens that admitted requests could have hit in the pool."),
    "hit_tokens": Figure("Of these, tokens that the pool promised to bring."),
    "load_tokens": Figure("Prompt tokens whose KV was brought back from the pool."),
    "load_slots": Figure("Slots read back and verified.", ("rank",)),
    "load_bytes": Figure("Bytes of KV read back.", ("rank",)),
    "load_seconds": Figure("Seconds from planning loads to their end, added up over requests."),
    "load_failures": Figure("Loads that failed in part or in whole.", ("rank",)),
    "load_failed_slots": Figure("Slots that could not be brought back.", ("rank", "reason")),
    "layer_wait_seconds": Figure("Seconds that steps waited for a layer to arrive.", ("rank",)),
    "verify_failures": Figure("Slots whose bytes or records did not match.", ("rank",)),
    "io_errors": Figure("Commands that failed.", ("rank",)),
    "io_retries": Figure("Objects that were read a second time.", ("rank",)),
    "staged_bytes": Figure("Bytes that went through staging memory.", ("rank",)),
    "stored_slots": Figure("Slots written.", ("rank",)),
    "stored_bytes": Figure("Bytes of KV written.", ("rank",)),
    "store_dropped": Figure(
        "Slots that were to be written and were not; without a place there is no rank.",
        ("rank", "reason"),
    ),
    "scrubbed_slots": Figure(
        "Slots verified while nobody asked for them, by result (good, bad).", ("rank", "result")
    ),
    "scrubbed_bytes": Figure("Bytes read to verify them.", ("rank",)),
    "evicted_slots": Figure("Slots that gave way to others."),
    "refused_requests": Figure("Requests that could not hit, by the reason.", ("reason",)),
}
GAUGES = {
    "serving": Figure("1 where requests are looked up and stored, 0 where they are not."),
    "epoch": Figure("The epoch that is written under."),
    "slots": Figure(
        "Slots of the pool by state (visible, free, pinned, foreign); a pinned one is visible too.",
        ("state",),
    ),
    "loads_under_way": Figure("Loads that have not ended.", ("rank",)),
    "stores_under_way": Figure("Slots of stores that have not ended.", ("rank",)),
    "held_blocks": Figure("Blocks of KV memory that a read without an end keeps.", ("rank",)),
    "members": Figure("Members by state (ok, fenced).", ("rank", "state")),
    "drive_warns": Figure(
        "1 where a drive of ours warns: worn, read-only, unreliable or hot.", ("rank", "member")
    ),
    "drive_used_percent": Figure("Its rated endurance that is used.", ("rank", "member")),
    "drive_spare_percent": Figure("Its spare blocks that are left.", ("rank", "member")),
    "drive_celsius": Figure("Its temperature.", ("rank", "member")),
    "drive_media_errors": Figure("What it could not read, over its life.", ("rank", "member")),
    "staging_bytes": Figure(
        "Staging memory of all members: in use (taken), most that ever was (most), all (bound).",
        ("rank", "state"),
    ),
}
FIGURES = {**COUNTERS, **GAUGES}


def key(name: str, **labels: object) -> str:
    """A figure's name with its labels, in the order in which they are declared."""
    declared = FIGURES[name].labels
    if set(labels) != set(declared):
        raise ValueError(f"{name} has the labels {declared}, not {tuple(labels)}")
    return "|".join([name, *(str(labels[label]) for label in declared)])


def _is_gauge(name: str) -> bool:
    return name.partition("|")[0] in GAUGES


class TuttiStats(KVConnectorStats):  # type: ignore[misc]
    """Figures of one interval."""

    data: dict[str, int | float]

    def add(self, name: str, value: int | float = 1, **labels: object) -> None:
        if value:
            self._add(key(name, **labels), value)

    def _add(self, name: str, value: int | float) -> None:
        self.data[name] = self.data.get(name, 0) + value

    def set(self, name: str, value: int | float, **labels: object) -> None:
        self.data[key(name, **labels)] = value

    def reset(self) -> None:
        self.data = {}

    def take(self) -> "TuttiStats | None":
        """What was counted since the last time, or None."""
        if not self.data:
            return None
        taken = TuttiStats(data=self.data)
        self.data = {}
        return taken

    def aggregate(self, other: KVConnectorStats) -> "TuttiStats":
        for name, value in other.data.items():
            if _is_gauge(name):
                self.data[name] = value
            else:
                self._add(name, value)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {
            name.replace("|", " "): round(value, 3) if isinstance(value, float) else value
            for name, value in self.data.items()
        }

    def is_empty(self) -> bool:
        return not self.data


class TuttiPromMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """tutti_<name>_total for each count, tutti_<name> for each gauge."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        metric_types: dict[type[PromMetric], type[PromMetricT]],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._values = per_engine_labelvalues
        self._metrics: dict[str, Any] = {}
        self._children: dict[tuple[int, str], Any] = {}
        counter: Any = metric_types[Counter]
        gauge: Any = metric_types[Gauge]
        for name, figure in FIGURES.items():
            named: dict[str, Any] = {
                "name": f"tutti_{name}",
                "documentation": figure.documentation,
                "labelnames": [*labelnames, *figure.labels],
            }
            if name in GAUGES:
                self._metrics[name] = gauge(**named, multiprocess_mode="mostrecent")
            else:
                self._metrics[name] = counter(**named)
        # What has no labels of its own is there from the start, at 0.
        for name, figure in FIGURES.items():
            for engine in per_engine_labelvalues if not figure.labels else ():
                self._child(engine, name)

    def _child(self, engine: int, full: str) -> Any:
        child = self._children.get((engine, full))
        if child is None:
            name, *labels = full.split("|")
            child = self._metrics[name].labels(*self._values[engine], *labels)
            self._children[engine, full] = child
        return child

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            try:
                child = self._child(engine_idx, name)
                if _is_gauge(name):
                    child.set(value)
                else:
                    child.inc(value)
            except Exception:  # a figure is not worth the process that serves requests
                logger.exception("Tutti: the figure %s = %r can't be shown", name, value)
