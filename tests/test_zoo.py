"""What holds for every network of the zoo. A new name is covered by being there.

Counts were made independently of this package; `oracles.csv` has them, and where the same number
is published. The layers' names are goldens, a file for each module of `keras_cnns.nets`; after a
change that is meant:

    UPDATE_GOLDENS=1 python -m pytest tests/test_zoo.py -k golden
"""

import csv
import gc
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from functools import cache
from hashlib import sha256
from importlib import import_module
from math import prod
from pathlib import Path

import keras
import numpy as np
import pytest
import tomli_w

from keras_cnns import builder, spec as specs, zoo
from keras_cnns.cost import cost
from keras_cnns.errors import UsageError

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
with open(HERE / "oracles.csv", newline="", encoding="utf-8") as file:
    ORACLES = {row["name"]: row for row in csv.DictReader(file)}

NAMES = list(zoo.NETS)


def module(name):
    return zoo.get(name).path.split(":")[0]


MODULES = list(dict.fromkeys(map(module, NAMES)))
# Building takes time: what does is tried on the first network of each module, with few filters and
# a single block a stage; on the others so, and on all as they are, behind `-m slow`.
FIRST = {name for name in NAMES if name == next(n for n in NAMES if module(n) == module(name))}
# These have many branches, and are the ones that take longest: some is tried of the first alone.
CHEAP = FIRST - {"inception_v2", "inception_v3", "inception_v4"}
WITH_HEADS = [name for name in NAMES if zoo.get(name).auxiliary_params]


def slow_unless(cheap, names=NAMES):
    return [name if name in cheap else pytest.param(name, marks=pytest.mark.slow) for name in names]


MEMBERS = slow_unless(FIRST)
SLOW = pytest.mark.slow


def shallow(spec):
    """The spec with stages of one block, where the depth is a number."""
    if hasattr(spec, "_fields"):
        parts = spec._asdict().items()
        return type(spec)(*(1 if key == "depth" else shallow(value) for key, value in parts))
    if isinstance(spec, dict):
        return {key: shallow(value) for key, value in spec.items()}
    if isinstance(spec, tuple) and not isinstance(spec, specs.Branches):
        return tuple(shallow(value) for value in spec)
    return spec


@cache
def rows(name):
    return tuple(builder.trace(name).rows)


def small(name, **changes):
    """Arguments of `build` for a network that computes in no time."""
    net = zoo.get(name)
    size = max(net.min_size, 64)
    return {
        "input_shape": (size, size, net.input_shape[2]),
        "num_classes": 5,
        "spec": specs.scale_filters(shallow(net.spec), 1 / 16),
        **changes,
    }


