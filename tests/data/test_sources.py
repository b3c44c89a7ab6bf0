"""What counts as a source, how it is cut, and what each mistake is answered."""

import os
import subprocess
import sys
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from keras_cnns.data import SPLITS, images, open_source, source, tfds_sets, verdict
from keras_cnns.errors import UsageError


def picture(path, value=0, size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P") else (value,) * len(mode)).save(
        path, **options
    )


@pytest.fixture
def folder(tmp_path):
    """Three classes of 20, 10 and 10 images, each image of its own grey."""
    root = tmp_path / "animals"
    value = 0
    for label, count in (("cat", 20), ("dog", 10), ("zébre", 10)):
        for number in range(count):
            picture(root / label / f"{number:02} ü.png", value)
            value += 1
    return root


def grey_values(source, split):
    return [int(e["image"][0, 0, 0]) for e in source.dataset(split).as_numpy_iterator()]


def refused(*words, **options):
    """Expect a UsageError of one line with these words in it."""

    class Expectation:
        def __enter__(self):
            self.raises = pytest.raises(UsageError)
            self.info = self.raises.__enter__()

        def __exit__(self, *exception):
            result = self.raises.__exit__(*exception)
            message = str(self.info.value)
            assert "\n" not in message
            assert all(word in message for word in words), message
            return result

    return Expectation()


# folders: what they give


def test_folder_is_cut_whole_disjoint_and_stratified(folder):
    source = open_source(str(folder), validation=0.2, test=0.2, seed=3)
    assert source.labels == ("cat", "dog", "zébre")
    assert source.sizes == {"train": 25, "validation": 7, "test": 8}
    values = {split: grey_values(source, split) for split in SPLITS}
    assert sorted(chain(*values.values())) == list(range(40))
    labels = [int(e["label"]) for e in source.dataset("test").as_numpy_iterator()]
    assert Counter(labels) == {0: 4, 1: 2, 2: 2}


def test_records_carry_their_files_in_the_order_of_files(folder):
    source = open_source(str(folder))
    records = list(source.dataset("train").as_numpy_iterator())
    assert [os.fsdecode(r["file"]) for r in records] == list(source.files["train"])
    for record in records:
        name = os.fsdecode(record["file"])
        assert source.labels[record["label"]] == os.path.basename(os.path.dirname(name))
        assert record["image"].dtype == np.uint8
        assert (record["image"] == np.asarray(Image.open(name))).all()


def test_seed_decides_the_cut_and_a_new_class_leaves_the_others_alone(folder):
    def held(seed):
        return set(open_source(str(folder), seed=seed).files["test"])

    first = held(0)
    assert held(0) == first
    assert held(1) != first
    for number in range(10):
        picture(folder / "cow" / f"{number}.png")
    assert {name for name in held(0) if f"{os.sep}cow{os.sep}" not in name} == first


def test_a_split_has_a_digest_of_its_images_wherever_the_folder_stands(folder, tmp_path):
    before = open_source(str(folder))
    moved = open_source(str(folder.rename(tmp_path / "elsewhere")))
    assert moved.digests == before.digests
    assert len(set(before.digests.values())) == 3
    assert open_source(moved.name, seed=1).digests["test"] != before.digests["test"]
    picture(tmp_path / "elsewhere" / "cat" / "00 ü.png", 200)
    changed = open_source(moved.name).digests
    assert sum(changed[split] != before.digests[split] for split in changed) == 1


def test_first_images_of_a_split_are_of_several_classes(folder):
    first = list(open_source(str(folder)).dataset("train").as_numpy_iterator())[:12]
    assert len({int(record["label"]) for record in first}) == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("train", "test"), {"train": 36, "validation": 4, "test": 40}),
        (("train", "test", "validation"), {"train": 40, "validation": 40, "test": 40}),
        (("train", "test", "val"), {"train": 40, "validation": 40, "test": 40}),
        (("train", "val"), {"train": 36, "validation": 4, "test": 40}),
        (("train",), {"train": 32, "validation": 4, "test": 4}),
    ],
)
def test_folders_own_splits(folder, tmp_path, given, expected):
    root = tmp_path / "split"
    root.mkdir()
    for name in given:
        (root / name).symlink_to(folder)
    assert open_source(str(root)).sizes == expected
    files = [open_source(str(root), seed=seed).files for seed in (0, 1)]
    for split in SPLITS:
        own = split != "train" and expected[split] == 40
        assert (files[0][split] == files[1][split]) == own


def test_train_may_be_a_class(tmp_path):
    for label in ("bus", "train"):
        for number in range(4):
            picture(tmp_path / label / f"{number}.png")
    assert open_source(str(tmp_path)).labels == ("bus", "train")


