"""What a network costs: weights, multiply-adds, bytes, layer by layer and in all.

Of a name and a spec, of a .keras file of layers that trace knows: arithmetic, without Keras. Of any
functional Keras model, and any other file: what its graph has.
"""

import contextlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnns import builder, graph, memory
from keras_cnns.arithmetic import ALL, ARITHMETIC, Config, Shape, Size, TooSmall, Window
from keras_cnns.errors import UsageError
from keras_cnns.memory import BYTES
from keras_cnns.trace import FeatureMap, Row, trace_layer


class Cost(NamedTuple):
    """What a network costs for one image; bytes are of float32.

    `params` are the trainable weights, `macs` the multiply-adds of convolutions and other products
    of matrices, `layers` a row for each layer; `inputs` are the shapes of what it takes, `outputs`
    layers whose outputs it gives; `smallest` looks for the smallest image.
    """

    name: str
    params: int
    macs: int
    layers: tuple[Row, ...]
    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...] = ()
    smallest: Callable[[], int | None] = lambda: None

    @property
    def min_size(self) -> int | None:
        """Height and width of the smallest image that these layers can be built for, in pixels.

        Each of their windows and strides finds its own length there. None for what takes no image,
        and where a layer is one that `keras_cnns.trace` does not know.
        """
        return self.smallest()

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights, moving averages included."""
        return BYTES * (self.params + sum(row.frozen for row in self.layers))

    @property
    def peak_activation_bytes(self) -> int:
        """Bytes of the feature maps that inference needs at once; see `keras_cnns.memory`."""
        return memory.peak_activation_bytes(self.layers, self.inputs, self.outputs)

    @property
    def inference_bytes(self) -> int:
        """Bytes that inference needs at most: of all weights, and of feature maps at once."""
        return self.weights_bytes + self.peak_activation_bytes

    def training_bytes(self, batch_size: int = 32, *, slots: int = 2) -> int:
        """Return an estimate of the bytes that a step of training needs.

        Weights, their gradients and `slots` numbers of the optimizer for each (Adam and AdamW
        have two, SGD with momentum one, plain SGD none); for each image the input, the output of
        every layer, kept for the way back, and the gradients of the largest layer's output and
        inputs.

        Libraries and scratch memory are not counted, and some outputs need not be kept. Divided by
        what AdamW's first three steps added to a process on a CPU (TensorFlow 2.21, Keras 3.15),
        it was, at batches of so many images: resnet18 1.06 (16), 1.30 (48); resnet50 0.99 (8), 1.29
        (24); densenet121 0.81 (8), 0.95 (24); inception_v1 0.91 (32); vgg11 0.66 to 0.85 (8), 1.02
        (32); alexnet_owt 0.74 (64); inception_v3 0.74 (8).

        >>> cost("lenet5").training_bytes(1, slots=0) < cost("lenet5").training_bytes(1)
        True
        """
        trained = BYTES * self.params * (1 + slots)
        sizes = {name: BYTES * prod(shape) for name, shape in self.inputs.items()}
        sizes |= {row.name: row.activation_bytes for row in self.layers}
        around = (sizes[row.name] + sum(sizes[x] for x in row.inputs) for row in self.layers)
        kept = sum(sizes.values()) + max(around, default=0)
        return self.weights_bytes + trained + batch_size * kept


def cost(network: Any, **arguments: Any) -> Cost:
    """Return what a network costs.

    Args:
        network: a zoo name, a functional or sequential Keras model, or the path of a .keras file.
        arguments: as of `keras_cnns.build`, for a zoo name, but for weights.

    Raises:
        UsageError: as `keras_cnns.build`; for a layer whose cost is not known, an image of any
            size, a file that is no model.

    >>> cost("lenet5").macs
    416520
    >>> cost("resnet18", input_shape=(32, 32, 3), num_classes=10, spec={"stem": "small"}).params
    11173962
    """
    if isinstance(network, str) and not network.endswith(".keras"):
        if arguments.pop("weights", None) is not None:
            raise UsageError(f"{network}: weights are not part of its cost; give the built model")
        rows = builder.trace(network, **arguments).rows
        plan = builder.plan(network, **arguments)
        return _of_rows(plan.net.name, rows, {"image": plan.image_shape}, (), plan.smallest)
    if arguments:
        raise UsageError(f"{', '.join(arguments)}: these are for a network's name, not for a model")
    if isinstance(network, str | Path):
        return _of_file(Path(network))
    found = graph.read(network)
    smallest = partial(_smallest_of_model, network)
    return _of_rows(network.name, found.rows, found.inputs, found.outputs, smallest)


def _of_rows(
    name: str, rows: Iterable[Row], inputs: Any, outputs: Any, smallest: Callable[[], int | None]
) -> Cost:
    images = [shape[:-1] for shape in inputs.values()]
    rows = tuple([_within(row, images) for row in rows])
    params, macs = sum([row.params for row in rows]), sum([row.macs for row in rows])
    return Cost(name, params, macs, rows, inputs, outputs, smallest)


def _within(row: Row, images: Sequence[Size]) -> Row:
    """Return a row with the image's own size in place of all of it."""
    seen = row.receptive_field
    if seen is None or ALL not in seen:
        return row
    whole = next((image for image in images if len(image) == len(seen)), None)
    sides = whole and tuple(n if r == ALL else int(r) for r, n in zip(seen, whole, strict=True))
    return row._replace(receptive_field=sides)


