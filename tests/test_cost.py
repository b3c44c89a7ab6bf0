"""Costs: the same of a name, a model and a file, without Keras where none is needed, or refused."""

import json
import subprocess
import sys
import zipfile
from functools import cache
from math import prod
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_cnns import builder, spec as specs, zoo
from keras_cnns.cost import cost, to_json
from keras_cnns.errors import UsageError
from keras_cnns.paths import ends, schedule
from keras_cnns.trace import Row

# One of each kind of graph: a chain, groups, branches, and shortcuts of two kinds.
SMALL = {
    "lenet5": {},
    "alexnet": {"input_shape": (67, 67, 3)},
    "inception_v1": {"input_shape": (32, 32, 4)},
    "resnet18": {"input_shape": (20, 33, 1), "num_classes": 3},
    "resnet20_cifar": {},
}


def arguments(name):
    return {**SMALL[name], "spec": specs.scale_filters(zoo.spec_of(name), 1 / 16)}


def agree(one, other):
    """Compare two costs in all that they say but for the order of the layers."""
    assert sorted(one.layers) == sorted(other.layers)
    for said in ("params", "macs", "inputs", "weights_bytes", "peak_activation_bytes"):
        assert getattr(one, said) == getattr(other, said)
    assert one.training_bytes(3) == other.training_bytes(3)


@pytest.mark.parametrize("name", SMALL)
def test_a_name_a_model_and_a_file_cost_the_same(name, tmp_path):
    of_name = cost(name, **arguments(name))
    model = builder.build(name, **arguments(name))
    model.save(tmp_path / "model.keras")
    of_model, of_file = cost(model), cost(tmp_path / "model.keras")
    assert of_name.name == of_model.name == of_file.name == name
    agree(of_name, of_model)
    agree(of_name, of_file)
    assert of_name.params == sum(prod(w.shape) for w in model.trainable_weights)
    assert of_name.weights_bytes == 4 * model.count_params()


def shallow(spec):
    """The spec with stages of two blocks at most, where the depth is a number."""
    if hasattr(spec, "_fields"):
        parts = spec._asdict().items()
        return type(spec)(*(min(v, 2) if k == "depth" else shallow(v) for k, v in parts))
    if isinstance(spec, dict):
        return {key: shallow(value) for key, value in spec.items()}
    if isinstance(spec, tuple) and not isinstance(spec, specs.Branches):
        return tuple(map(shallow, spec))
    return spec


@cache
def narrow_cost(builder_of, spec, name):
    """What the model of a narrow, shallow spec costs; many names have the same."""
    del builder_of, spec  # they tell the networks apart, whatever their names
    return cost(builder.build(name, **narrow(name)))


def narrow(name):
    net = zoo.get(name)
    spec = specs.scale_filters(shallow(net.spec), 1 / 16)
    return {"input_shape": (net.min_size, net.min_size, 3), "num_classes": 5, "spec": spec}


FIRST_OF_ITS_SPEC: dict[tuple[object, str], str] = {}


@pytest.mark.parametrize("name", zoo.NETS)
def test_what_is_said_of_a_name_is_what_its_model_has(name):
    wanted = narrow(name)
    key = (zoo.get(name).builder, repr(wanted))
    first = FIRST_OF_ITS_SPEC.setdefault(key, name)
    agree(cost(name, **wanted), narrow_cost(*key, first))


