"""What an evaluation says of runs: one crop or many, one network or several together."""

import json
import os
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_cnns
from keras_cnns import crops, data, evaluate, recipe as recipes, runs
from keras_cnns.cli import main
from keras_cnns.errors import UsageError
from keras_cnns.scores import score

LABELS = ("blue", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 30 tinted photos of 44x36 pixels, half of them for testing."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for channel, label in enumerate(reversed(LABELS)):
        (root / label).mkdir()
        for i in range(30):
            pixels = draw.normal(110, 60, (36, 44, 3))
            pixels[..., channel] += 30
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                root / label / f"{i}.png"
            )
    return root


def make_run(path, photos, *, seed=0, size=32, channels=3, labels=LABELS):
    """A run folder of an untrained LeNet-5, as training leaves it."""
    keras.utils.set_random_seed(seed)
    wanted = recipes.Data(name=str(photos), size=size, channels=channels, batch_size=8, test=0.5)
    recipe = recipes.Recipe(model=recipes.Model(name="lenet5"), data=wanted)
    model = keras_cnns.build(
        "lenet5",
        input_shape=wanted.image_shape,
        num_classes=len(labels),
        preprocessing="symmetric",
    )
    path.mkdir()
    (path / "labels.txt").write_text("\n".join(labels) + "\n")
    (path / "recipe.toml").write_text(recipes.to_toml(recipe))
    model.save(path / "model.keras")
    return runs.open_run(path)


@pytest.fixture(scope="module")
def members(photos, tmp_path_factory):
    """Two runs of colour images, and one of larger grey ones."""
    root = tmp_path_factory.mktemp("runs")
    return [
        make_run(root / "a", photos),
        make_run(root / "b", photos, seed=1),
        make_run(root / "c", photos, seed=2, size=40, channels=1),
    ]


@pytest.fixture(scope="module")
def source(members):
    return runs.open_data(members[0].recipe)


def scores_of(run, source, views=crops.PLAIN):
    return evaluate.answers(run, source, "test", precision="float32", views=views).probabilities


def truth_of(source):
    batches = data.examples(source, "test", image_shape=(32, 32, 3), batch_size=8)
    return np.concatenate([batch["label"] for batch in batches.as_numpy_iterator()])


def test_one_crop_is_what_the_network_says_of_the_images_as_training_sees_them(members, source):
    shape = members[0].image_shape
    dataset = data.batches(source, "test", image_shape=shape, batch_size=8)
    pixels, truth = (
        np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True)
    )
    fast = keras_cnns.predictor(members[0].model(), precision="float32", batch_size=8)
    np.testing.assert_array_equal(scores_of(members[0], source), fast(pixels))
    found = evaluate.evaluate(members[0], source, precision="float32")
    assert found["metrics"]["images"] == len(truth) == 45
    assert found["metrics"]["accuracy"] == (fast(pixels).argmax(1) == truth).mean()
    assert found["metrics"]["crops"] == "1"


@pytest.mark.parametrize(
    ("words", "flip"), [(("5",), True), (("10",), False), (("144", [224, 256]), False)]
)
def test_crops_are_averaged_image_by_image(words, flip, members, source):
    views = crops.views(*words, flip=flip)
    model, shape = members[0].model(), members[0].image_shape
    expected = []
    for record in source.dataset("test").take(5):
        parts = crops.cut(record["image"], views, shape).numpy().astype("float32")
        both = np.concatenate([parts, parts[:, :, ::-1]])
        assert len(both) == views.looks
        expected.append(np.asarray(model(both, training=False)).mean(0))
    found = scores_of(members[0], source, views)
    assert len(found) == 45
    np.testing.assert_allclose(found[:5], expected, atol=1e-5)


