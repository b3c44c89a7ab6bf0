"""Each augmentation against its definition: by PIL, or by what it does to images made for it."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from keras_cnns.data import augment, colours, draws, mixing, randaugment, windows
from keras_cnns.errors import UsageError


def keys(count, seed=0):
    return draws.fold(seed, tf.range(count))


def drawn(count):
    return windows.drawn(keys(count))


def ramp(count=64, height=16, width=24, channels=3):
    """Images whose every pixel has a value of its own, never 0."""
    rows, columns = np.meshgrid(range(height), range(width), indexing="ij")
    image = (1 + rows * 10 + columns % 10 + columns // 10 * 3)[..., None] + np.arange(channels)
    return np.broadcast_to(image, (count, height, width, channels)).astype(np.uint8)


def noise(count, height=20, width=16, channels=3, low=0, high=256):
    drawn = np.random.default_rng(1).integers(low, high, (count, height, width, channels))
    return drawn.astype(np.uint8)


def floats(images):
    return tf.constant(images, tf.float32)


# draws


def test_keys_are_splitmix64():
    """The first three numbers from seed 0, as https://prng.di.unimi.it/splitmix64.c gives them."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert draws.fold(0, tf.range(3)).numpy().tolist() == expected


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda k: draws.uniform(k, 3, -1.0, 3.0), stats.uniform(-1, 4)),
        (lambda k: draws.normal(k, 3), stats.norm()),
        (lambda k: draws.beta(k, 3, 0.2), stats.beta(0.2, 0.2)),
        (lambda k: draws.beta(k, 3, 1.0), stats.uniform()),
    ],
)
def test_distributions(draw, expected):
    assert stats.kstest(draw(keys(5000)).numpy(), expected.cdf).pvalue > 0.01


def test_whole_numbers_are_all_reached_and_evenly():
    counts = np.bincount(draws.whole(keys(7000), 0, 7), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 0.01


def test_numbers_do_not_depend_on_the_company():
    together = draws.uniform(keys(9), 1).numpy()
    alone = [float(draws.uniform(key, 1)) for key in keys(9)]
    assert together.tolist() == alone


# parts of an image


def test_moved_reaches_every_place_over_black():
    image = ramp(1)[0]
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)))
    allowed = {padded[y : y + 16, x : x + 24].tobytes() for y in range(5) for x in range(7)}
    found = windows.moved(tf.constant(ramp(600)), 1 / 8, keys(600)).numpy()
    assert {one.tobytes() for one in found} == allowed


def test_the_pad_of_cifar_is_four_pixels():
    assert int(32 * augment.get("crop").pad) == 4


def test_mirrored_is_one_in_two():
    images = ramp(600)
    found = windows.mirrored(tf.constant(images), keys(600)).numpy()
    turned = [np.array_equal(one, images[0, :, ::-1]) for one in found]
    assert all(turned[i] or np.array_equal(found[i], images[0]) for i in range(600))
    assert 0.44 < np.mean(turned) < 0.56


@pytest.mark.parametrize("name", ["photo", "inception"])
@pytest.mark.parametrize("given", [(375, 500), (500, 375), (32, 32)])
def test_area_and_proportions_are_those_of_inception(name, given):
    policy = augment.get(name)
    top, left, height, width = (
        edge.numpy() for edge in windows.window(policy, drawn(4000), given, (224, 224))
    )
    area, ratio = height * width / (given[0] * given[1]), width / height
    assert policy.area[0] - 1e-4 <= area.min() < policy.area[0] + 0.02
    assert 0.9 < area.max() <= 1 + 1e-4
    assert ratio.min() == pytest.approx(3 / 4, abs=0.01)
    assert ratio.max() == pytest.approx(4 / 3, abs=0.01)
    for start, length, side in ((top, height, given[0]), (left, width, given[1])):
        assert start.min() >= 0
        assert (start + length).max() <= side + 1e-3
        # Any place is as likely as another.
        room = side - length
        place = (start / np.maximum(room, 1e-6))[room > 1]
        assert stats.kstest(place, "uniform").pvalue > 0.001


def test_inceptions_area_is_uniform():
    _, _, height, width = windows.window(
        augment.get("inception"), drawn(2000), (2000, 2000), (224, 224)
    )
    small = (height * width / 2000**2).numpy()
    # A square can hold any of the shapes up to three quarters of its area.
    small = small[small < 0.75]
    assert stats.kstest(small, stats.uniform(0.08, 0.67).cdf).pvalue > 0.01


