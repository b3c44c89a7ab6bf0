"""Which part of an image a training sees, drawn by the image's key."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_cnns.data.augment import CROP, Policy
from keras_cnns.data.draws import exactly, uniform, whole

TRIES = 10
NUMBERS = 2 * TRIES + 2
Sides = tuple[tf.Tensor | float, tf.Tensor | float]


def drawn(keys: tf.Tensor) -> tf.Tensor:
    """Return the numbers that decide on a window, for each key: (..., `NUMBERS`) from 0 to 1."""
    return uniform(keys[..., None], tf.range(NUMBERS))


def window(
    policy: Policy, numbers: tf.Tensor, given: Sides, wanted: Sides
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the top, left, height and width, in pixels, of what a policy cuts out of images.

    Args:
        policy: one that `cuts`.
        numbers: from `drawn`, of one image or of each of several.
        given: height and width of the image, or of each.
        wanted: those that its part is to get, or each.

    Returns:
        float32, one for each image; the part lies in the image.
    """
    height, width = (tf.cast(side, tf.float32) for side in given)
    if policy.area:
        return _area(numbers, height, width, policy.area)
    assert policy.side
    return _side(numbers, height, width, wanted, policy.side, policy.centred)


def in_pixels(edges: tuple[tf.Tensor, ...], given: tf.Tensor) -> tf.Tensor:
    """Return what `window` returned as whole pixels, at least one: int32 (..., 4).

    Args:
        edges: top, left, height and width.
        given: height and width of the image, or of each: (..., 2).
    """
    top, left, height, width = edges
    least = tf.floor(tf.stack([top, left], -1))
    most = tf.round(tf.stack([top + height, left + width], -1))
    most = tf.clip_by_value(most, least + 1.0, tf.cast(given, tf.float32))
    return tf.cast(tf.concat([least, most - least], -1), tf.int32)


def _area(
    numbers: tf.Tensor, height: tf.Tensor, width: tf.Tensor, part: tuple[float, float]
) -> tuple[tf.Tensor, ...]:
    """Draw area and proportions until they fit; where none does, take the middle."""
    area = (part[0] + (part[1] - part[0]) * numbers[..., :TRIES]) * (height * width)[..., None]
    ratio = exactly(tf.exp, (2 * numbers[..., TRIES : 2 * TRIES] - 1) * math.log(4 / 3))
    tall, wide = tf.sqrt(area / ratio), tf.sqrt(area * ratio)
    fits = (tall <= height[..., None]) & (wide <= width[..., None])
    found = tf.reduce_any(fits, -1)
    first = tf.argmax(tf.cast(fits, tf.int32), -1)
    tall = tf.gather(tall, first, axis=-1, batch_dims=numbers.shape.rank - 1)
    wide = tf.gather(wide, first, axis=-1, batch_dims=numbers.shape.rank - 1)
    tall = tf.where(found, tall, tf.minimum(height, width * 4 / 3))
    wide = tf.where(found, wide, tf.minimum(width, height * 4 / 3))
    top = tf.where(found, numbers[..., -2], 0.5) * (height - tall)
    left = tf.where(found, numbers[..., -1], 0.5) * (width - wide)
    return top, left, tall, wide


def _side(
    numbers: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    wanted: Sides,
    side: tuple[int, int],
    centred: bool,
) -> tuple[tf.Tensor, ...]:
    """Cut `wanted` out of the image with its short side resized to one that is drawn."""
    rows, columns = (tf.cast(length, tf.float32) for length in wanted)
    longer = tf.floor(numbers[..., 0] * (side[1] - side[0] + 1))
    larger = (side[0] + tf.minimum(longer, side[1] - side[0])) / CROP
    # The largest part of these proportions, and how much smaller than it the one cut out is.
    fitting = tf.minimum(height / rows, width / columns)
    tall, wide = rows * fitting / larger, columns * fitting / larger
    region = (rows * fitting, columns * fitting) if centred else (height, width)
    top = (height - region[0]) / 2 + numbers[..., 1] * (region[0] - tall)
    left = (width - region[1]) / 2 + numbers[..., 2] * (region[1] - wide)
    return top, left, tall, wide


def cut(images: tf.Tensor, policy: Policy, numbers: tf.Tensor) -> tf.Tensor:
    """Return the part of each image that a policy cuts out, enlarged to the size of the image.

    Args:
        images: (n, height, width, channels), of any type, 0 to 255.
        policy: one that `cuts`.
        numbers: from `drawn`, (n, `NUMBERS`).

    Returns:
        float32 (n, height, width, channels): bilinear.
    """
    height, width = images.shape[1:3]
    top, left, tall, wide = window(policy, numbers, (height, width), (height, width))
    down, right = tall / height, wide / width
    zero = tf.zeros_like(top)
    # Where the centre of each pixel comes from: the operation counts from centre to centre.
    x, y = left + 0.5 * right - 0.5, top + 0.5 * down - 0.5
    rows = tf.stack([right, zero, x, zero, down, y, zero, zero], axis=1)
    return transformed(tf.cast(images, tf.float32), rows, "BILINEAR", "NEAREST")


def transformed(images: tf.Tensor, rows: tf.Tensor, interpolation: str, fill: str) -> tf.Tensor:
    """Return images whose pixel at x, y is what was at a0 x + a1 y + a2, b0 x + b1 y + b2.

    Args:
        images: (n, height, width, channels).
        rows: (n, 8): a0, a1, a2, b0, b1, b2, 0, 0.
        interpolation: "NEAREST" or "BILINEAR".
        fill: "NEAREST", or "CONSTANT" for middle grey outside.
    """
    return tf.ensure_shape(
        tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=rows,
            output_shape=images.shape[1:3],
            interpolation=interpolation,
            fill_mode=fill,
            fill_value=128.0,
        ),
        images.shape,
    )


def moved(images: tf.Tensor, part: float, keys: tf.Tensor) -> tf.Tensor:
    """Move each image by up to a part of its size, over black.

    Args:
        images: (n, height, width, channels) of any type, which is kept.
        part: of height and width.
        keys: (n,)
    """
    height, width = images.shape[1:3]
    down, right = int(height * part), int(width * part)
    padded = tf.pad(images, ((0, 0), (down, down), (right, right), (0, 0)))
    rows = whole(keys, 0, 2 * down + 1)[:, None] + tf.range(height)
    columns = whole(keys, 1, 2 * right + 1)[:, None] + tf.range(width)
    kept = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.ensure_shape(tf.gather(kept, columns, axis=2, batch_dims=1), images.shape)


def mirrored(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Mirror one image in two, left and right.

    TensorFlow reverses rows of colours ten times as fast where they are all that there is.

    Args:
        images: (n, height, width, channels) of any type, which is kept.
        keys: (n,)
    """
    chosen = tf.cast(uniform(keys, 0) < 0.5, tf.int32)
    rows = tf.dynamic_partition(tf.range(tf.size(chosen)), chosen, 2)
    straight, turned = tf.dynamic_partition(images, chosen, 2)
    lines = tf.reshape(turned, (-1, *images.shape[2:]))
    turned = tf.reshape(tf.reverse(lines, [1]), tf.shape(turned))
    return tf.ensure_shape(tf.dynamic_stitch(rows, [straight, turned]), images.shape)


def choice(first: tf.Tensor, one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Return whole images of one batch or of another: `tf.where` takes four times as long.

    Args:
        first: bool (n,)
        one: (n, ...)
        other: of the same shape.
    """
    return tf.raw_ops.Select(condition=first, x=one, y=other)
