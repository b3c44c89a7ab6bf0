"""What a search says in the end: the best, the front, what survives repeats, what mattered."""

import re
import sys
from pathlib import Path
from random import Random

import pytest

from keras_cnns import recipe as recipes, report, spec as specs
from keras_cnns.commands import searching
from keras_cnns.tune import answer, pictures

sys.path.insert(0, str(Path(__file__).parent))
import driver


@pytest.fixture(scope="module")
def shop():
    return driver.market("inception_v1", 32)


def records(shop, count, score):
    """Return trials of random points whose score is a function of their values."""
    found = []
    for i in range(count):
        draw = Random(i)
        values = {name: draw.choice(options) for name, options in shop.space.choices.items()}
        values = shop.space.default if i == 0 else values
        price = shop.price(values)
        found.append(
            {"id": f"{i:04d}", "values": values, "macs": price.macs, "params": price.params,
             "score": score(values, draw), "status": "completed", "why": "", "rejected": 2}
        )  # fmt: skip
    return found


def repeats(scores):
    return [
        {"id": f"repeat-{of}-{seed}", "of": of, "seed": seed, "score": score, "status": "completed"}
        for of, values in scores.items()
        for seed, score in enumerate(values, 1)
    ]


def test_best_and_front_are_those_that_none_beats(shop):
    trials = records(shop, 30, lambda values, draw: draw.random())
    trials[5] |= {"status": "failed", "score": None, "why": "NaN"}
    found = answer.summary(trials, shop)
    done = [trial for trial in found["trials"] if trial["score"] is not None]
    assert found["best"] == max(done, key=lambda trial: trial["score"])["id"]
    assert found["paper"] == "0000"
    assert found["rejected"] == 60
    front = [
        trial["id"]
        for trial in sorted(done, key=lambda trial: trial["macs"])
        if all(o["score"] < trial["score"] for o in done if o["macs"] < trial["macs"])
    ]
    assert found["pareto"] == front
    assert found["best"] in front
    assert len(found["trials"]) == 30


def test_the_answer_is_recipes(shop, tmp_path):
    trials = records(shop, 6, lambda values, draw: draw.random())
    found = answer.summary(trials, shop)
    recipe = driver.recipe("inception_v1")
    (tmp_path / "pareto").mkdir()
    (tmp_path / "pareto" / "9999.toml").write_text("of an earlier answer")
    answer.write_recipes(tmp_path, recipe, found)
    best = recipes.load(tmp_path / "best.toml")
    values = next(trial["values"] for trial in trials if trial["id"] == found["best"])
    assert best.model.spec == specs.to_dict(shop.space.spec_of(values))
    assert sorted(p.stem for p in (tmp_path / "pareto").iterdir()) == sorted(found["pareto"])


def test_only_the_longest_trainings_compete():
    trials = [
        {"id": "a", "status": "completed", "score": 0.9, "macs": 1, "epochs": 1},
        {"id": "b", "status": "completed", "score": 0.8, "macs": 1, "epochs": 3},
    ]
    assert [trial["id"] for trial in answer.ranked(trials)] == ["b"]


def test_a_winner_must_survive_a_paired_test():
    paper, sure = [0.90, 0.92, 0.88, 0.91, 0.89], [0.92, 0.939, 0.901, 0.931, 0.908]
    lucky = [0.95, 0.90, 0.87, 0.93, 0.90]
    found = answer.compared(
        repeats({"paper": paper, "a": sure, "b": lucky, "c": [s - 0.02 for s in sure]}),
        "test",
        5,
    )
    rows = {row["id"]: row for row in found["networks"]}
    assert rows["paper"]["mean"] == pytest.approx(0.90)
    assert rows["paper"]["deviation"] == pytest.approx(0.0158, abs=1e-4)  # sqrt(0.001 / 4)
    assert rows["a"]["difference"] == pytest.approx(0.0198)
    # Student's t: the differences are 2.0, 1.9, 2.1, 2.1 and 1.8 points: mean 1.98, deviation
    # 0.130, so that t = 1.98 / (0.130 / sqrt(5)) = 34, at 4 degrees of freedom.
    assert rows["a"]["p"] == pytest.approx(4.5e-6, rel=0.05)
    assert found["winner"] == "a"
    assert [name for name, row in rows.items() if row["survives"]] == ["a"]
    assert rows["b"]["p"] > 0.05


def test_several_finalists_make_each_others_claims_harder():
    paper = [0.90, 0.92, 0.88, 0.91, 0.89]
    once = [0.914, 0.926, 0.897, 0.909, 0.908]
    alone = answer.compared(repeats({"paper": paper, "a": once}), "test", 5)
    assert alone["winner"] == "a"
    assert 0.025 < alone["networks"][1]["p"] < 0.05
    other = [p + d for p, d in zip(paper, (0.01, -0.01, 0.02, -0.02, 0.001), strict=True)]
    both = answer.compared(repeats({"paper": paper, "a": once, "b": other}), "test", 5)
    assert both["winner"] is None


