"""Changes of light and colour, another for each image of a batch, drawn by its key.

All take and give float32 (n, height, width, channels) from 0 to 255, of 1, 3 or 4 channels; a
fourth channel is alpha, which stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_cnns.data.draws import fold, normal, uniform

GREY = (0.299, 0.587, 0.114)
# Of the RGB values, 0 to 1, of ImageNet's training set, by facebook/fb.resnet.torch,
# datasets/imagenet.lua.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def on_colour(change: Callable[..., tf.Tensor], images: tf.Tensor, *arguments: Any) -> tf.Tensor:
    """Return images with their colour changed, and their alpha, where they have it, as it was."""
    if images.shape[-1] != 4:
        return change(images, *arguments)
    return tf.concat([change(images[..., :3], *arguments), images[..., 3:]], axis=-1)


def grey(images: tf.Tensor) -> tf.Tensor:
    """Return the grey (n, height, width, 1) of images of 1 or 3 channels."""
    if images.shape[-1] == 1:
        return images
    return sum(images[..., i : i + 1] * weight for i, weight in enumerate(GREY))


def mean(images: tf.Tensor) -> tf.Tensor:
    """Return the mean (n, 1, 1, channels) of each image, whatever the order of summation."""
    means = tf.reduce_mean(tf.cast(images, tf.float64), axis=(1, 2), keepdims=True)
    return tf.cast(means, tf.float32)


def blend(images: tf.Tensor, towards: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return images `factor` times as far from others as they were: 0 is the others, 1 no change.

    Haeberli and Voorhies, Image Processing by Interpolation and Extrapolation, 1994:
    http://www.graficaobscura.com/interp/
    """
    factor = tf.reshape(factor, (-1, 1, 1, 1))
    return tf.clip_by_value(towards + factor * (images - towards), 0.0, 255.0)


def jittered(images: tf.Tensor, amount: float, keys: tf.Tensor) -> tf.Tensor:
    """Change light, contrast and saturation, each by a factor of 1 - amount to 1 + amount.

    Their order is drawn too. Howard, Some Improvements on Deep Convolutional Neural Network Based
    Image Classification, 2013, section 2: https://arxiv.org/abs/1312.5402
    """
    order = tf.argsort(uniform(fold(keys[:, None], tf.range(3)), 0), axis=-1)
    for place in range(3):
        kind = tf.reshape(order[:, place], (-1, 1, 1, 1))
        pale = grey(images)
        flat = mean(pale)
        towards = tf.where(kind == 0, 0.0, tf.where(kind == 1, flat, pale))
        factor = uniform(fold(keys, 3 + place), 0, 1.0 - amount, 1.0 + amount)
        images = blend(images, towards, factor)
    return images


def along_components(images: tf.Tensor, deviation: float, keys: tf.Tensor) -> tf.Tensor:
    """Add to each image multiples of the principal components of ImageNet's colours.

    Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012,
    section 4.1: of each component a normal number of this deviation times its eigenvalue. Grey
    images get the grey of it.
    """
    change = tf.zeros((1, 3))
    for number, value in enumerate(EIGENVALUES):
        vector = tf.constant([row[number] for row in EIGENVECTORS])
        change += 255.0 * deviation * value * normal(keys, number)[:, None] * vector
    change = change[:, None, None, :]
    added = images + (grey(change) if images.shape[-1] == 1 else change)
    return tf.clip_by_value(added, 0.0, 255.0)