def test_the_dense_test_sees_whole_images_at_each_scale(members, source):
    views = crops.views("dense", [256, 288], flip=True)
    scores = keras.Model((model := members[0].model()).input, model.get_layer("logits").output)
    expected = []
    for record in source.dataset("test").take(3):
        found = []
        for side in (37, 41):
            whole = crops.whole(record["image"], side, 3).numpy().astype("float32")
            for image in (whole, whole[:, ::-1]):
                # Where LeNet-5, which pads nothing, looks in a larger image: every 4 pixels,
                # with as much room on both sides.
                rows, columns = (range(n % 4 // 2, n - 31, 4) for n in image.shape[:2])
                windows = [image[y : y + 32, x : x + 32] for y in rows for x in columns]
                mean = np.asarray(scores(np.stack(windows), training=False)).mean(0)
                found.append(np.exp(mean) / np.exp(mean).sum())
        expected.append(np.mean(found, 0))
    np.testing.assert_allclose(scores_of(members[0], source, views)[:3], expected, atol=1e-5)


def test_an_ensemble_is_the_mean_of_its_members_and_says_what_each_is_worth(members):
    sources = evaluate.open_sources(members)
    assert [source.channels for source in sources] == [3, 3, 1]
    found = evaluate.ensemble(members, sources, precision="float32")["metrics"]
    every = [scores_of(*pair) for pair in zip(members, sources, strict=True)]
    mean, truth = np.mean(every, 0), truth_of(sources[0])
    assert found["accuracy"] == (mean.argmax(1) == truth).mean()
    assert found["loss"] == pytest.approx(-np.log(mean[np.arange(45), truth]).mean(), rel=1e-5)
    for run, own, said in zip(members, every, found["members"], strict=True):
        alone = score(own, truth, LABELS)["metrics"]
        assert said["run"] == str(run.path)
        assert {k: said[k] for k in evaluate.BRIEF} == {k: alone[k] for k in evaluate.BRIEF}


def test_mistakes_are_the_surest_wrong_answers_with_their_files(members, source):
    found = evaluate.evaluate(members[0], source, precision="float32")
    scores = scores_of(members[0], source)
    truth = truth_of(source)
    wrong = np.flatnonzero(scores.argmax(1) != truth)
    order = wrong[np.argsort(-scores.max(1)[wrong], kind="stable")][: evaluate.WORST]
    assert [m["file"] for m in found["mistakes"]] == [source.files["test"][i] for i in order]
    first = found["mistakes"][0]
    image = data.read_image(first["file"], (32, 32, 3))
    np.testing.assert_array_equal(first["image"], image)
    assert (first["label"], first["predicted"]) == (truth[order[0]], scores[order[0]].argmax())


def other_seed(run, tmp_path):
    """The same run, of a recipe that holds out other images."""
    path = tmp_path / "other"
    path.mkdir()
    for file in ("labels.txt", "model.keras"):
        (path / file).write_bytes((run.path / file).read_bytes())
    (path / "recipe.toml").write_text(recipes.to_toml(replace(run.recipe, seed=5)))
    return runs.open_run(path)


def test_members_that_may_have_seen_the_test_images_are_refused(members, photos, tmp_path):
    other = other_seed(members[1], tmp_path)
    for name in (None, str(photos), os.path.relpath(photos)):
        words = r"other \(seed 5\) holds out other test images than .*a "
        with pytest.raises(UsageError, match=words):
            evaluate.open_sources([members[0], other], name)


def test_what_some_members_were_trained_on_is_tested_on_what_these_have_not_seen(
    members, photos, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos, elsewhere)
    stranger = make_run(tmp_path / "stranger", elsewhere)
    (stranger.path / "recipe.toml").write_text(recipes.to_toml(replace(stranger.recipe, seed=5)))
    stranger = runs.open_run(stranger.path)
    held_out = evaluate.open_sources(members[:1])[0].digests["test"]
    for pair in ([members[0], stranger], [stranger, members[0]]):
        sources = evaluate.open_sources(pair, str(photos))
        assert {source.digests["test"] for source in sources} == {held_out}


def test_images_that_no_member_was_trained_on_are_all_tested(members, photos, tmp_path, capsys):
    other = other_seed(members[1], tmp_path)
    shutil.copytree(photos, tmp_path / "new")
    sources = evaluate.open_sources([members[0], other], str(tmp_path / "new"))
    assert sources[0] is sources[1]
    assert sources[0].sizes == {"train": 0, "validation": 0, "test": 90}
    assert capsys.readouterr().err == ""
    shutil.copytree(photos, tmp_path / "split" / "train")
    shutil.copytree(tmp_path / "new", tmp_path / "split" / "test")
    (tmp_path / "split" / "test" / LABELS[0] / "0.png").unlink()
    (source,) = evaluate.open_sources([other], str(tmp_path / "split"))
    assert source.sizes["test"] == 89


def test_a_folder_that_has_changed_since_is_no_test_any_more(members, photos, tmp_path):
    """Splits are drawn from all images: one more may bring ones that were trained on into them."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    run = make_run(tmp_path / "run", folder)
    runs.write_data(run.path, runs.open_data(run.recipe))
    evaluate.open_sources([run])
    shutil.copy(folder / LABELS[0] / "3.png", folder / LABELS[0] / "33.png")
    for name in (None, str(folder)):
        words = r"its test images \(4[56]\) are not those .* \(45\)"
        with pytest.raises(UsageError, match=words):
            evaluate.open_sources([run], name)
    assert call(run.path, "--data", photos).exit_code == 0
    assert call(run.path).exit_code == 2


def test_a_data_set_with_a_test_split_of_its_own_is_the_same_for_all_seeds(digits_dir, tmp_path):
    made = []
    for seed in (0, 1):
        wanted = recipes.Data(name="digits", dir=str(digits_dir), size=32, channels=1)
        path = tmp_path / str(seed)
        path.mkdir()
        (path / "labels.txt").write_text("0\n")
        recipe = recipes.Recipe(seed=seed, data=wanted)
        (path / "recipe.toml").write_text(recipes.to_toml(recipe))
        made.append(runs.open_run(path))
    sources = evaluate.open_sources(made)
    assert [source.sizes["test"] for source in sources] == [360, 360]


def test_members_of_other_classes_are_refused(members, photos, tmp_path):
    other = make_run(tmp_path / "two", photos, labels=("blue", "red"))
    with pytest.raises(UsageError, match="learned 2"):
        evaluate.ensemble([members[0], other], evaluate.open_sources([members[0], other]))


def call(*words):
    return CliRunner().invoke(main, ["evaluate", *map(str, words)])


def test_the_command_says_it_in_json_and_in_words(members):
    paths = [run.path for run in members[1:]]
    found = json.loads(call(*paths, "--ensemble", "--crops", "10", "--json").stdout)
    assert {"accuracy", "top5", "loss", "images", "calibration_error", "reliability"} <= set(found)
    assert (found["crops"], found["scales"], found["flip"]) == ("10", [256], True)
    assert [member["run"] for member in found["members"]] == list(map(str, paths))
    assert set(found["per_class"]) == set(LABELS)
    assert len(found["reliability"]) == 15
    low, high = found["accuracy_interval"]
    assert low < found["accuracy"] < high
    said = call(*paths, "--ensemble", "--crops", "10").stdout
    assert f"accuracy {found['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})" in said
    assert f"calibration error {found['calibration_error']:.2%} on 45 test images" in said
    assert [line.split()[0] for line in said.splitlines()[1:4]] == [*map(str, paths), "together"]
    assert "metrics.json" not in {file.name for run in members for file in run.path.iterdir()}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["A", "B"], "received 2 runs; give one, or several with --ensemble"),
        (["A", "--ensemble"], "received one run"),
        (["A", "--crops", "12"], "allowed are 1, 5, 10, 144, dense"),
        (["A", "--scales", "256;512"], "write whole numbers with commas"),
        (["A", "--crops", "144", "--flip"], "leave out --flip"),
        (["A", "missing", "--ensemble"], "missing does not exist"),
    ],
)
def test_mistakes_get_one_line(words, part, members):
    known = {"A": members[0].path, "B": members[1].path}
    result = call(*(known.get(word, word) for word in words))
    assert result.exit_code == 2
    assert part in result.stderr.strip().splitlines()[-1]
