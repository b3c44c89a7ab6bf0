"""The parts of an image that a network looks at when it is tested, as the papers define them.

- "5" and "10": Krizhevsky et al. 2012, section 4.1, https://doi.org/10.1145/3065386.
- "144": Szegedy et al. 2014, section 7, https://arxiv.org/abs/1409.4842.
- "dense": Simonyan & Zisserman 2014, section 3.2, https://arxiv.org/abs/1409.1556.

Scales are the papers' own: the short side of the image for a network that takes 224 pixels. For
another network they are in proportion, so that 256 is 37 pixels where it takes 32, 259 for 227.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from keras_cnns import data
from keras_cnns.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

SIZE = 224  # what the papers' networks take
SCALES = {
    "1": (SIZE,),
    "5": (256,),
    "10": (256,),
    "144": (256, 288, 320, 352),
    "dense": (256,),
}
MIRRORED = ("10", "144")
LONGEST = 4
"""Of an image longer than so many times its short side, the dense test takes the middle."""


class Views(NamedTuple):
    """Which parts of an image are looked at; `views` checks them.

    `flip` says whether the mirror image of each is looked at too.
    """

    crops: str = "1"
    scales: tuple[int, ...] = SCALES["1"]
    flip: bool = False

    @property
    def looks(self) -> int:
        """How many images the network is given for one; the scores of all are averaged."""
        return len(self.scales) * {"5": 5, "10": 5, "144": 18}.get(self.crops, 1) * (1 + self.flip)

    @property
    def dense(self) -> bool:
        """Whether the network is to be convolutional and sees whole images."""
        return self.crops == "dense"

    @property
    def plain(self) -> bool:
        """Whether it is what training's validation looks at."""
        return self == PLAIN

    @property
    def words(self) -> str:
        """What is looked at, where it is not plain, without the scales that are the crops' own.

        >>> views("10").words, views("dense", [256, 384], flip=True).words, views().words
        ('10 crops', 'dense at 256 and 384, mirrored', '')
        """
        if self.plain:
            return ""
        name = {"1": "1 crop", "dense": "dense"}.get(self.crops, f"{self.crops} crops")
        scales = " and ".join(map(str, self.scales))
        own = self.scales == SCALES[self.crops]
        mirrored = self.flip and self.crops not in MIRRORED
        return name + f" at {scales}" * (not own) + ", mirrored" * mirrored


PLAIN = Views()


def views(crops: str = "1", scales: Sequence[int] | None = None, *, flip: bool = False) -> Views:
    """Return the views that are asked for, the papers' own scales where none are given.

    - "1": the centre of the image whose short side is at the scale.
    - "5": the corners and the centre of the central square of that image.
    - "10": the five and their mirror images.
    - "144": at each of four scales the left, central and right square of the image (top, central
      and bottom of an upright one); of each its corners, its centre and all of it, made smaller;
      and their mirror images. Other scales give 36 each.
    - "dense": the whole image but what is over whole strides of the network, which is made
      convolutional (see `keras_cnns.convolutional.fully_convolutional`). The paper's test is the
      one with `flip`.

    Raises:
        UsageError: for unknown crops, a scale below 224 or given twice, and `flip` for crops that
            are mirrored by definition.

    >>> views("144").looks, views("10", [256, 288]).looks, views("dense", flip=True).looks
    (144, 20, 2)
    """
    if crops not in SCALES:
        raise UsageError(f'unknown crops "{crops}"; allowed are {", ".join(SCALES)}')
    if flip and crops in MIRRORED:
        raise UsageError(f"--crops {crops} has its mirror images already; leave out --flip")
    wanted = tuple(SCALES[crops] if scales is None else scales)
    if not wanted or min(wanted) < SIZE or len(set(wanted)) < len(wanted):
        raise UsageError(
            f"received the scales {', '.join(map(str, wanted)) or 'none'}; they are short sides "
            f"for a network of {SIZE} pixels, each at least {SIZE} and given once, as 256,384,512"
        )
    return Views(crops, wanted, flip or crops in MIRRORED)


def sides(wanted: Views, size: int) -> tuple[int, ...]:
    """Return the short sides in pixels for a network that takes images of `size`.

    >>> sides(views("144"), 299), sides(views("10"), 32)
    ((342, 384, 427, 470), (37,))
    """
    return tuple(round(scale * size / SIZE) for scale in wanted.scales)


def cut(image: tf.Tensor, wanted: Views, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Return the parts of an image that a network is given, without mirror images.

    In the order: scale, square, then the corners (from left to right, from top to bottom), the
    centre, and the whole square. Rounding favours the top left.

    Args:
        image: uint8 (height, width, channels).
        wanted: any but "dense".
        image_shape: of the network.

    Returns:
        uint8 (parts, height, width, channels).

    >>> import tensorflow as tf
    >>> columns = tf.tile(tf.range(8)[None, :, None], (8, 1, 3))
    >>> cut(columns, views("5"), (7, 7, 3))[:, 0, 0, 0].numpy().tolist()
    [0, 1, 0, 1, 0]
    """
    import tensorflow as tf

    height, width, channels = image_shape
    size = square_size(image_shape)
    parts = []
    for side in sides(wanted, size):
        room = side - size
        starts = [(0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)]
        if wanted.crops == "1":
            starts = starts[-1:]
        for square in _squares(image, side, channels, along=wanted.crops == "144"):
            parts += [square[y : y + height, x : x + width] for y, x in starts]
            if wanted.crops == "144":
                parts.append(data.fit_image(square, image_shape))
    return tf.cast(tf.stack(parts), tf.uint8)


def _squares(image: tf.Tensor, side: int, channels: int, *, along: bool) -> list[tf.Tensor]:
    """Return the central square of an image at a scale, or the three along its long side."""
    shape = (side, side, channels)
    if not along:
        return [data.fit_image(image, shape)]
    image, size = _resizing(image, side, channels)
    return [data.resized_part(image, size, (size - side) * i // 2, shape[:2]) for i in range(3)]


def _resizing(image: tf.Tensor, side: int, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return an image in float32, and the height and width that its short side asks for."""
    import tensorflow as tf

    from keras_cnns.data.images import with_channels

    image = tf.cast(with_channels(image, channels), tf.float32)
    given = tf.cast(tf.shape(image)[:2], tf.float64)
    size = tf.cast(tf.round(given * (side / tf.reduce_min(given))), tf.int32)
    return image, tf.maximum(size, side)


def whole(image: tf.Tensor, side: int, channels: int) -> tf.Tensor:
    """Return all of an image, its short side at a scale.

    Args:
        image: uint8 (height, width, channels).
        side: pixels of the short side.
        channels: 1, 3 or 4.

    Returns:
        uint8 (height, width, channels); of an image longer than `LONGEST` times its short side the
        middle part, as memory is not without end.

    >>> import tensorflow as tf
    >>> whole(tf.zeros((20, 30, 3), tf.uint8), 10, 1).shape
    TensorShape([10, 15, 1])
    """
    import tensorflow as tf

    image, size = _resizing(image, side, channels)
    part = tf.minimum(size, LONGEST * side)
    return tf.cast(data.resized_part(image, size, (size - part) // 2, part), tf.uint8)


def square_size(image_shape: tuple[int, int, int]) -> int:
    """Return the size of a network's images, which crops want to be square.

    Raises:
        UsageError: where they are not.
    """
    height, width, _ = image_shape
    if height != width:
        raise UsageError(
            f"the network takes images of {height}x{width}; crops are squares, so use --crops 1"
        )
    return height
