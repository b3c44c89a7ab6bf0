"""Fused networks compute the same, with fewer operations, and leave the model as it was."""

from collections import Counter

import keras
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from keras import layers

import keras_cnns
from keras_cnns import builder, spec as specs, zoo
from keras_cnns.errors import UsageError
from keras_cnns.export.prepare import settle_statistics
from keras_cnns.fusion.equalise import equalise
from keras_cnns.fusion.rounding import round_kernels

NORMS = layers.BatchNormalization
BOUND = 1e-5


def randomised(model, seed=0):
    """The model with normalisations that do something, and activations that stay in bounds.

    Offsets above zero keep most units alive, as training does: a random network with half of them
    dead in every layer answers to a weight's last bit with some 1e-4 of its scores.
    """
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, NORMS):
            for weight, low, high in ((layer.gamma, 0.5, 1.5), (layer.beta, 0.3, 1.2)):
                if weight is not None:
                    weight.assign(random.uniform(low, high, weight.shape))
        elif getattr(layer, "use_bias", False) and getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.uniform(-0.3, 0.3, layer.bias.shape))
    settle_statistics(model, images_of(model, 32, seed))
    return model


def images_of(model, count=4, seed=1):
    shape = (count, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def norms(model):
    return [layer.name for layer in model.layers if isinstance(layer, NORMS)]


def in_float64(layer):
    if isinstance(layer, layers.Lambda):
        return layers.Lambda(layer.function, dtype="float64")
    if not isinstance(layer, keras.Layer):
        return type(layer).from_config(layer.get_config())
    return type(layer).from_config({**layer.get_config(), "dtype": "float64"})


def exact(model, end):
    """The model up to a tensor of its graph, computing in float64."""
    model = keras.Model(model.inputs, end)
    found = keras.models.clone_model(model, clone_function=in_float64, recursive=True)
    found.set_weights(model.get_weights())
    return found


def assert_same_function(model, fused, before=None):
    """Compare two models' outputs, or those of a layer, as shares of the largest.

    In float64, where only the fused weights are rounded, and in float32 too, unless rounding alone
    takes the model itself that far from its function.
    """
    images = images_of(model)
    ends = [m.get_layer(before).output if before else m.output for m in (model, fused)]
    truth, fused_truth = (
        np.asarray(exact(m, end)(images, training=False))
        for m, end in zip((model, fused), ends, strict=True)
    )
    rounded, fused_rounded = (
        np.asarray(keras.Model(m.inputs, end)(images, training=False))
        for m, end in zip((model, fused), ends, strict=True)
    )
    assert fused_rounded.dtype == "float32"
    largest = np.abs(truth).max()
    assert np.abs(fused_truth - truth).max() <= BOUND * largest
    own = np.abs(rounded - truth).max()
    assert np.abs(fused_rounded - truth).max() <= max(BOUND * largest, 2 * own)


FAMILIES = {zoo.get(name).family: name for name in reversed(zoo.NETS)}
OTHERS = ("repvgg_b1g2", "resnet50_v2", "inception_v1_bn", "inception_resnet_v2", "resnet20_cifar")
NAMES = [*FAMILIES.values(), *OTHERS]


def shallow(spec):
    """The spec with stages of two blocks at most, where the depth is a number."""
    if hasattr(spec, "_fields"):
        parts = spec._asdict().items()
        return type(spec)(*(min(v, 2) if k == "depth" else shallow(v) for k, v in parts))
    if isinstance(spec, tuple) and not isinstance(spec, specs.Branches):
        return tuple(shallow(value) for value in spec)
    return spec


def narrow(name, **changes):
    net = zoo.get(name)
    size = max(net.min_size, 64)
    return randomised(
        builder.build(
            name,
            input_shape=(size, size, net.input_shape[2]),
            num_classes=5,
            spec=specs.scale_filters(shallow(net.spec), 1 / 16),
            **changes,
        )
    )


# Normalisations that stand before their convolution have nothing to go into.
PREACTIVATED = ("densenet121", "resnet50_v2")


@pytest.mark.parametrize("name", [n if n in NAMES else pytest.param(n, marks=pytest.mark.slow)
                                  for n in zoo.NETS])  # fmt: skip
def test_a_network_computes_the_same(name):
    keras.utils.set_random_seed(0)
    model = narrow(name)
    fused = keras_cnns.fuse(model)
    assert_same_function(model, fused, "logits")
    if not any(row.kind == "Concatenate" or "_v2" in name for row in builder.trace(name).rows):
        assert not norms(fused)
    if name in PREACTIVATED:
        assert 0 < len(norms(fused)) < len(norms(model))
    assert not [x for x in fused.layers if isinstance(x, layers.Dropout)]
    assert fused.name == model.name
    assert [x.name for x in fused.layers][-2:] == ["logits", "predictions"]


@pytest.mark.parametrize("name", ["repvgg_a0", "repvgg_b1g2", "repvgg_b1g4"])
@pytest.mark.parametrize("size", [64, 65])
def test_repvgg_becomes_its_deployed_form(name, size):
    changes = specs.to_dict(specs.scale_filters(shallow(zoo.spec_of(name)), 1 / 8))
    arguments = {"input_shape": (size, size, 3), "num_classes": 5}
    model = randomised(builder.build(name, spec=changes, **arguments))
    fused = keras_cnns.fuse(model)
    deployed = builder.build(name, spec={**changes, "deploy": True}, **arguments)
    kinds = [
        [type(x).__name__ for x in m.layers if type(x).__name__ not in ("ZeroPadding2D",)]
        for m in (fused, deployed)
    ]
    assert kinds[0] == kinds[1]
    assert fused.count_params() == deployed.count_params()
    assert_same_function(model, fused, "logits")


def test_auxiliary_heads_are_gone():
    model = builder.build("inception_v1", input_shape=(75, 75, 3), auxiliary=True)
    fused = keras_cnns.fuse(model)
    assert not [x.name for x in fused.layers if x.name.startswith("auxiliary")]
    assert fused.output.shape == (None, 1000)
    images = images_of(model)
    expected = model(images, training=False)["predictions"]
    np.testing.assert_allclose(fused(images), expected, atol=1e-6)


def test_the_model_is_left_as_it_was(tmp_path):
    model = narrow("resnet18")
    before, images = model.get_weights(), images_of(model)
    scores = np.asarray(model(images))
    fused = keras_cnns.fuse(model)
    for weight in fused.weights:
        weight.assign(weight * 0)
    for mine, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, old)
    np.testing.assert_array_equal(model(images), scores)
    assert model.get_layer("logits").output.shape == (None, 5)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").name == "resnet18"


