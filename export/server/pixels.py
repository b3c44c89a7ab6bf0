"""An image file of any common kind, as the pixels that a model's manifest asks for."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# The limit on pixels is read_pixels' own; odd metadata is no reason to warn.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module="PIL")


class BadImageError(ValueError):
    """An image that cannot be used: why, in the words that come behind its name and a colon."""


def read_pixels(file: BinaryIO, shape: Sequence[int], max_pixels: int) -> np.ndarray:
    """Return the first frame of an image, upright, at a model's size.

    The size is read from the header, so that an image of absurd size is never decoded.

    Args:
        file: a JPEG, PNG, GIF, BMP or WebP file, open.
        shape: height, width and channels (1, 3 or 4) to return.
        max_pixels: the largest image to decode.

    Returns:
        uint8 (height, width, channels).

    Raises:
        BadImageError: the file is empty, no image, too large or damaged.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadImageError(
                    f"{image.width}x{image.height} pixels, where at most {max_pixels:,} are allowed"
                )
            image.load()
            # An orientation that cannot be read is none.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            return fit(image, shape)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        empty = not file.seek(0) and not file.read(1)
        why = "it is empty" if empty else f"it is not a {', '.join(FORMATS[:-1])} or WebP image"
        raise BadImageError(why) from None
    except Exception as error:  # a damaged file can make a decoder fail in any way
        raise BadImageError(f"it is damaged ({error})".partition("\n")[0]) from None


def fit(image: Image.Image, shape: Sequence[int]) -> np.ndarray:
    """Return an image with its short side resized to fit, and the centre cut out.

    Bilinear with antialiasing. Nothing beyond the cut is computed: a line of a million pixels
    would grow to gigabytes. Bands are resized one by one, for PIL mixes alpha into colour.

    >>> fit(Image.new("LA", (500, 375)), (224, 224, 3)).shape
    (224, 224, 3)
    """
    height, width, channels = shape
    if image.mode.startswith("I"):  # 16 bits, of which PIL's own conversion keeps the lower ones
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert(MODES[channels])
    if image.size == (width, height):
        return np.asarray(image).reshape(shape)
    scale = max(width / image.width, height / image.height)
    corners = []
    for side, wanted in ((image.width, width), (image.height, height)):
        whole = max(wanted, round(side * scale))
        first, ratio = (whole - wanted) // 2, side / whole
        corners.append((first * ratio, min((first + wanted) * ratio, side)))
    (left, right), (top, bottom) = corners
    size, box, bilinear = (width, height), (left, top, right, bottom), Image.Resampling.BILINEAR
    bands = [band.resize(size, bilinear, box) for band in image.split()]
    return np.stack([np.asarray(band) for band in bands], axis=-1)
