"""How fast our exported files are beside what Keras's `model.export` writes of the same network.

    python experiments/speed/exports.py [--rounds 80] [--files FOLDER [--write]] [NETWORK ...]

Takes about half an hour on two cores. exports.json beside this file is written after each network,
and those in it are not measured again; exports.png is drawn from it. `--files` keeps the exported
files, and `--write` writes them alone, so that measuring need not wait for it.

Both files of a pair are run in turn in ONNX Runtime, and both in LiteRT: one image, two threads by
the clock, beside a product of two 2048x2048 matrices in NumPy, which stands for what the processor
can do; and one thread by the time of the processor. Each timed run follows one that is not, as in
a stream of images. Files are opened anew four times, since where memory comes to lie is worth 2 %.

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
from measure import (
    THREADS,
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
from keras_cnns.export.subject import fresh
from keras_cnns.quiet import quiet

HERE = Path(__file__).parent
RECORD = HERE / "exports.json"
OPENINGS = 4
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


def write(name: str, folder: Path) -> None:
    """Write both files for both runtimes, ours and Keras's own, and what else is to be known."""
    if (folder / "about.json").is_file():
        return
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
    with quiet():
        plain = {"format": "onnx", "input_signature": signature}
        model.export(str(folder / "plain.onnx"), verbose=False, **plain)
        model.export(str(folder / "plain.tflite"), verbose=False, format="litert")
    about = {"macs": cost(model).macs, "shape": shape}
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


