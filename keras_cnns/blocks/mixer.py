"""Perceptrons over tokens and over channels: MLP-Mixer."""

from typing import Any

from keras_cnns.trace import layers


def mixer_block(x: Any, tokens: int, channels: int, *, approximate: bool = True, name: str) -> Any:
    """Mixer block: x = x + f(norm(x)) across positions, then x + g(norm(x)) across channels.

    Tolstikhin et al. 2021, figure 1 and equation 1: f is the same for all channels, g for all
    positions. Both are two 1x1 convolutions, like the perceptron of a `nin_block`; for f, positions
    and channels change places. (h, w, c) -> (h, w, c).

    Args:
        x: feature map.
        tokens: hidden units of f.
        channels: hidden units of g.
        approximate: GELU by its tanh formula.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> mixer_block(FeatureMap((None, 14, 14, 512)), 256, 2048, name="mixer1").shape
    (None, 14, 14, 512)
    """
    height, width, depth = x.shape[1:]

    def perceptron(x: Any, units: int, place: str) -> Any:
        for i, filters in enumerate((units, x.shape[-1]), 1):
            x = layers.Conv2D(
                filters=filters,
                kernel_size=1,
                kernel_initializer="lecun_normal",
                name=f"{place}_{i}_conv",
            )(x)
            if i == 1:
                x = layers.GELU(approximate=approximate, name=f"{place}_1_gelu")(x)
        return x

    place = f"{name}_tokens"
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{place}_norm")(x)
    y = layers.Permute(dims=(3, 1, 2), name=f"{place}_last")(y)
    y = layers.Reshape(target_shape=(1, depth, height * width), name=f"{place}_flat")(y)
    y = perceptron(y, tokens, place)
    y = layers.Reshape(target_shape=(depth, height, width), name=f"{place}_map")(y)
    y = layers.Permute(dims=(2, 3, 1), name=f"{place}_first")(y)
    x = layers.Add(name=f"{place}_add")([x, y])

    place = f"{name}_channels"
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{place}_norm")(x)
    y = perceptron(y, channels, place)
    return layers.Add(name=f"{place}_add")([x, y])
