"""State dicts of torchvision and timm: the same scores of the same pixels, and what is refused.

The real weights are downloads; here theirs are random, their statistics too.
"""

import argparse
import collections
import hashlib
import pickle
import sys
from importlib.util import find_spec

import keras
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_cnns import builder
from keras_cnns.errors import UsageError
from keras_cnns.weights import state_dicts
from keras_cnns.weights.torch_names import NAMINGS

# What the libraries call the networks that they do not call as we do.
TORCHVISION = {"alexnet_owt": "alexnet", "inception_v1_bn": "googlenet"}
TIMM = {
    "xception": "legacy_xception",
    **{f"mixer_{size}": f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16")},
    **{f"resnet{depth}_v2": f"resnetv2_{depth}" for depth in (18, 34, 50, 101, 152)},
}
# How many tensors a state dict of torchvision 0.29 or timm 1.0.31 has, and a hash of their names.
# fmt: off
NAMES = {
    "alexnet_owt": (16, "ab64f8c5"), "vgg11": (22, "dc2092b0"), "vgg11_bn": (54, "fdfeb8f9"),
    "vgg13": (26, "caa86d3b"), "vgg13_bn": (66, "8a97c01f"), "vgg16": (32, "66817e79"),
    "vgg16_bn": (84, "b3372d34"), "vgg19": (38, "eb851df2"), "vgg19_bn": (102, "c9646600"),
    "inception_v1_bn": (305, "219299a7"), "inception_v3": (484, "4577ade3"),
    "inception_v4": (747, "d7fc0464"), "inception_resnet_v2": (1102, "4b0510d2"),
    "xception": (236, "8b7e08a0"), "resnet18": (102, "e90b1f58"), "resnet34": (182, "aeaf9ac2"),
    "resnet50": (267, "d1512e10"), "resnet101": (522, "65c093d2"), "resnet152": (777, "9f9c78c1"),
    "resnet200": (1017, "28d598ad"), "resnet18_v2": (90, "2d8c31f0"),
    "resnet34_v2": (170, "233383c5"), "resnet50_v2": (251, "de8476bf"),
    "resnet101_v2": (506, "115f70af"), "resnet152_v2": (761, "ff7ce797"),
    "densenet121": (606, "01da9529"), "densenet161": (806, "944b4553"),
    "densenet169": (846, "91709aef"), "densenet201": (1006, "e59d0042"),
    **dict.fromkeys(("repvgg_a0", "repvgg_a1", "repvgg_a2"), (290, "a73e61af")),
    **{f"repvgg_b{kind}": (374, "fd08eeab") for kind in ("0", "1", "1g4", "2", "2g4", "3", "3g4")},
    "mixer_s32": (102, "f4f70a6c"), "mixer_s16": (102, "f4f70a6c"),
    "mixer_b32": (150, "1bc5a068"), "mixer_b16": (150, "1bc5a068"),
}
# fmt: on


def names_of(name):
    naming, rows = NAMINGS[name], state_dicts._rows(name)
    return [key for keys in state_dicts._wanted(naming, rows).values() for key in keys]


@pytest.mark.parametrize("name", NAMINGS)
def test_tensors_have_the_names_that_the_libraries_give_them(name):
    names = names_of(name)
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:8]
    assert (len(names), digest) == NAMES[name]


# The same scores, where the libraries are: pip install torch torchvision timm
@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed, which this compares with")


@pytest.fixture(scope="session")
def libraries(torch):
    for name in ("torchvision", "timm"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed, which this compares with")
    operators = None
    try:
        import torchvision
    except RuntimeError:  # installed without its operators, which no network here uses
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor a) -> Tensor")
        import torchvision
    import timm

    # Operators are gone with the object that declared them.
    return {"torchvision": torchvision, "timm": timm, "operators": operators}


def theirs(libraries, library, name, heads):
    """Their network, no weight or statistic of which is what it starts from."""
    if library == "torchvision":
        options = {"num_classes": 10}
        if name in HEADS:  # with ImageNet's preprocessing undone, as for the weights they offer
            options |= {"init_weights": False, "transform_input": True, "aux_logits": heads}
        model = getattr(libraries[library].models, TORCHVISION.get(name, name))(**options)
    else:
        options = {"aux_logits": True} if heads else {}
        model = libraries[library].create_model(TIMM.get(name, name), num_classes=10, **options)
    torch = sys.modules["torch"]
    torch.manual_seed(0)
    for part in model.modules():
        for key, value in [
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        ]:
            if value.ndim > 1:
                torch.nn.init.kaiming_normal_(value)
            elif value.ndim == 1:
                low, high = (0.5, 1.5) if key in ("weight", "running_var") else (-0.2, 0.2)
                torch.nn.init.uniform_(value, low, high)
    return model.eval()


