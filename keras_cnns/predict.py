"""Top classes of images, by a trained run or by an exported file in its own runtime."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnns import data, runs
from keras_cnns.errors import UsageError
from keras_cnns.export import manifest, runners

BATCH = 32


class Classifier(NamedTuple):
    """A function from pixels (n, height, width, channels) to probabilities, and what they mean."""

    run: Callable[[np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    labels: tuple[str, ...]


def open_classifier(path: str | Path, *, precision: str = "auto") -> Classifier:
    """Open a run folder, an artifact folder, or one model file in it.

    Args:
        path: of it.
        precision: of a run, as of `keras_cnns.predictor`; a file has its own.

    Raises:
        UsageError: for anything else.
    """
    path = Path(path)
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    if (folder / manifest.MANIFEST).is_file():
        return _artifact(folder, file)
    if path.name in manifest.FILES.values() and path.is_dir():
        return _artifact(folder.parent, path.name)
    run = runs.open_run(path)
    model = run.model()
    from keras_cnns.fusion.predictor import predictor

    return Classifier(predictor(model, precision=precision), run.image_shape, run.labels)


def _artifact(folder: Path, file: str | None) -> Classifier:
    described = manifest.read(folder)
    record = manifest.choose(described, file)
    place = folder / record["file"]
    try:
        runner = runners.load(record["format"], place)
    except Exception as error:  # each runtime has its own
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{place} cannot be run ({reason}); keras-cnns verify says more") from None
    height, width, channels = described["input"]["shape"]
    return Classifier(
        lambda pixels: runner.run(pixels)["probabilities"],
        (height, width, channels),
        tuple(described["labels"]),
    )


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


def predict(classifier: Classifier, files: Sequence[Path], *, top: int = 5) -> list[dict[str, Any]]:
    """Return the `top` surest classes of each image: [{file, top: [{label, score}]}].

    Raises:
        UsageError: for a file that is no image, by its name.
    """
    data.check_images([str(file) for file in files])
    rows = []
    for start in range(0, len(files), BATCH):
        chunk = files[start : start + BATCH]
        pixels = np.stack([data.read_image(file, classifier.image_shape) for file in chunk])
        for file, scores in zip(chunk, classifier.run(pixels), strict=True):
            best = np.argsort(-scores, kind="stable")[:top]
            found = [{"label": classifier.labels[i], "score": float(scores[i])} for i in best]
            rows.append({"file": str(file), "top": found})
    return rows
