"""What stands above a feature map: class scores, probabilities, auxiliary heads."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_cnns.blocks.conv import BATCH_NORM, conv_norm, pool
from keras_cnns.errors import UsageError
from keras_cnns.spec import Pool
from keras_cnns.trace import layers


class Top(NamedTuple):
    """What stands above the last feature map; `keras_cnns.build` says what each part means."""

    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    activation: str | None = "softmax"
    auxiliary: bool = False


def classifier(
    x: Any,
    top: Top,
    *,
    hidden: Mapping[str, int] | None = None,
    flatten: bool = False,
    dropout: float = 0.0,
    activation: str = "relu",
) -> Any:
    """The end of a network: pool or flatten, hidden dense layers, class scores, softmax.

    (h, w, c) -> (num_classes,). The scores before the softmax are the layer "logits", the
    probabilities "predictions". Without its top, the feature map, pooled as `top.pooling` says.

    Args:
        x: feature map.
        top: what the caller of `keras_cnns.build` asked for.
        hidden: units of dense layers below the scores, by name.
        flatten: flatten the map, as nets before NiN do, instead of averaging it.
        dropout: fraction dropped: of the pooled features, or after each hidden layer.
        activation: of the hidden layers.
    """
    if not top.include_top:
        return pooled(x, top.pooling)
    if flatten:
        x = layers.Flatten(name="flatten")(x)
    else:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        if dropout and not hidden:
            x = layers.Dropout(rate=dropout, name="dropout")(x)
    for name, units in (hidden or {}).items():
        x = _dense(x, units, activation, name=name)
        if dropout:
            x = layers.Dropout(rate=dropout, name=f"{name}_dropout")(x)
    x = layers.Dense(units=top.num_classes, dtype="float32", name="logits")(x)
    return predictions(x, top)


def pooled(x: Any, pooling: str | None) -> Any:
    """A feature map without its top: as it is, or its mean or maximum over all pixels."""
    if pooling is None:
        return x
    kinds = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}
    if pooling not in kinds:
        raise UsageError(f'unknown pooling "{pooling}"; allowed are avg, max')
    return kinds[pooling](name="pool")(x)


def predictions(logits: Any, top: Top) -> Any:
    """Probabilities of the class scores, in float32 whatever the precision of the rest."""
    return layers.Activation(
        activation=top.activation or "linear", dtype="float32", name="predictions"
    )(logits)


def auxiliary_head(
    x: Any,
    top: Top,
    *,
    filters: int = 128,
    units: int = 1024,
    size: int | None = None,
    norm: bool = False,
    epsilon: float = BATCH_NORM["epsilon"],
    name: str,
) -> Any:
    """A small classifier on an inner feature map, that brings it a gradient of its own.

    Szegedy et al. 2014, section 5: average pooling 5x5/3, 1x1 convolution, dense layer, 70 %
    dropout, class scores. With a `size`, the means of so many times so many parts of the map
    instead, as torchvision has it. (h, w, c) -> (num_classes,).
    """
    if size is None:
        x = pool(x, Pool("average", 5, 3, "valid"), name=f"{name}_pool")
    else:
        x = layers.AdaptiveAveragePooling2D(output_size=size, name=f"{name}_pool")(x)
    x = conv_norm(x, filters, norm=norm, epsilon=epsilon, name=name)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = _dense(x, units, "relu", name=f"{name}_fc")
    x = layers.Dropout(rate=0.7, name=f"{name}_dropout")(x)
    return _auxiliary_scores(x, top, name)


def auxiliary_conv_head(
    x: Any,
    top: Top,
    *,
    filters: tuple[int, int] = (128, 768),
    epsilon: float = BATCH_NORM["epsilon"],
    name: str,
) -> Any:
    """A small classifier on an inner feature map, without a hidden dense layer.

    Szegedy et al. 2015, section 4, as the authors' code has it: average pooling 5x5/3, 1x1
    convolution, a convolution over all that is left of a map of 17x17 (5x5), class scores.
    (h, w, c) -> (num_classes,).

    >>> from keras_cnns.trace import FeatureMap
    >>> auxiliary_conv_head(FeatureMap((None, 17, 17, 768)), Top(10), name="auxiliary1").shape
    (None, 10)
    """
    x = pool(x, Pool("average", 5, 3, "valid"), name=f"{name}_pool")
    x = conv_norm(x, filters[0], epsilon=epsilon, name=f"{name}_a")
    window = (min(x.shape[1], 5), min(x.shape[2], 5))
    x = conv_norm(x, filters[1], window, padding="valid", epsilon=epsilon, name=f"{name}_b")
    x = layers.GlobalAveragePooling2D(name=f"{name}_mean")(x)
    return _auxiliary_scores(x, top, name)


def _auxiliary_scores(x: Any, top: Top, name: str) -> Any:
    x = layers.Dense(units=top.num_classes, dtype="float32", name=f"{name}_logits")(x)
    return layers.Activation(activation=top.activation or "linear", dtype="float32", name=name)(x)


def _dense(x: Any, units: int, activation: str, *, name: str) -> Any:
    initializer = "he_normal" if activation == "relu" else "glorot_uniform"
    x = layers.Dense(units=units, kernel_initializer=initializer, name=name)(x)
    return layers.Activation(activation=activation, name=f"{name}_{activation}")(x)
