"""The numbers of an evaluation against others' and against their definitions."""

import numpy as np
import pytest
from scipy.stats import binomtest

from keras_cnns.scores import calibration_error, reliability, score, wilson


# Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E,
# table I, method 3.
@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(right, images, low, high):
    assert wilson(right, images) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (360, 360), (9123, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_are_scipy_s(right, images, confidence):
    theirs = binomtest(right, images).proportion_ci(confidence, method="wilson")
    assert wilson(right, images, confidence=confidence) == pytest.approx(tuple(theirs), abs=1e-12)


def test_the_calibration_error_is_torchmetrics():
    # The example of torchmetrics.classification.MulticlassCalibrationError: 0.2 by three steps of a
    # third, and by 15 too, as 0.6 is the upper bound of the one with 0.55.
    scores = np.array(
        [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]]
    )
    found = score(scores, np.array([0, 1, 2, 0]), ("a", "b", "c"))["metrics"]
    assert found["calibration_error"] == pytest.approx(0.2)
    steps = {each["to"]: each["images"] for each in found["reliability"] if each["images"]}
    assert steps == {9 / 15: 3, 14 / 15: 1}


def test_the_calibration_error_is_that_of_its_definition():
    draw = np.random.default_rng(0)
    sure, right = draw.uniform(0.1, 1, 500), draw.uniform(size=500) < 0.7
    total = 0.0
    for m in range(1, 16):
        inside = [i for i in range(500) if (m - 1) / 15 < sure[i] <= m / 15]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            total += len(inside) / 500 * abs(accuracy - sum(sure[i] for i in inside) / len(inside))
    assert calibration_error(reliability(sure, right)) == pytest.approx(total, abs=1e-12)


def test_who_is_as_sure_as_right_has_no_calibration_error():
    sure, right = np.full(10, 0.7), np.arange(10) < 7
    assert calibration_error(reliability(sure, right)) == pytest.approx(0, abs=1e-12)
    assert calibration_error(reliability(np.ones(4), np.arange(4) < 1)) == pytest.approx(0.75)


def test_an_evaluation_counts():
    scores = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
    found = score(scores, np.array([0, 1, 1, 1]), ("a", "b", "c"))
    assert found["confusion"].tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    metrics = found["metrics"]
    assert metrics["accuracy"] == 0.5
    assert metrics["accuracy_interval"] == list(wilson(2, 4))
    assert metrics["top5"] == 1
    assert metrics["loss"] == pytest.approx(-np.log([0.6, 0.4, 0.2, 0.5]).mean())
    assert metrics["per_class"] == {
        "a": {"accuracy": 1.0, "images": 1},
        "b": {"accuracy": 1 / 3, "images": 3},
        "c": {"accuracy": None, "images": 0},
    }
    assert sum(each["images"] for each in metrics["reliability"]) == metrics["images"] == 4


def test_top_5_leaves_out_the_sixth():
    scores = np.array([[0.3, 0.2, 0.15, 0.14, 0.11, 0.1]] * 2)
    assert score(scores, np.array([4, 5]), tuple("abcdef"))["metrics"]["top5"] == 0.5
