"""The images of a search, read and fitted once for all its trials."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns import data, runs
from keras_cnns.data import Source
from keras_cnns.recipe import Recipe

LARGEST = 2**30  # bytes of a split that is kept; a larger one is read anew by each trial
BATCH = 256
PLAIN = ("name", "labels", "channels", "ignored", "size")


def source_of(recipe: Recipe, folder: Path) -> Source:
    """Return a recipe's images, fitted to its size, from a folder where they are kept as arrays.

    What is not there yet is put there, a split only once it is asked for, by one process while
    others that want it wait; what a killed one left of it is deleted. Where images do not come out
    the same so, as for an augmentation that cuts its part out of the original, the source is the
    original.

    Args:
        recipe: a resolved one.
        folder: which need not exist.
    """
    about = folder / "source.json"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not about.is_file():
            runs.write_text(about, json.dumps(_described(runs.open_data(recipe))) + "\n")
    described = json.loads(about.read_text(encoding="utf-8"))
    described["labels"] = tuple(described["labels"])
    if not _alike(recipe, described):
        return runs.open_data(recipe)

    def records(split: str) -> Any:
        import tensorflow as tf

        images, labels = _arrays(recipe, folder, split)
        rows = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
        return rows.map(lambda row: {**row, "file": tf.constant("")})

    import tensorflow as tf

    with tf.device("CPU:0"):
        images, labels = map(tf.constant, _arrays(recipe, folder, "train"))
    return Source(
        **described,
        files=dict.fromkeys(data.SPLITS, ()),
        record_bytes=math.prod(recipe.data.image_shape),
        records=records,
        load=lambda image: (image, tf.constant(1)),
        read=lambda image: image,
        kept={("train", recipe.data.image_shape): (images, labels)},
    )


def _described(source: Source) -> dict[str, Any]:
    """Return what is plain in a source."""
    plain = {name: getattr(source, name) for name in PLAIN}
    return plain | {"sizes": dict(source.sizes), "digests": dict(source.digests)}


def _alike(recipe: Recipe, described: dict[str, Any]) -> bool:
    """Return whether fitted images are all that the pipeline wants of a source."""
    from keras_cnns.data import augment

    shape, size = recipe.data.image_shape, described["size"]
    small = max(described["sizes"].values()) * math.prod(shape) < LARGEST
    whole = not augment.get(recipe.data.augment or "none").cuts
    return small and (whole or (size is not None and size <= min(shape[:2])))


def _arrays(recipe: Recipe, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's images, uint8 (n, height, width, channels), and labels."""
    with _alone(folder):
        if not (folder / split).is_dir():
            _keep(runs.open_data(recipe), split, recipe, folder)
    images, labels = (
        np.load(folder / split / f"{name}.npy", mmap_mode="r") for name in ("images", "labels")
    )
    return images, labels


def _keep(source: Source, split: str, recipe: Recipe, folder: Path) -> None:
    """Write a split, whole or not at all."""
    size, shape = source.require(split), recipe.data.image_shape
    batches = data.examples(source, split, image_shape=shape, batch_size=BATCH)
    place = folder / f".{split}"
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
    os.rename(place, folder / split)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes images here; delete what a killed one has left."""
    with runs.held(folder, wait=True):
        for left in folder.glob(".*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
