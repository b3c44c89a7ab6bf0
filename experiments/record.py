"""The record of a recipe's runs, and their curves, to stand beside the recipe.

    python experiments/record.py RUN RUN... --out experiments/NAME.json

The runs are of one recipe, each with another seed, and `keras-cnns evaluate` has tested each once.
The curves are in NAME.png.
"""

import argparse
import datetime
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib
from speed import measure

from keras_cnns import runs

matplotlib.use("agg")
from matplotlib import pyplot

CURVES = ("accuracy", "val_accuracy", "loss", "val_loss")


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
    for row, colour in zip(
        rows, pyplot.rcParams["axes.prop_cycle"].by_key()["color"], strict=False
    ):
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
    parser.add_argument("runs", nargs="+", type=runs.open_run)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--note", default="", help="What a reader must know of the runs.")
    words = parser.parse_args()
    rows = sorted(map(described, words.runs), key=lambda row: row["seed"])
    scores = [row["test"]["accuracy"] for row in rows]
    record = {
        "recipe": f"{words.out.stem}.toml",
        "date": datetime.date.today().isoformat(),
        "machine": measure.machine(),
        "versions": measure.versions("tensorflow-cpu", "keras"),
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