def test_auxiliary_heads_cost_the_same_of_a_name_and_of_a_model():
    options = {**arguments("inception_v1"), "input_shape": (75, 75, 3), "auxiliary": True}
    of_name = cost("inception_v1", **options)
    agree(of_name, cost(builder.build("inception_v1", **options)))
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
    x = layers.GlobalAveragePooling2D(name="c")(layers.Lambda(lambda x: x * 2, name="l")(x))
    found = json.loads(json.dumps(to_json(cost(keras.Model(image, x, name="tiny")), batch_size=2)))
    assert found == {
        "name": "tiny",
        "params": 48,
        "macs": 9 * 3 * (36 + 8),
        "inputs": {"image": [9, 7, 3]},
        "min_size": None,
        "weights_bytes": 48 * 4,
        "peak_activation_bytes": 4 * 9 * (7 * 3 + 3 * 4),
        "inference_bytes": 48 * 4 + 4 * 9 * (7 * 3 + 3 * 4),
        "batch_size": 2,
        # Weights, gradients, two slots; all maps and the gradients around the largest.
        "training_bytes": 4 * 48 * 4 + 2 * 4 * (189 + 108 + 54 + 54 + 2 + 189 + 108),
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
            {
                "name": "l",
                "type": "Lambda",
                "output_shape": [9, 3, 2],
                "params": 0,
                "macs": 0,
                "activation_bytes": 216,
                "receptive_field": [1, 3],
                "stride": [1, 2],
            },
            {
                "name": "c",
                "type": "GlobalAveragePooling2D",
                "output_shape": [2],
                "params": 0,
                "macs": 0,
                "activation_bytes": 8,
                "receptive_field": [9, 7],
                "stride": [9, 6],
            },
        ],
    }
    lenet = to_json(cost("lenet5"))
    assert lenet["layers"][0]["receptive_field"] == 5
    assert lenet["min_size"] == 32
    assert lenet["batch_size"] == 32


# Graphs that are none of ours.

CHANNELS_FIRST = {"data_format": "channels_first"}


def shared(x):
    layer = layers.Conv2D(3, 3, padding="same", name="conv")
    return layer(layer(x))


def model_within(x):
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same")])
    return inner(inner(x))


def frozen(x):
    layer = layers.Conv2D(3, 3)
    layer.trainable = False
    return layers.BatchNormalization()(layer(x))


def squeeze_and_excitation(x):
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(3, activation="sigmoid")(layers.Reshape((1, 1, 3))(gate))
    return layers.Multiply()([x, gate])


def attention(x):
    x = layers.Reshape((64, 3))(x)
    return layers.MultiHeadAttention(2, 4, value_dim=5)(x, x)


