"""What a network that has learned one half of CIFAR-10's classes has of it for the other half.

    TFDS_DATA_DIR=... python experiments/training/halves.py --out experiments/training/halves.json

resnet20_cifar learns the classes 0 to 4 from many images, then the classes 5 to 9 from few, from
there as `model.weights` does by default (the head alone for a quarter of the time, then the rest
more slowly), and these from scratch in as many steps. The test images are new to all.
"""

import argparse
import json
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds
from PIL import Image

from keras_cnns import evaluate, recipe as recipes, runs, train

SETTINGS = [
    "model.name=resnet20_cifar",
    "data.batch_size=64",
    "data.augment=crop",
    "train.learning_rate=0.003",
    "train.ema=0.9",
]


def folders(place: Path, many: int, few: int) -> None:
    """Write the two halves as folders, with many and few images of each class for training."""
    for split, counts in (("train", [many] * 5 + [few] * 5), ("test", [200] * 10)):
        seen = [0] * 10
        for record in tfds.as_numpy(tfds.load("cifar10", split=split, shuffle_files=False)):
            label = int(record["label"])
            if seen[label] < counts[label]:
                folder = place / ("low" if label < 5 else "high") / split / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(record["image"]).save(folder / f"{seen[label]}.png")
                seen[label] += 1
            if seen == counts:
                break


def main() -> None:
    """Train the three and write down what they came to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--many", type=int, default=2000, help="images of a class, first half")
    parser.add_argument("--few", type=int, default=100, help="images of a class, second half")
    parser.add_argument("--before", type=int, default=12, help="epochs on the first half")
    parser.add_argument("--epochs", type=int, default=20, help="on the second")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        folders(place, wanted.many, wanted.few)
        for seed in range(wanted.seeds):

            def test(name: str, data: str, *settings: str, seed: int = seed) -> float:
                given = [*SETTINGS, f"seed={seed}", f"data.name={place / data}", *settings]
                recipe = recipes.override(recipes.Recipe(), given)
                run = train.train(recipe, place / f"{name}{seed}")
                source = runs.open_data(run.recipe)
                return evaluate.evaluate(run, source, "test")["metrics"]["accuracy"]

            first = test("first", "low", f"train.epochs={wanted.before}")
            epochs = f"train.epochs={wanted.epochs}"
            weights = f"model.weights={place / f'first{seed}'}"
            moved = test("moved", "high", epochs, weights)
            scratch = test("scratch", "high", epochs)
            rows.append({"seed": seed, "first": first, "moved": moved, "scratch": scratch})
            print(rows[-1], flush=True)
    record = {
        "network": "resnet20_cifar",
        "data": "cifar10 as JPEG copies, 5 classes each",
        "images_per_class": {"first": wanted.many, "second": wanted.few},
        "test_images_per_class": 200,
        "epochs": {"first": wanted.before, "moved": wanted.epochs, "scratch": wanted.epochs},
        "settings": SETTINGS,
        "test_accuracy": rows,
    }
    text = json.dumps(record, indent=1) + "\n"
    print(text)
    if wanted.out:
        wanted.out.write_text(text)


if __name__ == "__main__":
    main()
