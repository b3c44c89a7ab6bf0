"""One HTML page about a run: how it trained, where it errs, what was searched, what was exported.

The page loads nothing: styles, figures (SVG) and pictures (PNG) are inside it. The figures name
their colours as the page's CSS variables, so that they follow the reader's light or dark theme.
"""

import io
import math
import os
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from PIL import Image

from keras_cnns import runs

MAX_CLASSES, MAX_MISTAKES, MAX_TRIALS = 20, 18, 40
MAX_CELLS = 100  # the confusion matrix of more classes shows blocks of neighbouring ones
MAX_SIDE = 112  # pixels of a thumbnail: MAX_MISTAKES of them stay below 1 MB, however noisy

NUMBER = r"[\d.,]+ ?\S{0,2}"  # with a unit: 98.2%, 41M, 143 s; no 32x32x1

# Stand-ins that Matplotlib takes for colours, and what the page's style sheet calls them.
INK, MUTED, RULE, BLUE, AMBER = (f"#0a0b0{i}" for i in range(5))
CSS_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", BLUE: "blue", AMBER: "amber"}
CELLS = np.array([[214, 126, 44], [52, 116, 184]])  # wrong, right: seen in either theme
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_cnns",  # equal figures, equal bytes
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("font.size", "axes.titlesize"), 12),
    **dict.fromkeys(("axes.titlecolor", "text.color"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), RULE),
}


