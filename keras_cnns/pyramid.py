"""The feature maps of a network at each stride, as detection and segmentation take them."""

from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from keras_cnns import builder, graph
from keras_cnns.arithmetic import Size
from keras_cnns.errors import UsageError
from keras_cnns.paths import gates, trunk
from keras_cnns.trace import Row

if TYPE_CHECKING:
    import keras


def features(
    network: Any, *, levels: Iterable[int] | None = None, **arguments: Any
) -> "keras.Model":
    """Return a model from images to a network's feature maps: {"c2": ..., "c5": ...}.

    Level k has a stride of 2**k pixels. Its map is one that everything goes through: of the layers
    on every path from the image to the last map, at this stride, the widest, and of these the
    last. So a ResNet gives the outputs of its stages, a VGG the maps before its poolings, a
    DenseNet its blocks before the transition narrows them: C1 to C5 of Lin et al. 2016, section 3,
    https://arxiv.org/abs/1612.03144. Layers and weights are the network's own.

    Args:
        network: a zoo name, or a functional Keras model that takes one image.
        levels: which; None takes all that the network has.
        arguments: as of `keras_cnns.build`, for a name; its top is left out unless they ask for it.

    Raises:
        UsageError: as `keras_cnns.build`; for a level that the network lacks, naming those it has.

    >>> model = features("resnet18", input_shape=(64, 64, 3), levels=[2, 5])
    >>> {name: x.shape for name, x in model.output.items()}
    {'c2': (None, 16, 16, 64), 'c5': (None, 2, 2, 512)}
    """
    wanted = None if levels is None else list(levels)
    if isinstance(network, str):
        arguments = {"include_top": False, **arguments}
        others = {k: v for k, v in arguments.items() if k != "weights"}
        _check_levels(network, choose(builder.trace(network, **others).rows), wanted)
        network = builder.build(network, **arguments)
    elif arguments:
        raise UsageError(f"{', '.join(arguments)}: these are for a network's name, not for a model")
    found = graph.read(network)
    shapes = list(found.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise UsageError(
            f"{network.name} takes {shapes}; features are of a model that takes one image"
        )
    maps = choose(found.rows, found.outputs, among=found.tensors)
    _check_levels(network.name, maps, wanted)
    import keras

    outputs = {f"c{level}": found.tensors[maps[level].name] for level in wanted or maps}
    return keras.Model(network.input, outputs, name=f"{network.name}_features")


def _check_levels(name: str, maps: dict[int, Row], wanted: list[int] | None) -> None:
    if not maps:
        raise UsageError(
            f"{name} has no feature map that every path goes through at a known stride, as where "
            "positions are mixed; of a model within a model, give that model"
        )
    if wanted is not None and (not wanted or any(level not in maps for level in wanted)):
        raise UsageError(f"{name}: received levels {wanted}; it has {', '.join(map(str, maps))}")


def choose(
    rows: Sequence[Row], outputs: Iterable[str] = (), *, among: Container[str] | None = None
) -> dict[int, Row]:
    """Return the layer of each level's feature map; see `features`.

    Args:
        rows: of all layers.
        outputs: layers whose output is the network's, besides those that no other layer takes.
        among: names of the layers to choose among; None allows all.

    >>> {level: row.name for level, row in choose(builder.trace("alexnet").rows).items()}
    {2: 'conv1_lrn', 3: 'conv2_lrn', 4: 'conv4_relu', 5: 'conv5_pool'}
    """
    order = trunk(rows, outputs)
    start = next((i for i, row in enumerate(order) if row.macs), len(order))
    level = -1
    found: dict[int, Row] = {}
    for i in gates(order):
        row = order[i]
        if len(row.shape) != 3 or row.kind.startswith("Global"):
            break
        if row.stride is None:
            found.pop(level, None)  # who knows how far it goes on
            break
        level = _level(row.stride)
        if level < 0 or i < start or row.kind == "ZeroPadding2D":
            continue
        if (among is None or row.name in among) and (
            level not in found or row.shape[-1] >= found[level].shape[-1]
        ):
            found[level] = row
    return dict(sorted(found.items()))


def _level(stride: Size) -> int:
    """Return k of a stride of 2**k in both directions, else -1."""
    power = len(set(stride)) == 1 and stride[0].bit_count() == 1
    return stride[0].bit_length() - 1 if power else -1
