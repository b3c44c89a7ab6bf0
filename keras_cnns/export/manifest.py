"""An artifact folder: which files it may hold, what its manifest.json says, how it comes to be."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnns.errors import UsageError, suggest

SCHEMA = "keras_cnns artifact 1"
MANIFEST, LABELS, REFERENCE = "manifest.json", "labels.txt", "reference.npz"

# (format, quantization) -> file; what is not here cannot be exported.
FILES = {
    ("savedmodel", "float32"): "saved_model",
    ("tflite", "float32"): "model.tflite",
    ("tflite", "float16"): "model_float16.tflite",
    ("tflite", "dynamic"): "model_dynamic.tflite",
    ("tflite", "int8"): "model_int8.tflite",
    ("onnx", "float32"): "model.onnx",
    ("onnx", "int8"): "model_int8.onnx",
}
TRITON = "config.pbtxt"
UNKNOWN_RANGE = (
    "nothing in the model tells which pixels it takes: give them scaled as it was trained, "
    "or export it again with --preprocessing"
)
OUTPUTS = ("logits", "probabilities")
FORMATS = tuple(dict.fromkeys(format for format, _ in FILES))
QUANTIZATIONS = tuple(q for q in dict.fromkeys(q for _, q in FILES) if q != "float32")

_PACKAGES = ["keras-cnns", "keras", "tensorflow", "tensorflow-cpu", "ai-edge-litert", "onnx"]
_PACKAGES += ["onnxruntime", "tf2onnx", "numpy"]


class Target(NamedTuple):
    """One file to write."""

    format: str
    quantization: str
    file: str


def plan(
    formats: Sequence[str],
    quantize: Sequence[str] = (),
    *,
    calibrated: bool = True,
    output: str = "probabilities",
) -> list[Target]:
    """Return the files that an export of these formats and quantizations writes.

    Every format is written in float32; the quantizations beside it, where the format has them.

    Args:
        formats: of "savedmodel", "tflite", "onnx".
        quantize: of "float16", "dynamic", "int8".
        calibrated: whether there are images to calibrate int8 on.
        output: of TFLite, "probabilities" or "logits"; the other formats give both.

    Raises:
        UsageError: an unknown word, no format, a quantization without its format, int8 without
            images, logits asked of no TFLite file.

    >>> [target.file for target in plan(["onnx", "tflite"], ["int8"])]
    ['model.onnx', 'model_int8.onnx', 'model.tflite', 'model_int8.tflite']
    """
    _check_words("format", formats, FORMATS)
    _check_words("quantization", quantize, QUANTIZATIONS)
    if not formats:
        raise UsageError(f"no format was given; give one or more of {', '.join(FORMATS)}")
    for quantization in quantize:
        able = [format for format in FORMATS if (format, quantization) in FILES]
        if not set(able) & set(formats):
            raise UsageError(
                f"{quantization} is a quantization of {', '.join(able)}, and the formats are "
                f"{', '.join(formats)}; add {able[0]} to them or leave {quantization} out"
            )
    _check_words("output", [output], OUTPUTS)
    if output == "logits" and "tflite" not in formats:
        raise UsageError("the output is TFLite's to choose, the others give both; add tflite to it")
    if "int8" in quantize and not calibrated:
        raise UsageError("int8 is calibrated on images and none were given; name a data set")
    kinds = ("float32", *dict.fromkeys(quantize))
    wanted = [(format, kind) for format in dict.fromkeys(formats) for kind in kinds]
    return [Target(*pair, FILES[pair]) for pair in wanted if pair in FILES]


def _check_words(kind: str, received: Sequence[str], allowed: Sequence[str]) -> None:
    for word in received:
        if word not in allowed:
            raise UsageError(
                f'"{word}" is not a {kind}; it can be {", ".join(allowed)}{suggest(word, allowed)}'
            )


def check_folder(out: str | Path) -> None:
    """Refuse an output folder that cannot be written, or whose content export did not write.

    Raises:
        UsageError: with what stands in the way.
    """
    out = Path(out).resolve()
    above = next(path for path in out.parents if path.exists())
    try:
        # What permissions say is not the whole truth, least of all to root.
        os.rmdir(tempfile.mkdtemp(dir=above, prefix=f"{out.name}.partial-"))
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"{out} cannot be written ({reason}); give another folder") from None
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder")
    entries = {entry.name for entry in out.iterdir()}
    if entries and MANIFEST not in entries:
        raise UsageError(f"{out} holds other files; give a new or an empty folder")
    if entries:
        read(out)
        strangers = entries - {MANIFEST, LABELS, REFERENCE, TRITON, *FILES.values()}
        if strangers:
            raise UsageError(
                f"{out} holds {min(strangers)}, which export did not write and would delete; "
                "move it, or give another folder"
            )


@contextlib.contextmanager
def replacing(out: str | Path) -> Iterator[Path]:
    """Yield a folder to fill, which takes the place of `out` only when the body ends without error.

    Raises:
        UsageError: `out` cannot be written.
    """
    check_folder(out)
    out = Path(out).resolve()
    made = [path for path in out.parents if not path.exists()]
    token = secrets.token_hex(4)
    partial, old = (out.with_name(f"{out.name}.{word}-{token}") for word in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"{out} cannot be written ({reason}); give another folder") from None
    try:
        yield partial
        if out.exists():
            out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def describe_input(image_shape: Iterable[int], *, known: bool = True) -> dict[str, Any]:
    """Return what a client must know to feed a model: the manifest's `input`.

    `shape` is that of one image. `dtype` is that of the float files; an artifact's own record says
    where it differs. `range` is None, and a note says so, unless it is known that the model takes
    pixels from 0 to 255.

    >>> describe_input((32, 32, 1))["colour"]
    'grey'
    >>> describe_input((32, 32, 1), known=False)["range"]
    """
    height, width, channels = image_shape
    return {
        "name": "image",
        "shape": [height, width, channels],
        "layout": "NHWC",
        "dtype": "float32",
        "range": [0, 255] if known else None,
        "colour": {1: "grey", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels"),
        "resize": "short side",
        "crop": "centre",
        "interpolation": "bilinear, antialiased",
        **({} if known else {"note": UNKNOWN_RANGE}),
    }


def sha256(path: Path) -> str:
    """Return the hash of a file, or of a folder: of the names, sizes and contents of its files."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: digest).hexdigest()
    for entry in sorted(path.rglob("*"), key=lambda entry: entry.relative_to(path).as_posix()):
        if entry.is_file():
            digest.update(f"{entry.relative_to(path).as_posix()}\0{sha256(entry)}\n".encode())
    return digest.hexdigest()


