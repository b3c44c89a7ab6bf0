"""A folder with a sub-folder of images for each class, cut class by class into splits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keras_cnns.data.images import SUFFIXES, check_images, decode, is_image, shown
from keras_cnns.data.source import SPLITS, Cut, Source, mixed
from keras_cnns.errors import UsageError, suggest

if TYPE_CHECKING:
    import tensorflow as tf


def open_folder(name: str, channels: int, cut: Cut) -> Source:
    """Open a folder; `open_source` says what of it is checked."""
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
        split: mixed(
            [(path, number_of[label]) for label, paths in classes.items() for path in paths],
            f"{cut.seed}/{split}",
        )
        for split, classes in splits.items()
    }
    files = {split: tuple(path for path, _ in examples[split]) for split in SPLITS}
    sizes = check_images([path for split in SPLITS for path in files[split]])
    height, width = sizes.pop() if len(sizes) == 1 else (0, 1)

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
        size=height if height == width else None,
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
    classes: Mapping[str, Sequence[str]], split: str, cut: Cut
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what stays and what is held out; each class's share depends on its own files alone."""
    kept, held = {}, {}
    for label, paths in classes.items():
        order = mixed(paths, f"{cut.seed}/{split}/{label}")
        count = cut.count(split, len(order))
        held[label], kept[label] = sorted(order[:count]), sorted(order[count:])
    return kept, held
