"""Runs side by side: what they came to, and what was different about them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from keras_cnns import runs
from keras_cnns.runs import Run

COLUMNS = (
    "run",
    "network",
    "data",
    "epochs",
    "validation",
    "test",
    "test_loss",
    "images_per_second",
    "seconds",
)


def compare(opened: Sequence[Run]) -> dict[str, Any]:
    """Return the figures of some runs, and the keys of their recipes that are not all the same.

    A run that has not ended has the figures of its last epoch.

    Returns:
        "runs": a dict for each with `COLUMNS` as keys, and those of other tests that any was given
        ("test, 10 crops"); accuracies as shares, None for what is not known; "differences": key
        of the recipe -> its value in each run.
    """
    others = dict.fromkeys(
        key for run in opened for key in runs.evaluations(run) if key not in COLUMNS
    )
    return {
        "runs": [_row(run) | _accuracies(run, others) for run in opened],
        "differences": differences([asdict(run.recipe) for run in opened]),
    }


def _row(run: Run) -> dict[str, Any]:
    metrics, history = runs.read_metrics(run), runs.read_history(run.path)
    last = history[-1] if history else {}
    training = metrics.get("training", {})
    test = metrics.get("test", {})
    found = (
        str(run.path),
        run.recipe.model.name,
        run.recipe.data.name,
        len(history),
        metrics.get("validation", {}).get("accuracy", last.get("val_accuracy")),
        test.get("accuracy"),
        test.get("loss"),
        training.get("images_per_second", last.get("images_per_second")),
        round(sum(row.get("seconds", 0.0) for row in history), 1),
    )
    return dict(zip(COLUMNS, found, strict=True))


def _accuracies(run: Run, names: Iterable[str]) -> dict[str, Any]:
    found = runs.evaluations(run)
    return {name: found.get(name, {}).get("accuracy") for name in names}


def differences(recipes: Sequence[Mapping[str, Any]], prefix: str = "") -> dict[str, list[Any]]:
    """Return the keys whose values are not the same in all, with the value of each.

    >>> differences([{"seed": 0, "train": {"epochs": 3}}, {"seed": 0, "train": {"epochs": 9}}])
    {'train.epochs': [3, 9]}
    """
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        values = [recipe.get(key) for recipe in recipes]
        if any(isinstance(value, Mapping) for value in values):
            tables = [value if isinstance(value, Mapping) else {} for value in values]
            found |= differences(tables, f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            found[prefix + key] = values
    return found