# A graph on an image of 8x8x3, its multiply-adds, and what its last map sees.
FOREIGN = {
    "an operator": (lambda x: layers.Conv2D(3, 1)(x) + layers.Conv2D(3, 3, padding="same")(x),
                    64 * 3 * 3 * 10, (3, 3)),
    "an operation": (lambda x: ops.concatenate([x, layers.Conv2D(2, 1)(x)], -1), 64 * 6, (1, 1)),
    "subtract": (lambda x: layers.Subtract()([x, layers.Conv2D(3, 1)(x)]), 64 * 9, (1, 1)),
    "a shared layer": (shared, 2 * 64 * 81, (5, 5)),
    "a model within": (model_within, 2 * 64 * 81, (5, 5)),
    "frozen": (frozen, 36 * 81, (3, 3)),
    "channels first": (lambda x: layers.Conv2D(5, 3, padding="same", **CHANNELS_FIRST)(x),
                       8 * 3 * 9 * 8 * 5, None),
    "depthwise, channels first": (lambda x: layers.DepthwiseConv2D(3, **CHANNELS_FIRST)(
        layers.ZeroPadding2D(1, **CHANNELS_FIRST)(x)), 8 * 3 * 9 * 8, None),
    "pooling, channels first": (lambda x: layers.MaxPooling2D(**CHANNELS_FIRST)(
        layers.ZeroPadding2D(1, **CHANNELS_FIRST)(x)), 0, None),
    "concatenated rows": (lambda x: layers.Dense(2)(layers.Concatenate(axis=1)([x, x])),
                          128 * 3 * 2, None),
    "normalised rows": (lambda x: layers.BatchNormalization(axis=1)(x), 0, (1, 1)),
    "normalised maps": (lambda x: layers.LayerNormalization(axis=[1, 2, 3])(x), 0, None),
    "group norm": (lambda x: layers.GroupNormalization(3)(x), 0, (8, 8)),
    "transposed": (lambda x: layers.Conv2DTranspose(5, 3, strides=2)(x), 64 * 9 * 3 * 5, None),
    "one dimension": (lambda x: layers.Conv1D(5, 3)(layers.Reshape((64, 3))(x)),
                      62 * 3 * 3 * 5, None),
    "upsampled": (lambda x: layers.UpSampling2D(2)(x), 0, None),
    "cropped": (lambda x: layers.Cropping2D(1)(x), 0, (1, 1)),
    "learned slope": (lambda x: layers.PReLU()(x), 0, (1, 1)),
    "normalised pixels": (lambda x: layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 1, 1])(x),
                          0, (1, 1)),
    "attention": (attention, 64 * 3 * 8 * 2 + 64 * 3 * 10 + 64 * 10 * 3 + 2 * 64 * 64 * 9, None),
    "broadcast": (lambda x: layers.Add()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]),
                  0, (8, 8)),
    "gated": (squeeze_and_excitation, 9, (8, 8)),
    "any length": (lambda x: layers.Reshape((-1, 6))(x), 0, None),
    "transposed axes": (lambda x: layers.Dense(4)(layers.Permute((2, 1, 3))(x)), 64 * 12, None),
    "dilated depthwise": (lambda x: layers.DepthwiseConv2D(3, dilation_rate=2)(x),
                          16 * 27, (5, 5)),
    "asymmetric, grouped": (lambda x: layers.Conv2D(6, (1, 3), groups=3)(x), 48 * 3 * 6, (1, 3)),
    "separable": (lambda x: layers.SeparableConv2D(5, 3, depth_multiplier=2)(x),
                  36 * (54 + 30), (3, 3)),
    "einsum": (lambda x: layers.EinsumDense("bhwc,cd->bhwd", (8, 8, 5), bias_axes="d")(x),
               64 * 15, None),
    "a product of maps": (lambda x: ops.matmul(ops.transpose(x, (0, 1, 3, 2)), x), 8 * 3 * 8 * 3,
                          None),
    "an einsum of maps": (lambda x: ops.einsum("bhwc,bhvc->bhwv", x, x), 8 * 8 * 8 * 3, None),
    "split": (lambda x: layers.Conv2D(2, 1)(ops.split(x, 3, -1)[1]), 64 * 2, None),
    "a lambda": (lambda x: layers.Conv2D(2, 1)(layers.Lambda(lambda x: x[:, ::-1])(x)),
                 64 * 6, None),
    "flipped in training": (lambda x: layers.Conv2D(2, 3)(layers.RandomFlip()(x)),
                            36 * 9 * 6, (3, 3)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize(("graph", "macs", "field"), FOREIGN.values(), ids=FOREIGN.keys())
def test_the_cost_of_a_foreign_graph(graph, macs, field):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, graph(image))
    found = cost(model)
    assert found.macs == macs
    assert found.params == sum(prod(w.shape) for w in model.trainable_weights)
    assert found.weights_bytes == 4 * model.count_params()
    last = found.layers[-1]
    assert last.receptive_field == field
    assert last.shape == model.output_shape[1:]


def test_a_layer_called_twice_has_two_rows_and_its_weights_once():
    image = keras.Input((8, 8, 3), name="image")
    first, second = cost(keras.Model(image, shared(image))).layers
    assert (first.name, first.inputs, second.name, second.inputs) == (
        "conv", ("image",), "conv:2", ("conv",)
    )  # fmt: skip
    assert (first.params, second.params) == (84, 0)
    assert first.macs == second.macs == 64 * 81


