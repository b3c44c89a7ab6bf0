"""A network made convolutional is the network, on an image of its size and at each place."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_cnns
from keras_cnns import classifier, crops
from keras_cnns.convolutional import fully_convolutional
from keras_cnns.errors import UsageError

DRAW = np.random.default_rng(0)
NARROW = {
    "lenet5": {},
    "vgg11_lrn": {"fc6": 16, "fc7": 16},
    "alexnet_owt": {"fc6": 16, "fc7": 16},
    "nin_cifar": {},
    "resnet20_cifar": {},
    "inception_v1_d2l": {},
}


def pixels(*shape):
    return DRAW.uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize("name", NARROW)
def test_on_images_of_its_size_nothing_changes(name):
    size = 96 if name in ("vgg11_lrn", "alexnet_owt", "inception_v1_d2l") else 32
    keras.utils.set_random_seed(0)
    model = keras_cnns.build(
        name, input_shape=(size, size, 3), num_classes=7, spec=NARROW[name],
        preprocessing="symmetric",
    )  # fmt: skip
    dense, images = fully_convolutional(model), pixels(2, size, size, 3)
    expected = np.asarray(model(images, training=False))
    np.testing.assert_allclose(dense(images, training=False), expected, atol=1e-5)
    larger = np.asarray(dense(pixels(2, size + 40, size + 9, 3), training=False))
    assert larger.shape == (2, 7)
    np.testing.assert_allclose(larger.sum(1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def lenet():
    keras.utils.set_random_seed(0)
    return keras_cnns.build("lenet5", preprocessing="symmetric")


def test_the_scores_are_the_mean_of_those_of_the_crops_at_each_stride(lenet):
    """LeNet-5 pads nothing and has a stride of 4, so that both are exact."""
    (image,) = pixels(1, 44, 37, 1)
    scores = keras.Model(lenet.input, lenet.get_layer("logits").output)
    windows = [image[y : y + 32, x : x + 32] for y in (0, 4, 8, 12) for x in (0, 4)]
    mean = np.asarray(scores(np.stack(windows), training=False)).mean(0)
    expected = np.exp(mean - mean.max()) / np.exp(mean - mean.max()).sum()
    found = fully_convolutional(lenet)(image[None], training=False)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_strided_layers_look_where_they_have_learned_to():
    """Of 37 x 43 pixels 36 x 40 are looked at, as "same" pads these as it does 32 x 32."""
    keras.utils.set_random_seed(0)
    model = keras_cnns.build("resnet20_cifar", preprocessing="symmetric")
    dense, images = fully_convolutional(model), pixels(2, 37, 43, 3)
    centre = images[:, :36, 1:41]
    again = keras_cnns.build("resnet20_cifar", input_shape=(36, 40, 3), preprocessing="symmetric")
    again.set_weights(model.get_weights())
    for seen in (images, centre):
        found = dense(seen, training=False)
        np.testing.assert_allclose(found, again(centre, training=False), atol=1e-5)


def test_a_predictor_takes_it_at_any_size(lenet):
    dense = fully_convolutional(lenet)
    fast = keras_cnns.predictor(dense, precision="float32", images=pixels(2, 40, 48, 1))
    assert fast.error < 1e-5
    for shape in ((3, 32, 32, 1), (1, 64, 45, 1)):
        images = pixels(*shape)
        np.testing.assert_allclose(fast(images), dense(images, training=False), atol=1e-5)


def test_what_predicts_with_it_is_tried_on_images_of_the_network_s_size():
    model = keras_cnns.build(
        "alexnet_owt", input_shape=(96, 96, 3), num_classes=7, spec=NARROW["alexnet_owt"]
    )
    run = SimpleNamespace(image_shape=(96, 96, 3), model=lambda: model)
    fast = classifier.network(run, crops.views("dense"), precision="float32")
    assert fast(pixels(1, 96, 128, 3)).shape == (1, 7)


def test_of_a_model_that_takes_any_size_there_is_none_to_make(lenet):
    with pytest.raises(UsageError, match="images of one size"):
        fully_convolutional(fully_convolutional(lenet))


def test_the_model_itself_stays_as_it_is(lenet):
    before = lenet.get_config()
    fully_convolutional(lenet)
    assert lenet.get_config() == before


def test_a_precision_is_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras_cnns.build("lenet5")
    finally:
        keras.config.set_dtype_policy("float32")
    dense = fully_convolutional(model)
    kinds = [layer for layer in dense.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.compute_dtype for layer in kinds] == ["bfloat16"] * len(kinds)


def test_a_network_that_knows_its_places_is_refused():
    model = keras_cnns.build("mixer_s32", input_shape=(64, 64, 3), num_classes=3)
    with pytest.raises(
        UsageError, match='"mixer_s32" takes images of one size: .* --crops 1, 5, 10'
    ):
        fully_convolutional(model)


def test_a_layer_between_a_flattened_map_and_a_dense_one_is_refused():
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(image, keras.layers.Activation("softmax")(keras.layers.Dense(3)(x)))
    with pytest.raises(UsageError, match="stands between a flattened map and a dense layer"):
        fully_convolutional(model)
