"""One HTML page about a run: how it trained, where it errs, what was searched, what was exported.

The page loads nothing: styles, figures (SVG) and pictures (PNG) are inside it. The figures name
their colours as the page's CSS variables, so that they follow the reader's light or dark theme.
"""

import io
import math
import os
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

MAX_CLASSES, MAX_MISTAKES, MAX_TRIALS, MAX_CHANGES = 20, 18, 40, 30
MAX_CELLS = 100  # the confusion matrix of more classes shows blocks of neighbouring ones
MAX_SIDE = 112  # pixels of a thumbnail: MAX_MISTAKES of them stay below 1 MB, however noisy

# Stand-ins that Matplotlib takes for colours, and what the page's style sheet calls them.
INK, MUTED, RULE, BLUE, AMBER = (f"#0a0b0{i}" for i in range(5))
CSS_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", BLUE: "blue", AMBER: "amber"}
CELLS = np.array([[214, 126, 44], [52, 116, 184]]) / 255  # wrong, right: seen in either theme
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_cnns",  # equal figures, equal bytes
    "text.parse_math": False,  # a class may be called "$"
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    **dict.fromkeys(("font.size", "axes.titlesize"), 12),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top"), False),
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
            split), `max_macs` and `objective` where there are such.
        artifacts: what `keras-cnns verify --json` lists.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, percent=percent, short=short)
    template = files("keras_cnns").joinpath("report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        facts={name: str(value) for name, value in (facts or {}).items()},
        training=_training(history) if history else None,
        test=_test(evaluation) if evaluation else None,
        search=_search(trials) if trials else None,
        artifacts=artifacts or (),
    )
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8", errors="replace")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def number(value: Any, pattern: str = ",.0f") -> str:
    """Return a number as text, or a dash where there is none.

    >>> number(61706), number("0.5", ".2f"), number(None), number(float("nan"))
    ('61,706', '0.50', '–', '–')
    """
    found = _finite(value)
    return "–" if found is None else format(found, pattern)


def percent(value: Any) -> str:
    """Return a share as a percentage.

    >>> percent(0.98761)
    '98.76%'
    """
    return number(value, ".2%")


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

    epochs, validation = column("epoch") + 1, column("val_accuracy")
    figures = [
        _curves("Loss", 370, epochs, {MUTED: column("loss"), BLUE: column("val_loss")}),
        _curves("Accuracy", 370, epochs, {MUTED: column("accuracy"), BLUE: validation}),
        _curves("Learning rate", 190, epochs, {MUTED: column("learning_rate")}),
    ]
    best = None if np.isnan(validation).all() else int(np.nanargmax(validation))
    return {
        "figures": [figure for figure in figures if figure],
        "epochs": len(history),
        "best": None if best is None else {"accuracy": validation[best], "epoch": epochs[best]},
    }


def _curves(title: str, width: int, epochs: np.ndarray, curves: Mapping[str, np.ndarray]) -> Markup:
    def paint(axes: Axes) -> None:
        for colour, values in curves.items():
            axes.plot(epochs, values, color=colour, marker="o" if len(epochs) < 3 else "")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(_share if title == "Accuracy" else "{x:g}")

    drawn = any(np.isfinite(values).any() for values in curves.values())
    return _svg(title, width, 250, paint) if drawn else Markup()


def _share(value: float, _: int | None = None) -> str:
    return f"{100 * value:.4g}%"


