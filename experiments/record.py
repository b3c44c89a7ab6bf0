"""The record of a recipe's runs, and their curves, to stand beside the recipe.

    python experiments/record.py RUN RUN... --out experiments/NAME.json

The runs are of experiments/NAME.toml as it is now, each with another seed, and `keras-cnns
evaluate` has tested each once. Their data must be where they were trained. The curves are in
NAME.png.
"""

import argparse
import datetime
import itertools
import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
from speed import measure

from keras_cnns import recipe as recipes, runs, train
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe
from keras_cnns.training import machine

matplotlib.use("agg")
from matplotlib import pyplot

CURVES = ("accuracy", "val_accuracy", "loss", "val_loss")


def opened(paths: list[Path], recipe: Recipe) -> list[runs.Run]:
    """Open runs of one recipe, which differ in their seeds alone."""
    found = sorted(map(runs.open_run, paths), key=lambda run: run.recipe.seed)
    if len({run.recipe.seed for run in found}) < len(found):
        raise SystemExit("two of these runs have the same seed; give each once")
    for run in found:
        began = run.recipe
        wanted = train.resolve(replace(recipe, seed=began.seed), runs.open_data(began))
        wanted = replace(wanted, train=machine.settle(wanted.train, began.train))
        if other := runs.first_difference(asdict(wanted), asdict(began)):
            raise SystemExit(f"{run.path} is of another recipe: {other}")
    return found


def described(run: runs.Run) -> dict[str, Any]:
    """Return what a run took and came to, and the way there."""
    found = runs.read_metrics(run)
    if "test" not in found:
        raise SystemExit(f"{run.path} has not been tested; run keras-cnns evaluate {run.path}")
    tested = ("accuracy", "accuracy_interval", "top5", "loss", "calibration_error", "images")
    return {
        "seed": run.recipe.seed,
        "train_seconds": found["training"]["seconds"],
        "images_per_second": found["training"]["images_per_second"],
        "weights_sha256": found["training"]["weights_sha256"],
        "validation_accuracy": found["validation"]["accuracy"],
        "test": {key: found["test"][key] for key in tested},
        "history": {
            key: [round(row[key], 4) for row in runs.read_history(run.path)] for key in CURVES
        },
    }


def draw(rows: list[dict[str, Any]], place: Path) -> None:
    """Draw the accuracies of every run, in training and in validation, epoch by epoch."""
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    colours = itertools.cycle(pyplot.rcParams["axes.prop_cycle"].by_key()["color"])
    for row, colour in zip(rows, colours, strict=False):
        epochs = range(1, len(row["history"]["accuracy"]) + 1)
        for key, style, what in (
            ("accuracy", ":", "training"),
            ("val_accuracy", "-", "validation"),
        ):
            values = [100 * value for value in row["history"][key]]
            axes.plot(epochs, values, style, color=colour, label=f"seed {row['seed']}, {what}")
        tested = 100 * row["test"]["accuracy"]
        axes.plot(epochs[-1], tested, "o", color=colour, label=f"seed {row['seed']}, test")
    axes.set(xlabel="epoch", ylabel="accuracy, %", title=place.stem)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(place, dpi=100)


def main() -> None:
    """Write NAME.json and NAME.png."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--note", default="", help="What a reader must know of the runs.")
    words = parser.parse_args()
    recipe = recipes.load(words.out.with_suffix(".toml"))
    try:
        rows = [described(run) for run in opened(words.runs, recipe)]
    except UsageError as error:
        raise SystemExit(str(error)) from None
    scores = [row["test"]["accuracy"] for row in rows]
    record = {
        "recipe": f"{words.out.stem}.toml",
        "train": asdict(recipe.train),
        "date": datetime.date.today().isoformat(),
        "machine": {k: v for k, v in measure.machine().items() if k != "load"},
        "versions": measure.versions("tensorflow", "tensorflow-cpu", "keras"),
        "note": words.note,
        "seeds": len(rows),
        "mean_test_accuracy": statistics.mean(scores),
        "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
        "runs": rows,
    }
    with runs.replacing(words.out) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    draw(rows, words.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
