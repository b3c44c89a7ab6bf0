"""The few Keras layers that Keras lacks: serialisable, and the same on every backend."""

from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cnns")
class LocalResponseNormalization(keras.layers.Layer):
    """Divide each channel by a power of the squares of its neighbours: x / (k + alpha * sum)^beta.

    Krizhevsky et al. 2012, section 3.3. `alpha` multiplies the plain sum over `size` channels, as
    in the paper; Caffe and torch divide theirs by `size` first.

    Args:
        size: channels in the window, an odd number.
        alpha: weight of the sum of squares.
        beta: exponent.
        k: constant added to the sum, so that it is never zero.
        form: what TensorFlow runs at inference: "native", its own operation, or "band", the sums
            as a convolution, which ONNX Runtime and LiteRT run faster.

    >>> layer = LocalResponseNormalization(size=5, alpha=1e-4, beta=0.75, k=2.0)
    >>> abs(float(layer(ops.ones((1, 1, 1, 1)))[0, 0, 0, 0]) - (2 + 1e-4) ** -0.75) < 1e-6
    True
    """

    def __init__(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        form: str = "native",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.alpha, self.beta, self.k, self.form = size, alpha, beta, k, form

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Normalise a feature map (batch, height, width, channels)."""
        # TensorFlow's own operation is what its converters know, but its gradient takes five to
        # ten times as long as the convolution's.
        native = self.form == "native" and not training
        if native and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # The native operation, which has no bfloat16 kernel.
            x = ops.cast(inputs, "float32")
            x = tf.nn.local_response_normalization(
                x, depth_radius=self.size // 2, bias=self.k, alpha=self.alpha, beta=self.beta
            )
            return ops.cast(x, self.compute_dtype)
        return self.portable(inputs)

    def portable(self, inputs: Any) -> Any:
        """Do the same in `keras.ops`: the sums over neighbours are a 1x1 convolution."""
        x = ops.cast(inputs, "float32")
        place = np.arange(x.shape[-1])
        near = np.abs(place[:, None] - place) <= self.size // 2
        band = ops.convert_to_tensor(near[None, None].astype("float32"))
        total = self.k + self.alpha * ops.conv(ops.square(x), band, padding="same")
        if self.beta == 0.75:  # the papers' own, without the slow power
            root = ops.rsqrt(total)
            scale = root * ops.sqrt(root)
        else:
            scale = ops.power(total, -self.beta)
        return ops.cast(x * scale, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = ("size", "alpha", "beta", "k", "form")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable(package="keras_cnns")
class MatchChannels(keras.layers.Layer):
    """Add channels of zeros, or leave out the last ones: (h, w, c) -> (h, w, filters).

    The shortcut "A" of He et al. 2015, section 4.1, widens a feature map without weights. Half of
    the zeros come before the channels and half after, as in the authors' code.

    >>> MatchChannels(filters=8)(ops.ones((1, 2, 2, 4))).shape[-1]
    8
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def call(self, inputs: Any) -> Any:
        """Match a feature map (batch, height, width, channels)."""
        missing = self.filters - inputs.shape[-1]
        if missing < 0:
            return inputs[..., : self.filters]
        before = missing // 2
        return ops.pad(inputs, [(0, 0), (0, 0), (0, 0), (before, missing - before)])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape with `filters` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="keras_cnns")
class GELU(keras.layers.Layer):
    """Multiply by the normal distribution's cumulative: x * P(X <= x).

    Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415. Keras's activation "gelu" is the
    exact one alone, and of TensorFlow operations that cannot be converted to ONNX.

    Args:
        approximate: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is JAX's default,
            instead of the error function.

    >>> float(GELU()(ops.zeros((1, 1)))[0, 0])
    0.0
    """

    def __init__(self, approximate: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approximate = approximate

    def call(self, inputs: Any) -> Any:
        """Activate a tensor of any shape."""
        if self.approximate:
            return ops.gelu(inputs, approximate=True)
        return 0.5 * inputs * (1.0 + ops.erf(inputs * 0.5**0.5))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "approximate": self.approximate}


@keras.saving.register_keras_serializable(package="keras_cnns")
class WholeStrides(keras.layers.Layer):
    """Take the centre of an image: as much as differs from a size by whole strides.

    A layer with strides whose padding is "same" pads by the size of its input, and so looks at
    other pixels in images of other sizes, unless these differ by whole strides of the network.

    Args:
        size: height and width in pixels.
        strides: of height and width; no image is smaller.

    >>> WholeStrides((32, 32), (4, 4))(ops.zeros((1, 37, 43, 3))).shape
    TensorShape([1, 36, 40, 3])
    """

    def __init__(self, size: tuple[int, int], strides: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.strides = tuple(size), tuple(strides)

    def call(self, inputs: Any) -> Any:
        """Crop images (batch, height, width, channels)."""
        kept = []
        shape = ops.shape(inputs)[1:3]
        for given, size, stride in zip(shape, self.size, self.strides, strict=True):
            over = (given - size) % stride
            kept.append(slice(over // 2, given - over + over // 2))
        return inputs[:, kept[0], kept[1]]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape, a side open where the input's is."""
        batch, *sides, channels = input_shape
        kept = (
            None if given is None else given - (given - size) % stride
            for given, size, stride in zip(sides, self.size, self.strides, strict=True)
        )
        return (batch, *kept, channels)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "size": self.size, "strides": self.strides}
