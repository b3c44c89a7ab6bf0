"""The same network on another backend: no TensorFlow there, and the same scores."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_cnns import builder, zoo
from keras_cnns.spec import map_filters, to_dict

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow"),
]

CHILD = """
import json
import sys
import keras, keras_cnns, numpy

arguments, weights, images, scores = sys.argv[1:]
assert keras.backend.backend() == "jax"
model = keras_cnns.build("inception_v1", **json.loads(arguments), weights=weights)
numpy.save(scores, model.predict(numpy.load(images), verbose=0))
print([name for name in ("tensorflow", "torch") if name in sys.modules])
"""


def test_inception_v1_gives_the_same_scores_on_jax(tmp_path):
    # JAX compiles the initialiser anew for each shape: as many filters everywhere, few shapes.
    spec = map_filters(lambda _, n: 8, zoo.spec_of("inception_v1", {"stem": {"kind": "small"}}))
    arguments = {"input_shape": (32, 32, 3), "num_classes": 15, "spec": to_dict(spec)}
    keras.utils.set_random_seed(0)
    model = builder.build("inception_v1", **arguments)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    paths = [tmp_path / name for name in ("model.weights.h5", "images.npy", "scores.npy")]
    model.save_weights(paths[0])
    np.save(paths[1], images)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(arguments), *map(str, paths)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", "something has imported another framework"
    mine, theirs = np.asarray(model(images)), np.load(paths[2])
    assert np.ptp(mine, axis=0).max() > 0.01, "every image gets the same scores"
    np.testing.assert_allclose(theirs, mine, atol=1e-4)
