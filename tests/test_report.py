"""What the page shows, that it loads nothing, and that it is written whole or not at all."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns import report

VOID = {"meta", "img", "br", "link", "input", "hr"}
FACTS = {"network": "lenet5", "parameters": "61,706", "command": "keras-cnns demo --out <here>"}
HISTORY = [
    {"epoch": "1", "loss": "2.3", "accuracy": "0.31", "val_loss": "", "val_accuracy": "0.5"},
    {"epoch": "2", "loss": "0.9", "accuracy": "0.81", "val_loss": "1.1", "val_accuracy": "0.8125"},
    {"epoch": "3", "loss": "nan", "accuracy": "0.85", "val_loss": "1.2", "val_accuracy": "0.75"},
]
TRIALS = {
    "trials": [
        {"id": 0, "values": {"c1.filters": 6, "c3.filters": 16}, "params": 61_706, "macs": 416_520,
         "score": 0.97, "status": "completed", "why": None},
        {"id": 1, "values": {"c1.filters": 8, "c3.filters": 16}, "params": 70_000, "macs": 500_000,
         "score": 0.9875, "status": "completed", "why": None},
        {"id": 2, "values": {"c1.filters": 64, "c3.filters": 16}, "params": 1, "macs": 9_000_000,
         "score": None, "status": "refused", "why": "9,000,000 MACs > 600,000 <allowed>"},
        {"id": 3, "values": {"c1.filters": 6, "c3.filters": 8}, "params": 5, "macs": 300_000,
         "score": float("nan"), "status": "failed", "why": "the loss became NaN"},
    ],
    "best": 1, "pareto": [0, 1], "paper": 0, "max_macs": 600_000,
    "objective": "validation accuracy", "rejected": 12,
}  # fmt: skip
ARTIFACTS = [
    {"file": "model.tflite", "format": "tflite", "quantization": "none", "bytes": 1_234_567,
     "max_error": 1.4e-6, "agreement": 1.0, "accuracy": 0.9722, "latency_ms": 0.31,
     "passed": True, "why": None},
    {"file": "model_int8.tflite", "format": "tflite", "quantization": "int8", "bytes": 345_678,
     "max_error": None, "agreement": 0.94, "passed": False, "why": "agreement is below 98%"},
]  # fmt: skip


def evaluation(classes: int = 3, mistakes: int = 2, side: int = 8, channels: int = 1) -> dict:
    noise = np.random.default_rng(0)
    confusion = np.diag(np.arange(classes) + 40)
    confusion[1, 2] = 7
    confusion[0] = 0  # a class that the test split lacks
    return {
        "metrics": {"accuracy": 0.9231, "top5": None, "loss": 0.25, "images": confusion.sum()},
        "labels": ["cat", "<script>alert(1)</script>", *(f"k{i}" for i in range(2, classes))],
        "confusion": confusion,
        "mistakes": [
            {"image": noise.integers(0, 256, (side, side, channels), dtype=np.uint8), "label": 1,
             "predicted": 2, "score": 0.5 + i / 100, "file": f"cat/{i}.png"}
            for i in range(mistakes)
        ],
    }  # fmt: skip


EVERYTHING: dict[str, Any] = {
    "facts": FACTS,
    "history": HISTORY,
    "evaluation": evaluation(),
    "trials": TRIALS,
    "artifacts": ARTIFACTS,
}


class Page(HTMLParser):
    """A page's text, tags and attributes; complains of tags that do not match."""

    def __init__(self, path: Path, **sections: Any) -> None:
        super().__init__()
        report.write(path, "a <title>", **sections)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.html, self.words = path.read_text("utf-8"), []
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def values(self, key: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for k, value in attrs.items() if k == key]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(tmp_path_factory.mktemp("report") / "report.html", **EVERYTHING)


def test_loads_nothing(page):
    links = page.values("src") + page.values("href") + page.values("xlink:href")
    links += re.findall(r"url\(['\"]?(.*?)['\"]?\)", page.html)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("#", "data:image/png;base64,"))] == []
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    assert "@import" not in page.html


