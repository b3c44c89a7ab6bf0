"""A classifier for images of one size becomes one for images of any size: VGG's dense test.

Simonyan & Zisserman 2014, section 3.2, https://arxiv.org/abs/1409.1556: "the fully-connected layers
are first converted to convolutional layers (the first FC layer to a 7x7 conv. layer, the last two
FC layers to 1x1 conv. layers)". The scores at each place of the map are then those of a window of
the image, and are averaged over the map.
"""

from typing import Any

import keras
from keras import layers

from keras_cnns import graph as graphs
from keras_cnns.errors import UsageError
from keras_cnns.fusion.graph import Graph, Step, unfolded, without_identities
from keras_cnns.layers import WholeStrides


def fully_convolutional(model: keras.Model) -> keras.Model:
    """Return a model that computes the same on images of its size, and takes larger ones as well.

    A dense layer on a flattened map becomes a convolution as large as the map; the dense layers
    above it, which work on the last axis, stay as they are and so are 1x1 convolutions. The map of
    class scores is averaged below the softmax. A network that averages its last map already is the
    same layers on a larger image. Weights are the model's own, shared where the layer stays.

    Of an image larger than the model's by other than whole strides, it is the centre that is so: at
    other sizes "same" pads strided layers otherwise than in training.

    Args:
        model: from images (height, width, channels) to probabilities, as a run's is.

    Raises:
        UsageError: where a layer takes images of one size only, as an MLP-Mixer's do, and where a
            model already takes any, or its strides are not known (see `keras_cnns.graph.read`).

    >>> import keras_cnns
    >>> model = fully_convolutional(keras_cnns.build("lenet5"))
    >>> model(keras.ops.zeros((1, 48, 64, 1))).shape
    TensorShape([1, 10])
    """
    graph, _ = unfolded(model)
    graph = without_identities(graph)
    (entry,), (exit_,) = graph.inputs, graph.outputs
    height, width, channels = graph.shapes[entry][1:]
    image = keras.Input((None, None, channels), dtype=model.inputs[0].dtype)
    whole = WholeStrides((height, width), _strides(model), dtype="float32")
    known: dict[int, Any] = {entry: whole(image)}
    flat: dict[int, tuple[int, ...]] = {}
    for step in graph.steps:
        try:
            made = _call(step, graph, known, flat, last=exit_ in step.outputs)
        except (ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f'"{model.name}" takes images of one size: its layer "{step.operation.name}" '
                f"({type(step.operation).__name__}) does not fit others ({reason}); "
                "use --crops 1, 5, 10 or 144"
            ) from None
        known.update(zip(step.outputs, keras.tree.flatten(made), strict=True))
    return keras.Model(image, known[exit_], name=model.name)


def _strides(model: keras.Model) -> tuple[int, int]:
    """Return the largest strides of a model's maps, in pixels of height and width."""
    maps = (row for row in graphs.read(model).rows if not row.kind.startswith("Global"))
    strides = [row.stride for row in maps if row.stride and len(row.shape) == 3]
    height, width = map(max, zip((1, 1), *strides, strict=True))
    return height, width


def _call(
    step: Step, graph: Graph, known: dict[int, Any], flat: dict[int, Any], *, last: bool
) -> Any:
    """Call a layer again on what is known; note in `flat` the maps that would have been flattened.

    Raises:
        ValueError: where the layer takes maps of one size only.
    """
    operation = step.operation
    source = next(iter(step.inputs.values()))
    if isinstance(operation, layers.Flatten):
        flat[step.outputs[0]] = graph.shapes[source][1:]
        return known[source]
    if isinstance(operation, layers.Reshape | layers.Permute):
        raise ValueError("it gives each place a meaning of its own")
    if any(value in flat for value in step.inputs.values()):
        if not isinstance(operation, layers.Dense):
            raise ValueError("it stands between a flattened map and a dense layer")
        return _convolution(operation, flat[source])(known[source])
    if last and len(known[source].shape) == 4:
        known = {**known, source: layers.GlobalAveragePooling2D(dtype="float32")(known[source])}
    again = {tensor: known[value] for tensor, value in step.inputs.items()}
    args, kwargs = step.arguments.fill_in(again)
    return operation(*args, **kwargs)


def _convolution(dense: layers.Dense, shape: tuple[int, ...]) -> layers.Conv2D:
    """Return the convolution that does to a map of a shape what a dense layer does to its numbers.

    A map (h, w, c) is flattened row by row, so that the kernel (h * w * c, units) has the order of
    the convolution's (h, w, c, units).
    """
    convolution = layers.Conv2D(
        dense.units,
        shape[:2],
        activation=dense.activation,
        use_bias=dense.use_bias,
        dtype=dense.dtype_policy,
        name=f"{dense.name}_conv",
    )
    convolution.build((None, None, None, shape[-1]))
    kernel, *bias = dense.get_weights()
    convolution.set_weights([kernel.reshape(*shape, dense.units), *bias])
    return convolution
