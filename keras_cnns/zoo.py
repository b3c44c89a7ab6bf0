"""The networks by name: one row each, with what it costs and who says so."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from keras_cnns import spec as specs
from keras_cnns.blocks import Top
from keras_cnns.errors import UsageError, suggest

Shape = tuple[int, int, int]
IMAGENET = (224, 224, 3)
IMAGENET_299 = (299, 299, 3)
CIFAR = (32, 32, 3)


class Net(NamedTuple):
    """A network of a paper.

    `path` names the module of `keras_cnns.nets` and the spec in it. `params` are trainable
    weights and `macs` multiply-adds at `input_shape`, both without auxiliary heads, as `source`
    has them; `min_size` is the smallest height and width.
    """

    name: str
    family: str
    year: int
    path: str
    params: int
    macs: int
    min_size: int
    source: str
    input_shape: Shape = IMAGENET
    num_classes: int = 1000
    auxiliary_params: int = 0

    @property
    def builder(self) -> Callable[[Any, Any, Top], Any]:
        """The function from images to class scores."""
        return import_module(f"keras_cnns.nets.{self.path.split(':')[0]}").build

    @property
    def spec(self) -> Any:
        """The paper's own numbers."""
        module, name = self.path.split(":")
        return getattr(import_module(f"keras_cnns.nets.{module}"), name)


