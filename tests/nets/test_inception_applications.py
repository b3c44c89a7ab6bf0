"""The networks that keras.applications has too: its weights, carried across, give its scores."""

import re

import keras
import numpy as np
import pytest

from keras_cnns import builder

# Name there, and layers whose order does not follow from their numbers, by their names there and
# here: the 1x1 convolutions behind the branches, and those of the shortcuts.
SIBLINGS = {
    "inception_v3": ("InceptionV3", None),
    "inception_resnet_v2": ("InceptionResNetV2", (r"block\d+_\d+_conv$", r"_linear_conv$")),
    "xception": ("Xception", (r"^(conv2d|batch_normalization)", r"_shortcut_")),
}
KINDS = ("Conv2D", "SeparableConv2D", "BatchNormalization", "Dense")


def numbers(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def in_order(names, special):
    """The names that match `special`, in the order given, and the others by their numbers."""
    apart = [name for name in names if special and re.search(special, name)]
    return apart, sorted((name for name in names if name not in apart), key=numbers)


def as_built(names, special):
    apart = [name for name in names if special and re.search(special, name)]
    return apart, [name for name in names if name not in apart]


def carry(theirs, ours, built, special):
    """Set every weight of ours to theirs; where they have no gamma, ours is 1 as it starts."""
    there, here = special or (None, None)
    for kind in KINDS:
        names = [layer.name for layer in theirs.layers if type(layer).__name__ == kind]
        mine = [row.name for row in built if row.kind == kind]
        assert len(names) == len(mine), kind
        pairs = zip(in_order(names, there), as_built(mine, here), strict=True)
        for source, target in ((s, t) for pair in pairs for s, t in zip(*pair, strict=True)):
            values = theirs.get_layer(source).get_weights()
            layer = ours.get_layer(target)
            if len(values) < len(layer.weights):
                values = [np.ones_like(values[0]), *values]
            layer.set_weights(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIBLINGS)
def test_weights_of_keras_applications_give_its_scores(name):
    keras.utils.set_random_seed(0)
    sibling, special = SIBLINGS[name]
    shape = {"input_shape": (75, 75, 3)}
    theirs = getattr(keras.applications, sibling)(
        weights=None, classes=10, classifier_activation=None, **shape
    )
    random = np.random.default_rng(0)
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    ours = builder.build(name, num_classes=10, classifier_activation=None, **shape)
    carry(theirs, ours, builder.trace(name, num_classes=10, **shape).rows, special)
    images = random.normal(size=(2, 75, 75, 3)).astype("float32")
    expected, received = theirs(images, training=False), ours(images, training=False)
    error = np.abs(np.asarray(expected) - np.asarray(received)).max()
    assert error < 1e-5 * np.ptp(np.asarray(expected))
