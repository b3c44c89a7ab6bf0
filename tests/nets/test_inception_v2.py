"""BN-Inception: the table of its figure 5."""

from keras_cnns import builder

# Figure 5: the output of each row at 224 pixels.
FIGURE_5 = {
    "conv1_conv": (112, 112, 64),
    "conv1_pool": (56, 56, 64),
    "conv2_conv": (56, 56, 192),
    "conv2_pool": (28, 28, 192),
    "3a_concat": (28, 28, 256),
    "3b_concat": (28, 28, 320),
    "3c_concat": (14, 14, 576),
    "4a_concat": (14, 14, 576),
    "4b_concat": (14, 14, 576),
    "4c_concat": (14, 14, 608),
    "4d_concat": (14, 14, 608),
    "4e_concat": (7, 7, 1056),
    "5a_concat": (7, 7, 1024),
    "5b_concat": (7, 7, 1024),
}


def rows(**arguments):
    return {row.name: row for row in builder.trace("inception_v2", **arguments).rows}


def test_shapes_are_those_of_figure_5():
    found = rows()
    assert {row: found[row].shape for row in FIGURE_5} == FIGURE_5


def test_poolings_are_means_but_where_the_map_is_halved_and_in_the_last_row():
    kinds = {row.name: row.kind for row in rows().values() if "Pooling" in row.kind}
    largest = {name for name, kind in kinds.items() if kind == "MaxPooling2D"}
    assert largest == {"conv1_pool", "conv2_pool", "3c_3a_pool", "4e_3a_pool", "5b_4a_pool"}


def test_without_biases_it_has_the_count_of_the_network_without_biases():
    found = rows()
    biases = sum(row.shape[-1] for row in found.values() if row.kind == "Conv2D")
    assert sum(row.params for row in found.values()) - biases == 11_285_224


def test_the_small_stem_leaves_more_of_a_small_image():
    shape = {"input_shape": (32, 32, 3)}
    assert rows(**shape)["3a_concat"].shape == (4, 4, 256)
    assert rows(**shape, spec={"stem": {"kind": "small"}})["3a_concat"].shape == (16, 16, 256)