def test_where_no_part_fits_the_middle_is_taken():
    """torchvision's `RandomResizedCrop.get_params`: all of the short side, at 3/4 or 4/3."""
    policy = augment.Policy(area=(0.9, 1.0))
    top, left, height, width = windows.window(policy, drawn(5), (10, 1000), (224, 224))
    assert height.numpy().tolist() == [10] * 5
    assert width.numpy() == pytest.approx(10 * 4 / 3)
    assert (left + width / 2).numpy() == pytest.approx(500)
    assert top.numpy() == pytest.approx(0)


@pytest.mark.parametrize(
    ("name", "sides"), [("vgg", (256, 512)), ("vgg256", (256, 256)), ("vgg384", (384, 384))]
)
@pytest.mark.parametrize("given", [(300, 700), (700, 300)])
def test_vgg_cuts_224_pixels_of_a_short_side(name, sides, given):
    top, left, height, width = (
        edge.numpy() for edge in windows.window(augment.get(name), drawn(5000), given, (224, 224))
    )
    side = 224 * 300 / height
    assert side == pytest.approx(np.rint(side), abs=1e-2)
    assert set(np.rint(side).astype(int)) == set(range(sides[0], sides[1] + 1))
    assert height == pytest.approx(width)
    for start, length, whole in ((top, height, given[0]), (left, width, given[1])):
        assert stats.kstest(start / (whole - length), "uniform").pvalue > 0.001


def test_vgg_at_another_size_keeps_its_proportions():
    policy = augment.get("vgg384")
    _, _, height, width = windows.window(policy, drawn(3), (300, 700), (96, 96))
    assert height.numpy() == pytest.approx(300 * 224 / 384)
    assert width.numpy() == pytest.approx(300 * 224 / 384)
    _, _, height, width = windows.window(policy, drawn(3), (300, 700), (64, 128))
    assert (width / height).numpy() == pytest.approx(2)


def test_alexnet_cuts_within_the_square_in_the_middle():
    top, left, height, _ = windows.window(
        augment.get("alexnet"), drawn(2000), (256, 500), (224, 224)
    )
    assert height.numpy() == pytest.approx(224)
    for start, least in ((top.numpy(), 0), (left.numpy(), 122)):
        assert start.min() == pytest.approx(least, abs=0.5)
        assert start.max() == pytest.approx(least + 32, abs=0.5)


def test_cut_is_bilinear():
    """On a slope every pixel is where its centre was."""
    columns = np.arange(32) * 4.0 + 8
    images = np.broadcast_to(columns[None, None, :, None], (50, 32, 32, 1)).astype(np.float32)
    policy = augment.get("inception")
    found = windows.cut(tf.constant(images), policy, drawn(50)).numpy()
    _, left, _, width = (e.numpy() for e in windows.window(policy, drawn(50), (32, 32), (32, 32)))
    centres = left[:, None] + (np.arange(32) + 0.5) * width[:, None] / 32 - 0.5
    expected = 4 * np.clip(centres, 0, 31) + 8
    assert found[:, 5, :, 0] == pytest.approx(expected, abs=0.01)


# colours


def test_the_components_are_alexnets():
    """What is added is of covariance p diag((0.1 lambda)^2) p^T; Krizhevsky et al., section 4.1."""
    images = tf.fill((20_000, 1, 1, 3), 128.0)
    change = (colours.along_components(images, 0.1, keys(20_000)) - images).numpy()[:, 0, 0]
    vectors, values = np.array(colours.EIGENVECTORS), np.array(colours.EIGENVALUES)
    assert vectors.T @ vectors == pytest.approx(np.eye(3), abs=1e-3)
    expected = vectors @ np.diag((25.5 * values) ** 2) @ vectors.T
    assert np.cov(change.T) == pytest.approx(expected, rel=0.05)
    assert change.mean(0) == pytest.approx(0, abs=0.1)


