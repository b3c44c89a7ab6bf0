"""What a recipe leaves open is decided by network and data; what is trained is what was asked."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_cnns import data, recipe as recipes, train
from keras_cnns.errors import UsageError


def source(size=32, channels=1, classes=10):
    """A source of which only the outside is looked at."""
    return data.Source(
        name="images",
        labels=tuple(f"class {i}" for i in range(classes)),
        channels=channels,
        sizes={"train": 100, "validation": 10, "test": 10},
        files={},
        ignored=0,
        size=size,
        record_bytes=1,
        records=None,
        read=None,
    )


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
    recipe = resolved(*settings)
    model = train.build(recipe, 10)
    return train.compiled(model, recipe, 10), model


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    trainer, _ = compiled("train.epochs=5", "train.warmup_epochs=1", "train.learning_rate=0.1")
    rate = trainer.optimizer._learning_rate
    assert [float(rate(step)) for step in (0, 5, 10, 50)] == pytest.approx([0, 0.05, 0.1, 0])
    assert float(rate(30)) == pytest.approx(0.05)


def test_norms_and_biases_do_not_decay():
    settings = ["model.name=resnet18", "model.width=0.125", "train.weight_decay=0.5"]
    trainer, model = compiled(*settings, "train.warmup_epochs=0", "train.learning_rate=0.1")
    for weight in model.trainable_weights:
        weight.assign(np.ones(weight.shape))
    trainer.optimizer.apply([keras.ops.zeros(w.shape) for w in trainer.trainable_variables])
    kept = {w.path: bool((w.numpy() == 1).all()) for w in model.trainable_weights}
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


def test_a_precision_is_the_model_s_own_and_does_not_stay():
    recipe = resolved("train.precision=mixed_bfloat16")
    model = train.build(recipe, 10)
    assert model.get_layer("c1_conv").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_the_seed_decides_the_weights():
    recipe = resolved()
    first, again = (train.build(recipe, 10).get_weights() for _ in range(2))
    other = train.build(replace(recipe, seed=1), 10).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
