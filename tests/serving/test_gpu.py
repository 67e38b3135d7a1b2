# SPDX-License-Identifier: Apache-2.0
"""The connector's path for a GPU, in vLLM on CPU, over the CUDA driver's stand-in.

The stand-in (tests/cuda) is a test double: it keeps the driver's rules, takes the host's
tensors for device memory, and computes nothing. vLLM itself computes on the host, so
after each layer's hook the test waits for the stream, as the layer's kernels would. What
is shown is that the connector and the library put the right bytes into the right blocks
through streams, words and staging; not that any of it runs on a GPU.

Seen to fail with loads that put nothing in place, and with a hook that waits for nothing.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MODES, Lives, Reference, prompt

from engine import Answer, Engine

STANDIN = Path(__file__).resolve().parents[2] / "build/tests/cuda/libcuda.so.1"
P, Q = prompt(7001, 700), prompt(7002, 900)


def force(library: str) -> Callable[[], None]:
    """What makes the child's connector believe that its tensors are on a GPU."""

    def before() -> None:
        import ctypes
        from typing import Any

        from tutti_kv import gpu
        from tutti_kv.worker import WorkerHalf

        driver = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        driver.standin_slow_copies(ctypes.c_long(300000))  # so that who does not wait is too early
        stream = ctypes.c_void_p()

        def enter() -> None:
            context = ctypes.c_void_p()
            assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
            assert driver.cuCtxSetCurrent(context) == 0

        def ordinal(tensors: Any) -> int:
            for tensor in tensors:
                storage = tensor.untyped_storage()
                driver.standin_adopt(
                    ctypes.c_void_p(storage.data_ptr()), ctypes.c_size_t(storage.nbytes())
                )
            return 0

        def handle() -> int:
            if stream.value is None:
                enter()
                assert driver.cuStreamCreateWithPriority(ctypes.byref(stream), 1, 0) == 0
            return int(stream.value or 0)

        hook = WorkerHalf.wait_for_layer

        def wait_for_layer(self: Any, name: str) -> None:
            hook(self, name)
            if self._in_step:  # as what computes the layer, on this stream
                handle()
                assert driver.cuStreamSynchronize(stream) == 0

        gpu.ordinal = ordinal
        gpu.stream = handle
        WorkerHalf.wait_for_layer = wait_for_layer  # type: ignore[method-assign]

    return before


def ask_both(engine: Engine) -> tuple[Answer, Answer, dict[str, int]]:
    answers = engine.ask(P), engine.ask(Q)
    engine.healthy()
    return (*answers, engine.counters())


def test_without_a_driver(lives: Lives) -> None:
    """Tensors on a GPU and no driver: a sentence at start, and the server serves without."""

    def before() -> None:
        from tutti_kv import gpu

        gpu.ordinal = lambda tensors: 99

    with lives("preload", extra={"on_error": "disable"}, before=before) as life:
        assert life.run(lambda engine: engine.ask(P)).external == 0
        log = life.log.read_text()
    assert "no CUDA driver" in log or "no GPU 99" in log


@pytest.mark.parametrize("queues", ["1", "8"])
@pytest.mark.parametrize("mode", MODES)
def test_lives_on_a_gpu(mode: str, queues: str, lives: Lives, reference: Reference) -> None:
    """Stored through one life's GPU, brought back by the next one's; a bad block is recomputed."""
    options = {
        "before": force(str(STANDIN)),
        "environment": {"STANDIN_QUEUES": queues},
        "extra": {"load_timeout": 10},
        "policy": "fail" if mode == "layerwise" else "recompute",
    }
    with lives(mode, **options) as life:
        cold = life.run(ask_both)
        life.kill()
    with lives(mode, **options) as life:
        warm = life.run(ask_both)
        log = life.log.read_text()
    assert "TEST DOUBLE of a CUDA device" in log  # wherever its results stand
    assert "staged (" in log
    for tokens, first, second in ((P, cold[0], warm[0]), (Q, cold[1], warm[1])):
        assert first.external == 0
        assert second.external == (len(tokens) - 1) // 32 * 32
        reference.check(tokens, first)
        reference.check(tokens, second)
    blocks = warm[0].external // 32 + warm[1].external // 32
    assert warm[2]["staged_bytes"] >= blocks * 131072
    assert warm[2]["io_errors"] == warm[2]["verify_failures"] == 0

    def spoil_and_ask(engine: Engine) -> Answer:
        engine.drop_local()
        engine.spoil(P, 3)
        return engine.ask(P)

    if mode == "preload":
        with lives(mode, **options) as life:
            reference.check(P, life.run(spoil_and_ask))
