"""What Keras needs to train in several processes at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

TRIED = "3.15."  # of Keras: what `model_class` works around is inside it


def model_class(workers: int) -> "type[keras.Model]":
    """Return the class of models that Keras can fit in so many processes.

    Keras 3.15 trips over several workers twice: it takes the mean over the first axis of numbers
    that have none, and turns values of several devices into one tensor. See keras issue 20585.
    """
    import keras

    if workers == 1:
        return keras.Model
    import tensorflow as tf

    class WorkersModel(keras.Model):
        def train_step(self, data: Any) -> dict[str, Any]:
            return {k: tf.expand_dims(v, 0) for k, v in super().train_step(data).items()}

        def test_step(self, data: Any) -> dict[str, Any]:
            return {k: tf.expand_dims(v, 0) for k, v in super().test_step(data).items()}

        def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
            strategy = self.distribute_strategy
            if iterator is not None:
                for _, _, batches in iterator:
                    data_batch = keras.tree.map_structure(
                        lambda v: strategy.experimental_local_results(v)[0], next(batches)
                    )
                    break
            with strategy.scope():
                self._symbolic_build(data_batch=data_batch)

    return WorkersModel
