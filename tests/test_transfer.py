"""A network moves to other images with what it has learned, and says where it cannot."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_cnns import recipe as recipes, runs, train
from keras_cnns.errors import UsageError
from keras_cnns.training import callbacks, transfer

NARROW = ["model.name=resnet20_cifar", "model.width=0.25", "data.size=16", "data.batch_size=32"]
# No warm-up: the first epochs count.
FAST = ["train.precision=float32", "train.warmup_epochs=0", "train.learning_rate=0.01"]


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two folders of images: the digits below 5, and the others."""
    place = tmp_path_factory.mktemp("halves")
    pixels, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = place / ("low" if label < 5 else "high") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.uint8(image.reshape(8, 8) * 15)).resize((16, 16))
        grey.convert("RGB").save(folder / f"{i}.png")
    return place


def recipe(data, *settings):
    wanted = [*NARROW, *FAST, f"data.name={data}", *settings]
    return recipes.override(recipes.Recipe(), wanted)


@pytest.fixture(scope="module")
def low(halves):
    """A run that learned the digits below 5."""
    out = halves / "run"
    train.train(recipe(halves / "low", "train.epochs=3"), out)
    return out


def weights_of(out):
    model = runs.open_run(out).model()
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


@pytest.fixture(scope="module")
def moved(halves, low):
    """What becomes of it on the others, its first stage frozen throughout."""
    words = [f"model.weights={low}", "train.epochs=5", "train.freeze_epochs=1", "train.ema=0.3"]
    stages = ["train.unfreeze_from=conv3", "train.backbone_rate=0.3"]
    out = halves / "moved"
    train.train(recipe(halves / "high", *words, *stages), out)
    return out


def test_what_is_frozen_stays_and_the_rest_learns(low, moved):
    before, after = weights_of(low), weights_of(moved)
    kept = runs.open_run(moved).recipe
    frozen = transfer.frozen(kept, phase=1)
    assert {name.partition("_")[0] for name in frozen} == {"conv1", "conv2"}
    for name in before:
        same = all(np.array_equal(a, b) for a, b in zip(before[name], after[name], strict=True))
        assert same == (name in frozen), name


def test_by_default_the_head_learns_first_and_the_rest_more_slowly(halves, low):
    source = runs.open_data(recipe(halves / "high"))

    def settled(*words):
        found = train.resolve(recipe(halves / "high", "train.epochs=9", *words), source).train
        return found.freeze_epochs, found.backbone_rate

    assert settled() == (0, 1.0)
    assert settled(f"model.weights={low}") == (2, 0.3)
    given = ("train.freeze_epochs=0", "train.backbone_rate=1")
    assert settled(f"model.weights={low}", *given) == (0, 1.0)
    assert settled(f"model.weights={low / 'model.keras'}", "model.matching=true") == (0, 1.0)


def test_normalisations_beside_the_frozen_ones_count_anew_as_the_rest_begins_to_learn(
    halves, low, tmp_path, monkeypatch
):
    """As those of auxiliary heads do; here the whole network stands for one."""
    monkeypatch.setattr(transfer, "backbone_of", lambda recipe: [])
    counted, begin = [], callbacks.Keeper.on_epoch_begin

    def on_epoch_begin(self, epoch, logs=None):
        begin(self, epoch, logs)
        layers = [each for each in self.model.layers if hasattr(each, "batches")]
        counted.append({int(each.batches) for each in layers})

    monkeypatch.setattr(callbacks.Keeper, "on_epoch_begin", on_epoch_begin)
    words = [f"model.weights={low}", "train.freeze_epochs=2", "train.ema=0.9", "train.epochs=4"]
    train.train(recipe(halves / "high", *words), tmp_path / "run")
    steps = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["steps"] // 4
    assert counted == [{0}, {steps}, {0}, {steps}]


def test_it_learns_the_others_and_keeps_their_preprocessing(low, moved):
    assert runs.read_history(moved)[-1]["val_accuracy"] > 0.5  # chance is 0.2
    assert runs.open_run(moved).recipe.model.preprocessing == "symmetric"
    assert runs.open_run(moved).labels == ("5", "6", "7", "8", "9")


def test_all_but_the_head_starts_from_the_weights(halves, low):
    wanted = recipe(halves / "high", f"model.weights={low}")
    source = runs.open_data(wanted)
    network = train.build(train.resolve(wanted, source), 5)
    before = weights_of(low)
    for layer in network.layers:
        if layer.weights:
            pairs = zip(layer.get_weights(), before[layer.name], strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs) == (layer.name != "logits")


def test_layers_of_another_network_by_name(halves, low):
    words = [f"model.weights={low}", "model.matching=true", "model.name=resnet32_cifar"]
    wanted = recipe(halves / "high", *words)
    network = train.build(train.resolve(wanted, runs.open_data(wanted)), 5)
    before = weights_of(low)
    assert all(
        np.array_equal(a, b)
        for name, values in before.items()
        for a, b in zip(network.get_layer(name).get_weights(), values, strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.weights=imagenet"], 'resnet20_cifar has no weights "imagenet"'),
        (["model.weights=missing.keras"], "there is no such file"),
        (["model.weights=RUN", "model.name=resnet32_cifar"], "is of resnet20_cifar"),
        (["model.weights=RUN", "model.width=0.5"], "does not fit resnet20_cifar"),
        (["model.weights=RUN", "model.preprocessing=unit"], 'must be "symmetric"'),
        (["model.weights=RUN", "train.unfreeze_from=stage9"], "the stages of resnet20_cifar are"),
        (["train.freeze_epochs=1"], "train.freeze_epochs needs model.weights"),
        (["train.backbone_rate=0.1"], "train.backbone_rate needs model.weights"),
        (
            ["model.weights=RUN", "model.matching=true", "train.freeze_epochs=1"],
            "train.freeze_epochs needs model.weights for every layer",
        ),
        (["model.matching=true"], "model.matching needs model.weights"),
        (
            ["model.weights=RUN", "model.matching=true", "model.name=lenet5", "data.size=32"],
            "none of its layers fits one of lenet5",
        ),
    ],
)
def test_what_does_not_fit_is_refused(halves, low, tmp_path, settings, words):
    settings = [each.replace("RUN", str(low)) for each in settings]
    with pytest.raises(UsageError, match=words):
        train.train(recipe(halves / "high", *settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_how_much_of_another_network_is_taken_is_told(halves, low, tmp_path, capsys):
    words = [f"model.weights={low}", "model.matching=true", "model.name=resnet32_cifar"]
    wanted = recipe(halves / "high", *words)
    source = runs.open_data(wanted)
    train._open_or_create(tmp_path / "run", train.resolve(wanted, source), source)
    # Of 31 convolutions with their normalisations, 19; the scores are of five classes in both.
    assert "took 39 of the 63 layers of resnet32_cifar" in capsys.readouterr().err


def test_a_run_outlives_the_weights_that_it_began_with(halves, low, moved, tmp_path, capsys):
    gone = tmp_path / "gone"
    run = shutil.copytree(moved, tmp_path / "run")
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text.replace(str(low), str(gone)))
    words = [f"model.weights={gone}", "train.epochs=5", "train.freeze_epochs=1", "train.ema=0.3"]
    words += ["train.unfreeze_from=conv3", "train.backbone_rate=0.3"]
    train.train(recipe(halves / "high", *words), run)
    assert "is trained already" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds another run: model.spec"):
        train.train(recipe(halves / "high", *words, "model.width=0.5"), run)
    with pytest.raises(UsageError, match='gone"; allowed are "imagenet", and files'):
        train.train(recipe(halves / "high", *words), tmp_path / "new")
