"""How fast our exported files are beside what Keras's `model.export` writes of the same network.

    python experiments/speed/exports.py [--threads 1|2] [--files FOLDER [--write]] [NETWORK ...]

Takes about half an hour on two cores. exports.json beside this file is written after each network,
and what it has is not measured again; exports.png is drawn from it. `--files` keeps the exported
files, and `--write` writes them alone, so that measuring need not wait for it.

Both files of a pair are run in turn in ONNX Runtime, and both in LiteRT, on one image: with two
threads by the clock, for which the machine must be quiet, and with one thread by the time of the
processor, which others disturb less. Beside them a product of two 2048x2048 matrices in TensorFlow
stands for what the processor can do. Each timed run follows one that is not, as in a stream of
images. Files are opened anew four times, since where memory comes to lie is worth 2 %.

The headline is the ratio of the lower quartiles. Others on the machine, and a host that lends its
cores to other machines, only ever add time: the faster rounds tell best what a file takes, and the
fastest of all would be one round's luck. The median of the ratios by rounds stands beside it, and
what the host took meanwhile. GoogLeNet gains by its normalisation of responses as a convolution,
RepVGG by its branches merged; the networks of keras.applications have neither, and are to be no
slower.
"""

import argparse
import gc
import json
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
import tensorflow as tf
from measure import (
    clocked,
    interleaved,
    machine,
    quartile_speedup,
    save,
    speedup,
    spread,
    stolen,
    versions,
)

from keras_cnns.cost import cost
from keras_cnns.export import Reference, export, prepare, synthetic_images
from keras_cnns.export.onnx import lean_tf2onnx
from keras_cnns.export.subject import fresh
from keras_cnns.quiet import quiet

HERE = Path(__file__).parent
RECORD = HERE / "exports.json"
OPENINGS = 4
CLOCKS = {2: time.perf_counter, 1: time.process_time}
APPLICATIONS = ("MobileNetV2", "EfficientNetB0", "ResNet50", "DenseNet121", "InceptionV3", "VGG16")
NETWORKS = ("inception_v1", "repvgg_a0", *APPLICATIONS)
# What is hoped for with two threads, in times as fast.
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


