"""Xception: Chollet 2016, https://arxiv.org/abs/1610.02357.

The network of the author's code, keras.applications', whose weights fit it; blocks are named as
there.

Departures from the paper:
- He's initialisation; epsilon 1e-3, as the code.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, chain, classifier, conv_norm, norm_act, pool
from keras_cnns.spec import Conv, Filters, Pool
from keras_cnns.trace import layers


class Module(NamedTuple):
    """A block of figure 5: separable 3x3 convolutions around which the input is added.

    `pool` ends it in a 3x3/2 max pooling, padded as `pool_padding` says ("centered" is timm's);
    `relu` begins it with a ReLU, which the first block, whose input comes out of one, does without.
    """

    filters: tuple[Filters, ...]
    pool: bool = False
    relu: bool = True
    pool_padding: str = "same"


class Last(NamedTuple):
    """The separable convolutions at the end, each with a ReLU behind."""

    filters: tuple[Filters, ...]


# Figure 5: entry flow, 8 times the middle flow, exit flow.
XCEPTION = {
    "block1": (Conv(32, 3, 2, "valid"), Conv(64, 3, 1, "valid")),
    "block2": Module((128, 128), pool=True, relu=False),
    "block3": Module((256, 256), pool=True),
    "block4": Module((728, 728), pool=True),
    **{f"block{i}": Module((728, 728, 728)) for i in range(5, 13)},
    "block13": Module((728, 1024), pool=True),
    "block14": Last((1536, 2048)),
}
EPSILON = 1e-3


def _separable(x: Any, filters: int, activation: str | None, name: str) -> Any:
    """A depthwise 3x3 convolution, a 1x1 convolution, batch normalisation."""
    x = layers.SeparableConv2D(
        filters=filters,
        kernel_size=3,
        padding="same",
        use_bias=False,
        depthwise_initializer="he_normal",
        pointwise_initializer="he_normal",
        name=f"{name}_sepconv",
    )(x)
    return norm_act(x, activation, epsilon=EPSILON, name=name)


def _module(x: Any, spec: Module, name: str) -> Any:
    """One block: f(x) + x, with a 1x1 convolution for x where f changes its shape."""
    y = x
    for i, filters in enumerate(spec.filters, 1):
        if spec.relu or i > 1:
            y = layers.Activation(activation="relu", name=f"{name}_{i}_relu")(y)
        y = _separable(y, filters, None, f"{name}_{i}")
    strides = 1
    if spec.pool:
        y, strides = pool(y, Pool("max", 3, 2, spec.pool_padding), name=f"{name}_pool"), 2
    if spec.pool or x.shape[-1] != y.shape[-1]:
        shape: dict[str, Any] = {"filters": y.shape[-1], "strides": strides}
        x = conv_norm(x, **shape, activation=None, epsilon=EPSILON, name=f"{name}_shortcut")
    return layers.Add(name=f"{name}_add")([y, x])


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return Xception's class scores of images (h, w, c), the paper's 299x299x3."""
    for row, step in spec.items():
        if isinstance(step, Module):
            x = _module(x, step, row)
        elif isinstance(step, Last):
            for i, filters in enumerate(step.filters, 1):
                x = _separable(x, filters, "relu", f"{row}_{i}")
        else:
            x = chain(x, step, norm=True, epsilon=EPSILON, name=f"{row}_")
    return classifier(x, top, dropout=0.5)
