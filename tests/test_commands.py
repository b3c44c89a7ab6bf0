"""The commands as a user types them: what they write, print and refuse."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from keras_cnns import recipe as recipes, runs
from keras_cnns.cli import main
from keras_cnns.runs import read_history

DIGITS = ("train", "lenet5", "--data", "digits", "--out")
SEARCH = ("tune", "lenet5", "--data", "digits", "--out", "OUT")
FAST = (
    "--set",
    "train.epochs=2",
    "--set",
    "data.batch_size=32",
    "--set",
    "train.learning_rate=3e-3",
)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: object) -> Result:
    result = call(*words)
    assert result.exit_code == 0, result.stderr[-3000:]
    return result


def refused(*words: object, status: int = 2) -> str:
    """Return the last line on standard error of a command that must end as the user's mistake."""
    result = call(*words)
    assert result.exit_code == status, (result.exit_code, result.output[-3000:])
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def data_dir(digits_dir, monkeypatch_module):
    monkeypatch_module.setenv("TFDS_DATA_DIR", str(digits_dir))
    return digits_dir


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Path:
    """LeNet-5, trained for two epochs on the digits."""
    out = tmp_path_factory.mktemp("runs") / "lenet5"
    done("train", "lenet5", "--data", "digits", "--out", out, *FAST)
    return out


