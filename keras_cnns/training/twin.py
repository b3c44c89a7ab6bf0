"""The copy of a model that is trained in its place, because it trains faster."""

from typing import Any

import keras
from keras import ops


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation, computed in training by TensorFlow's FusedBatchNormV3.

    It is for training alone: what is saved has Keras's own layer and the same weights.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise a feature map (batch, height, width, channels) by its own statistics."""
        if not (training and self.trainable and len(inputs.shape) == 4 and mask is None):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        channels = inputs.shape[-1]
        made = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.cast(self.gamma, "float32") if self.scale else tf.ones(channels),
            offset=ops.cast(self.beta, "float32") if self.center else tf.zeros(channels),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=True,
        )
        # TensorFlow estimates the variance of the population, Keras keeps that of the sample.
        pixels = ops.cast(ops.size(inputs) // channels, "float32")
        variance = made.batch_variance * (pixels - 1) / pixels
        for moving, batch in (
            (self.moving_mean, made.batch_mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return made.y


def twin(model: keras.Model, precision: str) -> keras.Model:
    """Return a copy of a model that trains faster, or the model itself where none would.

    Its layers compute in another precision, but for the class scores, and its normalisations are
    fused; it has the same weights by the same names.

    Args:
        model: plain and in float32.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    plain = keras.layers.BatchNormalization

    def fuses(layer: Any) -> bool:
        return on_tensorflow and type(layer) is plain and layer.axis in (-1, 3)

    if precision == "float32" and not any(map(fuses, model.layers)):
        return model

    def copied(layer: Any) -> Any:
        settings = layer.get_config()
        if not layer.name.endswith("logits"):
            settings["dtype"] = precision
        return (FusedBatchNormalization if fuses(layer) else type(layer)).from_config(settings)

    copy = keras.models.clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    return copy


def carry_back(trained: keras.Model, model: keras.Model) -> None:
    """Give a model the weights of its trained copy."""
    for layer in trained.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
