"""Inception v4: Szegedy et al. 2016, https://arxiv.org/abs/1602.07261.

Blocks are named as in the authors' code, TF-slim (`Mixed_5b` is "5b").

Departures from the paper:
- The order of 1xn and nx1 convolutions that follow each other is that of the authors' code, which
  the published weights have, in the stem, in figure 5's longest branch and in figure 6.
- The auxiliary head, which no figure shows, is the code's.
- He's initialisation; epsilon 1e-3, as the code.
"""

from typing import Any

from keras_cnns.blocks import Top, auxiliary_conv_head, chain, classifier, inception_block
from keras_cnns.spec import Branches, Conv, Pool

# Figure 3; "valid" is the figure's V.
STEM = (
    Conv(32, 3, 2, "valid"),
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    Branches((Pool("max", 3, 2, "valid"),), (Conv(96, 3, 2, "valid"),)),
    Branches(
        (Conv(64), Conv(96, 3, 1, "valid")),
        (Conv(64), Conv(64, (1, 7)), Conv(64, (7, 1)), Conv(96, 3, 1, "valid")),
    ),
    Branches((Conv(192, 3, 2, "valid"),), (Pool("max", 3, 2, "valid"),)),
)
# Figure 4, for maps of 35x35.
INCEPTION_A = Branches(
    (Conv(96),),
    (Conv(64), Conv(96, 3)),
    (Conv(64), Conv(96, 3), Conv(96, 3)),
    (Pool("average"), Conv(96)),
)
# Figure 7 with k, l, m, n = 192, 224, 256, 384 of table 1.
REDUCTION_A = Branches(
    (Conv(384, 3, 2, "valid"),),
    (Conv(192), Conv(224, 3), Conv(256, 3, 2, "valid")),
    (Pool("max", 3, 2, "valid"),),
)
# Figure 5, for maps of 17x17.
INCEPTION_B = Branches(
    (Conv(384),),
    (Conv(192), Conv(224, (1, 7)), Conv(256, (7, 1))),
    (Conv(192), Conv(192, (7, 1)), Conv(224, (1, 7)), Conv(224, (7, 1)), Conv(256, (1, 7))),
    (Pool("average"), Conv(128)),
)
# Figure 8.
REDUCTION_B = Branches(
    (Conv(192), Conv(192, 3, 2, "valid")),
    (Conv(256), Conv(256, (1, 7)), Conv(320, (7, 1)), Conv(320, 3, 2, "valid")),
    (Pool("max", 3, 2, "valid"),),
)
# Figure 6, for maps of 8x8.
INCEPTION_C = Branches(
    (Conv(256),),
    (Conv(384), Branches((Conv(256, (1, 3)),), (Conv(256, (3, 1)),))),
    (
        Conv(384),
        Conv(448, (3, 1)),
        Conv(512, (1, 3)),
        Branches((Conv(256, (1, 3)),), (Conv(256, (3, 1)),)),
    ),
    (Pool("average"), Conv(256)),
)

# Figure 9.
INCEPTION_V4 = {
    "stem": STEM,
    **dict.fromkeys(("5b", "5c", "5d", "5e"), INCEPTION_A),
    "6a": REDUCTION_A,
    **dict.fromkeys(("6b", "6c", "6d", "6e", "6f", "6g", "6h"), INCEPTION_B),
    "7a": REDUCTION_B,
    **dict.fromkeys(("7b", "7c", "7d"), INCEPTION_C),
}
EPSILON = 1e-3


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return Inception v4's class scores of images (h, w, c), the paper's 299x299x3.

    With `top.auxiliary`, a dict with those of the auxiliary head on the last 17x17 map besides.
    """
    x = chain(x, spec["stem"], norm=True, epsilon=EPSILON, name="stem_")
    heads = {}
    for row, branches in list(spec.items())[1:]:
        x = inception_block(x, branches, norm=True, epsilon=EPSILON, name=row)
        if top.auxiliary and row == "6h":
            heads["auxiliary1"] = auxiliary_conv_head(x, top, epsilon=EPSILON, name="auxiliary1")
    x = classifier(x, top, dropout=0.2)
    return {"predictions": x, **heads} if heads else x