def write(name: str, folder: Path) -> None:
    """Write both files for both runtimes, ours and Keras's own, and what else is to be known."""
    if (folder / "about.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = network(name)
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
    with quiet(), lean_tf2onnx():  # Else VGG16 takes over 22 GB; the files are the same.
        plain = {"format": "onnx", "input_signature": signature}
        model.export(str(folder / "plain.onnx"), verbose=False, **plain)
        model.export(str(folder / "plain.tflite"), verbose=False, format="litert")
    about = {"macs": cost(model).macs, "shape": shape}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            about["normalization"] = [np.asarray(k).tolist() for k in (layer.mean, layer.variance)]
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    del model
    keras.backend.clear_session()
    gc.collect()


def open_onnx(file: Path, image: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Return a function that runs an ONNX file once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    image_name, *strays = [value.name for value in session.get_inputs()]
    feed = {image_name: image}
    if strays:  # Keras's file of EfficientNetB0 has two constants as inputs.
        normalization = json.loads((file.parent / "about.json").read_text())["normalization"]
        feed |= zip(strays, np.asarray(normalization, np.float32), strict=True)
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


OPENERS = {"onnx": open_onnx, "tflite": open_tflite}


def measure(name: str, folder: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each runtime."""
    about = json.loads((folder / "about.json").read_text())
    image = synthetic_images(1, about["shape"], seed=3).astype(np.float32)
    rows = []
    for format, runtime in RUNTIMES.items():
        files = {"plain": folder / f"plain.{format}", "ours": folder / f"ours/model.{format}"}
        row = {"network": name, "runtime": runtime, "threads": threads}
        rows.append(row)
        row |= {"load": round(os.getloadavg()[0], 1), "rounds": rounds}
        before = stolen()
        seconds = timed(files, image, threads, rounds)
        ticks = np.subtract(stolen(), before)
        least = {kind: spread(taken)["low"] for kind, taken in seconds.items()}
        row |= {
            "times_as_fast": quartile_speedup(seconds["plain"], seconds["ours"]),
            "by_rounds": speedup(seconds["plain"], seconds["ours"]),
            "aim": AIMS.get((name, format)),
            "milliseconds": {
                kind: {k: round(1e3 * v, 3) for k, v in spread(taken).items()}
                for kind, taken in seconds.items()
            },
            "share_of_peak": about["macs"] / least["ours"] / (SIDE**3 / least["peak"]),
            "stolen": round(float(ticks[0] / ticks[1]), 4),
        }
    return rows


def timed(
    files: dict[str, Path], image: np.ndarray, threads: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of Keras's file, of ours and of the product of matrices ("peak")."""
    square = tf.random.normal((SIDE, SIDE))
    clock = CLOCKS[threads]
    found: dict[str, list[float]] = {**{kind: [] for kind in files}, "peak": []}
    for opening in range(OPENINGS):
        order = list(files.items())[:: -1 if opening % 2 else 1]
        opened = {kind: OPENERS[file.suffix[1:]](file, image, threads) for kind, file in order}
        error = float(np.abs(opened["plain"]() - opened["ours"]()).max())
        if error > 1e-4:
            raise SystemExit(f"{files['ours']}: probabilities differ by {error}")
        runs = {kind: clocked(run, clock, untimed=1) for kind, run in opened.items()}
        runs["peak"] = clocked(lambda: (square @ square).numpy(), clock)
        for kind, seconds in interleaved(runs, rounds=rounds // OPENINGS).items():
            found[kind] += seconds
        del opened, runs
    return found


def draw(rows: list[dict[str, Any]], place: Path) -> None:
    """Draw how many times as fast ours are, with what resampling makes of it, and aims."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(f"{row['network']}, {row['runtime']}" for row in rows))
    figure, axis = pyplot.subplots(figsize=(8, 0.45 * len(names) + 1.5), layout="tight")
    labels = {2: "two threads, by the clock", 1: "one thread, by the processor's time"}
    for threads, offset, color in ((2, -0.2, "tab:orange"), (1, 0.2, "tab:blue")):
        shown = [row for row in rows if row["threads"] == threads]
        found = [row["times_as_fast"] for row in shown]
        sides = [[abs(f[end] - f["ratio"]) for f in found] for end in ("low", "high")]
        axis.barh(
            [names.index(f"{row['network']}, {row['runtime']}") + offset for row in shown],
            [f["ratio"] for f in found],
            0.4,
            xerr=sides,
            color=color,
            capsize=2,
            label=labels[threads],
        )
    aims = {f"{row['network']}, {row['runtime']}": row["aim"] for row in rows if row["aim"]}
    axis.plot(
        list(aims.values()), [names.index(name) for name in aims], "k|", markersize=28, label="aim"
    )
    axis.set_yticks(range(len(names)), names)
    axis.axvline(1, color="grey", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as Keras's own export of the same network; 95 % of resamples")
    axis.legend(loc="lower right", markerscale=0.4)
    figure.savefig(place, dpi=100)


def begun() -> dict[str, Any]:
    """Return the record as far as it goes, or one to begin with."""
    begin: dict[str, Any] = {
        "command": "python experiments/speed/exports.py",
        "machine": machine(),
        "openings": OPENINGS,
        "versions": versions(
            "tensorflow",
            "tensorflow-cpu",
            "keras",
            "tf2onnx",
            "onnxruntime",
            "ai-edge-litert",
            "numpy",
        ),
        "rows": [],
    }
    if not RECORD.is_file():
        return begin
    record = json.loads(RECORD.read_text())
    for key in ("processor", "instructions", "cores"):
        if record["machine"][key] != begin["machine"][key]:
            raise SystemExit(f"{RECORD} is of another machine; remove it to measure here")
    for key in ("openings", "versions"):
        if record.get(key) != begin[key]:
            raise SystemExit(f"{RECORD} is of other {key}; remove it to measure anew")
    return record


def line(row: dict[str, Any]) -> str:
    """Return what a row says, in a line."""
    start = f"{row['network']:16}{row['runtime']:14}{row['threads']} "
    ratio = row["times_as_fast"]
    plain, ours = (row["milliseconds"][kind]["low"] for kind in ("plain", "ours"))
    aim = f", aim {row['aim']}" if row["aim"] else ""
    return (
        f"{start}{plain:8.1f} ms plain{ours:8.1f} ms ours  {ratio['ratio']:.2f} times as fast "
        f"({ratio['low']:.2f} to {ratio['high']:.2f}{aim}); {row['by_rounds']['median']:.2f} by "
        f"rounds; {row['share_of_peak']:.0%} of the peak; the host took {row['stolen']:.1%}"
    )


def main() -> None:
    """Measure what the record lacks, draw the figure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--threads", type=int, choices=CLOCKS, help="default: both")
    parser.add_argument("--files", type=Path, help="a folder that keeps the exported files")
    parser.add_argument("--write", action="store_true", help="write the files alone")
    arguments = parser.parse_args()
    if arguments.write:
        if not arguments.files:
            parser.error("--write wants --files")
        for name in arguments.networks:
            write(name, arguments.files / name)
        return
    record = begun()
    rows = record["rows"]
    for name in arguments.networks:
        wanted = [arguments.threads] if arguments.threads else list(CLOCKS)
        known = {row["threads"] for row in rows if row["network"] == name}
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.files or Path(scratch)) / name
            for threads in wanted:
                if threads in known:
                    continue
                write(name, folder)
                rows += measure(name, folder, threads, arguments.rounds)
                save(record, RECORD)
    rows.sort(key=lambda row: (NETWORKS.index(row["network"]), row["runtime"], row["threads"]))
    print(*map(line, rows), sep="\n")
    for threads in CLOCKS:
        ratios = [row["times_as_fast"]["ratio"] for row in rows if row["threads"] == threads]
        if ratios:
            mean = statistics.geometric_mean(ratios)
            print(f"geometric mean with {threads} threads {mean:.2f}")
    draw(rows, HERE / "exports.png")


if __name__ == "__main__":
    main()
