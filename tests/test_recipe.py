"""What a recipe accepts, what it refuses and in which words, and that it survives TOML."""

import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError, fields
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from keras_cnns import zoo
from keras_cnns.data import AUGMENTATIONS
from keras_cnns.errors import UsageError
from keras_cnns.preprocessing import PREPROCESSING
from keras_cnns.recipe import Data, Model, Recipe, Train, load, loads, override, to_toml
from keras_cnns.spec import to_dict

KEYS = st.text(min_size=1, max_size=8)
SPECS = st.dictionaries(
    KEYS,
    st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)
TEXT = st.text(min_size=1)
COUNTS = st.integers(1, 10**6)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
RECIPES = st.builds(
    Recipe,
    seed=st.integers(0, 2**32 - 1),
    model=st.builds(
        Model,
        name=TEXT,
        spec=SPECS,
        width=st.floats(0, exclude_min=True, allow_infinity=False),
        auxiliary=st.booleans(),
        preprocessing=st.sampled_from([*PREPROCESSING]),
    ),
    data=st.builds(
        Data,
        name=TEXT,
        dir=st.none() | TEXT,
        size=st.none() | COUNTS,
        channels=st.sampled_from([None, 1, 3, 4]),
        batch_size=COUNTS,
        validation=SHARES,
        test=SHARES,
        augment=st.none() | st.sampled_from([*AUGMENTATIONS]),
    ),
    train=st.builds(
        Train,
        epochs=COUNTS,
        optimizer=st.sampled_from(["adamw", "sgd"]),
        learning_rate=st.floats(0, exclude_min=True, allow_infinity=False),
        momentum=SHARES,
        weight_decay=st.floats(0, allow_infinity=False),
        label_smoothing=SHARES,
        warmup_epochs=st.floats(0, allow_infinity=False),
        batch_norm_momentum=SHARES,
        precision=st.sampled_from(["float32", "mixed_bfloat16"]),
    ),
)


class Row(NamedTuple):
    filters: int
    depth: int


@given(RECIPES)
def test_toml_round_trip(recipe):
    text = to_toml(recipe)
    assert loads(text) == recipe
    assert to_toml(loads(text)) == text


def test_toml_survives_a_file(tmp_path):
    recipe = Recipe(data=Data(name="C:\\Bilder\\Vögel 鳥", dir='a "b"\n'))
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load(path) == load(str(path)) == recipe


def test_toml_holds_every_key_that_is_not_none():
    recipe = Recipe(data=Data(dir="sets", size=32), train=Train(ema=0.99))
    table = tomllib.loads(to_toml(recipe))
    assert list(table) == [f.name for f in fields(Recipe)]
    for name, section in (("model", Model), ("data", Data), ("train", Train)):
        own = getattr(recipe, name)
        told = {f.name for f in fields(section) if getattr(own, f.name) is not None}
        assert set(table[name]) == told < {f.name for f in fields(section)}
    assert {"dir", "size"} < set(table["data"])
    assert "size" not in tomllib.loads(to_toml(Recipe()))["data"]


def test_a_network_name_is_a_recipe():
    assert load("vgg16") == Recipe(model=Model(name="vgg16"))


def test_spec_becomes_plain_so_that_it_equals_what_toml_returns():
    model = Model(spec={"rows": (Row(64, 2), Row(128, 3)), "depths": (2, 2)})
    assert model.spec == {
        "rows": [{"filters": 64, "depth": 2}, {"filters": 128, "depth": 3}],
        "depths": [2, 2],
    }
    assert loads(to_toml(Recipe(model=model))).model == model


@pytest.mark.parametrize("name", zoo.NETS)
def test_every_network_survives_toml(name):
    recipe = Recipe(model=Model(name=name, spec=to_dict(zoo.spec_of(name))))
    assert loads(to_toml(recipe)) == recipe
    assert zoo.spec_of(name, loads(to_toml(recipe)).model.spec) == zoo.spec_of(name)


def test_choices_are_those_of_who_takes_them():
    for section, key, choices in (
        (Data, "augment", AUGMENTATIONS),
        (Model, "preprocessing", PREPROCESSING),
    ):
        for choice in choices:
            section(**{key: choice})
        with pytest.raises(UsageError) as caught:
            section(**{key: "something"})
        assert set(str(caught.value).partition("must be ")[2].split(" or ")) == set(choices)


def test_a_whole_number_serves_where_a_number_is_wanted():
    rate = Train(learning_rate=1).learning_rate
    assert (rate, type(rate)) == (1.0, float)


def test_recipes_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 1


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("seed=3", None, "seed", 3),
        ("model.name=nin", "model", "name", "nin"),
        ("model.auxiliary=true", "model", "auxiliary", True),
        ("data.name=my photos/2024", "data", "name", "my photos/2024"),
        ('data.name="2024"', "data", "name", "2024"),
        ("data.dir=a=b", "data", "dir", "a=b"),
        ("data.channels=1", "data", "channels", 1),
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        (" train.epochs = 5 ", "train", "epochs", 5),
        ("train.warmup_epochs=2", "train", "warmup_epochs", 2.0),
        ("train={epochs=5}", "train", "epochs", 5),
        ("model.spec.3a.conv1=32", "model", "spec", {"3a": {"conv1": 32}}),
        ("model.spec.widths=[16, 32]", "model", "spec", {"widths": [16, 32]}),
        ("model.spec.stem=small", "model", "spec", {"stem": "small"}),
    ],
)
def test_override(setting, section, key, value):
    recipe = override(Recipe(), [setting])
    assert getattr(getattr(recipe, section) if section else recipe, key) == value