def test_ids_are_unique_and_references_resolve(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page.html)
    assert {a or b for a, b in wanted} <= set(ids)


def test_figures_follow_the_theme(page):
    svg = "".join(re.findall(r"<svg.*?</svg>", page.html, re.DOTALL))
    assert "var(--blue)" in svg
    assert "var(--rule)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert "font-family" not in svg


def test_text_is_escaped(page):
    assert "<script" not in page.html
    assert "<script>alert(1)</script>" in page.text
    assert "keras-cnns demo --out <here>" in page.text
    assert "9,000,000 MACs > 600,000 <allowed>" in page.text
    assert page.text.startswith("a <title>")


@pytest.mark.parametrize(
    "words",
    [
        "61,706",
        "accuracy 92.31%",
        "3 epochs. The best validation accuracy, 81.25%, came at epoch 2.",
        "90 held-out images: 92.31% right, loss 0.25.",
        "cat – – 0",
        "<script>alert(1)</script> 85.4% 100.0% 48",
        "k2 100.0% 85.7% 42",
        "k2 51% was <script>alert(1)</script>",
        "4 trials: 2 completed, 1 refused, 1 failed. 12 proposals were turned down before a model "
        "was built. The best, trial 1, reaches 98.75% at 500.0k MACs; the paper's split 97.00% at "
        "416.5k.",
        "c1.filters 6 → 8",
        "failed: the loss became NaN",
        "model.tflite tflite none 1.23 MB 1.4e-06 100.00% 97.22% 0.31 ms ✓ agrees",
        "model_int8.tflite tflite int8 0.35 MB – 94.00% – – ✗ fails agreement is below 98%",
        "artifacts that agree 1 of 2",
        "budget 600.0k",
    ],
)
def test_numbers_are_told(page, words):
    assert words in page.text


def test_numbers_among_the_facts_are_large_and_told_once(tmp_path):
    facts = {"test accuracy": "92.31%", "time": "1,430 s", "image": "32x32x1", "note": "3 things"}
    page = Page(tmp_path / "report.html", facts=facts, evaluation=evaluation())
    large = page.html.partition('class="headline">')[2].partition("</dl>")[0]
    assert re.findall(r"<dd>(.*?)</dd>", large) == ["92.31%", "1,430 s"]
    assert "image 32x32x1 note 3 things" in page.text


def test_points_say_which_trial_they_are(page):
    tips = re.findall(r"<g id=\"trials-tip\d\"><title>(.*?)</title>", page.html, re.DOTALL)
    assert tips == [
        "Trial 1: 98.75%, 500.0k MACs, 70.0k parameters\nc1.filters 6 → 8",
        "Trial 0: 97.00%, 416.5k MACs, 61.7k parameters\n",
    ]


def test_trials_without_a_score_come_last(page):
    (table,) = re.findall(r"<table>\s*<thead><tr><th>Trial.*?</table>", page.html, re.DOTALL)
    assert re.findall(r'<th scope="row">(\d)', table) == ["1", "0", "2", "3"]


@pytest.mark.parametrize("given", EVERYTHING)
def test_a_section_appears_for_what_is_given(tmp_path, given):
    page = Page(tmp_path / "report.html", **{given: EVERYTHING[given]})
    section = {"history": "training", "trials": "search", "facts": "none"}.get(given, given)
    sections = ("training", "evaluation", "search", "artifacts")
    assert [i for i in page.values("id") if i in sections] == [section] * (given != "facts")
    assert ("61,706" in page.text) == (given == "facts")


def test_nothing_but_a_title(tmp_path):
    page = Page(tmp_path / "report.html")
    assert page.text.endswith("a <title>")
    assert page.count("section") == page.count("svg") == 0


def test_equal_arguments_write_equal_bytes(tmp_path, page):
    assert Page(tmp_path / "again.html", **EVERYTHING).html == page.html


