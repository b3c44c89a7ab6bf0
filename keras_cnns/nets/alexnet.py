"""AlexNet: Krizhevsky, Sutskever & Hinton 2012, https://doi.org/10.1145/3065386.

`ALEXNET_OWT` is Krizhevsky 2014, "One weird trick", https://arxiv.org/abs/1404.5997, as torchvision
has it; `ALEXNET_D2L` the simplified one of Zhang et al., Dive into Deep Learning, section 8.1.

Departures from the papers:
- Images of 227x227: the paper says 224, which its own 55x55 maps do not follow from.
- He's initialisation, biases of zero; the paper's fixed deviation of 0.01, with biases of one in
  five of its layers, needs its learning rates by hand.
- The two halves that ran on two GPUs are the two groups of one convolution; in ALEXNET_1COL, a
  single column, every convolution sees all maps.
- ALEXNET_OWT drops out after each hidden dense layer, torchvision before.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, classifier, conv_norm, pool
from keras_cnns.spec import Filters, Pool
from keras_cnns.trace import layers


class Row(NamedTuple):
    """A convolution and what follows it."""

    filters: Filters
    kernel_size: int
    strides: int = 1
    padding: str | int = "same"
    groups: int = 1
    lrn: bool = False
    pool: bool = False


class AlexNet(NamedTuple):
    """Figure 2 and section 3.5: five convolutions, two hidden dense layers."""

    conv1: Row
    conv2: Row
    conv3: Row
    conv4: Row
    conv5: Row
    fc6: Filters = 4096
    fc7: Filters = 4096


ALEXNET = AlexNet(
    conv1=Row(96, 11, 4, padding="valid", lrn=True, pool=True),
    conv2=Row(256, 5, groups=2, lrn=True, pool=True),
    conv3=Row(384, 3),
    conv4=Row(384, 3, groups=2),
    conv5=Row(256, 3, groups=2, pool=True),
)
ALEXNET_1COL = AlexNet(
    conv1=Row(96, 11, 4, padding="valid", lrn=True, pool=True),
    conv2=Row(256, 5, lrn=True, pool=True),
    conv3=Row(384, 3),
    conv4=Row(384, 3),
    conv5=Row(256, 3, pool=True),
)
ALEXNET_OWT = AlexNet(
    conv1=Row(64, 11, 4, padding=2, pool=True),
    conv2=Row(192, 5, pool=True),
    conv3=Row(384, 3),
    conv4=Row(256, 3),
    conv5=Row(256, 3, pool=True),
)
ALEXNET_D2L = AlexNet(
    conv1=Row(96, 11, 4, padding=1, pool=True),
    conv2=Row(256, 5, pool=True),
    conv3=Row(384, 3),
    conv4=Row(384, 3),
    conv5=Row(256, 3, pool=True),
)


def build(x: Any, spec: AlexNet, top: Top) -> Any:
    """Return AlexNet's class scores of images (h, w, c), the paper's 227x227x3."""
    for name, row in spec._asdict().items():
        if not isinstance(row, Row):
            continue
        sizes: Any = row[:4]
        x = conv_norm(x, *sizes, groups=row.groups, norm=False, name=name)
        if row.lrn:
            x = layers.LocalResponseNormalization(
                size=5, alpha=1e-4, beta=0.75, k=2.0, name=f"{name}_lrn"
            )(x)
        if row.pool:
            x = pool(x, Pool("max", 3, 2, "valid"), name=f"{name}_pool")
    return classifier(x, top, hidden={"fc6": spec.fc6, "fc7": spec.fc7}, flatten=True, dropout=0.5)
