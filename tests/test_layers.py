"""Our own layers against their papers' formulas, saved and loaded, and in half precision."""

from math import erf, pi, sqrt

import keras
import numpy as np
import pytest

from keras_cnns.layers import GELU, LocalResponseNormalization, MatchChannels, WholeStrides

ALEXNET = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
GOOGLENET = {"size": 5, "alpha": 1e-4 / 5, "beta": 0.75, "k": 1.0}
# Constants with which the neighbours weigh as much as the pixel itself.
STRONG = {"size": 3, "alpha": 0.5, "beta": 0.9, "k": 1.5}
WIDE = {"size": 9, "alpha": 0.1, "beta": 0.5, "k": 1.0}


def images(channels, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    return generator.normal(0, scale, (2, 3, 4, channels)).astype("float32")


def lrn_of_the_paper(a, size, alpha, beta, k):
    """Krizhevsky et al. 2012, section 3.3, term by term."""
    last = a.shape[-1] - 1
    b = np.empty_like(a, "float64")
    for i in range(last + 1):
        neighbours = range(max(0, i - size // 2), min(last, i + size // 2) + 1)
        total = sum(a[..., j].astype("float64") ** 2 for j in neighbours)
        b[..., i] = a[..., i] / (k + alpha * total) ** beta
    return b


@pytest.mark.parametrize("channels", [1, 2, 7, 16])
@pytest.mark.parametrize("constants", [ALEXNET, GOOGLENET, STRONG, WIDE], ids=str)
def test_lrn_is_the_papers_formula(constants, channels):
    x, layer = images(channels), LocalResponseNormalization(**constants)
    np.testing.assert_allclose(layer(x), lrn_of_the_paper(x, **constants), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 7, 16])
@pytest.mark.parametrize("constants", [ALEXNET, GOOGLENET, STRONG, WIDE], ids=str)
def test_lrn_is_the_same_on_every_backend(constants, channels):
    x, layer = images(channels), LocalResponseNormalization(**constants)
    np.testing.assert_allclose(layer(x), layer.portable(x), rtol=0, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the native op is TensorFlow's")
def test_lrn_has_the_same_gradient_on_every_backend():
    import tensorflow as tf

    layer = LocalResponseNormalization(**STRONG)
    x, weights = tf.constant(images(7)), tf.constant(images(7, seed=1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        native, portable = (tf.reduce_sum(f(x) * weights) for f in (layer, layer.portable))
    np.testing.assert_allclose(tape.gradient(native, x), tape.gradient(portable, x), atol=1e-6)


def test_lrn_with_alpha_zero_is_a_constant_factor():
    x = images(4)
    layer = LocalResponseNormalization(size=3, alpha=0.0, beta=0.5, k=4.0)
    np.testing.assert_allclose(layer(x), x / 2, atol=1e-6)


def test_lrn_damps_a_channel_beside_a_loud_one():
    x = np.ones((1, 1, 1, 9), "float32")
    x[..., 4] = 100
    found = np.asarray(LocalResponseNormalization(**STRONG)(x)).ravel()
    assert (found[[3, 5]] < 0.1 * found[[0, 8]]).all()
    assert found[2] == found[6] == pytest.approx(found[1])


def test_lrn_over_an_even_number_of_channels_is_refused_or_the_same_on_every_backend():
    try:
        layer = LocalResponseNormalization(**{**STRONG, "size": 4})
    except ValueError:
        return
    np.testing.assert_allclose(layer(images(7)), layer.portable(images(7)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "filters", "before"), [(4, 8, 2), (4, 7, 1), (3, 3, 0), (16, 32, 8), (1, 2, 0)]
)
def test_zeros_stand_on_both_sides_of_the_channels(channels, filters, before):
    x = images(channels)
    y = np.asarray(MatchChannels(filters=filters)(x))
    assert y.shape == (2, 3, 4, filters)
    np.testing.assert_array_equal(y[..., before : before + channels], x)
    assert np.count_nonzero(y) == np.count_nonzero(x)


def test_gelu_is_the_papers_formula():
    x = np.linspace(-6, 6, 97, dtype="float32")
    exact = [v * (1 + erf(v / sqrt(2))) / 2 for v in x]
    np.testing.assert_allclose(GELU(approximate=False)(x), exact, atol=1e-6)
    close = x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(GELU()(x), close, atol=1e-6)
    assert np.abs(close - exact).max() > 1e-5


@pytest.mark.parametrize(
    ("given", "kept"), [(32, (0, 32)), (36, (0, 36)), (37, (0, 36)), (39, (1, 37)), (30, (1, 29))]
)
def test_of_an_image_whole_strides_are_kept_around_its_centre(given, kept):
    x = np.arange(given, dtype="float32")[None, :, None, None]
    layer = WholeStrides(size=(32, 1), strides=(4, 1))
    np.testing.assert_array_equal(layer(x), x[:, slice(*kept)])


LAYERS = [
    LocalResponseNormalization(**STRONG, name="lrn"),
    MatchChannels(filters=8, name="zeros"),
    GELU(approximate=False, name="gelu"),
    WholeStrides(size=(2, 3), strides=(2, 2), name="whole"),
]
KINDS = [type(layer).__name__ for layer in LAYERS]


@pytest.mark.parametrize("layer", LAYERS, ids=KINDS)
def test_a_layer_is_made_again_from_its_config(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(images(5)), layer(images(5)))


@pytest.mark.parametrize("layer", LAYERS, ids=KINDS)
def test_a_layer_is_loaded_by_those_who_name_no_custom_objects(layer, tmp_path):
    image = keras.Input((3, 4, 5))
    model = keras.Model(image, layer(image))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is type(layer)
    np.testing.assert_array_equal(loaded(images(5)), model(images(5)))


@pytest.mark.parametrize("layer", LAYERS, ids=KINDS)
def test_a_layer_names_its_shape_without_running(layer):
    symbolic = layer(keras.Input((None, None, 5))).shape
    assert symbolic == layer.compute_output_shape((None, None, None, 5))
    assert layer.compute_output_shape((2, 3, 4, 5)) == layer(images(5)).shape


@pytest.mark.parametrize("layer", LAYERS, ids=KINDS)
def test_a_layer_computes_in_half_precision(layer):
    config = {**layer.get_config(), "dtype": "mixed_bfloat16"}
    half = type(layer).from_config(config)
    x = images(5, scale=3)
    found = half(x)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    found = np.asarray(keras.ops.cast(found, "float32"))
    np.testing.assert_allclose(found, layer(x), rtol=2**-6, atol=2**-6)


def test_lrn_sums_its_squares_in_full_precision():
    # 300 squared, times five neighbours, is beyond what eight bits of mantissa can add up.
    layer = LocalResponseNormalization(**STRONG, dtype="mixed_bfloat16")
    x = np.float32([300, 301, 302, 303, 304]).reshape(1, 1, 1, 5)
    x = keras.ops.cast(x, "bfloat16")
    exact = lrn_of_the_paper(np.asarray(keras.ops.cast(x, "float32")), **STRONG)
    rounded = np.asarray(keras.ops.cast(keras.ops.cast(exact, "bfloat16"), "float32"))
    for call in (layer, layer.portable):
        np.testing.assert_array_equal(keras.ops.cast(call(x), "float32"), rounded)


def test_lrn_trains_on_what_it_predicts():
    layer = LocalResponseNormalization(size=5, alpha=0.1, beta=0.75, k=1.0)
    x = images(7)
    np.testing.assert_allclose(layer(x, training=True), layer(x), rtol=1e-5, atol=1e-6)