# Where the auxiliary heads stand in torchvision's networks, and what they are called.
HEADS = {
    "inception_v1_bn": {"inception4a": "aux1", "inception4d": "aux2"},
    "inception_v3": {"Mixed_6e": "AuxLogits"},
}
SIZES = {
    **{name: 224 for name in NAMINGS if name.startswith(("alexnet", "vgg", "mixer"))},
    **{name: 107 for name in NAMINGS if name.startswith("inception")},
}


def scores_of(model, images, heads):
    """Return their scores, those of the auxiliary heads behind them."""
    maps = []
    for place in heads:
        getattr(model, place).register_forward_hook(lambda _, inputs, out: maps.append(out))
    torch = sys.modules["torch"]
    with torch.no_grad():
        scores = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        scores = scores[0] if isinstance(scores, tuple) else scores
        extra = [getattr(model, head)(x) for head, x in zip(heads.values(), maps, strict=True)]
    return [each.numpy() for each in (scores, *extra)]


FAST = {("resnet18", "torchvision"), ("repvgg_a0", "timm"), ("mixer_s32", "timm")}
CASES = [
    pytest.param(name, library, marks=() if (name, library) in FAST else pytest.mark.slow)
    for name, naming in NAMINGS.items()
    for library in ("torchvision", "timm")
    if library in naming.libraries
]


@pytest.mark.parametrize(("name", "library"), CASES)
def test_their_weights_give_their_scores(libraries, name, library, tmp_path):
    same_scores(libraries, name, library, tmp_path, SIZES.get(name, 75))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library", "size"),
    [
        ("inception_v1_bn", "torchvision", 107),
        ("inception_v3", "torchvision", 299),  # smaller maps their head does not take
        ("inception_v3", "timm", 299),
        ("xception", "timm", 299),
    ],
)
def test_their_auxiliary_heads_and_their_own_size_too(libraries, name, library, size, tmp_path):
    same_scores(libraries, name, library, tmp_path, size, HEADS.get(name, {}))


def same_scores(libraries, name, library, folder, size, heads=()):
    from safetensors.torch import save_file

    model = theirs(libraries, library, name, bool(heads))
    file = folder / "theirs.safetensors"
    save_file(model.state_dict(), file)
    ours = builder.build(
        name,
        input_shape=(size, size, 3),
        num_classes=10,
        weights=file,
        auxiliary=bool(heads),
        classifier_activation=None,
    )
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype("float32")
    images = pixels / 127.5 - 1
    if library == "torchvision" or NAMINGS[name].preprocessing == "imagenet":
        images = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    wanted = scores_of(model, images.astype("float32"), dict(heads))
    received = ours(pixels, training=False)
    received = list(received.values()) if heads else [received]
    for one, other in zip(received, wanted, strict=True):
        error = np.abs(np.asarray(one) - other).max() / np.ptp(other)
        print(f"{name} of {library} at {size}: {error:.1e}")
        assert error < 1e-5


# Without the libraries: a residual network of two blocks, and a small AlexNet
TINY = {"conv1": 4, "stages": [{"filters": 4, "depth": 1}, {"filters": 6, "depth": 1}]}
NORM = ("weight", "bias", "running_mean", "running_var")


def random_tensors(shapes):
    draw = np.random.default_rng(0)
    return {key: draw.uniform(0.5, 1.5, shape).astype("float32") for key, shape in shapes.items()}


def tiny_resnet():
    """A state dict as torchvision would name it, written out by hand."""
    shapes = {
        "conv1.weight": (4, 3, 7, 7),
        "layer1.0.conv1.weight": (4, 4, 3, 3),
        "layer1.0.conv2.weight": (4, 4, 3, 3),
        "layer2.0.conv1.weight": (6, 4, 3, 3),
        "layer2.0.conv2.weight": (6, 6, 3, 3),
        "layer2.0.downsample.0.weight": (6, 4, 1, 1),
        "fc.weight": (3, 6),
        "fc.bias": (3,),
    }
    norms = {"bn1": 4, "layer1.0.bn1": 4, "layer1.0.bn2": 4}
    norms |= {"layer2.0.bn1": 6, "layer2.0.bn2": 6, "layer2.0.downsample.1": 6}
    for name, channels in norms.items():
        shapes |= {f"{name}.{key}": (channels,) for key in NORM}
    return random_tensors(shapes) | {"bn1.num_batches_tracked": np.array(7, "int64")}


def build_tiny(file):
    shape = {"input_shape": (32, 32, 3), "num_classes": 3}
    return builder.build("resnet18", spec=TINY, weights=file, **shape)


