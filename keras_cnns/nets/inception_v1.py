"""Inception v1, GoogLeNet: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842.

`INCEPTION_V1_NAIVE` is figure 2 (a) with the filters of table 1; `INCEPTION_V1_BN` is what
torchvision calls GoogLeNet; `INCEPTION_V1_D2L` is the one of Zhang et al., Dive into Deep Learning,
section 8.4.

Departures from the paper:
- The constants of the local response normalisation, which the paper leaves out, are those of the
  authors' entry in the Caffe model zoo (alpha 1e-4 over 5 channels, beta 0.75, k 1).
- He's initialisation, which came a year later.
- `INCEPTION_V1_BN`, as torchvision has it: batch normalisation (epsilon 1e-3) after every
  convolution, none of which has a bias, and no local response normalisation; 3x3 in place of 5x5
  convolutions; the last max pooling is 2x2; 20 % dropout; the auxiliary heads take 4x4 means of
  their map. It pads as torch does.
- `INCEPTION_V1_D2L`: no normalisation, no dropout, grey images of 96x96, 10 classes.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, auxiliary_head, classifier, conv_norm, inception_block, pool
from keras_cnns.spec import Branches, Conv, Filters, Pool
from keras_cnns.trace import layers


class Form(NamedTuple):
    """What the whole network has in common.

    `norm` is "lrn" (local response normalisation, twice in the stem), "batch" (batch normalisation
    after every convolution) or "none"; `kernel5` the kernel of the convolutions that the paper
    has 5x5; `padding` "same" or "centered", as torch and Caffe pad what has a stride.
    """

    norm: Literal["lrn", "batch", "none"] = "lrn"
    kernel5: int = 5
    padding: Literal["same", "centered"] = "same"
    dropout: float = 0.4


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

    def branches(self, kernel5: int = 5) -> Branches:
        """Return figure 2 with these filters: (b), or (a) where the reductions are 0."""

        def convs(*sizes: tuple[int, int]) -> tuple[Conv, ...]:
            return tuple(Conv(filters, kernel) for filters, kernel in sizes if filters)

        return Branches(
            convs((self.conv1, 1)),
            convs((self.reduce3, 1), (self.conv3, 3)),
            convs((self.reduce5, 1), (self.conv5, kernel5)),
            (Pool("max", 3, 1), *convs((self.pool, 1))),
        )


INCEPTION_V1 = {
    "form": Form(),
    "stem": Stem(),
    #           1x1  ->3  3x3  ->5  5x5  pool
    "3a": Split(64, 96, 128, 16, 32, 32),
    "3b": Split(128, 128, 192, 32, 96, 64),
    "3b_pool": Pool("max", 3, 2),
    "4a": Split(192, 96, 208, 16, 48, 64),
    "4b": Split(160, 112, 224, 24, 64, 64),
    "4c": Split(128, 128, 256, 24, 64, 64),
    "4d": Split(112, 144, 288, 32, 64, 64),
    "4e": Split(256, 160, 320, 32, 128, 128),
    "4e_pool": Pool("max", 3, 2),
    "5a": Split(256, 160, 320, 32, 128, 128),
    "5b": Split(384, 192, 384, 48, 128, 128),
}
INCEPTION_V1_NAIVE = {
    name: row._replace(reduce3=0, reduce5=0, pool=0) if isinstance(row, Split) else row
    for name, row in INCEPTION_V1.items()
}
INCEPTION_V1_BN = INCEPTION_V1 | {
    "form": Form("batch", 3, "centered", 0.2),
    "3b_pool": Pool("max", 3, 2, "ceil"),
    "4e_pool": Pool("max", 2, 2, "ceil"),
}
INCEPTION_V1_D2L = INCEPTION_V1 | {"form": Form("none", dropout=0.0)}
HEADS = {"4a": "auxiliary1", "4d": "auxiliary2"}
EPSILON = 1e-3


def _lrn(x: Any, name: str) -> Any:
    return layers.LocalResponseNormalization(size=5, alpha=1e-4 / 5, beta=0.75, k=1.0, name=name)(x)


def _stem(x: Any, spec: Stem, form: Form, options: dict[str, Any]) -> Any:
    halving = Pool("max", 3, 2, "same" if form.padding == "same" else "ceil")
    if spec.kind == "paper":
        x = conv_norm(x, spec.conv1, 7, 2, form.padding, **options, name="conv1")
        x = pool(x, halving, name="conv1_pool")
    else:
        x = conv_norm(x, spec.conv1, 3, **options, name="conv1")
    if form.norm == "lrn":
        x = _lrn(x, "conv1_lrn")
    x = conv_norm(x, spec.reduce2, **options, name="conv2_reduce")
    x = conv_norm(x, spec.conv2, 3, **options, name="conv2")
    if form.norm == "lrn":
        x = _lrn(x, "conv2_lrn")
    return pool(x, halving, name="conv2_pool")


def build(x: Any, spec: dict[str, Any], top: Top) -> Any:
    """Return GoogLeNet's class scores of images (h, w, c), the paper's 224x224x3.

    With `top.auxiliary`, a dict with those of the two auxiliary heads besides.
    """
    form: Form = spec["form"]
    options: dict[str, Any] = {"norm": form.norm == "batch", "epsilon": EPSILON}
    x = _stem(x, spec["stem"], form, options)
    heads = {}
    for row, step in list(spec.items())[2:]:
        if isinstance(step, Pool):
            x = pool(x, step, name=row)
        else:
            x = inception_block(x, step.branches(form.kernel5), **options, name=row)
        if top.auxiliary and row in HEADS:
            size = 4 if form.norm == "batch" else None
            heads[HEADS[row]] = auxiliary_head(x, top, size=size, **options, name=HEADS[row])
    x = classifier(x, top, dropout=form.dropout)
    return {"predictions": x, **heads} if heads else x
