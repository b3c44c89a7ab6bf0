"""One narrow network of each family, to every format and back through verify."""

import keras
import pytest

from keras_cnns import builder, spec as specs, zoo
from keras_cnns.export import (
    Reference,
    benchmark,
    export,
    prepare,
    runners,
    synthetic_images,
    verify,
)

# A network, how wide it is made, and what makes it one for small images. Where a layer has eight
# units only, rounding one weight to float16 shows in the scores: Xception is wider for that.
MEMBERS = {
    "LeNet": ("lenet5", 1, {}),
    "AlexNet": ("alexnet", 1 / 16, {}),
    "NiN": ("nin_cifar", 1 / 16, {}),
    "VGG": ("vgg11_lrn", 1 / 16, {}),
    "Inception": ("inception_v1", 1 / 16, {"stem": {"kind": "small"}}),
    "Inception-ResNet": ("inception_resnet_v1", 1 / 16, {}),
    "Xception": ("xception", 1 / 4, {}),
    "ResNet": ("resnet20_cifar", 1 / 2, {}),
    "DenseNet": ("densenet40_cifar", 1, {}),
    "RepVGG": ("repvgg_b1g2", 1 / 16, {"stem": "small"}),
    "MLP-Mixer": ("mixer_s32", 1 / 16, {}),
}


def test_there_is_one_of_each_family():
    assert MEMBERS.keys() == {net.family for net in zoo.NETS.values()}
    for family, (name, *_) in MEMBERS.items():
        assert zoo.get(name).family == family


def shallow(values):
    """A spec as dicts, with no stage deeper than one block."""
    if isinstance(values, list):
        return [shallow(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {k: min(v, 1) if k == "depth" else shallow(v) for k, v in values.items()}


def narrow(family):
    name, width, changes = MEMBERS[family]
    net = zoo.get(name)
    size = max(net.min_size, 32)
    spec = shallow(specs.to_dict(specs.scale_filters(net.spec, width)))
    keras.utils.set_random_seed(0)
    model = builder.build(
        name,
        input_shape=(size, size, net.input_shape[2]),
        num_classes=10,
        spec={**spec, **changes},
        preprocessing="symmetric",
    )
    prepare.randomise_norms(model, synthetic_images(16, model.input_shape[1:], seed=1))
    return model


@pytest.fixture
def in_this_process(monkeypatch):
    """Spare a process for each file; test_verify has them."""

    def run_here(folder, record, images, scratch, *, threads=1):
        note = {"latency_ms": 1.0, "threads": threads, "imported": []}
        if len(images) == 1:  # a measurement of time
            return {}, note
        runner = runners.load(record["format"], folder / record["file"])
        return runner.run(images), note | {"labels": runner.labels}

    monkeypatch.setattr(verify, "run_alone", run_here)
    monkeypatch.setattr(benchmark, "run_alone", run_here)


@pytest.mark.parametrize("family", MEMBERS)
def test_a_family_goes_to_every_format(family, in_this_process, tmp_path):
    model = narrow(family)
    made = export(
        model,
        tmp_path / "out",
        name=model.name,
        quantize=["float16"],
        labels=[str(i) for i in range(10)],
        reference=Reference(synthetic_images(16, model.input_shape[1:])),
    )
    assert [(a["file"], a["why"]) for a in made["artifacts"]] == [
        ("saved_model", ""),
        ("model.tflite", ""),
        ("model_float16.tflite", ""),
        ("model.onnx", ""),
    ]
    for artifact in made["artifacts"]:
        assert artifact["agreement"] in (None, 1.0)
        if artifact["quantization"] == "float32":
            assert artifact["relative_error"] < 2e-5
