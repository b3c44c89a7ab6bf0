"""What the tests of the search share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of two classes of twenty images, of 32 by 32 pixels of noise."""
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            noise = np.random.default_rng([i, ord(name)]).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"