def test_a_fused_model_can_be_saved_and_fused_again(tmp_path):
    fused = keras_cnns.fuse(narrow("repvgg_a0"), lrn="band")
    fused.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = images_of(fused)
    np.testing.assert_array_equal(loaded(images), fused(images))
    assert len(keras_cnns.fuse(loaded).layers) == len(fused.layers)


def test_mixed_precision_becomes_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = builder.build("resnet20_cifar", spec={"stages": {"2": {"depth": 1}}})
    finally:
        keras.config.set_dtype_policy("float32")
    full = builder.build("resnet20_cifar", spec={"stages": {"2": {"depth": 1}}})
    randomised(full)
    model.set_weights(full.get_weights())
    fused = keras_cnns.fuse(model)
    assert {layer.compute_dtype for layer in fused.layers} == {"float32"}
    assert_same_function(full, fused, "logits")


@pytest.mark.parametrize("form", ["native", "band"])
def test_a_normalisation_of_responses_takes_the_form_asked_for(form):
    model = narrow("alexnet")
    fused = keras_cnns.fuse(model, lrn=form)
    assert {x.form for x in fused.layers if type(x).__name__.startswith("Local")} == {form}
    assert_same_function(model, fused, "logits")


@pytest.mark.parametrize(("form", "left"), [("native", 1), ("depthwise", 0)])
def test_a_normalisation_that_nothing_takes_in_takes_the_form_asked_for(form, left):
    model = narrow("densenet121")
    fused = keras_cnns.fuse(model, norms=form)
    kinds = Counter(type(x).__name__ for x in fused.layers)
    assert min(kinds["BatchNormalization"], 1) == left
    assert min(kinds["DepthwiseConv2D"], 1) == 1 - left
    assert_same_function(model, fused, "logits")


# Graphs that are none of ours: an image of 12x12x4 in.


def used_twice(x):
    y = layers.Conv2D(4, 3, padding="same")(x)
    return layers.Add()([NORMS()(y), y])


def shared(x):
    conv, norm = layers.Conv2D(4, 3, padding="same"), NORMS()
    return norm(conv(norm(conv(x))))


def nested(x):
    inner = keras.Sequential(
        [keras.Input((12, 12, 4)), layers.Conv2D(4, 3, padding="same"), NORMS()]
    )
    return inner(inner(x))


