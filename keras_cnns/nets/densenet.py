"""DenseNet: Huang, Liu, van der Maaten & Weinberger 2016, https://arxiv.org/abs/1608.06993.

Departures from the paper:
- DenseNet-161 is of the authors' code; table 1 of the final paper has 264 in its place.
- Without dropout, as for augmented data; for CIFAR without, the paper has `dropout=0.2`.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import (
    Top,
    classifier,
    conv,
    conv_norm,
    dense_block,
    norm_act,
    norm_conv,
    pool,
)
from keras_cnns.spec import Filters, Pool
from keras_cnns.trace import layers


class Block(NamedTuple):
    """A dense block: its growth rate, the paper's k, and how many layers."""

    growth: Filters
    depth: int


class DenseNet(NamedTuple):
    """A column of table 1, or a row of table 2.

    Each layer's 1x1 convolution has `bottleneck` times the growth rate, 0 leaves it out;
    `compression` is what a transition keeps of the channels, the paper's theta. `stem` "paper"
    reduces the image 4 times before the first block (7x7/2 and a pooling); "small", for images of
    about 32 pixels, is a 3x3 convolution of stride 1, as in section 3.
    """

    blocks: tuple[Block, ...]
    conv1: Filters = 64
    bottleneck: int = 4
    compression: float = 0.5
    dropout: float = 0.0
    stem: Literal["paper", "small"] = "paper"


def _column(growth: int, *depths: int, **others: Any) -> DenseNet:
    return DenseNet(tuple(Block(growth, depth) for depth in depths), **others)


DENSENET121 = _column(32, 6, 12, 24, 16)
DENSENET161 = _column(48, 6, 12, 36, 24, conv1=96)
DENSENET169 = _column(32, 6, 12, 32, 32)
DENSENET201 = _column(32, 6, 12, 48, 32)
DENSENET264 = _column(32, 6, 12, 64, 48)
DENSENET40_CIFAR = _column(12, 12, 12, 12, conv1=16, bottleneck=0, compression=1.0, stem="small")
DENSENET100_BC_CIFAR = _column(12, 16, 16, 16, conv1=24, stem="small")


def build(x: Any, spec: DenseNet, top: Top) -> Any:
    """Return DenseNet's class scores of images (h, w, c), the paper's 224x224x3 or 32x32x3."""
    if spec.stem == "paper":
        x = conv_norm(x, spec.conv1, 7, 2, padding="centered", name="conv1")
        x = layers.ZeroPadding2D(padding=1, name="conv1_pool_pad")(x)
        x = pool(x, Pool("max", 3, 2, "valid"), name="conv1_pool")
    else:
        x = conv(x, spec.conv1, 3, name="conv1")
    for i, block in enumerate(spec.blocks, 1):
        x = dense_block(
            x, *block, bottleneck=spec.bottleneck, dropout=spec.dropout, name=f"dense{i}"
        )
        if i < len(spec.blocks):
            name = f"transition{i}"
            x = norm_conv(x, int(x.shape[-1] * spec.compression), name=name)
            if spec.dropout:
                x = layers.Dropout(rate=spec.dropout, name=f"{name}_dropout")(x)
            x = pool(x, Pool("average", 2, 2, "valid"), name=f"{name}_pool")
    return classifier(norm_act(x, name="last"), top)
