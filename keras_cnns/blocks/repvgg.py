"""Three branches that can be merged into one convolution: RepVGG."""

from collections.abc import Mapping
from typing import Any

from keras_cnns.blocks.conv import conv_norm, norm_act
from keras_cnns.trace import layers


def repvgg_block(
    x: Any,
    filters: int,
    *,
    strides: int = 1,
    groups: int = 1,
    deploy: bool = False,
    name: str,
) -> Any:
    """RepVGG block: relu(norm(conv3x3(x)) + norm(conv1x1(x)) + norm(x)).

    Ding et al. 2021, figure 2; norm(x) only where its shape fits. Once trained, the sum is linear
    in x, so that one 3x3 convolution with a bias computes the same: `deploy` builds that one.
    (h, w, c) -> (h / strides, w / strides, filters).

    >>> from keras_cnns.trace import FeatureMap
    >>> repvgg_block(FeatureMap((None, 56, 56, 64)), 128, strides=2, name="stage3_1").shape
    (None, 28, 28, 128)
    """
    settings: Mapping[str, Any] = {"strides": strides, "groups": groups, "padding": "centered"}
    if deploy:
        return conv_norm(x, filters, 3, **settings, norm=False, name=name)
    branches = [
        conv_norm(x, filters, size, **settings, activation=None, name=f"{name}_{size}x{size}")
        for size in (3, 1)
    ]
    if strides == 1 and x.shape[-1] == filters:
        branches.append(norm_act(x, None, name=f"{name}_identity"))
    x = layers.Add(name=f"{name}_add")(branches)
    return layers.Activation(activation="relu", name=f"{name}_relu")(x)
