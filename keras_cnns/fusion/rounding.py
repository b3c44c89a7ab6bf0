"""Kernels rounded to the 255 steps of int8 with an eye on what comes out.

Each weight rounded to its nearest step leaves errors that add up where inputs go together, as a
map's neighbouring pixels do, or have a mean, as behind ReLU. Weights are rounded one after another
instead, and each error is made up for by those that are left (Frantar, Ashkboos, Hoefler & Alistarh
2022, "GPTQ", https://arxiv.org/abs/2210.17323, algorithm 1); the last to do so is the bias, which
is not rounded. An int8 file holds these weights exactly: its converter finds the same steps.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_cnns.fusion.graph import Graph, running, unfolded

STEPS = 127
_KINDS = (layers.Conv2D, layers.Dense, layers.DepthwiseConv2D)
# Windows of a map that are looked at, and the most inputs of a kernel: of more, the matrix of their
# products takes over 500 MB, and there are fewer images than it would need.
_PLACES = 32
_INPUTS = 8192
_BLOCK = 128
# Products that are held at once: of more, the images are gone through again.
_HELD = 250_000_000
# Of the mean power of the inputs: what of them is smaller than that is taken for chance.
_DAMPING = 1e-3


def round_kernels(model: keras.Model, images: np.ndarray, *, least: int = 0) -> None:
    """Round a model's kernels in place, so that what it computes changes little.

    Args:
        model: what `fuse` returned, since its layers are its own.
        images: as the model takes them.
        least: kernels of fewer weights are left as they are.
    """
    graph, _ = unfolded(model)
    calls = Counter(id(step.operation) for step in graph.steps)
    kernels = [step.operation for step in graph.steps if type(step.operation) in _KINDS]
    waiting = [k for k in kernels if calls[id(k)] == 1 and _is_fit(k, least)]
    while waiting:
        # From the end on, so that what comes before a kernel is as it was when it is measured.
        now = [waiting.pop()]
        while waiting and sum(map(_products, (*now, waiting[-1]))) <= _HELD:
            now.append(waiting.pop())
        for layer, products in _measured(graph, now, images):
            _round(layer, products)


def _is_fit(layer: Any, least: int) -> bool:
    """Return whether a kernel is to be rounded, and can be."""
    usual = getattr(layer, "data_format", "channels_last") == "channels_last"
    return usual and np.prod(layer.kernel.shape) >= least and _inputs(layer)[1] <= _INPUTS


def _inputs(layer: Any) -> tuple[int, int]:
    """Return how many groups a kernel has, and how many inputs each."""
    *window, channels, _ = layer.kernel.shape
    if type(layer) is layers.DepthwiseConv2D:
        return channels, math.prod(window)
    return getattr(layer, "groups", 1), math.prod(window) * channels


def _products(layer: Any) -> int:
    """Return how many numbers the products of a kernel's inputs are."""
    groups, inputs = _inputs(layer)
    return groups * (inputs + 1) ** 2