def images(model, count=4, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def settle(model):
    """Take over the statistics of a batch, as training would: fresh ones let outputs explode."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(images(model, 8, seed=1), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


@cache
def built(name):
    keras.utils.set_random_seed(0)
    return settle(builder.build(name, **small(name)))


def distinct():
    """The networks that differ when they are small, and are not many layers even then."""
    found = {}
    for name in NAMES:
        arguments = small(name)
        found.setdefault((module(name), *map(str, arguments.values())), name)
    return [
        name
        for name in found.values()
        if name in CHEAP or len(builder.trace(name, **small(name)).rows) < 100
    ]


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
    net, oracle = zoo.get(name), ORACLES.get(name)
    if oracle:
        assert net.params == int(oracle["params"])
        assert net.macs == int(oracle["macs"])
    if not oracle:
        assert "published count" in net.source, f"{name}: say so in its row, or add an oracle"
    elif not oracle["published"]:
        assert "counted" in net.source, f"{name}: its row must say that its count is not published"
    else:
        assert net.source
        assert "published count" not in net.source


def test_every_oracle_is_of_a_network():
    assert set(ORACLES) <= set(NAMES)


def test_plain_networks_lack_the_projections_of_residual_ones():
    shapes = ((64, 128, 28), (128, 256, 14), (256, 512, 7))
    for depth in (18, 34):
        plain, residual = zoo.get(f"plain{depth}"), zoo.get(f"resnet{depth}")
        assert residual.params - plain.params == sum(a * b + 2 * b for a, b, _ in shapes)
        assert residual.macs - plain.macs == sum(a * b * n * n for a, b, n in shapes)


@pytest.mark.parametrize("name", ["lenet5", "nin_cifar", "inception_v1"])
def test_counts_are_those_of_the_model_at_full_size(name):
    net = zoo.get(name)
    model = builder.build(name)
    assert weights(model) == net.params
    assert model.name == name
    assert model.input_shape == (None, *net.input_shape)
    assert model.output_shape == (None, net.num_classes)
    assert [layer.name for layer in model.layers[:1]] == ["image"]
    assert {layer.name for layer in model.layers[1:]} == {row.name for row in rows(name)}


@pytest.mark.parametrize("name", slow_unless(distinct()))
def test_what_is_built_is_what_was_priced(name):
    model, priced = built(name), builder.trace(name, **small(name))
    layers = [
        (layer.name, type(layer).__name__, tuple(layer.output.shape[1:]), weights(layer))
        for layer in model.layers[1:]
    ]
    assert {(r.name, r.kind, r.shape, r.params) for r in priced.rows} == set(layers)
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
    return [row.name for row in builder.trace(name, **heads).rows]


def golden(family):
    """The names of all layers, a paragraph a network; of very deep ones their hash."""
    text = []
    for name in NAMES:
        if module(name) == family:
            layers = " ".join(layer_names(name))
            if layers.count(" ") > 500:
                layers = f"{layers.count(' ') + 1} layers, {sha256(layers.encode()).hexdigest()}"
            text += [f"{name}:", *textwrap.wrap(layers, 96, break_on_hyphens=False)]
    return "\n".join(text) + "\n"


@pytest.mark.parametrize("family", MODULES)
def test_layer_names_are_golden(family):
    path = GOLDENS / f"{family}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDENS.mkdir(exist_ok=True)
        path.write_text(golden(family), encoding="utf-8")
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    assert before == golden(family), (
        "names of layers have changed, and weights saved before will not load. If it is meant: "
        "UPDATE_GOLDENS=1 python -m pytest tests/test_zoo.py -k golden"
    )


def test_every_golden_is_of_a_module():
    assert {path.stem for path in GOLDENS.iterdir()} == set(MODULES)


@pytest.mark.parametrize("family", MODULES)
def test_a_module_cites_its_paper_and_says_where_it_departs(family):
    text = import_module(f"keras_cnns.nets.{family}").__doc__
    assert re.match(r"[^\n]+: [^\n]+ \d{4}\b[^\n]*https://[^\n]+\.\n", text)
    assert re.search(r"^Departures from the papers?:\n- ", text, re.MULTILINE)


# Sizes


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_size_works_and_one_pixel_less_is_refused(name):
    net = zoo.get(name)
    size, channels = net.min_size, net.input_shape[2]
    assert builder.min_size(name) == size
    assert builder.trace(name, input_shape=(size, size, channels)).shape == (None, net.num_classes)
    for shape in [(size - 1, size - 1), (size - 1, size), (size, size - 1)]:
        with pytest.raises(UsageError) as caught:
            builder.build(name, input_shape=(*shape, channels))
        said = f"{name}: an image of {shape[0]}x{shape[1]} is too small; "
        assert str(caught.value) == said + f"the smallest that works is {size}x{size}"


@pytest.mark.parametrize("name", NAMES)
def test_any_larger_size_works(name):
    net = zoo.get(name)
    spec = shallow(net.spec)
    for size in range(net.min_size, net.min_size + 20):
        shape = (size, size + 7, 3)
        assert builder.trace(name, input_shape=shape, spec=spec).shape == (None, net.num_classes)


@pytest.mark.parametrize("name", NAMES)
def test_images_may_have_1_3_or_4_channels(name):
    net = zoo.get(name)
    first = []
    for channels in (1, 3, 4):
        shape = (*net.input_shape[:2], channels)
        found = builder.trace(name, input_shape=shape, spec=shallow(net.spec))
        assert found.shape == (None, net.num_classes)
        first.append(next(row.params for row in found.rows if row.params))
    # A weight more for each channel more, and biases that stay.
    grey, colour, transparent = first
    assert colour - grey == 2 * (transparent - colour) > 0


@pytest.mark.parametrize("name", slow_unless(CHEAP))
def test_the_smallest_size_runs(name):
    size = zoo.get(name).min_size
    keras.utils.set_random_seed(0)
    model = builder.build(name, **small(name, input_shape=(size, size, 4), num_classes=9))
    ends = [model.get_layer("logits").output, model.output]
    scores, found = map(np.asarray, keras.Model(model.input, ends)(images(settle(model))))
    assert found.shape == (4, 9)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 0, "every image gets the same answer"


@pytest.mark.parametrize("name", NAMES)
def test_channels_and_classes_change_the_ends_only(name):
    net = zoo.get(name)
    other = builder.trace(name, input_shape=(*net.input_shape[:2], 4), num_classes=7).rows
    changed = [a.name for a, b in zip(rows(name), other, strict=True) if a.params != b.params]
    weighted = [row.name for row in rows(name) if row.params]
    assert changed[-1] == weighted[-1]
    # Of parallel first layers each sees the image; a strided 1x1 depends on the channels.
    assert changed[0] == weighted[0]
    assert len(changed) <= 4


# What comes out


@pytest.mark.parametrize("name", MEMBERS)
def test_probabilities_sum_to_one_and_are_the_softmax_of_the_scores(name):
    model = built(name)
    assert model.layers[-1].name == "predictions"
    ends = [model.get_layer("logits").output, model.output]
    scores, found = map(np.asarray, keras.Model(model.input, ends)(images(model)))
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 0, "every image gets the same answer"


def test_without_an_activation_the_scores_come_out():
    model = built("lenet5")
    plain = builder.build("lenet5", **small("lenet5", classifier_activation=None))
    plain.set_weights(model.get_weights())
    scores = keras.Model(model.input, model.get_layer("logits").output)
    np.testing.assert_array_equal(plain(images(model)), scores(images(model)))


@pytest.mark.parametrize("name", MEMBERS)
def test_without_its_top_a_network_gives_its_last_map(name):
    model = settle(builder.build(name, **small(name, include_top=False)))
    found = np.asarray(model(images(model)))
    assert found.ndim == 4
    assert np.isfinite(found).all()
    assert found.shape[1:] == model.output_shape[1:]
    assert {layer.name for layer in model.layers} < {layer.name for layer in built(name).layers}
    assert weights(model) < weights(built(name))


@pytest.mark.parametrize("name", NAMES)
def test_without_its_top_a_map_may_be_pooled(name):
    bare = builder.trace(name, **small(name, include_top=False))
    for pooling, kind in (("avg", "GlobalAveragePooling2D"), ("max", "GlobalMaxPooling2D")):
        found = builder.trace(name, **small(name, include_top=False, pooling=pooling))
        assert found.shape == (None, bare.shape[-1])
        assert found.rows[:-1] == bare.rows
        assert (found.rows[-1].name, found.rows[-1].kind) == ("pool", kind)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_saved_network_is_bit_equal(name, tmp_path):
    model = built(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [w.path for w in loaded.weights] == [w.path for w in model.weights]
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(loaded(images(model)), model(images(model)))


def test_a_network_may_be_deeper_than_pythons_recursion(tmp_path):
    depths = {str(i): {"depth": 50} for i in range(3)}
    shape = {"input_shape": (8, 8, 3), "spec": {"stages": depths}}
    code = (
        "import keras, keras_cnns\n"
        f"model = keras_cnns.build('resnet20_cifar', **{shape})\n"
        f"model.save(r'{tmp_path / 'model.keras'}')\n"
        f"assert keras.saving.load_model(r'{tmp_path / 'model.keras'}').name == model.name\n"
        "print(len(model.layers))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1000


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_of_a_file_are_loaded(suffix, tmp_path):
    path = str(tmp_path / f"lenet5{suffix}")
    model = built("lenet5")
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    again = builder.build("lenet5", **small("lenet5", weights=path))
    np.testing.assert_array_equal(again(images(model)), model(images(model)))


def cancelled(model):
    """Biases that the normalisation behind them takes out again, so that they have no gradient."""
    found = set()
    for layer in model.get_config()["layers"]:
        if layer["class_name"] == "BatchNormalization":
            (node,) = layer["inbound_nodes"]
            found.add(node["args"][0]["config"]["keras_history"][0] + "/bias")
        # What the mixing of positions adds to all channels alike, the next normalisation over the
        # channels subtracts.
        if layer["name"].endswith("_tokens_2_conv"):
            found.add(layer["name"] + "/bias")
    return found


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a tape")
@pytest.mark.parametrize(
    ("name", "auxiliary"),
    [
        *[pytest.param(name, False, marks=() if name in FIRST else SLOW) for name in NAMES],
        *[pytest.param(name, True, marks=() if name in CHEAP else SLOW) for name in WITH_HEADS],
    ],
)
def test_a_gradient_reaches_every_weight(name, auxiliary):
    model = built(name)
    if auxiliary:
        size = builder.min_size(name, auxiliary=True)
        keras.utils.set_random_seed(0)
        model = builder.build(name, **small(name, input_shape=(size, size, 3)), auxiliary=True)
    before = model.get_weights()
    check_gradients(model, images(model, 8), np.arange(8) % 5)
    model.set_weights(before)


def check_gradients(model, x, labels):
    """Assert that every weight has a gradient, none of zeros but for biases that are cancelled."""
    import tensorflow as tf

    heads = model.output if isinstance(model.output, dict) else ["predictions"]
    names = ["logits" if head == "predictions" else f"{head}_logits" for head in heads]
    scores = keras.Model(model.input, [model.get_layer(name).output for name in names])
    with tf.GradientTape() as tape:
        loss = sum(
            tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, found))
            for found in keras.tree.flatten(scores(x, training=True))
        )
    gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
    free = cancelled(model)
    silent = [
        weight.path
        for weight, gradient in zip(model.trainable_weights, gradients, strict=True)
        if weight.path not in free and (gradient is None or not np.any(gradient))
    ]
    assert not silent
    assert all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("name", MEMBERS)
def test_mixed_precision_gives_probabilities_in_full_precision(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = builder.build(name, **small(name))
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(built(name).get_weights())
    found = model(images(model))
    first = next(layer for layer in model.layers if layer.weights)
    assert first.compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"float32"}
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert keras.backend.standardize_dtype(model.get_layer("logits").output.dtype) == "float32"
    np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-5)
    # Eight bits a number, layer upon layer, are not the same scores, but not others either.
    assert np.abs(np.subtract(found, built(name)(images(model)))).mean() < 0.05


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


@pytest.mark.parametrize("name", slow_unless(CHEAP, WITH_HEADS))
def test_auxiliary_heads_are_named_outputs_with_losses_of_their_own(name):
    size = builder.min_size(name, auxiliary=True)
    arguments = small(name, input_shape=(size, size, 3))
    model = builder.build(name, **arguments, auxiliary=True)
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
        run_eagerly=True,
    )
    logs = model.evaluate(x, dict.fromkeys(heads, labels), return_dict=True, verbose=0)
    of_heads = [logs[f"{head}_loss"] for head in heads]
    assert logs["loss"] == pytest.approx(of_heads[0] + 0.3 * sum(of_heads[1:]), rel=1e-4)
    crossentropy = -np.log(np.asarray(found[heads[1]])[np.arange(4), labels]).mean()
    assert logs[f"{heads[1]}_loss"] == pytest.approx(crossentropy, rel=1e-4)

    bare = builder.build(name, **arguments)
    for layer in filter(lambda layer: layer.weights, bare.layers):
        layer.set_weights(model.get_layer(layer.name).get_weights())
    np.testing.assert_allclose(bare(x), found["predictions"], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_HEADS])
def test_heads_that_the_paper_lacks_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} has no auxiliary heads; .*inception_v1"):
        builder.build(name, auxiliary=True)


# The spec and the search space


@pytest.mark.parametrize("name", NAMES)
def test_the_default_point_of_the_search_space_is_the_network_itself(name):
    paper = zoo.get(name).spec
    default = specs.map_filters(lambda _, n: n, paper)
    assert default == paper
    assert tuple(builder.trace(name, spec=default).rows) == rows(name)
    assert tuple(builder.trace(name, spec={}).rows) == rows(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_survives_toml(name):
    paper = zoo.get(name).spec
    assert zoo.spec_of(name, tomllib.loads(tomli_w.dumps(specs.to_dict(paper)))) == paper
    found = specs.map_filters(lambda _, n: n + 8, paper)
    assert found != paper
    assert zoo.spec_of(name, tomllib.loads(tomli_w.dumps(specs.to_dict(found)))) == found


@pytest.mark.parametrize("name", NAMES)
def test_every_dimension_of_the_search_changes_the_cost(name):
    spec = shallow(zoo.get(name).spec)
    before = cost(name, spec=spec).params
    assert specs.filters(spec)
    for path in specs.filters(spec):
        wider = specs.map_filters(lambda p, n, path=path: n * 2 if p == path else n, spec)
        assert cost(name, spec=wider).params > before, path


def test_some_filters_of_a_spec_are_changed():
    changes = {"3a": {"conv1": 32}, "stem": {"conv1": 8}}
    found = builder.trace("inception_v1", spec=changes)
    shapes = {row.name: row.shape for row in found.rows}
    assert shapes["3a_1a_conv"][-1] == 32
    assert shapes["3a_concat"][-1] == 256 - 32
    assert shapes["conv1_conv"][-1] == 8
    assert zoo.spec_of("inception_v1", changes)["3b"] == zoo.spec_of("inception_v1")["3b"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("inception_v1", {"stem": {"kind": "small"}}),
        ("resnet18", {"stem": "small"}),
        ("densenet121", {"stem": "small"}),
        ("repvgg_a0", {"stem": "small"}),
    ],
)
def test_a_stem_for_small_images_is_named_in_the_spec(name, stem):
    found = builder.trace(name, input_shape=(32, 32, 3), num_classes=10, spec=stem)
    maps = [row.shape[0] for row in found.rows if row.kind == "Conv2D"]
    assert maps[0] == 32
    assert maps[-1] == 4
    assert builder.min_size(name, spec=stem) < zoo.get(name).min_size


def test_resnet18_for_cifar_is_the_one_that_others_count():
    found = cost("resnet18", input_shape=(32, 32, 3), num_classes=10, spec={"stem": "small"})
    # Counted independently.
    assert (found.params, found.macs) == (11_173_962, 555_422_720)


def test_a_whole_spec_may_be_given():
    spec = zoo.spec_of("resnet18")._replace(conv1=16)
    assert builder.trace("resnet18", spec=spec).rows[1].shape == (112, 112, 16)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("inception_v1", {"3z": {}}, 'spec: unknown key "3z"; allowed are .*3a, 3b'),
        ("inception_v1", {"stm": {}}, 'spec: unknown key "stm".*did you mean "stem"'),
        ("inception_v1", {"3a": {"conv": 1}}, 'spec.3a: unknown key "conv".*did you mean'),
        ("inception_v1", {"3a": {"conv1": "x"}}, "spec.3a.conv1: received 'x'"),
        ("inception_v1", {"stem": {"kind": "smal"}}, 'smal.*paper.*small'),
        ("resnet18", {"stem": "smal"}, "smal.*paper.*small"),
        ("resnet18", {"shortcut": "zeroes"}, "zeroes.*projection.*zeros"),
        ("resnet18", {"stages": {"0": {"filters": 0}}}, "(stages|conv2).*0"),
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
        builder.trace(name, spec=changes)
    assert re.search(said, str(caught.value)), str(caught.value)


# What the user may ask for


def test_an_unknown_name_gets_the_closest_one():
    with pytest.raises(UsageError, match='unknown network "vgg_16"; did you mean "vgg16'):
        builder.build("vgg_16")
    with pytest.raises(UsageError, match='unknown network "gogglenet"; did you mean "googlenet"'):
        builder.build("gogglenet")
    with pytest.raises(UsageError, match='unknown network "transformer"; keras-cnns list'):
        builder.build("transformer")


@pytest.mark.parametrize("name", [None, 5, ["vgg16"]], ids=str)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UsageError, match="not a network's name"):
        builder.build(name)


def test_a_number_of_classes_may_be_numpys():
    assert builder.trace("lenet5", num_classes=np.int64(7)).shape == (None, 7)


@pytest.mark.parametrize("alias", zoo.ALIASES)
def test_an_alias_is_the_network(alias):
    assert zoo.get(alias) is zoo.NETS[zoo.ALIASES[alias]]
    assert alias not in zoo.NETS


def test_googlenet_is_inception_v1():
    assert zoo.get("googlenet").name == "inception_v1"


def test_models_are_listed_by_pattern():
    assert zoo.list_models() == NAMES
    assert zoo.list_models("vgg1?") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert set(zoo.list_models("*_cifar")) < set(NAMES)
    assert zoo.list_models("nothing*") == []


def test_models_are_listed_by_family_and_budget():
    found = zoo.list_models(max_params=10_000_000, max_macs=1_000_000_000)
    assert found == [n for n in NAMES if zoo.get(n).params <= 1e7 and zoo.get(n).macs <= 1e9]
    assert {"lenet5", "resnet56_cifar"} < set(found) < set(NAMES)
    assert zoo.list_models("*_cifar", family="DENSENET") == [
        "densenet40_cifar",
        "densenet100_bc_cifar",
    ]
    exactly = zoo.get("lenet5")
    limits = {"max_params": exactly.params, "max_macs": exactly.macs}
    assert zoo.list_models(**limits) == ["lenet5"]
    assert zoo.list_models(**{**limits, "max_macs": exactly.macs - 1}) == []
    with pytest.raises(UsageError, match='unknown family "ResNets"; allowed are LeNet, .*"ResNet"'):
        zoo.list_models(family="ResNets")


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        zoo.NETS["lenet5"] = None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_classes": 0}, "0 classes, but at least 1"),
        ({"num_classes": -3}, "-3 classes"),
        ({"num_classes": 2.5}, "2.5 classes"),
        ({"weights": 5}, 'received weights 5; give "imagenet" or a path'),
        ({"input_shape": (32, 32)}, r"input_shape \(32, 32\).*height, width, channels"),
        ({"input_shape": (32, 32, 0)}, "input_shape"),
        ({"input_shape": (None, None, 1)}, "input_shape"),
        ({"input_shape": (32.0, 32.0, 1)}, "input_shape"),
        ({"include_top": False, "pooling": "mean"}, '"mean".*avg, max'),
        ({"pooling": "mean"}, '"mean".*avg, max'),
        ({"classifier_activation": "sofmax"}, "sofmax"),
        ({"preprocessing": "centred"}, '"centred".*symmetric, unit, imagenet, caffe'),
        ({"preprocessing": "imagenet"}, '"imagenet" is for 3 channels, not 1'),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        builder.build("lenet5", **arguments)


def test_auxiliary_heads_stand_below_the_top():
    with pytest.raises(UsageError, match="include_top"):
        builder.build("inception_v1", auxiliary=True, include_top=False)


def test_the_smallest_size_of_a_wrong_question_is_not_answered():
    with pytest.raises(UsageError, match="c9"):
        builder.min_size("lenet5", spec={"c9": 1})


def test_the_smallest_size_may_be_beyond_the_papers():
    spec = {"conv1": {"kernel_size": 9, "strides": 8}}
    size = builder.min_size("alexnet", spec=spec, input_shape=(227, 227, 3))
    assert size > zoo.get("alexnet").min_size
    wide = {"conv1": {"kernel_size": 11, "strides": 40}}
    size = builder.min_size("alexnet", spec=wide)
    assert builder.trace("alexnet", input_shape=(size, size, 3), spec=wide).shape == (None, 1000)
    with pytest.raises(UsageError, match=f"smallest that works is {size}x{size}"):
        builder.trace("alexnet", spec=wide)


def test_a_wrong_question_is_answered_without_keras():
    code = (
        "import sys\n"
        "from keras_cnns import builder\n"
        "from keras_cnns.errors import UsageError\n"
        "small = {'input_shape': (31, 31, 3)}\n"
        "for name, arguments in [('vgg61', {}), ('vgg16', small), ('nin', {'spec': {'x': 1}})]:\n"
        "    try:\n"
        "        builder.build(name, **arguments)\n"
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
    model = builder.build("lenet5", input_shape=shape, preprocessing=preprocessing)
    plain = builder.build("lenet5", input_shape=shape)
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
    return {row.name: row for row in builder.trace(name, **arguments).rows}


SHAPES = {
    # Figure 2
    "lenet5": {
        "c1_conv": (28, 28, 6), "c1_pool": (14, 14, 6), "c3_conv": (10, 10, 16),
        "c3_pool": (5, 5, 16), "c5_conv": (1, 1, 120), "f6": (84,), "logits": (10,),
    },
    # Figure 2; Caffe's net for the maps behind a pooling
    "alexnet": {
        "conv1_conv": (55, 55, 96), "conv1_pool": (27, 27, 96), "conv2_conv": (27, 27, 256),
        "conv2_pool": (13, 13, 256), "conv3_conv": (13, 13, 384), "conv4_conv": (13, 13, 384),
        "conv5_conv": (13, 13, 256), "conv5_pool": (6, 6, 256), "fc6": (4096,), "fc7": (4096,),
    },
    # Printed in section 8.1 of the book
    "alexnet_d2l": {
        "conv1_conv": (54, 54, 96), "conv1_pool": (26, 26, 96), "conv2_conv": (26, 26, 256),
        "conv2_pool": (12, 12, 256), "conv5_conv": (12, 12, 256), "conv5_pool": (5, 5, 256),
    },
    # Caffe's net
    "nin": {
        "mlpconv1_conv": (54, 54, 96), "mlpconv1_pool": (27, 27, 96),
        "mlpconv2_mlp2_conv": (27, 27, 256), "mlpconv2_pool": (13, 13, 256),
        "mlpconv3_pool": (6, 6, 384), "mlpconv4_mlp1_conv": (6, 6, 1024), "maps_conv": (6, 6, 1000),
    },
    # Printed in section 8.3 of the book
    "nin_d2l": {
        "mlpconv1_conv": (54, 54, 96), "mlpconv1_pool": (26, 26, 96),
        "mlpconv2_pool": (12, 12, 256), "mlpconv3_pool": (5, 5, 384),
        "maps_conv": (5, 5, 10), "logits": (10,),
    },
    # Table 1
    **{
        f"vgg{column}": {
            "conv1_pool": (112, 112, 64), "conv2_pool": (56, 56, 128), "conv3_pool": (28, 28, 256),
            "conv4_pool": (14, 14, 512), "conv5_pool": (7, 7, 512), "fc6": (4096,), "fc7": (4096,),
        }
        for column in ("11", "11_lrn", "13", "16", "16_c", "16_bn", "19")
    },
    # Table 1
    "inception_v1": {
        "conv1_conv": (112, 112, 64), "conv1_pool": (56, 56, 64), "conv2_conv": (56, 56, 192),
        "conv2_pool": (28, 28, 192), "3a_concat": (28, 28, 256), "3b_concat": (28, 28, 480),
        "3b_pool": (14, 14, 480), "4a_concat": (14, 14, 512), "4b_concat": (14, 14, 512),
        "4c_concat": (14, 14, 512), "4d_concat": (14, 14, 528), "4e_concat": (14, 14, 832),
        "4e_pool": (7, 7, 832), "5a_concat": (7, 7, 832), "5b_concat": (7, 7, 1024),
        "pool": (1024,), "logits": (1000,),
    },
    # Printed in section 8.4 of the book
    "inception_v1_d2l": {
        "conv1_pool": (24, 24, 64), "conv2_pool": (12, 12, 192), "3b_pool": (6, 6, 480),
        "4e_pool": (3, 3, 832), "pool": (1024,),
    },
    # Figure 5, but for 4c to 4e, whose sums are not those of their branches there
    "inception_v2": {
        "conv1_conv": (112, 112, 64), "conv1_pool": (56, 56, 64), "conv2_conv": (56, 56, 192),
        "conv2_pool": (28, 28, 192), "3a_concat": (28, 28, 256), "3b_concat": (28, 28, 320),
        "3c_concat": (14, 14, 576), "4a_concat": (14, 14, 576), "4b_concat": (14, 14, 576),
        "5a_concat": (7, 7, 1024), "5b_concat": (7, 7, 1024),
    },
    # Table 1
    "inception_v3": {
        "stem_a_conv": (149, 149, 32), "stem_b_conv": (147, 147, 32), "stem_c_conv": (147, 147, 64),
        "stem_d_pool": (73, 73, 64), "5d_concat": (35, 35, 288), "6e_concat": (17, 17, 768),
        "7a_concat": (8, 8, 1280), "7c_concat": (8, 8, 2048), "pool": (2048,),
    },
    # Figures 3 and 9
    "inception_v4": {
        "stem_a_conv": (149, 149, 32), "stem_b_conv": (147, 147, 32), "stem_c_conv": (147, 147, 64),
        "stem_d_concat": (73, 73, 160), "stem_e_concat": (71, 71, 192),
        "stem_f_concat": (35, 35, 384), "5e_concat": (35, 35, 384), "6a_concat": (17, 17, 1024),
        "6h_concat": (17, 17, 1024), "7a_concat": (8, 8, 1536), "7d_concat": (8, 8, 1536),
        "pool": (1536,),
    },
    # Figures 14 and 15
    "inception_resnet_v1": {
        "stem_d_pool": (73, 73, 64), "stem_e_conv": (73, 73, 80), "stem_f_conv": (71, 71, 192),
        "stem_g_conv": (35, 35, 256), "a5_add": (35, 35, 256), "reduction_a_concat": (17, 17, 896),
        "b10_add": (17, 17, 896), "reduction_b_concat": (8, 8, 1792), "c5_add": (8, 8, 1792),
        "pool": (1792,),
    },
    # Figure 5
    "xception": {
        "block2_pool": (74, 74, 128), "block3_pool": (37, 37, 256), "block4_pool": (19, 19, 728),
        "block12_add": (19, 19, 728), "block13_pool": (10, 10, 1024), "pool": (2048,),
    },
    # Table 1
    **{
        f"resnet{depth}": {
            "conv1_conv": (112, 112, 64), "conv1_pool": (56, 56, 64),
            **{
                f"conv{i + 2}_{n}_relu": (56 >> i, 56 >> i, width * (64 << i))
                for i, n in enumerate(blocks)
            },
            "pool": (width * 512,),
        }
        for depth, width, blocks in (
            (18, 1, (2, 2, 2, 2)), (34, 1, (3, 4, 6, 3)), (50, 4, (3, 4, 6, 3)),
            (101, 4, (3, 4, 23, 3)), (152, 4, (3, 8, 36, 3)),
        )
    },
    # Section 4.2
    **{
        f"resnet{6 * n + 2}_cifar": {
            "conv1_conv": (32, 32, 16), f"conv2_{n}_relu": (32, 32, 16),
            f"conv3_{n}_relu": (16, 16, 32), f"conv4_{n}_relu": (8, 8, 64), "pool": (64,),
        }
        for n in (3, 5, 7, 9, 18, 200)
    },
    # Table 1; each layer adds 32 channels, each transition keeps half
    "densenet121": {
        "conv1_conv": (112, 112, 64), "conv1_pool": (56, 56, 64), "dense1_6_concat": (56, 56, 256),
        "transition1_pool": (28, 28, 128), "dense2_12_concat": (28, 28, 512),
        "transition2_pool": (14, 14, 256), "dense3_24_concat": (14, 14, 1024),
        "transition3_pool": (7, 7, 512), "dense4_16_concat": (7, 7, 1024), "pool": (1024,),
    },
    # Table 2, with a = 0.75 and b = 2.5 of table 3
    "repvgg_a0": {
        "stage1_1_relu": (112, 112, 48), "stage2_2_relu": (56, 56, 48),
        "stage3_4_relu": (28, 28, 96), "stage4_14_relu": (14, 14, 192),
        "stage5_1_relu": (7, 7, 1280),
    },
    # Table 1: sequence lengths of 49 and 196
    "mixer_s32": {"patches_conv": (7, 7, 512), "mixer8_channels_add": (7, 7, 512)},
    "mixer_b16": {"patches_conv": (14, 14, 768), "mixer12_channels_add": (14, 14, 768)},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_papers_table(name):
    found = {layer: row.shape for layer, row in at(name).items()}
    assert {layer: found.get(layer) for layer in SHAPES[name]} == SHAPES[name]


@pytest.mark.parametrize("family", MODULES)
def test_every_paper_has_a_table_of_shapes(family):
    assert family in map(module, SHAPES), f"{family}: put the shapes of its paper into SHAPES"


def test_connections_of_lenet5_are_those_of_the_paper():
    # Section II.B, but for C3, which is full here. A bias counts as a connection.
    found = at("lenet5")
    layers = [found[name] for name in ("c1_conv", "c5_conv", "f6")]
    assert [row.macs + prod(row.shape) for row in layers] == [122_304, 48_120, 10_164]
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


def test_parameters_of_vgg_are_those_of_table_2():
    # In millions.
    table = {"vgg11": 133, "vgg13": 133, "vgg16_c": 134, "vgg16": 138, "vgg19": 144}
    assert {name: round(zoo.get(name).params / 1e6) for name in table} == table


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


@pytest.mark.parametrize(
    ("name", "billions"), [("resnet18", 1.8), ("resnet34", 3.6), ("plain34", 3.6)]
)
def test_operations_of_resnet_are_those_of_table_1(name, billions):
    # The table rounds down. Its 3.8 for resnet50 is of the stride in the first 1x1.
    assert int(zoo.get(name).macs / 1e8) / 10 == billions


# What is specific to one network


def test_alexnet_has_two_towers():
    model = built("alexnet")
    groups = {layer.name: layer.groups for layer in model.layers if layer.name.endswith("_conv")}
    assert [groups[f"conv{i}_conv"] for i in range(1, 6)] == [1, 2, 1, 2, 2]
    lrn = model.get_layer("conv1_lrn")
    # Section 3.3
    assert (lrn.size, lrn.alpha, lrn.beta, lrn.k) == (5, 1e-4, 0.75, 2.0)


@pytest.mark.parametrize(
    ("name", "rates"),
    [("lenet5", []), ("alexnet", [0.5] * 2), ("nin", [0.5]), ("vgg11", [0.5] * 2),
     ("inception_v1", [0.4]), ("resnet18", [])],
)  # fmt: skip
def test_dropout_is_that_of_the_paper(name, rates):
    assert [x.rate for x in built(name).layers if isinstance(x, keras.layers.Dropout)] == rates


def test_inception_v1_has_5x5_convolutions_and_no_batch_normalisation():
    model = built("inception_v1")
    kernels = [layer.kernel_size for layer in model.layers if re.search(r"_3b_conv$", layer.name)]
    assert kernels == [(5, 5)] * 9
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    lrn = [layer for layer in model.layers if layer.name.endswith("_lrn")]
    # Caffe's constants; its alpha is divided by the size.
    assert [(x.size, x.alpha, x.beta, x.k) for x in lrn] == [(5, pytest.approx(2e-5), 0.75, 1)] * 2


def test_an_inception_without_reductions_is_the_naive_one():
    modules = [key for key, row in zoo.spec_of("inception_v1").items() if hasattr(row, "reduce3")]
    assert len(modules) == 9
    naive = {key: {"reduce3": 0, "reduce5": 0, "pool": 0} for key in modules}
    found = cost("inception_v1", spec=naive)
    assert (found.params, found.macs) == tuple(
        int(ORACLES["inception_v1_naive"][key]) for key in ("params", "macs")
    )


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_nin_has_as_many_1x1_convolutions_as_its_spec(depth):
    found = at("nin_cifar", spec={"blocks": {"1": {"mlp": [32] * depth}}})
    names = [name for name in found if re.fullmatch(r"mlpconv2_mlp\d_conv", name)]
    assert len(names) == depth


def test_a_resnet_without_projections_has_fewer_weights():
    zeros, projections = cost("resnet34", spec={"shortcut": "zeros"}), cost("resnet34")
    # Three projections, 64 to 128 to 256 to 512, each with its normalisation.
    difference = sum(64 * 128 * 4**i + 2 * 128 * 2**i for i in range(3))
    assert projections.params - zeros.params == difference


# As the papers have them, in full: a test for each name, so that they can be run piece by piece.


@pytest.fixture
def returns_memory():
    """Give back what a test has built, which may be some gigabytes."""
    gc.collect()
    yield
    keras.utils.clear_session()
    gc.collect()


def settled_by_training(model):
    """Let normalisations take over the statistics of the next batch that is trained on."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a tape")
