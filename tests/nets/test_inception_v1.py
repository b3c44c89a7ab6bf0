"""Variants of GoogLeNet: the naive one, torchvision's and the textbook's."""

import keras
import numpy as np
import pytest

from keras_cnns import builder, zoo
from keras_cnns.blocks import Top, auxiliary_head
from keras_cnns.trace import FeatureMap


def rows(name, **arguments):
    return {row.name: row for row in builder.trace(name, **arguments).rows}


# Table 1: the output of each row at 224 pixels.
TABLE_1 = {
    "conv1_conv": (112, 112, 64),
    "conv1_pool": (56, 56, 64),
    "conv2_conv": (56, 56, 192),
    "conv2_pool": (28, 28, 192),
    "3a_concat": (28, 28, 256),
    "3b_concat": (28, 28, 480),
    "3b_pool": (14, 14, 480),
    "4a_concat": (14, 14, 512),
    "4d_concat": (14, 14, 528),
    "4e_concat": (14, 14, 832),
    "4e_pool": (7, 7, 832),
    "5b_concat": (7, 7, 1024),
}


@pytest.mark.parametrize("name", ["inception_v1", "inception_v1_bn"])
def test_shapes_are_those_of_table_1(name):
    found = rows(name)
    assert {row: found[row].shape for row in TABLE_1} == TABLE_1


def test_channels_of_the_naive_network_only_grow():
    found = rows("inception_v1_naive")
    channels = [found[f"{row}_concat"].shape[-1] for row in ("3a", "3b", "4a", "4e", "5b")]
    assert channels == [416, 832, 1280, 3344, 4944]
    assert not any(name.endswith("4b_conv") for name in found)
    assert not any(name.startswith("3a_2b") for name in found)


def test_torchvisions_network_is_normalised_and_has_no_5x5_convolutions():
    found = rows("inception_v1_bn")
    kinds = [row.kind for row in found.values()]
    assert kinds.count("BatchNormalization") == kinds.count("Conv2D") == 57
    assert "LocalResponseNormalization" not in kinds
    assert found["3a_3b_conv"].params == 3 * 3 * 16 * 32
    assert rows("inception_v1")["3a_3b_conv"].params == 5 * 5 * 16 * 32 + 32


def test_the_textbook_network_has_neither_normalisation_nor_dropout():
    kinds = {row.kind for row in rows("inception_v1_d2l").values()}
    assert not kinds & {"LocalResponseNormalization", "BatchNormalization", "Dropout"}


@pytest.mark.parametrize("size", [224, 96, 33])
def test_torchvisions_heads_take_16_means_at_every_size(size):
    found = rows("inception_v1_bn", input_shape=(size, size, 3), auxiliary=True)
    assert found["auxiliary1_pool"].shape == (4, 4, 512)
    assert found["auxiliary2_pool"].shape == (4, 4, 528)
    total = sum(row.params for row in found.values())
    assert total == zoo.get("inception_v1_bn").auxiliary_params


def test_what_a_torchvision_head_pools_is_the_mean_of_windows_that_overlap():
    image = keras.Input((14, 14, 1))
    head = keras.Model(image, auxiliary_head(image, Top(2), size=4, units=8, name="aux"))
    values = np.random.default_rng(0).normal(size=(1, 14, 14, 1)).astype("float32")
    means = np.asarray(keras.Model(image, head.get_layer("aux_pool").output)(values))
    starts = (0, 3, 7, 10)
    expected = [[values[0, y : y + 4, x : x + 4, 0].mean() for x in starts] for y in starts]
    np.testing.assert_allclose(means[0, ..., 0], expected, atol=1e-6)
    traced = FeatureMap((None, 14, 14, 1))
    auxiliary_head(traced, Top(2), size=4, units=8, name="aux")
    assert sum(row.params for row in traced.rows) == head.count_params()


def test_the_papers_network_may_be_normalised_too():
    spec = {"form": {"norm": "batch"}}
    found = rows("inception_v1", spec=spec)
    assert sum(row.params for row in found.values()) == 7_005_832
