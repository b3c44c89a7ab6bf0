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
import random
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from keras_cnns.errors import UsageError, suggest

if TYPE_CHECKING:
    import tensorflow as tf

Item = TypeVar("Item")

SPLITS = ("train", "validation", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
TFDS_NAME = re.compile(r"[a-z]\w*(/[\w.-]+)?(:[\d.]+)?")
MAX_PIXELS = 64_000_000
"""A larger image is refused before it is decoded: a PNG of 48 kB can ask for gigabytes."""

UNLABELLED_TESTS = frozenset(
    ("imagenet2012", "imagenet2012_subset", "i_naturalist2017", "i_naturalist2018")
)
"""TFDS sets whose test split has images without labels."""


@dataclass(frozen=True)
class Source:
    """A set of labelled images in three splits, opened and checked.

    Attributes:
        name: as it was asked for.
        labels: the classes' names; their positions are the numbers that `dataset` gives.
        channels: 1 (grey), 3 (colour) or 4 (colour and alpha).
        sizes: the number of images in each of "train", "validation" and "test".
        files: the paths of a folder's images in each split, in the order of `dataset`, else empty.
        ignored: how many entries of a folder are not used: hidden, or not one of `SUFFIXES`.
        record_bytes: about how many bytes a record of `records` takes.
        records: split -> {"image": path or encoded bytes, "label": int64, "file": string} in order.
        read: the "image" of a record -> uint8 pixels (height, width, channels).
    """

    name: str
    labels: tuple[str, ...]
    channels: int
    sizes: Mapping[str, int]
    files: Mapping[str, tuple[str, ...]] = field(repr=False)
    ignored: int
    record_bytes: int = field(repr=False)
    records: Callable[[str], tf.data.Dataset] = field(repr=False)
    read: Callable[[tf.Tensor], tf.Tensor] = field(repr=False)

    @property
    def size(self) -> int | None:
        """The height and width of the images, where all have one and are known to be square."""
        shape = self.dataset("train").element_spec["image"].shape
        return shape[0] if shape[0] == shape[1] else None

    def dataset(self, split: str) -> tf.data.Dataset:
        """Return the images of a split in a fixed order, their classes mixed.

        Each is {"image": uint8 (height, width, channels), "label": int64, "file": string}; sizes
        may differ between images, and "file" is empty where there is none.

        Raises:
            UsageError: the split is none of the three, or has no images.
        """
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
        test: the fraction that is held out where a source has no test split.
        seed: of the choice of what is held out.

    Raises:
        UsageError: the source is unknown, missing, empty, unreadable or has one class.
    """
    for key, fraction in (("validation", validation), ("test", test)):
        if not 0 <= fraction < 1:
            raise UsageError(f"data.{key} is {fraction}: it is a fraction, from 0 to below 1")
    if channels not in (None, 1, 3, 4):
        raise UsageError(f"data.channels is {channels}: use 1 (grey), 3 (colour) or 4 (with alpha)")
    text, cut = str(name), _Cut(validation, test, seed)
    if _is_folder(text, data_dir):
        return _open_folder(text, channels or 3, cut)
    if channels == 4:
        raise UsageError(f'data.channels is 4, but "{text}" has no alpha: use 1 or 3')
    return _open_tfds(text, _data_dir(data_dir), channels, cut)


@dataclass(frozen=True)
class _Cut:
    validation: float
    test: float
    seed: int

    def count(self, split: str, total: int) -> int:
        """Return how many of a total are held out: at least one, and never all."""
        fraction = {"validation": self.validation, "test": self.test}[split]
        return min(max(1, round(fraction * total)), max(total - 1, 0)) if fraction else 0


def shown(text: str) -> str:
    """Return a file name as it fits into a message of one line, whatever bytes it is made of."""
    plain = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)


def _data_dir(given: str | os.PathLike[str] | None) -> Path:
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(given or default).expanduser()


def _prepared(data_dir: Path) -> list[str]:
    """Return the names of the sets below a folder."""
    return sorted({path.parents[1].name for path in data_dir.glob("*/*/dataset_info.json")})


# ------------------------------------------------------------------------------------------ folders


def _is_folder(text: str, data_dir: str | os.PathLike[str] | None) -> bool:
    if os.path.isdir(os.path.expanduser(text)):
        return True
    if not any(separator in text for separator in (os.sep, os.altsep or os.sep)):
        return False
    # TFDS writes the variants of a set with a slash as well.
    root = text.split("/")[0]
    known = TFDS_NAME.fullmatch(text) and root in {*_prepared(_data_dir(data_dir)), *_tfds_names()}
    return not known


def _open_folder(name: str, channels: int, cut: _Cut) -> Source:
    root = os.path.expanduser(name)
    if not os.path.isdir(root):
        raise UsageError(
            f'no folder "{shown(name)}": name a folder of images, digits or a TFDS set'
        )
    own, ignored = _own_splits(root)
    train, skipped = _classes(own.get("train", root))
    ignored += skipped
    if "train" not in own and not train and skipped:
        raise UsageError(
            f'"{shown(name)}" has no sub-folders: put each class of images into a folder of its own'
        )
    splits: dict[str, Mapping[str, list[str]]] = {"train": train}
    for split in ("test", "validation"):
        if split in own:
            splits[split], skipped = _classes(own[split])
            ignored += skipped
    _check_classes(name, splits)
    for split in ("test", "validation"):
        if split not in splits:
            splits["train"], splits[split] = _held_out(splits["train"], split, cut)
    labels = tuple(train)
    number_of = {label: number for number, label in enumerate(labels)}
    examples = {
        split: _mixed(
            [(path, number_of[label]) for label, paths in classes.items() for path in paths],
            f"{cut.seed}/{split}",
        )
        for split, classes in splits.items()
    }
    files = {split: tuple(path for path, _ in examples[split]) for split in SPLITS}
    check_images([path for split in SPLITS for path in files[split]])

    def records(split: str) -> tf.data.Dataset:
        import tensorflow as tf

        paths = tf.constant([os.fsencode(path) for path in files[split]], tf.string)
        numbers = tf.constant([number for _, number in examples[split]], tf.int64)
        return tf.data.Dataset.from_tensor_slices({"image": paths, "label": numbers, "file": paths})

    def read(path: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return decode(tf.io.read_file(path), channels)

    return Source(
        name=name,
        labels=labels,
        channels=channels,
        sizes={split: len(files[split]) for split in SPLITS},
        files=files,
        ignored=ignored,
        record_bytes=200,
        records=records,
        read=read,
    )


def _own_splits(root: str) -> tuple[dict[str, str], int]:
    """Return the split -> folder that a root comes with, and how many entries belong to none."""
    entries = dict(_entries(root))
    # "train" may also be a class among others; as a split it holds folders.
    if "train" not in entries or not _holds_folders(os.path.join(root, "train")):
        return {}, 0
    own = {"train": "train"}
    validation = next((name for name in ("validation", "val") if name in entries), None)
    if "test" in entries:
        own["test"] = "test"
        if validation:
            own["validation"] = validation
    elif validation:
        own["test"] = validation
    ignored = len(entries) - len(own)
    return {split: os.path.join(root, folder) for split, folder in own.items()}, ignored


def _holds_folders(path: str) -> bool:
    if not os.path.isdir(path):
        return False
    return any(entry.is_dir() and not name.startswith(".") for name, entry in _entries(path))


def _classes(folder: str) -> tuple[dict[str, list[str]], int]:
    """Return label -> paths of images, both sorted, and how many entries are not used."""
    if not os.path.isdir(folder):
        raise UsageError(f'"{shown(folder)}" is not a folder')
    classes: dict[str, list[str]] = {}
    ignored = 0
    for label, entry in _entries(folder):
        if label.startswith(".") or not entry.is_dir():
            ignored += 1
            continue
        if not label.isprintable():
            raise UsageError(
                f'"{shown(entry.path)}" cannot be a class: its name is not printable UTF-8 text'
            )
        inside = [inner.path for _, inner in _entries(entry.path)]
        used = [path for path in inside if is_image(path)]
        ignored += len(inside) - len(used)
        classes[label] = used
    return classes, ignored


def _entries(folder: str) -> list[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as scan:
            return sorted(((entry.name, entry) for entry in scan), key=lambda pair: pair[0])
    except OSError as error:
        raise UsageError(f'cannot read the folder "{shown(folder)}": {error.strerror}') from error


def is_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is taken for an image: one of `SUFFIXES`, a file, and not hidden.

    >>> is_image("no/such.png"), is_image(".")
    (False, False)
    """
    name = os.path.basename(path)
    if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
        return False
    # A link to nowhere is somebody's image: it is named as unreadable, not left out.
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _check_classes(name: str, splits: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    train = splits["train"]
    whole = shown(name)
    if not train:
        raise UsageError(f'"{whole}" is empty: it needs a sub-folder of images for each class')
    if len(train) == 1:
        raise UsageError(
            f'"{whole}" has one class, "{next(iter(train))}": '
            "to tell classes apart takes at least two sub-folders of images"
        )
    for split, classes in splits.items():
        for label, paths in classes.items():
            where = f'class "{label}" of "{whole}"' + (f" ({split})" if len(splits) > 1 else "")
            if not paths:
                raise UsageError(
                    f"{where} has no images: add some ({', '.join(SUFFIXES)}) or remove it"
                )
            if label not in train:
                raise UsageError(f"{where} is not a class of train{suggest(label, train)}")
        if not classes:
            raise UsageError(f'the {split} folder of "{whole}" is empty: fill it or remove it')


def _held_out(
    classes: Mapping[str, Sequence[str]], split: str, cut: _Cut
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what stays and what is held out; each class's share depends on its own files alone."""
    kept, held = {}, {}
    for label, paths in classes.items():
        order = _mixed(paths, f"{cut.seed}/{split}/{label}")
        count = cut.count(split, len(order))
        held[label], kept[label] = sorted(order[:count]), sorted(order[count:])
    return kept, held


def _mixed(items: Sequence[Item], seed: str) -> list[Item]:
    return random.Random(seed).sample(items, len(items))


# ------------------------------------------------------------------------------------------- images


def check_images(paths: Sequence[str]) -> None:
    """Decode every image once, before anything is built on them.

    Raises:
        UsageError: an image cannot be used; the message has the first one's path, and why.
    """
    problems: list[tuple[str, str]] = []
    with (
        warnings.catch_warnings(),
        tqdm(total=len(paths), desc="checking images", unit=" images", delay=1) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        # Odd metadata is no reason to warn: the pixels are what counts.
        warnings.simplefilter("ignore")
        for start in range(0, len(paths), 256):
            part = paths[start : start + 256]
            found = zip(part, pool.map(problem, part), strict=True)
            problems += [(path, why) for path, why in found if why]
            bar.update(len(part))
    if problems:
        path, why = problems[0]
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise UsageError(
            f'cannot read the image "{shown(path)}": {why}; replace or remove it{more}'
        )


def problem(path: str) -> str:
    """Return why an image file cannot be used, or nothing.

    Its header is read first, so that an image of absurd size is never decoded. A JPEG is decoded
    at an eighth of its size, which still reads all of the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return f"{width}x{height} pixels, where at most {MAX_PIXELS:,} are allowed"
            if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
                return "an animated WebP"
            if image.format == "BMP" and image.mode not in ("L", "RGB", "RGBA"):
                return "a BMP with a palette"
            image.draft("L", (1, 1))
            image.load()
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        return "it is empty" if empty else "it is not a JPEG, PNG, GIF, BMP or WebP image"
    except Image.DecompressionBombError:
        return f"more than {MAX_PIXELS:,} pixels"
    except OSError as error:
        return (error.strerror or str(error)).partition("\n")[0]
    except Exception as error:
        # A damaged file can make a decoder fail in any way.
        return f"damaged ({type(error).__name__}: {error})".partition("\n")[0]
    return ""


def decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the uint8 pixels (height, width, channels) of an encoded image, as PIL decodes them.

    JPEG by its accurate transform, where a lost end mark is forgiven but no lost row; of a GIF the
    first frame. Orientation tags are not applied. A fourth channel is the image's alpha, or 255.
    """
    import tensorflow as tf

    def jpeg() -> tf.Tensor:
        return tf.io.decode_jpeg(
            data,
            channels=3,
            dct_method="INTEGER_ACCURATE",
            try_recover_truncated=True,
            acceptable_fraction=1.0,
        )

    image = tf.cond(
        tf.io.is_jpeg(data), jpeg, lambda: tf.io.decode_image(data, expand_animations=False)
    )
    return with_channels(tf.ensure_shape(image, (None, None, None)), channels)


def with_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Return an image of grey or colour, with or without alpha, with 1, 3 or 4 channels.

    Grey is PIL's: 0.299 red + 0.587 green + 0.114 blue, rounded.

    >>> import tensorflow as tf
    >>> red = tf.constant([[[255, 0, 0]]], tf.uint8)
    >>> with_channels(red, 1).numpy().tolist(), with_channels(red, 4).numpy().tolist()
    ([[[76]]], [[[255, 0, 0, 255]]])
    """
    import tensorflow as tf

    def convert(given: int) -> tf.Tensor:
        pixels = tf.ensure_shape(image, (*image.shape[:-1], given))
        has_colour, has_alpha = given > 2, given in (2, 4)
        if channels == 1 and has_colour:
            weights = tf.constant((0.299, 0.587, 0.114))
            grey = tf.round(tf.reduce_sum(tf.cast(pixels[..., :3], tf.float32) * weights, -1))
            return tf.cast(grey, image.dtype)[..., None]
        if channels == 1:
            return pixels[..., :1]
        colour = pixels[..., :3] if has_colour else tf.repeat(pixels[..., :1], 3, axis=-1)
        if channels == 3:
            return colour
        alpha = pixels[..., -1:] if has_alpha else tf.ones_like(pixels[..., :1]) * 255
        return tf.concat([colour, alpha], axis=-1)

    if image.shape[-1] is not None:
        return convert(image.shape[-1])
    branches = [lambda given=given: convert(given) for given in (1, 2, 3, 4)]
    return tf.switch_case(tf.shape(image)[-1] - 1, branches)


# --------------------------------------------------------------------------------------------- TFDS


def _tfds_names() -> list[str]:
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _open_tfds(name: str, data_dir: Path, channels: int | None, cut: _Cut) -> Source:
    builder = _builder(name, data_dir)
    info = builder.info
    image_key, label_key = _keys(name, info)
    labels = tuple(info.features[label_key].names)
    if len(labels) < 2:
        raise UsageError(f'"{name}" has one class: to tell classes apart takes at least two')
    own_shape = info.features[image_key].shape
    own_channels = own_shape[-1] or 3
    totals = {split: info.splits[split].num_examples for split in info.splits}
    parts = _parts(name, totals, cut)

    def records(split: str) -> tf.data.Dataset:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        part = parts[split]
        scattered = info.disable_shuffling and part.count < part.total
        dataset = builder.as_dataset(
            split=part.split if scattered else part.slices(),
            decoders={image_key: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        )
        if scattered:
            chosen = tf.constant(part.scattered(cut.seed))
            dataset = (
                dataset.enumerate()
                .filter(lambda row, _: chosen[row])
                .map(lambda _, record: record)
                .apply(tf.data.experimental.assert_cardinality(part.count))
            )
        return dataset.map(
            lambda record: {"image": record[image_key], "label": record[label_key], "file": ""}
        )

    def read(data: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        # A size that all images share is known before the first one is read.
        wanted = channels or own_channels
        return tf.ensure_shape(decode(data, wanted), (*own_shape[:2], wanted))

    return Source(
        name=name,
        labels=labels,
        channels=channels or own_channels,
        sizes={split: parts[split].count for split in SPLITS},
        files=dict.fromkeys(SPLITS, ()),
        ignored=0,
        record_bytes=info.splits["train"].num_bytes // max(1, totals["train"]),
        records=records,
        read=read,
    )


@dataclass(frozen=True)
class _Part:
    """`count` of a TFDS split's `total` examples from `start` on, the first after the last."""

    split: str
    start: int
    count: int
    total: int

    def slices(self) -> Any:
        """Return TFDS's instruction to read them as they lie."""
        import tensorflow_datasets as tfds

        if self.count == self.total:
            return self.split
        start = self.start % self.total
        end, wrapped = min(start + self.count, self.total), start + self.count - self.total
        part = tfds.core.ReadInstruction(self.split, from_=start, to=end, unit="abs")
        if wrapped > 0:
            part += tfds.core.ReadInstruction(self.split, from_=0, to=wrapped, unit="abs")
        return part

    def scattered(self, seed: int) -> list[bool]:
        """Return which rows they are once the rows are drawn in random order."""
        order = _mixed(range(self.total), str(seed))
        chosen = [False] * self.total
        for position in range(self.start, self.start + self.count):
            chosen[order[position % self.total]] = True
        return chosen


def _parts(name: str, totals: Mapping[str, int], cut: _Cut) -> dict[str, _Part]:
    """Return which of TFDS's own examples make up each of our splits."""
    if not totals.get("train"):
        raise UsageError(f'the TFDS set "{name}" has no train split, only {", ".join(totals)}')
    labelled = re.split("[/:]", name)[0] not in UNLABELLED_TESTS
    own: dict[str, str] = {}
    if "test" in totals and labelled:
        own = {split: split for split in ("test", "validation") if split in totals}
    elif "validation" in totals:
        own = {"test": "validation"}
    left = total = totals["train"]
    start = random.Random(str(cut.seed)).randrange(total)
    parts: dict[str, _Part] = {}
    for split in ("test", "validation"):
        if split in own:
            parts[split] = _Part(own[split], 0, totals[own[split]], totals[own[split]])
        else:
            count = cut.count(split, left)
            parts[split] = _Part("train", start, count, total)
            start, left = start + count, left - count
    return {**parts, "train": _Part("train", start, left, total)}


def _builder(name: str, data_dir: Path) -> Any:
    """Return the TFDS builder of a set that is ready to be read."""
    if name == "digits":
        from keras_cnns.data import digits

        return digits.prepare(data_dir)
    import tensorflow_datasets as tfds

    root = re.split("[/:]", name)[0]
    if not TFDS_NAME.fullmatch(name) or root not in {*_prepared(data_dir), *_tfds_names()}:
        known = ["digits", *_prepared(data_dir), *_tfds_names()]
        raise UsageError(
            f'no data set "{shown(name)}": use digits, a TFDS name or a folder of images'
            + suggest(name.lower(), known)
        )
    try:
        builder = tfds.builder(name, data_dir=os.fspath(data_dir))
    except Exception as error:
        # Builders are of many authors, and a wrong version or variant is an AssertionError.
        raise UsageError(f'cannot open the TFDS set "{name}": {_first_line(error)}') from error
    if not (Path(builder.data_path) / "dataset_info.json").is_file():
        # Not downloaded here: without a network TFDS tries for minutes and leaves half a folder.
        load = f"tfds.load('{name}', data_dir='{data_dir}')"
        raise UsageError(
            f'the TFDS set "{name}" is not in "{data_dir}": name its folder with --data-dir or '
            f'TFDS_DATA_DIR, or fetch it: python -c "import tensorflow_datasets as tfds; {load}"'
        )
    return builder


def _keys(name: str, info: Any) -> tuple[str, str]:
    """Return the names of a set's image and its class."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (info.features[key] for key in keys)
        if (
            isinstance(image, tfds.features.Image)
            and np.dtype(image.np_dtype) == "uint8"
            and image.shape[-1] in (None, 1, 3, 4)
            and isinstance(label, tfds.features.ClassLabel)
        ):
            return keys
    raise UsageError(
        f'the TFDS set "{name}" is not one of images with one class each: '
        f"its supervised keys are {keys}, and an 8-bit image and a class label are needed"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
