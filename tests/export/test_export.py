import json
import os
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cnns import builder, predict
from keras_cnns.errors import UsageError
from keras_cnns.export import (
    ExportError,
    Reference,
    checks,
    export,
    manifest,
    plan,
    prepare,
    runners,
    subject,
    synthetic_images,
)
from keras_cnns.export.onnx import write_onnx
from keras_cnns.export.verify import verify
from keras_cnns.preprocessing import PREPROCESSING
from keras_cnns.quiet import quiet

FILES = list(manifest.FILES.values())
LABELS = [f"class {i}" for i in range(10)]
SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def records(artifact: Path):
    return {record["file"]: record for record in manifest.read(artifact)["artifacts"]}


@pytest.mark.parametrize("file", FILES)
def test_every_file_agrees_with_its_model(records, artifact, file):
    record = records[file]
    assert record["passed"]
    assert record["why"] == ""
    assert record["agreement"] == 1.0
    assert record["relative_error"] < {"int8": 0.2, "dynamic": 0.02, "float16": 2e-3}.get(
        record["quantization"], 5e-6
    )
    assert record["sha256"] == manifest.sha256(artifact / file)
    assert record["bytes"] > 0
    assert record["latency_ms_1"] > 0
    assert record["latency_ms_2"] == record["latency_ms"] > 0
    assert record["accuracy"] is not None


def test_manifest_tells_what_a_client_needs(artifact):
    described = manifest.read(artifact)
    assert described["input"]["name"] == "image"
    assert described["input"]["shape"] == [32, 32, 3]
    assert described["input"]["range"] == [0, 255]
    assert described["labels"] == LABELS
    assert (artifact / "labels.txt").read_text().splitlines() == LABELS
    assert described["versions"]["keras"]
    assert described["reference"]["images"] == 64


def test_auxiliary_heads_stay_behind(records, artifact, make_net):
    import onnx

    weights = make_net().count_params()
    for file, record in records.items():
        assert record["outputs"] == (
            ["probabilities"] if file.endswith(".tflite") else ["logits", "probabilities"]
        )
    held = sum(np.prod(w.dims) for w in onnx.load(artifact / "model.onnx").graph.initializer)
    band = 16 * 16  # of the normalisation of responses, as a convolution
    assert held < weights + band
    assert records["saved_model"]["bytes"] < 4 * weights + 250_000


def test_onnx_is_what_other_tools_expect(artifact, images):
    import onnx
    import onnxruntime

    model = onnx.load(artifact / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    values = [*model.graph.input, *model.graph.output]
    assert [value.name for value in values] == ["image", "logits", "probabilities"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in values] == ["batch"] * 3
    groups = [a.i for n in model.graph.node for a in n.attribute if a.name == "group"]
    assert 2 in groups
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["labels"]) == LABELS
    assert json.loads(properties["preprocessing"])["crop"] == "centre"

    session = onnxruntime.InferenceSession(artifact / "model.onnx")
    x = images[:4].astype(np.float32)
    together = session.run(["logits"], {"image": x})[0]
    alone = [session.run(["logits"], {"image": x[i : i + 1]})[0] for i in range(4)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)


def test_int8_takes_bytes_from_a_camera(records):
    record = records["model_int8.tflite"]
    assert record["input_dtype"] == "uint8"
    assert record["input_quantization"] == [1.0, 0]
    assert not record["integer_only"]  # LRN stays in floats
    assert record["bytes"] < records["model.tflite"]["bytes"] / 3


def test_a_saved_model_says_which_operations_it_holds(records):
    operations = records["saved_model"]["operations"]
    assert (operations["Conv2D"], operations["LRN"]) == (3, 1)  # one for each of two groups


def test_a_saved_model_leaves_nothing_to_compile(artifact):
    """What XLA must compile ends TensorFlow's process in a deep RepVGG, and is slow elsewhere."""
    content = (artifact / "saved_model" / "1" / "saved_model.pb").read_bytes()
    assert b"_XlaMustCompile" not in content


def test_tflite_holds_builtin_operations_alone(records):
    operations = records["model.tflite"]["operations"]
    assert operations["CONV_2D"] == 3  # one is the normalisation of responses
    assert "LOCAL_RESPONSE_NORMALIZATION" not in operations
    assert records["model_int8.tflite"]["operations"]["LOCAL_RESPONSE_NORMALIZATION"] == 1


def test_files_run_without_this_package(records):
    for file, record in records.items():
        # TensorFlow imports Keras by itself.
        assert record["imported"] == (["tensorflow", "keras"] if file == "saved_model" else [])


