"""All that a training must know to go on as if it had never stopped.

That is a `State` and the variables of the model, of its optimizer and, within an epoch, of its
metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.errors import UsageError

if TYPE_CHECKING:
    import keras

Arrays = dict[str, np.ndarray]


@dataclass
class State:
    """Where a training stands, but for its variables."""

    step: int = 0  # batches done
    restores: int = 0  # times that it went back because the loss was not finite
    phase: int = 1  # 0 while train.freeze_epochs last; each has an optimizer of its own
    seconds: float = 0.0  # of this epoch so far
    history: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None  # validation accuracy
    waited: int = 0  # epochs since then
    stopped: bool = False  # early
    backend: str = "tensorflow"  # of Keras


class Diverged(Exception):
    """The loss or a weight is no longer finite."""


def arrays(trainer: "keras.Model") -> Arrays:
    """Return all that changes as a model is trained, the states of its random numbers included."""
    return {name: np.asarray(variable) for name, variable in _variables(trainer).items()}


def restore(trainer: "keras.Model", kept: Mapping[str, np.ndarray], *kinds: str) -> None:
    """Set a model's variables of some kinds ("model", "optimizer") to what was kept.

    Raises:
        UsageError: where other variables were kept: by another version, say.
    """
    for name, variable in _variables(trainer).items():
        if name.startswith(kinds):
            if name not in kept or kept[name].shape != tuple(variable.shape):
                raise UsageError(
                    f"the checkpoint has no {name} ({variable.path}) as this version makes it; "
                    "train with the version that wrote it, or choose another --out"
                )
            variable.assign(kept[name])


def add_metrics(trainer: "keras.Model", kept: Mapping[str, np.ndarray]) -> None:
    """Add the sums and counts of an epoch's first batches to those of the next ones."""
    for name, variable in _variables(trainer).items():
        if name.startswith("metric"):
            variable.assign(np.asarray(variable) + kept[name])  # also where devices share it


def _variables(trainer: "keras.Model") -> dict[str, Any]:
    """Return the variables by kind and place: their own names depend on what was built before."""
    kinds = {
        "model": trainer.variables,  # `weights` would lack the states of random numbers
        "optimizer": trainer.optimizer.variables,
        "metric": trainer.metrics_variables,
    }
    return {
        f"{kind}/{i:04d}": each for kind, found in kinds.items() for i, each in enumerate(found)
    }


def averages(trainer: "keras.Model") -> list[tuple[Any, Any]]:
    """Return each trained variable with the one of its running mean; none without an EMA."""
    optimizer = getattr(trainer.optimizer, "inner_optimizer", trainer.optimizer)
    if not optimizer.use_ema:
        return []
    trained = optimizer._trainable_variables
    return list(zip(trained, optimizer._model_variables_moving_average, strict=True))


def swap_averages(trainer: "keras.Model") -> None:
    """Exchange weights and their running means, exactly: Keras's own way adds and takes away."""
    for variable, average in averages(trainer):
        value, mean = np.asarray(variable).copy(), np.asarray(average).copy()
        variable.assign(mean)
        average.assign(value)


def outcome(trainer: "keras.Model") -> list[np.ndarray]:
    """Return the weights that a training would keep now: the running means where there are some."""
    means = {id(variable): mean for variable, mean in averages(trainer)}
    return [np.asarray(means.get(id(weight), weight)).copy() for weight in trainer.weights]
