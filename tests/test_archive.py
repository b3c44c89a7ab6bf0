"""A .keras file from anyone runs no code and takes no more memory than its weights."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_cnns import graph
from keras_cnns.errors import UsageError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small model, as Keras saves it."""
    path = tmp_path_factory.mktemp("sound") / "model.keras"
    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Flatten(name="flat")(image)
    x = keras.layers.Dense(3, activation="softmax", name="predictions")(x)
    keras.Model(image, x, name="small").save(path)
    return path


def rewritten(sound, path, change=lambda config: None, extra=(), **options):
    """Write a file again with its config changed, and with other members."""
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", **options) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config)
            new.writestr(name, content)
        for name, content in extra:
            new.writestr(name, content)
    return path


def dense(config):
    return config["config"]["layers"][-1]


def layer(kind, settings, module="keras.layers"):
    """Put another layer in the place of the last."""

    def change(config):
        own = dense(config)
        given = {"name": own["config"]["name"], "trainable": True, "dtype": "float32"}
        own |= {"class_name": kind, "module": module, "registered_name": None}
        own["config"] = {**given, **settings}
        own.pop("build_config", None)

    return change


def activation(module, name):
    described = {"class_name": "function", "config": name, "module": module}
    return lambda config: dense(config)["config"].update(
        activation={**described, "registered_name": name}
    )


CODE = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAA", "defaults": None}}
CORPUS = {
    "lambda": layer("Lambda", {"function": CODE}),
    "lambda as an activation": lambda config: dense(config)["config"].update(activation=CODE),
    "saved model": layer("TFSMLayer", {"filepath": "/nowhere"}),
    "eval as a layer": layer("eval", {}, "builtins"),
    "system as a layer": layer("system", {}, "os"),
    "exec as an activation": activation("builtins", "exec"),
    "system as an activation": activation("os", "system"),
    "unsafe deserialization": activation("keras.config", "enable_unsafe_deserialization"),
    "a download": activation("keras.utils", "get_file"),
    "subprocess": layer("Popen", {"args": ["touch", "executed"]}, "subprocess"),
    "two thousand million units": lambda config: dense(config)["config"].update(units=2 * 10**9),
    "a huge image": lambda config: config["config"]["layers"][0]["config"].update(
        batch_shape=[None, 10**6, 10**6, 1]
    ),
    "a negative size": lambda config: dense(config)["config"].update(units=-1),
    "text for a size": lambda config: dense(config)["config"].update(units="many"),
    "no layers": lambda config: config["config"].pop("layers"),
}


def refused(path):
    with pytest.raises(UsageError) as caught:
        graph.load_model(path)
    return str(caught.value)


@pytest.fixture(autouse=True)
def untouched(tmp_path, monkeypatch):
    """Run where a file would show that code was run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path.parent / "escaped").exists()


def test_a_sound_one_is_loaded(sound):
    assert graph.load_model(sound).output.shape == (None, 3)


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_description_is_refused_in_a_line(sound, tmp_path, name):
    said = refused(rewritten(sound, tmp_path / "model.keras", CORPUS[name]))
    assert str(tmp_path / "model.keras") in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "swelling",
    [
        keras.layers.UpSampling2D(10**5),
        keras.layers.ZeroPadding2D(10**6),
        keras.layers.Conv2DTranspose(1, 1, strides=10**5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_map_that_no_memory_holds_is_refused(tmp_path, swelling):
    image = keras.Input((4, 4, 1), name="image")
    inner = keras.Model(image, keras.layers.GlobalAveragePooling2D()(swelling(image)))
    keras.Model(image, keras.layers.Dense(3)(inner(image))).save(tmp_path / "model.keras")
    said = refused(tmp_path / "model.keras")
    assert f"{tmp_path / 'model.keras'}: its {swelling.name} makes (" in said


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([("../escaped", b"x")], "escaped"),
        ([("assets/../../escaped", b"x")], "escaped"),
        ([("/escaped", b"x")], "escaped"),
        ([("code.py", b"open('executed', 'w')")], "code.py"),
        ([("weights.pkl", b"cos\nsystem\n(S'touch executed'\ntR.")], "weights.pkl"),
    ],
)
def test_other_members_are_refused(sound, tmp_path, extra, words):
    assert words in refused(rewritten(sound, tmp_path / "model.keras", extra=extra))


def test_what_would_swell_is_refused(sound, tmp_path):
    path = rewritten(sound, tmp_path / "model.keras", compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(sound, tmp_path):
    path = rewritten(sound, tmp_path / "model.keras", extra=[("config.json", b"{}")])
    assert "two files of one name" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"\x80\x04.", b"[" * 10**6])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "model.keras").write_bytes(content)
    assert "cannot be read as a Keras model" in refused(tmp_path / "model.keras")


@pytest.fixture
def with_weights(sound, tmp_path):
    """Return a function that writes the file again with its first weight changed."""

    def written(change):
        with zipfile.ZipFile(sound) as archive:
            archive.extract("model.weights.h5", tmp_path)
        with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
            variables = file["layers/dense/vars"]
            del variables["0"]
            change(variables)
        with zipfile.ZipFile(sound) as old, zipfile.ZipFile(tmp_path / "model.keras", "w") as new:
            for name in old.namelist():
                own = name == "model.weights.h5"
                new.writestr(name, (tmp_path / name).read_bytes() if own else old.read(name))
        return tmp_path / "model.keras"

    return written


def test_weights_elsewhere_are_refused(with_weights, tmp_path):
    """A link in the weights to another file would carry that file's numbers away."""
    secret = str(tmp_path / "secret.h5")
    with h5py.File(secret, "w") as file:
        file["0"] = np.zeros((16, 3), "float32")

    def link(variables):
        variables["0"] = h5py.ExternalLink(secret, "0")

    def outside(variables):
        variables.create_dataset("0", (16, 3), "float32", external=secret)

    assert "is a link" in refused(with_weights(link))
    assert "lacks numbers" in refused(with_weights(outside))


@pytest.mark.parametrize("shape", [(16, 3), (10**6, 10**6)])
def test_weights_that_would_swell_are_refused(with_weights, shape):
    """Arrays of zeros take no place in a file until something is written."""

    def sparse(variables):
        variables.create_dataset("0", shape, "float32", chunks=(16, 3))

    assert "lacks numbers" in refused(with_weights(sparse))


def test_a_circle_of_groups_is_refused(with_weights):
    def circle(variables):
        variables["0"] = variables.parent

    assert "twice" in refused(with_weights(circle))
