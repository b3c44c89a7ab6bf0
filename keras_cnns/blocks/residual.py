"""A branch added to what it started from: ResNet."""

from typing import Any

from keras_cnns.blocks.conv import conv, conv_norm, norm_act
from keras_cnns.errors import UsageError
from keras_cnns.trace import layers

ORDERS = (
    "original",
    "norm_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
)
SHORTCUTS = ("projection", "zeros", "pooled", "none")


def residual_block(
    x: Any,
    filters: int,
    *,
    strides: int = 1,
    bottleneck: bool = False,
    shortcut: str = "projection",
    order: str = "original",
    stride_in: int = 3,
    use_bias: bool = False,
    name: str,
) -> Any:
    """Residual block: x + f(x), and what `order` puts before, between and after.

    He et al. 2015, figure 5: f is two 3x3 convolutions, or with `bottleneck` a 1x1, a 3x3 and a
    1x1 of four times the filters. (h, w, c) -> (h / strides, w / strides, filters or 4 * filters).

    Args:
        x: feature map.
        filters: of the 3x3 convolutions.
        strides: of one convolution of f, and of the shortcut.
        bottleneck: the block of the right side of figure 5.
        shortcut: what stands in for x where its shape does not fit: "projection" (option B, a 1x1
            convolution), "zeros" (option A, zero channels, no
            weights), or "pooled" (a projection
            only where the channels differ); "none" leaves x out altogether: a plain network.
        order: of convolution, normalisation and ReLU: (a) to (e) of He et al. 2016, figure 4,
            which are the words of `ORDERS`.
        stride_in: of a bottleneck's convolutions, the kernel size of the one that takes the
            stride: 3, as everybody trains it since, or 1, as the paper has it.
        use_bias: gives the last convolution and the projection a bias.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> residual_block(FeatureMap((None, 56, 56, 64)), 128, strides=2, name="conv3_1").shape
    (None, 28, 28, 128)
    """
    for received, allowed, what in ((order, ORDERS, "order"), (shortcut, SHORTCUTS, "shortcut")):
        if received not in allowed:
            raise UsageError(
                f'{name}: unknown {what} "{received}"; allowed are {", ".join(allowed)}'
            )
    width = 4 * filters if bottleneck else filters
    if bottleneck:
        first, second = (strides, 1) if stride_in == 1 else (1, strides)
        steps = [(filters, 1, first), (filters, 3, second), (width, 1, 1)]
    else:
        steps = [(filters, 3, strides), (filters, 3, 1)]
    full = order == "full_preactivation"
    y = source = x
    for letter, (n, kernel_size, stride) in zip("abc", steps, strict=False):
        place, last = f"{name}_{letter}", letter == "abc"[len(steps) - 1]
        if full:
            y = norm_act(y, name=place)
            source = y if letter == "a" else source
        elif order == "relu_only_preactivation":
            y = layers.Activation(activation="relu", name=f"{place}_relu")(y)
        bias = use_bias and last
        y = conv(y, n, kernel_size, stride, "centered", use_bias=bias, name=place)
        if not full and not (last and order == "norm_after_addition"):
            between = order != "relu_only_preactivation"
            after = between and (not last or order == "relu_before_addition")
            y = norm_act(y, "relu" if after else None, name=place)
    if shortcut != "none":
        if strides > 1 or x.shape[-1] != width:
            x = _shortcut(x, source, width, strides, shortcut, full, use_bias, name)
        y = layers.Add(name=f"{name}_add")([x, y])
    if order == "norm_after_addition":
        return norm_act(y, name=name)
    if order == "original":
        y = layers.Activation(activation="relu", name=f"{name}_relu")(y)
    return y


def _shortcut(
    x: Any, source: Any, width: int, strides: int, kind: str, full: bool, use_bias: bool, name: str
) -> Any:
    """What stands in for x where its shape does not fit; `source` is x as f sees it."""
    if kind == "projection" or (kind == "pooled" and x.shape[-1] != width):
        place = f"{name}_shortcut"
        if full:
            return conv(source, width, 1, strides, use_bias=use_bias, name=place)
        return conv_norm(x, width, 1, strides, activation=None, name=place)
    if strides > 1:
        x = layers.MaxPooling2D(pool_size=1, strides=strides, name=f"{name}_pick")(x)
    if x.shape[-1] != width:
        x = layers.MatchChannels(filters=width, name=f"{name}_zeros")(x)
    return x