def test_the_components_change_all_pixels_alike():
    images = floats(noise(4, low=60, high=190))
    change = (colours.along_components(images, 0.1, keys(4)) - images).numpy()
    assert np.ptp(change, axis=(1, 2)) == pytest.approx(0, abs=1e-3)
    assert (np.abs(change).max(axis=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color"])
def test_blends_are_pils(name):
    image = noise(1)[0]
    pale = colours.grey(floats(image[None]))
    towards = {
        "Brightness": tf.zeros_like(pale),
        "Contrast": tf.reduce_mean(pale, axis=(1, 2), keepdims=True),
        "Color": pale,
    }[name]
    for factor in (0.5, 0.8, 1.5):
        found = colours.blend(floats(image[None]), towards, tf.constant([factor]))[0].numpy()
        expected = getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(factor)
        assert np.abs(found - np.asarray(expected)).max() <= 1.1


def test_jitter_is_within_its_range_and_in_every_order():
    images = np.zeros((3000, 2, 2, 3), np.float32)
    images[:, 0] = (120, 100, 80)
    images[:, 1] = (60, 50, 40)
    found = colours.jittered(tf.constant(images), 0.5, keys(3000)).numpy()
    assert found.min() >= 0
    grey = found.mean(axis=(1, 2)) @ np.array(colours.GREY)
    light = grey / (images.mean(axis=(1, 2)) @ np.array(colours.GREY))
    # The mean grey is kept by contrast and saturation: what is left is the light.
    assert stats.kstest(light, stats.uniform(0.5, 1).cdf).pvalue > 0.001
    same = colours.jittered(tf.constant(images), 0.0, keys(3000)).numpy()
    assert same == pytest.approx(images, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 4])
def test_alpha_stays_and_grey_stays_grey(channels):
    images = floats(noise(8, channels=channels))
    for change, strength in (
        (colours.jittered, 0.5),
        (colours.along_components, 0.1),
        (randaugment.randaugment, 9),
    ):
        found = colours.on_colour(change, images, strength, keys(8)).numpy()
        assert found.shape == images.shape
        assert not np.array_equal(found[..., 0], images[..., 0])
        if channels == 4:
            assert np.array_equal(found[..., 3], images[..., 3])


# RandAugment


def operate(name, images, strength, sign=1.0):
    kind = tf.fill((len(images),), randaugment.OPERATIONS.index(name))
    signs = tf.fill((len(images),), sign)
    return randaugment.apply(floats(images), kind, strength, signs).numpy()


def affine(image, matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(128,) * 3
    )


def degrees(angle, image):
    return image.rotate(angle, Image.Resampling.NEAREST, fillcolor=(128,) * 3)


# At strength 0.3, which is torchvision's default: magnitude 9 of 30.
PILS = {
    "identity": lambda i: i,
    "shear_x": lambda i: affine(i, (1, 0.09, 0, 0, 1, 0)),
    "shear_y": lambda i: affine(i, (1, 0, 0, 0.09, 1, 0)),
    "translate_x": lambda i: affine(i, (1, 0, round(0.3 * 150 / 331 * 16), 0, 1, 0)),
    "translate_y": lambda i: affine(i, (1, 0, 0, 0, 1, round(0.3 * 150 / 331 * 20))),
    "rotate": lambda i: degrees(9, i),
    "brightness": lambda i: ImageEnhance.Brightness(i).enhance(1.27),
    "colour": lambda i: ImageEnhance.Color(i).enhance(1.27),
    "contrast": lambda i: ImageEnhance.Contrast(i).enhance(1.27),
    "sharpness": lambda i: ImageEnhance.Sharpness(i).enhance(1.27),
    "posterize": lambda i: ImageOps.posterize(i, 7),
    "solarize": lambda i: ImageOps.solarize(i, 179),
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
}


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
@pytest.mark.parametrize("side", [4, 8])
def test_operations_are_pils(name, side):
    """`side`: of the blocks of the noise, so that there is something to move and to equalize."""
    small = noise(3, 20 // side + 1, 16 // side, low=40, high=200)
    images = small.repeat(side, 1).repeat(side, 2)[:, :20]
    for image, found in zip(images, operate(name, images, 0.3), strict=True):
        expected = np.asarray(PILS[name](Image.fromarray(image)), np.float32)
        differs = np.abs(found - expected).max(-1) > 1
        # Where the place asked for is between two pixels, rounding decides.
        assert differs.mean() <= (0.03 if name in ("rotate", "shear_x", "shear_y") else 0)


def test_both_directions():
    images = noise(2)
    for name in ("shear_x", "translate_y", "rotate", "brightness"):
        assert not np.array_equal(operate(name, images, 0.5), operate(name, images, 0.5, -1.0))


def test_each_image_gets_two_operations_of_its_own():
    image = noise(1, low=40, high=200)
    images = np.repeat(image, 400, 0)
    found = randaugment.randaugment(floats(images), 9, keys(400)).numpy()
    assert len({one.tobytes() for one in found}) > 100
    # 1 in 14 draws of an operation is the identity; a translation by 2 pixels is not.
    assert 0 < np.mean([np.array_equal(one, image[0]) for one in found]) < 0.1


# erasing and mixing


def test_erasing_is_one_rectangle_of_the_papers_size():
    images = np.full((3000, 40, 40, 1), 300.0, np.float32)
    lost = mixing.erased(tf.constant(images), 0.5, keys(3000)).numpy()[..., 0] != 300
    chosen = lost.any(axis=(1, 2))
    assert 0.46 < chosen.mean() < 0.54
    areas, ratios = [], []
    for one in lost[chosen]:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(one.mean())
        ratios.append(len(rows) / len(columns))
    assert 0.015 < min(areas) < 0.03
    assert 0.38 < max(areas) < 0.42
    assert 0.2 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 5


def test_what_is_erased_is_noise():
    erased = mixing.erased(tf.zeros((200, 32, 32, 3)), 1.0, keys(200)).numpy()
    values = erased[erased > 0]
    assert values.mean() == pytest.approx(128, abs=2)
    assert values.std() == pytest.approx(256 / 12**0.5, rel=0.05)


def flat(count):
    """Images of one level each, half its number, and one-hot labels of a class each."""
    levels = np.arange(count, dtype=np.float32)[:, None, None, None] / 2
    return tf.constant(np.broadcast_to(levels, (count, 16, 16, 1))), tf.eye(count)


def test_mixup_mixes_images_and_labels_alike():
    images, labels = flat(400)
    found, soft = (x.numpy() for x in mixing.mixed(images, labels, 0.2, 0.0, keys(400)))
    assert soft.sum(1) == pytest.approx(1, abs=1e-5)
    assert found[:, 3, 5, 0] == pytest.approx(soft @ np.arange(400) / 2, abs=1e-2)
    rows = np.arange(400)
    assert soft[rows, rows] + soft[rows, rows ^ 1] == pytest.approx(1, abs=1e-5)
    assert stats.kstest(soft[rows, rows], stats.beta(0.2, 0.2).cdf).pvalue > 0.01


def test_cutmix_pastes_a_rectangle_and_mixes_the_labels_by_its_area():
    images, labels = flat(400)
    found, soft = (x.numpy() for x in mixing.mixed(images, labels, 0.0, 1.0, keys(400)))
    rows = np.arange(400)
    for row in rows:
        pasted = found[row, ..., 0] == (row ^ 1) / 2
        assert (pasted | (found[row, ..., 0] == row / 2)).all()
        assert soft[row, row] == pytest.approx(1 - pasted.mean(), abs=1e-5)
        across, down = pasted.any(0), pasted.any(1)
        assert pasted.sum() == across.sum() * down.sum()
    # Its area is uniform, less what lies outside the image: Yun et al., section 3.1, r_x ~ U(0, W).
    drawn = 1 - np.random.default_rng(0).uniform(size=20_000)
    half = np.sqrt(drawn) / 2
    centre = np.random.default_rng(1).uniform(size=(2, 20_000))
    sides = np.minimum(centre + half, 1) - np.maximum(centre - half, 0)
    assert (1 - soft[rows, rows]).mean() == pytest.approx(sides.prod(0).mean(), abs=0.03)


def test_both_kinds_of_mixing_come_up():
    images, labels = flat(200)
    found, soft = (x.numpy() for x in mixing.mixed(images, labels, 1.0, 1.0, keys(200)))
    pasted = np.array([set(np.unique(one)) <= {i / 2, (i ^ 1) / 2} for i, one in enumerate(found)])
    assert 0.35 < pasted.mean() < 0.65
    assert found.mean(axis=(1, 2, 3)) == pytest.approx(soft @ np.arange(200) / 2, abs=1e-2)


@pytest.mark.parametrize("count", [1, 5])
def test_an_odd_batch(count):
    images, labels = flat(count)
    found, soft = (x.numpy() for x in mixing.mixed(images, labels, 0.4, 0.0, keys(count)))
    assert soft.sum(1) == pytest.approx(1, abs=1e-5)
    assert found[:, 0, 0, 0] == pytest.approx(soft @ np.arange(count) / 2, abs=1e-4)


def test_unknown_name():
    with pytest.raises(UsageError, match=r'no augmentation "flop": use none, shift, crop, resized'):
        augment.get("flop")
