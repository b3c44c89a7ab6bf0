"""The arithmetic of layers against the layers themselves, and receptive fields against impulses."""

from math import prod

import keras
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from keras_cnns import layers as own
from keras_cnns.errors import UsageError
from keras_cnns.trace import ARITHMETIC, FeatureMap, Row, TooSmall, layers, trace_layer

SIZES = st.integers(1, 24)
KERNELS = st.integers(1, 5) | st.tuples(st.integers(1, 5), st.integers(1, 5))
STRIDES = st.integers(1, 4) | st.tuples(st.integers(1, 3), st.integers(1, 3))
PADDINGS = st.sampled_from(["same", "valid"])
SETTINGS = settings(max_examples=60)


def built(kind, config, shape):
    """The Keras layer, called on a symbolic image (or several), and what comes out of it."""
    layer = getattr(own, kind, None) or getattr(keras.layers, kind)
    layer = layer(**config)
    several = isinstance(shape, list)
    x = [keras.Input(s) for s in shape] if several else keras.Input(shape)
    return layer, tuple(layer(x).shape[1:])


def traced(kind, config, shape):
    rows = []
    several = isinstance(shape, list)
    x = [FeatureMap((None, *s), rows=rows) for s in (shape if several else [shape])]
    out = trace_layer(kind, config, x if several else x[0])
    (row,) = rows
    assert out.shape == (None, *row.shape)
    return row


def weights(layer):
    return sum(prod(w.shape) for w in layer.trainable_weights)


def kernel_macs(layer, shape):
    """Multiply-adds, from the shapes of the layer's own kernels: each is used at every pixel."""
    kernels = [w for w in layer.trainable_weights if "kernel" in w.name]
    return sum(prod(kernel.shape) for kernel in kernels) * prod(shape[:-1])


def check(kind, config, shape):
    """Compare with Keras; where the arithmetic refuses, a map must be smaller than its window."""
    try:
        row = traced(kind, config, shape)
    except TooSmall:
        window, strides = (
            np.broadcast_to(config.get(key) or 1, 2) for key in (window_key(config), "strides")
        )
        if kind.endswith("Pooling2D") and config.get("strides") is None:
            strides = window
        window = (window - 1) * np.array(config.get("dilation_rate", 1)) + 1
        valid = config["padding"] == "valid"
        assert (np.array(shape[:2]) < strides).any() or (
            valid and (np.array(shape[:2]) < window).any()
        )
        return
    layer, output = built(kind, config, shape)
    assert row.shape == output
    assert row.params == weights(layer)
    assert row.macs == kernel_macs(layer, output)


def window_key(config):
    return "kernel_size" if "kernel_size" in config else "pool_size"


@st.composite
def windows(draw):
    """Arguments that all convolutions share; Keras has no strides with dilation."""
    config = {"kernel_size": draw(KERNELS), "padding": draw(PADDINGS)}
    config["use_bias"] = draw(st.booleans())
    if draw(st.booleans()):
        config["strides"] = draw(STRIDES)
    else:
        config["dilation_rate"] = draw(st.integers(1, 3) | st.tuples(*[st.integers(1, 3)] * 2))
    return config


