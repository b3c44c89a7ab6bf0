"""MLP-Mixer: Tolstikhin, Houlsby, Kolesnikov et al. 2021, https://arxiv.org/abs/2105.01601.

Departures from the paper:
- GELU by its tanh formula, as in the authors' code, whose framework takes that one unasked; the
  paper says GELU alone. timm computes the exact one: `approximate_gelu=False`.
- No dropout and no stochastic depth, which the paper has on ImageNet and ImageNet-21k.
- The head does not start at zero, as in the authors' code it does.
- What an image's sides have beyond a multiple of the patch is cut off; the paper's have nothing.
"""

from typing import Any, NamedTuple

from keras_cnns.blocks import Top, classifier, mixer_block
from keras_cnns.spec import Filters
from keras_cnns.trace import layers


class Mixer(NamedTuple):
    """A column of table 1: patch size P, layers, hidden size C, dimensions D_S and D_C."""

    patch_size: int
    depth: int
    hidden: Filters
    tokens: Filters
    channels: Filters
    approximate_gelu: bool = True


MIXER_S32 = Mixer(32, 8, 512, 256, 2048)
MIXER_S16 = Mixer(16, 8, 512, 256, 2048)
MIXER_B32 = Mixer(32, 12, 768, 384, 3072)
MIXER_B16 = Mixer(16, 12, 768, 384, 3072)


def build(x: Any, spec: Mixer, top: Top) -> Any:
    """Return Mixer's class scores of images (h, w, c), the paper's 224x224x3."""
    x = layers.Conv2D(
        filters=spec.hidden,
        kernel_size=spec.patch_size,
        strides=spec.patch_size,
        kernel_initializer="lecun_normal",
        name="patches_conv",
    )(x)
    for i in range(1, spec.depth + 1):
        x = mixer_block(
            x, spec.tokens, spec.channels, approximate=spec.approximate_gelu, name=f"mixer{i}"
        )
    x = layers.LayerNormalization(epsilon=1e-6, name="last_norm")(x)
    return classifier(x, top)
