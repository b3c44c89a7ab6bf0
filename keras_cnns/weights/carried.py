"""Weights from elsewhere, by our layers' names; and how they get into a model."""

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
    paper's spec that they need; `source`, as "the file x.safetensors", is for errors.
    """

    values: Mapping[str, list[np.ndarray]]
    preprocessing: str | None
    source: str
    spec: Mapping[str, Any] = MappingProxyType({})


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
    for name, layer in weighted.items():
        layer.set_weights(carried.values[name])


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " + ".join("x".join(map(str, shape)) for shape in shapes)