def write(
    path: str | os.PathLike[str],
    title: str,
    *,
    facts: Mapping[str, str] | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    trials: Mapping[str, Any] | None = None,
    artifacts: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write the page: a section for whatever is given, a dash for a number that is missing.

    It takes the place of an older page only when complete; equal arguments write equal bytes.

    Args:
        path: the HTML file, in a folder that exists.
        title: what the page is about.
        facts: names and values for the top of the page; those that are numbers are set large.
        history: the rows of a Keras history.csv, as text or as numbers.
        evaluation: `metrics` (accuracy, top5, loss, images), `labels`, `confusion` (images by
            true and by predicted class) and `mistakes` (image: uint8 [height, width, channels],
            label, predicted, score, file).
        trials: what `keras-cnns tune --json` prints, with `paper` (the id of the paper's own
            split), `max_macs`, `rejected`, `start`, `objective` and `figures` (each with its
            `note`) where there are such.
        artifacts: what `keras-cnns verify --json` lists.
    """
    write_page(
        path,
        "report.html",
        title=title,
        facts=facts or {},
        large=[name for name, value in (facts or {}).items() if re.fullmatch(NUMBER, value)],
        training=_training(history) if history else None,
        test=_test(evaluation) if evaluation else None,
        search=_search(trials) if trials else None,
        artifacts=artifacts,
    )


def write_page(path: str | os.PathLike[str], template: str, **values: Any) -> None:
    """Write a page made of a template of this package; an older page stays until it is complete."""
    loader = jinja2.FunctionLoader(lambda name: (files("keras_cnns") / name).read_text("utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, short=short)
    page = environment.get_template(template).render(values)
    with runs.replacing(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def number(value: Any, pattern: str = ",.0f") -> str:
    """Return a number as text, or a dash where there is none.

    >>> number(61706), number("0.9876", ".2%"), number(None), number(float("nan"))
    ('61,706', '98.76%', '–', '–')
    """
    found = _finite(value)
    return "–" if found is None else format(found, pattern)


def short(value: Any) -> str:
    """Return a count with its thousands, millions or billions as a letter.

    >>> short(416520), short(15_470_264_320), short(84)
    ('416.5k', '15.5G', '84')
    """
    found = _finite(value)
    return number(found) if found is None or found < 1000 else EngFormatter(places=1, sep="")(found)


def _finite(value: Any) -> float | None:
    """Return a number, or None for an empty cell, a missing field, NaN."""
    if value is None or value == "" or isinstance(value, jinja2.Undefined):
        return None
    return found if math.isfinite(found := float(value)) else None


def _training(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def column(key: str) -> np.ndarray:
        return np.array([_finite(row.get(key)) for row in history], float)

    epochs, validation = column("epoch"), column("val_accuracy")
    figures = [
        _curves("Loss", 370, epochs, {MUTED: column("loss"), BLUE: column("val_loss")}),
        _curves("Accuracy", 370, epochs, {MUTED: column("accuracy"), BLUE: validation}),
        _curves("Learning rate", 190, epochs, {MUTED: column("learning_rate")}),
    ]
    best = np.argmax(np.nan_to_num(validation, nan=-1))
    found = {"best": validation[best], "best_epoch": epochs[best], "epochs": len(epochs)}
    return found | {"figures": [figure for figure in figures if figure]}


def _curves(title: str, width: int, epochs: np.ndarray, curves: Mapping[str, np.ndarray]) -> Markup:
    def paint(axes: Axes) -> None:
        for colour, values in curves.items():
            axes.plot(epochs, values, color=colour, marker="o" if len(epochs) < 3 else "")
        axes.set(title=title, xlabel="epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axes.locator_params(nbins=5, steps=[1, 2, 2.5, 5, 10])
        axes.locator_params("x", integer=True, min_n_ticks=1)
        axes.yaxis.set_major_formatter(PercentFormatter(1) if title == "Accuracy" else "{x:g}")

    drawn = np.isfinite(list(curves.values())).any()
    return svg(title, width, 250, paint) if drawn else Markup()


def _test(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    labels, counts = evaluation["labels"], np.asarray(evaluation["confusion"])
    mistakes = sorted(evaluation.get("mistakes") or (), key=lambda mistake: -mistake["score"])
    right, images = counts.diagonal(), counts.sum(1)
    with np.errstate(invalid="ignore"):  # a class without images has a NaN for a recall
        recall, precision = right / images, right / counts.sum(0)
    lowest = np.argsort(recall, kind="stable")[:MAX_CLASSES]
    wrong = counts - np.diag(right)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = zip(*np.unravel_index(worst, wrong.shape), strict=True)
    starts = range(0, len(labels), math.ceil(len(labels) / MAX_CELLS))
    blocks = np.add.reduceat(np.add.reduceat(counts, starts, 0), starts, 1)
    shade = np.sqrt(blocks / blocks.sum(1, keepdims=True).clip(1))  # the root shows single errors
    return {
        **evaluation,
        "shade": shade,
        "block": starts.step,
        "heat_map": _png(np.dstack([CELLS[np.eye(len(shade), dtype=int)], 255 * shade])),
        "classes": [
            (labels[i], recall[i], precision[i], images[i])
            for i in (lowest if len(labels) > MAX_CLASSES else range(len(labels)))
        ],
        "confusions": [(labels[t], labels[p], wrong[t, p]) for t, p in pairs if wrong[t, p]],
        "mistakes": [{**m, "source": _png(m["image"])} for m in mistakes[:MAX_MISTAKES]],
        "mistakes_given": len(mistakes),
    }


def _png(image: np.ndarray) -> str:
    """Return an image [height, width, channels] as a data: URL, shrunk where it is large."""
    picture = Image.fromarray(np.uint8(image[..., 0] if image.shape[-1] == 1 else image))
    file = io.BytesIO()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def _search(trials: Mapping[str, Any]) -> dict[str, Any]:
    by_id = {trial["id"]: trial for trial in trials["trials"]}
    usual = by_id.get(trials.get("paper"), {}).get("values") or {}
    marks = {"best": [trials["best"]], "paper": [trials.get("paper")], "Pareto": trials["pareto"]}
    rows: list[dict[str, Any]] = []
    for name, trial in by_id.items():
        changes = [
            f"{key} {usual[key]} → {value}" if key in usual else f"{key} {value}"
            for key, value in (trial.get("values") or {}).items()
            if usual.get(key) != value
        ]
        tags = [tag for tag, ids in marks.items() if name in ids]
        rows.append({**trial, "score": _finite(trial["score"]), "tags": tags, "changes": changes})
    rows.sort(key=lambda row: -math.inf if row["score"] is None else row["score"], reverse=True)
    objective = trials.get("objective") or "score"
    start = trials.get("start") or "the paper's split"
    return {
        **{tag: row for row in rows for tag in row["tags"]},
        "objective": objective,
        "pattern": ".2%" if "accuracy" in objective else ".4g",
        "figure": _scatter(rows, objective, trials.get("max_macs"), start),
        "rows": rows[:MAX_TRIALS],
        "count": len(rows),
        "rejected": trials.get("rejected"),
        "figures": trials.get("figures"),
        "repeats": trials.get("repeats"),
        "start": start,
        "left_out": trials.get("left_out"),
        "statuses": Counter(row["status"] for row in rows),
    }


def _scatter(
    rows: Sequence[Mapping[str, Any]], objective: str, budget: float | None, start: str
) -> Markup:
    rows = [row for row in rows if row["score"] is not None]
    shares = "accuracy" in objective

    def paint(axes: Axes) -> None:
        say = partial(axes.annotate, textcoords="offset points", ha="center")
        front = [(row["macs"], row["score"]) for row in rows if "Pareto" in row["tags"]]
        axes.step(*np.reshape(sorted(front), (-1, 2)).T, BLUE, where="post")
        for i, row in enumerate(rows):
            paper, point = "paper" in row["tags"], (row["macs"], row["score"])
            colour = AMBER if paper else BLUE if row["tags"] else MUTED
            axes.plot(*point, "D" if paper else "o", color=colour, markersize=8, gid=f"tip{i}")
            if paper:
                say(start.partition(",")[0], point, (0, -19))
            if "best" in row["tags"]:
                say("best", point, (0, 9))
        if budget is not None:
            axes.axvline(budget, color=AMBER, linestyle="--", linewidth=1)
            say(f"budget {short(budget)}", (budget, 1), (0, 5), axes.get_xaxis_transform())
        axes.margins(0.06, 0.14)
        axes.set_title(objective.capitalize())
        axes.set_xlabel("MACs for one image", labelpad=8)
        axes.locator_params("x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.yaxis.set_major_formatter(PercentFormatter(1) if shares else "{x:g}")

    tips = [
        f"Trial {row['id']}: {number(row['score'], '.2%' if shares else '.4g')}, "
        f"{short(row['macs'])} MACs, {short(row['params'])} parameters\n"
        + ", ".join(row["changes"][:30] + ["…"] * (len(row["changes"]) > 30))
        for row in rows
    ]
    return svg("Trials", 680, 380, paint, tips) if rows else Markup()


def svg(
    name: str,
    width: int,
    height: int,
    paint: Callable[[Axes], None],
    tips: Sequence[str] = (),
    alt: str = "",
) -> Markup:
    """Draw a figure for the page, `width` pixels wide where there is room.

    The page sets its type and its colours; what has the gid "tip<i>" says tips[i] when pointed at.
    `alt` says what there is to see, to those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure((width / 72, height / 72), layout="constrained")
        paint(figure.add_subplot())
        unsaid = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    prefix = name.lower().replace(" ", "-")
    text = re.sub(r"(font-size: 12px; )?font-family: [^;\"]*;? ?", "", file.getvalue())
    text = re.sub(r'(?: id="|"#|url\(#)', rf"\g<0>{prefix}-", text).replace("xlink:href", "href")
    text = re.sub(
        r'<g id="[a-z]+-tip(\d+)">',
        lambda found: f"{found[0]}<title>{escape(tips[int(found[1])])}</title>",
        text.partition("</style>")[2],  # after a rule that would hold for the whole page
    )
    for stand_in, css in CSS_NAMES.items():
        text = text.replace(stand_in, f"var(--{css})")
    box = f'viewBox="0 0 {width} {height}" style="max-width: {width}px"'
    return Markup(f'<svg role="img" aria-label="{escape(alt or name)}" {box}><defs>{text}')
