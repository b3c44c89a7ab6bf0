"""What predict says of images, and the submissions that it writes."""

import csv
import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import keras_cnns
from keras_cnns import crops, data, predict, recipe as recipes, submission
from keras_cnns.cli import main
from keras_cnns.data import verdict
from keras_cnns.errors import UsageError

LABELS = ("cat", "dog", "eel")


def make_run(path, seed, size=32):
    keras.utils.set_random_seed(seed)
    wanted = recipes.Data(name="photos", size=size, channels=3)
    recipe = recipes.Recipe(model=recipes.Model(name="lenet5"), data=wanted)
    model = keras_cnns.build(
        "lenet5", input_shape=wanted.image_shape, num_classes=3, preprocessing="symmetric"
    )
    path.mkdir()
    (path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (path / "recipe.toml").write_text(recipes.to_toml(recipe))
    model.save(path / "model.keras")
    return path


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "a", 0), make_run(root / "b", 1, size=40)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i in range(1, 6):
        pixels = draw.integers(0, 256, (36, 44 + i, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


def call(*words):
    return CliRunner().invoke(main, ["predict", *map(str, words), "--precision", "float32"])


def done(*words):
    result = call(*words)
    assert result.exit_code == 0, result.stderr[-2000:]
    return result


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def opened(path, views=crops.PLAIN):
    return predict.open_classifier(path, precision="float32", views=views)


@pytest.mark.parametrize("words", [("5",), ("10",), ("144", [256]), ("dense", [256, 288])])
def test_crops_are_those_of_evaluate(words, members, photos):
    views = crops.views(*words)
    files = predict.image_files([photos])
    found = predict.probabilities([opened(members[0], views)], files, views=views)
    classifier, image = opened(members[0], views), np.asarray(Image.open(files[3]))
    if views.dense:
        parts = [crops.whole(image, side, 3)[None] for side in crops.sides(views, 32)]
    else:
        parts = [crops.cut(image, views, (32, 32, 3))]
    flips = (1, -1) if views.flip else (1,)
    seen = [classifier.run(part.numpy()[:, :, ::flip]) for part in parts for flip in flips]
    np.testing.assert_allclose(found[3], np.concatenate(seen).mean(0), atol=1e-6)


def test_a_photo_taken_upright_is_seen_upright(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    image.save(tmp_path / "lying.jpg")
    exif = Image.Exif()
    exif[274] = 6  # turn it right
    image.save(tmp_path / "upright.jpg", exif=exif)
    lying, upright = (
        data.read_whole(tmp_path / f"{name}.jpg", 3).numpy() for name in ("lying", "upright")
    )
    np.testing.assert_array_equal(upright, np.rot90(lying, -1))


@pytest.mark.parametrize("views", [crops.PLAIN, crops.views("5")])
def test_each_image_is_looked_at_once(views, members, photos, monkeypatch):
    looked_at, look = [], verdict._looked_at

    def noted(image, *arguments):
        looked_at.append(image.size)
        return look(image, *arguments)

    monkeypatch.setattr(verdict, "_looked_at", noted)
    files = predict.image_files([photos])
    predict.probabilities([opened(path, views) for path in members], files, views=views)
    assert len(looked_at) == len(files) == 5


def test_an_ensemble_is_the_mean_of_its_members(members, photos):
    files = predict.image_files([photos])
    each = [predict.probabilities([opened(path)], files) for path in members]
    rows = json.loads(done(*members, photos, "--ensemble", "--top", "3", "--json").stdout)
    for row, scores in zip(rows, np.mean(each, 0), strict=True):
        assert [g["label"] for g in row["top"]] == [LABELS[i] for i in np.argsort(-scores)]
        assert [g["score"] for g in row["top"]] == pytest.approx(sorted(scores, reverse=True))


def test_a_submission_has_a_row_for_each_image_with_its_class(members, photos, tmp_path):
    rows = json.loads(done(members[0], photos, "--csv", tmp_path / "s.csv", "--json").stdout)
    labels = [row["top"][0]["label"] for row in rows]
    assert read(tmp_path / "s.csv") == [
        ["id", "label"],
        *([str(i), label] for i, label in enumerate(labels, 1)),
    ]


def test_kaggle_s_digit_recognizer_names_its_columns(members, photos, tmp_path):
    # https://www.kaggle.com/c/digit-recognizer: ImageId,Label and a digit for each image.
    done(members[0], photos, "--csv", tmp_path / "s.csv", "--columns", "ImageId,Label")
    header, *rows = (tmp_path / "s.csv").read_text().splitlines()
    assert header == "ImageId,Label"
    assert [row.split(",")[0] for row in rows] == list("12345")


def test_kaggle_s_dogs_vs_cats_wants_the_probability_of_a_dog(members, photos, tmp_path):
    # https://www.kaggle.com/c/dogs-vs-cats-redux-kernels-edition: id,label, the chance of a dog.
    words = ("--csv-format", "probabilities", "--columns", "id,label=dog")
    done(*members, photos, "--ensemble", "--crops", "10", "--csv", tmp_path / "s.csv", *words)
    views = crops.views("10")
    files = predict.image_files([photos])
    both = [opened(path, views) for path in members]
    scores = predict.probabilities(both, files, views=views)
    header, *rows = read(tmp_path / "s.csv")
    assert header == ["id", "label"]
    assert [float(row[1]) for row in rows] == pytest.approx(scores[:, 1].tolist())


def test_probabilities_have_a_column_for_each_class(members, photos, tmp_path):
    words = ("--csv-format", "probabilities", "--ids", "name")
    done(members[0], photos, "--csv", tmp_path / "s.csv", *words)
    header, *rows = read(tmp_path / "s.csv")
    assert header == ["id", *LABELS]
    assert [row[0] for row in rows] == [f"{i}.png" for i in range(1, 6)]
    assert [sum(map(float, row[1:])) for row in rows] == pytest.approx([1] * 5, abs=1e-5)
    done(members[0], photos, "--csv", tmp_path / "t.csv", *words, "--columns", "image,eel,cat")
    assert read(tmp_path / "t.csv") == [
        ["image", "eel", "cat"],
        *([row[0], row[3], row[1]] for row in rows),
    ]


def test_the_long_table_has_a_row_for_each_guess(members, photos, tmp_path):
    words = ("--csv-format", "table", "--top", "2", "--json")
    rows = json.loads(done(members[0], photos, "--csv", tmp_path / "s.csv", *words).stdout)
    assert read(tmp_path / "s.csv") == [
        ["file", "rank", "label", "score"],
        *(
            [row["file"], str(rank), guess["label"], str(guess["score"])]
            for row in rows
            for rank, guess in enumerate(row["top"], 1)
        ),
    ]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["A", "PHOTOS", "--csv-format", "table"], "are for --csv FILE"),
        (["A", "PHOTOS", "--csv", "OUT", "--csv-format", "long"], "labels, probabilities, table"),
        (["A", "PHOTOS", "--csv", "OUT", "--ids", "number"], "allowed are stem, name, path"),
        (["A", "PHOTOS", "--csv", "OUT", "--columns", "id"], "wants two, each another"),
        (["A", "PHOTOS", "--csv", "OUT", "--columns", "id,id"], "each another"),
        (["A", "PHOTOS", "--csv", "OUT", "--csv-format", "table", "--ids", "name"], "leave out"),
        (
            ["A", "PHOTOS", "--csv", "OUT", "--csv-format", "probabilities", "--columns", "id,dgo"],
            'no class "dgo" for the column "dgo": write NAME=CLASS; did you mean "dog"?',
        ),
        (["A", "PHOTOS", "PHOTOS/1.png", "--csv", "OUT"], 'have the same id "1"'),
        (["A", "PHOTOS", "--ensemble"], "received 1 runs or artifacts and 1 images"),
        (["A", "B", "--ensemble"], "received 2 runs or artifacts and 0 images"),
        (["A", "PHOTOS", "--crops", "11"], "allowed are 1, 5, 10, 144, dense"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line_and_write_nothing(words, part, members, photos, tmp_path):
    known = {"A": members[0], "B": members[1], "PHOTOS": photos, "OUT": tmp_path / "s.csv"}
    known["PHOTOS/1.png"] = photos / "1.png"
    result = call(*(known.get(word, word) for word in words))
    assert result.exit_code == 2
    assert part in result.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "s.csv").exists()


def test_models_of_other_classes_are_no_ensemble():
    one, other = (predict.Classifier(None, (32, 32, 3), labels) for labels in ("ab", "bc"))
    with pytest.raises(UsageError, match="of the same classes"):
        predict.probabilities([one, other], [])


def test_columns_of_probabilities_may_be_renamed():
    wanted = submission.submission("probabilities", ["img", "c0=cat", "c1=dog"])
    assert submission.class_columns(wanted, LABELS) == {"c0": 0, "c1": 1}