def test_what_failed_is_told_and_has_no_winner(shop, tmp_path, capsys):
    paper, better = [0.90, 0.92, 0.88, 0.91, 0.89], [0.92, 0.939, 0.901, 0.931, 0.908]
    records_of = repeats({"paper": paper, "a": better})
    assert answer.compared(records_of, "test", 5)["winner"] == "a"
    for record in records_of[-2:]:  # of five seeds of a
        record |= {"status": "failed", "score": None, "why": "the loss is not finite"}
    found = answer.compared(records_of, "test", 5)
    assert found["winner"] is None
    row = found["networks"][1]
    assert (row["seeds"], row["p"]) == ([1, 2, 3], None)
    assert row["failed"] == [{"seed": n, "why": "the loss is not finite"} for n in (4, 5)]
    page = tmp_path / "report.html"
    told = answer.summary(records(shop, 2, lambda *_: 0.5), shop) | {"importance": None}
    told |= {"start": "the paper's split", "repeats": found}
    pictures.write(page, driver.recipe("inception_v1"), told)
    assert "3, 2 failed" in page.read_text()
    searching._repeats({"repeats": found})
    assert (
        "no winner: what failed is not compared (the loss is not finite)" in capsys.readouterr()[0]
    )
    for record in records_of[:5]:  # all of the paper's
        record |= {"status": "failed", "score": None, "why": "the loss is not finite"}
    paper = answer.compared(records_of, "test", 5)["networks"][0]
    assert (paper["id"], paper["mean"], len(paper["failed"])) == ("paper", None, 5)


@pytest.mark.parametrize(("papers", "betters"), [(5, 4), (4, 4)])
def test_pairs_that_are_still_to_come_make_no_winner_yet(papers, betters):
    paper, better = [0.90, 0.92, 0.88, 0.91, 0.89], [0.92, 0.939, 0.901, 0.931]
    records_of = repeats({"paper": paper[:papers], "a": better[:betters]})
    assert answer.compared(records_of, "test", 5)["winner"] is None
    if papers == betters:
        assert answer.compared(records_of, "test", 4)["winner"] == "a"


def test_without_spread_there_is_no_test(capsys):
    found = answer.compared(repeats({"paper": [0.5, 0.5], "a": [0.6, 0.6]}), "test", 2)
    assert found["networks"][1]["p"] is None
    assert found["winner"] is None
    searching._repeats({"repeats": found})
    assert "no winner: there was nothing to test" in capsys.readouterr()[0]
    assert answer.compared([], "test", 5) is None


def test_what_matters_is_found(shop):
    def score(values, draw):
        return 0.8 + 0.05 * values["4e.conv3"] - 0.1 * values["3a.pool"] + draw.gauss(0, 0.005)

    found = answer.importance(records(shop, 80, score))
    assert sorted(found["of"], key=lambda name: -found["of"][name])[:2] == ["3a.pool", "4e.conv3"]
    assert 0.4 < found["explained"] <= 1
    assert answer.importance(records(shop, 9, score)) is None


def test_the_page_shows_what_good_trials_have_in_common(shop, tmp_path):
    trials = records(shop, 24, lambda values, draw: values["4e.conv3"] / 2 + draw.random() / 100)
    found = answer.summary(trials, shop) | {"importance": answer.importance(trials)}
    found |= {"start": "the paper's split", "repeats": None}
    given, mean, best = pictures.shifts(found)["4e.conv3"]
    assert given == 320
    assert best > 1.2 * mean
    pictures.write(tmp_path / "report.html", driver.recipe("inception_v1"), found)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert f"4e.conv3: 320 as it stands, {mean:.4g} on average, {best:.4g} in the best" in page
    assert "a random forest" in page
    assert "4e.conv3 320 →" in page
    assert report.BLUE not in page


def test_the_page_does_not_compare_trainings_of_other_lengths_unsaid(shop, tmp_path):
    trials = records(shop, 3, lambda *_: 0.6)
    trials[0] |= {"epochs": 2, "score": 0.3}
    trials[1] |= {"epochs": 2, "score": 0.9}
    trials[2] |= {"epochs": 30}
    found = answer.summary(trials, shop)
    assert found["best"] == "0002"
    found |= {"importance": None, "start": "the paper's split", "repeats": None}
    pictures.write(tmp_path / "report.html", driver.recipe("inception_v1"), found)
    page = (tmp_path / "report.html").read_text()
    assert "the paper&#39;s split 30.00%" in page
    assert "after 2 epochs, not 30" in page
    assert re.search(r"best validation accuracy\W.{0,80}60.00%", page, re.I | re.S)


def test_a_best_that_was_not_trained_to_the_end_is_called_so(shop, tmp_path):
    trials = [{**trial, "epochs": 10} for trial in records(shop, 3, lambda *_: 0.6)]
    found = answer.summary(trials, shop)
    found |= {"importance": None, "start": "the paper's split", "repeats": None}
    assert answer.shortened(found, 30) == 10
    assert answer.shortened(found, 10) is None
    pictures.write(tmp_path / "report.html", driver.recipe("inception_v1"), found)
    assert "60.00%, after 10 of 30 epochs" in (tmp_path / "report.html").read_text()


def test_a_search_of_one_trial_has_a_page(shop, tmp_path):
    found = answer.summary(records(shop, 1, lambda *_: 0.5), shop)
    found |= {"importance": None, "start": "the paper's split", "repeats": None}
    pictures.write(tmp_path / "report.html", driver.recipe("inception_v1"), found)
    assert "50.00%" in (tmp_path / "report.html").read_text()
