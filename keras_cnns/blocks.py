"""The blocks of the papers: functions from feature map to feature map (batch, h, w, channels).

Every block takes a Keras tensor or a `keras_cnns.trace.FeatureMap`, and a `name` that its layers'
names begin with.
"""

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
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
    padding: str | int = "same",
    *,
    groups: int = 1,
    use_bias: bool = False,
    name: str,
) -> Any:
    """Convolution alone; arguments as of `conv_norm`."""
    if padding == "centered":
        moves = strides > 1 and kernel_size != 1
        padding = (kernel_size - 1) // 2 if moves else "same"  # type: ignore[operator]
    if isinstance(padding, int):
        x = layers.ZeroPadding2D(padding=padding, name=f"{name}_pad")(x)
        padding = "valid"
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
    padding: str | int = "same",
    *,
    groups: int = 1,
    norm: bool = True,
    use_bias: bool | None = None,
    activation: str | None = "relu",
    epsilon: float = BATCH_NORM["epsilon"],
    name: str,
) -> Any:
    """Convolution, batch normalisation, activation: act(norm(conv(x))).

    Without `norm` the convolution has a bias instead; with `use_bias=True` it has both, as in
    papers that did not yet know that the normalisation cancels it. `padding` is Keras's "same" or
    "valid", a number of zeros on every side, or "centered": (k - 1) / 2 of them, as Caffe and
    torch pad and as "same" does not where the stride is above 1. `epsilon` is what the
    normalisation adds to the variance.

    >>> from keras_cnns.trace import FeatureMap
    >>> conv_norm(FeatureMap((None, 32, 32, 3)), 64, 7, 2, name="conv1").shape
    (None, 16, 16, 64)
    """
    bias = not norm if use_bias is None else use_bias
    x = conv(x, filters, kernel_size, strides, padding, groups=groups, use_bias=bias, name=name)
    if norm:
        return norm_act(x, activation, epsilon=epsilon, name=name)
    if activation:
        x = layers.Activation(activation=activation, name=f"{name}_{activation}")(x)
    return x


