"""Run one model file in its own runtime: numpy and that runtime, nothing else.

This module imports nothing of keras_cnns, so that it also works as a program of its own:
`python -P runners.py FORMAT FILE IMAGES.npy OUTPUTS.npz [THREADS]` runs the file on the images and
writes the outputs, the latency and what was imported. `verify` starts it once for every file: a
runtime that crashes takes nothing else down, and TensorFlow is seen to be absent where it is not
needed.
"""

import json
import os
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH = 16
THREADS = 2
_RUNS, _SECONDS = 20, 2.0


class Runner(NamedTuple):
    """A loaded file: `run` maps uint8 images (n, height, width, channels) to named outputs."""

    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    labels: list[str] | None


def load(format: str, path: str | Path, *, threads: int = THREADS) -> Runner:
    """Load a model file for its runtime.

    Args:
        format: "savedmodel", "tflite" or "onnx".
        path: the file, or the folder of a SavedModel.
        threads: how many threads the runtime may use; TensorFlow takes its number from the
            environment (TF_NUM_INTRAOP_THREADS), since it can be set only once in a process.

    Raises:
        KeyError: for another format.
        Exception: whatever the runtime raises on a file that it cannot load.
    """
    return _LOADERS[format](str(path), threads)


def load_onnx(path: str, threads: int) -> Runner:
    """Load an ONNX file into onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    notes = session.get_modelmeta().custom_metadata_map
    layout = json.loads(notes.get("preprocessing", "{}")).get("layout", "NHWC")

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        image = as_layout(pixels, layout).astype(np.float32)
        return dict(zip(names, session.run(names, {"image": image}), strict=True))

    labels = notes.get("labels")
    return Runner(_in_batches(run, BATCH), None if labels is None else json.loads(labels))


def as_layout(images: np.ndarray, layout: str) -> np.ndarray:
    """Return images (..., height, width, channels) in a file's layout, NHWC or NCHW."""
    return images if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(images, -1, -3))


def load_tflite(path: str, threads: int) -> Runner:
    """Load a TFLite file, made for batches of one, into LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    outputs = interpreter.get_output_details()

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(image["index"], pixels.astype(image["dtype"]))
        interpreter.invoke()
        return {output["name"]: interpreter.get_tensor(output["index"]) for output in outputs}

    labels = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            labels = archive.read("labels.txt").decode().splitlines()
    return Runner(_in_batches(run, 1), labels)


def load_savedmodel(path: str, threads: int) -> Runner:
    """Load a SavedModel's `serving_default` signature into TensorFlow."""
    import tensorflow as tf

    place = max(Path(path).glob("[0-9]*"), key=lambda version: int(version.name))
    loaded = tf.saved_model.load(str(place))

    # `loaded` is a default so that it lives as long as run: a signature does not own its variables.
    def run(pixels: np.ndarray, loaded: Any = loaded) -> dict[str, np.ndarray]:
        image = tf.constant(pixels, tf.float32)
        outputs = loaded.signatures["serving_default"](image=image)
        return {name: outputs[name].numpy() for name in ("logits", "probabilities")}

    labels = place / "assets" / "labels.txt"
    text = labels.read_text(encoding="utf-8") if labels.is_file() else None
    return Runner(_in_batches(run, BATCH), None if text is None else text.splitlines())


_LOADERS: dict[str, Callable[[str, int], Runner]] = {
    "savedmodel": load_savedmodel,
    "tflite": load_tflite,
    "onnx": load_onnx,
}


def _in_batches(
    run: Callable[[np.ndarray], dict[str, np.ndarray]], size: int
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    def batched(pixels: np.ndarray) -> dict[str, np.ndarray]:
        parts = [run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return batched


def latency_ms(run: Callable[[np.ndarray], Any], image: np.ndarray) -> float:
    """Return the median milliseconds of a batch of one image, over at most 20 runs or 2 seconds."""
    for _ in range(3):
        run(image)
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _SECONDS:
        start = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main(format: str, file: str, images: str, outputs: str, threads: str = str(THREADS)) -> None:
    """Run a file on saved images, and save its outputs together with a JSON note named `note`."""
    # One answer for every machine needs none of its GPUs.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TF_NUM_INTRAOP_THREADS"] = threads
    pixels = np.load(images, mmap_mode="r")
    runner = load(format, file, threads=int(threads))
    results: dict[str, Any] = dict(runner.run(pixels))
    note = {
        "latency_ms": latency_ms(runner.run, pixels[:1]),
        "threads": int(threads),
        "labels": runner.labels,
        "imported": [n for n in ("tensorflow", "keras", "keras_cnns") if n in sys.modules],
    }
    np.savez(outputs, note=np.array(json.dumps(note)), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
