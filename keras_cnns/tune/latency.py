"""How fast a network is as a file on this machine; by our own commands, in other processes.

What trains a network imports nothing of what converts it: here too they meet in a file.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keras_cnns import train
from keras_cnns.recipe import Recipe

FORMATS = ("tflite", "onnx")


def measure(recipe: Recipe, classes: int, form: str) -> float:
    """Return the milliseconds for one image, on one thread, of an untrained network's file.

    Args:
        recipe: a resolved one.
        classes: of the data.
        form: one of `FORMATS`.

    Raises:
        RuntimeError: where it cannot be exported; says what the export said.
    """
    with TemporaryDirectory() as scratch:
        file, out = Path(scratch) / "model.keras", Path(scratch) / "files"
        train.build(recipe, classes).save(file)
        _command("export", file, "--out", out, "--formats", form)
        (row,) = json.loads(_command("benchmark", out, "--json"))
    return float(row["latency_ms_1"])


def _command(*words: Any) -> str:
    command = [sys.executable, "-m", "keras_cnns", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return done.stdout