def nested_functional(x):
    image = keras.Input((12, 12, 4))
    branches = [layers.Conv2D(5, n, padding="same", name=f"conv{n}")(image) for n in (1, 3)]
    inner = keras.Model(image, layers.Concatenate()([NORMS()(b) for b in branches]))
    return layers.Conv2D(3, 1, name="conv3")(inner(x))


def split(x):
    first, second = keras.ops.split(NORMS()(layers.Conv2D(6, 1)(x)), 2, axis=-1)
    return first * keras.ops.sigmoid(second)


def branches(x, *sizes, strides=1, groups=1, identity=False, normalised=True):
    def branch(size):
        y = x
        padding = "same"
        if strides > 1 and size > 1:
            y, padding = layers.ZeroPadding2D(size // 2)(y), "valid"
        y = layers.Conv2D(4, size, strides, padding=padding, groups=groups)(y)
        return NORMS()(y) if normalised else y

    found = [branch(size) for size in sizes]
    return layers.ReLU()(layers.Add()([*found, *([NORMS()(x)] if identity else [])]))


# How many normalisations, and how many convolutions, are left.
GRAPHS = {
    "conv": (lambda x: NORMS()(layers.Conv2D(5, 3, strides=2)(x)), 0, 1),
    "no bias": (lambda x: NORMS()(layers.Conv2D(5, 3, use_bias=False)(x)), 0, 1),
    "no gamma": (lambda x: NORMS(scale=False, epsilon=0.1)(layers.Conv2D(5, 3)(x)), 0, 1),
    "no beta": (lambda x: NORMS(center=False)(layers.Conv2D(5, 3)(x)), 0, 1),
    "two norms": (lambda x: NORMS()(NORMS()(layers.Conv2D(5, (1, 3))(x))), 0, 1),
    "dilated": (lambda x: NORMS()(layers.Conv2D(5, 3, dilation_rate=2)(x)), 0, 1),
    "grouped": (lambda x: NORMS()(layers.Conv2D(6, 3, groups=2)(x)), 0, 1),
    "dropout between": (lambda x: NORMS()(layers.Dropout(0.5)(layers.Conv2D(5, 3)(x))), 0, 1),
    "flip between": (lambda x: NORMS()(layers.RandomFlip()(layers.Conv2D(5, 3)(x))), 0, 1),
    "depthwise": (lambda x: NORMS()(layers.DepthwiseConv2D(3, depth_multiplier=2)(x)), 0, 1),
    "separable": (
        lambda x: NORMS()(layers.SeparableConv2D(5, 3, depth_multiplier=2)(x)), 0, 2),
    "transposed": (lambda x: NORMS()(layers.Conv2DTranspose(5, 3, strides=2)(x)), 0, 1),
    "dense": (lambda x: NORMS()(layers.Dense(7)(layers.Flatten()(x))), 0, 0),
    "dense over maps": (lambda x: NORMS()(layers.Dense(7)(x)), 0, 0),
    "one dimension": (lambda x: NORMS()(layers.Conv1D(5, 3)(layers.Reshape((144, 4))(x))), 0, 1),
    "activation of its own": (lambda x: NORMS()(layers.Conv2D(5, 3, activation="relu")(x)), 1, 1),
    "activation between": (lambda x: NORMS()(layers.ReLU()(layers.Conv2D(5, 3)(x))), 1, 1),
    "before": (lambda x: layers.Conv2D(5, 3)(NORMS()(x)), 1, 1),
    "rows": (lambda x: NORMS(axis=1)(layers.Conv2D(5, 3)(x)), 1, 1),
    "of a batch": (lambda x: NORMS()(layers.Conv2D(5, 3)(x), training=True), 1, 1),
    "used twice": (used_twice, 1, 1),
    "shared": (shared, 0, 2),
    "nested": (nested, 0, 2),
    "nested functional": (nested_functional, 0, 3),
    "operations": (split, 0, 1),
    "lambda": (lambda x: layers.Lambda(lambda t: t * 2)(NORMS()(layers.Conv2D(4, 1)(x))), 0, 1),
    "repvgg": (lambda x: branches(x, 3, 1, identity=True), 0, 1),
    "repvgg, strides": (lambda x: branches(x, 3, 1, strides=2), 0, 1),
    "repvgg, groups": (lambda x: branches(x, 3, 1, groups=2, identity=True), 0, 1),
    "three sizes": (lambda x: branches(x, 1, 3, 5), 0, 1),
    "asymmetric": (lambda x: branches(x, (1, 3), (3, 1), (3, 3), identity=True), 0, 1),
    "without norms": (lambda x: branches(x, 3, 1, normalised=False), 0, 1),
    "residual": (
        lambda x: layers.Add()([x, NORMS()(layers.Conv2D(4, 3, padding="same")(x))]), 0, 1),
    "strides of same": (
        lambda x: layers.Add()([layers.Conv2D(3, k, 2, padding="same")(x) for k in (1, 2, 3, 5)]),
        0, 1),
    "other strides": (
        lambda x: layers.Add()([layers.Conv2D(3, 1, 2)(x), layers.Conv2D(3, 7)(x)]), 0, 2),
    "other maps": (
        lambda x: layers.Add()([layers.Conv2D(4, 1)(layers.ReLU()(x)), layers.Conv2D(4, 1)(x)]),
        0, 2),
    "dilated branch": (
        lambda x: layers.Add()(
            [layers.Conv2D(4, 3, dilation_rate=2, padding="same")(x), layers.Conv2D(4, 1)(x)]),
        0, 2),
    "other groups": (
        lambda x: layers.Add()([layers.Conv2D(4, 1, groups=2)(x), layers.Conv2D(4, 1)(x)]), 0, 2),
    "rows in a sum": (
        lambda x: layers.Add()([NORMS(axis=1)(x), layers.Conv2D(4, 3, padding="same")(x)]), 1, 1),
    "of a batch in a sum": (
        lambda x: layers.Add()([NORMS()(x, training=True), layers.Conv2D(4, 1)(x)]), 1, 1),
    "one above the other": (
        lambda x: layers.Conv2D(3, 1)(layers.Concatenate(axis=1)(
            [layers.Conv2D(4, 1, activation="relu")(x) for _ in range(2)])), 0, 3),
    "a name of ours": (
        lambda x: layers.ReLU(name="s_depthwise")(layers.SeparableConv2D(4, 3, name="s")(x)), 0, 2),
    "sum of one twice": (lambda x: layers.Add()(2 * [layers.Conv2D(4, 1)(x)]), 0, 1),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "normalised", "convolutions"), GRAPHS.values(), ids=GRAPHS)
