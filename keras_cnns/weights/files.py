"""The weights in files that Keras has saved of our own models: numbers are read, never code."""

import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.preprocessing import PREPROCESSING
from keras_cnns.weights.carried import Carried, graph_of
from keras_cnns.zoo import NETS

SUFFIXES = (".keras", ".weights.h5")
# What readers raise that trip over a damaged file.
DAMAGE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def read(name: str | None, path: Path) -> Carried:
    """Return the weights in a .keras or .weights.h5 file, by the names of its layers.

    A .keras file tells too how its model preprocesses pixels, and of which network it is. A
    .weights.h5 file tells neither, and fits any network of the same layers: those of plain20_cifar
    and of resnet20_cifar are told apart by nothing, nor those of resnet50 and resnet50_v1.

    Raises:
        UsageError: the file is damaged, or another network's than `name`, where that is given.
    """
    preprocessing, graph = None, {}
    try:
        if path.name.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(_member(archive, "config.json"))["config"]
                with h5py.File(BytesIO(_member(archive, "model.weights.h5"))) as file:
                    values = _values(file)
            preprocessing = _preprocessing(config)
            if name and config["name"] in NETS and config["name"] != name:
                raise UsageError(f"it is of {config['name']}, not of {name}")
            graph = graph_of(config)
        else:
            with h5py.File(path) as file:
                values = _values(file)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except DAMAGE:
        raise UsageError(f"{path}: damaged, or not what Keras saves under that suffix") from None
    return Carried(values, preprocessing, str(path), graph=graph)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a file in a .keras file, as its checksum says; none is compressed, so none swells."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise UsageError(f"its {name} is compressed, which Keras does not do")
    return archive.read(name)


def _values(file: h5py.File) -> dict[str, list[np.ndarray]]:
    """Return the arrays of each layer that has some; the groups' own names only count kinds."""
    found = {}
    layers = _own(file, "layers")
    for kind in layers:
        variables = _own(_own(layers, kind), "vars")
        arrays = [_array(variables, str(i)) for i in range(len(variables))]
        if arrays:
            found[str(variables.attrs["name"])] = arrays
    return found


def _own(group: h5py.Group, name: str) -> Any:
    """Return what the file itself has under a name, and no link to elsewhere."""
    if isinstance(group.get(name, getlink=True), h5py.SoftLink | h5py.ExternalLink):
        raise UsageError(f"its {name} is a link, which Keras does not make")
    return group[name]


def _array(group: h5py.Group, name: str) -> np.ndarray:
    """Return an array whose every number is in the file."""
    array = _own(group, name)
    if array.dtype.kind != "f" or array.id.get_storage_size() != array.nbytes or array.external:
        raise UsageError(f"{array.name} is no plain array of floats")
    return array[...]


def _preprocessing(config: Mapping[str, Any]) -> str | None:
    """Return what a model's layer "preprocessing" does, None where there is none."""
    for layer in config["layers"]:
        found = layer["config"]
        if found["name"] == "preprocessing":
            for name, (scale, offset) in PREPROCESSING.items():
                if [found["scale"], found["offset"]] == [scale, offset]:
                    return name
            raise UsageError(f"its preprocessing is none of {', '.join(PREPROCESSING)}")
    return None
