"""The copy of a model that is trained in its place, because it trains faster."""

from typing import Any

import keras
from keras import ops

from keras_cnns.training import machine
from keras_cnns.training.convolution import TrainedConv2D
from keras_cnns.training.optimizers import warmed


class TrainedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation; on TensorFlow a feature map's by FusedBatchNormV3 in training.

    With `ema`, its statistics are running means over as many batches as those of the weights that
    they are used with, but no fewer than its own momentum makes: those of the last few batches
    belong to other weights. It is for training alone: what is saved has Keras's own layer.
    """

    def __init__(self, *, ema: float | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.ema = ema

    def build(self, input_shape: Any) -> None:
        """Make the weights of Keras's layer and, with `ema`, a counter behind them."""
        super().build(input_shape)
        if self.ema is not None:
            self.batches = self.add_weight(
                shape=(), initializer="zeros", trainable=False, autocast=False, name="batches"
            )

    @property
    def momentum(self) -> Any:
        """How much of the running statistics stays when a batch comes."""
        if self.ema is None or not self.built:
            return self._momentum
        return ops.maximum(self._momentum, warmed(self.ema, self.batches))

    @momentum.setter
    def momentum(self, value: float) -> None:
        self._momentum = value

    def get_config(self) -> dict[str, Any]:
        """Return what makes such a layer again."""
        return {**super().get_config(), "momentum": self._momentum, "ema": self.ema}

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise a batch, in training by its own statistics."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        fused = keras.backend.backend() == "tensorflow" and self.axis in (-1, 3)
        if fused and len(inputs.shape) == 4 and mask is None:
            made = self._fused(inputs)
        else:
            made = super().call(inputs, training=training, mask=mask)
        if self.ema is not None:
            self.batches.assign(self.batches + 1)
        return made

    def _fused(self, inputs: Any) -> Any:
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
        momentum = self.momentum
        for moving, batch in (
            (self.moving_mean, made.batch_mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * momentum + batch * (1 - momentum))
        return made.y


def twin(model: keras.Model, precision: str, ema: float | None = None) -> keras.Model:
    """Return a copy of a model that trains better, or the model itself where none would.

    Its layers compute in another precision, but for the class scores; its convolutions and
    normalisations are faster and, with `ema`, the latter have a counter behind their weights. All
    else is the same, by the same names.

    Args:
        model: plain and in float32.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        ema: the momentum of the running means of weights, a batch, where there are some.
    """

    def faster(layer: Any) -> Any:
        """Return the class that is to train in place of a layer's own; None where none is."""
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if type(layer) is keras.layers.Conv2D and on_tensorflow and not machine.gpus():
            return TrainedConv2D
        fused = on_tensorflow and getattr(layer, "axis", None) in (-1, 3)
        if type(layer) is keras.layers.BatchNormalization and (fused or ema is not None):
            return TrainedBatchNormalization
        return None

    if precision == "float32" and not any(map(faster, model.layers)):
        return model

    def copied(layer: Any) -> Any:
        settings = layer.get_config()
        if not layer.name.endswith("logits"):
            settings["dtype"] = precision
        kind = faster(layer) or type(layer)
        if kind is TrainedBatchNormalization:
            settings["ema"] = ema
        return kind.from_config(settings)

    copy = keras.models.clone_model(model, clone_function=copied)
    for layer in model.layers:
        own = copy.get_layer(layer.name)
        own.set_weights([*layer.get_weights(), *own.get_weights()[len(layer.weights) :]])
    return copy


def carry_back(trained: keras.Model, model: keras.Model) -> None:
    """Give a model the weights of its trained copy."""
    for layer in trained.layers:
        own = model.get_layer(layer.name)
        own.set_weights(layer.get_weights()[: len(own.weights)])


def restart(trained: keras.Model) -> None:
    """Count the batches of running means anew, as an optimizer of a phase's own does."""
    for layer in trained.layers:
        if isinstance(layer, TrainedBatchNormalization) and layer.ema is not None:
            layer.batches.assign(0)