def test_any_graph_computes_the_same(graph, normalised, convolutions):
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 4))
    model = randomised(keras.Model(image, graph(image)))
    fused = keras_cnns.fuse(model)
    assert_same_function(model, fused)
    equalise(fused, 10 * images_of(model))
    assert_same_function(model, fused)
    assert len(norms(fused)) == normalised
    assert len([x for x in fused.layers if "Conv" in type(x).__name__]) == convolutions


def test_what_keras_cannot_make_again_is_left_as_it_is():
    image = keras.Input((12, 12, 4))
    y = layers.Conv2D(4, 1, activation=lambda x: keras.ops.tanh(x), bias_initializer=_ones)(image)
    model = keras.Model(image, layers.Conv2D(3, 1)(layers.ReLU()(layers.Conv2D(4, 1)(y))))
    before = model.get_weights()
    fused = keras_cnns.fuse(model)
    equalise(fused, 10 * images_of(model))
    round_kernels(fused, 10 * images_of(model))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def _ones(shape, dtype=None):
    return keras.ops.ones(shape, dtype)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("large", [True, False])
def test_what_channels_keep_of_themselves_may_stand_apart(groups, large):
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 4))
    model = randomised(keras.Model(image, branches(image, 3, 1, groups=groups, identity=True)))
    identity = next(x for x in model.layers if isinstance(x, NORMS) and x.input is image)
    identity.gamma.assign(identity.gamma * (20 if large else 0.01))
    fused = keras_cnns.fuse(model, identities="apart")
    assert_same_function(model, fused)
    apart = [x for x in fused.layers if type(x) is layers.DepthwiseConv2D]
    assert len(apart) == large
    kernel = next(x for x in fused.layers if type(x) is layers.Conv2D).get_weights()[0]
    channels = np.arange(4)
    own = kernel[1, 1, channels % kernel.shape[2], channels]
    assert np.any(own) != large


def test_any_size_of_image_may_stay_open():
    image = keras.Input((None, None, 4))
    model = keras.Model(image, branches(image, 3, 1, identity=True))
    fused = keras_cnns.fuse(model)
    images = np.random.default_rng(0).normal(size=(2, 9, 11, 4)).astype("float32")
    np.testing.assert_allclose(fused(images), model(images, training=False), atol=1e-5)


def test_several_inputs_and_outputs_keep_their_structure():
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    conv, norm = layers.Conv2D(4, 3), NORMS()
    outputs = {"sum": norm(conv(left)) + conv(right), "left": left}
    model = keras.Model({"left": left, "right": right}, outputs)
    fused = keras_cnns.fuse(model)
    images = {k: np.full((1, 8, 8, 3), i, "float32") for i, k in enumerate(("left", "right"), 1)}
    expected, found = model(images, training=False), fused(images)
    assert set(found) == {"sum", "left"}
    for key in found:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-5)