def _measured(
    graph: Graph, kernels: Sequence[Any], images: np.ndarray
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield layers, and the sums over windows of their inputs' products: (groups, n, n)."""
    sums: dict[int, Any] = dict.fromkeys(map(id, kernels), 0)
    for step, (x, *_), _ in running(graph, images):
        layer = step.operation
        if id(layer) in sums:
            windows = _windows(layer, keras.ops.convert_to_numpy(x))
            with np.errstate(invalid="ignore", over="ignore"):  # such a kernel is left as it is
                found = np.stack([part.T @ part for part in windows])
                sums[id(layer)] = sums[id(layer)] + found
    for layer in kernels:
        yield layer, sums.pop(id(layer))


def _round(layer: Any, products: np.ndarray) -> None:
    """Round a kernel, unless its inputs are beyond what numbers can be multiplied."""
    if not np.isfinite(products).all():
        return
    kernel, *bias = layer.get_weights()
    rows = _rows(layer, kernel)
    groups, inputs, _ = rows.shape
    free = np.concatenate([rows, *(b.reshape(groups, 1, -1) for b in bias)], axis=1)
    found = np.stack([_rounded(*one, inputs) for one in zip(free, products, strict=True)])
    layer.set_weights(
        [_kernel(layer, found[:, :inputs], kernel.shape), *(found[:, -1].ravel() for _ in bias)]
    )


def _windows(layer: Any, x: np.ndarray) -> np.ndarray:
    """Return what each group of a kernel is multiplied with: (groups, windows, inputs).

    A bias is one more input, which is 1.
    """
    if type(layer) is layers.Dense:
        found = x.reshape(1, -1, x.shape[-1])
    else:
        size, channels = layer.kernel_size, x.shape[-1]
        reach = [(n - 1) * d + 1 for n, d in zip(size, layer.dilation_rate, strict=True)]
        if layer.padding == "same":
            ends = [
                max((-(-n // s) - 1) * s + r - n, 0)
                for n, s, r in zip(x.shape[1:3], layer.strides, reach, strict=True)
            ]
            x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in ends), (0, 0)])
        tall, wide = layer.strides
        places = np.prod(layer.compute_output_shape(x.shape)[1:3])
        apart = max(1, int(np.sqrt(places / _PLACES)))
        down, right = layer.dilation_rate
        found = np.lib.stride_tricks.sliding_window_view(x, reach, (1, 2))
        found = found[:, :: apart * tall, :: apart * wide, :, ::down, ::right]
        groups = channels if type(layer) is layers.DepthwiseConv2D else layer.groups
        found = found.transpose(3, 0, 1, 2, 4, 5)
        split = found.reshape(groups, channels // groups, -1, np.prod(size))
        found = split.transpose(0, 2, 3, 1).reshape(groups, split.shape[2], -1)
    if not layer.use_bias:
        return found
    return np.concatenate([found, np.ones((*found.shape[:2], 1), found.dtype)], 2)


def _rows(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """Return a kernel as (groups, inputs, outputs)."""
    if type(layer) is layers.Dense:
        return kernel[None]
    height, width, channels, filters = kernel.shape
    if type(layer) is layers.DepthwiseConv2D:
        return kernel.reshape(height * width, channels, filters).transpose(1, 0, 2)
    return kernel.reshape(height * width * channels, layer.groups, -1).transpose(1, 0, 2)


def _kernel(layer: Any, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the kernel whose `_rows` these are."""
    return rows[0] if type(layer) is layers.Dense else rows.transpose(1, 0, 2).reshape(shape)


def _rounded(rows: np.ndarray, products: np.ndarray, inputs: int) -> np.ndarray:
    """Return weights (inputs, outputs), rounded, and the bias below them, if any, as it then is.

    Args:
        rows: weights, and the bias.
        products: the sum over windows of what they are multiplied with, times its transpose.
        inputs: how many rows are weights.
    """
    powers = np.diag(products)[:inputs]
    # Those that matter most come first, while others are left to make up for them; the bias last.
    order = np.append(np.argsort(-powers), np.arange(inputs, len(rows)))
    products = products[np.ix_(order, order)].astype("float64")
    products[np.diag_indices_from(products)] += _DAMPING * powers.mean() + 1e-12
    spread = np.linalg.cholesky(np.linalg.inv(products)).T
    rows = rows[order].astype("float64")
    weights = rows[:inputs].copy()
    step = np.maximum(np.abs(weights).max(0), 1e-30) / STEPS
    # The largest weight says what the step is, and stays.
    largest = np.abs(weights).argmax(0)
    errors = np.zeros_like(rows)
    for first in range(0, inputs, _BLOCK):
        last = min(first + _BLOCK, inputs)
        for i in range(first, last):
            nearest = np.clip(np.round(rows[i] / step), -STEPS, STEPS) * step
            nearest = np.where(largest == i, weights[i], nearest)
            errors[i] = (rows[i] - nearest) / spread[i, i]
            rows[i] = nearest
            rows[i + 1 : last] -= np.outer(spread[i, i + 1 : last], errors[i])
        rows[last:] -= spread[first:last, last:].T @ errors[first:last]
    found = np.empty_like(rows)
    found[order] = rows
    return found