def _of_file(path: Path) -> Cost:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))["config"]
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file; give a .keras file") from None
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile):
        raise UsageError(f"{path} is not a Keras model; give a .keras file") from None
    # What is not as Keras saves a functional model of plain layers is for Keras to read.
    with contextlib.suppress(LookupError, TypeError, AttributeError, TooSmall):
        if all(_is_traced(layer) and _is_counted(layer["config"]) for layer in config["layers"]):
            rows, inputs = _replay(config)
            outputs = tuple(dict.fromkeys(_ends(config)))
            return _of_rows(config["name"], rows, inputs, outputs, partial(_smallest, config))
    return cost(graph.load_model(path))


def _is_traced(layer: Mapping[str, Any]) -> bool:
    """Return whether trace knows a saved layer, called once on maps of one size, channels last."""
    kind, config, nodes = layer["class_name"], layer["config"], layer.get("inbound_nodes")
    ours = str(layer.get("registered_name")).startswith("keras_cnns>")
    if nodes is None or not (ours or layer.get("module") == "keras.layers"):
        return False
    if kind == "InputLayer":
        return None not in config["batch_shape"][1:]
    if kind not in ARITHMETIC or len(nodes) != 1 or len(nodes[0]["args"]) != 1:
        return False
    given = nodes[0]["args"][0]
    shapes = [x["config"]["shape"] for x in (given if isinstance(given, list) else [given])]
    last, axis = len(shapes[0]) - 1, config.get("axis", -1)
    return (
        _fit(kind, shapes)
        and axis in (-1, last, [-1], [last])
        and config.get("data_format") != "channels_first"
    )


def _is_counted(config: Config) -> bool:
    """Return whether all weights of a saved layer are trained, and none were added to it."""
    return (
        config.get("trainable", True)
        and config.get("lora_rank") is None
        and "Quantized" not in str(config.get("dtype"))
    )


def _fit(kind: str, shapes: Sequence[Sequence[int | None]]) -> bool:
    """Return whether maps can be joined: added or, of any channels, concatenated."""
    return len({tuple(shape if kind == "Add" else shape[:-1]) for shape in shapes}) == 1


def _replay(config: Mapping[str, Any], size: int | None = None) -> tuple[list[Row], dict[str, Any]]:
    """Run a functional model's saved graph on shapes, or on square images of another size."""
    maps: dict[str, FeatureMap] = {}
    rows: list[Row] = []
    inputs: dict[str, Shape] = {}
    for layer in config["layers"]:
        kind, arguments = layer["class_name"], layer["config"]
        name = arguments["name"]
        if kind == "InputLayer":
            *sides, channels = arguments["batch_shape"][1:]
            inputs[name] = (*([size] * len(sides) if size else sides), channels)
            point = (1,) * len(sides) or None
            maps[name] = FeatureMap((None, *inputs[name]), point, point, rows, name=name)
            continue
        given = _tensors(layer["inbound_nodes"][0]["args"][0], maps)
        if isinstance(given, list) and not _fit(kind, [x.shape for x in given]):
            raise TooSmall(f"{name}: the maps of its branches differ in size")
        maps[name] = trace_layer(kind, arguments, given)
    return rows, inputs


def _smallest(config: Mapping[str, Any]) -> int | None:
    """Return the height and width of the smallest square image for a saved graph."""
    shapes = [x["config"]["batch_shape"] for x in config["layers"] if not x["inbound_nodes"]]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    for size in range(1, max(shapes[0][1:3]) + 1):
        with contextlib.suppress(TooSmall):
            _replay(config, size)
            return size
    return None


def _smallest_of_model(model: Any) -> int | None:
    """Return the height and width of the smallest square image for a model, where known."""
    model = getattr(model, "_functional", None) or model  # where a sequential one has its graph
    try:
        with warnings.catch_warnings(action="ignore"):
            config = json.loads(model.to_json())["config"]
    except Exception:  # whatever a layer of somebody's own has to say of being saved
        return None
    return _smallest(config) if all(map(_is_traced, config["layers"])) else None


def _ends(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the layers that give a saved model's outputs, in whichever structure those are."""
    waiting = [config["output_layers"]]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item[0], str):
            yield item[0]
        else:
            waiting.extend(item)


def _tensors(saved: Any, maps: Mapping[str, FeatureMap]) -> Any:
    """Return the feature maps that a saved call's argument names."""
    if isinstance(saved, list):
        return [_tensors(item, maps) for item in saved]
    return maps[saved["config"]["keras_history"][0]]


def to_json(found: Cost, *, batch_size: int = 32) -> dict[str, Any]:
    """Return a cost in the shape that `keras-cnns show --json` prints."""
    rows = [
        {
            "name": row.name,
            "type": row.kind,
            "output_shape": row.shape,
            "params": row.params,
            "macs": row.macs,
            "activation_bytes": row.activation_bytes,
            "receptive_field": _side(row.receptive_field),
            "stride": _side(row.stride),
        }
        for row in found.layers
    ]
    return {
        "name": found.name,
        "params": found.params,
        "macs": found.macs,
        "inputs": dict(found.inputs),
        "min_size": found.min_size,
        "weights_bytes": found.weights_bytes,
        "peak_activation_bytes": found.peak_activation_bytes,
        "inference_bytes": found.inference_bytes,
        "batch_size": batch_size,
        "training_bytes": found.training_bytes(batch_size),
        "layers": rows,
    }


def _side(size: Window | None) -> float | list[float] | None:
    """One number for a square, else height and width."""
    return None if size is None else size[0] if len(set(size)) == 1 else list(size)
