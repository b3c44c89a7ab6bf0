"""How fast our exported files are beside what Keras's `model.export` writes of the same network.

    python experiments/speed/exports.py [--rounds 60] [NETWORK ...]

Takes about twenty minutes on two cores; writes exports.json, network by network, and exports.png
beside itself. Both files of a pair are run in turn in ONNX Runtime, and both in LiteRT: one image,
two threads by the clock, beside a product of two 2048x2048 matrices in NumPy, which stands for what
the processor can do; and one thread by the time of the processor, which others on the machine
disturb less. GoogLeNet gains by its normalisation of responses as a convolution, RepVGG by its
branches merged; the networks of keras.applications have neither, and are to be no slower.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras
import numpy as np
from measure import THREADS, clocked, interleaved, machine, save, speedup, spread, versions

from keras_cnns.cost import cost
from keras_cnns.export import Reference, export, prepare, synthetic_images
from keras_cnns.export.subject import fresh
from keras_cnns.quiet import quiet

HERE = Path(__file__).parent
APPLICATIONS = ("MobileNetV2", "EfficientNetB0", "ResNet50", "DenseNet121", "InceptionV3", "VGG16")
NETWORKS = ("inception_v1", "repvgg_a0", *APPLICATIONS)
# What is hoped for, in times as fast.
AIMS = {
    ("inception_v1", "onnx"): 1.6,
    ("inception_v1", "tflite"): 1.35,
    ("repvgg_a0", "onnx"): 1.2,
    ("repvgg_a0", "tflite"): 1.2,
}
SIDE = 2048
RUNTIMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}


def network(name: str) -> keras.Model:
    """Return a network with seeded weights that answer to their image."""
    if name not in APPLICATIONS:
        return fresh(name)
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None)
    prepare.randomise_norms(model, synthetic_images(16, model.input_shape[1:], seed=1))
    return model


def write(model: keras.Model, folder: Path) -> dict[str, dict[str, Path]]:
    """Write both files for both runtimes, ours and Keras's own."""
    shape = model.input_shape[1:]
    export(
        model,
        folder / "ours",
        name=model.name,
        formats=["onnx", "tflite"],
        labels=[str(i) for i in range(model.output_shape[-1])],
        reference=Reference(synthetic_images(8, shape)),
    )
    signature = [keras.InputSpec(shape=(1, *shape), dtype="float32", name="image")]
    plain = {"onnx": folder / "plain.onnx", "tflite": folder / "plain.tflite"}
    with quiet():
        model.export(str(plain["onnx"]), format="onnx", verbose=False, input_signature=signature)
        model.export(str(plain["tflite"]), format="litert", verbose=False)
    ours = {"onnx": folder / "ours/model.onnx", "tflite": folder / "ours/model.tflite"}
    return {"plain": plain, "ours": ours}


def open_onnx(file: Path, image: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Return a function that runs an ONNX file once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)[-1]


def open_tflite(file: Path, image: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Return a function that runs a TFLite file once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=threads)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, image.shape)
    interpreter.allocate_tensors()
    output = interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.set_tensor(place, image)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def unfit(file: Path) -> str:
    """Return why a file cannot be run by who has but an image, or nothing."""
    if file.suffix != ".onnx":
        return ""
    import onnx

    strays = [value.name for value in onnx.load(file).graph.input][1:]
    return f"Keras's file wants {' and '.join(strays)} besides an image" if strays else ""


