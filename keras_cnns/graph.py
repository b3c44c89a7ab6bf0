"""A Keras model's graph, layer by layer: any functional model, whoever built it."""

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_cnns import archive, kinds
from keras_cnns.arithmetic import Effect, Shape, Size
from keras_cnns.errors import UsageError
from keras_cnns.quiet import start_keras
from keras_cnns.trace import FeatureMap, Row, record

if TYPE_CHECKING:
    import keras


class Graph(NamedTuple):
    """A model's layers, each after those that it takes the outputs of.

    `inputs` are the shapes of what the model takes, `outputs` the layers that give what it gives,
    `tensors` the Keras tensors that come out of layers, but for those within a layer.
    """

    rows: tuple[Row, ...]
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    tensors: dict[str, Any]


class _Reading(NamedTuple):
    """What is known so far of a model that is being read."""

    model: str
    rows: list[Row]
    names: dict[str, int]  # of layers, and how many rows have them
    counted: set[int]  # weights that a row has already


def load_model(path: str | Path) -> "keras.Model":
    """Return the model in a .keras file.

    Raises:
        UsageError: for a file that is not a Keras model, that holds code, or that asks for more
            memory than its weights or an image can need.
    """
    size = archive.check(Path(path))
    start_keras()
    import keras

    import keras_cnns.layers  # noqa: F401  registers our layers by name

    try:
        with archive.at_most(size, Path(path)):
            model = keras.saving.load_model(path, compile=False)
        archive.check_maps(model, Path(path))
        return model
    except UsageError:
        raise
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{path} cannot be read as a Keras model: {reason}") from None


def read(model: Any) -> Graph:
    """Read a functional model, or a sequential one that knows its input.

    A layer that is called again has another row, "conv:2", and its weights are in the first. The
    layers of a model within a model are named after it: "model/conv".

    Raises:
        UsageError: for a model of another kind, an input of any size, a layer of unknown cost.
    """
    if not _is_graph(model):
        raise UsageError(
            f"{getattr(model, 'name', model)} is no functional model that knows its input; "
            "its cost is not known"
        )
    reading = _Reading(model.name, [], {}, set())
    maps: dict[int, FeatureMap] = {}
    for tensor in model.inputs:
        name = tensor._keras_history.operation.name
        shape = _shape(tensor, reading, name)
        maps[id(tensor)] = FeatureMap((None, *shape), *_point(shape), reading.rows, name=name)
    inputs = {each.name: _size(each) for each in maps.values()}
    tensors = {
        maps[id(tensor)].name: tensor for tensor in _follow(model.outputs, maps, "", reading)
    }
    outputs = dict.fromkeys(maps[id(tensor)].name for tensor in model.outputs)
    return Graph(tuple(reading.rows), inputs, tuple(outputs), tensors)


def _is_graph(operation: Any) -> bool:
    """Return whether this is a model whose graph is known: Keras's other layers have neither."""
    return bool(getattr(operation, "inputs", None) and getattr(operation, "outputs", None))


def _follow(
    outputs: Iterable[Any], maps: dict[int, FeatureMap], prefix: str, reading: _Reading
) -> Iterator[Any]:
    """Note in `maps`, by tensor, what the maps in it become on the way to outputs; yield each.

    Depth first and without recursion, as a network may have thousands of layers.
    """
    waiting = [*outputs][::-1]
    while waiting:
        tensor = waiting[-1]
        operation, index, _ = tensor._keras_history
        node = operation._inbound_nodes[index]
        missing = [each for each in node.input_tensors if id(each) not in maps]
        if id(tensor) in maps:
            waiting.pop()
        elif missing:
            waiting.extend(reversed(missing))
        else:
            given = [maps[id(each)] for each in node.input_tensors]
            made = _call(node, given, prefix, reading)
            maps.update(zip(map(id, node.outputs), made, strict=True))
            yield from node.outputs


def _call(node: Any, given: list[FeatureMap], prefix: str, reading: _Reading) -> list[FeatureMap]:
    """Return what comes out of one call of a layer, an operation or a model."""
    operation = node.operation
    name = _new_name(f"{prefix}{operation.name}", reading)
    if _is_graph(operation):
        maps = dict(zip(map(id, operation.inputs), given, strict=True))
        for _ in _follow(operation.outputs, maps, f"{name}/", reading):
            pass
        return [maps[id(tensor)] for tensor in operation.outputs]
    made = []
    for i, tensor in enumerate(node.outputs):
        output = _shape(tensor, reading, name)
        call = kinds.Call(
            operation, node.arguments.args, node.arguments.kwargs, [_size(x) for x in given], output
        )
        effect = _inside(node, i, reading) if call.own else kinds.effect(call)
        kind = type(operation).__name__
        if effect is None:
            hint = "; write what it does in keras.ops" if call.own else ""
            raise UsageError(
                f"{reading.model}: the cost of its layer {name} ({kind}) is not known{hint}"
            )
        if i == 0:
            params, frozen = _new_weights(operation, reading)
            effect = effect._replace(params=params, frozen=frozen)
        else:
            name, effect = _new_name(name, reading), effect._replace(macs=0)
        made.append(record(name, kind, given, effect))
    return made


def _inside(node: Any, output: int, reading: _Reading) -> Effect | None:
    """Return what a layer of somebody's own does: what the Keras operations of its call do.

    None where it does something else: only what comes out of Keras's operations is known.
    """
    import keras

    apart = reading._replace(rows=[], names={}, counted=set())
    maps = {}
    for tensor in node.input_tensors:
        shape = _shape(tensor, reading, node.operation.name)
        maps[id(tensor)] = FeatureMap((None, *shape), *_point(shape), apart.rows)
    try:
        found = keras.tree.flatten(
            node.operation.call(*node.arguments.args, **node.arguments.kwargs)
        )
        for _ in _follow(found, maps, "", apart):
            pass
    except Exception:  # whatever that code has to say of a tensor without numbers
        return None
    last = maps[id(found[output])]
    macs = sum(row.macs for row in apart.rows)
    return Effect(
        _size(last), macs=macs, window=last.receptive_field, strides=last.stride,
        before=tuple(-n for n in last.start),
    )  # fmt: skip


def _point(shape: Shape) -> tuple[Size | None, Size | None]:
    """Return what a pixel sees of itself, and its stride; a vector has no pixels."""
    point = (1,) * (len(shape) - 1) or None
    return point, point


def _size(x: FeatureMap) -> Shape:
    return tuple(n for n in x.shape[1:] if n is not None)


def _shape(tensor: Any, reading: _Reading, name: str) -> Shape:
    """Return a tensor's shape without the batch."""
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise UsageError(
            f"{reading.model}: the size of {name} is open, {shape}; build it for images of one size"
        )
    return shape


def _new_name(name: str, reading: _Reading) -> str:
    reading.names[name] = count = reading.names.get(name, 0) + 1
    return name if count == 1 else f"{name}:{count}"


def _new_weights(operation: Any, reading: _Reading) -> tuple[int, int]:
    """Return how many weights a layer trains and how many not, but for those counted before."""
    trained = {id(weight) for weight in getattr(operation, "trainable_weights", ())}
    counts = [0, 0]
    for weight in getattr(operation, "weights", ()):
        if id(weight) not in reading.counted:
            reading.counted.add(id(weight))
            counts[id(weight) not in trained] += prod(weight.shape)
    return counts[0], counts[1]
