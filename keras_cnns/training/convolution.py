"""A convolution that trains faster on a CPU where maps are small and channels many."""

from itertools import product
from typing import Any

import keras

Taps = list[tuple[slice, slice] | None]


class TrainedConv2D(keras.layers.Conv2D):
    """Keras's convolution; on TensorFlow with the gradient of its filters by products of matrices.

    oneDNN's own goes through all filters once for each image, which takes longer than to multiply
    where maps are small. It is for training alone: what is saved has Keras's own layer.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve a batch (batch, height, width, channels)."""
        import tensorflow as tf

        _, *size, _ = inputs.shape
        plain = self.dilation_rate == (1, 1) and self.groups == 1
        if not plain or None in size or self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        axes = [
            reach(*each, self.padding)
            for each in zip(size, self.kernel_size, self.strides, strict=True)
        ]
        if not _pays(axes, self.strides, kernel.shape):
            return super().convolution_op(inputs, kernel)
        return _convolved(axes, self.strides, self.padding)(inputs, tf.convert_to_tensor(kernel))


def reach(size: int, taps: int, stride: int, padding: str) -> Taps:
    """Return, for each tap of a kernel along one axis, what it multiplies and where that is added.

    Args:
        size: of the map along this axis.
        taps: of the kernel.
        stride: of the kernel.
        padding: "same" or "valid".

    Returns:
        for each tap a slice of the map and one of the output; None where it meets padding alone.

    >>> reach(1, 3, 1, "same")
    [None, (slice(0, 1, 1), slice(0, 1, None)), None]
    >>> reach(4, 2, 2, "valid")
    [(slice(0, 3, 2), slice(0, 2, None)), (slice(1, 4, 2), slice(0, 2, None))]
    """
    same = padding == "same"
    made = -(-size // stride) if same else (size - taps) // stride + 1
    before = max((made - 1) * stride + taps - size, 0) // 2 if same else 0
    found: Taps = []
    for tap in range(taps):
        first = max(0, -((tap - before) // stride))
        last = min(made - 1, (size - 1 + before - tap) // stride)
        start, stop = (place * stride + tap - before for place in (first, last))
        known = slice(start, stop + 1, stride), slice(first, last + 1)
        found.append(known if first <= last else None)
    return found


def _pays(axes: list[Taps], strides: tuple[int, int], shape: tuple[int, ...]) -> bool:
    """Return whether to gather the pixels of each tap takes less time than to multiply them.

    It is taken to be so where a map has fewer pixels than channels, or nothing is to be gathered.
    """
    rows, columns, channels, filters = shape
    if rows == columns == 1 and strides == (1, 1):
        return True
    height, width = (max(each[1].stop for each in axis if each) for axis in axes)
    return height * width * (channels + filters) <= 2 * channels * filters


def _convolved(axes: list[Taps], strides: tuple[int, int], padding: str) -> Any:
    """Return a function of a batch and a kernel that convolves them."""
    import tensorflow as tf

    met = [[tap for tap, each in enumerate(axis) if each] for axis in axes]
    settings = {"strides": (1, *strides, 1), "padding": padding.upper()}

    @tf.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> Any:
        if [len(taps) for taps in met] == [1, 1]:  # all others meet padding alone
            used = kernel[met[0][0], met[1][0]][None, None]
        else:
            used = kernel

        def gradients(upstream: Any) -> tuple[Any, Any]:
            of_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs), filter=used, out_backprop=upstream, **settings
            )
            channels, filters = inputs.shape[-1], upstream.shape[-1]
            taps = []
            for row, column in product(*axes):
                if row and column:
                    read = tf.reshape(inputs[:, row[0], column[0]], (-1, channels))
                    made = tf.reshape(upstream[:, row[1], column[1]], (-1, filters))
                    taps.append(tf.matmul(read, made, transpose_a=True))
                else:
                    taps.append(tf.zeros((channels, filters), inputs.dtype))
            return of_inputs, tf.reshape(tf.stack(taps), kernel.shape)

        return tf.nn.conv2d(inputs, used, **settings), gradients

    return convolve
