"""A predictor gives what the model gives, in the precision that it says, and only once asked."""

import keras
import numpy as np
import pytest

import keras_cnns
from keras_cnns import builder
from keras_cnns.errors import UsageError
from keras_cnns.export.prepare import settle_statistics
from keras_cnns.fusion import predictor as predictors

NARROW = {"input_shape": (48, 48, 3), "num_classes": 7}
SPECS = {
    "resnet20_cifar": {},
    "repvgg_b1g2": {"stages": [{"filters": 16, "depth": 2}] * 5, "stem": "small"},
    "vgg11_lrn": {"fc6": 16, "fc7": 16},
}


def model_of(name, **changes):
    keras.utils.set_random_seed(0)
    model = builder.build(name, spec=SPECS[name], preprocessing="symmetric", **NARROW, **changes)
    settle_statistics(model, pixels(16))
    return model


def pixels(count, seed=0):
    shape = (count, *NARROW["input_shape"])
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize("name", SPECS)
def test_it_gives_what_the_model_gives(name):
    model, images = model_of(name), pixels(10, seed=1)
    fast = keras_cnns.predictor(model, precision="float32", batch_size=4, images=images)
    assert fast.precision == "float32"
    assert fast.error <= 1e-5
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    np.testing.assert_allclose(fast(images), expected, atol=1e-5)
    np.testing.assert_array_equal(fast(images)[:4], fast.run(images[:4]))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="bfloat16 is TensorFlow's")
@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_rounds_and_says_by_how_much(name):
    model, images = model_of(name, classifier_activation=None), pixels(10, seed=1)
    fast = keras_cnns.predictor(model, precision="bfloat16", images=images)
    expected = np.asarray(model(images, training=False))
    error = np.abs(fast(images) - expected).max() / np.abs(expected).max()
    assert fast.precision == "bfloat16"
    assert fast.error == pytest.approx(error, rel=0.05)
    # 8 bits of mantissa, through a few layers.
    assert 1e-5 < fast.error < 0.05


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="bfloat16 is TensorFlow's")
@pytest.mark.parametrize(
    ("flags", "precision"),
    [("fpu avx2 avx512f", "float32"), ("fpu avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16")],
)
def test_the_processor_decides_where_nobody_else_does(flags, precision, tmp_path, monkeypatch):
    place = tmp_path / "cpuinfo"
    place.write_text(f"flags : {flags}\n")
    monkeypatch.setattr(predictors, "CPUINFO", place)
    model = model_of("resnet20_cifar")
    assert keras_cnns.predictor(model).precision == precision
    monkeypatch.setattr(predictors, "CPUINFO", tmp_path / "none")
    assert keras_cnns.predictor(model).precision == "float32"


def test_of_several_outputs_it_gives_the_predictions():
    model = builder.build("inception_v1", input_shape=(75, 75, 3), num_classes=3, auxiliary=True)
    images = np.random.default_rng(0).normal(size=(2, 75, 75, 3)).astype("float32")
    fast = keras_cnns.predictor(model, precision="float32", images=images)
    expected = keras.ops.convert_to_numpy(model(images, training=False)["predictions"])
    np.testing.assert_allclose(fast(images), expected, atol=1e-5)


def test_what_cannot_be_done_is_refused():
    model = model_of("resnet20_cifar")
    with pytest.raises(UsageError, match='"float16"; allowed are auto, float32, bfloat16'):
        keras_cnns.predictor(model, precision="float16")
    fast = keras_cnns.predictor(model, precision="float32")
    for images in (pixels(2)[0], pixels(2)[:, :30], pixels(0), [[1]]):
        with pytest.raises(UsageError, match=r"received images of shape .*takes \(n, 48, 48, 3\)"):
            fast(images)
    with pytest.raises(UsageError, match="a batch_size of 0"):
        keras_cnns.predictor(model, batch_size=0)
    two = [keras.Input((4, 4, 1)), keras.Input((4, 4, 1))]
    with pytest.raises(UsageError, match="has 2 inputs and 1 outputs; a predictor takes one"):
        keras_cnns.predictor(keras.Model(two, keras.layers.Add()(two)))
