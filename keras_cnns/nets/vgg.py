"""VGG: Simonyan & Zisserman 2014, table 1, https://arxiv.org/abs/1409.1556.

Departures from the paper:
- He's initialisation (2015) in place of a warm start from a shallower net.
- The nets named `_bn`, with batch normalisation behind every convolution, are torchvision's.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, classifier, vgg_block
from keras_cnns.spec import Conv, Filters


class VGG(NamedTuple):
    """A column of table 1: the convolutions of each block, and the units of the dense layers.

    `norm` puts a batch normalisation behind every convolution, `lrn` a local response
    normalisation behind the first.
    """

    conv1: tuple[Conv, ...]
    conv2: tuple[Conv, ...]
    conv3: tuple[Conv, ...]
    conv4: tuple[Conv, ...]
    conv5: tuple[Conv, ...]
    fc6: Filters = 4096
    fc7: Filters = 4096
    norm: bool = False
    lrn: bool = False


def _column(*depths: int) -> VGG:
    pairs = zip((64, 128, 256, 512, 512), depths, strict=True)
    blocks: Any = [depth * (Conv(filters, 3),) for filters, depth in pairs]
    return VGG(*blocks)


VGG11 = _column(1, 1, 2, 2, 2)  # A
VGG11_LRN = VGG11._replace(lrn=True)  # A-LRN
VGG13 = _column(2, 2, 2, 2, 2)  # B
VGG16_C = VGG13._replace(  # C: B with a 1x1 convolution more in each of the last three blocks
    conv3=(*VGG13.conv3, Conv(256, 1)),
    conv4=(*VGG13.conv4, Conv(512, 1)),
    conv5=(*VGG13.conv5, Conv(512, 1)),
)
VGG16 = _column(2, 2, 3, 3, 3)  # D
VGG19 = _column(2, 2, 4, 4, 4)  # E
VGG11_BN = VGG11._replace(norm=True)
VGG13_BN = VGG13._replace(norm=True)
VGG16_BN = VGG16._replace(norm=True)
VGG19_BN = VGG19._replace(norm=True)


def build(x: Any, spec: VGG, top: Top) -> Any:
    """Return VGG's class scores of images (h, w, c), the paper's 224x224x3."""
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        lrn = spec.lrn and name == "conv1"
        x = vgg_block(x, getattr(spec, name), norm=spec.norm, lrn=lrn, name=name)
    return classifier(x, top, hidden={"fc6": spec.fc6, "fc7": spec.fc7}, flatten=True, dropout=0.5)
