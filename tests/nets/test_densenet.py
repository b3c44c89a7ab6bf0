"""DenseNet against its paper's table 1 and section 3."""

import keras
import numpy as np
import pytest

from keras_cnns import blocks, builder
from keras_cnns.trace import FeatureMap


def shapes(name, **arguments):
    return {row.name: row.shape for row in builder.trace(name, **arguments).rows}


def test_the_shapes_of_densenet121_are_those_of_table_1():
    found = shapes("densenet121")
    assert found["conv1_conv"] == (112, 112, 64)
    assert found["conv1_pool"] == (56, 56, 64)
    assert found["dense1_6_concat"] == (56, 56, 256)
    assert found["transition1_conv"] == (56, 56, 128)
    assert found["transition1_pool"] == (28, 28, 128)
    assert found["dense2_12_concat"] == (28, 28, 512)
    assert found["dense3_24_concat"] == (14, 14, 1024)
    assert found["dense4_16_concat"] == (7, 7, 1024)
    assert found["pool"] == (1024,)


@pytest.mark.parametrize(
    ("name", "features"),
    # The inputs of torchvision's classifiers; 264 as 201 and 161 are made.
    [("densenet161", 2208), ("densenet169", 1664), ("densenet201", 1920), ("densenet264", 2688)],
)
def test_as_many_features_as_torchvision(name, features):
    assert shapes(name)["pool"] == (features,)


def test_the_nets_for_cifar_keep_the_image_until_the_first_transition():
    plain, compressed = shapes("densenet40_cifar"), shapes("densenet100_bc_cifar")
    assert plain["conv1_conv"] == (32, 32, 16)
    assert plain["transition1_conv"] == plain["dense1_12_concat"] == (32, 32, 16 + 12 * 12)
    assert plain["dense3_12_concat"] == (8, 8, 448)
    assert "dense1_1_1x1_conv" not in plain
    assert compressed["conv1_conv"] == (32, 32, 24)
    assert compressed["dense1_1_1x1_conv"] == (32, 32, 48)
    assert compressed["dense1_16_concat"] == (32, 32, 216)
    assert compressed["transition1_conv"] == (32, 32, 108)


def test_a_layer_is_norm_relu_conv_twice():
    kinds = [
        row.kind for row in blocks.dense_block(FeatureMap((None, 8, 8, 16)), 4, 1, name="a").rows
    ]
    half = ["BatchNormalization", "Activation", "Conv2D"]
    assert kinds == [*half, *half, "Concatenate"]


def test_a_network_ends_in_norm_and_relu():
    rows = builder.trace("densenet40_cifar", include_top=False).rows
    assert [row.name for row in rows[-3:]] == ["dense3_12_concat", "last_bn", "last_relu"]


def test_what_came_before_comes_through_unchanged():
    image = keras.Input((6, 6, 5))
    block = keras.Model(image, blocks.dense_block(image, 3, 2, name="a"))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 5)).astype("float32")
    y = np.asarray(block(x))
    assert y.shape == (2, 6, 6, 11)
    np.testing.assert_array_equal(y[..., :5], x)


def test_dropout_follows_every_convolution_but_the_first():
    rows = builder.trace("densenet40_cifar", spec={"dropout": 0.2}).rows
    after = {rows[i + 1].kind for i, row in enumerate(rows) if row.kind == "Conv2D"}
    assert rows[0].name == "conv1_conv"
    assert rows[1].kind == "BatchNormalization"
    assert after == {"Dropout", "BatchNormalization"}
    assert sum(row.kind == "Dropout" for row in rows) == 3 * 12 + 2


def test_the_stem_for_small_images():
    found = shapes("densenet121", input_shape=(32, 32, 3), spec={"stem": "small"})
    assert found["conv1_conv"] == (32, 32, 64)
    assert found["dense4_16_concat"] == (4, 4, 1024)
