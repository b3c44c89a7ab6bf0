"""What torchvision and timm call the layers of the Inception line and of Xception.

One function for each network, as in `torch_names`.
"""

import re
from collections.abc import Sequence


def number(word: str) -> int:
    """Return the number in a word, as 3 of "conv3"."""
    return int(re.sub(r"\D", "", word))


def index(letter: str) -> int:
    """Return a letter's place in the alphabet, 0 for "a"."""
    return ord(letter) - ord("a")


def _branch(layer: str, layers: Sequence[str], first: int = 0) -> str:
    """Return "branch1.0" of "3a_2a_conv", and "branch0" where the branch has no second step."""
    place, step = layer.rsplit("_", 1)[0][:-1], layer.rsplit("_", 1)[0][-1]
    name = f"branch{int(place[-1]) - 1 + first}"
    several = any(other.startswith(f"{place}b_") for other in layers)
    return f"{name}.{index(step)}" if several else name


def googlenet(layer: str, layers: Sequence[str]) -> str:
    """Name Inception v1 as torchvision does.

    >>> googlenet("3a_2b_conv", ["3a_1a_conv", "3a_2a_conv", "3a_2b_conv"])
    'inception3a.branch2.1.conv'
    """
    match layer.replace("auxiliary", "aux").split("_"):
        case ["conv1", kind]:
            return f"conv1.{kind}"
        case ["conv2", "reduce", kind]:
            return f"conv2.{kind}"
        case ["conv2", kind]:
            return f"conv3.{kind}"
        case ["aux1" | "aux2" as head, "conv" | "bn" as kind]:
            return f"{head}.conv.{kind}"
        case ["aux1" | "aux2" as head, dense]:
            return f"{head}.{'fc1' if dense == 'fc' else 'fc2'}"
        case [block, _, kind]:
            return f"inception{block}.{_branch(layer, layers, first=1)}.{kind}"
        case ["logits"]:
            return "fc"
    return ""


_STEM = {"a": "1a", "b": "2a", "c": "2b", "e": "3b", "f": "4a"}
V3_BRANCHES = {
    **dict.fromkeys(("5b", "5c", "5d"), ("1x1", "5x5", "3x3dbl", "_pool")),
    "6a": ("3x3", "3x3dbl"),
    **dict.fromkeys(("6b", "6c", "6d", "6e"), ("1x1", "7x7", "7x7dbl", "_pool")),
    "7a": ("3x3", "7x7x3"),
    **dict.fromkeys(("7b", "7c"), ("1x1", "3x3", "3x3dbl", "_pool")),
}


def inception_v3(layer: str, layers: Sequence[str]) -> str:
    """Name Inception v3 as both libraries do.

    >>> inception_v3("7b_2b_1a_conv", ["7b_2a_conv", "7b_2b_1a_conv", "7b_2b_2a_conv"])
    'Mixed_7b.branch3x3_2a.conv'
    """
    match layer.split("_"):
        case ["stem", step, kind]:
            size = "1x1" if step == "e" else "3x3"
            return f"Conv2d_{_STEM[step]}_{size}.{kind}"
        case ["auxiliary1", "logits"]:
            return "AuxLogits.fc"
        case ["auxiliary1", step, kind]:
            return f"AuxLogits.conv{index(step)}.{kind}"
        case [block, step, *inner, kind]:
            name = V3_BRANCHES[block][int(step[0]) - 1]
            if name != "_pool" and any(n.startswith(f"{block}_{step[0]}b_") for n in layers):
                name += f"_{index(step[1]) + 1}"
            side = {"1a": "a", "2a": "b"}[inner[0]] if inner else ""
            return f"Mixed_{block}.branch{name}{side}.{kind}"
        case ["logits"]:
            return "fc"
    return ""


def inception_v4(layer: str, layers: Sequence[str]) -> str:
    """Name Inception v4 as timm does, which numbers the blocks and has no auxiliary head.

    >>> inception_v4("5b_1a_conv", ["stem_a_conv", "5b_1a_conv"])
    'features.1.branch0.conv'
    """
    words = layer.split("_")
    if layer == "logits":
        return "last_linear"
    if words[0] == "auxiliary1":
        return ""
    places = ["_".join(name.split("_")[: 2 if name.startswith("stem") else 1]) for name in layers]
    place, kind = places[list(layers).index(layer)], words[-1]
    blocks = [name for name in dict.fromkeys(places) if name != "auxiliary1"]
    place = f"features.{blocks.index(place)}"
    match words:
        case ["stem", _, _]:
            return f"{place}.{kind}"
        case ["stem", "d" | "f", _, _]:
            return f"{place}.conv.{kind}"
        case ["7b" | "7c" | "7d", ("2a" | "2b" | "3a" | "3b" | "3c" | "3d") as step, *inner, _]:
            side = {"1a": "a", "2a": "b"}[inner[0]] if inner else ""
            return f"{place}.branch{int(step[0]) - 1}_{index(step[1])}{side}.{kind}"
    return f"{place}.{_branch(layer, layers)}.{kind}"


_REPEATS = {"a": "repeat", "b": "repeat_1", "c": "repeat_2"}


def inception_resnet_v2(layer: str, layers: Sequence[str]) -> str:
    """Name Inception-ResNet v2 as timm does, which has no auxiliary head.

    >>> inception_resnet_v2("b2_linear_conv", ())
    'repeat_1.1.conv2d'
    """
    words = layer.split("_")
    match words:
        case ["logits"]:
            return "classif"
        case ["last", "a", kind]:
            return f"conv2d_7b.{kind}"
        case ["stem", step, kind]:
            return f"conv2d_{_STEM[step]}.{kind}"
        case ["auxiliary1", *_]:
            return ""
        case ["stem", "h", *_]:
            place = "mixed_5b"
        case ["reduction", letter, *_]:
            place = {"a": "mixed_6a", "b": "mixed_7a"}[letter]
        case ["c", "last1", *_]:
            place = "block8"
        case [block, *_]:
            place = f"{_REPEATS[block[0]]}.{number(block) - 1}"
    if "linear" in words:
        return f"{place}.conv2d"
    return f"{place}.{_branch(layer, layers)}.{words[-1]}"


def xception(layer: str, layers: Sequence[str]) -> str:
    """Name Xception as timm's legacy_xception does, which counts the blocks from our second.

    >>> xception("block3_1_bn", ["block3_1_relu", "block3_1_sepconv", "block3_1_bn"])
    'block2.rep.2'
    """
    match layer.replace("sepconv", "conv").split("_"):
        case ["block1", step, kind]:
            return f"{kind}{index(step) + 1}"
        case ["block14", step, kind]:
            return f"{kind}{int(step) + 2}"
        case [block, step, kind]:
            place = f"block{number(block) - 1}"
            if step == "shortcut":
                return f"{place}.{'skip' if kind == 'conv' else 'skipbn'}"
            steps = [name for name in layers if name.startswith(f"{block}_")]
            return f"{place}.rep.{steps.index(layer)}"
        case ["logits"]:
            return "fc"
    return ""
