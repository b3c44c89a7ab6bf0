"""A folder with a sub-folder of images for each class, cut class by class into splits."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_cnns.data import doctor
from keras_cnns.data.images import decode, is_image, shown
from keras_cnns.data.manifest import verdicts
from keras_cnns.data.source import SPLITS, Cut, Source, digest, mixed
from keras_cnns.data.verdict import Verdict
from keras_cnns.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf


class Contents(NamedTuple):
    """What a folder holds: split -> label -> paths of images, sorted, and what else there is."""

    root: str
    splits: dict[str, dict[str, list[str]]]
    ignored: list[str]

    def verdicts(self) -> dict[str, Verdict]:
        """Return what is known of each image: a look at those that are new or have changed."""
        parts = self.splits.values()
        paths = [path for classes in parts for inside in classes.values() for path in inside]
        return verdicts(self.root, paths)


def contents(name: str) -> Contents:
    """Return what a folder holds, without a look at the images.

    Raises:
        UsageError: there is no such folder, or it has images instead of classes.
    """
    root = os.path.expanduser(name)
    if not os.path.isdir(root):
        raise UsageError(
            f'no folder "{shown(name)}": name a folder of images, digits or a TFDS set'
        )
    own, ignored = _own_splits(root)
    splits = {}
    for split, folder in (own or {"train": root}).items():
        splits[split], skipped = _classes(folder)
        ignored += skipped
    if not own and not splits["train"] and ignored:
        raise UsageError(
            f'"{shown(name)}" has no sub-folders: put each class of images into a folder of its own'
        )
    return Contents(root, splits, ignored)


def diagnose_folder(name: str) -> dict[str, Any]:
    """Return what `doctor.diagnose` finds in a folder; what has not changed is remembered."""
    folder = contents(name)
    return doctor.diagnose(folder.root, folder.splits, folder.verdicts(), folder.ignored)


def open_folder(name: str, channels: int, cut: Cut) -> Source:
    """Open a folder; `open_source` says what of it is checked.

    Images that cannot be used are left out; which, and what else is wrong, goes to standard error.
    """
    folder = contents(name)
    _check_classes(name, folder.splits)
    found = folder.verdicts()
    splits = doctor.usable(folder.splits, found)
    said = doctor.left_out(folder.root, found)
    _check_classes(name, splits, said)
    drawn = {"train", "test", "validation"} - (splits.keys() - {"train"})
    for split in ("test", "validation"):
        if split in drawn:
            splits["train"], splits[split] = _held_out(splits["train"], split, cut)
    train = splits["train"]
    lines = [said, doctor.not_taken(folder.root, folder.ignored)]
    if any(train.values()):
        asked = {split: classes for split, classes in splits.items() if any(classes.values())}
        lines += doctor.warnings(folder.root, asked, found)
    for line in filter(None, lines):
        print(f"{shown(name)}: {line}", file=sys.stderr)
    labels = tuple(train)
    number_of = {label: number for number, label in enumerate(labels)}
    examples = {
        split: mixed(
            [(path, number_of[label]) for label, paths in classes.items() for path in paths],
            # What the folder has of its own is in one order for all seeds, to be compared.
            f"{cut.seed if split in drawn else 0}/{split}",
        )
        for split, classes in splits.items()
    }
    files = {split: tuple(path for path, _ in examples[split]) for split in SPLITS}
    root = folder.root
    digests = {
        split: digest(
            (os.path.relpath(path, root), labels[number], found[path].digest)
            for path, number in examples[split]
        )
        for split in SPLITS
    }
    sizes = {found[path].size for split in SPLITS for path in files[split]}
    height, width = sizes.pop() if len(sizes) == 1 else (0, 1)

    def columns(split: str) -> dict[str, Any]:
        import tensorflow as tf

        paths = tf.constant([os.fsencode(path) for path in files[split]], tf.string)
        known = [found[path] for path in files[split]]
        image = {
            "path": paths,
            "orientation": tf.constant([each.orientation for each in known], tf.int32),
            "sides": tf.constant([(each.height, each.width) for each in known], tf.int32),
        }
        numbers = tf.constant([number for _, number in examples[split]], tf.int64)
        return {"image": image, "label": numbers, "file": paths}

    def records(split: str) -> tf.data.Dataset:
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(columns(split))

    def load(image: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        return tf.io.read_file(image["path"]), image["orientation"]

    def read(image: Mapping[str, tf.Tensor]) -> tf.Tensor:
        data, orientation = load(image)
        return decode(data, channels, orientation)

    return Source(
        name=name,
        labels=labels,
        channels=channels,
        sizes={split: len(files[split]) for split in SPLITS},
        digests=digests,
        files=files,
        ignored=len(folder.ignored),
        size=height if height == width else None,
        record_bytes=200,
        records=records,
        load=load,
        form=lambda image: (image["sides"], image["orientation"]),
        read=read,
        columns=columns,
    )


def _own_splits(root: str) -> tuple[dict[str, str], list[str]]:
    """Return the split -> folder that a root comes with, and the entries that belong to none."""
    entries = dict(_entries(root))
    # "train" may also be a class among others; as a split it holds folders.
    if "train" not in entries or not _holds_folders(os.path.join(root, "train")):
        return {}, []
    own = {"train": "train"}
    validation = next((name for name in ("validation", "val") if name in entries), None)
    if "test" in entries:
        own["test"] = "test"
        if validation:
            own["validation"] = validation
    elif validation:
        own["test"] = validation
    ignored = [entry.path for name, entry in entries.items() if name not in own.values()]
    return {split: os.path.join(root, folder) for split, folder in own.items()}, ignored


def _holds_folders(path: str) -> bool:
    if not os.path.isdir(path):
        return False
    return any(entry.is_dir() and not name.startswith(".") for name, entry in _entries(path))


def _classes(folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return label -> paths of images, both sorted, and the entries that are not used."""
    if not os.path.isdir(folder):
        raise UsageError(f'"{shown(folder)}" is not a folder')
    classes: dict[str, list[str]] = {}
    ignored: list[str] = []
    for label, entry in _entries(folder):
        if label.startswith(".") or not entry.is_dir():
            ignored.append(entry.path)
            continue
        if not label.isprintable():
            raise UsageError(
                f'"{shown(entry.path)}" cannot be a class: its name is not printable UTF-8 text'
            )
        inside = [inner.path for _, inner in _entries(entry.path)]
        classes[label] = [path for path in inside if is_image(path)]
        ignored += [path for path in inside if not is_image(path)]
    return classes, ignored


def _entries(folder: str) -> list[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as scan:
            return sorted(((entry.name, entry) for entry in scan), key=lambda pair: pair[0])
    except OSError as error:
        raise UsageError(f'cannot read the folder "{shown(folder)}": {error.strerror}') from error


def _check_classes(name: str, splits: doctor.Splits, said: str = "") -> None:
    if wrong := next(doctor.unfit(splits), None):
        raise UsageError(f'"{shown(name)}": ' + "; ".join(filter(None, [wrong, said])))


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
