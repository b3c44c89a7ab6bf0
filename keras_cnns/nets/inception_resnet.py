"""Inception-ResNet v1 and v2: Szegedy et al. 2016, https://arxiv.org/abs/1602.07261.

`INCEPTION_RESNET_V1` is the paper's (figures 10 to 15). `INCEPTION_RESNET_V2` is the network of the
authors' code, TF-slim's and keras.applications', whose weights fit it.

Departures from the paper:
- Scales of the residuals, for which the paper says 0.1 to 0.3: the code's, for v1 too.
- v2: Inception v3's stem and a first block like its, where figure 15 has Inception v4's stem.
- v2: 10, 20 and 10 blocks, where figure 15 has 5, 10 and 5; the last has no scale and no ReLU, and
  a 1x1 convolution of 1,536 filters follows it.
- v2: the 1x1 convolution of a block has as many filters as its input. Figures 17 and 19 print 1154
  and 2048, which do not fit what is concatenated before.
- v2: the auxiliary head, which no figure shows, is the code's.
- He's initialisation; epsilon 1e-3, as the code.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, auxiliary_conv_head, chain, classifier, conv, inception_block
from keras_cnns.spec import Branches, Conv, Pool
from keras_cnns.trace import layers


class Residuals(NamedTuple):
    """So many blocks act(x + scale * f(x)): the branches of a figure are f, with a 1x1 behind."""

    depth: int
    scale: float
    branches: Branches
    activation: Literal["relu", "linear"] = "relu"


def figure10(double: int, last: int) -> Branches:
    """Return figure 10 or 16, for maps of 35x35: 3x3 convolutions, one and two in a row."""
    return Branches(
        (Conv(32),), (Conv(32), Conv(32, 3)), (Conv(32), Conv(double, 3), Conv(last, 3))
    )


def figure11(conv1: int, reduce: int, across: int, down: int, size: int) -> Branches:
    """Return figure 11 or 17 (maps of 17x17, size 7), 13 or 19 (8x8, size 3): 1xn, then nx1."""
    return Branches((Conv(conv1),), (Conv(reduce), Conv(across, (1, size)), Conv(down, (size, 1))))


def figure7(k: int, l: int, m: int, n: int) -> Branches:  # noqa: E741
    """Return the reduction of 35x35 maps, with the letters of table 1."""
    return Branches(
        (Conv(n, 3, 2, "valid"),),
        (Conv(k), Conv(l, 3), Conv(m, 3, 2, "valid")),
        (Pool("max", 3, 2, "valid"),),
    )


def figure12(single: int, last: int) -> Branches:
    """Return figure 12 or 18, the reduction of 17x17 maps."""
    return Branches(
        (Conv(256), Conv(384, 3, 2, "valid")),
        (Conv(256), Conv(single, 3, 2, "valid")),
        (Conv(256), Conv(single, 3), Conv(last, 3, 2, "valid")),
        (Pool("max", 3, 2, "valid"),),
    )


# Figure 14 without its last convolution.
STEM = (
    Conv(32, 3, 2, "valid"),
    Conv(32, 3, 1, "valid"),
    Conv(64, 3),
    Pool("max", 3, 2, "valid"),
    Conv(80, 1, 1, "valid"),
    Conv(192, 3, 1, "valid"),
)
MIXED = Branches(
    (Conv(96),),
    (Conv(48), Conv(64, 5)),
    (Conv(64), Conv(96, 3), Conv(96, 3)),
    (Pool("average"), Conv(64)),
)

INCEPTION_RESNET_V1 = {
    "stem": (*STEM, Conv(256, 3, 2, "valid")),
    "a": Residuals(5, 0.17, figure10(32, 32)),
    "reduction_a": figure7(192, 192, 256, 384),
    "b": Residuals(10, 0.1, figure11(128, 128, 128, 128, size=7)),
    "reduction_b": figure12(256, 256),
    "c": Residuals(5, 0.2, figure11(192, 192, 192, 192, size=3)),
}
INCEPTION_RESNET_V2 = {
    "stem": (*STEM, Pool("max", 3, 2, "valid"), MIXED),
    "a": Residuals(10, 0.17, figure10(48, 64)),
    "reduction_a": figure7(256, 256, 384, 384),
    "b": Residuals(20, 0.1, figure11(192, 128, 160, 192, size=7)),
    "reduction_b": figure12(288, 320),
    "c": Residuals(9, 0.2, figure11(192, 192, 224, 256, size=3)),
    "c_last": Residuals(1, 1.0, figure11(192, 192, 224, 256, size=3), "linear"),
    "last": (Conv(1536),),
}
NORM: dict[str, Any] = {"norm": True, "epsilon": 1e-3}


def _residual(x: Any, spec: Residuals, name: str) -> Any:
    """One block: the 1x1 convolution behind the branches has a bias and no normalisation."""
    y = inception_block(x, spec.branches, **NORM, name=name)
    y = conv(y, x.shape[-1], use_bias=True, name=f"{name}_linear")
    if spec.scale != 1:
        y = layers.Rescaling(scale=spec.scale, name=f"{name}_scale")(y)
    x = layers.Add(name=f"{name}_add")([x, y])
    if spec.activation == "linear":
        return x
    return layers.Activation(activation=spec.activation, name=f"{name}_{spec.activation}")(x)


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return the class scores of images (h, w, c), the paper's 299x299x3.

    With `top.auxiliary`, a dict with those of the auxiliary head on the last 17x17 map besides.
    """
    heads = {}
    for row, step in spec.items():
        if isinstance(step, Residuals):
            for i in range(step.depth):
                x = _residual(x, step, f"{row}{i + 1}")
        elif isinstance(step, Branches):
            x = inception_block(x, step, **NORM, name=row)
        else:
            x = chain(x, step, **NORM, name=f"{row}_")
        if top.auxiliary and row == "b":
            head = auxiliary_conv_head(x, top, epsilon=NORM["epsilon"], name="auxiliary1")
            heads["auxiliary1"] = head
    x = classifier(x, top, dropout=0.2)
    return {"predictions": x, **heads} if heads else x
