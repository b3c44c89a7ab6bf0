"""A model as one TensorFlow graph with its weights as constants."""

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


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
