"""Runs side by side show their figures, and what was different about them."""

import json
import subprocess
import sys

import pytest

from keras_cnns import compare, recipe as recipes, runs
from keras_cnns.errors import UsageError

HISTORY = "epoch,loss,accuracy,val_accuracy,images_per_second,seconds\n1,2.0,0.2,0.3,100.0,4.5\n"


@pytest.fixture
def folders(tmp_path):
    """A run that has ended and been tested, and one that is under way."""
    for name, settings in (("a", []), ("b", ["train.epochs=9", "model.spec.c1.filters=8"])):
        place = tmp_path / name
        place.mkdir()
        recipe = recipes.override(recipes.Recipe(), settings)
        (place / "recipe.toml").write_text(recipes.to_toml(recipe))
        (place / "labels.txt").write_text("0\n1\n")
        (place / "history.csv").write_text(HISTORY)
    metrics = {
        "validation": {"accuracy": 0.75},
        "test": {"accuracy": 0.5, "loss": 1.5},
        "test, 10 crops": {"accuracy": 0.625, "loss": 1.25},
        "training": {"images_per_second": 120.0},
    }
    (tmp_path / "a" / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path / "a", tmp_path / "b"


def test_figures_and_differences(folders):
    found = compare.compare([runs.open_run(folder) for folder in folders])
    ended, running = (list(row.values())[3:] for row in found["runs"])
    assert list(found["runs"][0]) == list(found["runs"][1]) == [*compare.COLUMNS, "test, 10 crops"]
    assert ended == [1, 0.75, 0.5, 1.5, 120.0, 4.5, 0.625]
    assert running == [1, 0.3, None, None, 100.0, 4.5, None]
    assert found["differences"] == {
        "model.spec.c1.filters": [None, 8],
        "train.epochs": [30, 9],
    }


def test_the_command_needs_no_tensorflow(folders):
    code = (
        "import sys; from keras_cnns.cli import main\n"
        "try: main(['compare', *sys.argv[1:], '--json'])\n"
        "finally: sys.exit('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["run"] for row in json.loads(result.stdout)["runs"]] == list(map(str, folders))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no run folder"):
        runs.open_run(tmp_path)