def write_labels(path: Path, labels: Sequence[str]) -> None:
    """Write labels, one a line."""
    path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8", newline="\n")


def read_labels(path: Path) -> list[str]:
    """Read labels, one a line; none where there is no such file."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that write and run artifacts."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read(folder: str | Path) -> dict[str, Any]:
    """Read manifest.json.

    Raises:
        UsageError: the folder is not an artifact folder, or its manifest is damaged.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        raise UsageError(f"{folder} is not an artifact folder: give one that export wrote")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON ({error}); export the model again") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UsageError(f'{path} does not say "schema": "{SCHEMA}"; export the model again')
    missing = {"input", "labels", "reference", "artifacts"} - manifest.keys()
    if missing:
        raise UsageError(f"{path} says nothing about {min(missing)}; export the model again")
    shape, records = manifest["input"].get("shape"), manifest["artifacts"]
    known = {"file", "format", "quantization", "bytes", "sha256"}
    if not isinstance(shape, list) or len(shape) != 3:
        raise UsageError(f"{path} has no height, width and channels; export the model again")
    if not records or any(known - record.keys() for record in records):
        raise UsageError(f"{path} does not describe its files; export the model again")
    return manifest


def choose(manifest: dict[str, Any], file: str | None = None) -> dict[str, Any]:
    """Return the record of one artifact: the named file, or the lightest to start in float32.

    Raises:
        UsageError: there is no such file.
    """
    records = {record["file"]: record for record in manifest["artifacts"]}
    ranked = [FILES["onnx", "float32"], FILES["tflite", "float32"], FILES["savedmodel", "float32"]]
    for name in [file] if file else [*ranked, *records]:
        if name in records:
            return records[name]
    raise UsageError(f'there is no "{file}" among {", ".join(records)}')
