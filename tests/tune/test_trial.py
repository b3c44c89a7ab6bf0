"""A trial as it is trained: its images, what a promotion goes on with, what it says."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from subprocess import DEVNULL, PIPE

import numpy as np
import pytest

from keras_cnns import data, recipe as recipes, runs, train
from keras_cnns.errors import UsageError
from keras_cnns.training import machine
from keras_cnns.tune import arrays, kerastuner, latency, trial
from keras_cnns.tune.book import name_of
from keras_cnns.tune.sampler import random_points
from keras_cnns.tune.steps import Step, Wait
from keras_cnns.tune.trainer import TRIAL, Trainer

sys.path.insert(0, str(Path(__file__).parent))
import driver


@pytest.fixture(scope="module")
def recipe(digits_dir):
    """Return a network with dropout, of few filters, resolved and settled as by a search."""
    settings = (
        "model.width=0.1",
        "train.epochs=3",
        "data.augment=shift",
        "train.precision=float32",
    )
    found = recipes.Recipe(model=recipes.Model(name="nin_cifar"))
    found = recipes.override(found, settings)
    found = replace(found, data=replace(found.data, name="digits", dir=str(digits_dir)))
    found = train.resolve(found, runs.open_data(found))
    return replace(found, train=machine.settle(found.train))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


def job(recipe, folder, **changes):
    usual = {"recipe": recipes.to_toml(recipe), "folder": str(folder), "seed": 3, "epochs": None}
    rest = {"initial_epoch": 0, "load": None, "save": None, "split": "validation"}
    return {**usual, **rest, **changes}


def test_kept_images_are_those_that_a_training_gets(recipe, folder):
    kept = arrays.source_of(recipe, folder / "data")
    original = runs.open_data(recipe)
    assert kept.labels == original.labels
    assert dict(kept.sizes) == dict(original.sizes)
    for split, count in (("train", 3), ("validation", 99), ("test", 99)):
        pairs = zip(
            *(train.batches(recipe, source, split, ["predictions"]).take(count).as_numpy_iterator()
              for source in (kept, original)),
            strict=True,
        )  # fmt: skip
        for (ours, labels), (theirs, others) in pairs:
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(labels["predictions"], others["predictions"])
    again = arrays.source_of(recipe, folder / "data")
    assert dict(again.sizes) == dict(original.sizes)
    assert {path.name for path in (folder / "data").iterdir()} == {*data.SPLITS, "source.json"}


def test_what_a_killed_trial_left_is_deleted(recipe, tmp_path):
    place, weights = tmp_path / "data", tmp_path / "weights"
    (place / ".train").mkdir(parents=True)
    (place / ".train" / "images.npy").write_text("half an array")
    (place / ".123.source.json").write_text("half a")
    weights.mkdir()
    (weights / ".123.0001.npz").write_text("half an archive")
    (weights / ".124.0002.npz").write_text("another trial's, which may be at work")
    short = replace(recipe, train=replace(recipe.train, epochs=1))
    trial.outcome(job(short, tmp_path, epochs=1, save="weights/0001.npz"))
    assert {path.name for path in place.iterdir()} == {"train", "validation", "source.json"}
    assert {path.name for path in weights.iterdir()} == {"0001.npz", ".124.0002.npz"}


def test_images_are_read_once_for_several_processes(recipe, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(arrays, "_keep", lambda *args, of=arrays._keep: read.append(of(*args)))
    with ThreadPoolExecutor(3) as pool:  # a lock is of the opened folder, not of the process
        sources = list(pool.map(lambda _: arrays.source_of(recipe, tmp_path / "data"), range(3)))
    assert len(read) == 1
    assert len({id(source) for source in sources}) == 3


def test_what_is_cut_out_of_the_original_is_not_kept(recipe, tmp_path):
    photo = replace(recipe, data=replace(recipe.data, size=24, augment="photo"))
    source = arrays.source_of(photo, tmp_path / "data")
    assert source.size == 32
    assert not (tmp_path / "data" / "train").exists()


@pytest.mark.parametrize("augment", ["none", "photo"], ids=["kept", "read anew"])
def test_images_that_a_search_did_not_begin_with_are_refused(augment, pictures, tmp_path):
    """Else the test split, asked for last, has some that trials were trained on."""
    found = recipes.Recipe(model=recipes.Model(name="nin_cifar"))
    found = replace(found, data=replace(found.data, name=str(pictures), size=32, augment=augment))
    found = train.resolve(found, runs.open_data(found))
    begun = arrays.source_of(found, tmp_path / "data")
    begun.records("validation")
    shutil.copy(pictures / "a" / "0.png", pictures / "a" / "one more.png")
    with pytest.raises(UsageError, match="has changed: its images are not those that the search"):
        arrays.source_of(found, tmp_path / "data").records("test")


def test_a_promotion_is_as_if_the_training_had_not_stopped(recipe, folder):
    def weights(**changes):
        outcome = trial.outcome(job(recipe, folder, save="weights/kept.npz", **changes))
        with np.load(folder / "weights" / "kept.npz") as kept:
            return outcome["score"], dict(kept)

    score, whole = weights(epochs=2)
    trial.outcome(job(recipe, folder, epochs=1, save="weights/0000.npz"))
    for place in ("weights/0000.npz", "weights/of another machine.npz"):
        again, rest = weights(epochs=2, initial_epoch=1, load=place)
        assert again == score
        # Dropout's random numbers and AdamW's moments among them.
        assert whole.keys() == rest.keys()
        for name, values in whole.items():
            np.testing.assert_array_equal(rest[name], values)


def test_a_trial_that_diverges_says_what_to_do(recipe, folder):
    hot = replace(
        recipe, train=replace(recipe.train, optimizer="sgd", learning_rate=1e30, epochs=1)
    )
    said = trial.outcome(job(hot, folder))
    assert said["why"] == "the loss is not finite; choose a lower train.learning_rate"
    assert "score" not in said


def test_running_out_of_memory_is_called_so(recipe, folder, monkeypatch):
    class ResourceExhaustedError(Exception):
        pass

    no_fork = OSError(errno.ENOMEM, "Cannot allocate memory")
    for error in (MemoryError(), ResourceExhaustedError("OOM when\nallocating"), no_fork):
        monkeypatch.setattr(trial, "_run", lambda _, error=error: (_ for _ in ()).throw(error))
        said = trial.outcome({})
        assert said["why"].startswith("out of memory")
        assert "stop" not in said


@pytest.mark.parametrize("error", [OSError(28, "no space left"), UsageError("no data set there")])
def test_the_machines_trouble_is_no_failure(error, monkeypatch):
    monkeypatch.setattr(trial, "_run", lambda _: (_ for _ in ()).throw(error))
    assert list(trial.outcome({})) == ["stop"]


def test_a_process_answers_one_job_and_nothing_else(recipe, folder, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    with subprocess.Popen(TRIAL, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        # Left open: a trial ends with the pipe to it, answered or not.
        process.stdin.write(json.dumps({"recipe": "nonsense"}) + "\n")
        process.stdin.flush()
        said = process.stdout.read()
        assert process.wait() == 0, process.stderr.read()
    assert json.loads(said)["stop"].startswith("received text that is not TOML")
    with Trainer() as trainer:
        outcome = trainer.run(job(replace(recipe, train=replace(recipe.train, epochs=1)), folder))
    assert 0 < outcome["score"] <= 1


def test_several_trials_fit_on_a_gpu():
    """TensorFlow and JAX else take all of its memory, unless the user has said how much."""
    code = "import os\nfrom keras_cnns.tune import trial\n"
    names = ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE")
    code += f"said = lambda: ' '.join(map(os.environ.get, {names})) + ' '\n"
    code += "trial.start_keras = lambda: os.write(2, said().encode())\n"
    chosen = dict(zip(names, ("false", "true"), strict=True))
    for given, found in (({}, b"true false "), (chosen, b"false true ")):
        environment = {key: value for key, value in os.environ.items() if key not in names}
        done = subprocess.run(
            [sys.executable, "-c", code + "trial.main()"],
            env={**environment, **given}, stdin=DEVNULL, capture_output=True,
        )  # fmt: skip
        assert done.stderr.startswith(found)


def test_what_a_trial_has_started_ends_with_the_search():
    code = "import subprocess\nfrom keras_cnns.tune import trial\n"
    code += "subprocess.Popen(['sleep', '600'], stdin=subprocess.DEVNULL)\n"
    command = [sys.executable, "-c", code + "trial._end_with_the_search()"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, start_new_session=True) as process:
        try:
            # Its output is at its end once no process has it any more.
            assert process.communicate(timeout=120)[0] == b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_temporary_files_lie_where_a_search_clears_up(recipe, tmp_path, monkeypatch):
    """TensorFlow's too, and those of what measures, which a kill else leaves for good."""
    places = []

    def command(*words):
        places.append((Path(words[1]).parent.parent, Path(os.environ["TMPDIR"])))
        return '[{"latency_ms_1": 99.0}]'

    monkeypatch.setattr(latency, "_command", command)
    said = trial.outcome(job(recipe, tmp_path, max_latency_ms=1.0, format="tflite"))
    assert said["refused"] == "99 ms"
    (ours, theirs), _ = places
    assert ours == theirs
    assert ours.parent == tmp_path / "weights"
    assert not list((tmp_path / "weights").iterdir())
    assert Path(tempfile.gettempdir()).is_dir()


