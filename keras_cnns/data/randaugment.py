"""RandAugment on a batch, where each image has operations of its own.

Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019:
https://arxiv.org/abs/1909.13719

An operation is one of three kinds: a move of the pixels (a matrix), a blend with another image, or
a table of 256 levels. So a whole batch takes three passes, whatever its images drew. Operations and
ranges are those of torchvision's `RandAugment`; what is moved in is middle grey, as in the paper.
"""

from __future__ import annotations

import math

import tensorflow as tf

from keras_cnns.data.colours import blend, grey, mean
from keras_cnns.data.draws import exactly, fold, uniform, whole
from keras_cnns.data.windows import choice, transformed

STRONGEST = 30
OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


def randaugment(images: tf.Tensor, magnitude: int, keys: tf.Tensor, count: int = 2) -> tf.Tensor:
    """Apply `count` operations to each image.

    Args:
        images: float32 (n, height, width, channels) from 0 to 255, of 1 or 3 channels.
        magnitude: of all operations, 0 to 30.
        keys: (n,)
        count: operations one after another.
    """
    for layer in range(count):
        own = fold(keys, layer)
        kind = whole(own, 0, len(OPERATIONS))
        sign = tf.where(uniform(own, 1) < 0.5, -1.0, 1.0)
        images = apply(images, kind, magnitude / STRONGEST, sign)
    return images


def apply(images: tf.Tensor, kind: tf.Tensor, strength: float, sign: tf.Tensor) -> tf.Tensor:
    """Apply one operation to each image.

    Args:
        images: float32 (n, height, width, channels) from 0 to 255.
        kind: (n,), the operations' positions in `OPERATIONS`.
        strength: 0 to 1.
        sign: (n,), 1 or -1, of the operations that have two directions.
    """
    images = _moved(images, kind, strength * sign)
    images = _blended(images, kind, 1.0 + 0.9 * strength * sign)
    return _looked_up(tf.round(images), kind, strength)


def _is(kind: tf.Tensor, name: str) -> tf.Tensor:
    return kind == OPERATIONS.index(name)


def _moved(images: tf.Tensor, kind: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    height, width = images.shape[1:3]

    def only(name: str, value: tf.Tensor) -> tf.Tensor:
        return tf.where(_is(kind, name), value, 0.0)

    angle = only("rotate", -amount * math.radians(30))
    shear_x, shear_y = only("shear_x", amount * 0.3), only("shear_y", amount * 0.3)
    # torchvision's 150 of the 331 pixels of NASNet's images.
    right = only("translate_x", amount * 150 / 331 * width)
    down = only("translate_y", amount * 150 / 331 * height)
    cosine, sine = exactly(tf.cos, angle), exactly(tf.sin, angle)
    a, b, c, d = cosine, sine + shear_x, shear_y - sine, cosine
    # Rotations are about the middle, shears about the corner; pixels count from their centres.
    turned = _is(kind, "rotate")
    x, y = (tf.where(turned, side / 2, 0.0) for side in (width, height))
    horizontal = x - a * (x - 0.5) - b * (y - 0.5) - 0.5 + tf.round(right)
    vertical = y - c * (x - 0.5) - d * (y - 0.5) - 0.5 + tf.round(down)
    zero = tf.zeros_like(a)
    rows = tf.stack([a, b, horizontal, c, d, vertical, zero, zero], axis=1)
    return transformed(images, rows, "NEAREST", "CONSTANT")


def _blended(images: tf.Tensor, kind: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    pale = tf.round(grey(images))
    towards = {
        "brightness": tf.zeros_like(pale),
        "colour": pale,
        "contrast": tf.round(mean(pale)),
        "sharpness": _smooth(images),
    }
    found, mine = images, tf.zeros_like(kind, tf.bool)
    for name, other in towards.items():
        chosen = _is(kind, name)
        found = choice(chosen, tf.broadcast_to(other, tf.shape(images)), found)
        mine |= chosen
    return blend(images, found, tf.where(mine, factor, 1.0))


def _smooth(images: tf.Tensor) -> tf.Tensor:
    """Return PIL's smoothed images: 5 parts of a pixel and 1 of each neighbour; the rim stays."""
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, images.shape[-1], 1))
    inner = tf.round(tf.nn.depthwise_conv2d(images, kernel, (1, 1, 1, 1), "VALID"))
    rim = ((0, 0), (1, 1), (1, 1), (0, 0))
    inside = tf.pad(tf.ones_like(inner, tf.bool), rim)
    return tf.where(inside, tf.pad(inner, rim), images)


def _looked_up(images: tf.Tensor, kind: tf.Tensor, strength: float) -> tf.Tensor:
    """Replace each level of each channel by what a table of the image has for it."""
    count, height, width, channels = images.shape
    count = tf.shape(images)[0] if count is None else count
    levels = tf.range(256)
    bits = 8 - round(4 * strength)
    by_channel = tf.transpose(tf.cast(images, tf.int32), (0, 3, 1, 2))
    flat = tf.reshape(by_channel, (-1, height * width))
    histogram = tf.math.bincount(flat, minlength=256, maxlength=256, axis=-1)
    histogram = tf.reshape(tf.ensure_shape(histogram, (None, 256)), (-1, channels, 256))
    table = tf.broadcast_to(levels, tf.shape(histogram))
    for name, other in {
        "posterize": tf.bitwise.bitwise_and(levels, 256 - 2 ** (8 - bits)),
        "solarize": tf.where(tf.range(256.0) >= 255.0 - 255.0 * strength, 255 - levels, levels),
        "autocontrast": _stretched(histogram),
        "equalize": _equalized(histogram),
    }.items():
        table = choice(_is(kind, name), tf.broadcast_to(other, tf.shape(table)), table)
    rows = tf.reshape(tf.range(count * channels), (-1, 1)) * 256
    found = tf.gather(tf.reshape(table, (-1,)), flat + rows)
    found = tf.transpose(tf.reshape(found, (-1, channels, height, width)), (0, 2, 3, 1))
    return tf.ensure_shape(tf.cast(found, tf.float32), images.shape)


def _stretched(histogram: tf.Tensor) -> tf.Tensor:
    """Return the tables that stretch from the darkest level that is there to the lightest."""
    there = tf.cast(histogram > 0, tf.int32)
    low = tf.cast(tf.argmax(there, -1), tf.float32)[..., None]
    high = 255.0 - tf.cast(tf.argmax(there[..., ::-1], -1), tf.float32)[..., None]
    levels = tf.range(256.0)
    stretched = tf.clip_by_value(tf.floor((levels - low) * 255.0 / (high - low)), 0.0, 255.0)
    return tf.cast(tf.where(high > low, stretched, levels), tf.int32)


def _equalized(histogram: tf.Tensor) -> tf.Tensor:
    """Return the tables that spread the levels evenly, as PIL's `ImageOps.equalize` does."""
    last = 255 - tf.argmax(tf.cast(histogram[..., ::-1] > 0, tf.int32), -1, tf.int32)
    at_last = tf.gather(histogram, last, axis=-1, batch_dims=2)
    step = ((tf.reduce_sum(histogram, -1) - at_last) // 255)[..., None]
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    spread = (step // 2 + below) // tf.maximum(step, 1)
    several = tf.reduce_sum(tf.cast(histogram > 0, tf.int32), -1, keepdims=True) > 1
    return tf.where(several & (step > 0), tf.minimum(spread, 255), tf.range(256))
