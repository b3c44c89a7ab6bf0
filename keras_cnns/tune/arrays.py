"""The images of a search, read and fitted once for all its trials."""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from keras_cnns import data, runs
from keras_cnns.data import Source
from keras_cnns.quiet import start_keras
from keras_cnns.recipe import Recipe

LARGEST = 2**31  # bytes of a split that is kept; a larger one is read anew by each trial
BATCH = 256


def source_of(recipe: Recipe, folder: Path) -> Source:
    """Return a recipe's images, fitted to its size, from a folder where they are kept as arrays.

    What is not there yet is put there; a split only once it is asked for. Several processes may
    do so at once.

    Args:
        recipe: a resolved one.
        folder: which need not exist.
    """
    about = folder / "source.json"
    if not about.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        source = runs.open_data(recipe)
        runs.write_text(about, json.dumps(_described(source)) + "\n")
    described = json.loads(about.read_text(encoding="utf-8"))
    described["labels"] = tuple(described["labels"])
    sizes, opened = described["sizes"], dict[str, Source]()

    def original() -> Source:
        return opened.setdefault("source", runs.open_data(recipe))

    if max(sizes.values()) * math.prod(recipe.data.image_shape) > LARGEST:
        return original()

    def records(split: str) -> Any:
        start_keras()
        import tensorflow as tf

        if not (folder / f"{split}").is_dir():
            _keep(original(), split, recipe, folder)
        images, labels = (
            np.load(folder / f"{split}" / f"{name}.npy", mmap_mode="r")
            for name in ("images", "labels")
        )
        rows = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
        return rows.map(lambda row: {**row, "file": tf.constant("")})

    return Source(
        **described,
        files=dict.fromkeys(data.SPLITS, ()),
        record_bytes=math.prod(recipe.data.image_shape),
        records=records,
        read=lambda image: image,
    )


def _described(source: Source) -> dict[str, Any]:
    """Return what is plain in a source."""
    plain = ("name", "labels", "channels", "ignored", "size")
    return {name: getattr(source, name) for name in plain} | {"sizes": dict(source.sizes)}


def _keep(source: Source, split: str, recipe: Recipe, folder: Path) -> None:
    """Write a split's images, uint8 (n, height, width, channels), and labels, whole or not."""
    size, shape = source.require(split), recipe.data.image_shape
    batches = data.examples(source, split, image_shape=shape, batch_size=BATCH)
    with TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch) / split
        place.mkdir()
        images = np.lib.format.open_memmap(
            place / "images.npy", mode="w+", dtype=np.uint8, shape=(size, *shape)
        )
        labels, start = np.empty(size, np.int64), 0
        for batch in batches.as_numpy_iterator():
            end = start + len(batch["label"])
            images[start:end], labels[start:end] = batch["image"], batch["label"]
            start = end
        images.flush()
        np.save(place / "labels.npy", labels)
        try:
            os.rename(place, folder / f"{split}")
        except OSError:
            if not (folder / f"{split}").is_dir():  # else another process was first
                raise
