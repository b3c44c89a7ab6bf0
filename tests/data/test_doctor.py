"""What is found of every bad image we know of, what is remembered, and what is warned of."""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image, ImageOps

from keras_cnns import cli, data
from keras_cnns.data import images, manifest, verdict
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe, override
from keras_cnns.train import train

_spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
corpus = importlib.util.module_from_spec(_spec)
sys.modules["corpus"] = corpus
_spec.loader.exec_module(corpus)

CASES = corpus.cases()


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    corpus.write(root)
    return root


@pytest.fixture(scope="module")
def diagnosed(bad_folder):
    found = data.diagnose(str(bad_folder))
    return found, {row["file"]: row for row in found["files"]}


@pytest.fixture
def folder(tmp_path):
    """Two classes of six images, all different."""
    root = tmp_path / "folder"
    for value in range(12):
        path = root / ("cat", "dog")[value % 2] / f"{value:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 8), 20 * value).save(path)
    return root


# the corpus


def test_the_corpus_is_large_enough():
    assert len(CASES) >= 40
    assert len({name for name, *_ in CASES}) == len(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[name for name, *_ in CASES])
def test_verdict(number, diagnosed):
    name, _, usable, kinds = CASES[number]
    row = diagnosed[1].get(f"{'ab'[number % 2]}/{name}", {"usable": True, "findings": []})
    assert row["usable"] == usable
    assert tuple(finding["kind"] for finding in row["findings"]) == kinds
    assert all(finding["why"] and "\n" not in finding["why"] for finding in row["findings"])


def test_the_whole_of_it(diagnosed):
    found = diagnosed[0]
    assert found["images"] == len(CASES)
    assert found["usable"] == sum(usable for _, _, usable, _ in CASES)
    assert sum(found["classes"]["train"].values()) == found["usable"]
    assert not found["passed"]
    assert json.loads(json.dumps(found)) == found


def test_what_is_too_large_is_never_decoded(bad_folder, monkeypatch):
    def never(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(verdict, "_check_pixels", never)
    for path in bad_folder.rglob("*bomb.png"):
        assert verdict.look(path).findings[0][0] == "too large"
        with pytest.raises(UsageError, match="64,000,000"):
            data.read_image(path, (32, 32, 3))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    assert verdict.look(tmp_path / "nowhere.png").findings == (
        ("unreadable", "No such file or directory"),
    )
    assert verdict.look(tmp_path).findings[0][0] == "unreadable"
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(verdict.MAX_BYTES + 1)
    assert verdict.look(tmp_path / "huge.jpg").findings[0][0] == "too large"


def test_training_on_all_of_it_ends(bad_folder, tmp_path, capfd):
    settings = ["data.size=32", "data.batch_size=8", "train.epochs=1", "data.augment=inception"]
    recipe = override(Recipe(), [f'data.name="{bad_folder}"', *settings])
    run = train(recipe, tmp_path / "run")
    assert (run.path / "model.keras").is_file()
    bad = sum(not usable for _, _, usable, _ in CASES)
    assert f"left out {bad} of {len(CASES)} images" in capfd.readouterr().err


# orientation


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """The same picture in two formats, stored in each of the eight ways."""
    root = tmp_path_factory.mktemp("turned")
    rough = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    picture = Image.fromarray(rough).resize((50, 32))
    for kind in ("png", "jpg"):
        (root / kind).mkdir()
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture.save(root / kind / f"{orientation}.{kind}", exif=exif)
    return root


def upright(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pils(turned, kind, orientation):
    path = turned / kind / f"{orientation}.{kind}"
    expected = upright(path)
    assert np.array_equal(data.read_whole(path, 3), expected)
    assert verdict.look(path).size == expected.shape[:2]
    bytes_ = tf.constant(path.read_bytes())
    decoded = functools.partial(images.decode_part, bytes_, enough=(1000, 1000))
    whole = decoded(lambda sides: tf.concat([(0, 0), sides], 0), 3, orientation)
    assert np.array_equal(whole, expected)
    part = decoded((4, 10, 20, 25), 3, orientation)
    stored = Image.open(path).crop((10, 4, 35, 24))
    stored.getexif()[0x0112] = orientation
    transposed = np.asarray(ImageOps.exif_transpose(stored))
    difference = np.abs(part.numpy().astype(int) - transposed)
    # JPEG's colours are interpolated over the edge of a part.
    assert (difference[2:-2, 2:-2] if kind == "jpg" else difference).max() == 0


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("augment", ["resized_crop", "vgg"])
def test_what_a_training_cuts_out_is_upright(tmp_path, augment, known):
    """Red grows to the right and green downwards, whichever way the file has them."""
    down, right = np.mgrid[0:60, 0:90]
    shown = np.stack([2 * right, 3 * down, np.zeros_like(down)], -1).astype(np.uint8)
    back = (None, 1, 2, 3, 4, 5, 8, 7, 6)  # what undoes an orientation: 6 and 8 each other
    for orientation in range(1, 9):
        stored = Image.fromarray(shown)
        stored.getexif()[0x0112] = back[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        place = tmp_path / "ab"[orientation % 2] / f"{orientation}.png"
        place.parent.mkdir(exist_ok=True)
        ImageOps.exif_transpose(stored).save(place, exif=exif)
        assert np.array_equal(upright(place), shown)
    source = data.open_source(str(tmp_path), validation=0, test=0)
    assert source.form is not None
    if not known:
        source = dataclasses.replace(source, form=None)
    batches = data.batches(
        source, "train", image_shape=(20, 30, 3), batch_size=8, training=True, augment=augment
    )
    for pixels, _ in batches.take(4):
        means = pixels.numpy().astype(float)
        across = np.diff(means.mean(1), axis=1)  # of rows: how each channel changes to the right
        along = np.diff(means.mean(2), axis=1)
        assert np.all(np.abs(across[..., 0].mean(1)) > 0.5)  # falls where mirrored
        assert np.all(np.abs(across[..., 1]).max(1) < 0.5)
        assert np.all(along[..., 1].mean(1) > 0.5)  # never upside down
        assert np.all(np.abs(along[..., 0]).max(1) < 0.5)


def test_orientation_in_a_training(turned):
    source = data.open_source(str(turned), validation=0, test=0)
    for record in source.dataset("train").as_numpy_iterator():
        assert np.array_equal(record["image"], upright(os.fsdecode(record["file"])))


# what is remembered


@pytest.fixture
def looked_at(monkeypatch):
    seen = []

    def noted(path):
        seen.append(os.path.basename(path))
        return look(path)

    look = verdict.look
    monkeypatch.setattr(verdict, "look", noted)
    return seen


def test_a_second_look_only_takes_what_changed(folder, looked_at):
    before = data.diagnose(str(folder))
    assert len(looked_at) == 12
    looked_at.clear()
    assert data.diagnose(str(folder)) == before
    assert data.open_source(str(folder)).sizes["train"] > 0
    assert looked_at == []
    (folder / "cat" / "00.png").write_text("?")
    os.utime(folder / "dog" / "01.png", (1, 1))
    (folder / "dog" / "03.png").unlink()
    after = data.diagnose(str(folder))
    assert sorted(looked_at) == ["00.png", "01.png"]
    assert (after["images"], after["usable"]) == (11, 10)
    kept = json.loads(manifest.manifest_place(str(folder)).read_text())
    assert len(kept["files"]) == 11


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 0, "files": {}}', '{"version": 2, "files": {"a": 3}}'],
)
def test_a_damaged_memory_is_made_anew(folder, text, looked_at):
    place = manifest.manifest_place(str(folder))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    assert data.diagnose(str(folder))["passed"]
    assert len(looked_at) == 12
    looked_at.clear()
    assert data.diagnose(str(folder))["passed"]
    assert looked_at == []


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "")])
def test_what_could_not_be_read_is_looked_at_again(folder, monkeypatch, looked_at, error):
    def decode(pixels, channels):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(verdict, "decode", decode)
        found = data.diagnose(str(folder))
    assert found["usable"] == 0
    assert verdict.NO_MEMORY in json.dumps(found)
    looked_at.clear()
    assert data.diagnose(str(folder))["usable"] == len(looked_at) == 12


