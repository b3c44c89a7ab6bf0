"""What a layer of a Keras model does and costs, measured on the layer itself, by its kind.

Multiply-adds and windows are known of the kinds named here. Of another kind, a kernel is refused,
and a window is not known.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from inspect import signature
from math import prod
from typing import Any, NamedTuple

from keras_cnns.arithmetic import ARITHMETIC, Effect, Shape, Size, moved, padded


def _each(*kinds: str) -> set[str]:
    """Return the names of kinds of layers for one, two and three directions."""
    return {f"{kind}{n}D" for kind in kinds for n in (1, 2, 3)}


CONVOLUTIONS = _each("Conv", "DepthwiseConv", "SeparableConv")
TRANSPOSED = {f"Conv{n}DTranspose" for n in (1, 2, 3)}
POOLS = _each("MaxPooling", "AveragePooling")
GLOBAL = {*_each("GlobalMaxPooling", "GlobalAveragePooling"), "Flatten"}
ADAPTIVE = {"AdaptiveMaxPooling2D", "AdaptiveAveragePooling2D"}
MOVED = {"ExpandDims", "Permute", "Reshape", "Squeeze"}
# What sees each pixel by itself when it is not trained: layers of Keras, of its applications and
# ours; operations.
POINTWISE_LAYERS = {
    *_each("ZeroPadding", "Cropping", "SpatialDropout"), "Activation", "ActivityRegularization",
    "Add", "AlphaDropout", "Average", "BatchNormalization", "Concatenate", "CustomScaleLayer",
    "Dense", "Dropout", "ELU", "GELU", "GaussianDropout", "GaussianNoise", "Identity",
    "LayerNormalization", "LayerScale", "LeakyReLU", "LocalResponseNormalization", "MatchChannels",
    "Maximum", "Minimum", "Multiply", "Normalization", "PReLU", "RMSNormalization",
    "RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation",
    "RandomZoom", "ReLU", "Rescaling", "Softmax", "StochasticDepth", "Subtract",
    "UnitNormalization",
}  # fmt: skip
POINTWISE_OPERATIONS = {
    "Abs", "Absolute", "Add", "Cast", "Clip", "Concatenate", "Divide", "Elu", "Erf", "Exp", "Gelu",
    "HardSigmoid", "HardSilu", "LeakyRelu", "Log", "LogSoftmax", "Maximum", "Minimum", "Multiply",
    "Negative", "Pad", "Power", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Silu", "Softmax",
    "Softplus", "Softsign", "Sqrt", "Square", "StopGradient", "Subtract", "Tanh", "TrueDivide",
}  # fmt: skip
# Weights of more than one dimension that are no kernel: one for each number, or a table.
PER_NUMBER = {"Embedding", "LayerNormalization", "LayerScale", "Normalization", "PReLU"}
# Products of matrices, or what may hold some, whose cost is not written down here.
UNPRICED = {
    "AdditiveAttention", "AssociativeScan", "Attention", "CDist", "Cond", "Corrcoef", "Correlate",
    "Dot", "DotProductAttention", "ForiLoop", "GaussianBlur", "Inner", "Kron", "Map",
    "MelSpectrogram", "Outer", "STFTSpectrogram", "Scan", "SobelEdges", "Switch", "Tensordot",
    "Vdot", "VectorizedMap", "WhileLoop",
}  # fmt: skip


class Call(NamedTuple):
    """One call of a layer or an operation; the shapes of maps are without the batch."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: list[Shape]
    output: Shape

    @property
    def kind(self) -> str:
        """The name of its class, where that is Keras's or ours."""
        cls = type(self.operation)
        return cls.__name__ if cls.__module__.split(".")[0] in ("keras", "keras_cnns") else ""

    @property
    def own(self) -> bool:
        """Whether the code of its call is neither Keras's nor ours."""
        return self.kind in ("", "Lambda")

    @property
    def kernels(self) -> list[Shape]:
        """The shapes of its weights of more than one dimension."""
        weights = getattr(self.operation, "weights", ())
        return [tuple(weight.shape) for weight in weights if len(weight.shape) > 1]

    @property
    def channels_first(self) -> bool:
        """Whether height and width come after the channels."""
        return getattr(self.operation, "data_format", None) == "channels_first"

    @property
    def pointwise(self) -> bool:
        """Whether it sees each pixel by itself, with all channels."""
        layer = hasattr(self.operation, "weights")
        if self.kind not in (POINTWISE_LAYERS if layer else POINTWISE_OPERATIONS):
            return False
        if self.kind == "BatchNormalization":
            return True
        axes = getattr(self.operation, "axis", None)
        axes = axes if isinstance(axes, list | tuple) else [axes]
        return all(axis in (None, -1, len(self.output)) for axis in axes)