def test_the_layers_of_a_model_within_are_named_after_it():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(3, 3, name="a"), layers.ReLU(name="b")], name="in"
    )
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, layers.Dense(2, name="c")(inner(image)))
    found = [(row.name, row.inputs) for row in cost(model).layers]
    assert found == [("in/a", ("image",)), ("in/b", ("in/a",)), ("c", ("in/b",))]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(3, 4, strides=2, use_bias=False), (9, 2)),
        (layers.Conv2D(4, (2, 3), groups=2, use_bias=False), (6, 7, 4)),
        (layers.Conv3D(2, 2, use_bias=False), (4, 3, 5, 2)),
        (layers.Conv1DTranspose(3, 4, strides=3, use_bias=False), (5, 2)),
        (layers.Conv2DTranspose(3, (3, 2), strides=2, use_bias=False), (5, 4, 2)),
        (layers.Conv3DTranspose(2, 2, use_bias=False), (4, 3, 5, 2)),
        (layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False), (7, 3)),
        (layers.EinsumDense("abc,cde->abde", (5, 2, 3)), (5, 4)),
        (layers.EinsumDense("...b,bc->...c", (2, 5, 3)), (2, 5, 4)),
        (layers.Dense(3, use_bias=False), (2, 5, 4)),
    ],
    ids=lambda value: value.name if isinstance(value, layers.Layer) else "",
)
def test_macs_are_the_multiplications_that_happen(layer, shape):
    # With ones for weights and pixels, and no padding, each multiplication adds 1 to the output.
    model = keras.Sequential([keras.Input(shape), layer])
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    assert cost(model).macs == np.sum(model(np.ones((1, *shape), "float32")))


def test_what_enlarges_a_map_divides_its_stride():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=4, padding="same", name="down")(image)
    x = layers.UpSampling2D(2, name="up")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="again")(x)
    x = layers.UpSampling2D(2, name="beyond")(layers.ReLU(name="same")(x))
    found = {
        row.name: (row.stride, row.receptive_field) for row in cost(keras.Model(image, x)).layers
    }
    assert found == {
        "down": ((4, 4), (3, 3)),
        "up": ((2, 2), None),
        "again": ((1, 1), None),
        "same": ((1, 1), None),
        "beyond": (None, None),
    }


# Layers of somebody's own: what the operations of Keras in them cost is known.


