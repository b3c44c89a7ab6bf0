"""What every data set is to the rest: labelled images in three splits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from keras_cnns.errors import UsageError
from keras_cnns.quiet import start_keras

if TYPE_CHECKING:
    import tensorflow as tf

Item = TypeVar("Item")

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """A set of labelled images in three splits, opened and checked.

    Attributes:
        name: as it was asked for.
        labels: the classes' names; their positions are the numbers that `dataset` gives.
        channels: 1 (grey), 3 (colour) or 4 (colour and alpha).
        sizes: the number of images in each of "train", "validation" and "test".
        digests: of what each of them holds: equal for equal images in equal order. Of a TFDS set
            they are of its version and the size of its files.
        files: the paths of a folder's images in each split, in the order of `dataset`, else empty.
        ignored: how many entries of a folder are not used: hidden, or not one of `SUFFIXES`.
        size: the height and width of the images, where all have one and are square.
        record_bytes: about how many bytes a record of `records` takes.
        records: split -> {"image": what `load` takes, "label": int64, "file": string} in order.
        load: the "image" of a record -> the encoded image and its EXIF orientation.
        read: the "image" of a record -> uint8 pixels (height, width, channels).
        columns: split -> all of its records, a tensor for each part, where they can be listed.
        form: the "image" of many records -> height and width as stored, (n, 2), and orientations,
            where these are known before a file is read.
        kept: what of it is in memory, for whoever asks again.
    """

    name: str
    labels: tuple[str, ...]
    channels: int
    sizes: Mapping[str, int]
    digests: Mapping[str, str] = field(repr=False)
    files: Mapping[str, tuple[str, ...]] = field(repr=False)
    ignored: int
    size: int | None
    record_bytes: int = field(repr=False)
    records: Callable[[str], tf.data.Dataset] = field(repr=False)
    load: Callable[[Any], tuple[tf.Tensor, tf.Tensor]] = field(repr=False)
    read: Callable[[Any], tf.Tensor] = field(repr=False)
    columns: Callable[[str], dict[str, Any]] | None = field(default=None, repr=False)
    form: Callable[[Any], tuple[tf.Tensor, tf.Tensor]] | None = field(default=None, repr=False)
    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def dataset(self, split: str) -> tf.data.Dataset:
        """Return the images of a split in a fixed order, their classes mixed.

        Each is {"image": uint8 (height, width, channels), "label": int64, "file": string}; sizes
        may differ between images, and "file" is empty where there is none.

        Raises:
            UsageError: the split is none of the three, or has no images.
        """
        start_keras()
        import tensorflow as tf

        self.require(split)
        return self.records(split).map(
            lambda record: {**record, "image": self.read(record["image"])},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def require(self, split: str) -> int:
        """Return the number of images in a split that is there and not empty.

        Raises:
            UsageError: the split is none of the three, or has no images.
        """
        if split not in SPLITS:
            raise UsageError(f'no split "{split}": use train, validation or test')
        if not self.sizes[split]:
            raise UsageError(
                f'"{self.name}" has no {split} images: '
                f"hold some out with data.{split} above 0, or add images"
            )
        return self.sizes[split]


@dataclass(frozen=True)
class Cut:
    """Which fractions are held out, and the seed of their choice."""

    validation: float
    test: float
    seed: int

    def count(self, split: str, total: int) -> int:
        """Return how many of a total are held out: at least one, and never all but by 1."""
        fraction = {"validation": self.validation, "test": self.test}[split]
        if fraction == 1:
            return total
        return min(max(1, round(fraction * total)), max(total - 1, 0)) if fraction else 0


def digest(parts: Iterable[object]) -> str:
    """Return a short text that is equal for equal parts alone, as far as they can be printed."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(f"{part!r}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def mixed(items: Sequence[Item], seed: str) -> list[Item]:
    """Return the items in an order drawn by a seed."""
    return random.Random(seed).sample(items, len(items))
