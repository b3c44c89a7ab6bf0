"""Image files: which are taken for images, and their pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


def shown(text: str) -> str:
    """Return a file name as it fits into a message of one line, whatever bytes it is made of."""
    plain = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)


def is_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is taken for an image: one of `SUFFIXES`, a file, and not hidden.

    >>> is_image("no/such.png"), is_image(".")
    (False, False)
    """
    name = os.path.basename(path)
    if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
        return False
    # A link to nowhere is somebody's image: it is named as unreadable, not left out.
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def decode(data: tf.Tensor, channels: int, orientation: tf.Tensor | int = 1) -> tf.Tensor:
    """Return the uint8 pixels (height, width, channels) of an encoded image, as PIL decodes them.

    JPEG by its accurate transform, where a lost end mark is forgiven but no lost row; of a GIF the
    first frame. A fourth channel is the image's alpha, or 255.

    Args:
        data: the file's bytes.
        channels: 1, 3 or 4.
        orientation: as the file's EXIF has it, 1 to 8; TensorFlow does not look.
    """
    import tensorflow as tf

    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, **_JPEG),
        lambda: tf.io.decode_image(data, expand_animations=False),
    )
    return _finished(image, channels, orientation)


def decode_part(
    data: tf.Tensor,
    part: tf.Tensor | Callable[[tf.Tensor], tf.Tensor],
    channels: int,
    orientation: tf.Tensor | int = 1,
    *,
    enough: tuple[tf.Tensor | int, tf.Tensor | int],
) -> tf.Tensor:
    """Return a part of an encoded image, without decoding more of a JPEG than that.

    A JPEG consists of squares of 8 pixels that are sums of waves: it can be decoded at a half, a
    quarter or an eighth of its size from the long waves alone, for less work.

    Args:
        data: the file's bytes.
        part: top, left, height and width of the part in what is stored, int32 (4,); or a function
            that returns them of height and width.
        channels: as of `decode`.
        orientation: as of `decode`; the part is turned.
        enough: height and width, as stored: a JPEG is decoded at the smallest size at which the
            part has them still.
    """
    import tensorflow as tf

    def window(sides: Callable[[], tf.Tensor]) -> tf.Tensor:
        return tf.convert_to_tensor(part(sides()) if callable(part) else part)

    def jpeg() -> tf.Tensor:
        wanted = window(lambda: tf.image.extract_jpeg_shape(data)[:2])
        halves = sum(
            tf.cast(tf.reduce_all(wanted[2:] >= tf.stack(enough) * ratio), tf.int32)
            for ratio in (2, 4, 8)
        )
        return tf.switch_case(
            halves,
            [
                lambda ratio=ratio: tf.io.decode_and_crop_jpeg(
                    data, wanted // ratio, ratio=ratio, **_JPEG
                )
                for ratio in (1, 2, 4, 8)
            ],
        )

    def other() -> tf.Tensor:
        image = tf.io.decode_image(data, expand_animations=False)
        top, left, height, width = tf.unstack(window(lambda: tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    return _finished(tf.cond(tf.io.is_jpeg(data), jpeg, other), channels, orientation)


_JPEG: dict[str, Any] = {
    "channels": 3,
    "dct_method": "INTEGER_ACCURATE",
    "try_recover_truncated": True,
    "acceptable_fraction": 1.0,
}


def _finished(image: tf.Tensor, channels: int, orientation: tf.Tensor | int) -> tf.Tensor:
    import tensorflow as tf

    image = with_channels(tf.ensure_shape(image, (None, None, None)), channels)
    # A tensor has to be asked in the graph.
    plain = isinstance(orientation, int) and orientation == 1
    return image if plain else oriented(image, orientation)


def oriented(image: tf.Tensor, orientation: tf.Tensor | int) -> tf.Tensor:
    """Return an image as its EXIF orientation wants it shown.

    JEITA CP-3451, Exchangeable image file format (Exif 2.2), 2002, section 4.6.4, tag 274.

    >>> import tensorflow as tf
    >>> oriented(tf.constant([[[1], [2]]], tf.uint8), 6)[..., 0].numpy().tolist()
    [[1], [2]]
    """
    import tensorflow as tf

    def turned() -> tf.Tensor:
        swapped = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        upside_down = tf.reduce_any(tf.equal(orientation, (3, 4, 7, 8)))
        mirrored = tf.reduce_any(tf.equal(orientation, (2, 3, 6, 7)))
        return tf.reverse(swapped, tf.where([upside_down, mirrored])[:, 0])

    shape = (None, None, image.shape[-1])
    found = tf.cond(tf.equal(orientation, 1), lambda: image, turned)
    return tf.ensure_shape(found, shape)


def with_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Return an image of grey or colour, with or without alpha, with 1, 3 or 4 channels.

    Grey is PIL's: 0.299 red + 0.587 green + 0.114 blue, rounded.

    >>> import tensorflow as tf
    >>> red = tf.constant([[[255, 0, 0]]], tf.uint8)
    >>> with_channels(red, 1).numpy().tolist(), with_channels(red, 4).numpy().tolist()
    ([[[76]]], [[[255, 0, 0, 255]]])
    """
    import tensorflow as tf

    def convert(given: int) -> tf.Tensor:
        pixels = tf.ensure_shape(image, (*image.shape[:-1], given))
        has_colour, has_alpha = given > 2, given in (2, 4)
        if channels == 1 and has_colour:
            weights = tf.constant((0.299, 0.587, 0.114))
            grey = tf.round(tf.reduce_sum(tf.cast(pixels[..., :3], tf.float32) * weights, -1))
            return tf.cast(grey, image.dtype)[..., None]
        if channels == 1:
            return pixels[..., :1]
        colour = pixels[..., :3] if has_colour else tf.repeat(pixels[..., :1], 3, axis=-1)
        if channels == 3:
            return colour
        alpha = pixels[..., -1:] if has_alpha else tf.ones_like(pixels[..., :1]) * 255
        return tf.concat([colour, alpha], axis=-1)

    if image.shape[-1] is not None:
        return convert(image.shape[-1])
    branches = [lambda given=given: convert(given) for given in (1, 2, 3, 4)]
    return tf.switch_case(tf.shape(image)[-1] - 1, branches)
