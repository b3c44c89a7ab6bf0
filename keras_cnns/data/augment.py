"""What may happen to a training image: stateless functions, a batch and a seed -> a batch.

They work on whole batches, four times as fast as on single images at 32 pixels, and draw from the
seed they are given and from nothing else, so that a run can be repeated to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from keras_cnns.errors import UsageError, suggest

if TYPE_CHECKING:
    import tensorflow as tf

# TensorFlow is imported inside the functions: recipes check a name without it.
Augment = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]


def none(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Change nothing."""
    return images


def shift(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Move each image by up to 1/8 of its size, over black: for what must not be mirrored (digits).

    Args:
        images: (n, height, width, channels), values 0 to 255 of any type, which is kept.
        seed: two integers.

    >>> import numpy as np, tensorflow as tf
    >>> moved = shift(tf.ones((2, 16, 16, 1)), seed=(0, 3))
    >>> moved.shape, np.unique(moved).tolist()
    (TensorShape([2, 16, 16, 1]), [0.0, 1.0])
    """
    return _shift(images, seed, mirror=False)


def crop(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Move each image by up to 1/8 of its size, over black, and mirror one in two.

    He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2: 4 pixels of padding
    around 32, a random crop, a horizontal flip.
    """
    return _shift(images, seed, mirror=True)


def _shift(images: tf.Tensor, seed: tf.Tensor, *, mirror: bool) -> tf.Tensor:
    import tensorflow as tf

    count, height, width = tf.unstack(tf.shape(images)[:3])
    down, right = height // 8, width // 8
    seeds = tf.random.split(seed, 3)
    padded = tf.pad(images, ((0, 0), (down, down), (right, right), (0, 0)))
    top = tf.random.stateless_uniform((count, 1), seeds[0], 0, 2 * down + 1, tf.int32)
    left = tf.random.stateless_uniform((count, 1), seeds[1], 0, 2 * right + 1, tf.int32)
    rows, columns = top + tf.range(height), left + tf.range(width)
    if mirror:
        mirrored = tf.random.stateless_uniform((count, 1), seeds[2]) < 0.5
        columns = tf.where(mirrored, columns[:, ::-1], columns)
    cut = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.ensure_shape(tf.gather(cut, columns, axis=2, batch_dims=1), images.shape)


def photo(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Enlarge 35 to 100 % of each image, mirror one in two, change light and contrast.

    Szegedy et al., Going Deeper with Convolutions, 2014, section 6: a random area, its sides at 3/4
    to 4/3 (there from 8 % on, for far longer trainings). Light moves by up to 10 % of the range,
    contrast by up to 20 %.

    Args:
        images: (n, height, width, channels), values 0 to 255; becomes float32.
        seed: two integers.
    """
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    count, height, width = tf.unstack(tf.shape(images)[:3])
    seeds = tf.random.split(seed, 7)

    def draw(index: int, low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform((count,), seeds[index], low, high)

    area, stretch = draw(0, 0.35, 1.0), tf.exp(draw(1, -0.5, 0.5) * tf.math.log(4.0 / 3.0))
    tall, wide = tf.minimum(1.0, tf.sqrt(area) / stretch), tf.minimum(1.0, tf.sqrt(area) * stretch)
    top, left = draw(2, 0.0, 1.0) * (1.0 - tall), draw(3, 0.0, 1.0) * (1.0 - wide)
    mirrored = draw(4, 0.0, 1.0) < 0.5
    start, end = tf.where(mirrored, left + wide, left), tf.where(mirrored, left, left + wide)
    boxes = tf.stack([top, start, top + tall, end], axis=1)
    cut = tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width))
    mean = tf.reduce_mean(cut, axis=(1, 2, 3), keepdims=True)
    light = tf.reshape(draw(5, -25.5, 25.5), (-1, 1, 1, 1))
    contrast = tf.reshape(draw(6, 0.8, 1.2), (-1, 1, 1, 1))
    changed = tf.clip_by_value((cut - mean) * contrast + mean + light, 0.0, 255.0)
    return tf.ensure_shape(changed, images.shape)


AUGMENTATIONS: Mapping[str, Augment] = MappingProxyType(
    {"none": none, "shift": shift, "crop": crop, "photo": photo}
)


def get(name: str) -> Augment:
    """Return an augmentation by its name.

    >>> get("crops")
    Traceback (most recent call last):
    keras_cnns.errors.UsageError: no augmentation "crops": use ...; did you mean "crop"?

    Raises:
        UsageError: the name is none of `AUGMENTATIONS`.
    """
    if name not in AUGMENTATIONS:
        *names, last = AUGMENTATIONS
        allowed = f"{', '.join(names)} or {last}"
        raise UsageError(f'no augmentation "{name}": use {allowed}{suggest(name, AUGMENTATIONS)}')
    return AUGMENTATIONS[name]
