"""Write a model as SavedModel, TFLite and ONNX files that are shown to agree with it.

`export` makes an artifact folder: the model files, manifest.json (what a client must know, and what
was measured), reference.npz (images and the float model's logits, so that `verify.verify` needs
neither Keras nor the model) and labels.txt. TensorFlow is imported only when a file is written.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.errors import UsageError
from keras_cnns.export import manifest
from keras_cnns.export.checks import ExportError, Trial, folder_bytes
from keras_cnns.export.manifest import FORMATS, OUTPUTS, QUANTIZATIONS, Target, check_folder, plan
from keras_cnns.export.parity import softmax
from keras_cnns.export.reference import Reference, as_pixels, reference_count, synthetic_images

if TYPE_CHECKING:
    import keras

__all__ = [
    "FORMATS",
    "OUTPUTS",
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
    output: str = "probabilities",
    preprocessing: str | None = "none",
    cut: Mapping[str, Any] | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Write a model to an artifact folder, and verify every file before the folder is put in place.

    Args:
        model: a functional model of images that classifies: its output, or the one called
            "predictions", is a softmax or the class scores. Auxiliary heads are left out.
        out: the folder. One that `export` wrote before is replaced, once the new one is whole.
        name: the model's name, for the files' metadata.
        formats: of "savedmodel", "tflite", "onnx".
        quantize: of "float16", "dynamic", "int8": written beside the float32 file, int8 as TFLite
            and as ONNX, the others as TFLite.
        labels: one per class.
        reference: the images on which the files are compared with the model.
        calibration: images, uint8 or floats 0..255, to measure int8's ranges on, and to round the
            weights of int8 and dynamic files well; 100 to 200 of the training images are enough.
        layout: of the ONNX files' input: "NHWC" or "NCHW".
        output: of the TFLite files: "probabilities", which MediaPipe takes, or "logits"; the other
            formats give both.
        preprocessing: what the files do to pixels from 0 to 255 before the model: "none", since it
            takes them as they are, or a way that `build` knows. None if it is not known what the
            model takes: they are left alone, and the manifest says so.
        cut: how the model's data was cut into splits, for `verify --data`; kept in the manifest.
        progress: called with a line of text before each step.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        UsageError: something asked for cannot be done; found before any work.
        ExportError: a file failed its writer's check, or disagrees with the model; nothing is left.
    """
    from keras_cnns.export import prepare
    from keras_cnns.export.benchmark import latencies
    from keras_cnns.export.verify import Failed, verify

    if layout not in ("NHWC", "NCHW"):
        raise UsageError(f'unknown layout "{layout}"; allowed are NHWC, NCHW')
    calibrated = calibration is not None and len(calibration) > 0
    targets = plan(formats, quantize, calibrated=calibrated, output=output)
    check_folder(out)
    prepared = prepare.prepare(model, None if preprocessing == "none" else preprocessing)
    shape = tuple(prepared.inputs[0].shape[1:])
    if calibration is not None:
        calibration = as_pixels(calibration)
    _check_arguments(prepared, shape, labels, reference, calibration)
    with manifest.replacing(out) as folder:
        try:
            progress("running the float model on the reference images")
            logits = prepare.logits_of(prepared, reference.images)
            fed = manifest.describe_input(shape, known=preprocessing is not None)
            described = _describe(folder, name, fed, labels, reference, logits)
            described["cut"] = dict(cut or {})
            chances = softmax(logits[:_TRIED])
            varied = bool(np.ptp(chances, axis=0).max() > 1e-6 * chances.max())
            if not varied:
                progress("the model gives all images the same probabilities; is it trained?")
            trial = Trial(reference.images[:_TRIED], 0, varied)
            for target in targets:
                better = " without images, with which it would be better"
                bare = target.quantization == "dynamic" and not calibrated
                progress(f"writing {target.file}" + better * bare)
                path = folder / target.file
                started = time.perf_counter()
                facts = _write(
                    target, path, prepared, described, trial, calibration, layout, output
                )
                described["artifacts"].append(
                    {
                        **target._asdict(),
                        "bytes": folder_bytes(path),
                        "sha256": manifest.sha256(path),
                        **facts,
                        "seconds": round(time.perf_counter() - started, 2),
                    }
                )
            manifest.write(folder, described)
            progress("verifying every file in its own runtime")
            report = verify(folder)
            for record, measured in zip(described["artifacts"], report["artifacts"], strict=True):
                record |= measured
                if record["passed"]:
                    record |= latencies(folder, record, shape, threads=[1])
                    record["latency_ms_2"] = measured["latency_ms"]
            manifest.write(folder, described)
        except (OSError, Failed) as error:
            raise ExportError(f"{out} could not be written: {error}") from error
        failed = [record for record in described["artifacts"] if not record["passed"]]
        if failed:
            reasons = "; ".join(f"{record['file']}: {record['why']}" for record in failed)
            raise ExportError(
                f"not exported, since a file disagrees with its model: {reasons}",
                described["artifacts"],
            )
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
    fed: Mapping[str, Any],
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
        "input": fed,
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