@SETTINGS
@given(windows(), SIZES, SIZES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_convolutions_are_those_of_keras(config, height, width, groups, inputs, outputs):
    config |= {"filters": groups * outputs, "groups": groups}
    check("Conv2D", config, (height, width, groups * inputs))


@SETTINGS
@given(windows(), SIZES, SIZES, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_depthwise_convolutions_are_those_of_keras(config, h, w, channels, multiplier, separable):
    kind = "SeparableConv2D" if separable else "DepthwiseConv2D"
    config |= {"depth_multiplier": multiplier} | ({"filters": 5} if separable else {})
    try:
        row = traced(kind, config, (h, w, channels))
    except TooSmall:
        return
    layer, output = built(kind, config, (h, w, channels))
    assert row.shape == output
    assert row.params == weights(layer)
    assert row.macs == kernel_macs(layer, output)


@SETTINGS
@given(
    st.sampled_from(["MaxPooling2D", "AveragePooling2D"]), KERNELS, st.none() | STRIDES, PADDINGS,
    SIZES, SIZES,
)  # fmt: skip
def test_pools_are_those_of_keras(kind, pool_size, strides, padding, height, width):
    config = {"pool_size": pool_size, "strides": strides, "padding": padding}
    check(kind, config, (height, width, 3))


IMAGE = (6, 4, 5)
LAYERS = [
    ("Conv2D", {"filters": 7, "kernel_size": 3}, IMAGE),
    ("DepthwiseConv2D", {"kernel_size": 3}, IMAGE),
    ("SeparableConv2D", {"filters": 7, "kernel_size": (3, 1)}, IMAGE),
    ("Dense", {"units": 3}, (5,)),
    ("Dense", {"units": 3, "use_bias": False}, (5,)),
    ("Dense", {"units": 3}, IMAGE),
    ("MaxPooling2D", {}, IMAGE),
    ("AveragePooling2D", {"pool_size": 3, "strides": 1, "padding": "same"}, IMAGE),
    ("GlobalAveragePooling2D", {}, IMAGE),
    ("GlobalAveragePooling2D", {"keepdims": True}, IMAGE),
    ("GlobalMaxPooling2D", {}, IMAGE),
    ("AdaptiveAveragePooling2D", {"output_size": 2}, IMAGE),
    ("AdaptiveAveragePooling2D", {"output_size": (4, 3)}, IMAGE),
    ("Permute", {"dims": (3, 1, 2)}, IMAGE),
    ("Permute", {"dims": (2, 3, 1)}, IMAGE),
    ("Reshape", {"target_shape": (1, 24, 5)}, IMAGE),
    ("Reshape", {"target_shape": (-1, 5)}, IMAGE),
    ("Flatten", {}, IMAGE),
    ("Flatten", {}, (5,)),
    ("ZeroPadding2D", {}, IMAGE),
    ("ZeroPadding2D", {"padding": 2}, IMAGE),
    ("ZeroPadding2D", {"padding": (1, 2)}, IMAGE),
    ("ZeroPadding2D", {"padding": ((0, 1), (2, 3))}, IMAGE),
    ("BatchNormalization", {}, IMAGE),
    ("BatchNormalization", {"scale": False}, IMAGE),
    ("BatchNormalization", {"scale": False, "center": False}, IMAGE),
    ("LayerNormalization", {}, IMAGE),
    ("LayerNormalization", {"center": False}, IMAGE),
    ("Concatenate", {}, [IMAGE, (6, 4, 1), IMAGE]),
    ("Add", {}, [IMAGE, IMAGE]),
    ("MatchChannels", {"filters": 9}, IMAGE),
    ("LocalResponseNormalization", {}, IMAGE),
    ("Activation", {"activation": "relu"}, IMAGE),
    ("ReLU", {}, IMAGE),
    ("GELU", {}, IMAGE),
    ("Dropout", {"rate": 0.5}, IMAGE),
    ("Rescaling", {"scale": 2.0}, IMAGE),
]


@pytest.mark.parametrize(("kind", "config", "shape"), LAYERS, ids=str)
def test_every_layer_is_that_of_keras(kind, config, shape):
    row = traced(kind, config, shape)
    layer, output = built(kind, config, shape)
    assert row.shape == output
    assert row.params == weights(layer)
    assert row.macs == kernel_macs(layer, output)
    assert row.activation_bytes == 4 * np.zeros(output, "float32").size


def test_no_layer_goes_unchecked():
    assert set(ARITHMETIC) == {kind for kind, _, _ in LAYERS}


@pytest.mark.parametrize(
    ("kind", "config", "shape"),
    [
        ("Conv2D", {"filters": 3, "kernel_size": (3, 2), "strides": 2}, (9, 8, 4)),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "dilation_rate": (2, 1)}, (9, 8, 2)),
        ("Conv2D", {"filters": 6, "kernel_size": 3, "groups": 2}, (5, 6, 4)),
        ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}, (7, 6, 3)),
        ("Dense", {"units": 7}, (2, 3, 5)),
    ],
    ids=str,
)
def test_macs_are_the_multiplications_that_happen(kind, config, shape):
    # With ones for weights and pixels, and no padding, each multiplication adds 1 to the output.
    layer, _ = built(kind, {**config, "use_bias": False}, shape)
    for weight in layer.weights:
        weight.assign(np.ones(weight.shape))
    done = np.sum(layer(np.ones((1, *shape), "float32")))
    assert traced(kind, config, shape).macs == done


