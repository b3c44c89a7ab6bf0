"""Network in Network: Lin, Chen & Yan 2013, https://arxiv.org/abs/1312.4400.

`NIN` and `NIN_CIFAR` have the rows of the authors' networks in Caffe's model zoo, which the paper
does not print; `NIN_D2L` is the one of Zhang et al., Dive into Deep Learning, section 8.3.

Departures from the paper:
- He's initialisation.
- The maps of the classes go through a ReLU, as in the authors' files, before they are averaged.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, nin_block, pool, pooled, predictions
from keras_cnns.spec import Conv, Filters, Pool
from keras_cnns.trace import layers


class MLPConv(NamedTuple):
    """A convolution, the 1x1 convolutions that follow it, and the pooling and dropout behind.

    0 filters stand for as many as there are classes.
    """

    conv: Conv
    mlp: tuple[Filters, ...]
    pool: Literal["max", "average", "none"] = "max"
    dropout: float = 0.0


class NiN(NamedTuple):
    """The blocks; the last one's last 1x1 convolution, one map per class, goes without saying.

    `pool_padding` is that of the 3x3/2 poolings, "ceil" in Caffe.
    """

    blocks: tuple[MLPConv, ...]
    pool_padding: str = "ceil"


NIN = NiN(
    (
        MLPConv(Conv(96, 11, 4, "valid"), (96, 96)),
        MLPConv(Conv(256, 5), (256, 256)),
        MLPConv(Conv(384, 3), (384, 384), dropout=0.5),
        MLPConv(Conv(1024, 3), (1024,), "none"),
    )
)
NIN_CIFAR = NiN(
    (
        MLPConv(Conv(192, 5), (160, 96), dropout=0.5),
        MLPConv(Conv(192, 5), (192, 192), "average", dropout=0.5),
        MLPConv(Conv(192, 3), (192,), "none"),
    )
)
NIN_D2L = NiN(
    (
        MLPConv(Conv(96, 11, 4, "valid"), (96, 96)),
        MLPConv(Conv(256, 5), (256, 256)),
        MLPConv(Conv(384, 3), (384, 384), dropout=0.5),
        MLPConv(Conv(0, 3), (0,), "none"),
    ),
    pool_padding="valid",
)


def build(x: Any, spec: NiN, top: Top) -> Any:
    """Return NiN's class scores of images (h, w, c): the mean of one map per class."""
    for i, row in enumerate(spec.blocks, 1):
        first = row.conv._replace(filters=row.conv.filters or top.num_classes)
        name = f"mlpconv{i}"
        x = nin_block(x, first, [n or top.num_classes for n in row.mlp], name=name)
        if row.pool != "none":
            x = pool(x, Pool(row.pool, 3, 2, spec.pool_padding), name=f"{name}_pool")
        if row.dropout:
            x = layers.Dropout(rate=row.dropout, name=f"{name}_dropout")(x)
    if not top.include_top:
        return pooled(x, top.pooling)
    x = nin_block(x, Conv(top.num_classes, 1), (), name="maps")
    return predictions(layers.GlobalAveragePooling2D(dtype="float32", name="logits")(x), top)
