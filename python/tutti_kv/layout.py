# SPDX-License-Identifier: Apache-2.0
"""From the engine's tensors to planes: where each block's bytes lie.

Responsible for finding, in a layer's tensor, the dimension that counts blocks,
and for refusing every shape in which a block's bytes are not in one piece per
part. Must not know pools or requests. The one idea: only strides are believed. A
dimension counts blocks if taking it away leaves pieces that are contiguous and
add up to the bytes that the engine's own cache specification names; if two
dimensions would do, it is not guessed.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutti_kv._tutti import PLANE, REGION, Geometry

MAX_PARTS = 4


class LayoutError(ValueError):
    """A layout that can't be stored, and why."""


@dataclass(frozen=True)
class View:
    """One layer's tensor in plain numbers (bytes).

    shape and strides: in elements of `itemsize` bytes, strides in bytes
    storage_base, storage_bytes: the allocation that it is a view of
    """

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    storage_base: int
    storage_bytes: int


@dataclass(frozen=True)
class Parts:
    """How a layer's blocks lie: part p of block b starts at base[p] + b * block_stride.

    inner: (size, stride) of what is inside a block, in the engine's order of dimensions
    """

    base: tuple[int, ...]
    block_stride: int
    part_bytes: int
    inner: tuple[tuple[int, int], ...]


def _split(view: View, dim: int, blocks: int) -> Parts | None:
    """The parts if dimension `dim` counts blocks (several kernel blocks each), else None."""
    if view.shape[dim] == 0 or view.shape[dim] % blocks:
        return None
    ratio = view.shape[dim] // blocks
    inner = [
        (stride, size)
        for d, (stride, size) in enumerate(zip(view.strides, view.shape, strict=True))
        if d != dim and size > 1
    ]
    if ratio > 1:
        inner.append((view.strides[dim], ratio))
    inner.sort()
    part_bytes = view.itemsize
    while inner and inner[0][0] == part_bytes:
        part_bytes *= inner.pop(0)[1]
    offsets = [0]
    for stride, size in inner:  # what is left lies apart: parts of a block
        if stride < part_bytes or len(offsets) * size > MAX_PARTS:
            return None
        offsets = [offset + index * stride for index in range(size) for offset in offsets]
    offsets.sort()
    if any(b - a < part_bytes for a, b in itertools.pairwise(offsets)):
        return None
    return Parts(
        tuple(view.address + offset for offset in offsets),
        view.strides[dim] * ratio,
        part_bytes,
        tuple(
            (ratio if d == dim else size, stride)
            for d, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True))
            if d != dim or ratio > 1
        ),
    )


def split(view: View, blocks: int, block_bytes: int) -> Parts:
    """How the blocks of a layer lie. Raises LayoutError.

    blocks: the engine's number of blocks
    block_bytes: bytes of one block of one layer by the engine's cache specification
    """
    found: list[Parts] = []
    for dim in range(len(view.shape)):
        parts = _split(view, dim, blocks)
        if parts is not None and len(parts.base) * parts.part_bytes == block_bytes:
            found.append(parts)
    unique = set(found)
    what = f"{view.name}: shape {list(view.shape)}, strides {list(view.strides)} bytes"
    if not unique:
        raise LayoutError(
            f"{what}: no dimension counts {blocks} blocks of {block_bytes} bytes in at most "
            f"{MAX_PARTS} contiguous pieces; this memory layout can't be stored"
        )
    if len(unique) > 1:
        raise LayoutError(
            f"{what}: more than one dimension could count {blocks} blocks; "
            "start with one block more or less (--num-gpu-blocks-override)"
        )
    return unique.pop()


def planes(
    views: Sequence[View], blocks: int, block_bytes: int
) -> tuple[NDArray[Any], NDArray[Any], int, int]:
    """(planes, regions, parts, part_bytes) of a group's layers in order. Raises LayoutError."""
    if not views:
        raise LayoutError("the engine registered no KV memory")
    layers = [split(view, blocks, block_bytes) for view in views]
    first = layers[0]
    for view, layer in zip(views, layers, strict=True):
        if (len(layer.base), layer.part_bytes) != (len(first.base), first.part_bytes):
            raise LayoutError(
                f"{view.name} has {len(layer.base)} parts of {layer.part_bytes} bytes a block, "
                f"{views[0].name} {len(first.base)} of {first.part_bytes}: layers of different "
                "shapes in one group can't be stored"
            )
    plane = np.array([(base, layer.block_stride) for layer in layers for base in layer.base], PLANE)
    region = np.array(
        sorted({(view.storage_base, view.storage_bytes) for view in views}),
        REGION,
    )
    return plane, region, len(first.base), first.part_bytes


def geometry(layers: int, parts: int, part_bytes: int, block_tokens: int, layout: str) -> Geometry:
    """The shape of the group; the tag is a digest of the layout's text."""
    tag = int.from_bytes(hashlib.sha256(layout.encode()).digest()[:4], "little")
    return Geometry(layers, parts, part_bytes, block_tokens, tag, 0)
