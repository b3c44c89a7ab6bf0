"""Inception v4 and the Inception-ResNets: the shapes of figures 9 and 15, scales, heads."""

import pytest

from keras_cnns import builder, zoo

V4 = {
    "stem_c_conv": (147, 147, 64),
    "stem_d_concat": (73, 73, 160),
    "stem_e_concat": (71, 71, 192),
    "stem_f_concat": (35, 35, 384),
    "5e_concat": (35, 35, 384),
    "6a_concat": (17, 17, 1024),
    "6h_concat": (17, 17, 1024),
    "7a_concat": (8, 8, 1536),
    "7d_concat": (8, 8, 1536),
}
RESNET_V1 = {
    "stem_d_pool": (73, 73, 64),
    "stem_f_conv": (71, 71, 192),
    "stem_g_conv": (35, 35, 256),
    "a5_relu": (35, 35, 256),
    "reduction_a_concat": (17, 17, 896),
    "b10_relu": (17, 17, 896),
    "reduction_b_concat": (8, 8, 1792),
    "c5_relu": (8, 8, 1792),
}
RESNET_V2 = {
    "stem_h_concat": (35, 35, 320),
    "a10_relu": (35, 35, 320),
    "reduction_a_concat": (17, 17, 1088),
    "b20_relu": (17, 17, 1088),
    "reduction_b_concat": (8, 8, 2080),
    "c_last1_add": (8, 8, 2080),
    "last_a_conv": (8, 8, 1536),
}
TABLES = {"inception_v4": V4, "inception_resnet_v1": RESNET_V1, "inception_resnet_v2": RESNET_V2}
LAST_17X17 = {"inception_v4": "6h_concat", "inception_resnet_v2": "b20_relu"}


def rows(name, **arguments):
    return {row.name: row for row in builder.trace(name, **arguments).rows}


@pytest.mark.parametrize("name", TABLES)
def test_shapes_are_those_of_the_figure(name):
    found = rows(name)
    assert {row: found[row].shape for row in TABLES[name]} == TABLES[name]


@pytest.mark.parametrize("name", LAST_17X17)
def test_the_auxiliary_head_stands_on_the_last_17x17_map(name):
    found = rows(name, auxiliary=True)
    assert found["auxiliary1_pool"].shape[:2] == (5, 5)
    assert list(found).index("auxiliary1_pool") == list(found).index(LAST_17X17[name]) + 1
    assert sum(row.params for row in found.values()) == zoo.get(name).auxiliary_params


def test_residuals_are_scaled_by_the_numbers_of_the_spec():
    spec = {"a": {"depth": 1}, "b": {"depth": 1, "scale": 0.3}, "c": {"depth": 1}}
    shape = {"input_shape": (75, 75, 3), "num_classes": 2}
    model = builder.build("inception_resnet_v2", spec=spec, **shape)
    scales = [model.get_layer(f"{row}1_scale").scale for row in "abc"]
    assert scales == [0.17, 0.3, 0.2]
    names = {layer.name for layer in model.layers}
    assert not names & {"c_last1_scale", "c_last1_relu"}


def test_the_convolution_behind_the_branches_has_a_bias_and_no_normalisation():
    found = rows("inception_resnet_v1")
    assert found["a1_linear_conv"].params == 96 * 256 + 256
    assert "a1_linear_bn" not in found


def test_a_block_fits_whatever_the_search_makes_of_the_map():
    narrower = [{"filters": 8}, {"filters": 8}]
    spec = {"reduction_a": [[{"filters": 24}], [*narrower, {"filters": 40}], [{}]]}
    assert rows("inception_resnet_v1", spec=spec)["b1_add"].shape == (17, 17, 24 + 40 + 256)
