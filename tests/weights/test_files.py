"""Weights from files of our own: all of them or none, and never anything but numbers."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_cnns import builder, zoo
from keras_cnns.errors import UsageError
from keras_cnns.weights import assign
from keras_cnns.weights.carried import Carried

# Small, and yet large enough for the auxiliary heads.
HEADS = {"input_shape": (64, 64, 3), "num_classes": 5, "spec": {"stem": {"kind": "small"}}}


def saved(tmp_path, name="lenet5", suffix=".keras", **arguments):
    """Return the path of a network's file, and the network."""
    model = builder.build(name, **arguments)
    path = tmp_path / f"{name}{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    return path, model


def refusal(name, path, **arguments):
    with pytest.raises(UsageError) as caught:
        builder.build(name, weights=path, **arguments)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_equal_weights(model, other):
    for layer in model.layers:
        for mine, theirs in zip(
            layer.get_weights(), other.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_a_keras_file_brings_its_preprocessing(tmp_path):
    path, model = saved(tmp_path, preprocessing="unit")
    again = builder.build("lenet5", weights=path)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype("float32")
    np.testing.assert_array_equal(again(images), model(images))
    builder.build("lenet5", weights=path, preprocessing="unit")
    message = refusal("lenet5", path, preprocessing="symmetric")
    assert message.endswith('preprocessing must be "unit" or left out, not "symmetric"')


def test_a_file_without_preprocessing_leaves_it_open(tmp_path):
    path, _ = saved(tmp_path)
    assert "preprocessing" not in [k.name for k in builder.build("lenet5", weights=path).layers]
    builder.build("lenet5", weights=path, preprocessing="unit").get_layer("preprocessing")


def test_another_preprocessing_is_no_guess(tmp_path):
    image = keras.Input((32, 32, 1))
    x = keras.layers.Rescaling(1 / 256, name="preprocessing")(image)
    keras.Model(image, keras.layers.Dense(2)(x)).save(tmp_path / "own.keras")
    assert "its preprocessing is none of symmetric" in refusal("lenet5", tmp_path / "own.keras")


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_what_is_left_out_is_not_loaded(suffix, tmp_path):
    path, model = saved(tmp_path, "inception_v1", suffix, **HEADS, auxiliary=True)
    plain = builder.build("inception_v1", weights=path, **HEADS)
    other = {**HEADS, "num_classes": 7}
    bare = builder.build("inception_v1", weights=path, **other, include_top=False)
    for smaller in (plain, bare):
        assert len(smaller.weights) < len(model.weights)
        assert_equal_weights(smaller, model)


def test_missing_heads_and_other_classes_are_told_apart(tmp_path):
    path, _ = saved(tmp_path, "inception_v1", **HEADS)
    message = refusal("inception_v1", path, **HEADS, auxiliary=True)
    assert "auxiliary1_conv needs" in message
    assert message.endswith("found none; auxiliary=False takes the rest")
    message = refusal("inception_v1", path, **{**HEADS, "num_classes": 7})
    assert message.endswith(
        "layer logits needs 1024x7 + 7, found 1024x5 + 5; include_top=False takes the rest"
    )


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_another_networks_file_is_refused(suffix, tmp_path):
    path, _ = saved(tmp_path, "lenet5", suffix)
    message = refusal("resnet20_cifar", path)
    expected = {
        ".keras": "it is of lenet5",
        ".weights.h5": "conv1_conv needs 3x3x3x16, found none",
    }
    assert expected[suffix] in message


def test_a_file_of_equal_shapes_is_known_by_its_name(tmp_path):
    small = {"input_shape": (32, 32, 3), "spec": {"stages": [{"filters": 8, "depth": 1}]}}
    path, _ = saved(tmp_path, "resnet50", **small)
    assert "it is of resnet50, not of resnet50_v1" in refusal("resnet50_v1", path, **small)


def test_a_deeper_networks_file_is_refused(tmp_path):
    path, _ = saved(tmp_path, "resnet32_cifar", ".weights.h5")
    message = refusal("resnet20_cifar", path)
    assert "its layer conv2_4_a_bn needs no weights, found 16 + 16 + 16 + 16" in message


def test_nothing_is_half_loaded():
    model = builder.build("lenet5")
    before = model.get_weights()
    values = {k.name: [w + 1 for w in k.get_weights()] for k in model.layers if k.weights}
    values["logits"][0] = values["logits"][0].T
    with pytest.raises(UsageError, match="logits needs 84x10 \\+ 10, found 10x84 \\+ 10"):
        assign(model, Carried(values, None, "these"), zoo.get("lenet5"))
    for mine, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, kept)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_damaged_file_is_told_in_one_line(suffix, tmp_path):
    path, _ = saved(tmp_path, suffix=suffix)
    whole = path.read_bytes()
    cut = [whole[:n] for n in (0, 1, 100, 5000, len(whole) // 2, len(whole) - 1)]
    other = io.BytesIO()
    with h5py.File(other, "w") as file:
        file["weights"] = np.zeros(3)
    for damaged in [*cut, b"no file of Keras " * 1000, whole[::-1], other.getvalue()]:
        path.write_bytes(damaged)
        assert refusal("lenet5", path).endswith(
            "damaged, or not what Keras saves under that suffix"
        )


def rezipped(path, compression=zipfile.ZIP_STORED, **changes):
    """Write a .keras file anew, with other contents for some of its members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, changes.get(name.split(".")[0], content))


def test_code_that_a_file_names_is_not_looked_up(tmp_path):
    path, model = saved(tmp_path)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    config |= {"module": "os", "class_name": "system"}
    for layer in config["config"]["layers"]:
        layer |= {"module": "os", "class_name": "system", "registered_name": "system"}
    rezipped(path, config=json.dumps(config))
    with pytest.raises(UsageError, match="has another layer c1_conv"):
        builder.build("lenet5", weights=path)
    assert model.name == "lenet5"


def test_a_file_may_not_swell(tmp_path):
    path, _ = saved(tmp_path)
    rezipped(path, zipfile.ZIP_DEFLATED)
    assert refusal("lenet5", path).endswith(
        "its config.json is compressed, which Keras does not do"
    )


def test_a_file_may_not_lead_elsewhere(tmp_path):
    path, _ = saved(tmp_path, suffix=".weights.h5")
    elsewhere = tmp_path / "elsewhere.h5"
    elsewhere.write_bytes(path.read_bytes())
    for link in (h5py.SoftLink("/layers/dense"), h5py.ExternalLink(elsewhere, "/layers/dense")):
        with h5py.File(path, "r+") as file:
            del file["layers/dense"]
            file["layers/dense"] = link
        assert "its dense is a link" in refusal("lenet5", path)


@pytest.mark.parametrize(
    "options",
    [
        {"data": np.zeros((120, 84), "int32")},
        {"shape": (120, 84), "dtype": "float32", "chunks": True, "fillvalue": 1.0},
        {"shape": (120, 84), "dtype": "float32", "external": [("elsewhere", 0, 40320)]},
    ],
    ids=["integers", "not written", "external"],
)
def test_every_number_is_in_the_file(options, tmp_path):
    path, _ = saved(tmp_path, suffix=".weights.h5")
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars"].create_dataset("0", **options)
    assert refusal("lenet5", path).endswith("layers/dense/vars/0 is no plain array of floats")


def test_weights_of_a_network_that_computes_something_else_are_refused(tmp_path):
    spec = {"stages": {str(i): {"depth": 1} for i in range(3)}}
    other = {**spec, "order": "relu_before_addition"}
    builder.build("resnet20_cifar", spec=other).save(tmp_path / "other.keras")
    with pytest.raises(UsageError, match=r"other\.keras: its network has another layer .*the spec"):
        builder.build("resnet20_cifar", spec=spec, weights=tmp_path / "other.keras")
    model = builder.build("resnet20_cifar", spec=other, weights=tmp_path / "other.keras")
    assert model.name == "resnet20_cifar"
    changed = {"preprocessing": "unit", "classifier_activation": None, "input_shape": (48, 40, 3)}
    again = builder.build("resnet20_cifar", spec=other, weights=tmp_path / "other.keras", **changed)
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
