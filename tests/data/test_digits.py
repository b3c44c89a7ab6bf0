import io
import os
import time
from collections import Counter
from contextlib import redirect_stdout

import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_cnns.data import digits, open_source
from keras_cnns.errors import UsageError


@pytest.fixture(scope="module")
def builder(digits_dir):
    return digits.prepare(digits_dir)


def examples(builder, split):
    return [(e["image"], int(e["label"])) for e in builder.as_dataset(split).as_numpy_iterator()]


def test_split_is_fixed_whole_and_stratified(builder):
    train, test = examples(builder, "train"), examples(builder, "test")
    assert (len(train), len(test)) == (1437, 360)
    everything = sorted(image.tobytes() for image, _ in train + test)
    expected = sorted(digits.enlarge(scan).tobytes() for scan in load_digits().images)
    assert everything == expected
    counts = Counter(label for _, label in test)
    shares = Counter(load_digits().target.tolist())
    assert all(abs(counts[digit] - shares[digit] * 360 / 1797) < 1 for digit in range(10))


def test_images_are_the_scans_enlarged(builder):
    labels = {digits.enlarge(s).tobytes(): t for s, t in zip(*_scans(), strict=True)}
    for image, label in examples(builder, "test")[:20]:
        assert image.shape == (32, 32, 1)
        assert labels[image.tobytes()] == label
    levels = np.concatenate([image for image, _ in examples(builder, "test")])
    assert levels.min() == 0
    assert levels.max() == 255


def _scans():
    scans = load_digits()
    return scans.images, scans.target


def test_preparing_is_quiet_tidy_and_done_once(tmp_path):
    """It removes old leftovers of a killed preparation, not the young ones of another process."""
    place = tmp_path / "new"
    old, young = (place / "digits" / f"incomplete.{name}_1.0.0" for name in ("old", "young"))
    for leftover in (old, young):
        leftover.mkdir(parents=True)
    os.utime(old, (time.time() - 7200,) * 2)
    out = io.StringIO()
    with redirect_stdout(out):
        info = digits.prepare(place).data_path / "dataset_info.json"
        written = os.stat(info).st_mtime_ns
        digits.prepare(place)
    assert out.getvalue() == ""
    assert os.stat(info).st_mtime_ns == written
    assert sorted(path.name for path in place.glob("*/*")) == ["1.0.0", young.name]
    assert [path.name for path in place.iterdir()] == ["digits"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write the digits below .*file.*--data-dir"):
        open_source("digits", data_dir=tmp_path / "file")
