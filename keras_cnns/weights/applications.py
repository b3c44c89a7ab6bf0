"""The weights of keras.applications, made to fit the same networks here.

Both networks are the same graph, but for layers without weights. So layers correspond by their
place: the two are walked from the end to the image, side by side. What differs is folded exactly.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_cnns.blocks import Top
from keras_cnns.errors import UsageError
from keras_cnns.quiet import start_keras
from keras_cnns.trace import Row
from keras_cnns.weights.carried import Carried, misfit, traced
from keras_cnns.zoo import NETS, Net

if TYPE_CHECKING:
    import keras


class Sibling(NamedTuple):
    """A network of keras.applications: its name, its preprocessing, and the epsilon of ours."""

    name: str
    preprocessing: str
    epsilon: float = 1e-5


SIBLINGS: Mapping[str, Sibling] = MappingProxyType(
    {
        "vgg16": Sibling("VGG16", "caffe"),
        "vgg19": Sibling("VGG19", "caffe"),
        "inception_v3": Sibling("InceptionV3", "symmetric", 1e-3),
        "inception_resnet_v2": Sibling("InceptionResNetV2", "symmetric", 1e-3),
        "xception": Sibling("Xception", "symmetric", 1e-3),
        **{f"resnet{n}_v1": Sibling(f"ResNet{n}", "caffe") for n in (50, 101, 152)},
        **{f"resnet{n}_v2_keras": Sibling(f"ResNet{n}V2", "symmetric") for n in (50, 101, 152)},
        **{f"densenet{n}": Sibling(f"DenseNet{n}", "imagenet") for n in (121, 169, 201)},
    }
)


def sibling_of(net: Net) -> Sibling:
    """Return the same network of keras.applications.

    Raises:
        UsageError: there is none; names those of its family, the closest alone where there are.

    >>> sibling_of(NETS["vgg16"]).name
    'VGG16'
    """
    if net.name not in SIBLINGS:
        family = [name for name in SIBLINGS if NETS[name].family == net.family]
        close = [n for n in family if n.startswith(net.name) or net.name.startswith(n)]
        raise UsageError(
            f'{net.name} has no weights "imagenet"; networks that have: '
            f"{', '.join(close or family or SIBLINGS)}"
        )
    return SIBLINGS[net.name]


def source_of(net: Net) -> str:
    """Return how errors name the weights."""
    return f"keras.applications' {SIBLINGS[net.name].name}"


def check(net: Net, rows: Iterable[Row]) -> None:
    """Check, before anything is downloaded, that the weights will fit a network of these rows.

    Raises:
        UsageError: for the first layer that they do not fit.
    """
    there = {row.name: row.params for row in traced(net, Top()).rows}
    for row in rows:
        found = there.get(row.name, 0)
        if row.params != found:
            raise misfit(source_of(net), net, row.name, _count(row.params), _count(found))


def _count(params: int) -> str:
    return f"{params} weights" if params else ""


def load(name: str, include_top: bool) -> "keras.Model":
    """Return a network of keras.applications with its weights, which Keras downloads and keeps.

    Raises:
        UsageError: they cannot be had.
    """
    start_keras()
    import keras

    try:
        return getattr(keras.applications, name)(weights="imagenet", include_top=include_top)
    except Exception as error:  # Keras raises no narrower one when a download fails.
        why = " ".join(str(error).split())
        raise UsageError(f"keras.applications' {name}: its weights cannot be had: {why}") from error


def read(net: Net, include_top: bool) -> Carried:
    """Return the weights of keras.applications for one of `SIBLINGS`.

    Raises:
        UsageError: they cannot be had.
    """
    sibling = SIBLINGS[net.name]
    values = translate(load(sibling.name, include_top), net, include_top)
    return Carried(values, sibling.preprocessing, source_of(net))


def translate(theirs: "keras.Model", net: Net, include_top: bool) -> dict[str, list[np.ndarray]]:
    """Return the weights of a network of keras.applications by our layers' names.

    A bias before a normalisation goes into its mean, another epsilon into its variance; a missing
    gamma is 1. Where they take blue first, the kernel is turned to take red first.
    """
    out = traced(net, Top(include_top=include_top))
    rows = {row.name: row for row in out.rows}
    here = _walk({name: row.inputs for name, row in rows.items()}, out.name)
    there = _walk({layer.name: _inputs(layer) for layer in theirs.layers}, theirs.layers[-1].name)
    layers = [layer for layer in map(theirs.get_layer, there) if layer.weights]
    pairs = dict(zip([name for name in here if rows[name].params], layers, strict=True))
    sibling = SIBLINGS[net.name]
    values: dict[str, dict[str, np.ndarray]] = {}
    for row in out.rows:
        if not row.params:
            continue
        layer = pairs[row.name]
        names = [weight.name for weight in layer.weights]
        arrays = dict(zip(names, layer.get_weights(), strict=True))
        if row.kind == "BatchNormalization":
            bias = values.get(row.inputs[0], {}).pop("bias", 0)
            arrays = {
                "gamma": np.ones_like(arrays["beta"]),
                **arrays,
                "moving_mean": arrays["moving_mean"] - bias,
                "moving_variance": arrays["moving_variance"] + (layer.epsilon - sibling.epsilon),
            }
        values[row.name] = arrays
    if sibling.preprocessing == "caffe":
        first = next(iter(values.values()))
        first["kernel"] = first["kernel"][:, :, ::-1]
    return {name: list(arrays.values()) for name, arrays in values.items()}


def _walk(inputs: Mapping[str, Iterable[str]], end: str) -> list[str]:
    """Return a graph's nodes from its end to its beginning, last inputs first."""
    found: dict[str, None] = {}
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name not in found and name in inputs:
            found[name] = None
            waiting.extend(inputs[name])
    return list(found)


def _inputs(layer: "keras.Layer") -> list[str]:
    """Return the names of the layers whose outputs a layer takes."""
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation.name for tensor in tensors]
