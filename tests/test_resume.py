"""A training that is killed at any moment and started again ends as if it had never stopped."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Dropout and running means: what has a state beside weights and the optimizer's.
RECIPE = """
[model]
name = "nin_cifar"
width = 0.125
[data]
name = "digits"
size = 16
batch_size = 128
[train]
epochs = 2
ema = 0.9
"""
# Runs a training that ends itself: KILL is "batch 7", "write 2 before" or "wait 1.5", in seconds
# from the first batch.
DRIVER = """
import os, signal, sys, threading
from keras_cnns import recipe
from keras_cnns.train import train
from keras_cnns.training import callbacks, checkpoint

kill, out, *settings = sys.argv[1:]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
kind, number, *where = kill.split()
seen = 0
after, replace, save = callbacks.Keeper.on_train_batch_end, os.replace, checkpoint.save_file

def on_train_batch_end(self, batch, logs=None):
    global seen
    seen += 1
    if kind == "wait" and seen == 1:
        threading.Timer(float(number), die).start()
    after(self, batch, logs)
    if kind == "batch" and seen == int(number):
        die()

def torn(arrays, path, metadata):
    global seen
    save(arrays, path, metadata)
    seen += 1
    if seen == int(number) and where == ["within"]:
        with open(path, "r+b") as file:
            file.truncate(1000)
        die()

def replaced(source, target):
    replace(source, target)
    if seen == int(number) and "checkpoint" in str(target):
        die()

callbacks.Keeper.on_train_batch_end = on_train_batch_end
if kind == "write":
    callbacks.Keeper.on_train_batch_end = after
    checkpoint.save_file, os.replace = torn, replaced
train(recipe.override(recipe.load(out + ".toml"), settings), out, deterministic=True)
"""


def run(out: Path, kill: str = "batch 0", *settings: str) -> subprocess.CompletedProcess[str]:
    out.with_suffix(".toml").write_text(RECIPE)
    command = [sys.executable, "-c", DRIVER, kill, str(out), *settings]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ended(out: Path, *settings: str) -> str:
    """Train to the end and return the hash of the weights."""
    result = run(out, "batch 0", *settings)
    assert result.returncode == 0, result.stderr[-2000:]
    assert not list(out.glob("checkpoint*")) + list(out.glob(".*"))
    return json.loads((out / "metrics.json").read_text())["training"]["weights_sha256"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended(out)
    return out


def hash_of(out: Path) -> str:
    return json.loads((out / "metrics.json").read_text())["training"]["weights_sha256"]


def history(out: Path) -> list[str]:
    """The history without its times."""
    return [line.rsplit(",", 2)[0] for line in (out / "history.csv").read_text().splitlines()]


def test_a_killed_training_ends_as_the_whole_one(whole, tmp_path):
    out = tmp_path / "run"
    for kill in ("batch 5", "write 2 within"):
        assert run(out, kill, "train.checkpoint_steps=3").returncode == -signal.SIGKILL
    assert ended(out, "train.checkpoint_steps=4") == hash_of(whole)
    assert history(out) == history(whole)


@pytest.mark.slow
def test_twelve_moments(whole, tmp_path):
    draw = random.Random(0)
    moments = [f"wait {draw.uniform(0, 3):.3f}" for _ in range(6)]
    moments += [f"batch {draw.randint(1, 20)}" for _ in range(2)]
    moments += [f"write {draw.randint(1, 5)} {w}" for w in ("within", "after") for _ in range(2)]
    for i, kill in enumerate(moments):
        out = tmp_path / f"run{i}"
        assert run(out, kill, "train.checkpoint_steps=3").returncode in (-signal.SIGKILL, 0)
        assert ended(out, f"train.checkpoint_steps={draw.randint(1, 9)}") == hash_of(whole), kill
        assert history(out) == history(whole), kill
