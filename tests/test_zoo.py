"""What holds for every network of the zoo. A new name is covered by being there.

The layers' names are goldens, one file a module of `keras_cnns.nets`; after a change that is meant:

    UPDATE_GOLDENS=1 python -m pytest tests/test_zoo.py -k golden
"""

import csv
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from importlib import import_module
from math import prod
from pathlib import Path

import keras
import numpy as np
import pytest
import tomli_w

from keras_cnns import spec as specs
from keras_cnns import zoo
from keras_cnns.cost import cost
from keras_cnns.errors import UsageError

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
NO_COUNT = "no published count"
with open(HERE / "oracles.csv", newline="", encoding="utf-8") as file:
    ORACLES = {row["name"]: row for row in csv.DictReader(file)}

NAMES = list(zoo.NETS)
# Building takes time: small nets are built at full size, the others with few filters, and of those
# with many layers only the shallowest of each module.
SMALL, SHALLOW = 30_000_000, 200


@cache
def rows(name):
    return tuple(zoo.trace(name).rows)


def module(name):
    return zoo.get(name).path.split(":")[0]


def families():
    """Names by module, the net with the fewest layers first."""
    found = defaultdict(list)
    for name in sorted(NAMES, key=lambda name: len(rows(name))):
        found[module(name)].append(name)
    return found


def slow_unless(cheap, names=NAMES):
    return [name if cheap(name) else pytest.param(name, marks=pytest.mark.slow) for name in names]


FULL_SIZE = slow_unless(lambda name: zoo.get(name).params < SMALL and len(rows(name)) < SHALLOW)
NARROWED = slow_unless(lambda name: len(rows(name)) < SHALLOW)
MEMBERS = slow_unless(lambda name: name == families()[module(name)][0])
WITH_HEADS = [name for name in NAMES if zoo.get(name).auxiliary_params]


def narrow(name):
    """The network with a sixteenth of its filters."""
    return specs.scale_filters(zoo.spec_of(name), 1 / 16)


def small(name, **changes):
    """Arguments of `build` for a network that computes in no time."""
    net = zoo.get(name)
    size = max(net.min_size, 32)
    shape = {"input_shape": (size, size, net.input_shape[2])}
    return {**shape, "num_classes": 5, "spec": narrow(name), **changes}


@cache
def narrowed(name):
    keras.utils.set_random_seed(0)
    return zoo.build(name, **small(name))


