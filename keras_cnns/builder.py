"""From a network's name to its feature maps on shapes, its smallest image, its Keras model."""

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_cnns import spec as specs
from keras_cnns.arithmetic import TooSmall
from keras_cnns.blocks import Top
from keras_cnns.errors import UsageError, suggest
from keras_cnns.preprocessing import scaling
from keras_cnns.quiet import start_keras
from keras_cnns.trace import FeatureMap, layers
from keras_cnns.zoo import NETS, Net, get, spec_of

if TYPE_CHECKING:
    import keras

LARGEST = 1 << 14
ACTIVATIONS = ("softmax", "sigmoid", "linear")
POOLINGS = ("avg", "max")


class Plan(NamedTuple):
    """A network with everything decided that `build` lets one leave open."""

    net: Net
    image_shape: tuple[int, int, int]
    spec: Any
    top: Top
    scaling: tuple[Any, Any] | None = None  # of pixels: their scale and offset

    def outputs(self, image: Any) -> Any:
        """Return what comes out of an image: a map, or with auxiliary heads a dict of maps."""
        if self.scaling:
            scale, offset = self.scaling
            image = layers.Rescaling(scale=scale, offset=offset, name="preprocessing")(image)
        return self.net.builder(image, self.spec, self.top)

    def run(self, height: int, width: int) -> FeatureMap:
        """Run the builder on an image of another size; its main output, with all rows."""
        out = self.outputs(FeatureMap((None, height, width, self.image_shape[2])))
        return out["predictions"] if isinstance(out, dict) else out

    def smallest(self) -> int:
        """Return the height and width of the smallest square image, by bisection."""

        def works(size: int) -> bool:
            try:
                self.run(size, size)
            except TooSmall:
                return False
            return True

        high = self.net.input_shape[0]
        while not works(high):
            high *= 2
            if high > LARGEST:
                raise UsageError(f"{self.net.name}: no image of up to {LARGEST} pixels is enough")
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if works(middle) else (middle, high)
        return high


def plan(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    spec: Any = None,
    auxiliary: bool = False,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
    preprocessing: str | None = None,
) -> Plan:
    """Check what `build` is asked for, but for the size of the image; arguments as of `build`.

    Raises:
        UsageError: for an unknown name, key or option.
    """
    net = get(name)
    given = net.input_shape if input_shape is None else input_shape
    try:
        shape = tuple(map(operator.index, given))
    except TypeError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            f"{net.name}: received input_shape {given}, but it is (height, width, channels)"
        )
    classes = _count(net.num_classes if num_classes is None else num_classes)
    if not classes:
        raise UsageError(f"{net.name}: received {num_classes!r} classes, but at least 1 is needed")
    if auxiliary and not net.auxiliary_params:
        able = ", ".join(n.name for n in NETS.values() if n.auxiliary_params)
        raise UsageError(f"{net.name} has no auxiliary heads; networks that have: {able}")
    if auxiliary and not include_top:
        raise UsageError(f"{net.name}: auxiliary heads need include_top=True")
    for received, allowed, what in (
        (classifier_activation, ACTIVATIONS, "classifier_activation"),
        (pooling, POOLINGS, "pooling"),
    ):
        if received is not None and received not in allowed:
            raise UsageError(
                f'{net.name}: unknown {what} "{received}"; allowed are '
                f"{', '.join(allowed)}, None{suggest(received, allowed)}"
            )
    top = Top(classes, include_top, pooling, classifier_activation, auxiliary)
    image_shape = (shape[0], shape[1], shape[2])
    return Plan(net, image_shape, spec_of(name, spec), top, scaling(preprocessing, shape[2]))


def _count(number: Any) -> int:
    """Return a whole number above 0, numpy's among them; 0 for what is none."""
    try:
        return max(0, operator.index(number))
    except TypeError:
        return 0


def trace(name: str, **arguments: Any) -> FeatureMap:
    """Run a network's builder on a shape: its rows are priced, its image checked, no Keras.

    Arguments as of `build`, but for weights.

    Raises:
        UsageError: for whatever `build` refuses; an image too small gets the smallest that works.

    >>> trace("lenet5").shape
    (None, 10)
    """
    wanted = plan(name, **arguments)
    height, width, _ = wanted.image_shape
    try:
        return wanted.run(height, width)
    except TooSmall:
        size = wanted.smallest()
        raise UsageError(
            f"{wanted.net.name}: an image of {height}x{width} is too small; "
            f"the smallest that works is {size}x{size}"
        ) from None


def min_size(name: str, **arguments: Any) -> int:
    """Return the smallest height and width that a network takes; arguments as of `build`.

    >>> min_size("lenet5")
    32
    """
    return plan(name, **arguments).smallest()


def build(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    spec: Any = None,
    weights: str | Path | None = None,
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
        weights: None starts at random; "imagenet" takes keras.applications' weights, which Keras
            downloads once; a path those of a file: a .keras or .weights.h5 file of the same
            network here, or a .safetensors, .pth or .npz state dict of torchvision's or timm's.
            They bring their preprocessing with them; without the top, the others are taken.
        auxiliary: with the paper's auxiliary heads: the outputs are then a dict, "predictions" and
            one for each head.
        include_top: without it, the model ends in the last feature map.
        pooling: what becomes of that map: None, "avg" or "max" over its pixels.
        classifier_activation: of the output; None gives the class scores.
        preprocessing: what the model does to pixels from 0 to 255 first: None (they come scaled),
            "symmetric" (-1 to 1), "unit" (0 to 1), "imagenet" (torch's mean and deviation),
            "caffe" (mean alone).

    Raises:
        UsageError: for an unknown name, key or option, an image too small, or weights that do not
            fit; names the first layer that they do not fit.

    >>> build("lenet5").count_params()
    61706
    >>> build("inception_v1", input_shape=(32, 32, 1), spec={"stem": {"kind": "small"}}).name
    'inception_v1'
    """
    arguments: dict[str, Any] = {
        "input_shape": input_shape,
        "num_classes": num_classes,
        "spec": spec,
        "auxiliary": auxiliary,
        "include_top": include_top,
        "pooling": pooling,
        "classifier_activation": classifier_activation,
    }
    rows = trace(name, **arguments).rows
    wanted = plan(name, **arguments)
    carried = None
    if weights is not None:
        from keras_cnns.weights import assign, carry

        carried = carry(
            weights,
            wanted.net,
            rows,
            spec=spec,
            include_top=include_top,
            preprocessing=preprocessing,
        )
        preprocessing = preprocessing or carried.preprocessing
        wanted = wanted._replace(spec=specs.merge(wanted.spec, carried.spec))
    wanted = wanted._replace(scaling=scaling(preprocessing, wanted.image_shape[2]))
    start_keras()
    import keras

    image = keras.Input(wanted.image_shape, name="image")
    model = keras.Model(image, wanted.outputs(image), name=wanted.net.name)
    if carried:
        assign(model, carried, wanted.net)
    return model