def _test(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    labels = [str(label) for label in evaluation.get("labels") or ()]
    mistakes = sorted(evaluation.get("mistakes") or (), key=lambda m: -float(m["score"]))
    found: dict[str, Any] = {
        "metrics": evaluation.get("metrics") or {},
        "labels": labels,
        "mistakes": [_mistake(m, labels) for m in mistakes[:MAX_MISTAKES]],
        "mistakes_given": len(mistakes),
    }
    if evaluation.get("confusion") is None:
        return found
    counts = np.asarray(evaluation["confusion"])
    images, right = counts.sum(1), counts.diagonal()
    recall, precision = _ratio(right, images), _ratio(right, counts.sum(0))
    listed = np.argsort(recall, kind="stable")[:MAX_CLASSES]  # NaN (no images) comes last
    wrong = counts - np.diag(right)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = zip(*np.unravel_index(worst, wrong.shape), strict=True)
    return found | {
        "figure": _confusion(counts, [_clip(label) for label in labels]),
        "block": math.ceil(len(labels) / MAX_CELLS),
        "classes": [
            (labels[i], recall[i], precision[i], images[i])
            for i in (listed if len(labels) > MAX_CLASSES else range(len(labels)))
        ],
        "confusions": [(labels[t], labels[p], wrong[t, p]) for t, p in pairs if wrong[t, p]],
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, with NaN where there is nothing to divide by."""
    shape = np.broadcast_shapes(part.shape, whole.shape)
    return np.divide(part, whole, out=np.full(shape, np.nan), where=whole > 0)


def _clip(label: str) -> str:
    """Return a label as a figure can show it."""
    label = "".join(filter(str.isprintable, label))
    return label if len(label) < 15 else label[:13] + "…"


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Markup:
    starts = range(0, len(counts), math.ceil(len(counts) / MAX_CELLS))
    counts = np.add.reduceat(np.add.reduceat(counts, starts, 0), starts, 1)
    cells, names = len(counts), names if len(names) <= 2 * MAX_CLASSES else ()
    share = np.sqrt(np.nan_to_num(_ratio(counts, counts.sum(1, keepdims=True))))
    longest = max(map(len, names), default=0)

    def paint(axes: Axes) -> None:
        axes.imshow(np.dstack([CELLS[np.eye(cells, dtype=int)], share]), interpolation="none")
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
        axes.spines[:].set_visible(cells > MAX_CLASSES)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(names)), names)
        if longest > 3:
            axes.tick_params("x", rotation=90)
        if cells <= MAX_CLASSES:
            for (row, column), count in np.ndenumerate(counts):
                text = f"{count:,}" if 0 < count < 10_000 else short(count) if count else ""
                colour = "white" if share[row, column] > 0.7 else INK
                axes.text(column, row, text, color=colour, ha="center", va="center_baseline")

    side = cells * max(36, 150 // cells) if cells <= MAX_CLASSES else 600
    width, height = side + 40 + 8 * longest, side + 40 + 8 * (longest if longest > 3 else 1)
    return _svg("Confusion matrix", width, height, paint)


def _mistake(mistake: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    pixels = np.asarray(mistake["image"], np.uint8)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    picture, png = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(png, "PNG", optimize=True)
    return {
        "source": "data:image/png;base64," + b64encode(png.getvalue()).decode(),
        "small": max(pixels.shape) < MAX_SIDE,
        "label": labels[int(mistake["label"])],
        "predicted": labels[int(mistake["predicted"])],
        "score": mistake["score"],
        "file": mistake.get("file"),
    }


def _search(trials: Mapping[str, Any]) -> dict[str, Any]:
    objective = str(trials.get("objective") or "score")
    show = percent if "accuracy" in objective else lambda score: number(score, ".4g")
    budget = _finite(trials.get("max_macs"))
    paper = next((t for t in trials["trials"] if t["id"] == trials.get("paper")), None)
    rows = []
    for trial in trials["trials"]:
        score, macs = _finite(trial.get("score")), _finite(trial.get("macs"))
        tags = [tag for tag in ("best", "paper") if trials.get(tag) == trial["id"]]
        rows.append(
            {
                "id": trial["id"],
                "score": score,
                "shown": show(score),
                "macs": macs,
                "params": trial.get("params"),
                "tags": tags + ["Pareto"] * (trial["id"] in (trials.get("pareto") or ())),
                "changes": _changes(trial, paper),
                "status": trial.get("status") or "",
                "why": trial.get("why") or "",
            }
        )
    rows.sort(key=lambda row: -math.inf if row["score"] is None else row["score"], reverse=True)
    scored = [row for row in rows if row["score"] is not None and row["macs"] is not None]
    return {
        "figure": _scatter(scored, objective, budget) if scored else None,
        "objective": objective,
        "rows": rows[:MAX_TRIALS],
        "count": len(rows),
        "statuses": Counter(row["status"] for row in rows if row["status"]),
        "budget": budget,
        "best": next((row for row in rows if "best" in row["tags"]), None),
        "paper": next((row for row in rows if "paper" in row["tags"]), None),
    }


def _changes(trial: Mapping[str, Any], paper: Mapping[str, Any] | None) -> list[str]:
    """Return a trial's values, or where the paper's split is known only what differs from it."""
    values, usual = trial.get("values") or {}, (paper or {}).get("values") or {}
    return [
        f"{key} {usual[key]} → {value}" if key in usual else f"{key} {value}"
        for key, value in values.items()
        if usual.get(key) != value
    ]


def _scatter(rows: Sequence[Mapping[str, Any]], objective: str, budget: float | None) -> Markup:
    def paint(axes: Axes) -> None:
        front = sorted((row["macs"], row["score"]) for row in rows if "Pareto" in row["tags"])
        axes.plot(*zip(*front, strict=True), color=BLUE, drawstyle="steps-post") if front else None
        for i, row in enumerate(rows):
            tags, point = row["tags"], (row["macs"], row["score"])
            colour = AMBER if "paper" in tags else BLUE if tags else MUTED
            shape, size = "D" if "paper" in tags else "o", 10 if "best" in tags else 8
            axes.plot(*point, shape, color=colour, markersize=size, gid=f"tip{i}")
            words = [{"best": "best", "paper": "the paper’s split"}[t] for t in tags if t != "Pareto"]
            up = 1 if "best" in tags else -1
            place = {"xytext": (0, 9 * up), "ha": "center", "va": "bottom" if up > 0 else "top"}
            axes.annotate(", ".join(words), point, textcoords="offset points", **place)
        if budget is not None:
            axes.axvline(budget, color=AMBER, linestyle=(0, (4, 3)), linewidth=1)
            top = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
            words = f"budget {short(budget)}"
            axes.annotate(words, (budget, 1), xytext=(0, 5), ha="center", color=AMBER, **top)
        axes.margins(0.06, 0.14)
        axes.set(title=objective.capitalize(), xlabel="MACs for one image")
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.yaxis.set_major_formatter(_share if "accuracy" in objective else "{x:g}")

    return _svg("Trials", 640, 360, paint, [_tip(row) for row in rows])


def _tip(row: Mapping[str, Any]) -> str:
    marks = f" ({', '.join(row['tags'])})" if row["tags"] else ""
    cost = f"{short(row['macs'])} MACs, {short(row['params'])} parameters"
    more = len(row["changes"]) - MAX_CHANGES
    changes = row["changes"][:MAX_CHANGES] + [f"and {more} more"] * (more > 0)
    return "\n".join([f"Trial {row['id']}{marks}: {row['shown']}, {cost}", ", ".join(changes)]).strip()


def _svg(
    name: str, width: int, height: int, paint: Callable[[Axes], None], tips: Sequence[str] = ()
) -> Markup:
    """Draw, and return an <svg> for the page: CSS sets its type, artists with gid "tip<i>" get tips.

    One unit is one pixel at full size.
    """
    drawn = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has its own fonts
        figure = Figure((width / 72, height / 72), layout="constrained")
        paint(figure.add_subplot())
        unsaid = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=unsaid)
    root = ElementTree.fromstring(drawn.getvalue())
    prefix = name.lower().replace(" ", "-")
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        kept = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        if kept.get("id", "").startswith("tip"):
            tip = ElementTree.Element("title")
            tip.text = tips[int(kept["id"][3:])]
            element.insert(0, tip)
        if element.tag in ("path", "clipPath"):  # what is referred to; other ids would only clash
            kept |= {"id": f"{prefix}-{kept['id']}"} if "id" in kept else {}
        else:
            kept.pop("id", None)
        if kept.get("href", "").startswith("#"):
            kept["href"] = f"#{prefix}-{kept['href'][1:]}"
        if "clip-path" in kept:
            kept["clip-path"] = kept["clip-path"].replace("#", f"#{prefix}-")
        if element.tag == "text":
            style = kept["style"].split("; ")
            kept["style"] = "; ".join(part for part in style if not part.startswith("font"))
        element.attrib = kept
    root.remove(root[0])  # a style sheet, which would hold for the whole page
    size = {"style": f"max-width: {width}px", "viewBox": root.attrib["viewBox"]}
    root.attrib = {"role": "img", "aria-label": name, **size}
    text = ElementTree.tostring(root, encoding="unicode")
    for stand_in, css in CSS_NAMES.items():
        text = text.replace(stand_in, f"var(--{css})")
    return Markup(text)