@pytest.mark.parametrize("name", NAMES)
def test_a_network_at_full_size_keeps_every_contract(name, tmp_path, returns_memory):
    net = zoo.get(name)
    heads = {"auxiliary": True} if net.auxiliary_params else {}
    keras.utils.set_random_seed(0)
    model = builder.build(name, **heads)
    assert (model.name, model.input_shape) == (name, (None, *net.input_shape))
    assert weights(model) == (net.auxiliary_params or net.params)
    found, said = cost(model), cost(name, **heads)
    assert sorted(found.layers) == sorted(said.layers)
    assert found.peak_activation_bytes == said.peak_activation_bytes

    settled_by_training(model)
    x = images(model, 2)
    check_gradients(model, x, np.arange(2))
    outputs = model(x)
    for probabilities in keras.tree.flatten(outputs):
        assert probabilities.shape == (2, net.num_classes)
        np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-5)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    keras.tree.map_structure(np.testing.assert_array_equal, loaded(x), outputs)
    del loaded

    bare = builder.build(name, include_top=False, pooling="avg")
    for layer in filter(lambda layer: layer.weights, bare.layers):
        layer.set_weights(model.get_layer(layer.name).get_weights())
    last = model.get_layer(bare.layers[-2].name).output
    maps = np.asarray(keras.Model(model.input, last)(x))
    assert np.isfinite(maps).all()
    np.testing.assert_allclose(bare(x), maps.mean((1, 2)), rtol=1e-4, atol=1e-4 * np.ptp(maps))
    del bare

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = builder.build(name, input_shape=(*net.input_shape[:2], 4), num_classes=7)
    finally:
        keras.config.set_dtype_policy(before)
    probabilities = mixed(images(mixed, 2), training=True)
    assert keras.backend.standardize_dtype(probabilities.dtype) == "float32"
    assert {keras.backend.standardize_dtype(w.dtype) for w in mixed.weights} == {"float32"}
    assert probabilities.shape == (2, 7)
    np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet1001_v2_cifar", "resnet1202_cifar"])
def test_the_deepest_networks_train(name, returns_memory):
    keras.utils.set_random_seed(0)
    model = builder.build(name)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [np.asarray(w).copy() for w in model.trainable_weights]
    loss = model.train_on_batch(images(model, 2), np.arange(2))
    assert np.isfinite(loss)
    pairs = zip(before, model.trainable_weights, strict=True)
    assert all(np.any(was != np.asarray(now)) for was, now in pairs)
