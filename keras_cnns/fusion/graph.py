"""A Keras model as a list of calls, ready to be called again with changes."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

LINEAR = keras.activations.linear
_BATCH = 8
# At inference these give what they get.
IDENTITIES = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
    layers.Identity,
    layers.RandomFlip,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.RandomContrast,
    layers.RandomBrightness,
)


Shape = tuple[Any, ...]


class Step(NamedTuple):
    """A call in a graph: what is called, on which values, and which come out.

    `inputs` says which value each symbolic tensor of `arguments` is.
    """

    operation: Any
    arguments: Any
    inputs: dict[int, int]
    outputs: tuple[int, ...]


class Graph(NamedTuple):
    """A model as a list of calls in the order of their running, nested models unfolded."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: dict[int, Shape]


def unfolded(model: keras.Model) -> tuple[Graph, Any]:
    """Return a model's graph, and the structure of its outputs, without auxiliary heads."""
    structure, outputs = model._outputs_struct, list(model.outputs)
    if isinstance(structure, dict) and "predictions" in structure:
        structure = structure["predictions"]
        outputs = [structure]
    shapes: dict[int, Shape] = {}

    def value(tensor: Any) -> int:
        shapes[len(shapes)] = tuple(tensor.shape)
        return len(shapes) - 1

    def unfold(function: Any, environment: dict[int, int]) -> Iterator[Step]:
        """Yield the calls within a function whose inputs are in the environment."""
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input or not node.operation:
                    continue
                inputs = {id(x): environment[id(x)] for x in node.input_tensors}
                inner = _inner_function(node.operation)
                if inner is None:
                    outputs = tuple(value(x) for x in node.outputs)
                    yield Step(node.operation, node.arguments, inputs, outputs)
                else:
                    passed = zip(inner.inputs, node.input_tensors, strict=True)
                    within = {id(x): environment[id(y)] for x, y in passed}
                    yield from unfold(inner, within)
                    outputs = tuple(within[id(x)] for x in inner.outputs)
                environment.update(zip(map(id, node.outputs), outputs, strict=True))

    environment = {id(x): value(x) for x in model.inputs}
    inputs = tuple(environment.values())
    steps = tuple(unfold(model, environment))
    return Graph(steps, inputs, tuple(environment[id(x)] for x in outputs), shapes), structure


def _inner_function(operation: Any) -> Any:
    """Return the graph within an operation that is a functional or sequential model."""
    if isinstance(operation, keras.Sequential):
        operation.build(operation.input_shape) if not operation.built else None
        return operation._functional
    return operation if hasattr(operation, "_nodes_by_depth") else None


def without_identities(graph: Graph) -> Graph:
    """Take out the calls that do nothing at inference."""
    same: dict[int, int] = {}
    steps = []
    for step in graph.steps:
        inputs = {key: same.get(v, v) for key, v in step.inputs.items()}
        if _is_identity(step):
            same[step.outputs[0]] = next(iter(inputs.values()))
        else:
            steps.append(step._replace(inputs=inputs))
    outputs = tuple(same.get(v, v) for v in graph.outputs)
    return graph._replace(steps=tuple(steps), outputs=outputs)


def _is_identity(step: Step) -> bool:
    operation = step.operation
    # Random layers are called with training=True where nobody says so.
    usual = inspect.signature(operation.call).parameters.get("training")
    if step.arguments.kwargs.get("training") and not (usual and usual.default is True):
        return False
    plain = type(operation) is layers.Activation and operation.activation is LINEAR
    # An activation in another precision casts.
    return type(operation) in IDENTITIES or (plain and operation.name != "predictions")


def running(graph: Graph, images: np.ndarray) -> Iterator[tuple[Step, list[Any], list[Any]]]:
    """Run a graph of one input on images, and yield each call, what it was given and what it made.

    All calls on some of the images come before those on the next.
    """
    for start in range(0, len(images), _BATCH):
        batch = keras.ops.convert_to_tensor(images[start : start + _BATCH], "float32")
        known = dict(zip(graph.inputs, [batch], strict=True))
        for step in graph.steps:
            args, kwargs = step.arguments.fill_in({k: known[v] for k, v in step.inputs.items()})
            with keras.StatelessScope():  # a normalisation may be told to train
                made = keras.tree.flatten(step.operation(*args, **kwargs))
            known.update(zip(step.outputs, made, strict=True))
            yield step, [known[value] for value in step.inputs.values()], made
