# SPDX-License-Identifier: Apache-2.0
"""Opening one rank's members, and telling the library of its KV memory.

Responsible for everything between vLLM's tensors and a rank that is ready: the planes,
the pool (made where it is missing), the scan, the engine, and the handshake that says so.
Must not know plans or loads. The one idea: it is done once, at start, and whatever it
raises is a sentence; the worker's half decides what to do about it.
"""

import errno
import logging
import os
import re
import time
from dataclasses import dataclass
from typing import Any

from tutti_kv import _tutti, gpu, layout, support
from tutti_kv.config import Config
from tutti_kv.metadata import Handshake

logger = logging.getLogger("vllm.tutti_kv.worker")

BUSY_PATIENCE = 5.0


@dataclass
class Opened:
    """A rank that is ready. layers: name -> number, in the order of planes."""

    pool: _tutti.Pool
    serve: _tutti.Serve
    layers: dict[str, int]
    handshake: Handshake


class Opener:
    """What the opening of one rank needs to know."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, config: Config, rank: int) -> None:
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._config = config
        self._rank = rank
        self._ranks: int = vllm_config.parallel_config.tensor_parallel_size
        self._dp: int = vllm_config.parallel_config.data_parallel_index
        self._home = config.home(self._dp)

    def _views(self, kv_caches: dict[str, Any]) -> list[layout.View]:
        """The group's layers in order of their numbers."""
        names = list(self._kv_cache_config.kv_cache_groups[0].layer_names)
        names.sort(key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))
        views = []
        for name in names:
            tensor = kv_caches[name]
            size = tensor.element_size()
            storage = tensor.untyped_storage()
            views.append(
                layout.View(
                    name,
                    tensor.data_ptr(),
                    tuple(tensor.shape),
                    tuple(stride * size for stride in tensor.stride()),
                    size,
                    storage.data_ptr(),
                    storage.nbytes(),
                )
            )
        return views

    def _layout_text(self, names: list[str], inner: tuple[tuple[int, int], ...]) -> str:
        """What gives a block's bytes their meaning, beside the model."""
        context = self._vllm_config.compilation_config.static_forward_context
        layers = [context[n] for n in names if n in context]
        backends = sorted(
            # the CPU back-end packs KV as the instruction set wants it: same shape, other bytes
            {
                f"{layer.get_attn_backend().get_name()} {getattr(layer, 'isa', '')}"
                for layer in layers
            }
        )
        cache = self._vllm_config.cache_config
        spec = support.first_spec(self._kv_cache_config.kv_cache_groups[0].kv_cache_spec)
        return (
            f"{'+'.join(backends)} {cache.kv_cache_layout} {cache.cache_dtype} {spec.dtype} "
            f"{spec.block_size} tokens {list(inner)}"
        )

    def open(self, kv_caches: dict[str, Any]) -> Opened:
        """Open the members and register KV memory. Raises OSError or LayoutError."""
        spec = support.first_spec(self._kv_cache_config.kv_cache_groups[0].kv_cache_spec)
        blocks = self._kv_cache_config.num_blocks
        views = self._views(kv_caches)
        ordinal = gpu.ordinal(kv_caches[view.name] for view in views)
        block_bytes = getattr(spec, "unpadded_page_size_bytes", spec.page_size_bytes)
        planes, regions, parts, part_bytes = layout.planes(views, blocks, block_bytes)
        inner = layout.split(views[0], blocks, block_bytes).inner
        text = self._layout_text([view.name for view in views], inner)
        geometry = layout.geometry(len(views), parts, part_bytes, spec.block_size, text)
        pool = self._open_pool(geometry)
        try:
            scan = self._scan(pool)
            serve = self._serve(pool, ordinal)
        except BaseException:
            pool.close()
            raise
        try:
            direct, why = serve.register(planes, blocks, regions)
        except BaseException:
            serve.close()
            pool.close()
            raise
        info = pool.info()
        handshake = Handshake(
            self._rank,
            pool=info["pool"],
            epoch=info["epoch"],
            geometry=geometry,
            placement=pool.placement(),
            layout=text,
            scan_path=scan,
            engine=f"{serve.engine} for {serve.gpu}" if serve.gpu else serve.engine,
            direct=direct and info["direct"],
            direct_reason=why or info["direct_reason"],
        )
        layers = {view.name: index for index, view in enumerate(views)}
        return Opened(pool, serve, layers, handshake)

    def _scan(self, pool: _tutti.Pool) -> str:
        """Leave the list of this rank's records in a file; its path."""
        scan = os.path.join(self._home, f"scan.rank{self._rank}")
        counts = pool.scan_to_file(scan)
        logger.info(
            "Tutti: rank %d: %d records found in %.2f s (%d empty, %d torn, %d void, %d alien)",
            self._rank,
            counts["valid"],
            counts["nanoseconds"] / 1e9,
            counts["empty"],
            counts["torn"],
            counts["void"],
            counts["alien"],
        )
        return scan

    def _serve(self, pool: _tutti.Pool, ordinal: int | None) -> _tutti.Serve:
        config = self._config
        return _tutti.Serve(
            pool,
            engine=config.engine,
            staging=config.staging,
            cpus=config.cpus,
            look_ahead=config.look_ahead,
            unverified=config.unverified,
            fault_rules=config.fault_rules,
            fault_inner=config.fault_inner,
            gpu=ordinal,
            computes=gpu.stream if ordinal is not None else None,
        )

    def _open_pool(self, geometry: _tutti.Geometry) -> _tutti.Pool:
        config = self._config
        members = config.member_paths(self._rank, self._dp)
        if not config.members:
            for folder in members:  # of a pool with {rank} in its path
                os.makedirs(folder, mode=0o700, exist_ok=True)
        size = config.size or 0
        until = time.monotonic() + BUSY_PATIENCE
        while True:
            try:
                pool, made = _tutti.Pool.open_or_format(
                    self._home,
                    members=members,
                    rank=self._rank,
                    ranks=self._ranks,
                    size=size,
                    geometry=geometry,
                    alignment=config.alignment,
                )
                break
            except _tutti.TuttiError as error:
                if error.errno == errno.EBUSY and time.monotonic() < until:
                    # the workers of a server that was killed outlive it by a moment
                    logger.info("Tutti: %s; trying again", error.strerror)
                    time.sleep(1.0)
                elif error.errno == errno.ENOENT and size == 0:
                    raise _tutti.TuttiError(
                        errno.ENOENT, f'{error.strerror}; give a "size" to have it made'
                    ) from error
                else:
                    raise
        info = pool.info()
        there = info["first_extent"] * info["members"] + info["extents"] * info["extent_bytes"]
        if made:
            logger.info("Tutti: made a pool of %.2f GiB for rank %d", there / 2**30, self._rank)
        elif 0 < size < there:
            pool.close()
            raise _tutti.TuttiError(
                errno.EINVAL,
                f"{info['paths'][0]} was formatted with {there} bytes a rank, more than the "
                f"configured {size}: remove the pool, or give it its size back",
            )
        elif size > there + info["extent_bytes"] * info["members"]:
            logger.warning(
                "Tutti: the pool keeps the %d bytes a rank that it was formatted with; "
                "the configured %d have no effect",
                there,
                size,
            )
        return pool
