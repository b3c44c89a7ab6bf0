"""How far a file's outputs are from its model's, and how far they may be.

R is the largest absolute logit of the float model over the reference images. Logits are compared
where a file has them. Where it has probabilities alone, their logarithms are, clipped from below
on both sides at the resolution of the output (1/256 for int8, 1e-7 for floats) and less their mean
over the classes: softmax forgets a shift of all logits, and so must the comparison. What rounding
the true probabilities to 1/256 does to their logarithms is no error of the network: its power is
taken from that of the errors before PSNR. Of classes below 1/256 an int8 file tells nothing, and so
of many classes PSNR tells less than of few.

An image is decisive if the two largest logits of the float model are more than 5 % of R apart;
agreement is the share of decisive images with the same class in first place. The others are ties.
"""

from typing import Any, NamedTuple

import numpy as np

DECISIVE = 0.05
JUDGED_IMAGES = 500
LISTED = 20
# Float32 probabilities come with errors of a few units in the last place, whatever R is.
_FLOAT_NOISE = 2e-6


class Tolerance(NamedTuple):
    """What a file may lose: at most an error (as a share of R) and a drop; at least the others."""

    error: float | None
    agreement: float
    psnr_db: float | None = None
    accuracy_drop: float | None = None


TOLERANCES = {
    ("savedmodel", "float32"): Tolerance(1e-5, 1.0),
    ("tflite", "float32"): Tolerance(1e-4, 1.0),
    ("onnx", "float32"): Tolerance(1e-4, 1.0),
    ("tflite", "float16"): Tolerance(5e-3, 0.999),
    ("tflite", "dynamic"): Tolerance(None, 0.98, psnr_db=45),
    ("tflite", "int8"): Tolerance(None, 0.96, psnr_db=35, accuracy_drop=0.01),
    ("onnx", "int8"): Tolerance(None, 0.96, psnr_db=35, accuracy_drop=0.01),
}


