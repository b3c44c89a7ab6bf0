"""What a model does to pixels from 0 to 255 before anything else."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from keras_cnns.errors import UsageError

# Scale and offset, for red, green and blue where they differ. ImageNet's means and deviations are
# torchvision's; Caffe's means are of the same images, and its networks take no deviation.
PREPROCESSING: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {
        "symmetric": (1 / 127.5, -1.0),
        "unit": (1 / 255, 0.0),
        "imagenet": (
            [1 / (255 * d) for d in (0.229, 0.224, 0.225)],
            [-m / d for m, d in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)],
        ),
        "caffe": (1.0, [-123.68, -116.779, -103.939]),
    }
)


def scaling(preprocessing: str | None, channels: int) -> tuple[Any, Any] | None:
    """Return the scale and offset of a way of preprocessing pixels, None for none.

    Raises:
        UsageError: for an unknown way, or one for another number of channels.

    >>> scaling("unit", 3)[1]
    0.0
    """
    if preprocessing is None:
        return None
    if preprocessing not in PREPROCESSING:
        raise UsageError(
            f'unknown preprocessing "{preprocessing}"; allowed are {", ".join(PREPROCESSING)}'
        )
    scale, offset = PREPROCESSING[preprocessing]
    if isinstance(offset, list) and channels != len(offset):
        raise UsageError(
            f'preprocessing "{preprocessing}" is for 3 channels, not {channels}; use "symmetric"'
        )
    return scale, offset
