"""Blocks: shapes, names and weights, and values against definitions written out in NumPy."""

import keras
import numpy as np
import pytest

from keras_cnns.blocks import (
    ORDERS,
    Top,
    auxiliary_conv_head,
    auxiliary_head,
    chain,
    classifier,
    conv_norm,
    dense_block,
    inception_block,
    mixer_block,
    nin_block,
    norm_conv,
    pool,
    repvgg_block,
    residual_block,
    vgg_block,
)
from keras_cnns.errors import UsageError
from keras_cnns.spec import Branches, Conv, Pool
from keras_cnns.trace import FeatureMap


def traced(block, shape):
    return block(FeatureMap((None, *shape)))


def built(block, shape):
    """The block as a model, after its layers and shapes were found to be those of the trace."""
    image = keras.Input(shape)
    model = keras.Model(image, block(image))
    rows = traced(block, shape).rows
    own = model.layers[1:]
    assert {(r.name, r.kind, r.shape) for r in rows} == {
        (layer.name, type(layer).__name__, tuple(layer.output.shape[1:])) for layer in own
    }
    assert sum(row.params for row in rows) == sum(
        int(np.prod(w.shape)) for w in model.trainable_weights
    )
    return model


def names(block, shape):
    return [row.name for row in traced(block, shape).rows]


