"""What one layer with other weights can compute: a normalisation behind it, a sum of branches."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import layers

from keras_cnns.fusion.graph import LINEAR, Graph, Shape, Step

# Where the output channels are in the kernel that makes them.
OUTPUT_AXIS: Mapping[type, int] = {
    layers.Dense: -1,
    layers.Conv1D: -1,
    layers.Conv2D: -1,
    layers.Conv3D: -1,
    layers.Conv1DTranspose: -2,
    layers.Conv2DTranspose: -2,
    layers.Conv3DTranspose: -2,
    layers.SeparableConv1D: -1,
    layers.SeparableConv2D: -1,
}
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


class Linear(NamedTuple):
    """A layer that is linear in its input, as `layer` is, but with these weights."""

    layer: Any
    source: int
    kernels: tuple[np.ndarray, ...]
    bias: np.ndarray
    settings: Mapping[str, Any]
    zeros: Any = None  # padding of the input, (top, bottom), (left, right)


def linear_forms(graph: Graph, norms: str = "native") -> dict[int, Linear]:
    """Return the values that one layer with weights can compute, with what it takes.

    Args:
        graph: of a model.
        norms: "depthwise" for normalisations that nothing before them can take in as convolutions.
    """
    uses = Counter(v for step in graph.steps for v in set(step.inputs.values()))
    uses.update(graph.outputs)
    makers = {step.outputs[0]: step for step in graph.steps}
    forms: dict[int, Linear] = {}
    for step in graph.steps:
        sources, made = list(step.inputs.values()), step.outputs[0]
        kind = type(step.operation)
        if kind in OUTPUT_AXIS or kind in DEPTHWISE:
            adapted = getattr(step.operation, "lora_enabled", False)
            if not adapted and step.operation.activation is LINEAR and len(sources) == 1:
                forms[made] = _of_layer(step.operation, sources[0])
        elif kind is layers.BatchNormalization:
            (source,) = sources
            form, rank = forms.get(source), len(graph.shapes[source])
            if form and uses[source] == 1 and _is_norm(step, _channel_axis(form.layer, rank), rank):
                forms[made] = _normalised(form, step.operation)
            elif norms == "depthwise" and _is_norm(step, 3, len(graph.shapes[source])):
                forms[made] = _depthwise(step.operation, source)
        elif kind is layers.Add:
            merged = _merged(step, forms, makers, uses, graph.shapes)
            if merged:
                forms[made] = merged
    return forms


def _of_layer(layer: Any, source: int) -> Linear:
    weights = layer.get_weights()
    kernels, bias = (weights[:-1], weights[-1]) if layer.use_bias else (weights, None)
    if bias is None:
        if type(layer) in DEPTHWISE:
            bias = np.zeros(kernels[0].shape[-2] * kernels[0].shape[-1])
        else:
            bias = np.zeros(kernels[-1].shape[OUTPUT_AXIS[type(layer)]])
    return Linear(layer, source, tuple(kernels), bias, {})


def _scale_and_offset(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what a batch normalisation multiplies by and adds at inference."""
    scale = 1 / np.sqrt(np.asarray(norm.moving_variance, "float64") + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, "float64")
    offset = -np.asarray(norm.moving_mean, "float64") * scale
    if norm.center:
        offset = offset + np.asarray(norm.beta, "float64")
    return scale, offset


def _channel_axis(layer: Any, rank: int) -> int:
    return 1 if getattr(layer, "data_format", "") == "channels_first" else rank - 1


def _is_norm(step: Step | None, axis: int, rank: int) -> bool:
    """Return whether a call normalises this axis, by the averages of training."""
    if step is None or type(step.operation) is not layers.BatchNormalization:
        return False
    return step.operation.axis % rank == axis and not any(step.arguments.kwargs.values())


def _normalised(form: Linear, norm: Any) -> Linear:
    """Return a linear layer and the normalisation behind it as one."""
    scale, offset = _scale_and_offset(norm)
    *others, last = form.kernels
    if type(form.layer) in DEPTHWISE:
        last = last * scale.reshape(last.shape[-2:])
    elif OUTPUT_AXIS[type(form.layer)] == -2:
        last = last * scale[:, None]
    else:
        last = last * scale
    return form._replace(kernels=(*others, last), bias=form.bias * scale + offset)


def _depthwise(norm: Any, source: int) -> Linear:
    """Return the normalisation of a map's last axis as a convolution of one pixel."""
    scale, offset = _scale_and_offset(norm)
    layer = layers.DepthwiseConv2D(1, data_format="channels_last", name=norm.name)
    return Linear(layer, source, (scale.reshape(1, 1, -1, 1),), offset, {})


class Window(NamedTuple):
    """A convolution as a kernel over a map, with the zeros that stand before and behind it."""

    kernel: np.ndarray
    bias: np.ndarray
    strides: tuple[int, int]
    before: tuple[int, int]
    groups: int


