# SPDX-License-Identifier: Apache-2.0
"""Weights that change in a running server.

Responsible for noticing it in a worker: at once where it goes through the engine's own
calls, by a sample of the bytes where somebody wrote to the parameters behind its back. Must
not know pools or epochs: it counts changes, and the scheduler's half begins an epoch for
each. The one idea: a few bytes of every tensor, at places that never change, are compared
when the engine was idle for a moment, before anything is loaded or stored again.

What it can't see: a change between two steps that follow each other, and one that leaves
all the sampled bytes as they were.
"""

import gc
import hashlib
import itertools
import logging
import time
from typing import Any

import numpy as np

logger = logging.getLogger("vllm.tutti_kv.worker")

# Calls of vLLM 0.32's workers after which the weights may be other ones.
CALLS = (
    "load_model",
    "reload_weights",
    "reset_weights",
    "update_weights",
    "finish_weight_update",
    "wake_up",
    "checkpoint_restore",
)
SAMPLES = 8  # of each tensor
IDLE = 0.5  # seconds without a step


def find_worker(vllm_config: Any) -> Any:
    """The worker of this process whose configuration it is, or None.

    vLLM hands it to nobody; its workers are there when KV memory is registered.
    """
    from vllm.v1.worker.worker_base import WorkerBase

    for thing in gc.get_objects():
        if issubclass(type(thing), WorkerBase) and (
            getattr(thing, "vllm_config", None) is vllm_config
        ):
            return thing
    return None


def sample(model: Any) -> bytes:
    """A digest of a few elements of every parameter and buffer."""
    import torch

    taken = []
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        count = tensor.numel()
        if count == 0 or tensor.is_meta or tensor.layout is not torch.strided:
            continue
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        places = np.random.default_rng(seed).integers(0, count, SAMPLES)
        index = np.unravel_index(places, tuple(tensor.shape)) if tensor.dim() else ()
        found = tensor.detach()[tuple(torch.from_numpy(i).to(tensor.device) for i in index)]
        taken.append(found.reshape(-1).contiguous().view(torch.uint8))
    everything = torch.cat(taken).cpu().numpy().tobytes() if taken else b""
    return hashlib.sha256(everything).digest()


class Weights:
    """One worker's weights. changes: how often they changed, as far as is known."""

    def __init__(self, worker: Any) -> None:
        self.changes = 0
        self._worker = worker
        self._seen: bytes | None = None
        self._step_at = time.monotonic()
        self._looks = True
        self._blind = False
        if worker is None:
            logger.warning(
                "Tutti: vLLM's worker is not found: weights that change in the running server "
                "are not noticed"
            )
            return
        for name in CALLS:
            if hasattr(worker, name):
                self._follow(name)
        self._seen = self._sample()

    def _follow(self, name: str) -> None:
        call = getattr(self._worker, name)

        def followed(*arguments: Any, **named: Any) -> Any:
            try:
                return call(*arguments, **named)
            finally:  # a call that failed may have changed some
                self._changed(f"by the engine's call {name}")

        setattr(self._worker, name, followed)

    def _sample(self) -> bytes | None:
        """None where it can't be had: then only the engine's own calls are noticed."""
        parallel = getattr(getattr(self._worker, "vllm_config", None), "parallel_config", None)
        if getattr(parallel, "enable_eplb", False):
            return None  # experts move between ranks
        try:
            return sample(self._worker.model_runner.model)
        except Exception as error:
            if not self._blind:
                logger.warning(
                    "Tutti: the weights can't be sampled (%s): where they change behind the "
                    "engine's back it is not noticed",
                    error,
                )
            self._blind = True
            return None

    def _changed(self, how: str) -> None:
        self.changes += 1
        self._looks = True
        self._seen = None
        logger.warning(
            "Tutti: the weights changed %s: what was stored before is void, what is stored from "
            "now on is not found after a restart; vLLM's own prefix cache may hold KV of the old "
            "ones until it is reset",
            how,
        )

    def step_began(self) -> None:
        """A plan has come; after a moment of idleness the weights are looked at."""
        self._looks = self._looks or time.monotonic() - self._step_at > IDLE

    def step_ended(self) -> None:
        self._step_at = time.monotonic()

    def look(self) -> None:
        """Before something is loaded or stored."""
        if not self._looks or self._worker is None:
            return
        self._looks = False
        seen, known = self._sample(), self._seen
        self._seen = seen
        if known is not None and seen is not None and seen != known:
            self._changed("behind the engine's back")
            self._looks, self._seen = False, seen
