"""Images: where they come from (`open_source`) and how a network gets them (`batches`).

Opening a source needs no TensorFlow until there is something to read; what does is loaded on use.
"""

from typing import TYPE_CHECKING, Any

from keras_cnns.data.augment import AUGMENTATIONS
from keras_cnns.data.images import SUFFIXES, is_image
from keras_cnns.data.source import SPLITS, Source
from keras_cnns.data.sources import diagnose, open_source, require_sound
from keras_cnns.data.verdict import Verdict, check_images
from keras_cnns.quiet import start_keras

if TYPE_CHECKING:
    from keras_cnns.data.fit import fit_image, resized_part
    from keras_cnns.data.pipeline import (
        batches,
        examples,
        read_image,
        read_whole,
        steps_per_epoch,
    )

__all__ = [
    "AUGMENTATIONS",
    "SPLITS",
    "SUFFIXES",
    "Source",
    "Verdict",
    "batches",
    "check_images",
    "diagnose",
    "examples",
    "fit_image",
    "is_image",
    "open_source",
    "read_image",
    "read_whole",
    "require_sound",
    "resized_part",
    "steps_per_epoch",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        start_keras()
        from keras_cnns.data import fit, pipeline

        return getattr(fit if hasattr(fit, name) else pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
