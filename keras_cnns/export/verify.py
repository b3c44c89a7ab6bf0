"""Run every file of an artifact folder in its own runtime, and compare it with its model.

`python -m keras_cnns.export.verify FOLDER` prints the report as JSON; it exits with 1 on
disagreement.
Each file runs in a fresh process, which imports neither Keras nor TensorFlow for TFLite and ONNX;
this one imports neither at all. What is measured and what is tolerated is in `parity`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.export import manifest, parity, runners
from keras_cnns.export.checks import folder_bytes
from keras_cnns.export.parity import TOLERANCES, Truth
from keras_cnns.export.reference import Reference

_EMPTY = {"max_error": None, "agreement": None, "accuracy": None, "latency_ms": None}


class Failed(Exception):
    """A file, or the folder, is not what it should be; the message is the report's `why`."""


def verify(
    folder: str | Path,
    images: np.ndarray | None = None,
    labels: np.ndarray | Sequence[int] | None = None,
) -> dict[str, Any]:
    """Check the hashes, labels and outputs of every file in an artifact folder.

    The outputs are compared with the float model's on the images of reference.npz. With images of
    one's own, the first float32 file that agrees with the model there stands in for it: the other
    files are compared with that one on the new images, and the accuracy of all is theirs. A file
    whose hash is not the manifest's is not run.

    Args:
        folder: what `export` wrote.
        images: uint8, or floats 0..255, (n, height, width, channels), instead of the reference.
        labels: their classes, -1 where unknown.

    Returns:
        {"passed", "images", "labelled", "largest_logit", "accuracy" (of the float model),
        "artifacts": [{"file", "format", "quantization", "bytes", "max_error", "agreement",
        "accuracy", "latency_ms", "passed", "why", ...}]}. `agreement` is None where every image is
        a tie, `accuracy` where none has a label, and all four where the file was not run. `why` is
        empty for what passed.

    Raises:
        UsageError: the folder is no artifact folder, or the images do not fit it.
    """
    folder = Path(folder)
    described = manifest.read(folder)
    shape = tuple(described["input"]["shape"])
    given = None if images is None else Reference(images, labels)
    if given is not None and given.images.shape[1:] != shape:
        raise UsageError(f"images have shape {given.images.shape[1:]}; {folder} takes {shape}")
    records = sorted(described["artifacts"], key=_float_first)
    if given is not None and records[0]["quantization"] != "float32":
        raise UsageError(f"{folder} has no float32 file to compare with; leave the images out")
    try:
        truth = _truth(folder, described)
    except Failed as failure:
        reports = [_report(record, folder, why=str(failure)) for record in records]
        empty = {"images": 0, "labelled": 0, "largest_logit": None, "accuracy": None}
        return {"passed": False, **empty, "artifacts": _in_order(reports, described)}
    reports = []
    names = described["labels"]
    with tempfile.TemporaryDirectory() as scratch:
        for record in records:
            report, stand_in = _examine(folder, record, truth, names, given, Path(scratch))
            reports.append(report)
            if stand_in is not None:
                truth, given = stand_in, None
    return {
        "passed": all(report["passed"] for report in reports),
        "images": len(truth.images),
        "labelled": int((truth.labels >= 0).sum()),
        "largest_logit": truth.largest,
        "accuracy": truth.accuracy,
        "artifacts": _in_order(reports, described),
    }


def _float_first(record: dict[str, Any]) -> tuple[bool, bool, bool]:
    format = record["format"]
    return record["quantization"] != "float32", format != "savedmodel", format != "onnx"


def _in_order(reports: list[dict[str, Any]], described: dict[str, Any]) -> list[dict[str, Any]]:
    by_file = {report["file"]: report for report in reports}
    return [by_file[record["file"]] for record in described["artifacts"]]


def _truth(folder: Path, described: dict[str, Any]) -> Truth:
    """Read reference.npz, and hold the labels written in three places against each other."""
    path = folder / manifest.REFERENCE
    if not path.is_file():
        raise Failed(f"{manifest.REFERENCE} is missing")
    if manifest.sha256(path) != described["reference"]["sha256"]:
        raise Failed(f"{manifest.REFERENCE} is not the one exported: its sha256 differs")
    try:
        with np.load(path) as arrays:
            images, logits, labels = arrays["images"], arrays["logits"], arrays["labels"]
            names = arrays["names"].tolist()
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise Failed(f"{manifest.REFERENCE} cannot be read: {error}") from None
    if names != described["labels"]:
        raise Failed(f"the labels in {manifest.MANIFEST} are not those that were exported")
    if manifest.read_labels(folder / manifest.LABELS) != names:
        raise Failed(f"the labels in {manifest.LABELS} are not those that were exported")
    return Truth(images, logits.astype(np.float64), labels, max(float(np.abs(logits).max()), 1e-12))


