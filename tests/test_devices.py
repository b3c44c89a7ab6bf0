"""Two processes train as one would; what would do nothing is refused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cnns.errors import UsageError
from keras_cnns.training import machine
from keras_cnns.training.devices import Devices, open_devices

DRIVER = """
import sys
from keras_cnns import recipe, train
from keras_cnns.training import devices

out, kind, *settings = sys.argv[1:]
wanted = recipe.override(recipe.Recipe(), settings)
if kind == "mirrored":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    train.open_devices = lambda *_: devices.Devices(two, 2)
    train.train(wanted, out)
elif kind == "one":
    train.train(wanted, out)
else:
    index, *hosts = kind.split(",")
    if index.endswith("!"):
        train.runs.weights_hash = lambda trainer: 64 * "5"
    for place in [out, out + "-again"][: 2 if index.endswith("&") else 1]:
        train.train(wanted, place, workers=hosts, index=int(index.rstrip("!&")))
"""
# Batch normalisation would take each device's own statistics; LeNet has none.
SETTINGS = ["train.precision=float32", "data.batch_size=32", "train.weight_decay=0.01"]


def start(out, kind, *settings):
    command = [sys.executable, "-c", DRIVER, str(out), kind, *SETTINGS, *settings]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def hosts():
    """Two addresses that are free now."""
    with socket.socket() as a, socket.socket() as b:
        for each in (a, b):
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in (a, b)]


def workers(out, *settings):
    pair = hosts()
    return [start(out, ",".join([str(i), *pair]), *settings) for i in range(2)]


def ended(*processes):
    """Return what each said on standard error, once all have ended well."""
    texts = [process.communicate(timeout=600)[1] for process in processes]
    for process, text in zip(processes, texts, strict=True):
        assert process.returncode == 0, text[-3000:]
    return texts


def history(out):
    rows = (out / "history.csv").read_text().splitlines()
    names = rows[0].split(",")[:-2]
    return [[float(n) for n in row.split(",")[: len(names)]] for row in rows[1:]]


def hash_of(out):
    return json.loads((out / "metrics.json").read_text())["training"]["weights_sha256"]


@pytest.mark.slow
def test_two_workers_train_as_two_replicas_of_a_machine_and_as_one_device(tmp_path):
    once = "train.epochs=2"
    said = ended(*workers(tmp_path / "workers", once))
    ended(start(tmp_path / "mirrored", "mirrored", once))
    ended(start(tmp_path / "one", "one", once))
    found = {kind: history(tmp_path / kind) for kind in ("workers", "mirrored", "one")}
    for kind in ("mirrored", "one"):
        for here, there in zip(found["workers"], found[kind], strict=True):
            assert here == pytest.approx(there, rel=1e-3), kind
    hashes = [re.findall(r"^worker (\d): weights (\w{64})$", text, re.M) for text in said]
    assert [index for [(index, _)] in hashes] == ["0", "1"]
    assert hashes[0][0][1] == hashes[1][0][1] == hash_of(tmp_path / "workers")
    models = [keras.models.load_model(tmp_path / kind / "model.keras") for kind in found]
    for other in models[1:]:
        for mine, theirs in zip(models[0].get_weights(), other.get_weights(), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-3 * float(np.abs(theirs).max()))


@pytest.mark.slow
def test_the_command_takes_its_workers_from_tf_config_and_all_of_them_end_well(tmp_path):
    """The folder has not been looked at before, which --strict does by TensorFlow."""
    for value in range(60):
        place = tmp_path / "images" / ("dark", "light")[value % 2] / f"{value}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 4 * value).save(place)
    words = ["train", "lenet5", "--data", tmp_path / "images", "--out", tmp_path / "run"]
    words += ["--strict", "--set", "train.epochs=1", "--set", "data.batch_size=8"]
    cluster, pair = {"worker": hosts()}, []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        pair.append(
            subprocess.Popen(
                [sys.executable, "-m", "keras_cnns", *map(str, words)],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )
        )
    said = [process.communicate(timeout=600) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert all("run: validation accuracy" in out for out, _ in said)


@pytest.mark.slow
def test_the_same_processes_train_again(tmp_path):
    pair = ",".join(hosts())
    ended(*(start(tmp_path / "run", f"{i}&,{pair}", "train.epochs=1") for i in range(2)))
    assert hash_of(tmp_path / "run") == hash_of(tmp_path / "run-again")


@pytest.mark.slow
def test_the_workers_share_the_statistics_of_normalisations(tmp_path):
    narrow = ["model.name=resnet20_cifar", "model.width=0.25", "data.size=16"]
    for name, more in (("last", []), ("mean", ["train.ema=0.9"])):
        said = ended(*workers(tmp_path / name, *narrow, "train.epochs=1", *more))
        found = [re.findall(r"^worker \d: weights (\w{64})$", text, re.M) for text in said]
        assert found[0] == found[1]
        # What is kept are the last weights, or means of them.
        assert (found[0] == [hash_of(tmp_path / name)]) == (not more)


@pytest.mark.slow
def test_workers_that_come_to_other_weights_are_told(tmp_path):
    pair = ",".join(hosts())
    sound, spoiled = (
        start(tmp_path / "run", kind, "train.epochs=1") for kind in (f"0,{pair}", f"1!,{pair}")
    )
    for process in (sound, spoiled):
        _, said = process.communicate(timeout=300)
        assert process.returncode
        assert "has come to other weights than the others" in said.strip().splitlines()[-1]
    assert not (tmp_path / "run" / "model.keras").exists()
    again = start(tmp_path / "run", "one", "train.epochs=1")
    _, said = again.communicate(timeout=300)
    assert again.returncode
    assert "its workers came to unequal weights; delete the folder" in said.strip().splitlines()[-1]
    assert len(list((tmp_path / "run").glob("unequal-checkpoint-*.safetensors"))) == 1


@pytest.mark.slow
def test_a_lost_worker_is_said_and_the_training_goes_on_when_started_again(tmp_path):
    settings = ["train.epochs=12", "train.checkpoint_steps=5"]
    ended(*workers(tmp_path / "whole", *settings))
    pair = workers(tmp_path / "run", *settings)
    while not list((tmp_path / "run").glob("checkpoint*")):
        assert pair[0].poll() is None
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGKILL)
    pair[1].communicate()
    _, said = pair[0].communicate(timeout=300)
    assert "lost another one" in said.strip().splitlines()[-1]
    ended(*workers(tmp_path / "run", *settings))
    assert hash_of(tmp_path / "run") == hash_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("named", "index", "words"),
    [
        ([], 0, "give at least two host:port"),
        (["a:1"], 0, "give at least two host:port"),
        (["a:1", "b:1"], None, "give at least two host:port"),
        (["a:1", "b:1"], 2, "--index 2"),
    ],
)
def test_workers_that_make_no_cluster_are_refused(monkeypatch, named, index, words):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match=words):
        open_devices(named, index)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "TF_CONFIG is not what TensorFlow takes"),
        (
            {"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "task": {"type": "ps"}},
            "parameter servers",
        ),
        (
            {"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "chief"}},
            "parameter servers",
        ),
        (
            {"cluster": {"chief": ["a:1"]}, "task": {"type": "evaluator"}},
            "parameter servers or evaluators",
        ),
        ({"cluster": {"worker": ["a:1", "b:1"]}}, "TF_CONFIG is not what TensorFlow takes"),
    ],
)
def test_a_cluster_that_would_not_train_is_refused(monkeypatch, config, words):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UsageError, match=words):
        open_devices()
    with pytest.raises(UsageError, match="names workers already"):
        open_devices(["a:1", "b:1"], 0)


def test_a_single_worker_has_all_devices_of_its_machine(monkeypatch):
    import tensorflow as tf

    cluster = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 4)
    four = SimpleNamespace(num_replicas_in_sync=4)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: four)
    found = open_devices()
    assert (found.replicas, found.workers, found.first) == (4, 1, True)


def test_another_keras_is_refused_on_several_machines(monkeypatch):
    import keras

    monkeypatch.setattr(keras, "__version__", "3.16.0")
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(UsageError, match=r"needs Keras 3\.15"):
        open_devices()


@pytest.mark.parametrize("workers", [(["a:1", "b:1"], 0), ([], 0)])
def test_what_jax_would_not_do_is_refused(monkeypatch, workers):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="several machines runs on TensorFlow, not jax"):
        open_devices(*workers)
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UsageError, match="several machines runs on TensorFlow, not jax"):
        open_devices()
    monkeypatch.setattr(machine, "gpus", lambda: ["a GPU"])
    with pytest.raises(UsageError, match="XLA_FLAGS"), machine.determinism(True):
        pass
    monkeypatch.setenv("XLA_FLAGS", f"--xla_some=1 {machine.JAX_FLAG}")
    with machine.determinism(True):
        pass


def test_jaxs_devices_have_equal_parts_of_every_batch(monkeypatch):
    """Of 23 images in batches of 8 the last 7 are 6 for two devices, and none for eight."""
    import tensorflow as tf

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    dataset = tf.data.Dataset.range(23).map(lambda n: (n, {"predictions": n})).batch(8)
    for replicas, sizes in ((1, [8, 8, 7]), (2, [8, 8, 6]), (8, [8, 8])):
        shared = Devices(replicas=replicas).shared(dataset, last=7)
        assert [len(images) for images, _ in shared] == sizes
        assert len(shared) == len(sizes)
        assert all(np.array_equal(x, y["predictions"]) for x, y in shared)


def test_a_mistake_of_the_user_is_no_lost_worker():
    """Whatever it names: a peer, say."""
    several = Devices(workers=2)
    with pytest.raises(UsageError, match="peers/run: the disk is full"), several.together():
        raise UsageError("peers/run: the disk is full")
    with pytest.raises(UsageError, match="lost another one"), several.together():
        raise OSError("Connection reset by peer")


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UsageError, match="multiple of 3"):
        Devices(replicas=3).check(64)
    Devices().check(1)
