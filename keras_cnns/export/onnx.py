"""Write ONNX files of opset 17 with an open batch, named outputs and their labels inside."""

import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.export import checks, manifest, runners
from keras_cnns.export.manifest import OUTPUTS
from keras_cnns.export.prepare import trace
from keras_cnns.fusion.frozen import freeze
from keras_cnns.quiet import quiet

if TYPE_CHECKING:
    import keras

# tf2onnx ends at 18, where global average pooling costs one transposition more.
OPSET = 17
# What ONNX Runtime computes in integers to advantage. Not softmax, since steps of 1/256 cannot tell
# a thousand probabilities apart.
_INTEGER = {
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool"),
    *("GlobalAveragePool", "Concat", "Pad", "Reshape", "Squeeze", "Transpose"),
}


def write_onnx(
    prepared: "keras.Model",
    path: Path,
    *,
    name: str,
    labels: Sequence[str],
    fed: Mapping[str, Any],
    trial: checks.Trial,
    layout: str = "NHWC",
) -> dict[str, Any]:
    """Write a file that maps `image` to logits and probabilities.

    Args:
        prepared: what `prepare.prepare` returned.
        path: the file to write.
        name: the graph's name.
        labels: one per class; they go into the metadata, as JSON, beside `preprocessing`.
        fed: what a client must know of the image, as of `manifest.describe_input`.
        trial: what the file is tried on.
        layout: of `image`: "NHWC", (batch, height, width, channels), or "NCHW".

    Returns:
        What is particular to this file: its input, outputs and operations.

    Raises:
        ExportError: the file failed a check.
    """
    import onnx
    import tf2onnx

    with quiet(), lean_tf2onnx():
        graph, inputs, results = freeze(trace(prepared, batch=None, outputs=OUTPUTS))
        model, _ = tf2onnx.convert.from_graph_def(
            graph,
            input_names=inputs,
            output_names=results,
            tensors_to_rename=dict(zip(inputs + results, ("image", *OUTPUTS), strict=True)),
            inputs_as_nchw=inputs if layout == "NCHW" else None,
            opset=OPSET,
        )
    del graph
    gc.collect()
    _keep_zeros(model.graph)
    _finish(model, name=name, labels=labels, preprocessing={**fed, "layout": layout})
    onnx.save(model, str(path))
    del model
    gc.collect()
    operations = _checked(path)
    checks.check_size(path.name, path.stat().st_size, trial.kernels, bytes_per_weight=4)
    return _tried(path, trial, operations, layout)


