"""Train a network by a recipe, into a run folder that a later call resumes."""

import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns import data, recipe as recipes, runs, zoo
from keras_cnns.errors import UsageError
from keras_cnns.quiet import start_keras
from keras_cnns.recipe import Recipe
from keras_cnns.runs import Run
from keras_cnns.summary import summarise
from keras_cnns.training import checkpoint, machine, transfer
from keras_cnns.training.devices import Devices, open_devices, several
from keras_cnns.training.setup import batches, build, compiled, output_names, resolve
from keras_cnns.training.state import Diverged, State, outcome, restore

if TYPE_CHECKING:
    import keras

__all__ = [
    "batches",
    "build",
    "compiled",
    "output_names",
    "resolve",
    "train",
]

MOST_RESTORES = 5


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    deterministic: bool | None = None,
    workers: Sequence[str] = (),
    index: int | None = None,
    strict: bool = False,
) -> Run:
    """Train by a recipe into the run folder `out`, going on where an earlier call stopped.

    Args:
        recipe: what to train, on what, how.
        out: the run folder; a new one, or that of the same recipe; one folder for all workers.
        deterministic: makes equal runs bit-equal on one machine; None leaves it to the recipe.
        workers: "host:port" of each machine that trains, where there are several.
        index: which of them this one is.
        strict: whether to refuse a folder in which `data.diagnose` finds fault.

    Returns:
        The run, which has been written whole, also by another worker.

    Raises:
        UsageError: before any work, for data, folder or recipe that do not fit; during it, where
            the training diverges, the disk is full or a worker is lost.
    """
    out = Path(out)
    zoo.spec_of(recipe.model.name, recipe.model.spec)
    runs.check_folder(out, "recipe.toml", "run")
    devices = None
    if several(workers, index):  # which TensorFlow wants to know before it has run anything
        start_keras()
        devices = open_devices(workers, index)
    if strict:
        data.require_sound(recipe.data.name)
    source = runs.open_data(recipe)
    recipe = resolve(recipe, source, _begun(out))
    start_keras()
    devices = devices or open_devices()
    devices.check(recipe.data.batch_size)
    if deterministic is not None:
        recipe = replace(recipe, train=replace(recipe.train, deterministic=deterministic))
    with devices.together(), runs.full_disk(out):
        if devices.first:
            run = _open_or_create(out, recipe, source)
        devices.agree()
        if not devices.first:
            run = _open_or_create(out, recipe, source)
    holding = runs.alone(run.path) if devices.first else nullcontext()
    with devices.together(), runs.full_disk(out), holding:
        # What decides the result is as the run began; how often it is kept, as is asked now.
        checkpoints = {key: getattr(recipe.train, key) for key in runs.KEPT_AS_ASKED}
        settled = replace(run.recipe, train=replace(run.recipe.train, **checkpoints))
        if (run.path / "model.keras").is_file():
            what = f"{run.path} is trained already; choose another --out to train anew"
            print(what, file=sys.stderr)
            if devices.first:
                checkpoint.remove(run.path)  # which a kill behind model.keras has left
        else:
            with machine.determinism(bool(settled.train.deterministic)):
                _fit(run._replace(recipe=settled), source, devices)
        if devices.first and "validation" not in runs.read_metrics(run):
            summarise(run, "validation", source)
        devices.agree()  # the first worker has written all of it
    return run


def _fit(run: Run, source: data.Source, devices: Devices) -> None:
    """Train from the newest checkpoint to the end, and write model.keras.

    What is trained in one go is built anew and set to the newest checkpoint, also where the one
    before it has ended in this very call: so a stop makes no difference.
    """
    import keras

    from keras_cnns.training import twin
    from keras_cnns.training.callbacks import Keeper, Progress

    recipe, wanted = run.recipe, run.recipe.train
    steps = data.steps_per_epoch(source, recipe.data.batch_size)
    total = wanted.epochs * steps
    # Of fewer images than a batch there is one smaller batch.
    fed = min(recipe.data.batch_size, source.sizes["train"])
    told = replace(recipe, data=replace(recipe.data, batch_size=fed))
    restores = 0
    held_out = None
    while True:
        devices.agree()  # the first worker has written its checkpoint
        state, kept = _newest(run)
        devices.agree(
            state.step,
            f"is at step {state.step} and others are not: --out must be one folder that all share",
        )
        state.restores = max(state.restores, restores)
        epoch, within = divmod(state.step, steps)
        ended = state.step >= total or state.stopped
        phase = state.phase if ended else int(epoch >= wanted.head_epochs)
        with devices.scope():
            model = build(recipe, len(source.labels), bare=bool(kept))
            trainer = compiled(
                model, recipe, steps, scale=0.5**state.restores, phase=phase, devices=devices
            )
            if kept:
                restore(trainer, kept, "model", *["optimizer"] * (phase == state.phase))
            if phase != state.phase:
                twin.restart(trainer)
        state.phase = phase
        if ended:
            return _finish(run, model, trainer, state, kept) if devices.first else None
        if state.step and not held_out:
            place = f"epoch {epoch} of {wanted.epochs}" + f" and {within} batches" * bool(within)
            print(f"resuming {run.path} after {place}", file=sys.stderr)
        names = output_names(recipe, model)
        if held_out is None:
            last = source.sizes["validation"] % recipe.data.batch_size
            held_out = devices.shared(batches(recipe, source, "validation", names), last)
        until = epoch + 1 if within else wanted.epochs if phase else wanted.head_epochs
        keeper = Keeper(run.path, told, steps, state, kept, until * steps, devices)
        shown = [
            Progress(told, steps, state),
            keras.callbacks.TensorBoard(run.path / "tensorboard", write_graph=False),
        ]
        try:
            with devices.scope():
                trainer.fit(
                    devices.shared(batches(recipe, source, "train", names, first_step=state.step)),
                    shuffle=False,
                    validation_data=held_out,
                    initial_epoch=epoch,
                    epochs=until,
                    steps_per_epoch=steps - within,
                    callbacks=[keeper, *(shown if devices.first else [])],
                    verbose=0,
                )
        except Diverged as problem:
            where = f"{problem} at step {state.step:,}, in epoch {state.step // steps + 1}"
            restores = state.restores + 1
            if wanted.on_nan == "stop" or restores > MOST_RESTORES:
                raise UsageError(
                    f"{where}: the training has diverged; its checkpoints are kept; choose a lower "
                    "train.learning_rate and another --out, or go on with train.on_nan=restore"
                ) from None
            print(f"{where}: going back, at half the learning rate", file=sys.stderr)
        else:
            try:
                devices.compare(trainer)
            except UsageError:
                if devices.first:
                    checkpoint.set_aside(run.path)
                raise


