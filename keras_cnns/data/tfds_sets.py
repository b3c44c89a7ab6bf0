"""A TFDS set that is prepared on this machine, the digits among them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.data.images import decode, shown
from keras_cnns.data.source import SPLITS, Cut, Source, digest, mixed
from keras_cnns.errors import UsageError, suggest
from keras_cnns.quiet import start_keras

if TYPE_CHECKING:
    import tensorflow as tf

TFDS_NAME = re.compile(r"[a-z]\w*(/[\w.-]+)?(:[\d.]+)?")

UNLABELLED_TESTS = frozenset(
    ("imagenet2012", "imagenet2012_subset", "i_naturalist2017", "i_naturalist2018")
)
"""TFDS sets whose test split has images without labels."""


def prepared(data_dir: Path) -> list[str]:
    """Return the names of the sets below a folder."""
    return sorted({path.parents[1].name for path in data_dir.glob("*/*/dataset_info.json")})


def tfds_names() -> list[str]:
    """Return the names of the sets that TFDS knows."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def open_tfds(name: str, data_dir: Path, channels: int | None, cut: Cut) -> Source:
    """Open a set; `open_source` says what of it is checked."""
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
        digests={split: digest(_content(info, parts[split])) for split in SPLITS},
        files=dict.fromkeys(SPLITS, ()),
        ignored=0,
        size=own_shape[0] if own_shape[0] == own_shape[1] else None,
        record_bytes=info.splits["train"].num_bytes // max(1, totals["train"]),
        records=records,
        # What the records were made of may have had one; they have not.
        load=lambda image: (image, 1),
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
        order = mixed(range(self.total), str(seed))
        chosen = [False] * self.total
        for position in range(self.start, self.start + self.count):
            chosen[order[position % self.total]] = True
        return chosen


def _parts(name: str, totals: Mapping[str, int], cut: Cut) -> dict[str, _Part]:
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


def _content(info: Any, part: _Part) -> list[Any]:
    """Return what tells a part from that of another set, or of the same one prepared otherwise."""
    stored = info.splits[part.split]
    return [info.full_name, stored.num_bytes, stored.shard_lengths, part]


def _builder(name: str, data_dir: Path) -> Any:
    """Return the TFDS builder of a set that is ready to be read."""
    if name == "digits":
        start_keras()
        from keras_cnns.data import digits

        return digits.prepare(data_dir)
    import tensorflow_datasets as tfds

    root = re.split("[/:]", name)[0]
    if not TFDS_NAME.fullmatch(name) or root not in {*prepared(data_dir), *tfds_names()}:
        known = ["digits", *prepared(data_dir), *tfds_names()]
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
    start_keras()
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
