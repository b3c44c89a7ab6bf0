"""Write a SavedModel, which TensorFlow and TF-Serving load without any code of ours."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns import data
from keras_cnns.data.images import decode
from keras_cnns.export import checks, manifest
from keras_cnns.fusion.frozen import split_grouped_convolutions
from keras_cnns.quiet import quiet

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Servers look for models under the number of their version.
VERSION = "1"
TOP = 5


def write_saved_model(
    prepared: "keras.Model", path: Path, *, labels: Sequence[str], trial: checks.Trial
) -> dict[str, Any]:
    """Write a folder `1` with three signatures, in a folder that TF-Serving takes as the model's.

    `serving_default` takes `image`: floats (batch, height, width, channels) from 0 to 255 at the
    network's own size. `pixels` takes uint8 images of any one size; they are resized and cropped as
    the manifest says. `encoded` takes the bytes of JPEG or PNG files, each of its own size, and
    does not look at EXIF's orientation, which TensorFlow has no operation for. All give logits,
    probabilities, and the surest classes as `top_labels` and `top_probabilities`.

    Args:
        prepared: what `prepare.prepare` returned.
        path: the folder to make.
        labels: one per class; they go to assets/labels.txt.
        trial: what the file is tried on.

    Returns:
        What is particular to this file: its input, its outputs, its signatures.

    Raises:
        ExportError: the file failed a check.
    """
    import keras
    import tensorflow as tf

    shape = tuple(prepared.inputs[0].shape[1:])
    names = tf.constant(list(labels))

    serving = tf.TensorSpec((None, *shape), tf.float32, name="image")

    # A function of its own, so that the file has the network once and not for each signature.
    @tf.function(input_signature=[serving], autograph=False)
    def answers(image: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        found = prepared(image, training=False)
        best = tf.math.top_k(found["probabilities"], min(TOP, len(labels)))
        top = {"top_labels": tf.gather(names, best.indices), "top_probabilities": best.values}
        return {**found, **top}

    def of_pixels(pixels: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return answers(data.fit_image(pixels, shape))

    def of_files(encoded: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        def read(content: "tf.Tensor") -> "tf.Tensor":
            return data.fit_image(decode(content, shape[-1]), shape)

        return answers(tf.map_fn(read, encoded, fn_output_signature=tf.float32))

    any_size = (None, None, None, shape[-1])
    signatures: Mapping[str, Any] = {
        "serving_default": (lambda image: answers(image), serving),
        "pixels": (of_pixels, tf.TensorSpec(any_size, tf.uint8, name="pixels")),
        "encoded": (of_files, tf.TensorSpec((None,), tf.string, name="encoded")),
    }
    place = path / VERSION
    with quiet(), split_grouped_convolutions(prepared):
        # An endpoint brings its variables along; archive.track would write them a second time.
        archive = keras.export.ExportArchive()
        for name, (function, image) in signatures.items():
            archive.add_endpoint(name, function, [image])
        archive.write_out(str(place), verbose=False)
        (place / "assets").mkdir(exist_ok=True)
        manifest.write_labels(place / "assets" / "labels.txt", labels)
        warm_up(place / "assets.extra", np.zeros((1, *shape), np.float32))
        checks.check_size(path.name, checks.folder_bytes(path), trial.kernels, bytes_per_weight=4)
        outputs = _outputs(path.name, place, trial.images)
        checks.check_outputs(path.name, outputs, varied=trial.varied)
    return {
        "input_dtype": "float32",
        "batch": None,
        "outputs": sorted(outputs),
        "signatures": sorted(signatures),
        "operations": _operations(place),
    }


def _operations(place: Path) -> dict[str, int]:
    """Return how often each operation stands in the file, its functions included."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((place / "saved_model.pb").read_bytes())
    (graph,) = (meta.graph_def for meta in saved.meta_graphs)
    found = Counter(node.op for node in graph.node)
    for function in graph.library.function:
        found.update(node.op for node in function.node_def)
    return dict(sorted(found.items()))


def _outputs(file: str, place: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a folder gives for images, once all signatures agree on the first of them."""
    import tensorflow as tf

    signatures = tf.saved_model.load(str(place)).signatures
    answers = signatures["serving_default"](image=tf.constant(images, tf.float32))
    outputs = {name: answers[name].numpy() for name in manifest.OUTPUTS}
    encoded = tf.io.encode_png(images[0])[None]
    for name, inputs in (
        ("pixels", {"pixels": tf.constant(images[:1])}),
        ("encoded", {"encoded": encoded}),
    ):
        found = signatures[name](**inputs)["probabilities"].numpy()
        if not np.allclose(found, outputs["probabilities"][:1], atol=1e-5):
            raise checks.ExportError(f"{file}: its signature {name} gives other probabilities")
    return outputs


def warm_up(folder: Path, image: np.ndarray) -> None:
    """Write the request that TF-Serving sends to itself before it serves, to have all ready.

    It is a PredictionLog of tensorflow_serving/apis/prediction_log.proto, whose classes no package
    brings along that installs beside TensorFlow: predict_log (6), request (1), in it the model_spec
    (1) with its signature_name (3), and inputs (2), a map from names (1) to tensors (2).
    """
    import tensorflow as tf

    folder.mkdir(exist_ok=True)
    tensor = tf.make_tensor_proto(image).SerializeToString()
    spec = _field(3, b"serving_default")
    request = _field(1, spec) + _field(2, _field(1, b"image") + _field(2, tensor))
    log = _field(6, _field(1, request))
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(log)


def _field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes, text or another message."""
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content
