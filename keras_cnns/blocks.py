"""The blocks of the papers: functions from feature map to feature map (batch, height, width, channels).

Every block takes a Keras tensor or a `keras_cnns.trace.FeatureMap`, and a `name` that its layers'
names begin with.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_cnns.errors import UsageError
from keras_cnns.spec import Branches, Conv, Pool
from keras_cnns.trace import layers

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


class Top(NamedTuple):
    """What stands above the last feature map; `keras_cnns.build` says what each part means."""

    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    activation: str | None = "softmax"
    auxiliary: bool = False


def conv(
    x: Any,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    strides: int = 1,
    padding: str = "same",
    *,
    groups: int = 1,
    use_bias: bool = False,
    name: str,
) -> Any:
    """Convolution alone; arguments as of `conv_norm`."""
    if padding == "centered":
        if strides > 1 and kernel_size != 1:
            margin = (kernel_size - 1) // 2  # type: ignore[operator]
            x = layers.ZeroPadding2D(padding=margin, name=f"{name}_pad")(x)
            padding = "valid"
        else:
            padding = "same"
    if kernel_size == 1 and strides > 1 and x.shape[-1] < 16:
        # TensorFlow 2.21's oneDNN gradient of this convolution writes past its memory for odd
        # batches; picking the pixels first computes the same.
        x = layers.MaxPooling2D(pool_size=1, strides=strides, name=f"{name}_pick")(x)
        strides = 1
    return layers.Conv2D(
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        padding=padding,
        groups=groups,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)


def conv_norm(
    x: Any,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    strides: int = 1,
    padding: str = "same",
    *,
    groups: int = 1,
    norm: bool = True,
    use_bias: bool | None = None,
    activation: str | None = "relu",
    name: str,
) -> Any:
    """Convolution, batch normalisation, activation: act(norm(conv(x))).

    Without `norm` the convolution has a bias instead; with `use_bias=True` it has both, as in
    papers that did not yet know that the normalisation cancels it. `padding` is Keras's "same" or "valid", or
    "centered": (k - 1) / 2 zeros on every side, as Caffe and torch pad and as "same" does not
    where the stride is above 1.

    >>> from keras_cnns.trace import FeatureMap
    >>> conv_norm(FeatureMap((None, 32, 32, 3)), 64, 7, 2, name="conv1").shape
    (None, 16, 16, 64)
    """
    bias = not norm if use_bias is None else use_bias
    x = conv(x, filters, kernel_size, strides, padding, groups=groups, use_bias=bias, name=name)
    if norm:
        return norm_act(x, activation, name=name)
    if activation:
        x = layers.Activation(activation=activation, name=f"{name}_{activation}")(x)
    return x


def norm_conv(
    x: Any,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    strides: int = 1,
    padding: str = "same",
    *,
    activation: str | None = "relu",
    name: str,
) -> Any:
    """Batch normalisation, activation, convolution without bias: conv(act(norm(x))).

    The pre-activation order of He et al. 2016 and of DenseNet; arguments as of `conv_norm`.

    >>> from keras_cnns.trace import FeatureMap
    >>> norm_conv(FeatureMap((None, 32, 32, 16)), 64, 3, name="conv1").shape
    (None, 32, 32, 64)
    """
    x = norm_act(x, activation, name=name)
    return conv(x, filters, kernel_size, strides, padding, name=name)


def norm_act(x: Any, activation: str | None = "relu", *, name: str) -> Any:
    """Batch normalisation and activation: act(norm(x))."""
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_bn")(x)
    if activation:
        x = layers.Activation(activation=activation, name=f"{name}_{activation}")(x)
    return x


def pool(x: Any, step: Pool, *, name: str) -> Any:
    """Max or average pooling: the largest, or the mean, of each window.

    Padding "ceil" is Caffe's, for maps without negative values: a last window that stands half
    outside still counts.
    """
    kinds = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}
    if step.kind not in kinds:
        raise UsageError(f'{name}: unknown pool "{step.kind}"; allowed are max, average')
    padding = step.padding
    if padding == "ceil":
        ends = [(0, (step.pool_size - n) % step.strides) for n in x.shape[1:3]]
        if ends != [(0, 0), (0, 0)]:
            x = layers.ZeroPadding2D(padding=ends, name=f"{name}_pad")(x)
        padding = "valid"
    return kinds[step.kind](
        pool_size=step.pool_size, strides=step.strides, padding=padding, name=name
    )(x)


def vgg_block(x: Any, convs: Sequence[Conv], *, norm: bool = False, name: str) -> Any:
    """Convolutions, then a 2x2 max pooling that halves the map: pool(conv(...conv(x))).

    Simonyan & Zisserman 2014, table 1. (h, w, c) -> (h / 2, w / 2, filters of the last).

    >>> from keras_cnns.trace import FeatureMap
    >>> vgg_block(FeatureMap((None, 32, 32, 3)), [Conv(64, 3), Conv(64, 3)], name="conv1").shape
    (None, 16, 16, 64)
    """
    for i, step in enumerate(convs, 1):
        x = conv_norm(x, *step, norm=norm, use_bias=True, name=f"{name}_{i}")
    return pool(x, Pool("max", 2, 2, "valid"), name=f"{name}_pool")


def nin_block(x: Any, conv: Conv, mlp: Sequence[int], *, norm: bool = False, name: str) -> Any:
    """A convolution, then 1x1 convolutions: a small perceptron slid over the image.

    Lin et al. 2013, section 3.1 and figure 2.

    >>> from keras_cnns.trace import FeatureMap
    >>> nin_block(FeatureMap((None, 32, 32, 3)), Conv(192, 5), (160, 96), name="mlpconv1").shape
    (None, 32, 32, 96)
    """
    x = conv_norm(x, *conv, norm=norm, name=name)
    for i, filters in enumerate(mlp, 1):
        x = conv_norm(x, filters, norm=norm, name=f"{name}_mlp{i}")
    return x


def inception_block(
    x: Any,
    branches: Branches,
    *,
    norm: bool = False,
    use_bias: bool | None = None,
    name: str,
) -> Any:
    """Parallel branches, their channels joined: concat(branch_1(x), ..., branch_n(x)).

    Szegedy et al. 2014, figure 2: (a) naive, (b) with reductions; which of them is a matter of the
    branches. Layers are named by branch and step: `3a_2b_conv` is the second step of the second.

    >>> from keras_cnns.trace import FeatureMap
    >>> naive = Branches((Conv(64),), (Conv(128, 3),), (Conv(32, 5),), (Pool("max"),))
    >>> inception_block(FeatureMap((None, 28, 28, 192)), naive, name="3a").shape
    (None, 28, 28, 416)
    """
    ends = []
    for i, branch in enumerate(branches, 1):
        y = x
        for letter, step in zip("abcdefgh", branch, strict=False):
            place = f"{name}_{i}{letter}"
            if isinstance(step, Branches):
                y = inception_block(y, step, norm=norm, use_bias=use_bias, name=place)
            elif isinstance(step, Pool):
                y = pool(y, step, name=f"{place}_pool")
            else:
                y = conv_norm(y, *step, norm=norm, use_bias=use_bias, name=place)
        ends.append(y)
    return layers.Concatenate(name=f"{name}_concat")(ends)


def residual_block(
    x: Any,
    filters: int,
    *,
    strides: int = 1,
    bottleneck: bool = False,
    shortcut: str = "projection",
    name: str,
) -> Any:
    """Residual block: relu(x + f(x)).

    He et al. 2015, figure 5: two 3x3 convolutions, or with `bottleneck` a 1x1, a 3x3 and a 1x1 of
    four times the filters. The stride is the 3x3's, as everybody trains it since. (h, w, c) ->
    (h / strides, w / strides, filters or 4 * filters).

    Args:
        x: feature map.
        filters: of the 3x3 convolutions.
        strides: of the first 3x3 convolution, and of the shortcut.
        bottleneck: the block of the right side of figure 5.
        shortcut: what stands in for x where its shape does not fit: "projection" (option B, a 1x1
            convolution), or "zeros" (option A, zero channels, no weights). Where the shape fits
            it is x itself.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> residual_block(FeatureMap((None, 56, 56, 64)), 128, strides=2, name="conv3_1").shape
    (None, 28, 28, 128)
    """
    if bottleneck:
        width = 4 * filters
        y = conv_norm(x, filters, name=f"{name}_a")
        y = conv_norm(y, filters, 3, strides, padding="centered", name=f"{name}_b")
        y = conv_norm(y, width, activation=None, name=f"{name}_c")
    else:
        width = filters
        y = conv_norm(x, filters, 3, strides, padding="centered", name=f"{name}_a")
        y = conv_norm(y, filters, 3, activation=None, name=f"{name}_b")
    if shortcut not in ("projection", "zeros"):
        raise UsageError(f'{name}: unknown shortcut "{shortcut}"; allowed are projection, zeros')
    if strides > 1 or x.shape[-1] != width:
        if shortcut == "projection":
            x = conv_norm(x, width, 1, strides, activation=None, name=f"{name}_shortcut")
        else:
            if strides > 1:
                x = layers.MaxPooling2D(pool_size=1, strides=strides, name=f"{name}_pick")(x)
            x = layers.PadChannels(filters=width, name=f"{name}_zeros")(x)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.Activation(activation="relu", name=f"{name}_relu")(x)


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


def auxiliary_head(x: Any, top: Top, *, filters: int = 128, units: int = 1024, name: str) -> Any:
    """A small classifier on an inner feature map, that brings it a gradient of its own.

    Szegedy et al. 2014, section 5: average pooling 5x5/3, 1x1 convolution, dense layer, 70 %
    dropout, class scores. (h, w, c) -> (num_classes,).
    """
    x = pool(x, Pool("average", 5, 3, "valid"), name=f"{name}_pool")
    x = conv_norm(x, filters, norm=False, name=name)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = _dense(x, units, "relu", name=f"{name}_fc")
    x = layers.Dropout(rate=0.7, name=f"{name}_dropout")(x)
    x = layers.Dense(units=top.num_classes, dtype="float32", name=f"{name}_logits")(x)
    return layers.Activation(activation=top.activation or "linear", dtype="float32", name=name)(x)


def _dense(x: Any, units: int, activation: str, *, name: str) -> Any:
    initializer = "he_normal" if activation == "relu" else "glorot_uniform"
    x = layers.Dense(units=units, kernel_initializer=initializer, name=name)(x)
    return layers.Activation(activation=activation, name=f"{name}_{activation}")(x)
