# SPDX-License-Identifier: Apache-2.0
"""Which GPU holds KV memory, and which stream computes on it.

Responsible for the two things that only torch knows of a GPU. Must not know pools, plans
or the library. The one idea: they are plain numbers, and everything else of a GPU is the
library's.
"""

from collections.abc import Iterable
from typing import Any

from tutti_kv.layout import LayoutError


def ordinal(tensors: Iterable[Any]) -> int | None:
    """The GPU that all the tensors are on, as CUDA numbers it; None for host memory."""
    devices = {(tensor.device.type, tensor.device.index) for tensor in tensors}
    kinds = {kind for kind, _ in devices}
    if kinds == {"cpu"}:
        return None
    if kinds != {"cuda"}:
        raise LayoutError(
            f"KV memory on {', '.join(sorted(kinds))}: only that of the host, or of one CUDA "
            "GPU, is served"
        )
    numbers = {index or 0 for _, index in devices}
    if len(numbers) > 1:
        raise LayoutError(f"one rank's KV memory is on GPUs {sorted(numbers)}: one is served")
    return int(numbers.pop())


def stream() -> int:
    """The handle of the stream that this thread computes on."""
    import torch

    return int(torch.cuda.current_stream().cuda_stream)
