"""Whole searches, with Keras: one command each, as a user types them."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from keras_cnns import recipe as recipes, runs, train, tune as search
from keras_cnns.errors import UsageError
from keras_cnns.training import machine
from keras_cnns.tune import here, trial

sys.path.insert(0, str(Path(__file__).parent))
import driver

TRAIN = ("-m", "keras_cnns", "train", "--data", "digits", "--set", "train.epochs=1")
ROOT = Path(__file__).parent.parent.parent


def run(words, data_dir):
    environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tune(*words, data_dir):
    return run(["-m", "keras_cnns", "tune", *words, "--json"], data_dir)


@pytest.fixture
def recipe(digits_dir, monkeypatch):
    monkeypatch.setattr(here, "train", partial(here.train, command=driver.STUB))
    found = recipes.override(driver.recipe(), ["train.epochs=1", "data.name=digits"])
    return replace(found, data=replace(found.data, dir=str(digits_dir)))


def test_the_answer_is_trained_and_exported(recipe, tmp_path, digits_dir):
    found = search.tune(recipe, tmp_path / "out", trials=3)
    rows = {trial["id"]: trial for trial in found["trials"]}
    run([*TRAIN, tmp_path / "out" / "best.toml", "--out", tmp_path / "run"], digits_dir)
    shown = json.loads(run(["-m", "keras_cnns", "show", tmp_path / "run", "--json"], digits_dir))
    assert shown["params"] == rows[found["best"]]["params"]
    for name in found["pareto"]:
        place = tmp_path / "out" / "pareto" / f"{name}.toml"
        words = ("export", place, "--out", tmp_path / name, "--formats", "tflite")
        run(["-m", "keras_cnns", *words], digits_dir)
        assert (tmp_path / name / "model.tflite").is_file()


@pytest.mark.parametrize("name", ["search.json", "trials.json", "report.html"])
def test_a_full_disk_is_a_line_and_the_search_goes_on(name, recipe, tmp_path, monkeypatch):
    whole = Path.write_text

    def write(place, *words, **options):
        late = (tmp_path / "out" / "trials" / "0001.json").is_file()
        if place.name.endswith(name) and (late or name == "search.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(place, *words, **options)

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(UsageError, match=r"the disk is full; .* goes on from there"):
        search.tune(recipe, tmp_path / "out", trials=3)
    monkeypatch.setattr(Path, "write_text", whole)
    found = search.tune(recipe, tmp_path / "out", trials=3)
    assert [trial["id"] for trial in found["trials"]] == ["0000", "0001", "0002"]


def test_a_network_too_slow_as_it_stands_is_said_to_be_left_out(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"0000": "slow"}))
    found = search.tune(recipe, tmp_path / "out", trials=1, max_latency_ms=10)
    assert found["paper"] is None
    assert found["left_out"] == (
        "the network as it stands: 12.3 ms as tflite, above --max-latency-ms 10: left out"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The network as it stands: 12.3 ms as tflite" in page


def test_a_search_that_cannot_be_read_is_refused(recipe, tmp_path):
    search.tune(recipe, tmp_path / "out", trials=1)
    (tmp_path / "out" / "search.json").write_text("{")
    with pytest.raises(UsageError, match=r"search\.json cannot be read; .* another --out"):
        search.tune(recipe, tmp_path / "out", trials=1)


@pytest.mark.parametrize(
    ("setting", "start"),
    [
        ("model.spec.stages.0.depth=9", "the network as given"),
        ("model.spec.conv1=32", "the network as given"),
        ("model.width=0.5", "the paper's split, at 0.5 of its width"),
    ],
)
def test_what_a_search_starts_from_is_called_the_paper_s_only_where_it_is(setting, start):
    recipe = recipes.override(driver.recipe("resnet20_cifar"), [setting])
    assert search._start(recipe) == start


def test_a_chief_trains_nothing_and_needs_no_gpu():
    train = recipes.Train(precision="mixed_float16")
    assert machine.settle(train, elsewhere=True).precision == "mixed_float16"
    assert machine.settle(recipes.Train(), elsewhere=True).precision != "auto"


@pytest.mark.slow
@pytest.mark.parametrize("machines", [(), ("--machines",)], ids=["alone", "together"])
def test_sixty_trials_survive_three_kills(machines, tmp_path, digits_dir):
    script = ROOT / "experiments" / "search" / "kills.py"
    run([script, "--trials", 60, "--out", tmp_path / "kills.json", *machines], digits_dir)
    told = json.loads((tmp_path / "kills.json").read_text())
    assert told["trials"] == told["distinct"] == told["completed"] == 60
    assert told["max_macs"] == told["largest_macs"] == 30_683_136
    assert told["first_is_the_papers"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vgg11", "resnet20_cifar", "densenet40_cifar"])
def test_other_networks_are_searched_by_their_rows(network, tmp_path, digits_dir):
    words = (network, "--data", "digits", "--out", tmp_path / "s", "--set", "train.epochs=1")
    found = json.loads(tune(*words, "--trials", 3, "--set", "model.width=0.5", data_dir=digits_dir))
    paper = found["trials"][0]["macs"]
    assert found["space"] == "rows"
    assert found["paper"] == found["trials"][0]["id"]
    fewer = json.loads(
        tune(
            *words[:4], tmp_path / "fewer", *words[5:], "--trials", 2, "--set", "model.width=0.5",
            "--max-macs", int(0.8 * paper), "--repeat", 2, data_dir=digits_dir,
        )
    )  # fmt: skip
    assert fewer["paper"] is None
    assert all(trial["macs"] <= 0.8 * paper for trial in fewer["trials"])
    assert [len(row["seeds"]) for row in fewer["repeats"]["networks"]] == [2, 2]


@pytest.mark.slow
def test_a_latency_is_measured_and_kept(tmp_path, digits_dir):
    words = ("lenet5", "--data", "digits", "--set", "train.epochs=1", "--trials", 1)
    free = json.loads(
        tune(*words, "--out", tmp_path / "a", "--max-latency-ms", 1000, data_dir=digits_dir)
    )
    assert 0 < free["trials"][0]["latency_ms"] < 1000
    assert free["trials"][0]["status"] == "completed"
    onnx = json.loads(
        tune(
            *words, "--out", tmp_path / "b", "--max-latency-ms", 1000, "--latency-of", "onnx",
            data_dir=digits_dir,
        )
    )  # fmt: skip
    assert 0 < onnx["trials"][0]["latency_ms"] < 1000


@pytest.mark.slow
def test_a_latency_above_the_limit_is_refused(tmp_path, digits_dir):
    recipe = recipes.override(driver.recipe(), ["data.name=digits"])
    recipe = replace(recipe, data=replace(recipe.data, dir=str(digits_dir)))
    recipe = train.resolve(recipe, runs.open_data(recipe))
    words = {"recipe": recipes.to_toml(recipe), "folder": str(tmp_path), "seed": 0}
    found = trial.outcome({**words, "max_latency_ms": 1e-6, "format": "tflite"})
    assert found["latency_ms"] > 1e-6
    assert found["refused"].endswith(" ms")
    assert "score" not in found
