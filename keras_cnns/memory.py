"""How many bytes a network needs at once, read off its graph: float32, one image."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from keras_cnns.arithmetic import Shape
from keras_cnns.paths import ends, schedule
from keras_cnns.trace import Row

BYTES = 4  # of a float32

# What may be written over its own input, where nobody else needs that: number by number, or the
# same numbers in another shape.
IN_PLACE = frozenset(
    {
        "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Clip",
        "Dropout", "ELU", "Elu", "ExpandDims", "Flatten", "GELU", "GaussianDropout",
        "GaussianNoise", "Gelu", "HardSigmoid", "HardSilu", "Identity", "LayerNormalization",
        "LayerScale", "LeakyReLU", "LeakyRelu", "Normalization", "PReLU", "RMSNormalization",
        "ReLU", "Relu", "Relu6", "Rescaling", "Reshape", "Sigmoid", "Silu", "Softmax",
        "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Squeeze", "StochasticDepth",
        "Tanh",
    }
)  # fmt: skip


def peak_activation_bytes(
    rows: Sequence[Row], inputs: Mapping[str, Shape], outputs: Iterable[str] = ()
) -> int:
    """Return the largest sum of feature maps that are needed at once; see `live_bytes`."""
    start = BYTES * sum(map(prod, inputs.values()))
    return max([start, *live_bytes(rows, inputs, outputs).values()])


def live_bytes(
    rows: Sequence[Row], inputs: Mapping[str, Shape], outputs: Iterable[str] = ()
) -> dict[str, int]:
    """Return the feature maps, in bytes, that there are when each layer has run, by its name.

    That is for inference, in the order of `paths.schedule`. A layer's output is there beside its
    inputs; an input goes once no later layer takes it. Activations, normalisations and the like
    are written over their input where nobody else needs it.

    Args:
        rows: of all layers.
        inputs: shapes of what the network takes, which is there from the start.
        outputs: layers whose output is the network's, besides those that no other layer takes.

    >>> conv = Row("conv", "Conv2D", (4, 4, 2), 0, 0, (1, 1), (1, 1), ("image",))
    >>> relu = Row("relu", "ReLU", (4, 4, 2), 0, 0, (1, 1), (1, 1), ("conv",))
    >>> live_bytes([conv, relu], {"image": (4, 4, 3)})
    {'conv': 320, 'relu': 128}
    """
    left = Counter(name for row in rows for name in row.inputs)
    left.update(outputs)
    held = {name: BYTES * prod(shape) for name, shape in inputs.items()}
    now, found = sum(held.values()), {}
    for row in schedule(rows, ends(rows, outputs)):
        size, first = row.activation_bytes, row.inputs[0]
        alone = len(row.inputs) == 1 and left[first] == 1
        if row.kind in IN_PLACE and alone and held[first] == size:
            held[first] = 0  # it is this layer's output now
        else:
            now += size
        held[row.name] = size
        found[row.name] = now
        for name in row.inputs:
            left[name] -= 1
            if left[name] == 0:
                now -= held.pop(name)
    return found


def in_words(size: int) -> str:
    """Return bytes with their unit.

    >>> in_words(251_000_000), in_words(84)
    ('251.0 MB', '84 B')
    """
    if size < 1000:
        return f"{size} B"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.1f} {' kMGT'[power]}B"
