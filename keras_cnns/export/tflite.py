"""Write TFLite files of builtin operations: float32, float16, dynamic range, full int8."""

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.export import checks, manifest, metadata, runners
from keras_cnns.export.prepare import trace
from keras_cnns.quiet import quiet

if TYPE_CHECKING:
    import keras

_BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "dynamic": 1, "int8": 1}


def write_tflite(
    prepared: "keras.Model",
    path: Path,
    *,
    quantization: str,
    name: str,
    labels: Sequence[str],
    fed: Mapping[str, Any],
    trial: checks.Trial,
    calibration: np.ndarray | None = None,
    output: str = "probabilities",
) -> dict[str, Any]:
    """Write a file that maps one image to `probabilities` or `logits`.

    Int8 takes uint8 pixels as a camera gives them, since its input has a scale of exactly 1.

    Args:
        prepared: what `prepare.prepare` returned.
        path: the file to write.
        quantization: "float32", "float16", "dynamic" (int8 weights), "int8" (all int8).
        name: the model's name.
        labels: one per class; they go into the file, with what a client must know of the pixels.
        fed: what a client must know of the image, as of `manifest.describe_input`.
        trial: what the file is tried on.
        calibration: uint8 images to measure the range of activations on, for int8.
        output: "probabilities" or "logits".

    Returns:
        What is particular to this file: its input, outputs and operations, and whether all of it is
        integer arithmetic.

    Raises:
        ExportError: the file failed a check.
    """
    import tensorflow as tf

    with quiet():
        traced = trace(prepared, batch=1, outputs=(output,))
        # With the model as a second argument the file would come without weights, silently.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantization != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantization == "int8":
            assert calibration is not None
            converter.representative_dataset = lambda: _samples(calibration)
            converter.inference_input_type = tf.uint8
        content = converter.convert()
    del traced, converter
    gc.collect()
    version = manifest.versions().get("keras-cnns", "")
    described = metadata.packed(name=name, fed=fed, output=output, version=version)
    content, facts = _finish(path.name, content, described, output)
    if quantization == "int8" and facts["input_quantization"] != [1.0, 0]:
        raise checks.ExportError(
            f"{path.name}: its input has scale and zero point {facts['input_quantization']}, "
            "where bytes from a camera need [1.0, 0]"
        )
    description = {"name": name, "preprocessing": fed}
    path.write_bytes(metadata.with_files(content, labels, description))
    checks.check_size(path.name, len(content), trial.kernels, _BYTES_PER_WEIGHT[quantization])
    with quiet():
        outputs = runners.load("tflite", path).run(trial.images)
    checks.check_outputs(path.name, outputs, quantised=quantization == "int8", varied=trial.varied)
    return {"batch": 1, "outputs": sorted(outputs), **facts}


def _samples(calibration: np.ndarray) -> Any:
    """Yield the images as the converter wants them, with a black and a white pixel in the first.

    They make the input's range 0..255, hence its scale 1 and its zero point 0. A black image and a
    white one would do so too, but take the ranges behind them beyond what photos do: int8 of a
    narrow MLP-Mixer loses 0.8 dB by them.
    """
    images = calibration[:, None].astype(np.float32)
    images[0, 0, 0, 0], images[0, 0, -1, -1] = 0, 255
    for image in images:
        yield [image]


def _finish(
    file: str, content: bytes, described: bytes, output: str
) -> tuple[bytes, dict[str, Any]]:
    """Name the input and the output, add metadata, and read which operations there are."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    graph = model.subgraphs[0]
    (image,), (scores,) = graph.inputs, graph.outputs
    signature = schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.inputs = [_named(graph, image, b"image")]
    signature.outputs = [_named(graph, scores, output.encode())]
    model.signatureDefs = [signature]
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(described, np.uint8)
    entry.name, entry.buffer = metadata.BUFFER, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]

    builtins = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    floats = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}
    operations: Counter[str] = Counter()
    integer_only = True
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = builtins[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name == "CUSTOM":
                custom = (code.customCode or b"").decode()
                raise checks.ExportError(f"{file}: {custom} is no builtin operation of TFLite")
            if name == "VAR_HANDLE" or name.endswith("_VARIABLE"):
                raise checks.ExportError(f"{file}: {name} reads a variable that is not in the file")
            operations[name] += 1
            touched = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
            if name not in ("QUANTIZE", "DEQUANTIZE"):
                integer_only &= not any(subgraph.tensors[i].type in floats for i in touched)
    source = graph.tensors[image]
    types = {schema.TensorType.FLOAT32: "float32", schema.TensorType.UINT8: "uint8"}
    quantization = None
    if source.quantization is not None and source.quantization.scale is not None:
        quantization = [float(source.quantization.scale[0]), int(source.quantization.zeroPoint[0])]
    facts = {
        "input_dtype": types[source.type],
        "input_quantization": quantization,
        "operations": dict(sorted(operations.items())),
        "integer_only": integer_only,
    }
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), facts


def _named(graph: Any, index: int, name: bytes) -> Any:
    from tensorflow.lite.python import schema_py_generated as schema

    graph.tensors[index].name = name
    tensor = schema.TensorMapT()
    tensor.name, tensor.tensorIndex = name, index
    return tensor
