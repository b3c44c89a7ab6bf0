"""The same function with channels of more even ranges, of which int8 mostly loses less.

Int8 has one scale for all channels of a map: what is small there drowns in the rounding of what is
large. A channel may be divided by any positive number where it is made and multiplied by it where
it is used (Nagel et al. 2019, https://arxiv.org/abs/1906.04721), if all in between lets a factor
through, as ReLU does. The layer that makes a map pays nothing for that, since kernels have a scale
for each of their own channels. Those that use it may, and so a channel is divided by more the
larger its values are, and by less the larger its weights are (Xiao et al. 2023,
https://arxiv.org/abs/2211.10438, equation 4).
"""

from collections import Counter
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_cnns.fusion.graph import LINEAR, Graph, Step, running, unfolded

# How much of the range of a channel's values goes over into the weights that use it.
SHARE = 0.5
_PASSING = (
    layers.AveragePooling2D,
    layers.Cropping2D,
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.LeakyReLU,
    layers.MaxPooling2D,
    layers.UpSampling2D,
    layers.ZeroPadding2D,
)
_KINDS = (layers.Conv2D, layers.Dense, layers.DepthwiseConv2D)


class _Use(NamedTuple):
    """A layer with weights, and the factors of the channels that it takes and makes."""

    layer: Any
    taken: np.ndarray
    made: np.ndarray


class _Factors:
    """The factor of each channel of each value, as a number; some have to be the same.

    Factor 0 is that of the channels that have to stay as they are.
    """

    def __init__(self) -> None:
        self.count = 1
        self.of: dict[int, np.ndarray] = {}
        self.same: list[np.ndarray] = []  # pairs, (2, n)

    def fresh(self, count: int) -> np.ndarray:
        self.count += count
        return np.arange(self.count - count, self.count)

    def unite(self, some: np.ndarray, others: np.ndarray | int) -> None:
        self.same.append(np.stack(np.broadcast_arrays(some, others)))

    def classes(self) -> np.ndarray:
        """Return of each factor the number of those that are the same."""
        first, second = np.concatenate([np.zeros((2, 1), int), *self.same], axis=1)
        pairs = coo_array((np.ones(len(first)), (first, second)), shape=(self.count, self.count))
        return connected_components(pairs, directed=False)[1]


def equalise(model: keras.Model, images: np.ndarray) -> None:
    """Give the channels of a model's maps more even ranges, in place; it computes the same.

    Args:
        model: what `fuse` returned, since its layers are its own.
        images: as the model takes them; ranges are measured on these.
    """
    graph, _ = unfolded(model)
    factors, uses = _traced(graph)
    number = factors.classes()
    values, weights = np.zeros((2, number.max() + 1))
    for step, _, made in running(graph, images):
        for value, y in zip(step.outputs, made, strict=True):
            ids = factors.of[value]
            if ids.any():
                sizes = np.abs(keras.ops.convert_to_numpy(y)).reshape(-1, len(ids)).max(0)
                np.maximum.at(values, number[ids], sizes)
    for use in uses:
        # A depthwise kernel has a scale for each of its inputs, and loses nothing.
        if type(use.layer) is not layers.DepthwiseConv2D:
            np.maximum.at(weights, number[use.taken], _sizes(use.layer))
    scales = np.where(weights > 0, values**SHARE * np.maximum(weights, 1e-9) ** (SHARE - 1), values)
    scales[values == 0] = 1
    scales[number[0]] = 1
    for use in uses:
        _rescale(use.layer, scales[number[use.taken]], scales[number[use.made]])


def _traced(graph: Graph) -> tuple[_Factors, list[_Use]]:
    """Return the factors of all channels, and the layers whose weights take them up."""
    factors, uses = _Factors(), list[_Use]()
    calls = Counter(id(step.operation) for step in graph.steps)
    for value in graph.inputs:
        factors.of[value] = np.zeros(graph.shapes[value][-1], int)
    for step in graph.steps:
        made = _through(step, graph, factors, uses) if calls[id(step.operation)] == 1 else None
        if made is None:
            for value in step.inputs.values():
                factors.unite(factors.of[value], 0)
            made = np.zeros(1, int)
        factors.of.update((value, made) for value in step.outputs)
    for value in graph.outputs:
        factors.unite(factors.of[value], 0)
    return factors, uses


def _through(step: Step, graph: Graph, factors: _Factors, uses: list[_Use]) -> np.ndarray | None:
    """Return the factors of what a call makes, or None where factors do not go through it."""
    layer, kind = step.operation, type(step.operation)
    known = kind in (*_PASSING, *_KINDS, layers.Add, layers.Concatenate) or _is_relu(layer)
    if not known or getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    sources, shape = list(step.inputs.values()), graph.shapes[step.outputs[0]]
    taken = [np.broadcast_to(factors.of[v], graph.shapes[v][-1]) for v in sources]
    if kind is layers.Concatenate:
        if layer.axis in (-1, len(shape) - 1) and len(sources) == len(step.arguments.keras_tensors):
            return np.concatenate(taken)
    elif kind is layers.Add:
        if len({graph.shapes[value] for value in sources}) == 1:
            for other in taken[1:]:
                factors.unite(taken[0], other)
            return taken[0]
    elif kind not in _KINDS:
        return np.tile(taken[0], shape[-1] // len(taken[0]))  # Flatten repeats the channels
    elif not getattr(layer, "lora_enabled", False):
        through = layer.activation in (LINEAR, keras.activations.relu)
        made = factors.fresh(shape[-1]) if through else np.zeros(shape[-1], int)
        uses.append(_Use(layer, taken[0], made))
        return made
    return None


def _is_relu(layer: Any) -> bool:
    if type(layer) is layers.ReLU:
        return layer.max_value is None and not layer.threshold
    return type(layer) is layers.Activation and layer.activation is keras.activations.relu


def _sizes(layer: Any) -> np.ndarray:
    """Return the largest weight on each input channel, as a share of the output channel's."""
    kernel = np.abs(layer.get_weights()[0])
    kernel = kernel.reshape(-1, *kernel.shape[-2:]).max(0)
    shares = kernel / np.maximum(kernel.max(0), 1e-30)
    groups = getattr(layer, "groups", 1)
    return shares.reshape(len(shares), groups, -1).max(2).T.ravel()


def _rescale(layer: Any, taken: np.ndarray, made: np.ndarray) -> None:
    """Let a layer take channels that were divided by `taken`, and divide its own by `made`."""
    kernel, *bias = layer.get_weights()
    if type(layer) is layers.DepthwiseConv2D:
        kernel = kernel * (taken[:, None] / made.reshape(len(taken), -1))
    else:
        groups = getattr(layer, "groups", 1)
        kernel = kernel * np.repeat(taken.reshape(groups, -1).T, len(made) // groups, 1) / made
    layer.set_weights([kernel, *(values / made for values in bias)])
