"""Feature maps by stride: which layers they are, and that they are the network's own."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_cnns
from keras_cnns import builder, graph, spec as specs, zoo
from keras_cnns.errors import UsageError
from keras_cnns.pyramid import choose, features

MIXERS = [name for name in zoo.NETS if zoo.get(name).family == "MLP-Mixer"]
CONVOLUTIONAL = [name for name in zoo.NETS if name not in MIXERS]

# Channels by level. Those of DenseNet, Inception-v3, Xception, RepVGG and VGG are the `num_chs` of
# timm's `feature_info`; those of ResNet the outputs of its stages, He et al. 2015, table 1; those
# of GoogLeNet its rows before a pooling, Szegedy et al. 2014, table 1.
CHANNELS = {
    "resnet18": {1: 64, 2: 64, 3: 128, 4: 256, 5: 512},
    "resnet50": {1: 64, 2: 256, 3: 512, 4: 1024, 5: 2048},
    "resnet152_v2": {1: 64, 2: 256, 3: 512, 4: 1024, 5: 2048},
    "inception_v1": {1: 64, 2: 192, 3: 480, 4: 832, 5: 1024},
    "inception_v3": {1: 64, 2: 192, 3: 288, 4: 768, 5: 2048},
    "xception": {1: 64, 2: 128, 3: 256, 4: 728, 5: 2048},
    "densenet121": {1: 64, 2: 256, 3: 512, 4: 1024, 5: 1024},
    "densenet161": {1: 96, 2: 384, 3: 768, 4: 2112, 5: 2208},
    "repvgg_a0": {1: 48, 2: 48, 3: 96, 4: 192, 5: 1280},
    "vgg16": {0: 64, 1: 128, 2: 256, 3: 512, 4: 512, 5: 512},
    "lenet5": {0: 6, 1: 16, 2: 120},
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_are_those_that_others_take(name):
    found = choose(builder.trace(name).rows)
    assert {level: row.shape[-1] for level, row in found.items()} == CHANNELS[name]


# The layers by name: outputs of stages, maps before a pooling, blocks before a transition.
LAYERS = {
    "resnet50": ["conv1_relu", "conv2_3_relu", "conv3_4_relu", "conv4_6_relu", "conv5_3_relu"],
    "vgg11": ["conv1_1_relu", "conv2_1_relu", "conv3_2_relu", "conv4_2_relu", "conv5_2_relu",
              "conv5_pool"],
    "densenet169": ["conv1_relu", "transition1_relu", "transition2_relu", "transition3_relu",
                    "last_relu"],
    "inception_v1": ["conv1_relu", "conv2_lrn", "3b_concat", "4e_concat", "5b_concat"],
    "resnet20_cifar": ["conv2_3_relu", "conv3_3_relu", "conv4_3_relu"],
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_the_maps_are_those_of_the_papers_figures(name):
    assert [row.name for row in choose(builder.trace(name).rows).values()] == LAYERS[name]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_convolutional_network_has_its_pyramid(name):
    rows = builder.trace(name).rows
    found = choose(rows)
    assert choose(builder.trace(name, include_top=False).rows) == found
    assert len(found) >= 3
    assert list(found) == list(range(min(found), max(found) + 1)), "a level is missing"
    for level, row in found.items():
        assert row.stride == (2**level, 2**level)
        assert len(row.shape) == 3
    sides = [row.shape[0] for row in found.values()]
    assert sides == sorted(set(sides), reverse=True)
    # Everything goes through each: without it, nothing reaches the class scores.
    for row in found.values():
        reached = {"image"}
        for other in rows:
            if other is not row and reached & set(other.inputs):
                reached.add(other.name)
        assert rows[-1].name not in reached


@pytest.mark.parametrize("name", [name for name in zoo.NETS if zoo.get(name).auxiliary_params])
def test_auxiliary_heads_change_nothing(name):
    assert choose(builder.trace(name, auxiliary=True).rows) == choose(builder.trace(name).rows)


@pytest.mark.parametrize("name", MIXERS)
def test_a_network_that_mixes_its_pixels_has_none(name):
    assert choose(builder.trace(name).rows) == {}


def small(name):
    size = max(zoo.get(name).min_size, 64)
    spec = specs.scale_filters(zoo.spec_of(name), 1 / 16)
    return {"input_shape": (size, size, 3), "num_classes": 3, "spec": spec}


@pytest.mark.parametrize("name", ["lenet5", "vgg11_bn", "inception_v1", "resnet18", "repvgg_a0"])
def test_the_maps_are_the_networks_own(name):
    network = builder.build(name, **small(name))
    found = features(network)
    chosen = choose(builder.trace(name, **small(name)).rows)
    assert found.name == f"{name}_features"
    assert list(found.output) == [f"c{level}" for level in chosen]
    x = np.random.default_rng(0).normal(size=(2, *network.input_shape[1:])).astype("float32")
    maps = found(x)
    for level, row in chosen.items():
        alone = keras.Model(network.input, network.get_layer(row.name).output)
        np.testing.assert_array_equal(maps[f"c{level}"], alone(x))
        assert maps[f"c{level}"].shape == (2, *row.shape)
    ours = {id(weight) for weight in network.weights}
    assert {id(weight) for weight in found.weights} <= ours
    assert found.get_layer(chosen[min(chosen)].name) is network.get_layer(chosen[min(chosen)].name)


def test_a_name_gives_the_model_without_its_top():
    found = keras_cnns.features("resnet18", levels=[5, 3], **small("resnet18"))
    assert {name: x.shape[1:] for name, x in found.output.items()} == {
        "c3": (8, 8, 8),
        "c5": (2, 2, 32),
    }
    assert "logits" not in {layer.name for layer in found.layers}
    assert keras_cnns.features is features


def test_pixels_may_be_scaled_first():
    found = features("resnet18", preprocessing="symmetric", **small("resnet18"))
    assert sorted(found.output) == ["c1", "c2", "c3", "c4", "c5"]
    assert found.get_layer("preprocessing")


def test_a_level_that_is_not_there_is_refused_by_those_that_are():
    with pytest.raises(
        UsageError, match=r"resnet20_cifar: received levels \[2, 5\]; it has 0, 1, 2"
    ):
        features("resnet20_cifar", levels=[2, 5])
    with pytest.raises(UsageError, match=r"received levels \[\]"):
        features("lenet5", levels=[])


def test_a_mixer_is_refused():
    with pytest.raises(
        UsageError,
        match="mixer_s32 has no feature map that every path goes through at a known stride",
    ):
        features("mixer_s32", **{**small("mixer_s32"), "spec": {"depth": 1}})


def test_arguments_are_for_a_name():
    with pytest.raises(UsageError, match="num_classes: these are for a network's name"):
        features(builder.build("lenet5"), num_classes=3)


def conv(x, filters, strides=1, **config):
    return layers.Conv2D(filters, 3, strides, padding="same", activation="relu", **config)(x)


def levels_of(model):
    found = graph.read(model)
    return {
        level: row.name
        for level, row in choose(found.rows, found.outputs, among=found.tensors).items()
    }


def test_of_layers_at_one_stride_the_widest_counts_and_then_the_last():
    image = keras.Input((16, 16, 3))
    x = conv(layers.ZeroPadding2D()(image), 4, 2, name="a")
    x = conv(conv(x, 8, name="b"), 8, name="c")
    x = conv(layers.ZeroPadding2D()(conv(x, 6, name="d")), 6, 2, name="e")
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    model = keras.Model(image, layers.Dense(3)(x))
    assert levels_of(model) == {1: "c", 2: "e"}


def test_a_map_that_a_branch_goes_round_does_not_count():
    image = keras.Input((16, 16, 3))
    x = conv(image, 4, 2, name="a")
    inside = conv(x, 64, name="inside")
    x = layers.Add(name="sum")([x, conv(inside, 4, name="back")])
    assert levels_of(keras.Model(image, x)) == {1: "sum"}


def test_strides_that_are_no_power_of_two_have_no_level():
    image = keras.Input((36, 36, 3))
    x = conv(conv(conv(image, 4, 3, name="a"), 4, (1, 2), name="b"), 4, (4, 2), name="c")
    with pytest.raises(
        UsageError, match="has no feature map that every path goes through at a known stride"
    ):
        features(keras.Model(image, x))


def test_a_gate_over_all_of_the_map_keeps_its_stride():
    image = keras.Input((16, 16, 3))
    x = conv(image, 4, 2, name="a")
    gate = layers.Dense(4, "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply(name="gated")([x, gate])
    assert levels_of(keras.Model(image, conv(x, 4, 2, name="b"))) == {1: "gated", 2: "b"}


def test_of_several_outputs_the_deepest_counts():
    image = keras.Input((16, 16, 3))
    x = conv(image, 4, 2, name="a")
    early = layers.Dense(2)(layers.Flatten()(x))
    late = conv(conv(x, 8, name="b"), 8, 2, name="c")
    assert levels_of(keras.Model(image, {"early": early, "late": late})) == {1: "b", 2: "c"}


def test_a_model_within_gives_its_output_alone():
    within = builder.build("resnet18", include_top=False, **small("resnet18"))
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(within(image))), name="whole")
    assert levels_of(model) == {5: "resnet18/conv5_2_relu"}
    with pytest.raises(UsageError, match=r"whole: received levels \[3\]; it has 5"):
        features(model, levels=[3])


def test_two_images_are_refused():
    one, two = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    with pytest.raises(UsageError, match="a model that takes one image"):
        features(keras.Model([one, two], layers.Add()([one, two])))


# keras.applications. Those of MobileNetV2 are the widest: the expansions before a stride, six times
# the channels of their rows in Sandler et al. 2018, table 2, and the last convolution.
KERAS = {
    "VGG16": [64, 128, 256, 512, 512, 512],
    "ResNet50": [64, 256, 512, 1024, 2048],
    "DenseNet121": [64, 256, 512, 1024, 1024],
    "InceptionV3": [64, 192, 288, 768, 2048],
    "Xception": [64, 128, 256, 728, 2048],
    "MobileNetV2": [96, 144, 192, 576, 1280],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS)
def test_the_networks_of_keras_have_theirs(name):
    found = features(getattr(keras.applications, name)(weights=None))
    assert [x.shape[-1] for x in found.output.values()] == KERAS[name]