TORCHVISION = "torchvision's table of weights"
CAFFE = "Caffe's model zoo, counted"
PYTORCHCV = "pytorchcv's table of weights"
KERAS = "keras.applications, counted"
COUNTED = "no published count; counted independently"
ROUNDED = "no exact published count; counted independently"  # the paper prints millions
DEPLOYED = "the paper has the deployed form's; this form counted independently"
# fmt: off
_ROWS = (
    Net("lenet5", "LeNet", 1998, "lenet:LENET5", 61_706, 416_520, 32,
        "the usual count of LeNet-5 with a full C3", (32, 32, 1), 10),
    Net("alexnet", "AlexNet", 2012, "alexnet:ALEXNET", 60_965_224, 724_406_816, 67,
        CAFFE, (227, 227, 3)),
    Net("alexnet_1col", "AlexNet", 2012, "alexnet:ALEXNET_1COL", 62_378_344, 1_135_256_096, 67,
        PYTORCHCV, (227, 227, 3)),
    Net("alexnet_owt", "AlexNet", 2014, "alexnet:ALEXNET_OWT", 61_100_840, 714_188_480, 63,
        TORCHVISION),
    Net("alexnet_d2l", "AlexNet", 2014, "alexnet:ALEXNET_D2L", 46_764_746, 938_146_176, 65,
        COUNTED, (224, 224, 1), 10),
    Net("nin", "NiN", 2013, "nin:NIN", 7_595_176, 1_100_188_800, 39, CAFFE),
    Net("nin_cifar", "NiN", 2013, "nin:NIN_CIFAR", 966_986, 222_486_528, 4, PYTORCHCV, CIFAR, 10),
    Net("nin_d2l", "NiN", 2013, "nin:NIN_D2L", 1_992_166, 762_297_352, 67, COUNTED, (224, 224, 1),
        10),
    Net("vgg11", "VGG", 2014, "vgg:VGG11", 132_863_336, 7_609_090_048, 32, TORCHVISION),
    Net("vgg11_lrn", "VGG", 2014, "vgg:VGG11_LRN", 132_863_336, 7_609_090_048, 32, ROUNDED),
    Net("vgg11_bn", "VGG", 2014, "vgg:VGG11_BN", 132_868_840, 7_609_090_048, 32, TORCHVISION),
    Net("vgg13", "VGG", 2014, "vgg:VGG13", 133_047_848, 11_308_466_176, 32, TORCHVISION),
    Net("vgg13_bn", "VGG", 2014, "vgg:VGG13_BN", 133_053_736, 11_308_466_176, 32, TORCHVISION),
    Net("vgg16", "VGG", 2014, "vgg:VGG16", 138_357_544, 15_470_264_320, 32, TORCHVISION),
    Net("vgg16_bn", "VGG", 2014, "vgg:VGG16_BN", 138_365_992, 15_470_264_320, 32, TORCHVISION),
    Net("vgg16_c", "VGG", 2014, "vgg:VGG16_C", 133_638_952, 11_770_888_192, 32, ROUNDED),
    Net("vgg19", "VGG", 2014, "vgg:VGG19", 143_667_240, 19_632_062_464, 32, TORCHVISION),
    Net("vgg19_bn", "VGG", 2014, "vgg:VGG19_BN", 143_678_248, 19_632_062_464, 32, TORCHVISION),
    Net("inception_v1", "Inception", 2014, "inception_v1:INCEPTION_V1", 6_998_552, 1_582_671_872,
        17, CAFFE, auxiliary_params=13_378_280),
    Net("inception_v1_naive", "Inception", 2014, "inception_v1:INCEPTION_V1_NAIVE", 97_526_008,
        12_568_061_056, 17, COUNTED),
    Net("inception_v1_bn", "Inception", 2014, "inception_v1:INCEPTION_V1_BN", 6_624_904,
        1_498_376_192, 31, TORCHVISION, auxiliary_params=13_004_888),
    Net("inception_v1_d2l", "Inception", 2014, "inception_v1:INCEPTION_V1_D2L", 5_977_530,
        276_066_304, 17, COUNTED, (96, 96, 1), 10),
    Net("inception_v2", "Inception", 2015, "inception_v2:INCEPTION_V2", 11_295_240, 2_032_600_064,
        17, PYTORCHCV),
    Net("inception_v3", "Inception", 2015, "inception_v3:INCEPTION_V3", 23_834_568, 5_713_216_096,
        75, PYTORCHCV, IMAGENET_299, auxiliary_params=27_161_264),
    Net("inception_v4", "Inception", 2016, "inception_v4:INCEPTION_V4", 42_679_816, 12_253_974_624,
        75, PYTORCHCV, IMAGENET_299, auxiliary_params=46_039_280),
    Net("inception_resnet_v1", "Inception-ResNet", 2016, "inception_resnet:INCEPTION_RESNET_V1",
        22_756_328, 6_206_361_696, 75, COUNTED, IMAGENET_299),
    Net("inception_resnet_v2", "Inception-ResNet", 2016, "inception_resnet:INCEPTION_RESNET_V2",
        55_843_464, 13_155_794_016, 75, PYTORCHCV, IMAGENET_299, auxiliary_params=59_211_120),
    Net("xception", "Xception", 2016, "xception:XCEPTION", 22_855_952, 8_357_403_496, 23, PYTORCHCV,
        IMAGENET_299),
    Net("resnet18", "ResNet", 2015, "resnet:RESNET18", 11_689_512, 1_814_073_344, 17, TORCHVISION),
    Net("resnet34", "ResNet", 2015, "resnet:RESNET34", 21_797_672, 3_663_761_408, 17, TORCHVISION),
    Net("resnet50", "ResNet", 2015, "resnet:RESNET50", 25_557_032, 4_089_184_256, 17, TORCHVISION),
    Net("resnet101", "ResNet", 2015, "resnet:RESNET101", 44_549_160, 7_801_405_440, 17,
        TORCHVISION),
    Net("resnet152", "ResNet", 2015, "resnet:RESNET152", 60_192_808, 11_513_626_624, 17,
        TORCHVISION),
    Net("resnet200", "ResNet", 2015, "resnet:RESNET200", 64_673_832, 15_007_481_856, 17, PYTORCHCV),
    Net("resnet50_v1", "ResNet", 2015, "resnet:RESNET50_V1", 25_557_032, 3_857_973_248, 17,
        PYTORCHCV),
    Net("resnet101_v1", "ResNet", 2015, "resnet:RESNET101_V1", 44_549_160, 7_570_194_432, 17,
        PYTORCHCV),
    Net("resnet152_v1", "ResNet", 2015, "resnet:RESNET152_V1", 60_192_808, 11_282_415_616, 17,
        PYTORCHCV),
    Net("plain18", "ResNet", 2015, "resnet:PLAIN18", 11_515_688, 1_794_805_760, 17, COUNTED),
    Net("plain34", "ResNet", 2015, "resnet:PLAIN34", 21_623_848, 3_644_493_824, 17, COUNTED),
    Net("resnet20_cifar", "ResNet", 2015, "resnet:RESNET20_CIFAR", 269_722, 40_551_040, 3, ROUNDED,
        CIFAR, 10),
    Net("resnet32_cifar", "ResNet", 2015, "resnet:RESNET32_CIFAR", 464_154, 68_862_592, 3, ROUNDED,
        CIFAR, 10),
    Net("resnet44_cifar", "ResNet", 2015, "resnet:RESNET44_CIFAR", 658_586, 97_174_144, 3, ROUNDED,
        CIFAR, 10),
    Net("resnet56_cifar", "ResNet", 2015, "resnet:RESNET56_CIFAR", 853_018, 125_485_696, 3,
        ROUNDED, CIFAR, 10),
    Net("resnet110_cifar", "ResNet", 2015, "resnet:RESNET110_CIFAR", 1_727_962, 252_887_680, 3,
        ROUNDED, CIFAR, 10),
    Net("resnet1202_cifar", "ResNet", 2015, "resnet:RESNET1202_CIFAR", 19_421_274, 2_829_238_912,
        3, ROUNDED, CIFAR, 10),
    Net("plain20_cifar", "ResNet", 2015, "resnet:PLAIN20_CIFAR", 269_722, 40_551_040, 3, COUNTED,
        CIFAR, 10),
    Net("plain32_cifar", "ResNet", 2015, "resnet:PLAIN32_CIFAR", 464_154, 68_862_592, 3, COUNTED,
        CIFAR, 10),
    Net("plain44_cifar", "ResNet", 2015, "resnet:PLAIN44_CIFAR", 658_586, 97_174_144, 3, COUNTED,
        CIFAR, 10),
    Net("plain56_cifar", "ResNet", 2015, "resnet:PLAIN56_CIFAR", 853_018, 125_485_696, 3, COUNTED,
        CIFAR, 10),
    Net("resnet18_v2", "ResNet", 2016, "resnet:RESNET18_V2", 11_687_848, 1_814_073_344, 17,
        PYTORCHCV),
    Net("resnet34_v2", "ResNet", 2016, "resnet:RESNET34_V2", 21_796_008, 3_663_761_408, 17,
        PYTORCHCV),
    Net("resnet50_v2", "ResNet", 2016, "resnet:RESNET50_V2", 25_549_480, 4_089_184_256, 17,
        PYTORCHCV),
    Net("resnet101_v2", "ResNet", 2016, "resnet:RESNET101_V2", 44_541_608, 7_801_405_440, 17,
        PYTORCHCV),
    Net("resnet152_v2", "ResNet", 2016, "resnet:RESNET152_V2", 60_185_256, 11_513_626_624, 17,
        PYTORCHCV),
    Net("resnet50_v2_keras", "ResNet", 2016, "resnet:RESNET50_V2_KERAS", 25_568_360, 3_482_255_360,
        17, KERAS),
    Net("resnet101_v2_keras", "ResNet", 2016, "resnet:RESNET101_V2_KERAS", 44_577_896,
        7_194_476_544, 17, KERAS),
    Net("resnet152_v2_keras", "ResNet", 2016, "resnet:RESNET152_V2_KERAS", 60_236_904,
        10_906_697_728, 17, KERAS),
    Net("resnet164_v2_cifar", "ResNet", 2016, "resnet:RESNET164_V2_CIFAR", 1_703_258, 247_646_720,
        3, PYTORCHCV, CIFAR, 10),
    Net("resnet1001_v2_cifar", "ResNet", 2016, "resnet:RESNET1001_V2_CIFAR", 10_327_706,
        1_490_995_712, 3, PYTORCHCV, CIFAR, 10),
    Net("densenet121", "DenseNet", 2016, "densenet:DENSENET121", 7_978_856, 2_834_161_664, 29,
        TORCHVISION),
    Net("densenet161", "DenseNet", 2016, "densenet:DENSENET161", 28_681_000, 7_727_907_072, 29,
        TORCHVISION),
    Net("densenet169", "DenseNet", 2016, "densenet:DENSENET169", 14_149_480, 3_359_843_328, 29,
        TORCHVISION),
    Net("densenet201", "DenseNet", 2016, "densenet:DENSENET201", 20_013_928, 4_291_365_888, 29,
        TORCHVISION),
    Net("densenet264", "DenseNet", 2016, "densenet:DENSENET264", 33_337_704, 5_751_653_376, 29,
        COUNTED),
    Net("densenet40_cifar", "DenseNet", 2016, "densenet:DENSENET40_CIFAR", 1_019_722, 264_812_928,
        4, ROUNDED, CIFAR, 10),
    Net("densenet100_bc_cifar", "DenseNet", 2016, "densenet:DENSENET100_BC_CIFAR", 769_162,
        287_929_692, 4, PYTORCHCV, CIFAR, 10),
    Net("repvgg_a0", "RepVGG", 2021, "repvgg:REPVGG_A0", 9_108_968, 1_512_581_120, 17, DEPLOYED),
    Net("repvgg_a1", "RepVGG", 2021, "repvgg:REPVGG_A1", 14_092_264, 2_626_488_320, 17, DEPLOYED),
    Net("repvgg_a2", "RepVGG", 2021, "repvgg:REPVGG_A2", 28_210_600, 5_685_345_280, 17, DEPLOYED),
    Net("repvgg_b0", "RepVGG", 2021, "repvgg:REPVGG_B0", 15_817_960, 3_397_191_680, 17, ROUNDED),
    Net("repvgg_b1", "RepVGG", 2021, "repvgg:REPVGG_B1", 57_415_016, 13_128_089_600, 17, DEPLOYED),
    Net("repvgg_b1g2", "RepVGG", 2021, "repvgg:REPVGG_B1G2", 45_782_376, 9_788_375_040, 17,
        DEPLOYED),
    Net("repvgg_b1g4", "RepVGG", 2021, "repvgg:REPVGG_B1G4", 39_966_056, 8_118_517_760, 17,
        DEPLOYED),
    Net("repvgg_b2", "RepVGG", 2021, "repvgg:REPVGG_B2", 89_022_376, 20_418_170_880, 17, DEPLOYED),
    Net("repvgg_b2g2", "RepVGG", 2021, "repvgg:REPVGG_B2G2", 70_846_376, 15_199_866_880, 17,
        COUNTED),
    Net("repvgg_b2g4", "RepVGG", 2021, "repvgg:REPVGG_B2G4", 61_758_376, 12_590_714_880, 17,
        DEPLOYED),
    Net("repvgg_b3", "RepVGG", 2021, "repvgg:REPVGG_B3", 123_085_288, 29_120_696_320, 17, DEPLOYED),
    Net("repvgg_b3g2", "RepVGG", 2021, "repvgg:REPVGG_B3G2", 96_911_848, 21_606_338_560, 17,
        COUNTED),
    Net("repvgg_b3g4", "RepVGG", 2021, "repvgg:REPVGG_B3G4", 83_825_128, 17_849_159_680, 17,
        DEPLOYED),
    Net("mixer_s32", "MLP-Mixer", 2021, "mixer:MIXER_S32", 19_104_624, 1_002_426_368, 32, ROUNDED),
    Net("mixer_s16", "MLP-Mixer", 2021, "mixer:MIXER_S16", 18_528_264, 3_776_958_464, 16, ROUNDED),
    Net("mixer_b32", "MLP-Mixer", 2021, "mixer:MIXER_B32", 60_293_428, 3_237_722_112, 32, ROUNDED),
    Net("mixer_b16", "MLP-Mixer", 2021, "mixer:MIXER_B16", 59_880_472, 12_601_767_936, 16, ROUNDED),
)
# fmt: on
NETS: Mapping[str, Net] = MappingProxyType({net.name: net for net in _ROWS})
ALIASES: Mapping[str, str] = MappingProxyType({"googlenet": "inception_v1"})


