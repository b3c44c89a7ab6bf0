"""Crops lie where the papers say, at the scale that they say."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns import classifier, crops, data
from keras_cnns.errors import UsageError

SHAPE = (28, 28, 3)  # of which 32 is the scale 256


def places(height, width):
    """An image whose pixels say where they are: row, column, 0."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def corners(parts):
    return [tuple(part[0, 0, :2].tolist()) for part in np.asarray(parts)]


def cut(image, *words, shape=SHAPE, **options):
    return crops.cut(tf.constant(image), crops.views(*words, **options), shape).numpy()


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(32, 32, 0, 0), (32, 48, 0, 8), (48, 32, 8, 0)]
)
def test_krizhevsky_s_five_are_the_corners_and_the_centre_of_the_central_square(
    height, width, top, left
):
    wanted = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    found = cut(places(height, width), "5")
    assert found.shape == (5, *SHAPE)
    assert corners(found) == [(top + y, left + x) for y, x in wanted]
    # All of a crop, not its corner alone.
    np.testing.assert_array_equal(found[3], places(height, width)[top + 4 :, left + 4 :][:28, :28])
    np.testing.assert_array_equal(cut(places(height, width), "10"), found)
    np.testing.assert_array_equal(cut(places(height, width), "1", [256])[0], found[4])


def test_szegedy_s_are_three_squares_with_six_crops_each():
    image = places(32, 48)
    found = cut(image, "144", [256])
    assert crops.views("144", [256]).looks == 2 * len(found) == 36
    for i, left in enumerate((0, 8, 16)):
        six = found[6 * i : 6 * i + 6]
        wanted = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
        assert corners(six[:5]) == [(y, left + x) for y, x in wanted]
        square = Image.fromarray(image[:, left : left + 32])
        small = np.asarray(square.resize((28, 28), Image.Resampling.BILINEAR))
        assert np.abs(six[5].astype(int) - small).max() <= 1


def test_of_an_upright_image_the_squares_are_top_centre_and_bottom():
    wide, upright = places(32, 48), places(48, 32)
    turned = [(x, y) for y, x in corners(cut(wide, "144", [256]))]
    assert sorted(corners(cut(upright, "144", [256]))) == sorted(turned)


def test_144_are_four_scales_as_published():
    # Szegedy et al. 2014, section 7: 4 x 3 x 6 x 2 = 144.
    wanted = crops.views("144")
    assert wanted.scales == (256, 288, 320, 352)
    assert wanted.looks == 4 * 3 * 6 * 2
    assert crops.sides(wanted, 224) == wanted.scales
    assert len(cut(places(40, 60), "144")) == 72


@pytest.mark.parametrize(("height", "width"), [(60, 91), (91, 60), (50, 50), (20, 30)])
@pytest.mark.parametrize("scale", [256, 352])
def test_scaling_is_pil_s_of_the_whole_image(height, width, scale):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    side = round(scale * 28 / 224)
    size = [round(n * side / min(height, width)) for n in (height, width)]
    whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    found = crops.whole(tf.constant(image), side, 3).numpy()
    assert found.shape == whole.shape
    assert np.abs(found.astype(int) - whole).max() <= 1
    lefts = [(0, 0), ((size[0] - side) // 2, (size[1] - side) // 2), tuple(np.subtract(size, side))]
    for part, (y, x) in zip(cut(image, "144", [scale])[::6], lefts, strict=True):
        assert np.abs(part.astype(int) - whole[y : y + 28, x : x + 28]).max() <= 1


def test_one_crop_at_224_is_what_validation_sees():
    image = np.random.default_rng(0).integers(0, 256, (60, 91, 3), np.uint8)
    np.testing.assert_array_equal(cut(image, "1")[0], data.fit_image(tf.constant(image), SHAPE))
    assert crops.views().plain
    assert not crops.views(flip=True).plain


@pytest.mark.parametrize(("size", "side"), [(224, 256), (227, 259), (299, 342), (32, 37)])
def test_scales_are_in_proportion_to_the_network_s_size(size, side):
    assert crops.sides(crops.views("10"), size) == (side,)


def test_a_long_narrow_image_takes_no_more_memory_than_another():
    line = np.zeros((1, 100_000, 3), np.uint8)
    assert cut(line, "144").shape == (72, *SHAPE)
    assert crops.whole(tf.constant(line), 32, 3).shape == (32, 32 * crops.LONGEST, 3)


def test_grey_images_are_given_to_a_network_of_colours():
    grey = places(32, 32)[..., :1]
    np.testing.assert_array_equal(cut(grey, "5"), cut(np.repeat(grey, 3, -1), "5"))


def test_the_scores_are_the_mean_over_crops_and_mirror_images():
    """A network that reads the pixel at the top left says where it looked."""
    image = tf.constant(places(32, 48))
    seen = [part.numpy() for part in classifier.parts(image, crops.views("10"), SHAPE)]
    found = classifier.probabilities(lambda x: x[:, 0, 0], seen, images=1, flip=True)
    rows, columns = [0, 0, 4, 4, 2], [8, 12, 8, 12, 10]
    mirrored = [x + 27 for x in columns]
    np.testing.assert_allclose(found[0, :2], [np.mean(rows), np.mean(columns + mirrored)])


def test_scores_of_two_images_stay_apart():
    pixels = np.arange(6.0).reshape(6, 1, 1, 1)
    found = classifier.probabilities(lambda x: x[:, 0, 0], [pixels], images=2)
    assert found.tolist() == [[1.0], [4.0]]


@pytest.mark.parametrize(
    ("words", "options", "part"),
    [
        (("7",), {}, "allowed are 1, 5, 10, 144, dense"),
        (("10",), {"flip": True}, "has its mirror images already"),
        (("10", [223]), {}, "each at least 224"),
        (("5", [256, 256]), {}, "given once"),
        (("dense", []), {}, "received the scales none"),
    ],
)
def test_what_is_no_view_is_refused(words, options, part):
    with pytest.raises(UsageError, match=part):
        crops.views(*words, **options)


def test_crops_of_a_network_whose_images_are_not_square_are_refused():
    with pytest.raises(UsageError, match="images of 28x32; crops are squares"):
        crops.cut(tf.zeros((40, 40, 3), tf.uint8), crops.views("5"), (28, 32, 3))
