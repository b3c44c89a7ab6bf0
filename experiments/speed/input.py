"""How many photos a second a training gets: by ours, by naive decode-then-crop, and by PIL.

    python experiments/speed/input.py FOLDER [SECONDS]

FOLDER holds JPEG files. All cut a random part of 8 to 100 % of each, resize it to 224 pixels and
mirror one in two. They take turns, five of SECONDS (10) each; input.json beside this file has each
turn, by the wall's clock and by the processor's, which other work on the machine disturbs less.
"""

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cnns import data
from keras_cnns.data import pipeline
from keras_cnns.data.images import decode

SIZE, BATCH, TURNS = 224, 32, 5
POLICY = "resized_crop"


def by_classes(photos: Path, root: Path) -> data.Source:
    """Return the photos as a source: with links to them in two classes."""
    for number, path in enumerate(sorted(photos.iterdir())):
        place = root / "ab"[number % 2] / f"{number}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(path.resolve())
    return data.open_source(str(root), validation=0, test=0)


def ours(source: data.Source) -> Iterator[tuple]:
    """The pipeline of the package."""
    batches = data.batches(
        source,
        "train",
        image_shape=(SIZE, SIZE, 3),
        batch_size=BATCH,
        training=True,
        augment=POLICY,
    )
    return iter(batches)


def naive(source: data.Source) -> Iterator[tuple]:
    """As TensorFlow's functions are usually put together: all of each image as floats, then cut."""

    def load(number: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.convert_image_dtype(image, tf.float32)
        seed = tf.stack([number, 0])
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            seed,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        part = tf.image.resize(tf.slice(image, begin, size), (SIZE, SIZE))
        return tf.image.stateless_random_flip_left_right(part, seed) * 255.0

    paths = tf.data.Dataset.from_tensor_slices(list(source.files["train"]))
    ordered = paths.shuffle(len(source.files["train"])).repeat().enumerate()
    images = ordered.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(images.batch(BATCH).prefetch(tf.data.AUTOTUNE))


def whole(source: data.Source) -> Iterator[tuple]:
    """The pipeline of the package, but that it decodes all of each file."""
    part = pipeline.decode_part

    def decoded(data: tf.Tensor, choose: Callable, *arguments: object) -> tf.Tensor:
        image = decode(data, *arguments)
        top, left, height, width = (tf.cast(e, tf.int32) for e in choose(tf.shape(image)[:2]))
        return image[top : top + tf.maximum(height, 1), left : left + tf.maximum(width, 1)]

    pipeline.decode_part = decoded
    try:
        return ours(source)
    finally:
        pipeline.decode_part = part


def pil(source: data.Source) -> Iterator[np.ndarray]:
    """As torchvision does it, by threads, which cost less than its processes."""
    drawn = random.Random(0)
    files = source.files["train"]

    def load(path: str) -> np.ndarray:
        with Image.open(path) as file:
            image = file.convert("RGB")
        width, height = image.size
        for _ in range(10):
            area = drawn.uniform(0.08, 1) * width * height
            ratio = np.exp(drawn.uniform(np.log(3 / 4), np.log(4 / 3)))
            wide, tall = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if wide <= width and tall <= height:
                break
        wide, tall = min(wide, width), min(tall, height)
        left, top = drawn.randint(0, width - wide), drawn.randint(0, height - tall)
        part = image.crop((left, top, left + wide, top + tall))
        found = np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
        return found[:, ::-1] if drawn.random() < 0.5 else found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = [pool.submit(load, drawn.choice(files)) for _ in range(4 * BATCH)]
        while True:
            batch = []
            for _ in range(BATCH):
                batch.append(waiting.pop(0).result())
                waiting.append(pool.submit(load, drawn.choice(files)))
            yield np.stack(batch)


def rates(batches: Iterator, seconds: float) -> tuple[float, float]:
    """Return images by second of the wall's clock, and by second of the processor's."""
    for _ in range(3):
        next(batches)
    count, begun, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        next(batches)
        count += BATCH
    ended, ended_used = time.perf_counter(), time.process_time()
    return round(count / (ended - begun), 1), round(count / (ended_used - used), 1)


def main(folder: str, seconds: float = 10.0) -> None:
    """Take turns and write the record."""
    ways = {"ours": ours, "whole": whole, "naive": naive, "pil": pil}
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as root:
        source = by_classes(Path(folder), Path(root))
        sizes = [Image.open(path).size for path in source.files["train"]]
        for _ in range(TURNS):
            for name, way in ways.items():
                batches = way(source)
                turns[name].append(rates(batches, seconds))
                del batches
                print(name, *turns[name][-1], flush=True)
    clocks = ("by_second", "by_processor_second")
    record = {
        "command": "python experiments/speed/input.py FOLDER",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, with other work on it",
        "versions": {"tensorflow": tf.__version__, "pillow": Image.__version__},
        "photos": len(sizes),
        "median_size": [int(side) for side in np.median(sizes, axis=0)],
        "seconds": seconds,
        **{
            f"images_{clock}": {
                name: statistics.median(turn[number] for turn in found)
                for name, found in turns.items()
            }
            for number, clock in enumerate(clocks)
        },
        **{
            f"ours_{clock}": {
                f"to_{name}": round(
                    statistics.median(
                        mine[number] / other[number]
                        for mine, other in zip(turns["ours"], turns[name], strict=True)
                    ),
                    2,
                )
                for name in ("whole", "naive", "pil")
            }
            for number, clock in enumerate(clocks)
        },
        "turns": turns,
    }
    text = json.dumps(record, indent=1) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
