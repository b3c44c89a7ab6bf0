"""Costs: the same of a name, a model and a file, without Keras where none is needed, or refused."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import keras
import pytest
from keras import layers

from keras_cnns import builder, zoo
from keras_cnns.cost import cost, to_json
from keras_cnns.errors import UsageError
from keras_cnns.spec import scale_filters

# One of each kind of graph: a chain, groups, branches, and shortcuts of two kinds.
SMALL = {
    "lenet5": {},
    "alexnet": {"input_shape": (67, 67, 3)},
    "inception_v1": {"input_shape": (32, 32, 4)},
    "resnet18": {"input_shape": (20, 33, 1), "num_classes": 3},
    "resnet20_cifar": {},
}


def arguments(name):
    return {**SMALL[name], "spec": scale_filters(zoo.spec_of(name), 1 / 16)}


@pytest.mark.parametrize("name", SMALL)
def test_a_name_a_model_and_a_file_cost_the_same(name, tmp_path):
    of_name = cost(name, **arguments(name))
    model = builder.build(name, **arguments(name))
    model.save(tmp_path / "model.keras")
    of_model, of_file = cost(model), cost(tmp_path / "model.keras")
    for other in (of_model, of_file):
        assert set(other.layers) == set(of_name.layers)
        assert len(other.layers) == len(of_name.layers)
        assert other[:3] == of_name[:3] == (name, of_name.params, of_name.macs)
    assert of_name.params == sum(prod(w.shape) for w in model.trainable_weights)


def test_auxiliary_heads_cost_the_same_of_a_name_and_of_a_model():
    options = {**arguments("inception_v1"), "input_shape": (75, 75, 3), "auxiliary": True}
    of_name, of_model = (
        cost("inception_v1", **options),
        cost(builder.build("inception_v1", **options)),
    )
    assert set(of_model.layers) == set(of_name.layers)
    assert of_model.params == of_name.params
    assert {row.name for row in of_name.layers} >= {"auxiliary1", "auxiliary2_logits"}


def test_scaling_of_pixels_costs_nothing():
    plain = cost("lenet5")
    scaled = cost(builder.build("lenet5", preprocessing="symmetric"))
    known = {row.name for row in plain.layers}
    (extra,) = (row for row in scaled.layers if row.name not in known)
    assert (extra.name, extra.kind) == ("preprocessing", "Rescaling")
    assert extra.params == extra.macs == 0
    assert scaled.macs == plain.macs


def test_totals_are_the_sums_of_the_layers():
    found = cost("googlenet")
    assert found.name == "inception_v1"
    assert found.params == sum(row.params for row in found.layers)
    assert found.macs == sum(row.macs for row in found.layers)
    by_name = {row.name: row for row in found.layers}
    # 7x7x3 weights and a bias for each of 64 filters, used at each of 112x112 pixels.
    assert by_name["conv1_conv"].params == 64 * (7 * 7 * 3 + 1)
    assert by_name["conv1_conv"].macs == 112 * 112 * 64 * 7 * 7 * 3
    assert by_name["conv1_conv"].activation_bytes == 112 * 112 * 64 * 4


# Of the last feature map: Araujo, Norris & Sim 2019, Computing Receptive Fields of Convolutional
# Neural Networks, https://distill.pub/2019/computing-receptive-fields. Its ResNets are those with
# the stride where our `_v1` have it.
FIELDS = {
    "alexnet": 195,
    "vgg16": 212,
    "inception_v2": 699,
    "inception_v3": 1311,
    "inception_v4": 2071,
    "inception_resnet_v2": 3039,
    "resnet50_v1": 483,
    "resnet101_v1": 1027,
    "resnet152_v1": 1507,
}


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_fields_are_the_published_ones(name):
    last = [row for row in cost(name).layers if len(row.shape) == 3][-1]
    assert last.receptive_field == (FIELDS[name],) * 2
    assert last.stride == (32, 32)


def run(code, *paths):
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_neither_names_nor_files_need_keras(tmp_path):
    model = builder.build("lenet5")
    model.save(tmp_path / "model.keras")
    found = run(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from keras_cnns.cost import cost\n"
        "macs = [cost('inception_v1').macs, cost(Path(sys.argv[1])).macs]\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'numpy'} & set(sys.modules)\n"
        "print(json.dumps([macs, sorted(heavy)]))\n",
        tmp_path / "model.keras",
    )
    assert found == [[1_582_671_872, 416_520], []]


def test_json_says_what_the_layers_are():
    image = keras.Input((9, 7, 3), name="image")
    x = layers.Conv2D(4, (1, 3), strides=(1, 2), name="a")(image)
    x = layers.Conv2D(2, 1, use_bias=False, name="b")(x)
    found = json.loads(json.dumps(to_json(cost(keras.Model(image, x, name="tiny")))))
    assert found == {
        "name": "tiny",
        "params": 48,
        "macs": 9 * 3 * (36 + 8),
        "layers": [
            {
                "name": "a",
                "type": "Conv2D",
                "output_shape": [9, 3, 4],
                "params": 40,
                "macs": 972,
                "activation_bytes": 432,
                "receptive_field": [1, 3],
                "stride": [1, 2],
            },
            {
                "name": "b",
                "type": "Conv2D",
                "output_shape": [9, 3, 2],
                "params": 8,
                "macs": 216,
                "activation_bytes": 216,
                "receptive_field": [1, 3],
                "stride": [1, 2],
            },
        ],
    }
    assert to_json(cost("lenet5"))["layers"][0]["receptive_field"] == 5


CHANNELS_FIRST = {"data_format": "channels_first"}


def shared(x):
    layer = layers.Conv2D(3, 3, padding="same")
    return layer(layer(x))


def model_within(x):
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same")])
    return inner(inner(x))


# Graphs that are none of ours: their cost is either right or refused.
FOREIGN = {
    "an operator": lambda x: layers.Conv2D(3, 1)(x) + layers.Conv2D(3, 1)(x),
    "an operation": lambda x: keras.ops.concatenate([x, layers.Conv2D(2, 1)(x)], -1),
    "subtract": lambda x: layers.Subtract()([x, layers.Conv2D(3, 1)(x)]),
    "a shared layer": shared,
    "a model within": model_within,
    "channels first": lambda x: layers.Conv2D(5, 3, padding="same", **CHANNELS_FIRST)(x),
    "pooling, channels first": lambda x: layers.MaxPooling2D(**CHANNELS_FIRST)(x),
    "concatenated rows": lambda x: layers.Dense(2)(layers.Concatenate(axis=1)([x, x])),
    "normalised rows": lambda x: layers.BatchNormalization(axis=1)(x),
    "normalised maps": lambda x: layers.LayerNormalization(axis=[1, 2, 3])(x),
    "transposed": lambda x: layers.Conv2DTranspose(5, 3, strides=2)(x),
    "one dimension": lambda x: layers.Conv1D(5, 3)(layers.Reshape((64, 3))(x)),
    "upsampled": lambda x: layers.UpSampling2D(2)(x),
    "cropped": lambda x: layers.Cropping2D(1)(x),
    "learned slope": lambda x: layers.PReLU()(x),
    "attention": lambda x: layers.MultiHeadAttention(2, 4)(x, x),
    "broadcast": lambda x: layers.Add()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]),
    "gated": lambda x: layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]),
    "any length": lambda x: layers.Reshape((-1, 6))(x),
    "transposed axes": lambda x: layers.Dense(4)(layers.Permute((2, 3, 1))(x)),
    "dilated depthwise": lambda x: layers.DepthwiseConv2D(3, dilation_rate=2)(x),
    "group norm": lambda x: layers.GroupNormalization(3)(x),
}


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize("graph", FOREIGN.values(), ids=FOREIGN.keys())
def test_the_cost_of_a_foreign_graph_is_right_or_refused(graph):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, graph(image))
    try:
        found = cost(model)
    except UsageError:
        return
    assert found.params == sum(prod(w.shape) for w in model.trainable_weights)
    shapes = {
        operation.name: tuple(operation.output.shape[1:])
        for operation in model.operations
        if not isinstance(operation, layers.InputLayer)
    }
    assert {row.name: row.shape for row in found.layers} == shapes


def test_a_layer_whose_cost_is_not_known_is_named():
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Conv2DTranspose(5, 3, name="up")(image), name="decoder")
    with pytest.raises(UsageError, match=r"decoder: .*layer up \(Conv2DTranspose\)"):
        cost(model)


def test_a_model_without_a_graph_is_priced_or_refused():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3)], name="chain")
    try:
        found = cost(model)
    except UsageError:
        return
    assert (found.name, found.params, found.macs) == ("chain", 140, 36 * 135)


def test_a_name_that_is_unknown_is_refused():
    with pytest.raises(UsageError, match='unknown network "lenet"'):
        cost("lenet")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 nothing", b"weights"])
def test_a_file_that_is_no_model_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "model.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.keras is not a Keras model"):
        cost(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a Keras model"):
        cost(Path(tmp_path))


# Counted independently from keras.applications' own models: trainable weights and MACs.
APPLICATIONS = {
    "VGG16": (138_357_544, 15_470_264_320),
    "VGG19": (143_667_240, 19_632_062_464),
    "ResNet50": (25_583_592, 3_857_973_248),
    "ResNet101": (44_601_832, 7_570_194_432),
    "ResNet152": (60_268_520, 11_282_415_616),
    "ResNet50V2": (25_568_360, 3_482_255_360),
    "ResNet101V2": (44_577_896, 7_194_476_544),
    "ResNet152V2": (60_236_904, 10_906_697_728),
    "InceptionV3": (23_817_352, 5_713_216_096),
    "InceptionResNetV2": (55_813_192, 13_155_794_016),
    "Xception": (22_855_952, 8_357_403_496),
    "DenseNet121": (7_978_856, 2_834_161_664),
    "DenseNet169": (14_149_480, 3_359_843_328),
    "DenseNet201": (20_013_928, 4_291_365_888),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_cost_of_the_networks_of_keras(name):
    found = cost(getattr(keras.applications, name)(weights=None))
    assert (found.params, found.macs) == APPLICATIONS[name]