def test_groups_that_do_not_divide_the_channels_are_refused():
    conv = layers.Conv2D(filters=8, kernel_size=3, groups=2, name="conv2")
    with pytest.raises(UsageError, match="conv2"):
        conv(FeatureMap((None, 9, 9, 3)))
    conv = layers.Conv2D(filters=7, kernel_size=3, groups=2, name="conv2")
    with pytest.raises(UsageError, match="conv2"):
        conv(FeatureMap((None, 9, 9, 4)))


@pytest.mark.parametrize("shape", [(2, 8, 1), (8, 2, 1)])
@pytest.mark.parametrize("kind", ["Conv2D", "MaxPooling2D", "AveragePooling2D"])
def test_a_map_smaller_than_the_window_is_refused_by_the_layers_name(kind, shape):
    config = {"filters": 1, "kernel_size": 3} if kind == "Conv2D" else {"pool_size": 3}
    config |= {"padding": "valid", "name": "last_one"}
    with pytest.raises(TooSmall, match=f"last_one.*{shape[0]}x{shape[1]}"):
        trace_layer(kind, config, FeatureMap((None, *shape)))


def test_a_stride_longer_than_the_map_is_refused():
    with pytest.raises(TooSmall, match="pool5"):
        layers.MaxPooling2D(pool_size=3, strides=2, padding="same", name="pool5")(
            FeatureMap((None, 1, 1, 8))
        )


def test_too_small_is_the_users_mistake():
    assert issubclass(TooSmall, UsageError)


def test_one_code_runs_on_shapes_and_on_tensors():
    def net(x):
        y = layers.Conv2D(filters=4, kernel_size=3, padding="same", name="a")(x)
        z = layers.Conv2D(filters=2, kernel_size=1, name="b")(x)
        return layers.Concatenate(name="c")([y, z])

    rows = net(FeatureMap((None, 8, 8, 3))).rows
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, net(image))
    assert [layer.name for layer in model.layers[1:]] == ["a", "b", "c"]
    assert [row.name for row in rows] == ["a", "b", "c"]
    assert [row.kind for row in rows] == ["Conv2D", "Conv2D", "Concatenate"]
    assert sum(row.params for row in rows) == model.count_params()


def test_a_row_says_all_there_is():
    row = layers.Conv2D(filters=8, kernel_size=3, strides=2, name="a")(FeatureMap((None, 9, 7, 3)))
    assert row.rows == [Row("a", "Conv2D", (4, 3, 8), 224, 2592, (3, 3), (2, 2), ("image",))]


def impulses(net, size):
    """What each output pixel sees of the image: an impulse at each input pixel, all at once.

    Weights are positive, so that nothing cancels. (pixels, output height, output width).
    """
    image = keras.Input((size, size, 1))
    model = keras.Model(image, net(image))
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    pixels = np.eye(size * size, dtype="float32").reshape(-1, size, size, 1)
    return np.asarray(model(pixels)).sum(-1) > 0


def extent(seen, size):
    """Rows and columns from the first to the last pixel that is seen, and the first ones."""
    rows, columns = np.nonzero(seen.reshape(size, size))
    first = np.array([rows.min(), columns.min()])
    last = np.array([rows.max(), columns.max()])
    assert (first > 0).all(), "the field is cut off by the image: take a larger one"
    assert (last < size - 1).all(), "the field is cut off by the image: take a larger one"
    return tuple(last - first + 1), first


