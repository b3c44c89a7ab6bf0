"""Network in Network: Lin, Chen & Yan 2013, https://arxiv.org/abs/1312.4400.

Departures from the paper:
- The paper gives no table for ImageNet; the rows are those of the authors' network in the Caffe
  model zoo (nin_imagenet), at 224 pixels.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, nin_block, pool, pooled, predictions
from keras_cnns.spec import Conv, Filters, Pool
from keras_cnns.trace import layers


class MLPConv(NamedTuple):
    """A convolution, the 1x1 convolutions that follow it, and the pooling at its end, if any."""

    conv: Conv
    mlp: tuple[Filters, ...]
    pool: bool = True


class NiN(NamedTuple):
    """The blocks below the last, whose own filters are the classes."""

    mlpconv1: MLPConv
    mlpconv2: MLPConv
    mlpconv3: MLPConv
    mlpconv4: MLPConv
    dropout: float = 0.5


NIN = NiN(
    MLPConv(Conv(96, 11, 4, "valid"), (96, 96)),
    MLPConv(Conv(256, 5), (256, 256)),
    MLPConv(Conv(384, 3), (384, 384)),
    MLPConv(Conv(1024, 3), (1024,), pool=False),
)


def build(x: Any, spec: NiN, top: Top) -> Any:
    """Return NiN's class scores of images (h, w, c): the mean of one map per class."""
    blocks = {name: row for name, row in spec._asdict().items() if isinstance(row, MLPConv)}
    for name, row in blocks.items():
        x = nin_block(x, row.conv, row.mlp, name=name)
        if row.pool:
            x = pool(x, Pool("max", 3, 2, "ceil"), name=f"{name}_pool")
        if row.pool and name == list(blocks)[-2]:
            x = layers.Dropout(rate=spec.dropout, name="dropout")(x)
    if not top.include_top:
        return pooled(x, top.pooling)
    x = nin_block(x, Conv(top.num_classes, 1), (), name="maps")
    return predictions(layers.GlobalAveragePooling2D(dtype="float32", name="logits")(x), top)