def images(model, count=4, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def weights(model):
    return sum(prod(w.shape) for w in model.trainable_weights)


# Counts


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_row(name):
    net = zoo.get(name)
    assert sum(row.params for row in rows(name)) == net.params
    assert sum(row.macs for row in rows(name)) == net.macs


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_others(name):
    net = zoo.get(name)
    assert net.source, f"{name}: its row does not say where its counts come from"
    if name not in ORACLES or ORACLES[name]["published"] == "no":
        assert NO_COUNT in net.source, f'{name}: the source of its row must say "{NO_COUNT}"'
    else:
        assert NO_COUNT not in net.source
    if name in ORACLES:
        assert net.params == int(ORACLES[name]["params"])
        assert net.macs == int(ORACLES[name]["macs"])
        assert ORACLES[name]["source"]


def test_every_oracle_is_of_a_network():
    assert set(ORACLES) <= set(NAMES)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_counts_are_those_of_the_model_at_full_size(name):
    net = zoo.get(name)
    model = zoo.build(name)
    assert weights(model) == net.params
    assert model.name == name
    assert model.input_shape == (None, *net.input_shape)
    assert model.output_shape == (None, net.num_classes)


@pytest.mark.parametrize("name", NARROWED)
def test_what_is_built_is_what_was_priced(name):
    model, priced = narrowed(name), zoo.trace(name, **small(name))
    built = [
        (layer.name, type(layer).__name__, layer.output.shape[1:], weights(layer))
        for layer in model.layers[1:]
    ]
    assert {(r.name, r.kind, r.shape, r.params) for r in priced.rows} == set(built)
    assert priced.shape == model.output_shape


# Names


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_well_formed(name):
    net = zoo.get(name)
    assert re.fullmatch(r"[a-z]+\d*(_[a-z0-9]+)*", name)
    assert net.name == name
    assert 1990 < net.year < 2030
    assert net.family
    assert net.input_shape[0] >= net.min_size


@pytest.mark.parametrize("name", NAMES)
def test_layer_names_are_unique_and_savable(name):
    names = [row.name for row in rows(name)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", layer) for layer in names)
    assert names[-2:] == ["logits", "predictions"]


def layer_names(name):
    heads = {"auxiliary": True} if zoo.get(name).auxiliary_params else {}
    return [row.name for row in zoo.trace(name, **heads).rows]


def golden(family):
    lines = []
    for name in NAMES:
        if module(name) == family:
            lines += [name, *(f"  {layer}" for layer in layer_names(name))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("family", families())
def test_layer_names_are_golden(family):
    path = GOLDENS / f"{family}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDENS.mkdir(exist_ok=True)
        path.write_text(golden(family), encoding="utf-8")
    assert path.exists() and path.read_text(encoding="utf-8") == golden(family), (
        "layers' names have changed: weights saved before will not load. If it is meant: "
        "UPDATE_GOLDENS=1 python -m pytest tests/test_zoo.py -k golden"
    )


def test_every_golden_is_of_a_family():
    assert {path.stem for path in GOLDENS.iterdir()} == set(families())


@pytest.mark.parametrize("family", families())
def test_a_module_cites_its_paper_and_says_where_it_departs(family):
    text = import_module(f"keras_cnns.nets.{family}").__doc__
    assert re.match(r"[^\n]+: [^\n]+ \d{4}\b[^\n]*https://[^\n]+\.\n", text)
    assert re.search(r"^Departures from the paper:\n- ", text, re.MULTILINE)


# Sizes


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_size_works_and_one_pixel_less_is_refused(name):
    net = zoo.get(name)
    size, channels = net.min_size, net.input_shape[2]
    assert zoo.min_size(name) == size
    assert zoo.trace(name, input_shape=(size, size, channels)).shape == (None, net.num_classes)
    for shape in [(size - 1, size - 1), (size - 1, size), (size, size - 1)]:
        with pytest.raises(UsageError) as caught:
            zoo.build(name, input_shape=(*shape, channels))
        said = f"{name}: an image of {shape[0]}x{shape[1]} is too small; "
        assert str(caught.value) == said + f"the smallest that works is {size}x{size}"


@pytest.mark.parametrize("name", NAMES)
def test_any_larger_size_works(name):
    net = zoo.get(name)
    for size in range(net.min_size, net.min_size + 20):
        assert zoo.trace(name, input_shape=(size, size + 7, 3)).shape == (None, net.num_classes)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", MEMBERS)
def test_the_smallest_size_runs_with_any_channels_and_classes(name, channels):
    size, classes = zoo.get(name).min_size, channels + 1
    shape = (size, size, channels)
    model = zoo.build(name, **small(name, input_shape=shape, num_classes=classes))
    found = np.asarray(model(images(model)))
    assert found.shape == (4, classes)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0, "every image gets the same answer"


@pytest.mark.parametrize("name", NAMES)
def test_channels_and_classes_change_the_ends_only(name):
    net = zoo.get(name)
    other = zoo.trace(name, input_shape=(*net.input_shape[:2], 4), num_classes=7).rows
    changed = [a.name for a, b in zip(rows(name), other, strict=True) if a.params != b.params]
    weighted = [row.name for row in rows(name) if row.params]
    assert changed[-1] == weighted[-1]
    # Of parallel first layers each sees the image; a strided 1x1 depends on the channels.
    assert changed[0] == weighted[0]
    assert len(changed) <= 4


# What comes out


@pytest.mark.parametrize("name", MEMBERS)
def test_probabilities_sum_to_one_and_are_the_softmax_of_the_scores(name):
    model = narrowed(name)
    scores = keras.Model(model.input, model.get_layer("logits").output)
    x = 3 * images(model)
    found, exponentials = np.asarray(model(x)), np.exp(np.asarray(scores(x)))
    assert model.get_layer("predictions") is model.layers[-1]
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-5)
    plain = zoo.build(name, **small(name, classifier_activation=None))
    plain.set_weights(model.get_weights())
    np.testing.assert_array_equal(plain(x), scores(x))


@pytest.mark.parametrize("name", MEMBERS)
def test_without_its_top_a_network_gives_its_last_map_or_its_mean_or_maximum(name):
    models = {
        pooling: zoo.build(name, **small(name, include_top=False, pooling=pooling))
        for pooling in (None, "avg", "max")
    }
    for pooling in ("avg", "max"):
        models[pooling].set_weights(models[None].get_weights())
    x = images(models[None])
    maps = np.asarray(models[None](x))
    assert maps.ndim == 4
    np.testing.assert_allclose(models["avg"](x), maps.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(models["max"](x), maps.max((1, 2)), atol=1e-5)
    assert weights(models[None]) < weights(narrowed(name))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_saved_network_is_bit_equal(name, tmp_path):
    model = narrowed(name)
    generator = np.random.default_rng(0)
    # Moving statistics must come back as well, not only what they begin with.
    for weight in model.non_trainable_weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [w.path for w in loaded.weights] == [w.path for w in model.weights]
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(loaded(images(model)), model(images(model)))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_of_a_file_are_loaded(suffix, tmp_path):
    path = str(tmp_path / f"lenet5{suffix}")
    model = narrowed("lenet5")
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    again = zoo.build("lenet5", **small("lenet5", weights=path))
    np.testing.assert_array_equal(again(images(model)), model(images(model)))


def normalised(model):
    """Names of the layers whose output a batch normalisation takes, and with it their bias."""
    found = set()
    for layer in model.get_config()["layers"]:
        if layer["class_name"] == "BatchNormalization":
            (node,) = layer["inbound_nodes"]
            found.add(node["args"][0]["config"]["keras_history"][0])
    return found


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a tape")
@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_a_gradient_reaches_every_weight(name, auxiliary):
    import tensorflow as tf

    arguments = small(name)
    if auxiliary:
        if name not in WITH_HEADS:
            pytest.skip(f"{name} has no auxiliary heads")
        size = zoo.min_size(name, auxiliary=True)
        arguments |= {"auxiliary": True, "input_shape": (size, size, 3)}
    keras.utils.set_random_seed(0)
    model = zoo.build(name, **arguments)
    x, labels = images(model, 8), np.arange(8) % 5
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        heads = outputs.values() if auxiliary else [outputs]
        loss = sum(tf.reduce_mean(-tf.math.log(tf.gather(p, labels, batch_dims=1))) for p in heads)
    gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
    cancelled = {f"{layer}/bias" for layer in normalised(model)}
    silent = [
        weight.path
        for weight, gradient in zip(model.trainable_weights, gradients, strict=True)
        if weight.path not in cancelled and (gradient is None or not np.any(gradient))
    ]
    assert not silent
    assert all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("name", MEMBERS)
def test_mixed_precision_gives_probabilities_in_full_precision(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = zoo.build(name, **small(name))
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(narrowed(name).get_weights())
    found = model(images(model))
    first = next(layer for layer in model.layers if layer.weights)
    assert first.compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"float32"}
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert keras.backend.standardize_dtype(model.get_layer("logits").output.dtype) == "float32"
    np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-5)
    np.testing.assert_allclose(found, narrowed(name)(images(model)), atol=0.05)


# Auxiliary heads


@pytest.mark.parametrize("name", WITH_HEADS)
def test_auxiliary_heads_are_counted_apart(name):
    net = zoo.get(name)
    assert cost(name, auxiliary=True).params == net.auxiliary_params
    assert cost(name).params == net.params < net.auxiliary_params


def test_the_heads_of_inception_v1_are_those_of_caffe():
    found = cost("inception_v1", auxiliary=True)
    # Both counted independently; the parameters are also what Caffe's training network has.
    assert (found.params, found.macs) == (13_378_280, 1_591_044_096)


@pytest.mark.parametrize("name", WITH_HEADS)
def test_auxiliary_heads_are_named_outputs_with_losses_of_their_own(name):
    size = zoo.min_size(name, auxiliary=True)
    arguments = small(name, input_shape=(size, size, 3))
    model = zoo.build(name, **arguments, auxiliary=True)
    heads = list(model.output)
    assert heads[0] == "predictions"
    assert heads[1:]
    assert all(re.fullmatch(r"auxiliary\d?", head) for head in heads[1:])
    x, labels = images(model), np.arange(4)
    found = model(x)
    for head in heads:
        assert found[head].shape == (4, 5)
        np.testing.assert_allclose(np.sum(found[head], -1), 1, atol=1e-5)
        scores = "logits" if head == "predictions" else f"{head}_logits"
        assert model.get_layer(scores).output.shape == (None, 5)
    model.compile(
        "sgd",
        loss=dict.fromkeys(heads, "sparse_categorical_crossentropy"),
        loss_weights={head: 1.0 if head == "predictions" else 0.3 for head in heads},
    )
    logs = model.evaluate(x, dict.fromkeys(heads, labels), return_dict=True, verbose=0)
    of_heads = [logs[f"{head}_loss"] for head in heads]
    assert logs["loss"] == pytest.approx(of_heads[0] + 0.3 * sum(of_heads[1:]), rel=1e-4)
    crossentropy = -np.log(np.asarray(found[heads[1]])[np.arange(4), labels]).mean()
    assert logs[f"{heads[1]}_loss"] == pytest.approx(crossentropy, rel=1e-4)

    bare = zoo.build(name, **arguments)
    for layer in bare.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    np.testing.assert_allclose(bare(x), found["predictions"], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_HEADS])
def test_heads_that_the_paper_lacks_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} has no auxiliary heads; .*inception_v1"):
        zoo.build(name, auxiliary=True)


