"""From a source to batches of a network's size: order, read, batch, augment, prefetch.

A training's batches are a pure function of its seed and the number of the step: the same come again
on any number of cores, and step 70 is the same step 70 when a training that was interrupted asks
for it alone. What happens to an image depends on the seed, the epoch and the image, so that it is
the same in batches of any size.
"""

from __future__ import annotations

import math
import os

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_cnns.data import augment as augmentations, order
from keras_cnns.data.augment import Policy
from keras_cnns.data.colours import along_components, jittered, on_colour
from keras_cnns.data.draws import fold
from keras_cnns.data.fit import Shape, fit_image, resized
from keras_cnns.data.images import decode, decode_part, shown
from keras_cnns.data.mixing import erased, mixed
from keras_cnns.data.order import Record
from keras_cnns.data.randaugment import randaugment as rand_augmented
from keras_cnns.data.source import Source
from keras_cnns.data.verdict import Verdict, look
from keras_cnns.data.windows import cut, drawn, in_pixels, mirrored, moved, window
from keras_cnns.errors import UsageError

CACHE_BYTES = 2**30
"""A split whose fitted pixels take less than this is kept in memory."""

AUTOTUNE = tf.data.AUTOTUNE
# What a random key is for, so that no two things draw the same numbers.
WINDOW, MIRROR, COLOUR, COMPONENTS, RANDAUGMENT, ERASING, MIXING = range(7)