def test_what_has_no_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UsageError, match="no functional model"):
        keras_cnns.fuse(Own())
    with pytest.raises(UsageError, match='unknown lrn "fast"; allowed are native, band'):
        keras_cnns.fuse(narrow("lenet5"), lrn="fast")
    with pytest.raises(UsageError, match='unknown norms "fast"; allowed are native, depthwise'):
        keras_cnns.fuse(narrow("lenet5"), norms="fast")


@st.composite
def chains(draw):
    """A random graph of convolutions, normalisations, sums and activations over one size of map."""
    steps = st.sampled_from(["conv", "norm", "relu", "add", "depthwise", "dropout", "concat"])
    return [
        (kind, draw(st.integers(0, 9)), draw(st.sampled_from([1, 3])))
        for kind in draw(st.lists(steps, min_size=2, max_size=10))
    ]


@settings(max_examples=25)
@given(chains(), st.integers(0, 2**16), st.sampled_from(["native", "depthwise"]))
def test_random_graphs_compute_the_same(chain, seed, form):
    keras.utils.set_random_seed(seed)
    image = keras.Input((6, 6, 4))
    maps = [image]
    for kind, place, size in chain:
        x = maps[place % len(maps)]
        if kind == "conv":
            maps.append(layers.Conv2D(4, size, padding="same", use_bias=place % 2 == 0)(x))
        elif kind == "depthwise":
            maps.append(layers.DepthwiseConv2D(size, padding="same")(x))
        elif kind == "norm":
            maps.append(NORMS()(x))
        elif kind == "relu":
            maps.append(layers.ReLU()(x))
        elif kind == "dropout":
            maps.append(layers.Dropout(0.5)(x))
        elif kind == "add":
            maps.append(layers.Add()([x, maps[-1]]))
        else:
            maps.append(layers.Conv2D(4, 1)(layers.Concatenate()([x, maps[-1]])))
    ends = [layers.Identity()(x) for x in maps[-2:]]
    model = randomised(keras.Model(image, layers.Concatenate()(ends)), seed)
    fused = keras_cnns.fuse(model, norms=form)
    assert_same_function(model, fused)
    equalise(fused, images_of(model))
    assert_same_function(model, fused)


APPLICATIONS = {
    "VGG16": 32, "VGG19": 32, "ResNet50": 64, "ResNet101": 64, "ResNet152": 64, "ResNet50V2": 64,
    "ResNet101V2": 64, "ResNet152V2": 64, "InceptionV3": 96, "InceptionResNetV2": 96,
    "Xception": 80, "DenseNet121": 64, "DenseNet169": 64, "DenseNet201": 64, "MobileNet": 64,
    "MobileNetV2": 64, "MobileNetV3Small": 64, "EfficientNetB0": 64, "EfficientNetV2B0": 64,
    "ConvNeXtTiny": 64, "NASNetMobile": 64,
}  # fmt: skip
# How many normalisations are left: those before their convolution, one for each block or layer of
# a block, one for each transition, and one at the end.
LEFT = {
    **dict.fromkeys(APPLICATIONS, 0),
    **{"ResNet50V2": 16 + 1, "ResNet101V2": 33 + 1, "ResNet152V2": 50 + 1},
    **{"DenseNet121": 58 + 3 + 1, "DenseNet169": 82 + 3 + 1, "DenseNet201": 98 + 3 + 1},
    "NASNetMobile": 4,  # behind the concatenations that make two maps fit
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [n if n == "MobileNetV2" else pytest.param(n, marks=pytest.mark.slow) for n in APPLICATIONS],
)
def test_networks_of_keras_compute_the_same(name):
    keras.utils.set_random_seed(0)
    size = APPLICATIONS[name]
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    fused = keras_cnns.fuse(randomised(model))
    assert_same_function(model, fused)
    assert len(norms(fused)) == LEFT[name]


def test_an_adapted_layer_is_left_as_it_is():
    image = keras.Input((8, 8, 4))
    conv = layers.Conv2D(5, 3)
    model = keras.Model(image, NORMS()(conv(image)))
    conv.enable_lora(2)
    conv.lora_kernel_b.assign(conv.lora_kernel_b + 0.1)
    fused = keras_cnns.fuse(model)
    assert len(norms(fused)) == 1
    images = images_of(model)
    np.testing.assert_allclose(fused(images), model(images, training=False), atol=1e-6)