def test_mixed_precision_is_rebuilt_in_float32(make_net, images, tmp_path):
    model = make_net(precision="mixed_bfloat16")
    described = export(
        model,
        tmp_path / "out",
        name="tiny",
        formats=["onnx"],
        labels=LABELS,
        reference=Reference(images),
    )
    assert described["artifacts"][0]["passed"]
    plain = make_net()
    plain.set_weights(model.get_weights())
    got = np.load(tmp_path / "out" / "reference.npz")["logits"]
    np.testing.assert_allclose(
        got, prepare.logits_of(prepare.prepare(plain), images), rtol=1e-5, atol=1e-5
    )


def test_int8_of_an_untrained_softmax_is_refused(make_net, images, tmp_path):
    with pytest.raises(ExportError, match="model_int8.tflite.*int8 is for trained models"):
        export(
            make_net(classes=1000, sure=1),
            tmp_path / "deep" / "out",
            name="tiny",
            formats=["tflite"],
            quantize=["int8"],
            labels=[str(i) for i in range(1000)],
            reference=Reference(images),
            calibration=images[:8],
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_its_weights_is_refused(make_net):
    """The converter call that people copy writes such a file, and says nothing."""
    import tensorflow as tf

    from keras_cnns.export import tflite

    model = prepare.prepare(make_net())

    @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 3), tf.float32)])
    def serve(image):
        return model(image, training=False)["probabilities"]

    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [serve.get_concrete_function()], model
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        content = converter.convert()
    with pytest.raises(ExportError, match="VAR_HANDLE reads a variable"):
        tflite._finish("model.tflite", content, b"", "probabilities")
    with pytest.raises(ExportError, match="cannot hold"):
        checks.check_size("model.tflite", len(content), prepare.kernel_count(model), 4)


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        (np.full((3, 4), np.nan), "not finite"),
        (np.full((3, 4), 0.25), "the same for 3 different images"),
    ],
)
def test_outputs_that_say_nothing_are_refused(outputs, match):
    with pytest.raises(ExportError, match=match):
        checks.check_outputs("model.onnx", {"probabilities": outputs})


@pytest.mark.parametrize(
    ("formats", "quantize", "match"),
    [
        (["onxx"], [], 'did you mean "onnx"'),
        ([], [], "no format was given"),
        (["tflite"], ["int4"], '"int4" is not a quantization; it can be float16, dynamic, int8'),
        (
            ["savedmodel"],
            ["int8"],
            "int8 is a quantization of tflite, onnx, and the formats are savedmodel",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_before_any_work(formats, quantize, match):
    with pytest.raises(UsageError, match=match):
        plan(formats, quantize)


def test_what_tflite_gives_is_chosen_where_there_is_tflite():
    with pytest.raises(UsageError, match="the output is TFLite's to choose"):
        plan(["onnx"], output="logits")
    with pytest.raises(UsageError, match='"logit" is not a output; .*did you mean "logits"'):
        plan(["tflite"], output="logit")


def test_tflite_gives_logits_where_asked(make_net, images, artifact, tmp_path):
    made = export(
        make_net(),
        tmp_path / "out",
        name="tiny",
        formats=["tflite"],
        quantize=["int8"],
        labels=LABELS,
        reference=Reference(images),
        calibration=synthetic_images(32, SHAPE, seed=1),
        output="logits",
    )
    expected = runners.load("onnx", artifact / "model.onnx").run(images[:4])["probabilities"]
    for record, bound in zip(made["artifacts"], (1e-5, 0.1), strict=True):
        assert (record["outputs"], record["compared"]) == (["logits"], "logits")
        place = tmp_path / "out" / record["file"]
        assert runners.load("tflite", place).run(images[:4]).keys() == {"logits"}
        classifier = predict.open_classifier(place)
        np.testing.assert_allclose(classifier.run(images[:4]), expected, atol=bound)

    again = verify(tmp_path / "out", images[:20], [1] * 20)
    assert again["passed"], again


def starting_with(*layers):
    image = keras.Input((8, 8, 3))
    x = image
    for layer in layers:
        x = layer(x)
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


MEANS = {"mean": [0.48, 0.46, 0.41], "variance": [0.05, 0.05, 0.05]}


@pytest.mark.parametrize(
    ("first", "known"),
    [
        ([], False),
        ([keras.layers.Conv2D(4, 3)], False),
        ([keras.layers.Rescaling(2, -1)], False),
        ([keras.layers.Normalization(**MEANS)], False),
        ([keras.layers.Rescaling(1 / 255)], True),
        ([keras.layers.Rescaling(1 / 255), keras.layers.Normalization(**MEANS)], True),
        ([keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 127.5, -1)], True),
        ([keras.layers.Normalization(mean=[124, 117, 104], variance=[3400] * 3)], True),
        *(([keras.layers.Rescaling(*PREPROCESSING[name])], True) for name in PREPROCESSING),
        ([keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.ReLU()])], True),
    ],
)
def test_a_model_that_scales_its_pixels_is_known(first, known):
    assert prepare.takes_pixels(starting_with(*first)) is known


