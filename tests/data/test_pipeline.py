"""Batches: the same for the same seed, whole, in order where they should be, and PIL's pixels."""

import io
import math
import os
from dataclasses import replace
from itertools import chain

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns import data
from keras_cnns.data import fit, images, pipeline
from keras_cnns.errors import UsageError

SHAPE = (12, 12, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 24 images of many sizes; the grey levels name them."""
    root = tmp_path_factory.mktemp("folder")
    for value in range(48):
        path = root / ("even", "odd")[value % 2] / f"{value}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (12 + value % 5, 12 + value % 3), 5 * value).save(path)
    source = data.open_source(str(root), channels=1, validation=1 / 8, test=1 / 8)
    assert source.sizes == {"train": 36, "validation": 6, "test": 6}
    return source


@pytest.fixture(scope="module")
def digits(digits_dir):
    return data.open_source("digits", data_dir=digits_dir)


@pytest.fixture(params=["memory", "stream"])
def either(request, monkeypatch):
    """Small splits are kept in memory, large ones streamed; both must hold what is promised."""
    if request.param == "stream":
        monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    return request.param


def train(source, shape=SHAPE, **options):
    options = {"batch_size": 8, "training": True, **options}
    return data.batches(source, "train", image_shape=shape, **options)


def epoch(dataset, number=0, steps=4):
    """Return the images and labels of an epoch of so many batches."""
    part = dataset.skip(number * steps).take(steps)
    images, labels = zip(*part.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def check_repeatable(source):
    first, again = train(source, augment="crop"), train(source, augment="crop")
    one, two = epoch(first), epoch(first, 1)
    assert same(one, epoch(again))
    assert same(two, epoch(again, 1))
    assert not np.array_equal(one[0], two[0])
    assert not np.array_equal(one[0], epoch(train(source, augment="crop", seed=1))[0])


def test_same_seed_same_batches_and_every_epoch_another(folder, either):
    check_repeatable(folder)


def test_the_same_holds_for_tfds(digits, monkeypatch):
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    check_repeatable(digits)


def test_a_stream_is_shuffled_by_its_own_seed_alone(digits, monkeypatch):
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    found = []
    for seed in (0, 7):
        tf.random.set_seed(seed)
        images, _ = next(train(digits).as_numpy_iterator())
        found.append(images)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 11])
def test_a_training_goes_on_in_the_middle_of_an_epoch(folder, either, step):
    """What a resumed training sees is, to the byte, what the uninterrupted one would have seen."""
    whole = list(train(folder, augment="crop").take(14).as_numpy_iterator())
    rest = train(folder, augment="crop", first_step=step).take(14 - step).as_numpy_iterator()
    for expected, found in zip(whole[step:], rest, strict=True):
        assert same(expected, found)


def test_a_training_goes_on_with_a_streamed_set(digits, monkeypatch):
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    steps = data.steps_per_epoch(digits, 100)
    options = {"augment": "shift", "batch_size": 100}
    whole = list(train(digits, **options).take(steps + 4).as_numpy_iterator())
    for step in (steps - 2, steps + 2):
        rest = train(digits, first_step=step, **options).take(2).as_numpy_iterator()
        for expected, found in zip(whole[step : step + 2], rest, strict=True):
            assert same(expected, found)


def test_what_is_passed_over_is_not_decoded(tmp_path, monkeypatch):
    """The images of the first batches are gone, and nobody asks for them."""
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
    for number in range(12):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (12, 12), number).save(path)
    source = data.open_source(str(tmp_path), channels=1, validation=0, test=0)
    images = epoch(train(source, batch_size=2), steps=6)[0][:, 0, 0, 0].astype(int)
    for number in images[:8]:
        (tmp_path / "ab"[number % 2] / f"{number}.png").unlink()
    rest = epoch(train(source, batch_size=2, first_step=4), steps=2)[0]
    assert rest[:, 0, 0, 0].tolist() == images[8:].tolist()


EVERYTHING = {"randaugment": 9, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}


def test_what_happens_to_an_image_does_not_depend_on_the_batch(folder, either):
    """Batches of 4 and of 12 hold the same bytes, with every kind of change there is."""
    options = {"augment": "crop", "seed": 3, **EVERYTHING}
    few = epoch(train(folder, batch_size=4, **options), steps=9)
    many = epoch(train(folder, batch_size=12, **options), steps=3)
    assert same(few, many)
    assert few[0].min() >= 0
    assert few[0].max() <= 255


def test_nor_does_the_part_that_is_cut_out_of_an_image_in_memory(digits):
    few, many = (train(digits, (32, 32, 1), batch_size=n, augment="vgg") for n in (4, 16))
    assert same(epoch(few, steps=8), epoch(many, steps=2))


def test_nor_does_the_part_that_is_cut_out_of_a_file(tmp_path):
    """On one thread and on several."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        size = (48 + number, 60 - number, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    source = data.open_source(str(tmp_path), validation=0, test=0)
    single = tf.data.Options()
    single.threading.private_threadpool_size = 1
    one = train(source, (32, 32, 3), batch_size=2, augment="inception")
    four = train(source, (32, 32, 3), batch_size=8, augment="inception")
    assert same(epoch(one.with_options(single), steps=4), epoch(four, steps=1))


def photo(height, width):
    """Waves and a little noise: JPEG's own kind of image."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.sin(y / 7), np.sin((x + y) / 11)], -1)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("augment", ["inception", "alexnet", "vgg"])
def test_the_part_is_the_same_whether_sizes_are_known_before_files_are_read(tmp_path, augment):
    for number in range(8):
        path = tmp_path / "ab"[number % 2] / f"{number}.{'jpg' if number < 6 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        photo(60 + 40 * number, 300 - 30 * number).save(path)
    source = data.open_source(str(tmp_path), validation=0, test=0)
    known, unknown = (
        train(each, (32, 32, 3), augment=augment) for each in (source, replace(source, form=None))
    )
    assert same(epoch(known, steps=1), epoch(unknown, steps=1))


@pytest.mark.parametrize(
    ("enough", "ratio"),
    [((129, 1), 1), ((1, 161), 1), ((128, 160), 2), ((65, 1), 2), ((64, 80), 4), ((1, 1), 8)],
)
def test_no_more_of_a_large_jpeg_is_decoded_than_is_needed(enough, ratio):
    """libjpeg's decoding at a part of the size, by PIL, which has `draft` for it."""
    file = io.BytesIO()
    photo(300, 400).save(file, "jpeg", quality=95, subsampling=0)
    top, left, height, width = 16, 32, 256, 320
    window = tf.constant((top, left, height, width))
    found = images.decode_part(tf.constant(file.getvalue()), window, 3, enough=enough).numpy()
    with Image.open(file) as small:
        small.draft("RGB", (400 // ratio, 300 // ratio))
        expected = np.asarray(small)
    assert expected.shape[:2] == (math.ceil(300 / ratio), math.ceil(400 / ratio))
    rows, columns = top // ratio, left // ratio
    expected = expected[rows : rows + height // ratio, columns : columns + width // ratio]
    assert np.array_equal(found, expected)
    # It is what a careful resize would give, but for how sharp it is.
    with Image.open(file) as whole:
        part = whole.crop((left, top, left + width, top + height))
        small = part.resize((found.shape[1], found.shape[0]), Image.Resampling.BOX)
    assert np.abs(found - np.asarray(small, int)).mean() < 2


def test_labels_in_parts_where_images_are_mixed(folder):
    _, labels = train(folder, mixup=0.2).element_spec
    assert (labels.dtype, labels.shape) == (tf.float32, (8, 2))
    found = next(train(folder, cutmix=1.0).as_numpy_iterator())[1]
    assert found.sum(1) == pytest.approx(1)


def test_neither_threads_nor_other_random_numbers_matter(folder):
    expected = epoch(train(folder, augment="crop"))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    tf.random.uniform((3,))
    assert same(epoch(train(folder, augment="crop").with_options(options)), expected)


def test_an_epoch_has_every_image_once(folder, either):
    assert data.steps_per_epoch(folder, 9) == 4
    dataset = train(folder, augment="none", batch_size=9)
    images, labels = epoch(dataset)
    values = images[:, 0, 0, 0].astype(int)
    assert len(set(values)) == len(values) == 36
    assert (values // 5 % 2 == labels).all()


def test_what_does_not_fill_a_batch_waits_for_another_epoch(folder, either):
    dataset = train(folder, augment="none", batch_size=8)
    seen = [epoch(dataset, number)[0][:, 0, 0, 0].tolist() for number in range(3)]
    assert [len(set(values)) for values in seen] == [32, 32, 32]
    assert seen[0] != seen[1] != seen[2]
    assert len(set(chain(*seen))) > 32


def test_a_batch_larger_than_the_split(folder, either):
    assert data.steps_per_epoch(folder, 64) == 1
    assert len(epoch(train(folder, batch_size=64), steps=1)[1]) == 36


def test_validation_comes_in_order_and_whole(folder, either):
    dataset = data.batches(folder, "validation", image_shape=SHAPE, batch_size=4)
    assert dataset.cardinality() == 2
    images, labels = epoch(dataset)
    listed = data.examples(folder, "validation", image_shape=SHAPE, batch_size=5)
    listed = list(listed.as_numpy_iterator())
    assert np.array_equal(np.concatenate([b["image"] for b in listed]), images)
    assert np.array_equal(np.concatenate([b["label"] for b in listed]), labels)
    files = [os.fsdecode(name) for b in listed for name in b["file"]]
    assert files == list(folder.files["validation"])
    assert same(epoch(dataset), (images, labels))


def test_types_and_static_shapes(digits):
    images, labels = train(digits, (32, 32, 3)).element_spec
    assert (images.dtype, labels.dtype) == (tf.float32, tf.int64)
    assert images.shape == (8, 32, 32, 3)
    images, labels = data.batches(
        digits, "test", image_shape=(32, 32, 1), batch_size=8
    ).element_spec
    assert images.shape == (None, 32, 32, 1)


def test_keras_trains_on_it(folder):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    dataset = train(folder)
    history = model.fit(dataset, epochs=2, steps_per_epoch=4, verbose=0, shuffle=False)
    assert len(history.history["loss"]) == 2
    assert int(model.optimizer.iterations.numpy()) == 8


@pytest.mark.parametrize(
    "size", [(375, 500), (500, 375), (64, 64), (33, 200), (30, 40), (224, 224)]
)
@pytest.mark.parametrize("shape", [(224, 224, 3), (32, 32, 3), (48, 32, 3), (32, 32, 1)])
def test_fit_image_is_pils_resize(size, shape):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8))
    image = small.resize(size[::-1], Image.Resampling.BICUBIC)
    height, width, channels = shape
    scale = max(height / size[0], width / size[1])
    large = [max(round(side * scale), least) for side, least in zip(size, shape, strict=False)]
    top, left = (large[0] - height) // 2, (large[1] - width) // 2
    expected = image.convert("L" if channels == 1 else "RGB")
    expected = expected.resize(large[::-1], Image.Resampling.BILINEAR)
    expected = expected.crop((left, top, left + width, top + height))
    expected = np.asarray(expected, np.float32).reshape(shape)
    result = data.fit_image(tf.constant(np.asarray(image)), shape).numpy()
    assert result.shape == shape
    assert (result == np.rint(result)).all()
    difference = np.abs(result - expected)
    assert difference.mean() < 0.5
    assert difference.max() <= 2


def test_fit_image_leaves_the_right_size_alone_and_takes_batches():
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    kept = data.fit_image(tf.constant(images), (20, 24, 3)).numpy()
    assert (kept == images).all()
    together = data.fit_image(tf.constant(images), (10, 10, 1)).numpy()
    for image, fitted in zip(images, together, strict=True):
        assert (data.fit_image(tf.constant(image), (10, 10, 1)).numpy() == fitted).all()


def test_read_image_gives_what_evaluation_gives(folder, tmp_path):
    batch = next(iter(data.examples(folder, "test", image_shape=(9, 7, 1), batch_size=4)))
    for image, name in zip(batch["image"].numpy(), batch["file"].numpy(), strict=True):
        assert (data.read_image(os.fsdecode(name), (9, 7, 1)) == image).all()
    with pytest.raises(UsageError, match=r'cannot read the image ".*none.png": No such file'):
        data.read_image(tmp_path / "none.png", SHAPE)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"augment": "corp"}, 'did you mean "crop"'),
        ({"batch_size": 0}, "data.batch_size"),
    ],
)
def test_mistakes(folder, options, word):
    with pytest.raises(UsageError, match=word):
        train(folder, **options)
    with pytest.raises(UsageError, match="no split"):
        data.batches(folder, "tests", image_shape=SHAPE, batch_size=8)


