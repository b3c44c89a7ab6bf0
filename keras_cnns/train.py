"""Train a network by a recipe, into a run folder that a later call resumes."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns import (
    builder,
    callbacks,
    data,
    evaluate,
    recipe as recipes,
    report,
    runs,
    spec as specs,
    zoo,
)
from keras_cnns.cost import cost
from keras_cnns.errors import UsageError
from keras_cnns.preprocessing import scaling
from keras_cnns.quiet import start_keras
from keras_cnns.recipe import Recipe
from keras_cnns.runs import Run

if TYPE_CHECKING:
    import keras

AUXILIARY_LOSS_WEIGHT = 0.3  # Szegedy et al. 2014, section 5


def resolve(recipe: Recipe, source: data.Source) -> Recipe:
    """Return the recipe with every choice made that it left to the network or the data.

    The size is the network's own, or that of the images where all have the same, which is
    smaller, square, and enough for the network.

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
    scaling(recipe.model.preprocessing, source.channels)
    builder.trace(net.name, input_shape=(size, size, source.channels), **arguments)
    model = replace(recipe.model, name=net.name, spec=specs.to_dict(spec), width=1.0)
    augment = recipe.data.augment
    if augment is None:
        augment = "shift" if source.channels == 1 else "crop" if size <= 64 else "photo"
    name = str(Path(source.name).resolve()) if any(source.files.values()) else source.name
    wanted = replace(recipe.data, name=name, size=size, channels=source.channels, augment=augment)
    return replace(recipe, model=model, data=wanted)


def build(recipe: Recipe, classes: int) -> "keras.Model":
    """Build the network of a resolved recipe, with its precision and seed."""
    import keras

    keras.utils.set_random_seed(recipe.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.train.precision)
    try:
        model = builder.build(
            recipe.model.name,
            input_shape=recipe.data.image_shape,
            num_classes=classes,
            spec=recipe.model.spec,
            auxiliary=recipe.model.auxiliary,
            preprocessing=recipe.model.preprocessing,
        )
    finally:
        keras.config.set_dtype_policy(before)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = recipe.train.batch_norm_momentum
    return model


def compiled(model: "keras.Model", recipe: Recipe, steps_per_epoch: int) -> "keras.Model":
    """Return the same layers as a model of class scores, ready to fit.

    A loss on the scores themselves is exact where one on probabilities would clip them.
    """
    import keras

    scores = {
        name: model.get_layer("logits" if name == "predictions" else f"{name}_logits").output
        for name in output_names(recipe, model)
    }
    trainer = keras.Model(model.input, scores, name=model.name)
    wanted = recipe.train
    total = wanted.epochs * steps_per_epoch
    warmup = min(round(wanted.warmup_epochs * steps_per_epoch), total // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else wanted.learning_rate,
        total - warmup,
        warmup_target=wanted.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    if wanted.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            schedule, momentum=wanted.momentum, nesterov=True, weight_decay=wanted.weight_decay
        )
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=wanted.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    trainer.compile(
        optimizer,
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
    optimizer.build(trainer.trainable_variables)
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
        seed=recipe.seed,
        first_step=first_step,
    )
    classes = len(source.labels)
    return dataset.map(lambda x, y: (x, dict.fromkeys(names, tf.one_hot(y, classes))))


def train(recipe: Recipe, out: str | Path, *, deterministic: bool = False) -> Run:
    """Train by a recipe into the run folder `out`, going on where an earlier call stopped.

    Args:
        recipe: what to train, on what, how.
        out: the run folder; a new one, or that of the same recipe.
        deterministic: makes equal runs bit-equal on one machine, somewhat slower.

    Raises:
        UsageError: before any work, for data, folder or recipe that do not fit.
    """
    out = Path(out)
    zoo.spec_of(recipe.model.name, recipe.model.spec)
    runs.check_folder(out, "recipe.toml", "run")
    source = runs.open_data(recipe)
    recipe = resolve(recipe, source)
    run = _open_or_create(out, recipe, source)
    if (run.path / "model.keras").is_file():
        print(f"{run.path} is trained already; choose another --out to train anew", file=sys.stderr)
        if "validation" not in runs.read_metrics(run):
            summarise(run, "validation", source)
        return run
    start_keras()
    import keras

    if deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    model = build(recipe, len(source.labels))
    names = output_names(recipe, model)
    held_out = batches(recipe, source, "validation", names)
    steps = data.steps_per_epoch(source, recipe.data.batch_size)
    trainer = compiled(model, recipe, steps)
    if (run.path / "checkpoint.weights.h5").is_file():
        trainer.load_weights(run.path / "checkpoint.weights.h5")
    begun = int(trainer.optimizer.iterations.numpy()) // steps
    if begun:
        print(f"resuming {run.path} after epoch {begun} of {recipe.train.epochs}", file=sys.stderr)
    trainer.fit(
        batches(recipe, source, "train", names, first_step=begun * steps),
        shuffle=False,
        validation_data=held_out,
        initial_epoch=begun,
        epochs=recipe.train.epochs,
        steps_per_epoch=steps,
        callbacks=[
            callbacks.record(run.path, steps),
            keras.callbacks.TensorBoard(run.path / "tensorboard"),
        ],
        verbose=1 if sys.stderr.isatty() else 2,
    )
    with runs.replacing(run.path / "model.keras") as temporary:
        model = keras.Model(model.input, model.get_layer("predictions").output, name=model.name)
        model.save(temporary)
    (run.path / "checkpoint.weights.h5").unlink(missing_ok=True)
    summarise(run, "validation", source)
    return run


def _open_or_create(out: Path, recipe: Recipe, source: data.Source) -> Run:
    """Open the folder of the same recipe, or make one."""
    if (out / "recipe.toml").is_file():
        run = runs.open_run(out)
        difference = runs.first_difference(asdict(run.recipe), asdict(recipe))
        if difference:
            raise UsageError(f"{out} holds another run: {difference}; choose another --out")
        if run.labels != source.labels:
            raise UsageError(f"{out} holds a run on other classes; choose another --out")
        return run
    runs.prepare_folder(out)
    runs.write_text(out / "labels.txt", "\n".join(source.labels) + "\n")
    runs.write_text(out / "recipe.toml", recipes.to_toml(recipe))
    return runs.open_run(out)


def summarise(
    run: Run, split: str, source: data.Source, *, precision: str = "auto"
) -> dict[str, Any]:
    """Evaluate a run on a split; keep its metrics.json and report.html; return the evaluation."""
    runs.prepare_folder(run.path)
    found = evaluate.evaluate(run, source, split, precision=precision)
    kept = {**runs.read_metrics(run), split: found["metrics"]}
    text = json.dumps(kept, indent=1, allow_nan=False)
    runs.write_text(run.path / "metrics.json", text + "\n")
    recipe = run.recipe
    size = cost(
        recipe.model.name,
        input_shape=run.image_shape,
        num_classes=len(run.labels),
        spec=recipe.model.spec,
    )
    facts = {
        f"{split} accuracy": f"{found['metrics']['accuracy']:.2%}",
        "network": recipe.model.name,
        "data": recipe.data.name,
        "image": "x".join(map(str, run.image_shape)),
        "parameters": f"{size.params:,}",
        "MACs": f"{size.macs:,}",
    }
    report.write(
        run.path / "report.html",
        f"{recipe.model.name} on {Path(recipe.data.name).name}",
        facts=facts,
        history=runs.read_history(run.path),
        evaluation=found,
    )
    return found
