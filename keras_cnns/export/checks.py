"""What every writer asserts about its file before it hands it over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class ExportError(RuntimeError):
    """A written file failed its check; the message says in one line which file, and why.

    The commands print the message and exit with 1. `artifacts` are the records of all files, as in
    manifest.json, where a file was written and then disagreed with its model.
    """

    def __init__(self, message: str, artifacts: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.artifacts = artifacts


class Trial(NamedTuple):
    """What a written file is tried on.

    `images` are a few different ones, uint8; `kernels` says how many weights the file must hold.
    The float model's probabilities are `varied` if they change with the image: those of
    keras.applications' untrained MobileNetV2 do not, since its class scores differ by 1e-10.
    """

    images: np.ndarray
    kernels: int
    varied: bool = True


def check_size(file: str, size_bytes: int, kernels: int, bytes_per_weight: int) -> None:
    """Refuse a file too small to hold the weights of the model's kernels, or far too large.

    Batch normalisation is folded away and biases are few, so that kernels alone are counted; the
    graph itself may take 8 MiB.

    >>> check_size("model.onnx", 4_000, kernels=1_000, bytes_per_weight=4)
    >>> check_size("model.onnx", 400, kernels=1_000, bytes_per_weight=4)
    Traceback (most recent call last):
    keras_cnns.export.checks.ExportError: model.onnx: 400 bytes cannot hold 1,000 weights of 4 bytes
    """
    if size_bytes < 0.9 * kernels * bytes_per_weight:
        raise ExportError(
            f"{file}: {size_bytes:,} bytes cannot hold {kernels:,} weights "
            f"of {bytes_per_weight} bytes"
        )
    if size_bytes > 1.5 * kernels * bytes_per_weight + (8 << 20):
        raise ExportError(
            f"{file}: {size_bytes:,} bytes are too many for {kernels:,} weights "
            f"of {bytes_per_weight} bytes"
        )


def check_outputs(
    file: str, outputs: dict[str, np.ndarray], *, quantised: bool = False, varied: bool = True
) -> None:
    """Refuse a file whose outputs are not finite, or say nothing about the image.

    Args:
        file: its name, for the message.
        outputs: its outputs on several different images, (n, classes) each.
        quantised: an output has 256 values, so that many classes can tie for the first place: a
            file where most images have such a tie has quantised to nothing.
        varied: the float model's own probabilities change with the image.

    Raises:
        ExportError: outputs are not finite, do not change with the image, or tie.
    """
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise ExportError(f"{file}: {name} holds values that are not finite")
    if quantised:
        ((what, values),) = outputs.items()
        tied = (values == values.max(axis=1, keepdims=True)).sum(axis=1) > 1
        if tied.mean() > 0.5:
            raise ExportError(
                f"{file}: {tied.sum()} of {len(values)} images have no single most probable class, "
                f"since steps of 1/256 cannot tell {values.shape[1]:,} such {what} apart; "
                "int8 is for trained models"
            )
    for name, values in outputs.items():
        if (varied or name == "logits") and not np.ptp(values, axis=0).any():
            raise ExportError(f"{file}: {name} is the same for {len(values)} different images")


def folder_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)
