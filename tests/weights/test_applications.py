"""keras.applications' weights, carried across: the same scores from the same pixels."""

import keras
import numpy as np
import pytest

from keras_cnns import builder, zoo
from keras_cnns.errors import UsageError
from keras_cnns.export.prepare import settle_statistics
from keras_cnns.weights import applications, assign, carried
from keras_cnns.weights.carried import Carried

CHEAP = ("vgg16", "inception_v3", "xception", "resnet50_v1", "resnet50_v2_keras", "densenet121")
# Where keras.applications documents the way of preprocessing of each.
MODULES = {
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "inception_v3": "inception_v3",
    "inception_resnet_v2": "inception_resnet_v2",
    "xception": "xception",
    **{f"resnet{n}_v1": "resnet" for n in (50, 101, 152)},
    **{f"resnet{n}_v2_keras": "resnet_v2" for n in (50, 101, 152)},
    **{f"densenet{n}": "densenet" for n in (121, 169, 201)},
}
NAMES = [name if name in CHEAP else pytest.param(name, marks=pytest.mark.slow) for name in MODULES]


def size_of(name):
    return {"ception": 75, "inception_resnet_v2": 75}.get(name, 32)


def pixels(size, seed=0, n=2):
    """Random images with large patches: pixels that are all random look alike to deep layers."""
    patches = np.random.default_rng(seed).uniform(0, 255, (n, 3, 3, 3))
    near = np.arange(size) * 3 // size
    return patches[:, near][:, :, near].astype("float32")


def preprocess(name, images):
    return getattr(keras.applications, MODULES[name]).preprocess_input(images.copy())


def trained(name, size, **arguments):
    """Return their network as if it were trained: no weight or statistic is a 0 or 1."""
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    theirs = getattr(keras.applications, applications.SIBLINGS[name].name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None, **arguments
    )
    spread = {"gamma": (0.5, 1.5), "beta": (0.5, 1.5), "bias": (-0.1, 0.1)}
    for weight in theirs.weights:
        if weight.name in spread:
            weight.assign(draw.uniform(*spread[weight.name], weight.shape))
    settle_statistics(theirs, preprocess(name, pixels(size, seed=1, n=16)))
    for weight in theirs.weights:
        if weight.name == "moving_variance":
            weight.assign(weight * draw.uniform(0.7, 1.4, weight.shape))
    return theirs


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_theirs(name):
    size = 75 if "ception" in name else 32
    theirs = trained(name, size, classes=10)
    ours = builder.build(
        name,
        input_shape=(size, size, 3),
        num_classes=10,
        classifier_activation=None,
        preprocessing=applications.SIBLINGS[name].preprocessing,
    )
    net = zoo.get(name)
    values = applications.translate(theirs, net, include_top=True)
    assign(ours, Carried(values, None, "theirs"), net)
    images = pixels(size)
    expected = np.asarray(theirs(preprocess(name, images), training=False))
    received = np.asarray(ours(images, training=False))
    print(name, np.ptp(expected), np.abs(expected - received).max() / np.ptp(expected))
    assert 1e-2 < np.ptp(expected) < 1e3
    assert np.abs(expected - received).max() <= 1e-5 * np.ptp(expected)
