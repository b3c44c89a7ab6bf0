"""What a network costs, layer by layer: of a name and a spec, of a Keras model, of a .keras file.

None of these needs TensorFlow, and only a model needs Keras.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnns import builder, zoo
from keras_cnns.errors import UsageError
from keras_cnns.trace import ARITHMETIC, FeatureMap, Row, trace_layer


class Cost(NamedTuple):
    """Trainable weights and multiply-adds for one image, in all and by layer."""

    name: str
    params: int
    macs: int
    layers: tuple[Row, ...]


def cost(network: Any, **arguments: Any) -> Cost:
    """Return what a network costs.

    Args:
        network: a zoo name, a functional Keras model, or the path of a .keras file.
        arguments: as of `keras_cnns.build`, for a zoo name.

    Raises:
        UsageError: as `keras_cnns.build`, and for a layer whose cost is not known.

    >>> cost("lenet5").macs
    416520
    >>> cost("resnet18", input_shape=(32, 32, 3), num_classes=10, spec={"stem": "small"}).params
    11173962
    """
    if isinstance(network, Path):
        return _of_config(_read_config(network))
    if isinstance(network, str):
        return _of_rows(zoo.get(network).name, builder.trace(network, **arguments).rows)
    return _of_config(network.get_config())


def _of_rows(name: str, rows: list[Row]) -> Cost:
    return Cost(name, sum(r.params for r in rows), sum(r.macs for r in rows), tuple(rows))


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))["config"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise UsageError(f"{path} is not a Keras model; give a .keras file") from None


def _of_config(config: Mapping[str, Any]) -> Cost:
    """Replay a functional model's saved graph on shapes."""
    maps: dict[str, FeatureMap] = {}
    rows: list[Row] = []
    for layer in config["layers"]:
        kind, arguments = layer["class_name"], layer["config"]
        name, nodes = arguments.get("name", kind), layer.get("inbound_nodes")
        if nodes is None:
            raise UsageError(f"{config['name']} is no functional model; its cost is not known")
        if kind == "InputLayer":
            shape = arguments.get("batch_shape") or arguments["batch_input_shape"]
            maps[name] = FeatureMap((None, *shape[1:]), rows=rows, name=name)
            continue
        if kind not in ARITHMETIC or not _is_plain(arguments, nodes):
            raise UsageError(
                f"{config['name']}: the cost of its layer {name} ({kind}) is not known"
            )
        inputs = _tensors(nodes[0]["args"][0], maps)
        maps[name] = trace_layer(kind, arguments, inputs)
    return _of_rows(config["name"], rows)


def _is_plain(arguments: Mapping[str, Any], nodes: list[Any]) -> bool:
    """Return whether a layer is called once, on one argument, with the channels last."""
    axis = arguments.get("axis", -1)
    return (
        len(nodes) == 1
        and len(nodes[0]["args"]) == 1
        and arguments.get("data_format") != "channels_first"
        and axis in (-1, 3, [-1], [3])
    )


def _tensors(saved: Any, maps: Mapping[str, FeatureMap]) -> Any:
    """Return the feature maps that a saved call's argument names."""
    if isinstance(saved, list):
        return [_tensors(item, maps) for item in saved]
    return maps[saved["config"]["keras_history"][0]]


def to_json(found: Cost) -> dict[str, Any]:
    """Return a cost in the shape that `keras-cnns show --json` prints."""
    rows = [
        {
            "name": row.name,
            "type": row.kind,
            "output_shape": row.shape,
            "params": row.params,
            "macs": row.macs,
            "activation_bytes": row.activation_bytes,
            "receptive_field": _size(row.receptive_field),
            "stride": _size(row.stride),
        }
        for row in found.layers
    ]
    return {"name": found.name, "params": found.params, "macs": found.macs, "layers": rows}


def _size(size: tuple[int, int]) -> int | list[int]:
    """One number for a square, else height and width."""
    return size[0] if size[0] == size[1] else list(size)
