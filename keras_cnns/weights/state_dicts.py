"""State dicts in torchvision's or timm's naming, from .safetensors, .pth and .npz files.

Nothing in a file is ever run: .npz without pickles, .pth by torch's reader of weights alone, and
only by a torch whose reader is known to be safe.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from math import isqrt, prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import numpy as np

from keras_cnns.blocks import Top
from keras_cnns.errors import UsageError
from keras_cnns.spec import merge
from keras_cnns.trace import FeatureMap, Row
from keras_cnns.weights.carried import Carried
from keras_cnns.weights.torch_names import NAMINGS, Naming
from keras_cnns.zoo import NETS, get, spec_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".npz")
# Older ones could be made to run code: CVE-2025-32434, CVE-2026-24747.
SAFE_TORCH = (2, 10)
MOST_SWELLING = 10  # of a compressed file; weights hardly do
# Where trainings put the weights among other things, and what wrappers put before each name.
WRAPPINGS = ("state_dict", "model")
PREFIXES = re.compile(r"^(?:(?:module|model|_orig_mod)\.)+")


def read(name: str, path: Path, spec: Any = None) -> Carried:
    """Return a state dict's weights by the names of our layers.

    Every tensor of the file has its place, and every layer its tensors; heads besides the main one
    may be missing as a whole. Convolutions come as (height, width, in, out), dense layers as
    (in, out), the first one behind a flattened map in the order of (height, width, channels).

    Args:
        name: of a network that torchvision or timm has, as `list_models` has it.
        path: the file, its suffix one of `SUFFIXES`.
        spec: changes of the network's spec, where the file's network was changed alike.

    Raises:
        UsageError: for another network's file, a damaged one, one with anything but tensors, or a
            network that neither library has.
    """
    naming = _naming(get(name).name)
    source = str(path)
    tensors = _spelled(naming, _tensors(path), source)
    rows = _rows(name, spec)
    wanted = _wanted(naming, rows)
    if not tensors.keys() & {key for row, keys in wanted.items() if _extra(row) for key in keys}:
        wanted = {row: keys for row, keys in wanted.items() if not _extra(row)}
    _check_keys(name, wanted, tensors, source)
    values = {}
    for row, keys in wanted.items():
        arrays = [tensors[key] for key in keys]
        try:
            values[row.name] = _arrays(row, arrays, rows, naming)
        except ValueError:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise UsageError(
                f'{source}: "{keys[0]}" has shape {shapes}, which {name}\'s layer {row.name} '
                f"({row.kind}) cannot take; the file is of another network"
            ) from None
    return Carried(values, naming.preprocessing, source, naming.spec)


def _naming(name: str) -> Naming:
    """Return how a network's state dict is to be read."""
    if name in NAMINGS:
        return NAMINGS[name]
    family = NETS[name].family
    able = [other for other in NAMINGS if NETS[other].family == family]
    raise UsageError(
        f"{name}: torchvision and timm have no such network, so no state dict of theirs fits it; "
        f"of its family they have {', '.join(able) or 'none'}"
    )


def _rows(name: str, spec: Any = None) -> Mapping[str, Row]:
    """Return all layers of a network, changed as theirs needs it, by name."""
    net = get(name)
    theirs = merge(spec_of(name, spec), NAMINGS[name].spec)
    top = Top(net.num_classes, auxiliary=bool(net.auxiliary_params))
    out = net.builder(FeatureMap((None, *net.input_shape)), theirs, top)
    rows = (out["predictions"] if isinstance(out, dict) else out).rows
    return {row.name: row for row in rows}


def _wanted(naming: Naming, rows: Mapping[str, Row]) -> dict[Row, list[str]]:
    """Return the names of each layer's tensors, in the order of Keras's weights."""
    wanted = {}
    for row in rows.values():
        if not row.params:
            continue
        module = naming.module(row.name, list(rows))
        keys = {
            "BatchNormalization": ["weight", "bias", "running_mean", "running_var"],
            "LayerNormalization": ["weight", "bias"],
            "SeparableConv2D": ["conv1.weight", "pointwise.weight"],
        }.get(row.kind, ["weight"])
        # MACs are weights times positions; what is beyond them is the bias.
        if row.macs and row.params * prod(row.shape[:-1]) > row.macs:
            keys = [*keys, "bias"]
        if module:
            wanted[row] = [f"{module}.{key}" for key in keys]
    return wanted


def _extra(row: Row) -> bool:
    """Tell a layer of an auxiliary head, which files may lack."""
    return row.name.startswith("auxiliary")


def _check_keys(
    name: str, wanted: Mapping[Row, list[str]], tensors: Mapping[str, Any], source: str
) -> None:
    """Raise a UsageError for the first tensor too many or too few."""
    places = {key: row.name for row, keys in wanted.items() for key in keys}
    missing = [key for key in places if key not in tensors]
    unknown = [key for key in tensors if key not in places]
    if not missing and not unknown:
        return
    if missing:
        key = missing[0]
        fault = f'{source} has no "{key}", which {name} needs for its layer {places[key]}'
    else:
        fault = f'{source} has "{unknown[0]}", which is none of {name}\'s weights'
    others = [other for other in NAMINGS if other != name and _fits(other, tensors)]
    if others:
        raise UsageError(f"{fault}; it looks like {' or '.join(others)}")
    libraries = " or ".join(NAMINGS[name].libraries)
    raise UsageError(f"{fault}; it takes a state dict of {libraries}")


