"""A model made fast for inference: fused, its weights constants, bfloat16 where that pays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.fusion import fuse
from keras_cnns.quiet import quiet

PRECISIONS = ("auto", "float32", "bfloat16")
# What Linux calls the instructions that multiply bfloat16 numbers.
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Predictor:
    """A function from images to what the model gives, a batch at a time.

    `precision` is what most of it computes in. `error` is the largest difference from the model
    itself on the images that it was tried on, as a share of the model's largest output.
    """

    run: Callable[[np.ndarray], np.ndarray]
    precision: str
    error: float
    batch_size: int
    shape: tuple[int | None, ...]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the model's output for images (n, height, width, channels).

        Raises:
            UsageError: for images of another shape, or none.
        """
        received = np.shape(images)
        fits = len(received) == len(self.shape) and all(
            wanted in (None, size) for size, wanted in zip(received, self.shape, strict=True)
        )
        if not fits or not len(images):
            wanted = ", ".join("n" if size is None else str(size) for size in self.shape)
            raise UsageError(f"received images of shape {received}; the model takes ({wanted})")
        starts = range(0, len(images), self.batch_size)
        return np.concatenate([self.run(images[i : i + self.batch_size]) for i in starts])


def predictor(
    model: keras.Model,
    *,
    precision: str = "auto",
    batch_size: int = 32,
    images: np.ndarray | None = None,
) -> Predictor:
    """Return the model as a function that is several times as fast as calling it.

    The model is fused (see `fuse`), and on TensorFlow its graph is frozen, so that biases and
    activations run within the convolutions. With bfloat16 convolutions and dense layers round their
    inputs to 8 bits and add up in float32.

    Args:
        model: a functional Keras model with one input of images and one output; of several outputs,
            the one called "predictions".
        precision: "float32", "bfloat16", or "auto": bfloat16 on processors that have instructions
            for it, and float32 elsewhere.
        batch_size: images at a time.
        images: to measure the error on, as the model takes them; noise from 0 to 255 where there
            are none.

    Raises:
        UsageError: for an unknown precision, bfloat16 where it is not to be had, or several inputs.

    >>> import keras_cnns
    >>> fast = keras_cnns.predictor(keras_cnns.build("lenet5"), precision="float32")
    >>> fast(np.zeros((3, 32, 32, 1), "float32")).shape
    (3, 10)
    >>> fast.error < 1e-5
    True
    """
    if precision not in PRECISIONS:
        raise UsageError(f'unknown precision "{precision}"; allowed are {", ".join(PRECISIONS)}')
    if batch_size < 1:
        raise UsageError(f"received a batch_size of {batch_size}; it is at least 1")
    fused = fuse(model)
    if len(model.inputs) != 1 or len(fused.outputs) != 1:
        raise UsageError(
            f'"{model.name}" has {len(model.inputs)} inputs and {len(fused.outputs)} outputs; '
            "a predictor takes one of each"
        )
    if precision == "auto":
        precision = "bfloat16" if _multiplies_bfloat16() else "float32"
    elif precision == "bfloat16" and keras.backend.backend() != "tensorflow":
        raise UsageError("bfloat16 needs the TensorFlow backend; use float32")
    on_tensorflow = keras.backend.backend() == "tensorflow"
    run = _frozen(fused, precision) if on_tensorflow else _compiled(fused)
    if images is None:
        shape = (4, *(n or 64 for n in model.inputs[0].shape[1:]))
        images = np.random.default_rng(0).uniform(0, 255, shape)
    images = images.astype("float32")
    expected = _output(model(images, training=False))
    largest = max(np.abs(expected).max(), np.finfo("float32").tiny)
    error = np.abs(run(images) - expected).max() / largest
    return Predictor(run, precision, float(error), batch_size, tuple(model.inputs[0].shape))


def _multiplies_bfloat16() -> bool:
    """Return whether TensorFlow would use instructions of this processor for bfloat16."""
    if keras.backend.backend() != "tensorflow" or not CPUINFO.is_file():
        return False
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return False
    return bool(BFLOAT16_FLAGS & set(CPUINFO.read_text().split()))


def _output(results: Any) -> np.ndarray:
    if isinstance(results, dict):
        results = results["predictions"]
    return keras.ops.convert_to_numpy(results)


def _compiled(fused: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs a model as its backend compiles it."""
    fused.compile()
    return lambda images: np.asarray(fused.predict_on_batch(images))


def _frozen(fused: keras.Model, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs a model as one TensorFlow graph of constants."""
    import tensorflow as tf

    from keras_cnns.fusion.frozen import freeze, split_grouped_convolutions

    signature = [tf.TensorSpec(fused.inputs[0].shape, tf.float32, name="image")]
    call = tf.function(
        lambda image: fused(image, training=False), input_signature=signature, autograph=False
    )
    with quiet(), split_grouped_convolutions(fused):
        definition, (image,), (output,) = freeze(call.get_concrete_function())
        if precision == "bfloat16":
            definition = _in_bfloat16(definition, output)

    def imported(x: tf.Tensor) -> tf.Tensor:
        (found,) = tf.graph_util.import_graph_def(
            definition, input_map={image: x}, return_elements=[output], name=""
        )
        return found

    run = tf.compat.v1.wrap_function(imported, signature)
    return lambda images: run(tf.constant(images, tf.float32)).numpy()


def _in_bfloat16(definition: Any, output: str) -> Any:
    """Let TensorFlow's own rewriter choose the operations that round their inputs to bfloat16."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(definition, name="")
    meta = tf.compat.v1.train.export_meta_graph(graph_def=definition, graph=graph)
    meta.collection_def["train_op"].node_list.value.append(output)
    config = config_pb2.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    rewriting.min_graph_nodes = -1  # small networks too
    return tf_optimizer.OptimizeGraph(config, meta)
