"""What a training runs on: one device, the GPUs of a machine, or several machines."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_cnns.errors import UsageError

if TYPE_CHECKING:
    import keras

TRIED = "3.15."  # of Keras: what `model_class` works around is inside it


class Devices:
    """Where a training runs.

    Args:
        strategy: TensorFlow's; None is one device.
        index: of this process among the workers; the first is the one that writes.
        workers: how many processes there are.
    """

    def __init__(self, strategy: Any = None, index: int = 0, workers: int = 1) -> None:
        self.strategy, self.index, self.workers = strategy, index, workers

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.index == 0

    def scope(self) -> Any:
        """Return the context in which models are to be built."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            UsageError: as said.
        """
        replicas = self.strategy.num_replicas_in_sync if self.strategy else 1
        if batch_size % replicas:
            raise UsageError(
                f"data.batch_size: received {batch_size}, which {replicas} devices cannot share "
                f"evenly; choose a multiple of {replicas}"
            )

    def shared(self, dataset: Any) -> Any:
        """Return a data set of whole batches of which each worker takes its part."""
        if not self.strategy:
            return dataset
        import tensorflow as tf

        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return dataset.with_options(options)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Say in a line that another worker has gone, wherever within this is noticed.

        Raises:
            UsageError: in place of TensorFlow's error.
        """
        try:
            yield
        except Exception as error:
            if self.workers > 1 and _lost(error):
                raise UsageError(
                    f"worker {self.index} lost another one; start all of them again, and they go "
                    "on from the last checkpoint"
                ) from None
            raise

    def agree(self, step: int) -> None:
        """Wait for all workers, and refuse to go on where they do not stand at the same step.

        Raises:
            UsageError: as said: they do not share the run folder.
        """
        if self.workers == 1:
            return
        import tensorflow as tf

        def moments() -> Any:
            given = tf.constant([step, step * step], tf.float64)
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, given)

        found = self.strategy.run(tf.function(moments))
        summed, squared = self.strategy.experimental_local_results(found)[0].numpy()
        # Equal for equal numbers alone (Cauchy and Schwarz).
        if summed * summed != squared * self.strategy.num_replicas_in_sync:
            raise UsageError(
                f"worker {self.index} is at step {step} and others are not: --out must be one "
                "folder that all workers share"
            )


def _lost(error: Exception) -> bool:
    """Return whether an error says that another worker has gone."""
    import tensorflow as tf

    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    text = str(error)
    return isinstance(error, kinds) or "Collective ops is aborted" in text or "peer" in text.lower()


def several(workers: Sequence[str], index: int | None) -> bool:
    """Return whether a training is to be on several machines."""
    return bool(workers) or index is not None or "TF_CONFIG" in os.environ


def open_devices(workers: Sequence[str] = (), index: int | None = None) -> Devices:
    """Return where to train: the workers named, or those of TF_CONFIG, or this machine's GPUs.

    It must come before TensorFlow has run anything.

    Args:
        workers: "host:port" of each, in the same order everywhere.
        index: which of them this process is.

    Raises:
        UsageError: where they do not fit each other or this version of Keras.
    """
    if workers or index is not None:
        if index is None or not 0 <= index < len(workers) or len(workers) < 2:
            raise UsageError(
                f"received {len(workers)} --workers and --index {index}; give at least two "
                "host:port, and which of them this one is, counted from 0"
            )
        if "TF_CONFIG" in os.environ:
            raise UsageError("TF_CONFIG names workers already; leave --workers out, or unset it")
        cluster = {"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": index}}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    if config := os.environ.get("TF_CONFIG"):
        return _cluster(config)
    import tensorflow as tf

    if len(tf.config.list_physical_devices("GPU")) > 1:
        return Devices(tf.distribute.MirroredStrategy())
    return Devices()


def _cluster(config: str) -> Devices:
    """Join the workers that TF_CONFIG names."""
    try:
        described = json.loads(config)
        cluster, task = described.get("cluster", {}), described.get("task", {})
        names = [name for kind in ("chief", "worker") for name in cluster.get(kind, [])]
        index = int(task.get("index", 0))
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"TF_CONFIG is not what TensorFlow takes: {config}") from None
    if len(names) < 2:
        return Devices()
    if "ps" in cluster or task.get("type") not in ("chief", "worker"):
        raise UsageError("TF_CONFIG names parameter servers or evaluators; name workers alone")
    if task["type"] == "worker":
        index += len(cluster.get("chief", []))
    import keras
    import tensorflow as tf

    if not keras.__version__.startswith(TRIED):
        raise UsageError(
            f"training on several machines needs Keras {TRIED}*, not {keras.__version__}"
        )
    gpus = tf.config.list_physical_devices("GPU")
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=kinds.AUTO if gpus else kinds.RING
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except RuntimeError as error:
        raise UsageError(f"worker {index} of {', '.join(names)} cannot start: {error}") from None
    return Devices(strategy, index, len(names))


def model_class(devices: Devices) -> "type[keras.Model]":
    """Return the class of models that Keras can fit there.

    Keras 3.15 trips over several workers twice: it takes the mean over the first axis of numbers
    that have none, and turns values of several devices into one tensor. See keras issue 20585.
    """
    import keras

    if devices.workers == 1:
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
