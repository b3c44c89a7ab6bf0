"""Blocks without branches: VGG and Network in Network."""

from collections.abc import Sequence
from typing import Any

from keras_cnns.blocks.conv import conv_norm, pool
from keras_cnns.spec import Conv, Pool
from keras_cnns.trace import layers


def vgg_block(
    x: Any, convs: Sequence[Conv], *, norm: bool = False, lrn: bool = False, name: str
) -> Any:
    """Convolutions, then a 2x2 max pooling that halves the map: pool(conv(...conv(x))).

    Simonyan & Zisserman 2014, table 1; with `lrn`, a local response normalisation before the
    pooling (column A-LRN). (h, w, c) -> (h / 2, w / 2, filters of the last).

    >>> from keras_cnns.trace import FeatureMap
    >>> vgg_block(FeatureMap((None, 32, 32, 3)), [Conv(64, 3), Conv(64, 3)], name="conv1").shape
    (None, 16, 16, 64)
    """
    for i, step in enumerate(convs, 1):
        x = conv_norm(x, *step, norm=norm, use_bias=True, name=f"{name}_{i}")
    if lrn:
        x = layers.LocalResponseNormalization(
            size=5, alpha=1e-4, beta=0.75, k=2.0, name=f"{name}_lrn"
        )(x)
    return pool(x, Pool("max", 2, 2, "valid"), name=f"{name}_pool")


def nin_block(x: Any, conv: Conv, mlp: Sequence[int], *, norm: bool = False, name: str) -> Any:
    """A convolution, then 1x1 convolutions: a small perceptron slid over the image.

    Lin et al. 2013, section 3.1 and figure 2.

    >>> from keras_cnns.trace import FeatureMap
    >>> nin_block(FeatureMap((None, 32, 32, 3)), Conv(192, 5), (160, 96), name="mlpconv1").shape
    (None, 32, 32, 96)
    """
    x = conv_norm(x, *conv, norm=norm, name=name)
    for i, filters in enumerate(mlp, 1):
        x = conv_norm(x, filters, norm=norm, name=f"{name}_mlp{i}")
    return x
