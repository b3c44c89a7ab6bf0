"""What a training runs on: one device, those of a machine, or several machines.

On TensorFlow these are its own strategies. On JAX it is `keras.distribution`, which on TensorFlow
does nothing, and says nothing of it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_cnns import runs
from keras_cnns.errors import UsageError
from keras_cnns.training.workers import TRIED

if TYPE_CHECKING:
    import keras


class Devices:
    """Where a training runs.

    Args:
        strategy: TensorFlow's, or a distribution of Keras on JAX; None is one device.
        replicas: how many devices there are, which share each batch.
        index: of this process among the workers; the first is the one that writes.
        workers: how many processes there are.
    """

    def __init__(
        self, strategy: Any = None, replicas: int = 1, *, index: int = 0, workers: int = 1
    ) -> None:
        self.strategy, self.replicas = strategy, replicas
        self.index, self.workers = index, workers

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.index == 0

    def scope(self) -> Any:
        """Return the context in which models are to be built and trained."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            UsageError: as said.
        """
        if batch_size % self.replicas:
            raise UsageError(
                f"data.batch_size: received {batch_size}, which {self.replicas} devices cannot "
                f"share evenly; choose a multiple of {self.replicas}"
            )

    def shared(self, dataset: Any, last: int = 0) -> Any:
        """Return a data set of batches of which each device takes its part.

        On JAX the parts are equal: up to `replicas` - 1 images of a smaller batch are left out.

        Args:
            dataset: of (images, labels).
            last: how many images the last batch has, where that is smaller than the others.
        """
        if self.replicas == 1:
            return dataset
        import keras
        import tensorflow as tf

        if keras.backend.backend() == "jax":

            def even(images: tf.Tensor, labels: Any) -> Any:
                count = tf.shape(images)[0] // self.replicas * self.replicas
                return tf.nest.map_structure(lambda part: part[:count], (images, labels))

            if 0 < last < self.replicas:
                dataset = dataset.take(dataset.cardinality() - 1)
            return dataset.map(even)
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
        except UsageError:
            raise
        except Exception as error:
            if self.workers > 1 and _lost(error):
                raise UsageError(
                    f"worker {self.index} lost another one; start all of them again, and they go "
                    "on from the last checkpoint"
                ) from None
            raise

    def agree(self, number: int = 0, otherwise: str = "") -> None:
        """Wait for all workers, and refuse to go on where they do not have the same number.

        Args:
            number: a whole one, below 2**24, so that its square is exact.
            otherwise: what is wrong with this worker then.

        Raises:
            UsageError: as said.
        """
        if self.workers == 1:
            return
        import tensorflow as tf

        def moments() -> Any:
            given = tf.constant([number, number * number], tf.float64)
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, given)

        found = self.strategy.run(tf.function(moments))
        summed, squared = self.strategy.experimental_local_results(found)[0].numpy()
        # Equal for equal numbers alone (Cauchy and Schwarz).
        if summed * summed != squared * self.replicas:
            raise UsageError(f"worker {self.index} {otherwise}")

    def share_statistics(self, trainer: "keras.Model") -> None:
        """Give all devices the running statistics of the first one's normalisations.

        On TensorFlow each device keeps those of its own images, and the first one's are saved;
        training does not use them, so that nothing but the tests depends on when this is done.
        """
        import keras

        if self.replicas == 1 or keras.backend.backend() == "jax":
            return
        import tensorflow as tf

        kept = [
            variable
            for layer in trainer.layers
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

        def of_the_first() -> Any:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            mine = [tf.where(first, each.value, tf.zeros_like(each.value)) for each in kept]
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

        if kept:
            for variable, found in zip(
                kept, self.strategy.run(tf.function(of_the_first)), strict=True
            ):
                variable.assign(self.strategy.experimental_local_results(found)[0])

    def compare(self, trainer: "keras.Model") -> None:
        """Say which weights each worker has come to, and refuse to keep them where they differ.

        Raises:
            UsageError: as said.
        """
        if self.workers == 1:
            return
        found = runs.weights_hash(trainer)
        print(f"worker {self.index}: weights {found}", file=sys.stderr)
        self.agree(
            int(found[:6], 16),
            f"has come to other weights than the others ({found}): give all of them the same "
            "versions and images, and train into another --out",
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
    import keras

    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise UsageError(f"training runs on TensorFlow or JAX, not {backend}; unset KERAS_BACKEND")
    if backend == "jax":
        return _jax(several(workers, index))
    if workers or index is not None:
        if index is None or not 0 <= index < len(workers) or len(workers) < 2:
            raise UsageError(
                f"received {len(workers)} --workers and --index {index}; give at least two "
                "host:port, and which of them this one is, counted from 0"
            )
        if "TF_CONFIG" in os.environ:
            raise UsageError("TF_CONFIG names workers already; leave --workers out, or unset it")
        cluster = {"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": index}}
        config = json.dumps(cluster)
    else:
        config = os.environ.get("TF_CONFIG") or "{}"
    if found := _cluster(config):
        return found
    import tensorflow as tf

    if len(tf.config.list_physical_devices("GPU")) > 1:
        return _of(tf.distribute.MirroredStrategy())
    return Devices()


def _of(strategy: Any, **workers: int) -> Devices:
    return Devices(strategy, strategy.num_replicas_in_sync, **workers)


def _jax(several: bool) -> Devices:
    """Return the devices that JAX has on this machine."""
    if several:
        raise UsageError(
            "training on several machines runs on TensorFlow, not jax; unset KERAS_BACKEND, or "
            "leave out --workers, --index and TF_CONFIG"
        )
    import jax
    import keras
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # where it holds them already
        tf.config.set_visible_devices([], "GPU")  # its part is the images, on the host
    found = jax.devices()
    if len(found) == 1:
        return Devices()
    names = [f"{device.platform}:{device.id}" for device in found]
    return Devices(keras.distribution.DataParallel(devices=names), len(found))


def _cluster(config: str) -> Devices | None:
    """Join the workers that a text in the form of TF_CONFIG names, where there are several."""
    try:
        described = json.loads(config)
        cluster, task = described.get("cluster", {}), described.get("task", {})
        names = [name for kind in ("chief", "worker") for name in cluster.get(kind, [])]
        number = index = int(task.get("index", 0))
        kind = task["type"] if cluster else "worker"
    except (ValueError, AttributeError, TypeError, KeyError):
        raise UsageError(f"TF_CONFIG is not what TensorFlow takes: {config}") from None
    if not {*cluster, kind} <= {"chief", "worker"}:
        raise UsageError("TF_CONFIG names parameter servers or evaluators; name workers alone")
    if len(names) < 2:
        return None
    if kind == "worker":
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
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type=kind, task_id=number, rpc_layer="grpc"
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except RuntimeError as error:
        raise UsageError(f"worker {index} of {', '.join(names)} cannot start: {error}") from None
    return _of(strategy, index=index, workers=len(names))
