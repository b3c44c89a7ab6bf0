"""A run folder: recipe, labels, what its data was, model.keras, and what training left besides."""

import csv
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnns import data, recipe as recipes
from keras_cnns.errors import UsageError
from keras_cnns.graph import load_model
from keras_cnns.recipe import Recipe

if TYPE_CHECKING:
    import keras

KEPT_AS_ASKED = ("checkpoint_epochs", "checkpoint_steps", "on_nan")
"""Keys of train that do not decide what a training comes to."""
GRACE = 2.0
"""Seconds in which a folder is let go of by what a process started just before it was killed."""


class Run(NamedTuple):
    """An opened run folder."""

    path: Path
    recipe: Recipe
    labels: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the network takes."""
        return self.recipe.data.image_shape

    def model(self) -> "keras.Model":
        """Return the trained model: pixels from 0 to 255 to probabilities.

        Raises:
            UsageError: where the training has not ended.
        """
        if not (self.path / "model.keras").is_file():
            raise UsageError(
                f"{self.path} has no model.keras yet; run keras-cnns train again to end it"
            )
        return load_model(self.path / "model.keras")


def open_run(path: str | Path) -> Run:
    """Open a run folder.

    Raises:
        UsageError: where the folder is none that keras-cnns train wrote.
    """
    path = Path(path)
    if not (path / "recipe.toml").is_file() or not (path / "labels.txt").is_file():
        what = "is no run folder" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}; give a folder that keras-cnns train wrote")
    try:
        labels = (path / "labels.txt").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path / 'labels.txt'} is not UTF-8 text; train the run anew") from None
    return Run(path, recipes.load(path / "recipe.toml"), tuple(labels))


def open_data(recipe: Recipe, *, data_dir: str | None = None, whole: bool = False) -> data.Source:
    """Open the data set that a recipe names, split as it says.

    Args:
        recipe: of a training.
        data_dir: where TFDS keeps its sets; None is as the recipe says.
        whole: for a test alone: where the set has no test split of its own, that is all of it.

    Raises:
        UsageError: where it cannot be opened.
    """
    wanted = recipe.data
    return data.open_source(
        wanted.name,
        data_dir=data_dir or wanted.dir,
        channels=wanted.channels,
        validation=0 if whole else wanted.validation,
        test=1 if whole else wanted.test,
        seed=recipe.seed,
    )


def write_data(path: Path, source: data.Source) -> None:
    """Note in a run folder which images each split has."""
    found = {
        split: {"images": source.sizes[split], "digest": source.digests[split]}
        for split in source.sizes
    }
    write_text(path / "data.json", json.dumps(found, indent=1) + "\n")


def check_data(run: Run, source: data.Source, splits: Sequence[str], advice: str) -> None:
    """Refuse data that has changed since a run began on it.

    A folder's splits are drawn from all of its images, so that one more image may bring ones that
    the network was trained on into the test.

    Args:
        run: the run.
        source: its data as it is now.
        splits: those that matter.
        advice: what to do then.

    Raises:
        UsageError: naming the first split that has other images than the run began with.
    """
    place = run.path / "data.json"
    if not place.is_file():  # by a version that did not note it
        return
    noted = json.loads(place.read_text(encoding="utf-8"))
    for split in splits:
        if noted[split]["digest"] != source.digests[split]:
            then, now = noted[split]["images"], source.sizes[split]
            raise UsageError(
                f"{source.name} has changed: its {split} images ({now:,}) are not those that "
                f"{run.path} began with ({then:,}); bring those back, or {advice}"
            )


def with_data(recipe: Recipe, name: str | None) -> Recipe:
    """Return a recipe with another data set, cut into splits in the same way."""
    if name is None:
        return recipe
    return replace(recipe, data=replace(recipe.data, name=name))


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run's history.csv."""
    if not (path / "history.csv").is_file():
        return []
    with (path / "history.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def read_metrics(run: Run) -> dict[str, Any]:
    """Return what metrics.json has: each evaluation, and "training"."""
    place = run.path / "metrics.json"
    return json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}


def evaluations(run: Run) -> dict[str, Any]:
    """Return what metrics.json has of the splits: "validation", "test", "test, 10 crops"."""
    return {key: found for key, found in read_metrics(run).items() if key != "training"}


def write_metrics(run: Run, part: str, found: Any) -> None:
    """Set a part of metrics.json: an evaluation, or "training"."""
    with held(run.path / "recipe.toml", wait=True):  # the folder itself is held by a training
        text = json.dumps({**read_metrics(run), part: found}, indent=1, allow_nan=False)
        write_text(run.path / "metrics.json", text + "\n")


def weights_hash(model: "keras.Model") -> str:
    """Return a SHA-256 of a model's weights, equal for equal bits alone."""
    found = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight)
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def check_folder(path: Path, mark: str, what: str) -> None:
    """Refuse a folder for results that holds other things or cannot be written, writing nothing.

    Args:
        path: the folder, which need not exist.
        mark: the file by which a folder shows that it holds such results.
        what: what such results are called.

    Raises:
        UsageError: saying what stands in the way.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; --out is a folder")
    # A process that was killed may have left a temporary name: all of ours begin with a dot.
    held = path.is_dir() and any(not inside.name.startswith(".") for inside in path.iterdir())
    if held and not (path / mark).is_file():
        raise UsageError(f"{path} is not empty and holds no {what}; choose another --out")
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written to; choose another --out")


def prepare_folder(path: Path) -> None:
    """Create a folder, or find that it cannot be written to, before any work.

    Raises:
        UsageError: where it is a file or not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".try-", dir=path):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written to: {error.strerror}; choose another") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, which takes its place once all has been written."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file or folder for this process; it is let go of however the process ends.

    Args:
        path: of what is there, and is not replaced.
        wait: until nobody else holds it.

    Raises:
        BlockingIOError: where another process holds it and this one is not to wait.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a run's folder, and delete what a killed process left half written.

    Raises:
        UsageError: where another process holds it.
    """
    deadline = time.monotonic() + GRACE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path, wait=False))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"{path} is being trained by another process; wait for its end, or choose "
                        "another --out"
                    ) from None
            time.sleep(GRACE / 40)
        for left in path.glob(".[0-9]*.*"):  # by a process that was killed as it wrote
            left.unlink()
        yield


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Say in a line that the disk is full, where what is done within finds it so.

    Raises:
        UsageError: in place of the system's error, or of that of a library which met it.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise UsageError(
                f"{path}: the disk is full; what was kept before is whole: make room, and the same "
                "command goes on from there"
            ) from None
        raise


def first_difference(there: Any, here: Any, key: str = "") -> str | None:
    """Return the first key whose values differ, with both, or None.

    Where TFDS keeps its sets is a matter of the machine, not of the run; how often it is kept and
    what becomes of it if it diverges, a matter of each call.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for name in {**there, **here}:
            if (key[-4:] == "data" and name == "dir") or name in KEPT_AS_ASKED:
                continue
            found = first_difference(there.get(name), here.get(name), f"{key}.{name}".lstrip("."))
            if found:
                return found
        return None
    return None if there == here else f"{key} is {there!r} there and {here!r} here"
