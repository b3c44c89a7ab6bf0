"""keras.applications' weights in our networks: the same scores of the same pixels.

The real weights are a download; here theirs are random, their statistics too.
"""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from keras_cnns import builder
from keras_cnns.errors import UsageError
from keras_cnns.export.prepare import settle_statistics
from keras_cnns.weights import applications

# Where each says how it wants its pixels: keras.applications.<module>.preprocess_input.
MODULES = {
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "inception_v3": "inception_v3",
    "inception_resnet_v2": "inception_resnet_v2",
    "xception": "xception",
    **{f"resnet{n}_v1": "resnet" for n in (50, 101, 152)},
    **{f"resnet{n}_v2_keras": "resnet_v2" for n in (50, 101, 152)},
    **{f"densenet{n}": "densenet" for n in (121, 169, 201)},
}


def slow_unless(cheap):
    return [n if n in cheap else pytest.param(n, marks=pytest.mark.slow) for n in MODULES]


def pixels(size, n=2, seed=0):
    """Random images of large patches: what is random pixel by pixel looks alike to deep layers."""
    patches = np.random.default_rng(seed).uniform(0, 255, (n, 3, 3, 3))
    near = np.arange(size) * 3 // size
    return patches[:, near][:, :, near].astype(keras.config.floatx())


def preprocessed(name, images):
    return getattr(keras.applications, MODULES[name]).preprocess_input(images.copy())


def trained(name, size, **arguments):
    """Their network as if trained: no weight or statistic is what it starts from.

    Betas are around 1, so that most of a map passes its ReLU. Around 0, a change of a pixel's last
    bit would come out of their own network as 2e-5 of the range of its scores.
    """
    keras.utils.set_random_seed(0)
    theirs = getattr(keras.applications, applications.SIBLINGS[name].name)(
        weights=None, input_shape=(size, size, 3), **arguments
    )
    draw = np.random.default_rng(0)
    spread = {"gamma": (0.5, 1.5), "beta": (0.5, 1.5), "bias": (-0.1, 0.1)}
    for weight in theirs.weights:
        if weight.name in spread:
            weight.assign(draw.uniform(*spread[weight.name], weight.shape))
    settle_statistics(theirs, preprocessed(name, pixels(size, n=16, seed=1)))
    for weight in theirs.weights:
        if weight.name == "moving_variance":
            weight.assign(weight * draw.uniform(0.7, 1.4, weight.shape))
    return theirs


def build_from(theirs, monkeypatch, name, size, **arguments):
    monkeypatch.setattr(applications, "load", lambda *_: theirs)
    shape = {"input_shape": (size, size, 3)}
    return builder.build(name, weights="imagenet", **shape, **arguments)


def assert_same(expected, received, tolerance):
    expected, received = np.asarray(expected), np.asarray(received)
    assert 0.1 < np.ptp(expected) < 1000, "neither dead nor overflowing"
    assert np.abs(expected - received).max() <= tolerance * np.ptp(expected)


@pytest.mark.parametrize("name", slow_unless({"resnet50_v1", "resnet50_v2_keras", "densenet121"}))
def test_the_scores_are_theirs(name, monkeypatch):
    size = 224 if name.startswith("vgg") else 75 if "ception" in name else 32
    plain = {"classifier_activation": None}
    theirs = trained(name, size, **plain)
    ours = build_from(theirs, monkeypatch, name, size, **plain)
    images = pixels(size)
    assert_same(theirs(preprocessed(name, images)), ours(images), 1e-5)


def compute_in(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture
def float64():
    """Compute so finely that no difference passes as rounding, not even an epsilon's 1e-8."""
    compute_in("float64")
    yield
    compute_in("float32")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless asked")
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", slow_unless({"vgg16", "inception_v3", "xception", "resnet50_v1"}))
def test_the_last_maps_are_theirs_to_ten_digits(name, monkeypatch):
    size = 75 if "ception" in name else 64
    theirs = trained(name, size, include_top=False)
    ours = build_from(theirs, monkeypatch, name, size, include_top=False)
    # Keras's Rescaling knows its numbers in float32 only: of the pixels, and of some residuals.
    tolerance = 1e-7 if name == "inception_resnet_v2" else 1e-10
    scaled = preprocessed(name, pixels(size))
    rest = keras.Model(ours.get_layer("preprocessing").output, ours.output)
    red_first = applications.SIBLINGS[name].preprocessing != "caffe"
    assert_same(theirs(scaled), rest(scaled if red_first else scaled[..., ::-1]), tolerance)


@pytest.mark.parametrize(
    ("name", "able"),
    [
        ("resnet50", "resnet50_v1, resnet50_v2_keras"),
        ("resnet50_v2", "resnet50_v2_keras"),
        ("densenet161", "densenet121, densenet169, densenet201"),
        ("vgg16_bn", "vgg16"),
        ("vgg11", "vgg16, vgg19"),
        ("inception_v4", "inception_v3"),
        ("inception_resnet_v1", "inception_resnet_v2"),
        ("lenet5", ", ".join(applications.SIBLINGS)),
    ],
)
def test_a_network_without_weights_names_its_siblings(name, able):
    with pytest.raises(UsageError) as caught:
        builder.build(name, weights="imagenet")
    assert str(caught.value) == f'{name} has no weights "imagenet"; networks that have: {able}'


REFUSED = [
    ("vgg61", {}, 'unknown network "vgg61"'),
    ("vgg16", {"num_classes": 10}, "logits needs 40970 weights, found 4097000 weights; include"),
    (
        "vgg16",
        {"input_shape": (64, 64, 3)},
        "fc6 needs 8392704 weights, found 102764544",
    ),
    (
        "resnet50_v1",
        {"input_shape": (32, 32, 1)},
        "conv1_conv needs 3136 weights, found 9408",
    ),
    ("xception", {"spec": {"block2": {"filters": {"0": 64}}}}, "layer block2_1_sepconv needs"),
    ("inception_v3", {"auxiliary": True}, "auxiliary1_a_conv needs 98304 weights, found none; aux"),
    ("densenet121", {"preprocessing": "unit"}, 'must be "imagenet" or left out, not "unit"'),
    ("vgg16", {"weights": "imagnet"}, 'received weights "imagnet"; allowed are "imagenet", and'),
    ("vgg16", {"weights": "vgg16.pkl"}, "files that end in .keras, .weights.h5, .safetensors"),
    ("vgg16", {"weights": "none/such.keras"}, "there is no such file of weights"),
]


def test_what_does_not_fit_is_refused_before_keras_is_imported():
    code = """
        import sys
        from keras_cnns import build
        from keras_cnns.errors import UsageError

        for name, arguments, _ in REFUSED:
            try:
                build(name, **{"weights": "imagenet", **arguments})
            except UsageError as error:
                print(error)
        print(*sys.modules)
    """
    code = f"REFUSED = {REFUSED!r}\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    assert not {"keras", "tensorflow"} & set(modules.split())
    for line, (_, _, message) in zip(lines, REFUSED, strict=True):
        assert message in line


def test_a_failed_download_is_told_in_one_line(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure on https://storage:\n None -- no route to host")

    monkeypatch.setattr(keras.applications, "Xception", fail)
    with pytest.raises(UsageError) as caught:
        builder.build("xception", weights="imagenet")
    assert str(caught.value).startswith("keras.applications' Xception: its weights cannot be had")
    assert "no route to host" in str(caught.value)
    assert "\n" not in str(caught.value)