def batches(
    source: Source,
    split: str,
    *,
    image_shape: Shape,
    batch_size: int,
    training: bool = False,
    augment: str = "none",
    randaugment: int = 0,
    erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    seed: int = 0,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Return batches of (images float32 (n, height, width, channels) 0 to 255, labels int64 (n,)).

    For training they never end: epoch follows epoch, each of `steps_per_epoch` batches, in another
    order and augmented anew. What does not fill the last batch waits for another epoch, unless it
    is all there is: the statistics of a few images are bad ones, and an odd size is one more graph
    to trace. Otherwise images come once, in the source's order, the last batch may be smaller, and
    the cardinality is the number of batches.

    A training's order is drawn over the whole split, except of a TFDS set that is too large for
    memory: such a set is read as it lies, and shuffled a window at a time.

    Args:
        source: from `open_source`.
        split: "train", "validation" or "test".
        image_shape: height, width and channels, whatever the source's are.
        batch_size: images in a batch.
        training: whether to shuffle and augment.
        augment: one of `AUGMENTATIONS`; it and what follows are for training.
        randaugment: the magnitude of two operations of RandAugment on each image, 1 to 30, or 0.
        erasing: the probability that a rectangle of an image is erased.
        mixup: alpha of MixUp, or 0; labels are then float32 (n, classes) with rows of sum 1.
        cutmix: alpha of CutMix, or 0; likewise. With both, one image in two gets each.
        seed: of order and augmentation.
        first_step: how many batches of a training were had already: it goes on with the next, in
            the middle of an epoch too. What is passed over is not decoded.

    Raises:
        UsageError: an empty or unknown split, an unknown augmentation, a batch size below 1.
    """
    policy = augmentations.get(augment)
    size = source.require(split)
    if batch_size < 1:
        raise UsageError(f"data.batch_size is {batch_size}: it is at least 1")
    small = size * math.prod(image_shape) < CACHE_BYTES
    if not training:
        dataset = _fitted(source.records(split), source, image_shape, batch_size)
        dataset = dataset.cache() if small else dataset
        return dataset.map(_as_floats).map(lambda r: (r["image"], r["label"])).prefetch(AUTOTUNE)

    def changed(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        if policy.pad:
            images = moved(images, policy.pad, fold(keys, WINDOW))
        if policy.mirror:
            images = mirrored(images, fold(keys, MIRROR))
        images = tf.cast(images, tf.float32)
        for strength, change, number in (
            (randaugment, rand_augmented, RANDAUGMENT),
            (policy.colour, jittered, COLOUR),
            (policy.pca, along_components, COMPONENTS),
        ):
            if strength:
                images = on_colour(change, images, strength, fold(keys, number))
        return erased(images, erasing, fold(keys, ERASING)) if erasing else images

    def finish(batch: Record) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = changed(batch["image"], batch["key"]), batch["label"]
        if mixup or cutmix:
            labels = tf.one_hot(labels, len(source.labels))
            images, labels = mixed(images, labels, mixup, cutmix, fold(batch["key"], MIXING))
        return images, labels

    # A part that is cut out is best cut out of the original, unless that is no larger.
    whole = not policy.cuts or (source.size is not None and source.size <= min(image_shape[:2]))
    read = _from_memory if small and whole else _from_storage
    return (
        read(source, split, image_shape, min(batch_size, size), policy, seed, first_step)
        .map(finish, num_parallel_calls=AUTOTUNE, deterministic=True)
        .prefetch(AUTOTUNE)
    )


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Return how many batches `batches` makes of the training images: whole ones, at least one."""
    return max(1, source.require("train") // batch_size)


def examples(source: Source, split: str, *, image_shape: Shape, batch_size: int) -> tf.data.Dataset:
    """Return batches of {"image", "label", "file"} in order, for one pass: nothing is kept.

    Images and labels are those of `batches` without training; "file" is a path, or empty.

    Raises:
        UsageError: an empty or unknown split.
    """
    source.require(split)
    dataset = _fitted(source.records(split), source, image_shape, batch_size)
    return dataset.map(_as_floats).prefetch(AUTOTUNE)


def read_image(path: str | os.PathLike[str], image_shape: Shape) -> np.ndarray:
    """Return an image file as the pixels that a network of that input gets in evaluation.

    Returns:
        float32 (height, width, channels), whole numbers from 0 to 255.

    Raises:
        UsageError: the file is missing, too large or not a sound image.
    """
    return fit_image(read_whole(path, image_shape[-1]), image_shape).numpy()


def read_whole(
    path: str | os.PathLike[str], channels: int, verdict: Verdict | None = None
) -> tf.Tensor:
    """Return the pixels of an image file: uint8 (height, width, channels), of its own size.

    Args:
        path: of the file.
        channels: 1, 3 or 4.
        verdict: what a look at it has found, which decodes it too; None: it is looked at.

    Raises:
        UsageError: the file is missing, too large or not a sound image.
    """
    verdict = verdict or look(path)
    if not verdict.usable:
        why = verdict.findings[0][1]
        raise UsageError(f'cannot read the image "{shown(os.fspath(path))}": {why}')
    data = tf.io.read_file(os.fsencode(path))
    return decode(data, channels, verdict.orientation)


def _fitted(
    records: tf.data.Dataset, source: Source, image_shape: Shape, batch_size: int
) -> tf.data.Dataset:
    """Return batches of records, their images decoded and fitted, as uint8."""

    def read(record: Record) -> Record:
        return {**record, "image": source.read(record["image"])}

    def fit(record: Record) -> Record:
        return {**record, "image": tf.cast(fit_image(record["image"], image_shape), tf.uint8)}

    images = records.map(read, num_parallel_calls=AUTOTUNE, deterministic=True)
    # Images of one size are fitted by the batch, which for small ones takes a third of the time.
    if images.element_spec["image"].shape.is_fully_defined():
        return images.batch(batch_size).map(fit, num_parallel_calls=AUTOTUNE, deterministic=True)
    return images.map(fit, num_parallel_calls=AUTOTUNE, deterministic=True).batch(batch_size)


def _as_floats(batch: Record) -> Record:
    return {**batch, "image": tf.cast(batch["image"], tf.float32)}


def _from_memory(
    source: Source,
    split: str,
    image_shape: Shape,
    batch_size: int,
    policy: Policy,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Read a split once; an epoch is then an order of its rows, and a batch is one gather."""
    images, labels = _pixels(source, split, image_shape)

    def fetch(batch: Record) -> Record:
        found = tf.gather(images, batch["row"])
        if policy.cuts:
            found = cut(found, policy, drawn(fold(batch["key"], WINDOW)))
        return {"image": found, "label": tf.gather(labels, batch["row"]), "key": batch["key"]}

    rows = order.rows(source.sizes[split], batch_size, seed, first_step)
    return rows.map(fetch, num_parallel_calls=AUTOTUNE, deterministic=True)


def _pixels(source: Source, split: str, image_shape: Shape) -> tuple[tf.Tensor, tf.Tensor]:
    """Return all images of a split, fitted, and their labels, which the source keeps."""
    if (split, image_shape) in source.kept:
        return source.kept[split, image_shape]
    size = source.sizes[split]
    pixels = np.empty((size, *image_shape), np.uint8)
    numbers = np.empty(size, np.int64)
    fitted = _fitted(source.records(split), source, image_shape, 256)
    parts = fitted.map(lambda r: (r["image"], r["label"])).prefetch(2)
    start = 0
    with tqdm(total=size, desc=f"reading {split}", unit=" images", delay=1, disable=None) as bar:
        for images, labels in parts.as_numpy_iterator():
            end = start + len(labels)
            pixels[start:end], numbers[start:end] = images, labels
            start = end
            bar.update(len(labels))
    # Batches are put together by tf.data on the host, whatever the network runs on.
    with tf.device("CPU:0"):
        kept = tf.constant(pixels), tf.constant(numbers)
    source.kept[split, image_shape] = kept
    return kept


def _from_storage(
    source: Source,
    split: str,
    image_shape: Shape,
    batch_size: int,
    policy: Policy,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Order what is cheap to hold, paths or encoded images, and decode behind it."""
    height, width, channels = image_shape

    def wanted(orientation: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        # A part is chosen in the image as it lies, which may have to be turned.
        turned = orientation >= 5
        return tf.where(turned, width, height), tf.where(turned, height, width)

    def place(numbers: tf.Tensor, sides: tf.Tensor, orientation: tf.Tensor | int) -> tf.Tensor:
        given = tuple(tf.unstack(sides, 2, -1))
        return in_pixels(window(policy, numbers, given, wanted(orientation)), sides)

    def draw(batch: Record) -> Record:
        # For all of a batch at once: image by image it would take as long as a third of decoding.
        numbers = drawn(fold(batch["key"], WINDOW))
        if source.form:
            return {**batch, "part": place(numbers, *source.form(batch["image"]))}
        return {**batch, "drawn": numbers}

    def part(record: Record) -> tf.Tensor:
        data, orientation = source.load(record["image"])

        def placed(sides: tf.Tensor) -> tf.Tensor:
            return place(record["drawn"], sides, orientation)

        chosen, enough = record.get("part", placed), wanted(orientation)
        found = decode_part(data, chosen, channels, orientation, enough=enough)
        return resized(found, (height, width))

    def fetch(record: Record) -> Record:
        if policy.cuts:
            found = part(record)
        else:
            found = fit_image(source.read(record["image"]), image_shape)
        pixels = tf.ensure_shape(tf.cast(found, tf.uint8), image_shape)
        return {"image": pixels, "label": record["label"], "key": record["key"]}

    ordered = order.listed if source.columns else order.streamed
    batched = ordered(source, split, batch_size, seed, first_step)
    records = (batched.map(draw) if policy.cuts else batched).unbatch()
    read = records.map(fetch, num_parallel_calls=AUTOTUNE, deterministic=True)
    return read.batch(batch_size, drop_remainder=True)