def norm_conv(
    x: Any,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    strides: int = 1,
    padding: str | int = "same",
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


def norm_act(
    x: Any,
    activation: str | None = "relu",
    *,
    epsilon: float = BATCH_NORM["epsilon"],
    name: str,
) -> Any:
    """Batch normalisation and activation: act(norm(x))."""
    x = layers.BatchNormalization(**{**BATCH_NORM, "epsilon": epsilon}, name=f"{name}_bn")(x)
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


def vgg_block(
    x: Any, convs: Sequence[Conv], *, norm: bool = False, lrn: bool = False, name: str
) -> Any:
    """Convolutions, then a 2x2 max pooling that halves the map: pool(conv(...conv(x))).

    Simonyan & Zisserman 2014, table 1; with `lrn`, a local response normalisation before the
    pooling (column A-LRN). (h, w, c) -> (h / 2, w / 2, filters of the last).

    >>> from keras_cnns.trace import FeatureMap
    >>> vgg_block(FeatureMap((None, 32, 32, 3)), [Conv(64, 3), Conv(64, 3)], name="conv1").shape
    (None, 16, 16, 64)
    """
    for i, step in enumerate(convs, 1):
        x = conv_norm(x, *step, norm=norm, use_bias=True, name=f"{name}_{i}")
    if lrn:
        x = layers.LocalResponseNormalization(
            size=5, alpha=1e-4, beta=0.75, k=2.0, name=f"{name}_lrn"
        )(x)
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
    epsilon: float = BATCH_NORM["epsilon"],
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
    options: dict[str, Any] = {"norm": norm, "use_bias": use_bias, "epsilon": epsilon}
    ends = [chain(x, steps, **options, name=f"{name}_{i}") for i, steps in enumerate(branches, 1)]
    return layers.Concatenate(name=f"{name}_concat")(ends)


def chain(x: Any, steps: Sequence[Any], *, name: str, **options: Any) -> Any:
    """Convolutions, poolings and parallel branches, one after another: step_n(... step_1(x)).

    A letter is added to `name` for each step; `options` are those of `inception_block`.

    >>> from keras_cnns.trace import FeatureMap
    >>> steps = (Conv(64, 7, 2), Pool("max", 3, 2))
    >>> chain(FeatureMap((None, 32, 32, 3)), steps, name="stem_").shape
    (None, 8, 8, 64)
    """
    for letter, step in zip(ascii_lowercase[: len(steps)], steps, strict=True):
        place = f"{name}{letter}"
        if isinstance(step, Branches):
            x = inception_block(x, step, **options, name=place)
        elif isinstance(step, Pool):
            x = pool(x, step, name=f"{place}_pool")
        else:
            x = conv_norm(x, *step, **options, name=place)
    return x


ORDERS = (
    "original",
    "norm_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
)
SHORTCUTS = ("projection", "zeros", "pooled", "none")


def residual_block(
    x: Any,
    filters: int,
    *,
    strides: int = 1,
    bottleneck: bool = False,
    shortcut: str = "projection",
    order: str = "original",
    stride_in: int = 3,
    use_bias: bool = False,
    name: str,
) -> Any:
    """Residual block: x + f(x), and what `order` puts before, between and after.

    He et al. 2015, figure 5: f is two 3x3 convolutions, or with `bottleneck` a 1x1, a 3x3 and a
    1x1 of four times the filters. (h, w, c) -> (h / strides, w / strides, filters or 4 * filters).

    Args:
        x: feature map.
        filters: of the 3x3 convolutions.
        strides: of one convolution of f, and of the shortcut.
        bottleneck: the block of the right side of figure 5.
        shortcut: what stands in for x where its shape does not fit: "projection" (option B, a 1x1
            convolution), "zeros" (option A, zero channels, no weights), or "pooled" (a projection
            only where the channels differ); "none" leaves x out altogether: a plain network.
        order: of convolution, normalisation and ReLU: (a) to (e) of He et al. 2016, figure 4,
            which are the words of `ORDERS`.
        stride_in: of a bottleneck's convolutions, the kernel size of the one that takes the
            stride: 3, as everybody trains it since, or 1, as the paper has it.
        use_bias: gives the last convolution and the projection a bias.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> residual_block(FeatureMap((None, 56, 56, 64)), 128, strides=2, name="conv3_1").shape
    (None, 28, 28, 128)
    """
    for received, allowed, what in ((order, ORDERS, "order"), (shortcut, SHORTCUTS, "shortcut")):
        if received not in allowed:
            raise UsageError(
                f'{name}: unknown {what} "{received}"; allowed are {", ".join(allowed)}'
            )
    width = 4 * filters if bottleneck else filters
    if bottleneck:
        first, second = (strides, 1) if stride_in == 1 else (1, strides)
        steps = [(filters, 1, first), (filters, 3, second), (width, 1, 1)]
    else:
        steps = [(filters, 3, strides), (filters, 3, 1)]
    full = order == "full_preactivation"
    y = source = x
    for letter, (n, kernel_size, stride) in zip("abc", steps, strict=False):
        place, last = f"{name}_{letter}", letter == "abc"[len(steps) - 1]
        if full:
            y = norm_act(y, name=place)
            source = y if letter == "a" else source
        elif order == "relu_only_preactivation":
            y = layers.Activation(activation="relu", name=f"{place}_relu")(y)
        bias = use_bias and last
        y = conv(y, n, kernel_size, stride, "centered", use_bias=bias, name=place)
        if not full and not (last and order == "norm_after_addition"):
            between = order != "relu_only_preactivation"
            after = between and (not last or order == "relu_before_addition")
            y = norm_act(y, "relu" if after else None, name=place)
    if shortcut != "none":
        if strides > 1 or x.shape[-1] != width:
            x = _shortcut(x, source, width, strides, shortcut, full, use_bias, name)
        y = layers.Add(name=f"{name}_add")([x, y])
    if order == "norm_after_addition":
        return norm_act(y, name=name)
    if order == "original":
        y = layers.Activation(activation="relu", name=f"{name}_relu")(y)
    return y


def _shortcut(
    x: Any, source: Any, width: int, strides: int, kind: str, full: bool, use_bias: bool, name: str
) -> Any:
    """What stands in for x where its shape does not fit; `source` is x as f sees it."""
    if kind == "projection" or (kind == "pooled" and x.shape[-1] != width):
        place = f"{name}_shortcut"
        if full:
            return conv(source, width, 1, strides, use_bias=use_bias, name=place)
        return conv_norm(x, width, 1, strides, activation=None, name=place)
    if strides > 1:
        x = layers.MaxPooling2D(pool_size=1, strides=strides, name=f"{name}_pick")(x)
    if x.shape[-1] != width:
        x = layers.PadChannels(filters=width, name=f"{name}_zeros")(x)
    return x


def dense_block(
    x: Any, growth: int, depth: int, *, bottleneck: int = 4, dropout: float = 0.0, name: str
) -> Any:
    """Dense block: layers that see all that came before them, x = concat(x, f(x)).

    Huang et al. 2016, figure 1 and equation 2. (h, w, c) -> (h, w, c + depth * growth).

    Args:
        x: feature map.
        growth: filters of each layer's 3x3 convolution, the paper's k.
        depth: how many layers.
        bottleneck: a 1x1 convolution of so many times `growth` goes before; 0 leaves it out.
        dropout: fraction dropped after each convolution.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> dense_block(FeatureMap((None, 56, 56, 64)), 32, 6, name="dense1").shape
    (None, 56, 56, 256)
    """
    convs = [(bottleneck * growth, 1)] * (bottleneck > 0) + [(growth, 3)]
    for i in range(1, depth + 1):
        y = x
        for filters, size in convs:
            place = f"{name}_{i}_{size}x{size}"
            y = norm_conv(y, filters, size, name=place)
            if dropout:
                y = layers.Dropout(rate=dropout, name=f"{place}_dropout")(y)
        x = layers.Concatenate(name=f"{name}_{i}_concat")([x, y])
    return x


def repvgg_block(
    x: Any,
    filters: int,
    *,
    strides: int = 1,
    groups: int = 1,
    deploy: bool = False,
    name: str,
) -> Any:
    """RepVGG block: relu(norm(conv3x3(x)) + norm(conv1x1(x)) + norm(x)).

    Ding et al. 2021, figure 2; norm(x) only where its shape fits. Once trained, the sum is linear
    in x, so that one 3x3 convolution with a bias computes the same: `deploy` builds that one.
    (h, w, c) -> (h / strides, w / strides, filters).

    >>> from keras_cnns.trace import FeatureMap
    >>> repvgg_block(FeatureMap((None, 56, 56, 64)), 128, strides=2, name="stage3_1").shape
    (None, 28, 28, 128)
    """
    settings: Mapping[str, Any] = {"strides": strides, "groups": groups, "padding": "centered"}
    if deploy:
        return conv_norm(x, filters, 3, **settings, norm=False, name=name)
    branches = [
        conv_norm(x, filters, size, **settings, activation=None, name=f"{name}_{size}x{size}")
        for size in (3, 1)
    ]
    if strides == 1 and x.shape[-1] == filters:
        branches.append(norm_act(x, None, name=f"{name}_identity"))
    x = layers.Add(name=f"{name}_add")(branches)
    return layers.Activation(activation="relu", name=f"{name}_relu")(x)


def mixer_block(x: Any, tokens: int, channels: int, *, approximate: bool = True, name: str) -> Any:
    """Mixer block: x = x + f(norm(x)) across positions, then x + g(norm(x)) across channels.

    Tolstikhin et al. 2021, figure 1 and equation 1: f is the same for all channels, g for all
    positions. Both are two 1x1 convolutions, like the perceptron of a `nin_block`; for f, positions
    and channels change places. (h, w, c) -> (h, w, c).

    Args:
        x: feature map.
        tokens: hidden units of f.
        channels: hidden units of g.
        approximate: GELU by its tanh formula.
        name: the names of its layers begin with it.

    >>> from keras_cnns.trace import FeatureMap
    >>> mixer_block(FeatureMap((None, 14, 14, 512)), 256, 2048, name="mixer1").shape
    (None, 14, 14, 512)
    """
    height, width, depth = x.shape[1:]

    def perceptron(x: Any, units: int, place: str) -> Any:
        for i, filters in enumerate((units, x.shape[-1]), 1):
            x = layers.Conv2D(
                filters=filters,
                kernel_size=1,
                kernel_initializer="lecun_normal",
                name=f"{place}_{i}_conv",
            )(x)
            if i == 1:
                x = layers.GELU(approximate=approximate, name=f"{place}_1_gelu")(x)
        return x

    place = f"{name}_tokens"
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{place}_norm")(x)
    y = layers.Permute(dims=(3, 1, 2), name=f"{place}_last")(y)
    y = layers.Reshape(target_shape=(1, depth, height * width), name=f"{place}_flat")(y)
    y = perceptron(y, tokens, place)
    y = layers.Reshape(target_shape=(depth, height, width), name=f"{place}_map")(y)
    y = layers.Permute(dims=(2, 3, 1), name=f"{place}_first")(y)
    x = layers.Add(name=f"{place}_add")([x, y])

    place = f"{name}_channels"
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{place}_norm")(x)
    y = perceptron(y, channels, place)
    return layers.Add(name=f"{place}_add")([x, y])


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
