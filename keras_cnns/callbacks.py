"""What happens between the epochs of a training."""

import csv
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_cnns import runs
from keras_cnns.errors import UsageError

Logs = Mapping[str, float] | None


def record(path: Path, steps: int) -> Any:
    """Return the callback that keeps checkpoint.weights.h5 and history.csv, epoch by epoch.

    Args:
        path: the run folder.
        steps: batches in an epoch.
    """
    import keras

    class Record(keras.callbacks.Callback):
        def on_train_begin(self, logs: Logs = None) -> None:
            done = int(self.model.optimizer.iterations.numpy()) // steps
            self.rows = runs.read_history(path)[:done]
            self.begun = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
            seconds = time.monotonic() - self.begun
            self.begun = time.monotonic()
            rate = float(self.model.optimizer.learning_rate.numpy())
            found = {k.replace("predictions_", ""): float(v) for k, v in (logs or {}).items()}
            if not math.isfinite(found["loss"]):
                raise UsageError(
                    f"the loss is {found['loss']} after epoch {epoch + 1}, so the training has "
                    "diverged; choose a lower train.learning_rate and another --out"
                )
            self.rows.append(
                {"epoch": epoch + 1, **found, "learning_rate": rate, "seconds": round(seconds, 2)}
            )
            with runs.replacing(path / "history.csv") as temporary, temporary.open("w") as file:
                writer = csv.DictWriter(file, list(self.rows[0]), extrasaction="ignore")
                writer.writeheader()
                writer.writerows(self.rows)
            # Last, so that a stop in between leaves a row too many, which a resume leaves out.
            with runs.replacing(path / "checkpoint.weights.h5") as temporary:
                self.model.save_weights(temporary)

    return Record()
