import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.data import augment
from keras_cnns.errors import UsageError

NAMES = sorted(augment.AUGMENTATIONS)


def ramp(count=64, height=16, width=24, channels=3):
    """Images whose every pixel has a value of its own, never 0."""
    rows, columns = np.meshgrid(range(height), range(width), indexing="ij")
    image = (1 + rows * 10 + columns % 10 + columns // 10 * 3)[..., None] + np.arange(channels)
    return np.broadcast_to(image, (count, height, width, channels)).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_pure_function_of_its_seed(name, channels):
    images = tf.constant(ramp(channels=channels))
    first, again, other = (augment.get(name)(images, (5, n)).numpy() for n in (1, 1, 2))
    assert first.shape == images.shape
    assert (first == again).all()
    assert (first == other).all() == (name == "none")
    assert first.min() >= 0
    assert first.max() <= 255


@pytest.mark.parametrize("name", NAMES)
def test_static_shape_survives_in_tf_data(name):
    images = tf.data.Dataset.from_tensors(ramp(8, 32, 32, 1))
    changed = images.map(lambda batch: augment.get(name)(batch, (0, 0)))
    assert changed.element_spec.shape == (8, 32, 32, 1)


@pytest.mark.parametrize("mirrors", [False, True])
def test_shift_and_crop_move_and_only_crop_mirrors(mirrors):
    """Every result is one of the 5 x 7 shifted images, or one of them mirrored, over black."""
    image = ramp(1)[0]
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)))
    plain = {padded[y : y + 16, x : x + 24].tobytes() for y in range(5) for x in range(7)}
    flipped = {
        padded[y : y + 16, x : x + 24][:, ::-1].tobytes() for y in range(5) for x in range(7)
    }
    change = augment.crop if mirrors else augment.shift
    changed = [i.tobytes() for i in change(tf.constant(ramp(600)), (0, 1)).numpy()]
    found = set(changed)
    assert found <= plain | flipped
    assert plain <= found
    assert bool(found & flipped) == mirrors
    if mirrors:
        share = np.mean([one in flipped for one in changed])
        assert 0.4 < share < 0.6


def test_photo_keeps_most_of_the_image_in_view():
    """On a ramp from left to right the slope of the result is the width that was cut out."""
    columns = np.linspace(50, 200, 32)
    images = np.broadcast_to(columns[None, None, :, None], (500, 32, 32, 1)).astype(np.float32)
    changed = augment.photo(tf.constant(images), (0, 1)).numpy()
    assert changed.dtype == np.float32
    slopes = (changed[:, 0, -1, 0] - changed[:, 0, 0, 0]) / 150
    assert 0.3 < (slopes > 0).mean() < 0.7
    widths = np.abs(slopes)
    assert widths.max() <= 1.2 + 1e-3
    assert widths.min() >= 0.8 * np.sqrt(0.35 * 0.75) - 1e-3
    assert changed.mean(axis=(1, 2, 3)).std() > 5


def test_unknown_name():
    with pytest.raises(UsageError, match=r'no augmentation "flop": use none, shift, crop or photo'):
        augment.get("flop")
