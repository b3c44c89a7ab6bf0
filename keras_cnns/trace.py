"""Run a network's own code on shapes instead of tensors: its cost without building it.

Blocks call `layers.Conv2D(...)(x)`. Where `x` is a Keras tensor, that is Keras's layer; where it is
a `FeatureMap`, it is arithmetic. So each network is written once, and a search can price
thousands of channel splits a second, without TensorFlow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from keras_cnns.arithmetic import (
    ALL,
    ARITHMETIC,
    POINT,
    Config,
    Effect,
    Shape,
    Size,
    TooSmall,
    Window,
)


class Row(NamedTuple):
    """What one layer costs, for one image.

    `shape` is without the batch; `receptive_field` and `stride` are in pixels of the image, in
    height and width, None where they are not known, `arithmetic.ALL` for all of the image;
    `params` are trainable weights; `macs` multiply-adds of convolutions and other products of
    matrices; `inputs` are the layers whose outputs it takes, the image's among them; `frozen` are
    weights that training leaves as they are, moving averages among them.
    """

    name: str
    kind: str
    shape: Shape
    params: int
    macs: int
    receptive_field: Window | None
    stride: Size | None
    inputs: tuple[str, ...]
    frozen: int = 0

    @property
    def activation_bytes(self) -> int:
        """Bytes of the layer's output for one image in float32."""
        return 4 * prod(self.shape)


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Stands for a feature map: its shape, what it sees of the image, and the layers so far."""

    shape: tuple[int | None, ...]
    receptive_field: Window | None = (1, 1)
    stride: Size | None = (1, 1)
    rows: list[Row] = field(default_factory=list)
    zeros: Size = (0, 0)  # rows and columns of `shape` that the layer before has padded
    name: str = "image"  # of the layer that it comes out of
    start: Window = (0, 0)  # in pixels of the image: where its first pixel begins to see


def record(name: str, kind: str, sources: Sequence[FeatureMap], effect: Effect) -> FeatureMap:
    """Return the feature map that a layer of this effect makes of others; note its cost."""
    first = sources[0]
    if len(sources) == 1:
        seen, stride, start = first.receptive_field, first.stride, first.start
    else:
        seen, stride, start = _merged(sources, effect.shape[:-1])
    if any(effect.before) and stride is not None:
        start = tuple(a - n * s for a, n, s in zip(start, effect.before, stride, strict=False))
    if effect.window != POINT or effect.strides != POINT:
        seen, stride = _slid(seen, stride, effect.window, effect.strides)
    origins = tuple([source.name for source in sources])
    first.rows.append(
        Row(
            name, kind, effect.shape, effect.params, effect.macs, seen, stride, origins,
            effect.frozen,
        )
    )  # fmt: skip
    return FeatureMap((None, *effect.shape), seen, stride, first.rows, effect.zeros, name, start)


def _slid(
    seen: Window | None, stride: Size | None, window: Window | None, strides: Size | None
) -> tuple[Window | None, Size | None]:
    """Return what a window sees that slides over what is seen, and its stride, where known."""
    if stride is None or window is None or len(stride) != len(window):
        # Pixels that all are seen at once stay so, wherever they are put.
        seen = (ALL,) * len(seen) if seen and ALL in seen else None
    elif seen is not None:
        seen = tuple(r + (k - 1) * s for r, k, s in zip(seen, window, stride, strict=True))
    if stride is None or strides is None or len(stride) != len(strides):
        return seen, None
    steps = [a * b for a, b in zip(stride, strides, strict=True)]
    return seen, tuple(map(int, steps)) if all(n.denominator == 1 for n in steps) else None


def _merged(sources: Sequence[FeatureMap], size: Size) -> tuple[Window | None, Size | None, Window]:
    """Return what several maps see together, their stride where it is one, and where that starts.

    From the first that one of them sees to the last: branches may be shifted against each other. A
    map of another size than theirs is spread over them, as a gate is, and has no say in it.
    """
    pixel_by_pixel = [source for source in sources if source.shape[1:-1] == size]
    strides = {source.stride for source in pixel_by_pixel}
    stride = strides.pop() if len(strides) == 1 else None
    starts = [x.start for x in pixel_by_pixel or sources[:1]]
    start = tuple(map(min, zip(*starts, strict=False)))
    fields = [source.receptive_field for source in sources]
    known = [field for field in fields if field is not None]
    if len(known) < len(fields) or len(set(map(len, known))) > 1:
        return None, stride, start
    ends = [
        tuple(a + r - low for a, r, low in zip(x.start, field, start, strict=False))
        for x, field in zip(sources, known, strict=True)
        if x.shape[1:-1] == size
    ]
    return tuple(map(max, zip(*known, *ends, strict=False))), stride, start


def trace_layer(kind: str, config: Config, inputs: Any) -> FeatureMap:
    """Apply the arithmetic of Keras's layer `kind`, configured so, to one or several feature maps.

    Raises:
        TooSmall: where nothing comes out, or a stride finds less of a map than its own length and
            would only copy it.
    """
    name = config.get("name", "")
    if isinstance(inputs, list | tuple):
        effect = ARITHMETIC[kind]([x.shape[1:] for x in inputs], config)
        return record(name, kind, inputs, effect)
    effect = ARITHMETIC[kind](inputs.shape[1:], config)
    if effect.strides is not None and max(effect.strides, default=1) > 1:
        sizes = [n - zeros for n, zeros in zip(inputs.shape[1:], inputs.zeros, strict=False)]
        if any(n < stride for n, stride in zip(sizes, effect.strides, strict=True)):
            raise TooSmall(f"{name or kind}: a map of {sizes} is too small for it")
    return record(name, kind, [inputs], effect)


class _Layers:
    """Keras's layers and ours by name, for tensors and for feature maps alike."""

    def __getattr__(self, kind: str) -> Callable[..., Callable[[Any], Any]]:
        def layer(**config: Any) -> Callable[[Any], Any]:
            def apply(x: Any) -> Any:
                if isinstance(x[0] if isinstance(x, list) else x, FeatureMap):
                    return trace_layer(kind, config, x)
                import keras

                from keras_cnns import layers as own

                return (getattr(own, kind, None) or getattr(keras.layers, kind))(**config)(x)

            return apply

        self.__dict__[kind] = layer  # where it is found the next time
        return layer


layers = _Layers()
