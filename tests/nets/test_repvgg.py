"""RepVGG against its paper's tables 2 and 3 and figure 4."""

import keras
import numpy as np
import pytest

from keras_cnns import blocks, builder, zoo

# Of the form that is deployed: parameters and MACs. They agree with the paper's tables 4 and 5,
# which have neither b2g2 nor b3g2, and print another count for b0.
DEPLOYED = {
    "repvgg_a0": (8_309_384, 1_361_451_008),
    "repvgg_a1": (12_789_864, 2_363_967_488),
    "repvgg_a2": (25_499_944, 5_116_951_552),
    "repvgg_b0": (14_339_048, 3_057_600_512),
    "repvgg_b1": (51_829_480, 11_815_485_440),
    "repvgg_b1g2": (41_360_104, 8_809_742_336),
    "repvgg_b1g4": (36_125_416, 7_306_870_784),
    "repvgg_b2": (80_315_112, 18_376_609_792),
    "repvgg_b2g2": (63_956_712, 13_680_136_192),
    "repvgg_b2g4": (55_777_512, 11_331_899_392),
    "repvgg_b3": (110_960_872, 26_208_882_688),
    "repvgg_b3g2": (87_404_776, 19_445_960_704),
    "repvgg_b3g4": (75_626_728, 16_064_499_712),
}
NARROW = {"stages": [{"filters": n, "depth": 1} for n in (8, 8, 8, 8, 16)]}


@pytest.mark.parametrize("name", DEPLOYED)
def test_the_deployed_form(name):
    rows = builder.trace(name, spec={"deploy": True}).rows
    assert (sum(row.params for row in rows), sum(row.macs for row in rows)) == DEPLOYED[name]
    assert {row.kind for row in rows if row.name.startswith("stage")} <= {
        "Conv2D", "Activation", "ZeroPadding2D"
    }  # fmt: skip


def test_every_form_of_every_network_is_counted():
    assert set(DEPLOYED) == set(zoo.list_models("repvgg*"))


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize(
    ("name", "widths", "depths"),
    [
        ("repvgg_a0", (48, 48, 96, 192, 1280), (1, 2, 4, 14, 1)),
        ("repvgg_b1", (64, 128, 256, 512, 2048), (1, 4, 6, 16, 1)),
        ("repvgg_b3", (64, 192, 384, 768, 2560), (1, 4, 6, 16, 1)),
    ],
)
def test_the_shapes_of_tables_2_and_3(name, widths, depths, deploy):
    found = {row.name: row.shape for row in builder.trace(name, spec={"deploy": deploy}).rows}
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
        size = 224 // 2**i
        assert found[f"stage{i}_1_relu"] == found[f"stage{i}_{depth}_relu"] == (size, size, width)
        assert f"stage{i}_{depth + 1}_relu" not in found


def grouped(name):
    """The convolutions that have fewer weights than their groups' sum would, counted from 0."""
    plain = builder.trace(name, spec={"groups": 1, "deploy": True}).rows
    rows = builder.trace(name, spec={"deploy": True}).rows
    pairs = [(a, b) for a, b in zip(plain, rows, strict=True) if a.kind == "Conv2D"]
    return [i for i, (a, b) in enumerate(pairs) if b.params < a.params]


@pytest.mark.parametrize("name", ["repvgg_b1g2", "repvgg_b1g4", "repvgg_b3g4"])
def test_every_second_layer_is_grouped_from_the_third_on(name):
    assert grouped(name) == list(range(2, 27, 2))


def test_the_identity_stands_where_shapes_agree():
    rows = builder.trace("repvgg_a0").rows
    found = [row.name for row in rows if row.name.endswith("_identity_bn")]
    depths = {2: 2, 3: 4, 4: 14}
    assert found == [
        f"stage{i}_{b}_identity_bn" for i, n in depths.items() for b in range(2, n + 1)
    ]


def test_the_stem_for_small_images():
    rows = builder.trace("repvgg_a0", input_shape=(32, 32, 3), spec={"stem": "small"}).rows
    found = {row.name: row.shape for row in rows}
    assert found["stage1_1_relu"] == found["stage2_2_relu"] == (32, 32, 48)
    assert found["stage5_1_relu"] == (4, 4, 1280)


def test_no_strided_1x1_convolution_reads_few_channels():
    # Its gradient writes past its memory in TensorFlow 2.21: see blocks.conv.
    model = builder.build("repvgg_a0", input_shape=(33, 33, 3), num_classes=2, spec=NARROW)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1):
            assert layer.strides == (1, 1), layer.name


def folded(conv, norm):
    """Kernel and bias of a convolution with its batch normalisation, in equation 3."""
    gamma, beta, mean, variance = norm.get_weights()
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return conv * scale, beta - mean * scale


@pytest.mark.parametrize(
    ("strides", "groups", "filters"), [(1, 1, 8), (1, 2, 8), (2, 1, 12), (2, 4, 8)]
)
def test_one_convolution_computes_what_the_branches_do(strides, groups, filters):
    image = keras.Input((9, 8, 8))
    forms = [
        keras.Model(
            image,
            blocks.repvgg_block(
                image, filters, strides=strides, groups=groups, deploy=deploy, name="a"
            ),
        )
        for deploy in (False, True)
    ]
    trained, deployed = forms
    rng = np.random.default_rng(0)
    for weight in trained.weights:
        low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-1, 1)
        weight.assign(rng.uniform(low, high, weight.shape))

    def branch(size):
        (kernel,) = trained.get_layer(f"a_{size}_conv").get_weights()
        return folded(kernel, trained.get_layer(f"a_{size}_bn"))

    kernel, bias = branch("3x3")
    point, more = branch("1x1")
    kernel[1, 1] += point[0, 0]
    bias = bias + more
    if strides == 1:
        inputs = 8 // groups
        unit = np.zeros((inputs, 8))
        unit[np.arange(8) % inputs, np.arange(8)] = 1
        unit, more = folded(unit, trained.get_layer("a_identity_bn"))
        kernel[1, 1] += unit
        bias = bias + more
    deployed.get_layer("a_conv").set_weights([kernel, bias])
    x = rng.normal(size=(2, 9, 8, 8)).astype("float32")
    np.testing.assert_allclose(deployed(x), trained(x), atol=1e-5)
