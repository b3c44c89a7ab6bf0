"""Random numbers by key: image number 7 of epoch 3 draws the same ones in whatever batch it is.

TensorFlow's stateless operations take one seed for a whole tensor. Here each image of a batch has
its own, at the price of a few integer operations on a vector.

Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014:
https://doi.org/10.1145/2660193.2660195
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

STEP = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio


def fold(key: tf.Tensor | int, number: tf.Tensor | int) -> tf.Tensor:
    """Return the key that belongs to a number below a key: uint64, of the shape of the two.

    >>> key = fold(fold(0, 3), tf.range(2))
    >>> key.dtype.name, key.shape
    ('uint64', TensorShape([2]))
    """
    key, number = (tf.cast(given, tf.uint64) for given in (key, number))
    state = key + (number + tf.constant(1, tf.uint64)) * tf.constant(STEP, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        right = tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64))
        state = tf.bitwise.bitwise_xor(state, right) * tf.constant(factor, tf.uint64)
    return state


def uniform(
    keys: tf.Tensor, number: tf.Tensor | int, low: tf.Tensor | float = 0.0, high: float = 1.0
) -> tf.Tensor:
    """Return a float32 from `low` to below `high` for each key, another for each number."""
    bits = tf.bitwise.right_shift(fold(keys, number), tf.constant(40, tf.uint64))
    return low + (high - low) * (tf.cast(bits, tf.float32) * 2.0**-24)


def whole(keys: tf.Tensor, number: int, count: tf.Tensor | int) -> tf.Tensor:
    """Return an int32 from 0 to below `count` for each key."""
    drawn = tf.floor(uniform(keys, number) * tf.cast(count, tf.float32))
    return tf.minimum(tf.cast(drawn, tf.int32), tf.cast(count, tf.int32) - 1)


def exactly(function: Callable[[tf.Tensor], tf.Tensor], number: tf.Tensor) -> tf.Tensor:
    """Return a function of float32 numbers as it is in double precision, rounded.

    Processors take sixteen float32 at once, and what is left over one by one, with another
    approximation of logarithm or cosine: the last bit would depend on the place in the batch.
    """
    return tf.cast(function(tf.cast(number, tf.float64)), tf.float32)


def normal(keys: tf.Tensor, number: int) -> tf.Tensor:
    """Return a float32 of the normal distribution for each key (Box and Muller, 1958)."""
    radius = tf.sqrt(-2.0 * exactly(tf.math.log, 1.0 - uniform(keys, 2 * number)))
    return radius * exactly(tf.cos, 2.0 * math.pi * uniform(keys, 2 * number + 1))


def beta(keys: tf.Tensor, number: int, alpha: float) -> tf.Tensor:
    """Return a float32 of the distribution Beta(alpha, alpha) for each key: its inverse, halved."""
    drawn = uniform(keys, number)
    low, high = tf.zeros_like(drawn), tf.ones_like(drawn)
    for _ in range(24):
        middle = (low + high) / 2.0
        below = tf.math.betainc(alpha, alpha, middle) < drawn
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return (low + high) / 2.0
