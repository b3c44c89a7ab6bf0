"""What a .keras file is looked over for before Keras opens it: it may come from anyone.

Keras itself refuses code (`Lambda`, functions by name) and paths that lead out of the archive. What
it does not do is to bound what a file of a few kilobytes asks it to allocate.
"""

import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Any

from keras_cnns.errors import UsageError

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
LARGEST_CONFIG = 2**26  # bytes; ResNet-1202's takes 4 million
LARGEST_MAP = 2**31  # numbers; 64 channels of 4,096 x 4,096 pixels are half of that


def check(path: Path) -> int:
    """Return how many bytes of weights a .keras file holds.

    Raises:
        UsageError: where it is none, or holds what Keras never writes: other files, compressed
            ones; or code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            for member in archive.infolist():
                known = member.filename in MEMBERS or member.filename.startswith("assets/")
                if not known or ".." in PurePosixPath(member.filename).parts:
                    raise UsageError(f'it holds "{member.filename}", which Keras never writes')
                if member.compress_type != zipfile.ZIP_STORED:
                    raise UsageError(f"its {member.filename} is compressed, which Keras never does")
            if len(sizes) < len(archive.infolist()):
                raise UsageError("it holds two files of one name, which Keras never writes")
            if sizes["config.json"] > LARGEST_CONFIG:
                raise UsageError(f"a description of {sizes['config.json']:,} bytes is too long")
            for described in _objects(json.loads(archive.read("config.json"))):
                _check_object(described)
            with archive.open("model.weights.h5") as weights:
                _check_weights(weights)
            return sizes["model.weights.h5"]
    except KeyError as error:
        raise UsageError(f"{path} cannot be read as a Keras model: it has no {error}") from None
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:  # also of recursion
        raise UsageError(f"{path} cannot be read as a Keras model: {error}") from None


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Return the parts of a config that describe an object or a function."""
    waiting = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if "class_name" in found:
                yield found
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _check_object(described: dict[str, Any]) -> None:
    """Refuse what is neither Keras's nor ours nor registered, and layers that hold code."""
    kind, module = described["class_name"], described.get("module") or "keras"
    if kind in ("Lambda", "TFSMLayer"):
        raise UsageError(f"its {kind} may run code")
    if str(module).split(".")[0] not in ("keras", "keras_cnns"):
        keras = sys.modules.get("keras")
        name = str(described.get("registered_name"))
        if keras is None or keras.saving.get_registered_object(name) is None:
            raise UsageError(f"its {module}.{kind} is neither Keras's nor registered with it")


def _check_weights(file: IO[bytes]) -> None:
    """Refuse links, and arrays that say to be larger than what there is of them."""
    import h5py

    with h5py.File(file) as weights:
        waiting, seen = [weights], set()
        while waiting:
            group = waiting.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise UsageError(f"its {group.name}/{name} is a link, which Keras never writes")
                found = group[name]
                if isinstance(found, h5py.Group):
                    if (place := h5py.h5o.get_info(found.id).addr) in seen:
                        raise UsageError(f"its {found.name} stands in it twice")
                    seen.add(place)
                    waiting.append(found)
                elif found.id.get_storage_size() < found.nbytes or found.external:
                    raise UsageError(f"its {found.name} lacks numbers of its {found.shape}")


@contextmanager
def at_most(size: int, path: Path) -> Iterator[None]:
    """Refuse, within, to create more bytes of weights than a file has values for.

    Raises:
        UsageError: before the memory is taken.
    """
    import keras

    add_weight = keras.layers.Layer.add_weight
    taken = 0

    def counted(self: Any, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += prod(int(n) for n in (shape or ()))
        if taken > size:  # a number takes a byte at least
            raise UsageError(
                f"{path}: describes a model that its {size:,} bytes of weights are not of"
            )
        return add_weight(self, shape, *args, **kwargs)

    keras.layers.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight


def check_maps(model: Any, path: Path) -> None:
    """Refuse a model of which a layer, run on one image, makes more than memory is likely to hold.

    Raises:
        UsageError: as said.
    """
    for layer in model._flatten_layers(include_self=False):
        for node in getattr(layer, "_inbound_nodes", ()):
            for tensor in node.output_tensors:
                if prod(size or 1 for size in tensor.shape) > LARGEST_MAP:
                    raise UsageError(f"{path}: its {layer.name} makes {tensor.shape} of one image")
