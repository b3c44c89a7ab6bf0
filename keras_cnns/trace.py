"""Run a network's own code on shapes instead of tensors: its cost without building it.

Blocks call `layers.Conv2D(...)(x)`. Where `x` is a Keras tensor, that is Keras's layer; where it is
a `FeatureMap`, it is arithmetic. So each network is written once, and a search can price
thousands of channel splits a second, without TensorFlow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from keras_cnns.errors import UsageError

Config = Mapping[str, Any]
Size = tuple[int, int]


class TooSmall(UsageError):
    """The image does not survive the network's strides and unpadded windows."""


class Row(NamedTuple):
    """What one layer costs, for one image.

    `shape` is without the batch; `receptive_field` and `stride` are in pixels of the image, in
    height and width; `params` are trainable weights; `macs` multiply-adds of convolutions and
    dense layers; `inputs` are the layers whose outputs it takes, the image's among them.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int
    receptive_field: Size
    stride: Size
    inputs: tuple[str, ...]

    @property
    def activation_bytes(self) -> int:
        """Bytes of the layer's output for one image in float32."""
        return 4 * prod(self.shape)


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Stands for a feature map: its shape, what it sees of the image, and the layers so far."""

    shape: tuple[int | None, ...]
    receptive_field: Size = (1, 1)
    stride: Size = (1, 1)
    rows: list[Row] = field(default_factory=list)
    zeros: Size = (0, 0)  # rows and columns of `shape` that the layer before has padded
    name: str = "image"  # of the layer that it comes out of


class Effect(NamedTuple):
    """What a layer does: the shape of its output, its cost and its window."""

    shape: tuple[int, ...]
    params: int = 0
    macs: int = 0
    window: Size = (1, 1)
    strides: Size = (1, 1)
    zeros: Size = (0, 0)


def pair(value: int | tuple[int, int] | list[int]) -> Size:
    """Return (height, width) of a Keras argument that may be one number."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _window(shape: tuple[int, ...], window: Size, strides: Size, padding: str, what: str) -> Size:
    """Return the height and width that come out of a sliding window."""
    if padding not in ("same", "valid"):
        raise UsageError(f'{what}: unknown padding "{padding}"; allowed are same, valid')
    if min(window) < 1 or min(strides) < 1:
        raise UsageError(f"{what}: a window of {window} and strides of {strides}: both start at 1")
    out = []
    for n, k, s in zip(shape, window, strides, strict=False):
        size = -(-n // s) if padding == "same" else (n - k) // s + 1
        if size < 1:
            raise TooSmall(f"{what}: a map of {shape[0]}x{shape[1]} is too small for it")
        out.append(size)
    return out[0], out[1]


def _kernel(config: Config) -> tuple[Size, Size]:
    """Return the kernel, and the window that it covers with its dilation."""
    kernel = pair(config["kernel_size"])
    d = pair(config.get("dilation_rate", 1))
    return kernel, ((kernel[0] - 1) * d[0] + 1, (kernel[1] - 1) * d[1] + 1)


def _conv(x: tuple[int, ...], c: Config) -> Effect:
    kernel, window = _kernel(c)
    filters, groups = c["filters"], c.get("groups", 1)
    if filters < 1 or groups < 1 or filters % groups or x[-1] % groups:
        raise UsageError(
            f"{c.get('name', 'Conv2D')}: {x[-1]} channels and {filters} filters do not make "
            f"{groups} groups; give multiples of {groups} above 0"
        )
    strides = pair(c.get("strides", 1))
    height, width = _window(x, window, strides, c.get("padding", "valid"), c.get("name", "Conv2D"))
    weights = prod(kernel) * (x[-1] // groups) * filters
    bias = filters * c.get("use_bias", True)
    return Effect(
        (height, width, filters), weights + bias, height * width * weights, window, strides
    )


def _depthwise(x: tuple[int, ...], c: Config) -> Effect:
    kernel, window = _kernel(c)
    strides = pair(c.get("strides", 1))
    height, width = _window(x, window, strides, c.get("padding", "valid"), "DepthwiseConv2D")
    out = x[-1] * c.get("depth_multiplier", 1)
    weights = prod(kernel) * out
    bias = out * c.get("use_bias", True)
    return Effect((height, width, out), weights + bias, height * width * weights, window, strides)


def _separable(x: tuple[int, ...], c: Config) -> Effect:
    depth = _depthwise(x, {**c, "use_bias": False})
    point = _conv(depth.shape, {"filters": c["filters"], "kernel_size": 1, **_bias(c)})
    return depth._replace(
        shape=point.shape, params=depth.params + point.params, macs=depth.macs + point.macs
    )


def _bias(c: Config) -> Config:
    return {"use_bias": c.get("use_bias", True)}


def _dense(x: tuple[int, ...], c: Config) -> Effect:
    if c["units"] < 1:
        raise UsageError(f"{c.get('name', 'Dense')}: {c['units']} units; at least 1 is needed")
    weights = x[-1] * c["units"]
    macs = prod(x[:-1]) * weights
    return Effect((*x[:-1], c["units"]), weights + c["units"] * c.get("use_bias", True), macs)


def _pool(x: tuple[int, ...], c: Config) -> Effect:
    window = pair(c.get("pool_size", 2))
    strides = pair(c.get("strides") or window)
    size = _window(x, window, strides, c.get("padding", "valid"), c.get("name", "pooling"))
    return Effect((*size, x[-1]), 0, 0, window, strides)


def _global_pool(x: tuple[int, ...], c: Config) -> Effect:
    shape = (1, 1, x[-1]) if c.get("keepdims") else (x[-1],)
    return Effect(shape, 0, 0, (x[0], x[1]), (x[0], x[1]))


def _adaptive_pool(x: tuple[int, ...], c: Config) -> Effect:
    """As many means as asked for, of parts that overlap where the map does not come out even."""
    size = pair(c["output_size"])
    parts = [
        max(-(-(i + 1) * n // out) - i * n // out for i in range(out))
        for n, out in zip(x, size, strict=False)
    ]
    steps = [max(n // out, 1) for n, out in zip(x, size, strict=False)]
    return Effect((*size, x[-1]), 0, 0, (parts[0], parts[1]), (steps[0], steps[1]))


def _flatten(x: tuple[int, ...], c: Config) -> Effect:
    return Effect((prod(x),), 0, 0, *(((x[0], x[1]),) * 2 if len(x) == 3 else ()))


def _pad(x: tuple[int, ...], c: Config) -> Effect:
    padding = c.get("padding", 1)
    (top, bottom), (left, right) = (pair(side) for side in pair(padding))
    zeros = (top + bottom, left + right)
    return Effect((x[0] + zeros[0], x[1] + zeros[1], x[2]), zeros=zeros)


def _norm(x: tuple[int, ...], c: Config) -> Effect:
    return Effect(x, x[-1] * (c.get("scale", True) + c.get("center", True)))


def _concatenate(x: list[tuple[int, ...]], c: Config) -> Effect:
    return Effect((*x[0][:-1], sum(shape[-1] for shape in x)))


def _permute(x: tuple[int, ...], c: Config) -> Effect:
    shape = tuple(x[axis - 1] for axis in c["dims"])
    # With the channels in front, layers over the last axis mix the whole map.
    return Effect(shape, 0, 0, (x[0], x[1])) if tuple(c["dims"]) == (3, 1, 2) else Effect(shape)


def _reshape(x: tuple[int, ...], c: Config) -> Effect:
    known = prod(n for n in c["target_shape"] if n != -1)
    return Effect(tuple(prod(x) // known if n == -1 else n for n in c["target_shape"]))


def _same(x: tuple[int, ...], c: Config) -> Effect:
    return Effect(x)


ARITHMETIC: dict[str, Callable[[Any, Config], Effect]] = {
    "Conv2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "MaxPooling2D": _pool,
    "AveragePooling2D": _pool,
    "AdaptiveAveragePooling2D": _adaptive_pool,
    "GlobalAveragePooling2D": _global_pool,
    "GlobalMaxPooling2D": _global_pool,
    "Flatten": _flatten,
    "ZeroPadding2D": _pad,
    "BatchNormalization": _norm,
    "LayerNormalization": _norm,
    "Concatenate": _concatenate,
    "Add": lambda x, c: Effect(x[0]),
    "Permute": _permute,
    "Reshape": _reshape,
    "MatchChannels": lambda x, c: Effect((*x[:-1], c["filters"])),
    **dict.fromkeys(
        ["Activation", "GELU", "ReLU", "Dropout", "LocalResponseNormalization", "Rescaling"], _same
    ),
}


def record(kind: str, config: Config, inputs: Any, effect: Effect) -> FeatureMap:
    """Return the feature map that a layer of this effect makes of its inputs; note its cost."""
    several = isinstance(inputs, list | tuple)
    sources = inputs if several else [inputs]
    first: FeatureMap = sources[0]
    if len(sources) == 1:
        seen, stride = first.receptive_field, first.stride
    else:
        seen = tuple(max(axis) for axis in zip(*(s.receptive_field for s in sources), strict=True))
        stride = tuple(max(axis) for axis in zip(*(s.stride for s in sources), strict=True))
    (wh, ww), (sh, sw) = effect.window, effect.strides
    seen = (seen[0] + (wh - 1) * stride[0], seen[1] + (ww - 1) * stride[1])
    stride = (stride[0] * sh, stride[1] * sw)
    name = config.get("name", "")
    origins = tuple(source.name for source in sources)
    first.rows.append(
        Row(name, kind, effect.shape, effect.params, effect.macs, seen, stride, origins)
    )
    return FeatureMap((None, *effect.shape), seen, stride, first.rows, effect.zeros, name)


def trace_layer(kind: str, config: Config, inputs: Any) -> FeatureMap:
    """Apply the arithmetic of Keras's layer `kind`, configured so, to one or several feature maps.

    Raises:
        TooSmall: where nothing comes out, or a stride finds less of a map than its own length and
            would only copy it.
    """
    if isinstance(inputs, list | tuple):
        return record(kind, config, inputs, ARITHMETIC[kind]([x.shape[1:] for x in inputs], config))
    effect = ARITHMETIC[kind](inputs.shape[1:], config)
    if effect.strides != (1, 1):
        sizes = [n - zeros for n, zeros in zip(inputs.shape[1:], inputs.zeros, strict=False)]
        if any(n < stride for n, stride in zip(sizes, effect.strides, strict=True)):
            raise TooSmall(f"{config.get('name', kind)}: a map of {sizes} is too small for it")
    return record(kind, config, inputs, effect)


class _Layers:
    """Keras's layers and ours by name, for tensors and for feature maps alike."""

    def __getattr__(self, kind: str) -> Callable[..., Callable[[Any], Any]]:
        def layer(**config: Any) -> Callable[[Any], Any]:
            def apply(x: Any) -> Any:
                if isinstance(x[0] if isinstance(x, list) else x, FeatureMap):
                    return trace_layer(kind, config, x)
                import keras

                from keras_cnns import layers as own

                return (getattr(own, kind, None) or getattr(keras.layers, kind))(**config)(x)

            return apply

        return layer


layers = _Layers()
