"""What probabilities are worth: accuracy and how sure it is of it, loss, calibration, classes."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np

BINS = 15  # Guo et al. 2017, section 5


def score(probabilities: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return what probabilities (n, classes) are worth against the labels' numbers (n,).

    Returns:
        "metrics": accuracy and its interval (see `wilson`), top5, loss (cross-entropy in nats),
        images, calibration_error and reliability (see `reliability`), per_class: accuracy (None
        where there are none) and images of each; "labels"; "confusion": counts (true class,
        predicted class).

    >>> found = score(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ("a", "b"))["metrics"]
    >>> found["accuracy"], found["per_class"]["b"]
    (0.5, {'accuracy': 0.0, 'images': 1})
    """
    guess = probabilities.argmax(1)
    own = probabilities[np.arange(len(truth)), truth]
    rank = (probabilities > own[:, None]).sum(1)
    right = guess == truth
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, guess), 1)
    counts = confusion.sum(1).tolist()
    hits = confusion.diagonal().tolist()
    bins = reliability(probabilities.max(1), right)
    metrics = {
        "accuracy": float(right.mean()),
        "accuracy_interval": list(wilson(int(right.sum()), len(truth))),
        "top5": float((rank < 5).mean()),
        "loss": float(-np.log(np.maximum(own, 1e-7)).mean()),
        "images": len(truth),
        "calibration_error": calibration_error(bins),
        "reliability": bins,
        "per_class": {
            label: {"accuracy": hit / count if count else None, "images": count}
            for label, hit, count in zip(labels, hits, counts, strict=True)
        },
    }
    return {"metrics": metrics, "labels": list(labels), "confusion": confusion}


def wilson(right: int, images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval in which an accuracy may lie that was measured on so many images.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953: the rates that the count does not
    contradict. It stays within 0 and 1, and is right for few images and accuracies near 1 too.

    >>> [round(bound, 4) for bound in wilson(81, 263)]  # Newcombe 1998, table I
    [0.2553, 0.3662]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, spread = right / images, z * z / images
    centre = rate + spread / 2
    half = z * math.sqrt(rate * (1 - rate) / images + spread / (4 * images))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    # Exact where rounding would not be.
    return (low if right else 0.0), (high if right < images else 1.0)


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Return how often answers are right, by how sure they are: in 15 equal steps of probability.

    Guo et al. 2017, section 2, https://arxiv.org/abs/1706.04599: the m-th of M steps holds the
    images whose largest probability is above (m - 1) / M and at most m / M.

    Args:
        confidence: the largest probability of each image (n,).
        right: whether the class that has it is the true one (n,).

    Returns:
        For each step its bounds "from" and "to", "images", and the means "confidence" and
        "accuracy", which are None where there are no images.
    """
    edges = np.arange(1, BINS) / BINS
    place = np.searchsorted(edges, confidence.astype("float64"), side="left")
    bins = []
    for step in range(BINS):
        chosen = place == step
        some = bool(chosen.any())
        bins.append(
            {
                "from": step / BINS,
                "to": (step + 1) / BINS,
                "images": int(chosen.sum()),
                "confidence": float(confidence[chosen].mean(dtype="float64")) if some else None,
                "accuracy": float(right[chosen].mean()) if some else None,
            }
        )
    return bins


def calibration_error(bins: list[dict[str, Any]]) -> float:
    """Return the expected calibration error: how far sureness is from accuracy, on the average.

    Guo et al. 2017, equation 3: the mean over all images of |accuracy - confidence| of their step.

    >>> sure = np.array([0.9, 0.9, 0.9, 0.9])
    >>> round(calibration_error(reliability(sure, np.array([True, True, True, False]))), 6)
    0.15
    """
    total = sum(each["images"] for each in bins)
    gaps = [
        each["images"] * abs(each["accuracy"] - each["confidence"])
        for each in bins
        if each["images"]
    ]
    return sum(gaps) / total
