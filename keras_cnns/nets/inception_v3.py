"""Inception v3: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567.

The network of the authors' code, TF-slim's and keras.applications', whose weights fit it: all
departures but the last are the code's. Blocks are named as there (`Mixed_5b` is "5b").

Departures from the paper:
- Stem: behind its pooling, table 1 has 3x3 convolutions of 80, 192 (of stride 2) and 288 filters;
  here they are a 1x1 of 80, a 3x3 of 192 and a second pooling.
- Figure 5: its second branch ends in a 3x3 convolution; here that is 5x5.
- Figure 6: table 1 has 5 of them, here there are a reduction and 4; the longest branch begins with
  7x1, not 1x7.
- Figure 10: the first reduction has no 1x1 before its lone 3x3 convolution, the second 1x7 and 7x1
  in place of the first of its two 3x3.
- Figure 8: the last convolution of the auxiliary head has 768 filters, not 1,024.
- 20 % dropout; epsilon 1e-3.
- He's initialisation.
"""

from typing import Any

from keras_cnns.blocks import Top, auxiliary_conv_head, chain, classifier, inception_block
from keras_cnns.spec import Branches, Conv, Pool

STEM = (
    Conv(32, 3, 2, "valid"),
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    Pool("max", 3, 2, "valid"),
    Conv(80, 1, 1, "valid"),
    Conv(192, 3, 1, "valid"),
    Pool("max", 3, 2, "valid"),
)


def figure5(pool: int) -> Branches:
    """Return a block of 35x35 maps: 5x5 convolutions made of 3x3."""
    return Branches(
        (Conv(64),),
        (Conv(48), Conv(64, 5)),
        (Conv(64), Conv(96, 3), Conv(96, 3)),
        (Pool("average"), Conv(pool)),
    )


def figure6(n: int) -> Branches:
    """Return a block of 17x17 maps: 7x7 convolutions made of 1x7 and 7x1."""
    return Branches(
        (Conv(192),),
        (Conv(n), Conv(n, (1, 7)), Conv(192, (7, 1))),
        (Conv(n), Conv(n, (7, 1)), Conv(n, (1, 7)), Conv(n, (7, 1)), Conv(192, (1, 7))),
        (Pool("average"), Conv(192)),
    )


# A block of 8x8 maps: the last 3x3 convolutions made of a 1x3 and a 3x1 side by side.
FIGURE7 = Branches(
    (Conv(320),),
    (Conv(384), Branches((Conv(384, (1, 3)),), (Conv(384, (3, 1)),))),
    (Conv(448), Conv(384, 3), Branches((Conv(384, (1, 3)),), (Conv(384, (3, 1)),))),
    (Pool("average"), Conv(192)),
)

# Reductions: a pooling and convolutions of stride 2, side by side.
FIGURE10 = Branches(
    (Conv(384, 3, 2, "valid"),),
    (Conv(64), Conv(96, 3), Conv(96, 3, 2, "valid")),
    (Pool("max", 3, 2, "valid"),),
)
FIGURE10_SECOND = Branches(
    (Conv(192), Conv(320, 3, 2, "valid")),
    (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2, "valid")),
    (Pool("max", 3, 2, "valid"),),
)

INCEPTION_V3 = {
    "stem": STEM,
    "5b": figure5(pool=32),
    "5c": figure5(pool=64),
    "5d": figure5(pool=64),
    "6a": FIGURE10,
    "6b": figure6(128),
    "6c": figure6(160),
    "6d": figure6(160),
    "6e": figure6(192),
    "7a": FIGURE10_SECOND,
    "7b": FIGURE7,
    "7c": FIGURE7,
}
EPSILON = 1e-3


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return Inception v3's class scores of images (h, w, c), the paper's 299x299x3.

    With `top.auxiliary`, a dict with those of the auxiliary head on the last 17x17 map besides.
    """
    x = chain(x, spec["stem"], norm=True, epsilon=EPSILON, name="stem_")
    heads = {}
    for row, branches in list(spec.items())[1:]:
        x = inception_block(x, branches, norm=True, epsilon=EPSILON, name=row)
        if top.auxiliary and row == "6e":
            heads["auxiliary1"] = auxiliary_conv_head(x, top, epsilon=EPSILON, name="auxiliary1")
    x = classifier(x, top, dropout=0.2)
    return {"predictions": x, **heads} if heads else x
