"""Where a training stands, as one file: whole and sound, or not there.

A checkpoint is a safetensors file of every variable, with the rest of the state as JSON and a
SHA-256 of it all among its metadata. It is written under another name, forced to the disk and then
renamed; the one before it stays until it is there.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from keras_cnns.errors import UsageError

KEPT = 2
PATTERN = "checkpoint-*.safetensors"


class Checkpoint(NamedTuple):
    """The arrays by name, and the rest of the state."""

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class Damaged(Exception):
    """A file is no whole checkpoint."""


@contextmanager
def lasting(path: Path) -> Iterator[Path]:
    """Give a temporary name, whose file takes the place of `path` once it is safe on the disk."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a power cut."""
    folder = path.is_dir()
    if folder and not hasattr(os, "O_DIRECTORY"):  # Windows opens none
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(folder: Path, step: int, arrays: Mapping[str, np.ndarray], state: Any) -> None:
    """Write the checkpoint of a step; all but the newest two are then deleted.

    Raises:
        OSError: where the disk is full, say; the earlier checkpoints are still there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as place:
    ...     write(Path(place), 7, {"w": np.ones(2)}, {"epoch": 1})
    ...     newest(Path(place)).state
    {'epoch': 1}
    """
    solid = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    text = json.dumps(state)
    metadata = {"state": text, "sha256": _digest(solid, text)}
    place = folder / PATTERN.replace("*", f"{step:09d}")
    with lasting(place) as temporary:
        try:
            save_file(solid, temporary, metadata)
        except SafetensorError as error:
            # It tells of a failed write by its own class, with the system's words in the text.
            raise OSError(None, str(error), str(temporary)) from None
    # A later one is a damaged one that this training went back from.
    done = [path for path in _files(folder) if path.name <= place.name]
    for path in set(_files(folder)) - set(done[-KEPT:]):
        path.unlink(missing_ok=True)


def read(path: Path) -> Checkpoint:
    """Return a checkpoint whose checksum is right.

    Raises:
        Damaged: saying what is wrong with it.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["state"]
        if _digest(arrays, text) != metadata["sha256"]:
            raise Damaged(f"{path.name}: its checksum is wrong")
        return Checkpoint(arrays, json.loads(text))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise Damaged(f"{path.name}: not a whole checkpoint ({error})") from None


def newest(folder: Path, warn: Any = None) -> Checkpoint | None:
    """Return the newest sound checkpoint of a run; None where the run has none yet.

    Args:
        folder: the run's.
        warn: called with a line of text about each that is damaged.

    Raises:
        UsageError: where there are some, but none is sound.
    """
    problems = []
    for path in reversed(_files(folder)):
        try:
            found = read(path)
        except Damaged as problem:
            problems.append(str(problem))
            continue
        if problems and warn:
            warn(f"{'; '.join(problems)}; going on from {path.name} instead")
        return found
    if problems:
        raise UsageError(
            f"{folder}: no checkpoint can be read ({'; '.join(problems)}); delete the folder to "
            "train from the start, or choose another --out"
        )
    return None


def remove(folder: Path) -> None:
    """Delete the checkpoints of a run that has ended."""
    for path in _files(folder):
        path.unlink(missing_ok=True)


def set_aside(folder: Path) -> None:
    """Rename the checkpoints of a run that nothing may go on from, but a person may look at."""
    for path in _files(folder):
        path.rename(path.with_name(f"unequal-{path.name}"))


def are_set_aside(folder: Path) -> bool:
    """Return whether a run has checkpoints that nothing may go on from."""
    return any(folder.glob(f"unequal-{PATTERN}"))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN))


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """Return a checksum of names, shapes, numbers and text."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
