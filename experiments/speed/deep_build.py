"""How long ResNet-1202 and ResNet-1001 take to build, beside plain Keras code of the same graph.

    python experiments/speed/deep_build.py

Takes about fifteen minutes on two cores and writes deep_build.json beside itself. Builds are
interleaved, three of each; then the network runs once, and trains for a step, on a batch of 8.
"""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_cnns
from keras_cnns.export.prepare import settle_statistics

REPEATS = 3
# Plain Keras ends in RecursionError without it.
sys.setrecursionlimit(20_000)


def _norm_relu(x):
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))


def _conv(x, filters, kernel_size, strides=1):
    if strides > 1 and kernel_size > 1:
        x, padding = layers.ZeroPadding2D(1)(x), "valid"
    else:
        padding = "same"
    return layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False)(x)


def plain_resnet1202() -> keras.Model:
    """He et al. 2015, section 4.2, n = 200, with zeros in the two shortcuts that widen."""
    image = keras.Input((32, 32, 3))
    x = _norm_relu(_conv(image, 16, 3))
    for filters in (16, 32, 64):
        for block in range(200):
            strides = 2 if block == 0 and filters > 16 else 1
            y = _norm_relu(_conv(x, filters, 3, strides))
            y = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(_conv(y, filters, 3))
            if strides > 1:
                x = layers.MaxPooling2D(1, strides)(x)
                x = keras.ops.pad(x, [(0, 0), (0, 0), (0, 0), (filters // 4, filters // 4)])
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Softmax()(x))


def plain_resnet1001() -> keras.Model:
    """He et al. 2016, full pre-activation, 111 bottlenecks a stage."""
    image = keras.Input((32, 32, 3))
    x = _conv(image, 16, 3)
    for filters in (16, 32, 64):
        for block in range(111):
            strides = 2 if block == 0 and filters > 16 else 1
            y = _norm_relu(x)
            shortcut = _conv(y, 4 * filters, 1, strides) if block == 0 else x
            y = _norm_relu(_conv(y, filters, 1))
            y = _norm_relu(_conv(y, filters, 3, strides))
            x = layers.Add()([shortcut, _conv(y, 4 * filters, 1)])
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(_norm_relu(x)))
    return keras.Model(image, layers.Softmax()(x))


def seconds(make: Callable[[], object]) -> tuple[float, object]:
    """Return how long a call took, and what it gave."""
    start = time.perf_counter()
    made = make()
    return time.perf_counter() - start, made


def measure(name: str, plain: Callable[[], keras.Model]) -> dict[str, object]:
    """Build both ways in turn, then run ours and train it for a step."""
    ways = {"ours": lambda: keras_cnns.build(name), "plain": plain}
    times: dict[str, list[float]] = {way: [] for way in ways}
    counts = {}
    for _ in range(REPEATS):
        for way, make in ways.items():
            keras.backend.clear_session()
            gc.collect()
            taken, model = seconds(make)
            times[way].append(taken)
            counts[way] = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
            layer_count = len(model.layers)
            del model
    if counts["ours"] != counts["plain"]:
        raise SystemExit(f"{name}: not the same graph, {counts} trainable weights")
    model = keras_cnns.build(name)
    random = np.random.default_rng(0)
    images = random.normal(size=(8, 32, 32, 3)).astype("float32")
    labels = random.integers(0, 10, 8)
    # With fresh statistics the activations double from block to block, beyond all numbers.
    settle_statistics(model, images)
    run_seconds, probabilities = seconds(lambda: model(images))
    model.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy")
    before = [w.numpy() for w in model.trainable_weights]
    first_step, loss = seconds(lambda: float(model.train_on_batch(images, labels)))
    second_step, _ = seconds(lambda: model.train_on_batch(images, labels))
    moved = sum(
        bool(np.any(w.numpy() != old))
        for w, old in zip(model.trainable_weights, before, strict=True)
    )
    found = {
        "build_seconds": {way: statistics.median(taken) for way, taken in times.items()},
        "all_build_seconds": times,
        "ratio": statistics.median(times["ours"]) / statistics.median(times["plain"]),
        "layers_of_plain": layer_count,
        "trainable_weights": counts["ours"],
        "eager_run_seconds": run_seconds,
        "probabilities_sum_to_one": bool(
            np.allclose(np.sum(keras.ops.convert_to_numpy(probabilities), -1), 1, atol=1e-5)
        ),
        "first_step_seconds": first_step,
        "second_step_seconds": second_step,
        "loss": loss,
        "weights_moved": f"{moved} of {len(before)}",
    }
    print(name, json.dumps(found, indent=1), flush=True)
    return found


def main() -> None:
    """Measure both networks and write the record."""
    record = {
        "command": "python experiments/speed/deep_build.py",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "repeats": REPEATS,
        "resnet1202_cifar": measure("resnet1202_cifar", plain_resnet1202),
        "resnet1001_v2_cifar": measure("resnet1001_v2_cifar", plain_resnet1001),
    }
    place = Path(__file__).with_suffix(".json")
    temporary = place.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(place)


if __name__ == "__main__":
    main()
