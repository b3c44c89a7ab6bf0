"""The networks by name: one row each, and `build`, which makes a Keras model of a row."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_cnns import spec as specs
from keras_cnns.blocks import Top
from keras_cnns.errors import UsageError, suggest
from keras_cnns.trace import FeatureMap, TooSmall

if TYPE_CHECKING:
    import keras

Shape = tuple[int, int, int]
IMAGENET = (224, 224, 3)
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
    Net("vgg11_lrn", "VGG", 2014, "vgg:VGG11_LRN", 132_863_336, 7_609_090_048, 32, COUNTED),
    Net("vgg11_bn", "VGG", 2014, "vgg:VGG11_BN", 132_868_840, 7_609_090_048, 32, TORCHVISION),
    Net("vgg13", "VGG", 2014, "vgg:VGG13", 133_047_848, 11_308_466_176, 32, TORCHVISION),
    Net("vgg13_bn", "VGG", 2014, "vgg:VGG13_BN", 133_053_736, 11_308_466_176, 32, TORCHVISION),
    Net("vgg16", "VGG", 2014, "vgg:VGG16", 138_357_544, 15_470_264_320, 32, TORCHVISION),
    Net("vgg16_bn", "VGG", 2014, "vgg:VGG16_BN", 138_365_992, 15_470_264_320, 32, TORCHVISION),
    Net("vgg16_c", "VGG", 2014, "vgg:VGG16_C", 133_638_952, 11_770_888_192, 32, COUNTED),
    Net("vgg19", "VGG", 2014, "vgg:VGG19", 143_667_240, 19_632_062_464, 32, TORCHVISION),
    Net("vgg19_bn", "VGG", 2014, "vgg:VGG19_BN", 143_678_248, 19_632_062_464, 32, TORCHVISION),
    Net("inception_v1", "Inception", 2014, "inception_v1:INCEPTION_V1", 6_998_552, 1_582_671_872,
        17, CAFFE, auxiliary_params=13_378_280),
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
    Net("resnet20_cifar", "ResNet", 2015, "resnet:RESNET20_CIFAR", 269_722, 40_551_040, 3, COUNTED,
        CIFAR, 10),
    Net("resnet32_cifar", "ResNet", 2015, "resnet:RESNET32_CIFAR", 464_154, 68_862_592, 3, COUNTED,
        CIFAR, 10),
    Net("resnet44_cifar", "ResNet", 2015, "resnet:RESNET44_CIFAR", 658_586, 97_174_144, 3, COUNTED,
        CIFAR, 10),
    Net("resnet56_cifar", "ResNet", 2015, "resnet:RESNET56_CIFAR", 853_018, 125_485_696, 3,
        COUNTED, CIFAR, 10),
    Net("resnet110_cifar", "ResNet", 2015, "resnet:RESNET110_CIFAR", 1_727_962, 252_887_680, 3,
        COUNTED, CIFAR, 10),
    Net("resnet1202_cifar", "ResNet", 2015, "resnet:RESNET1202_CIFAR", 19_421_274, 2_829_238_912,
        3, COUNTED, CIFAR, 10),
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
    known = ALIASES.get(name, name)
    if known not in NETS:
        hint = suggest(name, [*NETS, *ALIASES]) or "; keras-cnns list names them all"
        raise UsageError(f'unknown network "{name}"{hint}')
    return NETS[known]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, oldest network first.

    >>> list_models("vgg1[16]")
    ['vgg11', 'vgg16']
    """
    return [name for name in NETS if fnmatchcase(name, pattern)]


def spec_of(name: str, changes: Any = None) -> Any:
    """Return a network's spec, the paper's or with `changes` laid over it (see `spec.merge`).

    >>> spec_of("inception_v1", {"3a": {"conv1": 32}})["3a"].conv1
    32
    """
    paper = get(name).spec
    return paper if changes is None else specs.merge(paper, changes)


