"""From a recipe to what Keras fits: the network, its compiled copy and its batches."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns import builder, data, spec as specs, zoo
from keras_cnns.preprocessing import scaling
from keras_cnns.recipe import Recipe
from keras_cnns.training import machine, transfer
from keras_cnns.training.devices import Devices
from keras_cnns.training.workers import model_class

if TYPE_CHECKING:
    import keras

AUXILIARY_LOSS_WEIGHT = 0.3  # Szegedy et al. 2014, section 5


def resolve(recipe: Recipe, source: data.Source, begun: Recipe | None = None) -> Recipe:
    """Return the recipe with every choice made that it left to the network or the data.

    The size is the network's own, or that of the images where all have the same, which is
    smaller, square, and enough for the network.

    Args:
        recipe: what is asked for.
        source: its data.
        begun: the resolved recipe of a run that is to go on.

    Raises:
        UsageError: where network and data do not fit.
    """
    net = zoo.get(recipe.model.name)
    for split in ("train", "validation"):
        source.require(split)
    spec = zoo.spec_of(net.name, recipe.model.spec)
    if recipe.model.width != 1:
        spec = specs.scale_filters(spec, recipe.model.width)
    arguments = {
        "num_classes": len(source.labels),
        "spec": spec,
        "auxiliary": recipe.model.auxiliary,
    }
    size = recipe.data.size
    if size is None:
        own, size = source.size, net.input_shape[0]
        if own and builder.min_size(net.name, **arguments) <= own < size:
            size = own
    shape = (size, size, source.channels)
    builder.trace(net.name, input_shape=shape, **arguments)
    model = replace(recipe.model, name=net.name, spec=specs.to_dict(spec), width=1.0)
    model = transfer.settle(model, shape, begun.model if begun else None)
    scaling(model.preprocessing, source.channels)
    augment = recipe.data.augment
    if augment is None:
        augment = "shift" if source.channels == 1 else "crop" if size <= 64 else "photo"
    name = str(Path(source.name).resolve()) if any(source.files.values()) else source.name
    wanted = replace(recipe.data, name=name, size=size, channels=source.channels, augment=augment)
    resolved = replace(recipe, model=model, data=wanted, train=transfer.rhythm(recipe))
    transfer.frozen(resolved, phase=1)  # refuses a stage that the network does not have
    return resolved


def build(recipe: Recipe, classes: int, *, bare: bool = False) -> "keras.Model":
    """Build the network of a resolved recipe, in float32, with its seed or the weights it names."""
    import keras

    keras.utils.set_random_seed(recipe.seed)
    model = builder.build(
        recipe.model.name,
        input_shape=recipe.data.image_shape,
        num_classes=classes,
        spec=recipe.model.spec,
        auxiliary=recipe.model.auxiliary,
        preprocessing=recipe.model.preprocessing,
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = recipe.train.batch_norm_momentum
    if recipe.model.weights and not bare:
        transfer.load(model, recipe)
    return model


def compiled(
    model: "keras.Model",
    recipe: Recipe,
    steps_per_epoch: int,
    *,
    scale: float = 1.0,
    phase: int = 1,
    devices: Devices | None = None,
) -> "keras.Model":
    """Return a copy of a model that gives class scores, ready to fit.

    A loss on the scores themselves is exact where one on probabilities would clip them.

    Args:
        model: from `build`.
        recipe: a resolved one.
        steps_per_epoch: batches in an epoch.
        scale: times the learning rate.
        devices: where it is to be trained; None is one device.
        phase: 0 while train.freeze_epochs last, 1 afterwards, with an optimizer of its own.
    """
    import keras

    from keras_cnns.training.optimizers import optimizer
    from keras_cnns.training.twin import twin

    wanted = recipe.train
    precision = machine.precision(wanted.precision)
    # Running means are taken of every batch, also where weights change only after several.
    ema = None if wanted.ema is None else wanted.ema ** (1 / wanted.accumulate)
    copy = twin(model, precision, ema)
    scores = {
        name: copy.get_layer("logits" if name == "predictions" else f"{name}_logits").output
        for name in output_names(recipe, model)
    }
    trainer = model_class((devices or Devices()).workers)(copy.input, scores, name=model.name)
    for name in transfer.frozen(recipe, phase):
        trainer.get_layer(name).trainable = False
    rule = optimizer(
        wanted,
        steps_per_epoch,
        ema=ema,
        scale=scale,
        first=phase * wanted.head_epochs * steps_per_epoch,
        factors=transfer.factors(recipe, trainer),
    )
    if precision == "mixed_float16":  # Keras sees the model's policy, which is float32
        rule = keras.optimizers.LossScaleOptimizer(rule)
    trainer.compile(
        rule,
        loss={
            name: keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=wanted.label_smoothing
            )
            for name in scores
        },
        loss_weights={
            name: 1.0 if name == "predictions" else AUXILIARY_LOSS_WEIGHT for name in scores
        },
        metrics={"predictions": ["accuracy"]},
    )
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def output_names(recipe: Recipe, model: "keras.Model") -> list[str]:
    """Return the names of the model's outputs, the main one first."""
    return list(model.output) if recipe.model.auxiliary else ["predictions"]


def batches(
    recipe: Recipe, source: data.Source, split: str, names: list[str], first_step: int = 0
) -> Any:
    """Return a split as batches of pixels and one-hot labels for each output, endless for train."""
    import tensorflow as tf

    dataset = data.batches(
        source,
        split,
        image_shape=recipe.data.image_shape,
        batch_size=recipe.data.batch_size,
        training=split == "train",
        augment=recipe.data.augment or "none",
        randaugment=recipe.data.randaugment,
        erasing=recipe.data.erasing,
        mixup=recipe.data.mixup,
        cutmix=recipe.data.cutmix,
        seed=recipe.seed,
        first_step=first_step,
    )

    def for_each(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        # MixUp and CutMix give labels in parts already.
        soft = y if y.shape.rank == 2 else tf.one_hot(y, len(source.labels))
        return x, dict.fromkeys(names, soft)

    return dataset.map(for_each)
