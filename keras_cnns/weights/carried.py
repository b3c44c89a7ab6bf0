"""Weights from elsewhere, by our layers' names; and how they get into a model."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnns.blocks import Top
from keras_cnns.errors import UsageError
from keras_cnns.trace import FeatureMap
from keras_cnns.zoo import Net

if TYPE_CHECKING:
    import keras


class Carried(NamedTuple):
    """Weights that were trained elsewhere, by the names of our layers.

    `values` has the arrays of each layer in the order of Keras's `layer.weights`;
    `preprocessing`, as of `build`, is what they were trained with; `spec` the changes of the
    paper's spec that they need; `source`, as "the file x.safetensors", is for errors; `graph` is
    that of `graph_of`, where the weights come with the network that they are of.
    """

    values: Mapping[str, list[np.ndarray]]
    preprocessing: str | None
    source: str
    spec: Mapping[str, Any] = MappingProxyType({})
    graph: Mapping[str, Any] = MappingProxyType({})


# What a layer computes does not depend on these.
_ASIDE = ("name", "dtype", "trainable", "seed", "batch_shape", "build_config")


def graph_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each layer of a functional model's config does, and to the outputs of which.

    The image and what is done to it first are left out, since weights go with any.
    """
    found = {}
    for layer in config["layers"]:
        settings = {
            key: value
            for key, value in layer["config"].items()
            if key not in _ASIDE and not key.endswith(("initializer", "regularizer", "constraint"))
        }
        sources: list[str] = []
        for node in layer["inbound_nodes"]:
            given = node["args"][0]
            for tensor in given if isinstance(given, list) else [given]:
                name = tensor["config"]["keras_history"][0]
                sources.append("image" if name == "preprocessing" else name)
        found[layer["config"]["name"]] = (layer["class_name"], _plain(settings), sources)
    return {k: v for k, v in found.items() if k not in ("image", "preprocessing")}


def _plain(settings: Mapping[str, Any]) -> Any:
    """Return settings as they come back from JSON."""
    return json.loads(json.dumps(settings, default=str))


def traced(net: Net, top: Top) -> FeatureMap:
    """Run the paper's own network on a shape; its main output, with all rows."""
    out = net.builder(FeatureMap((None, *net.input_shape)), net.spec, top)
    return out["predictions"] if isinstance(out, dict) else out


def optional(net: Net) -> dict[str, str]:
    """Return the layers that a model of this network may lack, and what of `build` leaves them out.

    >>> from keras_cnns.zoo import NETS
    >>> optional(NETS["vgg16"])["fc6"]
    'include_top=False'
    """
    bare, plain, whole = (
        [row.name for row in traced(net, top).rows]
        for top in (Top(include_top=False), Top(), Top(auxiliary=bool(net.auxiliary_params)))
    )
    return {
        name: "include_top=False" if name in plain else "auxiliary=False"
        for name in whole
        if name not in bare
    }


def misfit(source: str, net: Net, layer: str, needed: str, found: str) -> UsageError:
    """Return the error for weights that do not fit one layer; "" stands for no weights."""
    way = optional(net).get(layer)
    hint = f"; {way} takes the rest" if way else ""
    return UsageError(
        f"{source}: does not fit {net.name}; its layer {layer} needs {needed or 'no weights'}, "
        f"found {found or 'none'}{hint}"
    )


def agree(source: str, theirs: str | None, wanted: str | None) -> None:
    """Check that pixels are to be preprocessed as these weights need them; None leaves it open.

    Raises:
        UsageError: they are not.
    """
    if None not in (theirs, wanted) and theirs != wanted:
        raise UsageError(f'{source}: preprocessing must be "{theirs}" or left out, not "{wanted}"')


def assign(model: "keras.Model", carried: Carried, net: Net) -> None:
    """Set every weight of a model of this network, once all of them are known to fit.

    Raises:
        UsageError: for the first layer without values, or with values of other shapes; and for
            values of a layer that the network does not have.
    """
    weighted = {layer.name: layer for layer in model.layers if layer.weights}
    others = set(carried.values) - set(optional(net))
    for name in [*weighted, *sorted(others - set(weighted))]:
        needed = [tuple(w.shape) for w in weighted[name].weights] if name in weighted else []
        found = [value.shape for value in carried.values.get(name, [])]
        if found != needed:
            raise misfit(carried.source, net, name, _shapes(needed), _shapes(found))
    if carried.graph:
        _check_graph(carried, graph_of(model.get_config()), net)
    for name, layer in weighted.items():
        layer.set_weights(carried.values[name])


def _check_graph(carried: Carried, needed: Mapping[str, Any], net: Net) -> None:
    """Refuse the weights of a network that computes something else with the same weights."""
    ends = {*optional(net), "pool"}
    for name in [*needed, *carried.graph]:
        if name not in ends and needed.get(name) != carried.graph.get(name):
            raise UsageError(
                f"{carried.source}: its network has another layer {name} than {net.name} is to "
                "have; give the spec that it was built with"
            )


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " + ".join("x".join(map(str, shape)) for shape in shapes)
