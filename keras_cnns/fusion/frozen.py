"""A model as one TensorFlow graph with its weights as constants."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
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
    """Trace grouped convolutions as plain operations, as ONNX and TFLite have them.

    Keras wraps them in a function compiled by XLA, which tf2onnx copies into the file as a call of
    something that no runtime knows.
    """
    with _convolving(model, _whole):
        yield


@contextlib.contextmanager
def split_grouped_convolutions(model: "keras.Model") -> Iterator[None]:
    """Trace grouped convolutions as one for each group, which TensorFlow runs everywhere.

    Without oneDNN its CPU kernel refuses a fused convolution with groups. With oneDNN, Keras's
    wrapping ends the process when it is read back from a SavedModel of a deep RepVGG: TensorFlow
    2.21 takes the handle of the kernel for its shape (`CalculateNodeMFlops` in the layout pass).
    XLA also compiles the wrapping anew for every size of a batch.
    """
    with _convolving(model, _by_group):
        yield


def _whole(layer: Any, x: Any, kernel: Any) -> Any:
    import tensorflow as tf

    return tf.nn.conv2d(
        x, kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate
    )


def _by_group(layer: Any, x: Any, kernel: Any) -> Any:
    import tensorflow as tf

    parts = zip(*(tf.split(whole, layer.groups, axis=-1) for whole in (x, kernel)), strict=True)
    return tf.concat([_whole(layer, *part) for part in parts], axis=-1)


@contextlib.contextmanager
def _convolving(model: "keras.Model", how: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """Compute grouped convolutions in another way while this lasts."""
    grouped = [layer for layer in model._flatten_layers() if getattr(layer, "groups", 1) > 1]
    grouped = [layer for layer in grouped if getattr(layer, "rank", 0) == 2]
    try:
        for layer in grouped:
            layer.convolution_op = functools.partial(how, layer)
        yield
    finally:
        for layer in grouped:
            layer.__dict__.pop("convolution_op", None)