def shuffle_weights(model):
    """Give every weight, moving statistics and biases too, a value that matters."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        value = generator.normal(0, 0.3, weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def pixels(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def windows(x, size, strides):
    """Every window of an image: (rows, columns, size, size, channels)."""
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(0, 1))
    return view[::strides, ::strides].transpose(0, 1, 3, 4, 2)


def conv_as_caffe_does(x, kernel, strides):
    """A convolution with (k - 1) / 2 zeros on each side, as Caffe and torch define it."""
    margin = (len(kernel) - 1) // 2
    x = np.pad(x, [(margin, margin), (margin, margin), (0, 0)])
    return np.einsum("hwijc,ijcf->hwf", windows(x, len(kernel), strides), kernel)


def pool_as_caffe_does(x, size, strides, largest=np.max):
    """Ceil mode: as many windows as it takes to see every pixel, the last one cut off."""
    h, w = (-(-max(n - size, 0) // strides) + 1 for n in x.shape[:2])
    rows = [
        [
            largest(x[i * strides : i * strides + size, j * strides : j * strides + size], (0, 1))
            for j in range(w)
        ]
        for i in range(h)
    ]
    return np.array(rows)


# conv_norm


def test_convolution_normalisation_activation_in_this_order():
    model = shuffle_weights(built(lambda x: conv_norm(x, 6, 3, name="a"), (5, 4, 2)))
    assert [layer.name for layer in model.layers[1:]] == ["a_conv", "a_bn", "a_relu"]
    kernel, gamma, beta, mean, variance = (np.asarray(w) for w in model.weights)
    x = pixels(1, 5, 4, 2)
    y = (conv_as_caffe_does(x[0], kernel, 1) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(model(x)[0], np.maximum(y, 0), atol=1e-5)


def test_without_normalisation_the_convolution_has_a_bias():
    model = shuffle_weights(built(lambda x: conv_norm(x, 6, 3, norm=False, name="a"), (5, 4, 2)))
    assert [layer.name for layer in model.layers[1:]] == ["a_conv", "a_relu"]
    kernel, bias = (np.asarray(w) for w in model.weights)
    x = pixels(1, 5, 4, 2)
    y = conv_as_caffe_does(x[0], kernel, 1) + bias
    np.testing.assert_allclose(model(x)[0], np.maximum(y, 0), atol=1e-5)


def test_the_activation_can_be_another_or_none():
    assert names(lambda x: conv_norm(x, 6, activation="tanh", name="a"), (4, 4, 3))[-1] == "a_tanh"
    assert names(lambda x: conv_norm(x, 6, activation=None, name="a"), (4, 4, 3))[-1] == "a_bn"


@pytest.mark.parametrize(
    ("padding", "size"), [("same", (4, 5)), ("valid", (3, 4)), ("centered", (4, 5))]
)
def test_padding(padding, size):
    block = traced(lambda x: conv_norm(x, 6, 3, 2, padding, name="a"), (8, 9, 3))
    assert block.shape == (None, *size, 6)


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", [(8, 9, 16), (11, 8, 16)], ids=str)
def test_centered_padding_is_that_of_caffe_and_torch(kernel_size, strides, shape):
    def block(x):
        return conv_norm(
            x, 4, kernel_size, strides, "centered", norm=False, activation=None, name="a"
        )

    model = shuffle_weights(built(block, shape))
    kernel, bias = (np.asarray(w) for w in model.weights)
    x = pixels(1, *shape)
    wanted = conv_as_caffe_does(x[0], kernel, strides) + bias
    np.testing.assert_allclose(model(x)[0], wanted, atol=1e-4)


def test_centered_padding_is_not_same_padding_where_the_stride_is_two():
    shape = (8, 8, 3)
    models = [
        shuffle_weights(built(lambda x, p=padding: conv_norm(x, 4, 3, 2, p, name="a"), shape))
        for padding in ("centered", "same")
    ]
    outputs = [np.asarray(model(pixels(1, *shape))) for model in models]
    assert outputs[0].shape == outputs[1].shape
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


@pytest.mark.parametrize("kernel_size", [(1, 7), (7, 1), [3, 1]])
@pytest.mark.parametrize("padding", ["same", "centered"])
def test_an_asymmetric_kernel_keeps_the_map(kernel_size, padding):
    found = traced(lambda x: conv_norm(x, 4, kernel_size, 1, padding, name="a"), (8, 9, 3))
    assert found.shape == (None, 8, 9, 4)


def test_groups_see_their_own_channels_only():
    def block(x):
        return conv_norm(x, 4, 3, groups=2, norm=False, activation=None, name="a")

    model = shuffle_weights(built(block, (5, 5, 6)))
    x = pixels(1, 5, 5, 6)
    before = np.asarray(model(x))
    x[..., 3:] += 1
    after = np.asarray(model(x))
    np.testing.assert_array_equal(before[..., :2], after[..., :2])
    assert (before[..., 2:] != after[..., 2:]).all()


@pytest.mark.parametrize("channels", [3, 15, 16, 40])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)], ids=str)
def test_a_strided_1x1_convolution_of_few_channels_is_the_same_function(channels, size):
    model = shuffle_weights(
        built(
            lambda x: conv_norm(x, 5, 1, 2, norm=False, activation=None, name="a"),
            (*size, channels),
        )
    )
    kinds = [type(layer).__name__ for layer in model.layers[1:]]
    assert kinds == (["MaxPooling2D"] if channels < 16 else []) + ["Conv2D"]
    assert model.get_layer("a_conv").strides == ((1, 1) if channels < 16 else (2, 2))
    kernel, bias = (np.asarray(w) for w in model.weights)
    x = pixels(3, *size, channels)
    wanted = x[:, ::2, ::2] @ kernel[0, 0] + bias
    np.testing.assert_allclose(model(x), wanted, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a tape")
def test_a_strided_1x1_convolution_learns_from_an_odd_batch():
    import tensorflow as tf

    model = built(lambda x: conv_norm(x, 5, 1, 2, norm=False, activation=None, name="a"), (7, 9, 3))
    x = pixels(3, 7, 9, 3)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(model(x))
    kernel, _ = tape.gradient(y, model.trainable_weights)
    picked = x[:, ::2, ::2].sum((0, 1, 2))
    np.testing.assert_allclose(kernel[0, 0], np.repeat(picked[:, None], 5, 1), rtol=1e-5)


# pool


@pytest.mark.parametrize(("size", "strides"), [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize("shape", [(5, 6, 2), (7, 8, 2), (9, 10, 2), (3, 4, 2)], ids=str)
def test_ceil_pooling_is_that_of_caffe(size, strides, shape):
    model = built(lambda x: pool(x, Pool("max", size, strides, "ceil"), name="p"), shape)
    # Caffe's networks pool after a ReLU.
    x = np.abs(pixels(1, *shape))
    np.testing.assert_array_equal(model(x)[0], pool_as_caffe_does(x[0], size, strides))


def test_ceil_pooling_takes_a_map_that_is_smaller_than_its_window():
    model = built(lambda x: pool(x, Pool("max", 3, 2, "ceil"), name="p"), (2, 2, 1))
    assert np.asarray(model(np.float32([1, 2, 3, 4]).reshape(1, 2, 2, 1))).ravel() == [4]


def test_ceil_pooling_pads_only_where_a_window_stands_out():
    assert names(lambda x: pool(x, Pool("max", 3, 2, "ceil"), name="p"), (55, 55, 1)) == ["p"]
    assert names(lambda x: pool(x, Pool("max", 3, 2, "ceil"), name="p"), (54, 55, 1)) == [
        "p_pad",
        "p",
    ]


@pytest.mark.parametrize(("kind", "whole"), [("max", np.max), ("average", np.mean)])
def test_pooling_is_the_largest_or_the_mean(kind, whole):
    model = built(lambda x: pool(x, Pool(kind, 3, 2, "valid"), name="p"), (7, 9, 3))
    x = pixels(1, 7, 9, 3)
    wanted = whole(windows(x[0], 3, 2), (2, 3))
    np.testing.assert_allclose(model(x)[0], wanted, atol=1e-6)


def test_a_mean_at_the_border_leaves_the_padding_out():
    model = built(lambda x: pool(x, Pool("average", 3, 1, "same"), name="p"), (4, 4, 1))
    np.testing.assert_allclose(model(np.ones((1, 4, 4, 1))), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "whole", "border"), [("max", np.max, -np.inf), ("average", np.mean, 0)]
)
@pytest.mark.parametrize("shape", [(6, 8, 3), (7, 9, 3)])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_centered_pooling_pads_all_sides_as_torch_does(kind, whole, border, shape, strides):
    model = built(lambda x: pool(x, Pool(kind, 3, strides, "centered"), name="p"), shape)
    x = pixels(1, *shape) - 2
    padded = np.pad(x[0], [(1, 1), (1, 1), (0, 0)], constant_values=border)
    np.testing.assert_allclose(model(x)[0], whole(windows(padded, 3, strides), (2, 3)), atol=1e-6)


def test_an_unknown_pool_is_refused():
    with pytest.raises(UsageError, match='conv1_pool.*"mean".*max, average'):
        traced(lambda x: pool(x, Pool("mean"), name="conv1_pool"), (8, 8, 3))


@pytest.mark.parametrize(
    "block",
    [
        lambda x: conv_norm(x, 4, 3, padding="smae", name="conv1"),
        lambda x: pool(x, Pool("max", 3, 2, "smae"), name="conv1"),
    ],
    ids=["conv", "pool"],
)
def test_an_unknown_padding_is_refused(block):
    with pytest.raises(UsageError, match='conv1.*"smae".*same, valid'):
        traced(block, (8, 8, 3))


# The blocks of the papers


def test_a_vgg_block_halves_the_map():
    def block(x):
        return vgg_block(x, [Conv(6, 3), Conv(4, 1)], name="conv3")

    model = built(block, (8, 6, 3))
    assert [layer.name for layer in model.layers[1:]] == [
        "conv3_1_conv", "conv3_1_relu", "conv3_2_conv", "conv3_2_relu", "conv3_pool",
    ]  # fmt: skip
    assert model.output_shape == (None, 4, 3, 4)
    assert "conv3_2_bn" in names(lambda x: vgg_block(x, [Conv(6, 3)] * 2, norm=True, name="conv3"),
                                 (8, 6, 3))  # fmt: skip


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_nin_block_slides_a_perceptron_over_the_map(depth):
    model = shuffle_weights(
        built(lambda x: nin_block(x, Conv(6, 5), (4,) * depth, name="mlpconv1"), (8, 8, 3))
    )
    assert model.output_shape == (None, 8, 8, 4 if depth else 6)
    kernels = [w.shape for w in model.weights if "kernel" in w.path]
    assert kernels == [(5, 5, 3, 6), *[(1, 1, 6 if i == 0 else 4, 4) for i in range(depth)]]
    # The perceptron is the same at every pixel: what stands where does not matter to it.
    top = [layer.name for layer in model.layers if layer.name.startswith("mlpconv1_mlp")]
    assert len(top) == 2 * depth


NAIVE = Branches((Conv(4),), (Conv(5, 3),), (Conv(6, 5),), (Pool("max"),))
REDUCED = Branches((Conv(4),), (Conv(2), Conv(5, 3)), (Conv(2), Conv(6, 5)), (Pool("max"), Conv(3)))


@pytest.mark.parametrize(
    ("branches", "channels", "params"),
    [
        (NAIVE, 4 + 5 + 6 + 8, (8 + 1) * 4 + (72 + 1) * 5 + (200 + 1) * 6),
        (
            REDUCED,
            4 + 5 + 6 + 3,
            (8 + 1) * 4 + 2 * (8 + 1) * 2 + (18 + 1) * 5 + (50 + 1) * 6 + (8 + 1) * 3,
        ),
    ],
    ids=["naive", "with reductions"],
)
def test_inception_blocks(branches, channels, params):
    model = built(lambda x: inception_block(x, branches, name="3a"), (7, 7, 8))
    assert model.output_shape == (None, 7, 7, channels)
    assert model.count_params() == params


def test_an_inception_blocks_layers_are_named_by_branch_and_step():
    found = names(lambda x: inception_block(x, REDUCED, name="3a"), (7, 7, 8))
    assert [name for name in found if not name.endswith("_relu")] == [
        "3a_1a_conv", "3a_2a_conv", "3a_2b_conv", "3a_3a_conv", "3a_3b_conv",
        "3a_4a_pool", "3a_4b_conv", "3a_concat",
    ]  # fmt: skip


def test_an_inception_block_joins_its_branches_in_order():
    model = shuffle_weights(built(lambda x: inception_block(x, REDUCED, name="3a"), (7, 7, 8)))
    outputs = [
        model.get_layer(name).output
        for name in ("3a_1a_relu", "3a_2b_relu", "3a_3b_relu", "3a_4b_relu")
    ]
    x = pixels(1, 7, 7, 8)
    parts = keras.Model(model.input, outputs)(x)
    np.testing.assert_array_equal(model(x), np.concatenate([np.asarray(p) for p in parts], -1))


def test_an_inception_block_may_be_normalised():
    model = built(lambda x: inception_block(x, REDUCED, norm=True, name="3a"), (7, 7, 8))
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == 6
    assert not any(getattr(layer, "use_bias", False) for layer in model.layers)


def test_inception_branches_nest():
    inner = Branches((Conv(5, (1, 3)),), (Conv(6, (3, 1)),))
    branches = Branches((Conv(4),), (Conv(2), inner))
    found = traced(lambda x: inception_block(x, branches, name="8x8"), (7, 7, 8))
    assert found.shape == (None, 7, 7, 4 + 5 + 6)
    assert "8x8_2b_2a_conv" in [row.name for row in found.rows]


def test_a_branch_of_many_steps_loses_none():
    branches = Branches((Conv(4),), (Conv(2),) * 8 + (Conv(99),))
    found = traced(lambda x: inception_block(x, branches, name="3a"), (7, 7, 8))
    assert found.shape[-1] == 4 + 99


# residual_block


MAIN = {"a_pad", "a_conv", "a_bn", "a_relu", "b_pad", "b_conv", "b_bn", "b_relu", "c_conv", "c_bn"}


@pytest.mark.parametrize(
    ("arguments", "shape", "layers"),
    [
        ({}, (6, 6, 16), set()),
        ({"shortcut": "zeros"}, (6, 6, 16), set()),
        ({"strides": 2}, (3, 3, 16), {"shortcut_conv", "shortcut_bn"}),
        ({"filters": 24}, (6, 6, 24), {"shortcut_conv", "shortcut_bn"}),
        ({"filters": 24, "shortcut": "zeros"}, (6, 6, 24), {"zeros"}),
        ({"filters": 24, "strides": 2, "shortcut": "zeros"}, (3, 3, 24), {"pick", "zeros"}),
        ({"filters": 4, "bottleneck": True}, (6, 6, 16), set()),
        ({"filters": 4, "bottleneck": True, "strides": 2}, (3, 3, 16),
         {"shortcut_conv", "shortcut_bn"}),
        ({"filters": 8, "bottleneck": True}, (6, 6, 32), {"shortcut_conv", "shortcut_bn"}),
        ({"filters": 8, "bottleneck": True, "shortcut": "zeros"}, (6, 6, 32), {"zeros"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)  # fmt: skip
def test_the_shortcut_is_the_map_itself_where_it_fits(arguments, shape, layers):
    arguments = {"filters": 16, **arguments}
    model = built(lambda x: residual_block(x, **arguments, name="r"), (6, 6, 16))
    assert model.output_shape == (None, *shape)
    found = {layer.name.removeprefix("r_") for layer in model.layers[1:]}
    assert found - MAIN == layers | {"add", "relu"}


def silence(model):
    """Make f(x) zero, so that only the shortcut is left."""
    for layer in model.layers:
        if layer.name in ("r_b_bn", "r_c_bn"):
            layer.gamma.assign(np.zeros(layer.gamma.shape))
    return model


def test_a_block_whose_function_is_zero_is_its_shortcut():
    model = silence(built(lambda x: residual_block(x, 8, name="r"), (6, 6, 8)))
    x = pixels(2, 6, 6, 8)
    np.testing.assert_allclose(model(x), np.maximum(x, 0), atol=1e-6)


def test_the_shortcut_of_zeros_takes_every_second_pixel_and_adds_channels():
    block = built(lambda x: residual_block(x, 12, strides=2, shortcut="zeros", name="r"), (6, 7, 8))
    x = pixels(2, 6, 7, 8)
    found = np.asarray(silence(block)(x))
    np.testing.assert_allclose(found[..., 2:10], np.maximum(x[:, ::2, ::2], 0), atol=1e-6)
    assert not found[..., :2].any()
    assert not found[..., 10:].any()
    assert not [w for w in block.weights if "shortcut" in w.path]


def test_the_shortcut_of_zeros_leaves_out_channels_where_there_are_too_many():
    block = shuffle_weights(
        built(lambda x: residual_block(x, 4, shortcut="zeros", name="r"), (6, 6, 8))
    )
    x = pixels(2, 6, 6, 8)
    function = keras.Model(block.input, block.get_layer("r_b_bn").output)
    np.testing.assert_allclose(block(x), np.maximum(x[..., :4] + function(x), 0), atol=1e-6)


def test_a_residual_block_adds_what_it_computes():
    model = shuffle_weights(built(lambda x: residual_block(x, 8, name="r"), (6, 6, 8)))
    x = pixels(2, 6, 6, 8)
    function = keras.Model(model.input, model.get_layer("r_b_bn").output)
    np.testing.assert_allclose(model(x), np.maximum(x + function(x), 0), atol=1e-6)


def test_the_stride_of_a_bottleneck_is_that_of_its_3x3():
    model = built(lambda x: residual_block(x, 4, strides=2, bottleneck=True, name="r"), (6, 6, 16))
    strides = {layer.name: layer.strides for layer in model.layers if "conv" in layer.name}
    assert strides == {
        "r_a_conv": (1, 1), "r_b_conv": (2, 2), "r_c_conv": (1, 1), "r_shortcut_conv": (2, 2),
    }  # fmt: skip
    kernels = {layer.name: layer.kernel_size for layer in model.layers if "conv" in layer.name}
    assert [kernels[f"r_{i}_conv"] for i in "abc"] == [(1, 1), (3, 3), (1, 1)]


def test_an_unknown_shortcut_is_refused():
    with pytest.raises(UsageError, match='conv3_1.*"identity".*projection, zeros'):
        traced(lambda x: residual_block(x, 8, shortcut="identity", name="conv3_1"), (6, 6, 8))


# He et al. 2016, figure 4
FIGURE_4 = {
    "original": "weight norm relu weight norm add relu",
    "norm_after_addition": "weight norm relu weight add norm relu",
    "relu_before_addition": "weight norm relu weight norm relu add",
    "relu_only_preactivation": "relu weight norm relu weight norm add",
    "full_preactivation": "norm relu weight norm relu weight add",
}
WORDS = {"Conv2D": "weight", "BatchNormalization": "norm", "Activation": "relu", "Add": "add"}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_within_a_block_is_that_of_the_figure(order):
    model = built(lambda x: residual_block(x, 8, order=order, name="r"), (6, 6, 8))
    rows = traced(lambda x: residual_block(x, 8, order=order, name="r"), (6, 6, 8)).rows
    assert [WORDS[row.kind] for row in rows] == FIGURE_4[order].split()
    # What is behind the addition no longer changes x on its way, in (c), (d) and (e).
    x = pixels(2, 6, 6, 8)
    last = {"relu_before_addition": "r_b_relu", "relu_only_preactivation": "r_b_bn"}.get(
        order, "r_b_conv"
    )
    if not FIGURE_4[order].endswith("relu"):
        function = keras.Model(model.input, model.get_layer(last).output)
        np.testing.assert_allclose(model(x), x + function(x), atol=1e-6)


def test_every_order_of_the_figure_is_there():
    assert set(ORDERS) == set(FIGURE_4)
    with pytest.raises(UsageError, match='conv3_1.*"reversed".*original, .*full_preactivation'):
        traced(lambda x: residual_block(x, 8, order="reversed", name="conv3_1"), (6, 6, 8))


def test_a_projection_takes_what_the_preactivation_made():
    def block(x):
        return residual_block(x, 24, strides=2, order="full_preactivation", name="r")

    model = shuffle_weights(built(block, (6, 6, 16)))
    source, projected = (model.get_layer(name).output for name in ("r_a_relu", "r_shortcut_conv"))
    source, projected = keras.Model(model.input, [source, projected])(pixels(1, 6, 6, 16))
    np.testing.assert_allclose(model.get_layer("r_shortcut_conv")(source), projected, atol=1e-6)


def test_a_pooled_shortcut_has_weights_only_where_the_channels_differ():
    def found(**arguments):
        rows = names(
            lambda x: residual_block(x, **arguments, shortcut="pooled", name="r"), (6, 6, 16)
        )
        return {name for name in rows if "shortcut" in name or "pick" in name}

    assert found(filters=16, strides=2) == {"r_pick"}
    assert found(filters=24, strides=1) == {"r_shortcut_conv", "r_shortcut_bn"}
    assert found(filters=16, strides=1) == set()


def test_without_a_shortcut_nothing_is_added():
    rows = traced(lambda x: residual_block(x, 24, strides=2, shortcut="none", name="r"), (6, 6, 16))
    assert rows.shape == (None, 3, 3, 24)
    assert not {"Add", "MatchChannels", "MaxPooling2D"} & {row.kind for row in rows.rows}


def test_the_stride_of_a_bottleneck_may_be_that_of_its_first_1x1():
    def block(x):
        return residual_block(x, 4, strides=2, bottleneck=True, stride_in=1, name="r")

    model = built(block, (6, 6, 16))
    strides = [model.get_layer(f"r_{letter}_conv").strides for letter in "abc"]
    assert strides == [(2, 2), (1, 1), (1, 1)]


# Other blocks


def test_normalisation_and_activation_may_come_first():
    assert names(lambda x: norm_conv(x, 6, 3, name="a"), (5, 4, 2)) == ["a_bn", "a_relu", "a_conv"]


def test_so_many_zeros_may_be_asked_for():
    found = traced(lambda x: conv_norm(x, 64, 11, 4, 2, norm=False, name="conv1"), (224, 224, 3))
    assert found.shape == (None, 55, 55, 64)
    assert [row.name for row in found.rows] == ["conv1_pad", "conv1_conv", "conv1_relu"]


def test_a_chain_names_its_steps_by_letters():
    steps = (Conv(4, 3, 2), Pool("max", 3, 2), Branches((Conv(2),), (Conv(3), Conv(5, 3))))
    found = traced(lambda x: chain(x, steps, norm=False, name="stem_"), (32, 32, 3))
    assert found.shape == (None, 8, 8, 7)
    assert [row.name for row in found.rows if row.params] == [
        "stem_a_conv", "stem_c_1a_conv", "stem_c_2a_conv", "stem_c_2b_conv",
    ]  # fmt: skip


@pytest.mark.parametrize(("bottleneck", "kernels"), [(4, 2), (0, 1)])
def test_layers_of_a_dense_block_see_all_that_came_before(bottleneck, kernels):
    model = shuffle_weights(
        built(lambda x: dense_block(x, 3, 4, bottleneck=bottleneck, name="dense1"), (6, 6, 8))
    )
    assert model.output_shape == (None, 6, 6, 8 + 4 * 3)
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convs) == 4 * kernels
    assert [c.kernel.shape[2] for c in convs[::kernels]] == [8, 11, 14, 17]
    if bottleneck:
        assert [c.filters for c in convs[::2]] == [4 * 3] * 4
    # Nothing that is there is changed: x comes first, then what each layer adds.
    x = pixels(1, 6, 6, 8)
    first = keras.Model(model.input, model.get_layer("dense1_1_concat").output)(x)
    np.testing.assert_array_equal(np.asarray(model(x))[..., :8], x)
    np.testing.assert_array_equal(np.asarray(model(x))[..., :11], first)


@pytest.mark.parametrize(
    ("filters", "strides", "identity"), [(16, 1, True), (16, 2, False), (24, 1, False)]
)
def test_a_repvgg_block_is_the_sum_of_its_branches(filters, strides, identity):
    def block(x, **form):
        return repvgg_block(x, filters, strides=strides, **form, name="s")

    model = shuffle_weights(built(block, (7, 6, 16)))
    branches = ["s_3x3_bn", "s_1x1_bn"] + ["s_identity_bn"] * identity
    x = pixels(2, 7, 6, 16)
    parts = keras.Model(model.input, [model.get_layer(name).output for name in branches])(x)
    total = sum(np.asarray(part) for part in parts)
    np.testing.assert_allclose(model(x), np.maximum(total, 0), atol=1e-5)
    assert [layer.name.endswith("identity_bn") for layer in model.layers].count(True) == identity
    deployed = traced(lambda x: block(x, deploy=True), (7, 6, 16))
    assert [row.kind for row in deployed.rows if row.params] == ["Conv2D"]
    assert deployed.shape == model.output_shape
    assert sum(row.params for row in deployed.rows) == filters * (9 * 16 + 1)


def test_a_mixer_block_is_equation_1():
    model = shuffle_weights(built(lambda x: mixer_block(x, 5, 7, name="m"), (3, 2, 4)))
    weights = {w.path: np.asarray(w) for w in model.weights}

    def perceptron(x, name):
        for i in (1, 2):
            kernel, bias = weights[f"m_{name}_{i}_conv/kernel"], weights[f"m_{name}_{i}_conv/bias"]
            x = x @ kernel[0, 0] + bias
            if i == 1:
                x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * weights[f"m_{name}_norm/gamma"] + weights[f"m_{name}_norm/beta"]

    image = pixels(1, 3, 2, 4)
    # A table: a row for each position, a column for each channel.
    table = image.reshape(6, 4)
    table = table + perceptron(norm(table, "tokens").T, "tokens").T
    table = table + perceptron(norm(table, "channels"), "channels")
    np.testing.assert_allclose(model(image), table.reshape(1, 3, 2, 4), atol=1e-4)


# The ends


def test_an_auxiliary_head_is_that_of_section_5():
    def head(x):
        return auxiliary_head(x, Top(1000), name="auxiliary1")

    rows = traced(head, (14, 14, 512)).rows
    shapes = {row.name: row.shape for row in rows}
    assert shapes["auxiliary1_pool"] == (4, 4, 512)
    assert shapes["auxiliary1_conv"] == (4, 4, 128)
    assert shapes["auxiliary1_fc"] == (1024,)
    assert shapes["auxiliary1_logits"] == shapes["auxiliary1"] == (1000,)
    assert sum(r.params for r in rows) == 513 * 128 + (4 * 4 * 128 + 1) * 1024 + 1025 * 1000
    model = built(head, (5, 5, 3))
    assert model.get_layer("auxiliary1_dropout").rate == 0.7
    assert model.layers[-1].name == "auxiliary1"


def test_an_auxiliary_head_without_hidden_units_is_that_of_inception_v3():
    rows = traced(
        lambda x: auxiliary_conv_head(x, Top(1000), name="auxiliary1"), (17, 17, 768)
    ).rows
    maps = [row.shape for row in rows if row.kind in ("AveragePooling2D", "Conv2D")]
    assert maps == [(5, 5, 768), (5, 5, 128), (1, 1, 768)]
    # 768 to 128, 5x5 of 128 to 768, their normalisations, and the class scores.
    counts = 768 * 128 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 769 * 1000
    assert sum(row.params for row in rows) == counts
    assert [row.name for row in rows][-2:] == ["auxiliary1_logits", "auxiliary1"]


def test_a_classifier_averages_the_map_or_flattens_it():
    shape = (2, 3, 4)
    mean = built(lambda x: classifier(x, Top(10), dropout=0.4), shape)
    flat = built(
        lambda x: classifier(x, Top(10), flatten=True, hidden={"fc6": 7, "fc7": 6}, dropout=0.5),
        shape,
    )
    assert [layer.name for layer in mean.layers[1:]] == ["pool", "dropout", "logits", "predictions"]
    assert [layer.name for layer in flat.layers[1:]] == [
        "flatten", "fc6", "fc6_relu", "fc6_dropout", "fc7", "fc7_relu", "fc7_dropout",
        "logits", "predictions",
    ]  # fmt: skip
    assert mean.count_params() == (4 + 1) * 10
    assert flat.count_params() == (24 + 1) * 7 + (7 + 1) * 6 + (6 + 1) * 10
    x = pixels(2, *shape)
    np.testing.assert_allclose(mean.get_layer("pool")(x), x.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "whole"), [(None, lambda x, _: x), ("avg", np.mean), ("max", np.max)]
)
def test_without_its_top_a_classifier_is_the_map_or_its_mean_or_maximum(pooling, whole):
    def block(x):
        x = conv_norm(x, 4, 1, norm=False, activation=None, name="a")
        return classifier(x, Top(include_top=False, pooling=pooling))

    model = shuffle_weights(built(block, (3, 5, 4)))
    x = pixels(2, 3, 5, 4)
    wanted = whole(np.asarray(model.get_layer("a_conv")(x)), (1, 2))
    np.testing.assert_allclose(model(x), wanted, atol=1e-6)


def test_an_unknown_pooling_of_the_map_is_refused():
    with pytest.raises(UsageError, match='"mean".*avg, max'):
        traced(lambda x: classifier(x, Top(include_top=False, pooling="mean")), (3, 5, 4))


def test_scores_and_probabilities():
    model = shuffle_weights(built(lambda x: classifier(x, Top(10)), (3, 5, 4)))
    scores = keras.Model(model.input, model.get_layer("logits").output)
    x = pixels(2, 3, 5, 4)
    odds = np.exp(np.asarray(scores(x)))
    np.testing.assert_allclose(model(x), odds / odds.sum(-1, keepdims=True), rtol=1e-5)
    plain = built(lambda x: classifier(x, Top(10, activation=None)), (3, 5, 4))
    plain.set_weights(model.get_weights())
    np.testing.assert_array_equal(plain(x), scores(x))
