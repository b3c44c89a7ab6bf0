"""LeNet-5: LeCun, Bottou, Bengio & Haffner 1998, https://doi.org/10.1109/5.726791.

Departures from the paper:
- C3 sees all six maps of S2; the paper's table I leaves some connections out.
- S2 and S4 are plain averages; the paper's have a trainable scale and bias, and a tanh.
- tanh(x), where the paper has 1.7159 tanh(2x / 3).
- A dense layer with softmax in place of distances to fixed 7x12 bitmaps.
- He's and Glorot's initialisation; the paper's is uniform, within 2.4 over a unit's inputs.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, classifier, conv_norm, pool
from keras_cnns.spec import Filters, Pool


class LeNet(NamedTuple):
    """The paper's figure 2: filters of the convolutions C1, C3 and C5, units of F6."""

    c1: Filters = 6
    c3: Filters = 16
    c5: Filters = 120
    f6: Filters = 84


LENET5 = LeNet()


def build(x: Any, spec: LeNet, top: Top) -> Any:
    """Return LeNet-5's class scores of images (h, w, c), the paper's 32x32x1."""
    for name, filters in (("c1", spec.c1), ("c3", spec.c3)):
        x = conv_norm(x, filters, 5, padding="valid", norm=False, activation="tanh", name=name)
        x = pool(x, Pool("average", 2, 2, "valid"), name=f"{name}_pool")
    x = conv_norm(x, spec.c5, 5, padding="valid", norm=False, activation="tanh", name="c5")
    return classifier(x, top, hidden={"f6": spec.f6}, flatten=True, activation="tanh")
