"""What Keras's layers do to a shape, and what that costs: arithmetic, one function a kind."""

from collections.abc import Callable, Mapping
from math import inf, prod
from typing import Any, NamedTuple

from keras_cnns.errors import UsageError

Config = Mapping[str, Any]
Shape = tuple[int, ...]
Size = tuple[int, ...]  # a length in each direction of a map: height and width
Window = tuple[float, ...]  # the same, where `ALL` may be one
POINT = (1, 1)  # the window, and the strides, of a layer that sees each pixel by itself
ALL = inf  # a window's length that covers the map, however large the image


class TooSmall(UsageError):
    """The image does not survive the network's strides and unpadded windows."""


class Effect(NamedTuple):
    """What a layer does: the shape of its output, its cost and its window, where that is known.

    The first window begins `before` the map by so many of its pixels.
    """

    shape: Shape
    params: int = 0
    macs: int = 0
    window: Window | None = POINT
    strides: Size | None = POINT
    zeros: Size = (0, 0)
    frozen: int = 0
    before: Window = (0, 0)


def pair(value: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """Return (height, width) of a Keras argument that may be one number."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _window(shape: Shape, window: Size, strides: Size, padding: str, what: str) -> Size:
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


def padded(shape: Shape, window: Size, strides: Size, padding: str) -> Size:
    """Return how many zeros a sliding window finds before the map, in each direction.

    >>> padded((8, 9), (3, 3), (2, 2), "same")
    (0, 1)
    """
    if padding == "causal":
        return tuple(k - 1 for k in window)
    if padding == "valid" or window == POINT:
        return (0,) * len(window)
    sides = zip(shape, window, strides, strict=False)
    return tuple(max((-(-n // s) - 1) * s + k - n, 0) // 2 for n, k, s in sides)


def _kernel(config: Config) -> tuple[Size, Size]:
    """Return the kernel, and the window that it covers with its dilation."""
    kernel = pair(config["kernel_size"])
    d = pair(config.get("dilation_rate", 1))
    return kernel, ((kernel[0] - 1) * d[0] + 1, (kernel[1] - 1) * d[1] + 1)


def _conv(x: Shape, c: Config) -> Effect:
    kernel, window = _kernel(c)
    filters, groups = c["filters"], c.get("groups", 1)
    if filters < 1 or groups < 1 or filters % groups or x[-1] % groups:
        raise UsageError(
            f"{c.get('name', 'Conv2D')}: {x[-1]} channels and {filters} filters do not make "
            f"{groups} groups; give multiples of {groups} above 0"
        )
    strides, padding = pair(c.get("strides", 1)), c.get("padding", "valid")
    height, width = _window(x, window, strides, padding, c.get("name", "Conv2D"))
    weights = prod(kernel) * (x[-1] // groups) * filters
    bias = filters * c.get("use_bias", True)
    return Effect(
        (height, width, filters), weights + bias, height * width * weights, window, strides,
        before=padded(x, window, strides, padding),
    )  # fmt: skip


def _depthwise(x: Shape, c: Config) -> Effect:
    kernel, window = _kernel(c)
    strides, padding = pair(c.get("strides", 1)), c.get("padding", "valid")
    height, width = _window(x, window, strides, padding, "DepthwiseConv2D")
    out = x[-1] * c.get("depth_multiplier", 1)
    weights = prod(kernel) * out
    bias = out * c.get("use_bias", True)
    return Effect(
        (height, width, out), weights + bias, height * width * weights, window, strides,
        before=padded(x, window, strides, padding),
    )  # fmt: skip


def _separable(x: Shape, c: Config) -> Effect:
    depth = _depthwise(x, {**c, "use_bias": False})
    point = _conv(depth.shape, {"filters": c["filters"], "kernel_size": 1, **_bias(c)})
    return depth._replace(
        shape=point.shape, params=depth.params + point.params, macs=depth.macs + point.macs
    )


def _bias(c: Config) -> Config:
    return {"use_bias": c.get("use_bias", True)}


def _dense(x: Shape, c: Config) -> Effect:
    if c["units"] < 1:
        raise UsageError(f"{c.get('name', 'Dense')}: {c['units']} units; at least 1 is needed")
    weights = x[-1] * c["units"]
    macs = prod(x[:-1]) * weights
    return Effect((*x[:-1], c["units"]), weights + c["units"] * c.get("use_bias", True), macs)


def _pool(x: Shape, c: Config) -> Effect:
    window = pair(c.get("pool_size", 2))
    strides = pair(c.get("strides") or window)
    padding = c.get("padding", "valid")
    size = _window(x, window, strides, padding, c.get("name", "pooling"))
    before = padded(x, window, strides, padding)
    return Effect((*size, x[-1]), 0, 0, window, strides, before=before)


def _global_pool(x: Shape, c: Config) -> Effect:
    shape = (1, 1, x[-1]) if c.get("keepdims") else (x[-1],)
    return Effect(shape, 0, 0, (x[0], x[1]), (x[0], x[1]))


def _adaptive_pool(x: Shape, c: Config) -> Effect:
    """As many means as asked for, of parts that overlap where the map does not come out even."""
    size = pair(c["output_size"])
    parts = [
        max(-(-(i + 1) * n // out) - i * n // out for i in range(out))
        for n, out in zip(x, size, strict=False)
    ]
    steps = [max(n // out, 1) for n, out in zip(x, size, strict=False)]
    return Effect((*size, x[-1]), 0, 0, (parts[0], parts[1]), (steps[0], steps[1]))


def _flatten(x: Shape, c: Config) -> Effect:
    return Effect((prod(x),), 0, 0, *((x[:-1],) * 2 if len(x) > 1 else ()))


def _pad(x: Shape, c: Config) -> Effect:
    padding = c.get("padding", 1)
    (top, bottom), (left, right) = (pair(side) for side in pair(padding))
    zeros = (top + bottom, left + right)
    shape = (x[0] + zeros[0], x[1] + zeros[1], x[2])
    return Effect(shape, zeros=zeros, before=(top, left))


def _norm(x: Shape, c: Config) -> Effect:
    return Effect(x, x[-1] * (c.get("scale", True) + c.get("center", True)))


def _batch_norm(x: Shape, c: Config) -> Effect:
    return _norm(x, c)._replace(frozen=2 * x[-1])  # the moving mean and variance


def _concatenate(x: list[Shape], c: Config) -> Effect:
    return Effect((*x[0][:-1], sum(shape[-1] for shape in x)))


def _permute(x: Shape, c: Config) -> Effect:
    dims = tuple(c["dims"])
    return moved(x, tuple(x[axis - 1] for axis in dims), dims=dims)


def _reshape(x: Shape, c: Config) -> Effect:
    known = prod(n for n in c["target_shape"] if n != -1)
    shape = tuple(prod(x) // known if n == -1 else n for n in c["target_shape"])
    if prod(shape) != prod(x):
        raise TooSmall(f"{c.get('name', 'Reshape')}: a map of {x} cannot become {shape}")
    return moved(x, shape)


def moved(x: Shape, shape: Shape, dims: Shape = ()) -> Effect:
    """Return the effect of putting numbers elsewhere: what each sees is then no window.

    Unless they are still there, or in one place, with all channels, before and after. Where axes
    change places, as `Permute` has them in `dims`, and pixels become channels, all of these are
    seen at once.

    >>> moved((1, 1, 64), (64,)).window
    (1, 1)
    >>> moved((8, 8, 3), (64, 3)).window
    >>> moved((8, 8, 3), (8, 3, 8), dims=(1, 3, 2)).window
    (1, inf)
    """
    if list(dims) == sorted(dims) and (dims or x == shape):
        return Effect(shape)
    if prod(x[:-1]) == 1 == prod(shape[:-1]):
        return Effect(shape)
    if dims and dims[-1] != len(dims):
        window = tuple(ALL if axis == dims[-1] else 1 for axis in range(1, len(dims)))
        return Effect(shape, window=window, strides=None)
    return Effect(shape, window=None, strides=None)


def _same(x: Shape, c: Config) -> Effect:
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
    "BatchNormalization": _batch_norm,
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
