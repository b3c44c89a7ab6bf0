"""Random erasing, MixUp and CutMix on a batch, drawn by each image's key."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from keras_cnns.data.draws import beta, exactly, fold, uniform, whole
from keras_cnns.data.windows import choice

ERASED_AREA = (0.02, 0.4)
ERASED_RATIO = 0.3


def erased(images: tf.Tensor, probability: float, keys: tf.Tensor) -> tf.Tensor:
    """Fill a rectangle of some images with noise.

    Zhong et al., Random Erasing Data Augmentation, 2017, algorithm 1: 2 to 40 % of the area, its
    sides at 0.3 to 1 / 0.3: https://arxiv.org/abs/1708.04896

    Args:
        images: (n, height, width, channels) from 0 to 255, of any type, which is kept.
        probability: of an image to lose something.
        keys: (n,)
    """
    height, width, channels = images.shape[1:]
    area = uniform(keys, 1, *ERASED_AREA) * height * width
    # The paper draws again where a rectangle does not fit; here the range is what fits.
    low = tf.maximum(math.log(ERASED_RATIO), exactly(tf.math.log, area / width**2))
    high = tf.minimum(-math.log(ERASED_RATIO), exactly(tf.math.log, height**2 / area))
    ratio = exactly(tf.exp, uniform(keys, 2, low, high))
    sides = tf.sqrt(area * ratio), tf.sqrt(area / ratio)
    tall, wide = (tf.cast(tf.round(side), tf.int32) for side in sides)
    top, left = whole(keys, 3, height - tall + 1), whole(keys, 4, width - wide + 1)
    box = _box((top, left, top + tall, left + wide), height, width)
    noise = np.random.default_rng(0).integers(0, 256, (2 * height, 2 * width, channels), np.uint8)
    rows = whole(keys, 5, height)[:, None] + tf.range(height)
    columns = whole(keys, 6, width)[:, None] + tf.range(width)
    noise = tf.gather(tf.constant(noise), rows)
    noise = tf.gather(noise, columns, axis=2, batch_dims=1)
    filled = tf.where(box, tf.cast(noise, images.dtype), images)
    return choice(uniform(keys, 0) < probability, filled, images)


def _box(edges: tuple[tf.Tensor, ...], height: int, width: int) -> tf.Tensor:
    """Return where rectangles (top, left, bottom, right) are: bool (n, height, width, 1)."""
    top, left, bottom, right = (tf.reshape(edge, (-1, 1, 1, 1)) for edge in edges)
    rows, columns = tf.range(height)[:, None, None], tf.range(width)[:, None]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def mixed(
    images: tf.Tensor, labels: tf.Tensor, mixup: float, cutmix: float, keys: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image with its neighbour in the batch, and the labels in the same proportion.

    The first with the second, the third with the fourth: in an order drawn for each epoch that is
    as random as any, and the same in batches of any even size. MixUp adds a part of the other
    (Zhang et al., 2017: https://arxiv.org/abs/1710.09412), CutMix pastes a rectangle of it (Yun et
    al., 2019: https://arxiv.org/abs/1905.04899); where both are asked for, one in two gets each.

    Args:
        images: float32 (n, height, width, channels).
        labels: float32 (n, classes), each row of sum 1.
        mixup: alpha of its Beta(alpha, alpha) distribution, or 0 for none.
        cutmix: likewise.
        keys: (n,)
    """
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    rows = tf.range(count)
    # In an odd batch the last one takes the one before it.
    other = tf.minimum(tf.bitwise.bitwise_xor(rows, 1), tf.maximum(count - 1, 0))
    other = tf.where(other == rows, tf.maximum(count - 2, 0), other)
    others = tf.gather(images, other)
    part = tf.ones_like(keys, tf.float32)
    found = images
    if mixup:
        part = beta(fold(keys, 0), 0, mixup)
        weight = part[:, None, None, None]
        found = tf.minimum(weight * images + (1.0 - weight) * others, 255.0)
    if cutmix:
        own = fold(keys, 1)
        half = tf.sqrt(1.0 - beta(own, 0, cutmix)) / 2.0
        y, x = uniform(own, 1), uniform(own, 2)
        edges = ((y - half) * height, (x - half) * width, (y + half) * height, (x + half) * width)
        box = _box(tuple(tf.cast(tf.round(edge), tf.int32) for edge in edges), height, width)
        pasted = tf.where(box, others, images)
        left = 1.0 - tf.reduce_mean(tf.cast(box, tf.float32), axis=(1, 2, 3))
        chosen = uniform(keys, 2) < 0.5 if mixup else tf.ones_like(part, tf.bool)
        found = choice(chosen, pasted, found)
        part = tf.where(chosen, left, part)
    part = part[:, None]
    return found, part * labels + (1.0 - part) * tf.gather(labels, other)