def measure(name: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each runtime."""
    about = json.loads((folder / "about.json").read_text())
    image = synthetic_images(1, about["shape"], seed=3).astype(np.float32)
    rows = []
    for format, runtime in RUNTIMES.items():
        files = {
            "plain": folder / f"plain.{format}",
            "ours": folder / f"ours/model.{format}",
        }
        row = {"network": name, "runtime": runtime}
        if why := unfit(files["plain"]):
            rows.append(row | {"why": why})
            continue
        before = stolen()
        load = round(os.getloadavg()[0], 1)
        clock = timed(files, image, THREADS, time.perf_counter, rounds)
        processor = timed(files, image, 1, time.process_time, rounds)
        ticks = np.subtract(stolen(), before)
        peak = SIDE**3 / spread(clock.pop("peak"))["low"]
        rows.append(
            row
            | {
                "times_as_fast": quartile_speedup(**clock),
                "times_as_fast_by_rounds": speedup(**clock),
                "times_as_fast_1_thread": quartile_speedup(**processor),
                "times_as_fast_1_thread_by_rounds": speedup(**processor),
                "milliseconds": milliseconds(clock),
                "processor_milliseconds_1_thread": milliseconds(processor),
                "macs": about["macs"],
                "peak_gmacs_per_second": peak / 1e9,
                "share_of_peak": about["macs"] / spread(clock["fast"])["low"] / peak,
                "aim": AIMS.get((name, format)),
                "rounds": rounds,
                "load": load,
                "stolen": round(float(ticks[0] / ticks[1]), 4),
            }
        )
    return rows


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return medians and quartiles of both files."""
    names = {"slow": "plain", "fast": "ours"}
    return {
        name: {k: round(1e3 * v, 3) for k, v in spread(seconds[key]).items()}
        for key, name in names.items()
    }


def timed(
    files: dict[str, Path],
    image: np.ndarray,
    threads: int,
    clock: Callable[[], float],
    rounds: int,
) -> dict[str, list[float]]:
    """Return seconds of Keras's file ("slow"), of ours ("fast") and of the product of matrices."""
    square = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    taken: dict[str, list[float]] = {"slow": [], "fast": []}
    if threads > 1:
        taken["peak"] = []
    for opening in range(OPENINGS):
        order = list(files.items())[:: -1 if opening % 2 else 1]
        opened = {kind: OPENERS[file.suffix[1:]](file, image, threads) for kind, file in order}
        error = float(np.abs(opened["plain"]() - opened["ours"]()).max())
        if error > 1e-4:
            raise SystemExit(f"{files['ours']}: probabilities differ by {error}")
        runs = {
            "slow": clocked(opened["plain"], clock, untimed=1),
            "fast": clocked(opened["ours"], clock, untimed=1),
            "peak": clocked(lambda: square @ square, clock),
        }
        runs = {name: runs[name] for name in taken}
        for name, seconds in interleaved(runs, rounds=rounds // OPENINGS).items():
            taken[name] += seconds
        del opened, runs
    return taken


def draw(rows: list[dict[str, Any]], place: Path) -> None:
    """Draw how many times as fast ours are, with what resampling makes of it, and aims."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 0.45 * len(rows) + 1.5), layout="tight")
    names = [f"{row['network']}, {row['runtime']}" for row in rows]
    for key, label, offset, color in (
        ("times_as_fast", "two threads, by the clock", -0.2, "tab:orange"),
        ("times_as_fast_1_thread", "one thread, by the processor's time", 0.2, "tab:blue"),
    ):
        found = [row[key] for row in rows]
        ratios = np.array([f["ratio"] for f in found])
        sides = [[abs(f[end] - f["ratio"]) for f in found] for end in ("low", "high")]
        places = np.arange(len(rows)) + offset
        axis.barh(places, ratios, 0.4, xerr=sides, color=color, capsize=2, label=label)
    axis.set_yticks(range(len(rows)), names)
    aims = [(row["aim"], i) for i, row in enumerate(rows) if row["aim"]]
    axis.plot(*zip(*aims, strict=True), "k|", markersize=18, label="aim")
    axis.axvline(1, color="grey", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as Keras's own export of the same network; 95 % of resamples")
    axis.legend()
    figure.savefig(place, dpi=100)


def begun(rounds: int) -> dict[str, Any]:
    """Return the record as far as it goes, or one to begin with."""
    begin: dict[str, Any] = {
        "command": "python experiments/speed/exports.py",
        "machine": machine(),
        "threads": THREADS,
        "openings": OPENINGS,
        "rounds": rounds,
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
    for key in ("threads", "openings", "rounds", "versions"):
        if record.get(key) != begin[key]:
            raise SystemExit(f"{RECORD} has other {key}; remove it to measure anew")
    return record


def line(row: dict[str, Any]) -> str:
    """Return what a row says, in a line."""
    start = f"{row['network']:16}{row['runtime']:14}"
    if "why" in row:
        return start + row["why"]
    ratio, one = row["times_as_fast"], row["times_as_fast_1_thread"]
    plain, ours = (row["milliseconds"][kind]["low"] for kind in ("plain", "ours"))
    aim = f", aim {row['aim']}" if row["aim"] else ""
    return (
        f"{start}{plain:8.1f} ms plain{ours:8.1f} ms ours  {ratio['ratio']:.2f} times as fast "
        f"({ratio['low']:.2f} to {ratio['high']:.2f}{aim}; by rounds "
        f"{row['times_as_fast_by_rounds']['median']:.2f}); one thread {one['ratio']:.2f} "
        f"({one['low']:.2f} to {one['high']:.2f}); {row['share_of_peak']:.0%} of the peak; "
        f"the host took {row['stolen']:.1%}"
    )


def main() -> None:
    """Measure the networks that the record lacks, draw the figure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--files", type=Path, help="a folder that keeps the exported files")
    parser.add_argument("--write", action="store_true", help="write the files alone")
    arguments = parser.parse_args()
    if arguments.write and not arguments.files:
        parser.error("--write wants --files")
    record = {"rows": []} if arguments.write else begun(arguments.rounds)
    measured = {row["network"] for row in record["rows"]}
    for name in arguments.networks:
        if name in measured:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.files or Path(scratch)) / name
            folder.mkdir(parents=True, exist_ok=True)
            write(name, folder)
            if not arguments.write:
                record["rows"] += measure(name, folder, arguments.rounds)
                save(record, RECORD)
    if arguments.write:
        return
    rows = sorted(record["rows"], key=lambda row: NETWORKS.index(row["network"]))
    print(*map(line, rows), sep="\n")
    rows = [row for row in rows if "why" not in row]
    ratios = [row["times_as_fast"]["ratio"] for row in rows]
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}")
    draw(rows, HERE / "exports.png")


if __name__ == "__main__":
    main()
