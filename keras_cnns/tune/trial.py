"""One trial, in a process of its own: reads a job, as a line of JSON, and answers with a line.

`keras_cnns.tune.trainer` starts it, before there is a job, and closes the pipe when it is to end.
"""

import errno
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_cnns.errors import UsageError
from keras_cnns.quiet import start_keras

MEMORY = ("MemoryError", "ResourceExhaustedError")
# Other trials may be at work on the same GPU, of which TensorFlow and JAX else take all memory.
SHARED = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
FILES = ("NotFoundError", "PermissionDeniedError")  # TensorFlow's; others are OSErrors


def main() -> None:
    """Answer one job, then end."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for name, value in SHARED.items():
        os.environ.setdefault(name, value)
    start_keras()
    from keras_cnns import data, train  # noqa: F401  # while the trial before is at work

    line = sys.stdin.readline()
    if line:
        threading.Thread(target=_end_with_the_search, daemon=True).start()
        answer.write(json.dumps(outcome(json.loads(line))) + "\n")
        answer.flush()
    os._exit(0)  # TensorFlow's own way out takes a second


def _end_with_the_search() -> None:
    sys.stdin.read()
    if os.getpgrp() == os.getpid():  # what was started to measure the network ends as well
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def outcome(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"score", "seconds"} of a job, or {"why"} it failed, or {"refused"} and why.

    Where it is the machine's or the data's trouble, which any other trial would have too, it is
    {"stop": the reason}.

    A job has `recipe` (TOML, resolved), `folder` (of the search), `seed`, `epochs` and
    `initial_epoch` (None and 0 for all of them), `load` and `save` (files of weights in the folder,
    or None), `split` to be measured on, and `max_latency_ms` and `format` where speed is limited.
    """
    start = time.monotonic()
    try:
        found = _run(job)
    except Exception as error:  # whatever else a trial fails of is its own failure
        machines = isinstance(error, OSError | UsageError) or type(error).__name__ in FILES
        if machines and not _is_of_memory(error):
            return {"stop": _reason(error)}
        return {"why": _reason(error), "seconds": time.monotonic() - start}
    return {**found, "seconds": time.monotonic() - start}


def _is_of_memory(error: BaseException) -> bool:
    """Return whether it is what the network takes, also of the system (mmap, fork)."""
    return type(error).__name__ in MEMORY or getattr(error, "errno", None) == errno.ENOMEM


def _reason(error: BaseException) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split())[:300]
    if _is_of_memory(error):
        return f"out of memory: {text}" if text else "out of memory"
    said = text and isinstance(error, ArithmeticError | UsageError)
    return text if said else f"{kind}: {text}"


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    from keras_cnns import recipe as recipes
    from keras_cnns.tune import arrays

    recipe, folder = recipes.loads(job["recipe"]), Path(job["folder"])
    with _temporary_files_in(folder / "weights"):
        source = arrays.source_of(recipe, folder / "data")
        return _measured(replace(recipe, seed=job["seed"]), source, job)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have all of them there, whoever makes them: a search deletes its weights in the end.

    TensorFlow's are left by its quick way out, and those of what measures by a kill.
    """
    before = tempfile.gettempdir()
    folder.mkdir(exist_ok=True)
    # Absolute, for those who work in another folder.
    with tempfile.TemporaryDirectory(dir=folder.resolve(), ignore_cleanup_errors=True) as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        try:
            yield
        finally:
            os.environ["TMPDIR"] = tempfile.tempdir = before


def _measured(recipe: Any, source: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    measured = {}
    if job.get("max_latency_ms") is not None:
        from keras_cnns.tune import latency

        found = latency.measure(recipe, len(source.labels), job["format"])
        measured = {"latency_ms": found}
        if found > job["max_latency_ms"]:
            return {**measured, "refused": f"{found:.3g} ms"}
    return {**measured, **fit(recipe, source, job)}


def fit(recipe: Any, source: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """Train a resolved recipe as a job says; return {"score": accuracy}.

    Raises:
        ArithmeticError: where the loss or the score is not finite.
    """
    from keras_cnns.training import machine

    with machine.determinism(bool(recipe.train.deterministic)):
        return _fit(recipe, source, job)


def _fit(recipe: Any, source: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    import keras
    import numpy as np

    from keras_cnns import data, runs, train
    from keras_cnns.training import state

    model = train.build(recipe, len(source.labels))
    names = train.output_names(recipe, model)
    steps = data.steps_per_epoch(source, recipe.data.batch_size)
    trainer = train.compiled(model, recipe, steps)
    begun, folder = 0, Path(job["folder"])
    if job["load"] and (folder / job["load"]).is_file():  # else on a machine that lacks it
        with np.load(folder / job["load"]) as kept:
            state.restore(trainer, kept, "model", "optimizer")
        begun = job["initial_epoch"]
    history = trainer.fit(
        train.batches(recipe, source, "train", names, first_step=begun * steps),
        steps_per_epoch=steps,
        initial_epoch=begun,
        epochs=job["epochs"] or recipe.train.epochs,
        shuffle=False,
        callbacks=[keras.callbacks.TerminateOnNaN()],
        verbose=0,
    ).history
    if not all(map(math.isfinite, history["loss"])):
        raise ArithmeticError("the loss is not finite; choose a lower train.learning_rate")
    if job["save"]:
        place = folder / job["save"]
        place.parent.mkdir(exist_ok=True)
        for left in place.parent.glob(f".*.{place.name}"):  # by a process killed as it wrote
            left.unlink(missing_ok=True)
        with runs.replacing(place) as temporary:
            arrays: dict[str, Any] = dict(state.arrays(trainer))
            np.savez(temporary, **arrays)
    trainer.set_weights(state.outcome(trainer))
    held_out = train.batches(recipe, source, job["split"], names)
    found = trainer.evaluate(held_out, return_dict=True, verbose=0)
    score = found["predictions_accuracy" if len(names) > 1 else "accuracy"]
    if not math.isfinite(score) or not math.isfinite(found["loss"]):
        raise ArithmeticError("the validation loss is not finite; lower train.learning_rate")
    return {"score": float(score)}


if __name__ == "__main__":
    main()