def test_names_are_loaded_on_use():
    assert all(hasattr(data, name) for name in data.__all__)
    with pytest.raises(AttributeError, match="batchs"):
        _ = data.batchs


def test_photos(photos):
    """Real photographs: what a network sees is PIL's resize of PIL's decoding."""
    for path in sorted(photos.iterdir())[:8]:
        with Image.open(path) as image:
            image = image.convert("RGB")
        scale = 224 / min(image.size)
        width, height = (max(224, round(side * scale)) for side in image.size)
        left, top = (width - 224) // 2, (height - 224) // 2
        expected = image.resize((width, height), Image.Resampling.BILINEAR)
        expected = np.asarray(expected.crop((left, top, left + 224, top + 224)), np.float32)
        difference = np.abs(data.read_image(path, (224, 224, 3)) - expected)
        assert difference.mean() < 0.5
        assert difference.max() <= 2


@pytest.mark.parametrize(("height", "width"), [(64, 48), (61, 47), (16, 120), (8, 10)])
def test_a_training_looks_at_every_pixel(height, width):
    """What is made smaller is the mean of what was there, wherever a bright pixel stands."""
    image = photo(height, width)
    found = fit.resized(tf.constant(np.asarray(image)), (8, 6)).numpy()
    careful = np.asarray(image.resize((6, 8), Image.Resampling.BOX), float)
    assert found.shape == (8, 6, 3)
    assert np.abs(found - careful).mean() < 6
    if (height, width) == (64, 48):  # powers of two: means of squares
        squares = np.asarray(image, float).reshape(8, 8, 6, 8, 3).mean((1, 3))
        assert np.abs(found - squares).max() <= 0.5 + 1e-3


def test_a_long_narrow_image_does_not_swell():
    # Resized whole, it would be 224 x 224,000 pixels.
    image = tf.concat([tf.zeros((1, 20000, 3)), tf.fill((1, 20000, 3), 255.0)], 1)
    found = data.fit_image(image, (224, 224, 3)).numpy()
    assert found.shape == (224, 224, 3)
    # The middle is between the two: the edge stands there, 224 times as wide as a pixel was.
    assert found[0, 0, 0] < 10
    assert found[0, -1, 0] > 245
    assert (np.diff(found[0, :, 0]) >= 0).all()