@pytest.mark.parametrize("name", kerastuner.NAMES)
def test_kerastuners_oracles_repeat_nothing_and_keep_the_budget(name):
    shop = driver.market(max_macs=416_520)
    trials, seen, promoted = [], set(), 0
    for i in range(16 if name == "hyperband" else 9):
        step = kerastuner.next_step(
            name, shop, trials, number=i, epochs=9, seen=seen, anchor=shop.space.default,
            first=[] if trials else [shop.space.default], draw=Random(i),
        )  # fmt: skip
        assert isinstance(step, Step)
        assert shop.fits(step.values)
        key = shop.key(step.values)
        if step.initial_epoch:
            promoted += 1
            before = trials[int(step.after)]
            assert before["values"] == step.values
            assert before["epochs"] == step.initial_epoch < step.epochs
        else:
            assert key not in seen
        seen.add(key)
        kept = json.loads(json.dumps(step.state))  # as the book has it
        trials.append(
            {"id": name_of(i), "values": step.values, "status": "completed",
             "score": Random(key).random(), "state": kept, "epochs": step.epochs}
        )  # fmt: skip
    assert trials[0]["values"] == shop.space.default
    assert promoted == (4 if name == "hyperband" else 0)


def test_hyperbands_trials_are_counted_as_kerastuner_makes_them():
    import keras_tuner

    for epochs in range(1, 100):
        oracle = keras_tuner.oracles.HyperbandOracle(
            objective=keras_tuner.Objective("score", "max"), max_epochs=epochs,
            hyperparameters=keras_tuner.HyperParameters(),
        )  # fmt: skip
        last = oracle._current_bracket
        before = sum(oracle._get_size(last, n) for n in range(last))
        assert kerastuner.least_trials(epochs) == before + 1


