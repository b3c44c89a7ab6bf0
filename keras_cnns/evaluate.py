"""What a trained network gets right: accuracy, loss, confusion and the worst mistakes."""

from typing import Any

import numpy as np

from keras_cnns import data
from keras_cnns.errors import UsageError
from keras_cnns.runs import Run

WORST = 18


def evaluate(
    run: Run, source: data.Source, split: str = "test", *, precision: str = "auto"
) -> dict[str, Any]:
    """Run a trained network over a split of a data set of the same classes.

    Args:
        run: the run folder.
        source: the data set.
        split: of it.
        precision: as of `keras_cnns.predictor`.

    Returns:
        "metrics": accuracy, top5, loss (cross-entropy in nats), images, precision and its error
        (the largest difference of a probability on the first batch); "labels"; "confusion":
        counts (true class, predicted class); "mistakes": the surest wrong answers.

    Raises:
        UsageError: where the classes are others than the network learned.
    """
    if tuple(source.labels) != run.labels:
        raise UsageError(
            f"{source.name} has {len(source.labels)} classes ({_some(source.labels)}), "
            f"but {run.path} learned {len(run.labels)} ({_some(run.labels)}); "
            "give the data of its own classes"
        )
    model = run.model()
    from keras_cnns.fusion.predictor import predictor

    batch = run.recipe.data.batch_size
    dataset = data.batches(source, split, image_shape=run.image_shape, batch_size=batch)
    truth = np.concatenate([labels for _, labels in dataset.as_numpy_iterator()])
    first, _ = next(dataset.as_numpy_iterator())
    fast = predictor(model, precision=precision, batch_size=batch, images=first)
    found = np.concatenate([fast(pixels) for pixels, _ in dataset.as_numpy_iterator()])
    scored = score(found, truth, run.labels)
    scored["metrics"] |= {"precision": fast.precision, "precision_error": fast.error}
    return {**scored, "mistakes": _mistakes(found, truth, dataset)}


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")


def score(probabilities: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics and the confusion of probabilities (n, classes) against labels (n,).

    >>> found = score(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ("a", "b"))
    >>> found["metrics"]["accuracy"]
    0.5
    """
    guess = probabilities.argmax(1)
    own = probabilities[np.arange(len(truth)), truth]
    rank = (probabilities > own[:, None]).sum(1)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, guess), 1)
    metrics = {
        "accuracy": float((guess == truth).mean()),
        "top5": float((rank < 5).mean()),
        "loss": float(-np.log(np.maximum(own, 1e-7)).mean()),
        "images": len(truth),
    }
    return {"metrics": metrics, "labels": list(labels), "confusion": confusion}


def _mistakes(probabilities: np.ndarray, truth: np.ndarray, dataset: Any) -> list[dict[str, Any]]:
    """Return the wrong answers that the network was surest of, with their images."""
    guess, sure = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(guess != truth)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    images = {}
    start = 0
    for pixels, _ in dataset.as_numpy_iterator():
        for index in worst[(worst >= start) & (worst < start + len(pixels))]:
            images[int(index)] = np.clip(np.rint(pixels[index - start]), 0, 255).astype(np.uint8)
        start += len(pixels)
    return [
        {
            "image": images[int(i)],
            "label": int(truth[i]),
            "predicted": int(guess[i]),
            "score": float(sure[i]),
            "file": "",
        }
        for i in worst
    ]
