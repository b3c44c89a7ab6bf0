"""How fast each file of an artifact folder is, beside its size and what it loses."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.export import manifest
from keras_cnns.export.verify import Failed, run_alone

THREADS = (1, 2)
KEPT = ("file", "format", "quantization", "bytes", "relative_error", "agreement", "accuracy")


def benchmark(folder: str | Path) -> list[dict[str, Any]]:
    """Return a row for each file: what the manifest has of it, and milliseconds by threads.

    Each is the median for one image, of a process of its own. Size, error (as a share of the
    largest class score), agreement and accuracy are those of the export.

    Raises:
        UsageError: for a folder that is none of `export`, or a file that does not run.
    """
    folder = Path(folder)
    described = manifest.read(folder)
    rows = []
    for record in described["artifacts"]:
        try:
            measured = latencies(folder, record, described["input"]["shape"])
        except Failed as failure:
            raise UsageError(
                f"{folder / record['file']}: {failure}; keras-cnns verify says more"
            ) from None
        rows.append({key: record.get(key) for key in KEPT} | measured)
    return rows


def latencies(
    folder: Path,
    record: dict[str, Any],
    image_shape: Sequence[int],
    threads: Sequence[int] = THREADS,
) -> dict[str, float]:
    """Return the milliseconds that one file takes for one image, by threads.

    Raises:
        Failed: the file does not run.
    """
    image = np.zeros((1, *image_shape), np.uint8)
    found = {}
    with TemporaryDirectory() as scratch:
        for count in threads:
            _, note = run_alone(folder, record, image, Path(scratch), threads=count)
            found[f"latency_ms_{count}"] = note["latency_ms"]
    return found
