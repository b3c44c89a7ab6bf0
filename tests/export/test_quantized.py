"""What is done to a model before it becomes int8: it stays the same function, and loses less."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns.export import (
    ExportError,
    Reference,
    checks,
    export,
    manifest,
    prepare,
    runners,
    synthetic_images,
)
from keras_cnns.export.onnx import write_int8, write_onnx
from keras_cnns.export.parity import Truth, measure
from keras_cnns.export.tflite import write_tflite
from keras_cnns.fusion import fuse
from keras_cnns.fusion.equalise import equalise
from keras_cnns.fusion.rounding import STEPS, round_kernels

SHAPE = (16, 16, 3)
IMAGES = synthetic_images(64, SHAPE, seed=0)
CALIBRATION = synthetic_images(32, SHAPE, seed=1)
TOLD = {"name": "tiny", "labels": list("abcde"), "fed": manifest.describe_input(SHAPE)}


def classifier():
    """A model with channels of very different ranges between its convolutions."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    first = layers.Conv2D(16, 3, padding="same", bias_initializer="normal")
    second = layers.Conv2D(16, 3, groups=2, activation="relu")
    x = second(layers.MaxPooling2D()(layers.ReLU()(first(x))))
    x = layers.Dense(5, kernel_initializer="he_normal")(layers.Flatten()(x))
    model = keras.Model(image, layers.Softmax()(x))
    factors = np.geomspace(0.01, 100, 16)[np.random.default_rng(0).permutation(16)]
    kernel, bias = first.get_weights()
    first.set_weights([kernel * factors, bias * factors])
    kernel, bias = second.get_weights()
    of_group = factors.reshape(2, 8).T
    second.set_weights([kernel / np.repeat(of_group, 8, axis=1), bias])
    return model


def uneven():
    return prepare.prepare(classifier())


def psnr_db(model, path, truth):
    """PSNR of the int8 file that is made from a model as it is."""
    trial = checks.Trial(IMAGES[:4], prepare.kernel_count(model))
    told = {**TOLD, "trial": trial, "calibration": CALIBRATION}
    write_tflite(model, path, quantization="int8", output="logits", **told)
    return measure(runners.load("tflite", path).run(IMAGES), truth, "int8")["psnr_db"]


def truth_of(model):
    logits = prepare.logits_of(model, IMAGES)
    return Truth(IMAGES, logits, np.full(len(IMAGES), -1), float(np.abs(logits).max()))


def test_even_channels_lose_less(tmp_path):
    model = uneven()
    truth, before, after = truth_of(model), fuse(model), fuse(model)
    equalise(after, CALIBRATION)
    found = prepare.logits_of(after, IMAGES)
    np.testing.assert_allclose(found, truth.logits, atol=1e-5 * truth.largest)
    plain, even = (psnr_db(m, tmp_path / "int8.tflite", truth) for m in (before, after))
    assert even > plain + 6


def test_rounded_kernels_are_on_the_steps_and_lose_less():
    model = uneven()
    equal = fuse(model)
    equalise(equal, CALIBRATION)
    truth, kernels = truth_of(equal), [w.numpy() for w in equal.weights if len(w.shape) > 1]
    steps = [np.abs(k).max(axis=tuple(range(k.ndim - 1))) / STEPS for k in kernels]
    nearest, rounded = fuse(equal), fuse(equal)
    round_kernels(rounded, CALIBRATION)
    for weight, kernel, step in zip(
        [w for w in nearest.weights if len(w.shape) > 1], kernels, steps, strict=True
    ):
        weight.assign(np.round(kernel / step) * step)
    for weight, step in zip([w for w in rounded.weights if len(w.shape) > 1], steps, strict=True):
        numbers = weight.numpy() / step
        np.testing.assert_allclose(numbers, np.round(numbers), atol=1e-3)
        assert (np.abs(numbers).reshape(-1, len(step)).max(0) > STEPS - 1e-3).all()
    errors = [np.square(prepare.logits_of(m, IMAGES) - truth.logits).mean()
              for m in (nearest, rounded)]  # fmt: skip
    assert errors[1] < errors[0] / 4


def test_kernels_are_the_same_in_parts(monkeypatch):
    from keras_cnns.fusion import rounding

    whole, parts = fuse(uneven()), fuse(uneven())
    round_kernels(whole, CALIBRATION)
    monkeypatch.setattr(rounding, "_HELD", 1)
    round_kernels(parts, CALIBRATION)
    for some, others in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(some, others)