def write_int8(
    path: Path, source: Path, *, trial: checks.Trial, calibration: np.ndarray
) -> dict[str, Any]:
    """Write a float32 file again with int8 weights, and activations rounded between operations.

    The nodes that round (QuantizeLinear, DequantizeLinear) tell a runtime which operations it may
    compute in integers. Weights have a scale for each channel, activations of uint8 one for each
    tensor, from their smallest and largest value on the calibration images.

    Args:
        path: the file to write.
        source: what `write_onnx` wrote.
        trial: what the file is tried on.
        calibration: uint8 images.

    Returns:
        What is particular to this file.

    Raises:
        ExportError: the file failed a check.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(quantization.CalibrationDataReader):
        def __init__(self, layout: str) -> None:
            self.waiting = iter(runners.as_layout(calibration[:, None], layout))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.waiting, None)
            return None if image is None else {"image": image.astype(np.float32)}

    notes = {note.key: note.value for note in onnx.load(source).metadata_props}
    layout = json.loads(notes["preprocessing"])["layout"]
    inferred = path.with_name(f"{path.name}.inferred")
    with quiet():
        quant_pre_process(str(source), str(inferred), skip_symbolic_shape=True)
        nodes = onnx.load(inferred).graph.node
        quantization.quantize_static(
            str(inferred),
            str(path),
            Samples(layout),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=sorted(_INTEGER),
            nodes_to_exclude=_scaling(nodes) + _among_floats(nodes),
        )
    inferred.unlink()
    operations = _checked(path)
    checks.check_size(path.name, path.stat().st_size, trial.kernels, bytes_per_weight=1)
    return _tried(path, trial, operations, layout)


def _among_floats(nodes: Sequence[Any]) -> list[str]:
    """Return the names of the sums that are made from, or for, what is computed in floats.

    As those of a normalisation of layers or a GELU, whose steps would each round once more, and of
    what goes by them: a narrow MLP-Mixer lost 4 dB by that.
    """
    floats = [n for n in nodes if n.op_type not in {*_INTEGER, "Softmax"}]
    around = {value for node in floats for value in (*node.input, *node.output)}
    sums = [node for node in nodes if node.op_type == "Add"]
    return [n.name for n in sums if around & {*n.input, *n.output}]


def _scaling(nodes: Iterable[Any]) -> list[str]:
    """Return the names of the operations that scale the image, before all others.

    Each of them would round all pixels once more: a narrow DenseNet lost 1.9 dB by that.
    """
    found, values = [], {"image"}
    for node in nodes:
        if node.op_type in ("Add", "Div", "Mul", "Sub", "Transpose") and values & set(node.input):
            found.append(node.name)
            values.update(node.output)
    return found


def _tried(
    path: Path, trial: checks.Trial, operations: Counter[str], layout: str
) -> dict[str, Any]:
    """Run a file on images, check what comes out, and return what is particular to the file."""
    outputs = runners.load("onnx", path).run(trial.images)
    checks.check_outputs(path.name, outputs, varied=trial.varied)
    return {
        "input_dtype": "float32",
        "layout": layout,
        "batch": None,
        "outputs": sorted(outputs),
        "opset": OPSET,
        "operations": dict(sorted(operations.items())),
        "integer_only": False,
    }


def _checked(path: Path) -> Counter[str]:
    """Refuse operations, inputs and shapes that a runtime would; return the operations."""
    import onnx

    graph = onnx.load(path).graph
    strangers = {node.op_type for node in graph.node if node.domain}
    if strangers:
        raise checks.ExportError(f"{path.name}: {min(strangers)} is no operation of ONNX")
    received = [value.name for value in graph.input]
    if received != ["image"]:
        raise checks.ExportError(f"{path.name}: its inputs are {received}, where image is wanted")
    operations = Counter(node.op_type for node in graph.node)
    del graph
    try:
        # A path, since of a model in memory three copies are made; strict about types and shapes.
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise checks.ExportError(f"{path.name}: the ONNX checker refuses it: {reason}") from error
    return operations


def _keep_zeros(graph: Any) -> None:
    """Put something between zeros that are added around a map and a maximum over it.

    ONNX Runtime makes one of the two, in which the zeros are less than any number (PadFusion, since
    its pull request 18136, still so in 1.31): behind a ReLU the same, else wrong at the map's edge.
    """
    import onnx

    makers = {output: node for node in graph.node for output in node.output}

    def before(node: Any) -> Any:
        maker = makers.get(node.input[0])
        return before(maker) if maker and maker.op_type == "Transpose" else maker

    least = onnx.numpy_helper.from_array(np.array(np.finfo(np.float32).min), "least")
    for node in list(graph.node):
        pad = before(node) if node.op_type == "MaxPool" else None
        source = before(pad) if pad and pad.op_type == "Pad" else None
        if pad is None or pad.op_type != "Pad" or (source and source.op_type == "Relu"):
            continue
        kept = f"{node.name}_zeros"
        itself = onnx.helper.make_node("Max", [node.input[0], "least"], [kept], name=kept)
        graph.node.insert(list(graph.node).index(node), itself)
        node.input[0] = kept
        if least not in graph.initializer:
            graph.initializer.append(least)


def _finish(
    model: Any, *, name: str, labels: Sequence[str], preprocessing: Mapping[str, Any]
) -> None:
    """Name the batch, drop imports that no node uses, and put labels and preprocessing inside."""
    import onnx

    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    used = {node.domain for node in model.graph.node}
    for domain in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(domain)
    # Shapes in between still call the batch by another name; inference finds them again.
    del model.graph.value_info[:]
    model.graph.name = name
    model.producer_name = "keras_cnns"
    model.producer_version = manifest.versions().get("keras-cnns", "")
    onnx.helper.set_model_props(
        model,
        {
            "name": name,
            "labels": json.dumps(list(labels), ensure_ascii=False),
            "preprocessing": json.dumps(preprocessing),
        },
    )


def write_triton(
    path: Path, *, name: str, file: str, layout: str, image_shape: Sequence[int], classes: int
) -> None:
    """Write what Triton wants to know: NAME/config.pbtxt, where the file is NAME/1/model.onnx."""
    height, width, channels = image_shape
    shape = [height, width, channels] if layout == "NHWC" else [channels, height, width]
    outputs = ",\n".join(
        f'  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {classes} ] '
        'label_filename: "labels.txt" }'
        for output in OUTPUTS
    )
    path.write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\ndefault_model_filename: "{file}"\n'
        f"max_batch_size: 64\ninput [\n  "
        f'{{ name: "image" data_type: TYPE_FP32 dims: [ {", ".join(map(str, shape))} ] }}\n]\n'
        f"output [\n{outputs}\n]\ndynamic_batching {{ }}\n",
        encoding="utf-8",
    )


@contextlib.contextmanager
def lean_tf2onnx() -> Iterator[None]:
    """Keep tf2onnx from copying every weight at each of its two dozen passes over the graph.

    The copies live until the end: AlexNet's 244 MB became 15 GB. A constant's copy is never read,
    and the graph is kept whole only for passes that fail, which is better raised than passed over.
    """
    from tf2onnx.graph import Node

    update, variable = Node.update_proto, "TF2ONNX_CATCH_ERRORS"
    before = os.environ.get(variable)

    def update_unless_constant(self: Any, *arguments: Any, **options: Any) -> None:
        if not self.is_const():
            update(self, *arguments, **options)

    Node.update_proto = update_unless_constant
    os.environ[variable] = "FALSE"
    try:
        yield
    finally:
        Node.update_proto = update
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before
