"""What a recipe leaves open is decided by network and data; what is trained is what was asked."""

from dataclasses import MISSING, fields, replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_cnns import data, recipe as recipes, runs, train
from keras_cnns.errors import UsageError
from keras_cnns.training import callbacks
from keras_cnns.training.optimizers import rates
from keras_cnns.training.state import arrays, averages, outcome, swap_averages
from keras_cnns.training.twin import TrainedBatchNormalization, carry_back


def source(size=32, channels=1, classes=10):
    """A source of which only the outside is looked at."""
    outside = {
        "name": "images",
        "labels": tuple(f"class {i}" for i in range(classes)),
        "channels": channels,
        "sizes": {"train": 100, "validation": 10, "test": 10},
        "files": {},
        "size": size,
    }
    inside = [each.name for each in fields(data.Source) if each.default_factory is MISSING]
    return data.Source(**{**dict.fromkeys(inside), **outside})


def resolved(*settings, **outside):
    recipe = recipes.override(recipes.Recipe(), settings)
    return train.resolve(recipe, source(**outside))


@pytest.mark.parametrize(
    ("network", "own", "size"),
    [
        ("lenet5", 32, 32),
        ("lenet5", 28, 32),  # too small for it: its own
        ("resnet18", 32, 32),
        ("resnet18", None, 224),  # photos of many sizes
        ("inception_v3", 32, 299),
        ("vgg16", 64, 64),
    ],
)
def test_images_keep_their_size_where_the_network_takes_it(network, own, size):
    assert resolved(f"model.name={network}", size=own).data.size == size


@pytest.mark.parametrize(
    ("channels", "size", "augment"), [(1, 32, "shift"), (3, 32, "crop"), (3, 224, "photo")]
)
def test_writing_is_not_mirrored_and_photos_are_cropped(channels, size, augment):
    found = resolved("model.name=resnet18", channels=channels, size=size)
    assert found.data.augment == augment


def test_each_augmentation_can_be_asked_for():
    for name in data.AUGMENTATIONS:
        assert resolved(f"data.augment={name}").data.augment == name
    with pytest.raises(UsageError, match=" or ".join(data.AUGMENTATIONS)):
        resolved("data.augment=blur")


def test_a_resolved_recipe_holds_the_whole_spec_at_its_width():
    found = resolved("model.name=inception_v1", "model.width=0.5", "model.spec.stem.kind=small")
    assert found.model.width == 1
    assert found.model.spec["3a"]["conv3"] == 64
    assert found.model.spec["stem"] == {"kind": "small", "conv1": 32, "reduce2": 32, "conv2": 96}
    assert train.resolve(found, source()) == found


def test_an_image_too_small_is_refused():
    with pytest.raises(UsageError, match="the smallest that works is 32x32"):
        resolved("data.size=31")


def compiled(*settings):
    recipe = resolved("train.precision=float32", *settings)
    model = train.build(recipe, 10)
    return train.compiled(model, recipe, 10), model


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    trainer, _ = compiled("train.epochs=5", "train.warmup_epochs=1", "train.learning_rate=0.1")
    rate = trainer.optimizer._learning_rate
    assert [float(rate(step)) for step in (0, 5, 10, 30)] == pytest.approx([0, 0.05, 0.1, 0.05])
    cosine = keras.optimizers.schedules.CosineDecay(0.0, 40, warmup_target=0.1, warmup_steps=10)
    expected = [float(cosine(step)) for step in range(50)]
    assert [float(rate(step)) for step in range(50)] == pytest.approx(expected, rel=1e-4)
    assert float(rate(1000)) == float(rate(49))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("schedule=constant",), [1, 1, 1, 1]),
        (("schedule=polynomial", "power=2"), [1, 0.5625, 0.25, 0.0625]),
        (("schedule=step", "milestones=[1, 3]", "decay=0.5"), [1, 0.5, 0.5, 0.25]),
    ],
)
def test_schedules(settings, expected):
    given = ["epochs=4", "warmup_epochs=0", "learning_rate=1", *settings]
    recipe = recipes.override(recipes.Recipe(), [f"train.{each}" for each in given])
    assert rates(recipe.train, 1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (("optimizer=rmsprop", "epsilon=1.0"), "RMSprop", {"epsilon": 1.0, "rho": 0.9}),
        (("optimizer=sgd", "nesterov=false"), "SGD", {"nesterov": False, "momentum": 0.9}),
        (("clip_norm=2", "accumulate=4"), "AdamW",
         {"global_clipnorm": 2.0, "gradient_accumulation_steps": 4}),
        (("ema=0.81", "accumulate=2"), "AdamW", {"ema_momentum": 0.9}),
        (("ema=0.81",), "AdamW", {"ema_momentum": 0.81}),
    ],
)  # fmt: skip
def test_optimizers(settings, kind, words):
    trainer, _ = compiled(*(f"train.{each}" for each in settings))
    found = {key: getattr(trainer.optimizer, key) for key in words}
    assert isinstance(trainer.optimizer, getattr(keras.optimizers, kind))
    assert found == words


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (("optimizer=adamw", "epsilon=0.001"), keras.optimizers.AdamW, {"epsilon": 1e-3}),
        (("optimizer=sgd",), keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        (("optimizer=sgd", "nesterov=false"), keras.optimizers.SGD, {"momentum": 0.9}),
        (("optimizer=sgd", "momentum=0"), keras.optimizers.SGD, {"nesterov": True}),
        (("optimizer=rmsprop",), keras.optimizers.RMSprop, {"momentum": 0.9, "rho": 0.9}),
    ],
)
def test_weights_go_where_keras_s_optimizers_take_them(settings, kind, words, accumulate):
    fixed = ["schedule=constant", "warmup_epochs=0", "learning_rate=0.1", "weight_decay=0.2"]
    settings = [*settings, *fixed, "clip_norm=3.0", f"accumulate={accumulate}"]
    trainer, _ = compiled(*(f"train.{each}" for each in settings))
    ours = trainer.trainable_variables
    theirs = [keras.Variable(each, name=each.name) for each in ours]
    steps = accumulate if accumulate > 1 else None
    rule = kind(
        0.1, weight_decay=0.2, global_clipnorm=3.0, gradient_accumulation_steps=steps, **words
    )
    rule.exclude_from_weight_decay(var_names=["bias"])
    draw = np.random.default_rng(0)
    for _ in range(6):
        gradients = [keras.ops.array(draw.normal(size=w.shape), "float32") for w in ours]
        rule.apply(gradients, theirs)
        trainer.optimizer.apply(gradients)
    for made, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


