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

MAX_CLASSES, MAX_CONFUSIONS, MAX_MISTAKES, MAX_TRIALS, MAX_CHANGES = 20, 10, 18, 40, 24
MAX_CELLS = 100  # a matrix of more classes shows blocks of neighbouring ones
MAX_THUMBNAIL = 112  # pixels a side: MAX_MISTAKES of these stay below 1 MB, however noisy

# Stand-ins that Matplotlib takes for colours, and what the page's style sheet calls them.
INK, MUTED, RULE, BLUE, AMBER = (f"#0a0b0{i}" for i in range(5))
CSS_COLOURS = {INK: "ink", MUTED: "muted", RULE: "rule", BLUE: "blue", AMBER: "amber"}
CELL_COLOURS = np.array([[214, 126, 44], [52, 116, 184]]) / 255  # wrong, right; seen on any page
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_cnns",  # equal figures, equal bytes
    "text.parse_math": False,  # a class may be called "$"
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": RULE,
    "text.color": INK,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
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
    """Write the page; a section appears for what is given, a dash for a number that is missing.

    The page takes the place of an older one only when it is complete, and equal arguments write
    equal bytes.

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
        facts=facts or {},
        training=_training(history) if history else None,
        test=_test(evaluation) if evaluation else None,
        search=_search(trials) if trials else None,
        artifacts=artifacts or [],
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
    '98.76 %'
    """
    return number(value, ".2%").replace("%", "\N{NO-BREAK SPACE}%")


def short(value: Any) -> str:
    """Return a count with its thousands, millions or billions as a letter.

    >>> short(416520), short(15_470_264_320), short(84)
    ('416.5k', '15.5G', '84')
    """
    found = _finite(value)
    return number(found) if found is None or found < 1000 else EngFormatter(places=1, sep="")(found)


def _finite(value: Any) -> float | None:
    """Return a number, or None for what is not one: an empty cell, a missing field, NaN."""
    if value is None or value == "" or isinstance(value, jinja2.Undefined):
        return None
    return found if math.isfinite(found := float(value)) else None


def _training(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def column(key: str) -> np.ndarray:
        return np.array([_finite(row.get(key)) for row in history], float)

    epochs = column("epoch") + 1
    marker = "o" if len(history) < 3 else ""
    figures = []
    for title, width, tick, curves in (
        ("Loss", 370, number_tick, {"loss": MUTED, "val_loss": BLUE}),
        ("Accuracy", 370, percent_tick, {"accuracy": MUTED, "val_accuracy": BLUE}),
        ("Learning rate", 190, number_tick, {"learning_rate": MUTED}),
    ):

        def paint(axes: Axes) -> None:
            for key, colour in curves.items():
                axes.plot(epochs, column(key), color=colour, marker=marker, markersize=4)
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(tick)

        if not all(np.isnan(column(key)).all() for key in curves):
            figures.append(_svg(title, width, 250, paint))
    validation = column("val_accuracy")
    best = None if np.isnan(validation).all() else int(np.nanargmax(validation))
    return {
        "figures": figures,
        "epochs": len(history),
        "best": best is not None and {"accuracy": validation[best], "epoch": epochs[best]},
    }
