"""Every layer sees all before it: DenseNet."""

from typing import Any

from keras_cnns.blocks.conv import norm_conv
from keras_cnns.trace import layers


def dense_block(
    x: Any, growth: int, depth: int, *, bottleneck: int = 4, dropout: float = 0.0, name: str
) -> Any:
    """Dense block: layers that see all that came before them, x = concat(x, f(x)).

    Huang et al. 2016, figure 1 and equation 2. (h, w, c) -> (h, w, c + depth * growth).

    Args:
        x: feature map.
        growth: filters of each layer's 3x3 convolution, the paper's k.
        depth: how many layers.
        bottleneck: a 1x1 convolution of so many times `growth` goes before; 0 leaves it out.
        dropout: fraction dropped after each convolution.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> dense_block(FeatureMap((None, 56, 56, 64)), 32, 6, name="dense1").shape
    (None, 56, 56, 256)
    """
    convs = [(bottleneck * growth, 1)] * (bottleneck > 0) + [(growth, 3)]
    for i in range(1, depth + 1):
        y = x
        for filters, size in convs:
            place = f"{name}_{i}_{size}x{size}"
            y = norm_conv(y, filters, size, name=place)
            if dropout:
                y = layers.Dropout(rate=dropout, name=f"{place}_dropout")(y)
        x = layers.Concatenate(name=f"{name}_{i}_concat")([x, y])
    return x