def _merged(
    step: Step,
    forms: Mapping[int, Linear],
    makers: Mapping[int, Step],
    uses: Mapping[int, int],
    shapes: Mapping[int, Shape],
) -> Linear | None:
    """Return a sum of branches that are all linear in the same map as one convolution."""
    sources = list(step.inputs.values())
    branches = {v: b for v in sources if (b := _branch(v, forms, makers, shapes))}
    if not branches or len(sources) != len(step.arguments.keras_tensors):
        return None
    largest = max(branches, key=lambda v: branches[v][1].kernel.size)
    origin, window = branches[largest]
    first, size, out = forms[largest], shapes[origin], shapes[step.outputs[0]]
    windows = []
    for value in sources:
        if value in branches:
            place, found = branches[value]
        elif size == out:
            place, found = _untouched(value, size[-1], window.groups, makers)
        else:
            return None
        # What is used elsewhere too has to be computed anyway.
        if place != origin or (place != value and uses[value] > 1):
            return None
        if found.strides != window.strides or found.groups != window.groups:
            return None
        windows.append(found)
    return _sum(first, origin, windows, size, out)


def _branch(
    value: int,
    forms: Mapping[int, Linear],
    makers: Mapping[int, Step],
    shapes: Mapping[int, Shape],
) -> tuple[int, Window] | None:
    """Return a convolution's map and its window, seen through padding or picking before it."""
    form = forms.get(value)
    if form is None or type(form.layer) is not layers.Conv2D or form.settings:
        return None
    layer = form.layer
    if layer.data_format != "channels_last" or tuple(layer.dilation_rate) != (1, 1):
        return None
    origin, strides, before = form.source, tuple(layer.strides), (0, 0)
    size, kernel = shapes[origin], form.kernels[0]
    if not all(size[1:]):
        return None
    if layer.padding == "same":
        ends = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, s, k in zip(size[1:3], strides, kernel.shape[:2], strict=True)
        ]
        before = (ends[0] // 2, ends[1] // 2)
    maker = makers.get(origin)
    kind = type(maker.operation) if maker else None
    if maker and kind is layers.ZeroPadding2D and before == (0, 0):
        (top, _), (left, _) = maker.operation.padding
        before, origin = (top, left), next(iter(maker.inputs.values()))
    elif maker and kind in (layers.MaxPooling2D, layers.AveragePooling2D):
        pool = maker.operation
        if tuple(pool.pool_size) == (1, 1) and kernel.shape[:2] == (1, 1):
            strides = (strides[0] * pool.strides[0], strides[1] * pool.strides[1])
            origin = next(iter(maker.inputs.values()))
    return origin, Window(kernel, form.bias, (strides[0], strides[1]), before, layer.groups)


def _untouched(
    value: int, channels: int, groups: int, makers: Mapping[int, Step]
) -> tuple[int, Window]:
    """Return a map, or the one that this is a normalisation of, with a window of one pixel."""
    origin, scale, offset = value, np.ones(channels), np.zeros(channels)
    maker = makers.get(value)
    if maker and _is_norm(maker, 3, 4):
        (origin,) = maker.inputs.values()
        scale, offset = _scale_and_offset(maker.operation)
    width = channels // groups
    kernel = np.zeros((1, 1, width, channels))
    place = np.arange(channels)
    kernel[0, 0, place % width, place] = scale
    return origin, Window(kernel, offset, (1, 1), (0, 0), groups)


def _sum(
    first: Linear, origin: int, windows: list[Window], size: Shape, out: Shape
) -> Linear | None:
    """Return the windows, laid over each other, as one convolution named as the largest."""
    strides = windows[0].strides
    before = [max(w.before[axis] for w in windows) for axis in (0, 1)]
    ends = [max(w.kernel.shape[axis] - w.before[axis] for w in windows) for axis in (0, 1)]
    kernel = np.zeros((before[0] + ends[0], before[1] + ends[1], *windows[0].kernel.shape[2:]))
    for window in windows:
        if window.kernel.shape[2:] != kernel.shape[2:]:
            return None
        top, left = (before[axis] - window.before[axis] for axis in (0, 1))
        height, width = window.kernel.shape[:2]
        kernel[top : top + height, left : left + width] += window.kernel
    behind = [
        max((out[axis + 1] - 1) * strides[axis] + kernel.shape[axis] - size[axis + 1] - b, 0)
        for axis, b in enumerate(before)
    ]
    zeros = tuple(zip(before, behind, strict=True))
    settings = {"kernel_size": kernel.shape[:2], "strides": strides, "padding": "valid"}
    if strides == (1, 1) and before == behind:
        settings["padding"], zeros = "same", ((0, 0), (0, 0))
    bias = np.sum([window.bias for window in windows], axis=0)
    return Linear(first.layer, origin, (kernel,), bias, settings, zeros if np.any(zeros) else None)
