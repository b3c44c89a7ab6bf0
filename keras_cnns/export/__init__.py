"""Write a model as SavedModel, TFLite and ONNX files that are shown to agree with it.

`export` makes an artifact folder: the model files, manifest.json (what a client must know, and what
was measured), reference.npz (images and the float model's logits, so that `verify.verify` needs
neither Keras nor the model) and labels.txt. TensorFlow is imported only when a file is written.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.export import manifest
from keras_cnns.export.checks import ExportError, folder_bytes
from keras_cnns.export.manifest import FORMATS, QUANTIZATIONS, Target, check_folder, plan
from keras_cnns.export.reference import Reference, as_pixels, reference_count, synthetic_images

if TYPE_CHECKING:
    import keras

__all__ = [
    "FORMATS",
    "QUANTIZATIONS",
    "ExportError",
    "Reference",
    "check_folder",
    "export",
    "plan",
    "reference_count",
    "synthetic_images",
]

_TRIED = 16


def export(
    model: "keras.Model",
    out: str | Path,
    *,
    name: str,
    formats: Sequence[str] = FORMATS,
    quantize: Sequence[str] = (),
    labels: Sequence[str],
    reference: Reference,
    calibration: np.ndarray | None = None,
    layout: str = "NHWC",
    cut: Mapping[str, Any] | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write a model to an artifact folder, and verify every file before the folder is put in place.

    Args:
        model: a functional model of pixel values 0..255 with layers "logits" and "predictions";
            auxiliary heads are left out.
        out: the folder. One that `export` wrote before is replaced, once the new one is whole.
        name: the model's name, for the files' metadata.
        formats: of "savedmodel", "tflite", "onnx".
        quantize: of "float16", "dynamic", "int8": written beside the float32 file, int8 as TFLite
            and as ONNX, the others as TFLite.
        labels: one per class.
        reference: the images on which the files are compared with the model.
        calibration: images, uint8 or floats 0..255, to measure int8's ranges on; 100 to 200 of the
            training images are enough.
        layout: of the ONNX files' input: "NHWC" or "NCHW".
        cut: how the model's data was cut into splits, for `verify --data`; kept in the manifest.
        progress: called with a line of text before each step.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        UsageError: something asked for cannot be done; found before any work.
        ExportError: a file failed its writer's check, or disagrees with the model; nothing is left.
    """
    from keras_cnns.export import prepare
    from keras_cnns.export.verify import verify

    if layout not in ("NHWC", "NCHW"):
        raise UsageError(f'unknown layout "{layout}"; allowed are NHWC, NCHW')
    targets = plan(formats, quantize, calibrated=calibration is not None and len(calibration) > 0)
    check_folder(out)
    prepared = prepare.prepare(model)
    shape = tuple(prepared.inputs[0].shape[1:])
    if calibration is not None:
        calibration = as_pixels(calibration)
    _check_arguments(prepared, shape, labels, reference, calibration)
    with manifest.replacing(out) as folder:
        try:
            progress("running the float model on the reference images")
            logits = prepare.logits_of(prepared, reference.images)
            described = _describe(folder, name, shape, labels, reference, logits)
            described["cut"] = dict(cut or {})
            for target in targets:
                progress(f"writing {target.file}")
                record = _write(
                    target, folder, prepared, name, labels, reference, calibration, layout
                )
                described["artifacts"].append(record)
            manifest.write(folder, described)
            progress("verifying every file in its own runtime")
            report = verify(folder)
            for record, measured in zip(described["artifacts"], report["artifacts"], strict=True):
                record |= measured
            manifest.write(folder, described)
        except OSError as error:
            raise ExportError(f"{out} could not be written: {error}") from error
        failed = [record for record in described["artifacts"] if not record["passed"]]
        if failed:
            reasons = "; ".join(f"{record['file']}: {record['why']}" for record in failed)
            raise ExportError(f"not exported, since a file disagrees with its model: {reasons}")
    return described