def test_what_was_seen_before_an_interruption_is_kept(folder, monkeypatch, looked_at):
    noted = verdict.look

    def interrupted(path):
        if path.endswith("07.png"):
            raise KeyboardInterrupt
        return noted(path)

    monkeypatch.setattr(verdict, "look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.diagnose(str(folder))
    monkeypatch.setattr(verdict, "look", noted)
    looked_at.clear()
    assert data.diagnose(str(folder))["images"] == 12
    assert 0 < len(looked_at) < 12


def test_nothing_is_written_into_the_folder_and_no_cache_is_no_obstacle(
    folder, monkeypatch, tmp_path, capsys
):
    before = sorted(folder.rglob("*"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert data.diagnose(str(folder))["passed"]
    assert sorted(folder.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot keep what was found" in line


# what is warned of


def warned(folder, *words):
    found = data.diagnose(str(folder))
    assert not found["passed"]
    assert any(all(word in line for word in words) for line in found["warnings"]), found["warnings"]
    return found


def test_a_sound_folder(folder):
    found = data.diagnose(str(folder))
    assert found["passed"]
    assert found["classes"] == {"train": {"cat": 6, "dog": 6}}
    assert not any(found[key] for key in ("warnings", "files", "duplicates", "ignored"))


def test_empty_and_single_classes(folder):
    (folder / "cow").mkdir()
    warned(folder, 'class "cow" has no images')
    (folder / "cow").rmdir()
    shutil.rmtree(folder / "dog")
    warned(folder, 'one class, "cat"')


def test_unbalanced_classes(folder):
    for value in range(60):
        Image.new("L", (9, 8 + value), 77).save(folder / "cat" / f"more {value}.png")
    warned(folder, "unbalanced", '"cat" has 66', '"dog" 6')


def test_duplicates(folder):
    shutil.copy(folder / "cat" / "00.png", folder / "cat" / "again.png")
    found = warned(folder, "more than once", "cat/00.png = cat/again.png")
    assert found["duplicates"] == [["cat/00.png", "cat/again.png"]]
    shutil.copy(folder / "dog" / "01.png", folder / "cat" / "a dog.png")
    warned(folder, "in two classes", "cat/a dog.png = dog/01.png")


def test_test_images_that_stand_in_train(folder, tmp_path, capsys):
    root = tmp_path / "split"
    shutil.copytree(folder, root / "train")
    for label in ("cat", "dog"):
        (root / "test" / label).mkdir(parents=True)
        Image.new("L", (5, 5), 50 + len(label)).save(root / "test" / label / f"{label}.png")
    Image.new("L", (5, 5), 99).save(root / "test" / "dog" / "dog.png")
    assert data.diagnose(str(root))["passed"]
    shutil.copy(root / "train" / "cat" / "00.png", root / "test" / "cat" / "leak.png")
    found = warned(root, "1 test images stand in train", "test/cat/leak.png = train/cat/00.png")
    assert found["leaks"] == [["test/cat/leak.png", "train/cat/00.png"]]
    data.open_source(str(root))
    assert "stand in train" in capsys.readouterr().err


def test_a_cut_that_parts_duplicates_is_told(folder, capsys):
    for path in sorted(folder.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    data.open_source(str(folder), test=0.3)
    assert "test images stand in train" in capsys.readouterr().err


def test_what_is_not_taken_for_an_image(folder, capsys):
    (folder / "cat" / "scan.tiff").write_text("")
    (folder / "cat" / "notes").write_text("")
    (folder / "cat" / ".hidden").write_text("")
    (folder / "dog" / "more").mkdir()
    found = warned(folder, f"not taken: dog{os.sep}more{os.sep}, cat{os.sep}notes, ", "scan.tiff")
    assert found["ignored"] == {".tiff": 1, "other": 3}
    data.open_source(str(folder))
    assert f"not taken: dog{os.sep}more{os.sep}, " in capsys.readouterr().err


def test_a_split_by_another_name_is_told(folder, tmp_path):
    root = tmp_path / "split"
    shutil.copytree(folder, root / "train")
    shutil.copytree(folder, root / "valid")
    (root / ".hidden").mkdir()
    warned(root, f"not taken: valid{os.sep}; images are files in the folder of a class")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([], "it is empty"),
        (["train/cat", "train/dog", "test/"], "the test folder is empty"),
        (["train/cat", "train/dog", "test/cow"], 'class "cow" (test) is not a class of train'),
        (["train/cat", "train/dog", "test/dog!"], 'class "dog" (test) has no images that can be'),
        (["cat"], 'one class, "cat"'),
    ],
)
def test_what_a_training_refuses_does_not_pass(tmp_path, made, words):
    root = tmp_path / "folder"
    root.mkdir()
    for number, place in enumerate(made):
        (root / place.rstrip("!")).mkdir(parents=True)
        if not place.endswith(("/", "!")):
            Image.new("L", (9, 8), 20 * number).save(root / place / "1.png")
    warned(root, words)
    with pytest.raises(UsageError, match=re.escape(words)):
        data.open_source(str(root))


# the command


def command(*arguments):
    return CliRunner().invoke(cli.main, ["doctor", *map(str, arguments)])


def test_exit_codes(folder):
    assert command(folder, "--strict").exit_code == 0
    (folder / "cat" / "00.png").write_text("?")
    assert command(folder).exit_code == 0
    assert command(folder, "--strict").exit_code == 1
    assert command("digits").exit_code == 2
    assert "is not a folder" in command("digits").output
    assert command(folder / "nothing").exit_code == 2


def test_a_strict_training_does_not_begin(folder, tmp_path):
    (folder / "cat" / "00.png").write_text("?")
    words = ["train", "lenet5", "--data", folder, "--out", tmp_path / "run", "--strict"]
    result = CliRunner().invoke(cli.main, [*map(str, words)])
    assert result.exit_code == 2
    assert "1 images that cannot be used and 0 warnings; keras-cnns doctor" in result.output
    words[3] = "digits"
    result = CliRunner().invoke(cli.main, [*map(str, words)])
    assert result.exit_code == 2
    assert '--strict: "digits" is not a folder' in result.output
    assert not (tmp_path / "run").exists()


def test_what_the_command_prints(folder):
    (folder / "cat" / "00.png").write_text("?")
    (folder / "cat" / "scan.tiff").write_text("")
    shutil.copy(folder / "dog" / "01.png", folder / "dog" / "again.png")
    lines = command(folder).output.splitlines()
    assert lines[0].split() == ["file", "kind", "why"]
    assert lines[1].startswith("cat/00.png  no image  it is not a JPEG")
    assert lines[1].endswith("LEFT OUT")
    assert lines[2].startswith("warning: not taken: cat/scan.tiff; images are files in the folder")
    assert lines[3].startswith("warning: the same image is there more than once: dog/01.png = ")
    assert lines[4] == "13 images in 2 classes: 1 cannot be used, 2 warnings"
    found = json.loads(command(folder, "--json").output)
    assert found == data.diagnose(str(folder))