def effect(call: Call) -> Effect | None:
    """Return what a call does, but for its weights, or None where its multiply-adds are unknown."""
    macs: int | None = 0
    if call.kind in PRODUCTS:
        macs = PRODUCTS[call.kind](call)
    elif call.own or call.kind in UNPRICED or (call.kernels and call.kind not in PER_NUMBER):
        macs = None
    return None if macs is None else _window(call)._replace(shape=call.output, macs=macs)


def _window(call: Call) -> Effect:
    """Return an effect with the window of a call and its strides."""
    kind, layer, x = call.kind, call.operation, call.inputs[0]
    if call.channels_first:
        return UNKNOWN
    if call.pointwise:
        return Effect((), before=_shift(call))
    if kind in CONVOLUTIONS:
        sizes = zip(layer.kernel_size, layer.dilation_rate, strict=True)
        return _sliding(call, tuple((k - 1) * d + 1 for k, d in sizes))
    if kind in POOLS:
        return _sliding(call, layer.pool_size)
    if kind in GLOBAL:
        return Effect((), window=x[:-1], strides=x[:-1]) if len(x) > 1 else Effect(())
    if kind in ADAPTIVE:
        return ARITHMETIC["AdaptiveAveragePooling2D"](x, {"output_size": layer.output_size})
    if kind == "GroupNormalization":
        return Effect((), window=x[:-1], strides=(1,) * (len(x) - 1))
    if kind in MOVED:
        return moved(x, call.output, tuple(getattr(layer, "dims", ())))
    if kind in TRANSPOSED | _each("UpSampling"):
        enlarged = layer.strides if kind in TRANSPOSED else layer.size
        enlarged = (enlarged,) if isinstance(enlarged, int) else enlarged
        steps: Any = tuple(Fraction(1, n) for n in enlarged)
        return UNKNOWN._replace(strides=steps)
    return UNKNOWN


def _sliding(call: Call, window: Size) -> Effect:
    layer, x = call.operation, call.inputs[0]
    before = padded(x, window, layer.strides, layer.padding)
    return Effect((), window=window, strides=layer.strides, before=before)


def _shift(call: Call) -> Shape:
    """Return by how many pixels a map begins earlier than its input: padding less cropping."""
    layer, kind = call.operation, call.kind
    if kind == "Pad":
        sides, sign = layer.pad_width[1:-1], 1
    elif kind.startswith(("ZeroPadding", "Cropping")):
        sign = 1 if kind.startswith("Zero") else -1
        sides = layer.padding if sign > 0 else layer.cropping
    else:
        return ()
    return tuple(sign * (side[0] if isinstance(side, Sequence) else side) for side in sides)


UNKNOWN = Effect((), window=None, strides=None)


def _kernels(count: int, places: Callable[[Call], Shape]) -> Callable[[Call], int | None]:
    """Return the multiply-adds of so many kernels, each used in every place of a map."""

    def multiply_adds(call: Call) -> int | None:
        kernels = call.kernels
        # Others were added to adapt the layer or to shrink it.
        if len(kernels) != count or getattr(call.operation, "quantization_mode", None):
            return None
        shape = places(call)
        pixels = prod(shape[1:] if call.channels_first else shape[:-1])
        return pixels * sum(map(prod, kernels))

    return multiply_adds


