"""How fast a training learns, and by which rule its weights follow."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cnns.recipe import Train

# What weight decay leaves alone: biases, and the scales and offsets of normalisations.
UNDECAYED = ("bias", "gamma", "beta")


def rates(train: Train, steps_per_epoch: int) -> np.ndarray:
    """Return the learning rate of every batch of a training: float32 (epochs * steps_per_epoch,).

    It rises from nothing over `warmup_epochs`, at most half of the training. Then it falls to
    nothing as a cosine or a power; or is multiplied by `decay` at each of the `milestones`, which
    are epochs; or stays.

    >>> wanted = Train(epochs=4, warmup_epochs=1, learning_rate=1, schedule="polynomial")
    >>> [round(float(rate), 2) for rate in rates(wanted, 2)]
    [0.0, 0.5, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17]
    >>> wanted = Train(
    ...     epochs=4, warmup_epochs=0, learning_rate=1, schedule="step", milestones=(2, 3)
    ... )
    >>> [round(float(rate), 2) for rate in rates(wanted, 1)]
    [1.0, 1.0, 0.1, 0.01]
    """
    total = train.epochs * steps_per_epoch
    warmup = min(round(train.warmup_epochs * steps_per_epoch), total // 2)
    step = np.arange(total, dtype="float64")
    left = 1 - np.maximum(step - warmup, 0) / max(1, total - warmup)
    share = {
        "cosine": lambda: (1 - np.cos(math.pi * left)) / 2,
        "polynomial": lambda: left**train.power,
        "step": lambda: train.decay ** sum(step >= m * steps_per_epoch for m in train.milestones),
        "constant": lambda: np.ones(total),
    }[train.schedule]()
    rising = np.minimum(step / warmup, 1) if warmup else 1.0
    return np.asarray(train.learning_rate * rising * share, "float32")


def optimizer(
    train: Train,
    steps_per_epoch: int,
    *,
    ema: float | None = None,
    scale: float = 1.0,
    first: int = 0,
    factors: Sequence[float] | None = None,
) -> Any:
    """Return the optimizer of a recipe.

    Args:
        train: the recipe's section.
        steps_per_epoch: batches in an epoch.
        ema: the momentum of running means of the weights, a batch; None for no such means.
        scale: times the learning rate of every weight.
        first: how many batches were trained by another optimizer before.
        factors: times that of each, in the order of the model's trainable variables.
    """
    import keras
    from keras import ops

    table = scale * rates(train, steps_per_epoch)[first:]

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return ops.take(table, ops.minimum(step, len(table) - 1))

    kind, own = {
        "adamw": (keras.optimizers.AdamW, {}),
        "sgd": (keras.optimizers.SGD, {"momentum": train.momentum, "nesterov": train.nesterov}),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": train.momentum, "rho": train.rho}),
    }[train.optimizer]
    if train.epsilon is not None:
        own["epsilon"] = train.epsilon
    if keras.backend.backend() == "tensorflow":
        kind = _fused(kind)
    if factors is not None:
        kind = _slowed(kind, factors)
    if ema is not None:
        kind = _averaging(kind)
    made = kind(
        Rate(),
        weight_decay=train.weight_decay,
        global_clipnorm=train.clip_norm,
        use_ema=ema is not None,
        ema_momentum=ema or 0.0,
        gradient_accumulation_steps=train.accumulate if train.accumulate > 1 else None,
        **own,
    )
    made.exclude_from_weight_decay(var_names=list(UNDECAYED))
    return made


def warmed(momentum: float, batches: Any) -> Any:
    """Return how much of a running mean stays when a batch comes, after so many.

    A mean of few should not remember the first of them for long. This is what
    tf.train.ExponentialMovingAverage does with `num_updates`.

    >>> [round(float(warmed(0.999, n)), 2) for n in (0.0, 1.0, 9.0, 91.0, 1e6)]
    [0.0, 0.1, 0.5, 0.91, 1.0]
    """
    from keras import ops

    return ops.minimum(momentum, batches / (9 + batches))


def _fused(kind: Any) -> Any:
    """Return a kind of optimizer whose step is TensorFlow's own, fused for AdamW and SGD.

    Keras's goes through the weights once for each operation, which takes long where they are many.
    """
    import keras
    import tensorflow as tf

    class Fused(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            settings = {"var": variable.handle, "lr": learning_rate, "grad": gradient}
            if isinstance(self, keras.optimizers.Adam):
                step = tf.cast(self.iterations + 1, "float32")
                tf.raw_ops.ResourceApplyAdam(
                    **settings,
                    m=self._momentums[index].value.handle,
                    v=self._velocities[index].value.handle,
                    beta1_power=self.beta_1**step,
                    beta2_power=self.beta_2**step,
                    beta1=self.beta_1,
                    beta2=self.beta_2,
                    epsilon=self.epsilon,
                )
            elif isinstance(self, keras.optimizers.SGD) and self.momentum:
                tf.raw_ops.ResourceApplyKerasMomentum(
                    **settings,
                    accum=self.momentums[index].value.handle,
                    momentum=self.momentum,
                    use_nesterov=self.nesterov,
                )
            else:
                super().update_step(gradient, variable, learning_rate)

        def _apply_weight_decay(self, variables: Any) -> None:
            if self.weight_decay is None or tf.distribute.has_strategy():
                return super()._apply_weight_decay(variables)
            kept = 1 - self.weight_decay * self.learning_rate
            for variable in filter(self._use_weight_decay, variables):
                variable.assign(variable * kept)

    return Fused


def _averaging(kind: Any) -> Any:
    """Return a kind of optimizer whose running means of weights leave the first ones behind."""
    from keras import ops

    class Averaging(kind):
        def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
            momentum = warmed(self.ema_momentum, ops.cast(self._iterations, "float32"))
            means = self._model_variables_moving_average
            for variable, mean in zip(trainable_variables, means, strict=True):
                mean.assign(momentum * mean + (1 - momentum) * variable)

    return Averaging


def _slowed(kind: Any, factors: Sequence[float]) -> Any:
    """Return a kind of optimizer whose steps are of another length for each variable."""

    class Slowed(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

        def _use_weight_decay(self, variable: Any) -> bool:
            # Keras takes the same share of every weight; what learns slowly is not to decay fast.
            slow = factors[self._get_variable_index(variable)] != 1.0
            return not slow and super()._use_weight_decay(variable)

    return Slowed
