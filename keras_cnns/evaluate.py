"""What a trained network gets right, or several together: accuracy, loss, confusion, mistakes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnns import classifier, data, runs
from keras_cnns.crops import PLAIN, Views
from keras_cnns.errors import UsageError
from keras_cnns.runs import Run
from keras_cnns.scores import score

WORST = 18
UNSEEN = "give --data with images that none has seen"
# Of an ensemble's members, what is said of each.
BRIEF = ("accuracy", "accuracy_interval", "top5", "loss", "images", "calibration_error")


class Answers(NamedTuple):
    """What a network says of a split: probabilities (n, classes), and the true classes (n,).

    `mistakes` are the surest wrong answers; `precision` and its error as of `keras_cnns.predictor`.
    """

    probabilities: np.ndarray
    truth: np.ndarray
    mistakes: list[dict[str, Any]]
    precision: str
    error: float


def evaluate(
    run: Run,
    source: data.Source,
    split: str = "test",
    *,
    precision: str = "auto",
    views: Views = PLAIN,
) -> dict[str, Any]:
    """Run a trained network over a split of a data set of the same classes.

    Args:
        run: the run folder.
        source: the data set.
        split: of it.
        precision: as of `keras_cnns.predictor`.
        views: the parts of each image that are looked at, as of `keras_cnns.crops.views`.

    Returns:
        "metrics": those of `keras_cnns.scores.score`, with precision and its error (the largest
        difference of a probability on the first batch) and the views; "labels"; "confusion":
        counts (true class, predicted class); "mistakes": the surest wrong answers.

    Raises:
        UsageError: where the classes are others than the network learned, or it takes no such
            views.
    """
    check_labels(run, source)
    found = answers(run, source, split, precision=precision, views=views)
    scored = score(found.probabilities, found.truth, run.labels)
    scored["metrics"] |= _said_of(found.precision, found.error, views)
    return {**scored, "mistakes": found.mistakes}


def ensemble(
    members: Sequence[Run],
    sources: Sequence[data.Source],
    split: str = "test",
    *,
    precision: str = "auto",
    views: Views = PLAIN,
) -> dict[str, Any]:
    """Run several trained networks over a split; their probabilities are averaged.

    Krizhevsky et al. 2012, section 6, and Szegedy et al. 2014, section 7. The networks may be of
    different kinds and take images of different sizes.

    Args:
        members: run folders of the same classes.
        sources: the data set as each of them takes it (see `open_sources`).
        split: of it.
        precision: as of `keras_cnns.predictor`.
        views: the parts of each image that each network looks at.

    Returns:
        As `evaluate`, but for mistakes; "members" among the metrics has the numbers of each alone.

    Raises:
        UsageError: as of `evaluate`, for any of them.
    """
    pairs = list(zip(members, sources, strict=True))
    for run, source in pairs:
        check_labels(run, source)
    each = []
    total: Any = 0
    for run, source in pairs:
        found = answers(run, source, split, precision=precision, views=views)
        total = total + found.probabilities
        alone = score(found.probabilities, found.truth, run.labels)["metrics"]
        said = {"precision": found.precision, "precision_error": found.error}
        each.append({"run": str(run.path), **{key: alone[key] for key in BRIEF}, **said})
    scored = score(total / len(members), found.truth, members[0].labels)
    precisions = ", ".join(sorted({one["precision"] for one in each}))
    error = max(one["precision_error"] for one in each)
    scored["metrics"] |= {**_said_of(precisions, error, views), "members": each}
    return scored


def check_labels(run: Run, source: data.Source) -> None:
    """Refuse a data set of other classes than a run's.

    Raises:
        UsageError: naming both.
    """
    if tuple(source.labels) != run.labels:
        raise UsageError(
            f"{source.name} has {len(source.labels)} classes ({_some(source.labels)}), "
            f"but {run.path} learned {len(run.labels)} ({_some(run.labels)}); "
            "give the data of its own classes"
        )


def open_sources(
    members: Sequence[Run], name: str | None = None, *, data_dir: str | None = None
) -> list[data.Source]:
    """Open the data set on which runs are tested together: for each as it takes images.

    A data set without a test split of its own is cut by the seed of the recipe, so that a run of
    another seed holds out other images, and may have been trained on the first one's.

    Args:
        members: the runs.
        name: of the data set; None: each run's own. A run whose own it is has it cut as in its
            training, and for the others as for the first of those. Where it is no run's own, and
            has no test split either, all of it is the test.
        data_dir: where TFDS keeps its sets.

    Raises:
        UsageError: where runs hold out different images, or others than when they were trained;
            it names the run.
    """
    own = [name is None or _is_named(run.recipe.data.name, name) for run in members]
    first = members[own.index(True) if any(own) else 0]
    opened: dict[Any, data.Source] = {}
    sources = []
    for run, is_own in zip(members, own, strict=True):
        recipe = run.recipe
        if name and not is_own:
            there = replace(first.recipe.data, name=name, channels=recipe.data.channels)
            recipe = replace(first.recipe, data=there)
        wanted = recipe.data
        key = (recipe.seed, wanted.name, wanted.channels, wanted.validation, wanted.test)
        if key not in opened:
            opened[key] = runs.open_data(recipe, data_dir=data_dir, whole=not any(own))
        sources.append(opened[key])
        if is_own:
            runs.check_data(run, opened[key], ["test"], UNSEEN)
        sources[-1].require("test")
        if sources[-1].digests["test"] != sources[0].digests["test"]:
            raise UsageError(
                f"{run.path} (seed {recipe.seed}) holds out other test images than "
                f"{first.path} (seed {first.recipe.seed}), and may have been trained on those; "
                + UNSEEN
            )
    return sources


def answers(run: Run, source: data.Source, split: str, *, precision: str, views: Views) -> Answers:
    """Return what a run's network says of each image of a split, which is read once."""
    shape, batch = run.image_shape, run.recipe.data.batch_size
    dataset = classifier.examples(source, split, views, image_shape=shape, batch_size=batch)
    first = next(dataset.as_numpy_iterator())["parts"][0].astype("float32")
    fast = classifier.network(run, views, precision=precision, batch_size=batch, images=first)
    found, truth = [], []
    mistakes: list[dict[str, Any]] = []
    for record in dataset.as_numpy_iterator():
        labels = record["label"]
        scores = classifier.probabilities(
            fast, record["parts"], images=len(labels), flip=views.flip
        )
        mistakes = _worst([*mistakes, *_wrong(scores, record)])
        found.append(scores)
        truth.append(labels)
    return Answers(
        np.concatenate(found), np.concatenate(truth), mistakes, fast.precision, fast.error
    )


def _is_named(own: str, name: str) -> bool:
    """Return whether a data set, as a recipe has it, is the one of a name."""
    return Path(own).expanduser().resolve() == Path(name).expanduser().resolve()


def _said_of(precision: str, error: float, views: Views) -> dict[str, Any]:
    """Return how the numbers were measured."""
    return {
        "precision": precision,
        "precision_error": error,
        "crops": views.crops,
        "scales": list(views.scales),
        "flip": views.flip,
    }


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")


def _wrong(scores: np.ndarray, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the wrong answers among a batch that may be the worst, each with its first part."""
    guess, sure, labels = scores.argmax(1), scores.max(1), record["label"]
    wrong = np.flatnonzero(guess != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    pixels = record["parts"][0]
    pixels = pixels.reshape(len(labels), -1, *pixels.shape[1:])[:, 0]
    return [
        {
            "image": np.clip(np.rint(pixels[i]), 0, 255).astype(np.uint8),
            "label": int(labels[i]),
            "predicted": int(guess[i]),
            "score": float(sure[i]),
            "file": os.fsdecode(record["file"][i]),
        }
        for i in wrong
    ]


def _worst(mistakes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(mistakes, key=lambda mistake: -mistake["score"])[:WORST]
