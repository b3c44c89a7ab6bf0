"""The digits that ship with scikit-learn, as a TFDS builder that needs no network.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998: https://archive.ics.uci.edu/dataset/80
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from keras_cnns.errors import UsageError

SIZE = 32
TEST_IMAGES = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 scans of 8x8 pixels, enlarged to 32x32x1: 1,437 to train on, 360 to test."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        scans, labels = load_digits(return_X_y=True)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=TEST_IMAGES, stratify=labels, random_state=0
        )
        return {
            "train": self._generate_examples(scans, labels, np.sort(train)),
            "test": self._generate_examples(scans, labels, np.sort(test)),
        }

    def _generate_examples(
        self, scans: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in rows.tolist():
            yield row, {"image": enlarge(scans[row].reshape(8, 8)), "label": int(labels[row])}


def enlarge(scan: np.ndarray) -> np.ndarray:
    """Return a scan of 8x8 counts from 0 to 16 as a 32x32x1 image of grey levels from 0 to 255.

    Bilinear: strokes stay strokes, where repeated pixels would make every edge a stair of 4 pixels.

    >>> image = enlarge(np.full((8, 8), 16.0))
    >>> image.shape, image.dtype.name, image.min().item()
    ((32, 32, 1), 'uint8', 255)
    """
    from PIL import Image

    levels = Image.fromarray((scan * (255 / 16)).astype(np.float32))
    large = np.asarray(levels.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return np.clip(np.rint(large), 0, 255).astype(np.uint8)[..., None]


def prepare(data_dir: str | os.PathLike[str]) -> Digits:
    """Return the builder of the digits, which the first call writes below ``data_dir``.

    Raises:
        UsageError: the folder cannot be written.
    """
    folder = Path(data_dir)
    if (found := _builder(folder)) is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        _remove_leftovers(folder / Digits.name)
        # TFDS reports on standard output, which belongs to the commands.
        with contextlib.redirect_stdout(io.StringIO()), TemporaryDirectory() as downloads:
            tfds.disable_progress_bar()
            builder = Digits(data_dir=os.fspath(folder), file_format="tfrecord")
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        # Another process may have written the same folder in the meantime.
        if (found := _builder(folder)) is not None:
            return found
        raise UsageError(
            f'cannot write the digits below "{folder}" ({error.strerror or error}): '
            "name a folder that can be written with --data-dir or TFDS_DATA_DIR"
        ) from error
    return builder


def _builder(folder: Path) -> Digits | None:
    """Return the builder when its files are complete: TFDS moves them into place at the end."""
    place = folder / Digits.name / str(Digits.VERSION)
    if not (place / "dataset_info.json").is_file():
        return None
    return Digits(data_dir=os.fspath(folder), file_format="tfrecord")


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed preparation left; one that still runs is younger than an hour."""
    for leftover in folder.glob("incomplete.*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)
