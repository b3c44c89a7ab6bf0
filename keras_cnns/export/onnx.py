"""Write an ONNX file of opset 17 with an open batch, named outputs and its labels inside."""

import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.export import checks, manifest, runners
from keras_cnns.export.prepare import OUTPUTS, trace
from keras_cnns.fusion.frozen import freeze
from keras_cnns.quiet import quiet

if TYPE_CHECKING:
    import keras

# tf2onnx ends at 18, where global average pooling costs one transposition more.
OPSET = 17


def write_onnx(
    prepared: "keras.Model",
    path: Path,
    *,
    name: str,
    labels: Sequence[str],
    images: np.ndarray,
    kernels: int,
) -> dict[str, Any]:
    """Write a file that maps `image` (batch, height, width, channels) to logits and probabilities.

    Args:
        prepared: what `prepare.prepare` returned.
        path: the file to write.
        name: the graph's name.
        labels: one per class; they go into the metadata, as JSON, beside `preprocessing`.
        images: a few different uint8 images to try the file on.
        kernels: how many weights it must hold.

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
            opset=OPSET,
        )
    del graph
    gc.collect()
    _finish(model, name=name, labels=labels, image_shape=prepared.inputs[0].shape[1:])
    operations = Counter(node.op_type for node in model.graph.node)
    strangers = {node.op_type for node in model.graph.node if node.domain}
    if strangers:
        raise checks.ExportError(f"{path.name}: {min(strangers)} is no operation of ONNX")
    received = [value.name for value in model.graph.input]
    if received != ["image"]:
        raise checks.ExportError(f"{path.name}: its inputs are {received}, where image is wanted")
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise checks.ExportError(f"{path.name}: the ONNX checker refuses it: {reason}") from error
    onnx.save(model, str(path))
    del model
    checks.check_size(path.name, path.stat().st_size, kernels, bytes_per_weight=4)
    outputs = runners.load("onnx", path).run(images)
    checks.check_outputs(path.name, outputs)
    return {
        "input_dtype": "float32",
        "batch": None,
        "outputs": sorted(outputs),
        "opset": OPSET,
        "operations": dict(sorted(operations.items())),
    }


def _finish(model: Any, *, name: str, labels: Sequence[str], image_shape: Sequence[int]) -> None:
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
            "preprocessing": json.dumps(manifest.describe_input(image_shape)),
        },
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
