"""From any of our models to the one float32 function that every format is written from."""

from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.fusion.frozen import plain_grouped_convolutions
from keras_cnns.preprocessing import scaling
from keras_cnns.quiet import quiet

# Means and deviations of images bring white to between 1 and 3.
_FEW = 8

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def prepare(model: "keras.Model", preprocessing: str | None = None) -> "keras.Model":
    """Return a classifier as image -> {"logits", "probabilities"}, all of it in float32.

    Auxiliary heads fall away, since nothing leads from them to the two outputs. A model in mixed
    precision is rebuilt; any other shares its layers with the result.

    Args:
        model: any functional model with one input of images; its output, or of several the one
            called "predictions", is a softmax or the class scores themselves.
        preprocessing: what is done to pixels before they reach the model, as of `build`; None
            leaves them alone.

    Raises:
        UsageError: the model is of another kind, or the preprocessing unknown.
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
    if any(layer.compute_dtype != "float32" for layer in model.layers if layer.weights):
        model = _in_float32(model)
    outputs = model.output
    if isinstance(outputs, dict):
        outputs = outputs.get("predictions")
    if not isinstance(outputs, keras.KerasTensor) or len(outputs.shape) != 2:
        raise UsageError(
            f'"{model.name}" has outputs {model.output_shape}; export takes one of shape '
            '(batch, classes), or several of which one is called "predictions"'
        )
    logits, probabilities = _split_softmax(model, outputs)
    prepared = keras.Model(model.inputs[0], {"logits": logits, "probabilities": probabilities})
    shape = model.inputs[0].shape[1:]
    scale_and_offset = scaling(preprocessing, shape[-1])
    if scale_and_offset is None:
        return prepared
    image = keras.Input(shape, name="image")
    scaled = keras.layers.Rescaling(*scale_and_offset, name="preprocessing")(image)
    return keras.Model(image, prepared(scaled))


def takes_pixels(model: "keras.Model") -> bool:
    """Return whether a functional model is seen to take pixels from 0 to 255.

    It is where the first thing that it does to an image brings white, 255, down to a few units, or
    puts zero between black and white. What is trained on pixels as they are cannot be told from
    what is trained on pixels that somebody scaled before.
    """
    import keras

    from keras_cnns.fusion.graph import unfolded, without_identities

    graph = without_identities(unfolded(model)[0])
    shape = (1, *model.inputs[0].shape[1:])
    black, white = np.zeros(shape, np.float32), np.full(shape, 255, np.float32)
    current, scaled = graph.inputs[0], False
    while True:
        users = [step for step in graph.steps if current in step.inputs.values()]
        if len(users) != 1 or type(users[0].operation) not in (
            keras.layers.Rescaling,
            keras.layers.Normalization,
        ):
            break
        black, white = (np.asarray(users[0].operation(x)) for x in (black, white))
        current, scaled = users[0].outputs[0], True
    low, high = float(black.min()), float(white.max())
    centred = low < 0 < high and 0.2 < -low / high < 5
    return scaled and (centred or max(abs(low), abs(high)) <= _FEW)


def _split_softmax(model: "keras.Model", output: Any) -> tuple[Any, Any]:
    """Return the class scores and the probabilities of a classifier's output."""
    import keras

    layer, call, _ = output._keras_history
    (source,) = layer._inbound_nodes[call].input_tensors
    activation = getattr(layer, "activation", None)
    if type(layer) is keras.layers.Softmax or (
        type(layer) is keras.layers.Activation and activation is keras.activations.softmax
    ):
        return source, output
    if activation is keras.activations.softmax:
        # The last layer has its softmax inside: one like it, without, gives the scores.
        plain = type(layer).from_config({**layer.get_config(), "activation": "linear"})
        logits = plain(source)
        plain.set_weights(layer.get_weights())
        return logits, keras.ops.softmax(logits)
    if activation not in (None, keras.activations.linear):
        raise UsageError(
            f'"{model.name}" ends in {getattr(activation, "__name__", activation)}; export takes '
            "single-label classifiers, whose output is a softmax or the class scores"
        )
    return output, keras.ops.softmax(output)


def _in_float32(model: "keras.Model") -> "keras.Model":
    """Return a copy of a functional model with the same weights, computing in float32."""
    import keras

    def cast(layer: "keras.Layer") -> "keras.Layer":
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    clone = keras.models.clone_model(model, clone_function=cast, recursive=True)
    clone.set_weights(model.get_weights())
    return clone


def randomise_norms(model: "keras.Model", images: np.ndarray, seed: int = 0) -> None:
    """Give every batch normalisation random scales and offsets, and the statistics of these images.

    Offsets above zero keep most units alive, as training does. Normalised and rectified, a small
    change of an image or a weight grows in power from layer to layer: by 1.47 with offsets of zero,
    where half the units are dead (Yang et al. 2019, "A mean field theory of batch normalization"),
    by 1.18 with 0.75 and by 1.05 with 1.5, by the same reckoning. So rounding Inception v4's
    weights to float16 changes its scores by 2.4 % of the largest with offsets of 0.3 to 1.2, and by
    0.22 % with these.
    """
    import keras

    draw = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight, low, high in ((layer.gamma, 0.5, 1.5), (layer.beta, 1.0, 2.0)):
                if weight is not None:
                    weight.assign(draw.uniform(low, high, weight.shape))
    settle_statistics(model, images)


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
