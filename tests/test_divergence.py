"""A training that diverges stops, or goes back; it deletes nothing, and its best is kept."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_cnns import recipe as recipes, runs, train
from keras_cnns.errors import UsageError
from keras_cnns.training import callbacks, checkpoint, machine
from keras_cnns.training.state import Diverged, State, averages

SMALL = ["data.batch_size=128", "train.precision=float32", "train.deterministic=false"]


def recipe(*settings):
    return recipes.override(recipes.Recipe(), [*SMALL, *settings])


@pytest.fixture
def broken(monkeypatch):
    """A loss that is NaN once the 12th batch is trained, as long as the rate is what was asked."""
    whole = callbacks.Keeper.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        hot = self.state.step == 11 and self.state.restores < 2
        whole(self, batch, {**logs, "loss": np.nan} if hot else logs)

    monkeypatch.setattr(callbacks.Keeper, "on_train_batch_end", on_train_batch_end)


def test_it_stops_with_its_checkpoint_or_goes_back_at_half_the_rate(broken, tmp_path, capfd):
    often = ["train.epochs=2", "train.checkpoint_steps=5", "train.warmup_epochs=0"]
    with pytest.raises(UsageError, match=r"the loss is nan at step 12, in epoch 2: .*restore"):
        train.train(recipe(*often), tmp_path / "run")
    assert checkpoint.newest(tmp_path / "run").state["step"] == 10

    train.train(recipe(*often, "train.on_nan=restore"), tmp_path / "run")
    assert capfd.readouterr().err.count("going back, at half the learning rate") == 2
    metrics = runs.read_metrics(runs.open_run(tmp_path / "run"))
    assert metrics["training"]["restores"] == 2
    first, second = (row["learning_rate"] for row in runs.read_history(tmp_path / "run"))
    assert first < 1e-3
    assert second < first / 2


def test_a_weight_that_is_not_finite_is_not_kept(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    keeper = callbacks.Keeper(tmp_path, recipe(), 1, State(step=1), {}, 1)
    keeper.set_model(model)
    keeper.save()
    model.layers[0].bias.assign([0.0, np.inf])
    keeper.state.step = 2
    with pytest.raises(Diverged, match="a weight is not finite"):
        keeper.save()
    assert checkpoint.newest(tmp_path).state["step"] == 1


def test_it_ends_early_with_the_best_weights(monkeypatch, tmp_path):
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.1])
    bests = []
    whole = callbacks.Keeper._wait

    def waits(self, accuracy, patience):
        whole(self, next(accuracies), patience)
        bests.append([a.copy() for a in self.best.values()])

    monkeypatch.setattr(callbacks.Keeper, "_wait", waits)
    run = train.train(recipe("train.epochs=9", "train.patience=2"), tmp_path / "run")
    assert len(runs.read_history(tmp_path / "run")) == 4  # 0.7 is no better than 0.7
    assert runs.read_metrics(run)["training"]["stopped_early"]
    kept = run.model().get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(kept, bests[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(bests[0], bests[1], strict=True))


def test_the_head_alone_does_not_end_it(monkeypatch, tmp_path):
    waited = []
    monkeypatch.setattr(
        callbacks.Keeper, "_wait", lambda _, accuracy, patience: waited.append(accuracy)
    )
    wanted = recipe("train.patience=1", "train.checkpoint_epochs=9")
    for phase in (0, 1):
        keeper = callbacks.Keeper(tmp_path, wanted, 1, State(phase=phase), {}, 9)
        keeper.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.1)))
        keeper.begun, keeper.trained = 0.0, 1.0
        keeper.on_epoch_end(0, {"val_accuracy": phase})
    assert waited == [1]


def test_float16_scales_its_loss(monkeypatch):
    monkeypatch.setattr(machine, "precision", lambda wanted: wanted)
    for precision, scale in (("mixed_float16", 2.0**15), ("mixed_bfloat16", 1.0)):
        wanted = recipe(f"train.precision={precision}", "train.ema=0.9")
        resolved = train.resolve(wanted, runs.open_data(wanted))
        trainer = train.compiled(train.build(resolved, 10), resolved, 5)
        assert float(trainer.optimizer.scale_loss(1.0)) == scale
        assert len(averages(trainer)) == len(trainer.trainable_variables)


def test_another_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("keras.backend.backend", lambda: "torch")
    with pytest.raises(UsageError, match="training runs on TensorFlow or JAX, not torch; unset"):
        train.train(recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("backend", "capabilities", "flags", "pays"),
    [
        ("tensorflow", [], "fma avx512_bf16 sse", True),
        ("tensorflow", [], "amx_bf16", True),
        ("tensorflow", [], "fma avx512_bf16x", False),
        ("tensorflow", [(8, 0), (9, 0)], "", True),
        ("tensorflow", [(9, 0), (7, 5)], "amx_bf16", False),
        ("tensorflow", [None], "amx_bf16", False),
        ("jax", [], "amx_bf16", False),
        ("jax", ["8.6", "12.0"], "", True),
        ("jax", ["9.0", "7.5"], "", False),
        ("jax", ["gfx90a"], "", False),
    ],
)
def test_auto_is_bfloat16_where_it_pays(monkeypatch, tmp_path, backend, capabilities, flags, pays):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    gpus = [SimpleNamespace(compute_capability=each) for each in capabilities]
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(
        "tensorflow.config.experimental.get_device_details",
        lambda gpu: vars(gpu) if gpu.compute_capability else {},
    )
    assert machine.precision("auto") == ("mixed_bfloat16" if pays else "float32")
    assert machine.settle(recipes.Train(), recipes.Train(precision="float32")).precision == (
        "float32"  # as the run began
    )
