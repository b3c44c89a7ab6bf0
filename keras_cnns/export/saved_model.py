"""Write a SavedModel, which TensorFlow and TF-Serving load without any code of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnns.export import checks, manifest, runners
from keras_cnns.quiet import quiet

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def write_saved_model(
    prepared: "keras.Model", path: Path, *, labels: Sequence[str], images: np.ndarray, kernels: int
) -> dict[str, Any]:
    """Write a folder with the signature `serving_default`: image -> logits, probabilities.

    Args:
        prepared: what `prepare.prepare` returned.
        path: the folder to make.
        labels: one per class; they go to assets/labels.txt.
        images: a few different uint8 images to try the file on.
        kernels: how many weights it must hold.

    Returns:
        What is particular to this file: its input, its outputs.

    Raises:
        ExportError: the file failed a check.
    """
    import keras
    import tensorflow as tf

    image = tf.TensorSpec((None, *prepared.inputs[0].shape[1:]), tf.float32, name="image")

    def serve(image: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return prepared(image, training=False)

    with quiet():
        # The endpoint brings its variables along; archive.track would write them a second time.
        archive = keras.export.ExportArchive()
        archive.add_endpoint("serving_default", serve, [image])
        archive.write_out(str(path), verbose=False)
        (path / "assets").mkdir(exist_ok=True)
        manifest.write_labels(path / "assets" / "labels.txt", labels)
        checks.check_size(path.name, checks.folder_bytes(path), kernels, bytes_per_weight=4)
        outputs = runners.load("savedmodel", path).run(images)
    if set(outputs) != {"logits", "probabilities"}:
        raise checks.ExportError(f"{path.name}: its outputs are {sorted(outputs)}")
    checks.check_outputs(path.name, outputs)
    return {"input_dtype": "float32", "batch": None, "outputs": sorted(outputs)}
