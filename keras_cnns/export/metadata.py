"""What a TFLite file says of itself, as Android's and MediaPipe's task library reads it.

The metadata is a flatbuffer of its own, "M001", kept in the model's; its files are a zip archive
behind the model. Field numbers are those of metadata_schema.fbs in
https://github.com/tensorflow/tflite-support, which no package writes any more.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers

LABELS, DESCRIPTION = "labels.txt", "keras_cnns.json"
BUFFER = b"TFLITE_METADATA"
# Of the schema's enumerations.
_IMAGE, _NORMALIZATION, _AXIS_LABELS = 2, 1, 2
_COLOURS = {3: 1, 1: 2}


def packed(*, name: str, fed: Mapping[str, Any], output: str, version: str) -> bytes:
    """Return the metadata of a classifier.

    Args:
        name: of the model.
        fed: what a client must know of the image, as of `manifest.describe_input`.
        output: "probabilities" or "logits".
        version: of what wrote the file.
    """
    height, width, channels = fed["shape"]
    b = flatbuffers.Builder(512)
    size = _table(b, {0: ("uint32", width), 1: ("uint32", height)})
    image = _table(b, {0: ("int8", _COLOURS.get(channels, 0)), 1: size})
    content = _table(b, {0: ("uint8", _IMAGE), 1: image})
    # Nothing is left to do to a pixel: (pixel - 0) / 1.
    options = _table(b, {0: _floats(b, [0.0]), 1: _floats(b, [1.0])})
    unit = _table(b, {0: ("uint8", _NORMALIZATION), 1: options})
    says = "pixels from 0 to 255" if fed["range"] else fed["note"]
    taken = {0: _text(b, "image"), 1: _text(b, says), 3: content, 4: _tables(b, [unit])}
    if fed["range"]:
        low, high = fed["range"]
        taken[5] = _table(b, {0: _floats(b, [high]), 1: _floats(b, [low])})
    labels = _table(
        b, {0: _text(b, LABELS), 1: _text(b, "one class a line"), 2: ("int8", _AXIS_LABELS)}
    )
    given = {0: _text(b, output), 1: _text(b, "one for each class"), 6: _tables(b, [labels])}
    if output == "probabilities":
        given[5] = _table(b, {0: _floats(b, [1.0]), 1: _floats(b, [0.0])})
    graph = _table(b, {2: _tables(b, [_table(b, taken)]), 3: _tables(b, [_table(b, given)])})
    words = {0: name, 1: "An image classifier", 2: version, 4: "keras_cnns"}
    model = {slot: _text(b, word) for slot, word in words.items()}
    model |= {3: _tables(b, [graph]), 7: _text(b, "1.0.0")}
    b.Finish(_table(b, model), b"M001")
    return bytes(b.Output())


def with_files(content: bytes, labels: Sequence[str], description: Mapping[str, Any]) -> bytes:
    """Return a TFLite file with its labels and its description behind it, as a zip archive."""
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    text = json.dumps(description, indent=1, ensure_ascii=False)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        for name, words in (
            (LABELS, "".join(f"{label}\n" for label in labels)),
            (DESCRIPTION, text),
        ):
            # Of equal models equal files, whenever they are written.
            archive.writestr(zipfile.ZipInfo(name), words)
    return file.getvalue()


def _text(b: flatbuffers.Builder, text: str) -> int:
    return b.CreateString(text)


def _floats(b: flatbuffers.Builder, values: Sequence[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return b.EndVector()


def _tables(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _table(b: flatbuffers.Builder, fields: Mapping[int, Any]) -> int:
    """Write a table: by field number an offset, or a kind of number and its value."""
    scalars = {
        "uint8": b.PrependUint8Slot,
        "int8": b.PrependInt8Slot,
        "uint32": b.PrependUint32Slot,
    }
    b.StartObject(max(fields) + 1)
    for slot, value in fields.items():
        if isinstance(value, tuple):
            kind, number = value
            scalars[kind](slot, number, 0)
        else:
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
    return b.EndObject()