class Squared(layers.Layer):
    """A matrix and its square, by operations of no backend's own, and a layer within."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]))
        self.dense = layers.Dense(5)
        self.dense.build(shape)

    def call(self, x, factor=1):
        x = x @ self.kernel * factor
        return self.dense(ops.einsum("bhwc,cd->bhwd", x, self.kernel))


class Shifted(layers.Conv2D):
    """A convolution like any, under another name."""


class Unsavable(layers.Layer):
    """What its arguments were is not told."""

    def call(self, x):
        return ops.relu(x)

    def get_config(self):
        raise NotImplementedError


class Both(layers.Layer):
    """Two outputs of two inputs."""

    def call(self, x, y):
        return ops.einsum("bhwc,bhwd->bhwc", x, y), x + y


class Raw(layers.Layer):
    """What it does is known to a backend alone."""

    def call(self, x):
        return keras.src.backend.numpy.einsum("bhwc,bhvc->bhwv", x, x)


OWN = {
    "a lambda": (lambda x: layers.Lambda(lambda x: x @ ops.swapaxes(x, 2, 3))(x), 64 * 8 * 3, None),
    "a lambda on pixels": (lambda x: layers.Lambda(lambda x: x * 2 + 1)(x), 0, (1, 1)),
    "a lambda that pads": (lambda x: layers.Lambda(lambda x: ops.max_pool(
        ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 1))(x), 0, None),
    "weights and a layer": (lambda x: Squared()(x, factor=2), 64 * (9 + 9 + 15), None),
    "a kind of convolution": (lambda x: Shifted(5, 3, groups=1)(x), 36 * 27 * 5, None),
    "two outputs": (lambda x: layers.Add()(Both()(x, x)), 64 * 9, None),
    "a transposed convolution": (lambda x: layers.Lambda(lambda x: ops.conv_transpose(
        x, np.ones((2, 2, 7, 3), "float32"), strides=2))(x), 64 * 2 * 2 * 7 * 3, None),
    "separable": (lambda x: layers.Lambda(lambda x: ops.separable_conv(
        x, np.ones((3, 3, 3, 2), "float32"), np.ones((1, 1, 6, 4), "float32")))(x),
        36 * (54 + 24), None),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "macs", "field"), OWN.values(), ids=OWN.keys())
def test_layers_of_ones_own_cost_what_is_in_them(graph, macs, field):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, graph(image))
    found = cost(model)
    assert found.macs == macs
    assert found.params == sum(prod(w.shape) for w in model.trainable_weights)
    assert found.layers[-1].receptive_field == field
    assert found.layers[-1].shape == model.output_shape[1:]
    assert cost(model).macs == macs, "it is not the same the second time"


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (lambda x: Raw(name="mine")(x), r"mine \(Raw\)"),
        (
            lambda x: layers.TimeDistributed(layers.Dense(2), name="each")(x),
            r"each \(TimeDistributed\)",
        ),
        (lambda x: layers.ConvLSTM1D(2, 3, name="memory")(x), r"memory \(ConvLSTM1D\)"),
        (lambda x: layers.Dot(axes=3, name="dot")([x, x]), r"dot \(Dot\)"),
        (lambda x: layers.Lambda(lambda x: np.array(x), (2,), name="l")(x), r"l \(Lambda\)"),
        (lambda x: ops.tensordot(x, x, 1), r"\(Tensordot\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_a_layer_whose_cost_is_not_known_is_named(graph, what):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, graph(image), name="decoder")
    with pytest.raises(UsageError, match=f"decoder: the cost of its layer.* {what} is not known"):
        cost(model)


def test_a_kernel_that_was_adapted_is_refused():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="a")], name="m")
    model.layers[0].enable_lora(2)
    with pytest.raises(UsageError, match=r"layer a \(Dense\)"):
        cost(model)


def test_an_image_of_any_size_is_refused():
    image = keras.Input((None, None, 3), name="photo")
    model = keras.Model(image, layers.Conv2D(2, 3)(image), name="m")
    with pytest.raises(UsageError, match="m: the size of photo is open"):
        cost(model)


def test_a_chain_that_knows_its_input_is_priced():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3)], name="chain")
    found = cost(model)
    assert (found.name, found.params, found.macs) == ("chain", 140, 36 * 135)


@pytest.mark.parametrize(
    "model", [keras.Sequential([layers.Dense(2)], name="m"), keras.Model(name="m")]
)
def test_a_model_without_a_graph_is_refused(model):
    with pytest.raises(UsageError, match="m is no functional model"):
        cost(model)


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize(
    "name", ["frozen", "channels first", "broadcast", "a model within", "gated"]
)
def test_a_file_costs_what_its_model_does(name, tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model({"photo": image}, {"b": FOREIGN[name][0](image), "a": layers.ReLU()(image)})
    model.save(tmp_path / "model.keras")
    agree(cost(model), cost(tmp_path / "model.keras"))


def test_code_in_a_file_is_not_run(tmp_path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, layers.Lambda(lambda x: x * 2)(image)).save(tmp_path / "model.keras")
    with pytest.raises(UsageError, match="cannot be read as a Keras model: .*Lambda"):
        cost(tmp_path / "model.keras")


def test_what_is_no_model_is_refused():
    with pytest.raises(UsageError, match="7 is no functional model"):
        cost(7)
    with pytest.raises(UsageError, match="input_shape: these are for a network's name"):
        cost(builder.build("lenet5"), input_shape=(64, 64, 3))
    with pytest.raises(UsageError, match="no.keras: there is no such file"):
        cost("no.keras")


def test_a_model_that_does_nothing_costs_nothing():
    image = keras.Input((2, 2, 3))
    found = cost(keras.Model(image, image, name="nothing"))
    assert (found.params, found.macs, found.peak_activation_bytes) == (0, 0, 48)


def test_a_name_that_is_unknown_is_refused():
    with pytest.raises(UsageError, match='unknown network "lenet"'):
        cost("lenet")


@pytest.mark.parametrize(
    "config",
    [[1], {"config": {}}, {"config": {"name": "x", "layers": []}}, {"config": {"layers": [1]}},
     {"config": {"layers": [{}]}}],
)  # fmt: skip
def test_a_file_of_another_shape_is_refused_in_a_line(config, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(UsageError, match=r"model\.keras") as caught:
        cost(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"weights"])
def test_a_file_that_is_no_model_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.keras is not a Keras model"):
        cost(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a Keras model"):
        cost(Path(tmp_path))


# Memory. The graphs are small enough to count on paper: layers by name with what they take, how
# many numbers they give, and their kind.


def rows(text):
    """Read "name kind numbers inputs..." lines."""
    words = [line.split() for line in text.strip().splitlines()]
    return [
        Row(name, kind, (1, 1, int(n)), 0, 0, None, None, tuple(inputs))
        for name, kind, n, *inputs in words
    ]


GRAPHS = {
    # image 4 + a 10, then a 10 + b 3.
    "a chain": ("a Conv2D 10 image\nb Conv2D 3 a", (), 14),
    # The ReLU is written over a; then a 10 + b 8.
    "in place": ("a Conv2D 10 image\nr ReLU 10 a\nb Conv2D 8 r", (), 18),
    # It may not be where a is still needed: a 10 + r 10, then r 10 + b 10 beside a 10.
    "needed beside": ("a Conv2D 10 image\nr ReLU 10 a\nb Add 10 a r", (), 30),
    # Nor where a is itself an output.
    "an output": ("a Conv2D 10 image\nr ReLU 10 a", ("a",), 20),
    # The shortcut's x 10 waits beside a 10 while b 10 is made, and beside b while the sum is.
    "residual": ("x Conv2D 10 image\na Conv2D 10 x\nb Conv2D 10 a\ns Add 10 x b", (), 30),
    # x 8 and b1 2 and r 4, c 6: 20; then b1 2, c 6, p 8 beside x: 24; the sum: 2 + 6 + 3 + 11 = 22.
    "inception": ("x Conv2D 8 image\nb1 Conv2D 2 x\nr Conv2D 4 x\nc Conv2D 6 r\n"
                  "p MaxPooling2D 8 x\nb3 Conv2D 3 p\nj Concatenate 11 b1 c b3", (), 24),
    # x 4, a 2, then c1 6 beside both: 12; c1 6, b 2, then c2 8 beside both: 16.
    "dense": ("x Conv2D 4 image\na Conv2D 2 x\nc1 Concatenate 6 x a\nb Conv2D 2 c1\n"
              "c2 Concatenate 8 c1 b", (), 16),
    # The image 4 is needed to the end: with a 10 and b 3, then with b and the sum 4.
    "a long shortcut": ("a Conv2D 10 image\nb Conv2D 4 a\ns Add 4 image b", (), 18),
    # Twice the same: 4 + 10, then 10 + 10.
    "squared": ("a Conv2D 10 image\ns Multiply 10 a a", (), 20),
    # Two heads: the first's 5 stays while the second is made from x 10, through y 7: 5 + 10 + 7.
    "heads": ("x Conv2D 10 image\nh1 Dense 5 x\ny Conv2D 7 x\nh2 Dense 2 y", (), 22),
}  # fmt: skip


@pytest.mark.parametrize(("text", "outputs", "peak"), GRAPHS.values(), ids=GRAPHS.keys())
def test_feature_maps_at_once_are_those_counted_on_paper(text, outputs, peak):
    found = cost("lenet5")._replace(
        layers=tuple(rows(text)), inputs={"image": (4,)}, outputs=outputs
    )
    assert found.peak_activation_bytes == 4 * peak
    backwards = found._replace(layers=found.layers[::-1])
    assert backwards.peak_activation_bytes == 4 * peak, "it depends on the order of the rows"


def test_layers_run_depth_first_once_their_inputs_are_there():
    found = rows(GRAPHS["inception"][0])
    order = [row.name for row in schedule(found[::-1], ends(found))]
    assert order == ["x", "b1", "r", "c", "p", "b3", "j"]


def test_deep_networks_are_no_deeper_for_it():
    found = cost("resnet1202_cifar")
    # Three maps of 32x32x16: a block's input, and its second convolution's input and output.
    assert found.peak_activation_bytes == 3 * 32 * 32 * 16 * 4


def test_memory_of_lenet5():
    found = cost("lenet5")
    # The first pooling: 28x28x6 numbers become 14x14x6.
    assert found.peak_activation_bytes == 4 * (28 * 28 + 14 * 14) * 6
    assert found.weights_bytes == 4 * 61_706
    assert found.inference_bytes == found.weights_bytes + found.peak_activation_bytes
    of_weights = found.training_bytes(1, slots=2) - found.training_bytes(1, slots=1)
    assert of_weights == 4 * 61_706
    one, two, three = (found.training_bytes(n) for n in (1, 2, 3))
    assert three - two == two - one > 4 * sum(prod(row.shape) for row in found.layers)


def test_moving_averages_are_weights_that_are_not_trained():
    row = next(row for row in cost("resnet18").layers if row.kind == "BatchNormalization")
    assert (row.params, row.frozen) == (128, 128)


@pytest.mark.parametrize("name", SMALL)
def test_the_smallest_image_is_that_of_the_name(name, tmp_path):
    model = builder.build(name, **arguments(name))
    least = builder.min_size(name, **arguments(name))
    assert cost(name, **arguments(name)).min_size == cost(model).min_size == least
    model.trainable = False
    model.save(tmp_path / "model.keras")
    assert cost(tmp_path / "model.keras").min_size == least


def test_the_smallest_image_of_a_foreign_graph():
    image = keras.Input((16, 12, 3))
    x = layers.MaxPooling2D(2)(layers.Conv2D(4, 3)(image))
    # 8: 6, 3, and 1 beside 3 - 2 = 1; 7: 5, 2, and nothing of the 3x3.
    branches = [layers.Conv2D(2, 3)(x), layers.AveragePooling2D(3, 1)(x)]
    x = layers.Flatten()(layers.Concatenate()(branches))
    assert cost(keras.Model(image, layers.Dense(3)(x))).min_size == 8
    chain = keras.Sequential([keras.Input((9, 9, 1)), layers.Conv2D(2, 5), layers.ReLU()])
    assert cost(chain).min_size == 5


def test_branches_that_fit_at_some_sizes_only_count():
    image = keras.Input((9, 9, 3))
    # Half of the pixels, rounded up and down: the same where they are even.
    one = layers.MaxPooling2D(2, padding="same")(image)
    two = layers.MaxPooling2D(2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(image))
    three = layers.Conv2D(3, 2, strides=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(image))
    x = layers.Add()([one, two, three])
    assert cost(keras.Model(image, x)).min_size == 2


def test_the_smallest_image_may_not_be_known():
    image = keras.Input((8, 8, 3))
    unknown = [
        layers.Multiply()([image, image]),
        layers.Lambda(lambda x: x * 2)(image),
        Squared()(image),
        Unsavable()(image),
        layers.Conv2D(2, 3, data_format="channels_first")(image),
        shared(image),
    ]
    for x in unknown:
        assert cost(keras.Model(image, x)).min_size is None
    vector, pair = keras.Input((5,)), [image, keras.Input((8, 8, 3))]
    assert cost(keras.Model(vector, layers.Dense(2)(vector))).min_size is None
    assert cost(keras.Model(pair, layers.Add()(pair))).min_size is None


def test_a_reshape_to_one_size_needs_it():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, padding="same")(layers.Reshape((4, 16, 3))(image))
    assert cost(keras.Model(image, x)).min_size == 8


def test_scaling_of_pixels_may_be_asked_for_by_name():
    for preprocessing in ("symmetric", "unit"):
        options = {"input_shape": (32, 32, 1), "preprocessing": preprocessing}
        agree(cost("lenet5", **options), cost(builder.build("lenet5", **options)))
    with pytest.raises(UsageError, match="vgg16: weights are not part of its cost"):
        cost("vgg16", weights="imagenet")
    assert cost("lenet5", weights=None) is not None


# What is seen, beside what is measured: which pixels, alone on a black image, light up the one in
# the middle of the last map, where all weights are ones.


def shift(x):
    """The second path of NASNet's reduction: a map that begins a pixel later."""
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    return layers.Cropping2D(((1, 0), (1, 0)))(x)


