"""From any of our models to the one float32 function that every format is written from."""

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.quiet import quiet

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

OUTPUTS = ("logits", "probabilities")


def prepare(model: "keras.Model") -> "keras.Model":
    """Return the deployed form: image -> {"logits", "probabilities"}, all of it in float32.

    Auxiliary heads fall away, since nothing leads from them to the two outputs. A model in mixed
    precision is rebuilt; any other shares its layers with the result.

    Args:
        model: a functional model with one input of pixel values, and layers named "logits" and
            "predictions" (softmax), as `build` makes them.

    Raises:
        UsageError: the model is of another kind.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UsageError(f"the Keras backend is {backend}; to export, set KERAS_BACKEND=tensorflow")
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or None in inputs[0].shape[1:]:
        raise UsageError(
            f'"{model.name}" has inputs {[tuple(tensor.shape) for tensor in inputs]}; '
            "export takes a functional model with one input (batch, height, width, channels)"
        )
    names = [layer.name for layer in model.layers]
    if "logits" not in names:
        raise UsageError(
            f'"{model.name}" has no layer named "logits"; name the layer before the softmax so'
        )
    if any(layer.compute_dtype != "float32" for layer in model.layers if layer.weights):
        model = _in_float32(model)
    logits = model.get_layer("logits").output
    if len(logits.shape) != 2:
        raise UsageError(f'"logits" has shape {tuple(logits.shape)}; it must be (batch, classes)')
    probabilities = keras.ops.softmax(logits)
    if "predictions" in names:
        predictions = model.get_layer("predictions")
        if getattr(predictions, "activation", None) is not keras.activations.softmax:
            raise UsageError('"predictions" is no softmax; export takes single-label classifiers')
        probabilities = predictions.output
    return keras.Model(model.inputs[0], {"logits": logits, "probabilities": probabilities})


def _in_float32(model: "keras.Model") -> "keras.Model":
    """Return a copy of a functional model with the same weights, computing in float32."""
    import keras

    def cast(layer: "keras.Layer") -> "keras.Layer":
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    clone = keras.models.clone_model(model, clone_function=cast, recursive=True)
    clone.set_weights(model.get_weights())
    return clone


def settle_statistics(model: "keras.Model", images: np.ndarray) -> None:
    """Set the statistics of every batch normalisation to those of these images.

    For fresh weights: with Keras's own statistics, or with random ones, the activations of a deep
    network grow from layer to layer (to 1e12 in ResNet-152), and its softmax is the same for every
    image. Scales and offsets are left as they are.
    """
    import keras

    layers = [k for k in model._flatten_layers() if isinstance(k, keras.layers.BatchNormalization)]
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        with quiet():
            model(images.astype(np.float32), training=True)
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum


def kernel_count(prepared: "keras.Model") -> int:
    """Return how many weights the kernels hold: those with two dimensions or more."""
    return sum(int(np.prod(w.shape)) for w in prepared.weights if len(w.shape) > 1)


def logits_of(prepared: "keras.Model", images: np.ndarray, *, batch: int = 16) -> np.ndarray:
    """Return the Keras model's own logits, (n, classes), without a GPU's shortened float32."""
    import tensorflow as tf

    def run(pixels: np.ndarray) -> np.ndarray:
        return prepared(tf.cast(pixels, tf.float32), training=False)["logits"].numpy()

    starts = range(0, len(images), batch)
    shortened = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        with quiet():
            return np.concatenate([run(images[start : start + batch]) for start in starts])
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(shortened)


def trace(prepared: "keras.Model", *, batch: int | None, outputs: tuple[str, ...]) -> Any:
    """Trace the model into one graph, from which both TFLite and ONNX files are written.

    Args:
        prepared: what `prepare` returned.
        batch: the size of a batch; None leaves it open.
        outputs: which of its outputs, in this order.

    Returns:
        A concrete function of `image`, with the outputs in the order asked for.
    """
    import tensorflow as tf

    shape = (batch, *prepared.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="image")], autograph=False)
    def serve(image: "tf.Tensor") -> list["tf.Tensor"]:
        results = prepared(image, training=False)
        return [results[name] for name in outputs]

    with plain_grouped_convolutions(prepared):
        return serve.get_concrete_function()


def freeze(traced: Any) -> tuple[Any, list[str], list[str]]:
    """Turn the weights of a traced model into constants.

    Returns:
        The GraphDef, and the names of its input and output tensors.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(traced)
    inputs, outputs = ([tensor.name for tensor in side] for side in (frozen.inputs, frozen.outputs))
    definition = frozen.graph.as_graph_def()
    # A graph is full of circles, and several copies of the weights hang on this one.
    del frozen
    gc.collect()
    return definition, inputs, outputs


@contextlib.contextmanager
def plain_grouped_convolutions(model: "keras.Model") -> Iterator[None]:
    """Trace grouped convolutions as plain operations.

    Keras wraps them in a function compiled by XLA, which tf2onnx copies into the file as a call of
    something that no runtime knows. A SavedModel is better off with the wrapping: without oneDNN,
    TensorFlow's CPU kernel refuses a fused convolution with groups.
    """
    import tensorflow as tf

    def plain(layer: Any) -> Any:
        return lambda inputs, kernel: tf.nn.conv2d(
            inputs, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate
        )

    grouped = [layer for layer in model._flatten_layers() if getattr(layer, "groups", 1) > 1]
    grouped = [layer for layer in grouped if hasattr(layer, "convolution_op")]
    try:
        for layer in grouped:
            layer.convolution_op = plain(layer)
        yield
    finally:
        for layer in grouped:
            layer.__dict__.pop("convolution_op", None)