def _examine(
    folder: Path,
    record: dict[str, Any],
    truth: Truth,
    labels: list[str],
    given: Reference | None,
    scratch: Path,
) -> tuple[dict[str, Any], Truth | None]:
    """Return the report on one file, and the truth on the given images if it may stand in there."""
    try:
        _check_file(folder, record)
        outputs, note = run_alone(folder, record, truth.images, scratch)
        if note["labels"] != labels:
            raise Failed("the labels inside are not those that were exported")
        needed = {"tensorflow", "keras"} if record["format"] == "savedmodel" else set()
        if not needed >= set(note["imported"]):
            raise Failed(f"to run it took an import of {', '.join(note['imported'])}")
        why = parity.broken(outputs, truth)
        if why:
            raise Failed(why)
        measured = parity.measure(outputs, truth, record["quantization"])
        why = parity.judge(measured, truth, TOLERANCES[record["format"], record["quantization"]])
        measured |= {key: note[key] for key in ("latency_ms", "threads", "imported")}
        stand_in = None
        if given is not None and not why:
            outputs, _ = run_alone(folder, record, given.images, scratch)
            logits = outputs.get("logits")
            if logits is None:
                logits = parity.log_probabilities(outputs["probabilities"], 1e-7)
            logits = logits.astype(np.float64)
            stand_in = Truth(given.images, logits, given.labels, truth.largest)
            measured |= {"accuracy": stand_in.accuracy}
        return _report(record, folder, why=why, measured=measured), stand_in
    except Failed as failure:
        return _report(record, folder, why=str(failure)), None


def _report(
    record: dict[str, Any], folder: Path, *, why: str, measured: dict[str, Any] | None = None
) -> dict[str, Any]:
    path = folder / record["file"]
    named = {key: record[key] for key in ("file", "format", "quantization")}
    size = folder_bytes(path) if path.exists() else 0
    return {**named, "bytes": size, **_EMPTY, **(measured or {}), "passed": not why, "why": why}


def _check_file(folder: Path, record: dict[str, Any]) -> None:
    """Compare a file with the size and the hash that the manifest has of it."""
    file, path = record["file"], folder / record["file"]
    if (record["format"], record["quantization"]) not in TOLERANCES or Path(file).name != file:
        raise Failed("the manifest names a kind of file that this version does not know")
    if not path.exists():
        raise Failed("the file is missing")
    if folder_bytes(path) != record["bytes"]:
        found, size = folder_bytes(path), record["bytes"]
        raise Failed(f"the file has {found:,} bytes, and {size:,} were exported")
    if manifest.sha256(path) != record["sha256"]:
        raise Failed("the content is not what was exported: its sha256 is another")


def run_alone(
    folder: Path,
    record: dict[str, Any],
    images: np.ndarray,
    scratch: Path,
    *,
    threads: int = runners.THREADS,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run one file in a process of its own; return its outputs and the runner's note.

    Args:
        folder: the artifact folder.
        record: the file's, in the manifest.
        images: uint8 pixels.
        scratch: a folder for what goes to and from the process.
        threads: how many the runtime may use.

    Raises:
        Failed: with the reason in one line.
    """
    pixels, results = scratch / "images.npy", scratch / "outputs.npz"
    np.save(pixels, images)
    results.unlink(missing_ok=True)
    command = [sys.executable, "-P", runners.__file__, record["format"]]
    done = subprocess.run(
        [*command, str(folder / record["file"]), str(pixels), str(results), str(threads)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if done.returncode < 0:
        raise Failed(f"its runtime died of {signal.Signals(-done.returncode).name}")
    if done.returncode or not results.exists():
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Failed(f"its runtime refuses it: {lines[-1]}")
    with np.load(results) as arrays:
        outputs = {name: arrays[name] for name in arrays.files}
    return outputs, json.loads(str(outputs.pop("note")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify one folder, print the report as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m keras_cnns.export.verify")
    parser.add_argument("folder")
    try:
        report = verify(parser.parse_args(arguments).folder)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