def trace(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    spec: Any = None,
    auxiliary: bool = False,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
) -> FeatureMap:
    """Run a network's builder on a shape: its arguments are checked, its rows priced, no Keras.

    Arguments as of `build`.

    Raises:
        UsageError: for whatever `build` refuses; an image too small gets the smallest that works.
    """
    net = get(name)
    shape = tuple(input_shape or net.input_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UsageError(
            f"{net.name}: received input_shape {shape}, but it is (height, width, channels)"
        )
    classes = net.num_classes if num_classes is None else num_classes
    if not isinstance(classes, int) or classes < 1:
        raise UsageError(f"{net.name}: received {classes!r} classes, but at least 1 is needed")
    if auxiliary and not net.auxiliary_params:
        able = ", ".join(n.name for n in NETS.values() if n.auxiliary_params)
        raise UsageError(f"{net.name} has no auxiliary heads; networks that have: {able}")
    if auxiliary and not include_top:
        raise UsageError(f"{net.name}: auxiliary heads need include_top=True")
    numbers = spec_of(name, spec)
    top = Top(classes, include_top, pooling, classifier_activation, auxiliary)

    def run(height: int, width: int) -> FeatureMap:
        image = FeatureMap((None, height, width, shape[2]))
        out = net.builder(image, numbers, top)
        return out["predictions"] if isinstance(out, dict) else out

    try:
        return run(*shape[:2])
    except TooSmall:
        size = _smallest(run, max(net.input_shape[0], *shape[:2]))
        raise UsageError(
            f"{net.name}: an image of {shape[0]}x{shape[1]} is too small; "
            f"the smallest that works is {size}x{size}"
        ) from None


def _smallest(run: Callable[[int, int], FeatureMap], works: int) -> int:
    """Return the smallest square image that a builder takes, by bisection."""
    fails = 0
    while works - fails > 1:
        middle = (works + fails) // 2
        try:
            run(middle, middle)
            works = middle
        except TooSmall:
            fails = middle
    return works


def min_size(name: str, **arguments: Any) -> int:
    """Return the smallest height and width that a network takes; arguments as of `build`.

    >>> min_size("lenet5")
    32
    """
    net = get(name)
    channels = (arguments.pop("input_shape", None) or net.input_shape)[2]

    def run(height: int, width: int) -> FeatureMap:
        try:
            return trace(name, input_shape=(height, width, channels), **arguments)
        except UsageError as error:
            raise TooSmall(str(error)) from None

    return _smallest(run, net.input_shape[0])


def build(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    spec: Any = None,
    weights: str | None = None,
    auxiliary: bool = False,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
    preprocessing: str | None = None,
) -> "keras.Model":
    """Build a network as a functional Keras model.

    None stands for the paper's own. The input layer is "image", (height, width, channels); the
    class scores are the layer "logits", the probabilities "predictions".

    Args:
        name: as `list_models` has them.
        input_shape: height, width and channels of the images.
        num_classes: how many classes.
        spec: changes to the paper's numbers, as nested dicts; or a whole spec of the same kind.
        weights: a .weights.h5 or .keras file of the same network; None starts it at random.
        auxiliary: with the paper's auxiliary heads: the outputs are then a dict, "predictions" and
            one for each head.
        include_top: without it, the model ends in the last feature map.
        pooling: what becomes of that map: None, "avg" or "max" over its pixels.
        classifier_activation: of the output; None gives the class scores.
        preprocessing: what the model does to pixels from 0 to 255 first: None (they come scaled),
            "symmetric" (-1 to 1), "unit" (0 to 1), "imagenet" (torch's mean and deviation).

    Raises:
        UsageError: for an unknown name, key or option, or an image too small.

    >>> build("lenet5").count_params()
    61706
    >>> build("inception_v1", input_shape=(32, 32, 1), spec={"stem": {"kind": "small"}}).name
    'inception_v1'
    """
    net = get(name)
    shape = tuple(input_shape or net.input_shape)
    trace(
        name,
        input_shape=shape,
        num_classes=num_classes,
        spec=spec,
        auxiliary=auxiliary,
        include_top=include_top,
        pooling=pooling,
        classifier_activation=classifier_activation,
    )
    scaling = _scaling(preprocessing, shape[2])
    import keras

    image = keras.Input(shape, name="image")
    x = keras.layers.Rescaling(*scaling, name="preprocessing")(image) if scaling else image
    classes = net.num_classes if num_classes is None else num_classes
    top = Top(classes, include_top, pooling, classifier_activation, auxiliary)
    model = keras.Model(image, net.builder(x, spec_of(name, spec), top), name=net.name)
    if weights is not None:
        model.load_weights(weights)
    return model


# Scale and offset of pixels from 0 to 255; ImageNet's means and deviations are torchvision's.
PREPROCESSING: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {
        "symmetric": (1 / 127.5, -1.0),
        "unit": (1 / 255, 0.0),
        "imagenet": (
            [1 / (255 * d) for d in (0.229, 0.224, 0.225)],
            [-m / d for m, d in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)],
        ),
    }
)


def _scaling(preprocessing: str | None, channels: int) -> tuple[Any, Any] | None:
    if preprocessing is None:
        return None
    if preprocessing not in PREPROCESSING:
        raise UsageError(
            f'unknown preprocessing "{preprocessing}"; allowed are {", ".join(PREPROCESSING)}'
        )
    scaling = PREPROCESSING[preprocessing]
    if isinstance(scaling[0], list) and channels != len(scaling[0]):
        raise UsageError(
            f'preprocessing "{preprocessing}" is for 3 channels, not {channels}; use "symmetric"'
        )
    return scaling