def _check_arguments(
    prepared: "keras.Model",
    shape: tuple[int, ...],
    labels: Sequence[str],
    reference: Reference,
    calibration: np.ndarray | None,
) -> None:
    classes = prepared.output["logits"].shape[1]
    if len(labels) != classes:
        raise UsageError(f"{len(labels)} labels were given for a model of {classes} classes")
    for label in labels:
        if label.splitlines() != [label]:
            raise UsageError(f"the label {label!r} cannot be a line of a text file; give another")
    named = {"reference": reference.images, "calibration": calibration}
    for kind, images in named.items():
        if images is not None and images.shape[1:] != shape:
            received = images.shape[1:]
            raise UsageError(f"{kind} images have shape {received}; the model takes {shape}")
    largest = int(reference.labels.max())
    if largest >= classes:
        raise UsageError(f"a reference label is {largest} in a model of {classes} classes")


def _describe(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    labels: Sequence[str],
    reference: Reference,
    logits: np.ndarray,
) -> dict[str, Any]:
    """Write reference.npz and labels.txt, and return a manifest that names no model file yet."""
    path = folder / manifest.REFERENCE
    np.savez_compressed(
        path,
        images=reference.images,
        labels=reference.labels,
        logits=logits,
        names=np.array(labels),
    )
    manifest.write_labels(folder / manifest.LABELS, labels)
    return {
        "schema": manifest.SCHEMA,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": manifest.describe_input(shape),
        "outputs": {
            "logits": "one number per class",
            "probabilities": "their softmax, one per class",
        },
        "labels": list(labels),
        "reference": {
            "file": manifest.REFERENCE,
            "sha256": manifest.sha256(path),
            "images": len(logits),
            "labelled": int((reference.labels >= 0).sum()),
            "largest_logit": float(np.abs(logits).max()),
        },
        "versions": manifest.versions(),
        "artifacts": [],
    }


def _lrn(target: Target) -> str:
    """Return the form of local response normalisation that is the fastest in a runtime.

    As a convolution it takes 0.6 to 0.8 of the time in ONNX Runtime and LiteRT; but its square and
    its root have no int8 kernels, and TensorFlow has an operation of its own.
    """
    native = target.format == "savedmodel" or target.quantization == "int8"
    return "native" if native else "band"


def _write(
    target: Target,
    folder: Path,
    prepared: "keras.Model",
    name: str,
    labels: Sequence[str],
    reference: Reference,
    calibration: np.ndarray | None,
    layout: str,
) -> dict[str, Any]:
    """Write one file and return its record."""
    from keras_cnns.export import onnx, prepare, saved_model, tflite
    from keras_cnns.fusion import fuse

    path = folder / target.file
    # The int8 ONNX file is made from the float32 one.
    made = (target.format, target.quantization) == ("onnx", "int8")
    deployed = prepared if made else fuse(prepared, lrn=_lrn(target))
    tried: dict[str, Any] = {
        "images": reference.images[:_TRIED],
        "kernels": prepare.kernel_count(deployed),
    }
    started = time.perf_counter()
    if target.format == "savedmodel":
        facts = saved_model.write_saved_model(deployed, path, labels=labels, **tried)
    elif made:
        assert calibration is not None
        source = folder / manifest.FILES["onnx", "float32"]
        facts = onnx.write_int8(path, source, calibration=calibration, **tried)
    elif target.format == "onnx":
        facts = onnx.write_onnx(deployed, path, name=name, labels=labels, layout=layout, **tried)
        onnx.write_triton(
            folder / manifest.TRITON,
            name=name,
            file=target.file,
            layout=layout,
            image_shape=prepared.inputs[0].shape[1:],
            classes=len(labels),
        )
    else:
        facts = tflite.write_tflite(
            deployed,
            path,
            quantization=target.quantization,
            name=name,
            labels=labels,
            calibration=calibration,
            **tried,
        )
    return {
        "file": target.file,
        "format": target.format,
        "quantization": target.quantization,
        "bytes": folder_bytes(path),
        "sha256": manifest.sha256(path),
        **facts,
        "seconds": round(time.perf_counter() - started, 2),
    }