# The spec and the search space


@pytest.mark.parametrize("name", NAMES)
def test_the_default_point_of_the_search_space_is_the_network_itself(name):
    paper = zoo.get(name).spec
    default = specs.map_filters(lambda _, n: n, paper)
    assert default == paper
    assert tuple(zoo.trace(name, spec=default).rows) == rows(name)
    assert tuple(zoo.trace(name, spec={}).rows) == rows(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_survives_toml(name):
    paper = zoo.get(name).spec
    text = tomli_w.dumps(specs.to_dict(paper))
    assert zoo.spec_of(name, tomllib.loads(text)) == paper
    found = specs.map_filters(lambda _, n: n + 8, paper)
    assert zoo.spec_of(name, tomllib.loads(tomli_w.dumps(specs.to_dict(found)))) == found
    assert zoo.trace(name, spec=found).rows != zoo.trace(name).rows


@pytest.mark.parametrize("name", NAMES)
def test_every_dimension_of_the_search_changes_the_cost(name):
    paper = zoo.get(name).spec
    found = specs.filters(paper)
    assert found
    for path in found:
        wider = specs.map_filters(lambda p, n, path=path: n * 2 if p == path else n, paper)
        assert sum(row.params for row in zoo.trace(name, spec=wider).rows) > zoo.get(name).params


def test_some_filters_of_a_spec_are_changed():
    found = zoo.trace("inception_v1", spec={"3a": {"conv1": 32}, "stem": {"conv1": 8}})
    shapes = {row.name: row.shape for row in found.rows}
    assert shapes["3a_1a_conv"][-1] == 32
    assert shapes["3a_concat"][-1] == 256 - 32
    assert shapes["conv1_conv"][-1] == 8
    assert zoo.spec_of("inception_v1", {"3a": {"conv1": 32}})["3b"] == zoo.spec_of("inception_v1")["3b"]


@pytest.mark.parametrize("name", ["inception_v1", "resnet18"])
def test_a_stem_for_small_images_is_named_in_the_spec(name):
    changes = {"stem": {"kind": "small"} if name == "inception_v1" else "small"}
    found = zoo.trace(name, input_shape=(32, 32, 3), num_classes=10, spec=changes)
    maps = {row.shape[0] for row in found.rows if len(row.shape) == 3}
    assert maps == ({32, 16, 8, 4} if name == "inception_v1" else {32, 16, 8, 4})
    assert zoo.min_size(name, spec=changes) < zoo.get(name).min_size


def test_resnet18_for_cifar_is_the_one_that_others_count():
    found = cost("resnet18", input_shape=(32, 32, 3), num_classes=10, spec={"stem": "small"})
    # Counted independently.
    assert (found.params, found.macs) == (11_173_962, 555_422_720)


def test_a_whole_spec_may_be_given():
    spec = zoo.spec_of("resnet18")._replace(conv1=16)
    assert zoo.trace("resnet18", spec=spec).rows[1].shape == (112, 112, 16)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("inception_v1", {"3z": {}}, 'spec: unknown key "3z".*did you mean "3[ab]"'),
        ("inception_v1", {"3a": {"conv": 1}}, 'spec.3a: unknown key "conv".*did you mean'),
        ("inception_v1", {"3a": {"conv1": "x"}}, "spec.3a.conv1: received 'x'"),
        ("inception_v1", {"stem": {"kind": "smal"}}, 'smal.*paper.*small'),
        ("resnet18", {"stem": "smal"}, "smal.*paper.*small"),
        ("resnet18", {"shortcut": "zeroes"}, "zeroes.*projection.*zeros"),
        ("resnet18", {"stages": [{"filters": 0}]}, "stages.*0"),
        ("alexnet", {"conv1": {"strides": 0}}, "conv1.*0"),
        ("alexnet", {"conv1": {"kernel_size": 0}}, "conv1.*0"),
        ("alexnet", {"conv1": {"filters": 97}}, "conv2.*97"),
        ("alexnet", {"conv2": {"filters": 255}}, "conv2.*255"),
        ("alexnet", {"fc6": 0}, "fc6.*0"),
        ("vgg11", {"conv1": [{"padding": "smae"}]}, "conv1.*smae.*same"),
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused_before_keras_is_asked(name, changes, said):
    with pytest.raises(UsageError) as caught:
        zoo.trace(name, spec=changes)
    assert re.search(said, str(caught.value)), str(caught.value)


# What the user may ask for


def test_an_unknown_name_gets_the_closest_one():
    with pytest.raises(UsageError, match='unknown network "vgg61"; did you mean "vgg16"'):
        zoo.build("vgg61")
    with pytest.raises(UsageError, match='unknown network "gogglenet"; did you mean "googlenet"'):
        zoo.build("gogglenet")
    with pytest.raises(UsageError, match='unknown network "transformer"; keras-cnns list'):
        zoo.build("transformer")


@pytest.mark.parametrize("alias", zoo.ALIASES)
def test_an_alias_is_the_network(alias):
    assert zoo.get(alias) is zoo.NETS[zoo.ALIASES[alias]]
    assert alias not in zoo.NETS


def test_googlenet_is_inception_v1():
    assert zoo.get("googlenet").name == "inception_v1"


def test_models_are_listed_by_pattern():
    assert zoo.list_models() == NAMES
    assert zoo.list_models("vgg1?") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert zoo.list_models("nothing*") == []


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        zoo.NETS["lenet5"] = None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_classes": 0}, "0 classes, but at least 1"),
        ({"num_classes": -3}, "-3 classes"),
        ({"num_classes": 2.5}, "2.5 classes"),
        ({"input_shape": (32, 32)}, r"input_shape \(32, 32\).*height, width, channels"),
        ({"input_shape": (32, 32, 0)}, "input_shape"),
        ({"input_shape": (None, None, 1)}, "input_shape"),
        ({"input_shape": (32.0, 32.0, 1)}, "input_shape"),
        ({"include_top": False, "pooling": "mean"}, '"mean".*avg, max'),
        ({"pooling": "mean"}, '"mean".*avg, max'),
        ({"classifier_activation": "sofmax"}, "sofmax"),
        ({"preprocessing": "caffe"}, '"caffe".*symmetric, unit, imagenet'),
        ({"preprocessing": "imagenet"}, '"imagenet" is for 3 channels, not 1'),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        zoo.build("lenet5", **arguments)


def test_auxiliary_heads_stand_below_the_top():
    with pytest.raises(UsageError, match="include_top"):
        zoo.build("inception_v1", auxiliary=True, include_top=False)


def test_the_smallest_size_of_a_wrong_question_is_not_answered():
    with pytest.raises(UsageError, match="c9"):
        zoo.min_size("lenet5", spec={"c9": 1})


def test_the_smallest_size_may_be_beyond_the_papers():
    spec = {"conv1": {"kernel_size": 9, "strides": 8}}
    size = zoo.min_size("alexnet", spec=spec, input_shape=(227, 227, 3))
    assert size > zoo.get("alexnet").min_size
    wide = {"conv1": {"kernel_size": 11, "strides": 40}}
    size = zoo.min_size("alexnet", spec=wide)
    assert zoo.trace("alexnet", input_shape=(size, size, 3), spec=wide).shape == (None, 1000)
    with pytest.raises(UsageError, match=f"smallest that works is {size}x{size}"):
        zoo.trace("alexnet", spec=wide)


def test_a_wrong_question_is_answered_without_keras():
    code = (
        "import sys\n"
        "from keras_cnns import zoo\n"
        "from keras_cnns.errors import UsageError\n"
        "asked = [('vgg61', {}), ('vgg16', {'input_shape': (31, 31, 3)}), ('nin', {'spec': {'x': 1}})]\n"
        "for name, arguments in asked:\n"
        "    try:\n"
        "        zoo.build(name, **arguments)\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
        "print([name for name in ('keras', 'tensorflow', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert "32x32" in said[1]
    assert said[-1] == "[]"


@pytest.mark.parametrize(
    ("preprocessing", "channels", "black", "white"),
    [
        ("symmetric", 1, [-1], [1]),
        ("unit", 4, [0] * 4, [1] * 4),
        (
            "imagenet",
            3,
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
        ),
    ],
)
def test_preprocessing_takes_pixels_from_0_to_255(preprocessing, channels, black, white):
    shape = (32, 32, channels)
    model = zoo.build("lenet5", input_shape=shape, preprocessing=preprocessing)
    plain = zoo.build("lenet5", input_shape=shape)
    plain.set_weights(model.get_weights())
    assert [layer.name for layer in model.layers[:2]] == ["image", "preprocessing"]
    scaled = model.get_layer("preprocessing")
    np.testing.assert_allclose(scaled(np.zeros((1, *shape), "float32"))[0, 0, 0], black, atol=1e-6)
    np.testing.assert_allclose(
        scaled(np.full((1, *shape), 255, "float32"))[0, 0, 0], white, atol=1e-6
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype("float32")
    by_hand = (pixels / 255) * (np.array(white) - black) + black
    np.testing.assert_allclose(model(pixels), plain(by_hand), atol=1e-5)


# The tables of the papers


def at(name, **arguments):
    return {row.name: row for row in zoo.trace(name, **arguments).rows}


SHAPES = {
    # Figure 2
    "lenet5": {
        "c1_conv": (28, 28, 6),
        "c1_pool": (14, 14, 6),
        "c3_conv": (10, 10, 16),
        "c3_pool": (5, 5, 16),
        "c5_conv": (1, 1, 120),
        "f6": (84,),
        "logits": (10,),
    },
    # Figure 2; Caffe's net for the maps after pooling
    "alexnet": {
        "conv1_conv": (55, 55, 96),
        "conv1_pool": (27, 27, 96),
        "conv2_conv": (27, 27, 256),
        "conv2_pool": (13, 13, 256),
        "conv3_conv": (13, 13, 384),
        "conv4_conv": (13, 13, 384),
        "conv5_conv": (13, 13, 256),
        "conv5_pool": (6, 6, 256),
        "fc6": (4096,),
        "fc7": (4096,),
    },
    # Caffe's net
    "nin": {
        "mlpconv1_conv": (54, 54, 96),
        "mlpconv1_pool": (27, 27, 96),
        "mlpconv2_mlp2_conv": (27, 27, 256),
        "mlpconv2_pool": (13, 13, 256),
        "mlpconv3_pool": (6, 6, 384),
        "mlpconv4_mlp1_conv": (6, 6, 1024),
        "maps_conv": (6, 6, 1000),
    },
    # Table 1
    **{
        f"vgg{depth}": {
            "conv1_pool": (112, 112, 64),
            "conv2_pool": (56, 56, 128),
            "conv3_pool": (28, 28, 256),
            "conv4_pool": (14, 14, 512),
            "conv5_pool": (7, 7, 512),
            "fc6": (4096,),
        }
        for depth in (11, 13, 16, 19)
    },
    # Table 1
    "inception_v1": {
        "conv1_conv": (112, 112, 64),
        "conv1_pool": (56, 56, 64),
        "conv2_conv": (56, 56, 192),
        "conv2_pool": (28, 28, 192),
        "3a_concat": (28, 28, 256),
        "3b_concat": (28, 28, 480),
        "3b_pool": (14, 14, 480),
        "4a_concat": (14, 14, 512),
        "4b_concat": (14, 14, 512),
        "4c_concat": (14, 14, 512),
        "4d_concat": (14, 14, 528),
        "4e_concat": (14, 14, 832),
        "4e_pool": (7, 7, 832),
        "5a_concat": (7, 7, 832),
        "5b_concat": (7, 7, 1024),
        "pool": (1024,),
        "logits": (1000,),
    },
    # Table 1
    **{
        f"resnet{depth}": {
            "conv1_conv": (112, 112, 64),
            "conv1_pool": (56, 56, 64),
            **{
                f"conv{i + 2}_{n}_relu": (56 >> i, 56 >> i, width * (64 << i))
                for i, n in enumerate(blocks)
            },
            "pool": (width * 512,),
        }
        for depth, width, blocks in (
            (18, 1, (2, 2, 2, 2)),
            (34, 1, (3, 4, 6, 3)),
            (50, 4, (3, 4, 6, 3)),
        )
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_papers_table(name):
    found = {layer: row.shape for layer, row in at(name).items()}
    assert {layer: found.get(layer) for layer in SHAPES[name]} == SHAPES[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_a_table_of_shapes(name):
    siblings = [other for other in SHAPES if module(other) == module(name)]
    assert siblings, f"{name}: put its paper's shapes, or a sibling's, into SHAPES"


def test_connections_of_lenet5_are_those_of_the_paper():
    # Section II.B, but for C3, which is full here. A bias counts as a connection.
    found = at("lenet5")
    connections = {name: found[name].macs + prod(found[name].shape) for name in ("c1_conv", "c5_conv", "f6")}
    assert connections == {"c1_conv": 122_304, "c5_conv": 48_120, "f6": 10_164}
    assert found["c1_conv"].params == 156


def test_neurons_of_alexnet_are_those_of_the_paper():
    # Section 3.5, but for its first number, 253,440, which 96 maps of 55x55 do not have.
    found = at("alexnet")
    neurons = [prod(found[f"conv{i}_conv"].shape) for i in range(2, 6)]
    assert neurons == [186_624, 64_896, 64_896, 43_264]
    # "60 million parameters", "650,000 neurons"
    assert round(sum(row.params for row in found.values()) / 1e6) == 61
    layers = [row for row in found.values() if row.params]
    assert sum(prod(row.shape) for row in layers) == pytest.approx(650_000, rel=0.02)


@pytest.mark.parametrize(("name", "millions"), [("vgg11", 133), ("vgg13", 133), ("vgg16", 138), ("vgg19", 144)])
def test_parameters_of_vgg_are_those_of_table_2(name, millions):
    assert round(zoo.get(name).params / 1e6) == millions


def test_operations_of_inception_v1_are_those_of_table_1():
    # In millions. The table's 34 and 54 for the first convolution and for 5a do not follow from
    # its own filters, and are left out.
    table = {
        "conv2": 360, "3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119, "4e": 170,
        "5b": 71, "logits": 1,
    }  # fmt: skip
    found = dict.fromkeys(table, 0)
    for name, row in at("inception_v1").items():
        if name.split("_")[0] in found:
            found[name.split("_")[0]] += row.macs
    assert {name: round(macs / 1e6) for name, macs in found.items()} == pytest.approx(table, abs=1)


@pytest.mark.parametrize(("name", "billions"), [("resnet18", 1.8), ("resnet34", 3.6)])
def test_operations_of_resnet_are_those_of_table_1(name, billions):
    # The table rounds down. Its 3.8 for resnet50 is of the stride in the first 1x1.
    assert int(zoo.get(name).macs / 1e8) / 10 == billions


# What is specific to one network


def test_alexnet_has_two_towers():
    model = narrowed("alexnet")
    groups = {layer.name: layer.groups for layer in model.layers if layer.name.endswith("_conv")}
    assert [groups[f"conv{i}_conv"] for i in range(1, 6)] == [1, 2, 1, 2, 2]
    lrn = model.get_layer("conv1_lrn")
    # Section 3.3
    assert (lrn.size, lrn.alpha, lrn.beta, lrn.k) == (5, 1e-4, 0.75, 2.0)


def test_inception_v1_has_5x5_convolutions_and_no_batch_normalisation():
    model = narrowed("inception_v1")
    kernels = [layer.kernel_size for layer in model.layers if re.search(r"_3b_conv$", layer.name)]
    assert kernels == [(5, 5)] * 9
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert sum(layer.name.endswith("_lrn") for layer in model.layers) == 2


def test_an_inception_without_reductions_is_the_naive_one():
    modules = [key for key in zoo.spec_of("inception_v1") if key != "stem"]
    naive = {key: {"reduce3": 0, "reduce5": 0, "pool": 0} for key in modules}
    found = cost("inception_v1", spec=naive)
    # Counted independently.
    assert (found.params, found.macs) == (97_526_008, 12_568_061_056)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_nin_has_as_many_1x1_convolutions_as_its_spec(depth):
    found = at("nin", spec={"mlpconv2": {"mlp": [32] * depth}})
    names = [name for name in found if re.fullmatch(r"mlpconv2_mlp\d_conv", name)]
    assert len(names) == depth


def test_a_resnet_without_projections_has_fewer_weights():
    zeros, projections = cost("resnet34", spec={"shortcut": "zeros"}), cost("resnet34")
    # Three projections, 64 to 128 to 256 to 512, each with its normalisation.
    difference = sum(64 * 128 * 4**i + 2 * 128 * 2**i for i in range(3))
    assert projections.params - zeros.params == difference
