"""How fast ResNet-50 runs by `keras_cnns.predictor`, beside its peers and the machine's peak.

    python experiments/speed/predictor.py [--torch PYTHON] [--openvino PYTHON] [--rounds 9]

Takes about ten minutes on two cores; writes predictor.json and predictor.png beside itself. PYTHON
is an interpreter of an environment that has torch and torchvision, or openvino; what is not given
is not measured. All run the network of keras.applications at 224 pixels, each once in every round.
The peak is what TensorFlow reaches in a product of two 2048x2048 matrices in the same rounds.
On a machine that is busy with other work, `--threads 1` counts the processor's time instead of the
clock's: threads that wait for each other wait for everybody else too.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras
import numpy as np
import tensorflow as tf
from measure import THREADS, clocked, interleaved, machine, save, speedup, spread, versions

import keras_cnns
from keras_cnns import zoo
from keras_cnns.export import prepare, synthetic_images
from keras_cnns.export.checks import Trial
from keras_cnns.export.manifest import describe_input
from keras_cnns.export.onnx import write_onnx

HERE = Path(__file__).parent
MACS = zoo.get("resnet50_v1").macs
SIDE = 2048
PLAIN = "keras.applications, model(x)"
OURS = {precision: f"predictor, {precision}" for precision in ("float32", "bfloat16")}


def network() -> keras.Model:
    """Return keras.applications' ResNet-50 with seeded weights that answer to their image."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    prepare.randomise_norms(model, synthetic_images(16, (224, 224, 3), seed=1))
    return model


def own_paths(
    model: keras.Model, batch: int, clock: Callable[[], float]
) -> tuple[dict[str, Callable[[], float]], dict]:
    """Return what runs in this process, and the errors of both predictors."""
    images = np.random.default_rng(0).uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    runs: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: model(images, training=False).numpy(),
        "keras.applications, predict_on_batch": lambda: model.predict_on_batch(images),
    }
    errors = {}
    for precision, name in OURS.items():
        # Errors are judged on images, of which the scores are as far apart as they get.
        fast = keras_cnns.predictor(
            model,
            precision=precision,
            batch_size=batch,
            images=synthetic_images(8, (224, 224, 3)),
        )
        runs[name] = lambda fast=fast: fast(images)
        errors[precision] = fast.error
    for precision, dtype in (("float32", tf.float32), ("bfloat16", tf.bfloat16)):
        square = tf.cast(tf.random.normal((SIDE, SIDE)), dtype)
        runs[f"peak, {precision}"] = lambda square=square: tf.matmul(square, square)[0, 0].numpy()
    return {name: clocked(run, clock) for name, run in runs.items()}, errors


@contextlib.contextmanager
def peer(python: str, *words: object) -> Iterator[tuple[str, Callable[[], float]]]:
    """Start peers.py with another interpreter; yield its version and what runs it once."""
    line = [python, str(HERE / "peers.py"), *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as process:

        def once() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield process.stdout.readline().strip(), once
        process.stdin.close()


def measure(
    file: str, pythons: dict[str, str], batch: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Measure all paths with one size of batch."""
    clock = time.process_time if threads == 1 else time.perf_counter
    runs, errors = own_paths(network(), batch, clock)
    with contextlib.ExitStack() as stack:
        peers = {}
        for name, python in pythons.items():
            found = peer(python, name, file, batch, threads)
            peers[name], runs[name.replace("-", ", ")] = stack.enter_context(found)
        seconds = interleaved(runs, rounds=rounds)
    peaks = {
        precision: 2 * SIDE**3 / spread(seconds[f"peak, {precision}"])["median"] / 1e9
        for precision in OURS
    }
    rows = {}
    for name, taken in seconds.items():
        if name.startswith("peak"):
            continue
        precision = "bfloat16" if "bfloat16" in name else "float32"
        middle = spread(taken)
        rate = 2 * MACS * batch / middle["median"] / 1e9
        rows[name] = {
            "seconds": middle,
            "images_per_second": batch / middle["median"],
            "gflops_per_second": rate,
            "share_of_peak": rate / peaks[precision],
            "times_as_fast_as_plain": speedup(seconds[PLAIN], taken),
        }
    comparisons = {
        f"{mine} beside {theirs}": speedup(seconds[theirs], seconds[mine])
        for mine in OURS.values()
        for theirs in rows
        if theirs not in OURS.values()
    }
    return {
        "batch": batch,
        "rounds": rounds,
        "peak_gflops_per_second": peaks,
        "errors": errors,
        "peer_versions": peers,
        "paths": rows,
        "comparisons": comparisons,
    }


def draw(record: dict[str, Any], place: Path) -> None:
    """Draw images per second, with the share of the peak written behind each bar."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(record["batches"]), figsize=(12, 4), layout="tight")
    for axis, found in zip(np.atleast_1d(axes), record["batches"], strict=True):
        rows = sorted(found["paths"].items(), key=lambda row: row[1]["images_per_second"])
        names = [name for name, _ in rows]
        rates = [row["images_per_second"] for _, row in rows]
        colours = ["tab:orange" if name in OURS.values() else "tab:blue" for name in names]
        bars = axis.barh(names, rates, color=colours)
        axis.bar_label(bars, [f" {row['share_of_peak']:.0%}" for _, row in rows])
        axis.set_xlabel("images per second; share of the peak behind")
        axis.set_title(f"ResNet-50, batch {found['batch']}")
        axis.margins(x=0.15)
    figure.savefig(place, dpi=100)


def main() -> None:
    """Measure, write the record and the figure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", help="an interpreter that has torch and torchvision")
    parser.add_argument("--openvino", help="an interpreter that has openvino")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    arguments = parser.parse_args()
    threads = arguments.threads
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    pythons = {"onnxruntime-float32": sys.executable}
    for name in ("torch", "openvino"):
        if python := getattr(arguments, name):
            if not os.access(python, os.X_OK):
                parser.error(f"--{name}: {python} is no interpreter")
            pythons |= {f"{name}-{precision}": python for precision in OURS}
    record: dict[str, Any] = {
        "command": "python experiments/speed/predictor.py --torch PYTHON --openvino PYTHON",
        "network": "keras.applications.ResNet50, 224 pixels, seeded weights",
        "machine": machine(),
        "threads": threads,
        "clock": "processor" if threads == 1 else "wall",
        "versions": versions("tensorflow-cpu", "keras", "onnxruntime", "numpy"),
        "batches": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        model = prepare.prepare(network())
        write_onnx(
            keras_cnns.fuse(model, lrn="band"),
            file,
            name="resnet50",
            labels=[str(i) for i in range(1000)],
            fed=describe_input((224, 224, 3)),
            trial=Trial(synthetic_images(4, (224, 224, 3)), prepare.kernel_count(model)),
        )
        del model
        for batch in arguments.batches:
            rounds = arguments.rounds * (1 if batch > 8 else 4)
            record["batches"].append(measure(str(file), pythons, batch, rounds, threads))
            save(record, HERE / "predictor.json")
            for name, row in record["batches"][-1]["paths"].items():
                print(
                    f"batch {batch:3} {name:40}{row['images_per_second']:8.1f} images/s"
                    f"{row['share_of_peak']:7.0%} of the peak"
                    f"{row['times_as_fast_as_plain']['median']:7.2f} times plain"
                )
    draw(record, HERE / "predictor.png")


if __name__ == "__main__":
    main()