def test_float16_is_refused_without_a_gpu():
    with pytest.raises(UsageError, match="needs a GPU"):
        compiled("train.precision=mixed_float16")


def test_norms_and_biases_do_not_decay():
    settings = ["model.name=resnet18", "model.width=0.125", "train.weight_decay=0.5"]
    trainer, _ = compiled(*settings, "train.warmup_epochs=0", "train.learning_rate=0.1")
    for weight in trainer.trainable_weights:
        weight.assign(np.ones(weight.shape))
    trainer.optimizer.apply([keras.ops.zeros(w.shape) for w in trainer.trainable_variables])
    kept = {w.path: bool((w.numpy() == 1).all()) for w in trainer.trainable_weights}
    assert all(stays == (not path.endswith("kernel")) for path, stays in kept.items()), kept


def test_the_loss_is_that_of_the_scores_with_smoothed_labels():
    trainer, model = compiled("train.label_smoothing=0.1")
    x = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 1)).astype("float32")
    y = np.eye(10)[np.arange(8)]
    wanted = -((0.9 * y + 0.01) * np.log(model.predict(x, verbose=0))).sum(1).mean()
    found = trainer.evaluate(x, {"predictions": y}, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_batch_normalisation_has_the_momentum_of_the_recipe():
    recipe = resolved("model.name=resnet18", "model.width=0.125", "train.batch_norm_momentum=0.7")
    layers = train.build(recipe, 10).layers
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.7}


@pytest.fixture(scope="module")
def copies():
    """A narrow ResNet, and its compiled copies in two precisions."""
    narrow = ["model.name=resnet20_cifar", "model.width=0.25", "train.ema=0.5"]
    made = {}
    for precision in ("float32", "mixed_bfloat16"):
        recipe = resolved(*narrow, f"train.precision={precision}", size=8)
        model = train.build(recipe, 10)
        made[precision] = (model, train.compiled(model, recipe, 10))
    return made


def test_what_is_trained_is_a_copy_in_another_precision_but_for_its_scores(copies):
    model, trainer = copies["mixed_bfloat16"]
    kinds = {layer.name: layer.compute_dtype for layer in trainer.layers if layer.weights}
    assert kinds.pop("logits") == "float32"
    assert set(kinds.values()) == {"bfloat16"}
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {weight.dtype for weight in trainer.weights} == {"float32"}


def test_fused_normalisations_do_what_keras_s_do(copies):
    model, trainer = copies["float32"]
    plain = keras.Model(model.input, model.get_layer("logits").output)
    x = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 1)).astype("float32")
    expected, found = plain(x, training=True), trainer(x, training=True)["predictions"]
    assert np.asarray(found) == pytest.approx(np.asarray(expected), abs=2e-4)
    carry_back(trainer, model)
    names = [layer.name for layer in trainer.layers if type(layer) is TrainedBatchNormalization]
    assert len(names) == 19
    assert not [layer for layer in model.layers if type(layer) is TrainedBatchNormalization]


