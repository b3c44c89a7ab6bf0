"""Image files: which are taken for images, whether they can be used, and their pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from keras_cnns.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_PIXELS = 64_000_000
"""A larger image is refused before it is decoded: a PNG of 48 kB can ask for gigabytes."""


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


def check_images(paths: Sequence[str]) -> set[tuple[int, int]]:
    """Decode every image once, before anything is built on them; return the (height, width)s met.

    Raises:
        UsageError: an image cannot be used; the message has the first one's path, and why.
    """
    problems: list[tuple[str, str]] = []
    sizes: set[tuple[int, int]] = set()
    with (
        warnings.catch_warnings(),
        tqdm(
            total=len(paths), desc="checking images", unit=" images", delay=1, disable=None
        ) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        # Odd metadata is no reason to warn: the pixels are what counts.
        warnings.simplefilter("ignore")
        for start in range(0, len(paths), 256):
            part = paths[start : start + 256]
            found = zip(part, pool.map(lambda path: problem(path, sizes), part), strict=True)
            problems += [(path, why) for path, why in found if why]
            bar.update(len(part))
    if problems:
        path, why = problems[0]
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise UsageError(
            f'cannot read the image "{shown(path)}": {why}; replace or remove it{more}'
        )
    return sizes


def problem(path: str, sizes: set[tuple[int, int]] | None = None) -> str:
    """Return why an image file cannot be used, or nothing; add its height and width to `sizes`.

    Its header is read first, so that an image of absurd size is never decoded. A JPEG is decoded
    at an eighth of its size, which still reads all of the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return f"{width}x{height} pixels, where at most {MAX_PIXELS:,} are allowed"
            if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
                return "an animated WebP"
            if image.format == "BMP" and image.mode not in ("L", "RGB", "RGBA"):
                return "a BMP with a palette"
            image.draft("L", (1, 1))
            image.load()
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        return "it is empty" if empty else "it is not a JPEG, PNG, GIF, BMP or WebP image"
    except Image.DecompressionBombError:
        return f"more than {MAX_PIXELS:,} pixels"
    except OSError as error:
        return (error.strerror or str(error)).partition("\n")[0]
    except Exception as error:
        # A damaged file can make a decoder fail in any way.
        return f"damaged ({type(error).__name__}: {error})".partition("\n")[0]
    if sizes is not None:
        sizes.add((height, width))
    return ""


def decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the uint8 pixels (height, width, channels) of an encoded image, as PIL decodes them.

    JPEG by its accurate transform, where a lost end mark is forgiven but no lost row; of a GIF the
    first frame. Orientation tags are not applied. A fourth channel is the image's alpha, or 255.
    """
    import tensorflow as tf

    def jpeg() -> tf.Tensor:
        return tf.io.decode_jpeg(
            data,
            channels=3,
            dct_method="INTEGER_ACCURATE",
            try_recover_truncated=True,
            acceptable_fraction=1.0,
        )

    image = tf.cond(
        tf.io.is_jpeg(data), jpeg, lambda: tf.io.decode_image(data, expand_animations=False)
    )
    return with_channels(tf.ensure_shape(image, (None, None, None)), channels)


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
