"""Inception v2, BN-Inception: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.

Figure 5 of the paper is a table like GoogLeNet's, with two 3x3 convolutions for every 5x5. (The
Inception-v2 of Szegedy et al. 2015, on Inception v3, is another network.)

Departures from the paper:
- The first convolution is a plain one; the paper's is depthwise separable, of multiplier 8.
- Convolutions keep their biases, which the normalisation cancels, as in the network's usual count.
  The paper's own, 13.6 million, does not follow from its figure 5.
- 4c, 4d and 4e have the filters of their branches, which do not sum to the sizes printed there.
- No dropout, as in the quicker trainings of section 4.2.1; the paper's baseline has it.
- He's initialisation; epsilon 1e-3, as in the authors' code.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, classifier, conv_norm, inception_block, pool
from keras_cnns.spec import Branches, Conv, Filters, Pool


class Stem(NamedTuple):
    """The rows of figure 5 above 3a.

    `kind` "paper" reduces the image 8 times before 3a. "small", for images of about 32 pixels,
    reduces it twice: a 3x3 convolution of stride 1 and no first pooling.
    """

    kind: Literal["paper", "small"] = "paper"
    conv1: Filters = 64
    reduce2: Filters = 64
    conv2: Filters = 192


class Split(NamedTuple):
    """One row of figure 5: the filters of each branch; a 0 leaves that convolution out."""

    conv1: Filters
    reduce3: Filters
    conv3: Filters
    reduce_double: Filters
    conv_double: Filters
    kind: Literal["average", "max"]
    pool: Filters
    strides: int = 1

    def branches(self) -> Branches:
        """Return the block: 1x1, 3x3 and double 3x3 convolutions, and a pooling."""
        return Branches(
            *([(Conv(self.conv1),)] if self.conv1 else []),
            (Conv(self.reduce3), Conv(self.conv3, 3, self.strides)),
            (
                Conv(self.reduce_double),
                Conv(self.conv_double, 3),
                Conv(self.conv_double, 3, self.strides),
            ),
            (Pool(self.kind, 3, self.strides), *([Conv(self.pool)] if self.pool else [])),
        )


INCEPTION_V2 = {
    "stem": Stem(),
    #           1x1  ->3  3x3  ->33 2 of 3x3  pool
    "3a": Split(64, 64, 64, 64, 96, "average", 32),
    "3b": Split(64, 64, 96, 64, 96, "average", 64),
    "3c": Split(0, 128, 160, 64, 96, "max", 0, strides=2),
    "4a": Split(224, 64, 96, 96, 128, "average", 128),
    "4b": Split(192, 96, 128, 96, 128, "average", 128),
    "4c": Split(160, 128, 160, 128, 160, "average", 128),
    "4d": Split(96, 128, 192, 160, 192, "average", 128),
    "4e": Split(0, 128, 192, 192, 256, "max", 0, strides=2),
    "5a": Split(352, 192, 320, 160, 224, "average", 128),
    "5b": Split(352, 192, 320, 192, 224, "max", 128),
}
NORM: dict[str, Any] = {"norm": True, "use_bias": True, "epsilon": 1e-3}


def _stem(x: Any, spec: Stem) -> Any:
    if spec.kind == "paper":
        x = conv_norm(x, spec.conv1, 7, 2, **NORM, name="conv1")
        x = pool(x, Pool("max", 3, 2), name="conv1_pool")
    else:
        x = conv_norm(x, spec.conv1, 3, **NORM, name="conv1")
    x = conv_norm(x, spec.reduce2, **NORM, name="conv2_reduce")
    x = conv_norm(x, spec.conv2, 3, **NORM, name="conv2")
    return pool(x, Pool("max", 3, 2), name="conv2_pool")


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return the class scores of images (h, w, c), the paper's 224x224x3."""
    x = _stem(x, spec["stem"])
    for row, split in list(spec.items())[1:]:
        x = inception_block(x, split.branches(), **NORM, name=row)
    return classifier(x, top)