def _fits(name: str, tensors: Mapping[str, Any]) -> bool:
    """Tell whether names are those of a network, its auxiliary heads included or not."""
    naming = NAMINGS[name]
    names = set(_spelled(naming, tensors))
    wanted = _wanted(naming, _rows(name))
    main = {key for row, keys in wanted.items() if not _extra(row) for key in keys}
    return names in (main, {key for keys in wanted.values() for key in keys})


def _spelled(naming: Naming, tensors: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Return tensors by the names that the naming knows, without what no inference needs."""
    renamed = {}
    for key, tensor in tensors.items():
        short = PREFIXES.sub("", key)
        for pattern, replacement in naming.spellings:
            short = re.sub(pattern, replacement, short)
        if short in renamed:
            raise UsageError(f'{source} has "{short}" twice; save one state dict alone')
        if not short.endswith("num_batches_tracked"):
            renamed[short] = tensor
    return renamed


def _arrays(
    row: Row, tensors: list[np.ndarray], rows: Mapping[str, Row], naming: Naming
) -> list[np.ndarray]:
    """Return a layer's tensors as Keras has them.

    Raises:
        ValueError: for a shape that such a layer never has.
    """
    first, *rest = tensors
    if row.kind == "BatchNormalization" and naming.epsilon:
        theirs, ours = naming.epsilon
        variance = rest[-1].astype("float64")
        first = (first * np.sqrt((variance + ours) / (variance + theirs))).astype("float32")
    elif row.kind == "SeparableConv2D":
        depthwise, (pointwise, *bias) = first.transpose(2, 3, 0, 1), rest
        return [depthwise, pointwise.transpose(2, 3, 1, 0), *bias]
    elif row.kind == "Conv2D":
        first = first[..., None, None] if first.ndim == 2 else first  # a mixer's dense layers
        first = first.transpose(2, 3, 1, 0)
    elif row.kind == "Dense":
        below = rows[row.inputs[0]]
        if first.ndim == 2 and below.kind == "Flatten":
            channels = rows[below.inputs[0]].shape[-1]
            side = isqrt(first.shape[1] // channels)
            first = first.reshape(-1, channels, side, side)
        if first.ndim == 4:  # timm's VGG, whose dense layers are convolutions
            first = first.transpose(2, 3, 1, 0).reshape(-1, len(first))
        else:
            first = first.transpose(1, 0)
    return [first, *rest]


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name, as float32."""
    readers = {".safetensors": _safetensors, ".npz": _npz, ".pth": _torch, ".pt": _torch}
    if path.suffix not in readers:
        raise UsageError(f"{path}: state dicts are read from {', '.join(SUFFIXES)} files")
    try:
        tensors = readers[path.suffix](path)
    except UsageError:
        raise
    except Exception as error:  # each reader has its own, and unpicklers stumble in any way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"{path}: cannot be read as a {path.suffix} file of tensors: {reason}"
        ) from None
    for key, value in tensors.items():
        if not isinstance(value, np.ndarray) or not np.can_cast(value.dtype, "f4", "same_kind"):
            raise UsageError(f'{path}: "{key}" is no tensor of numbers; save a state dict alone')
    return {key: value.astype("float32", copy=False) for key, value in tensors.items()}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401 (numpy knows "bfloat16" once it is imported)
    from safetensors.numpy import load_file

    return load_file(path)


def _npz(path: Path) -> dict[str, Any]:
    if not is_zipfile(path):  # numpy would take it for a pickle, and say how to run it
        raise UsageError(f"{path}: damaged, or no .npz file at all; np.savez writes them")
    with np.load(path, allow_pickle=False) as archive:
        size = sum(member.file_size for member in archive.zip.infolist())
        if size > MOST_SWELLING * path.stat().st_size:
            raise UsageError(f"{path}: would swell to {size} bytes, as weights do not")
        return dict(archive)


def _torch(path: Path) -> dict[str, Any]:
    """Read the weights of a .pth file, wherever a training has put them among other things."""
    try:
        import torch
    except ImportError:
        raise UsageError(
            f'{path}: reading {path.suffix} files needs torch: pip install "keras_cnns[torch]"; or '
            "save the state dict by safetensors.torch.save_file where torch is"
        ) from None
    if torch.__version__ < SAFE_TORCH:
        raise UsageError(
            f"{path}: torch {torch.__version__} can be made to run what such a file says; "
            f"install torch {'.'.join(map(str, SAFE_TORCH))} or later"
        )
    try:
        # A training's command line, which many keep beside the weights, is data.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # Torch's own words go on to say how to run what it refuses.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        fault = f"holds more than tensors, {asked[1]}" if asked else "damaged, or no state dict"
        raise UsageError(
            f"{path}: {fault}, so nothing of it was loaded or run; save model.state_dict() alone"
        ) from None
    for key in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: holds no state dict; save model.state_dict()")
    return {
        key: value.detach().float().numpy() if isinstance(value, torch.Tensor) else value
        for key, value in content.items()
    }
