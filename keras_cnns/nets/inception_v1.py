"""Inception v1, GoogLeNet: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842.

Departures from the paper:
- The constants of the local response normalisation, which the paper leaves out, are those of the
  authors' entry in the Caffe model zoo (alpha 1e-4 over 5 channels, beta 0.75, k 1).
- He's initialisation, which came a year later.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import (
    Top,
    auxiliary_head,
    classifier,
    conv_norm,
    inception_block,
    pool,
)
from keras_cnns.spec import Branches, Conv, Filters, Pool
from keras_cnns.trace import layers


class Stem(NamedTuple):
    """The rows of table 1 above 3a.

    `kind` "paper" reduces the image 8 times before 3a. "small", for images of about 32 pixels,
    reduces it twice: a 3x3 convolution of stride 1 and no first pooling.
    """

    kind: Literal["paper", "small"] = "paper"
    conv1: Filters = 64
    reduce2: Filters = 64
    conv2: Filters = 192


class Split(NamedTuple):
    """One row of table 1: the filters of each branch; a 0 leaves that convolution out."""

    conv1: Filters
    reduce3: Filters
    conv3: Filters
    reduce5: Filters
    conv5: Filters
    pool: Filters

    def branches(self) -> Branches:
        """Return figure 2 with these filters: (b), or (a) where the reductions are 0."""

        def convs(*sizes: tuple[int, int]) -> tuple[Conv, ...]:
            return tuple(Conv(filters, kernel) for filters, kernel in sizes if filters)

        return Branches(
            convs((self.conv1, 1)),
            convs((self.reduce3, 1), (self.conv3, 3)),
            convs((self.reduce5, 1), (self.conv5, 5)),
            (Pool("max", 3, 1), *convs((self.pool, 1))),
        )


INCEPTION_V1 = {
    "stem": Stem(),
    #           1x1  ->3  3x3  ->5  5x5  pool
    "3a": Split(64, 96, 128, 16, 32, 32),
    "3b": Split(128, 128, 192, 32, 96, 64),
    "4a": Split(192, 96, 208, 16, 48, 64),
    "4b": Split(160, 112, 224, 24, 64, 64),
    "4c": Split(128, 128, 256, 24, 64, 64),
    "4d": Split(112, 144, 288, 32, 64, 64),
    "4e": Split(256, 160, 320, 32, 128, 128),
    "5a": Split(256, 160, 320, 32, 128, 128),
    "5b": Split(384, 192, 384, 48, 128, 128),
}
POOLED = ("3b", "4e")
HEADS = {"4a": "auxiliary1", "4d": "auxiliary2"}


def _lrn(x: Any, name: str) -> Any:
    return layers.LocalResponseNormalization(size=5, alpha=1e-4 / 5, beta=0.75, k=1.0, name=name)(x)


def _stem(x: Any, spec: Stem) -> Any:
    if spec.kind == "paper":
        x = conv_norm(x, spec.conv1, 7, 2, norm=False, name="conv1")
        x = pool(x, Pool("max", 3, 2), name="conv1_pool")
    else:
        x = conv_norm(x, spec.conv1, 3, norm=False, name="conv1")
    x = _lrn(x, "conv1_lrn")
    x = conv_norm(x, spec.reduce2, norm=False, name="conv2_reduce")
    x = conv_norm(x, spec.conv2, 3, norm=False, name="conv2")
    x = _lrn(x, "conv2_lrn")
    return pool(x, Pool("max", 3, 2), name="conv2_pool")


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return GoogLeNet's class scores of images (h, w, c), the paper's 224x224x3.

    With `top.auxiliary`, a dict with those of the two auxiliary heads besides.
    """
    x = _stem(x, spec["stem"])
    heads = {}
    for row, split in list(spec.items())[1:]:
        x = inception_block(x, split.branches(), name=row)
        if top.auxiliary and row in HEADS:
            heads[HEADS[row]] = auxiliary_head(x, top, name=HEADS[row])
        if row in POOLED:
            x = pool(x, Pool("max", 3, 2), name=f"{row}_pool")
    x = classifier(x, top, dropout=0.4)
    return {"predictions": x, **heads} if heads else x