def test_training_works_without_the_test_images(folder, tmp_path):
    root = tmp_path / "split"
    root.mkdir()
    (root / "train").symlink_to(folder)
    for label in ("cat", "dog"):
        picture(root / "test" / label / "1.png")
    source = open_source(str(root))
    for label in ("cat", "dog"):
        (root / "test" / label / "1.png").unlink()
    assert len(grey_values(source, "train")) + len(grey_values(source, "validation")) == 40


def test_other_entries_are_left_out_and_counted(folder):
    (folder / "README.md").write_text("about")
    (folder / ".cache").mkdir()
    (folder / "cat" / "notes.txt").write_text("")
    (folder / "cat" / "._00 ü.png").write_text("")
    picture(folder / "cat" / "deeper" / "1.png")
    before = open_source(str(folder))
    assert before.ignored == 5
    assert sum(before.sizes.values()) == 40
    picture(folder / "cat" / "LOUD.JPG", format="JPEG")
    assert sum(open_source(str(folder)).sizes.values()) == 41


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_image_goes_through(tmp_path, channels):
    """Grey, 16 bits, palettes, CMYK, alpha, animations, a wrong suffix."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, (9, 12), np.uint16))
    kinds = {
        "rgb.jpg": colour,
        "grey.jpeg": colour.convert("L"),
        "cmyk.jpg": colour.convert("CMYK"),
        "palette.png": colour.convert("P"),
        "grey alpha.png": colour.convert("LA"),
        "alpha.png": colour.convert("RGBA"),
        "bits.png": colour.convert("1"),
        "wide.png": wide,
        "grey.bmp": colour.convert("L"),
        "rgb.bmp": colour,
        "still.gif": colour.convert("P"),
        "still.webp": colour,
        "alpha.webp": colour.convert("RGBA"),
    }
    for label in ("one", "two"):
        for name, image in kinds.items():
            (tmp_path / label).mkdir(exist_ok=True)
            image.save(tmp_path / label / name)
        colour.save(tmp_path / label / "moves.gif", save_all=True, append_images=[colour] * 2)
        colour.save(tmp_path / label / "progressive.jpg", progressive=True)
        colour.save(tmp_path / label / "jpeg really.png", format="JPEG")
    source = open_source(str(tmp_path), channels=channels)
    seen = {}
    for split in SPLITS:
        for record in source.dataset(split).as_numpy_iterator():
            assert record["image"].shape == (9, 12, channels)
            seen[os.path.basename(os.fsdecode(record["file"]))] = record["image"]
    assert len(seen) == len(kinds) + 3
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    for name in ("rgb.jpg", "alpha.png", "palette.png", "rgb.bmp", "still.gif"):
        with Image.open(tmp_path / "one" / name) as image:
            expected = np.asarray(image.convert(mode)).reshape(9, 12, channels)
        difference = np.abs(seen[name].astype(int) - expected)
        assert difference.max() <= 1, name
    assert np.abs(seen["wide.png"][..., 0].astype(int) - np.asarray(wide) // 256).max() <= 1


@pytest.mark.parametrize("lost", [0, 1, 2, 3, 20, 2000])
@pytest.mark.parametrize("side", [8, 200])
def test_what_passes_the_check_can_be_decoded(tmp_path, side, lost):
    """TensorFlow by itself refuses a JPEG that lacks its last two bytes, which PIL may not mind."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) - lost])
    usable = verdict.look(tmp_path / "1.jpg").usable
    assert lost or usable
    if usable:
        assert images.decode((tmp_path / "1.jpg").read_bytes(), 3).shape == (side, side, 3)
    assert not usable or lost < 2000


def test_file_names_need_not_be_text(folder):
    name = os.fsencode(folder / "cat") + b"/\xff\xfe.png"
    os.rename(os.fsencode(folder / "cat" / "00 ü.png"), name)
    source = open_source(str(folder), validation=0, test=0)
    files = [record["file"] for record in source.dataset("train").as_numpy_iterator()]
    assert name in files


# folders: what is refused


def test_missing_folder():
    with refused('no folder "no/such/folder"', "digits or a TFDS"):
        open_source("no/such/folder")


def test_empty_folder(tmp_path):
    with refused("is empty", "sub-folder"):
        open_source(str(tmp_path))


def test_flat_folder(tmp_path):
    picture(tmp_path / "1.png")
    with refused("has no sub-folders"):
        open_source(str(tmp_path))


