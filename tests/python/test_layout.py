# SPDX-License-Identifier: Apache-2.0
"""Planes from strides, against numpy: every way to lie in memory is either right or refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tutti_kv.layout import LayoutError, View, planes, split

BLOCKS = 7


def view(array: NDArray[np.uint16], name: str = "layers.0") -> View:
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    return View(
        name,
        array.ctypes.data,
        array.shape,
        array.strides,
        array.itemsize,
        base.ctypes.data,
        base.nbytes,
    )


def block_bytes(array: NDArray[np.uint16], dim: int, block: int, ratio: int = 1) -> set[int]:
    """Addresses of a block's bytes, the slow way."""
    index = [slice(None)] * array.ndim
    index[dim] = slice(block * ratio, (block + 1) * ratio)
    part = array[tuple(index)]
    steps = [range(size) for size in part.shape]
    return {
        part.ctypes.data + sum(i * s for i, s in zip(at, part.strides, strict=True)) + byte
        for at in itertools.product(*steps)
        for byte in range(array.itemsize)
    }


def check(array: NDArray[np.uint16], dim: int, ratio: int = 1) -> None:
    size = array.nbytes // BLOCKS
    parts = split(view(array), BLOCKS, size)
    for block in range(BLOCKS):
        mine = {
            base + block * parts.block_stride + byte
            for base in parts.base
            for byte in range(parts.part_bytes)
        }
        assert mine == block_bytes(array, dim, block, ratio)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_blocks_first(heads: int) -> None:
    """vLLM's logical order, whatever the number of heads (2 is no K and V)."""
    check(np.zeros((BLOCKS, heads, 8, 16), np.uint16), 0)


def test_parts_apart() -> None:
    """K and V as the outermost dimension: two parts."""
    array = np.zeros((2, BLOCKS, 8, 4, 16), np.uint16)
    check(array, 1)
    assert len(split(view(array), BLOCKS, array.nbytes // BLOCKS).base) == 2


def test_tokens_before_heads_in_memory() -> None:
    """Permuted strides inside a block are its own business."""
    check(np.zeros((BLOCKS, 8, 4, 16), np.uint16).transpose(0, 2, 1, 3), 0)


def test_kernel_blocks() -> None:
    """Several kernel blocks to a block of the manager."""
    check(np.zeros((BLOCKS * 2, 4, 8, 16), np.uint16), 0, ratio=2)


def test_layers_interleaved() -> None:
    """A layer of a tensor that holds all layers block by block."""
    whole = np.zeros((BLOCKS, 3, 4, 8, 16), np.uint16)
    check(whole[:, 1], 0)
    plane, region, parts, size = planes(
        [view(whole[:, i], f"layers.{i}") for i in range(3)], BLOCKS, 4 * 8 * 16 * 2
    )
    assert (parts, size) == (1, 1024)
    assert len(region) == 1
    assert plane["block_stride"].tolist() == [3 * 1024] * 3
    assert np.diff(plane["base"]).tolist() == [1024, 1024]


def test_scattered_bytes_are_refused() -> None:
    """Heads outside blocks: eight pieces a block."""
    array = np.zeros((8, BLOCKS, 16, 16), np.uint16).transpose(1, 0, 2, 3)
    with pytest.raises(LayoutError, match="no dimension counts 7 blocks"):
        split(view(array), BLOCKS, array.nbytes // BLOCKS)


def test_two_candidates_are_refused() -> None:
    """As many heads as blocks, and both could be: not guessed."""
    array = np.zeros((4, 4, 64), np.uint16)
    with pytest.raises(LayoutError, match="more than one dimension"):
        split(view(array), 4, array.nbytes // 4)


def test_other_size_than_the_engine_says_is_refused() -> None:
    array = np.zeros((BLOCKS, 4, 8, 16), np.uint16)
    with pytest.raises(LayoutError):
        split(view(array), BLOCKS, array.nbytes // BLOCKS // 2)


def test_layers_of_other_shapes_are_refused() -> None:
    one = np.zeros((BLOCKS, 4, 8, 16), np.uint16)
    two = np.zeros((2, BLOCKS, 4, 8, 8), np.uint16)
    with pytest.raises(LayoutError, match="different shapes"):
        planes([view(one), view(two, "layers.1")], BLOCKS, one.nbytes // BLOCKS)


@settings(max_examples=200, deadline=None)
@given(st.permutations([BLOCKS, 2, 3, 5]), st.permutations([0, 1, 2, 3]))
def test_any_order(shape: list[int], order: list[int]) -> None:
    """Right or refused, whatever the order of dimensions in memory and in the shape."""
    array = np.zeros(shape, np.uint16).transpose(order)
    dim = array.shape.index(BLOCKS)
    try:
        parts = split(view(array), BLOCKS, array.nbytes // BLOCKS)
    except LayoutError:
        return
    assert len(parts.base) <= 4
    check(array, dim)