@pytest.fixture(scope="module")
def artifacts(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("artifacts") / "lenet5"
    done("export", run, "--out", out, "--quantize", "float16,int8")
    return out


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of two classes of small colour photos: reddish and bluish noise."""
    draw = np.random.default_rng(0)
    for label, tint in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(draw.normal(tint, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "photos"


def test_a_run_folder_holds_what_was_promised(run):
    names = {path.name for path in run.iterdir()}
    promised = "recipe.toml model.keras history.csv labels.txt metrics.json tensorboard report.html"
    assert set(promised.split()) <= names
    recipe = recipes.load(run / "recipe.toml")
    assert recipe.data.size == 32
    assert recipe.data.channels == 1
    assert recipe.model.spec == {"c1": 6, "c3": 16, "c5": 120, "f6": 84}
    assert (run / "labels.txt").read_text().split() == [str(i) for i in range(10)]
    history = read_history(run)
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["val_accuracy"] > history[0]["val_accuracy"] > 0.1


def test_evaluate_measures_the_test_split_and_keeps_it(run):
    found = json.loads(done("evaluate", run, "--json").stdout)
    assert found["images"] == 360
    assert 0.8 < found["accuracy"] <= found["top5"] <= 1
    assert json.loads((run / "metrics.json").read_text())["test"] == found
    assert "360 held-out images" in (run / "report.html").read_text()


def test_other_ways_of_testing_are_kept_beside_it(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    found = json.loads(done("evaluate", copy, "--crops", "10", "--json").stdout)
    metrics = json.loads((copy / "metrics.json").read_text())
    assert metrics["test, 10 crops"] == found
    assert found["crops"] == "10"
    assert metrics["validation"]["crops"] == "1"
    (row,) = json.loads(done("compare", copy, "--json").stdout)["runs"]
    assert row["test, 10 crops"] == found["accuracy"]
    assert "test, 10 crops" in done("compare", copy).stdout.splitlines()[0]
    page = (copy / "report.html").read_text()
    for name in ("test, 10 crops", "validation"):
        assert f"{name} accuracy" in page
        assert f"{metrics[name]['accuracy']:.2%}" in page


def test_training_a_finished_run_again_changes_nothing(run):
    before = (run / "model.keras").read_bytes()
    assert (
        "is trained already"
        in done("train", "lenet5", "--data", "digits", "--out", run, *FAST).stderr
    )
    assert (run / "model.keras").read_bytes() == before


def test_a_run_of_another_recipe_is_refused_by_the_key_that_differs(run):
    said = refused("train", "nin", "--data", "digits", "--out", run, *FAST)
    assert "model.name is 'lenet5' there and 'nin' here" in said
    slower = ("--set", "train.learning_rate=1e-4")
    assert "train.learning_rate" in refused(
        "train", "lenet5", "--data", "digits", "--out", run, *FAST, *slower
    )


def test_an_interrupted_training_goes_on_after_its_last_epoch(data_dir, tmp_path):
    out = tmp_path / "run"
    words = ["train", "lenet5", "--data", "digits", "--out", str(out), "--set", "train.epochs=12"]
    # A shell that runs these tests behind itself has its jobs ignore what is sent here.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{heed}from keras_cnns.cli import main; main()", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while len(read_history(out)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.decode().strip().splitlines()[-1].endswith("goes on from here")
    kept = read_history(out)
    assert not (out / "model.keras").exists()
    assert "has no model.keras yet" in refused("evaluate", out)

    result = call(*words)
    assert result.exit_code == 0
    done_before = int(re.search(r"after epoch (\d+) of 12", result.stderr)[1])
    # A stop between history and checkpoint costs the last epoch.
    assert done_before in (len(kept), len(kept) - 1)
    whole = read_history(out)
    assert whole[:done_before] == kept[:done_before]
    assert [row["epoch"] for row in whole] == list(range(1, 13))
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_auxiliary_heads_are_trained_and_left_out_of_what_is_kept(data_dir, tmp_path):
    narrow = ("--set", "model.width=0.06", "--set", "model.auxiliary=true", "--set", "data.size=65")
    once = ("--set", "train.epochs=1")
    done("train", "googlenet", "--data", "digits", "--out", tmp_path / "run", *narrow, *once)
    (row,) = read_history(tmp_path / "run")
    assert row["loss"] > 2.3  # three heads, the two at 0.3: 1.6 times ln(10)
    model = runs.open_run(tmp_path / "run").model()
    assert model.output.shape == (None, 10)
    assert not [layer.name for layer in model.layers if "auxiliary" in layer.name]


def test_what_a_stop_left_out_is_made_up_for(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "metrics.json").unlink()
    assert "validation accuracy" in done(*DIGITS, copy, *FAST).stdout
    assert "validation" in json.loads((copy / "metrics.json").read_text())
    assert not list(copy.glob("checkpoint*"))


def test_a_diverged_training_ends_with_advice(data_dir, tmp_path):
    hot = ("--set", "train.learning_rate=1e30", "--set", "train.optimizer=sgd")
    assert "lower train.learning_rate" in refused(*DIGITS, tmp_path / "run", *hot)
    assert not (tmp_path / "run" / "model.keras").exists()
    words = ("tune", "lenet5", "--data", "digits", "--out", tmp_path / "search", "--trials", 1)
    assert "lower train.learning_rate" in refused(*words, *hot, "--set", "train.epochs=1")
    (trial,) = json.loads((tmp_path / "search" / "trials.json").read_text())["trials"]
    assert (trial["status"], trial["macs"]) == ("failed", 416_520)


def test_other_data_is_measured_and_not_kept(run, photos, tmp_path):
    before = (run / "metrics.json").read_bytes()
    scans = tmp_path / "scans"
    for label in range(10):
        folder = scans / str(label)
        folder.mkdir(parents=True)
        for i in range(10):
            Image.new("L", (32, 32), label * 20 + i).save(folder / f"{i}.png")
    found = json.loads(done("evaluate", run, "--data", scans, "--json").stdout)
    assert found["images"] == 100  # it has no test split
    assert (run / "metrics.json").read_bytes() == before


def test_where_tfds_keeps_its_sets_is_not_part_of_a_run(run, digits_dir):
    words = (*DIGITS, run, *FAST, "--data-dir", digits_dir)
    assert "is trained already" in done(*words).stderr


def test_a_damaged_file_does_not_predict(artifacts, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(artifacts, copy)
    (copy / "model.onnx").write_bytes(b"no model")
    Image.new("L", (32, 32)).save(tmp_path / "photo.png")
    assert "model.onnx cannot be run" in refused("predict", copy, tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = (artifacts / "model.onnx", tmp_path / "photo.png")
    assert "broken.png" in refused("predict", *good, tmp_path / "broken.png")
    assert "is a folder" in refused("predict", *good, "--csv", tmp_path)


def test_an_artifact_folder_of_nothing_does_not_pass(artifacts, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(artifacts, copy)
    described = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**described, "artifacts": []}))
    assert "does not describe its files" in refused("verify", copy)


def test_a_folder_of_photos_goes_all_the_way(photos, tmp_path):
    run, out = tmp_path / "run", tmp_path / "artifacts"
    small = (
        "--set",
        "data.size=32",
        "--set",
        "model.width=0.125",
        "--set",
        "model.spec.stem=small",
    )
    often = ("--set", "data.batch_size=4", "--set", "train.epochs=4")
    done("train", "resnet18", "--data", photos, "--out", run, *FAST, *small, *often)
    assert (run / "labels.txt").read_text().split() == ["blue", "red"]
    found = json.loads(done("evaluate", run, "--json").stdout)
    assert found["images"] == 4
    assert found["accuracy"] == 1
    done("export", run, "--out", out, "--formats", "onnx")
    assert json.loads(done("verify", out, "--json").stdout)["passed"]
    table = tmp_path / "table.csv"
    written = ("--csv", table, "--csv-format", "table")
    rows = json.loads(done("predict", out, photos / "red", *written, "--json").stdout)
    assert [row["top"][0]["label"] for row in rows] == ["red"] * 20
    with table.open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 40
    assert written[0]["label"] == "red"
    assert written[0]["rank"] == "1"


def test_each_artifact_predicts_what_the_run_predicts(run, artifacts, tmp_path):
    scan = np.zeros((32, 32), np.uint8)
    scan[4:28, 14:18] = 255
    Image.fromarray(scan).save(tmp_path / "one.png")
    by_run = json.loads(done("predict", run, tmp_path / "one.png", "--json").stdout)
    files = ["", "saved_model", "model.onnx", "model.tflite", "model_float16.tflite"]
    for file in files:
        by_file = json.loads(
            done("predict", artifacts / file, tmp_path / "one.png", "--json").stdout
        )
        assert [g["label"] for g in by_file[0]["top"][:2]] == [
            g["label"] for g in by_run[0]["top"][:2]
        ]
        assert abs(by_file[0]["top"][0]["score"] - by_run[0]["top"][0]["score"]) < 2e-3


def test_verify_passes_and_then_catches_a_flipped_byte(artifacts, tmp_path):
    found = json.loads(done("verify", artifacts, "--json").stdout)
    assert found["passed"]
    assert len(found["artifacts"]) == 6
    more = json.loads(done("verify", artifacts, "--data", "digits", "--json").stdout)
    assert more["images"] == 360
    assert more["passed"]
    broken = tmp_path / "broken"
    shutil.copytree(artifacts, broken)
    content = bytearray((broken / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (broken / "model.onnx").write_bytes(content)
    result = call("verify", broken, "--json")
    assert result.exit_code == 1
    failed = [a for a in json.loads(result.stdout)["artifacts"] if not a["passed"]]
    assert [a["file"] for a in failed] == ["model.onnx"]
    assert "sha256" in failed[0]["why"]


def test_a_search_keeps_its_budget_and_resumes(data_dir, tmp_path):
    words = [
        "tune", "lenet5", "--data", "digits", "--out", tmp_path / "search",
        "--max-macs", "0.4M", "--set", "train.epochs=1", "--json",
    ]  # fmt: skip
    first = json.loads(done(*words, "--trials", 2).stdout)
    found = json.loads(done(*words, "--trials", 4).stdout)
    assert found["trials"][:2] == first["trials"]
    assert [t["status"] for t in found["trials"]] == ["completed"] * 4
    assert max(t["macs"] for t in found["trials"]) <= 400_000
    points = {json.dumps(t["values"]) for t in found["trials"]}
    assert len(points) == 4
    assert found["paper"] is None  # 416,520 MACs: above the budget, and said so
    assert found["best"] in {t["id"] for t in found["trials"]}
    assert found["best"] in found["pareto"]
    best = recipes.load(tmp_path / "search" / "best.toml")
    assert (best.train.epochs, best.data.size) == (1, 32)
    spec = next(t["spec"] for t in found["trials"] if t["id"] == found["best"])
    assert dict(best.model.spec) == spec
    shown = json.loads(done("show", tmp_path / "search" / "best.toml", "--json").stdout)
    assert shown["macs"] == next(t["macs"] for t in found["trials"] if t["id"] == found["best"])
    said = refused(*words[:-1], "--trials", 4, "--set", "seed=9")
    assert "holds another search: recipe.seed" in said


def test_the_papers_own_network_is_the_first_trial(data_dir, tmp_path):
    words = ("tune", "lenet5", "--data", "digits", "--out", tmp_path / "search")
    found = json.loads(done(*words, "--trials", 1, "--set", "train.epochs=1", "--json").stdout)
    (trial,) = found["trials"]
    assert trial["spec"] == {"c1": 6, "c3": 16, "c5": 120, "f6": 84}
    assert set(trial["values"].values()) == {1.0}
    assert (trial["params"], trial["macs"], found["paper"]) == (61_706, 416_520, trial["id"])


def test_a_budget_below_the_cheapest_network_names_it(data_dir, tmp_path):
    said = refused(
        "tune",
        "lenet5",
        "--data",
        "digits",
        "--out",
        tmp_path / "s",
        "--trials",
        2,
        "--max-macs",
        "1k",
    )
    assert "the cheapest of the space has" in said
    assert not (tmp_path / "s").exists()


def test_list_and_show_speak_json():
    rows = json.loads(done("list", "--json").stdout)
    assert {"name", "year", "family", "params", "macs", "input_shape", "min_size", "source"} <= set(
        rows[0]
    )
    found = json.loads(done("show", "googlenet", "--json").stdout)
    assert found["name"] == "inception_v1"
    assert found["params"] == 6_998_552
    row = next(layer for layer in found["layers"] if layer["name"] == "conv1_conv")
    assert row == {
        "name": "conv1_conv", "type": "Conv2D", "output_shape": [112, 112, 64], "params": 9_472,
        "macs": 118_013_952, "activation_bytes": 3_211_264, "receptive_field": 7, "stride": 2,
    }  # fmt: skip
    assert "3a_2b_conv" in done("show", "googlenet", "--layers").stdout


def test_show_reads_runs_and_keras_files(run):
    by_run = json.loads(done("show", run, "--json").stdout)
    by_file = json.loads(done("show", run / "model.keras", "--json").stdout)
    assert by_run["params"] == by_file["params"] == 61_706
    assert by_run["macs"] == by_file["macs"] == 416_520


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["show", "lenet6"], 'did you mean "lenet5"?'),
        (["list", "vgg*", "--max-params", "1k"], 'no network matches "vgg*" within these limits'),
        (["list", "--family", "VGGG"], 'unknown family "VGGG"'),
        (["list", "xyz*"], 'no network matches "xyz*"'),
        (["train", "lenet6", "--data", "digits", "--out", "OUT"], 'did you mean "lenet5"?'),
        (["train", "lenet5", "--data", "digitz", "--out", "OUT"], '"digits"'),
        (["train", "lenet5", "--data", "EMPTY", "--out", "OUT"], "EMPTY"),
        (["train", "lenet5", "--data", "./missing", "--out", "OUT"], "missing"),
        (["train", "lenet5", "--data", "ONE_CLASS", "--out", "OUT"], "ONE_CLASS"),
        (["train", "lenet5", "--data", "BAD_IMAGE", "--out", "OUT"], "no validation images"),
        ([*DIGITS, "OUT", "--set", "train.epoch=3"], "train.epoch"),
        ([*DIGITS, "OUT", "--set", "model.spec.c2=3"], "c2"),
        ([*DIGITS, "OUT", "--set", "data.size=20"], "32x32"),
        (["train", "lenet5", "--data", "digits", "--out", "FILE"], "FILE"),
        (["train", "lenet5", "--data", "digits", "--out", "FULL"], "FULL"),
        (["train", "lenet5", "--data", "digits", "--out", "FILE/run"], "FILE"),
        (["train", "missing.toml", "--data", "digits", "--out", "OUT"], "missing.toml"),
        (["evaluate", "missing"], "missing"),
        (["export", "lenet5", "--out", "OUT", "--formats", "onxx"], '"onnx"'),
        (["export", "lenet5", "--out", "OUT", "--quantize", "int8"], "int8"),
        (["export", "lenet5", "--out", "FILE/x"], "FILE"),
        (["export", "no.keras", "--out", "OUT"], "no.keras"),
        (["verify", "EMPTY"], "EMPTY"),
        (["predict", "EMPTY", "FILE"], "EMPTY"),
        ([*SEARCH, "--trials", "0"], "trials"),
        ([*SEARCH, "--trials", "2", "--max-macs", "x"], "60M"),
        ([*SEARCH, "--space", "ratio"], 'did you mean "ratios"?'),
        ([*SEARCH, "--space", "ratios"], "has no ratios to search"),
        ([*SEARCH, "--oracle", "evolutio"], 'did you mean "evolution"?'),
        ([*SEARCH, "--latency-of", "savedmodel"], "tflite or onnx"),
        ([*SEARCH, "--repeat", "-1"], "-1 repeats"),
        ([*SEARCH, "--repeat", "1"], "nothing can be tested; give 0, or 2 and more"),
        ([*SEARCH, "--finalists", "3"], "3 finalists, but they are only repeated"),
        ([*SEARCH, "--max-macs", "0.4"], "not a number above 0"),
        ([*SEARCH, "--max-latency-ms", "nan"], "a limit of nan milliseconds"),
        ([*SEARCH, "--max-activation-mb", "nan"], "a limit of nan megabytes"),
        ([*SEARCH, "--latency-of", "onnx"], "give --max-latency-ms"),
        ([*SEARCH, "--tie", "x"], 'nothing to tie begins with "x"'),
        ([*SEARCH, "--set", "train.patience=3"], "train.patience"),
        ([*SEARCH, "--chief", "8.8.8.8:80"], "private address"),
        ([*SEARCH, "--worker", "nowhere"], "HOST:PORT"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line_and_leave_nothing(words, part, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    Path("FILE").write_text("text")
    Path("FULL").mkdir()
    Path("FULL/precious").write_text("text")
    for place in ("ONE_CLASS/a", "BAD_IMAGE/a", "BAD_IMAGE/b"):
        Path(place).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(f"{place}/fine.png")
    Path("BAD_IMAGE/b/broken.jpg").write_bytes(b"no image")
    before = sorted(Path().rglob("*"))
    assert part in refused(*words)
    assert sorted(Path().rglob("*")) == before
    assert Path("FULL/precious").read_text() == "text"


def test_classes_that_do_not_fit_are_refused(run, photos):
    assert "2 classes (blue, red)" in refused("evaluate", run, "--data", photos)
    assert "2 classes" in refused("export", run, "--out", photos.parent / "out", "--data", photos)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(data_dir, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    out = tmp_path / "closed" / "run"
    assert "cannot be written" in refused("train", "lenet5", "--data", "digits", "--out", out)


def test_mistakes_in_a_network_are_found_before_tensorflow_is_imported():
    code = (
        "import sys\n"
        "from keras_cnns.cli import main\n"
        "try: main(['train', 'lenet6', '--data', 'digits', '--out', 'x'])\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
