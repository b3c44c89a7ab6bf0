"""A training that is killed at any moment and started again ends as if it had never stopped."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cnns import recipe as recipes, runs, train
from keras_cnns.errors import UsageError
from keras_cnns.training import callbacks, checkpoint
from keras_cnns.training.state import State

# Dropout, statistics and running means: what has a state beside weights and the optimizer's.
RECIPE = """
[model]
name = "vgg11_bn"
width = 0.125
[data]
name = "digits"
size = 32
batch_size = 128
[train]
epochs = 2
ema = 0.9
"""
# Trains in a child for each line of standard input, [out, kill, settings, variables of the system],
# and answers with how it ended. The parent imports and runs nothing, which spares each child the
# seconds that this takes.
# KILL is "batch 7.35", a third of a batch's time behind the seventh, "write 2 within" or "write 2
# after"; "never" is none.
DRIVER = """
import json, os, signal, sys, threading, time
from keras_cnns import recipe, train
from keras_cnns.quiet import start_keras

start_keras()
from keras_cnns.data import pipeline
from keras_cnns.training import callbacks, checkpoint

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def trained(out, kill, settings, variables):
    os.environ.update(variables)
    kind, number, where = (kill.split() + ["0", ""])[:3]
    seen = {"batch": 0, "write": 0, "clock": time.monotonic()}
    last, part = divmod(float(number), 1)
    after, replace, save = callbacks.Keeper.on_train_batch_end, os.replace, checkpoint.save_file

    def on_train_batch_end(self, batch, logs=None):
        seen["batch"] += 1
        now = time.monotonic()
        took, seen["clock"] = now - seen["clock"], now
        if kind == "batch" and seen["batch"] == last and part:
            threading.Timer(part * took, die).start()
        after(self, batch, logs)
        if kind == "batch" and seen["batch"] == last and not part:
            die()

    def saved(arrays, path, metadata):
        save(arrays, path, metadata)
        seen["write"] += 1
        if (kind, where) == ("write", "within") and seen["write"] == int(number):
            os.truncate(path, 1000)
            die()

    def replaced(source, target):
        replace(source, target)
        if (kind, where) == ("write", "after") and seen["write"] == int(number):
            die()

    if "jax" in variables.values():
        import jax

        share = jax.make_array_from_process_local_data

        def shared(*arguments):
            found = share(*arguments)
            parts = [[part.device.id, part.data.shape] for part in found.addressable_shards]
            with open(out + ".parts", "a") as file:
                print(json.dumps(parts), file=file)
            return found

        jax.make_array_from_process_local_data = shared
    callbacks.Keeper.on_train_batch_end = on_train_batch_end
    checkpoint.save_file, os.replace = saved, replaced
    train.train(recipe.override(recipe.load(out + ".toml"), settings), out, deterministic=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            trained(*json.loads(line))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@contextmanager
def driven(**variables: str):
    """Give a function that trains in a folder, killed as told, and returns how that ended."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as driver:

        def call(out: Path, kill: str, *settings: str, **more: str) -> int:
            out.with_suffix(".toml").write_text(RECIPE)
            line = json.dumps([str(out), kill, settings, variables | more])
            driver.stdin.write(line + "\n")
            driver.stdin.flush()
            return int(driver.stdout.readline())

        yield call
        driver.stdin.close()


@pytest.fixture(scope="module")
def trains():
    """`driven`, on the backend of the tests."""
    with driven() as call:
        yield call


@pytest.fixture(scope="module")
def whole(trains, tmp_path_factory):
    """The folder of a training that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert trains(out, "never") == 0
    return out


def hash_of(out: Path) -> str:
    """The hash of the weights of a training that has left nothing behind."""
    assert not list(out.glob("checkpoint*")) + list(out.glob(".*"))
    return json.loads((out / "metrics.json").read_text())["training"]["weights_sha256"]


def weights(out: Path) -> list[np.ndarray]:
    return keras.models.load_model(out / "model.keras").get_weights()


def history(out: Path) -> list[str]:
    """The history without its times."""
    return [line.rsplit(",", 2)[0] for line in (out / "history.csv").read_text().splitlines()]


def test_a_killed_training_ends_as_the_whole_one(trains, whole, tmp_path):
    out = tmp_path / "run"
    for kill in ("batch 5", "write 2 within", "write 1 after"):
        assert trains(out, kill, "train.checkpoint_steps=3") == -signal.SIGKILL
    assert trains(out, "never", "train.checkpoint_steps=4") == 0
    assert hash_of(out) == hash_of(whole)
    assert history(out) == history(whole)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_so_it_does_on_two_devices_of_jax_which_train_as_one_does(tmp_path):
    one, two, whole, killed = (tmp_path / name for name in ("one", "two", "whole", "killed"))
    both = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    # Without normalisation, which makes much of how a sum was rounded.
    plain = ["model.name=nin_cifar", "data.size=16"]
    with driven(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu") as trains:
        assert trains(one, "never", *plain) == 0
        assert trains(two, "never", *plain, **both) == 0
        assert trains(whole, "never", **both) == 0
        assert trains(killed, "batch 5", "train.checkpoint_steps=3", **both) == -signal.SIGKILL
        with pytest.raises(UsageError, match="began on jax: go on with KERAS_BACKEND=jax"):
            train._newest(runs.open_run(killed))
        assert trains(killed, "never", **both) == 0
    assert hash_of(killed) == hash_of(whole)
    assert history(killed) == history(whole)
    for mine, theirs in zip(*map(weights, (two, one)), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4 * float(np.abs(theirs).max()))
    parts = [json.loads(line) for line in two.with_suffix(".parts").read_text().splitlines()]
    assert [0, [64, 16, 16, 1]] in parts[0]
    assert [1, [64, 16, 16, 1]] in parts[0]
    assert all([device for device, _ in part] == [0, 1] for part in parts)
    assert not one.with_suffix(".parts").exists()


def test_no_epoch_is_lost_between_the_last_checkpoint_and_the_history(trains, whole, tmp_path):
    out = tmp_path / "run"
    assert trains(out, "write 2 after") == -signal.SIGKILL
    assert trains(out, "never") == 0
    (out / "checkpoint-000000001.safetensors").touch()  # as after a kill behind model.keras
    assert trains(out, "never") == 0
    assert hash_of(out) == hash_of(whole)
    assert history(out) == history(whole)


def test_a_folder_that_was_killed_as_it_was_made_is_taken(tmp_path):
    wanted = recipes.loads(RECIPE)
    source = runs.open_data(wanted)
    resolved = train.resolve(wanted, source)
    out = tmp_path / "run"
    (out / ".try-1").mkdir(parents=True)
    (out / ".1.recipe.toml").touch()
    for _ in range(2):
        runs.check_folder(out, "recipe.toml", "run")
        assert train._open_or_create(out, resolved, source).labels == source.labels
        (out / "labels.txt").unlink()
    (out / "labels.txt").write_text("cat\n")
    with pytest.raises(UsageError, match="other classes"):
        train._open_or_create(out, resolved, source)


def test_a_training_does_not_go_on_with_other_images(tmp_path):
    wanted = recipes.loads(RECIPE)
    source = runs.open_data(wanted)
    resolved = train.resolve(wanted, source)
    train._open_or_create(tmp_path / "run", resolved, source)
    other = replace(source, digests={**source.digests, "train": "other"})
    with pytest.raises(UsageError, match="digits has changed: its train images"):
        train._open_or_create(tmp_path / "run", resolved, other)


def test_where_checkpoints_are_missing_it_says_so(tmp_path, capsys):
    rows = [{"epoch": n + 1, "loss": 1.0} for n in range(2)]
    run = runs.Run(tmp_path, recipes.Recipe(), ())
    assert train._newest(run)[0].step == 0
    callbacks.write_history(tmp_path, State(history=rows))
    with pytest.raises(UsageError, match="has 2 epochs of history but no checkpoint; delete"):
        train._newest(run)
    checkpoint.write(tmp_path, 5, {}, asdict(State(step=5, history=rows[:1])))
    assert train._newest(run)[0].step == 5
    said = capsys.readouterr().err
    assert "the checkpoint of epoch 2 is missing; going on from step 5 instead" in said
    checkpoint.set_aside(tmp_path)
    with pytest.raises(UsageError, match="history but its workers came to unequal weights"):
        train._newest(run)
    checkpoint.write(tmp_path, 6, {}, asdict(State(step=6, backend="torch")))
    with pytest.raises(UsageError, match="began on torch: go on with KERAS_BACKEND=torch"):
        train._newest(run)


@pytest.mark.slow
def test_twelve_moments(trains, whole, tmp_path):
    draw = random.Random(0)
    steps = json.loads((whole / "metrics.json").read_text())["training"]["steps"]
    # The last of them may come as the end is written.
    moments = [f"batch {draw.uniform(1, steps + 1):.3f}" for _ in range(8)]
    moments += [f"write {draw.randint(1, 5)} {w}" for w in ("within", "after") for _ in range(2)]
    for i, kill in enumerate(moments):
        out = tmp_path / f"run{i}"
        assert trains(out, kill, "train.checkpoint_steps=3") == -signal.SIGKILL
        assert trains(out, "never", f"train.checkpoint_steps={draw.randint(1, 9)}") == 0
        assert hash_of(out) == hash_of(whole), kill
        assert history(out) == history(whole), kill
