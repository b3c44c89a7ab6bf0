"""What all tests share: quiet logs, repeatable examples, and data that may not be there."""

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Times here depend on what else the machine does, and a check should not fail by chance.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what is remembered of folders out of the user's own cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the digits are prepared, once for all tests."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def needs_tfds() -> Callable[[str], Path]:
    """Return the folder that holds a TFDS set, or skip the test that asks for it."""

    def folder_of(name: str) -> Path:
        place = Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"))
        if not (place / name).is_dir():
            pytest.skip(f"{name} is not in {place}; set TFDS_DATA_DIR to where it is prepared")
        return place

    return folder_of


@pytest.fixture(scope="session")
def photos() -> Path:
    """Return a folder of JPEG photos, or skip the test that asks for one."""
    folder = os.environ.get("KERAS_CNNS_PHOTOS")
    if not folder:
        pytest.skip("no photos; set KERAS_CNNS_PHOTOS to a folder of JPEG files")
    return Path(folder)