def test_kerastuners_random_search_draws_its_own_points(monkeypatch):
    from keras_tuner.oracles import RandomSearchOracle

    shop = driver.market(max_macs=416_520)
    own = {**shop.space.default, "c1": 0.5}
    monkeypatch.setattr(RandomSearchOracle, "_random_values", lambda oracle: dict(own))
    step = kerastuner.next_step(
        "kerastuner", shop, [], number=0, epochs=9, seen=set(), anchor=shop.space.default,
        first=[], draw=Random(0),
    )  # fmt: skip
    assert step.values == own


def test_bayesian_takes_those_at_work_for_average():
    shop, proposed = driver.market(max_macs=416_520), []
    first = list(islice(random_points(shop.space, Random(1)), 13))
    scores = [i / 10 for i in range(12)]
    for last in ({"status": "running", "score": None}, {"status": "completed", "score": 0.55}):
        trials = [
            {"id": name_of(i), "values": values, "status": "completed", "score": scores[i]}
            for i, values in enumerate(first[:12])
        ]
        trials.append({"id": name_of(12), "values": first[12], **last})
        step = kerastuner.next_step(
            "bayesian", shop, trials, number=13, epochs=9,
            seen=set(map(shop.key, first)), anchor=shop.space.default, first=[],
            draw=Random(0),
        )  # fmt: skip
        proposed.append(step)
    assert proposed[0] == proposed[1]
    assert proposed[0].rejected > 100  # of the pool: the oracle chose