def einsum(equation: str, shapes: Sequence[Sequence[int | None]]) -> int:
    """Return the multiply-adds of a product of two, None being the batch.

    >>> einsum("abc,cd->abd", [(None, 10, 3), (3, 5)])
    150
    >>> einsum("...c,cd->...d", [(None, 7, 7, 3), (3, 5)])
    735
    """
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.split("->")[0].split(","), shapes, strict=True):
        left = [1 if n is None else n for n in shape]
        before, _, after = letters.replace(" ", "").partition("...")
        sizes.update([(letter, left.pop(0)) for letter in before])
        sizes.update([(letter, left.pop()) for letter in reversed(after)])
        sizes["..."] = max(sizes.get("...", 1), prod(left))
    return prod(sizes.values())


def _einsum_dense(call: Call) -> int | None:
    layer = call.operation
    if layer.quantization_mode or layer.lora_enabled:
        return None
    return einsum(layer.equation, [(None, *call.inputs[0]), layer.kernel.shape])


def _einsum_operation(call: Call) -> int | None:
    shapes = [getattr(operand, "shape", ()) for operand in call.args]
    return einsum(call.operation.subscripts, shapes) if len(shapes) == 2 else None


def _matmul(call: Call) -> int:
    first, *_ = [*call.args, *call.kwargs.values()]
    return prod(call.output) * first.shape[-1]


def _given_kernels(places: Callable[[Call], Shape]) -> Callable[[Call], int | None]:
    """Return the multiply-adds of an operation that is given its kernels beside the map."""

    def multiply_adds(call: Call) -> int | None:
        _, *kernels = [*call.args, *call.kwargs.values()]
        shape = places(call)
        if call.channels_first or len(shape) != len(call.inputs[0]):
            return None
        return prod(shape[:-1]) * sum(prod(kernel.shape) for kernel in kernels)

    return multiply_adds


def _attention(call: Call) -> int | None:
    """Projections of queries, keys, values and answers, and the products between them."""
    layer = call.operation
    given = signature(layer.call).bind(*call.args, **call.kwargs).arguments
    query, value = given["query"].shape[1:], given["value"].shape[1:]
    key = value if given.get("key") is None else given["key"].shape[1:]
    projections = [
        (layer._query_dense, query), (layer._key_dense, key), (layer._value_dense, value),
        (layer._output_dense, query),
    ]  # fmt: skip
    if layer._use_gate:
        projections.append((layer._gate_dense, query))
    if any(dense.quantization_mode or dense.lora_enabled for dense, _ in projections):
        return None
    keys = prod(key[axis - 1] for axis in layer._attention_axes)
    depth = layer._num_heads * (layer._key_dim + layer._value_dim)
    projected = sum(prod(dense.kernel.shape) * prod(shape[:-1]) for dense, shape in projections)
    return projected + prod(query[:-1]) * keys * depth


PRODUCTS: Mapping[str, Callable[[Call], int | None]] = {
    **dict.fromkeys(_each("Conv", "DepthwiseConv"), _kernels(1, lambda call: call.output)),
    **dict.fromkeys(_each("SeparableConv"), _kernels(2, lambda call: call.output)),
    # Each pixel of the input is multiplied with the whole kernel.
    **dict.fromkeys(TRANSPOSED, _kernels(1, lambda call: call.inputs[0])),
    "Dense": _kernels(1, lambda call: call.output),
    "EinsumDense": _einsum_dense,
    "Einsum": _einsum_operation,
    "Matmul": _matmul,
    **dict.fromkeys(
        ["Conv", "DepthwiseConv", "SeparableConv"], _given_kernels(lambda call: call.output)
    ),
    "ConvTranspose": _given_kernels(lambda call: call.inputs[0]),
    "MultiHeadAttention": _attention,
}