def _finish(
    run: Run, model: "keras.Model", trainer: "keras.Model", state: State, kept: dict[str, Any]
) -> None:
    """Write the model that a training has come to, and what it took."""
    import keras

    from keras_cnns.training.callbacks import write_history
    from keras_cnns.training.twin import carry_back

    trainer.trainable = True
    best = [kept[name] for name in sorted(kept) if name.startswith("best/")]
    trainer.set_weights(best or outcome(trainer))
    carry_back(trainer, model)
    rates = [row["images_per_second"] for row in state.history]
    found = {
        "weights_sha256": runs.weights_hash(model),
        "steps": state.step,
        "stopped_early": state.stopped,
        "restores": state.restores,
        "seconds": round(sum(row["seconds"] for row in state.history), 1),
        "images_per_second": statistics.median(rates),
    }
    write_history(run.path, state)  # which lacks rows after a kill behind the last checkpoint
    runs.write_metrics(run, "training", found)
    with checkpoint.lasting(run.path / "model.keras") as temporary:
        model = keras.Model(model.input, model.get_layer("predictions").output, name=model.name)
        model.save(temporary)
    checkpoint.remove(run.path)


def _newest(run: Run) -> tuple[State, dict[str, Any]]:
    """Return where a run stands and its arrays; the start where it has not begun.

    Raises:
        UsageError: where it has begun, and its checkpoints are lost, or another backend's.
    """
    import keras

    backend = keras.backend.backend()
    found = checkpoint.newest(run.path, lambda line: print(f"{run.path}: {line}", file=sys.stderr))
    told = runs.read_history(run.path)
    if found is None:
        if told:
            unequal = checkpoint.are_set_aside(run.path)
            raise UsageError(
                f"{run.path} has {len(told)} epochs of history but "
                f"{'its workers came to unequal weights' if unequal else 'no checkpoint'}; delete "
                "the folder to train from the start, or choose another --out"
            )
        return State(backend=backend), {}
    state = State(**found.state)
    if state.backend != backend:
        raise UsageError(
            f"{run.path} began on {state.backend}: go on with KERAS_BACKEND={state.backend}, or "
            "choose another --out"
        )
    if len(told) > len(state.history):
        lost = f"the checkpoint of epoch {len(told)} is missing"
        print(f"{run.path}: {lost}; going on from step {state.step:,} instead", file=sys.stderr)
    return state, found.arrays


def _begun(out: Path) -> Recipe | None:
    """Return the recipe of the run in a folder, where there is one."""
    place = out / "recipe.toml"
    return recipes.load(place) if place.is_file() else None


def _try_weights(recipe: Recipe, classes: int) -> None:
    """Refuse weights that do not fit, before anything is written; tell how many of some do."""
    model = build(recipe, classes, bare=True)
    taken = transfer.load(model, recipe)
    if recipe.model.matching:
        layers = sum(bool(layer.weights) for layer in model.layers)
        what = f"{recipe.model.weights}: took {taken} of the {layers} layers of {recipe.model.name}"
        print(what, file=sys.stderr)


def _open_or_create(out: Path, recipe: Recipe, source: data.Source) -> Run:
    """Open the folder of the same recipe, or make one."""
    if there := _begun(out):
        # What a recipe leaves to the machine was decided when the run began.
        settled = machine.settle(recipe.train, there.train)
        difference = runs.first_difference(asdict(there), asdict(replace(recipe, train=settled)))
        if difference:
            raise UsageError(f"{out} holds another run: {difference}; choose another --out")
    else:
        settled = machine.settle(recipe.train)
        if recipe.model.weights:
            _try_weights(recipe, len(source.labels))
        runs.prepare_folder(out)
        runs.write_text(out / "recipe.toml", recipes.to_toml(replace(recipe, train=settled)))
    if not (out / "labels.txt").is_file():  # also after a kill behind the recipe
        runs.write_data(out, source)
        runs.write_text(out / "labels.txt", "\n".join(source.labels) + "\n")
    run = runs.open_run(out)
    if run.labels != source.labels:
        raise UsageError(f"{out} holds a run on other classes; choose another --out")
    runs.check_data(run, source, ("train", "validation"), "choose another --out")
    return run
