"""A tiny network with every trap of export in it, and its artifact folder, written once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_cnns.export import Reference, export, synthetic_images

SHAPE = (32, 32, 3)
LABELS = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="session")
def make_net() -> Callable[..., Any]:
    """Return a builder of networks: grouped convolution, LRN, batch norm, an auxiliary head."""
    import keras
    from keras import layers

    from keras_cnns.layers import LocalResponseNormalization

    def build(
        *, classes: int = 10, auxiliary: bool = False, sure: float = 400, precision: str = "float32"
    ):
        keras.utils.set_random_seed(0)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            image = keras.Input(SHAPE, name="image")
            x = layers.Rescaling(1 / 127.5, -1, name="preprocessing")(image)
            x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="conv1")(x)
            x = layers.BatchNormalization(name="norm1", moving_variance_initializer="he_normal")(x)
            x = layers.ReLU(name="relu1")(x)
            x = LocalResponseNormalization(name="lrn1")(x)
            x = layers.Conv2D(32, 3, groups=2, padding="same", activation="relu", name="conv2")(x)
            pooled = layers.MaxPooling2D(name="pool")(x)
            # Logits as far apart as those of a trained network, so that int8 has something to keep.
            spread = keras.initializers.VarianceScaling(sure)
            flat = layers.Flatten(name="flatten")(pooled)
            logits = layers.Dense(classes, name="logits", kernel_initializer=spread)(flat)
            outputs = layers.Activation("softmax", name="predictions", dtype="float32")(logits)
            if auxiliary:
                head = layers.GlobalAveragePooling2D(name="auxiliary1_pool")(x)
                head = layers.Dense(classes, name="auxiliary1_logits")(head)
                head = layers.Activation("softmax", name="auxiliary1")(head)
                outputs = {"predictions": outputs, "auxiliary1": head}
            model = keras.Model(image, outputs)
        finally:
            keras.config.set_dtype_policy(before)
        model.get_layer("norm1").moving_variance.assign([0.5] * 8 + [1.5] * 8)
        return model

    return build


@pytest.fixture(scope="session")
def images() -> Any:
    """Return 64 images, a different set from those that int8 is calibrated on."""
    return synthetic_images(64, SHAPE)


@pytest.fixture(scope="session")
def artifact(make_net, images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every format and quantization of a network with an auxiliary head."""
    folder = tmp_path_factory.mktemp("export") / "artifact"
    export(
        make_net(auxiliary=True),
        folder,
        name="tiny",
        quantize=("float16", "dynamic", "int8"),
        labels=LABELS,
        reference=Reference(images, [i % 10 for i in range(64)]),
        calibration=synthetic_images(32, SHAPE, seed=1),
    )
    return folder


@pytest.fixture
def light(artifact: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder without what is slow to start, to be spoilt."""
    folder = tmp_path / "light"
    shutil.copytree(artifact, folder, ignore=shutil.ignore_patterns("saved_model", "*float16*"))
    described = json.loads((folder / "manifest.json").read_text())
    kept = ("model.onnx", "model.tflite", "model_int8.tflite")
    described["artifacts"] = [r for r in described["artifacts"] if r["file"] in kept]
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder
