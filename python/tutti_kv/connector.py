# SPDX-License-Identifier: Apache-2.0
"""TuttiConnector: vLLM's callbacks, handed on to the half that they are for.

Responsible for nothing but vLLM's names: which callback exists, what it is given
and what it must return. Must not decide anything; the scheduler's half (scheduler.py)
and the worker's (worker.py) do, and each is readable alone.

Nothing unexpected that is raised below gets through to vLLM: the scheduler's half guards
each of its calls, and the worker's is replaced by what is left of it (salvage.py).
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from tutti_kv import config as configuration
from tutti_kv import support
from tutti_kv.metadata import Handshake, Plan
from tutti_kv.metrics import TuttiPromMetrics, TuttiStats
from tutti_kv.salvage import Salvage
from tutti_kv.scheduler import SchedulerHalf
from tutti_kv.worker import WorkerHalf

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("vllm.tutti_kv")
T = TypeVar("T")


class TuttiConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """KV cache on SSDs, for `--kv-transfer-config`."""

    _cache_hit_source = CacheHitSource.DISK

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        config = configuration.parse(self._kv_transfer_config.kv_connector_extra_config)
        parallel = vllm_config.parallel_config
        support.refuse(vllm_config, kv_cache_config)
        configuration.check_parallel(
            config,
            parallel.tensor_parallel_size,
            # vLLM tells each engine of a dense model that it is the only one
            max(parallel.data_parallel_size, parallel.data_parallel_index + 1),
        )
        self._drops = support.drops_preempted_output(config, vllm_config)
        self.scheduler: SchedulerHalf | None = None
        self.worker: WorkerHalf | Salvage | None = None
        self._turn = threading.Lock()  # at the library: vLLM's thread, or the scrub's
        if role == KVConnectorRole.SCHEDULER:
            self.scheduler = SchedulerHalf(vllm_config, kv_cache_config, config)
        else:
            from vllm.distributed.parallel_state import get_tp_group

            rank = get_tp_group().rank_in_group
            self.worker = WorkerHalf(vllm_config, kv_cache_config, config, rank, self._turn)

    @property
    def requires_kv_delivery(self) -> bool:
        # A cache: what is not stored is computed again. But see drops_preempted_output.
        return self._drops

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return extra_config.get("mode") == "layerwise"

    # ---- scheduler ----------------------------------------------------------------

    def _scheduler(self) -> SchedulerHalf:
        assert self.scheduler is not None, "not the scheduler's half"
        return self.scheduler

    def set_xfer_handshake_metadata(
        self, metadata: dict[int, KVConnectorHandshakeMetadata]
    ) -> None:
        handshakes: dict[int, Handshake] = {}
        for rank, shake in metadata.items():
            assert isinstance(shake, Handshake)
            handshakes[rank] = shake
        self._scheduler().take_handshakes(handshakes)

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        super().bind_kv_cache_manager(kv_cache_manager)
        self._scheduler().bind_manager(kv_cache_manager)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        return self._scheduler().matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        table = blocks.get_block_ids()[0] if num_external_tokens else []
        self._scheduler().allocated(request, table, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return self._scheduler().plan(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        self._scheduler().take_output(connector_output)

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        self._scheduler().finished(request, block_ids)
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, block_ids[0] if block_ids else [])

    def has_pending_push_work(self) -> bool:
        return self._scheduler().pending()

    def reset_cache(self) -> bool | None:
        return self._scheduler().reset() if self.scheduler is not None else None

    def take_events(self) -> Iterable[Any]:
        return ()

    # ---- worker -------------------------------------------------------------------

    def _on_worker(self, call: Callable[[WorkerHalf | Salvage], T]) -> T:
        """Call it; whatever is raised ends the worker's half, and what is left of it answers."""
        with self._turn:
            half = self.worker
            assert half is not None, "not the worker's half"
            if isinstance(half, Salvage):
                return call(half)
            try:
                return call(half)
            except Exception as error:
                logger.exception("Tutti: a bug; this worker neither loads nor stores any more")
                self.worker = rest = half.salvage(error)
                return call(rest)

    def register_kv_caches(self, kv_caches: "dict[str, torch.Tensor]") -> None:
        assert isinstance(self.worker, WorkerHalf)
        self.worker.register(kv_caches)  # at start what goes wrong is told, or refused

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return self._on_worker(lambda half: half.handshake())

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        plan = kv_connector_metadata
        assert isinstance(plan, Plan)
        self._on_worker(lambda half: half.prepare(plan))

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        plan = connector_metadata
        assert isinstance(plan, Plan)
        self._on_worker(lambda half: half.bind(plan))

    def clear_connector_metadata(self) -> None:
        super().clear_connector_metadata()
        self._on_worker(lambda half: half.unbind())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass  # loads begin when the plan is bound; vLLM calls this after the hooks

    def wait_for_layer_load(self, layer_name: str) -> None:
        self._on_worker(lambda half: half.wait_for_layer(layer_name))

    def save_kv_layer(
        self, layer_name: str, kv_layer: "torch.Tensor", attn_metadata: Any, **kwargs: Any
    ) -> None:
        pass  # blocks are stored when the step has ended

    def wait_for_save(self) -> None:
        self._on_worker(lambda half: half.step_ended())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        finished, failed = self._on_worker(lambda half: half.poll_loads())
        return KVConnectorTransferResults(finished_recving=finished, failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._on_worker(lambda half: half.take_invalid_blocks())

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._on_worker(lambda half: half.report())

    # ---- both ---------------------------------------------------------------------

    def shutdown(self) -> None:
        if self.worker is not None:
            self._on_worker(lambda half: half.close())
        if self.scheduler is not None:
            self.scheduler.close()

    def get_kv_connector_stats(self) -> TuttiStats | None:
        if self.worker is not None:
            return self._on_worker(lambda half: half.take_stats())
        return self._scheduler().take_stats()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> TuttiStats | None:
        return TuttiStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> TuttiPromMetrics | None:
        return TuttiPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)
