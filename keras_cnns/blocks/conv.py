"""Convolution, normalisation, activation and pooling, in the orders that papers have them."""

from typing import Any

from keras_cnns.errors import UsageError
from keras_cnns.spec import Pool
from keras_cnns.trace import layers

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


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
    outside still counts. "centered" is (pool_size - 1) / 2 on every side, as torch pads unasked:
    with zeros that count in a mean, and with what no maximum takes.
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
    elif padding == "centered" and step.kind == "average":
        x = layers.ZeroPadding2D(padding=(step.pool_size - 1) // 2, name=f"{name}_pad")(x)
        padding = "valid"
    elif padding == "centered":
        # "same" is centered where the stride is 1.
        x = layers.MaxPooling2D(
            pool_size=step.pool_size, strides=1, padding="same", name=f"{name}_all"
        )(x)
        return layers.MaxPooling2D(pool_size=1, strides=step.strides, name=name)(x)
    return kinds[step.kind](
        pool_size=step.pool_size, strides=step.strides, padding=padding, name=name
    )(x)
