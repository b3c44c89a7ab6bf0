"""What a search looks like: where the filters went, what mattered, and all of it on a page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from keras_cnns import report
from keras_cnns.recipe import Recipe
from keras_cnns.tune.answer import ranked, shortened

Found = Mapping[str, Any]

MOST = 20  # dimensions whose importance is drawn
CELL = 34  # pixels of a row of the map


def write(place: Path, recipe: Recipe, found: Found) -> None:
    """Write report.html of a search."""
    (best,) = (row for row in found["trials"] if row["id"] == found["best"])
    short = shortened(found, recipe.train.epochs)
    after = "" if short is None else f", after {short} of {recipe.train.epochs} epochs"
    facts = {
        "best validation accuracy": f"{best['score']:.2%}{after}",
        "network": recipe.model.name,
        "data": Path(recipe.data.name).name,
        "trials": str(len(found["trials"])),
        "space": found["space"],
    }
    title = f"Search over the filters of {recipe.model.name}"
    report.write(place, title, facts=facts, trials=told(found))


def told(found: Found) -> dict[str, Any]:
    """Return what `tune` found as `report.write` wants it: filters for factors, and figures."""
    trials = [{**trial, "values": numbers(trial["spec"])} for trial in found["trials"]]
    vary = varying([trial["values"] for trial in trials], numbers(found["given"]))
    for trial in trials:
        trial["values"] = {path: trial["values"].get(path, 0) for path in vary}
    figures = [_map(found), _importance(found)]
    kept = [figure for figure in figures if figure]
    return {**found, "trials": trials, "figures": kept}


def numbers(spec: Any, path: str = "") -> dict[str, int]:
    """Return the whole numbers of a spec, as dicts and lists, by path.

    >>> numbers({"3a": {"conv1": 64}, "stages": [{"filters": 16}]})
    {'3a.conv1': 64, 'stages.0.filters': 16}
    """
    if isinstance(spec, Mapping):
        parts = list(spec.items())
    elif isinstance(spec, list | tuple):
        parts = [(str(i), part) for i, part in enumerate(spec)]
    else:
        return {path: spec} if type(spec) is int else {}
    found: dict[str, int] = {}
    for key, part in parts:
        found |= numbers(part, f"{path}.{key}".lstrip("."))
    return found


def varying(points: Sequence[Mapping[str, int]], given: Mapping[str, int]) -> list[str]:
    """Return the paths whose number is not the same everywhere."""
    paths = dict.fromkeys(path for point in (given, *points) for path in point)
    return [path for path in paths if any(point.get(path) != given.get(path) for point in points)]


def quarter(found: Found) -> list[Mapping[str, Any]]:
    """Return the best quarter of the trials, at least one."""
    order = ranked(found["trials"])
    return order[: max(1, len(order) // 4)]


def shifts(found: Found) -> dict[str, tuple[int, float, float]]:
    """Return of what varies the number given, its mean in all trials, and in the best quarter.

    The means are compared, not the number given: what an oracle tries, and what a budget lets
    through, is not centred on it.
    """
    given = numbers(found["given"])
    done = [numbers(trial["spec"]) for trial in ranked(found["trials"])]
    best = done[: len(quarter(found))]
    paths = [path for path in varying(done, given) if all(path in point for point in done)]
    return {
        path: (
            given.get(path, 0),
            sum(point[path] for point in done) / len(done),
            sum(point[path] for point in best) / len(best),
        )
        for path in paths
    }


def _map(found: Found) -> dict[str, Any] | None:
    """Draw the rows of the network by what they consist of: wider or narrower in good trials."""
    cells = shifts(found) if found["best"] is not None else {}
    if len(cells) < 2:
        return None
    places = {path: _place(path) for path in cells}
    rows = list(dict.fromkeys(row for row, _ in places.values()))
    columns = list(dict.fromkeys(column for _, column in places.values()))
    tips = [
        f"{path}: {before} as it stands, {mean:.4g} on average, {best:.4g} in the best"
        for path, (before, mean, best) in cells.items()
    ]

    def paint(axes: Axes) -> None:
        for i, (path, (_, mean, best)) in enumerate(cells.items()):
            row, column = places[path]
            x, y = columns.index(column), rows.index(row)
            ratio = math.log2(best / mean)
            box = Rectangle(
                (x, y),
                1,
                1,
                facecolor=report.BLUE if ratio > 0 else report.AMBER,
                edgecolor=report.RULE,
                alpha=min(0.75, 1.5 * abs(ratio)),
                gid=f"tip{i}",
            )
            axes.add_patch(box)
            axes.text(x + 0.5, y + 0.5, f"{best / mean:.2f}", ha="center", va="center")
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.set_xticks([i + 0.5 for i in range(len(columns))], columns, rotation=90)
        axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
        axes.grid(visible=False)

    height = 110 + CELL * len(rows)
    figure = report.svg("Filters", 680, height, paint, tips, alt="Filters of the best trials")
    count = len(quarter(found))
    return {
        "figure": figure,
        "note": f"Filters of the best {count} trial{'s' * (count != 1)} on average, as a multiple "
        "of the average of all: blue wants more, amber less.",
    }


def _place(path: str) -> tuple[str, str]:
    """Return the row and the column of a path in the map."""
    row, _, column = path.partition(".")
    if column[:1].isdigit() and "." in column and column.count(".") == 1:
        index, _, column = column.partition(".")
        row = f"{row}.{index}"
    return row, column.removesuffix(".filters") or "filters"


def _importance(found: Found) -> dict[str, Any] | None:
    important = found.get("importance")
    if not important:
        return None
    first = sorted(important["of"].items(), key=lambda item: -item[1])[:MOST]

    def paint(axes: Axes) -> None:
        names, values = zip(*first, strict=True)
        axes.barh(range(len(first)), values, color=report.BLUE)
        axes.set_yticks(range(len(first)), names)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_title("Importance")

    figure = report.svg("Importance", 680, 90 + 20 * len(first), paint)
    return {
        "figure": figure,
        "note": "How much worse a random forest foretells the accuracy of its own trials once a "
        "dimension is shuffled. For trials that it has not seen it explains "
        f"{important['explained']:.0%} of the variance"
        + (": too little to trust the order." if important["explained"] < 0.2 else "."),
    }
