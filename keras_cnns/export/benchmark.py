"""How fast each file of an artifact folder is, beside its size and what it loses."""

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
    image = np.zeros((1, *described["input"]["shape"]), np.uint8)
    rows = []
    for record in described["artifacts"]:
        row = {key: record.get(key) for key in KEPT}
        with TemporaryDirectory() as scratch:
            for threads in THREADS:
                try:
                    _, note = run_alone(folder, record, image, Path(scratch), threads=threads)
                except Failed as failure:
                    raise UsageError(
                        f"{folder / record['file']}: {failure}; keras-cnns verify says more"
                    ) from None
                row[f"latency_ms_{threads}"] = note["latency_ms"]
        rows.append(row)
    return rows
