"""What happens between the batches of a training: what is kept, when it stops, what is said."""

import csv
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from keras_cnns import runs
from keras_cnns.recipe import Recipe
from keras_cnns.training import checkpoint
from keras_cnns.training.devices import Devices
from keras_cnns.training.state import (
    Arrays,
    Diverged,
    State,
    add_metrics,
    arrays,
    outcome,
    swap_averages,
)

Logs = Mapping[str, float] | None


class Keeper(keras.callbacks.Callback):
    """Keeps the state of a training, in memory and on the disk, and stops it when it is time.

    Args:
        folder: the run's.
        recipe: its recipe.
        steps: batches in an epoch.
        state: where the training stands.
        kept: the arrays of the checkpoint that it goes on from.
        last: a step at which there is to be a checkpoint whatever the recipe says.
        devices: where it is trained; the first worker is the one that writes.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        steps: int,
        state: State,
        kept: Arrays,
        last: int,
        devices: Devices | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.wanted, self.steps, self.last = folder, recipe.train, steps, last
        self.batch_size = recipe.data.batch_size
        self.state, self.kept, self.devices = state, kept, devices or Devices()
        self.best = {name: a for name, a in kept.items() if name.startswith("best/")}

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Look at the clock."""
        self.resumed = bool(self.state.step % self.steps)
        self.begun = time.monotonic() - self.state.seconds

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Count the batch; keep a checkpoint where the recipe has one within an epoch."""
        if self.resumed:  # before its first batch Keras has not made all metrics yet
            add_metrics(self.model, self.kept)
            self.resumed = False
        self.state.step += 1
        loss = (logs or {})["loss"]
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}")
        often, place = self.wanted.checkpoint_steps, self.state.step
        if often and place % often == 0 and place % self.steps:
            self.state.seconds = time.monotonic() - self.begun
            self.save()

    def on_test_begin(self, logs: Logs = None) -> None:
        """Test the running means of the weights, where there are some."""
        self.trained = time.monotonic()
        self.devices.share_statistics(self.model)
        swap_averages(self.model)

    def on_test_end(self, logs: Logs = None) -> None:
        """Put the weights back."""
        swap_averages(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Note the epoch in the history; keep a checkpoint after every so many."""
        now = time.monotonic()
        images = self.steps * self.batch_size
        found = {k.replace("predictions_", ""): float(v) for k, v in (logs or {}).items()}
        self.state.history.append(
            {
                "epoch": epoch + 1,
                **found,
                "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
                "images_per_second": round(images / (self.trained - self.begun), 1),
                "seconds": round(now - self.begun, 2),
            }
        )
        self.state.seconds = 0.0
        whole = self.state.phase or self.wanted.head_epochs >= self.wanted.epochs
        if self.wanted.patience and whole:  # else the head alone would end it
            self._wait(found["val_accuracy"], self.wanted.patience)
        due = (epoch + 1) % self.wanted.checkpoint_epochs == 0
        if due or self.state.step == self.last or self.state.stopped:
            self.save()
            if self.devices.first:
                write_history(self.folder, self.state)

    def _wait(self, accuracy: float, patience: int) -> None:
        """Keep the best weights so far; stop once they have been the best for long enough."""
        if self.state.best is None or accuracy > self.state.best:
            self.state.best, self.state.waited = accuracy, 0
            self.best = {f"best/{i:04d}": a for i, a in enumerate(outcome(self.model))}
            return
        self.state.waited += 1
        if self.state.waited >= patience:
            self.state.stopped = self.model.stop_training = True

    def save(self) -> None:
        """Write a checkpoint, unless a weight is not finite."""
        found = arrays(self.model)
        if not all(np.isfinite(a).all() for a in found.values()):
            raise Diverged("a weight is not finite")
        if not self.devices.first:
            return
        checkpoint.write(self.folder, self.state.step, found | self.best, asdict(self.state))


def write_history(folder: Path, state: State) -> None:
    """Write history.csv, whose columns are those of the first epoch."""
    if not state.history:
        return
    with runs.replacing(folder / "history.csv") as temporary, temporary.open("w") as file:
        writer = csv.DictWriter(file, list(state.history[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(state.history)


class Progress(keras.callbacks.Callback):
    """Says how far a training is, how fast it goes and how long it will take, on standard error.

    A terminal gets a bar; a file a line for each epoch.
    """

    def __init__(self, recipe: Recipe, steps: int, state: State) -> None:
        super().__init__()
        self.recipe, self.steps, self.state = recipe, steps, state
        self.bar: tqdm | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        """Open the bar."""
        batch, total = self.recipe.data.batch_size, self.recipe.train.epochs * self.steps
        self.begun, self.before = time.monotonic(), self.state.step
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=total * batch, initial=self.state.step * batch, unit=" images", smoothing=0.05
            )

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.recipe.data.batch_size)
            if logs:
                self.bar.set_postfix({"loss": f"{logs['loss']:.3f}"}, refresh=False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Write the line of the epoch."""
        row, epochs = self.state.history[-1], self.recipe.train.epochs
        pace = (time.monotonic() - self.begun) / max(1, self.state.step - self.before)
        left = pace * (epochs * self.steps - self.state.step)
        tqdm.write(
            f"epoch {epoch + 1}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.2%}, "
            f"validation {row['val_accuracy']:.2%}; {row['images_per_second']:,.0f} images/s, "
            f"{duration(left)} left",
            file=sys.stderr,
        )

    def on_train_end(self, logs: Logs = None) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """Return a time in the largest unit that it fills twice.

    >>> duration(95), duration(7300), duration(300)
    ('95 s', '2.0 h', '5 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
