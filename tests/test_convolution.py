"""The convolution of a training against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.training.convolution import TrainedConv2D

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="on other backends it is Keras's own"
)


def both(size: int, channels: int, filters: int, **settings) -> list[tuple]:
    """Return the output and the gradients of Keras's layer and of ours, and the operations used."""
    own = keras.layers.Conv2D(filters, bias_initializer="random_normal", **settings)
    ours = TrainedConv2D.from_config(own.get_config())
    images = tf.constant(np.random.default_rng(0).normal(size=(3, size, size, channels)), "float32")
    weights = None
    found = []
    for layer in (own, ours):

        @tf.function
        def step(images: tf.Tensor, layer=layer) -> tuple:
            with tf.GradientTape() as tape:
                tape.watch(images)
                made = layer(images)
                loss = tf.reduce_sum(made * tf.cast(tf.range(tf.size(made[0])), made.dtype)[0])
                loss += tf.reduce_sum(tf.sin(made))
            return made, *tape.gradient(loss, [images, *(each.value for each in layer.weights)])

        layer.build(images.shape)
        weights = weights or layer.get_weights()
        layer.set_weights(weights)
        graph = step.get_concrete_function(images).graph
        found.append((step(images), {operation.type for operation in graph.get_operations()}))
    return found


FITTING = [
    (size, kernel, strides, padding)
    for size in (1, 2, 3, 7)
    for kernel in (1, 3, 5, (1, 7))
    for strides in (1, 2)
    for padding in ("same", "valid")
    if padding == "same" or np.max(kernel) <= size
]


@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), FITTING)
def test_small_maps_have_the_gradients_of_keras(size, kernel, strides, padding):
    (own, _), (ours, operations) = both(
        size, 96, 64, kernel_size=kernel, strides=strides, padding=padding
    )
    assert "Conv2DBackpropFilter" not in operations
    for expected, made in zip(own, ours, strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 16, "channels": 8, "filters": 8, "kernel_size": 3},
        {"size": 7, "channels": 64, "filters": 64, "kernel_size": 3, "dilation_rate": 2},
        {"size": 7, "channels": 64, "filters": 64, "kernel_size": 3, "groups": 4},
    ],
    ids=["many pixels, few channels", "dilated", "grouped"],
)
def test_what_would_gain_nothing_is_left_to_keras(settings):
    (own, theirs), (ours, operations) = both(**settings, padding="same")
    assert operations == theirs
    for expected, made in zip(own, ours, strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