def test_one_class(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    with refused('one class, "cat"', "at least two"):
        open_source(str(tmp_path))


def test_class_without_images(folder):
    (folder / "cow").mkdir()
    (folder / "cow" / "1.tiff").write_text("")
    with refused('class "cow"', "no images", ".webp"):
        open_source(str(folder))


def test_class_of_test_that_train_lacks(folder, tmp_path):
    root = tmp_path / "split"
    root.mkdir()
    (root / "train").symlink_to(folder)
    picture(root / "test" / "dogs" / "1.png")
    with refused('class "dogs"', "(test)", 'did you mean "dog"'):
        open_source(str(root))


def test_empty_test_folder(folder, tmp_path):
    root = tmp_path / "split"
    (root / "test").mkdir(parents=True)
    (root / "train").symlink_to(folder)
    with refused("test folder", "is empty"):
        open_source(str(root))


def test_a_class_of_nothing_but_bad_images(folder):
    for path in (folder / "dog").iterdir():
        path.write_text("?")
    with refused('class "dog"', "no images that can be used", "left out 10 of 40", "not a JPEG"):
        open_source(str(folder))


def test_bad_images_are_left_out_and_named(folder, tmp_path, capsys):
    for number in range(5):
        (folder / "dog" / f"{number:02} ü.png").write_text("?" * number)
    source = open_source(str(folder), validation=0, test=0)
    assert source.sizes["train"] == 35
    assert len(grey_values(source, "train")) == 35
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"{folder}: left out 5 of 40 images: dog{os.sep}00 ü.png (it is empty), "
    )
    assert line.endswith("and 2 more")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"validation": 1.0}, "data.validation"),
        ({"test": -0.1}, "data.test"),
        ({"channels": 2}, "data.channels"),
    ],
)
def test_options_out_of_range(folder, options, word):
    with refused(word):
        open_source(str(folder), **options)


def test_splits_that_are_not_there(folder):
    source = open_source(str(folder), test=0)
    with refused("no test images", "data.test"):
        source.dataset("test")
    with refused('no split "tset"'):
        source.dataset("tset")


