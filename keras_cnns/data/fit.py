"""An image at a network's size."""

from __future__ import annotations

import tensorflow as tf

from keras_cnns.data.images import with_channels

Shape = tuple[int, int, int]


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


def resized(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Return an image at another size, stretched where it has to be, for training.

    Bilinear, which looks at every pixel down to half the size. A side that is longer is halved
    until it is not: antialiasing, which evaluation has, takes up to three times as long.

    Args:
        image: uint8 (height, width, channels).
        size: height and width to return.

    Returns:
        float32, whole numbers from 0 to 255.

    >>> image = tf.constant([[[0], [10], [20], [30], [100], [100], [100], [104]]], tf.uint8)
    >>> resized(image, (1, 2))[..., 0].numpy().tolist()
    [[15.0, 101.0]]
    """

    def longer(image: tf.Tensor) -> tf.Tensor:
        return tf.shape(image)[:2] > (2 * size[0], 2 * size[1])

    def halved(image: tf.Tensor) -> tf.Tensor:
        sides = tf.shape(image)[:2]
        return tf.image.resize(image, tf.where(longer(image), (sides + 1) // 2, sides))

    def small() -> tf.Tensor:
        shape = tf.TensorShape((None, None, image.shape[-1]))
        (found,) = tf.while_loop(
            lambda image: tf.reduce_any(longer(image)),
            lambda image: (halved(image),),
            (tf.cast(image, tf.float32),),
            (shape,),
        )
        return tf.image.resize(found, size)

    found = tf.cond(tf.reduce_any(longer(image)), small, lambda: tf.image.resize(image, size))
    return tf.ensure_shape(tf.round(found), (*size, image.shape[-1]))