def test_override_keeps_the_rest_and_the_last_one_wins():
    before = loads('seed = 4\ntrain.optimizer = "sgd"\n[model.spec]\n3a = {conv1 = 8, pool = 4}')
    after = override(before, ["train.epochs=2", "model.spec.3a.conv1=16", "train.epochs=3"])
    assert (after.seed, after.train.optimizer, after.train.epochs) == (4, "sgd", 3)
    assert after.model.spec == {"3a": {"conv1": 16, "pool": 4}}
    assert before.model.spec == {"3a": {"conv1": 8, "pool": 4}}
    assert override(before, []) == before


def test_override_reaches_into_a_list_by_index():
    before = Recipe(model=Model(spec={"rows": [{"filters": 8, "depth": 2}, {"filters": 16}]}))
    rows = override(before, ["model.spec.rows.0.filters=4"]).model.spec["rows"]
    assert rows == [{"filters": 4, "depth": 2}, {"filters": 16}]


def test_override_beyond_a_list_is_left_to_the_network_to_refuse():
    before = Recipe(model=Model(spec={"rows": [8, 16]}))
    assert override(before, ["model.spec.rows.7=4"]).model.spec["rows"] == {
        "0": 8,
        "1": 16,
        "7": 4,
    }


REFUSED = [
    # TOML                         what the message must say
    ("train.epoch = 3", ['unknown recipe key "train.epoch"', 'did you mean "train.epochs"']),
    ("epochs = 3", ['unknown recipe key "epochs"', 'did you mean "train.epochs"']),
    ("trian.epochs = 3", ['unknown recipe key "trian"', 'did you mean "train"']),
    ("xyzzy = 3", ['unknown recipe key "xyzzy"', "seed, model, data, train"]),
    ("train = 3", ["train: received 3", "a table"]),
    ("model.spec = 3", ["model.spec: received 3", "a table"]),
    ("model.spec = [3]", ["model.spec: received [3]", "a table"]),
    ("model.name = 3", ["model.name: received 3", "text"]),
    ('model.name = ""', ["model.name: received ''", "text"]),
    ("model.width = 0", ["model.width: received 0", "above 0"]),
    ("model.auxiliary = 1", ["model.auxiliary: received 1", "true or false"]),
    ('model.preprocessing = "none"', ["model.preprocessing", "symmetric or unit or imagenet"]),
    ("seed = -1", ["seed: received -1", "0 to 4294967295"]),
    ("seed = 4294967296", ["seed: received 4294967296", "0 to 4294967295"]),
    ("seed = true", ["seed: received True", "a whole number"]),
    ("data.size = 0", ["data.size: received 0", "at least 1"]),
    ("data.size = 32.0", ["data.size: received 32.0", "a whole number"]),
    ("data.channels = 2", ["data.channels: received 2", "1 or 3"]),
    ("data.channels = true", ["data.channels: received True", "1 or 3"]),
    ("data.batch_size = 0", ["data.batch_size: received 0", "at least 1"]),
    ("data.validation = 0.0", ["data.validation: received 0.0", "above 0 and below 1"]),
    ("data.test = 1.0", ["data.test: received 1.0", "above 0 and below 1"]),
    ('data.augment = "crops"', ["data.augment: received 'crops'", 'did you mean "crop"']),
    ('train.epochs = "many"', ["train.epochs: received 'many'", "at least 1"]),
    ('train.optimizer = "admw"', ["adamw or sgd", 'did you mean "adamw"']),
    ("train.learning_rate = 0", ["train.learning_rate: received 0", "above 0"]),
    ("train.learning_rate = inf", ["train.learning_rate: received inf", "a number above 0"]),
    ("train.learning_rate = nan", ["train.learning_rate: received nan", "a number above 0"]),
    ("train.momentum = 1.0", ["train.momentum: received 1.0", "below 1"]),
    ("train.weight_decay = -1e-4", ["train.weight_decay: received -0.0001", "at least 0"]),
    ("train.label_smoothing = 1", ["train.label_smoothing: received 1", "below 1"]),
    ("train.warmup_epochs = inf", ["train.warmup_epochs: received inf", "at least 0"]),
    ('train.precision = "bfloat16"', ["train.precision", 'did you mean "mixed_bfloat16"']),
    ("train.epochs = 2024-01-01", ["train.epochs: received", "a whole number"]),
    ("train.epochs 3", ["not TOML", "line 1"]),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[text for text, _ in REFUSED])
def test_refused_in_one_line_that_names_the_key(text, words, tmp_path):
    with pytest.raises(UsageError) as caught:
        loads(text)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert "\n" not in message

    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert str(caught.value) == f"recipe {path}: {message}"


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "train..epochs=3", ".seed=1", ""])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(UsageError, match=r"write key=value, as train\.epochs=10"):
        override(Recipe(), [setting])


@pytest.mark.parametrize("setting", ["train.epochs.x=3", "train.epochs=many", "train=3"])
def test_override_refuses_as_toml_does(setting):
    with pytest.raises(UsageError, match=r"^train"):
        override(Recipe(), [setting])


def test_sections_check_themselves():
    with pytest.raises(UsageError, match=r"^train\.epochs: received 0"):
        Train(epochs=0)
    with pytest.raises(UsageError, match=r"^data\.dir: received '\\udcff'"):
        Data(dir="\udcff")
    with pytest.raises(UsageError, match=r"^model: received Data"):
        Recipe(model=Data())


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin1.toml").write_bytes(b'model.name = "\xe9"')
    for name in ("missing.toml", "folder.toml", "latin1.toml"):
        with pytest.raises(UsageError, match=name) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_recipes_need_neither_tensorflow_nor_keras():
    code = "import sys, keras_cnns.recipe; print({'tensorflow', 'keras', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
