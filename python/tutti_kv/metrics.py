# SPDX-License-Identifier: Apache-2.0
"""Counts for vLLM's log and for Prometheus.

Responsible for the names and how they add up over ranks and steps. Must not know
where they come from. The one idea: every figure is a monotone count, so that
adding is all that aggregation ever does and no counter runs backwards.
"""

from typing import Any

from prometheus_client import Counter
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
    PromMetric,
    PromMetricT,
)

COUNTERS = {
    "load_tokens": "Prompt tokens whose KV was brought back from the pool.",
    "load_slots": "Slots read back, over all ranks.",
    "load_bytes": "Bytes of KV read back, over all ranks.",
    "load_seconds": "Seconds from planning loads to their end, added up over requests.",
    "load_failures": "Loads that failed in part or in whole, over all ranks.",
    "verify_failures": "Slots whose bytes or records did not match, over all ranks.",
    "io_errors": "Commands that failed, over all ranks.",
    "stored_slots": "Slots written, over all ranks.",
    "stored_bytes": "Bytes of KV written, over all ranks.",
    "store_dropped": "Slots that were to be written and were not, over all ranks.",
    "store_refused": "Blocks that found no place in the pool.",
    "evicted_slots": "Slots that gave way to others.",
    "skipped_requests": "Requests that are neither looked up nor stored (LoRA, disabled, ...).",
}


class TuttiStats(KVConnectorStats):  # type: ignore[misc]
    """Counts of one interval."""

    data: dict[str, int | float]

    def add(self, name: str, value: int | float = 1) -> None:
        if value:
            self.data[name] = self.data.get(name, 0) + value

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
            self.add(name, value)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in self.data.items()
        }

    def is_empty(self) -> bool:
        return not self.data


class TuttiPromMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """One Prometheus counter per count: tutti_<name>_total."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        metric_types: dict[type[PromMetric], type[PromMetricT]],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        make: Any = metric_types[Counter]
        self._counters: dict[str, dict[int, Any]] = {}
        for name, documentation in COUNTERS.items():
            counter = make(name=f"tutti_{name}", documentation=documentation, labelnames=labelnames)
            self._counters[name] = {
                engine: counter.labels(*values) for engine, values in per_engine_labelvalues.items()
            }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            if name in self._counters:
                self._counters[name][engine_idx].inc(value)
