"""ResNet: He, Zhang, Ren & Sun 2015, https://arxiv.org/abs/1512.03385.

Departures from the paper:
- In bottlenecks the stride stands in the 3x3 convolution, not in the first 1x1 ("v1.5"), as in the
  authors' later code and torchvision.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, classifier, conv_norm, pool, residual_block
from keras_cnns.spec import Filters, Pool
from keras_cnns.trace import layers


class Stage(NamedTuple):
    """Blocks of one width: filters of their 3x3 convolutions, and how many blocks."""

    filters: Filters
    depth: int


class ResNet(NamedTuple):
    """A column of table 1.

    `stem` "paper" reduces the image 4 times before the first stage (7x7/2 and a pooling); "small",
    for images of about 32 pixels, is a 3x3 convolution of stride 1, as in section 4.2.
    """

    stages: tuple[Stage, ...]
    bottleneck: bool = False
    stem: Literal["paper", "small"] = "paper"
    conv1: Filters = 64
    shortcut: Literal["projection", "zeros"] = "projection"


def _column(*depths: int, bottleneck: bool = False) -> ResNet:
    stages = zip((64, 128, 256, 512), depths, strict=True)
    return ResNet(tuple(Stage(*stage) for stage in stages), bottleneck)


RESNET18 = _column(2, 2, 2, 2)
RESNET34 = _column(3, 4, 6, 3)
RESNET50 = _column(3, 4, 6, 3, bottleneck=True)


def build(x: Any, spec: ResNet, top: Top) -> Any:
    """Return ResNet's class scores of images (h, w, c), the paper's 224x224x3."""
    if spec.stem == "paper":
        x = conv_norm(x, spec.conv1, 7, 2, padding="centered", name="conv1")
        x = layers.ZeroPadding2D(padding=1, name="conv1_pool_pad")(x)
        x = pool(x, Pool("max", 3, 2, "valid"), name="conv1_pool")
    else:
        x = conv_norm(x, spec.conv1, 3, name="conv1")
    for i, stage in enumerate(spec.stages):
        for block in range(stage.depth):
            x = residual_block(
                x,
                stage.filters,
                strides=2 if i > 0 and block == 0 else 1,
                bottleneck=spec.bottleneck,
                shortcut=spec.shortcut,
                name=f"conv{i + 2}_{block + 1}",
            )
    return classifier(x, top)
