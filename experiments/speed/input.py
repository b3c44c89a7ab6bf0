"""How many photos a second a training gets: by ours, by naive decode-then-crop, and by PIL.

    python experiments/speed/input.py FOLDER [SECONDS]

FOLDER holds JPEG files. All cut a random part of 8 to 100 % of each, resize it to 224 pixels and
mirror one in two; "decoded" reads and decodes such parts and does nothing with them. They take
turns, seven of SECONDS (5) each. Then the same with images of 2000x1500 pixels, as cameras make
them: each sixteen of the photos side by side. input.json beside this file has each turn by the
processor's clock, which other work on the machine disturbs less than the wall's.
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import measure
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cnns import data
from keras_cnns.data import augment, order, pipeline, windows
from keras_cnns.data.images import decode

SIZE, BATCH, TURNS = 224, 32, 7
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

    def decoded(
        data: tf.Tensor, window: tf.Tensor, channels: int, orientation: tf.Tensor, **_: object
    ) -> tf.Tensor:
        top, left, height, width = tf.unstack(window)
        found = decode(data, channels, orientation)
        return found[top : top + height, left : left + width]

    pipeline.decode_part = decoded
    try:
        return ours(source)
    finally:
        pipeline.decode_part = part


def alone(source: data.Source) -> Iterator[tuple]:
    """What no pipeline saves that has the parts decoded at their own size."""
    policy = augment.get(POLICY)

    def draw(batch: dict) -> dict:
        sides, _ = source.form(batch["image"])
        edges = windows.window(
            policy, windows.drawn(batch["key"]), tuple(tf.unstack(sides, 2, -1)), (SIZE, SIZE)
        )
        return {"path": batch["image"]["path"], "part": windows.in_pixels(edges, sides)}

    def load(record: dict) -> tf.Tensor:
        encoded = tf.io.read_file(record["path"])
        found = tf.io.decode_and_crop_jpeg(encoded, record["part"], channels=3)
        return found[0, 0]  # or TensorFlow would not decode it

    records = order.listed(source, "train", BATCH, 0, 0).map(draw).unbatch()
    images = records.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(images.batch(BATCH).prefetch(tf.data.AUTOTUNE))


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


def rate(batches: Iterator, seconds: float) -> float:
    """Return images by second of the processor."""
    for _ in range(3):
        next(batches)
    count, begun, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        next(batches)
        count += BATCH
    return round(count / (time.process_time() - used), 1)


def beside(photos: Path, seconds: float) -> dict:
    """Take turns on the photos of a folder; return each and what they say."""
    ways = {"ours": ours, "whole": whole, "naive": naive, "pil": pil, "decoded": alone}
    turns: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as root:
        source = by_classes(photos, Path(root))
        sizes = [Image.open(path).size for path in source.files["train"]]
        for _ in range(TURNS):
            for name, way in ways.items():
                batches = way(source)
                turns[name].append(rate(batches, seconds))
                del batches
                print(name, turns[name][-1], flush=True)
    return {
        "photos": len(sizes),
        "median_size": [int(side) for side in np.median(sizes, axis=0)],
        "images_by_processor_second": {
            name: statistics.median(found) for name, found in turns.items()
        },
        "to_naive": {
            name: measure.speedup(*([1 / r for r in rates] for rates in (turns["naive"], found)))
            for name, found in turns.items()
            if name != "naive"
        },
        "turns": turns,
    }


def mosaics(photos: Path, place: Path) -> None:
    """Write images of sixteen photos each, at about the bytes by pixel that the photos have."""
    drawn, paths = random.Random(0), sorted(photos.iterdir())
    for number in range(32):
        canvas = Image.new("RGB", (2000, 1500))
        for index in range(16):
            with Image.open(drawn.choice(paths)) as photo:
                tile = photo.convert("RGB").resize((500, 375))
            canvas.paste(tile, (index % 4 * 500, index // 4 * 375))
        canvas.save(place / f"{number:02d}.jpg", quality=90)


def main(folder: str, seconds: float = 5.0) -> None:
    """Take turns on the photos, and on large images of them; write the record."""
    with tempfile.TemporaryDirectory() as place:
        mosaics(Path(folder), Path(place))
        record = {
            "command": "python experiments/speed/input.py FOLDER",
            "machine": measure.machine(),
            "versions": measure.versions("tensorflow", "pillow"),
            "seconds": seconds,
            "photos": beside(Path(folder), seconds),
            "mosaics": beside(Path(place), seconds),
        }
    measure.save(record, Path(__file__).with_suffix(".json"))
    print(json.dumps({k: record[k]["to_naive"] for k in ("photos", "mosaics")}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
