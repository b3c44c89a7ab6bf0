"""What `predict --csv` writes: a competition's submission, or a table of the surest classes."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnns import runs
from keras_cnns.errors import UsageError, suggest

FORMATS = ("labels", "probabilities", "table")
IDS: dict[str, Callable[[Path], str]] = {
    "stem": lambda path: path.stem,
    "name": lambda path: path.name,
    "path": str,
}


class Submission(NamedTuple):
    """What is written; `submission` checks it.

    Attributes:
        form: "labels": a row an image, with its class; "probabilities": a row an image, with a
            column for each class; "table": a row for each of an image's surest classes.
        columns: the header: of "labels" the id's and the class's; of "probabilities" the id's and
            NAME or NAME=CLASS for each class, none for all classes by their own names.
        ids: what names an image: its file's "stem", "name" or "path".
    """

    form: str = "labels"
    columns: tuple[str, ...] = ()
    ids: str = "stem"


def submission(
    form: str = "labels", columns: Sequence[str] | None = None, ids: str = "stem"
) -> Submission:
    """Return what to write, with the usual names of columns where none are given.

    Kaggle's digit recognizer wants `submission("labels", ["ImageId", "Label"])`, dogs vs. cats
    redux `submission("probabilities", ["id", "label=dog"])`, dog breeds
    `submission("probabilities")`.

    Raises:
        UsageError: for what is unknown, or columns that do not fit.

    >>> submission().columns, submission("probabilities").columns
    (('id', 'label'), ('id',))
    """
    if form not in FORMATS:
        raise UsageError(f'unknown --csv-format "{form}"; allowed are {", ".join(FORMATS)}')
    if ids not in IDS:
        raise UsageError(f'unknown --ids "{ids}"; allowed are {", ".join(IDS)}')
    if form == "table":
        if columns is not None or ids != "stem":
            raise UsageError("a table has its own columns; leave out --columns and --ids")
        return Submission("table", ("file", "rank", "label", "score"), "path")
    usual = ("id", "label") if form == "labels" else ("id",)
    wanted = usual if columns is None else tuple(columns)
    header = [column.partition("=")[0] for column in wanted]
    fits = len(wanted) == 2 if form == "labels" else len(wanted) > 0
    if not fits or not all(header) or len(set(header)) < len(header):
        what = "two" if form == "labels" else "the id's, then NAME or NAME=CLASS of each class"
        raise UsageError(
            f"received the columns {','.join(wanted) or 'none'}; --csv-format {form} wants "
            f"{what}, each another, as {','.join(usual)}"
        )
    return Submission(form, wanted, ids)


def rows(
    wanted: Submission,
    files: Sequence[Path],
    labels: Sequence[str],
    scores: np.ndarray,
    best: Sequence[dict[str, Any]],
) -> list[list[Any]]:
    """Return the rows of a submission, the header first.

    Args:
        wanted: what to write.
        files: the images.
        labels: the classes.
        scores: probabilities (files, classes).
        best: the surest classes of each image, as `keras_cnns.predict.best` gives them.

    Raises:
        UsageError: for a class that is none, and for two images of one id.

    >>> scores = np.array([[0.25, 0.75]])
    >>> wanted = submission("probabilities", ["id", "label=dog"])
    >>> rows(wanted, [Path("test/7.jpg")], ("cat", "dog"), scores, [])
    [['id', 'label'], ['7', 0.75]]
    """
    if wanted.form == "table":
        ranked = [
            [row["file"], rank, guess["label"], guess["score"]]
            for row in best
            for rank, guess in enumerate(row["top"], 1)
        ]
        return [list(wanted.columns), *ranked]
    ids = unique_ids(files, wanted.ids)
    if wanted.form == "labels":
        guesses = scores.argmax(1)
        return [
            list(wanted.columns),
            *([i, labels[g]] for i, g in zip(ids, guesses, strict=True)),
        ]
    columns = class_columns(wanted, labels)
    chosen = scores[:, list(columns.values())].tolist()
    header = [wanted.columns[0], *columns]
    return [header, *([i, *row] for i, row in zip(ids, chosen, strict=True))]


def class_columns(wanted: Submission, labels: Sequence[str]) -> dict[str, int]:
    """Return the class, by its position, that each column of probabilities is for.

    Raises:
        UsageError: for a class that is none.

    >>> class_columns(submission("probabilities", ["id", "label=dog"]), ("cat", "dog"))
    {'label': 1}
    """
    columns = {}
    for column in wanted.columns[1:] or labels:
        name, _, label = column.partition("=") if wanted.columns[1:] else (column, "", column)
        label = label or name
        if label not in labels:
            raise UsageError(
                f'no class "{label}" for the column "{column}": write NAME=CLASS'
                + suggest(label, labels)
            )
        columns[name] = labels.index(label)
    return columns


def unique_ids(files: Sequence[Path], ids: str) -> list[str]:
    """Return the id of each image.

    Raises:
        UsageError: where two images have the same.
    """
    found: dict[str, Path] = {}
    for file in files:
        name = IDS[ids](file)
        if name in found:
            raise UsageError(
                f'{found[name]} and {file} have the same id "{name}"; '
                "use --ids name or path, or leave one out"
            )
        found[name] = file
    return list(found)


def write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows as CSV, whole or not at all."""
    with (
        runs.replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)
