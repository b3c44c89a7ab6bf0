"""What one look at an image file finds: whether it can be used, and what is odd about it."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from keras_cnns.data.images import decode, shown
from keras_cnns.errors import UsageError
from keras_cnns.quiet import start_keras

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
MAX_PIXELS = 64_000_000
"""A larger image is refused before it is decoded: a PNG of 48 kB can ask for gigabytes."""
MAX_BYTES = 2**30
NO_MEMORY = "not enough memory to decode it"


class Verdict(NamedTuple):
    """What is known of an image file.

    Attributes:
        usable: whether a network can be given it.
        findings: what was found, as (kind, in words); where it is not usable, the first says why.
        height: of what is stored, in pixels; 0 where nobody knows.
        width: likewise.
        orientation: how EXIF wants it turned, 1 to 8.
        digest: of the file's bytes: equal for equal files.
    """

    usable: bool
    findings: tuple[tuple[str, str], ...] = ()
    height: int = 0
    width: int = 0
    orientation: int = 1
    digest: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as the image is shown."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class _Unusable(Exception):
    """Ends a look: the kind, and why."""


def look(path: str | os.PathLike[str]) -> Verdict:
    """Read an image file once and say what is to be said of it.

    The header comes first, so that an image of absurd size is never decoded.

    Its kinds are "unreadable", "empty", "no image", "too large", "animated", "palette",
    "truncated" and "undecodable" where it cannot be used, and "mislabelled", "animated", "cmyk" and
    "rotated" where it can.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                return _unusable("too large", f"a file of more than {MAX_BYTES:,} bytes")
            data = file.read()
    except OSError as error:
        return _unusable("unreadable", error.strerror or str(error))
    if not data:
        return _unusable("empty", "it is empty")
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            return _looked_at(image, data, os.path.splitext(path)[1].lower())
    except _Unusable as error:
        return _unusable(*error.args)
    except UnidentifiedImageError:
        return _unusable("no image", "it is not a JPEG, PNG, GIF, BMP or WebP image")
    except Image.DecompressionBombError:
        return _unusable("too large", f"more than {MAX_PIXELS:,} pixels")
    except MemoryError:
        return _unusable("unreadable", NO_MEMORY)
    except Exception as error:
        # A damaged file can make a decoder fail in any way.
        return _unusable(*_damage(error))


def _unusable(kind: str, why: str) -> Verdict:
    return Verdict(False, ((kind, why),))


def _looked_at(image: Image.Image, data: bytes, suffix: str) -> Verdict:
    width, height = image.size
    if width * height > MAX_PIXELS:
        allowed = f"{width}x{height} pixels, where at most {MAX_PIXELS:,} are allowed"
        raise _Unusable("too large", allowed)
    # A phone's JPEG may have a second picture in it.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    frames = getattr(image, "n_frames", 1) if kind in ("GIF", "WEBP") else 1
    if kind == "WEBP" and frames > 1:
        raise _Unusable("animated", "an animated WebP")
    if kind == "BMP" and image.mode not in ("L", "RGB", "RGBA"):
        raise _Unusable("palette", "a BMP with a palette")
    # Before it is decoded at a smaller size.
    mode, orientation = image.mode, _orientation(image)
    _check_pixels(image, data)
    findings = []
    if suffix not in FORMATS[kind]:
        findings.append(("mislabelled", f"a {kind} named {suffix}"))
    if frames > 1:
        findings.append(("animated", f"{frames} frames, of which the first is used"))
    if mode == "CMYK":
        findings.append(("cmyk", "CMYK, which becomes RGB"))
    if orientation != 1:
        findings.append(("rotated", f"EXIF orientation {orientation}, which is applied"))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Verdict(True, tuple(findings), height, width, orientation, digest)


def _check_pixels(image: Image.Image, data: bytes) -> None:
    """Decode an image, or raise with the reason why it cannot be.

    PIL knows what is missing, at an eighth of a JPEG's size; that TensorFlow can decode it as well
    is what a training relies on.
    """
    try:
        image.draft("L", (1, 1))
        image.load()
    except OSError as error:
        raise _Unusable(*_damage(error)) from None
    start_keras()
    import tensorflow as tf

    try:
        decode(tf.constant(data), 3)
    except tf.errors.ResourceExhaustedError:
        raise MemoryError from None
    except tf.errors.OpError as error:
        raise _Unusable(*_damage(error)) from None


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Odd metadata is no reason to lose an image whose pixels are sound.
        return 1
    return found if found in range(1, 9) else 1


def _damage(error: Exception) -> tuple[str, str]:
    """Return the kind of an error of a decoder, and its first line."""
    text = str(getattr(error, "message", "") or error).strip().partition("\n")[0]
    kind = "truncated" if "truncated" in text.lower() else "undecodable"
    return kind, text or type(error).__name__


@contextmanager
def many_looks(paths: Sequence[str]) -> Iterator[Iterator[Verdict]]:
    """Give what `look` finds, in order, by all processors and with a progress bar."""
    if paths:
        start_keras()
    with (
        warnings.catch_warnings(),
        tqdm(
            total=len(paths), desc="checking images", unit=" images", delay=1, disable=None
        ) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        # Odd metadata is no reason to warn: the pixels are what counts.
        warnings.simplefilter("ignore")

        def verdicts() -> Iterator[Verdict]:
            for start in range(0, len(paths), 256):
                part = paths[start : start + 256]
                yield from pool.map(look, part)
                bar.update(len(part))

        yield verdicts()


def check_images(paths: Sequence[str]) -> list[Verdict]:
    """Look at every image once, before anything is built on them; return what was found.

    Raises:
        UsageError: an image cannot be used; the message has the first one's path, and why.
    """
    with many_looks(paths) as verdicts:
        found = list(verdicts)
    bad = [(p, v) for p, v in zip(paths, found, strict=True) if not v.usable]
    if bad:
        path, verdict = bad[0]
        more = f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise UsageError(
            f'cannot read the image "{shown(path)}": {verdict.findings[0][1]}; '
            f"replace or remove it{more}"
        )
    return found
