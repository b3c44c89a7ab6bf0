"""An artifact folder's ONNX file: checked against its manifest, opened once, fed with pixels."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

SCHEMA = "keras_cnns artifact 1"
_DAMAGE = (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError)


class Model(NamedTuple):
    """What is served: `run` maps uint8 images (n, height, width, channels) to (n, classes)."""

    name: str
    shape: tuple[int, int, int]
    labels: list[str]
    sha256: str
    run: Callable[[np.ndarray], np.ndarray]


def open_model(folder: str | Path, threads: int) -> Model:
    """Open the ONNX file of an artifact folder that `keras-cnns export` wrote, and try it once.

    Args:
        folder: the artifact folder; it is only read.
        threads: how many of them one run of the network uses.

    Raises:
        ValueError: in one line, what is wrong with the folder and what to do.
    """
    place = Path(folder, "manifest.json")
    try:
        manifest = json.loads(place.read_bytes())
        if manifest.get("schema") != SCHEMA:
            raise ValueError(f'{place} does not say "schema": "{SCHEMA}"; export the model again')
        records = [r for r in manifest["artifacts"] if r["format"] == "onnx"]
        if not records:
            raise ValueError(f"{folder} holds no ONNX file; export with --formats onnx")
        file, layout = records[0]["file"], records[0].get("layout", "NHWC")
        content = Path(folder, file).read_bytes()
        shape, labels = tuple(manifest["input"]["shape"]), manifest["labels"]
    except OSError as error:
        raise ValueError(
            f"{error.filename} cannot be read ({error.strerror}); "
            "give a folder that keras-cnns export wrote"
        ) from None
    except _DAMAGE as error:
        raise ValueError(f"{place} is damaged ({error!r}); export the model again") from None
    # What was checked is what runs: the file is not opened a second time.
    digest = hashlib.sha256(content).hexdigest()
    if digest != records[0]["sha256"]:
        raise ValueError(
            f"{folder}/{file} is not the file that the manifest describes: "
            "its sha256 differs; copy or export it again"
        )
    if len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise ValueError(f"{place} asks for images of shape {shape}; 1, 3 or 4 channels can be fed")
    if note := manifest["input"].get("note"):
        print(f"{place}: {note}", file=sys.stderr)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed too
    # Threads that wait in a loop for work take the cores that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    axes = (0, 3, 1, 2) if layout == "NCHW" else (0, 1, 2, 3)

    def run(pixels: np.ndarray) -> np.ndarray:
        image = pixels.transpose(axes).astype(np.float32, order="C")
        (result,) = session.run(["probabilities"], {"image": image})
        return result

    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        classes = run(np.zeros((1, *shape), np.uint8)).shape[-1]
    except Exception as error:  # onnxruntime's have no class of their own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{folder}/{file} cannot be run ({reason}); export again") from None
    if classes != len(labels):
        raise ValueError(f"{place} has {len(labels)} labels for {classes} classes; export again")
    return Model(manifest.get("name", "model"), shape, labels, digest, run)