def test_mistakes_are_found_before_tensorflow(folder):
    """In a process of its own, as other tests have imported it here."""
    (folder / "cow").mkdir()
    code = """
import sys
from keras_cnns.data import open_source
from keras_cnns.errors import UsageError
for name in sys.argv[1:]:
    try:
        open_source(name, data_dir="nowhere")
    except UsageError as error:
        print(error)
print("tensorflow" in sys.modules, "keras" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(folder), "no/folder", "cifr10", "cifar10"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert len(lines) == 6
    assert 'class "cow"' in lines[0]
    assert lines[4] == "False False"


# TFDS


class ToySorted(tfds.core.GeneratorBasedBuilder):
    """Grey images 0 to 99, stored in the order of their four classes; no test split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=(None, None, 1)),
                    "kind": tfds.features.ClassLabel(num_classes=4),
                }
            ),
            supervised_keys=("picture", "kind"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for value in range(100):
            yield value, {"picture": np.full((5, 7, 1), value, np.uint8), "kind": value // 25}


class ToyText(tfds.core.GeneratorBasedBuilder):
    """Not images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("text", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "a", "label": 0}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    place = tmp_path_factory.mktemp("toys")
    for builder in (ToySorted, ToyText):
        builder(data_dir=place).download_and_prepare(download_dir=place / "none")
    return place


@pytest.mark.parametrize("seed", [0, 1])
def test_sorted_set_is_cut_at_random(toys, seed):
    source = open_source("toy_sorted", data_dir=toys, validation=0.2, test=0.2, seed=seed)
    assert source.sizes == {"train": 64, "validation": 16, "test": 20}
    values = {split: grey_values(source, split) for split in SPLITS}
    assert sorted(chain(*values.values())) == list(range(100))
    assert {len(values[split]) for split in SPLITS} == {64, 16, 20}
    assert len({value // 25 for value in values["validation"]}) > 2
    assert source.dataset("validation").cardinality() == 16


def test_a_set_of_the_same_name_and_version_with_other_images_has_other_digests(
    toys, tmp_path, monkeypatch
):
    def digests(place):
        ToySorted(data_dir=place).download_and_prepare(download_dir=place / "none")
        return open_source("toy_sorted", data_dir=place).digests

    examples = list(ToySorted._generate_examples(None))
    noisy = np.random.default_rng(0).integers(0, 256, (5, 7, 1), np.uint8)
    before = open_source("toy_sorted", data_dir=toys).digests
    assert digests(tmp_path / "again") == before
    examples[3][1]["picture"] = noisy
    monkeypatch.setattr(ToySorted, "_generate_examples", lambda self: iter(examples))
    after = digests(tmp_path / "changed")
    assert all(after[split] != before[split] for split in SPLITS)


def test_all_of_a_set_may_be_its_test(toys):
    found = open_source("toy_sorted", data_dir=toys, validation=0, test=1)
    assert found.sizes == {"train": 0, "validation": 0, "test": 100}
    assert sorted(int(each) for each in grey_values(found, "test")) == list(range(100))


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_validation_comes_from_train(digits_dir, seed):
    source = open_source("digits", data_dir=digits_dir, seed=seed)
    assert source.sizes == {"train": 1293, "validation": 144, "test": 360}
    assert source.labels == tuple("0123456789")
    assert source.channels == 1
    images = {
        split: [r["image"] for r in source.records(split).as_numpy_iterator()] for split in SPLITS
    }
    assert {split: len(found) for split, found in images.items()} == source.sizes
    pixels = [set(found) for found in images.values()]
    assert len(set.union(*pixels)) == sum(map(len, pixels))
    first = open_source("digits", data_dir=digits_dir, seed=0).records("validation")
    same = images["validation"] == [r["image"] for r in first.as_numpy_iterator()]
    assert same == (seed == 0)


@pytest.mark.parametrize(
    ("name", "totals", "expected"),
    [
        ("mnist", {"train": 100, "test": 7}, {"train": 90, "validation": 10, "test": 7}),
        (
            "flowers",
            {"train": 100, "validation": 5, "test": 7},
            {"train": 100, "validation": 5, "test": 7},
        ),
        ("food", {"train": 100, "validation": 5}, {"train": 90, "validation": 10, "test": 5}),
        ("single", {"train": 100}, {"train": 81, "validation": 9, "test": 10}),
        (
            "imagenet2012:5.1.0",
            {"train": 100, "validation": 5, "test": 7},
            {"train": 90, "validation": 10, "test": 5},
        ),
        ("tiny", {"train": 2}, {"train": 1, "validation": 0, "test": 1}),
    ],
)
def test_which_images_make_up_a_split(name, totals, expected):
    cut = source.Cut(0.1, 0.1, 0)
    parts = tfds_sets._parts(name, totals, cut)
    assert {split: part.count for split, part in parts.items()} == expected
    rows = [
        (part.start + i) % part.total
        for part in parts.values()
        if part.split == "train"
        for i in range(part.count)
    ]
    assert sorted(rows) == list(range(totals["train"]))
    if name.startswith("imagenet"):
        assert parts["test"].split == "validation"


def test_channels_are_converted(digits_dir):
    source = open_source("digits", data_dir=digits_dir, channels=3)
    image = next(source.dataset("test").as_numpy_iterator())["image"]
    assert image.shape == (32, 32, 3)
    assert (image[..., :1] == image).all()
    with refused("data.channels is 4"):
        open_source("digits", data_dir=digits_dir, channels=4)


def test_unknown_set(toys):
    with refused('no data set "cifr10"', "digits", 'did you mean "cifar10"'):
        open_source("cifr10", data_dir=toys)
    with refused('did you mean "digits"'):
        open_source("Digit", data_dir=toys)
    with refused("no data set", "toy_sorted"):
        open_source("toysorted", data_dir=toys)


def test_set_that_is_not_prepared(toys):
    with refused('"cifar100" is not in', str(toys), "--data-dir", "tfds.load('cifar100'"):
        open_source("cifar100", data_dir=toys)
    with refused("is not in", "tfds.load('imagenet_resized/8x8'"):
        open_source("imagenet_resized/8x8", data_dir=toys)
    assert not (toys / "cifar100").exists()


def test_version_that_is_not_there(toys):
    with refused('cannot open the TFDS set "mnist:9.9.9"'):
        open_source("mnist:9.9.9", data_dir=toys)


def test_set_without_images(toys):
    with refused('"toy_text"', "supervised keys", "text"):
        open_source("toy_text", data_dir=toys)


def test_data_dir_from_the_environment(toys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(toys))
    assert open_source("toy_sorted").sizes["test"] == 10


def test_folder_wins_where_one_has_the_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.parent / "mnist")
    assert open_source("mnist").labels[0] == "cat"


@pytest.mark.parametrize(
    ("name", "train", "channels"), [("mnist", 60_000, 1), ("cifar10", 50_000, 3)]
)
def test_known_sets(needs_tfds, name, train, channels):
    """A tenth of train is held out, and it is a fair sample: chi-squared below 28 at 9 degrees."""
    source = open_source(name, data_dir=needs_tfds(name))
    assert source.sizes == {"train": train * 9 // 10, "validation": train // 10, "test": 10_000}
    assert source.channels == channels
    labels = [int(r["label"]) for r in source.records("validation").as_numpy_iterator()]
    counts = np.bincount(labels, minlength=10)
    assert len(labels) == train // 10
    assert ((counts - len(labels) / 10) ** 2 / (len(labels) / 10)).sum() < 28 + 9
