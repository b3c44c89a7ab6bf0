"""The images of a search, read and fitted once for all its trials."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns import data, runs
from keras_cnns.data import Source
from keras_cnns.errors import UsageError
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

    Raises:
        UsageError: where the data is not to be had, or has other images than when this began.
    """
    about = folder / "source.json"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not about.is_file():
            runs.write_text(about, json.dumps(_described(runs.open_data(recipe))) + "\n")
    described = json.loads(about.read_text(encoding="utf-8"))
    described["labels"] = tuple(described["labels"])
    if not _alike(recipe, described):
        return _unchanged(recipe, described["digests"])

    def records(split: str) -> Any:
        import tensorflow as tf

        images, labels = _arrays(recipe, folder, split, described["digests"])
        rows = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
        return rows.map(lambda row: {**row, "file": tf.constant("")})

    import tensorflow as tf

    with tf.device("CPU:0"):
        arrays = _arrays(recipe, folder, "train", described["digests"])
        images, labels = map(tf.constant, arrays)
    return Source(
        **described,
        files=dict.fromkeys(data.SPLITS, ()),
        record_bytes=math.prod(recipe.data.image_shape),
        records=records,
        load=lambda image: (image, tf.constant(1)),
        read=lambda image: image,
        kept={("train", recipe.data.image_shape): (images, labels)},
    )


def check(source: Source, digests: Mapping[str, str]) -> None:
    """Refuse images that a search did not begin with.

    A folder's splits are drawn from all of its images, so that one more image may bring ones that
    trials were trained on into the test.

    Raises:
        UsageError: where a split's digest is another.
    """
    if dict(source.digests) != digests:
        raise UsageError(
            f"{source.name} has changed: its images are not those that the search began with; "
            "bring those back, or choose another --out"
        )


def _unchanged(recipe: Recipe, digests: Mapping[str, str]) -> Source:
    source = runs.open_data(recipe)
    check(source, digests)
    return source


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


def _arrays(
    recipe: Recipe, folder: Path, split: str, digests: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's images, uint8 (n, height, width, channels), and labels."""
    with _alone(folder):
        if not (folder / split).is_dir():
            _keep(_unchanged(recipe, digests), split, recipe, folder)
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
