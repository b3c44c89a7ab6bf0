"""The recipes in experiments/ are recipes, and say what they cost and came to."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from keras_cnns import builder, recipe as recipes
from keras_cnns.cost import cost

RECIPES = sorted((Path(__file__).parent.parent / "experiments").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_recipe_opens_with_its_command_its_cost_and_its_result(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# keras-cnns train experiments/{path.name} --data ")
    assert re.search(r"^# Cost: ", text, re.M)
    assert re.search(r"Result: (not run here|none yet|.*\.json)", text)
    assert ("Result: " in text and path.with_suffix(".json").exists()) or "not run" in text


RECORDED = [path for path in RECIPES if path.with_suffix(".json").exists()]


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_a_record_is_of_its_recipe_and_the_recipe_says_what_it_says(path):
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["train"] == json.loads(json.dumps(asdict(recipes.load(path).train)))
    assert all(len(run["history"]["loss"]) == record["train"]["epochs"] for run in record["runs"])
    tested = [run["test"]["accuracy"] for run in record["runs"]]
    assert record["mean_test_accuracy"] == pytest.approx(sum(tested) / len(tested))
    assert f"{record['mean_test_accuracy']:.2%}".replace("%", " %") in path.read_text("utf-8")
    assert path.with_suffix(".png").exists()


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_its_network_takes_its_images(path):
    recipe = recipes.load(path)
    size = recipe.data.size or {"cifar10": 32, "mnist": 32}[recipe.data.name]
    channels = 1 if recipe.data.name == "mnist" else 3
    classes = 1000 if "imagenet" in recipe.data.name else 10
    found = builder.trace(
        recipe.model.name,
        input_shape=(size, size, channels),
        num_classes=classes,
        spec=recipe.model.spec,
        auxiliary=recipe.model.auxiliary,
    )
    assert found.shape == (None, classes)
    assert recipe.train.milestones == () or recipe.train.milestones[-1] < recipe.train.epochs


def test_the_answer_of_a_search_is_the_network_of_its_record():
    place = RECIPES[0].parent / "search" / "inception_v1_cifar10.json"
    record = json.loads(place.read_text(encoding="utf-8"))
    best = recipes.load(place.with_name("inception_v1_cifar10_best.toml"))
    found = cost("inception_v1", input_shape=(32, 32, 3), num_classes=10, spec=best.model.spec)
    [row] = [row for row in record["trials"] if row["id"] == record["best"]]
    assert best.model.spec == row["spec"]
    assert (found.macs, found.params) == (row["macs"], row["params"])
    assert found.macs <= record["max_macs"]
