"""MLP-Mixer against its paper's table 1 and equation 1."""

import math

import keras
import numpy as np
import pytest

from keras_cnns import blocks, builder, zoo
from keras_cnns.arithmetic import ALL
from keras_cnns.layers import GELU


def gelu(x, approximate=True):
    """The two formulas of Hendrycks & Gimpel 2016."""
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize(
    ("name", "size", "hidden", "tokens", "channels", "layers"),
    [
        ("mixer_s32", 7, 512, 256, 2048, 8),
        ("mixer_s16", 14, 512, 256, 2048, 8),
        ("mixer_b32", 7, 768, 384, 3072, 12),
        ("mixer_b16", 14, 768, 384, 3072, 12),
    ],
)
def test_the_shapes_of_table_1(name, size, hidden, tokens, channels, layers):
    found = {row.name: row.shape for row in builder.trace(name).rows}
    assert found["patches_conv"] == (size, size, hidden)
    assert found["mixer1_tokens_1_conv"] == (1, hidden, tokens)
    assert found["mixer1_tokens_2_conv"] == (1, hidden, size * size)
    assert found["mixer1_channels_1_conv"] == (size, size, channels)
    assert found[f"mixer{layers}_channels_add"] == found["last_norm"] == (size, size, hidden)
    assert f"mixer{layers + 1}_tokens_norm" not in found


def test_a_position_sees_its_patch_and_after_one_block_all_of_the_image():
    fields = {row.name: row.receptive_field for row in builder.trace("mixer_s16").rows}
    assert fields["patches_conv"] == fields["mixer1_tokens_norm"] == (16, 16)
    assert fields["mixer1_tokens_add"] == (ALL, ALL)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("approximate", [True, False])
def test_a_block_computes_equation_1(approximate):
    image = keras.Input((2, 3, 5))
    out = blocks.mixer_block(image, 4, 7, approximate=approximate, name="a")
    block = keras.Model(image, out)
    rng = np.random.default_rng(0)
    for weight in block.weights:
        weight.assign(rng.normal(size=weight.shape))
    # Norms' scales and offsets have tests of their own in Keras.
    for place in ("tokens", "channels"):
        block.get_layer(f"a_{place}_norm").set_weights([np.ones(5), np.zeros(5)])

    def dense(x, name):
        kernel, bias = block.get_layer(name).get_weights()
        return x @ kernel[0, 0] + bias

    def perceptron(x, place):
        return dense(gelu(dense(x, f"a_{place}_1_conv"), approximate), f"a_{place}_2_conv")

    images = rng.normal(size=(3, 2, 3, 5)).astype("float32")
    x = images.reshape(3, 6, 5)
    u = x + perceptron(normalised(x).transpose(0, 2, 1), "tokens").transpose(0, 2, 1)
    y = u + perceptron(normalised(u), "channels")
    np.testing.assert_allclose(block(images), y.reshape(3, 2, 3, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("approximate", [True, False])
def test_gelu(approximate):
    layer = GELU.from_config(GELU(approximate=approximate).get_config())
    x = np.linspace(-6, 6, 101, dtype="float32")
    np.testing.assert_allclose(layer(x), gelu(x, approximate), atol=1e-6)


def test_the_two_gelus_differ():
    x = np.linspace(-3, 3, 101, dtype="float32")
    assert np.abs(np.asarray(GELU()(x)) - np.asarray(GELU(approximate=False)(x))).max() > 1e-4


def test_the_authors_form_is_the_default():
    spec = zoo.spec_of("mixer_b16")
    assert spec.approximate_gelu
    assert not zoo.spec_of("mixer_b16", {"approximate_gelu": False}).approximate_gelu
