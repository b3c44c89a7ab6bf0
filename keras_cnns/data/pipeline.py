"""From a source to batches of a network's size: fit, cache, shuffle, batch, augment, prefetch.

A pure function of the seed: the same batches come again on any number of cores, and epoch 7 is the
same epoch 7 when a training that was interrupted asks for it alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_cnns.data import augment as augmentations
from keras_cnns.data.images import decode, problem, shown, with_channels
from keras_cnns.data.source import Source
from keras_cnns.errors import UsageError

CACHE_BYTES = 2**30
"""A split whose fitted pixels take less than this is kept in memory."""
SHUFFLE_BYTES = 2**28
"""How much of a split that is not kept in memory is shuffled at a time."""

AUTOTUNE = tf.data.AUTOTUNE
FOREVER = 2**62
# What a random key is for, so that order and augmentation do not draw the same numbers.
SHUFFLING, AUGMENTING = 0, 1

Shape = tuple[int, int, int]
Record = dict[str, tf.Tensor]


def batches(
    source: Source,
    split: str,
    *,
    image_shape: Shape,
    batch_size: int,
    training: bool = False,
    augment: str = "none",
    seed: int = 0,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Return batches of (images float32 (n, height, width, channels) 0 to 255, labels int64 (n,)).

    For training they never end: epoch follows epoch, each of `steps_per_epoch` batches, in another
    order and augmented anew. What does not fill the last batch waits for another epoch, unless it
    is all there is: the statistics of a few images are bad ones, and an odd size is one more graph
    to trace. Otherwise images come once, in the source's order, the last batch may be smaller, and
    the cardinality is the number of batches.

    Args:
        source: from `open_source`.
        split: "train", "validation" or "test".
        image_shape: height, width and channels, whatever the source's are.
        batch_size: images in a batch.
        training: whether to shuffle and augment.
        augment: one of `AUGMENTATIONS`; used in training.
        seed: of order and augmentation.
        first_step: how many batches of a training were had already: it goes on with the next, in
            the middle of an epoch too. What is passed over is not decoded.

    Raises:
        UsageError: an empty or unknown split, an unknown augmentation, a batch size below 1.
    """
    change = augmentations.get(augment)
    size = source.require(split)
    if batch_size < 1:
        raise UsageError(f"data.batch_size is {batch_size}: it is at least 1")
    small = size * math.prod(image_shape) < CACHE_BYTES
    if not training:
        dataset = _fitted(source.records(split), source, image_shape, batch_size)
        dataset = dataset.cache() if small else dataset
        return dataset.map(_as_floats).map(lambda r: (r["image"], r["label"])).prefetch(AUTOTUNE)
    steps = max(1, size // batch_size)

    def finish(step: tf.Tensor, batch: Record) -> tuple[tf.Tensor, tf.Tensor]:
        images = change(batch["image"], _key(seed, AUGMENTING, step // steps, step % steps))
        return tf.cast(images, tf.float32), batch["label"]

    batched = (_from_memory if small else _streamed)(source, split, image_shape, batch_size)

    def following(epoch: tf.Tensor) -> tf.data.Dataset:
        done = tf.where(epoch == first_step // steps, first_step % steps, 0)
        return batched(_key(seed, SHUFFLING, epoch), done)

    return (
        tf.data.Dataset.range(first_step // steps, FOREVER)
        .flat_map(following)
        .enumerate(first_step)
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


def read_whole(path: str | os.PathLike[str], channels: int) -> tf.Tensor:
    """Return the pixels of an image file: uint8 (height, width, channels), of its own size.

    Raises:
        UsageError: the file is missing, too large or not a sound image.
    """
    if why := problem(os.fspath(path)):
        raise UsageError(f'cannot read the image "{shown(os.fspath(path))}": {why}')
    return decode(tf.io.read_file(os.fsencode(path)), channels)


def fit_image(image: tf.Tensor, image_shape: Shape) -> tf.Tensor:
    """Return an image at a network's size: the short side resized to fit, the centre cut out.

    Bilinear with antialiasing, and rounded, which is PIL's resize to within a grey level; nothing
    is done to an image that has the size already.

    Args:
        image: (height, width, channels) or a batch of such, 1 to 4 channels from 0 to 255.
        image_shape: the height, width and channels to return: 1, 3 or 4 channels.

    Returns:
        float32, whole numbers from 0 to 255.

    >>> fit_image(tf.zeros((375, 500, 3), tf.uint8), (224, 224, 1)).shape
    TensorShape([224, 224, 1])
    """
    height, width, channels = image_shape
    pixels = tf.cast(with_channels(image, channels), tf.float32)
    if pixels.shape[-3:-1] == (height, width):
        return pixels
    given = tf.shape(pixels)[-3:-1]

    def resized() -> tf.Tensor:
        sides = tf.cast(given, tf.float64)
        scale = tf.reduce_max(tf.constant((height, width), tf.float64) / sides)
        size = tf.maximum(tf.cast(tf.round(sides * scale), tf.int32), (height, width))
        return resized_part(pixels, size, (size - (height, width)) // 2, (height, width))

    fitted = tf.cond(tf.reduce_all(given == (height, width)), lambda: pixels, resized)
    return tf.ensure_shape(fitted, (*image.shape[:-3], *image_shape))


def resized_part(image: tf.Tensor, size: tf.Tensor, start: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """Return a part of an image as it is at another size, where only the part is made.

    Bilinear with antialiasing, and rounded: what `fit_image` does.

    Args:
        image: float32 (..., height, width, channels) from 0 to 255.
        size: height and width of the whole image once it is resized.
        start: row and column of the resized image at which the part begins.
        part: height and width of the part.

    Returns:
        float32 (..., height, width, channels), whole numbers from 0 to 255.

    >>> image = tf.constant([[[0.0], [90.0]]])
    >>> resized_part(image, (2, 4), (0, 1), (1, 3))[..., 0].numpy().tolist()
    [[22.0, 68.0, 90.0]]
    """
    given, channels = tf.shape(image)[-3:-1], image.shape[-1]
    # What tf.image.resize runs, but of the part that is kept alone: a long narrow image would
    # swell beyond all memory.
    cut = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, (-1, given[0], given[1], channels)),
        size=part,
        scale=tf.cast(size, tf.float32) / tf.cast(given, tf.float32),
        translation=-tf.cast(start, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    cut = tf.reshape(cut, tf.concat([tf.shape(image)[:-3], part, (channels,)], 0))
    return tf.clip_by_value(tf.round(cut), 0.0, 255.0)


def _fitted(
    records: tf.data.Dataset,
    source: Source,
    image_shape: Shape,
    batch_size: int,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Return batches of records, their images decoded and fitted, as uint8."""

    def read(record: Record) -> Record:
        return {**record, "image": source.read(record["image"])}

    def fit(record: Record) -> Record:
        return {**record, "image": tf.cast(fit_image(record["image"], image_shape), tf.uint8)}

    images = records.map(read, num_parallel_calls=AUTOTUNE, deterministic=True)
    # Images of one size are fitted by the batch, which for small ones takes a third of the time.
    if images.element_spec["image"].shape.is_fully_defined():
        together = images.batch(batch_size, drop_remainder=drop_remainder)
        return together.map(fit, num_parallel_calls=AUTOTUNE, deterministic=True)
    fitted = images.map(fit, num_parallel_calls=AUTOTUNE, deterministic=True)
    return fitted.batch(batch_size, drop_remainder=drop_remainder)


def _as_floats(batch: Record) -> Record:
    return {**batch, "image": tf.cast(batch["image"], tf.float32)}


def _from_memory(
    source: Source, split: str, image_shape: Shape, batch_size: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Read a split once; an epoch is then an order of its rows, and a batch is one gather."""
    size = source.sizes[split]
    steps = max(1, size // batch_size)
    images, labels = _pixels(source, split, image_shape)

    def fetch(rows: tf.Tensor) -> Record:
        return {"image": tf.gather(images, rows), "label": tf.gather(labels, rows)}

    def epoch(key: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        rows = tf.random.experimental.stateless_shuffle(tf.range(size), key)
        rows = tf.reshape(rows[: steps * batch_size], (steps, -1))
        batched = tf.data.Dataset.from_tensor_slices(rows[done:])
        return batched.map(fetch, num_parallel_calls=AUTOTUNE, deterministic=True)

    return epoch


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


def _streamed(
    source: Source, split: str, image_shape: Shape, batch_size: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Shuffle what is cheap to hold, paths or encoded images, and decode behind it."""
    size = source.sizes[split]
    steps = max(1, size // batch_size)
    records = source.records(split)
    buffer = min(size, max(1024, SHUFFLE_BYTES // max(1, source.record_bytes)))

    def epoch(key: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        number = tf.random.stateless_uniform((), key, None, None, tf.int64)
        shuffled = records.shuffle(buffer, seed=number, reshuffle_each_iteration=False)
        left = shuffled.skip(tf.cast(done, tf.int64) * batch_size)
        return _fitted(left, source, image_shape, batch_size).take(steps - tf.cast(done, tf.int64))

    return epoch


def _key(seed: int, *numbers: int | tf.Tensor) -> tf.Tensor:
    """Return the two numbers that stateless operations take, another pair for other numbers."""
    key = tf.constant((seed, 0), tf.int64)
    for number in numbers:
        key = tf.random.fold_in(key, tf.cast(number, tf.int64))
    return key