def beside(*paths):
    return lambda x: layers.Add()([path(x) for path in paths])


def conv2d(size=3, strides=1, padding="same", **config):
    return layers.Conv2D(3, size, strides, padding, **config)


SEEN = {
    "residual": beside(conv2d(), lambda x: x),
    "shifted": beside(conv2d(1, 2), lambda x: conv2d(1, 2)(shift(x))),
    "shifted behind a stride": lambda x: beside(conv2d(), shift)(conv2d(3, 2)(x)),
    "cropped on one side": beside(
        lambda x: layers.Cropping2D(((4, 0), (4, 0)))(conv2d()(x)),
        lambda x: layers.Cropping2D(((0, 4), (0, 4)))(conv2d()(x)),
    ),
    "padded on one side": beside(
        lambda x: layers.ZeroPadding2D(((2, 0), (0, 0)))(x),
        lambda x: layers.ZeroPadding2D(((0, 2), (0, 0)))(conv2d((1, 3))(x)),
    ),
    "padded unevenly": beside(conv2d(2), conv2d(3), conv2d(4, dilation_rate=2)),
    "strided unevenly": beside(conv2d(2, 2), conv2d(3, 2), layers.AveragePooling2D(4, 2, "same")),
    "asymmetric": beside(conv2d((1, 5)), lambda x: conv2d((3, 1), dilation_rate=2)(shift(x))),
}