def _forms(target: Target) -> dict[str, str]:
    """Return the forms of layers that are the best in a runtime; TensorFlow has its own.

    Local response normalisation as a convolution takes 0.6 to 0.8 of the time in ONNX Runtime and
    LiteRT; but its square and its root have no int8 kernels. Batch normalisation that nothing takes
    in is as fast as a convolution, or faster, and keeps a scale for each channel in int8, which a
    product with a vector does not: of a narrow DenseNet, PSNR rises from 30.6 to 35.9 dB. What
    RepVGG's channels keep of themselves stands apart in dynamic range, since merged it makes the
    steps of all other weights coarse: 43 dB become 48.
    """
    if target.format == "savedmodel":
        return {}
    native = (target.format, target.quantization) == ("tflite", "int8")
    return {
        "lrn": "native" if native else "band",
        "norms": "depthwise",
        "identities": "apart" if target.quantization == "dynamic" else "merged",
    }


def _write(
    target: Target,
    path: Path,
    prepared: "keras.Model",
    described: Mapping[str, Any],
    trial: Trial,
    calibration: np.ndarray | None,
    layout: str,
    output: str,
) -> dict[str, Any]:
    """Write one file and return what is particular to it."""
    from keras_cnns.export import onnx, prepare, saved_model, tflite
    from keras_cnns.fusion import fuse
    from keras_cnns.fusion.equalise import equalise
    from keras_cnns.fusion.rounding import round_kernels

    gc.collect()  # what the file before has left
    name, labels, fed = described["name"], described["labels"], described["input"]
    deployed = fuse(prepared, **_forms(target))
    if calibration is not None and target.quantization in ("dynamic", "int8"):
        equalise(deployed, calibration)
        # TFLite leaves smaller kernels in float32, but in files of int8 alone.
        round_kernels(deployed, calibration, least=1024 if target.quantization == "dynamic" else 0)
    trial = trial._replace(kernels=prepare.kernel_count(deployed))
    if target.format == "savedmodel":
        return saved_model.write_saved_model(deployed, path, labels=labels, trial=trial)
    told: dict[str, Any] = {"name": name, "labels": labels, "fed": fed, "trial": trial}
    if target.format == "tflite":
        kind = target.quantization
        return tflite.write_tflite(
            deployed, path, quantization=kind, calibration=calibration, output=output, **told
        )
    if target.quantization == "int8":
        assert calibration is not None
        source = path.with_suffix(".float.onnx")
        onnx.write_onnx(deployed, source, layout=layout, **told)
        facts = onnx.write_int8(path, source, calibration=calibration, trial=trial)
        source.unlink()
        return facts
    facts = onnx.write_onnx(deployed, path, layout=layout, **told)
    onnx.write_triton(
        path.with_name(manifest.TRITON),
        name=name,
        file=target.file,
        layout=layout,
        image_shape=fed["shape"],
        classes=len(labels),
    )
    return facts
