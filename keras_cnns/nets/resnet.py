"""ResNet: He et al. 2015, https://arxiv.org/abs/1512.03385; 2016, https://arxiv.org/abs/1603.05027.

Departures from the papers:
- In bottlenecks the stride stands in the 3x3 convolution ("v1.5"), as in the authors' later code
  and torchvision; the nets named `_v1` have it in the first 1x1, as the paper.
- Shortcuts that change shapes are projections for ImageNet, the paper's option B, of 18 and 34
  layers too, for which table 2 has zeros, option A: `{"shortcut": "zeros"}`.
- `resnet200` has the depths of the 2016 paper's, in the order of 2015; there it is pre-activated.
- The pre-activation nets for ImageNet (`_v2`) keep a normalisation after the first convolution, and
  a projection wherever the shape changes. `_v2_keras` is the variant of keras.applications: its
  stride is in the last block of a stage, some convolutions have biases.
- The pre-activation nets for CIFAR change shapes by projections, as the authors' code for them.
- `plain` nets are the same layers without shortcuts.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, classifier, conv, conv_norm, norm_act, pool, residual_block
from keras_cnns.spec import Filters, Pool
from keras_cnns.trace import layers


class Stage(NamedTuple):
    """Blocks of one width: filters of their 3x3 convolutions, and how many blocks."""

    filters: Filters
    depth: int


class ResNet(NamedTuple):
    """A column of table 1, or a net of section 4.2.

    `stem` "paper" reduces the image 4 times before the first stage (7x7/2 and a pooling); "small",
    for images of about 32 pixels, is a 3x3 convolution of stride 1, as in section 4.2. `order`,
    `shortcut` and `stride_in` are those of `blocks.residual_block`; `stride_at` is the block of a
    stage that halves the map. `pool_padding` is what surrounds the stem's pooling: "zeros", or as
    in torch what no maximum takes, which differs where no ReLU goes before (`conv1_norm`).
    """

    stages: tuple[Stage, ...]
    bottleneck: bool = False
    stem: Literal["paper", "small"] = "paper"
    conv1: Filters = 64
    conv1_norm: bool = True
    pool_padding: Literal["zeros", "centered"] = "zeros"
    order: str = "original"
    shortcut: str = "projection"
    stride_in: Literal[1, 3] = 3
    stride_at: Literal["first", "last"] = "first"
    use_bias: bool = False


def _imagenet(*depths: int, bottleneck: bool = True) -> ResNet:
    return ResNet(tuple(Stage(64 * 2**i, depth) for i, depth in enumerate(depths)), bottleneck)


def _cifar(depth: int, **changes: Any) -> ResNet:
    blocks = (depth - 2) // (9 if changes.get("bottleneck") else 6)
    stages = tuple(Stage(16 * 2**i, blocks) for i in range(3))
    kept = {"stem": "small", "conv1": 16, "shortcut": "zeros", **changes}
    return ResNet(stages, **kept)


V2: dict[str, Any] = {"order": "full_preactivation"}
V2_KERAS: dict[str, Any] = {
    **V2,
    "conv1_norm": False,
    "shortcut": "pooled",
    "stride_at": "last",
    "use_bias": True,
}
V2_CIFAR: dict[str, Any] = {**V2, "conv1_norm": False, "shortcut": "projection", "bottleneck": True}

RESNET18 = _imagenet(2, 2, 2, 2, bottleneck=False)
RESNET34 = _imagenet(3, 4, 6, 3, bottleneck=False)
RESNET50 = _imagenet(3, 4, 6, 3)
RESNET101 = _imagenet(3, 4, 23, 3)
RESNET152 = _imagenet(3, 8, 36, 3)
RESNET200 = _imagenet(3, 24, 36, 3)
RESNET50_V1 = RESNET50._replace(stride_in=1)
RESNET101_V1 = RESNET101._replace(stride_in=1)
RESNET152_V1 = RESNET152._replace(stride_in=1)
RESNET18_V2 = RESNET18._replace(**V2)
RESNET34_V2 = RESNET34._replace(**V2)
RESNET50_V2 = RESNET50._replace(**V2)
RESNET101_V2 = RESNET101._replace(**V2)
RESNET152_V2 = RESNET152._replace(**V2)
RESNET50_V2_KERAS = RESNET50._replace(**V2_KERAS)
RESNET101_V2_KERAS = RESNET101._replace(**V2_KERAS)
RESNET152_V2_KERAS = RESNET152._replace(**V2_KERAS)
RESNET20_CIFAR = _cifar(20)
RESNET32_CIFAR = _cifar(32)
RESNET44_CIFAR = _cifar(44)
RESNET56_CIFAR = _cifar(56)
RESNET110_CIFAR = _cifar(110)
RESNET1202_CIFAR = _cifar(1202)
RESNET164_V2_CIFAR = _cifar(164, **V2_CIFAR)
RESNET1001_V2_CIFAR = _cifar(1001, **V2_CIFAR)
PLAIN18 = RESNET18._replace(shortcut="none")
PLAIN34 = RESNET34._replace(shortcut="none")
PLAIN20_CIFAR = _cifar(20, shortcut="none")
PLAIN32_CIFAR = _cifar(32, shortcut="none")
PLAIN44_CIFAR = _cifar(44, shortcut="none")
PLAIN56_CIFAR = _cifar(56, shortcut="none")


def _stem(x: Any, spec: ResNet) -> Any:
    if spec.stem == "paper":
        sizes: tuple[Any, ...] = (spec.conv1, 7, 2, "centered")
    else:
        sizes = (spec.conv1, 3)
    if spec.conv1_norm:
        x = conv_norm(x, *sizes, name="conv1")
    else:
        x = conv(x, *sizes, use_bias=spec.use_bias, name="conv1")
    if spec.stem == "paper":
        padding = "valid" if spec.pool_padding == "zeros" else "centered"
        if padding == "valid":
            x = layers.ZeroPadding2D(padding=1, name="conv1_pool_pad")(x)
        x = pool(x, Pool("max", 3, 2, padding), name="conv1_pool")
    return x


def build(x: Any, spec: ResNet, top: Top) -> Any:
    """Return ResNet's class scores of images (h, w, c), the papers' 224x224x3 or 32x32x3."""
    x = _stem(x, spec)
    stages = len(spec.stages)
    for i, stage in enumerate(spec.stages):
        if spec.stride_at == "first":
            halving = 0 if i > 0 else None
        else:
            halving = stage.depth - 1 if i < stages - 1 else None
        for block in range(stage.depth):
            x = residual_block(
                x,
                stage.filters,
                strides=2 if block == halving else 1,
                bottleneck=spec.bottleneck,
                shortcut=spec.shortcut,
                order=spec.order,
                stride_in=spec.stride_in,
                use_bias=spec.use_bias,
                name=f"conv{i + 2}_{block + 1}",
            )
    if spec.order == "full_preactivation":
        x = norm_act(x, name="last")
    return classifier(x, top)
