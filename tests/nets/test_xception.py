"""Xception: the shapes of figure 5, and where its ReLUs and shortcuts stand."""

from keras_cnns import builder

FIGURE_5 = {
    "block1_a_conv": (149, 149, 32),
    "block1_b_conv": (147, 147, 64),
    "block2_add": (74, 74, 128),
    "block3_add": (37, 37, 256),
    "block4_add": (19, 19, 728),
    "block12_add": (19, 19, 728),
    "block13_add": (10, 10, 1024),
    "block14_1_sepconv": (10, 10, 1536),
    "block14_2_sepconv": (10, 10, 2048),
}


def rows(**arguments):
    return {row.name: row for row in builder.trace("xception", **arguments).rows}


def test_shapes_are_those_of_figure_5():
    found = rows()
    assert {row: found[row].shape for row in FIGURE_5} == FIGURE_5


def test_it_has_36_convolutions_besides_those_of_the_shortcuts():
    kinds = [row.kind for row in rows().values() if "shortcut" not in row.name]
    assert kinds.count("SeparableConv2D") + kinds.count("Conv2D") == 36


def test_a_separable_convolution_is_a_depthwise_and_a_1x1_convolution():
    row = rows()["block5_1_sepconv"]
    assert row.params == 9 * 728 + 728 * 728
    assert row.macs == 19 * 19 * row.params


def test_the_middle_flow_has_no_weights_in_its_shortcuts():
    shortcuts = {name for name in rows() if name.endswith("shortcut_conv")}
    assert shortcuts == {f"block{i}_shortcut_conv" for i in (2, 3, 4, 13)}


def test_a_block_that_changes_its_channels_gets_a_shortcut_that_does():
    found = rows(spec={"block5": {"filters": {"2": 64}}})
    assert found["block5_add"].shape == (19, 19, 64)
    assert "block5_shortcut_conv" in found


def test_only_the_first_block_begins_without_a_relu():
    begins = {name for name in rows() if name.endswith("_1_relu")}
    assert begins == {f"block{i}_1_relu" for i in range(3, 15)}
