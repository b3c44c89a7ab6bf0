"""Top classes of images, by a trained run or by an exported file in its own runtime."""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns import classifier as classifiers, data, runs
from keras_cnns.classifier import Classifier
from keras_cnns.crops import PLAIN, Views, square_size
from keras_cnns.errors import UsageError
from keras_cnns.export import manifest, parity, runners

BATCH = 32


def open_classifier(
    path: str | Path, *, precision: str = "auto", views: Views = PLAIN
) -> Classifier:
    """Open a run folder, an artifact folder, or one model file in it.

    Args:
        path: of it.
        precision: of a run, as of `keras_cnns.predictor`; a file has its own.
        views: of images that it is for.

    Raises:
        UsageError: for anything else, and where it takes no such views.
    """
    path = Path(path)
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    if (folder / manifest.MANIFEST).is_file():
        return _artifact(folder, file, views)
    if path.name in manifest.FILES.values() and path.is_dir():
        return _artifact(folder.parent, path.name, views)
    run = runs.open_run(path)
    fast = classifiers.network(run, views, precision=precision)
    return Classifier(fast, run.image_shape, run.labels)


def is_model(path: str | Path) -> bool:
    """Return whether a path is what `open_classifier` opens, by the files beside it.

    >>> is_model("no/such/run")
    False
    """
    path = Path(path)
    if (path / "recipe.toml").is_file() or (path / manifest.MANIFEST).is_file():
        return True
    return path.name in manifest.FILES.values() and (path.parent / manifest.MANIFEST).is_file()


def members(places: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the models that stand before the images, and the images.

    Raises:
        UsageError: for fewer than two models, or no images.
    """
    models = list(takewhile(is_model, places))
    images = list(places[len(models) :])
    if len(models) < 2 or not images:
        raise UsageError(
            f"--ensemble: received {len(models)} runs or artifacts and {len(images)} images or "
            "folders after them; give two models or more, then images"
        )
    return models, images


def _artifact(folder: Path, file: str | None, views: Views) -> Classifier:
    described = manifest.read(folder)
    record = manifest.choose(described, file)
    place = folder / record["file"]
    height, width, channels = described["input"]["shape"]
    if views.dense:
        raise UsageError(
            f"{place} takes images of {height}x{width} alone; a dense test wants a run"
        )
    if not views.plain:
        square_size((height, width, channels))
    try:
        runner = runners.load(record["format"], place)
    except Exception as error:  # each runtime has its own
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{place} cannot be run ({reason}); keras-cnns verify says more") from None

    def run(pixels: np.ndarray) -> np.ndarray:
        outputs = runner.run(pixels)
        given = outputs.get("probabilities")
        return parity.softmax(outputs["logits"]) if given is None else given

    note = described["input"].get("note", "")
    return Classifier(run, (height, width, channels), tuple(described["labels"]), note)


def image_files(places: Iterable[str | Path]) -> list[Path]:
    """Return the image files among files and folders, folders opened one level deep.

    Raises:
        UsageError: for a path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(p for p in place.iterdir() if data.is_image(p))
            if not inside:
                raise UsageError(f"{place} holds no images; allowed are {', '.join(data.SUFFIXES)}")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise UsageError(f"{place} does not exist; give image files, or folders of them")
    return found


def predict(
    classifier: Classifier, files: Sequence[Path], *, top: int = 5, views: Views = PLAIN
) -> list[dict[str, Any]]:
    """Return the `top` surest classes of each image: [{file, top: [{label, score}]}].

    Raises:
        UsageError: for a file that is no image, by its name.
    """
    return best(probabilities([classifier], files, views=views), files, classifier.labels, top=top)


def probabilities(
    members: Sequence[Classifier], files: Sequence[Path], *, views: Views = PLAIN
) -> np.ndarray:
    """Return the probabilities (files, classes) of images, averaged over several classifiers.

    Raises:
        UsageError: for a file that is no image, by its name, and classifiers of other classes.
    """
    for member in members:
        if member.labels != members[0].labels:
            raise UsageError(
                f"the classes differ: {', '.join(members[0].labels[:3])}... and "
                f"{', '.join(member.labels[:3])}...; an ensemble is of models of the same classes"
            )
    looks = data.check_images([str(file) for file in files])
    images = list(zip(files, looks, strict=True))
    return np.mean([_probabilities(member, images, views) for member in members], axis=0)


def _probabilities(
    member: Classifier, images: Sequence[tuple[Path, data.Verdict]], views: Views
) -> np.ndarray:
    shape = member.image_shape
    wholes = (data.read_whole(file, shape[-1], look) for file, look in images)
    if views.plain:
        fitted = (data.fit_image(whole, shape).numpy() for whole in wholes)
        chunks = iter(lambda: list(islice(fitted, BATCH)), [])
        return np.concatenate([member.run(np.stack(chunk)) for chunk in chunks])
    found = []
    for whole in wholes:
        pixels = [part.numpy() for part in classifiers.parts(whole, views, shape)]
        found.append(classifiers.probabilities(member.run, pixels, images=1, flip=views.flip))
    return np.concatenate(found)


def best(
    scores: np.ndarray, files: Sequence[Path], labels: Sequence[str], *, top: int
) -> list[dict[str, Any]]:
    """Return the `top` surest classes of each image: [{file, top: [{label, score}]}]."""
    rows = []
    for file, row in zip(files, scores, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        rows.append(
            {
                "file": str(file),
                "top": [{"label": labels[i], "score": float(row[i])} for i in order],
            }
        )
    return rows