class Truth(NamedTuple):
    """Images (n, height, width, channels), the float model's logits (n, classes), labels (n), R."""

    images: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    largest: float

    @property
    def accuracy(self) -> float | None:
        """The float model's own accuracy, or None where no image has a label."""
        return accuracy(self.logits, self.labels)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the share of labelled images whose largest score is their label's.

    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]), np.array([1, 1, -1]))
    0.5
    """
    known = labels >= 0
    return float((scores.argmax(1) == labels)[known].mean()) if known.any() else None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities exp(x) / sum(exp(x)) of each row, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def log_probabilities(probabilities: np.ndarray, least: float) -> np.ndarray:
    """Return log(max(p, least)) less its mean over the classes: the logits, if they had mean zero.

    >>> logits = np.array([[1.0, 2.0, -3.0]])
    >>> bool(np.allclose(log_probabilities(softmax(logits), 1e-7), logits))
    True
    """
    logs = np.log(np.maximum(probabilities.astype(np.float64), least))
    return logs - logs.mean(axis=1, keepdims=True)


def measure(outputs: dict[str, np.ndarray], truth: Truth, quantization: str) -> dict[str, Any]:
    """Return how one file's outputs compare: errors, PSNR, agreement, accuracy, disagreements.

    A disagreement has the image's number, the classes expected and received, the margin of the
    float model between its two surest classes, the largest error, and whether it is but a tie.
    """
    scores = outputs["logits" if "logits" in outputs else "probabilities"]
    rounding = 0.0
    if "logits" in outputs:
        compared, got, wanted = "logits", scores.astype(np.float64), truth.logits
    else:
        least = 1 / 256 if quantization == "int8" else 1e-7
        compared, chances = "log-probabilities", softmax(truth.logits)
        got, wanted = (log_probabilities(p, least) for p in (scores, chances))
        if quantization == "int8":
            rounded = log_probabilities(np.round(chances * 256) / 256, least)
            rounding = float(np.mean((rounded - wanted) ** 2))
    error = np.abs(got - wanted)
    # By chance the errors may be smaller than rounding's: they are known to a tenth of it.
    power = max(float(np.mean(error**2)) - rounding, rounding / 10)
    rms = max(np.sqrt(power), 1e-12 * truth.largest)
    first, second = np.sort(truth.logits, axis=1)[:, :-3:-1].T
    expected, received = truth.logits.argmax(1), scores.argmax(1)
    told = 0 if compared == "logits" else 2 * _FLOAT_NOISE
    decisive = first - second > max(DECISIVE * truth.largest, told)
    others = expected != received
    # The decisive ones first.
    differ = np.concatenate([np.flatnonzero(others & kind) for kind in (decisive, ~decisive)])
    return {
        "compared": compared,
        "max_error": float(error.max()),
        "relative_error": float(error.max() / truth.largest),
        "psnr_db": float(20 * np.log10(truth.largest / rms)),
        "agreement": float(1 - others[decisive].mean()) if decisive.any() else None,
        "ties": int((~decisive).sum()),
        "images": len(scores),
        "accuracy": accuracy(scores, truth.labels),
        "disagreeing": len(differ),
        "disagreements": [
            {
                "image": int(i),
                "expected": int(expected[i]),
                "received": int(received[i]),
                "margin": float(first[i] - second[i]),
                "error": float(error[i].max()),
                "tie": not decisive[i],
            }
            for i in differ[:LISTED]
        ],
    }


def broken(outputs: dict[str, np.ndarray], truth: Truth) -> str:
    """Return why outputs cannot be measured at all, or nothing.

    >>> truth = Truth(np.zeros((1, 8, 8, 1)), np.array([[1.0, 2.0]]), np.array([-1]), 2.0)
    >>> broken({"probabilities": np.array([[0.5, np.nan]])}, truth)
    'probabilities holds values that are not finite'
    """
    if not outputs.keys() & {"logits", "probabilities"}:
        return f"it gives {', '.join(outputs)}, and neither logits nor probabilities"
    for name, values in outputs.items():
        if values.shape != truth.logits.shape:
            return f"{name} has shape {values.shape} where {truth.logits.shape} is wanted"
        if not np.isfinite(values).all():
            return f"{name} holds values that are not finite"
    both = outputs.keys() >= {"logits", "probabilities"}
    if both and np.abs(softmax(outputs["logits"]) - outputs["probabilities"]).max() > 1e-5:
        return "its probabilities are not the softmax of its logits"
    return ""


def judge(measured: dict[str, Any], truth: Truth, tolerance: Tolerance) -> str:
    """Return in one line what is beyond tolerance, or nothing.

    The drop of accuracy is judged on 500 labelled images or more, agreement where not all are ties.
    """
    faults = []
    if tolerance.error is not None:
        limit = tolerance.error * truth.largest
        if measured["compared"] == "log-probabilities":
            limit = max(limit, _FLOAT_NOISE)
        if measured["max_error"] > limit:
            faults.append(
                f"max error {measured['max_error']:.2g} in {measured['compared']} is above "
                f"{limit:.2g} ({tolerance.error:g} of the largest logit)"
            )
    if tolerance.psnr_db is not None and measured["psnr_db"] < tolerance.psnr_db:
        faults.append(f"PSNR {measured['psnr_db']:.1f} dB is below {tolerance.psnr_db:g} dB")
    if measured["agreement"] is not None and measured["agreement"] < tolerance.agreement:
        decisive = [entry for entry in measured["disagreements"] if not entry["tie"]]
        which = ", ".join(str(entry["image"]) for entry in decisive[:5])
        faults.append(
            f"top-1 agreement {measured['agreement']:.4f} is below {tolerance.agreement:g}, "
            f"first at image {which}"
        )
    before, after = truth.accuracy, measured["accuracy"]
    judged = tolerance.accuracy_drop is not None and int((truth.labels >= 0).sum()) >= JUDGED_IMAGES
    if judged and before is not None and before - after > tolerance.accuracy_drop:
        faults.append(f"accuracy fell from {before:.4f} to {after:.4f}")
    return "; ".join(faults)