OPENERS = {"onnx": open_onnx, "tflite": open_tflite}


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each runtime."""
    with tempfile.TemporaryDirectory() as folder:
        model = network(name)
        macs = cost(model).macs
        files = write(model, Path(folder))
        image = synthetic_images(1, model.input_shape[1:], seed=3).astype(np.float32)
        del model
        keras.backend.clear_session()
        gc.collect()
        rows = []
        for format, opener in OPENERS.items():

            def opened(threads: int, opener=opener, format=format) -> dict[str, Callable]:
                return {k: opener(places[format], image, threads) for k, places in files.items()}

            if why := unfit(files["plain"][format]):
                rows.append({"network": name, "runtime": RUNTIMES[format], "why": why})
                continue
            runs = opened(THREADS)
            error = float(np.abs(runs["plain"]() - runs["ours"]()).max())
            if error > 1e-4:
                raise SystemExit(f"{name}, {format}: probabilities differ by {error}")
            load = os.getloadavg()[0]
            square = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
            runs["peak"] = lambda square=square: square @ square
            taken = interleaved({k: clocked(run) for k, run in runs.items()}, rounds=rounds)
            peak = SIDE**3 / spread(taken["peak"])["median"]
            alone = {k: clocked(run, time.process_time) for k, run in opened(1).items()}
            processor = interleaved(alone, rounds=rounds)
            rows.append(
                {
                    "network": name,
                    "runtime": RUNTIMES[format],
                    "plain_ms": {k: 1e3 * v for k, v in spread(taken["plain"]).items()},
                    "ours_ms": {k: 1e3 * v for k, v in spread(taken["ours"]).items()},
                    "macs": macs,
                    "peak_gmacs_per_second": peak / 1e9,
                    "share_of_peak": {
                        kind: macs / spread(taken[kind])["median"] / peak for kind in files
                    },
                    "fastest_ms": {kind: 1e3 * min(times) for kind, times in taken.items()},
                    "times_as_fast": speedup(taken["plain"], taken["ours"]),
                    "processor_ms_1_thread": {k: 1e3 * np.median(v) for k, v in processor.items()},
                    "times_as_fast_1_thread": speedup(processor["plain"], processor["ours"]),
                    "aim": AIMS.get((name, format)),
                    "rounds": rounds,
                    "load": round(load, 1),
                }
            )
    return rows


def draw(rows: list[dict[str, Any]], place: Path) -> None:
    """Draw how many times as fast ours are, with quartiles and aims."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 0.4 * len(rows) + 1.2), layout="tight")
    names = [f"{row['network']}, {row['runtime']}" for row in rows]
    found = [row["times_as_fast"] for row in rows]
    middle = np.array([f["median"] for f in found])
    sides = np.array([[f["median"] - f["low"], f["high"] - f["median"]] for f in found]).T
    axis.barh(names, middle, xerr=sides, color="tab:orange", capsize=3)
    aims = [(row["aim"], i) for i, row in enumerate(rows) if row["aim"]]
    axis.plot(*zip(*aims, strict=True), "k|", markersize=18, label="aim")
    axis.axvline(1, color="grey", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as Keras's own export of the same network; quartiles")
    axis.legend()
    figure.savefig(place, dpi=100)


def main() -> None:
    """Measure the networks, write the record after each, draw the figure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        "command": "python experiments/speed/exports.py",
        "machine": machine(),
        "threads": THREADS,
        "versions": versions(
            "tensorflow-cpu", "keras", "tf2onnx", "onnxruntime", "ai-edge-litert", "numpy"
        ),
        "rows": [],
    }
    for name in arguments.networks:
        record["rows"] += measure(name, arguments.rounds)
        save(record, HERE / "exports.json")
        for row in record["rows"][-2:]:
            if "why" in row:
                print(f"{name:16}{row['runtime']:14}{row['why']}", flush=True)
                continue
            ratio = row["times_as_fast"]
            aim = f", aim {row['aim']}" if row["aim"] else ""
            print(
                f"{name:16}{row['runtime']:14}{row['plain_ms']['median']:8.1f} ms plain"
                f"{row['ours_ms']['median']:8.1f} ms ours  {ratio['median']:.2f} times as fast "
                f"({ratio['low']:.2f} to {ratio['high']:.2f}{aim}); "
                f"{row['times_as_fast_1_thread']['median']:.2f} with one thread; "
                f"{row['share_of_peak']['ours']:.0%} of the peak",
                flush=True,
            )
    measured = [row for row in record["rows"] if "why" not in row]
    ratios = [row["times_as_fast"]["median"] for row in measured]
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}")
    draw(measured, HERE / "exports.png")


if __name__ == "__main__":
    main()
