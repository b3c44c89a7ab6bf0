"""Inception v3: the shapes of its table, the order of its convolutions, its auxiliary head."""

from keras_cnns import builder, zoo
from keras_cnns.nets.inception_v3 import INCEPTION_V3
from keras_cnns.spec import Branches, Conv

# The output of each row at 299 pixels; from 5d on, table 1 of the paper.
SHAPES = {
    "stem_a_conv": (149, 149, 32),
    "stem_b_conv": (147, 147, 32),
    "stem_c_conv": (147, 147, 64),
    "stem_d_pool": (73, 73, 64),
    "stem_e_conv": (73, 73, 80),
    "stem_f_conv": (71, 71, 192),
    "stem_g_pool": (35, 35, 192),
    "5b_concat": (35, 35, 256),
    "5c_concat": (35, 35, 288),
    "5d_concat": (35, 35, 288),
    "6a_concat": (17, 17, 768),
    "6e_concat": (17, 17, 768),
    "7a_concat": (8, 8, 1280),
    "7b_concat": (8, 8, 2048),
    "7c_concat": (8, 8, 2048),
}


def rows(**arguments):
    return {row.name: row for row in builder.trace("inception_v3", **arguments).rows}


def kernels(steps):
    return [kernels_of(step) for step in steps]


def kernels_of(step):
    if isinstance(step, Branches):
        return [kernels(branch) for branch in step]
    return step.kernel_size if isinstance(step, Conv) else "pool"


def test_shapes_are_those_of_the_table():
    found = rows()
    assert {row: found[row].shape for row in SHAPES} == SHAPES


def test_long_convolutions_stand_in_the_order_of_the_authors_code():
    one, many, double, pool = kernels_of(INCEPTION_V3["6b"])
    assert (one, many, pool) == ([1], [1, (1, 7), (7, 1)], ["pool", 1])
    assert double == [1, (7, 1), (1, 7), (7, 1), (1, 7)]
    assert kernels_of(INCEPTION_V3["7a"])[1] == [1, (1, 7), (7, 1), 3]
    side_by_side = [[(1, 3)], [(3, 1)]]
    assert kernels_of(INCEPTION_V3["7b"])[1:3] == [[1, side_by_side], [1, 3, side_by_side]]


def test_what_a_1x7_convolution_sees_is_wider_than_high():
    found = rows()
    height, width = found["6b_2b_conv"].receptive_field
    assert width > height
    assert len(set(found["6b_2c_conv"].receptive_field)) == 1


def test_the_auxiliary_head_stands_on_the_last_17x17_map():
    found = rows(auxiliary=True)
    assert found["auxiliary1_pool"].shape == (5, 5, 768)
    assert found["auxiliary1_b_conv"].shape == (1, 1, 768)
    assert list(found).index("auxiliary1_pool") == list(found).index("6e_concat") + 1
    total = sum(row.params for row in found.values())
    assert total == zoo.get("inception_v3").auxiliary_params


def test_the_auxiliary_head_takes_what_a_smaller_image_leaves():
    found = rows(auxiliary=True, input_shape=(139, 139, 3))
    assert found["auxiliary1_pool"].shape == (1, 1, 768)
    assert found["auxiliary1_b_conv"].shape == (1, 1, 768)