def save(tensors, file):
    save_file(tensors, file) if file.suffix == ".safetensors" else np.savez(file, **tensors)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_tensors_come_to_the_layers_that_they_belong_to(suffix, tmp_path):
    tensors = tiny_resnet()
    model = build_tiny(save(tensors, tmp_path / f"tiny{suffix}"))

    def values(layer):
        return model.get_layer(layer).get_weights()

    for layer, key in (
        ("conv1_conv", "conv1"),
        ("conv2_1_b_conv", "layer1.0.conv2"),
        ("conv3_1_a_conv", "layer2.0.conv1"),
        ("conv3_1_shortcut_conv", "layer2.0.downsample.0"),
    ):
        kernel = np.einsum("oihw->hwio", tensors[f"{key}.weight"])
        np.testing.assert_array_equal(values(layer)[0], kernel)
    norm = [tensors[f"layer2.0.downsample.1.{key}"] for key in NORM]
    np.testing.assert_array_equal(values("conv3_1_shortcut_bn"), norm)
    np.testing.assert_array_equal(values("logits")[0], tensors["fc.weight"].T)
    np.testing.assert_array_equal(values("logits")[1], tensors["fc.bias"])
    assert model.get_layer("preprocessing").scale[0] == pytest.approx(1 / (255 * 0.229))


def test_a_flattened_map_keeps_its_places(tmp_path):
    """A dense layer of torch reads a map channel by channel, ours pixel by pixel."""
    filters, units = (2, 3, 4, 4, 5), (7, 7, 3)
    shapes = {}
    sizes = zip((0, 3, 6, 8, 10), (3, *filters), filters, (11, 5, 3, 3, 3), strict=False)
    for index, before, after, size in sizes:
        shapes |= {f"features.{index}.weight": (after, before, size, size)}
        shapes |= {f"features.{index}.bias": (after,)}
    for index, before, after in zip((1, 4, 6), (5 * 3 * 3, 7, 7), units, strict=True):
        shapes |= {f"classifier.{index}.weight": (after, before)}
        shapes |= {f"classifier.{index}.bias": (after,)}
    tensors = random_tensors(shapes)
    spec = {f"conv{i}": {"filters": n} for i, n in enumerate(filters, 1)} | {"fc6": 7, "fc7": 7}
    model = builder.build(
        "alexnet_owt",
        spec=spec,
        input_shape=(127, 127, 3),
        num_classes=3,
        weights=save(tensors, tmp_path / "tiny.npz"),
    )
    ends = [model.get_layer(name).output for name in ("conv5_pool", "fc6")]
    image = np.random.default_rng(0).uniform(0, 255, (1, 127, 127, 3))
    maps, dense = (np.asarray(each) for each in keras.Model(model.input, ends)(image))
    assert maps.shape == (1, 3, 3, 5)
    flat = maps.transpose(0, 3, 1, 2).reshape(1, -1)
    wanted = flat @ tensors["classifier.1.weight"].T + tensors["classifier.1.bias"]
    np.testing.assert_allclose(dense, wanted, rtol=1e-5)


def test_half_precision_and_wrappers_names_are_known(tmp_path):
    half = {f"module.{key}": t.astype(ml_dtypes.bfloat16) for key, t in tiny_resnet().items()}
    model = build_tiny(save(half, tmp_path / "half.safetensors"))
    kernel = model.get_layer("conv1_conv").get_weights()[0]
    wanted = half["module.conv1.weight"].astype("float32")
    np.testing.assert_array_equal(kernel, np.einsum("oihw->hwio", wanted))


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("densenet121", {".norm1.": ".norm.1.", ".norm2.": ".norm.2.", ".conv2.": ".conv.2."}),
        (
            "vgg16",
            {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
            | {"classifier.6": "head.fc"},
        ),
    ],
)
def test_other_spellings_are_known(name, spellings):
    names = "\n".join(names_of(name))
    for usual, other in spellings.items():
        assert usual in names
        names = names.replace(usual, other)
    assert state_dicts._fits(name, dict.fromkeys(names.split()))


# What is refused
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bn1.weight"), 'has no "bn1.weight".*resnet18.*conv1_bn'),
        (lambda t: t.update({"fc.scale": t["fc.bias"]}), '"fc.scale".*none of resnet18'),
        (lambda t: t.update({"module.fc.bias": t["fc.bias"]}), '"fc.bias" twice'),
        (lambda t: t.update({"conv1.weight": t["fc.weight"][0]}), "conv1.weight.*(6,).*conv1_conv"),
        (lambda t: t.update({"fc.weight": t["fc.weight"].T}), "logits.*6x3.*3x6"),
        (lambda t: t.update({"fc.bias": np.array(["a"])}), '"fc.bias" is no tensor'),
    ],
    ids=["missing", "unknown", "twice", "form", "shape", "text"],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    tensors = tiny_resnet()
    change(tensors)
    with pytest.raises(UsageError, match=message) as refused:
        build_tiny(save(tensors, tmp_path / "tiny.npz"))
    assert "\n" not in str(refused.value)


