"""What torchvision and timm call the layers of our networks.

One function for each family takes the name of our layer, and those of all layers in order, to the
name of their module; "" where they have none. Names are those of torchvision 0.29 and timm 1.0.31;
where the two of them differ, torchvision's.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from keras_cnns.weights.torch_inception import (
    V3_BRANCHES,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    index,
    number,
    xception,
)


class Naming(NamedTuple):
    """How a network's state dict is to be read.

    `module` is the function that names its layers. `libraries` have the network;
    `preprocessing`, as of `build`, is what theirs expects; `spec` are the changes that make our
    network compute what theirs does; `epsilon` is theirs and ours, where the two of them differ;
    `spellings` are patterns of other names in use, and what to put in their place.
    """

    module: Callable[[str, Sequence[str]], str]
    libraries: tuple[str, ...]
    preprocessing: str = "imagenet"
    spec: Mapping[str, Any] = MappingProxyType({})
    epsilon: tuple[float, float] | None = None
    spellings: tuple[tuple[str, str], ...] = ()


def sequential(dense: Mapping[str, str]) -> Callable[[str, Sequence[str]], str]:
    """Return the naming of networks that number all steps, and name their dense layers so.

    >>> sequential({"fc6": "classifier.0"})("conv2_conv", ("conv1_conv", "conv2_conv"))
    'features.1'
    """

    def module(layer: str, layers: Sequence[str]) -> str:
        steps = [name for name in layers if not name.endswith("_pad")]
        return dense.get(layer) or f"features.{steps.index(layer)}"

    return module


def resnet(layer: str, layers: Sequence[str]) -> str:
    """Name ResNets as both libraries do.

    >>> resnet("conv3_1_a_conv", ()), resnet("conv3_1_shortcut_bn", ())
    ('layer2.0.conv1', 'layer2.0.downsample.1')
    """
    match layer.split("_"):
        case ["conv1", kind]:
            return f"{kind}1"
        case [stage, block, step, kind]:
            place = f"layer{number(stage) - 1}.{int(block) - 1}"
            if step == "shortcut":
                return f"{place}.downsample.{('conv', 'bn').index(kind)}"
            return f"{place}.{kind}{index(step) + 1}"
        case ["logits"]:
            return "fc"
    return ""


def resnet_v2(layer: str, layers: Sequence[str]) -> str:
    """Name pre-activation ResNets as timm does.

    >>> resnet_v2("conv3_1_a_bn", ())
    'stages.1.blocks.0.norm1'
    """
    match layer.split("_"):
        case ["conv1", "conv"]:
            return "stem.conv"
        case [stage, block, step, kind]:
            place = f"stages.{number(stage) - 2}.blocks.{int(block) - 1}"
            if step == "shortcut":
                return f"{place}.downsample.{kind}"
            return f"{place}.{kind.replace('bn', 'norm')}{index(step) + 1}"
        case ["last", "bn"]:
            return "norm"
        case ["logits"]:
            return "head.fc"
    return ""


def densenet(layer: str, layers: Sequence[str]) -> str:
    """Name DenseNets as both libraries do.

    >>> densenet("dense1_2_3x3_bn", ())
    'features.denseblock1.denselayer2.norm2'
    """
    match layer.replace("bn", "norm").split("_"):
        case ["conv1", kind]:
            return f"features.{kind}0"
        case ["last", "norm"]:
            return "features.norm5"
        case [transition, kind]:
            return f"features.{transition}.{kind}"
        case [block, place, size, kind]:
            nth = {"1x1": 1, "3x3": 2}[size]
            return f"features.denseblock{number(block)}.denselayer{place}.{kind}{nth}"
        case ["logits"]:
            return "classifier"
    return ""


def repvgg(layer: str, layers: Sequence[str]) -> str:
    """Name RepVGG, in its training form, as timm does.

    >>> repvgg("stage2_1_3x3_conv", ())
    'stages.0.0.conv_kxk.conv'
    """
    match layer.split("_"):
        case [stage, block, branch, kind]:
            place = f"stages.{number(stage) - 2}.{int(block) - 1}"
            place = "stem" if (stage, block) == ("stage1", "1") else place
            names = {"3x3": f"conv_kxk.{kind}", "1x1": f"conv_1x1.{kind}", "identity": "identity"}
            return f"{place}.{names[branch]}"
        case ["logits"]:
            return "head.fc"
    return ""


def mixer(layer: str, layers: Sequence[str]) -> str:
    """Name MLP-Mixer as timm does.

    >>> mixer("mixer1_tokens_1_conv", ())
    'blocks.0.mlp_tokens.fc1'
    """
    match layer.split("_"):
        case ["patches", "conv"]:
            return "stem.proj"
        case ["last", "norm"]:
            return "norm"
        case [block, mlp, "norm"]:
            return f"blocks.{number(block) - 1}.norm{('tokens', 'channels').index(mlp) + 1}"
        case [block, mlp, step, "conv"]:
            return f"blocks.{number(block) - 1}.mlp_{mlp}.fc{step}"
        case ["logits"]:
            return "head"
    return ""


BOTH = ("torchvision", "timm")
TIMM = BOTH[1:]
_ALEXNET = sequential({"fc6": "classifier.1", "fc7": "classifier.4", "logits": "classifier.6"})
_VGG = sequential({"fc6": "classifier.0", "fc7": "classifier.3", "logits": "classifier.6"})
_TIMM_VGG = (
    (r"^pre_logits\.fc1\.", "classifier.0."),
    (r"^pre_logits\.fc2\.", "classifier.3."),
    (r"^head\.fc\.", "classifier.6."),
)
_OLD_DENSENET = ((r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)
# Both libraries count the padding in the means of Inception v3's pooling branches.
_COUNTED = {
    row: {str(len(names) - 1): {"0": {"padding": "centered"}}}
    for row, names in V3_BRANCHES.items()
    if "_pool" in names
}
_XCEPTION_POOLS = {f"block{i}": {"pool_padding": "centered"} for i in (2, 3, 4, 13)}

_V3 = Naming(inception_v3, BOTH, "symmetric", _COUNTED)
_V2 = Naming(resnet_v2, TIMM, "symmetric", {"conv1_norm": False, "pool_padding": "centered"})
_MIXER = Naming(mixer, TIMM, "symmetric", {"approximate_gelu": False})
NAMINGS: Mapping[str, Naming] = MappingProxyType(
    {
        "alexnet_owt": Naming(_ALEXNET, BOTH[:1]),
        **{
            f"vgg{depth}{norm}": Naming(_VGG, BOTH, spellings=_TIMM_VGG)
            for depth in (11, 13, 16, 19)
            for norm in ("", "_bn")
        },
        "inception_v1_bn": Naming(googlenet, BOTH[:1], "symmetric"),
        "inception_v3": _V3,
        "inception_v4": Naming(inception_v4, TIMM, "symmetric"),
        "inception_resnet_v2": Naming(inception_resnet_v2, TIMM, "symmetric"),
        "xception": Naming(xception, TIMM, "symmetric", _XCEPTION_POOLS, epsilon=(1e-5, 1e-3)),
        **{f"resnet{depth}": Naming(resnet, BOTH) for depth in (18, 34, 50, 101, 152)},
        "resnet200": Naming(resnet, TIMM),
        **{f"resnet{depth}_v2": _V2 for depth in (18, 34, 50, 101, 152)},
        **{
            f"densenet{depth}": Naming(densenet, BOTH, spellings=_OLD_DENSENET)
            for depth in (121, 161, 169, 201)
        },
        **{
            f"repvgg_{size}": Naming(repvgg, TIMM)
            for size in ("a0", "a1", "a2", "b0", "b1", "b1g4", "b2", "b2g4", "b3", "b3g4")
        },
        **{f"mixer_{size}": _MIXER for size in ("s32", "s16", "b32", "b16")},
    }
)
