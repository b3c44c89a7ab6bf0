"""Where images come from: the digits, any TFDS set, or a folder with a sub-folder for each class.

Three splits, whatever the source:

- `test` is the source's own; where it has none, its validation split (ImageNet keeps its test
  labels to itself); where it has neither, a fraction of train.
- `validation` is held out from train, unless the source has splits of its own for both.

A folder is cut class by class, so that every class keeps its share. A TFDS set is cut into slices
from a seeded position on: TFDS shuffles what it writes, by a hash of the key, so that a slice is a
random sample (first and last tenth of MNIST and CIFAR-10: the class counts' chi-squared is 6 to 15
at 9 degrees of freedom, where chance exceeds 17 once in 20 times). The few sets that are stored in
an order of their own are cut at random rows, which reads past all that is left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_cnns.data.folders import diagnose_folder, open_folder
from keras_cnns.data.source import Cut, Source
from keras_cnns.data.tfds_sets import TFDS_NAME, open_tfds, prepared, tfds_names
from keras_cnns.errors import UsageError


def open_source(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    channels: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Source:
    """Return a source of images by its name, after checking all of it that can be checked.

    Args:
        name: "digits", a TFDS name ("cifar10", "imagenet_resized/32x32"), or a folder: a folder
            wins when the text has a path separator or there is one of that name.
        data_dir: where TFDS sets are; None means TFDS_DATA_DIR, else ~/tensorflow_datasets.
        channels: 1, 3 or, for a folder, 4; None means the set's own, and 3 for a folder.
        validation: the fraction of train that is held out.
        test: the fraction that is held out where a source has no test split; 1 leaves none to
            train on.
        seed: of the choice of what is held out.

    Raises:
        UsageError: the source is unknown, missing, empty, unreadable or has one class.
    """
    if not 0 <= validation < 1:
        raise UsageError(f"data.validation is {validation}: it is a fraction, from 0 to below 1")
    if not 0 <= test <= 1:
        raise UsageError(f"data.test is {test}: it is a fraction, from 0 to 1")
    if channels not in (None, 1, 3, 4):
        raise UsageError(f"data.channels is {channels}: use 1 (grey), 3 (colour) or 4 (with alpha)")
    text, cut = str(name), Cut(validation, test, seed)
    if _is_folder(text, data_dir):
        return open_folder(text, channels or 3, cut)
    if channels == 4:
        raise UsageError(f'data.channels is 4, but "{text}" has no alpha: use 1 or 3')
    return open_tfds(text, _data_dir(data_dir), channels, cut)


def diagnose(name: str) -> dict[str, Any]:
    """Return what is wrong with a folder of images, as `doctor.diagnose` says it.

    Raises:
        UsageError: there is no such folder, or it is not one of images by class.
    """
    if not _is_folder(name, None):
        raise UsageError(
            f'"{name}" is not a folder: the doctor looks at folders with a sub-folder of images '
            "for each class; TFDS checks its own sets as it prepares them"
        )
    return diagnose_folder(name)


def require_sound(name: str) -> None:
    """Refuse all but a folder of images in which `diagnose` finds no fault.

    Raises:
        UsageError: saying how much is wrong with it.
    """
    try:
        found = diagnose(name)
    except UsageError as error:
        raise UsageError(f"--strict: {error}") from None
    if not found["passed"]:
        bad = found["images"] - found["usable"]
        raise UsageError(
            f"--strict: {name} has {bad:,} images that cannot be used and "
            f"{len(found['warnings'])} warnings; keras-cnns doctor {name} names them"
        )


def _data_dir(given: str | os.PathLike[str] | None) -> Path:
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(given or default).expanduser()


def _is_folder(text: str, data_dir: str | os.PathLike[str] | None) -> bool:
    if os.path.isdir(os.path.expanduser(text)):
        return True
    if not any(separator in text for separator in (os.sep, os.altsep or os.sep)):
        return False
    # TFDS writes the variants of a set with a slash as well.
    root = text.split("/")[0]
    known = TFDS_NAME.fullmatch(text) and root in {*prepared(_data_dir(data_dir)), *tfds_names()}
    return not known
