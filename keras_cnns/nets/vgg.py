"""VGG: Simonyan & Zisserman 2014, table 1, https://arxiv.org/abs/1409.1556.

Departures from the paper:
- He's initialisation (2015) in place of a warm start from a shallower net.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, classifier, vgg_block
from keras_cnns.spec import Conv, Filters


class VGG(NamedTuple):
    """A column of table 1: the convolutions of each block, and the units of the dense layers."""

    conv1: tuple[Conv, ...]
    conv2: tuple[Conv, ...]
    conv3: tuple[Conv, ...]
    conv4: tuple[Conv, ...]
    conv5: tuple[Conv, ...]
    fc6: Filters = 4096
    fc7: Filters = 4096


def _column(*depths: int) -> VGG:
    widths = (64, 128, 256, 512, 512)
    return VGG(*(depth * (Conv(n, 3),) for n, depth in zip(widths, depths, strict=True)))


VGG11 = _column(1, 1, 2, 2, 2)  # A
VGG13 = _column(2, 2, 2, 2, 2)  # B
VGG16 = _column(2, 2, 3, 3, 3)  # D
VGG19 = _column(2, 2, 4, 4, 4)  # E


def build(x: Any, spec: VGG, top: Top) -> Any:
    """Return VGG's class scores of images (h, w, c), the paper's 224x224x3."""
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        x = vgg_block(x, getattr(spec, name), name=name)
    return classifier(x, top, hidden={"fc6": spec.fc6, "fc7": spec.fc7}, flatten=True, dropout=0.5)