def test_a_file_that_does_not_scale_its_pixels_is_not_said_to(tmp_path):
    keras.utils.set_random_seed(0)
    starting_with().save(tmp_path / "bare.keras")
    starting_with(keras.layers.Rescaling(1 / 255)).save(tmp_path / "scaled.keras")
    said = []

    def exported(file, **options):
        out = tmp_path / "out"
        options |= {"formats": ["onnx", "tflite"], "progress": said.append}
        made = subject.export_subject(str(tmp_path / file), out, **options)
        return made, runners.load("onnx", out / "model.onnx").run

    images = synthetic_images(3, (8, 8, 3))
    made, bare = exported("bare.keras")
    assert made["input"]["range"] is None
    assert "--preprocessing" in made["input"]["note"]
    assert any("bare.keras: nothing in the model tells which pixels" in line for line in said)
    assert "nothing in the model" in predict.open_classifier(tmp_path / "out").note
    made, scaled = exported("bare.keras", preprocessing="unit")
    assert made["input"]["range"] == [0, 255]
    np.testing.assert_allclose(
        scaled(images)["logits"], bare(images / 255)["logits"], rtol=1e-4, atol=1e-5
    )
    made, as_it_is = exported("bare.keras", preprocessing="none")
    assert made["input"]["range"] == [0, 255]
    np.testing.assert_array_equal(as_it_is(images)["logits"], bare(images)["logits"])
    assert exported("scaled.keras")[0]["input"]["range"] == [0, 255]
    with pytest.raises(UsageError, match="scales its pixels itself; leave --preprocessing unit"):
        exported("scaled.keras", preprocessing="unit")
    with pytest.raises(UsageError, match="lenet5 has its own preprocessing"):
        subject.export_subject("lenet5", tmp_path / "net", formats=["onnx"], preprocessing="caffe")


def test_a_model_whose_probabilities_never_change_is_held_to_its_logits(tmp_path):
    keras.utils.set_random_seed(0)
    model = starting_with()
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e-12, bias])
    out = tmp_path / "out"
    reference = Reference(synthetic_images(8, (8, 8, 3)))
    made = export(
        model, out, name="flat", formats=["onnx", "tflite"], labels=list("abc"), reference=reference
    )
    assert [record["passed"] for record in made["artifacts"]] == [True, True]