def get(name: str) -> Net:
    """Return the row of a network, by its name or alias.

    Raises:
        UsageError: for an unknown name, with the closest known one.

    >>> get("googlenet").name
    'inception_v1'
    """
    if not isinstance(name, str):
        raise UsageError(f"received {name!r}, not a network's name; keras-cnns list names them all")
    known = ALIASES.get(name, name)
    if known not in NETS:
        hint = suggest(name, [*NETS, *ALIASES]) or "; keras-cnns list names them all"
        raise UsageError(f'unknown network "{name}"{hint}')
    return NETS[known]


def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    max_params: int | None = None,
    max_macs: int | None = None,
) -> list[str]:
    """Return the names that match a shell pattern, oldest network first.

    Args:
        pattern: of the names, as "vgg*" or "*_cifar".
        family: only networks of this family, as "ResNet"; upper and lower case are the same.
        max_params: only networks of at most so many trainable weights.
        max_macs: only networks of at most so many multiply-adds, each at its own image size.

    Raises:
        UsageError: for an unknown family.

    >>> list_models("vgg1[16]")
    ['vgg11', 'vgg16']
    >>> list_models(family="resnet", max_params=1_000_000, max_macs=50_000_000)
    ['resnet20_cifar', 'plain20_cifar']
    """
    families = {net.family.lower(): net.family for net in NETS.values()}
    if family is not None and family.lower() not in families:
        raise UsageError(
            f'unknown family "{family}"; allowed are {", ".join(families.values())}'
            f"{suggest(family.capitalize(), families.values())}"
        )
    return [
        name
        for name, net in NETS.items()
        if fnmatchcase(name, pattern)
        and (family is None or net.family == families[family.lower()])
        and (max_params is None or net.params <= max_params)
        and (max_macs is None or net.macs <= max_macs)
    ]


def spec_of(name: str, changes: Any = None) -> Any:
    """Return a network's spec, the paper's or with `changes` laid over it (see `spec.merge`).

    >>> spec_of("inception_v1", {"3a": {"conv1": 32}})["3a"].conv1
    32
    """
    paper = get(name).spec
    return paper if changes is None else specs.merge(paper, changes)