@pytest.mark.parametrize(
    ("classes", "cells", "listed"), [(20, 400, 20), (21, 441, 20), (41, 0, 20), (1000, 0, 20)]
)
def test_many_classes(tmp_path, classes, cells, listed):
    page = Page(tmp_path / "report.html", evaluation=evaluation(classes, mistakes=50))
    matrix, _, rest = page.html.partition("</figure>")
    assert len(re.findall(r'<td class="[^"]*" style="--shade', matrix)) == cells
    assert len(re.findall(r'class="n bar"', rest)) == listed
    assert (f"The 20 classes of {classes:,} with the lowest recall" in page.text) == (classes > 20)
    assert ("Most frequent confusions" in page.text) == (classes > 20)
    assert ("Each square is 10 neighbouring classes" in page.text) == (classes == 1000)
    assert 'class="label">&lt;script' in rest  # the one class with mistakes is among the lowest
    assert page.html.count('class="heat"') == (classes > 40)
    assert page.html.count('class="small"') == report.MAX_MISTAKES
    assert "The first 18 of 50" in page.text
    assert len(page.html) < 200_000


def test_large_noisy_photos_stay_small(tmp_path):
    page = Page(tmp_path / "report.html", evaluation=evaluation(mistakes=30, side=300, channels=3))
    assert 500_000 < len(page.html) < 1_200_000
    assert 'class="small"' not in page.html


def test_small_images_are_enlarged_crisply(page):
    assert page.html.count('class="small"') == 2
    assert re.search(r"img\.small \{ image-rendering: pixelated", page.html)


def test_the_surest_mistakes_come_first(page):
    assert page.text.index("k2 51%") < page.text.index("k2 50%")


def test_a_search_without_the_papers_split_lists_all_values(tmp_path):
    page = Page(tmp_path / "report.html", trials={**TRIALS, "paper": None, "max_macs": None})
    assert "c1.filters 8, c3.filters 16" in page.text
    assert "paper" not in page.text
    assert "budget" not in page.text


def test_a_search_that_found_nothing(tmp_path):
    trials = {"trials": TRIALS["trials"][2:], "best": None, "pareto": []}
    page = Page(tmp_path / "report.html", trials=trials)
    assert "2 trials: 1 refused, 1 failed." in page.text
    assert page.count("svg") == 0


def test_long_searches_are_cut_and_say_so(tmp_path):
    trials = [{**TRIALS["trials"][0], "id": i, "score": i / 100} for i in range(60)]
    page = Page(tmp_path / "report.html", trials={"trials": trials, "best": 59, "pareto": [59]})
    assert "The best 40 of 60 trials." in page.text
    assert page.html.count('<th scope="row">') == 40
    assert "0.59" in page.text  # the objective has no name, so the score is no percentage


def test_one_epoch_without_validation(tmp_path):
    page = Page(tmp_path / "report.html", history=[{"epoch": 1, "loss": 2.0, "accuracy": 0.5}])
    assert "1 epoch. Lines" in page.text
    assert page.count("svg") == 2  # no learning rate, no figure of it


def test_an_older_page_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("older")
    with pytest.raises(ZeroDivisionError):
        report.write(path, "new", history=Unreadable())
    assert path.read_text() == "older"

    def full(self, *args, **kwargs):
        assert self.match(".[0-9]*.report.html")  # which a training cleans after a kill
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        report.write(path, "new")
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


class Unreadable(list):
    """Rows that cannot be read."""

    def __bool__(self) -> bool:
        return bool(1 / 0)


def test_names_that_are_not_unicode_are_written(tmp_path):
    data = evaluation()
    data["mistakes"][0]["file"] = "caf\udce9.png"
    report.write(str(tmp_path / "report.html"), "title", evaluation=data)
    assert "caf?.png" in (tmp_path / "report.html").read_text("utf-8")


def test_the_readers_matplotlib_is_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    report.write(tmp_path / "report.html", "title", **EVERYTHING)
    assert dict(matplotlib.rcParams) == before


def test_needs_neither_keras_nor_pyplot():
    code = "import sys, keras_cnns.report; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"tensorflow", "keras", "matplotlib.pyplot"} & set(loaded.stdout.split())