@pytest.mark.parametrize("graph", SEEN.values(), ids=SEEN.keys())
def test_what_is_seen_is_what_changes_the_output(graph):
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, graph(image))
    for weight in model.weights:
        weight.assign(np.ones(weight.shape) if "kernel" in weight.path else np.zeros(weight.shape))
    each_pixel = np.eye(32 * 32, dtype="float32").reshape(-1, 32, 32, 1).repeat(3, -1)
    rows, columns = (n // 2 for n in model.output_shape[1:3])
    middle = np.any(np.asarray(model(each_pixel))[:, rows, columns], -1)
    changing = middle.reshape(32, 32).nonzero()
    measured = tuple(int(np.ptp(places)) + 1 for places in changing)
    assert cost(model).layers[-1].receptive_field == measured


def test_pixels_that_are_mixed_are_all_seen():
    found = {row.name: row for row in cost("mixer_s32", input_shape=(64, 96, 3)).layers}
    assert found["patches_conv"].receptive_field == (32, 32)
    assert found["mixer1_tokens_last"].receptive_field == (32, 96)
    assert found["mixer1_tokens_add"].receptive_field == (64, 96)
    assert found["logits"].receptive_field == (64, 96)
    assert found["mixer1_tokens_add"].stride is None
    json.dumps(to_json(cost("mixer_s32")), allow_nan=False)


# keras.applications, each counted by itself from the shapes of its layers' kernels and outputs:
# trainable weights and MACs.
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
    model = getattr(keras.applications, name)(weights=None)
    found = cost(model)
    assert (found.params, found.macs) == APPLICATIONS[name]
    assert found.weights_bytes == 4 * model.count_params()
    assert all(row.receptive_field and row.stride for row in found.layers)


# Multiply-adds in millions, as their papers have them: Howard et al. 2017, table 8; Sandler et al.
# 2018, table 4; Howard et al. 2019, table 3; Tan & Le 2019, table 2; Zoph et al. 2018, table 3;
# Liu et al. 2022, table 9.
PAPERS = {
    "MobileNet": 569,
    "MobileNetV2": 300,
    "MobileNetV3Large": 219,
    "EfficientNetB0": 390,
    "NASNetMobile": 564,
    "ConvNeXtTiny": 4500,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_other_networks_of_keras_cost_what_their_papers_say(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    assert cost(model).macs == pytest.approx(PAPERS[name] * 1e6, rel=0.02)
    assert cost(model).weights_bytes == 4 * model.count_params()


@pytest.mark.slow
def test_a_file_of_a_network_of_keras_costs_what_its_model_does(tmp_path):
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    model.save(tmp_path / "model.keras")
    agree(cost(model), cost(tmp_path / "model.keras"))