def test_another_networks_file_is_told(tmp_path):
    file = save(dict.fromkeys(names_of("resnet34"), np.zeros(1)), tmp_path / "other.npz")
    with pytest.raises(UsageError, match="layer1.2.conv1.weight.*none of resnet18.*like resnet34"):
        state_dicts.read("resnet18", file)


@pytest.mark.parametrize(
    ("name", "others"), [("resnet50_v1", "resnet50"), ("nin", "none"), ("vgg16_c", "vgg16")]
)
def test_a_network_that_they_do_not_have_is_refused(name, others, tmp_path):
    with pytest.raises(UsageError, match=f"{name}.*no such network.*{others}"):
        state_dicts.read(name, tmp_path / "any.npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_a_damaged_file_is_refused_in_one_line(suffix, damage, tmp_path):
    file = save(tiny_resnet(), tmp_path / f"tiny{suffix}")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "truncated": whole[:-9], "garbage": b"\x93NUMPY" * 99}[damage])
    with pytest.raises(UsageError, match=f"tiny{suffix}: ") as refused:
        build_tiny(file)
    assert "\n" not in str(refused.value)


class Malicious:
    """Leaves a mark where a pickle of it is loaded."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return open, (self.place, "w")


def test_no_pickle_in_an_npz_is_loaded(tmp_path):
    mark = tmp_path / "mark"
    file = tmp_path / "evil.npz"
    np.savez(file, **{"conv1.weight": np.array([Malicious(mark)], dtype=object)})
    with pytest.raises(UsageError, match="evil.npz.*pickle"):
        state_dicts.read("resnet18", file)
    file.write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(UsageError, match="evil.npz.*no .npz file"):
        state_dicts.read("resnet18", file)
    assert not mark.exists()


def test_an_archive_that_swells_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", **{"conv1.weight": np.zeros(10_000)})
    with pytest.raises(UsageError, match="swell to 80"):
        state_dicts.read("resnet18", tmp_path / "zeros.npz")


def test_without_torch_a_pth_file_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"weights.pth.*keras_cnns\[torch\].*safetensors"):
        state_dicts.read("resnet18", tmp_path / "weights.pth")


@pytest.mark.parametrize("archive", [True, False])
def test_torch_files_are_read_as_trainings_write_them(torch, archive, tmp_path):
    tensors = {key: torch.from_numpy(value) for key, value in tiny_resnet().items()}
    wrapped = collections.OrderedDict((f"module.{key}", value) for key, value in tensors.items())
    wrapped["module.conv1.weight"] = torch.nn.Parameter(tensors["conv1.weight"].bfloat16())
    command = argparse.Namespace(epochs=90)
    file = tmp_path / "checkpoint.pth"
    torch.save(
        {"state_dict": wrapped, "epoch": 1, "args": command},
        file,
        _use_new_zipfile_serialization=archive,
    )
    found = state_dicts.read("resnet18", file, TINY).values
    np.testing.assert_array_equal(found["logits"][0], tensors["fc.weight"].numpy().T)
    kernel = tensors["conv1.weight"].bfloat16().float().numpy()
    np.testing.assert_array_equal(found["conv1_conv"][0], kernel.transpose(2, 3, 1, 0))
    file.write_bytes(file.read_bytes()[:-99])
    with pytest.raises(UsageError, match="checkpoint.pth") as refused:
        state_dicts.read("resnet18", file, TINY)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("archive", [True, False])
def test_no_pickle_in_a_torch_file_is_run(torch, archive, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "evil.pth"
    content = {"conv1.weight": torch.zeros(1), "more": Malicious(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    with pytest.raises(UsageError, match="evil.pth.*more than tensors.*open.*state_dict"):
        state_dicts.read("resnet18", file)
    file.write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(UsageError, match="evil.pth"):
        state_dicts.read("resnet18", file)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1])])
def test_torch_is_not_quoted_on_how_to_read_an_unsafe_file(torch, content, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="weights.pth: ") as refused:
        state_dicts.read("resnet18", file)
    assert "weights_only" not in str(refused.value)


def test_a_torch_that_could_be_made_to_run_code_is_refused(torch, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    with pytest.raises(UsageError, match="torch 2.9.1.*2.10 or later"):
        state_dicts.read("resnet18", tmp_path / "weights.pth")