def test_inputs_that_are_too_large_are_left():
    model = fuse(uneven())
    before = model.get_weights()
    round_kernels(model, np.full((1, *SHAPE), np.inf, np.float32))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def exported(folder, calibration, quantize, said=None):
    """PSNR of each quantized file of `uneven`, also of those that are refused."""
    try:
        made = export(
            classifier(),
            folder,
            name="tiny",
            formats=["tflite", "onnx"],
            quantize=quantize,
            labels=TOLD["labels"],
            reference=Reference(IMAGES),
            calibration=calibration,
            progress=said.append if said is not None else lambda line: None,
        )["artifacts"]
    except ExportError as error:
        made = error.artifacts
    files = {a["file"]: a["psnr_db"] for a in made if a["quantization"] != "float32"}
    assert None not in files.values()
    return files


def test_export_makes_channels_even_and_rounds_with_care(tmp_path, monkeypatch):
    from keras_cnns.fusion import equalise, rounding

    better = exported(tmp_path / "better", CALIBRATION, ["dynamic", "int8"])
    monkeypatch.setattr(equalise, "equalise", lambda model, images: None)
    even = exported(tmp_path / "uneven", CALIBRATION, ["dynamic", "int8"])
    monkeypatch.undo()
    monkeypatch.setattr(rounding, "round_kernels", lambda model, images, least: None)
    careful = exported(tmp_path / "nearest", CALIBRATION, ["dynamic", "int8"])
    assert len(better) == 3
    for file, found in better.items():
        assert found > even[file] + 3, file
        assert found > careful[file] + 0.5, file


def test_dynamic_range_needs_no_images_but_says_that_they_help(tmp_path):
    said = []
    (plain,) = exported(tmp_path / "out", None, ["dynamic"], said).values()
    assert "writing model_dynamic.tflite without images, with which it would be better" in said
    said.clear()
    (better,) = exported(tmp_path / "better", CALIBRATION, ["dynamic"], said).values()
    assert "writing model_dynamic.tflite" in said
    assert better > plain + 6


def test_small_kernels_may_be_left():
    model = fuse(uneven())
    before = model.get_weights()
    round_kernels(model, CALIBRATION[:8], least=1000)
    after = model.get_weights()
    sizes = [w.size for w in before if w.ndim > 1]
    assert min(sizes) < 1000 <= max(sizes)
    for old, new in zip(before, after, strict=True):
        if old.ndim > 1:
            assert np.array_equal(old, new) == (old.size < 1000)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kind", ["plain", "grouped", "depthwise"])
def test_a_kernel_is_multiplied_with_its_windows(kind, strides, dilation, padding, monkeypatch):
    from keras_cnns.fusion import rounding

    monkeypatch.setattr(rounding, "_PLACES", 10_000)
    keras.utils.set_random_seed(0)
    arguments = {"strides": strides, "dilation_rate": dilation, "padding": padding}
    if kind == "depthwise":
        layer = layers.DepthwiseConv2D((3, 2), depth_multiplier=2, **arguments)
    else:
        layer = layers.Conv2D(8, (3, 2), groups=2 if kind == "grouped" else 1, **arguments)
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 4)).astype("float32")
    expected = layer(x).numpy()
    kernel, bias = layer.get_weights()
    rows = rounding._rows(layer, kernel)
    np.testing.assert_array_equal(rounding._kernel(layer, rows, kernel.shape), kernel)
    found = rounding._windows(layer, x)[..., :-1] @ rows
    found = found.transpose(1, 0, 2).reshape(expected.shape)
    np.testing.assert_allclose(found + bias, expected, atol=1e-5)


def test_onnx_computes_in_floats_what_has_no_integers(tmp_path):
    import onnx

    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(8, 3, padding="same")(image)
    y = layers.ReLU()(layers.Add()([x, layers.Conv2D(8, 1)(x)]))
    y = layers.LayerNormalization()(layers.Conv2D(8, 1)(y))
    y = layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1)(y)))
    model = prepare.prepare(keras.Model(image, layers.Softmax()(y)))
    trial = checks.Trial(IMAGES[:4], prepare.kernel_count(model))
    write_onnx(model, tmp_path / "float.onnx", trial=trial, **TOLD)
    path = tmp_path / "int8.onnx"
    write_int8(path, tmp_path / "float.onnx", trial=trial, calibration=CALIBRATION)
    graph = onnx.load(path).graph
    makers = {value: node.op_type for node in graph.node for value in node.output}
    rounded = [
        {makers.get(value) == "DequantizeLinear" for value in node.input if value in makers}
        for node in graph.node
        if node.op_type == "Add"
    ]
    assert rounded.count({True}) == 1  # the residual one; those of the normalisation are others
    assert len(rounded) > 1
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert all(makers[node.input[0]] == "DequantizeLinear" for node in convolutions)