def test_int8_wants_calibration_images(tmp_path, images):
    with pytest.raises(UsageError, match="calibrated on images and none were given"):
        export(
            None,  # not looked at yet
            tmp_path / "out",
            name="tiny",
            quantize=["int8"],
            labels=LABELS,
            reference=Reference(images),
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": LABELS[:3]}, "3 labels were given for a model of 10 classes"),
        ({"labels": ["two\nlines", *LABELS[1:]]}, "cannot be a line of a text file"),
        ({"reference": Reference(np.zeros((2, 8, 8, 3)))}, r"\(8, 8, 3\); the model takes"),
        ({"reference": Reference(np.zeros((2, 32, 32, 3)), [0, 10])}, "label is 10 in a model of"),
        ({"calibration": np.zeros((2, 8, 8, 3))}, "calibration images have shape"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make_net, images, tmp_path, change, match):
    arguments = {"name": "tiny", "labels": LABELS, "reference": Reference(images)} | change
    with pytest.raises(UsageError, match=match):
        export(make_net(), tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_models_of_another_kind_are_refused():
    import keras

    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    with pytest.raises(UsageError, match=r"outputs .*8, 8, 3.*one of shape \(batch, classes\)"):
        prepare.prepare(keras.Model(image, keras.layers.ReLU()(image)))
    with pytest.raises(UsageError, match="one input"):
        prepare.prepare(keras.Model([image, keras.Input((8, 8, 3))], flat))
    with pytest.raises(UsageError, match="ends in sigmoid; export takes single-label"):
        prepare.prepare(keras.Model(image, keras.layers.Dense(2, "sigmoid")(flat)))
    with pytest.raises(UsageError, match='called "predictions"'):
        prepare.prepare(keras.Model(image, {"a": flat, "b": flat}))


def dense(**options):
    return lambda x: keras.layers.Dense(3, name="last", **options)(x)


@pytest.mark.parametrize(
    "end",
    [
        dense(),
        dense(activation="softmax"),
        dense(activation="softmax", use_bias=False),
        lambda x: keras.layers.Softmax()(dense()(x)),
        lambda x: keras.layers.Activation("softmax")(dense()(x)),
        lambda x: keras.layers.Activation("linear")(dense()(x)),
    ],
)
def test_a_classifier_may_end_as_it_likes(end):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3, activation="relu")(image))
    model = keras.Model(image, end(x))
    pixels = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    found = prepare.prepare(model)(pixels)
    last = model.get_layer("last")
    features = keras.Model(image, x)(pixels).numpy()
    scores = features @ last.kernel.numpy() + (last.bias.numpy() if last.use_bias else 0)
    chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["logits"], scores, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], chances, atol=1e-5)
    assert model.get_layer("last").output.shape == (None, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preprocessing"),
    [
        ("VGG16", "caffe"),
        ("ResNet50", "caffe"),
        ("InceptionV3", "symmetric"),
        ("DenseNet121", "imagenet"),
        ("MobileNetV2", "symmetric"),
        ("EfficientNetB0", "none"),
    ],
)
def test_networks_of_keras_are_exported_unchanged(name, preprocessing, tmp_path):
    """With what keras.applications does to pixels before each, but for the order of colours."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None)
    shape = model.input_shape[1:]
    scale, offset = map(np.array, PREPROCESSING.get(preprocessing, (1.0, 0.0)))
    prepare.randomise_norms(model, synthetic_images(16, shape, seed=1) * scale + offset)
    made = export(
        model,
        tmp_path / "out",
        name=model.name,
        quantize=["float16"],
        labels=[str(i) for i in range(1000)],
        reference=Reference(synthetic_images(64, shape, seed=0)),
        preprocessing=preprocessing,
    )
    assert [a["passed"] for a in made["artifacts"]] == [True] * 4


def test_settled_statistics_are_those_of_the_images(make_net, images):
    import keras

    model = make_net()
    norm = model.get_layer("norm1")
    prepare.settle_statistics(model, images)
    assert norm.momentum == 0.99
    before = keras.Model(model.input, norm.input)(images.astype(np.float32)).numpy()
    np.testing.assert_allclose(norm.moving_mean.numpy(), before.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), before.var((0, 1, 2)), rtol=1e-3)


def spoil(folder: Path, kind: str) -> Path:
    if kind == "a file":
        (folder / "out").write_text("mine")
    elif kind == "below a file":
        (folder / "file").write_text("mine")
        return folder / "file" / "out"
    else:
        (folder / "out").mkdir()
        name = {"a full folder": "notes.txt", "another's manifest": "manifest.json"}[kind]
        (folder / "out" / name).write_text("{}")
    return folder / "out"


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("a file", "is a file; give a folder"),
        ("below a file", "cannot be written"),
        ("a full folder", "holds other files"),
        ("another's manifest", "does not say"),
    ],
)
def test_other_peoples_files_are_left_alone(tmp_path, kind, match):
    out = spoil(tmp_path, kind)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=match), manifest.replacing(out):
        pytest.fail("nothing should start")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\)"):
        manifest.check_folder(tmp_path / "out")


def test_a_file_that_export_did_not_write_is_not_deleted(light):
    manifest.check_folder(light)
    (light / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes.txt, which export did not write"):
        manifest.check_folder(light)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_export_leaves_the_old_folder(
    make_net, images, light, monkeypatch, interruption
):
    from keras_cnns.export import onnx

    def stop(*arguments, **options):
        raise interruption("no space left")

    before = {path: path.read_bytes() for path in light.rglob("*") if path.is_file()}
    monkeypatch.setattr(onnx, "write_onnx", stop)
    with pytest.raises((KeyboardInterrupt, ExportError)):
        export(
            make_net(),
            light,
            name="tiny",
            formats=["tflite", "onnx"],
            labels=LABELS,
            reference=Reference(images),
        )
    assert {path: path.read_bytes() for path in light.parent.rglob("*") if path.is_file()} == before


def test_a_new_export_replaces_the_old_one(make_net, images, light):
    export(
        make_net(),
        light,
        name="again",
        formats=["tflite"],
        labels=LABELS,
        reference=Reference(images[:8]),
    )
    assert sorted(path.name for path in light.iterdir()) == [
        "labels.txt",
        "manifest.json",
        "model.tflite",
        "reference.npz",
    ]
    assert [path.name for path in light.parent.iterdir()] == ["light"]


def test_chatter_is_held_back_and_errors_are_not(capfd):
    with quiet():
        os.write(2, b"I0000 nothing\nE0000 00:00 something broke\n")
    assert capfd.readouterr().err == "E0000 00:00 something broke\n"

    def fail():
        with quiet():
            os.write(2, b"the reason\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == "the reason\n"


def test_synthetic_images_are_varied_and_repeatable():
    images = synthetic_images(16, (24, 40, 1), seed=3)
    assert images.shape == (16, 24, 40, 1)
    assert (images == synthetic_images(16, (24, 40, 1), seed=3)).all()
    assert np.ptp(images.mean(axis=(1, 2, 3))) > 50
    assert images.std(axis=(1, 2, 3)).min() > 5


def test_onnx_takes_channels_first_where_asked(make_net, images, tmp_path):
    import onnx

    made = export(
        make_net(),
        tmp_path / "out",
        name="tiny",
        formats=["onnx"],
        quantize=["int8"],
        labels=LABELS,
        reference=Reference(images),
        calibration=synthetic_images(32, images.shape[1:], seed=1),
        layout="NCHW",
    )
    assert [(a["file"], a["layout"], a["passed"]) for a in made["artifacts"]] == [
        ("model.onnx", "NCHW", True),
        ("model_int8.onnx", "NCHW", True),
    ]
    for artifact in made["artifacts"]:
        graph = onnx.load(tmp_path / "out" / artifact["file"]).graph
        assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:] == [3, 32, 32]
    triton = (tmp_path / "out" / "config.pbtxt").read_text()
    assert 'name: "image" data_type: TYPE_FP32 dims: [ 3, 32, 32 ]' in triton
    with pytest.raises(UsageError, match='unknown layout "CHW"; allowed are NHWC, NCHW'):
        export(
            make_net(),
            tmp_path / "other",
            name="tiny",
            labels=LABELS,
            reference=Reference(images),
            layout="CHW",
        )


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_zeros_around_a_pool_are_zeros_in_onnx_runtime(layout, activation, tmp_path):
    """ONNX Runtime takes them for less than any number, where it can see them."""
    import onnx

    keras.utils.set_random_seed(0)
    image = keras.Input((9, 9, 3), name="image")
    x = keras.layers.Conv2D(4, 3, bias_initializer=keras.initializers.Constant(-300))(image)
    if activation:
        x = keras.layers.ReLU()(x)
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x))
    prepared = prepare.prepare(keras.Model(image, x))
    images = synthetic_images(8, (9, 9, 3))
    file = tmp_path / "model.onnx"
    write_onnx(
        prepared,
        file,
        name="pool",
        labels=["a", "b"],
        fed=manifest.describe_input((9, 9, 3)),
        trial=checks.Trial(images, prepare.kernel_count(prepared)),
        layout=layout,
    )
    found = runners.load("onnx", file).run(images)["logits"]
    wanted = prepare.logits_of(prepared, images)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    operations = {node.op_type for node in onnx.load(file).graph.node}
    assert ("Max" in operations) == (activation is None)


def test_int8_onnx_computes_in_integers(records, artifact):
    operations = records["model_int8.onnx"]["operations"]
    assert operations["DequantizeLinear"] > operations["QuantizeLinear"] > 3
    assert records["model_int8.onnx"]["bytes"] < records["model.onnx"]["bytes"]
    assert 'name: "tiny"' in (artifact / "config.pbtxt").read_text()


def test_a_saved_model_takes_pixels_of_any_size_and_files(artifact, images, tmp_path):
    import tensorflow as tf
    from PIL import Image

    from keras_cnns import data

    place = artifact / "saved_model" / "1"
    signatures = tf.saved_model.load(str(place)).signatures
    assert set(signatures) == {"serving_default", "pixels", "encoded"}
    height, width, channels = images.shape[1:]
    big = np.random.default_rng(0).integers(0, 256, (2, 50, 71, channels), np.uint8)
    files = []
    for i, pixels in enumerate(big):
        Image.fromarray(pixels[: 50 - 9 * i]).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    fitted = np.stack([data.read_image(file, (height, width, channels)) for file in files])
    expected = runners.load("savedmodel", artifact / "saved_model").run(fitted)
    found = signatures["encoded"](encoded=tf.constant([file.read_bytes() for file in files]))
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    of_first = signatures["pixels"](pixels=tf.constant(big[:1]))
    np.testing.assert_allclose(of_first["logits"], expected["logits"][:1], rtol=1e-4, atol=1e-4)
    best = np.argsort(-expected["probabilities"], axis=1)[:, :5]
    names = [[label.decode() for label in row] for row in found["top_labels"].numpy()]
    assert names == [[LABELS[i] for i in row] for row in best]
    scores = np.take_along_axis(expected["probabilities"], best, 1)
    np.testing.assert_allclose(found["top_probabilities"], scores, atol=1e-5)


def test_a_saved_model_warms_itself_up(artifact):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    place = artifact / "saved_model" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    (record,) = tf.data.TFRecordDataset(str(place))
    content = record.numpy()
    request = field(field(content, 6), 1)
    assert field(field(request, 1), 3) == b"serving_default"
    inputs = field(request, 2)
    assert field(inputs, 1) == b"image"
    tensor = tensor_pb2.TensorProto.FromString(field(inputs, 2))
    assert tf.make_ndarray(tensor).shape == (1, 32, 32, 3)


def field(message, number):
    """The bytes of a field of a protocol buffer; all fields of these messages hold bytes."""
    place = 0
    while place < len(message):
        key, size, shift = message[place], 0, 0
        while True:
            place += 1
            size |= (message[place] & 127) << shift
            shift += 7
            if message[place] < 128:
                break
        content = message[place + 1 : place + 1 + size]
        if key == number << 3 | 2:
            return content
        place += 1 + size
    raise AssertionError(f"no field {number}")


def test_a_tflite_file_tells_the_task_library_what_it_takes(artifact):
    from tensorflow.lite.tools import flatbuffer_utils

    for file in FILES:
        if not file.endswith(".tflite"):
            continue
        with zipfile.ZipFile(artifact / file) as archive:
            assert archive.read("labels.txt").decode().splitlines() == LABELS
            described = json.loads(archive.read("keras_cnns.json"))
        assert described["preprocessing"] == manifest.read(artifact)["input"]
        model = flatbuffer_utils.convert_bytearray_to_object((artifact / file).read_bytes())
        (entry,) = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
        content = bytes(model.buffers[entry.buffer].data)
        assert content[4:8] == b"M001"
        for word in (b"tiny", b"labels.txt", b"image", b"probabilities"):
            assert word in content


def test_mediapipe_classifies_with_our_labels(artifact, images):
    mediapipe = pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    vision = mediapipe.tasks.vision
    for file in ("model.tflite", "model_int8.tflite"):
        options = vision.ImageClassifierOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(artifact / file)),
            max_results=len(LABELS),
        )
        expected = runners.load("tflite", artifact / file).run(images[:8])["probabilities"]
        with vision.ImageClassifier.create_from_options(options) as classifier:
            for pixels, scores in zip(images[:8], expected, strict=True):
                image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
                found = classifier.classify(image).classifications[0].categories
                by_name = {category.category_name: category.score for category in found}
                assert set(by_name) == set(LABELS)
                received = [by_name[label] for label in LABELS]
                np.testing.assert_allclose(received, scores, atol=1e-5)


@pytest.mark.parametrize("preprocessing", ["caffe", "imagenet"])
def test_what_weights_want_of_pixels_is_in_every_file(preprocessing, tmp_path):
    keras.utils.set_random_seed(0)
    spec = {"stages": {str(i): {"depth": 1} for i in range(3)}}
    model = builder.build("resnet20_cifar", spec=spec, preprocessing=preprocessing)
    shape = model.input_shape[1:]
    prepare.settle_statistics(model, synthetic_images(16, shape, seed=1))
    reference = Reference(synthetic_images(64, shape, seed=0))
    made = export(model, tmp_path / "out", name="tiny", labels=LABELS, reference=reference)
    assert [a["passed"] for a in made["artifacts"]] == [True] * 3
    scale, offset = map(np.array, PREPROCESSING[preprocessing])
    bare = builder.build("resnet20_cifar", spec=spec)
    bare.set_weights(model.get_weights())
    expected = bare(reference.images * scale + offset, training=False).numpy()
    for artifact in made["artifacts"]:
        runner = runners.load(artifact["format"], tmp_path / "out" / artifact["file"])
        found = runner.run(reference.images)["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-4)
