"""The same network on another backend: no TensorFlow there, and the same numbers."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_cnns import zoo
from keras_cnns.spec import scale_filters

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow"),
]

# With the local response normalisation, the stem for small images, a dropout and 15 classes.
SHAPE, CLASSES = (32, 32, 3), 15

CHILD = """
import sys
import keras, numpy
import keras_cnns
from keras_cnns.cost import cost
from keras_cnns.spec import scale_filters
from keras_cnns.zoo import spec_of

weights, images, scores = sys.argv[1:]
assert keras.backend.backend() == "jax"
spec = scale_filters(spec_of("inception_v1", {"stem": {"kind": "small"}}), 1 / 8)
model = keras_cnns.build(
    "inception_v1", input_shape=(32, 32, 3), num_classes=15, spec=spec, weights=weights
)
assert model.count_params() == sum(row.params for row in cost(model).layers)
numpy.save(scores, model.predict(numpy.load(images), verbose=0))
print([name for name in ("tensorflow", "torch") if name in sys.modules])
"""


def test_inception_v1_gives_the_same_scores_on_jax(tmp_path):
    keras.utils.set_random_seed(0)
    spec = scale_filters(zoo.spec_of("inception_v1", {"stem": {"kind": "small"}}), 1 / 8)
    model = zoo.build("inception_v1", input_shape=SHAPE, num_classes=CLASSES, spec=spec)
    images = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype("float32")
    paths = [tmp_path / name for name in ("model.weights.h5", "images.npy", "scores.npy")]
    model.save_weights(paths[0])
    np.save(paths[1], images)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", "the package imports another framework"
    mine, theirs = np.asarray(model(images)), np.load(paths[2])
    assert np.ptp(mine, axis=0).max() > 0.01
    np.testing.assert_allclose(theirs, mine, atol=1e-4)