def test_their_running_means_are_keras_s_own():
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 3, 5)).astype("float32")
    pair = [keras.layers.BatchNormalization(momentum=0.5), TrainedBatchNormalization(momentum=0.5)]
    for layer in pair:
        for _ in range(2):
            layer(x, training=True)
    for plain, fused in zip(pair[0].weights, pair[1].weights, strict=True):
        assert np.asarray(fused) == pytest.approx(np.asarray(plain), rel=1e-5)


def running_mean(values, momentum, least=0.0):
    """Return the mean as TensorFlow has it: in the n-th step at most (1 + n) / (10 + n) stay."""
    mean = values[0]
    for n, value in enumerate(values[1:]):
        stay = max(least, min(momentum, (1 + n) / (10 + n)))
        mean = stay * mean + (1 - stay) * value
    return mean


@pytest.mark.parametrize("shape", [(64, 5), (16, 2, 2, 5)], ids=["rows", "maps"])
def test_with_running_means_of_weights_the_statistics_are_of_the_same_batches(shape):
    draw = np.random.default_rng(0)
    layer = TrainedBatchNormalization(ema=0.4, momentum=0.2)
    assert layer.get_config()["momentum"] == 0.2
    again = TrainedBatchNormalization.from_config(layer.get_config())
    assert (again.ema, again._momentum) == (0.4, 0.2)
    batches = [draw.normal(n, 1 + n, shape).astype("float32") for n in range(12)]
    for x in batches:
        layer(x, training=True)
        layer(x, training=False)
    axes = tuple(range(len(shape) - 1))
    for found, of, start in (
        (layer.moving_mean, np.mean, np.zeros(5)),
        (layer.moving_variance, np.var, np.ones(5)),
    ):
        values = [of(x, axes) for x in batches]
        first = 0.2 * start + 0.8 * values[0]
        expected = running_mean([first, *values[1:]], 0.4, least=0.2)
        assert np.asarray(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_running_means_of_weights(accumulate):
    settings = ["train.optimizer=sgd", "train.ema=0.09", f"train.accumulate={accumulate}"]
    trainer, _ = compiled(*settings, "train.warmup_epochs=0")
    draw, seen = np.random.default_rng(0), []
    for _ in range(8):
        rule, weights = trainer.optimizer, trainer.trainable_variables
        rule.apply([keras.ops.array(draw.normal(size=w.shape), "float32") for w in weights])
        seen.append([np.asarray(weight).copy() for weight in weights])
    momentum = 0.09 ** (1 / accumulate)
    for (_, mean), values in zip(averages(trainer), zip(*seen, strict=True), strict=True):
        assert np.asarray(mean) == pytest.approx(running_mean(values, momentum), abs=1e-6)


def test_several_batches_of_one_step_count_as_one():
    settings = ["model.name=resnet20_cifar", "model.width=0.25", "train.ema=0.81"]
    trainer, _ = compiled(*settings, "train.accumulate=2")
    kinds = {type(layer): layer.ema for layer in trainer.layers if hasattr(layer, "ema")}
    assert kinds == {TrainedBatchNormalization: pytest.approx(0.9)}


def test_long_running_means_do_not_spoil_a_short_training(tmp_path):
    settings = ["model.name=resnet20_cifar", "model.width=0.25", "data.size=8", "train.ema=0.9999"]
    wanted = recipes.override(recipes.Recipe(), [*settings, "train.epochs=3"])
    train.train(wanted, tmp_path / "run")
    last = runs.read_history(tmp_path / "run")[-1]
    assert last["val_accuracy"] > last["accuracy"] > 0.25


def test_speed_is_of_the_images_that_there_are(tmp_path, monkeypatch):
    ticks = SimpleNamespace(monotonic=iter(range(100)).__next__)
    monkeypatch.setattr(callbacks, "time", ticks)
    settings = ["data.batch_size=2048", "train.epochs=1", "train.precision=float32"]
    train.train(recipes.override(recipes.Recipe(), settings), tmp_path / "run")
    (row,) = runs.read_history(tmp_path / "run")
    assert row["images_per_second"] == 1293  # a tick


def test_weights_and_their_running_means_change_places_exactly(copies):
    _, trainer = copies["float32"]
    random = np.random.default_rng(0)
    for variable, average in averages(trainer):
        variable.assign(random.normal(size=variable.shape))
        average.assign(random.normal(size=variable.shape))
    before, means = arrays(trainer), outcome(trainer)
    swap_averages(trainer)
    assert all(np.array_equal(w, mean) for w, mean in zip(trainer.weights, means, strict=True))
    swap_averages(trainer)
    assert all(np.array_equal(a, before[name]) for name, a in arrays(trainer).items())


def test_the_seed_decides_the_weights():
    recipe = resolved()
    first, again = (train.build(recipe, 10).get_weights() for _ in range(2))
    other = train.build(replace(recipe, seed=1), 10).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
