"""RepVGG: Ding, Zhang, Ma, Han, Ding & Sun 2021, https://arxiv.org/abs/2101.03697.

Departures from the paper:
- B2g2 and B3g2 are of the authors' code; the paper's tables have g4 alone for these widths.
- He's initialisation; the authors' code has torch's.
- None in B0, but the paper's count of its deployed form, 14.33 million, is 14.34 by its own table.
"""

from typing import Any, Literal, NamedTuple

from keras_cnns.blocks import Top, classifier, repvgg_block
from keras_cnns.spec import Filters


class Stage(NamedTuple):
    """Blocks of one width, the first of them with stride 2."""

    filters: Filters
    depth: int


class RepVGG(NamedTuple):
    """A row of table 3 over table 2.

    `groups` are those of the third layer, the fifth, and so on. `deploy` has one convolution in
    place of each block's branches. With `stem` "small", for images of about 32 pixels, the first
    two stages keep the image's size.
    """

    stages: tuple[Stage, ...]
    groups: int = 1
    deploy: bool = False
    stem: Literal["paper", "small"] = "paper"


def _row(depths: tuple[int, ...], a: float, b: float, groups: int = 1) -> RepVGG:
    widths = (min(64, 64 * a), 64 * a, 128 * a, 256 * a, 512 * b)
    return RepVGG(tuple(Stage(int(n), d) for n, d in zip(widths, depths, strict=True)), groups)


A = (1, 2, 4, 14, 1)
B = (1, 4, 6, 16, 1)
REPVGG_A0 = _row(A, 0.75, 2.5)
REPVGG_A1 = _row(A, 1, 2.5)
REPVGG_A2 = _row(A, 1.5, 2.75)
REPVGG_B0 = _row(B, 1, 2.5)
REPVGG_B1 = _row(B, 2, 4)
REPVGG_B1G2 = _row(B, 2, 4, groups=2)
REPVGG_B1G4 = _row(B, 2, 4, groups=4)
REPVGG_B2 = _row(B, 2.5, 5)
REPVGG_B2G2 = _row(B, 2.5, 5, groups=2)
REPVGG_B2G4 = _row(B, 2.5, 5, groups=4)
REPVGG_B3 = _row(B, 3, 5)
REPVGG_B3G2 = _row(B, 3, 5, groups=2)
REPVGG_B3G4 = _row(B, 3, 5, groups=4)


def build(x: Any, spec: RepVGG, top: Top) -> Any:
    """Return RepVGG's class scores of images (h, w, c), the paper's 224x224x3."""
    layer = 0
    for i, stage in enumerate(spec.stages, 1):
        halves = spec.stem == "paper" or i > 2
        for block in range(1, stage.depth + 1):
            x = repvgg_block(
                x,
                stage.filters,
                strides=2 if halves and block == 1 else 1,
                groups=spec.groups if layer > 0 and layer % 2 == 0 else 1,
                deploy=spec.deploy,
                name=f"stage{i}_{block}",
            )
            layer += 1
    return classifier(x, top)