def test_bayesian_chooses_what_is_promising_within_the_budget():
    """Near the best that the budget allows, after trials that were drawn at random."""
    shop, trials, seen = driver.market(max_macs=416_520), [], set()
    weights = {name: i + 1 for i, name in enumerate(shop.space.choices)}

    def score(values):
        return sum(weights[name] * value for name, value in values.items()) / 100

    for i in range(16):
        step = kerastuner.next_step(
            "bayesian", shop, trials, number=i, epochs=9, seen=seen,
            anchor=shop.space.default, first=[], draw=Random(i),
        )  # fmt: skip
        assert shop.fits(step.values)
        seen.add(shop.key(step.values))
        told = {"id": name_of(i), "status": "completed", "score": score(step.values)}
        trials.append({"values": step.values, **told})
    scores = [trial["score"] for trial in trials]
    drawn, chosen = scores[: kerastuner.INITIAL], scores[kerastuner.INITIAL :]
    assert len(seen) == 16
    assert sorted(chosen)[len(chosen) // 2] > max(drawn)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bayesian_tells_points_apart_also_where_scores_are_noise(seed, monkeypatch):
    """Else all are as promising, and what is taken is a point drawn at random."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    shop, told = driver.market("inception_v1", 32, "ratios"), []

    def predict(*args, of=GaussianProcessRegressor.predict, **options):
        told.append(of(*args, **options))
        return told[-1]

    monkeypatch.setattr(GaussianProcessRegressor, "predict", predict)
    draw = Random(seed)
    first = list(islice(random_points(shop.space, draw), 6))
    trials = [
        {"id": name_of(i), "values": values, "status": "completed", "score": draw.gauss(0, 1)}
        for i, values in enumerate(first)
    ]
    kerastuner.next_step(
        "bayesian", shop, trials, number=6, epochs=9, seen=set(map(shop.key, first)),
        anchor=shop.space.default, first=[], draw=Random(0),
    )  # fmt: skip
    expected, deviation = told[-1]
    assert np.ptp(expected) > 0.1
    assert np.ptp(deviation) > 0.05


@pytest.mark.parametrize(
    ("oracle", "status", "answer"),
    [("bayesian", "completed", None), ("hyperband", "running", Wait())],
)
def test_when_all_points_are_taken(oracle, status, answer):
    """Bayesian search is at its end; Hyperband waits for those that it may promote."""
    shop = driver.market("resnet20_cifar", 32, "depths")
    shop.space.choices["stages.0.depth"] = shop.space.choices["stages.1.depth"] = (1.0,)
    trials, seen = [], set()

    def following():
        return kerastuner.next_step(
            oracle, shop, trials, number=len(trials), epochs=9, seen=seen,
            anchor=shop.space.default, first=[], draw=Random(0),
        )  # fmt: skip

    for i in range(4):
        step = following()
        seen.add(shop.key(step.values))
        told = {
            "id": name_of(i),
            "status": status,
            "score": i / 10 if status == "completed" else None,
        }
        trials.append({"values": step.values, "state": step.state, **told})
    assert len(seen) == 4
    assert following() == answer