def compare(net, size):
    found = net(FeatureMap((None, size, size, 1)))
    seen = impulses(net, size)
    i, j = seen.shape[1] // 2, seen.shape[2] // 2
    field, first = extent(seen[:, i, j], size)
    _, before = extent(seen[:, i - 1, j - 1], size)
    assert found.receptive_field == field
    assert found.stride == tuple(first - before)


def conv(x, kernel_size=3, strides=1, padding="same", **config):
    config |= {"kernel_size": kernel_size, "strides": strides, "padding": padding}
    return layers.Conv2D(filters=1, use_bias=False, **config)(x)


def max_pool(x, pool_size=3, strides=2, padding="same"):
    return layers.MaxPooling2D(pool_size=pool_size, strides=strides, padding=padding)(x)


def mean_pool(x, pool_size=2, strides=2):
    return layers.AveragePooling2D(pool_size=pool_size, strides=strides)(x)


FIELDS = {
    "stem of ResNet": lambda x: max_pool(conv(x, 7, 2)),
    "strides multiply": lambda x: conv(conv(conv(x, 3, 2), 3, 2), 3),
    "asymmetric": lambda x: conv(conv(x, (1, 7)), (3, 1)),
    "dilated": lambda x: conv(conv(x, 3, dilation_rate=2), 3, dilation_rate=(3, 1)),
    "dilated after a stride": lambda x: conv(conv(x, 3, 2), 3, dilation_rate=2),
    "strides in one direction": lambda x: conv(conv(x, 3, (2, 1)), 3),
    "even, unpadded": lambda x: mean_pool(conv(x, 4, padding="valid")),
    "a stride beyond the kernel": lambda x: conv(conv(x, 1, 3), 3),
    "explicit padding": lambda x: conv(layers.ZeroPadding2D(padding=1)(x), 3, 2, "valid"),
    "depthwise": lambda x: layers.DepthwiseConv2D(kernel_size=5, use_bias=False, padding="same")(
        conv(x)
    ),
    "separable": lambda x: layers.SeparableConv2D(
        filters=2, kernel_size=(5, 3), use_bias=False, padding="same"
    )(x),
    "adaptive": lambda x: layers.AdaptiveAveragePooling2D(output_size=11)(conv(x)),
    "branches": lambda x: conv(
        layers.Concatenate()([conv(x, 1), conv(conv(x, 1), 5), conv(max_pool(x, 3, 1), (1, 9))])
    ),
    "a shortcut": lambda x: conv(layers.Add()([conv(x, 1, 2), conv(conv(x, 3, 2), 3)])),
    "a long shortcut": lambda x: layers.Add()([conv(x, 9), conv(x, 3)]),
}


@pytest.mark.parametrize("net", FIELDS.values(), ids=FIELDS.keys())
def test_the_receptive_field_is_what_the_middle_pixel_sees(net):
    compare(net, 33)


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.tuples(st.integers(1, 3), st.integers(1, 4)),
            st.integers(1, 2),
            st.booleans(),
            PADDINGS,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_receptive_field_of_any_chain(steps):
    def net(x):
        for kernel, strides, pooled, padding in steps:
            x = (max_pool if pooled else conv)(x, kernel, strides, padding)
        return x

    compare(net, 57)


@pytest.mark.parametrize("last", ["GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten"])
def test_the_end_of_a_network_sees_the_whole_map(last):
    def net(x):
        return getattr(layers, last)()(conv(x, 3, padding="valid"))

    assert net(FeatureMap((None, 9, 7, 1))).receptive_field == (9, 7)
    image = keras.Input((9, 7, 1))
    assert keras.Model(image, net(image)).output_shape == net(FeatureMap((None, 9, 7, 1))).shape
