"""The images on which the files are held against the model they came from."""

from collections.abc import Sequence

import numpy as np

from keras_cnns.errors import UsageError

_BYTES = 80 << 20


class Reference:
    """Images, uint8 (n, height, width, channels), and their labels where they are known.

    Labels are integers, -1 where an image has none; None means that no image has one. Give test
    images: 64 or more varied ones for the errors to mean something, 500 labelled ones for the
    accuracy of int8 to be judged.

    >>> Reference(np.zeros((2, 8, 8, 3), np.uint8)).labels
    array([-1, -1])
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray | Sequence[int] | None = None
    ) -> None:
        count = len(images)
        self.images = as_pixels(images)
        self.labels = np.full(count, -1) if labels is None else np.asarray(labels, np.int64)
        if len(self.labels) != count:
            raise UsageError(f"{count} images came with {len(self.labels)} labels; give one each")
        if count < 2:
            raise UsageError(f"received {count} images to compare on; give 64 or more")


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Return images of pixel values 0..255 as uint8, rounding floats.

    >>> as_pixels(np.full((1, 1, 1, 1), 12.6)).item()
    13
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise UsageError(f"images have shape {images.shape}; give (n, height, width, channels)")
    if images.dtype == np.uint8:
        return images
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def reference_count(image_shape: Sequence[int], *, least: int = 64) -> int:
    """Return how many reference images are worth keeping: 1,000, or fewer that fill 80 MiB.

    >>> [reference_count((size, size, 3)) for size in (32, 224, 2048)]
    [1000, 557, 64]
    """
    return max(least, min(1000, _BYTES // int(np.prod(image_shape))))


def synthetic_images(n: int, image_shape: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Return varied images for a model that comes without data: smooth shapes and noise.

    Each image mixes a coarse random grid, enlarged smoothly, with fine noise; contrast, brightness
    and coarseness differ from image to image.

    Args:
        n: how many.
        image_shape: (height, width, channels).
        seed: the same seed gives the same images.

    >>> images = synthetic_images(4, (16, 16, 1))
    >>> images.shape, images.dtype.name, bool((images[0] == images[1]).all())
    ((4, 16, 16, 1), 'uint8', False)
    """
    height, width, channels = image_shape
    rng = np.random.default_rng(seed)
    images = np.empty((n, height, width, channels), np.uint8)
    for image in images:
        cells = int(rng.integers(2, 8))
        grid = rng.normal(size=(cells, cells, channels))
        smooth = _enlarging(height, cells) @ np.moveaxis(grid, 2, 0) @ _enlarging(width, cells).T
        noise = rng.normal(size=(height, width, channels)) * rng.uniform(0, 0.5)
        values = np.moveaxis(smooth, 0, 2) + noise
        image[:] = as_pixels(rng.uniform(60, 195) + rng.uniform(20, 80) * values[None])[0]
    return images


def _enlarging(size: int, cells: int) -> np.ndarray:
    """Return the matrix (size, cells) that interpolates `cells` values linearly to `size`."""
    places = np.linspace(0, cells - 1, size)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)[None]))
